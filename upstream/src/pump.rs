//! The pump: one task per service that owns its balancer, feeds it what is known, and carries out
//! what it decides.

use crate::target::Target;
use evenkeel_core::balancer::{self, Balancer, EndpointView, Fact, Input, Output};
use evenkeel_core::endpoint::Endpoint;
use evenkeel_core::picker::Picker;
use evenkeel_core::time::Instant;
use std::sync::Arc;
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
    /// Identity of this evenkeel for rank order.
    pub proxy_id: u64,
    /// Seed of the balancer's jitter.
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
    /// Something worth knowing.
    Fact(Fact),
}

enum Message {
    Input(Input),
    Explain(oneshot::Sender<Vec<EndpointView>>),
}

/// A running pump; dropping it stops it.
#[derive(Debug)]
pub struct Pump {
    messages: mpsc::Sender<Message>,
    task: JoinHandle<()>,
}

/// Starts a pump; `on_event` is called on its task, in order. Needs a tokio runtime.
pub fn spawn(spec: Spec, clock: Clock, mut on_event: impl FnMut(Event) + Send + 'static) -> Pump {
    let (messages, mut inbox) = mpsc::channel(QUEUE);
    let mut balancer = Balancer::new(spec.balance, spec.proxy_id, spec.seed, clock.now());
    let task = tokio::spawn(async move {
        for (source, target) in spec.targets.into_iter().enumerate() {
            let Target::Static(endpoints) = target;
            balancer.handle(Input::Endpoints { source: source as u64, endpoints }, clock.now());
        }
        loop {
            while let Some(output) = balancer.poll_output() {
                on_event(match output {
                    Output::Publish(picker) => Event::Publish(picker),
                    Output::Warm(endpoint) => Event::Warm(endpoint),
                    Output::Retire(endpoint) => Event::Retire(endpoint),
                    Output::Fact(fact) => Event::Fact(fact),
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
                    Some(Message::Input(input)) => balancer.handle(input, clock.now()),
                    Some(Message::Explain(reply)) => {
                        // Whoever asked may have gone.
                        let _gone = reply.send(balancer.explain(clock.now()));
                    }
                    None => return,
                },
                () = timer => balancer.handle_timeout(clock.now()),
            }
        }
    });
    Pump { messages, task }
}

impl Pump {
    /// Tells the balancer something; dropped if the pump is far behind.
    pub fn input(&self, input: Input) {
        let _full = self.messages.try_send(Message::Input(input));
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
