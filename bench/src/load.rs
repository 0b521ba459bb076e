//! What the benches need and no tool has: closed loops of small messages over WebSocket, TCP and streams of HTTP/2,
//! echo servers for them, and a check of the machine's speed.
//!
//! ```text
//! load serve ADDRESS                                     echoes WebSocket messages, and bytes that are not HTTP
//! load websocket ADDRESS CONNECTIONS SECONDS BYTES       each connection sends, waits for the echo, sends …
//! load tcp ADDRESS CONNECTIONS SECONDS BYTES
//! load serve-http2 ADDRESS                               echoes data on each stream; trailers in the end
//! load http2 ADDRESS CONNECTIONS SECONDS BYTES STREAMS MESSAGES    so many streams at once, so many messages each
//! load speed                                             nanoseconds of a fixed loop, and of a system call
//! ```
//!
//! What it measured is one JSON object on standard output.

mod streams;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::error::Error;
use std::hint::black_box;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The example of RFC 6455, section 1.3: every client of ours sends this key, so the server needs no SHA-1.
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const KEY: &[u8] = b"dGhlIHNhbXBsZSBub25jZQ==";
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address] => serve(address),
        ["serve-http2", address] => address.parse().map_err(Into::into).and_then(streams::serve),
        ["http2", address, connections, seconds, bytes, at_once, messages] => {
            load_streams(address, [connections, at_once, messages], seconds, bytes)
        }
        [kind @ ("websocket" | "tcp"), address, connections, seconds, bytes] => {
            load(kind == "websocket", address, connections, seconds, bytes)
        }
        ["speed"] => {
            speed();
            Ok(())
        }
        _ => Err("usage: load serve|serve-http2 ADDRESS | load websocket|tcp ADDRESS CONNECTIONS SECONDS BYTES | \
                 load http2 ADDRESS CONNECTIONS SECONDS BYTES STREAMS MESSAGES | load speed"
            .into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

// ---- clients

/// One connection of a closed loop.
struct Conversation {
    stream: TcpStream,
    asked: Instant,
    missing: usize,
}

fn load(websocket: bool, address: &str, connections: &str, seconds: &str, bytes: &str) -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = address.parse()?;
    let (connections, bytes) = (connections.parse::<usize>()?, bytes.parse::<usize>()?);
    let period = Duration::from_secs_f64(seconds.parse()?);
    let (message, answer) = message(websocket, bytes);
    let mut poll = Poll::new()?;
    let mut all = Vec::with_capacity(connections);
    for i in 0..connections {
        let mut stream = TcpStream::from_std(open(address, websocket)?);
        poll.registry().register(&mut stream, Token(i), Interest::READABLE)?;
        all.push(Conversation { stream, asked: Instant::now(), missing: answer });
    }
    let mut latencies: Vec<u32> = Vec::with_capacity(1 << 20);
    let (mut events, mut scratch) = (Events::with_capacity(1024), vec![0; 64 * 1024]);
    let began = Instant::now();
    for one in &mut all {
        one.asked = Instant::now();
        one.stream.write_all(&message)?;
    }
    while began.elapsed() < period {
        poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        for event in &events {
            let one = &mut all[event.token().0];
            match one.stream.read(&mut scratch) {
                Ok(0) => return Err("a connection was closed".into()),
                Ok(n) => one.missing = one.missing.checked_sub(n).ok_or("more came back than was sent")?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            if one.missing == 0 {
                let now = Instant::now();
                latencies.push((now - one.asked).as_micros() as u32);
                (one.asked, one.missing) = (now, answer);
                one.stream.write_all(&message)?;
            }
        }
    }
    report(began.elapsed().as_secs_f64(), latencies);
    Ok(())
}

fn load_streams(address: &str, counts: [&str; 3], seconds: &str, bytes: &str) -> Result<(), Box<dyn Error>> {
    let [connections, at_once, messages] = counts;
    let counts = (connections.parse()?, at_once.parse()?, messages.parse()?);
    let period = Duration::from_secs_f64(seconds.parse()?);
    let (took, latencies) = streams::load(address.parse()?, counts, bytes.parse()?, period)?;
    report(took, latencies);
    Ok(())
}

fn report(took: f64, mut latencies: Vec<u32>) {
    latencies.sort_unstable();
    let at = |q: f64| latencies.get((latencies.len() as f64 * q) as usize).copied().unwrap_or(0);
    println!(
        r#"{{"turns": {}, "seconds": {took:.3}, "p50_us": {}, "p99_us": {}, "p999_us": {}}}"#,
        latencies.len(),
        at(0.5),
        at(0.99),
        at(0.999)
    );
}

/// What is sent, and how many bytes come back.
fn message(websocket: bool, bytes: usize) -> (Vec<u8>, usize) {
    if !websocket {
        return (vec![b'x'; bytes], bytes);
    }
    let payload = (0..bytes).map(|i| b'x' ^ MASK[i % 4]);
    let mut frame = vec![0x82];
    header(&mut frame, bytes, 0x80);
    let answer = frame.len() + bytes;
    frame.extend(MASK);
    frame.extend(payload);
    (frame, answer)
}

/// The length of a frame (RFC 6455, section 5.2).
fn header(frame: &mut Vec<u8>, bytes: usize, mask: u8) {
    match bytes {
        0..126 => frame.push(mask | bytes as u8),
        126..65_536 => {
            frame.push(mask | 126);
            frame.extend((bytes as u16).to_be_bytes());
        }
        _ => {
            frame.push(mask | 127);
            frame.extend((bytes as u64).to_be_bytes());
        }
    }
}

fn open(address: SocketAddr, websocket: bool) -> Result<std::net::TcpStream, Box<dyn Error>> {
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    if websocket {
        stream.write_all(UPGRADE.as_bytes())?;
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            return Err(format!("not upgraded: {}", String::from_utf8_lossy(&head)).into());
        }
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

// ---- server

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Unknown,
    WebSocket,
    Bytes,
}

struct Peer {
    stream: TcpStream,
    speaks: Speaks,
    input: Vec<u8>,
    output: Vec<u8>,
}

fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    const LISTENER: Token = Token(usize::MAX);
    let mut listener = TcpListener::bind(address.parse()?)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut peers, mut free): (Vec<Option<Peer>>, Vec<usize>) = (Vec::new(), Vec::new());
    let (mut events, mut scratch) = (Events::with_capacity(1024), vec![0; 256 * 1024]);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() != LISTENER {
                let i = event.token().0;
                if peers[i].as_mut().is_some_and(|peer| !peer.go_on(&mut scratch)) {
                    peers[i] = None;
                    free.push(i);
                }
                continue;
            }
            while let Ok((mut stream, _)) = listener.accept() {
                stream.set_nodelay(true)?;
                let i = free.pop().unwrap_or_else(|| {
                    peers.push(None);
                    peers.len() - 1
                });
                poll.registry().register(&mut stream, Token(i), Interest::READABLE | Interest::WRITABLE)?;
                peers[i] = Some(Peer { stream, speaks: Speaks::Unknown, input: Vec::new(), output: Vec::new() });
            }
        }
    }
}

impl Peer {
    /// Reads and echoes what there is; false: the connection is over.
    fn go_on(&mut self, scratch: &mut [u8]) -> bool {
        if !self.write() {
            return false;
        }
        // Who does not read its echo is not read from.
        while self.output.is_empty() {
            match self.stream.read(scratch) {
                Ok(0) => return false,
                Ok(n) => {
                    self.input.extend_from_slice(&scratch[..n]);
                    if !self.understand() || !self.write() {
                        return false;
                    }
                    if n < scratch.len() {
                        return true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }

    fn understand(&mut self) -> bool {
        if self.speaks == Speaks::Unknown {
            if !self.input.starts_with(b"GET ") {
                self.speaks = Speaks::Bytes;
            } else if self.input.ends_with(b"\r\n\r\n") {
                if !self.input.windows(KEY.len()).any(|window| window == KEY) {
                    return false;
                }
                self.input.clear();
                self.output.extend_from_slice(SWITCHED);
                self.speaks = Speaks::WebSocket;
            }
        }
        match self.speaks {
            Speaks::Unknown => {}
            Speaks::Bytes => self.output.append(&mut self.input),
            Speaks::WebSocket => while self.echo_frame() {},
        }
        true
    }

    /// Echoes a frame, unmasked, once it is whole.
    fn echo_frame(&mut self) -> bool {
        let (bytes, at) = match self.input[..] {
            [_, length, ..] if length & 0x7F < 126 => (usize::from(length & 0x7F), 2),
            [_, length, a, b, ..] if length & 0x7F == 126 => (usize::from(u16::from_be_bytes([a, b])), 4),
            [_, _, a, b, c, d, e, f, g, h, ..] => (u64::from_be_bytes([a, b, c, d, e, f, g, h]) as usize, 10),
            _ => return false,
        };
        let end = at + 4 + bytes;
        if self.input.len() < end {
            return false;
        }
        self.output.push(self.input[0]);
        header(&mut self.output, bytes, 0);
        let (mask, payload) = self.input[at..end].split_at(4);
        self.output.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.input.drain(..end);
        true
    }

    fn write(&mut self) -> bool {
        let mut written = 0;
        while written < self.output.len() {
            match self.stream.write(&self.output[written..]) {
                Ok(n) => written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        self.output.drain(..written);
        true
    }
}

// ---- speed

/// How fast the machine is just now: on shared ones that changes from minute to minute.
fn speed() {
    const ROUNDS: u64 = 20_000_000;
    const CALLS: u32 = 400_000;
    let began = Instant::now();
    let mut x: u64 = 1;
    for i in 0..ROUNDS {
        x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i));
    }
    let per_round = began.elapsed().as_nanos() as f64 / ROUNDS as f64;
    let began = Instant::now();
    for _ in 0..CALLS {
        // The cheapest system call that there is.
        black_box(std::os::unix::process::parent_id());
    }
    let per_call = began.elapsed().as_nanos() as f64 / f64::from(CALLS);
    println!(r#"{{"integer_ns": {per_round:.3}, "getppid_ns": {per_call:.1}}}"#);
}
