//! HTTP/2 (RFC 9113).

pub mod budget;
pub mod connection;
pub mod error;
pub mod flow;
pub mod frame;
pub mod hpack;
pub mod message;
mod receive;
mod recent;
mod send;
pub mod settings;
pub mod streams;

pub use send::FieldWriter;
