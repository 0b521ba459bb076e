//! One side of an HTTP/2 connection that does as it is told: for what a real client or server cannot be made to do.

use super::{Backend, PATIENCE, connect};
use evenkeel_core::time::Instant;
use evenkeel_wire::http2::connection::{Connection, Event, Fault, Part};
use evenkeel_wire::http2::error::Code;
use evenkeel_wire::http2::frame;
use evenkeel_wire::http2::hpack::Form;
use evenkeel_wire::http2::settings::{Config, Role};
use evenkeel_wire::http2::streams::StreamKey;
use evenkeel_wire::out::Out;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Fields as text.
pub type Fields = Vec<(String, String)>;

/// What the other side said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// A head, or trailers.
    Fields(StreamKey, Part, Fields, bool),
    Data(StreamKey, Vec<u8>, bool),
    Reset(StreamKey, Code, Fault),
    Goaway(Code),
    /// The connection is over, with or without a word.
    Over,
}

/// One side.
pub struct Peer {
    stream: TcpStream,
    pub connection: Connection,
    input: Vec<u8>,
    heard: VecDeque<Heard>,
    /// Data are taken as they come; if not, the other side gets no credit.
    pub takes: bool,
}

const GET: [(&str, &str); 3] = [(":method", "GET"), (":scheme", "http"), (":authority", "test")];
const CALL: [(&str, &str); 5] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "test"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
];

impl Peer {
    pub fn client(addr: SocketAddr) -> Self {
        Self::new(connect(addr), Role::Client, Config::default())
    }

    pub fn new(stream: TcpStream, role: Role, config: Config) -> Self {
        // A head and its data are two writes.
        stream.set_nodelay(true).expect("an option");
        let mut out = Vec::new();
        let connection = Connection::new(role, &config, &mut Out::new(&mut out), Instant::ZERO);
        let mut peer = Self { stream, connection, input: Vec::new(), heard: VecDeque::new(), takes: true };
        peer.write(&out);
        peer
    }

    /// Those who are gone need not hear it.
    fn write(&mut self, bytes: &[u8]) {
        let _gone = self.stream.write_all(bytes);
    }

    fn say<R>(&mut self, what: impl FnOnce(&mut Connection, &mut Out<'_, '_>) -> R) -> R {
        let mut bytes = Vec::new();
        let mut out = Out::new(&mut bytes);
        let result = what(&mut self.connection, &mut out);
        out.spill();
        self.write(&bytes);
        result
    }

    /// Opens a stream with a request.
    pub fn request(&mut self, fields: &[(&str, &str)], end: bool) -> StreamKey {
        let opened = self.say(|connection, out| {
            connection.request(end, out, |writer| {
                fields.iter().for_each(|(name, value)| writer.put(name, value.as_bytes(), Form::Indexed));
            })
        });
        opened.expect("there is room for a stream")
    }

    /// `GET`.
    pub fn get(&mut self, path: &str) -> StreamKey {
        self.request(&[&GET[..], &[(":path", path)]].concat(), true)
    }

    /// A call of gRPC whose messages are to come.
    pub fn call(&mut self, path: &str) -> StreamKey {
        let (pseudo, rest) = CALL.split_at(3);
        self.request(&[pseudo, &[(":path", path)], rest].concat(), false)
    }

    pub fn fields(&mut self, stream: StreamKey, part: Part, fields: &[(&str, &str)], end: bool) {
        self.say(|connection, out| {
            connection.fields(stream, part, end, out, |writer| {
                fields.iter().for_each(|(name, value)| writer.put(name, value.as_bytes(), Form::Indexed));
            })
        });
    }

    /// Sends what the windows let go; returns how much that was.
    pub fn data(&mut self, stream: StreamKey, data: &[u8], end: bool) -> usize {
        let mut bytes = Vec::new();
        let mut out = Out::new(&mut bytes);
        let sent = self.connection.data(stream, data, end, &mut out, Instant::ZERO);
        out.spill();
        self.write(&bytes);
        sent
    }

    /// A whole answer.
    pub fn answer(&mut self, stream: StreamKey, status: &str, body: &str) {
        self.fields(stream, Part::Head, &[(":status", status)], false);
        assert_eq!(self.data(stream, body.as_bytes(), true), body.len());
    }

    /// Takes so much of what came.
    pub fn release(&mut self, stream: StreamKey, bytes: usize) {
        self.say(|connection, out| connection.release(stream, bytes, out));
    }

    pub fn reset(&mut self, stream: StreamKey, code: Code) {
        self.say(|connection, out| connection.reset(stream, code, out));
    }

    /// Says that streams behind this one were not looked at.
    pub fn goaway(&mut self, last: u32) {
        self.say(|_, out| frame::put_goaway(out.spill(), last, Code::NO_ERROR, ""));
    }

    /// The next thing that the other side says.
    pub fn hear(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return heard;
            }
            let mut bytes = [0; 16 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(n) if n > 0 => self.input.extend_from_slice(&bytes[..n]),
                Ok(_) => return Heard::Over,
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Heard::Over,
                Err(e) => panic!("nothing is heard: {e}"),
            }
            self.understand();
        }
    }

    /// What the other side has said, or says within a moment; `None`: it says nothing.
    pub fn hear_quick(&mut self) -> Option<Heard> {
        if let Some(heard) = self.heard.pop_front() {
            return Some(heard);
        }
        let mut bytes = [0; 16 * 1024];
        self.stream.set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout");
        let read = self.stream.read(&mut bytes);
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        match read {
            Ok(n) if n > 0 => self.input.extend_from_slice(&bytes[..n]),
            Ok(_) => return Some(Heard::Over),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
            Err(_) => return Some(Heard::Over),
        }
        self.understand();
        self.heard.pop_front()
    }

    fn understand(&mut self) {
        let (mut bytes, mut taken) = (Vec::new(), Vec::new());
        let mut input = &self.input[..];
        while let Some(event) = self.connection.recv(&mut input, &mut Out::new(&mut bytes), Instant::ZERO) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            self.heard.push_back(match event {
                Event::Fields { stream, part, fields, end, .. } => {
                    let fields = fields.iter().map(|field| (text(field.name()), text(field.value()))).collect();
                    Heard::Fields(stream, part, fields, end)
                }
                Event::Data { stream, data, end } => {
                    taken.push((stream, data.len()));
                    Heard::Data(stream, data.to_vec(), end)
                }
                Event::Reset { stream, code, fault } => Heard::Reset(stream, code, fault),
                Event::Goaway(code) => Heard::Goaway(code),
                Event::Over(_) => Heard::Over,
                Event::Ready | Event::Pong | Event::TooLarge { .. } | Event::Refused(_) => continue,
            });
        }
        let used = self.input.len() - input.len();
        self.input.drain(..used);
        for (stream, n) in taken.into_iter().filter(|_| self.takes) {
            self.connection.release(stream, n, &mut Out::new(&mut bytes));
        }
        self.write(&bytes);
    }

    /// The next head: of which stream, its fields, and whether that is all.
    pub fn head(&mut self) -> (StreamKey, Fields, bool) {
        match self.hear() {
            Heard::Fields(stream, Part::Head, fields, end) => (stream, fields, end),
            other => panic!("no head, but {other:?}"),
        }
    }

    /// What is heard of a stream until it is over: status, body, and what stood behind it.
    pub fn whole(&mut self, stream: StreamKey) -> (String, String, Fields) {
        let (mut status, mut body, mut trailers) = (String::new(), Vec::new(), Fields::new());
        loop {
            let end = match self.hear() {
                Heard::Fields(of, Part::Head, fields, end) if of == stream => {
                    status = value(&fields, ":status").to_owned();
                    trailers = if end { fields } else { Fields::new() };
                    end
                }
                Heard::Fields(of, Part::Trailers, fields, end) if of == stream => {
                    trailers = fields;
                    end
                }
                Heard::Data(of, data, end) if of == stream => {
                    body.extend_from_slice(&data);
                    end
                }
                Heard::Reset(of, code, _) if of == stream => panic!("reset with {code:?}"),
                Heard::Over => panic!("the connection is over"),
                _ => false,
            };
            if end {
                return (status, String::from_utf8_lossy(&body).into_owned(), trailers);
            }
        }
    }
}

/// The value of a field; empty if it is not there.
pub fn value<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

/// A server of which each connection does as it is told.
pub fn server(serve: impl Fn(&mut Peer, usize) + Send + Sync + 'static) -> Backend {
    Backend::start(move |stream, number| serve(&mut Peer::new(stream, Role::Server, Config::default()), number))
}

/// A server that answers every request with 200 and this, when the request is whole.
pub fn answering(body: &'static str) -> Backend {
    server(move |peer, _| {
        loop {
            let (stream, end) = match peer.hear() {
                Heard::Fields(stream, _, _, end) | Heard::Data(stream, _, end) => (stream, end),
                Heard::Over => return,
                _ => continue,
            };
            if end {
                peer.answer(stream, "200", body);
            }
        }
    })
}
