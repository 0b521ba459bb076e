//! Streams of many messages over HTTP/2, as gRPC has them: a closed loop, and a server that echoes. No tool of the
//! distribution says one thing after another on a stream.

use evenkeel_core::time::Instant as Now;
use evenkeel_wire::http2::connection::{Connection, Event, Part};
use evenkeel_wire::http2::hpack::Form;
use evenkeel_wire::http2::settings::{Config, Role};
use evenkeel_wire::http2::streams::StreamKey;
use evenkeel_wire::out::Out;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const LISTENER: Token = Token(usize::MAX);

/// A connection with its socket.
struct Line {
    stream: TcpStream,
    connection: Connection,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Calls by slot; clients only.
    calls: Vec<Option<Call>>,
}

/// What a client waits for on a stream.
struct Call {
    stream: StreamKey,
    /// Messages that are still to be sent.
    left: u32,
    /// Bytes of the echo that have not come.
    missing: usize,
    asked: Instant,
}

/// What each call is.
struct Plan {
    messages: u32,
    message: Vec<u8>,
    /// Round trips of messages, in microseconds.
    latencies: Vec<u32>,
}

impl Line {
    fn new(mut stream: TcpStream, role: Role, registry: &Registry, token: Token) -> Result<Self> {
        stream.set_nodelay(true)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let (mut output, config) = (Vec::new(), Config { streams: 1_000, ..Config::default() });
        let connection = Connection::new(role, &config, &mut Out::new(&mut output), Now::ZERO);
        Ok(Self { stream, connection, input: Vec::new(), output, calls: Vec::new() })
    }

    /// Reads and acts on what there is, then writes what came of it. False: the connection is over.
    fn go_on(&mut self, scratch: &mut [u8], mut act: impl FnMut(&mut Self, Heard<'_>) -> Result<()>) -> Result<bool> {
        loop {
            let n = match self.stream.read(scratch) {
                Ok(0) => return Ok(false),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            let mut bytes = std::mem::take(&mut self.input);
            bytes.extend_from_slice(&scratch[..n]);
            let mut input = &bytes[..];
            while let Some(event) = self.connection.recv(&mut input, &mut Out::new(&mut self.output), Now::ZERO) {
                let heard = match event {
                    Event::Ready => Heard::Ready,
                    Event::Fields { stream, end, .. } => Heard::Fields { stream, end },
                    Event::Data { stream, data, end } => Heard::Data { stream, data, end },
                    other => return Err(format!("{other:?}").into()),
                };
                act(self, heard)?;
            }
            let left = input.len();
            bytes.drain(..bytes.len() - left);
            self.input = bytes;
            if n < scratch.len() {
                break;
            }
        }
        self.write()?;
        Ok(true)
    }

    fn write(&mut self) -> Result<()> {
        let mut written = 0;
        while written < self.output.len() {
            match self.stream.write(&self.output[written..]) {
                Ok(n) => written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.output.drain(..written);
        Ok(())
    }

    fn fields(&mut self, stream: StreamKey, part: Part, fields: &[(&str, &str)]) {
        self.connection.fields(stream, part, false, &mut Out::new(&mut self.output), |writer| {
            fields.iter().for_each(|(name, value)| writer.put(name, value.as_bytes(), Form::Indexed));
        });
    }

    /// Messages are so small, and so few at once, that windows never close.
    fn data(&mut self, stream: StreamKey, data: &[u8], end: bool) -> Result<()> {
        let mut out = Out::new(&mut self.output);
        let sent = self.connection.data(stream, data, end, &mut out, Now::ZERO);
        out.spill();
        if sent == data.len() { Ok(()) } else { Err("a window is closed".into()) }
    }

    fn release(&mut self, stream: StreamKey, bytes: usize) {
        self.connection.release(stream, bytes, &mut Out::new(&mut self.output));
    }

    // ---- clients

    /// Opens a stream, and sends the first message.
    fn call(&mut self, plan: &Plan) -> Result<()> {
        let head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/bench.Echo/Chat"),
            (":authority", "bench"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        let opened = self.connection.request(false, &mut Out::new(&mut self.output), |writer| {
            head.iter().for_each(|(name, value)| writer.put(name, value.as_bytes(), Form::Indexed));
        });
        let stream = opened.ok_or("there is no room for a stream")?;
        if self.calls.len() <= stream.slot() {
            self.calls.resize_with(stream.slot() + 1, || None);
        }
        let (left, missing) = (plan.messages - 1, plan.message.len());
        self.calls[stream.slot()] = Some(Call { stream, left, missing, asked: Instant::now() });
        self.data(stream, &plan.message, false)
    }

    fn hear(&mut self, heard: Heard<'_>, streams: u32, plan: &mut Plan) -> Result<()> {
        match heard {
            Heard::Ready => (0..streams).try_for_each(|_| self.call(plan)),
            Heard::Fields { end: false, .. } => Ok(()),
            Heard::Fields { stream, end: true } => {
                let call = self.calls[stream.slot()].take().filter(|call| call.left == 0 && call.missing == 0);
                call.ok_or("a stream ended before its time")?;
                self.call(plan)
            }
            Heard::Data { stream, data, .. } => {
                self.release(stream, data.len());
                let call = self.calls[stream.slot()].as_mut().filter(|call| call.stream == stream);
                let call = call.ok_or("data of no call")?;
                call.missing = call.missing.checked_sub(data.len()).ok_or("more came back than was sent")?;
                if call.missing > 0 {
                    return Ok(());
                }
                let now = Instant::now();
                plan.latencies.push((now - call.asked).as_micros() as u32);
                if call.left == 0 {
                    return self.data(stream, &[], true);
                }
                (call.left, call.missing, call.asked) = (call.left - 1, plan.message.len(), now);
                self.data(stream, &plan.message, false)
            }
        }
    }

    // ---- servers

    fn echo(&mut self, heard: Heard<'_>) -> Result<()> {
        match heard {
            Heard::Ready => {}
            Heard::Fields { stream, end } => {
                self.fields(stream, Part::Head, &[(":status", "200"), ("content-type", "application/grpc")]);
                if end {
                    self.fields(stream, Part::Trailers, &[("grpc-status", "0")]);
                }
            }
            Heard::Data { stream, data, end } => {
                if !data.is_empty() {
                    self.data(stream, data, false)?;
                    self.release(stream, data.len());
                }
                if end {
                    self.fields(stream, Part::Trailers, &[("grpc-status", "0")]);
                }
            }
        }
        Ok(())
    }
}

/// An event of those that are to be expected.
enum Heard<'i> {
    Ready,
    Fields { stream: StreamKey, end: bool },
    Data { stream: StreamKey, data: &'i [u8], end: bool },
}

/// Each stream sends a message, waits for its echo, sends … and ends after so many of them; then the next begins.
/// Returns how long that took, and the round trips.
pub(crate) fn load(
    address: SocketAddr,
    (connections, streams, messages): (usize, u32, u32),
    bytes: usize,
    period: Duration,
) -> Result<(f64, Vec<u32>)> {
    let mut poll = Poll::new()?;
    let mut lines = Vec::with_capacity(connections);
    for at in 0..connections {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        lines.push(Line::new(TcpStream::from_std(stream), Role::Client, poll.registry(), Token(at))?);
    }
    let mut plan = Plan { messages, message: vec![7; bytes], latencies: Vec::with_capacity(1 << 20) };
    let (mut events, mut scratch) = (Events::with_capacity(1024), vec![0; 64 * 1024]);
    let began = Instant::now();
    while began.elapsed() < period {
        poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        for event in &events {
            let line = &mut lines[event.token().0];
            line.write()?;
            if !line.go_on(&mut scratch, |line, heard| line.hear(heard, streams, &mut plan))? {
                return Err("a connection was closed".into());
            }
        }
    }
    Ok((began.elapsed().as_secs_f64(), plan.latencies))
}

/// Echoes what comes on each stream, with trailers in the end.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    let mut listener = TcpListener::bind(address)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut lines, mut free): (Vec<Option<Line>>, Vec<usize>) = (Vec::new(), Vec::new());
    let (mut events, mut scratch) = (Events::with_capacity(1024), vec![0; 64 * 1024]);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    let at = free.pop().unwrap_or_else(|| {
                        lines.push(None);
                        lines.len() - 1
                    });
                    lines[at] = Some(Line::new(stream, Role::Server, poll.registry(), Token(at))?);
                }
                continue;
            }
            let at = event.token().0;
            let Some(line) = &mut lines[at] else { continue };
            // Whatever a client does, the others are served.
            let goes_on = line.write().and_then(|()| line.go_on(&mut scratch, Line::echo));
            if !matches!(goes_on, Ok(true)) {
                lines[at] = None;
                free.push(at);
            }
        }
    }
}
