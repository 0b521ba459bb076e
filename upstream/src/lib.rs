//! What evenkeel knows of the world: targets, discovery, checks, and the pump that feeds balancers.

pub mod check;
pub mod discover;
pub mod pump;
pub mod target;
pub mod yaml;
