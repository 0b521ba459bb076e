//! Active health checks: each endpoint on a schedule of its own, by TCP, HTTP or gRPC.

mod grpc;

use evenkeel_core::address::Address;
use evenkeel_core::endpoint::{Endpoint, EndpointId};
use evenkeel_core::rng::Rng;
use evenkeel_wire::edge::{ProxyVersion, put_proxy_header};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// Bytes of a response that are read for its status line.
const STATUS_LINE: usize = 256;

/// An active health check.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// What is done.
    pub kind: Kind,
    /// How often, ± 10 %.
    pub every: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// Failures in a row that make an endpoint unhealthy.
    pub unhealthy: u32,
    /// Successes in a row that make it healthy again.
    pub healthy: u32,
    /// How the endpoints are spoken to.
    pub dial: Dial,
}

/// What comes before the protocol on a connection to an endpoint: what turns have, checks have too.
#[derive(Clone, Default, Debug)]
pub struct Dial {
    /// A PROXY header; that of a check says that it is no client's.
    pub proxy: Option<ProxyVersion>,
    /// TLS, and the name that certificates must have; `None`: the address.
    pub tls: Option<(Arc<ClientConfig>, Option<ServerName<'static>>)>,
}

impl PartialEq for Dial {
    fn eq(&self, other: &Self) -> bool {
        self.proxy == other.proxy
            && match (&self.tls, &other.tls) {
                (None, None) => true,
                (Some((a, name)), Some((b, other))) => Arc::ptr_eq(a, b) && name == other,
                _ => false,
            }
    }
}

/// What a check does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Connects.
    Tcp,
    /// `GET path`; a status in the range passes.
    Http {
        /// Origin-form target.
        path: String,
        /// `Host`; `None`: the address.
        host: Option<String>,
        /// Passing statuses, inclusive.
        status: (u16, u16),
    },
    /// `grpc.health.v1.Health/Check`; SERVING passes.
    Grpc {
        /// Of this service; empty: of the server as a whole.
        service: String,
        /// `:authority`; `None`: the address.
        host: Option<String>,
    },
}

/// A changed (or first) verdict.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Verdict {
    pub(crate) endpoint: EndpointId,
    pub(crate) healthy: bool,
    pub(crate) detail: Box<str>,
}

/// The checks of one endpoint; dropping it stops them.
#[derive(Debug)]
pub(crate) struct Checker(JoinHandle<()>);

impl Checker {
    /// Starts to check; needs a tokio runtime.
    pub(crate) fn start(config: Config, endpoint: Arc<Endpoint>, seed: u64, send: mpsc::Sender<Verdict>) -> Self {
        Self(tokio::spawn(run(config, endpoint, seed, send)))
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run(config: Config, endpoint: Arc<Endpoint>, seed: u64, send: mpsc::Sender<Verdict>) {
    let mut rng = Rng::seeded(seed ^ endpoint.id.0);
    let mut verdict: Option<bool> = None;
    let mut streak = (true, 0);
    loop {
        let result = match tokio::time::timeout(config.timeout, check(&config, &endpoint.address)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {:?}", config.timeout)),
        };
        let passed = result.is_ok();
        streak = if streak.0 == passed { (passed, streak.1 + 1) } else { (passed, 1) };
        let needed = match (verdict, passed) {
            // The first impression counts at once.
            (None, _) => 1,
            (Some(_), true) => config.healthy,
            (Some(_), false) => config.unhealthy,
        };
        if verdict != Some(passed) && streak.1 >= needed {
            verdict = Some(passed);
            let detail = result.err().unwrap_or_else(|| "passed".into()).into();
            if send.send(Verdict { endpoint: endpoint.id, healthy: passed, detail }).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(config.every.mul_f64(0.9 + 0.2 * rng.unit())).await;
    }
}

async fn check(config: &Config, address: &Address) -> Result<(), String> {
    match address {
        Address::Ip(addr) => {
            let stream = TcpStream::connect(addr).await.map_err(|e| format!("cannot connect: {e}"))?;
            // A check leaves nothing behind, not even a connection in TIME_WAIT.
            let _unsupported = stream.set_zero_linger();
            dial(config, address, stream).await
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(&**path).await.map_err(|e| format!("cannot connect: {e}"))?;
            dial(config, address, stream).await
        }
    }
}

/// What comes before the protocol; then the protocol.
async fn dial(
    config: &Config,
    address: &Address,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<(), String> {
    let Config { kind, dial, .. } = config;
    if let Some(version) = dial.proxy {
        let mut header = Vec::new();
        put_proxy_header(&mut header, version, None);
        stream.write_all(&header).await.map_err(|e| format!("cannot send: {e}"))?;
    }
    let Some((tls, name)) = &dial.tls else { return exchange(kind, address, "http", stream).await };
    let name = match (name, address) {
        (Some(name), _) => name.clone(),
        (None, Address::Ip(addr)) => ServerName::IpAddress(addr.ip().into()),
        (None, Address::Unix(_)) => ServerName::IpAddress(IpAddr::from([127, 0, 0, 1]).into()),
    };
    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await.map_err(|e| format!("TLS: {e}"))?;
    exchange(kind, address, "https", stream).await
}

async fn exchange(
    kind: &Kind,
    address: &Address,
    scheme: &str,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<(), String> {
    let host = |host: &Option<String>| match (host, address) {
        (Some(host), _) => host.clone(),
        (None, Address::Ip(addr)) => addr.to_string(),
        (None, Address::Unix(_)) => "localhost".into(),
    };
    let (path, host, status) = match kind {
        Kind::Tcp => return Ok(()),
        Kind::Grpc { service, host: name } => return grpc::check(service, scheme, &host(name), stream).await,
        Kind::Http { path, host: name, status } => (path, host(name), status),
    };
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: evenkeel-check\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|e| format!("cannot send: {e}"))?;
    let (mut head, mut length) = ([0; STATUS_LINE], 0);
    while length < head.len() && !head[..length].contains(&b'\n') {
        match stream.read(&mut head[length..]).await.map_err(|e| format!("cannot read: {e}"))? {
            0 => break,
            n => length += n,
        }
    }
    let line = head[..length].split(|&b| b == b'\r' || b == b'\n').next().unwrap_or_default();
    let code = match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1', b' ', a, b, c, rest @ ..]
            if rest.first().is_none_or(|&b| b == b' ') =>
        {
            std::str::from_utf8(&[*a, *b, *c]).ok().and_then(|code| code.parse::<u16>().ok())
        }
        _ => None,
    };
    match code {
        Some(code) if (status.0..=status.1).contains(&code) => Ok(()),
        Some(code) => Err(format!("status {code}, expected {} to {}", status.0, status.1)),
        None => Err("the answer was not HTTP/1".into()),
    }
}
