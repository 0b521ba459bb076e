//! The serving half of evenkeel: workers that move bytes, and the control thread beside them.

pub mod config;
pub mod registry;
mod start;

pub use start::{Running, start};
