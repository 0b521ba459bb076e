//! HTTP/2 (RFC 9113).

pub mod budget;
pub mod error;
pub mod flow;
pub mod frame;
pub mod hpack;
pub mod message;
pub mod settings;
pub mod streams;
