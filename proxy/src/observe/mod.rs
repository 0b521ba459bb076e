//! Facts into metrics, logs and traces.

pub(crate) mod access;
pub(crate) mod events;
pub(crate) mod metrics;
pub(crate) mod spans;
pub(crate) mod sums;
pub(crate) mod turn;

pub use self::metrics::reference;
