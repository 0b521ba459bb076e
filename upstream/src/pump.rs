//! The pump: one task per service that owns its balancer, feeds it what discovery and checks say, and
//! hands on what it decides.

use crate::check::{self, Checker};
use crate::discover::{Source, Update};
use crate::target::Target;
use evenkeel_core::balancer::{self, Balancer, EndpointView, Fact, Input, Output};
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

enum Message {
    Input(Input),
    Explain(oneshot::Sender<Vec<EndpointView>>),
    Refresh,
}

/// A running pump; dropping it stops it, its sources and its checks.
#[derive(Debug)]
pub struct Pump {
    messages: mpsc::Sender<Message>,
    sources: Arc<Mutex<Vec<SourceStatus>>>,
    task: JoinHandle<()>,
}

/// Starts a pump; `on_event` is called on its task, in order. Needs a tokio runtime.
pub fn spawn(spec: Spec, clock: Clock, on_event: impl FnMut(Event) + Send + 'static) -> Pump {
    let (messages, inbox) = mpsc::channel(QUEUE);
    let statuses = spec.targets.iter().map(|t| SourceStatus { target: t.to_string(), endpoints: None, error: None });
    let sources = Arc::new(Mutex::new(statuses.collect()));
    let task = tokio::spawn(run(spec, clock, inbox, sources.clone(), on_event));
    Pump { messages, sources, task }
}

async fn run(
    spec: Spec,
    clock: Clock,
    mut inbox: mpsc::Receiver<Message>,
    statuses: Arc<Mutex<Vec<SourceStatus>>>,
    mut on_event: impl FnMut(Event),
) {
    let (updates, mut news) = mpsc::channel(16);
    let (verdicts, mut checked) = mpsc::channel(QUEUE);
    let mut balancer = Balancer::new(spec.balance, spec.proxy_id, spec.seed, clock.now());
    let mut checkers: HashMap<EndpointId, Checker> = HashMap::new();
    let mut sources = Vec::new();
    for (tag, target) in spec.targets.into_iter().enumerate() {
        sources.push(Source::start(target, tag as u64, updates.clone()));
    }
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
                        sources.iter().for_each(Source::refresh);
                    }
                    balancer.handle(input, clock.now());
                }
                Some(Message::Explain(reply)) => {
                    // Whoever asked may have gone.
                    let _gone = reply.send(balancer.explain(clock.now()));
                }
                Some(Message::Refresh) => sources.iter().for_each(Source::refresh),
                None => return,
            },
            Some((tag, update)) = news.recv() => {
                if let Some(event) = note(&statuses, tag, &update) {
                    on_event(event);
                }
                if let Ok(endpoints) = update {
                    balancer.handle(Input::Endpoints { source: tag, endpoints }, clock.now());
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
        Fact::Panic(_) => None,
    }
}

/// Files what a source said; an event if it failed or recovered.
fn note(statuses: &Mutex<Vec<SourceStatus>>, tag: u64, update: &Update) -> Option<Event> {
    let mut statuses = statuses.lock().ok()?;
    let status = statuses.get_mut(tag as usize)?;
    let before = status.error.take();
    match update {
        Ok(endpoints) => status.endpoints = Some(endpoints.len()),
        Err(error) => status.error = Some(error.clone()),
    }
    (before != status.error).then(|| Event::Source { target: status.target.clone(), error: status.error.clone() })
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
        self.sources.lock().map(|s| s.clone()).unwrap_or_default()
    }

    /// Every known endpoint, and why it is or is not picked.
    pub async fn explain(&self) -> Vec<EndpointView> {
        let (reply, answer) = oneshot::channel();
        if self.messages.send(Message::Explain(reply)).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}
