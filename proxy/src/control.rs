//! What the control thread knows, in one place: for the admin API, the metrics, and the drain.

use crate::config::Drain;
use crate::live::Live;
use crate::memory::Keeper;
use crate::now::SessionAges;
use crate::observe::events::Events;
use crate::recent::Recent;
use crate::registry::{Registry, SessionView};
use crate::reload::Setup;
use crate::service::Service;
use crate::worker::{Command, Handle};
use evenkeel_core::address::Address;
use evenkeel_core::picker::Picker;
use evenkeel_core::time::Instant;
use evenkeel_upstream::pump::{Clock, Pump};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, mpsc};
use std::time::{Duration, SystemTime};

/// A worker that has been busy with one turn of its loop for this long is stuck.
const STALL: Duration = Duration::from_secs(1);
/// How often counters are sampled.
pub(crate) const SAMPLE: Duration = Duration::from_secs(1);
/// How long a worker may take to describe its sessions.
const ANSWER: Duration = Duration::from_secs(1);

/// One service under control.
#[derive(Debug)]
pub(crate) struct Controlled {
    service: RwLock<Arc<Service>>,
    pub(crate) pump: Pump,
    listening: RwLock<Vec<Address>>,
    recent: Mutex<Recent>,
    /// What workers pick from.
    picker: Arc<RwLock<Arc<Picker>>>,
    /// Something was published for it.
    pub(crate) began: Arc<AtomicBool>,
}

/// The control thread's knowledge.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) name: String,
    pub(crate) clock: Clock,
    pub(crate) started: SystemTime,
    pub(crate) registry: Arc<Registry>,
    pub(crate) workers: Arc<[Arc<Handle>]>,
    services: RwLock<Vec<Arc<Controlled>>>,
    pub(crate) events: Arc<Events>,
    pub(crate) draining: AtomicBool,
    /// What the configuration that runs was made into, and what a change of it needs.
    pub(crate) setup: Mutex<Setup>,
    /// How the last attempts to change it went.
    pub(crate) reloads: Mutex<Reloads>,
    /// What streams of the present share.
    pub(crate) live: Live,
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

impl Controlled {
    /// `picker` and `began` are told by the pump.
    pub(crate) fn new(
        service: Arc<Service>,
        pump: Pump,
        picker: Arc<RwLock<Arc<Picker>>>,
        began: Arc<AtomicBool>,
    ) -> Self {
        let (service, listening) = (RwLock::new(service), RwLock::default());
        Self { service, pump, listening, recent: Mutex::default(), picker, began }
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

    /// What happened to it in the last minutes.
    pub(crate) fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sample(&self, now: Instant) {
        let picker = self.picker.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.recent().sample(&self.service().entry, &picker, now);
    }
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
            started: SystemTime::now(),
            registry,
            workers,
            services: RwLock::default(),
            events: Arc::new(Events::new()),
            draining: AtomicBool::new(false),
            setup: Mutex::new(setup),
            reloads: Mutex::default(),
            live: Live::default(),
        }
    }

    /// Samples the counters for ever.
    pub(crate) async fn sample(self: Arc<Self>) {
        let mut every = tokio::time::interval(SAMPLE);
        let mut memory = Keeper::default();
        loop {
            every.tick().await;
            self.services().iter().for_each(|service| service.sample(self.clock.now()));
            memory.tick(self.workers.iter().map(|worker| worker.load.load(Relaxed)).sum());
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

    /// Waits until every worker has done what it was told so far, or is stuck.
    pub(crate) fn caught_up(&self) {
        // Commands are carried out in order, so the answer to a last one says so.
        let _nothing = self.sessions(0);
    }

    /// How the process is to leave.
    pub(crate) fn drain_times(&self) -> Drain {
        let setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        setup.drain().cloned().unwrap_or(Drain { grace: Duration::ZERO, delay: Duration::ZERO })
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
        self.ask_all(|reply| Command::Sessions(limit, reply)).into_iter().flatten().collect()
    }

    /// How old the sessions of a service are. Workers look at all they have: it is for people who ask.
    pub(crate) fn ages(&self, service: u32) -> SessionAges {
        let opened = self.ask_all(|reply| Command::Ages(service, reply));
        SessionAges::of(opened, self.clock.now())
    }

    /// The answers of all workers that give one in time.
    fn ask_all<T>(&self, command: impl Fn(mpsc::Sender<T>) -> Command) -> Vec<T> {
        let (reply, answers) = mpsc::channel();
        self.tell_all(|| command(reply.clone()));
        drop(reply);
        let mut said = Vec::new();
        while let Ok(answer) = answers.recv_timeout(ANSWER) {
            said.push(answer);
        }
        said
    }
}
