//! Facts into metrics and logs.

pub mod access;
