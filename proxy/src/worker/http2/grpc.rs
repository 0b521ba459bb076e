//! Calls of gRPC: what a stream has beyond being a turn.

use evenkeel_core::end::Cause;
use evenkeel_core::time::{Duration, Instant};
use evenkeel_wire::http2::forward::Amended;

/// A call of gRPC.
#[derive(Debug)]
pub(super) struct Call {
    /// When the time that its client gave it is over.
    deadline: Option<Instant>,
    /// Its client was passed the head of an answer of gRPC: trailers can say how it ends.
    pub(super) answered: bool,
}

impl Call {
    pub(super) fn new(timeout: Option<Duration>, now: Instant) -> Self {
        Self { deadline: timeout.map(|timeout| now + timeout), answered: false }
    }

    /// When it ends, if nothing else ends it before, and why.
    pub(super) fn due(&self) -> Option<(Instant, Cause)> {
        self.deadline.map(|at| (at, Cause::Deadline))
    }

    /// Its time is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// What its endpoint is to be told otherwise than it came.
    pub(super) fn amended(&self, began: Instant, now: Instant) -> Amended {
        // What goes on in the turn of the loop in which it came goes on as it came.
        let deadline = self.deadline.filter(|_| began != now);
        Amended { timeout: deadline.map(|deadline| deadline.since(now)), attempts: 0 }
    }
}
