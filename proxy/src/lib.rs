//! The serving half of evenkeel: workers that move bytes, and the control thread beside them.

mod admin;
pub mod config;
mod control;
pub mod format;
mod live;
mod memory;
mod now;
mod observe;
mod recent;
pub mod registry;
mod reload;
mod service;
mod start;
mod tls;
mod worker;

pub use observe::reference as metrics_reference;
pub use start::{Running, start};
