//! A worker in miniature: drives a session as the contract in `evenkeel_wire::session` says, and checks
//! what every session must keep, whatever its peers send.

use core::num::{NonZeroU64, NonZeroU128};
use evenkeel_core::end::{Cause, End};
use evenkeel_core::time::{Duration, Instant};
use evenkeel_wire::out::Out;
use evenkeel_wire::session::{Context, Io, Leave, LinkError, LinkFate, Output, Peer, Protocol, Session};
use evenkeel_wire::session::{Settings, TurnLog};
use evenkeel_wire::trace::NewSpan;

/// Something that happens to a session.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    Client(&'a [u8]),
    ClientEof,
    Opened,
    Failed(Cause),
    Link(&'a [u8]),
    LinkEof,
    Wait(u64),
    Drain,
    Leave(Leave),
}

/// One session and what came of it.
pub struct World {
    session: Session,
    settings: Settings,
    pub peer: Peer,
    now: Instant,
    client_in: Vec<u8>,
    link_in: Vec<u8>,
    /// What the client got.
    pub to_client: Vec<u8>,
    /// What endpoints got, each link's bytes for itself.
    pub links: Vec<Vec<u8>>,
    pending: Vec<u8>,
    linked: bool,
    /// A link is asked for.
    pub wanted: bool,
    /// May a turn that an endpoint refuses be run elsewhere?
    pub may_retry: bool,
    /// The endpoint does not take what is sent to it.
    pub link_backlog: bool,
    /// What a request is called in traces.
    pub span: Option<NewSpan>,
    /// What there was to log of turns.
    pub logs: Vec<TurnLog>,
    /// The last limit that was run into.
    pub limit: Option<evenkeel_core::end::Limit>,
    /// Turns that were.
    pub retries: usize,
    /// Turns that ended with a link that any session may use.
    pub reused: usize,
    /// The client speaks HTTP/2.
    pub http2: bool,
    /// The session is over: why, and whether with a reset.
    pub over: Option<(End, bool)>,
    fed: usize,
    /// So many bytes are passed on unseen where the session allows it, time after time in this order and from the
    /// beginning again; 0: it sees what comes. Empty: it sees everything.
    pub unseen: Vec<u64>,
    /// Where in that order we are.
    next: usize,
    /// Bytes that were.
    pub passed: u64,
}

impl World {
    /// With everything on that a session can do.
    pub fn new(protocol: Protocol) -> Self {
        let mut world =
            Self::with(Settings { protocol, via: Some("evenkeel".into()), log: true, ..Settings::default() });
        let (span_id, trace_id) = (NonZeroU64::MAX, NonZeroU128::MAX);
        world.span = Some(NewSpan { span_id, trace_id, sampled: true });
        world
    }

    pub fn with(settings: Settings) -> Self {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
        let peer = Peer::plain(address, address.into());
        let now = Instant::from_nanos(1_000_000_000);
        let session = Session::new(&Context::new(&settings, &peer, now));
        let mut world = Self {
            session,
            settings,
            peer,
            now,
            client_in: Vec::new(),
            link_in: Vec::new(),
            to_client: Vec::new(),
            links: Vec::new(),
            pending: Vec::new(),
            linked: false,
            wanted: false,
            may_retry: false,
            link_backlog: false,
            span: None,
            logs: Vec::new(),
            limit: None,
            http2: false,
            retries: 0,
            reused: 0,
            over: None,
            fed: 0,
            unseen: Vec::new(),
            next: 0,
            passed: 0,
        };
        world.outputs();
        world
    }

    /// The service is configured anew.
    pub fn change(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
    }

    pub fn happen(&mut self, event: Event<'_>) {
        if self.over.is_some() {
            return;
        }
        match event {
            Event::Client(bytes) => {
                self.fed += bytes.len();
                self.client_in.extend_from_slice(bytes);
            }
            Event::Link(bytes) if self.linked => {
                self.fed += bytes.len();
                self.link_in.extend_from_slice(bytes);
            }
            Event::Link(_) => {}
            Event::ClientEof => {
                self.call(|s, io, c| s.client_eof(io, c));
            }
            Event::Opened if self.wanted => {
                (self.wanted, self.linked) = (false, true);
                self.links.push(std::mem::take(&mut self.pending));
                self.call(|s, io, c| s.link_opened(io, c));
            }
            Event::Failed(cause) if self.wanted || self.linked => {
                (self.wanted, self.linked) = (false, false);
                self.pending.clear();
                self.link_in.clear();
                self.call(|s, io, c| s.link_failed(LinkError::Failed(cause), io, c));
            }
            Event::LinkEof if self.linked => self.call(|s, io, c| s.link_eof(io, c)),
            Event::Opened | Event::Failed(_) | Event::LinkEof => {}
            Event::Wait(millis) => {
                self.now += Duration::from_millis(millis);
                self.call(|s, io, c| s.handle_timeout(io, c));
            }
            Event::Drain => self.call(|s, io, c| s.drain(io, c)),
            Event::Leave(leave) => self.call(|s, io, c| {
                let can = s.can_leave().is_some();
                assert_eq!(s.leave(leave, io, c), can);
            }),
        }
        self.feed();
        self.check();
    }

    /// Offers what is not consumed, as long as the session takes some of it.
    fn feed(&mut self) {
        for _ in 0..10_000 {
            let mut used = 0;
            if self.over.is_none() && !self.client_in.is_empty() && self.session.wants_client() {
                let turn = self.wanted || self.linked;
                used = self.offer(true);
                // A link given back is progress too: the rest is offered again.
                used += usize::from(turn && !self.wanted && !self.linked);
            }
            if self.over.is_none() && self.linked && !self.link_in.is_empty() && self.session.wants_link() {
                used += self.offer(false);
            }
            if used == 0 {
                return;
            }
        }
        panic!("a session that never stops consuming");
    }

    /// Passes on what one side sent without showing it to the session; returns how much.
    fn pass(&mut self, from_client: bool) -> usize {
        let most = self.unseen.get(self.next).copied().unwrap_or_default();
        self.next = (self.next + 1) % self.unseen.len().max(1);
        let input = if from_client { &mut self.client_in } else { &mut self.link_in };
        let may = if from_client { self.session.may_pass_client() } else { self.session.may_pass_link() };
        let n = most.min(may).min(input.len() as u64);
        if n == 0 {
            return 0;
        }
        self.passed += n;
        let bytes: Vec<u8> = input.drain(..n as usize).collect();
        if from_client {
            self.written(Vec::new(), bytes);
            self.call(|s, io, c| s.client_passed(n, io, c));
        } else {
            self.written(bytes, Vec::new());
            self.call(|s, io, c| s.link_passed(n, io, c));
        }
        n as usize
    }

    /// Everything that came of it, for comparison with another.
    pub fn books(&self) -> impl PartialEq + core::fmt::Debug + use<> {
        let heard = (self.to_client.clone(), self.links.clone(), self.pending.clone());
        let counted = (self.logs.clone(), self.limit, self.retries, self.reused, self.over);
        let state = (format!("{:?}", self.session), self.session.poll_timeout(&self.settings));
        (heard, counted, state, (self.client_in.clone(), self.link_in.clone()))
    }

    /// Offers what one side sent; returns how much was used.
    fn offer(&mut self, from_client: bool) -> usize {
        let passed = self.pass(from_client);
        if passed > 0 {
            return passed;
        }
        let input = std::mem::take(if from_client { &mut self.client_in } else { &mut self.link_in });
        let (mut client, mut link) = (Vec::new(), Vec::new());
        let used = {
            let context = Context {
                may_retry: self.may_retry,
                link_backlog: self.link_backlog,
                span: self.span,
                ..Context::new(&self.settings, &self.peer, self.now)
            };
            let mut io = Io { client: Out::new(&mut client), link: Out::new(&mut link) };
            let used = match from_client {
                true => self.session.client_data(&input, &mut io, &context),
                false => self.session.link_data(&input, &mut io, &context),
            };
            io.client.spill();
            io.link.spill();
            used
        };
        let rest = input.get(used..).expect("no more used than offered").to_vec();
        *(if from_client { &mut self.client_in } else { &mut self.link_in }) = rest;
        self.written(client, link);
        self.outputs();
        used
    }

    fn call(&mut self, call: impl FnOnce(&mut Session, &mut Io<'_, '_>, &Context<'_>)) {
        let (mut client, mut link) = (Vec::new(), Vec::new());
        {
            let context = Context {
                may_retry: self.may_retry,
                link_backlog: self.link_backlog,
                span: self.span,
                ..Context::new(&self.settings, &self.peer, self.now)
            };
            let mut io = Io { client: Out::new(&mut client), link: Out::new(&mut link) };
            call(&mut self.session, &mut io, &context);
            io.client.spill();
            io.link.spill();
        }
        self.written(client, link);
        self.outputs();
    }

    fn written(&mut self, client: Vec<u8>, link: Vec<u8>) {
        self.to_client.extend_from_slice(&client);
        match self.links.last_mut() {
            Some(last) if self.linked => last.extend_from_slice(&link),
            _ => self.pending.extend_from_slice(&link),
        }
    }

    fn outputs(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Want(_) => {
                    assert!(!self.wanted && !self.linked, "two links at once");
                    self.wanted = true;
                }
                Output::Turn(end) => {
                    self.logs.extend(end.log.map(|log| *log));
                    if self.linked && end.fate == LinkFate::Reuse {
                        self.reused += 1;
                    }
                    self.linked = self.linked && end.fate == LinkFate::Keep;
                    self.wanted = false;
                    self.pending.clear();
                    self.link_in.clear();
                }
                Output::End { end, abort, .. } => {
                    assert!(self.over.is_none(), "a session ends once");
                    self.over = Some((end, abort));
                }
                Output::Retry => {
                    assert!(self.may_retry && self.linked, "nobody allowed a retry");
                    (self.retries, self.wanted, self.linked) = (self.retries + 1, true, false);
                    // The worker keeps what it sent until the answer begins.
                    self.pending = self.links.last().cloned().unwrap_or_default();
                    self.link_in.clear();
                }
                Output::Limit(limit) => self.limit = Some(limit),
                Output::Http2 => {
                    self.session = Session::http2();
                    self.http2 = true;
                }
                Output::Tunnel(log) => self.logs.extend(log.map(|log| *log)),
                Output::Answered(_) | Output::FinishClient | Output::FinishLink => {}
            }
        }
    }

    /// What is written grows with what was read, never faster: framing and fields of ours are constant
    /// per message, and a message has bytes of its own.
    fn check(&self) {
        let written = self.to_client.len() + self.pending.len() + self.links.iter().map(Vec::len).sum::<usize>();
        assert!(written <= 64 * 1024 + 300 * self.fed, "{written} bytes written after {} read", self.fed);
    }
}
