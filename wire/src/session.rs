//! One client connection as a state machine, and the contract between it and its worker.
//!
//! The worker owns the sockets. It feeds bytes ([`Session::client_data`], [`Session::link_data`]),
//! ends and failures, drains [`Session::poll_output`] after every call, writes what [`Io`] holds,
//! and arms a timer for [`Session::poll_timeout`].
//!
//! Payload that the session passes on as it is need not come through it: [`Session::may_pass_client`] and
//! [`Session::may_pass_link`] say how much of what comes next is that, and the worker, which may then move it
//! inside the kernel, says afterwards how much it was.
//!
//! Unconsumed input is kept by the worker and offered again, with whatever came after it, when the
//! session wants input ([`Session::wants_client`], [`Session::wants_link`]) and there is more of it
//! (or when the session began to want input again, or ended a turn). A session that did not consume
//! the whole input and still wants more needs bytes that have not arrived yet.

pub use crate::engine::Session;
use crate::out::Out;
use crate::trace::{NewSpan, Trace};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::net::SocketAddr;
use evenkeel_core::end::{Cause, End, Limit};
use evenkeel_core::picker::{NoPick, Scope};
use evenkeel_core::time::{Duration, Instant};

/// What clients speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// Look at the first bytes of both sides.
    #[default]
    Auto,
    /// HTTP/1.1, or HTTP/2 from its preface on.
    Http,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Opaque bytes.
    Tcp,
}

/// Where the affinity key comes from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Affinity {
    /// No policy asks for one.
    #[default]
    None,
    /// The client's IP address.
    Source,
    /// A request header, by lower-case name; the source address if it is absent.
    Header(String),
    /// A request cookie; the source address if it is absent.
    Cookie(String),
}

/// What to do with a forwarding field (`X-Forwarded-*`, `Forwarded`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forwarding {
    /// Pass on what came, add nothing.
    Keep,
    /// Append the client to what came.
    Append,
    /// Drop what came, say only what is known here.
    Replace,
    /// Drop what came, add nothing.
    Remove,
}

/// Settings of a service that sessions read; shared by all of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// What clients speak.
    pub protocol: Protocol,
    /// A client that [`Protocol::Auto`] sees beginning like HTTP/2 speaks it; if not, it is opaque.
    pub http2: bool,
    /// Name in `Via`; `None`: no `Via`.
    pub via: Option<String>,
    /// `X-Forwarded-For` and `-Proto`. `-Host` is never added, for `Host` is passed on as it came; with
    /// `Replace` and `Remove` it is dropped.
    pub x_forwarded: Forwarding,
    /// RFC 7239 `Forwarded`.
    pub forwarded: Forwarding,
    /// Tell endpoints the subject of the client's certificate in this field, and drop what clients say there.
    pub client_subject: Option<String>,
    /// Say why in a field on responses that evenkeel made itself.
    pub reason: bool,
    /// Where the affinity key comes from.
    pub affinity: Affinity,
    /// Bytes of a head, start line included.
    pub header_bytes: usize,
    /// Fields of a head.
    pub header_fields: usize,
    /// Bytes of a request target.
    pub uri_bytes: usize,
    /// From accept to the first byte of either side.
    pub first_byte_timeout: Duration,
    /// From the first byte of a head to its end.
    pub header_timeout: Duration,
    /// From the end of the request to the first byte of its response; `None`: for ever.
    pub request_timeout: Option<Duration>,
    /// Bytes of a request body; `None`: any number.
    pub body_bytes: Option<u64>,
    /// Bytes per second of a request body, on the average of ten seconds in which the endpoint was not the
    /// slower one; `None`: any.
    pub body_rate: Option<u64>,
    /// An open session on which nothing is said.
    pub idle_timeout: Duration,
    /// How long `Auto` waits for a client's first byte before it looks at the server's; `None`: it does not, for the
    /// server is known to wait for a request.
    pub detect_timeout: Option<Duration>,
    /// Fill in [`TurnEnd::log`], for turns that are not traced too.
    pub log: bool,
}

impl Default for Settings {
    /// What a service without any configuration has.
    fn default() -> Self {
        Self {
            protocol: Protocol::Auto,
            http2: true,
            via: None,
            x_forwarded: Forwarding::Append,
            forwarded: Forwarding::Keep,
            client_subject: None,
            reason: true,
            affinity: Affinity::None,
            header_bytes: 64 * 1024,
            header_fields: 100,
            uri_bytes: 8 * 1024,
            first_byte_timeout: Duration::from_secs(300),
            header_timeout: Duration::from_secs(10),
            request_timeout: Some(Duration::from_secs(15)),
            body_bytes: None,
            body_rate: None,
            idle_timeout: Duration::from_secs(3600),
            detect_timeout: Some(Duration::from_millis(5)),
            log: false,
        }
    }
}

/// What the worker knows of the client connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The client.
    pub client: SocketAddr,
    /// Our side of its connection, which it has in common with the others of its listener.
    pub local: Arc<SocketAddr>,
    /// `None`: it did not come over TLS.
    pub tls: Option<Box<PeerTls>>,
}

/// What the worker knows of a client's TLS.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerTls {
    /// The subject of its certificate, if it showed one and somebody wants to know.
    pub subject: Option<Box<str>>,
    /// HTTP/2 was agreed on (ALPN).
    pub http2: bool,
}

impl Peer {
    /// A client without TLS.
    pub fn plain(client: SocketAddr, local: Arc<SocketAddr>) -> Self {
        Self { client, local, tls: None }
    }

    /// It speaks HTTP/2 because that was agreed on with us, which says nothing about endpoints.
    pub fn agreed_on_http2(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.http2)
    }
}

/// What every call is given.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The service's settings.
    pub settings: &'a Settings,
    /// The client connection.
    pub peer: &'a Peer,
    /// The time of this turn of the event loop.
    pub now: Instant,
    /// Could the worker still run the turn elsewhere? (Replay complete, budget and attempts left,
    /// and the service retries on 503.) Only then may a session answer [`Output::Retry`].
    pub may_retry: bool,
    /// Bytes wait that the endpoint has not taken: who is slow is not the client.
    pub link_backlog: bool,
    /// What a request that begins in this call is called in traces; another one for each call. `None`:
    /// evenkeel takes no part in them, and passes on what clients say of theirs.
    pub span: Option<NewSpan>,
}

impl<'a> Context<'a> {
    /// In the usual case: nothing can be run elsewhere, nothing waits for the endpoint, nothing is traced.
    pub fn new(settings: &'a Settings, peer: &'a Peer, now: Instant) -> Self {
        Self { settings, peer, now, may_retry: false, link_backlog: false, span: None }
    }
}

/// Where a call writes.
#[derive(Debug)]
pub struct Io<'buf, 'input> {
    /// To the client.
    pub client: Out<'buf, 'input>,
    /// To the link, or, while there is none, to the one that will be found.
    pub link: Out<'buf, 'input>,
}

/// A link is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// For one turn, or for the whole session.
    pub scope: Scope,
    /// Hash of the affinity key, if [`Settings::affinity`] asks for one.
    pub key: Option<u64>,
    /// May the turn be run twice (RFC 9110, section 9.2.2)?
    pub idempotent: bool,
    /// The client offered to switch protocols: if the endpoint agrees, the turn lasts as long as the session.
    pub upgrade: bool,
    /// Only a new link will do. What is not HTTP knows no point between turns, so that a link on which
    /// others were served is none for it; nor could it be run again if the endpoint had just closed that.
    pub fresh: bool,
    /// Only to see whether the server speaks first: a turn from [`Output::Tunnel`] on, and none if that
    /// does not come.
    pub listens: bool,
}

/// What becomes of the link when a turn is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkFate {
    /// At a safe point and clean: any session may use it.
    Reuse,
    /// Clean, but bound to this session (connection-oriented authentication).
    Keep,
    /// Not to be used again.
    Close,
}

/// A turn is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TurnEnd {
    /// What becomes of its link (if it had one).
    pub fate: LinkFate,
    /// The status that the client got, if the protocol has one.
    pub status: Option<u16>,
    /// `None`: it went well. Else whose doing, and how far it had come.
    pub failure: Option<End>,
    /// For access log and trace, if one of them wants it.
    pub log: Option<Box<TurnLog>>,
}

/// What access log and trace say of a turn, beyond what the worker knows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TurnLog {
    /// Request method.
    pub method: String,
    /// Request target as received.
    pub target: String,
    /// `Host`.
    pub host: String,
    /// `User-Agent`.
    pub user_agent: String,
    /// The version of HTTP that the client speaks.
    pub version: &'static str,
    /// W3C `traceparent` as the endpoint got it.
    pub traceparent: String,
    /// Its place in a trace, if evenkeel takes part in traces.
    pub trace: Option<Trace>,
    /// How it went, if it was a call of gRPC.
    pub grpc_status: Option<u8>,
    /// Body bytes from the client.
    pub received: u64,
    /// Body bytes to the client.
    pub sent: u64,
}

/// What a session wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Find a link; bytes for it may already wait in [`Io::link`]. Answered by
    /// [`Session::link_opened`] or [`Session::link_failed`].
    Want(Want),
    /// The first byte of the final answer arrived (status if the protocol has one): the time to
    /// first byte ends here.
    Answered(Option<u16>),
    /// The endpoint refused the turn unrun: drop this link, run it elsewhere from the replay.
    Retry,
    /// The turn became a tunnel that lasts as long as the session (HTTP upgrade, CONNECT, what began as a
    /// [link to listen on](Want::listens)). With what there is to log of it: its [`TurnEnd`] has nothing to add to that.
    Tunnel(Option<Box<TurnLog>>),
    /// The client speaks HTTP/2: its bytes, of which none was used, are for a
    /// [`Connection`](crate::http2::connection::Connection), and the session is to be [`Session::http2`] from here on.
    Http2,
    /// Somebody ran into this limit, which ends the turn or the session.
    Limit(Limit),
    /// The turn is over; a new one may follow.
    Turn(TurnEnd),
    /// The client will get no more bytes after those in [`Io::client`]; it may still send.
    FinishClient,
    /// The link will get no more bytes after those in [`Io::link`]; it may still send.
    FinishLink,
    /// The session is over: write what is left for the client, then close. A link it still has is
    /// closed, not reused. `abort`: the client must see a broken connection, not a clean end.
    End {
        /// Why.
        end: End,
        /// Reset instead of FIN, so that a truncated answer cannot pass as complete.
        abort: bool,
        /// The client may still be sending: read and drop that for a while after the FIN, or the
        /// reset that answers it could take the last answer away from the client.
        linger: bool,
    },
}

/// Why a session is to end, or to go on elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Leave {
    /// The process leaves.
    Shutdown,
    /// Its endpoint has more than its share.
    Move,
    /// Its endpoint leaves.
    EndpointDrained,
}

impl Leave {
    /// Every value, in order of declaration.
    pub const ALL: [Self; 3] = [Self::Shutdown, Self::Move, Self::EndpointDrained];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Move => "moved",
            Self::EndpointDrained => "endpoint-drained",
        }
    }
}

/// Why a link could not be had, or broke.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkError {
    /// No endpoint.
    NoEndpoint(NoPick),
    /// Queue full or waited too long in it.
    Overload,
    /// Endpoints refused to look at it.
    Refused,
    /// So many sessions begin that this one must come back after so many seconds.
    Later(u32),
    /// Anything with a cause of its own: connect-failed, connect-timeout, endpoint-closed …
    Failed(Cause),
}

/// Why a timeout was armed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The client has not said anything yet; look at the server.
    Detect,
    /// A head is due.
    Head,
    /// Some of a request body is due.
    Body,
    /// A response is due.
    Response,
    /// Nothing was said for too long.
    Idle,
    /// A peer was asked to end the session, or is to be.
    Farewell,
}
