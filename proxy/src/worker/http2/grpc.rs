//! Calls of gRPC: what a stream has beyond being a turn.

use crate::worker::client::Turn;
use evenkeel_core::end::{Cause, End};
use evenkeel_core::rng::Rng;
use evenkeel_core::time::{Duration, Instant};
use evenkeel_wire::grpc::{pushback, status, status_of, status_of_http};
use evenkeel_wire::http2::forward::Amended;
use evenkeel_wire::http2::hpack::{Fields, Name};
use std::sync::atomic::Ordering::Relaxed;

/// An endpoint that was given less than this is not to blame for a deadline: that says more of the client.
const FAIR: Duration = Duration::from_millis(100);

/// A call that we end may be tried again within this time: others end with it.
const PUSHBACK_MILLIS: u64 = 1000;

/// Calls that are under way when there is no more time end so long before, to have said so when that is over: a part
/// of what is left when their session is told, and at most that.
const LAST_PART: u32 = 4;
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A call of gRPC.
#[derive(Debug)]
pub(super) struct Call {
    /// When the time that its client gave it is over.
    deadline: Option<Instant>,
    /// When it is as old as calls may become.
    aged: Option<Instant>,
    /// Turns that its endpoint had ended well when it was given the call.
    completions: u64,
    /// How often it was tried, and answered, before.
    attempts: u32,
    /// Its client was passed the head of an answer of gRPC: trailers can say how it ends.
    pub(super) answered: bool,
    /// What its endpoint said of how it went.
    pub(super) status: Option<u8>,
}

impl Call {
    pub(super) fn new(timeout: Option<Duration>, most: Option<Duration>, rng: &mut Rng, now: Instant) -> Self {
        let deadline = timeout.map(|timeout| now + timeout);
        // Calls that began together must not begin together again.
        let aged = most.map(|most| now + most.mul_f64(0.9 + 0.2 * rng.unit()));
        Self { deadline, aged, completions: 0, attempts: 0, answered: false, status: None }
    }

    /// An endpoint was chosen for it.
    pub(super) fn placed(&mut self, turn: &Turn) {
        self.completions = completions(turn);
    }

    /// It is tried again because of what its endpoint answered.
    pub(super) fn tried(&mut self) {
        self.attempts += 1;
    }

    /// When it ends, if nothing else ends it before, and why.
    pub(super) fn due(&self) -> Option<(Instant, Cause)> {
        let deadline = self.deadline.map(|at| (at, Cause::Deadline));
        deadline.into_iter().chain(self.aged.map(|at| (at, Cause::Aged))).min_by_key(|&(at, _)| at)
    }

    /// Its time is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// What its endpoint is to be told otherwise than it came.
    pub(super) fn amended(&self, began: Instant, now: Instant) -> Amended {
        // What goes on in the turn of the loop in which it came goes on as it came.
        let deadline = self.deadline.filter(|_| began != now);
        Amended { timeout: deadline.map(|deadline| deadline.since(now)), attempts: self.attempts }
    }

    /// Does this status speak of the health of the endpoint that gave it? UNKNOWN does not, for applications say it
    /// of themselves.
    pub(super) fn is_unwell(&self, status: u8, turn: &Turn) -> bool {
        match status {
            status::DEADLINE_EXCEEDED => self.deadline.is_none() || self.is_to_blame(turn),
            status::RESOURCE_EXHAUSTED | status::INTERNAL | status::UNAVAILABLE => true,
            _ => false,
        }
    }

    /// The client's deadline passed. That is its endpoint's doing if it had time, and has answered nobody
    /// meanwhile; who answers others is well, and the deadline too short for this call.
    pub(super) fn is_to_blame(&self, turn: &Turn) -> bool {
        // An earlier try may have had a link where this one had none.
        let linked_at = turn.linked_at.filter(|&at| at >= turn.tried_at);
        let given = linked_at.and_then(|at| Some(self.deadline?.since(at)));
        given.is_some_and(|given| given >= FAIR) && turn.first_byte.is_none() && completions(turn) == self.completions
    }

    /// How it went for its client, whose answer had this status of HTTP.
    pub(super) fn ended(&self, http: Option<u16>, failure: Option<End>) -> u8 {
        match failure {
            Some(end) => status_of(end.cause),
            None => self.status.or(http.map(status_of_http)).unwrap_or(status::UNKNOWN),
        }
    }
}

fn completions(turn: &Turn) -> u64 {
    turn.ticket.as_ref().map_or(0, |ticket| ticket.endpoint().load.completions.load(Relaxed))
}

/// How long an answer that may be tried again wants that to wait; `None`: it does not want it.
pub(super) fn wait_before_retry(answer: &Fields) -> Option<Duration> {
    answer.get(Name::GRPC_PUSHBACK).map_or(Some(Duration::ZERO), pushback)
}

/// When the calls of a session end that has until then.
pub(super) fn calls_end(until: Instant, now: Instant) -> Instant {
    until.before((until.since(now) / LAST_PART).min(LAST_WORDS))
}

/// When a call that ended for this cause is to be tried again, in milliseconds.
pub(super) fn pushback_after(cause: Cause, rng: &mut Rng) -> Option<u32> {
    matches!(cause, Cause::Aged | Cause::Shutdown).then(|| rng.below(PUSHBACK_MILLIS) as u32 + 1)
}
