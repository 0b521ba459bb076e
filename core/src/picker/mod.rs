//! A published, immutable snapshot from which workers pick, and the ticket that counts a turn.

mod alias;
pub(crate) mod ewma;
mod logarithm;
pub(crate) mod maglev;
mod ring;
mod stride;

use self::alias::Alias;
use self::ring::Ring;
use self::stride::Stride;
use crate::balancer::Policy;
use crate::endpoint::{Endpoint, EndpointId};
use crate::hash::combine;
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Draws made to find an endpoint that is not to be avoided, before the first that fits is taken.
const REDRAWS: usize = 4;
/// Up to this many endpoints, the one with fewest sessions is found by looking at all.
const SCAN: usize = 16;
/// Up to this many endpoints, one that has not answered yet gets one turn at a time.
const FEW: usize = 4;

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
    /// The session was asked to go: it counts as gone already.
    leaving: bool,
    /// The one turn that tells whether an ejected endpoint is well again.
    probe: bool,
    /// Latency is kept track of.
    scored: bool,
    /// Consecutive failures that are worth a notice.
    streak_limit: u32,
}

impl Ticket {
    fn new(endpoint: &Arc<Endpoint>, scope: Scope, probe: bool, picker: &Picker, now: Instant) -> Self {
        let load = &endpoint.load;
        match scope {
            Scope::Turn => {
                if load.turns.fetch_add(1, Relaxed) == 0 {
                    load.busy_since.store(now.as_nanos(), Relaxed);
                }
            }
            Scope::Session => {
                load.sessions.fetch_add(1, Relaxed);
                load.opened.fetch_add(1, Relaxed);
            }
        }
        Self {
            endpoint: endpoint.clone(),
            scope,
            leaving: false,
            probe,
            scored: picker.turn_policy == Policy::PeakEwma,
            streak_limit: picker.streak_limit,
        }
    }

    /// The chosen endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The turn became a tunnel: from now on it counts as a session.
    #[must_use]
    pub fn into_session(mut self) -> Self {
        if self.scope == Scope::Turn {
            self.endpoint.load.sessions.fetch_add(1, Relaxed);
            self.endpoint.load.opened.fetch_add(1, Relaxed);
            self.endpoint.load.turns.fetch_sub(1, Relaxed);
            self.scope = Scope::Session;
        }
        self
    }

    /// The session was asked to go: from now on it is not among those that the endpoint has, so that
    /// nobody decides on a count that is known to change.
    pub fn leaves(&mut self) {
        if self.scope == Scope::Session && !core::mem::replace(&mut self.leaving, true) {
            self.endpoint.load.leaving.fetch_add(1, Relaxed);
            self.endpoint.load.sessions.fetch_sub(1, Relaxed);
        }
    }

    /// Ends the turn and records how it went.
    pub fn complete(self, outcome: Outcome, now: Instant) -> Notice {
        let load = &self.endpoint.load;
        if outcome == Outcome::Unknown {
            return Notice::None;
        }
        let last = Instant::from_nanos(load.last_completion.swap(now.as_nanos(), Relaxed));
        match outcome {
            Outcome::Success(latency) => {
                load.completions.fetch_add(1, Relaxed);
                if load.streak.load(Relaxed) != 0 {
                    load.streak.store(0, Relaxed);
                }
                if self.scored && self.scope == Scope::Turn {
                    ewma::observe(load, latency, last, now);
                }
                if self.probe {
                    return Notice::Probed(self.endpoint.id, true);
                }
            }
            Outcome::Failure(took, leave_alone) => {
                load.failures.fetch_add(1, Relaxed);
                let streak = load.streak.fetch_add(1, Relaxed) + 1;
                if self.scored {
                    ewma::penalise(load, took, leave_alone, last, now);
                }
                if self.probe {
                    return Notice::Probed(self.endpoint.id, false);
                }
                // Again for every multiple, in case the first could not be acted on.
                if streak.is_multiple_of(self.streak_limit) {
                    return Notice::Suspect(self.endpoint.id);
                }
            }
            Outcome::Cancelled(took) => {
                if self.scored {
                    ewma::cancel(load, took, last, now);
                }
            }
            Outcome::Unknown => {}
        }
        Notice::None
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let load = &self.endpoint.load;
        match self.scope {
            Scope::Turn => load.turns.fetch_sub(1, Relaxed),
            Scope::Session if self.leaving => load.leaving.fetch_sub(1, Relaxed),
            Scope::Session => load.sessions.fetch_sub(1, Relaxed),
        };
        if self.probe {
            load.probe.store(0, Relaxed);
        }
    }
}

/// An endpoint that may be picked.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) endpoint: Arc<Endpoint>,
    /// With slow start.
    pub(crate) effective: f64,
    /// As discovery gave it.
    pub(crate) weight: f64,
}

/// What a picker is made from; see [`Picker::build`].
#[derive(Debug)]
pub(crate) struct Recipe {
    /// Endpoints that may be picked.
    pub(crate) entries: Vec<Entry>,
    /// Ready endpoints, whatever their health: what a Service would use.
    pub(crate) ready: Vec<Arc<Endpoint>>,
    /// Endpoints of which one turn is to tell whether they are well again.
    pub(crate) probes: Vec<Arc<Endpoint>>,
    /// Endpoints that discovery knows.
    pub(crate) known: usize,
    pub(crate) turn_policy: Policy,
    pub(crate) session_policy: Policy,
    pub(crate) streak_limit: u32,
    pub(crate) maglev: Option<Arc<maglev::Table>>,
    /// Identity of this evenkeel, for rank order.
    pub(crate) proxy: u64,
}

/// An immutable snapshot of one balancer's decision data.
#[derive(Debug)]
pub struct Picker {
    entries: Vec<Entry>,
    ready: Vec<Arc<Endpoint>>,
    probes: Vec<Arc<Endpoint>>,
    known: usize,
    turn_policy: Policy,
    session_policy: Policy,
    streak_limit: u32,
    /// Index by identity, sorted.
    by_id: Vec<(EndpointId, u32)>,
    alias: Alias,
    stride: Stride,
    /// Entries in this evenkeel's own order of preference.
    rank: Vec<u32>,
    ring: Ring,
    maglev: Option<Arc<maglev::Table>>,
    next: AtomicU64,
}

impl Picker {
    /// A picker that knows nobody.
    pub fn empty() -> Self {
        let recipe = Recipe {
            entries: Vec::new(),
            ready: Vec::new(),
            probes: Vec::new(),
            known: 0,
            turn_policy: Policy::RoundRobin,
            session_policy: Policy::RoundRobin,
            streak_limit: u32::MAX,
            maglev: None,
            proxy: 0,
        };
        Self::build(recipe, &mut Rng::seeded(0))
    }

    pub(crate) fn build(recipe: Recipe, rng: &mut Rng) -> Self {
        let Recipe { mut entries, ready, probes, known, turn_policy, session_policy, streak_limit, maglev, proxy } =
            recipe;
        // Every picker has an order of its own: lists are the same everywhere, and clients that all
        // begin at the same place of the same list make it hot.
        for i in (1..entries.len()).rev() {
            entries.swap(i, rng.below(i as u64 + 1) as usize);
        }
        let uses = |policy| turn_policy == policy || session_policy == policy;
        let weights: Vec<f64> = entries.iter().map(|e| e.effective).collect();
        let mut by_id: Vec<_> = entries.iter().zip(0..).map(|(e, i)| (e.endpoint.id, i)).collect();
        by_id.sort_unstable();
        let mut rank = Vec::new();
        if uses(Policy::LeastSession) {
            rank = (0..entries.len() as u32).collect();
            rank.sort_by_cached_key(|&i| core::cmp::Reverse(combine(proxy, entries[i as usize].endpoint.id.0)));
        }
        Self {
            alias: if entries.is_empty() { Alias::default() } else { Alias::new(&weights) },
            stride: Stride::new(&weights, rng.next_u64()),
            ring: if uses(Policy::RingHash) { Ring::new(&entries) } else { Ring::default() },
            maglev,
            next: AtomicU64::new(rng.next_u64() >> 20),
            rank,
            by_id,
            entries,
            ready,
            probes,
            known,
            turn_policy,
            session_policy,
            streak_limit,
        }
    }

    /// Chooses an endpoint: no lock, no clock, no allocation.
    ///
    /// # Errors
    /// [`NoPick`] if nobody can take the turn.
    pub fn pick(&self, ask: &Ask<'_>, rng: &mut Rng, now: Instant) -> Result<Ticket, NoPick> {
        let policy = self.policy(ask.scope);
        if policy == Policy::Random && !self.ready.is_empty() {
            let endpoint = &self.ready[self.settle_random(ask, rng)];
            return Ok(Ticket::new(endpoint, ask.scope, false, self, now));
        }
        if let Some(endpoint) = self.probe(ask) {
            return Ok(Ticket::new(endpoint, ask.scope, true, self, now));
        }
        if self.entries.is_empty() {
            return Err(if self.known == 0 { NoPick::Empty } else { NoPick::NoneReady });
        }
        let chosen = match policy {
            Policy::Random | Policy::RoundRobin => {
                self.settle(ask, || (self.next.fetch_add(1, Relaxed) % self.entries.len() as u64) as usize)
            }
            Policy::Weighted => self.settle(ask, || self.stride.next()),
            Policy::LeastRequest => self.least_request(ask, rng),
            Policy::PeakEwma => self.peak_ewma(ask, rng),
            Policy::LeastSession => self.least_session(ask, rng),
            Policy::RingHash => {
                let key = ask.key.unwrap_or_else(|| rng.next_u64());
                let mut order = self.ring.from(key).peekable();
                let first = order.peek().copied().unwrap_or(0);
                order.find(|&i| !self.avoided(ask, i)).unwrap_or(first)
            }
            Policy::Maglev => {
                let key = ask.key.unwrap_or_else(|| rng.next_u64());
                // While a new table is built the old one may name endpoints that left.
                let order = self.maglev.iter().flat_map(|table| table.from(key));
                let mut usable = order.filter_map(|id| self.index(id)).peekable();
                let first = usable.peek().copied().unwrap_or(0);
                usable.find(|&i| !self.avoided(ask, i)).unwrap_or(first)
            }
        };
        Ok(Ticket::new(&self.entries[chosen].endpoint, ask.scope, false, self, now))
    }

    fn policy(&self, scope: Scope) -> Policy {
        match scope {
            // A turn is not a session: there is nothing to count but turns.
            Scope::Turn if self.turn_policy == Policy::LeastSession => Policy::LeastRequest,
            Scope::Turn => self.turn_policy,
            Scope::Session => self.session_policy,
        }
    }

    #[inline]
    fn avoided(&self, ask: &Ask<'_>, index: usize) -> bool {
        !ask.avoid.is_empty() && ask.avoid.contains(&self.entries[index].endpoint.id)
    }

    /// kube-proxy's rule: uniform over what is ready, blind to anything else.
    fn settle_random(&self, ask: &Ask<'_>, rng: &mut Rng) -> usize {
        let mut index = rng.below(self.ready.len() as u64) as usize;
        for _ in 0..REDRAWS {
            if ask.avoid.is_empty() || !ask.avoid.contains(&self.ready[index].id) {
                break;
            }
            index = rng.below(self.ready.len() as u64) as usize;
        }
        index
    }

    /// Candidates until one is not to be avoided; then any that is not.
    fn settle(&self, ask: &Ask<'_>, mut candidate: impl FnMut() -> usize) -> usize {
        let first = candidate();
        if ask.avoid.is_empty() || !self.avoided(ask, first) {
            return first;
        }
        for _ in 0..REDRAWS {
            let next = candidate();
            if !self.avoided(ask, next) {
                return next;
            }
        }
        (0..self.entries.len()).find(|&i| !self.avoided(ask, i)).unwrap_or(first)
    }

    /// An ejected endpoint whose time is over gets one real turn, and no other until that is over.
    fn probe(&self, ask: &Ask<'_>) -> Option<&Arc<Endpoint>> {
        if self.probes.is_empty() || ask.scope == Scope::Session || !ask.avoid.is_empty() {
            return None;
        }
        let taken = |e: &&Arc<Endpoint>| e.load.probe.compare_exchange(0, 1, Relaxed, Relaxed).is_ok();
        self.probes.iter().find(taken)
    }

    fn in_flight(&self, index: usize) -> u32 {
        let load = &self.entries[index].endpoint.load;
        load.turns.load(Relaxed).saturating_add(load.sessions.load(Relaxed))
    }

    /// The next in weighted turn, unless one drawn at random has strictly less to do.
    fn least_request(&self, ask: &Ask<'_>, rng: &mut Rng) -> usize {
        let first = self.settle(ask, || self.stride.next());
        let Some(challenger) = self.other(first, rng) else { return first };
        let less = |i: usize| f64::from(self.in_flight(i)) / self.entries[i].effective;
        if less(challenger) < less(first) && !self.avoided(ask, challenger) { challenger } else { first }
    }

    /// Two draws by weight; the one whose latency and work in flight promise the earlier answer.
    fn peak_ewma(&self, ask: &Ask<'_>, rng: &mut Rng) -> usize {
        let first = self.settle(ask, || self.alias.draw(rng));
        let Some(second) = self.other(first, rng) else { return first };
        if self.avoided(ask, second) {
            return first;
        }
        let untried = |i: usize| {
            let load = &self.entries[i].endpoint.load;
            self.entries.len() <= FEW
                && load.completions.load(Relaxed) + load.failures.load(Relaxed) == 0
                && load.turns.load(Relaxed) > 0
        };
        let load = |i: usize| &self.entries[i].endpoint.load;
        let better = match (untried(first), untried(second)) {
            (true, false) => true,
            (false, true) => false,
            _ => ewma::better(load(second), load(first)),
        };
        if better { second } else { first }
    }

    /// Another by weight, distinct if chance allows.
    fn other(&self, first: usize, rng: &mut Rng) -> Option<usize> {
        if self.entries.len() < 2 {
            return None;
        }
        (0..REDRAWS).map(|_| self.alias.draw(rng)).find(|&i| i != first)
    }

    /// Few endpoints: the one with fewest sessions for its weight, ties in this evenkeel's own order.
    /// Many: the next in that order, unless one of two drawn at random has strictly fewer.
    fn least_session(&self, ask: &Ask<'_>, rng: &mut Rng) -> usize {
        let n = self.entries.len();
        let load = |i: usize| {
            let entry = &self.entries[i];
            (f64::from(entry.endpoint.load.sessions.load(Relaxed)) + 1.0) / entry.effective
        };
        if n <= SCAN {
            let fewest = |skip: bool| {
                let candidates = self.rank.iter().map(|&i| i as usize).filter(|&i| !skip || !self.avoided(ask, i));
                candidates.min_by(|&a, &b| load(a).total_cmp(&load(b)))
            };
            return fewest(true).or_else(|| fewest(false)).unwrap_or(0);
        }
        let mut best = self.settle(ask, || self.rank[(self.next.fetch_add(1, Relaxed) % n as u64) as usize] as usize);
        for _ in 0..2 {
            let challenger = rng.below(n as u64) as usize;
            if load(challenger) < load(best) && !self.avoided(ask, challenger) {
                best = challenger;
            }
        }
        best
    }

    fn index(&self, id: EndpointId) -> Option<usize> {
        let at = self.by_id.binary_search_by_key(&id, |&(id, _)| id).ok()?;
        Some(self.by_id[at].1 as usize)
    }

    /// Is the endpoint still one that may take turns? (Pooled links and pinned sessions ask.)
    pub fn usable(&self, id: EndpointId) -> bool {
        self.index(id).is_some()
            || self.probes.iter().any(|e| e.id == id)
            || (self.pins_sessions() && self.ready.iter().any(|e| e.id == id))
    }

    /// Picks the given endpoint again, for a session pinned to it, if it is still usable.
    pub fn repick(&self, id: EndpointId, scope: Scope, now: Instant) -> Option<Ticket> {
        let endpoint = match self.index(id) {
            Some(index) => &self.entries[index].endpoint,
            // What pins a session is blind to health.
            None => self.ready.iter().find(|e| self.pins_sessions() && e.id == id)?,
        };
        Some(Ticket::new(endpoint, scope, false, self, now))
    }

    /// Does a session stay with the endpoint of its first turn (policy `random`)?
    pub fn pins_sessions(&self) -> bool {
        self.turn_policy == Policy::Random
    }

    /// Does the policy use affinity keys? (If not, workers need not compute any.)
    pub fn wants_key(&self) -> bool {
        let hashes = |policy| matches!(policy, Policy::RingHash | Policy::Maglev);
        hashes(self.turn_policy) || hashes(self.session_policy)
    }

    /// How many endpoints may take turns now.
    pub fn size(&self) -> usize {
        self.entries.len()
    }

    /// Endpoints that may take turns now, with the weights that make their fair shares.
    pub fn weights(&self) -> impl Iterator<Item = (&Arc<Endpoint>, f64)> {
        self.entries.iter().map(|e| (&e.endpoint, e.effective))
    }

    /// Endpoints that may take turns now.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.entries.iter().map(|e| &e.endpoint)
    }
}
