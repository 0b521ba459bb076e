//! What the control thread knows, in one place: for the admin API, the metrics, and the drain.

use crate::observe::events::Events;
use crate::observe::sums::{EndpointSums, Sums};
use crate::registry::{Registry, ServiceEntry, SessionView};
use crate::reload::Setup;
use crate::service::Service;
use crate::worker::{Command, Handle};
use evenkeel_core::address::Address;
use evenkeel_core::balancer::{EndpointView, RebalanceView};
use evenkeel_core::skew::{Skew, skew};
use evenkeel_upstream::pump::{Clock, Pump, SourceStatus};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::time::Duration;

/// A worker that has been busy with one turn of its loop for this long is stuck.
const STALL: Duration = Duration::from_secs(1);
/// How often counters are sampled.
pub(crate) const SAMPLE: Duration = Duration::from_secs(1);
/// Recent shares are over so many samples.
const WINDOW: usize = 10;
/// How long a worker may take to describe its sessions.
const ANSWER: Duration = Duration::from_secs(1);

/// One service under control.
#[derive(Debug)]
pub(crate) struct Controlled {
    service: RwLock<Arc<Service>>,
    pub(crate) pump: Pump,
    listening: RwLock<Vec<Address>>,
    /// Turns of each endpoint at the last samples, oldest first.
    recent: Mutex<VecDeque<HashMap<String, u64>>>,
    /// Something was published for it.
    pub(crate) began: Arc<AtomicBool>,
}

/// The control thread's knowledge.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) name: String,
    pub(crate) clock: Clock,
    pub(crate) registry: Arc<Registry>,
    pub(crate) workers: Arc<[Arc<Handle>]>,
    services: RwLock<Vec<Arc<Controlled>>>,
    pub(crate) events: Arc<Events>,
    pub(crate) draining: AtomicBool,
    /// What the configuration that runs was made into, and what a change of it needs.
    pub(crate) setup: Mutex<Setup>,
    /// How the last attempts to change it went.
    pub(crate) reloads: Mutex<Reloads>,
}

/// How reading the configuration again went.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct Reloads {
    /// Where it is read from.
    pub(crate) file: Option<String>,
    /// Counts up from 1 with every configuration that took effect.
    pub(crate) generation: u64,
    /// Attempts that changed nothing because something was wrong.
    pub(crate) failed: u64,
    /// What is wrong with the file as it is now; `None`: nothing.
    pub(crate) error: Option<String>,
    /// When the running one took effect, milliseconds since 1970.
    pub(crate) since_unix_ms: u64,
    /// What it changed.
    pub(crate) changes: Vec<String>,
}

/// Everything that is known of one endpoint now.
#[derive(Clone, Debug)]
pub(crate) struct EndpointNow {
    pub(crate) view: EndpointView,
    pub(crate) address: String,
    pub(crate) sums: EndpointSums,
    /// Its part of the turns of the last ten seconds; of all, if there were none.
    pub(crate) share: f64,
    /// Its part of the sessions that are placed whole.
    pub(crate) session_share: f64,
}

/// Everything that is known of one service now.
#[derive(Clone, Debug)]
pub(crate) struct ServiceNow {
    pub(crate) name: String,
    pub(crate) listening: Vec<String>,
    pub(crate) protocol: &'static str,
    pub(crate) policy: &'static str,
    pub(crate) sums: Sums,
    pub(crate) endpoints: Vec<EndpointNow>,
    /// Counted for endpoints that are not known any more.
    pub(crate) departed: Vec<(String, EndpointSums)>,
    pub(crate) sources: Vec<SourceStatus>,
    pub(crate) rebalance: RebalanceView,
    /// When the first certificate ends, seconds since 1970; `None`: TLS does not end here.
    pub(crate) certificate_expires: Option<i64>,
    pub(crate) turn_skew: Option<Skew>,
    pub(crate) session_skew: Option<Skew>,
}

impl Controlled {
    pub(crate) fn new(service: Arc<Service>, pump: Pump, listening: Vec<Address>, began: Arc<AtomicBool>) -> Self {
        let (service, listening) = (RwLock::new(service), RwLock::new(listening));
        Self { service, pump, listening, recent: Mutex::default(), began }
    }

    /// The service as it is configured now.
    pub(crate) fn service(&self) -> Arc<Service> {
        self.service.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn name(&self) -> String {
        self.service().config.name.clone()
    }

    /// Goes on with another configuration.
    pub(crate) fn becomes(&self, service: Arc<Service>, listening: Vec<Address>) {
        *self.service.write().unwrap_or_else(PoisonError::into_inner) = service;
        *self.listening.write().unwrap_or_else(PoisonError::into_inner) = listening;
    }

    pub(crate) fn listening(&self) -> Vec<Address> {
        self.listening.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn entry(&self) -> Arc<ServiceEntry> {
        self.service().entry.clone()
    }

    /// Remembers how many turns each endpoint has had.
    fn sample(&self) {
        let turns = self.entry().sums().into_iter().map(|(address, sums)| (address, sums.turns)).collect();
        if let Ok(mut recent) = self.recent.lock() {
            recent.push_back(turns);
            if recent.len() > WINDOW {
                recent.pop_front();
            }
        }
    }

    pub(crate) async fn now(&self) -> ServiceNow {
        let explanation = self.pump.explain().await;
        let views = explanation.endpoints;
        let mut sums: BTreeMap<String, EndpointSums> = self.entry().sums();
        let oldest = self.recent.lock().ok().and_then(|recent| recent.front().cloned()).unwrap_or_default();
        let mut endpoints: Vec<EndpointNow> = views
            .into_iter()
            .map(|view| {
                let address = view.endpoint.address.to_string();
                let sums = sums.remove(&address).unwrap_or_default();
                EndpointNow { view, address, sums, share: 0.0, session_share: 0.0 }
            })
            .collect();
        let since = |e: &EndpointNow| e.sums.turns - oldest.get(&e.address).copied().unwrap_or(0).min(e.sums.turns);
        let recent: u64 = endpoints.iter().map(since).sum();
        let turns = |e: &EndpointNow| if recent > 0 { since(e) } else { e.sums.turns };
        let sessions = |e: &EndpointNow| u64::from(e.view.endpoint.load.sessions.load(Relaxed));
        let turn_skew = skew_of(&endpoints, turns);
        let session_skew = skew_of(&endpoints, sessions);
        let (all_turns, all_sessions): (u64, u64) =
            endpoints.iter().fold((0, 0), |(t, s), e| (t + turns(e), s + sessions(e)));
        let shares: Vec<(f64, f64)> = endpoints
            .iter()
            .map(|e| (turns(e) as f64 / all_turns.max(1) as f64, sessions(e) as f64 / all_sessions.max(1) as f64))
            .collect();
        for (endpoint, (share, session_share)) in endpoints.iter_mut().zip(shares) {
            (endpoint.share, endpoint.session_share) = (share, session_share);
        }
        let service = self.service();
        let config = &service.config;
        ServiceNow {
            name: config.name.clone(),
            listening: self.listening().iter().map(ToString::to_string).collect(),
            protocol: config.protocol.as_str(),
            policy: crate::config::policy_name(config.balance.core.turn_policy),
            sums: self.entry().total(),
            endpoints,
            departed: sums.into_iter().collect(),
            sources: self.pump.sources(),
            rebalance: explanation.rebalance,
            certificate_expires: service.tls.as_ref().and_then(|tls| tls.expires()),
            turn_skew,
            session_skew,
        }
    }
}

/// Figures over endpoints that may be picked.
fn skew_of(endpoints: &[EndpointNow], load: impl Fn(&EndpointNow) -> u64) -> Option<Skew> {
    let usable = endpoints.iter().filter(|e| e.view.usable && e.view.effective_weight > 0.0);
    skew(&usable.map(|e| (load(e) as f64, e.view.effective_weight)).collect::<Vec<_>>())
}

impl Control {
    pub(crate) fn new(
        name: String,
        clock: Clock,
        registry: Arc<Registry>,
        workers: Arc<[Arc<Handle>]>,
        setup: Setup,
    ) -> Self {
        Self {
            name,
            clock,
            registry,
            workers,
            services: RwLock::default(),
            events: Arc::new(Events::new()),
            draining: AtomicBool::new(false),
            setup: Mutex::new(setup),
            reloads: Mutex::default(),
        }
    }

    /// Samples the counters for ever.
    pub(crate) async fn sample(self: Arc<Self>) {
        let mut every = tokio::time::interval(SAMPLE);
        loop {
            every.tick().await;
            self.services().iter().for_each(|service| service.sample());
        }
    }

    /// The services, in order of configuration.
    pub(crate) fn services(&self) -> Vec<Arc<Controlled>> {
        self.services.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_services(&self, services: Vec<Arc<Controlled>>) {
        *self.services.write().unwrap_or_else(PoisonError::into_inner) = services;
    }

    pub(crate) fn service(&self, name: &str) -> Option<Arc<Controlled>> {
        self.services().into_iter().find(|s| s.service().config.name == name)
    }

    /// Sends a command to every worker.
    pub(crate) fn tell_all(&self, command: impl Fn() -> Command) {
        self.workers.iter().for_each(|worker| worker.send(command()));
    }

    /// Workers that are stuck.
    pub(crate) fn stalled(&self) -> Vec<usize> {
        let now = self.clock.now();
        let hearts = self.registry.heartbeats.lock().map(|h| h.clone()).unwrap_or_default();
        hearts.iter().enumerate().filter(|(_, heart)| heart.stalled(now, STALL)).map(|(i, _)| i).collect()
    }

    /// Why it is not ready to be sent clients; `None`: it is.
    pub(crate) fn unready(&self) -> Option<String> {
        if self.draining.load(Relaxed) {
            return Some("draining".into());
        }
        let waiting = self.services().into_iter().find(|s| !s.began.load(Relaxed))?;
        Some(format!("service {:?} has heard of no endpoints yet", waiting.name()))
    }

    /// Up to `limit` sessions of each worker.
    pub(crate) fn sessions(&self, limit: usize) -> Vec<SessionView> {
        let (reply, answers) = mpsc::channel();
        for worker in &*self.workers {
            worker.send(Command::Sessions(limit, reply.clone()));
        }
        drop(reply);
        let mut sessions = Vec::new();
        while let Ok(views) = answers.recv_timeout(ANSWER) {
            sessions.extend(views);
        }
        sessions
    }
}
