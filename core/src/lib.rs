//! The deciding half of evenkeel: endpoints, balancing, health, admission.
//!
//! Everything here is pure. Time, randomness and configuration are arguments; there is no clock,
//! no socket, no task and no thread. The crate is `#![no_std]` with `alloc`, which CI proves by
//! linking it into a program without the standard library.
//!
//! A [`Balancer`](balancer::Balancer) is the state machine that decides for one service. It
//! publishes immutable [`Picker`](picker::Picker) snapshots; a worker picks from a snapshot without
//! a lock and gets a [`Ticket`](picker::Ticket) that counts the turn until it is dropped.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod address;
pub mod admission;
pub mod balancer;
pub mod end;
pub mod endpoint;
pub mod hash;
pub mod picker;
pub mod retry;
pub mod rng;
pub mod skew;
pub mod time;
