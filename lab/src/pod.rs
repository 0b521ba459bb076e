//! Embedded Pods: small real servers on loopback addresses that count what they see.
//!
//! Each Pod is a thread of its own with a listener, so it serves whatever its test or demo does
//! meanwhile. It speaks one protocol ([`Kind`]), misbehaves on request ([`Fault`]) and can leave in
//! two ways: [`Pod::stop`] finishes what was begun, [`Pod::kill`] resets every connection.

use crate::http2::{Heard, Part, Side, StreamKey, framed, message};
use evenkeel_wire::http2::settings::Role;
use futures_util::{SinkExt, StreamExt};
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};

/// Heads and lines longer than this are refused.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Fields of a head.
const MAX_FIELDS: usize = 100;

/// What a Pod speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// HTTP/1.1 with keep-alive; every response names the Pod in `X-Pod`.
    Http,
    /// A line for a line: `17` is answered `pod-2 17`. Nothing in it tells a proxy where a request
    /// ends, so a connection can only be balanced whole.
    Line,
    /// WebSocket: a message for a message, as with [`Kind::Line`]. A session can be ended between two.
    WebSocket,
    /// HTTP/2 by prior knowledge; every response names the Pod in `x-pod`.
    Http2,
    /// gRPC: a unary call for each request; the messages are those of [`Kind::Line`].
    Grpc,
}

/// How a Pod answers; may be changed while it runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Behaviour {
    /// How long one request occupies the Pod. It works on one request at a time; others queue.
    /// Zero: no work and no queue.
    pub work: Duration,
    /// HTTP status; a call of gRPC fails with UNAVAILABLE if it is not 200.
    pub status: u16,
    /// Bytes of an HTTP response body.
    pub body: usize,
    /// What it does wrong, over HTTP/1.1 or with lines.
    pub fault: Fault,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { work: Duration::ZERO, status: 200, body: 2, fault: Fault::None }
    }
}

/// What a Pod does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Closes the connection after this many responses, without having said so.
    CloseAfter(u64),
    /// Sends half of the response, then closes.
    Truncate,
    /// Reads the request, then resets the connection.
    Reset,
    /// Reads the request and never answers.
    Hang,
}

/// What a Pod counted so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Connections accepted.
    pub connections: u64,
    /// Of these, open now.
    pub open: u64,
    /// Requests received whole.
    pub requests: u64,
    /// Responses written whole.
    pub responses: u64,
    /// Bytes read from sockets.
    pub bytes_received: u64,
    /// Bytes written to sockets.
    pub bytes_sent: u64,
    /// When the first request had arrived whole.
    pub first_request: Option<Instant>,
}

/// A running Pod; dropping it kills it.
#[derive(Debug)]
pub struct Pod {
    name: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    life: watch::Sender<Life>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    Serving,
    Stopping,
    Killed,
}

#[derive(Debug)]
struct Shared {
    name: String,
    kind: Kind,
    behaviour: Mutex<Behaviour>,
    /// Held while the Pod works on a request: it has one processor.
    processor: tokio::sync::Mutex<()>,
    connections: AtomicU64,
    open: AtomicU64,
    requests: AtomicU64,
    responses: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    first_request: OnceLock<Instant>,
}

impl Pod {
    /// Starts a Pod on a free loopback port.
    ///
    /// # Errors
    /// No port or no thread could be had.
    pub fn start(name: impl Into<String>, kind: Kind, behaviour: Behaviour) -> io::Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), name, kind, behaviour)
    }

    /// Starts a Pod at `address`, for one that comes back where it was.
    ///
    /// # Errors
    /// The address is taken, or no thread could be had.
    pub fn start_at(
        address: SocketAddr,
        name: impl Into<String>,
        kind: Kind,
        behaviour: Behaviour,
    ) -> io::Result<Self> {
        let name = name.into();
        let listener = std::net::TcpListener::bind(address)
            .map_err(|e| io::Error::new(e.kind(), format!("{name}: cannot listen on {address}: {e}")))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            name: name.clone(),
            kind,
            behaviour: Mutex::new(behaviour),
            processor: tokio::sync::Mutex::new(()),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            responses: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            first_request: OnceLock::new(),
        });
        let (life, watching) = watch::channel(Life::Serving);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _context = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let state = shared.clone();
        let thread = thread::Builder::new()
            .name(name.clone())
            .spawn(move || runtime.block_on(run(listener, state, watching)))?;
        Ok(Self { name, address, shared, life, thread: Some(thread) })
    }

    /// Its name, as responses carry it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// What it counted so far.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// Answers differently from the next request on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour() = behaviour;
    }

    /// Closes the listener and idle connections, finishes what was begun, and waits for that.
    pub fn stop(mut self) -> Counts {
        self.end(Life::Stopping)
    }

    /// Closes the listener and resets every connection (RST) at once, as a dying process's kernel does
    /// while data is unread.
    pub fn kill(mut self) -> Counts {
        self.end(Life::Killed)
    }

    fn end(&mut self, life: Life) -> Counts {
        self.life.send_replace(life);
        if let Some(thread) = self.thread.take() {
            // A panic in the Pod shows in its counts and on stderr; there is nobody else to tell.
            let _ = thread.join();
        }
        self.shared.counts()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.end(Life::Killed);
    }
}

impl Shared {
    fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> Counts {
        Counts {
            connections: self.connections.load(Relaxed),
            open: self.open.load(Relaxed),
            requests: self.requests.load(Relaxed),
            responses: self.responses.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            first_request: self.first_request.get().copied(),
        }
    }

    /// Counts a request that arrived whole and does its work.
    async fn work(&self) -> Behaviour {
        let _ = self.first_request.set(Instant::now());
        self.requests.fetch_add(1, Relaxed);
        let behaviour = self.behaviour().clone();
        if !behaviour.work.is_zero() {
            let _processor = self.processor.lock().await;
            tokio::time::sleep(behaviour.work).await;
        }
        behaviour
    }
}

async fn run(listener: TcpListener, shared: Arc<Shared>, life: watch::Receiver<Life>) {
    let mut connections = tokio::task::JoinSet::new();
    let mut watching = life.clone();
    loop {
        tokio::select! {
            biased;
            _ = watching.wait_for(|life| *life != Life::Serving) => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    shared.connections.fetch_add(1, Relaxed);
                    shared.open.fetch_add(1, Relaxed);
                    connections.spawn(serve(stream, shared.clone(), life.clone()));
                }
                // Out of descriptors, or the peer left the backlog: neither ends the server.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>, mut life: watch::Receiver<Life>) {
    // Small responses at once; a failure to set it costs latency only.
    let _ = stream.set_nodelay(true);
    if shared.kind == Kind::WebSocket {
        let mut stopping = life.clone();
        tokio::select! {
            biased;
            _ = life.wait_for(|life| *life == Life::Killed) => {}
            _ = sockets(stream, &shared, &mut stopping) => {}
        }
        shared.open.fetch_sub(1, Relaxed);
        return;
    }
    if matches!(shared.kind, Kind::Http2 | Kind::Grpc) {
        let mut side = Side::new(stream, Role::Server);
        let mut stopping = life.clone();
        tokio::select! {
            biased;
            _ = life.wait_for(|life| *life == Life::Killed) => side.will_reset(),
            _ = streams(&mut side, &shared, &mut stopping) => {}
        }
        shared.open.fetch_sub(1, Relaxed);
        return;
    }
    let mut stopping = life.clone();
    let reset = tokio::select! {
        biased;
        _ = life.wait_for(|life| *life == Life::Killed) => true,
        end = Conversation { stream: &mut stream, shared: &shared, buffer: Vec::new() }.hold(&mut stopping) =>
            matches!(end, Ok(Over::Reset)),
    };
    // The conversation may have seen the end of life first, and taken it for a stop.
    if reset || *life.borrow() == Life::Killed {
        let _ = stream.set_zero_linger();
    }
    drop(stream);
    shared.open.fetch_sub(1, Relaxed);
}

/// Answers message by message until either side says Close.
async fn sockets(
    stream: TcpStream,
    shared: &Shared,
    stopping: &mut watch::Receiver<Life>,
) -> Result<(), tungstenite::Error> {
    let mut socket = tokio_tungstenite::accept_async(stream).await?;
    loop {
        let message = tokio::select! {
            biased;
            () = async { drop(stopping.wait_for(|life| *life != Life::Serving).await) } => {
                let leaving = CloseFrame { code: CloseCode::Away, reason: "the Pod leaves".into() };
                return socket.close(Some(leaving)).await;
            }
            message = socket.next() => message,
        };
        match message {
            Some(Ok(Message::Text(text))) => {
                shared.bytes_received.fetch_add(text.len() as u64, Relaxed);
                shared.work().await;
                let answer = format!("{} {text}", shared.name);
                shared.bytes_sent.fetch_add(answer.len() as u64, Relaxed);
                socket.send(Message::text(answer)).await?;
                shared.responses.fetch_add(1, Relaxed);
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
            None => return Ok(()),
        }
    }
}

/// Answers request by request until the client leaves, or the Pod has to.
async fn streams(side: &mut Side, shared: &Shared, stopping: &mut watch::Receiver<Life>) -> io::Result<()> {
    // Requests that are not whole yet.
    let mut open: Vec<(StreamKey, Vec<u8>)> = Vec::new();
    loop {
        let heard = tokio::select! {
            biased;
            () = async { drop(stopping.wait_for(|life| *life != Life::Serving).await) },
                if open.is_empty() && side.is_quiet() => {
                side.close();
                return side.flush().await;
            }
            heard = side.hear() => heard?,
        };
        let (stream, end) = match heard {
            Heard::Fields(stream, Part::Head, _, end) => {
                open.push((stream, Vec::new()));
                (stream, end)
            }
            Heard::Fields(stream, _, _, end) => (stream, end),
            Heard::Data(stream, data, end) => {
                let request = open.iter_mut().find(|(open, _)| *open == stream);
                request.into_iter().for_each(|(_, body)| body.extend_from_slice(&data));
                (stream, end)
            }
            Heard::Reset(stream) => {
                open.retain(|(open, _)| *open != stream);
                continue;
            }
            Heard::Goaway => continue,
            Heard::Over => return Ok(()),
        };
        if end && let Some(at) = open.iter().position(|(open, _)| *open == stream) {
            let (_, body) = open.swap_remove(at);
            let behaviour = shared.work().await;
            let answered = match shared.kind {
                Kind::Grpc => answer_call(side, stream, shared, &behaviour, &body).await?,
                _ => answer_request(side, stream, shared, &behaviour).await?,
            };
            shared.responses.fetch_add(answered.into(), Relaxed);
        }
        shared.bytes_received.fetch_add(std::mem::take(&mut side.received), Relaxed);
        shared.bytes_sent.fetch_add(std::mem::take(&mut side.sent), Relaxed);
    }
}

async fn answer_request(side: &mut Side, stream: StreamKey, shared: &Shared, to: &Behaviour) -> io::Result<bool> {
    let (status, length) = (to.status.to_string(), to.body.to_string());
    let head = [(":status", &*status), ("content-length", &*length), ("x-pod", &*shared.name)];
    side.fields(stream, Part::Head, &head, false);
    side.data(stream, &vec![b'.'; to.body], true).await
}

async fn answer_call(
    side: &mut Side,
    stream: StreamKey,
    shared: &Shared,
    to: &Behaviour,
    body: &[u8],
) -> io::Result<bool> {
    let head = [(":status", "200"), ("content-type", "application/grpc")];
    let failure = match message(body) {
        _ if to.status != 200 => Some(("14", "the Pod was told to say so")),
        None => Some(("3", "a call has one message")),
        Some(asked) => {
            side.fields(stream, Part::Head, &head, false);
            let answer = [shared.name.as_bytes(), b" ", asked].concat();
            if !side.data(stream, &framed(&answer), false).await? {
                return Ok(false);
            }
            side.fields(stream, Part::Trailers, &[("grpc-status", "0")], true);
            None
        }
    };
    if let Some((status, words)) = failure {
        let status = [("grpc-status", status), ("grpc-message", words)];
        side.fields(stream, Part::Head, &[&head[..], &status].concat(), true);
    }
    side.flush().await.map(|()| true)
}

/// How a conversation ended.
enum Over {
    Closed,
    Reset,
}

struct Conversation<'a> {
    stream: &'a mut TcpStream,
    shared: &'a Shared,
    /// Read, not yet consumed.
    buffer: Vec<u8>,
}

/// What of a request matters to the response.
struct Request {
    head_only: bool,
    keep: bool,
}

impl Conversation<'_> {
    async fn hold(mut self, stopping: &mut watch::Receiver<Life>) -> io::Result<Over> {
        let mut answered = 0;
        loop {
            if self.buffer.is_empty() {
                let more = tokio::select! {
                    biased;
                    _ = stopping.wait_for(|life| *life != Life::Serving) => false,
                    more = fill(self.stream, &mut self.buffer, self.shared) => more?,
                };
                if !more {
                    return Ok(Over::Closed);
                }
            }
            let request = match self.shared.kind {
                Kind::Http => self.http_request().await?,
                _ => self.line().await?.then_some(Request { head_only: false, keep: true }),
            };
            let Some(request) = request else { return Ok(Over::Closed) };
            let behaviour = self.shared.work().await;
            let leaving = *stopping.borrow() != Life::Serving;
            let keep = request.keep && !leaving;
            let response = match self.shared.kind {
                Kind::Http => http_response(&self.shared.name, &behaviour, request.head_only, keep),
                _ => self.line_response(),
            };
            match behaviour.fault {
                Fault::None => self.send(&response).await?,
                Fault::CloseAfter(limit) => {
                    self.send(&response).await?;
                    if answered + 1 >= limit {
                        return Ok(Over::Closed);
                    }
                }
                Fault::Truncate => {
                    self.send_part(&response[..response.len() / 2]).await?;
                    return Ok(Over::Closed);
                }
                Fault::Reset => return Ok(Over::Reset),
                Fault::Hang => std::future::pending().await,
            }
            answered += 1;
            if !keep {
                return Ok(Over::Closed);
            }
        }
    }

    /// The next request with its body consumed; `None`: the client left, or was refused.
    async fn http_request(&mut self) -> io::Result<Option<Request>> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
            let mut head = httparse::Request::new(&mut fields);
            match head.parse(&self.buffer) {
                Ok(httparse::Status::Complete(length)) => {
                    let Ok(framing) = Framing::of(&head) else {
                        return self.refuse("400 Bad Request").await;
                    };
                    if framing.chunked {
                        // RFC 9112, section 6.3: a server may insist on a length.
                        return self.refuse("411 Length Required").await;
                    }
                    let request = Request { head_only: head.method == Some("HEAD"), keep: framing.keep };
                    self.buffer.drain(..length);
                    if framing.expects && framing.length > 0 && self.buffer.is_empty() {
                        self.send_part(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                    }
                    return Ok(self.skip(framing.length).await?.then_some(request));
                }
                Ok(httparse::Status::Partial) if self.buffer.len() < MAX_HEAD_BYTES => {
                    if !self.more().await? {
                        return Ok(None);
                    }
                }
                Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                    return self.refuse("431 Request Header Fields Too Large").await;
                }
                Err(_) => return self.refuse("400 Bad Request").await,
            }
        }
    }

    /// Is there a whole line in front of the buffer? False: the client left, or talks without end.
    async fn line(&mut self) -> io::Result<bool> {
        loop {
            if self.buffer.contains(&b'\n') {
                return Ok(true);
            }
            if self.buffer.len() >= MAX_HEAD_BYTES || !self.more().await? {
                return Ok(false);
            }
        }
    }

    fn line_response(&mut self) -> Vec<u8> {
        let end = self.buffer.iter().position(|&byte| byte == b'\n').map_or(self.buffer.len(), |end| end + 1);
        let line: Vec<u8> = self.buffer.drain(..end).collect();
        [self.shared.name.as_bytes(), b" ", &line].concat()
    }

    /// Consumes `length` bytes of body; false: the client left before.
    async fn skip(&mut self, mut length: u64) -> io::Result<bool> {
        loop {
            let here = length.min(self.buffer.len() as u64);
            self.buffer.drain(..here as usize);
            length -= here;
            if length == 0 {
                return Ok(true);
            }
            if !self.more().await? {
                return Ok(false);
            }
        }
    }

    async fn refuse(&mut self, status: &str) -> io::Result<Option<Request>> {
        self.send_part(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes())
            .await?;
        Ok(None)
    }

    async fn more(&mut self) -> io::Result<bool> {
        fill(self.stream, &mut self.buffer, self.shared).await
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send_part(bytes).await?;
        self.shared.responses.fetch_add(1, Relaxed);
        Ok(())
    }

    async fn send_part(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.shared.bytes_sent.fetch_add(bytes.len() as u64, Relaxed);
        Ok(())
    }
}

/// Reads once; false: the client has finished sending.
async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>, shared: &Shared) -> io::Result<bool> {
    let read = stream.read_buf(buffer).await?;
    shared.bytes_received.fetch_add(read as u64, Relaxed);
    Ok(read > 0)
}

/// Where a request ends, and whether another may follow (RFC 9112, sections 6 and 9.3).
struct Framing {
    length: u64,
    chunked: bool,
    expects: bool,
    keep: bool,
}

impl Framing {
    fn of(head: &httparse::Request<'_, '_>) -> Result<Self, ()> {
        let mut framing = Self { length: 0, chunked: false, expects: false, keep: head.version == Some(1) };
        let mut length = None;
        for field in head.headers.iter() {
            let value = std::str::from_utf8(field.value).map_err(|_| ())?.trim();
            if field.name.eq_ignore_ascii_case("content-length") {
                let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                let parsed = if digits { value.parse::<u64>().map_err(|_| ())? } else { return Err(()) };
                if length.replace(parsed).is_some_and(|before| before != parsed) {
                    return Err(());
                }
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                framing.chunked = true;
            } else if field.name.eq_ignore_ascii_case("connection") {
                for option in value.split(',').map(str::trim) {
                    if option.eq_ignore_ascii_case("close") {
                        framing.keep = false;
                    }
                }
            } else if field.name.eq_ignore_ascii_case("expect") {
                framing.expects = value.eq_ignore_ascii_case("100-continue");
            }
        }
        framing.length = length.unwrap_or(0);
        if framing.chunked && length.is_some() { Err(()) } else { Ok(framing) }
    }
}

fn http_response(name: &str, behaviour: &Behaviour, head_only: bool, keep: bool) -> Vec<u8> {
    let mut head = String::with_capacity(128);
    let length = behaviour.body;
    // Writing to a String cannot fail.
    let _ = write!(head, "HTTP/1.1 {} Demo\r\nContent-Length: {length}\r\nX-Pod: {name}\r\n", behaviour.status);
    if !keep {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    let mut response = head.into_bytes();
    if !head_only {
        response.resize(response.len() + length, b'.');
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn talk(pod: &Pod, request: &str) -> String {
        let mut stream = std::net::TcpStream::connect(pod.addr()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn pipelined_requests_with_bodies_are_counted_one_by_one() {
        let pod = Pod::start("pod-1", Kind::Http, Behaviour::default()).unwrap();
        let sent = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloHEAD / HTTP/1.1\r\nHost: x\r\n\r\n\
                    GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let answer = talk(&pod, sent);
        let ok = "HTTP/1.1 200 Demo\r\nContent-Length: 2\r\nX-Pod: pod-1\r\n";
        assert_eq!(answer, format!("{ok}\r\n..{ok}\r\n{ok}Connection: close\r\n\r\n.."));
        let counts = pod.stop();
        assert_eq!((counts.requests, counts.responses, counts.connections, counts.open), (3, 3, 1, 0));
        assert_eq!((counts.bytes_received, counts.bytes_sent), (sent.len() as u64, answer.len() as u64));
        assert!(counts.first_request.is_some());
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let pod = Pod::start("pod-1", Kind::Http, Behaviour::default()).unwrap();
        for (fields, status) in [
            ("Content-Length: 1\r\nContent-Length: 2\r\n", "400"),
            ("Content-Length: +1\r\n", "400"),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "400"),
            ("Transfer-Encoding: chunked\r\n", "411"),
        ] {
            let answer = talk(&pod, &format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n"));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{fields}: {answer}");
        }
        assert_eq!(pod.counts().requests, 0);
    }

    #[test]
    fn lines_are_answered_with_the_name() {
        let pod = Pod::start("pod-2", Kind::Line, Behaviour::default()).unwrap();
        assert_eq!(talk(&pod, "1\n2\n"), "pod-2 1\npod-2 2\n");
        assert_eq!(pod.stop().requests, 2);
    }

    #[test]
    fn faults_show_on_the_wire() {
        let behaviour = |fault| Behaviour { fault, body: 100, ..Behaviour::default() };
        let pod = Pod::start("pod-1", Kind::Http, behaviour(Fault::Truncate)).unwrap();
        let two = "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let answer = talk(&pod, two);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.len() < 100, "{answer}");
        pod.behave(behaviour(Fault::CloseAfter(1)));
        assert_eq!(talk(&pod, two).matches("HTTP/1.1 200").count(), 1);
        assert_eq!(pod.counts().responses, 1);
    }

    #[test]
    fn a_killed_pod_resets_and_its_address_can_be_taken_again() {
        let pod = Pod::start("pod-1", Kind::Line, Behaviour::default()).unwrap();
        let address = pod.addr();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"1\n").unwrap();
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(pod.kill().requests, 1);
        assert_eq!(stream.read(&mut answer).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let again = Pod::start_at(address, "pod-1", Kind::Line, Behaviour::default()).unwrap();
        assert_eq!(talk(&again, "1\n"), "pod-1 1\n");
    }
}
