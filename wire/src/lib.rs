//! The speaking half of evenkeel: protocol engines, detection, and the bridge between two sides.
//!
//! Everything here is pure: bytes and events go in, bytes and [`Output`](session::Output)s come
//! out; sockets, pools and timers belong to the worker that drives it. `#![no_std]` with `alloc`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod answer;
pub mod detect;
pub mod edge;
pub mod engine;
pub mod grpc;
pub mod http1;
pub mod http2;
pub mod out;
pub mod session;
pub mod trace;
pub mod tunnel;
mod websocket;
