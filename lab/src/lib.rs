//! The proving half of evenkeel: real servers, real clients and real sockets.
//!
//! [`pod`] and [`client`] are small, correct peers that count what they see. [`demo`] shows with
//! them, on one machine, what a Service and what evenkeel make of connections that stay open.
#![forbid(unsafe_code)]

pub mod client;
pub mod demo;
mod http2;
pub mod pod;
