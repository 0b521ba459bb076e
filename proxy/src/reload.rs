//! From one configuration to the next: what is in both goes on untouched, what is new starts, what is
//! gone leaves. Starting is the change from nothing.
//!
//! Everything that can fail (binding, reading certificates) comes first; if it does, nothing has changed.

use crate::admin;
use crate::config::{self, Config};
use crate::control::{Control, Controlled};
use crate::observe::access::AccessLog;
use crate::observe::spans::{Exporter, Prepared};
use crate::registry::{Registry, ServiceEntry, ServiceTally};
use crate::service::{Service, Tls, load_tls};
use crate::worker::Command;
use crate::worker::socket::Listener;
use evenkeel_core::address::Address;
use evenkeel_core::balancer::Fact as Decision;
use evenkeel_core::hash::hash;
use evenkeel_core::picker::Picker;
use evenkeel_upstream::check;
use evenkeel_upstream::pump::{self, Event, Spec};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::time::{Duration, SystemTime};
use tracing::{debug, info, warn};

/// How often the files of certificates are looked at.
const CERTIFICATES: Duration = Duration::from_secs(1);

/// What runs, and what a change needs.
#[derive(Debug)]
pub(crate) struct Setup {
    /// `None`: nothing has started.
    config: Option<Config>,
    listeners: Vec<Bound>,
    next_service: u32,
    next_listener: u32,
    admin: Option<Admin>,
    /// Sends spans to a collector.
    exporter: Option<Exporter>,
    /// What this evenkeel calls itself.
    name: String,
    /// Told when a service has its first endpoints; nobody listens after the start.
    first: mpsc::Sender<()>,
    seed: u64,
}

/// A listening socket, of which a worker has a copy.
#[derive(Debug)]
struct Bound {
    id: u32,
    place: Place,
    /// Of those services, as the worker knows them.
    indexes: Arc<[u32]>,
    actual: Address,
    worker: usize,
    /// Kept open, so that the address stays ours.
    _socket: Listener,
}

/// An address where services listen.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Place {
    /// As configured; the port may be 0.
    address: Address,
    /// By name; first that one which is for clients that ask for none of the others.
    services: Vec<String>,
}

impl Place {
    /// Every address of a configuration, once.
    fn all(config: &Config) -> Vec<Self> {
        let mut places: Vec<Self> = Vec::new();
        for service in &config.services {
            for address in &service.listen {
                let known = places.iter_mut().find(|place| place.address == *address && !place.is_any_port());
                match known {
                    Some(place) if service.sni.is_empty() => place.services.insert(0, service.name.clone()),
                    Some(place) => place.services.push(service.name.clone()),
                    None => places.push(Self { address: address.clone(), services: vec![service.name.clone()] }),
                }
            }
        }
        places
    }

    /// Is a socket of that place also one for this place?
    fn is_at(&self, other: &Self) -> bool {
        self.address == other.address && (!self.is_any_port() || self.services == other.services)
    }

    fn is_any_port(&self) -> bool {
        matches!(self.address, Address::Ip(addr) if addr.port() == 0)
    }
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
    listeners: Vec<(Place, Listener)>,
    admin: Option<(SocketAddr, std::net::TcpListener, SocketAddr)>,
}

impl Setup {
    pub(crate) fn new(name: String, first: mpsc::Sender<()>, seed: u64) -> Self {
        let listeners = Vec::new();
        let (admin, exporter) = (None, None);
        Self { config: None, listeners, next_service: 0, next_listener: 0, admin, exporter, name, first, seed }
    }

    /// Where the admin API listens.
    pub(crate) fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|admin| admin.actual)
    }

    /// How the process is to leave.
    pub(crate) fn drain(&self) -> Option<&config::Drain> {
        self.config.as_ref().map(|config| &config.drain)
    }

    /// Gives up what sends spans, for whoever waits for the last of them.
    pub(crate) fn take_exporter(&mut self) -> Option<Exporter> {
        self.exporter.take()
    }

    /// Gives up the sockets; workers take who waits at theirs before they give them up, too.
    pub(crate) fn stop_listening(&mut self, control: &Control) {
        for bound in std::mem::take(&mut self.listeners) {
            control.workers[bound.worker].send(Command::Unlisten(bound.id));
        }
    }

    fn spec(&self, service: &Service) -> Spec {
        let (config, tls) = (&service.config, &service.upstream_tls);
        let grpc = config.check.as_ref().is_some_and(|check| matches!(check.kind, check::Kind::Grpc { .. }));
        let settings = |tls: &crate::tls::Client| if grpc { tls.http2.clone() } else { tls.config.clone() };
        let dial = check::Dial {
            proxy: config.upstream.send_proxy,
            tls: tls.as_ref().map(|tls| (settings(tls), tls.name.clone())),
        };
        Spec {
            name: config.name.clone(),
            targets: config.targets.clone(),
            balance: config.balance.core.clone(),
            check: config.check.clone().map(|check| check::Config { dial, ..check }),
            proxy_id: hash(self.name.as_bytes()),
            seed: self.seed ^ hash(config.name.as_bytes()),
        }
    }

    /// What sends spans from now on; `None`: what does already.
    fn prepare_exporter(&self, config: &Config, registry: &Registry) -> io::Result<Option<Option<Prepared>>> {
        let before = self.config.as_ref().and_then(|config| config.tracing.as_ref());
        if before == config.tracing.as_ref() {
            return Ok(None);
        }
        let prepare = |config| Prepared::new(config, registry.spans.clone(), self.seed);
        config.tracing.as_ref().map(prepare).transpose().map(Some)
    }

    /// Binds what the new configuration has and the present one has not.
    fn bind(&self, config: &Config) -> io::Result<Sockets> {
        let mut sockets = Sockets { listeners: Vec::new(), admin: None };
        for place in Place::all(config) {
            if self.listeners.iter().any(|bound| bound.place.is_at(&place)) {
                continue;
            }
            let listener = Listener::bind(&place.address).map_err(|error| {
                let place = format!("service {}: cannot listen on {}", place.services.join(", "), place.address);
                io::Error::new(error.kind(), format!("{place}: {error}"))
            })?;
            sockets.listeners.push((place, listener));
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
/// A socket that cannot be bound, a certificate that cannot be used; then nothing has changed.
pub(crate) fn apply(control: &Arc<Control>, config: Config) -> io::Result<Applied> {
    let mut setup = control.setup.lock().unwrap_or_else(PoisonError::into_inner);
    let setup = &mut *setup;
    let mut tls = HashMap::new();
    for service in &config.services {
        let loaded =
            load_tls(service).map_err(|error| io::Error::other(format!("service {}: {error}", service.name)))?;
        tls.insert(service.name.clone(), loaded);
    }
    let sockets = setup.bind(&config)?;
    let exporter = setup.prepare_exporter(&config, &control.registry)?;
    let mut change = Change { control, setup, config, tls, changes: Vec::new(), pumps: Vec::new() };
    change.process()?;
    change.tracing(exporter);
    let gone = change.services();
    change.listeners(sockets.listeners);
    change.remove(&gone);
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
    /// What the files of the services say, by name of the service.
    tls: HashMap<String, Tls>,
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
            let log = |format| AccessLog::start(format, self.control.registry.access_log_dropped.clone());
            let access = self.config.access_log.map(log).transpose()?;
            self.control.tell_all(|| Command::Access(access.clone()));
            self.changes.push("access_log: changed".into());
        }
        Ok(())
    }

    /// Spans go where the configuration says now: those that wait still go where it said before. `None`: that
    /// is where they go already.
    fn tracing(&mut self, exporter: Option<Option<Prepared>>) {
        let Some(exporter) = exporter else { return };
        self.setup.exporter = exporter.map(Prepared::start);
        let tracer = self.setup.exporter.as_ref().map(|exporter| exporter.tracer.clone());
        self.control.tell_all(|| Command::Trace(tracer.clone()));
        self.changes.push("tracing: changed".into());
    }

    /// Services that are new or have changed; returns those that are gone.
    fn services(&mut self) -> Vec<Arc<Controlled>> {
        let before = self.control.services();
        let logs = self.setup.config.as_ref().map(|c| c.access_log.is_some());
        let relogged = logs.is_some_and(|logs| logs != self.config.access_log.is_some());
        let mut after = Vec::new();
        for config in self.config.services.clone() {
            match before.iter().find(|s| s.name() == config.name) {
                None => after.push(self.add(config)),
                Some(known) => {
                    let service = known.service();
                    if service.config != config || relogged || service.tls_changed() {
                        self.change(known, &service, config);
                    }
                    after.push(known.clone());
                }
            }
        }
        let gone = before.into_iter().filter(|s| !after.iter().any(|other| Arc::ptr_eq(other, s))).collect();
        self.control.set_services(after);
        gone
    }

    /// Lets services go. Nobody connects to them any more.
    fn remove(&mut self, gone: &[Arc<Controlled>]) {
        for service in gone {
            let service = service.service();
            let grace = self.config.drain.grace;
            self.control.tell_all(|| Command::Remove(service.index, grace));
            if let Ok(mut entries) = self.control.registry.services.lock() {
                entries.retain(|entry| !Arc::ptr_eq(entry, &service.entry));
            }
            self.changes.push(format!("service {}: gone, its sessions have {grace:?}", service.config.name));
        }
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
        let tls = self.tls.remove(&config.name).unwrap_or_default();
        let service = Arc::new(Service::new(index, &self.config, config, tls, entry));
        self.control.tell_all(|| Command::Serve(service.clone()));
        self.control(service)
    }

    fn change(&mut self, known: &Arc<Controlled>, before: &Service, config: config::Service) {
        let name = config.name.clone();
        let tls = self.tls.remove(&config.name).unwrap_or_default();
        let service = Arc::new(before.changed(&self.config, config, tls));
        self.control.tell_all(|| Command::Serve(service.clone()));
        let (old, new) = (self.setup.spec(before), self.setup.spec(&service));
        if old != new {
            self.pumps.push((known.clone(), new));
        }
        known.becomes(service, known.listening());
        self.changes.push(format!("service {name}: changed"));
    }

    /// One service with its pump: pickers go to every worker, what happens to log and events.
    fn control(&self, service: Arc<Service>) -> Arc<Controlled> {
        let (index, name) = (service.index, service.config.name.clone());
        let (control, first) = (Arc::downgrade(self.control), self.setup.first.clone());
        // Readiness is about the start: a service that is new later must not take the others out.
        let began = Arc::new(AtomicBool::new(self.setup.config.is_some()));
        let begins = began.clone();
        let picker = Arc::new(RwLock::new(Arc::new(Picker::empty())));
        let latest = picker.clone();
        let pump = pump::spawn(self.setup.spec(&service), self.control.clock, move |event| {
            let Some(control) = control.upgrade() else { return };
            match event {
                Event::Publish(picker) => {
                    *latest.write().unwrap_or_else(PoisonError::into_inner) = picker.clone();
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
        Arc::new(Controlled::new(service, pump, picker, began))
    }

    /// Sockets that are new, serve others than before, or are not wanted any more: what waits in the queue
    /// of those is served before.
    fn listeners(&mut self, fresh: Vec<(Place, Listener)>) {
        let places = Place::all(&self.config);
        let wanted = |bound: &Bound| places.iter().find(|place| bound.place.is_at(place));
        let services = self.control.services();
        let indexes = |place: &Place| -> Arc<[u32]> {
            let index = |name: &String| services.iter().find(|s| s.name() == *name).map(|s| s.service().index);
            place.services.iter().filter_map(index).collect()
        };
        let mut stay = Vec::new();
        for mut bound in std::mem::take(&mut self.setup.listeners) {
            let worker = &self.control.workers[bound.worker];
            let Some(place) = wanted(&bound) else {
                worker.send(Command::Unlisten(bound.id));
                self.changes.push(format!("{}: nobody listens there any more", bound.actual));
                continue;
            };
            let indexes = indexes(place);
            if bound.indexes != indexes {
                worker.send(Command::Relisten(bound.id, indexes.clone()));
                (bound.indexes, bound.place) = (indexes, place.clone());
                self.changes.push(format!("{}: now for {}", bound.actual, place.services.join(", ")));
            }
            stay.push(bound);
        }
        self.setup.listeners = stay;
        for (place, socket) in fresh {
            // To workers in turn.
            let (id, worker) =
                (self.setup.next_listener, self.setup.next_listener as usize % self.control.workers.len());
            self.setup.next_listener += 1;
            let (Ok(copy), Ok(actual)) = (socket.try_clone(), socket.address()) else {
                warn!(address = %place.address, "a listener is lost");
                continue;
            };
            let indexes = indexes(&place);
            self.control.workers[worker].send(Command::Listen(id, indexes.clone(), copy));
            self.changes.push(format!("{actual}: now for {}", place.services.join(", ")));
            self.setup.listeners.push(Bound { id, place, indexes, actual, worker, _socket: socket });
        }
        for service in &services {
            // In the order of the configuration.
            let (name, now) = (service.name(), service.service());
            let at = |address: &Address| {
                let mut bound = self.setup.listeners.iter();
                bound.find(|l| l.place.address == *address && l.place.services.contains(&name))
            };
            let listening = now.config.listen.iter().filter_map(at).map(|bound| bound.actual.clone()).collect();
            service.becomes(now, listening);
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

/// Reads certificates again for ever, when their files change. A file that cannot be used changes nothing:
/// who writes a certificate and its key writes one of them first.
pub(crate) async fn watch_certificates(control: Arc<Control>) {
    let mut every = tokio::time::interval(CERTIFICATES);
    // Files that could not be used, as they were then.
    let mut bad: HashMap<String, u64> = HashMap::new();
    loop {
        every.tick().await;
        for controlled in control.services() {
            let service = controlled.service();
            let (name, now) = (service.config.name.clone(), service.tls_fingerprint());
            if !service.tls_changed() || bad.get(&name) == Some(&now) {
                continue;
            }
            match load_tls(&service.config) {
                Ok(tls) => {
                    bad.remove(&name);
                    control.renew(&controlled, &service, tls).await;
                }
                Err(error) => {
                    control.note(&name, "certificate-failed", "", &format!("{error}; the ones before stay"));
                    bad.insert(name, now);
                }
            }
        }
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
    /// Goes on with what the files of a service say now: new handshakes use it, old sessions are not touched.
    async fn renew(&self, controlled: &Controlled, before: &Arc<Service>, tls: Tls) {
        let spec = {
            let setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
            // Another configuration was read meanwhile, and the files with it.
            if !Arc::ptr_eq(&controlled.service(), before) {
                return;
            }
            let service = Arc::new(before.with_tls(tls));
            self.tell_all(|| Command::Serve(service.clone()));
            controlled.becomes(service.clone(), controlled.listening());
            setup.spec(&service)
        };
        controlled.pump.configure(spec).await;
        self.note(&before.config.name, "certificate-renewed", "", "new handshakes use what its files say now");
    }

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
            "ejected" | "unhealthy" | "panic" | "source-failed" | "rebalance-paused" | "certificate-failed" => {
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
            Decision::Ejected { duration, grounds, .. } => note("ejected", &format!("for {duration:.0?}: {grounds}")),
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
