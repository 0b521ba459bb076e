//! One engine, and the bytes that somebody says to it.

use evenkeel_core::time::{Duration, Instant};
use evenkeel_wire::http2::connection::{Connection, Event, Failure, Fault, Part};
use evenkeel_wire::http2::error::Code;
use evenkeel_wire::http2::frame::{self, Frame};
use evenkeel_wire::http2::hpack::{Decoder, Encoder, Fields, Form};
use evenkeel_wire::http2::settings::{Config, Role};
use evenkeel_wire::http2::streams::StreamKey;
use evenkeel_wire::out::Out;

pub type List = Vec<(String, String)>;

/// An event, with its own copy of everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    Ready,
    Fields { stream: StreamKey, part: Part, status: u16, fields: List, end: bool },
    TooLarge { stream: StreamKey, end: bool },
    Data { stream: StreamKey, data: Vec<u8>, end: bool },
    Reset { stream: StreamKey, code: Code, fault: Fault },
    Refused(Fault),
    Pong,
    Goaway(Code),
    Over(Failure),
}

pub fn list(fields: &Fields) -> List {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|field| (text(field.name()), text(field.value()))).collect()
}

impl Seen {
    pub fn of(event: Event<'_, '_>) -> Self {
        match event {
            Event::Ready => Self::Ready,
            Event::Fields { stream, part, status, fields, end } => {
                Self::Fields { stream, part, status, fields: list(fields), end }
            }
            Event::TooLarge { stream, end } => Self::TooLarge { stream, end },
            Event::Data { stream, data, end } => Self::Data { stream, data: data.to_vec(), end },
            Event::Reset { stream, code, fault } => Self::Reset { stream, code, fault },
            Event::Refused(fault) => Self::Refused(fault),
            Event::Pong => Self::Pong,
            Event::Goaway(code) => Self::Goaway(code),
            Event::Over(failure) => Self::Over(failure),
        }
    }
}

/// A frame that the engine said, without borrowing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    Settings,
    SettingsAck,
    Fields(u32, List, bool),
    Data(u32, Vec<u8>, bool),
    Reset(u32, Code),
    Ping([u8; 8], bool),
    Goaway(u32, Code),
    WindowUpdate(u32, u32),
}

/// An engine whose peer is the test.
pub struct Talk {
    pub engine: Connection,
    pub now: Instant,
    /// The test's own tables.
    pub encoder: Encoder,
    decoder: Decoder,
    out: Vec<u8>,
    kept: Vec<u8>,
}

impl Talk {
    /// An engine that has said its first words, and heard nothing.
    pub fn begin(role: Role, config: &Config) -> Self {
        let (mut out, now) = (Vec::new(), Instant::from_nanos(1_000_000_000));
        let engine = Connection::new(role, config, &mut Out::new(&mut out), now);
        if role == Role::Client {
            assert!(out.starts_with(frame::PREFACE));
            out.drain(..frame::PREFACE.len());
        }
        Self { engine, now, encoder: Encoder::new(4096), decoder: Decoder::default(), out, kept: Vec::new() }
    }

    /// An engine behind the exchange of SETTINGS.
    pub fn open(role: Role, config: &Config) -> Self {
        let mut talk = Self::begin(role, config);
        let mut hello = if role == Role::Server { frame::PREFACE.to_vec() } else { Vec::new() };
        frame::put_settings(&mut hello, &[]);
        frame::put_settings_ack(&mut hello);
        assert_eq!(talk.hears(&hello), [Seen::Ready]);
        let said = talk.said();
        assert_eq!((said.first(), said.last()), (Some(&Said::Settings), Some(&Said::SettingsAck)));
        talk
    }

    pub fn server() -> Self {
        Self::open(Role::Server, &Config::default())
    }

    pub fn client() -> Self {
        Self::open(Role::Client, &Config::default())
    }

    /// Says these bytes to the engine, behind what it has not used yet.
    pub fn hears(&mut self, bytes: &[u8]) -> Vec<Seen> {
        self.kept.extend_from_slice(bytes);
        let kept = std::mem::take(&mut self.kept);
        let (mut input, mut seen) = (&kept[..], Vec::new());
        let mut out = Out::new(&mut self.out);
        while let Some(event) = self.engine.recv(&mut input, &mut out, self.now) {
            seen.push(Seen::of(event));
        }
        self.kept = input.to_vec();
        seen
    }

    /// Says these bytes to the engine, and expects that this is the end.
    pub fn breaks(&mut self, bytes: &[u8]) -> Failure {
        let seen = self.hears(bytes);
        let Some(Seen::Over(failure)) = seen.last() else { panic!("it goes on: {seen:?}") };
        assert!(matches!(self.said().last(), Some(Said::Goaway(_, code)) if *code == failure.code));
        assert!(self.engine.is_finished());
        assert_eq!(self.hears(bytes), [], "nothing is read any more");
        *failure
    }

    /// What the engine has said since the last time.
    pub fn said(&mut self) -> Vec<Said> {
        let bytes = std::mem::take(&mut self.out);
        let (mut rest, mut said) = (&bytes[..], Vec::new());
        while let Some((read, end)) = frame::parse(rest, frame::DEFAULT_PAYLOAD_BYTES).unwrap() {
            rest = &rest[end..];
            said.push(match read.unwrap() {
                Frame::Settings(_) => Said::Settings,
                Frame::SettingsAck => Said::SettingsAck,
                Frame::Headers { stream, fragment, end, whole: true } => {
                    let mut fields = Fields::default();
                    let all = evenkeel_wire::http2::hpack::Capacity { bytes: usize::MAX, fields: usize::MAX };
                    self.decoder.decode(fragment, all, &mut fields).unwrap();
                    Said::Fields(stream, list(&fields), end)
                }
                Frame::Data { stream, data, end, .. } => Said::Data(stream, data.to_vec(), end),
                Frame::Reset { stream, code } => Said::Reset(stream, code),
                Frame::Ping { data, ack } => Said::Ping(data, ack),
                Frame::Goaway { last, code } => Said::Goaway(last, code),
                Frame::WindowUpdate { stream, increment } => Said::WindowUpdate(stream, increment),
                other => panic!("{other:?}"),
            });
        }
        assert!(rest.is_empty());
        said
    }

    /// Calls the engine with its output.
    pub fn with<T>(&mut self, call: impl FnOnce(&mut Connection, &mut Out<'_, '_>, Instant) -> T) -> T {
        call(&mut self.engine, &mut Out::new(&mut self.out), self.now)
    }

    /// Sends data from the engine.
    pub fn send(&mut self, stream: StreamKey, data: &[u8], end: bool) -> usize {
        let mut out = Out::new(&mut self.out);
        let sent = self.engine.data(stream, data, end, &mut out, self.now);
        out.spill();
        sent
    }

    /// Sends a part of a message from the engine.
    pub fn answer(&mut self, stream: StreamKey, part: Part, fields: &[(&str, &str)], end: bool) -> bool {
        self.with(|engine, out, _| {
            engine.fields(stream, part, end, out, |writer| {
                fields.iter().for_each(|(name, value)| writer.put(name, value.as_bytes(), Form::Indexed));
            })
        })
    }

    /// Opens a stream from the engine.
    pub fn request(&mut self, fields: &[(&str, &str)], end: bool) -> Option<StreamKey> {
        self.with(|engine, out, _| {
            engine.request(end, out, |writer| {
                fields.iter().for_each(|(name, value)| writer.put(name, value.as_bytes(), Form::Indexed));
            })
        })
    }

    /// Lets time pass, and everything happen that is due meanwhile.
    pub fn wait(&mut self, time: Duration) -> Vec<Seen> {
        self.now += time;
        let mut seen = Vec::new();
        let mut out = Out::new(&mut self.out);
        while let Some(event) = self.engine.handle_timeout(&mut out, self.now) {
            seen.push(Seen::of(event));
        }
        seen
    }

    /// The block of these fields, in the test's table.
    pub fn block(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        self.encoder.begin(&mut block);
        fields.iter().for_each(|(name, value)| {
            self.encoder.put(name.as_bytes(), value.as_bytes(), Form::Indexed, &mut block);
        });
        block
    }

    /// HEADERS of the test.
    pub fn headers(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) -> Vec<u8> {
        raw(1, if end { 0x5 } else { 0x4 }, stream, &self.block(fields))
    }

    /// The test asks for something, and the engine takes it for a request.
    pub fn asks(&mut self, stream: u32, end: bool) -> StreamKey {
        let headers = self.headers(stream, GET, end);
        match self.hears(&headers)[..] {
            [Seen::Fields { stream, part: Part::Head, .. }] => stream,
            ref other => panic!("{other:?}"),
        }
    }
}

pub const GET: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
pub const OK: &[(&str, &str)] = &[(":status", "200")];

/// Any frame.
pub fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

pub fn data(stream: u32, data: &[u8], end: bool) -> Vec<u8> {
    raw(0, end.into(), stream, data)
}

pub fn reset(stream: u32, code: Code) -> Vec<u8> {
    raw(3, 0, stream, &code.0.to_be_bytes())
}

pub fn settings(parameters: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_settings(&mut out, parameters);
    out
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    raw(8, 0, stream, &increment.to_be_bytes())
}

pub fn goaway(last: u32, code: Code) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_goaway(&mut out, last, code, "");
    out
}

pub fn owned(fields: &[(&str, &str)]) -> List {
    fields.iter().map(|&(name, value)| (name.into(), value.into())).collect()
}
