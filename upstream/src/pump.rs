//! The pump: one task per service that owns its balancer, feeds it what discovery and checks say, and
//! hands on what it decides.

use crate::check::{self, Checker};
use crate::discover::{Source, Update};
use crate::target::Target;
use evenkeel_core::balancer::{self, Balancer, EndpointView, Fact, Input, Output, RebalanceView, Shed};
use evenkeel_core::endpoint::{Endpoint, EndpointId};
use evenkeel_core::picker::Picker;
use evenkeel_core::time::Instant;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Inputs that wait for the pump. Checks and drains come at human pace and suspicions are also found
/// by the balancer itself, so a full queue loses nothing that is not said again.
const QUEUE: usize = 1024;

/// The process's monotonic clock, as the balancer counts time.
#[derive(Clone, Copy, Debug)]
pub struct Clock(std::time::Instant);

impl Clock {
    /// A clock whose origin is `origin`; all parts of a process share one.
    pub fn new(origin: std::time::Instant) -> Self {
        Self(origin)
    }

    /// Now.
    pub fn now(self) -> Instant {
        Instant::from_nanos(self.0.elapsed().as_nanos() as u64)
    }

    /// The origin.
    pub fn origin(self) -> std::time::Instant {
        self.0
    }

    fn at(self, instant: Instant) -> tokio::time::Instant {
        (self.0 + std::time::Duration::from_nanos(instant.as_nanos())).into()
    }
}

/// One service, as its pump needs it.
#[derive(Clone, PartialEq, Debug)]
pub struct Spec {
    /// Its name, for logs.
    pub name: String,
    /// Where its endpoints come from.
    pub targets: Vec<Target>,
    /// How they are chosen.
    pub balance: balancer::Config,
    /// How they are checked; `None`: not.
    pub check: Option<check::Config>,
    /// Identity of this evenkeel for rank order.
    pub proxy_id: u64,
    /// Seed of jitter.
    pub seed: u64,
}

/// What the pump tells its owner.
#[derive(Clone, Debug)]
pub enum Event {
    /// Pick from this from now on.
    Publish(Arc<Picker>),
    /// A new endpoint: connect to it before its first turn.
    Warm(Arc<Endpoint>),
    /// An endpoint left.
    Retire(Arc<Endpoint>),
    /// The endpoint leaves, and there are others: its sessions are to go, too.
    Leave(Arc<Endpoint>),
    /// It does not leave after all.
    Stay(Arc<Endpoint>),
    /// Some sessions are to move.
    Shed(Shed),
    /// Something worth knowing, and the endpoint that it is about, while it is known.
    Fact(Fact, Option<Arc<Endpoint>>),
    /// A source failed (and keeps its last good set), or is well again.
    Source {
        /// Which.
        target: String,
        /// Why it failed; `None`: it is well.
        error: Option<String>,
    },
}

/// How a source of endpoints is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceStatus {
    /// The target, as configured.
    pub target: String,
    /// Endpoints in its last good set; `None`: it never had one.
    pub endpoints: Option<usize>,
    /// Why it cannot tell more; `None`: it is well.
    pub error: Option<String>,
}

/// What a balancer says of itself.
#[derive(Clone, Debug, Default)]
pub struct Explanation {
    /// Every known endpoint, and why it is or is not picked.
    pub endpoints: Vec<EndpointView>,
    /// What rebalancing sees and does.
    pub rebalance: RebalanceView,
}

enum Message {
    Input(Input),
    Configure(Box<Spec>),
    Explain(oneshot::Sender<Explanation>),
    Refresh,
}

/// A running pump; dropping it stops it, its sources and its checks.
#[derive(Debug)]
pub struct Pump {
    messages: mpsc::Sender<Message>,
    sources: Arc<Mutex<Statuses>>,
    task: JoinHandle<()>,
}

/// Starts a pump; `on_event` is called on its task, in order. Needs a tokio runtime.
pub fn spawn(spec: Spec, clock: Clock, on_event: impl FnMut(Event) + Send + 'static) -> Pump {
    let (messages, inbox) = mpsc::channel(QUEUE);
    let sources = Arc::new(Mutex::default());
    let task = tokio::spawn(run(spec, clock, inbox, sources.clone(), on_event));
    Pump { messages, sources, task }
}

async fn run(
    spec: Spec,
    clock: Clock,
    mut inbox: mpsc::Receiver<Message>,
    statuses: Arc<Mutex<Statuses>>,
    mut on_event: impl FnMut(Event),
) {
    let (updates, mut news) = mpsc::channel(16);
    let (verdicts, mut checked) = mpsc::channel(QUEUE);
    let mut balancer = Balancer::new(spec.balance.clone(), spec.proxy_id, spec.seed, clock.now());
    let mut checkers: HashMap<EndpointId, Checker> = HashMap::new();
    let mut sources = Sources { running: Vec::new(), next: 0, updates, statuses };
    sources.become_those_of(&spec.targets);
    let mut stopped: Vec<Stopped> = Vec::new();
    let mut spec = spec;
    loop {
        while let Some(output) = balancer.poll_output() {
            match &output {
                Output::Fact(Fact::Removed(id)) => drop(checkers.remove(id)),
                Output::Fact(Fact::Added(id)) => {
                    if let (Some(config), Some(endpoint)) = (&spec.check, balancer.endpoint(*id)) {
                        let checker = Checker::start(config.clone(), endpoint, spec.seed, verdicts.clone());
                        checkers.insert(*id, checker);
                    }
                }
                _ => {}
            }
            on_event(match output {
                Output::Publish(picker) => Event::Publish(picker),
                Output::Warm(endpoint) => Event::Warm(endpoint),
                Output::Retire(endpoint) => Event::Retire(endpoint),
                Output::Leave(endpoint) => Event::Leave(endpoint),
                Output::Stay(endpoint) => Event::Stay(endpoint),
                Output::Shed(shed) => Event::Shed(shed),
                Output::Fact(fact) => {
                    let endpoint = subject(&fact).and_then(|id| balancer.endpoint(id));
                    Event::Fact(fact, endpoint)
                }
            });
        }
        let due = balancer.poll_timeout().map(|(at, _)| clock.at(at));
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = inbox.recv() => match message {
                Some(Message::Input(input)) => {
                    if matches!(input, Input::Suspect(_)) {
                        // It may be gone from where it is; discovery may know.
                        sources.refresh();
                    }
                    balancer.handle(input, clock.now());
                }
                Some(Message::Explain(reply)) => {
                    // Whoever asked may have gone.
                    let now = clock.now();
                    let explanation =
                        Explanation { endpoints: balancer.explain(now), rebalance: balancer.rebalancing(now) };
                    let _gone = reply.send(explanation);
                }
                Some(Message::Configure(new)) => {
                    stopped.extend(sources.become_those_of(&new.targets));
                    forget(&mut stopped, &sources, &mut balancer, clock.now());
                    if new.balance != spec.balance {
                        balancer.handle(Input::Configure(new.balance.clone()), clock.now());
                    }
                    if new.check != spec.check {
                        recheck(&mut checkers, &new, &mut balancer, &verdicts, clock.now());
                    }
                    spec = *new;
                }
                Some(Message::Refresh) => sources.refresh(),
                None => return,
            },
            Some((tag, update)) = news.recv() => {
                if let Some(event) = sources.note(tag, &update) {
                    on_event(event);
                }
                // A source that stopped may have had something on its way.
                if let Ok(endpoints) = update
                    && sources.has(tag)
                {
                    balancer.handle(Input::Endpoints { source: tag, endpoints }, clock.now());
                    forget(&mut stopped, &sources, &mut balancer, clock.now());
                }
            }
            Some(verdict) = checked.recv() => {
                let check::Verdict { endpoint, healthy, detail } = verdict;
                balancer.handle(Input::Checked { endpoint, healthy, detail }, clock.now());
            }
            () = timer => balancer.handle_timeout(clock.now()),
        }
    }
}

/// The endpoint that a fact is about.
fn subject(fact: &Fact) -> Option<EndpointId> {
    match fact {
        Fact::Added(id) | Fact::Removed(id) | Fact::Readmitted(id) => Some(*id),
        Fact::Ejected { endpoint, .. } | Fact::HealthChanged { endpoint, .. } => Some(*endpoint),
        Fact::Panic(_) | Fact::Rebalancing { .. } | Fact::Rebalanced { .. } | Fact::RebalancePaused => None,
    }
}

/// How the sources are doing, in order of configuration, by tag.
type Statuses = Vec<(u64, SourceStatus)>;

/// The sources of a service.
struct Sources {
    running: Vec<(Target, u64, Source)>,
    /// The tag of the next source; tags are never used again.
    next: u64,
    updates: mpsc::Sender<(u64, Update)>,
    statuses: Arc<Mutex<Statuses>>,
}

impl Sources {
    /// Starts and stops sources until they are those of `targets`; those that are in both go on.
    /// Returns those that stopped.
    fn become_those_of(&mut self, targets: &[Target]) -> Vec<Stopped> {
        let heirs = self.next;
        let (stay, stop): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.running).into_iter().partition(|(target, ..)| targets.contains(target));
        self.running = stay;
        for target in targets {
            if !self.running.iter().any(|(running, ..)| running == target) {
                let source = Source::start(target.clone(), self.next, self.updates.clone());
                self.running.push((target.clone(), self.next, source));
                self.next += 1;
            }
        }
        if let Ok(mut statuses) = self.statuses.lock() {
            let before = std::mem::take(&mut *statuses);
            let status = |(target, tag, _): &(Target, u64, Source)| {
                let known = before.iter().find(|(known, _)| known == tag).map(|(_, status)| status.clone());
                let fresh = || SourceStatus { target: target.to_string(), endpoints: None, error: None };
                (*tag, known.unwrap_or_else(fresh))
            };
            *statuses = self.running.iter().map(status).collect();
        }
        stop.into_iter().map(|(_, source, _)| Stopped { source, heirs }).collect()
    }

    fn refresh(&self) {
        self.running.iter().for_each(|(_, _, source)| source.refresh());
    }

    /// Files what a source said; an event if it failed or recovered.
    fn note(&self, tag: u64, update: &Update) -> Option<Event> {
        let mut statuses = self.statuses.lock().ok()?;
        let (_, status) = statuses.iter_mut().find(|(known, _)| *known == tag)?;
        let before = status.error.take();
        match update {
            Ok(endpoints) => status.endpoints = Some(endpoints.len()),
            Err(error) => status.error = Some(error.clone()),
        }
        (before != status.error).then(|| Event::Source { target: status.target.clone(), error: status.error.clone() })
    }

    /// Has every one from this tag on said what its endpoints are?
    fn spoke_since(&self, heirs: u64) -> bool {
        let statuses = self.statuses.lock();
        statuses.is_ok_and(|s| s.iter().all(|&(tag, ref status)| tag < heirs || status.endpoints.is_some()))
    }

    fn has(&self, tag: u64) -> bool {
        self.running.iter().any(|(_, running, _)| *running == tag)
    }
}

/// A source that stopped. What it said holds until those that took its place have spoken; one that was
/// there before and has never said anything is not waited for.
struct Stopped {
    source: u64,
    /// The first tag of those that were started when it stopped.
    heirs: u64,
}

/// Forgets what stopped sources said, where that does not hold any more.
fn forget(stopped: &mut Vec<Stopped>, sources: &Sources, balancer: &mut Balancer, now: Instant) {
    stopped.retain(|&Stopped { source, heirs }| {
        let forgotten = sources.spoke_since(heirs);
        if forgotten {
            balancer.handle(Input::SourceGone { source }, now);
        }
        !forgotten
    });
}

/// Checks in another way, or not at all any more: then nobody is unhealthy for what a check once saw.
fn recheck(
    checkers: &mut HashMap<EndpointId, Checker>,
    spec: &Spec,
    balancer: &mut Balancer,
    verdicts: &mpsc::Sender<check::Verdict>,
    now: Instant,
) {
    checkers.clear();
    for view in balancer.explain(now) {
        let endpoint = view.endpoint;
        match &spec.check {
            Some(config) => {
                let id = endpoint.id;
                checkers.insert(id, Checker::start(config.clone(), endpoint, spec.seed, verdicts.clone()));
            }
            None => {
                let detail = "it is not checked any more".into();
                balancer.handle(Input::Checked { endpoint: endpoint.id, healthy: true, detail }, now);
            }
        }
    }
}

impl Pump {
    /// Tells the balancer something; dropped if the pump is far behind.
    pub fn input(&self, input: Input) {
        let _full = self.messages.try_send(Message::Input(input));
    }

    /// Asks the sources to look again soon.
    pub fn refresh(&self) {
        let _full = self.messages.try_send(Message::Refresh);
    }

    /// How the sources are doing, in order of configuration.
    pub fn sources(&self) -> Vec<SourceStatus> {
        self.sources.lock().map(|s| s.iter().map(|(_, status)| status.clone()).collect()).unwrap_or_default()
    }

    /// Goes on with other settings: sources that are in both are not touched, nor are endpoints.
    pub async fn configure(&self, spec: Spec) {
        // The task ends with the pump alone.
        let _gone = self.messages.send(Message::Configure(Box::new(spec))).await;
    }

    /// What the balancer says of itself.
    pub async fn explain(&self) -> Explanation {
        let (reply, answer) = oneshot::channel();
        if self.messages.send(Message::Explain(reply)).await.is_err() {
            return Explanation::default();
        }
        answer.await.unwrap_or_default()
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}
