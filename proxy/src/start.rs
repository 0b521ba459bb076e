//! From a checked configuration to a running proxy: read top to bottom, this is the order in which
//! things start.

use crate::admin;
use crate::config::Config;
use crate::control::{Control, Controlled};
use crate::observe::access::AccessLog;
use crate::observe::events::Events;
use crate::registry::{Heartbeat, Registry, ServiceEntry, ServiceTally, SessionView};
use crate::service::Service;
use crate::worker::socket::Listener;
use crate::worker::{self, Command, Fact, Handle, Spawn, Worker};
use evenkeel_core::address::Address;
use evenkeel_core::balancer::{Fact as Decision, Input};
use evenkeel_core::hash::hash;
use evenkeel_core::picker::Notice;
use evenkeel_upstream::pump::{self, Clock, Event};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tracing::{debug, error, info, warn};

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
    control: Arc<Control>,
    threads: Vec<JoinHandle<()>>,
    done: mpsc::Receiver<()>,
    finished: usize,
    runtime: Option<Runtime>,
}

/// Binds everything, starts workers and control, and returns once clients can connect.
///
/// # Errors
/// A listener that cannot be bound, named; or a thread that cannot be started.
pub fn start(config: Config) -> io::Result<Running> {
    let clock = Clock::new(Instant::now());
    let listeners = bind(&config)?;
    let mut listening: BTreeMap<String, Vec<Address>> = BTreeMap::new();
    for (name, _, listener) in &listeners {
        listening.entry(name.clone()).or_default().push(listener.address()?);
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("control").enable_all().build()?;
    let admin = config.admin.map(bind_admin).transpose()?;

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
            if let Err(error) = Worker::new(index, poll, heartbeat, spawn).run() {
                error!(%error, worker = index, "a worker's event queue failed");
            }
            // The process may have gone on without us.
            let _gone = finish.send(());
        })?);
    }

    let events = Arc::new(Events::new());
    let (first, firsts) = mpsc::channel();
    let control = {
        let _inside = runtime.enter();
        let wiring = Wiring { workers: workers.clone(), clock, events: events.clone(), first, seed };
        let controlled = |service: &Arc<Service>| {
            let listening = listening.get(&service.config.name).cloned().unwrap_or_default();
            wiring.control(service, hash(config.name.as_bytes()), listening)
        };
        Arc::new(Control {
            name: config.name.clone(),
            clock,
            registry: registry.clone(),
            workers: workers.clone(),
            services: services.iter().map(controlled).collect(),
            events,
            draining: AtomicBool::new(false),
        })
    };
    runtime.spawn(obey_facts(inbox, control.clone()));
    runtime.spawn(control.clone().sample());
    let admin = match admin {
        None => None,
        Some((listener, address)) => {
            let _inside = runtime.enter();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            runtime.spawn(admin::serve(listener, control.clone()));
            Some(address)
        }
    };
    // Clients that connect the moment we return find endpoints where targets know them at once.
    let patience = Instant::now() + FIRST_PICKER;
    while control.unready().is_some() {
        if firsts.recv_timeout(patience.saturating_duration_since(Instant::now())).is_err() {
            break;
        }
    }

    for (index, (_, service, listener)) in listeners.into_iter().enumerate() {
        workers[index % count].send(Command::Listen(service, listener));
    }
    info!(workers = count, services = services.len(), "serving");
    let grace = config.drain.grace;
    Ok(Running { listening, admin, registry, grace, control, threads, done, finished: 0, runtime: Some(runtime) })
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

/// The admin listener, without a runtime: the caller may be inside one.
fn bind_admin(address: SocketAddr) -> io::Result<(std::net::TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::bind(address).map_err(|error| {
        let remedy = "choose another address with --admin, or --admin off";
        io::Error::new(error.kind(), format!("admin: cannot listen on {address}: {error}: {remedy}"))
    })?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

fn register(config: &Config, workers: usize, registry: &Registry) -> Vec<Arc<Service>> {
    let mut services = Vec::new();
    for (index, service) in config.services.iter().enumerate() {
        let entry = Arc::new(ServiceEntry {
            name: service.name.clone(),
            workers: (0..workers).map(|_| Arc::new(ServiceTally::default())).collect(),
            endpoints: std::sync::Mutex::default(),
            departed: std::sync::Mutex::default(),
        });
        if let Ok(mut entries) = registry.services.lock() {
            entries.push(entry.clone());
        }
        services.push(Arc::new(Service::new(index as u32, config, service.clone(), entry)));
    }
    services
}

/// What every pump is connected to.
struct Wiring {
    workers: Arc<[Arc<Handle>]>,
    clock: Clock,
    events: Arc<Events>,
    first: mpsc::Sender<()>,
    seed: u64,
}

impl Wiring {
    /// One service with its pump: pickers go to every worker, what happens to log and events.
    fn control(&self, service: &Arc<Service>, proxy_id: u64, listening: Vec<Address>) -> Controlled {
        let config = &service.config;
        let spec = pump::Spec {
            name: config.name.clone(),
            targets: config.targets.clone(),
            balance: config.balance.core.clone(),
            check: config.check.clone(),
            proxy_id,
            seed: self.seed ^ hash(config.name.as_bytes()),
        };
        let (index, name) = (service.index, config.name.clone());
        let (workers, events, first) = (self.workers.clone(), self.events.clone(), self.first.clone());
        let began = Arc::new(AtomicBool::new(false));
        let begins = began.clone();
        let pump = pump::spawn(spec, self.clock, move |event| match event {
            Event::Publish(picker) => {
                for worker in &*workers {
                    worker.send(Command::Publish(index, picker.clone()));
                }
                begins.store(true, Relaxed);
                // Nobody listens after the start.
                let _started = first.send(());
            }
            Event::Warm(endpoint) => {
                for worker in &*workers {
                    worker.send(Command::Warm(index, endpoint.clone()));
                }
            }
            Event::Retire(endpoint) => note(&events, &name, "removed", &endpoint.address.to_string(), ""),
            Event::Fact(fact, endpoint) => {
                let subject = endpoint.map(|e| e.address.to_string()).unwrap_or_default();
                match fact {
                    Decision::Added(_) => note(&events, &name, "added", &subject, ""),
                    // Said with its address when it retires.
                    Decision::Removed(_) => {}
                    Decision::Ejected { duration, reason, .. } => {
                        note(&events, &name, "ejected", &subject, &format!("for {duration:.0?}: {reason}"));
                    }
                    Decision::Readmitted(_) => note(&events, &name, "readmitted", &subject, "the probe succeeded"),
                    Decision::HealthChanged { healthy, detail, .. } => {
                        note(&events, &name, if healthy { "healthy" } else { "unhealthy" }, &subject, &detail);
                    }
                    Decision::Panic(true) => {
                        note(&events, &name, "panic", "", "too few endpoints are fit: all are used");
                    }
                    Decision::Panic(false) => note(&events, &name, "calm", "", "enough endpoints are fit again"),
                }
            }
            Event::Source { target, error: Some(error) } => {
                note(&events, &name, "source-failed", &target, &format!("{error}; the last good endpoints stay"));
            }
            Event::Source { target, error: None } => note(&events, &name, "source-recovered", &target, ""),
        });
        Controlled::new(service.clone(), pump, listening, began)
    }
}

/// One fact into events and log. A service that scales by thousands says so thousands of times, so
/// what is routine is logged for those who ask.
fn note(events: &Events, service: &str, kind: &'static str, subject: &str, detail: &str) {
    events.note(service, kind, subject.into(), detail.into());
    match kind {
        "added" | "removed" => debug!(service, endpoint = subject, "endpoint {kind}"),
        "ejected" | "unhealthy" | "panic" | "source-failed" => warn!(service, subject, detail, "{kind}"),
        _ => info!(service, subject, detail, "{kind}"),
    }
}

/// Passes on to the balancers what workers saw in their turns.
async fn obey_facts(mut inbox: tokio::sync::mpsc::Receiver<Fact>, control: Arc<Control>) {
    while let Some(fact) = inbox.recv().await {
        let Some(service) = control.services.get(fact.service as usize) else { continue };
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

/// Different for every process: evenkeels that start together must not choose alike.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

impl Running {
    /// Begins the drain: readiness turns, listeners close, sessions finish.
    pub fn drain(&self) {
        self.control.draining.store(true, Relaxed);
        for worker in &*self.control.workers {
            worker.send(Command::Drain(self.grace));
        }
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
        for worker in &*self.control.workers {
            worker.send(Command::Cut);
        }
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so already.
            let _panicked = thread.join();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
