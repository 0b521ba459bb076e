//! The state machine that decides for one service.
//!
//! Drive it with [`Balancer::handle`] and [`Balancer::handle_timeout`]; after each call drain
//! [`Balancer::poll_output`], then arm a timer for [`Balancer::poll_timeout`].

mod explain;
mod health;
mod member;
mod rebalance;
mod said;

use self::health::Health;
use self::member::Member;
use self::rebalance::{Rebalancer, Turnout};
use self::said::Said;
use crate::address::Address;
use crate::endpoint::{Endpoint, EndpointId, EndpointSpec, Readiness};
use crate::picker::maglev::{Builder, Table};
use crate::picker::ring::Ring;
use crate::picker::{Entry, Picker, Recipe, ewma};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

pub use self::explain::{Standing, brief};
pub use self::rebalance::{Pace, RebalanceConfig, RebalanceView, Shed};

/// New endpoints to which a link is opened before their first turn. If there are more at once, links to all of them
/// would hold up the sessions that are served; each gets its own when it is needed.
const WARMED: usize = 64;
/// How often counters are read while there is traffic.
const TICK: Duration = Duration::from_millis(100);
/// How often without any: long enough not to keep a processor awake.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// Steps of a slow start; each publishes a picker.
const RAMP_STEPS: u32 = 20;
/// Table slots looked at in one call: less than a millisecond of work.
const MAGLEV_STEPS: usize = 50_000;

/// How endpoints are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Policy {
    /// kube-proxy's rule: one uniform draw per session, for life. A baseline.
    Random,
    /// In turn.
    RoundRobin,
    /// In turn, in proportion to weights.
    Weighted,
    /// Weighted turn against one random challenger, by turns in flight.
    LeastRequest,
    /// Two draws, by latency and turns in flight.
    PeakEwma,
    /// Fewest sessions for the weight. Turns, of which there is no session to count, go as with
    /// [`Policy::LeastRequest`].
    LeastSession,
    /// Consistent hashing on a ring.
    RingHash,
    /// Consistent hashing by table.
    Maglev,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 8] = [
        Self::Random,
        Self::RoundRobin,
        Self::Weighted,
        Self::LeastRequest,
        Self::PeakEwma,
        Self::LeastSession,
        Self::RingHash,
        Self::Maglev,
    ];

    /// Its name in configurations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::Weighted => "weighted",
            Self::LeastRequest => "least-request",
            Self::PeakEwma => "peak-ewma",
            Self::LeastSession => "least-session",
            Self::RingHash => "ring-hash",
            Self::Maglev => "maglev",
        }
    }
}

/// Settings of one balancer.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// For [`Scope::Turn`](crate::picker::Scope::Turn).
    pub turn_policy: Policy,
    /// For [`Scope::Session`](crate::picker::Scope::Session).
    pub session_policy: Policy,
    /// Weight ramp of a new endpoint; zero switches it off.
    pub slow_start: Duration,
    /// Passive health.
    pub outlier: OutlierConfig,
    /// Use every known endpoint when fewer than this fraction is fit.
    pub panic_threshold: f64,
    /// When sessions move.
    pub rebalance: RebalanceConfig,
}

/// When an endpoint is ejected for what its turns show.
#[derive(Clone, PartialEq, Debug)]
pub struct OutlierConfig {
    /// Consecutive failures that eject; `None`: never.
    pub consecutive: Option<u32>,
    /// Failure rate this many scaled MADs above the median ejects; `None`: off.
    pub deviation: Option<f64>,
    /// First ejection; multiplied by how often it was ejected lately.
    pub ejection: Duration,
    /// Longest ejection.
    pub max_ejection: Duration,
    /// Largest fraction of endpoints ejected at once; at least one may be.
    pub max_ejected: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            turn_policy: Policy::PeakEwma,
            session_policy: Policy::LeastSession,
            slow_start: Duration::from_secs(10),
            outlier: OutlierConfig::default(),
            panic_threshold: 0.5,
            rebalance: RebalanceConfig::default(),
        }
    }
}

impl Default for OutlierConfig {
    fn default() -> Self {
        Self {
            consecutive: Some(5),
            deviation: None,
            ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejected: 0.1,
        }
    }
}

/// What the balancer is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// One source's whole current set (sources overlap: slices, several targets).
    Endpoints {
        /// Which source; a later input of the same source replaces this one.
        source: u64,
        /// Its endpoints.
        endpoints: Vec<EndpointSpec>,
    },
    /// A source is gone with everything it said.
    SourceGone {
        /// Which source.
        source: u64,
    },
    /// Settings changed.
    Configure(Config),
    /// An active check ended.
    Checked {
        /// Whom it checked.
        endpoint: EndpointId,
        /// Did it pass?
        healthy: bool,
        /// What was seen, for `explain`.
        detail: Box<str>,
    },
    /// A ticket said [`Notice::Suspect`](crate::picker::Notice::Suspect).
    Suspect(EndpointId),
    /// A ticket said [`Notice::Probed`](crate::picker::Notice::Probed).
    Probed(EndpointId, bool),
    /// An operator drains the endpoint, or takes that back.
    Drain(EndpointId, bool),
}

/// What the balancer wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Workers pick from this from now on.
    Publish(Arc<Picker>),
    /// A new endpoint: connect to it before its first turn.
    Warm(Arc<Endpoint>),
    /// The endpoint takes no new turns and leaves when its turns are over.
    Retire(Arc<Endpoint>),
    /// The endpoint leaves (or is gone from discovery), and there are others: its sessions are to go, too.
    Leave(Arc<Endpoint>),
    /// It does not leave after all.
    Stay(Arc<Endpoint>),
    /// Some sessions are to move.
    Shed(Shed),
    /// Something worth a log line and a counter.
    Fact(Fact),
}

/// Something worth knowing about a service.
#[derive(Clone, PartialEq, Debug)]
pub enum Fact {
    /// An endpoint appeared.
    Added(EndpointId),
    /// An endpoint left.
    Removed(EndpointId),
    /// Its outlier ejection began.
    Ejected {
        /// Who.
        endpoint: EndpointId,
        /// How long.
        duration: Duration,
        /// Why.
        grounds: Grounds,
    },
    /// Its ejection ended.
    Readmitted(EndpointId),
    /// An active check changed its verdict.
    HealthChanged {
        /// Who.
        endpoint: EndpointId,
        /// Its health now.
        healthy: bool,
        /// What the check saw.
        detail: Box<str>,
    },
    /// Too few are fit: all are used (or no longer).
    Panic(bool),
    /// Sessions begin to move.
    Rebalancing {
        /// Highest share ÷ fair share.
        skew: f64,
        /// Sessions that have to move for the counts to be even.
        needed: u32,
    },
    /// Counts are even again, or nothing can be moved.
    Rebalanced {
        /// Sessions that were asked to go.
        moves: u32,
        /// Since it began.
        took: Duration,
    },
    /// Most clients that were asked to come back did not: nobody is moved for a while.
    RebalancePaused,
}

/// Why an endpoint is ejected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grounds {
    /// So many failures in a row.
    Streak(u32),
    /// Its failure rate is far above that of its peers.
    Deviation,
    /// It was ejected before, and failed the turn that was to show that it is well again.
    Probe,
}

impl Default for Grounds {
    fn default() -> Self {
        Self::Streak(0)
    }
}

impl fmt::Display for Grounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Streak(1) => f.write_str("1 failure"),
            Self::Streak(n) => write!(f, "{n} failures in a row"),
            Self::Deviation => f.write_str("a failure rate far above the median"),
            Self::Probe => f.write_str("the probe failed"),
        }
    }
}

/// Why a timeout was armed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Counters are due to be read.
    Tick,
    /// The weight of new endpoints is due to grow.
    SlowStart,
    /// An ejection ends.
    Ejection,
    /// A hash table is being built.
    Table,
    /// Sessions are due to be counted, or moved.
    Rebalance,
}

/// One endpoint as the balancer sees it, for the admin API and `evenkeel why`.
#[derive(Clone, Debug)]
pub struct EndpointView {
    /// The endpoint and its counters.
    pub endpoint: Arc<Endpoint>,
    /// What discovery says.
    pub readiness: Readiness,
    /// Is it among those that may be picked?
    pub usable: bool,
    /// Weight as discovery gave it.
    pub weight: f64,
    /// Weight now, with slow start; 0 if not usable.
    pub effective_weight: f64,
    /// Its fair share now, 0 to 1.
    pub fair_share: f64,
    /// Sessions placed whole that it would have if their counts were even; `None` if not usable.
    pub fair_sessions: Option<u32>,
    /// How it stands.
    pub standing: Standing,
    /// For how long it has stood so; `None` if there is nothing to say of it.
    pub since: Option<Duration>,
    /// In words: why it is or is not picked.
    pub explanation: String,
}

/// The state machine that decides for one service.
#[derive(Debug)]
pub struct Balancer {
    config: Config,
    proxy: u64,
    rng: Rng,
    sources: BTreeMap<u64, Said>,
    members: BTreeMap<EndpointId, Member>,
    /// What an operator drains, and since when.
    drained: BTreeMap<EndpointId, Instant>,
    /// Endpoints that discovery does not know any more, while somebody still uses them.
    departed: BTreeMap<(EndpointId, Address), Departed>,
    rebalancer: Rebalancer,
    outputs: VecDeque<Output>,
    /// Something was known once: from here on, what is new starts slowly.
    begun: bool,
    panic: bool,
    published: bool,
    /// What the present picker was made of.
    chosen: Choice,
    health: Health,
    tick_at: Instant,
    ramp_at: Option<Instant>,
    /// When the first ejection ends, or earlier.
    ejection_at: Option<Instant>,
    ring: Arc<Ring>,
    table: Arc<Table>,
    building: Option<Builder>,
}

/// An endpoint that left. It may come back, and its sessions are its own then.
#[derive(Debug)]
struct Departed {
    endpoint: Weak<Endpoint>,
    /// Its sessions were told to go.
    told: bool,
}

impl Balancer {
    /// A balancer without endpoints. `seed` feeds tie-breaking and jitter, `proxy` identifies this
    /// evenkeel for rank order (hash of the Pod UID).
    pub fn new(config: Config, proxy: u64, seed: u64, now: Instant) -> Self {
        let mut rng = Rng::seeded(seed);
        Self {
            config,
            proxy,
            rebalancer: Rebalancer::new(&mut rng, now),
            rng,
            departed: BTreeMap::new(),
            sources: BTreeMap::new(),
            members: BTreeMap::new(),
            drained: BTreeMap::new(),
            outputs: VecDeque::new(),
            begun: false,
            panic: false,
            published: false,
            chosen: Choice::default(),
            health: Health::new(now),
            tick_at: now + TICK,
            ramp_at: None,
            ejection_at: None,
            ring: Arc::default(),
            table: Arc::default(),
            building: None,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Endpoints { source, endpoints } => {
                let concerned = self.sources.entry(source).or_default().becomes(endpoints);
                if !self.merge(concerned, now) && self.published {
                    return;
                }
            }
            Input::SourceGone { source } => {
                let Some(said) = self.sources.remove(&source) else { return };
                if !self.merge(said.into_ids(), now) && self.published {
                    return;
                }
            }
            Input::Configure(config) => self.config = config,
            Input::Checked { endpoint, healthy, detail } => {
                let Some(member) = self.members.get_mut(&endpoint) else { return };
                let before = member.checked.replace(healthy);
                member.check_detail.clone_from(&detail);
                if before == Some(healthy) || (before.is_none() && healthy) {
                    return;
                }
                member.checked_since = now;
                if healthy {
                    member.starts(now);
                }
                self.outputs.push_back(Output::Fact(Fact::HealthChanged { endpoint, healthy, detail }));
            }
            Input::Suspect(endpoint) => {
                let Some(limit) = self.config.outlier.consecutive else { return };
                let streak = self.members.get(&endpoint).map_or(0, |m| m.endpoint.load.streak.load(Relaxed));
                if streak < limit || !self.eject(endpoint, Grounds::Streak(streak), now) {
                    return;
                }
            }
            Input::Probed(endpoint, passed) => {
                let Some(member) = self.members.get_mut(&endpoint).filter(|m| m.ejection.on_probation()) else {
                    return;
                };
                if passed {
                    member.ejection.ends(now);
                    member.starts(now);
                    self.outputs.push_back(Output::Fact(Fact::Readmitted(endpoint)));
                } else {
                    // Out again, for longer.
                    self.throw_out(endpoint, Grounds::Probe, now);
                }
            }
            Input::Drain(endpoint, drains) => {
                if drains == self.drained.contains_key(&endpoint) {
                    return;
                }
                match drains {
                    true => self.drained.insert(endpoint, now),
                    false => self.drained.remove(&endpoint),
                };
                if let Some(member) = self.members.get_mut(&endpoint).filter(|_| !drains) {
                    member.starts(now);
                }
            }
        }
        self.publish(now);
    }

    /// One set from all sources, of which something changed for the endpoints `concerned`: where sources overlap,
    /// the best readiness wins (an endpoint that moves from one slice to another is in both, or briefly in
    /// neither). False: all is as it was.
    fn merge(&mut self, concerned: Vec<EndpointId>, now: Instant) -> bool {
        let mut best: BTreeMap<EndpointId, Option<&EndpointSpec>> =
            concerned.into_iter().map(|id| (id, None)).collect();
        if best.is_empty() {
            return false;
        }
        let sources = core::mem::take(&mut self.sources);
        for (id, spec) in sources.values().flat_map(Said::specs) {
            if let Some(best) = best.get_mut(&id)
                && best.is_none_or(|best| spec.readiness > best.readiness)
            {
                *best = Some(spec);
            }
        }
        let (mut changed, mut left, mut came) = (false, Vec::new(), Vec::new());
        for (id, spec) in best {
            match (self.members.get_mut(&id), spec) {
                // An address that now belongs to another Pod is another endpoint, whatever its name.
                (Some(member), Some(spec)) if spec.address == member.spec.address => {
                    changed |= member.update(spec, now);
                }
                (known, spec) => {
                    left.extend(known.map(|_| id));
                    came.extend(spec.map(|spec| (id, spec)));
                }
            }
        }
        changed |= !left.is_empty() || !came.is_empty();
        let assumed = if came.is_empty() { ewma::UNKNOWN } else { self.median_latency(now) };
        for id in left {
            if let Some(member) = self.members.remove(&id) {
                self.departs(id, member);
            }
        }
        let warms = came.len() <= WARMED;
        for (id, spec) in came {
            let member = Member::new(spec, self.comes_back(id, &spec.address), self.begun, now);
            ewma::assume(&member.endpoint.load, assumed, now);
            self.outputs.push_back(Output::Fact(Fact::Added(id)));
            if warms && spec.readiness == Readiness::Ready {
                self.outputs.push_back(Output::Warm(member.endpoint.clone()));
            }
            self.members.insert(id, member);
        }
        self.sources = sources;
        self.departed.retain(|_, d| d.endpoint.strong_count() > 0);
        self.begun |= !self.members.is_empty();
        if changed {
            self.rebalancer.note_change();
        }
        changed
    }

    /// The median latency of those that ever answered.
    fn median_latency(&self, now: Instant) -> Duration {
        let loads = self.members.values().map(|m| &m.endpoint.load);
        let mut scores: Vec<u64> =
            loads.filter(|l| l.completions.load(Relaxed) > 0).map(|l| l.score.load(Relaxed)).collect();
        if scores.is_empty() {
            return ewma::UNKNOWN;
        }
        let half = scores.len() / 2;
        let (_, &mut median, _) = scores.select_nth_unstable(half);
        Duration::from_micros(ewma::micros(median, now) as u64)
    }

    /// Discovery does not know it any more.
    fn departs(&mut self, id: EndpointId, member: Member) {
        self.drained.remove(&id);
        self.outputs.push_back(Output::Fact(Fact::Removed(id)));
        let departed = Departed { endpoint: Arc::downgrade(&member.endpoint), told: member.told_to_leave };
        self.departed.insert((member.endpoint.id, member.endpoint.address.clone()), departed);
        self.outputs.push_back(Output::Retire(member.endpoint));
    }

    /// The endpoint as it was when it left, if its sessions are still there, and whether they were told to go.
    fn comes_back(&mut self, id: EndpointId, address: &Address) -> Option<(Arc<Endpoint>, bool)> {
        let departed = self.departed.remove(&(id, address.clone()))?;
        Some((departed.endpoint.upgrade()?, departed.told))
    }

    /// Ejects an endpoint, if not too many are ejected already; false: it stays.
    fn eject(&mut self, id: EndpointId, grounds: Grounds, now: Instant) -> bool {
        let candidates = self.members.values().filter(|m| m.is_candidate(&self.drained)).count();
        let allowed = ((candidates as f64 * self.config.outlier.max_ejected) as usize).max(1);
        let ejected = self.members.values().filter(|m| m.ejection.is_out()).count();
        if ejected >= allowed || self.members.get(&id).is_none_or(|m| m.ejection.is_out()) {
            return false;
        }
        self.throw_out(id, grounds, now);
        true
    }

    fn throw_out(&mut self, id: EndpointId, grounds: Grounds, now: Instant) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let duration = member.ejection.begin(&self.config.outlier, grounds, &mut self.rng, now);
        member.endpoint.load.streak.store(0, Relaxed);
        self.ejection_at = Some(self.ejection_at.map_or(now + duration, |at| at.min(now + duration)));
        self.outputs.push_back(Output::Fact(Fact::Ejected { endpoint: id, duration, grounds }));
    }

    /// A known endpoint.
    pub fn endpoint(&self, id: EndpointId) -> Option<Arc<Endpoint>> {
        self.members.get(&id).map(|m| m.endpoint.clone())
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        if self.building.is_some() {
            return Some((Instant::ZERO, Reason::Table));
        }
        if self.members.is_empty() {
            return None;
        }
        let ramp = self.ramp_at.map(|at| (at, Reason::SlowStart));
        let ejection = self.ejection_at.map(|at| (at, Reason::Ejection));
        let rebalance = self.rebalancer.wakes_at().map(|at| (at, Reason::Rebalance));
        [Some((self.tick_at, Reason::Tick)), ramp, ejection, rebalance].into_iter().flatten().min_by_key(|&(at, _)| at)
    }

    /// Time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut changed = self.build_table();
        if now >= self.tick_at {
            changed |= self.tick(now);
        }
        if self.ramp_at.is_some_and(|at| now >= at) {
            changed = true;
        }
        if self.ejection_at.is_some_and(|at| now >= at) {
            for member in self.members.values_mut() {
                changed |= member.ejection.pass(now);
            }
            self.ejection_at = self.members.values().filter_map(|m| m.ejection.until()).min();
        }
        if changed {
            self.publish(now);
        }
        if now >= self.rebalancer.due() {
            self.rebalance(now);
        }
    }

    /// Has sessions moved, if that is due.
    fn rebalance(&mut self, now: Instant) {
        let Self { rebalancer, config, members, rng, chosen, .. } = self;
        let (sheds, turnout) = rebalancer.tick(&config.rebalance, chosen, members, rng, now);
        let fact = turnout.map(|turnout| match turnout {
            Turnout::Began { skew, needed } => Fact::Rebalancing { skew, needed },
            Turnout::Ended { moves, took } => Fact::Rebalanced { moves, took },
            Turnout::Paused => Fact::RebalancePaused,
        });
        self.outputs.extend(fact.map(Output::Fact));
        self.outputs.extend(sheds.into_iter().map(Output::Shed));
    }

    /// What rebalancing sees.
    pub fn rebalancing(&self, now: Instant) -> RebalanceView {
        self.rebalancer.view(&self.config.rebalance, &self.chosen.entries, now)
    }

    /// Tells the sessions of endpoints that leave to go, once there is somewhere to go to.
    fn tell_leavers(&mut self) {
        let elsewhere = self.members.values().any(|m| m.is_candidate(&self.drained));
        for member in self.members.values_mut() {
            let leaves = elsewhere && member.leaves(&self.drained);
            if leaves != core::mem::replace(&mut member.told_to_leave, leaves) {
                let endpoint = member.endpoint.clone();
                self.outputs.push_back(if leaves { Output::Leave(endpoint) } else { Output::Stay(endpoint) });
            }
        }
        for departed in self.departed.values_mut().filter(|d| elsewhere && !d.told) {
            departed.told = true;
            self.outputs.extend(departed.endpoint.upgrade().map(Output::Leave));
        }
    }

    /// Reads the counters; true if that changes who is picked.
    fn tick(&mut self, now: Instant) -> bool {
        let active = self.health.note_activity(&self.members);
        self.tick_at = now + if active { TICK } else { IDLE_TICK };
        if !active {
            return false;
        }
        let mut suspects = Vec::new();
        for (&id, member) in &mut self.members {
            member.ejection.forgive(&self.config.outlier, now);
            let load = &member.endpoint.load;
            let streak = load.streak.load(Relaxed);
            if self.config.outlier.consecutive.is_some_and(|limit| streak >= limit) {
                suspects.push((id, Grounds::Streak(streak)));
            }
            if load.turns.load(Relaxed) > 0 {
                let silent_since = load.last_completion.load(Relaxed).max(load.busy_since.load(Relaxed));
                ewma::suspect_hung(load, Instant::from_nanos(silent_since), now);
            }
        }
        if let Some(deviation) = self.config.outlier.deviation {
            let deviants = self.health.deviants(&self.members, deviation, now);
            suspects.extend(deviants.into_iter().map(|id| (id, Grounds::Deviation)));
        }
        let mut changed = false;
        for (id, grounds) in suspects {
            changed |= self.eject(id, grounds, now);
        }
        changed
    }

    /// Works on a hash table for a while; true when it is finished.
    fn build_table(&mut self) -> bool {
        let Some(builder) = &mut self.building else { return false };
        let Some(table) = builder.advance(MAGLEV_STEPS) else { return false };
        (self.table, self.building) = (Arc::new(table), None);
        true
    }

    /// Publishes a picker of what is known and fit now.
    fn publish(&mut self, now: Instant) {
        let recipe = self.recipe(now);
        self.published = true;
        let picker = Picker::build(recipe, &mut self.rng);
        self.outputs.push_back(Output::Publish(Arc::new(picker)));
        self.tell_leavers();
    }

    fn recipe(&mut self, now: Instant) -> Recipe {
        let choice = self.choose(now);
        if choice.panic != self.panic {
            self.panic = choice.panic;
            self.outputs.push_back(Output::Fact(Fact::Panic(choice.panic)));
        }
        self.ramp_at = choice.ramping.then(|| now + (self.config.slow_start / RAMP_STEPS).max(TICK));
        self.renew_ring(&choice.entries);
        self.renew_table(&choice.entries);
        self.chosen = choice;
        let candidates = || self.members.values().filter(|m| m.is_candidate(&self.drained));
        let probes = candidates().filter(|m| m.ejection.on_probation() && m.checked != Some(false));
        Recipe {
            probes: probes.map(|m| m.endpoint.clone()).collect(),
            ready: match self.uses(Policy::Random) {
                true => candidates().map(|m| m.endpoint.clone()).collect(),
                false => Vec::new(),
            },
            entries: self.chosen.entries.clone(),
            known: self.members.len(),
            turn_policy: self.config.turn_policy,
            session_policy: self.config.session_policy,
            streak_limit: self.config.outlier.consecutive.unwrap_or(u32::MAX).max(1),
            ring: self.ring.clone(),
            maglev: self.table.clone(),
            proxy: self.proxy,
        }
    }

    fn uses(&self, policy: Policy) -> bool {
        self.config.turn_policy == policy || self.config.session_policy == policy
    }

    /// Makes the ring that of these entries; what changed of them is what it costs, and a copy.
    fn renew_ring(&mut self, entries: &[Entry]) {
        if !self.uses(Policy::RingHash) {
            self.ring = Arc::default();
        } else if !self.ring.fits(entries) {
            self.ring = Arc::new(Ring::new(entries, &self.ring));
        }
    }

    /// Begins a new table if there is none of these entries, finished or begun. The first is built at once, for
    /// there is none to serve meanwhile.
    fn renew_table(&mut self, entries: &[Entry]) {
        if !self.uses(Policy::Maglev) {
            (self.table, self.building) = (Arc::default(), None);
        } else if self.table.fits(entries) {
            self.building = None;
        } else if self.building.as_ref().is_none_or(|builder| !builder.fits(entries)) {
            let mut builder = Builder::new(entries);
            match self.table.is_empty() {
                true => self.table = builder.advance(usize::MAX).map(Arc::new).unwrap_or_default(),
                false => self.building = Some(builder),
            }
        }
    }

    /// Who may be picked, and with what weight.
    fn choose(&self, now: Instant) -> Choice {
        // Members are large, and far apart in memory: each is looked at once.
        let window = self.config.slow_start;
        let eligible = |m: &'_ &Member| m.is_candidate(&self.drained);
        let candidates: Vec<Candidate<'_>> =
            self.members.values().filter(eligible).map(|m| Candidate::new(m, window, now)).collect();
        let fit = candidates.iter().filter(|c| c.fit).count();
        let panic = (fit as f64) < candidates.len() as f64 * self.config.panic_threshold;
        let mut chosen = candidates;
        if !panic {
            chosen.retain(|c| c.fit);
        }
        if chosen.is_empty() {
            // Leaving endpoints still serve, and are better than an error.
            let leaving = |m: &&Member| m.spec.readiness == Readiness::Terminating;
            chosen = self.members.values().filter(leaving).map(|m| Candidate::new(m, window, now)).collect();
        }
        let total: f64 = chosen.iter().map(|c| c.weight).sum();
        let fresh: f64 = chosen.iter().filter(|c| c.progress < 1.0).map(|c| c.weight).sum();
        // When most of the capacity is new, there is nobody to spare it.
        let ramps = fresh > 0.0 && fresh * 2.0 <= total;
        let entry = |c: &Candidate<'_>| Entry {
            endpoint: c.endpoint.clone(),
            id: c.id,
            weight: c.weight,
            effective: c.weight * if ramps { c.progress } else { 1.0 },
        };
        Choice { entries: chosen.iter().map(entry).collect(), panic, ramping: ramps }
    }
}

/// A member that may be chosen.
struct Candidate<'a> {
    endpoint: &'a Arc<Endpoint>,
    id: EndpointId,
    weight: f64,
    /// How far slow start has come.
    progress: f64,
    fit: bool,
}

impl<'a> Candidate<'a> {
    fn new(member: &'a Member, window: Duration, now: Instant) -> Self {
        Self {
            endpoint: &member.endpoint,
            id: member.endpoint.id,
            weight: member.weight(),
            progress: member.progress(window, now),
            fit: member.is_fit(),
        }
    }
}

/// The outcome of [`Balancer::choose`].
#[derive(Debug, Default)]
struct Choice {
    /// In order of identity.
    entries: Arc<[Entry]>,
    panic: bool,
    ramping: bool,
}
