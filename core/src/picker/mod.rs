//! A published, immutable snapshot from which workers pick, and the ticket that counts a turn.

mod alias;
pub(crate) mod ewma;
mod logarithm;
pub(crate) mod maglev;
pub(crate) mod ring;
mod stride;

use self::alias::Alias;
use self::maglev::Table;
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
        // Not one step: turns that end at the same time may both count from the one before.
        let last = Instant::from_nanos(load.last_completion.load(Relaxed));
        load.last_completion.store(now.as_nanos(), Relaxed);
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
    /// The endpoint's, where a search finds it without looking there.
    pub(crate) id: EndpointId,
    /// With slow start.
    pub(crate) effective: f64,
    /// As discovery gave it.
    pub(crate) weight: f64,
}

impl Entry {
    /// All that rings and tables are made from.
    fn key(&self) -> (EndpointId, f64) {
        (self.id, self.weight)
    }
}

/// No entry.
const GONE: u32 = u32::MAX;

/// For each of `ids`, in order, which of the entries it is.
fn places(ids: impl Iterator<Item = EndpointId>, entries: &[Entry]) -> Vec<u32> {
    let mut rest = entries.iter().zip(0..).peekable();
    let place = |id| {
        while rest.next_if(|(entry, _)| entry.id < id).is_some() {}
        rest.next_if(|(entry, _)| entry.id == id).map_or(GONE, |(_, index)| index)
    };
    ids.map(place).collect()
}

/// A number that all workers draw from. It has a cache line to itself, or each draw would take from the others
/// what lies beside it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counter(AtomicU64);

impl Counter {
    fn new(start: u64) -> Self {
        // Far from the end of the range.
        Self(AtomicU64::new(start >> 20))
    }

    #[inline]
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed)
    }
}

/// What a picker is made from; see [`Picker::build`].
#[derive(Debug)]
pub(crate) struct Recipe {
    /// Endpoints that may be picked, in order of identity.
    pub(crate) entries: Arc<[Entry]>,
    /// Ready endpoints, whatever their health: what a Service would use. For [`Policy::Random`] only.
    pub(crate) ready: Vec<Arc<Endpoint>>,
    /// Endpoints of which one turn is to tell whether they are well again.
    pub(crate) probes: Vec<Arc<Endpoint>>,
    /// Endpoints that discovery knows.
    pub(crate) known: usize,
    pub(crate) turn_policy: Policy,
    pub(crate) session_policy: Policy,
    pub(crate) streak_limit: u32,
    /// Of these entries.
    pub(crate) ring: Arc<Ring>,
    /// Perhaps of the entries that were there before.
    pub(crate) maglev: Arc<Table>,
    /// Identity of this evenkeel, for rank order.
    pub(crate) proxy: u64,
}

/// An immutable snapshot of one balancer's decision data. Policies have what they need, and only that.
#[derive(Debug)]
pub struct Picker {
    entries: Arc<[Entry]>,
    ready: Vec<Arc<Endpoint>>,
    probes: Vec<Arc<Endpoint>>,
    known: usize,
    turn_policy: Policy,
    session_policy: Policy,
    streak_limit: u32,
    alias: Alias,
    /// Entries in the order of turns.
    order: Vec<u32>,
    stride: Stride,
    /// Entries in this evenkeel's own order of preference.
    rank: Vec<u32>,
    ring: Arc<Ring>,
    maglev: Arc<Table>,
    /// Which entry each member of the table is.
    places: Vec<u32>,
    next: Counter,
}

impl Picker {
    /// A picker that knows nobody.
    pub fn empty() -> Self {
        let recipe = Recipe {
            entries: Arc::default(),
            ready: Vec::new(),
            probes: Vec::new(),
            known: 0,
            turn_policy: Policy::RoundRobin,
            session_policy: Policy::RoundRobin,
            streak_limit: u32::MAX,
            ring: Arc::default(),
            maglev: Arc::default(),
            proxy: 0,
        };
        Self::build(recipe, &mut Rng::seeded(0))
    }

    pub(crate) fn build(recipe: Recipe, rng: &mut Rng) -> Self {
        let Recipe { entries, ready, probes, known, turn_policy, session_policy, streak_limit, ring, maglev, proxy } =
            recipe;
        let policies = [turn_policy, session_policy];
        let uses = |policy| policies.contains(&policy);
        let least = uses(Policy::LeastRequest) || uses(Policy::LeastSession);
        let (strides, draws) = (least || uses(Policy::Weighted), least || uses(Policy::PeakEwma));
        let weights = || entries.iter().map(|e| e.effective);
        let mut order = Vec::new();
        if strides || uses(Policy::RoundRobin) || uses(Policy::Random) {
            order = (0..entries.len() as u32).collect();
            // Every picker has an order of its own: lists are the same everywhere, and clients that all
            // begin at the same place of the same list make it hot.
            for i in (1..order.len()).rev() {
                order.swap(i, rng.below(i as u64 + 1) as usize);
            }
        }
        let mut rank = Vec::new();
        if uses(Policy::LeastSession) {
            rank = (0..entries.len() as u32).collect();
            rank.sort_by_cached_key(|&i| core::cmp::Reverse(combine(proxy, entries[i as usize].id.0)));
        }
        let in_order = order.iter().map(|&i| entries[i as usize].effective);
        let stride = if strides { Stride::new(in_order, rng.next_u64()) } else { Stride::default() };
        Self {
            alias: if draws && !entries.is_empty() { Alias::new(weights()) } else { Alias::default() },
            stride,
            order,
            rank,
            ring,
            places: maglev.places(&entries),
            maglev,
            next: Counter::new(rng.next_u64()),
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
                let n = self.order.len() as u64;
                self.settle(ask, || self.order[(self.next.next() % n) as usize] as usize)
            }
            Policy::Weighted => self.settle(ask, || self.in_turn()),
            Policy::LeastRequest => self.least_request(ask, rng),
            Policy::PeakEwma => self.peak_ewma(ask, rng),
            Policy::LeastSession => self.least_session(ask, rng),
            Policy::RingHash => {
                let key = ask.key.unwrap_or_else(|| rng.next_u64());
                self.settle_key(ask, key, self.ring.from(key))
            }
            Policy::Maglev => {
                let key = ask.key.unwrap_or_else(|| rng.next_u64());
                // While a new table is built the old one may name endpoints that left.
                let usable = |member: usize| Some(self.places[member]).filter(|&place| place != GONE);
                self.settle_key(ask, key, self.maglev.from(key).filter_map(usable).map(|place| place as usize))
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
        !ask.avoid.is_empty() && ask.avoid.contains(&self.entries[index].id)
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

    /// The first in the order of a key that is not to be avoided.
    #[inline]
    fn settle_key(&self, ask: &Ask<'_>, key: u64, mut order: impl Iterator<Item = usize>) -> usize {
        // Nobody: all that a table knows have left, and the next is being built.
        let first = order.next().unwrap_or_else(|| (key % self.entries.len() as u64) as usize);
        if !self.avoided(ask, first) {
            return first;
        }
        order.find(|&i| !self.avoided(ask, i)).unwrap_or(first)
    }

    /// The next in weighted turn.
    #[inline]
    fn in_turn(&self) -> usize {
        self.order[self.stride.next()] as usize
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
        let first = self.settle(ask, || self.in_turn());
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
        let mut best = self.settle(ask, || self.rank[(self.next.next() % n as u64) as usize] as usize);
        for _ in 0..2 {
            let challenger = rng.below(n as u64) as usize;
            if load(challenger) < load(best) && !self.avoided(ask, challenger) {
                best = challenger;
            }
        }
        best
    }

    fn index(&self, id: EndpointId) -> Option<usize> {
        self.entries.binary_search_by_key(&id, |entry| entry.id).ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::EndpointSpec;
    use core::net::SocketAddr;

    /// Entries in order of identity, with weights by number.
    pub(super) fn entries(n: usize, weight: impl Fn(usize) -> f64) -> Vec<Entry> {
        let mut entries: Vec<Entry> = (0..n)
            .map(|i| {
                let address = SocketAddr::from(([10, 0, (i / 250) as u8, (i % 250) as u8], 80));
                let endpoint = Arc::new(Endpoint::new(&EndpointSpec::at(address)));
                Entry { id: endpoint.id, endpoint, effective: weight(i), weight: weight(i) }
            })
            .collect();
        entries.sort_by_key(|entry| entry.id);
        entries
    }

    #[test]
    fn a_place_is_where_the_same_endpoint_is_now() {
        let all = entries(5, |_| 1.0);
        let some = [all[0].clone(), all[2].clone(), all[4].clone()];
        let ids = |entries: &[Entry]| entries.iter().map(|e| e.id).collect::<Vec<_>>();
        assert_eq!(places(ids(&all).into_iter(), &some), [0, GONE, 1, GONE, 2]);
        assert_eq!(places(ids(&some).into_iter(), &all), [0, 2, 4]);
        assert_eq!(places(ids(&all).into_iter(), &[]), [GONE; 5]);
    }
}
