//! The state machine that decides for one service.
//!
//! Drive it with [`Balancer::handle`] and [`Balancer::handle_timeout`]; after each call drain
//! [`Balancer::poll_output`], then arm a timer for [`Balancer::poll_timeout`].

use crate::endpoint::{Endpoint, EndpointId, EndpointSpec, Readiness};
use crate::picker::Picker;
use crate::time::{Duration, Instant};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicUsize;

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
    /// Fewest sessions.
    LeastSession,
    /// Consistent hashing on a ring.
    RingHash,
    /// Consistent hashing by table.
    Maglev,
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
        reason: &'static str,
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
}

/// Why a timeout was armed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Counters are due to be read.
    Tick,
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
    /// In words: why it is or is not picked.
    pub explanation: String,
}

/// The state machine that decides for one service.
#[derive(Debug)]
pub struct Balancer {
    #[allow(dead_code)]
    config: Config,
    sources: BTreeMap<u64, Vec<EndpointSpec>>,
    endpoints: BTreeMap<EndpointId, Arc<Endpoint>>,
    outputs: VecDeque<Output>,
}

impl Balancer {
    /// A balancer without endpoints. `seed` feeds tie-breaking and jitter, `proxy` identifies this
    /// evenkeel for rank order (hash of the Pod UID).
    pub fn new(config: Config, _proxy: u64, _seed: u64, _now: Instant) -> Self {
        Self { config, sources: BTreeMap::new(), endpoints: BTreeMap::new(), outputs: VecDeque::new() }
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Endpoints { source, endpoints } => {
                self.sources.insert(source, endpoints);
            }
            Input::SourceGone { source } => {
                self.sources.remove(&source);
            }
            _ => return,
        }
        let mut seen = BTreeMap::new();
        let mut ready = Vec::new();
        for spec in self.sources.values().flatten() {
            let id = spec.id();
            let endpoint = self.endpoints.remove(&id).unwrap_or_else(|| {
                let endpoint = Arc::new(Endpoint::new(spec, now));
                self.outputs.push_back(Output::Warm(endpoint.clone()));
                endpoint
            });
            if spec.readiness == Readiness::Ready && spec.weight > 0.0 {
                ready.push(endpoint.clone());
            }
            seen.insert(id, endpoint);
        }
        for (_, gone) in core::mem::replace(&mut self.endpoints, seen) {
            self.outputs.push_back(Output::Retire(gone));
        }
        self.outputs.push_back(Output::Publish(Arc::new(Picker {
            ready,
            known: self.endpoints.len(),
            next: AtomicUsize::new(0),
        })));
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        None
    }

    /// Time has come.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// Every known endpoint, in order of address, and why it is or is not picked.
    pub fn explain(&self, _now: Instant) -> Vec<EndpointView> {
        self.endpoints
            .values()
            .map(|e| EndpointView {
                endpoint: e.clone(),
                readiness: Readiness::Ready,
                usable: true,
                weight: 1.0,
                effective_weight: 1.0,
                fair_share: 1.0 / self.endpoints.len() as f64,
                explanation: String::from("ready"),
            })
            .collect()
    }
}
