//! The session: detection, then HTTP/1.1 or a relay, and the outputs that they share.

use crate::detect::{Verdict, detect, opens_http2};
use crate::http1::{self, Http1};
use crate::http2::forward::Answer;
use crate::session::{Context, Io, Leave, LinkError, LinkFate, Output, Protocol, Reason};
use crate::session::{Settings, TurnEnd, TurnLog, Want};
use crate::tunnel::Tunnel;
use crate::websocket::WebSocket;
use alloc::boxed::Box;
use evenkeel_core::end::{Cause, End, Limit, Phase};
use evenkeel_core::hash::hash;
use evenkeel_core::picker::Scope;
use evenkeel_core::time::{Duration, Instant};

pub use crate::session::Affinity;

/// One client connection as a state machine; see [`crate::session`] for the contract.
#[derive(Debug)]
pub struct Session {
    engine: Engine,
    outputs: Outputs,
}

/// Every session has one, idle or not: what a protocol needs only during a turn belongs into a box.
#[derive(Debug)]
enum Engine {
    Detect(Detect),
    Http1(Http1),
    Tunnel(Tunnel),
    WebSocket(WebSocket),
    /// Its streams are turns of their own, which are looked after elsewhere.
    Http2,
    Refused(Refused),
    Over(Phase),
}

const _: () = assert!(size_of::<Session>() <= 56, "an idle session: see Memory in docs/performance.md");

/// A client that cannot be served. If it speaks HTTP it is told so; whoever says nothing for
/// [`REFUSAL`] is not.
#[derive(Debug)]
struct Refused {
    since: Instant,
}

/// How the session of such a client ends.
const REFUSED: End = End { cause: Cause::Overload, phase: Phase::Detect };

/// How long a client that cannot be served may take to say what it speaks.
const REFUSAL: Duration = Duration::from_secs(1);

/// The client has not shown what it speaks.
#[derive(Debug)]
struct Detect {
    since: Instant,
    /// Bytes were seen that may become a request line.
    undecided: bool,
    /// A link was asked for, to see whether the server speaks first.
    asked: bool,
    /// It is there.
    linked: bool,
    /// The server spoke first, but HTTP/2: the client has to say whether it does. That link is of no use to others.
    http2: bool,
}

impl Session {
    /// A session whose client just connected.
    pub fn new(context: &Context<'_>) -> Self {
        let mut outputs = Outputs::default();
        let engine = match context.settings.protocol {
            _ if context.peer.tls.as_ref().is_some_and(|tls| tls.http2) => Self::found_http2(&mut outputs),
            Protocol::Auto => Engine::Detect(Detect {
                since: context.now,
                undecided: false,
                asked: false,
                linked: false,
                http2: false,
            }),
            Protocol::Http | Protocol::Http1 => Engine::Http1(Http1::new(context.now)),
            Protocol::Http2 => Self::found_http2(&mut outputs),
            Protocol::Tcp => {
                outputs.want(session_want(context));
                Engine::Tunnel(Tunnel::new(None, false, context.now))
            }
        };
        Self { engine, outputs }
    }

    /// A session of HTTP/2: what happens in it is told to its connection, and its streams, not to this.
    pub fn http2() -> Self {
        Self { engine: Engine::Http2, outputs: Outputs::default() }
    }

    fn found_http2(outputs: &mut Outputs) -> Engine {
        outputs.http2();
        Engine::Over(Phase::Detect)
    }

    /// A session of which nothing is known yet: its connection has not come through TLS, or what else
    /// stands before its protocol. To be replaced by a new one then.
    pub fn arriving() -> Self {
        Self { engine: Engine::Over(Phase::Handshake), outputs: Outputs::default() }
    }

    /// A session that there is no room for: an HTTP client gets 503, every other is closed.
    pub fn refused(context: &Context<'_>) -> Self {
        let mut session = Self { engine: Engine::Refused(Refused { since: context.now }), outputs: Outputs::default() };
        if context.settings.protocol == Protocol::Tcp {
            session.over(REFUSED);
        }
        session
    }

    /// Bytes from the client; returns how many were used. The rest is to be offered again.
    pub fn client_data<'i>(&mut self, input: &'i [u8], io: &mut Io<'_, 'i>, context: &Context<'_>) -> usize {
        match &mut self.engine {
            Engine::Detect(detection) => {
                let link = (detection.asked, detection.linked && !detection.http2);
                let http2 = detection.http2;
                match detect(input) {
                    Verdict::Undecided => {
                        detection.undecided = true;
                        return 0;
                    }
                    Verdict::Http1 => {
                        self.become_http1(link, context);
                        if link.0 {
                            // The link goes back before the request asks for one of its own.
                            return 0;
                        }
                    }
                    Verdict::Http2 if context.settings.http2 => {
                        self.unask(link);
                        self.engine = Self::found_http2(&mut self.outputs);
                        return 0;
                    }
                    Verdict::Http2 | Verdict::Opaque if http2 => {
                        self.unask(link);
                        self.become_tunnel(false, context);
                    }
                    Verdict::Http2 | Verdict::Opaque => self.become_tunnel(link.0, context),
                    Verdict::Proxy => {
                        self.unask(link);
                        self.over(End { cause: Cause::ClientProtocol, phase: Phase::Detect });
                        return input.len();
                    }
                }
                self.client_data(input, io, context)
            }
            Engine::Http1(http) => http.client_data(input, io, &mut self.outputs, context),
            Engine::Tunnel(tunnel) => tunnel.client_data(input, io, context),
            Engine::WebSocket(socket) => socket.client_data(input, io, &mut self.outputs, context),
            Engine::Refused(_) => match detect(input) {
                Verdict::Undecided => 0,
                Verdict::Opaque | Verdict::Http2 | Verdict::Proxy => {
                    self.over(REFUSED);
                    input.len()
                }
                Verdict::Http1 => {
                    http1::refuse_session(io.client.spill(), REFUSED, context.settings);
                    self.outputs.end(REFUSED, false, true);
                    self.engine = Engine::Over(REFUSED.phase);
                    input.len()
                }
            },
            Engine::Http2 => 0,
            Engine::Over(_) => input.len(),
        }
    }

    /// How many of the next bytes from the client are payload that goes to the link as it is, so that nobody
    /// needs to look at it: the worker may see to that by itself, and say so ([`Session::client_passed`]). Holds
    /// while nothing waits that was offered and not used.
    #[inline]
    pub fn may_pass_client(&self) -> u64 {
        match &self.engine {
            Engine::Http1(http) => http.may_pass_client(),
            Engine::Tunnel(_) => u64::MAX,
            Engine::WebSocket(socket) => socket.may_pass_client(),
            Engine::Detect(_) | Engine::Http2 | Engine::Refused(_) | Engine::Over(_) => 0,
        }
    }

    /// So many bytes from the client, at most as many as may, are on their way to the link. What is in `io` after
    /// that comes behind them.
    pub fn client_passed(&mut self, n: u64, io: &mut Io<'_, '_>, context: &Context<'_>) {
        debug_assert!(n <= self.may_pass_client());
        match &mut self.engine {
            Engine::Http1(http) => http.client_passed(n, io, &mut self.outputs, context),
            Engine::Tunnel(tunnel) => tunnel.client_passed(context),
            Engine::WebSocket(socket) => socket.client_passed(n, &mut self.outputs, context),
            Engine::Detect(_) | Engine::Http2 | Engine::Refused(_) | Engine::Over(_) => {}
        }
    }

    /// The client will send no more.
    pub fn client_eof(&mut self, _io: &mut Io<'_, '_>, context: &Context<'_>) {
        match self.engine {
            Engine::Detect(Detect { asked, http2: true, .. }) => self.unask((asked, false)),
            // The server may still have something to say.
            Engine::Detect(Detect { asked: true, .. }) => self.become_tunnel(true, context),
            _ => {}
        }
        match &mut self.engine {
            Engine::Detect(_) => self.over(End { cause: Cause::Done, phase: Phase::Detect }),
            Engine::Http1(http) => http.client_eof(&mut self.outputs, context),
            Engine::Tunnel(tunnel) => tunnel.client_eof(&mut self.outputs, context),
            Engine::WebSocket(socket) => socket.client_eof(&mut self.outputs, context),
            Engine::Refused(_) => self.over(REFUSED),
            Engine::Http2 | Engine::Over(_) => {}
        }
    }

    /// The link that was wanted is there.
    pub fn link_opened(&mut self, _io: &mut Io<'_, '_>, context: &Context<'_>) {
        match &mut self.engine {
            Engine::Detect(detection) => detection.linked = true,
            Engine::Http1(http) => http.link_opened(context),
            Engine::Tunnel(_) | Engine::WebSocket(_) | Engine::Http2 | Engine::Refused(_) | Engine::Over(_) => {}
        }
    }

    /// Bytes from the endpoint; returns how many were used. The rest is to be offered again.
    pub fn link_data<'i>(&mut self, input: &'i [u8], io: &mut Io<'_, 'i>, context: &Context<'_>) -> usize {
        match &mut self.engine {
            Engine::Detect(detection) => {
                if detection.http2 || (context.settings.http2 && opens_http2(input)) {
                    detection.http2 = true;
                    return input.len();
                }
                self.become_tunnel(true, context);
                self.link_data(input, io, context)
            }
            Engine::Http1(http) => {
                let used = http.link_data(input, io, &mut self.outputs, context);
                let Some(upgraded) = http.upgraded() else { return used };
                self.engine = if upgraded.websocket {
                    Engine::WebSocket(WebSocket::new(upgraded.client_eof, context.now))
                } else {
                    Engine::Tunnel(Tunnel::new(Some(101), upgraded.client_eof, context.now))
                };
                used + self.link_data(&input[used..], io, context)
            }
            _ if input.is_empty() => 0,
            Engine::Tunnel(tunnel) => tunnel.link_data(input, io, &mut self.outputs, context),
            Engine::WebSocket(socket) => socket.link_data(input, io, &mut self.outputs, context),
            Engine::Http2 | Engine::Refused(_) | Engine::Over(_) => input.len(),
        }
    }

    /// A part of the answer to a turn that is a stream of a shared link ([`Upload`](http1::Upload)). What is wrong
    /// with it is said as if the link had failed.
    pub fn stream_fields(&mut self, answer: &Answer<'_>, io: &mut Io<'_, '_>, context: &Context<'_>) {
        if let Engine::Http1(http) = &mut self.engine {
            http.stream_fields(answer, io, &mut self.outputs, context);
        }
    }

    /// Some of its content; `end`: it is the last.
    pub fn stream_data<'i>(&mut self, data: &'i [u8], end: bool, io: &mut Io<'_, 'i>, context: &Context<'_>) {
        if let Engine::Http1(http) = &mut self.engine {
            http.stream_data(data, end, io, &mut self.outputs, context);
        }
    }

    /// The same as [`Session::may_pass_client`], for what comes from the link.
    #[inline]
    pub fn may_pass_link(&self) -> u64 {
        match &self.engine {
            Engine::Http1(http) => http.may_pass_link(),
            Engine::Tunnel(_) => u64::MAX,
            Engine::WebSocket(socket) => socket.may_pass_link(),
            Engine::Detect(_) | Engine::Http2 | Engine::Refused(_) | Engine::Over(_) => 0,
        }
    }

    /// So many bytes from the link are on their way to the client, as in [`Session::client_passed`].
    pub fn link_passed(&mut self, n: u64, io: &mut Io<'_, '_>, context: &Context<'_>) {
        debug_assert!(n <= self.may_pass_link());
        match &mut self.engine {
            Engine::Http1(http) => http.link_passed(n, &mut self.outputs, context),
            Engine::Tunnel(tunnel) => tunnel.link_passed(&mut self.outputs, context),
            Engine::WebSocket(socket) => socket.link_passed(n, io, &mut self.outputs, context),
            Engine::Detect(_) | Engine::Http2 | Engine::Refused(_) | Engine::Over(_) => {}
        }
    }

    /// The endpoint will send no more.
    pub fn link_eof(&mut self, io: &mut Io<'_, '_>, context: &Context<'_>) {
        match &mut self.engine {
            Engine::Detect(detection) if detection.http2 => {
                // It waited for the client for as long as it would.
                (detection.asked, detection.linked, detection.undecided) = (false, false, true);
                self.unask((true, false));
            }
            Engine::Detect(_) => {
                self.become_tunnel(true, context);
                self.link_eof(io, context);
            }
            Engine::Http1(http) => http.link_eof(io, &mut self.outputs, context),
            Engine::Tunnel(tunnel) => tunnel.link_eof(&mut self.outputs, context),
            Engine::WebSocket(socket) => socket.link_eof(io, &mut self.outputs, context),
            Engine::Http2 | Engine::Refused(_) | Engine::Over(_) => {}
        }
    }

    /// The link could not be had, or broke.
    pub fn link_failed(&mut self, error: LinkError, io: &mut Io<'_, '_>, context: &Context<'_>) {
        match &mut self.engine {
            // No server to look at: that can wait until the client says something.
            Engine::Detect(detection) => {
                self.outputs.turn(TurnEnd {
                    fate: LinkFate::Close,
                    status: None,
                    failure: Some(End { cause: error.cause(), phase: Phase::Detect }),
                    log: None,
                });
                (detection.asked, detection.linked) = (false, false);
                // Ask again when the client has been silent for the idle timeout: it is gone then.
                detection.undecided = true;
            }
            Engine::Http1(http) => http.link_failed(error, io, &mut self.outputs, context),
            Engine::Tunnel(tunnel) => tunnel.link_failed(error, &mut self.outputs),
            Engine::WebSocket(socket) => socket.link_failed(error, io, &mut self.outputs, context),
            Engine::Http2 | Engine::Refused(_) | Engine::Over(_) => {}
        }
    }

    /// The process leaves: an HTTP session ends with its present turn, or now if it has none; a WebSocket
    /// session is asked to go.
    pub fn drain(&mut self, io: &mut Io<'_, '_>, context: &Context<'_>) {
        match &mut self.engine {
            Engine::Detect(Detect { asked: false, .. }) => {
                self.over(End { cause: Cause::Shutdown, phase: Phase::Detect });
            }
            Engine::Http1(http) => http.drain(&mut self.outputs),
            Engine::WebSocket(socket) => socket.leave(Leave::Shutdown, io, &mut self.outputs, context),
            Engine::Refused(_) => self.over(REFUSED),
            Engine::Detect(_) | Engine::Tunnel(_) | Engine::Http2 | Engine::Over(_) => {}
        }
    }

    /// Asks a session that stays with its endpoint to go; it then ends with an [`Output::End`], by its
    /// protocol's means. False: its protocol has none, or it is going already.
    pub fn leave(&mut self, leave: Leave, io: &mut Io<'_, '_>, context: &Context<'_>) -> bool {
        match &mut self.engine {
            Engine::WebSocket(socket) if !socket.is_leaving() => {
                socket.leave(leave, io, &mut self.outputs, context);
                true
            }
            _ => false,
        }
    }

    /// Can the session be asked to go ([`Session::leave`])? `Some(true)`: now, without waiting for the end
    /// of a message.
    pub fn can_leave(&self) -> Option<bool> {
        match &self.engine {
            Engine::WebSocket(socket) if !socket.is_leaving() => Some(socket.is_between_messages()),
            _ => None,
        }
    }

    /// Since when nothing has been said, for sessions that can be asked to go; the others: the origin.
    pub fn quiet_since(&self) -> Instant {
        match &self.engine {
            Engine::WebSocket(socket) => socket.quiet_since(),
            _ => Instant::ZERO,
        }
    }

    /// What there is to log of the turn under way, for a session that is ended from outside.
    pub fn take_log(&mut self) -> Option<Box<TurnLog>> {
        match &mut self.engine {
            Engine::Http1(http) => http.take_log(),
            _ => None,
        }
    }

    /// Acts on what is due.
    pub fn handle_timeout(&mut self, io: &mut Io<'_, '_>, context: &Context<'_>) {
        match &mut self.engine {
            Engine::Detect(detection) => {
                if detection.timeout(context.settings).0 > context.now {
                } else if detection.undecided {
                    self.outputs.limit(Limit::HeaderTime);
                    self.over(End { cause: Cause::ClientTimeout, phase: Phase::Detect });
                } else if !detection.asked && context.settings.detect_timeout.is_none() {
                    self.outputs.limit(Limit::FirstByte);
                    self.over(End { cause: Cause::Idle, phase: Phase::Detect });
                } else if detection.asked {
                    self.outputs.limit(Limit::FirstByte);
                    self.outputs.turn(TurnEnd { fate: LinkFate::Close, status: None, failure: None, log: None });
                    self.over(End { cause: Cause::Idle, phase: Phase::Detect });
                } else {
                    detection.asked = true;
                    self.outputs.want(Want { listens: true, ..session_want(context) });
                }
            }
            Engine::Http1(http) => http.handle_timeout(io, &mut self.outputs, context),
            Engine::Tunnel(tunnel) => tunnel.handle_timeout(&mut self.outputs, context),
            Engine::WebSocket(socket) => socket.handle_timeout(io, &mut self.outputs, context),
            Engine::Refused(refused) if refused.since + REFUSAL <= context.now => self.over(REFUSED),
            Engine::Http2 | Engine::Refused(_) | Engine::Over(_) => {}
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.next()
    }

    /// When [`Session::handle_timeout`] has something to do, and why.
    pub fn poll_timeout(&self, settings: &Settings) -> Option<(Instant, Reason)> {
        match &self.engine {
            Engine::Detect(detection) => Some(detection.timeout(settings)),
            Engine::Http1(http) => http.timeout(settings),
            Engine::Tunnel(tunnel) => Some(tunnel.timeout(settings)),
            Engine::WebSocket(socket) => Some(socket.timeout(settings)),
            Engine::Refused(refused) => Some((refused.since + REFUSAL, Reason::Head)),
            Engine::Http2 | Engine::Over(_) => None,
        }
    }

    /// Can bytes from the client be used now?
    pub fn wants_client(&self) -> bool {
        match &self.engine {
            Engine::Detect(_) | Engine::Refused(_) => true,
            Engine::Http1(http) => http.wants_client(),
            Engine::Tunnel(tunnel) => tunnel.wants_client(),
            Engine::WebSocket(socket) => socket.wants_client(),
            Engine::Http2 | Engine::Over(_) => false,
        }
    }

    /// Can bytes from the link be used now?
    pub fn wants_link(&self) -> bool {
        match &self.engine {
            Engine::Detect(detection) => detection.linked,
            Engine::Http1(http) => http.wants_link(),
            Engine::Tunnel(tunnel) => tunnel.wants_link(),
            Engine::WebSocket(socket) => socket.wants_link(),
            Engine::Http2 | Engine::Refused(_) | Engine::Over(_) => false,
        }
    }

    /// How far the session, or its present turn, has come.
    pub fn phase(&self) -> Phase {
        match &self.engine {
            Engine::Detect(_) | Engine::Refused(_) => Phase::Detect,
            Engine::Http1(http) => http.phase(),
            Engine::Tunnel(_) | Engine::WebSocket(_) => Phase::Relay,
            // Streams have phases of their own.
            Engine::Http2 => Phase::Idle,
            Engine::Over(phase) => *phase,
        }
    }

    /// What the client speaks, as far as known.
    pub fn protocol(&self) -> &'static str {
        match &self.engine {
            Engine::Detect(_) | Engine::Refused(_) | Engine::Over(_) => "unknown",
            Engine::Http1(_) => "http/1.1",
            Engine::Tunnel(_) => "tcp",
            Engine::WebSocket(_) => "websocket",
            Engine::Http2 => "http/2",
        }
    }

    /// A link was opened in vain. If it is still opening, somebody else can have it.
    fn unask(&mut self, (asked, linked): (bool, bool)) {
        if asked {
            let fate = if linked { LinkFate::Reuse } else { LinkFate::Close };
            self.outputs.turn(TurnEnd { fate, status: None, failure: None, log: None });
        }
    }

    fn become_http1(&mut self, link: (bool, bool), context: &Context<'_>) {
        self.unask(link);
        self.engine = Engine::Http1(Http1::new(context.now));
    }

    fn become_tunnel(&mut self, asked: bool, context: &Context<'_>) {
        if asked {
            self.outputs.tunnel(None);
        } else {
            self.outputs.want(session_want(context));
        }
        self.engine = Engine::Tunnel(Tunnel::new(None, false, context.now));
    }

    /// The session is over, and there is nothing to say.
    fn over(&mut self, end: End) {
        self.outputs.end(end, false, false);
        self.engine = Engine::Over(end.phase);
    }
}

impl Detect {
    fn timeout(&self, settings: &Settings) -> (Instant, Reason) {
        match settings.detect_timeout {
            _ if self.asked => (self.since + settings.first_byte_timeout, Reason::Idle),
            _ if self.undecided => (self.since + settings.header_timeout, Reason::Head),
            Some(timeout) => (self.since + timeout, Reason::Detect),
            None => (self.since + settings.first_byte_timeout, Reason::Idle),
        }
    }
}

fn session_want(context: &Context<'_>) -> Want {
    let key = match context.settings.affinity {
        Affinity::None => None,
        _ => Some(source_key(context)),
    };
    Want { scope: Scope::Session, key, idempotent: false, upgrade: false, fresh: true, listens: false }
}

/// The affinity key of a client address.
pub(crate) fn source_key(context: &Context<'_>) -> u64 {
    match context.peer.client.ip() {
        core::net::IpAddr::V4(ip) => hash(&ip.octets()),
        core::net::IpAddr::V6(ip) => hash(&ip.octets()),
    }
}

impl LinkError {
    /// Whose doing it was.
    pub fn cause(self) -> Cause {
        match self {
            Self::NoEndpoint(_) => Cause::NoEndpoint,
            Self::Overload | Self::Later(_) => Cause::Overload,
            Self::Refused => Cause::EndpointClosed,
            Self::Failed(cause) => cause,
        }
    }
}

/// Outputs that wait to be polled. A session has some for the moment between a call and the end of its
/// polling, and room for them only then: the same room, most often, that the session before it had.
#[derive(Debug, Default)]
pub(crate) struct Outputs(Option<Box<Waiting>>);

/// At most one of a kind, always in the order of [`Kind`].
#[derive(Debug, Default)]
struct Waiting {
    /// A bit for each kind that waits.
    kinds: u16,
    answered: Option<u16>,
    tunnel: Option<Box<TurnLog>>,
    limit: Option<Limit>,
    turn: Option<TurnEnd>,
    want: Option<Want>,
    end: Option<(End, bool, bool)>,
}

#[derive(Clone, Copy)]
enum Kind {
    Retry,
    Answered,
    Tunnel,
    Limit,
    FinishClient,
    FinishLink,
    Turn,
    Want,
    Http2,
    End,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Retry,
        Self::Answered,
        Self::Tunnel,
        Self::Limit,
        Self::FinishClient,
        Self::FinishLink,
        Self::Turn,
        Self::Want,
        Self::Http2,
        Self::End,
    ];
}

impl Outputs {
    #[inline]
    fn wait(&mut self, kind: Kind) -> &mut Waiting {
        let waiting = self.0.get_or_insert_default();
        waiting.kinds |= 1 << kind as u16;
        waiting
    }

    pub(crate) fn retry(&mut self) {
        self.wait(Kind::Retry);
    }

    pub(crate) fn answered(&mut self, status: Option<u16>) {
        self.wait(Kind::Answered).answered = status;
    }

    pub(crate) fn tunnel(&mut self, log: Option<Box<TurnLog>>) {
        self.wait(Kind::Tunnel).tunnel = log;
    }

    pub(crate) fn limit(&mut self, limit: Limit) {
        self.wait(Kind::Limit).limit = Some(limit);
    }

    pub(crate) fn finish_client(&mut self) {
        self.wait(Kind::FinishClient);
    }

    pub(crate) fn finish_link(&mut self) {
        self.wait(Kind::FinishLink);
    }

    /// The turn is over. If its link was not even asked for, nobody needs to know.
    pub(crate) fn turn(&mut self, end: TurnEnd) {
        if let Some(waiting) = self.0.as_mut().filter(|waiting| waiting.want.is_some()) {
            waiting.want = None;
            waiting.kinds &= !(1 << Kind::Want as u16);
        } else {
            self.wait(Kind::Turn).turn = Some(end);
        }
    }

    pub(crate) fn want(&mut self, want: Want) {
        self.wait(Kind::Want).want = Some(want);
    }

    pub(crate) fn http2(&mut self) {
        self.wait(Kind::Http2);
    }

    pub(crate) fn end(&mut self, end: End, abort: bool, linger: bool) {
        self.wait(Kind::End).end = Some((end, abort, linger));
    }

    #[inline]
    fn next(&mut self) -> Option<Output> {
        let next = self.0.as_mut()?.next();
        if next.is_none() {
            self.0 = None;
        }
        next
    }
}

impl Waiting {
    #[inline]
    fn next(&mut self) -> Option<Output> {
        let first = *Kind::ALL.get(self.kinds.trailing_zeros() as usize)?;
        self.kinds &= self.kinds - 1;
        match first {
            Kind::Retry => Some(Output::Retry),
            Kind::Answered => Some(Output::Answered(self.answered)),
            Kind::Tunnel => Some(Output::Tunnel(self.tunnel.take())),
            Kind::Limit => self.limit.map(Output::Limit),
            Kind::FinishClient => Some(Output::FinishClient),
            Kind::FinishLink => Some(Output::FinishLink),
            Kind::Turn => self.turn.take().map(Output::Turn),
            Kind::Want => self.want.take().map(Output::Want),
            Kind::Http2 => Some(Output::Http2),
            Kind::End => self.end.map(|(end, abort, linger)| Output::End { end, abort, linger }),
        }
    }
}
