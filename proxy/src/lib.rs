//! The serving half of evenkeel: workers that move bytes, and the control thread beside them.

pub mod config;
pub mod observe;
pub mod registry;
mod service;
mod start;
mod worker;

pub use start::{Running, start};
