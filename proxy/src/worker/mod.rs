//! A worker: one thread, one event loop, everything that moves bytes.
//!
//! It owns its sessions, links, pools, buffers and timers outright (`!Send`, no locks). The control
//! thread sends it [`Command`]s; it answers with counters ([`crate::registry`]) and [`Fact`]s.
//!
//! One turn of the loop: wait for events, note what they say (links first, so that a pooled link
//! whose endpoint just closed it is never handed out), drive every touched session, fire timers.
//!
//! * `drive`: sockets to engine and back, one session at a time
//! * `splice`: what moves inside the kernel
//! * `turn`: choosing endpoints, taking and returning links, trying again
//! * `dial`: opening links
//! * `accept`: new clients, given to the worker that has least
//! * `arrive`: what comes before their protocol: PROXY header, TLS
//! * `http2`: sessions of many turns, and the links that they share
//! * `shed`: asking sessions to go: the process leaves, an endpoint does, or has too many
//! * `depart`: ending

mod accept;
mod arrive;
mod buffer;
mod client;
mod complaints;
mod depart;
pub(crate) mod descriptors;
mod dial;
mod drive;
mod http2;
mod link;
mod shed;
mod slab;
pub(crate) mod socket;
mod splice;
mod tls;
mod turn;
mod wheel;

use self::buffer::Pool;
use self::client::Client;
use self::complaints::Complaints;
use self::descriptors::Descriptors;
use self::link::{EndpointPool, Link, LinkState};
use self::slab::{Key, Slab};
use self::socket::{Listener, Stream};
use self::splice::Pipes;
use self::wheel::Wheel;
use crate::observe::spans::Tracer;
use crate::registry::{Heartbeat, ServiceTally};
use crate::service::Service;
use evenkeel_core::admission::Gate;
use evenkeel_core::balancer::Shed;
use evenkeel_core::endpoint::{Endpoint, EndpointId};
use evenkeel_core::picker::{Notice, Picker};
use evenkeel_core::retry::RetryBudget;
use evenkeel_core::rng::Rng;
use evenkeel_core::time::{Duration, Instant};
use evenkeel_wire::http2::streams::StreamKey;
use mio::{Events, Poll, Token, Waker};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Events taken from the kernel at once.
const EVENTS: usize = 1024;
/// Bytes read at once. Large enough that a bulk transfer is not bound by system calls, small enough
/// to stay in the second-level cache until it is written.
const SCRATCH_BYTES: usize = 64 * 1024;
/// The longest sleep: a worker shows that it lives twice a second.
const HEARTBEAT: Duration = Duration::from_millis(500);

const LINK_BIT: u64 = 1 << 63;
const WAKER: Token = Token(usize::MAX);
/// Listener tokens count down from here.
const LISTENERS: usize = usize::MAX - 1;
/// More listeners than any configuration has; tokens above are not sessions or links.
const MAX_LISTENERS: usize = 1 << 16;

/// What the control thread asks of a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Serve this service, or serve it as it is configured now.
    Serve(Arc<Service>),
    /// The service is gone: its sessions have this time.
    Remove(u32, std::time::Duration),
    /// Accept clients; the number names the listener.
    Listen(u32, Arc<[u32]>, Listener),
    /// Who connects there is for these services from now on.
    Relisten(u32, Arc<[u32]>),
    /// Accept no more there, once what waits is served.
    Unlisten(u32),
    /// Log requests there from now on, or not.
    Access(Option<crate::observe::access::AccessLog>),
    /// Take part in traces from now on, or not.
    Trace(Option<Tracer>),
    /// Pick from this snapshot from now on.
    Publish(u32, Arc<Picker>),
    /// The endpoint leaves, and its sessions with it.
    Leave(u32, Arc<Endpoint>),
    /// It does not leave after all.
    Stay(u32, Arc<Endpoint>),
    /// Some sessions of an endpoint are to move.
    Shed(u32, Shed),
    /// Open a link to a new endpoint before its first turn.
    Warm(u32, Arc<Endpoint>),
    /// A client that another worker accepted.
    Adopt(Accepted),
    /// The process is about to leave: clients are served as before.
    Retire,
    /// The process leaves within this time: finish what there is.
    Drain(std::time::Duration),
    /// Describe up to so many sessions.
    Sessions(usize, std::sync::mpsc::Sender<Vec<crate::registry::SessionView>>),
    /// Say when each session of a service was opened.
    Ages(u32, std::sync::mpsc::Sender<crate::now::Opened>),
    /// End everything now and stop.
    Cut,
}

/// A client on its way to the worker that will serve it.
#[derive(Debug)]
pub(crate) struct Accepted {
    stream: Stream,
    client: SocketAddr,
    local: Arc<SocketAddr>,
    /// The services that listen there; the first is for who asks for none by name.
    services: Arc<[u32]>,
}

/// Something that the control thread should know at once.
#[derive(Debug)]
pub(crate) struct Fact {
    pub(crate) service: u32,
    pub(crate) notice: Notice,
}

/// The control thread's end of a worker.
#[derive(Debug)]
pub(crate) struct Handle {
    commands: Mutex<VecDeque<Command>>,
    waker: Waker,
    /// Sessions it has; new ones go where there are fewest.
    pub(crate) load: AtomicUsize,
}

impl Handle {
    /// Queues a command and wakes the worker. Commands come from the control thread, at the pace of
    /// endpoint changes, and from workers that accept; the worker empties the queue every turn.
    pub(crate) fn send(&self, command: Command) {
        if let Ok(mut commands) = self.commands.lock() {
            commands.push_back(command);
        }
        // Fails only if the worker is gone, and with it the need to wake it.
        let _gone = self.waker.wake();
    }
}

/// One service as this worker sees it.
#[derive(Debug)]
struct Served {
    shared: Arc<Service>,
    tally: Arc<ServiceTally>,
    picker: Arc<Picker>,
    /// A picker was published: endpoints are known, or it is known that there are none.
    published: bool,
    pools: Vec<Option<EndpointPool>>,
    free_pools: Vec<u32>,
    by_endpoint: HashMap<EndpointId, u32, BuildIdHasher>,
    /// Turns waiting in the queues of all pools.
    waiting: usize,
    budget: RetryBudget,
    /// Through which sessions that are upgraded come in.
    gate: Gate,
    /// A link of this service has stayed open after its turn. Endpoints that close
    /// after each answer are not warmed: one that serves a single connection at a
    /// time would wait for a request on the warm link, and nobody else be served.
    warms: bool,
    /// The service is gone from the configuration: its sessions have until then.
    leaves_by: Option<Instant>,
    /// Streams whose clients want to hear how the service is.
    watchers: Vec<(Key, StreamKey)>,
}

/// Endpoint identities are hashes already.
#[derive(Clone, Copy, Default, Debug)]
struct BuildIdHasher;

#[derive(Default, Debug)]
struct IdHasher(u64);

impl std::hash::BuildHasher for BuildIdHasher {
    type Hasher = IdHasher;
    fn build_hasher(&self) -> IdHasher {
        IdHasher::default()
    }
}

impl std::hash::Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("an EndpointId hashes as one u64");
    }
    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    Session(Key),
    Link(Key),
    Accept(u32),
}

/// A socket on which clients of a service arrive.
#[derive(Debug)]
struct Listening {
    id: u32,
    services: Arc<[u32]>,
    socket: Listener,
    /// Until then services that have not heard of any endpoints are waited for.
    patience: Instant,
    /// A timer is armed for it.
    armed: bool,
}

/// What a worker is made of; see the module.
pub(crate) struct Worker {
    index: usize,
    poll: Poll,
    handle: Arc<Handle>,
    peers: Arc<[Arc<Handle>]>,
    facts: tokio::sync::mpsc::Sender<Fact>,
    access: Option<crate::observe::access::AccessLog>,
    tracer: Option<Tracer>,
    complaints: Complaints,
    heartbeat: Arc<Heartbeat>,
    origin: std::time::Instant,
    now: Instant,
    rng: Rng,
    /// By index, which no later service gets again: what is left of one that is gone is a pointer's room.
    services: Vec<Option<Box<Served>>>,
    listeners: Vec<Option<Listening>>,
    sessions: Slab<Client>,
    links: Slab<Link>,
    pool: Pool,
    pipes: Pipes,
    /// What links have that are shared.
    shared: http2::ByLink<http2::Shared>,
    /// What links of HTTP/1.1 have that streams of HTTP/2 use.
    solos: http2::ByLink<http2::Solo>,
    lines: http2::Lines,
    wheel: Wheel<Timer>,
    descriptors: Arc<Descriptors>,
    /// Sessions that there is no room for, and that are being told so.
    refused: usize,
    /// Sessions to drive this turn.
    touched: VecDeque<Key>,
    scratch: Box<[u8]>,
    /// The process is about to leave, or leaves.
    retiring: bool,
    /// The process leaves: no session may be here after that.
    draining: Option<Instant>,
    stop: bool,
}

/// What every worker of a process is given.
pub(crate) struct Spawn {
    pub(crate) handle: Arc<Handle>,
    pub(crate) peers: Arc<[Arc<Handle>]>,
    pub(crate) facts: tokio::sync::mpsc::Sender<Fact>,
    pub(crate) access: Option<crate::observe::access::AccessLog>,
    pub(crate) descriptors: Arc<Descriptors>,
    pub(crate) origin: std::time::Instant,
    pub(crate) seed: u64,
}

/// A worker's event queue, and the handle that wakes it.
pub(crate) fn prepare() -> io::Result<(Poll, Arc<Handle>)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKER)?;
    Ok((poll, Arc::new(Handle { commands: Mutex::default(), waker, load: AtomicUsize::new(0) })))
}

impl Worker {
    pub(crate) fn new(index: usize, poll: Poll, heartbeat: Arc<Heartbeat>, spawn: Spawn) -> Self {
        let now = Instant::from_nanos(spawn.origin.elapsed().as_nanos() as u64);
        Self {
            index,
            poll,
            handle: spawn.handle,
            peers: spawn.peers,
            facts: spawn.facts,
            access: spawn.access,
            tracer: None,
            complaints: Complaints::new(now),
            heartbeat,
            origin: spawn.origin,
            now,
            rng: Rng::seeded(spawn.seed),
            services: Vec::new(),
            listeners: Vec::new(),
            sessions: Slab::new(),
            links: Slab::new(),
            pool: Pool::default(),
            pipes: Pipes::default(),
            shared: http2::ByLink::default(),
            solos: http2::ByLink::default(),
            lines: http2::Lines::default(),
            wheel: Wheel::new(now),
            descriptors: spawn.descriptors,
            refused: 0,
            touched: VecDeque::new(),
            scratch: vec![0; SCRATCH_BYTES].into(),
            retiring: false,
            draining: None,
            stop: false,
        }
    }

    /// Runs until cut, or until drained.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let mut due = Vec::new();
        while !self.stop {
            let wait = match (self.touched.is_empty() && self.lines.touched.is_empty(), self.wheel.next(self.now)) {
                (false, _) => Duration::ZERO,
                (true, next) => next.unwrap_or(HEARTBEAT).min(HEARTBEAT),
            };
            self.heartbeat.sleeps();
            match self.poll.poll(&mut events, Some(wait)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                _ => {}
            }
            self.now = Instant::from_nanos(self.origin.elapsed().as_nanos() as u64);
            self.heartbeat.turns(self.now);
            let mut woken = false;
            for event in &events {
                match event.token() {
                    WAKER => woken = true,
                    Token(t) if t > LISTENERS - MAX_LISTENERS => self.accept(LISTENERS - t),
                    Token(t) => match Key::from_bits(t as u64) {
                        Some(key) if t as u64 & LINK_BIT != 0 => self.link_event(key, event),
                        Some(key) => self.session_event(key, event),
                        None => {}
                    },
                }
            }
            for _ in 0..self.touched.len() {
                if let Some(key) = self.touched.pop_front() {
                    self.drive(key);
                }
            }
            self.drive_links();
            self.drive_answered();
            if woken {
                self.obey();
            }
            self.wheel.fire(self.now, &mut due);
            for timer in due.drain(..) {
                self.timer(timer);
            }
            self.write_lines();
            if self.draining.is_some() && self.sessions.len() == 0 {
                self.stop = true;
            }
        }
        self.cut();
        Ok(())
    }

    fn session_event(&mut self, key: Key, event: &mio::event::Event) {
        let Some(client) = self.sessions.get_mut(key) else { return };
        client.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        client.writable |= event.is_writable();
        client.closed |= event.is_read_closed() || event.is_error();
        self.touch(key);
    }

    fn link_event(&mut self, key: Key, event: &mio::event::Event) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        link.writable |= event.is_writable();
        link.closed |= event.is_read_closed() || event.is_error();
        match (link.state, link.session) {
            // Nothing was asked, so this is EOF or something that must not reach a later turn.
            (LinkState::Idle, _) if link.readable && !link.is_quiet() => self.remove_link(key),
            (LinkState::Idle, _) => {}
            (LinkState::Connecting, _) if link.writable || link.readable => self.connected(key),
            (LinkState::Connecting, _) => {}
            (LinkState::Shared | LinkState::Solo, _) => self.touch_link(key),
            (LinkState::Busy, Some(session)) => self.touch(session),
            (LinkState::Busy, None) => self.remove_link(key),
        }
    }

    /// Sees to it that the session is driven before the loop sleeps again.
    fn touch(&mut self, key: Key) {
        if let Some(client) = self.sessions.get_mut(key)
            && !std::mem::replace(&mut client.queued, true)
        {
            self.touched.push_back(key);
        }
    }

    fn timer(&mut self, timer: Timer) {
        match timer {
            Timer::Session(key) => self.session_timeout(key),
            Timer::Link(key) => self.link_timeout(key),
            Timer::Accept(listener) => self.accept_again(listener as usize),
        }
    }

    fn obey(&mut self) {
        let commands = match self.handle.commands.lock() {
            Ok(mut commands) => std::mem::take(&mut *commands),
            Err(_) => return,
        };
        for command in commands {
            match command {
                Command::Serve(service) => self.serve(service),
                Command::Remove(service, grace) => self.remove_service(service, grace),
                Command::Listen(id, services, listener) => self.listen(id, services, listener),
                Command::Relisten(id, services) => self.relisten(id, services),
                Command::Unlisten(id) => self.unlisten(id),
                Command::Access(access) => self.access = access,
                Command::Trace(tracer) => self.tracer = tracer,
                Command::Publish(service, picker) => self.publish(service, picker),
                Command::Leave(service, endpoint) => self.endpoint_leaves(service, &endpoint),
                Command::Stay(service, endpoint) => self.endpoint_stays(service, &endpoint),
                Command::Shed(service, shed) => self.shed(service, &shed),
                Command::Warm(service, endpoint) => self.warm(service, &endpoint),
                Command::Adopt(accepted) => self.adopt(accepted),
                Command::Retire => self.retire(),
                Command::Drain(grace) => self.drain(grace),
                Command::Sessions(limit, reply) => {
                    // Whoever asked may have gone.
                    let _gone = reply.send(self.describe(limit));
                }
                Command::Ages(service, reply) => {
                    let _gone = reply.send(self.opened(service));
                }
                Command::Cut => self.stop = true,
            }
        }
    }

    /// Serves a service that is new, or goes on with one as it is configured now.
    fn serve(&mut self, service: Arc<Service>) {
        let index = service.index as usize;
        if self.services.len() <= index {
            self.services.resize_with(index + 1, || None);
        }
        let retry = &service.config.retry;
        let budget = || RetryBudget::new(retry.budget, retry.reserve, self.now);
        if let Some(served) = &mut self.services[index] {
            if served.shared.config.retry != *retry {
                served.budget = budget();
            }
            served.shared = service;
            return;
        }
        self.services[index] = Some(Box::new(Served {
            tally: service.entry.workers[self.index].clone(),
            picker: Arc::new(Picker::empty()),
            published: false,
            pools: Vec::new(),
            free_pools: Vec::new(),
            by_endpoint: HashMap::default(),
            waiting: 0,
            budget: budget(),
            gate: Gate::new(self.now),
            warms: false,
            leaves_by: None,
            watchers: Vec::new(),
            shared: service,
        }));
    }

    /// The session count that decides where new clients go.
    fn publish_load(&self) {
        self.handle.load.store(self.sessions.len(), Ordering::Relaxed);
    }

    /// Tells the control thread; if its queue is full the balancer's own tick finds it out.
    fn report(&self, service: u32, notice: Notice) {
        if notice != Notice::None {
            let _full = self.facts.try_send(Fact { service, notice });
        }
    }
}
