//! From a checked configuration to a running proxy: read top to bottom, this is the order in which
//! things start. What depends on the configuration starts as a change from nothing ([`crate::reload`]).

use crate::config::Config;
use crate::control::Control;
use crate::memory::keep_small;
use crate::observe::access::AccessLog;
use crate::registry::{Heartbeat, Registry, SessionView};
use crate::reload::{Setup, apply, watch_certificates};
use crate::worker::descriptors::Descriptors;
use crate::worker::{self, Command, Fact, Spawn, Worker};
use evenkeel_core::address::Address;
use evenkeel_core::balancer::Input;
use evenkeel_core::picker::Notice;
use evenkeel_upstream::pump::Clock;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;
use tracing::{error, info};

/// Facts from workers that wait for the control thread.
const FACTS: usize = 1024;
/// How long `start` waits for the first endpoints of services whose targets know them at once.
const FIRST_PICKER: Duration = Duration::from_millis(500);

/// A running proxy; dropping it cuts everything.
#[derive(Debug)]
pub struct Running {
    /// Where each service listens (ports resolved), by service name, as it started.
    pub listening: BTreeMap<String, Vec<Address>>,
    /// Where the admin API listens, as it started.
    pub admin: Option<SocketAddr>,
    /// What is counted.
    pub registry: Arc<Registry>,
    control: Arc<Control>,
    threads: Vec<JoinHandle<()>>,
    done: mpsc::Receiver<()>,
    finished: usize,
    /// It began to leave: when its grace ends.
    leaves_by: Option<Instant>,
    runtime: ControlThread,
}

/// The thread on which everything runs that is not a worker's; it ends when this is dropped.
#[derive(Debug)]
struct ControlThread {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl ControlThread {
    fn start() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (handle, (stop, stopped)) = (runtime.handle().clone(), oneshot::channel());
        std::thread::Builder::new().name("control".into()).spawn(move || {
            // Nothing is ever sent: it is over when the sender is gone.
            let _over = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, _stop: stop })
    }
}

/// Binds everything, starts workers and control, and returns once clients can connect.
///
/// # Errors
/// A listener that cannot be bound, named; or a thread that cannot be started.
pub fn start(config: Config) -> io::Result<Running> {
    keep_small();
    let clock = Clock::new(Instant::now());
    let runtime = ControlThread::start()?;
    let count = config.workers.unwrap_or_else(cpus).max(1);
    let registry = Arc::new(Registry::default());
    let log = |format| AccessLog::start(format, registry.access_log_dropped.clone());
    let access = config.access_log.map(log).transpose()?;

    let prepared = (0..count).map(|_| worker::prepare()).collect::<io::Result<Vec<_>>>()?;
    let workers: Arc<[Arc<worker::Handle>]> = prepared.iter().map(|(_, handle)| handle.clone()).collect();
    let (facts, inbox) = tokio::sync::mpsc::channel(FACTS);
    let seed = seed();
    let (first, firsts) = mpsc::channel();
    let setup = Setup::new(config.name.clone(), first, seed);
    let control = Arc::new(Control::new(config.name.clone(), clock, registry.clone(), workers.clone(), setup));
    let applied = {
        let _inside = runtime.handle.enter();
        apply(&control, config)
    };
    applied?;

    let descriptors = Arc::new(Descriptors::new(open_files()));
    let (finish, done) = mpsc::channel();
    let mut threads = Vec::new();
    for (index, (poll, handle)) in prepared.into_iter().enumerate() {
        let heartbeat = Arc::new(Heartbeat::default());
        if let Ok(mut hearts) = registry.heartbeats.lock() {
            hearts.push(heartbeat.clone());
        }
        let spawn = Spawn {
            handle,
            peers: workers.clone(),
            facts: facts.clone(),
            access: access.clone(),
            descriptors: descriptors.clone(),
            origin: clock.origin(),
            seed: seed.wrapping_add(index as u64 + 1),
        };
        let finish = finish.clone();
        threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            if let Err(error) = Worker::new(index, poll, heartbeat, spawn).run() {
                error!(%error, worker = index, "a worker's event queue failed");
            }
            // The process may have gone on without us.
            let _gone = finish.send(());
        })?);
    }
    runtime.handle.spawn(obey_facts(inbox, control.clone()));
    runtime.handle.spawn(control.clone().sample());
    runtime.handle.spawn(watch_certificates(control.clone()));
    // Clients that connect the moment we return find endpoints where targets know them at once.
    let patience = Instant::now() + FIRST_PICKER;
    while control.unready().is_some() {
        if firsts.recv_timeout(patience.saturating_duration_since(Instant::now())).is_err() {
            break;
        }
    }
    let services = control.services();
    info!(workers = count, services = services.len(), "serving");
    let listening = services.iter().map(|s| (s.name(), s.listening())).collect();
    let admin = control.setup.lock().ok().and_then(|setup| setup.admin_address());
    let (finished, leaves_by, runtime) = (0, None, runtime);
    Ok(Running { listening, admin, registry, control, threads, done, finished, leaves_by, runtime })
}

/// Passes on to the balancers what workers saw in their turns.
async fn obey_facts(mut inbox: tokio::sync::mpsc::Receiver<Fact>, control: Arc<Control>) {
    while let Some(fact) = inbox.recv().await {
        let service = control.services().into_iter().find(|s| s.service().index == fact.service);
        let Some(service) = service else { continue };
        match fact.notice {
            Notice::None => {}
            Notice::Suspect(endpoint) => service.pump.input(Input::Suspect(endpoint)),
            Notice::Probed(endpoint, passed) => service.pump.input(Input::Probed(endpoint, passed)),
        }
    }
}

/// The CPUs that the cgroup grants, rounded up.
fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The open files that this process may have, all that it may ask for.
fn open_files() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current;
    limit.current = limit.maximum;
    let granted = if setrlimit(Resource::Nofile, limit).is_ok() { limit.maximum } else { soft };
    granted.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Different for every process: evenkeels that start together must not choose alike.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

impl Running {
    /// Becomes what `config` says, without touching what is in both: what changed, in words.
    ///
    /// # Errors
    /// A listener that cannot be bound; then nothing has changed.
    pub async fn reload(&self, config: Config) -> io::Result<Vec<String>> {
        let applied = {
            let _inside = self.runtime.handle.enter();
            apply(&self.control, config)?
        };
        Ok(applied.finish().await)
    }

    /// The configuration could not be read again: it is said in metrics and the admin API.
    pub fn reload_failed(&self, error: &str) {
        self.control.reload_failed(error);
    }

    /// Where the configuration is read from, for the admin API.
    pub fn note_file(&self, file: &str) {
        if let Ok(mut reloads) = self.control.reloads.lock() {
            reloads.file = Some(file.into());
        }
    }

    /// Begins to leave: readiness turns, and the grace runs. Clients are served as before.
    pub fn retire(&mut self) {
        if !self.control.draining.swap(true, Relaxed) {
            self.control.tell_all(|| Command::Retire);
        }
        self.leaves_by.get_or_insert(Instant::now() + self.control.drain_times().grace);
    }

    /// Leaves within what is left of the grace: listeners close, sessions finish or are told to go.
    pub fn drain(&mut self) {
        self.retire();
        if let Ok(mut setup) = self.control.setup.lock() {
            setup.stop_listening(&self.control);
        }
        // A client that one worker accepted may be on its way to another, which must not have gone by then.
        self.control.caught_up();
        let left = self.grace_left();
        self.control.tell_all(|| Command::Drain(left));
    }

    /// Waits until every session is over or `limit` has passed; true: all are over.
    pub fn wait(&mut self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while self.finished < self.control.workers.len() {
            if self.done.recv_timeout(until.saturating_duration_since(Instant::now())).is_err() {
                return false;
            }
            self.finished += 1;
        }
        true
    }

    /// Describes up to `limit` sessions of each worker.
    pub fn sessions(&self, limit: usize) -> Vec<SessionView> {
        self.control.sessions(limit)
    }

    /// For how long clients are still accepted when the process begins to leave.
    pub fn drain_delay(&self) -> Duration {
        let times = self.control.drain_times();
        times.delay.min(times.grace / 2)
    }

    /// How long the process may still take to leave.
    pub fn grace_left(&self) -> Duration {
        let whole = || self.control.drain_times().grace;
        self.leaves_by.map_or_else(whole, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Ends every session now and stops all threads.
    pub fn cut(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for worker in &*self.control.workers {
            worker.send(Command::Cut);
        }
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so already.
            let _panicked = thread.join();
        }
        // Nobody writes spans any more; those that wait are sent while there is somebody to do it.
        let exporter = self.control.setup.lock().ok().and_then(|mut setup| setup.take_exporter());
        if let Some(exporter) = exporter {
            exporter.finish();
        }
    }
}
