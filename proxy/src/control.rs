//! What the control thread knows, in one place: for the admin API, the metrics, and the drain.

use crate::observe::events::Events;
use crate::observe::sums::{EndpointSums, Sums};
use crate::registry::{Registry, ServiceEntry, SessionView};
use crate::service::Service;
use crate::worker::{Command, Handle};
use evenkeel_core::address::Address;
use evenkeel_core::balancer::EndpointView;
use evenkeel_core::skew::{Skew, skew};
use evenkeel_upstream::pump::{Clock, Pump, SourceStatus};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
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
    pub(crate) service: Arc<Service>,
    pub(crate) pump: Pump,
    pub(crate) listening: Vec<Address>,
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
    pub(crate) services: Vec<Controlled>,
    pub(crate) events: Arc<Events>,
    pub(crate) draining: AtomicBool,
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
    pub(crate) turn_skew: Option<Skew>,
    pub(crate) session_skew: Option<Skew>,
}

impl Controlled {
    pub(crate) fn new(service: Arc<Service>, pump: Pump, listening: Vec<Address>, began: Arc<AtomicBool>) -> Self {
        Self { service, pump, listening, recent: Mutex::default(), began }
    }

    fn entry(&self) -> &ServiceEntry {
        &self.service.entry
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
        let views = self.pump.explain().await;
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
        let config = &self.service.config;
        ServiceNow {
            name: config.name.clone(),
            listening: self.listening.iter().map(ToString::to_string).collect(),
            protocol: config.protocol.as_str(),
            policy: crate::config::policy_name(config.balance.core.turn_policy),
            sums: self.entry().total(),
            endpoints,
            departed: sums.into_iter().collect(),
            sources: self.pump.sources(),
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
    /// Samples the counters for ever.
    pub(crate) async fn sample(self: Arc<Self>) {
        let mut every = tokio::time::interval(SAMPLE);
        loop {
            every.tick().await;
            self.services.iter().for_each(Controlled::sample);
        }
    }

    pub(crate) fn service(&self, name: &str) -> Option<&Controlled> {
        self.services.iter().find(|s| s.service.config.name == name)
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
        let waiting = self.services.iter().find(|s| !s.began.load(Relaxed))?;
        Some(format!("service {:?} has heard of no endpoints yet", waiting.service.config.name))
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
