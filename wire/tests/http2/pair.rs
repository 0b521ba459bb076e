//! A client engine and a server engine that talk to each other, and a model of what they were asked to carry.

use evenkeel_core::rng::Rng;
use evenkeel_core::time::{Duration, Instant};
use evenkeel_wire::http2::budget::Allowance;
use evenkeel_wire::http2::connection::{Connection, Event, Fault, Part};
use evenkeel_wire::http2::error::Code;
use evenkeel_wire::http2::hpack::Form;
use evenkeel_wire::http2::settings::{Config, Role};
use evenkeel_wire::http2::streams::StreamKey;
use evenkeel_wire::out::Out;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// What two ends are asked to do. Numbers choose among what there is.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// The client opens a stream.
    Request,
    /// An end sends a number of bytes on one of its streams.
    Send(Role, u8, u16),
    /// The server answers with a head, or with an informational one.
    Answer(u8, bool),
    /// An end finishes its side, with or without trailers.
    Finish(Role, u8, bool),
    /// An end resets one of its streams.
    Reset(Role, u8),
    /// An end takes some of what came.
    Take(Role, u8, u16),
    /// Some of what this end said arrives.
    Deliver(Role, u16),
    /// An end measures.
    Ping(Role),
    /// An end wants to go.
    Leave(Role),
    /// Milliseconds pass.
    Wait(u8),
    /// Something on the way to the other end breaks a byte.
    Corrupt(Role, u16),
}

impl Operation {
    /// Any bytes are an operation, for fuzzing.
    pub fn from_bytes([kind, a, b, c]: [u8; 4]) -> Self {
        let role = if kind & 0x80 == 0 { Role::Client } else { Role::Server };
        let number = u16::from_be_bytes([b, c]);
        match kind & 0x7F {
            0..10 => Self::Request,
            10..30 => Self::Send(role, a, number % 20_000),
            30..40 => Self::Answer(a, b & 1 == 1),
            40..50 => Self::Finish(role, a, b & 1 == 1),
            50..55 => Self::Reset(role, a),
            55..75 => Self::Take(role, a, number),
            75..120 => Self::Deliver(role, number),
            120..122 => Self::Ping(role),
            122 if a < 20 => Self::Leave(role),
            122..126 => Self::Wait(a),
            _ => Self::Corrupt(role, number),
        }
    }
}

/// One end of a stream, as the model knows it.
#[derive(Debug)]
struct Half {
    key: StreamKey,
    head: bool,
    /// Bytes that were to be sent, and that were.
    planned: usize,
    sent: usize,
    finish: Option<bool>,
    finished: bool,
    got: usize,
    got_end: bool,
    held: usize,
    /// It was reset, by whomever.
    dead: bool,
}

/// One end.
#[derive(Debug)]
pub struct End {
    role: Role,
    pub engine: Connection,
    out: Vec<u8>,
    halves: BTreeMap<u32, Half>,
    held: usize,
    pub over: bool,
}

/// Both.
#[derive(Debug)]
pub struct Pair {
    pub client: End,
    pub server: End,
    config: Config,
    now: Instant,
    /// Something was broken on the way: anything may follow but a panic, or memory without bounds.
    broken: bool,
}

/// Bytes that one direction of a stream carries at most.
const MOST: usize = 1 << 20;

/// What a stream carries between two places of it, so that a byte that is lost or comes twice is seen.
fn content(role: Role, id: u32, from: usize, to: usize) -> &'static [u8] {
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut rng = Rng::seeded(7);
        (0..MOST + 4096).map(|_| rng.next_u64() as u8).collect()
    });
    let salt = (id as usize * 31 + if role == Role::Client { 3 } else { 101 }) % 4096;
    &NOISE[salt + from..salt + to]
}

fn head(role: Role, id: u32) -> Vec<(String, String)> {
    let common = [("x-id".to_string(), id.to_string()), ("x-same".to_string(), "same".to_string())];
    let special: &[(&str, &str)] = match role {
        Role::Client => &[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")],
        Role::Server => &[(":status", "200")],
    };
    special.iter().map(|&(name, value)| (name.into(), value.into())).chain(common).collect()
}

impl End {
    fn new(role: Role, config: &Config, now: Instant) -> Self {
        let mut out = Vec::new();
        let engine = Connection::new(role, config, &mut Out::new(&mut out), now);
        Self { role, engine, out, halves: BTreeMap::new(), held: 0, over: false }
    }

    fn pick(&self, number: u8) -> Option<u32> {
        let live: Vec<u32> = self.halves.iter().filter(|(_, half)| !half.dead).map(|(&id, _)| id).collect();
        live.get(usize::from(number).checked_rem(live.len())?).copied()
    }

    fn request(&mut self) {
        let id = self.halves.last_key_value().map_or(1, |(last, _)| last + 2);
        let fields = head(Role::Client, id);
        let opened = self.engine.request(false, &mut Out::new(&mut self.out), |writer| {
            fields.iter().for_each(|(name, value)| writer.put(name, value.as_bytes(), Form::Indexed));
        });
        if let Some(key) = opened {
            assert_eq!(key.id(), id);
            self.begin(key, true);
        }
    }

    fn begin(&mut self, key: StreamKey, head: bool) {
        let half = Half {
            key,
            head,
            planned: 0,
            sent: 0,
            finish: None,
            finished: false,
            got: 0,
            got_end: false,
            held: 0,
            dead: false,
        };
        assert!(self.halves.insert(key.id(), half).is_none());
    }

    fn answer(&mut self, id: u32, informational: bool) {
        let Some(half) = self.halves.get_mut(&id).filter(|half| !half.head && !half.dead) else { return };
        let mut fields = head(Role::Server, id);
        if informational {
            fields[0].1 = "103".into();
        }
        let part = if informational { Part::Informational } else { Part::Head };
        let sent = self.engine.fields(half.key, part, false, &mut Out::new(&mut self.out), |writer| {
            fields.iter().for_each(|(name, value)| writer.put(name, value.as_bytes(), Form::Indexed));
        });
        assert!(sent || self.over);
        half.head |= !informational;
    }

    /// Sends what is planned, as far as the windows allow.
    fn push(&mut self, id: u32, now: Instant) {
        let Some(half) = self.halves.get_mut(&id).filter(|half| half.head && !half.finished && !half.dead) else {
            return;
        };
        let data = content(self.role, id, half.sent, half.planned);
        let mut out = Out::new(&mut self.out);
        let end = half.finish == Some(false);
        let sent = self.engine.data(half.key, data, end, &mut out, now);
        out.spill();
        half.sent += sent;
        if half.sent < half.planned {
            return;
        }
        half.finished = end;
        if half.finish == Some(true) {
            let put = self.engine.fields(half.key, Part::Trailers, true, &mut out, |writer| {
                writer.put("x-end", id.to_string().as_bytes(), Form::Never);
            });
            assert!(put || self.over);
            half.finished = true;
        }
        self.let_go(id);
    }

    fn take(&mut self, id: u32, bytes: usize) {
        let Some(half) = self.halves.get_mut(&id) else { return };
        let bytes = bytes.min(half.held);
        half.held -= bytes;
        self.held -= bytes;
        self.engine.release(half.key, bytes, &mut Out::new(&mut self.out));
    }

    fn kill(&mut self, id: u32) {
        if let Some(half) = self.halves.get_mut(&id) {
            half.dead = true;
            self.held -= std::mem::take(&mut half.held);
        }
    }

    /// Reads what arrived; returns how much of it.
    fn hear(&mut self, bytes: &[u8], config: &Config, broken: bool, now: Instant) -> usize {
        let mut input = bytes;
        loop {
            let mut out = Out::new(&mut self.out);
            let Some(event) = self.engine.recv(&mut input, &mut out, now) else { break };
            match event {
                Event::Ready | Event::Pong | Event::Goaway(_) => {}
                Event::Fields { stream, part, status, fields, end } => {
                    let list: Vec<_> =
                        fields.iter().map(|field| (field.name().to_vec(), field.value().to_vec())).collect();
                    if self.role == Role::Server && part == Part::Head && !self.halves.contains_key(&stream.id()) {
                        self.begin(stream, false);
                    }
                    if !broken {
                        let id = stream.id();
                        let other = if self.role == Role::Client { Role::Server } else { Role::Client };
                        let mut expected = head(other, id);
                        match part {
                            Part::Informational => expected[0].1 = "103".into(),
                            Part::Head => assert!(status == 200 || self.role == Role::Server),
                            Part::Trailers => expected = vec![("x-end".into(), id.to_string())],
                        }
                        let expected: Vec<_> =
                            expected.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect();
                        assert_eq!(list, expected);
                    }
                    if let Some(half) = self.halves.get_mut(&stream.id()) {
                        half.got_end |= end;
                    }
                    self.let_go(stream.id());
                }
                Event::Data { stream, data, end } => {
                    let Some(half) = self.halves.get_mut(&stream.id()) else { panic!("data on no stream") };
                    assert!(!half.dead, "what we ended is not heard of");
                    if !broken {
                        let other = if self.role == Role::Client { Role::Server } else { Role::Client };
                        assert!(!half.got_end && half.got + data.len() <= MOST);
                        assert_eq!(data, content(other, stream.id(), half.got, half.got + data.len()));
                    }
                    half.got += data.len();
                    half.held += data.len();
                    half.got_end |= end;
                    self.held += data.len();
                    if !broken {
                        assert!(half.held <= config.stream_window as usize, "the window of a stream");
                        assert!(self.held <= config.connection_window as usize, "the window of the connection");
                    }
                    self.let_go(stream.id());
                }
                Event::Reset { stream, fault, .. } => {
                    assert!(broken || matches!(fault, Fault::Peer | Fault::Unprocessed), "{fault:?}");
                    self.kill(stream.id());
                }
                Event::TooLarge { stream, .. } => {
                    assert!(broken);
                    self.engine.reset(stream, Code::CANCEL, &mut out);
                }
                Event::Refused(fault) => assert!(broken, "{fault:?}"),
                Event::Over(failure) => {
                    assert!(broken, "{failure:?}");
                    self.over = true;
                }
            }
        }
        while let Some(key) = self.engine.writable() {
            self.push(key.id(), now);
        }
        bytes.len() - input.len()
    }

    /// A stream that both sides have ended is given credit for everything.
    fn let_go(&mut self, id: u32) {
        if let Some(half) = self.halves.get_mut(&id).filter(|half| half.finished && half.got_end) {
            self.held -= std::mem::take(&mut half.held);
        }
    }

    fn wait(&mut self, broken: bool, now: Instant) {
        while let Some(event) = self.engine.handle_timeout(&mut Out::new(&mut self.out), now) {
            assert!(broken, "{event:?}");
            match event {
                Event::Reset { stream, .. } => self.kill(stream.id()),
                Event::Over(_) => self.over = true,
                other => panic!("{other:?}"),
            }
        }
    }
}

impl Pair {
    /// Two ends behind the exchange of SETTINGS, with these windows.
    pub fn new(stream_window: u32, connection_window: u32) -> Self {
        let most = u16::MAX;
        let allowance = Allowance {
            resets: most,
            settings: most,
            pings: most,
            empty: most,
            window_updates: most,
            priorities: most,
            continuations: 8,
        };
        let forever = Duration::from_secs(1 << 30);
        let config = Config {
            streams: 10,
            stream_window,
            connection_window: connection_window.max(65_535),
            stall_timeout: forever,
            ping_timeout: forever,
            settings_timeout: forever,
            block_timeout: forever,
            allowance,
            ..Config::default()
        };
        let now = Instant::from_nanos(1);
        let (client, server) = (End::new(Role::Client, &config, now), End::new(Role::Server, &config, now));
        let mut pair = Self { client, server, config, now, broken: false };
        pair.deliver_all();
        assert!(pair.client.engine.is_ready() && pair.server.engine.is_ready());
        pair
    }

    fn end(&mut self, role: Role) -> &mut End {
        if role == Role::Client { &mut self.client } else { &mut self.server }
    }

    fn deliver(&mut self, from: Role, bytes: usize) -> bool {
        let (sender, receiver) = match from {
            Role::Client => (&mut self.client, &mut self.server),
            Role::Server => (&mut self.server, &mut self.client),
        };
        let arrived = bytes.min(sender.out.len());
        let used = receiver.hear(&sender.out[..arrived], &self.config, self.broken, self.now);
        sender.out.drain(..used);
        used > 0
    }

    fn deliver_all(&mut self) {
        // Both, always: `||` would not.
        while self.deliver(Role::Client, usize::MAX) | self.deliver(Role::Server, usize::MAX) {}
    }

    /// Does as it is told.
    pub fn operate(&mut self, operation: Operation) {
        let now = self.now;
        match operation {
            Operation::Request => self.client.request(),
            Operation::Send(role, number, bytes) => {
                let end = self.end(role);
                let Some(id) = end.pick(number) else { return };
                if let Some(half) = end.halves.get_mut(&id).filter(|half| half.finish.is_none()) {
                    half.planned = MOST.min(half.planned + usize::from(bytes));
                }
                end.push(id, now);
            }
            Operation::Answer(number, informational) => {
                if let Some(id) = self.server.pick(number) {
                    self.server.answer(id, informational);
                }
            }
            Operation::Finish(role, number, trailers) => {
                let end = self.end(role);
                let Some(id) = end.pick(number) else { return };
                if let Some(half) = end.halves.get_mut(&id).filter(|half| half.finish.is_none()) {
                    half.finish = Some(trailers);
                }
                end.push(id, now);
            }
            Operation::Reset(role, number) => {
                let end = self.end(role);
                let Some(id) = end.pick(number) else { return };
                let key = end.halves[&id].key;
                end.engine.reset(key, Code::CANCEL, &mut Out::new(&mut end.out));
                end.kill(id);
            }
            Operation::Take(role, number, bytes) => {
                let end = self.end(role);
                if let Some(id) = end.pick(number) {
                    end.take(id, bytes.into());
                }
            }
            Operation::Deliver(role, bytes) => drop(self.deliver(role, bytes.into())),
            Operation::Ping(role) => {
                let end = self.end(role);
                end.engine.ping(&mut Out::new(&mut end.out), now);
            }
            Operation::Leave(role) => {
                let end = self.end(role);
                end.engine.leave(&mut Out::new(&mut end.out), now);
            }
            Operation::Wait(milliseconds) => {
                self.now += Duration::from_millis(milliseconds.into());
                let (broken, now) = (self.broken, self.now);
                self.client.wait(broken, now);
                self.server.wait(broken, now);
            }
            Operation::Corrupt(role, place) => {
                let out = &mut self.end(role).out;
                if let Some(place) = usize::from(place).checked_rem(out.len()) {
                    out[place] ^= 1 << (place % 8);
                    self.broken = true;
                }
            }
        }
    }

    /// Brings everything to its end, and compares with the model.
    pub fn settle(&mut self) {
        for role in [Role::Client, Role::Server] {
            let now = self.now;
            // Everything arrives and is taken, and what waits for that is sent.
            self.deliver_all();
            let end = self.end(role);
            for id in end.halves.keys().copied().collect::<Vec<_>>() {
                end.answer(id, false);
                if let Some(half) = end.halves.get_mut(&id) {
                    half.finish.get_or_insert(id % 4 == 1);
                }
                end.push(id, now);
            }
        }
        loop {
            self.deliver_all();
            for role in [Role::Client, Role::Server] {
                let end = self.end(role);
                for id in end.halves.keys().copied().collect::<Vec<_>>() {
                    end.take(id, usize::MAX);
                }
            }
            if self.client.out.is_empty() && self.server.out.is_empty() || self.broken {
                break;
            }
        }
        if self.broken {
            return;
        }
        for (id, half) in &self.client.halves {
            let Some(other) = self.server.halves.get(id) else {
                assert!(half.dead, "stream {id} was never heard of");
                continue;
            };
            if half.dead || other.dead {
                continue;
            }
            for (from, to) in [(half, other), (other, half)] {
                assert_eq!((from.sent, to.got), (from.planned, from.planned), "stream {id}");
                assert!(from.finished && to.got_end, "stream {id}");
            }
        }
        assert_eq!((self.client.engine.open_streams(), self.server.engine.open_streams()), (0, 0));
        assert!(self.client.engine.footprint() < 40_000 && self.server.engine.footprint() < 40_000);
    }

    /// Behind [`Pair::settle`]: no credit was lost. Each end lets go at least half of the window of the connection,
    /// however much has passed through it.
    pub fn probe(&mut self) {
        let (streams, window) = (self.config.streams, self.config.stream_window as usize);
        if self.broken || self.client.engine.room() < streams {
            return;
        }
        let enough = (self.config.connection_window as usize / 2).min(streams as usize * window);
        let from = self.client.halves.last_key_value().map_or(1, |(last, _)| last + 2);
        (0..streams).for_each(|_| self.client.request());
        self.deliver_all();
        for role in [Role::Client, Role::Server] {
            let (now, end) = (self.now, self.end(role));
            let ids: Vec<u32> = end.halves.range(from..).map(|(&id, _)| id).collect();
            let mut total = 0;
            for id in ids {
                end.answer(id, false);
                end.halves.entry(id).and_modify(|half| half.planned = window);
                end.push(id, now);
                total += end.halves[&id].sent;
            }
            assert!(total >= enough, "{total} of {enough}");
        }
    }
}
