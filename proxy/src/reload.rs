//! From one configuration to the next: what is in both goes on untouched, what is new starts, what is
//! gone leaves. Starting is the change from nothing.
//!
//! Everything that can fail (binding) comes first; if it does, nothing has changed.

use crate::admin;
use crate::config::{self, Config};
use crate::control::{Control, Controlled};
use crate::observe::access::AccessLog;
use crate::registry::{ServiceEntry, ServiceTally};
use crate::service::Service;
use crate::worker::Command;
use crate::worker::socket::Listener;
use evenkeel_core::address::Address;
use evenkeel_core::balancer::Fact as Decision;
use evenkeel_core::hash::hash;
use evenkeel_upstream::pump::{self, Event, Spec};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, mpsc};
use std::time::{Duration, SystemTime};
use tracing::{debug, info, warn};

/// What runs, and what a change needs.
#[derive(Debug)]
pub(crate) struct Setup {
    /// `None`: nothing has started.
    config: Option<Config>,
    listeners: Vec<Bound>,
    next_service: u32,
    next_listener: u32,
    admin: Option<Admin>,
    /// Told when a service has its first endpoints; nobody listens after the start.
    first: mpsc::Sender<()>,
    seed: u64,
}

/// A listening socket, of which a worker has a copy.
#[derive(Debug)]
struct Bound {
    id: u32,
    service: String,
    /// As configured; the port may be 0.
    configured: Address,
    actual: Address,
    worker: usize,
    socket: Listener,
}

/// The running admin API.
#[derive(Debug)]
struct Admin {
    configured: SocketAddr,
    actual: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

/// A change that has taken effect but for what can only be waited for.
#[derive(Debug)]
pub(crate) struct Applied {
    control: Arc<Control>,
    pumps: Vec<(Arc<Controlled>, Spec)>,
    changes: Vec<String>,
}

/// Sockets that the change needs, before anything is changed.
struct Sockets {
    listeners: Vec<(String, Address, Listener)>,
    admin: Option<(SocketAddr, std::net::TcpListener, SocketAddr)>,
}

impl Setup {
    pub(crate) fn new(first: mpsc::Sender<()>, seed: u64) -> Self {
        Self { config: None, listeners: Vec::new(), next_service: 0, next_listener: 0, admin: None, first, seed }
    }

    /// Where the admin API listens.
    pub(crate) fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|admin| admin.actual)
    }

    /// How long the process may take to leave.
    pub(crate) fn grace(&self) -> Duration {
        self.config.as_ref().map(|c| c.drain.grace).unwrap_or_default()
    }

    /// Gives up the sockets; workers give up theirs when they are told to leave.
    pub(crate) fn stop_listening(&mut self) {
        self.listeners.clear();
    }

    /// Binds what the new configuration has and the present one has not.
    fn bind(&self, config: &Config) -> io::Result<Sockets> {
        let mut sockets = Sockets { listeners: Vec::new(), admin: None };
        for service in &config.services {
            for address in &service.listen {
                if self.listeners.iter().any(|l| l.configured == *address && l.service == service.name) {
                    continue;
                }
                let port_is_given = !matches!(address, Address::Ip(addr) if addr.port() == 0);
                let elsewhere = self.listeners.iter().find(|l| port_is_given && l.configured == *address);
                let listener = match elsewhere {
                    // It moves from one service to another: those who are connecting must not notice.
                    Some(bound) => bound.socket.try_clone(),
                    None => Listener::bind(address),
                };
                let listener = listener.map_err(|error| {
                    let place = format!("service {}: cannot listen on {address}", service.name);
                    io::Error::new(error.kind(), format!("{place}: {error}"))
                })?;
                sockets.listeners.push((service.name.clone(), address.clone(), listener));
            }
        }
        if let Some(address) = config.admin
            && self.admin.as_ref().is_none_or(|admin| admin.configured != address)
        {
            let (listener, actual) = bind_admin(address)?;
            sockets.admin = Some((address, listener, actual));
        }
        Ok(sockets)
    }
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

/// Makes `control` what `config` says. Needs a tokio runtime.
///
/// # Errors
/// A socket that cannot be bound; then nothing has changed.
pub(crate) fn apply(control: &Arc<Control>, config: Config) -> io::Result<Applied> {
    let mut setup = control.setup.lock().unwrap_or_else(PoisonError::into_inner);
    let setup = &mut *setup;
    let sockets = setup.bind(&config)?;
    let mut change = Change { control, setup, config, changes: Vec::new(), pumps: Vec::new() };
    change.process()?;
    change.old_listeners(&sockets.listeners);
    change.services();
    change.new_listeners(sockets.listeners);
    change.admin(sockets.admin)?;
    let Change { setup, config, changes, pumps, .. } = change;
    setup.config = Some(config);
    let mut reloads = control.reloads.lock().unwrap_or_else(PoisonError::into_inner);
    reloads.generation += 1;
    reloads.error = None;
    reloads.since_unix_ms =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    reloads.changes.clone_from(&changes);
    Ok(Applied { control: control.clone(), pumps, changes })
}

/// A change under way.
struct Change<'a> {
    control: &'a Arc<Control>,
    setup: &'a mut Setup,
    config: Config,
    changes: Vec<String>,
    pumps: Vec<(Arc<Controlled>, Spec)>,
}

impl Change<'_> {
    /// What belongs to no service.
    fn process(&mut self) -> io::Result<()> {
        let Some(before) = &self.setup.config else { return Ok(()) };
        if before.workers != self.config.workers {
            self.changes.push("workers: takes effect with the next start".into());
        }
        if before.name != self.config.name {
            self.changes.push("name: takes effect with the next start".into());
            self.config.name.clone_from(&before.name);
        }
        if before.drain != self.config.drain {
            self.changes.push("drain: changed".into());
        }
        if before.access_log != self.config.access_log {
            let access = self.config.access_log.map(AccessLog::start).transpose()?;
            self.control.tell_all(|| Command::Access(access.clone()));
            self.changes.push("access_log: changed".into());
        }
        Ok(())
    }

    fn services(&mut self) {
        let before = self.control.services();
        let logs = self.setup.config.as_ref().map(|c| c.access_log.is_some());
        let relogged = logs.is_some_and(|logs| logs != self.config.access_log.is_some());
        let mut after = Vec::new();
        for config in self.config.services.clone() {
            match before.iter().find(|s| s.name() == config.name) {
                None => after.push(self.add(config)),
                Some(known) => {
                    let service = known.service();
                    if service.config != config || relogged {
                        self.change(known, &service, config);
                    }
                    after.push(known.clone());
                }
            }
        }
        for gone in &before {
            let service = gone.service();
            if !after.iter().any(|s| s.name() == service.config.name) {
                let grace = self.config.drain.grace;
                self.control.tell_all(|| Command::Remove(service.index, grace));
                if let Ok(mut entries) = self.control.registry.services.lock() {
                    entries.retain(|entry| !Arc::ptr_eq(entry, &service.entry));
                }
                self.changes.push(format!("service {}: gone, its sessions have {grace:?}", service.config.name));
            }
        }
        self.control.set_services(after);
    }

    fn add(&mut self, config: config::Service) -> Arc<Controlled> {
        let workers = self.control.workers.len();
        let entry = Arc::new(ServiceEntry {
            name: config.name.clone(),
            workers: (0..workers).map(|_| Arc::new(ServiceTally::default())).collect(),
            endpoints: std::sync::Mutex::default(),
            departed: std::sync::Mutex::default(),
        });
        if let Ok(mut entries) = self.control.registry.services.lock() {
            entries.push(entry.clone());
        }
        self.changes.push(format!("service {}: new", config.name));
        let index = self.setup.next_service;
        self.setup.next_service += 1;
        let service = Arc::new(Service::new(index, &self.config, config, entry));
        self.control.tell_all(|| Command::Serve(service.clone()));
        self.control(service)
    }

    fn change(&mut self, known: &Arc<Controlled>, before: &Service, config: config::Service) {
        let name = config.name.clone();
        let service = Arc::new(before.changed(&self.config, config));
        self.control.tell_all(|| Command::Serve(service.clone()));
        let (old, new) = (self.spec(before), self.spec(&service));
        if old != new {
            self.pumps.push((known.clone(), new));
        }
        known.becomes(service, known.listening());
        self.changes.push(format!("service {name}: changed"));
    }

    fn spec(&self, service: &Service) -> Spec {
        let config = &service.config;
        Spec {
            name: config.name.clone(),
            targets: config.targets.clone(),
            balance: config.balance.core.clone(),
            check: config.check.clone(),
            proxy_id: hash(self.config.name.as_bytes()),
            seed: self.setup.seed ^ hash(config.name.as_bytes()),
        }
    }

    /// One service with its pump: pickers go to every worker, what happens to log and events.
    fn control(&self, service: Arc<Service>) -> Arc<Controlled> {
        let (index, name) = (service.index, service.config.name.clone());
        let (control, first) = (Arc::downgrade(self.control), self.setup.first.clone());
        // Readiness is about the start: a service that is new later must not take the others out.
        let began = Arc::new(AtomicBool::new(self.setup.config.is_some()));
        let begins = began.clone();
        let pump = pump::spawn(self.spec(&service), self.control.clock, move |event| {
            let Some(control) = control.upgrade() else { return };
            match event {
                Event::Publish(picker) => {
                    control.tell_all(|| Command::Publish(index, picker.clone()));
                    begins.store(true, Relaxed);
                    // Nobody listens after the start.
                    let _started = first.send(());
                }
                Event::Warm(endpoint) => control.tell_all(|| Command::Warm(index, endpoint.clone())),
                Event::Leave(endpoint) => control.tell_all(|| Command::Leave(index, endpoint.clone())),
                Event::Stay(endpoint) => control.tell_all(|| Command::Stay(index, endpoint.clone())),
                Event::Shed(shed) => control.tell_all(|| Command::Shed(index, shed.clone())),
                Event::Retire(endpoint) => control.note(&name, "removed", &endpoint.address.to_string(), ""),
                Event::Fact(fact, endpoint) => {
                    let subject = endpoint.map(|e| e.address.to_string()).unwrap_or_default();
                    control.note_decision(&name, fact, &subject);
                }
                Event::Source { target, error: Some(error) } => {
                    control.note(&name, "source-failed", &target, &format!("{error}; the last good endpoints stay"));
                }
                Event::Source { target, error: None } => control.note(&name, "source-recovered", &target, ""),
            }
        });
        Arc::new(Controlled::new(service, pump, Vec::new(), began))
    }

    /// A socket that nobody wants any more is closed. What waits in its queue is served before.
    fn old_listeners(&mut self, fresh: &[(String, Address, Listener)]) {
        let wanted = |bound: &Bound| {
            let mut services = self.config.services.iter();
            services.any(|s| s.name == bound.service && s.listen.contains(&bound.configured))
        };
        let (stay, go): (Vec<_>, Vec<_>) = std::mem::take(&mut self.setup.listeners).into_iter().partition(wanted);
        self.setup.listeners = stay;
        for bound in go {
            let moves = fresh.iter().any(|(_, address, _)| *address == bound.configured);
            self.control.workers[bound.worker].send(Command::Unlisten(bound.id, moves));
            if !moves {
                self.changes.push(format!("service {}: listens on {} no more", bound.service, bound.actual));
            }
        }
    }

    /// New sockets go to workers in turn.
    fn new_listeners(&mut self, fresh: Vec<(String, Address, Listener)>) {
        let services = self.control.services();
        for (name, configured, socket) in fresh {
            let (id, worker) =
                (self.setup.next_listener, self.setup.next_listener as usize % self.control.workers.len());
            self.setup.next_listener += 1;
            let (Some(service), Ok(copy), Ok(actual)) =
                (services.iter().find(|s| s.name() == name), socket.try_clone(), socket.address())
            else {
                warn!(service = name, address = %configured, "a listener is lost");
                continue;
            };
            self.control.workers[worker].send(Command::Listen(service.service().index, id, copy));
            self.changes.push(format!("service {name}: listens on {actual}"));
            self.setup.listeners.push(Bound { id, service: name, configured, actual, worker, socket });
        }
        for service in &services {
            let name = service.name();
            // In the order of the configuration.
            let config = service.service();
            let of_it = || self.setup.listeners.iter().filter(|l| l.service == name);
            let listening = config.config.listen.iter().filter_map(|a| of_it().find(|l| l.configured == *a));
            let listening = listening.map(|l| l.actual.clone()).collect();
            service.becomes(config, listening);
        }
    }

    fn admin(&mut self, fresh: Option<(SocketAddr, std::net::TcpListener, SocketAddr)>) -> io::Result<()> {
        if let Some((configured, listener, actual)) = fresh {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let serve = admin::serve(listener, self.control.clone());
            let task = tokio::spawn(async move {
                if let Err(error) = serve.await {
                    warn!(%error, "the admin API ended");
                }
            });
            self.changes.push(format!("admin: listens on {actual}"));
            if let Some(before) = self.setup.admin.replace(Admin { configured, actual, task }) {
                before.task.abort();
            }
        } else if self.config.admin.is_none()
            && let Some(before) = self.setup.admin.take()
        {
            before.task.abort();
            self.changes.push("admin: off".into());
        }
        Ok(())
    }
}

impl Applied {
    /// Waits for the pumps to have their new settings; what changed, in words.
    pub(crate) async fn finish(self) -> Vec<String> {
        for (controlled, spec) in self.pumps {
            controlled.pump.configure(spec).await;
        }
        self.control.note("", "reloaded", "", &self.changes.join("; "));
        self.changes
    }
}

impl Control {
    pub(crate) fn reload_failed(&self, error: &str) {
        if let Ok(mut reloads) = self.reloads.lock() {
            reloads.failed += 1;
            reloads.error = Some(error.into());
        }
        self.note("", "reload-failed", "", error);
    }

    /// One fact into events and log. A service that scales by thousands says so thousands of times, so
    /// what is routine is logged for those who ask.
    pub(crate) fn note(&self, service: &str, kind: &'static str, subject: &str, detail: &str) {
        self.events.note(service, kind, subject.into(), detail.into());
        match kind {
            "added" | "removed" => debug!(service, endpoint = subject, "endpoint {kind}"),
            // Whoever read the configuration has said so.
            "reloaded" | "reload-failed" => {}
            "ejected" | "unhealthy" | "panic" | "source-failed" | "rebalance-paused" => {
                warn!(service, subject, detail, "{kind}");
            }
            _ => info!(service, subject, detail, "{kind}"),
        }
    }

    fn note_decision(&self, service: &str, fact: Decision, subject: &str) {
        let note = |kind, detail: &str| self.note(service, kind, subject, detail);
        match fact {
            Decision::Added(_) => note("added", ""),
            // Said with its address when it retires.
            Decision::Removed(_) => {}
            Decision::Ejected { duration, reason, .. } => note("ejected", &format!("for {duration:.0?}: {reason}")),
            Decision::Readmitted(_) => note("readmitted", "the probe succeeded"),
            Decision::HealthChanged { healthy: true, detail, .. } => note("healthy", &detail),
            Decision::HealthChanged { healthy: false, detail, .. } => note("unhealthy", &detail),
            Decision::Panic(true) => note("panic", "too few endpoints are fit: all are used"),
            Decision::Panic(false) => note("calm", "enough endpoints are fit again"),
            Decision::Rebalancing { skew, needed } => {
                note("rebalancing", &format!("skew {skew:.2}: {needed} sessions are to move"));
            }
            Decision::Rebalanced { moves, took } => {
                note("rebalanced", &format!("{moves} sessions were asked to move in {:.0} s", took.as_secs_f64()));
            }
            Decision::RebalancePaused => {
                note("rebalance-paused", "most clients that were asked to move did not come back: none is for 10 min");
            }
        }
    }
}
