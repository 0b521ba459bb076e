//! Configuration, checked: every value in range, every default filled in.

mod network;
mod parse;
mod read;
mod reference;
mod tls;
mod tracing;

pub(crate) use self::read::near;

pub use self::network::Network;
pub use self::parse::{DEFAULT_ADMIN, load, parse, policy};
pub use self::read::{Problem, Problems};
pub use self::reference::reference;
pub use self::tracing::{Collector, Tracing};
pub use evenkeel_core::balancer::Policy;

use evenkeel_core::address::Address;
use evenkeel_core::balancer;
use evenkeel_upstream::check;
use evenkeel_upstream::target::Target;
use evenkeel_wire::edge::ProxyVersion;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything one proxy process does.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Name of this evenkeel in `Via`, logs and rank order.
    pub name: String,
    /// Where the admin API listens; `None`: nowhere.
    pub admin: Option<SocketAddr>,
    /// Worker threads; `None`: as many as the CPUs the cgroup grants.
    pub workers: Option<usize>,
    /// How the process leaves.
    pub drain: Drain,
    /// Access log; `None`: off.
    pub access_log: Option<AccessLog>,
    /// Spans of turns; `None`: off.
    pub tracing: Option<Tracing>,
    /// The services, by name, each name once.
    pub services: Vec<Service>,
}

/// How the process leaves.
#[derive(Clone, PartialEq, Debug)]
pub struct Drain {
    /// From SIGTERM to the last cut.
    pub grace: Duration,
    /// The part of it in which only readiness has turned, and clients are still accepted. At most half of it.
    pub delay: Duration,
}

/// Access log format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessLog {
    /// One line of text.
    Text,
    /// One JSON object a line.
    Json,
}

/// What clients speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// Look at the first bytes of both sides.
    #[default]
    Auto,
    /// HTTP/1.1, or HTTP/2 by prior knowledge.
    Http,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, and gRPC with it.
    Http2,
    /// Opaque bytes.
    Tcp,
}

impl Protocol {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Http => "http",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tcp => "tcp",
        }
    }
}

/// What endpoints speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UpstreamProtocol {
    /// What their client speaks; HTTP/2 if the service is of HTTP/2.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// One service.
#[derive(Clone, PartialEq, Debug)]
pub struct Service {
    /// Its name, unique.
    pub name: String,
    /// Where clients connect (port 0 works); at least one.
    pub listen: Vec<Address>,
    /// Where its endpoints come from; at least one.
    pub targets: Vec<Target>,
    /// What clients speak.
    pub protocol: Protocol,
    /// Clients come over TLS that ends here; `None`: they do not.
    pub tls: Option<ServerTls>,
    /// Only TLS clients that ask for one of these names; several services may then share an address.
    /// Empty: everybody.
    pub sni: Vec<String>,
    /// Clients from here begin with a PROXY header.
    pub accept_proxy: Vec<Network>,
    /// The upstream side.
    pub upstream: Upstream,
    /// Which endpoint.
    pub balance: Balance,
    /// Active and passive health (passive: in `balance.core.outlier`).
    pub check: Option<check::Config>,
    /// Trying again.
    pub retry: Retry,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How much there may be.
    pub limits: Limits,
    /// What HTTP messages look like on the other side.
    pub http: Http,
    /// `grpc.health.v1` is answered here, and does not pass.
    pub grpc_health: bool,
}

/// The upstream side.
#[derive(Clone, PartialEq, Debug)]
pub struct Upstream {
    /// What endpoints speak, if it is HTTP.
    pub protocol: UpstreamProtocol,
    /// How old an HTTP/2 connection to an endpoint may become, give or take a tenth; `None`: any age.
    pub max_age: Option<Duration>,
    /// From the first SYN to an established connection.
    pub connect_timeout: Duration,
    /// Idle pooled connections per worker and endpoint.
    pub max_idle: usize,
    /// An idle pooled connection is closed after this.
    pub idle_timeout: Duration,
    /// Endpoints are spoken to over TLS; `None`: they are not.
    pub tls: Option<ClientTls>,
    /// Connections begin with a PROXY header that names the client.
    pub send_proxy: Option<ProxyVersion>,
    /// How long the sessions of an endpoint that leaves may stay.
    pub drain_grace: Duration,
    /// Connections per worker and endpoint; turns wait beyond. `None`: as many as there are sessions.
    pub max_connections: Option<usize>,
}

/// TLS with clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerTls {
    /// At least one; the first is for clients that name none of the others.
    pub certs: Vec<CertFiles>,
    /// Who signs the certificates of clients; `None`: they need none.
    pub client_ca: Option<PathBuf>,
    /// Must clients have one?
    pub client_auth: ClientAuth,
    /// The request field that tells endpoints the subject of the client's certificate.
    pub client_header: Option<String>,
    /// Older versions are refused.
    pub min_version: TlsVersion,
}

/// A certificate chain and its key, PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertFiles {
    /// The chain, its own certificate first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Must clients have a certificate?
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ClientAuth {
    /// Yes.
    #[default]
    Required,
    /// If they have one it must be good.
    Optional,
}

/// A version of TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    V12,
    /// TLS 1.3.
    V13,
}

/// TLS with endpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientTls {
    /// Who signs their certificates; `None`: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// The name that is asked for and that the certificate must have; `None`: that of the target, or the
    /// address.
    pub sni: Option<String>,
    /// Are certificates looked at?
    pub verify: bool,
    /// Our own.
    pub cert: Option<CertFiles>,
}

impl Default for ClientTls {
    /// With the system's roots; names are checked.
    fn default() -> Self {
        Self { ca: None, sni: None, verify: true, cert: None }
    }
}

impl ClientTls {
    /// Makes relative paths relative to `directory`.
    fn resolve(&mut self, directory: &Path) {
        let own = self.cert.as_mut().map(|files| [&mut files.cert, &mut files.key]);
        own.into_iter().flatten().chain(&mut self.ca).for_each(|path| *path = directory.join(&*path));
    }
}

/// Which endpoint.
#[derive(Clone, PartialEq, Debug)]
pub struct Balance {
    /// The balancer's settings.
    pub core: balancer::Config,
    /// Where the affinity key for `ring-hash` and `maglev` comes from.
    pub affinity: Affinity,
}

/// Where the affinity key comes from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Affinity {
    /// The client's IP address.
    #[default]
    Source,
    /// A request header (HTTP); the source address if it is absent.
    Header(String),
    /// A request cookie (HTTP); the source address if it is absent.
    Cookie(String),
}

/// Trying again, elsewhere.
#[derive(Clone, PartialEq, Debug)]
pub struct Retry {
    /// Tries in all, the first included; 1 switches retries off.
    pub attempts: u32,
    /// Retries as a fraction of turns over 10 s.
    pub budget: f64,
    /// Retries per second that are always allowed.
    pub reserve: f64,
    /// The endpoint could not be connected to (never ran: always safe).
    pub on_connect: bool,
    /// The endpoint closed its connection before the first byte of a response (idempotent methods).
    pub on_reset: bool,
    /// The endpoint answered 503 (idempotent methods).
    pub on_unavailable: bool,
    /// Request bytes kept for a retry.
    pub buffer: usize,
}

/// How long things may take.
#[derive(Clone, PartialEq, Debug)]
pub struct Timeouts {
    /// From the end of the request head to the first byte of the response; `None`: for ever.
    pub request: Option<Duration>,
    /// An open session on which nothing is said.
    pub idle: Duration,
    /// From accept to the first byte, unless the protocol is opaque.
    pub first_byte: Duration,
    /// From the first byte of a request head to its end. Also what a handshake (TLS, PROXY) may take.
    pub header: Duration,
    /// How long what waits for the window of an HTTP/2 stream may wait without any of it getting on.
    pub stall: Duration,
    /// An HTTP/2 connection with requests under way, of a client or to an endpoint, on which the peer says nothing
    /// for so long is asked whether it is alive; `None`: never.
    pub ping: Option<Duration>,
    /// How old an HTTP/2 connection of a client may become, give or take a tenth; `None`: any age.
    pub max_age: Option<Duration>,
    /// How old a call of gRPC may become, give or take a tenth; `None`: any age.
    pub max_stream_age: Option<Duration>,
    /// How long `protocol: auto` waits for a client's first byte before it looks at the server's.
    pub detect: Duration,
}

/// How much there may be.
#[derive(Clone, PartialEq, Debug)]
pub struct Limits {
    /// Sessions of the service at once.
    pub sessions: usize,
    /// Of these, from one client address; `None`: all of them.
    pub sessions_per_source: Option<usize>,
    /// Upgraded sessions (WebSocket, CONNECT) at once; `None`: as many as sessions.
    pub upgrades: Option<usize>,
    /// Upgrades that are let in, per second and endpoint; `None`: all.
    pub upgrade_rate: Option<f64>,
    /// How long one waits to be let in.
    pub upgrade_wait: Duration,
    /// Bytes of a request body; `None`: any number.
    pub body_bytes: Option<u64>,
    /// Bytes per second of a request body, on the average; `None`: any.
    pub body_rate: Option<u64>,
    /// Bytes of a head, start line included.
    pub header_bytes: usize,
    /// Fields of a head.
    pub header_fields: usize,
    /// Bytes of a request target.
    pub uri_bytes: usize,
    /// Requests at once of one HTTP/2 session.
    pub streams: u32,
    /// Turns of the service waiting for a connection.
    pub queue: usize,
    /// How long a turn waits for a connection or an endpoint.
    pub queue_timeout: Duration,
    /// Bytes buffered for a reader that does not read: the writer is stopped above.
    pub buffer: usize,
}

/// What HTTP messages look like on the other side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Http {
    /// `Via` field with the configured name.
    pub via: bool,
    /// `X-Forwarded-For`, `-Proto`, `-Host`.
    pub x_forwarded: Forwarding,
    /// RFC 7239 `Forwarded`.
    pub forwarded: Forwarding,
    /// A field on responses that evenkeel made itself, saying why.
    pub reason: bool,
}

/// What to do with a forwarding field.
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

impl Config {
    /// A process without services, every default filled in.
    pub fn new() -> Self {
        Self {
            name: "evenkeel".into(),
            admin: None,
            workers: None,
            drain: Drain { grace: Duration::from_secs(30), delay: Duration::from_secs(5) },
            access_log: None,
            tracing: None,
            services: Vec::new(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Service {
    /// A service with every default filled in.
    pub fn new(name: impl Into<String>, listen: Vec<Address>, targets: Vec<Target>) -> Self {
        Self {
            name: name.into(),
            listen,
            targets,
            protocol: Protocol::Auto,
            tls: None,
            sni: Vec::new(),
            accept_proxy: Vec::new(),
            upstream: Upstream {
                protocol: UpstreamProtocol::Auto,
                max_age: None,
                connect_timeout: Duration::from_secs(1),
                max_idle: 1024,
                idle_timeout: Duration::from_secs(60),
                tls: None,
                send_proxy: None,
                drain_grace: Duration::from_secs(30),
                max_connections: None,
            },
            balance: Balance { core: balancer::Config::default(), affinity: Affinity::default() },
            check: None,
            retry: Retry {
                attempts: 2,
                budget: 0.2,
                reserve: 1.0,
                on_connect: true,
                on_reset: false,
                on_unavailable: false,
                buffer: 64 * 1024,
            },
            timeouts: Timeouts {
                request: Some(Duration::from_secs(15)),
                idle: Duration::from_secs(3600),
                first_byte: Duration::from_secs(300),
                stall: Duration::from_secs(300),
                ping: Some(Duration::from_secs(300)),
                max_age: None,
                max_stream_age: None,
                header: Duration::from_secs(10),
                detect: Duration::from_millis(5),
            },
            limits: Limits {
                sessions: 10_000,
                sessions_per_source: None,
                upgrades: None,
                upgrade_rate: Some(500.0),
                upgrade_wait: Duration::from_secs(5),
                body_bytes: None,
                body_rate: Some(100),
                header_bytes: 64 * 1024,
                header_fields: 100,
                uri_bytes: 8 * 1024,
                streams: 100,
                queue: 1024,
                queue_timeout: Duration::from_secs(1),
                buffer: 64 * 1024,
            },
            http: Http { via: false, x_forwarded: Forwarding::Append, forwarded: Forwarding::Keep, reason: true },
            grpc_health: false,
        }
    }

    /// The name by which its targets know the endpoints, if they do.
    pub(crate) fn host(&self) -> Option<&str> {
        self.targets.iter().find_map(|target| match target {
            Target::Dns { name, .. } => Some(name.as_str()),
            _ => None,
        })
    }

    /// Connections to endpoints can be shared by clients. Those that name one (PROXY headers) cannot.
    pub(crate) fn shares_links(&self) -> bool {
        self.upstream.send_proxy.is_none()
    }

    /// Makes relative paths relative to `directory`.
    fn resolve(&mut self, directory: &Path) {
        if let Some(tls) = &mut self.tls {
            let own = tls.certs.iter_mut().flat_map(|c| [&mut c.cert, &mut c.key]);
            own.chain(&mut tls.client_ca).for_each(|path| *path = directory.join(&*path));
        }
        if let Some(tls) = &mut self.upstream.tls {
            tls.resolve(directory);
        }
    }
}
