//! Sessions as their peers see them: whole conversations, everything that is refused, and that it never
//! matters in which pieces bytes arrive.

mod conversation;
mod frames;
mod http1;
mod limits;
mod pieces;
mod refusals;
mod trace;
mod tunnel;
mod unseen;
mod websocket;
mod world;

use evenkeel_wire::session::Session;

/// One for each client connection, idle ones included: it is part of the memory budget.
#[test]
fn a_session_is_small() {
    assert!(size_of::<Session>() <= 320, "{} bytes", size_of::<Session>());
}
