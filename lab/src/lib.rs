//! The proving half of evenkeel: real servers, real clients and real sockets.
//!
//! [`pod`] and [`client`] are small, correct peers that count what they see.
#![forbid(unsafe_code)]

pub mod client;
pub mod pod;
