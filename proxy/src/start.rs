//! From a checked configuration to a running proxy: read top to bottom, this is the order in which
//! things start.

use crate::config::{self, Config};
use crate::observe::access::AccessLog;
use crate::registry::{Heartbeat, Registry, ServiceEntry, ServiceTally, SessionView};
use crate::service::Service;
use crate::worker::socket::Listener;
use crate::worker::{self, Command, Fact, Handle, Spawn, Worker};
use evenkeel_core::address::Address;
use evenkeel_core::balancer::Input;
use evenkeel_core::hash::hash;
use evenkeel_core::picker::Notice;
use evenkeel_upstream::pump::{self, Clock, Event, Pump};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// Facts from workers that wait for the control thread.
const FACTS: usize = 1024;
/// How long `start` waits for the first endpoints of services whose targets know them at once.
const FIRST_PICKER: Duration = Duration::from_millis(500);

/// A running proxy; dropping it cuts everything.
#[derive(Debug)]
pub struct Running {
    /// Where each service listens (ports resolved), by service name.
    pub listening: BTreeMap<String, Vec<Address>>,
    /// Where the admin API listens.
    pub admin: Option<SocketAddr>,
    /// What is counted.
    pub registry: Arc<Registry>,
    grace: Duration,
    workers: Arc<[Arc<Handle>]>,
    threads: Vec<JoinHandle<()>>,
    done: mpsc::Receiver<()>,
    finished: usize,
    control: Option<tokio::runtime::Runtime>,
}

/// Binds everything, starts workers and control, and returns once clients can connect.
///
/// # Errors
/// A listener that cannot be bound, named; or a thread that cannot be started.
pub fn start(config: Config) -> io::Result<Running> {
    let clock = Clock::new(Instant::now());
    let mut listeners = bind(&config)?;

    let count = config.workers.unwrap_or_else(cpus).max(1);
    let access = config.access_log.map(AccessLog::start).transpose()?;
    let dropped = access.as_ref().map(AccessLog::dropped).unwrap_or_default();
    let registry = Arc::new(Registry { access_log_dropped: dropped, ..Registry::default() });
    let services = register(&config, count, &registry);

    let prepared = (0..count).map(|_| worker::prepare()).collect::<io::Result<Vec<_>>>()?;
    let workers: Arc<[Arc<Handle>]> = prepared.iter().map(|(_, handle)| handle.clone()).collect();
    let (facts, inbox) = tokio::sync::mpsc::channel(FACTS);
    let seed = seed();
    let (finish, done) = mpsc::channel();
    let mut threads = Vec::new();
    for (index, (poll, handle)) in prepared.into_iter().enumerate() {
        for service in &services {
            handle.send(Command::Add(service.clone()));
        }
        let heartbeat = Arc::new(Heartbeat::default());
        if let Ok(mut hearts) = registry.heartbeats.lock() {
            hearts.push(heartbeat.clone());
        }
        let spawn = Spawn {
            peers: workers.clone(),
            facts: facts.clone(),
            access: access.clone(),
            origin: clock.origin(),
            seed: seed.wrapping_add(index as u64 + 1),
        };
        let finish = finish.clone();
        threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            // The poll is the worker's own; everything else in it is not `Send` once it runs.
            if let Err(error) = Worker::new(index, poll, heartbeat, spawn).run() {
                error!(%error, worker = index, "a worker's event queue failed");
            }
            // The process may have gone on without us.
            let _gone = finish.send(());
        })?);
    }

    let control =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("control").enable_all().build()?;
    let (first, firsts) = mpsc::channel();
    let pumps = {
        let _inside = control.enter();
        let proxy_id = hash(config.name.as_bytes());
        let pump = |service: &Arc<Service>| spawn_pump(service, workers.clone(), clock, proxy_id, seed, first.clone());
        services.iter().map(pump).collect::<Vec<_>>()
    };
    control.spawn(obey_facts(inbox, pumps));
    // Clients that connect the moment we return find endpoints where targets know them at once.
    let patience = Instant::now() + FIRST_PICKER;
    for _ in &services {
        if firsts.recv_timeout(patience.saturating_duration_since(Instant::now())).is_err() {
            break;
        }
    }

    let mut listening = BTreeMap::new();
    for (index, (name, service, listener)) in listeners.drain(..).enumerate() {
        listening.entry(name).or_insert_with(Vec::new).push(listener.address()?);
        workers[index % count].send(Command::Listen(service, listener));
    }
    info!(workers = count, services = services.len(), "serving");
    Ok(Running {
        listening,
        admin: None,
        registry,
        grace: config.drain.grace,
        workers,
        threads,
        done,
        finished: 0,
        control: Some(control),
    })
}

/// Every listener of every service, bound before anything starts: all of them, or a clear error.
fn bind(config: &Config) -> io::Result<Vec<(String, u32, Listener)>> {
    let mut listeners = Vec::new();
    for (index, service) in config.services.iter().enumerate() {
        for address in &service.listen {
            let listener = Listener::bind(address).map_err(|error| {
                io::Error::new(error.kind(), format!("service {}: cannot listen on {address}: {error}", service.name))
            })?;
            listeners.push((service.name.clone(), index as u32, listener));
        }
    }
    Ok(listeners)
}

fn register(config: &Config, workers: usize, registry: &Registry) -> Vec<Arc<Service>> {
    let mut services = Vec::new();
    for (index, service) in config.services.iter().enumerate() {
        let entry = Arc::new(ServiceEntry {
            name: service.name.clone(),
            workers: (0..workers).map(|_| Arc::new(ServiceTally::default())).collect(),
            endpoints: std::sync::Mutex::default(),
        });
        if let Ok(mut entries) = registry.services.lock() {
            entries.push(entry.clone());
        }
        services.push(Arc::new(Service::new(index as u32, config, service.clone(), entry)));
    }
    services
}

/// The pump of one service: its pickers go to every worker, what it sees goes to the log.
fn spawn_pump(
    service: &Arc<Service>,
    workers: Arc<[Arc<Handle>]>,
    clock: Clock,
    proxy_id: u64,
    seed: u64,
    first: mpsc::Sender<()>,
) -> Pump {
    let config: &config::Service = &service.config;
    let spec = pump::Spec {
        name: config.name.clone(),
        targets: config.targets.clone(),
        balance: config.balance.core.clone(),
        check: config.check.clone(),
        proxy_id,
        seed: seed ^ hash(config.name.as_bytes()),
    };
    let (index, name) = (service.index, config.name.clone());
    pump::spawn(spec, clock, move |event| match event {
        Event::Publish(picker) => {
            for worker in &*workers {
                worker.send(Command::Publish(index, picker.clone()));
            }
            // Nobody listens after the start.
            let _started = first.send(());
        }
        Event::Warm(endpoint) => {
            for worker in &*workers {
                worker.send(Command::Warm(index, endpoint.clone()));
            }
        }
        Event::Retire(endpoint) => info!(service = %name, endpoint = %endpoint.address, "endpoint left"),
        Event::Fact(fact) => info!(service = %name, ?fact, "balancer"),
        Event::Source { target, error: Some(error) } => {
            warn!(service = %name, %target, %error, "discovery failed; the last good endpoints stay");
        }
        Event::Source { target, error: None } => info!(service = %name, %target, "discovery is well again"),
    })
}

/// Passes on to the balancers what workers saw in their turns.
async fn obey_facts(mut inbox: tokio::sync::mpsc::Receiver<Fact>, pumps: Vec<Pump>) {
    while let Some(fact) = inbox.recv().await {
        let Some(pump) = pumps.get(fact.service as usize) else { continue };
        match fact.notice {
            Notice::None => {}
            Notice::Suspect(endpoint) => pump.input(Input::Suspect(endpoint)),
            Notice::Probed(endpoint, passed) => pump.input(Input::Probed(endpoint, passed)),
        }
    }
}

/// The CPUs that the cgroup grants, rounded up.
fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Different for every process: evenkeels that start together must not choose alike.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

impl Running {
    /// Begins the drain: listeners close, sessions finish.
    pub fn drain(&self) {
        for worker in &*self.workers {
            worker.send(Command::Drain(self.grace));
        }
    }

    /// Waits until every session is over or `limit` has passed; true: all are over.
    pub fn wait(&mut self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while self.finished < self.workers.len() {
            if self.done.recv_timeout(until.saturating_duration_since(Instant::now())).is_err() {
                return false;
            }
            self.finished += 1;
        }
        true
    }

    /// Describes up to `limit` sessions of each worker.
    pub fn sessions(&self, limit: usize) -> Vec<SessionView> {
        let (reply, answers) = mpsc::channel();
        for worker in &*self.workers {
            worker.send(Command::Sessions(limit, reply.clone()));
        }
        drop(reply);
        answers.iter().flatten().collect()
    }

    /// How long a drain may take.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Ends every session now and stops all threads.
    pub fn cut(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for worker in &*self.workers {
            worker.send(Command::Cut);
        }
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so already.
            let _panicked = thread.join();
        }
        if let Some(control) = self.control.take() {
            control.shutdown_background();
        }
    }
}
