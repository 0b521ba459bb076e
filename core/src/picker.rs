//! A published, immutable snapshot from which workers pick, and the ticket that counts a turn.

use crate::endpoint::{Endpoint, EndpointId};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

/// What is to be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// One request, call or transaction: counts as a turn in flight.
    Turn,
    /// A whole connection whose work cannot be spread: counts as a session.
    Session,
}

/// The question a worker asks.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// One turn or a whole session.
    pub scope: Scope,
    /// Hash of the affinity key (header, cookie, source address) for `ring-hash` and `maglev`.
    pub key: Option<u64>,
    /// Endpoints already tried for this turn: used only if nothing else is left.
    pub avoid: &'a [EndpointId],
}

/// Nobody can take the turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoPick {
    /// Discovery knows no endpoint.
    Empty,
    /// Endpoints are known, none is ready.
    NoneReady,
}

impl fmt::Display for NoPick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "no endpoint is known",
            Self::NoneReady => "no endpoint is ready",
        })
    }
}

/// How a turn ended, for the balancer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Answered; the time to the first byte of the answer.
    Success(Duration),
    /// The endpoint failed it (connect, reset, protocol error, 5xx that policy counts as failure);
    /// the time it took, and how long the endpoint asked to be left alone, if it did.
    Failure(Duration, Option<Duration>),
    /// The client gave up after this time.
    Cancelled(Duration),
    /// Says nothing about the endpoint (local error).
    Unknown,
}

/// What the caller should tell the balancer at once, instead of waiting for its next tick.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Notice {
    /// Nothing special.
    None,
    /// The endpoint just reached the configured number of consecutive failures: send
    /// [`Input::Suspect`](crate::balancer::Input::Suspect).
    Suspect(EndpointId),
    /// A probe turn on an ejected endpoint ended: send
    /// [`Input::Probed`](crate::balancer::Input::Probed).
    Probed(EndpointId, bool),
}

/// The live accounting of one pick: counts on creation, uncounts when dropped, once, always.
#[derive(Debug)]
pub struct Ticket {
    endpoint: Arc<Endpoint>,
    scope: Scope,
}

impl Ticket {
    /// The chosen endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The turn became a tunnel: from now on it counts as a session.
    #[must_use]
    pub fn into_session(mut self) -> Self {
        if self.scope == Scope::Turn {
            self.endpoint.load.sessions.fetch_add(1, Ordering::Relaxed);
            self.endpoint.load.turns.fetch_sub(1, Ordering::Relaxed);
            self.scope = Scope::Session;
        }
        self
    }

    /// Ends the turn and records how it went.
    pub fn complete(self, _outcome: Outcome, _now: Instant) -> Notice {
        Notice::None
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        match self.scope {
            Scope::Turn => self.endpoint.load.turns.fetch_sub(1, Ordering::Relaxed),
            Scope::Session => self.endpoint.load.sessions.fetch_sub(1, Ordering::Relaxed),
        };
    }
}

/// An immutable snapshot of one balancer's decision data.
#[derive(Debug)]
pub struct Picker {
    pub(crate) ready: Vec<Arc<Endpoint>>,
    pub(crate) known: usize,
    pub(crate) next: AtomicUsize,
}

impl Picker {
    /// A picker that knows nobody.
    pub fn empty() -> Self {
        Self { ready: Vec::new(), known: 0, next: AtomicUsize::new(0) }
    }

    /// Chooses an endpoint: no lock, no clock, no allocation.
    ///
    /// # Errors
    /// [`NoPick`] if nobody can take the turn.
    pub fn pick(&self, ask: &Ask<'_>, _rng: &mut Rng, _now: Instant) -> Result<Ticket, NoPick> {
        if self.ready.is_empty() {
            return Err(if self.known == 0 { NoPick::Empty } else { NoPick::NoneReady });
        }
        let mut endpoint = &self.ready[0];
        for _ in 0..self.ready.len() {
            endpoint = &self.ready[self.next.fetch_add(1, Ordering::Relaxed) % self.ready.len()];
            if !ask.avoid.contains(&endpoint.id) {
                break;
            }
        }
        match ask.scope {
            Scope::Turn => endpoint.load.turns.fetch_add(1, Ordering::Relaxed),
            Scope::Session => endpoint.load.sessions.fetch_add(1, Ordering::Relaxed),
        };
        Ok(Ticket { endpoint: endpoint.clone(), scope: ask.scope })
    }

    /// Is the endpoint still one that may take turns? (Pooled links and pinned sessions ask.)
    pub fn usable(&self, id: EndpointId) -> bool {
        self.ready.iter().any(|e| e.id == id)
    }

    /// Picks the given endpoint again, for a session pinned to it, if it is still usable.
    pub fn repick(&self, id: EndpointId, scope: Scope, _now: Instant) -> Option<Ticket> {
        let endpoint = self.ready.iter().find(|e| e.id == id)?;
        match scope {
            Scope::Turn => endpoint.load.turns.fetch_add(1, Ordering::Relaxed),
            Scope::Session => endpoint.load.sessions.fetch_add(1, Ordering::Relaxed),
        };
        Some(Ticket { endpoint: endpoint.clone(), scope })
    }

    /// Does a session stay with the endpoint of its first turn (policy `random`)?
    pub fn pins_sessions(&self) -> bool {
        false
    }

    /// Does the policy use affinity keys? (If not, workers need not compute any.)
    pub fn wants_key(&self) -> bool {
        false
    }

    /// Endpoints that may take turns now.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.ready.iter()
    }
}
