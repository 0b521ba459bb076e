//! Facts into metrics and logs.

pub(crate) mod access;
pub(crate) mod events;
pub(crate) mod metrics;
pub(crate) mod sums;

pub use self::metrics::reference;
