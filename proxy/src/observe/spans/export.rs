//! From the queue to the collector: in batches, over one connection, again for a while if it has no time.

use super::otlp::{Resource, encode};
use super::{Counts, Dropped, Span, Tracer};
use crate::config;
use crate::tls;
use evenkeel_core::rng::Rng;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc as channel;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tracing::{info, warn};

/// Spans sent at once: half a megabyte at the most usual length.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// Attempts to send a batch, the first included. With the pauses between them they bridge a collector that
/// starts anew.
const ATTEMPTS: u32 = 5;
/// The pause after the first failed attempt; twice as long after each further one, less up to a half by chance.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause, whatever a collector asks for: spans that wait this long are of no use.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read: it says little.
const ANSWER: usize = 64 * 1024;
/// How long the end of the process waits for the last spans to be sent.
const LAST: Duration = Duration::from_secs(5);

/// Everything that can fail, done: an exporter that can be started.
pub(crate) struct Prepared {
    collector: Collector,
    tracer: Tracer,
    queue: Receiver<Span>,
    counts: Arc<Counts>,
    resource: Resource,
    rng: Rng,
}

/// A running exporter. It ends, all spans sent, when the last tracer is gone.
#[derive(Debug)]
pub(crate) struct Exporter {
    pub(crate) tracer: Tracer,
    done: channel::Receiver<()>,
}

impl Prepared {
    /// # Errors
    /// Certificates that cannot be used.
    pub(crate) fn new(config: &config::Tracing, counts: Arc<Counts>, seed: u64) -> io::Result<Self> {
        let (send, queue) = mpsc::channel(config.queue);
        let tracer = Tracer::new(send, config.sample, counts.clone());
        let mut rng = Rng::seeded(seed);
        let resource = Resource::new(config.service.clone(), uuid(&mut rng));
        Ok(Self { collector: Collector::new(config)?, tracer, queue, counts, resource, rng })
    }

    /// Needs a tokio runtime.
    pub(crate) fn start(self) -> Exporter {
        let Self { collector, tracer, queue, counts, resource, rng } = self;
        let (running, done) = channel::channel();
        tokio::spawn(async move {
            Run { collector, queue, counts, resource, rng, well: true }.run().await;
            drop(running);
        });
        Exporter { tracer, done }
    }
}

impl Exporter {
    /// Waits a little for what is in the queue to be sent. The other tracers must be gone.
    pub(crate) fn finish(self) {
        drop(self.tracer);
        // Nothing is ever sent here: it closes when the task ends, or there is no more time.
        let _ended = self.done.recv_timeout(LAST);
    }
}

/// A random UUID (RFC 9562, version 4).
fn uuid(rng: &mut Rng) -> String {
    let (high, low) = (rng.next_u64(), rng.next_u64());
    let (high, low) = (high & !0xF000 | 0x4000, low & !(3 << 62) | 1 << 63);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xFFFF,
        high & 0xFFFF,
        low >> 48,
        low << 16 >> 16
    )
}

/// The task.
struct Run {
    collector: Collector,
    queue: Receiver<Span>,
    counts: Arc<Counts>,
    resource: Resource,
    rng: Rng,
    /// The last batch was taken.
    well: bool,
}

impl Run {
    async fn run(mut self) {
        let mut batch = Vec::new();
        while self.queue.recv_many(&mut batch, BATCH).await > 0 {
            let until = Instant::now() + LINGER;
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                match timeout_at(until, self.queue.recv_many(&mut batch, room)).await {
                    Ok(n) if n > 0 => {}
                    _ => break,
                }
            }
            self.export(&batch).await;
            batch.clear();
        }
    }

    async fn export(&mut self, batch: &[Span]) {
        let body = Bytes::from(encode(&self.resource, batch));
        let spans = batch.len() as u64;
        let mut pause = PAUSE;
        for attempt in 1..=ATTEMPTS {
            match self.collector.post(body.clone()).await {
                Ok(refused) => {
                    let refused = refused.min(spans);
                    self.counts.exported.fetch_add(spans - refused, Relaxed);
                    self.counts.lost(Dropped::Refused, refused);
                    if !std::mem::replace(&mut self.well, true) {
                        info!(collector = %self.collector.url, "spans are taken again");
                    }
                    return;
                }
                Err(failed) => {
                    self.counts.failures.fetch_add(1, Relaxed);
                    if std::mem::replace(&mut self.well, false) {
                        let (collector, why) = (&self.collector.url, &failed.why);
                        warn!(%collector, "spans cannot be sent: {why}; what does not fit the queue is dropped");
                    }
                    let Some(asked) = failed.again else { return self.counts.lost(Dropped::Refused, spans) };
                    // Whoever ends the process does not wait for long.
                    if attempt == ATTEMPTS || self.queue.is_closed() {
                        break;
                    }
                    let jittered = pause.mul_f64(1.0 - self.rng.unit() / 2.0);
                    sleep(asked.unwrap_or(jittered).min(LONGEST_PAUSE)).await;
                    pause *= 2;
                }
            }
        }
        self.counts.lost(Dropped::Unreachable, spans);
    }
}

/// Where spans go.
struct Collector {
    url: config::Collector,
    fields: HeaderMap,
    timeout: Duration,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Open, and no answer due.
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// An attempt failed.
struct Failed {
    why: String,
    /// It may be made again: after this time, if the collector named one. `None`: it would fail again.
    again: Option<Option<Duration>>,
}

impl Failed {
    /// On the way there or back.
    fn underway(why: impl ToString) -> Self {
        Self { why: why.to_string(), again: Some(None) }
    }
}

impl Collector {
    fn new(config: &config::Tracing) -> io::Result<Self> {
        let url = config.collector.clone();
        let client = config.client().map_err(|error| io::Error::other(format!("tracing: {error}")))?;
        let named = |client: tls::Client| match client.name {
            Some(name) => Ok((TlsConnector::from(client.config), name)),
            None => Err(io::Error::other(format!("tracing.otlp: {url}: its certificate has no name"))),
        };
        let tls = client.map(named).transpose()?;
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        fields.insert(USER_AGENT, HeaderValue::from_static(concat!("evenkeel/", env!("CARGO_PKG_VERSION"))));
        let ours = [("host".to_owned(), url.authority())];
        for (name, value) in ours.iter().chain(&config.headers) {
            let field = (name.parse::<HeaderName>(), value.parse::<HeaderValue>());
            let (Ok(name), Ok(value)) = field else { return Err(io::Error::other(format!("tracing.headers: {name}"))) };
            fields.append(name, value);
        }
        Ok(Self { url, fields, timeout: config.timeout, tls, connection: None })
    }

    /// Sends a batch; how many of its spans the collector did not want.
    async fn post(&mut self, body: Bytes) -> Result<u64, Failed> {
        let limit = self.timeout;
        let answered = match timeout(limit, self.exchange(body)).await {
            Ok(answered) => answered,
            Err(_) => Err(Failed::underway(format!("no answer within {limit:?}"))),
        };
        if answered.is_err() {
            self.connection = None;
        }
        answered
    }

    async fn exchange(&mut self, body: Bytes) -> Result<u64, Failed> {
        let mut connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.path.parse().map_err(Failed::underway)?;
        *request.headers_mut() = self.fields.clone();
        let response = connection.send_request(request).await.map_err(Failed::underway)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER).collect().await.map_err(Failed::underway)?.to_bytes();
        self.connection = Some(connection);
        verdict(&Response::from_parts(head, body))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failed> {
        let stream = TcpStream::connect(self.url.authority()).await.map_err(Failed::underway)?;
        match &self.tls {
            None => greet(stream).await,
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), stream).await;
                greet(tls.map_err(|error| Failed::underway(format!("TLS: {error}")))?).await
            }
        }
    }
}

async fn greet(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Full<Bytes>>, Failed> {
    let (send, connection) = handshake(TokioIo::new(stream)).await.map_err(Failed::underway)?;
    // It ends with its `SendRequest`; what went wrong is said there too.
    tokio::spawn(connection);
    Ok(send)
}

/// What an answer says of the spans (OTLP specification, "OTLP/HTTP Response").
fn verdict(response: &Response<Bytes>) -> Result<u64, Failed> {
    let status = response.status();
    let why = || format!("the collector answered {status}");
    match status {
        status if status.is_success() => Ok(refused(response.body())),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            Err(Failed { why: why(), again: Some(seconds.map(Duration::from_secs)) })
        }
        _ => Err(Failed { why: why(), again: None }),
    }
}

/// Spans that a collector did not want though it wanted others (`partialSuccess`): a number, which in this
/// encoding may be a string. Collectors may answer with nothing at all.
fn refused(body: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let refused = &answer["partialSuccess"]["rejectedSpans"];
    refused.as_u64().or_else(|| refused.as_str()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, retry_after: Option<&str>, body: &'static str) -> Result<u64, Option<Option<Duration>>> {
        let mut response = Response::builder().status(status);
        if let Some(value) = retry_after {
            response = response.header("Retry-After", value);
        }
        verdict(&response.body(Bytes::from_static(body.as_bytes())).unwrap()).map_err(|failed| failed.again)
    }

    #[test]
    fn answers_are_read_as_the_specification_says() {
        for body in ["", "{}", "no JSON", "{\"partialSuccess\":{}}"] {
            assert_eq!(answer(200, None, body), Ok(0), "{body}");
        }
        assert_eq!(answer(200, None, "{\"partialSuccess\":{\"rejectedSpans\":\"7\"}}"), Ok(7));
        assert_eq!(answer(200, None, "{\"partialSuccess\":{\"rejectedSpans\":7}}"), Ok(7));
        for status in [429, 502, 503, 504] {
            assert_eq!(answer(status, None, ""), Err(Some(None)), "{status}");
            assert_eq!(answer(status, Some("3"), ""), Err(Some(Some(Duration::from_secs(3)))), "{status}");
            assert_eq!(answer(status, Some("Fri, 31 Dec 1999 23:59:59 GMT"), ""), Err(Some(None)), "{status}");
        }
        for status in [301, 400, 401, 404, 413, 415, 500, 501] {
            assert_eq!(answer(status, Some("3"), ""), Err(None), "{status}");
        }
    }

    #[test]
    fn instances_have_uuids() {
        let mut rng = Rng::seeded(1);
        for _ in 0..100 {
            let text = uuid(&mut rng);
            let parts: Vec<usize> = text.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{text}");
            assert!(text[14..].starts_with('4') && text[19..].starts_with(['8', '9', 'a', 'b']), "{text}");
        }
    }
}
