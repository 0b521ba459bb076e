//! One connection: what it is, what is asked of it, and what it asks for. What a peer sends is in `receive`, what we
//! send in `send`.

use super::budget::{Budget, Flood};
use super::error::{Code, Error};
use super::flow::{DEFAULT_WINDOW, MAX_WINDOW, Receive, Window};
use super::frame::{self, MAX_STREAM, PREFACE};
use super::hpack::{Decoder, Encoder, Fields};
use super::message::Flaw;
use super::recent::{EndedBy, Recent};
use super::settings::{Config, Remote, Role};
use super::streams::{Side, StreamKey, Streams};
use crate::out::Out;
use alloc::vec::Vec;
use evenkeel_core::time::Instant;

/// A connection as a state machine.
///
/// It waits for the client's preface, then for the peer's SETTINGS, is open, and over. Once it is to end it says so
/// ([`Connection::leave`]) and finishes the streams that it has. A stream that both sides have ended is gone.
#[derive(Debug)]
pub struct Connection {
    pub(super) role: Role,
    pub(super) config: Config,
    pub(super) phase: Phase,
    pub(super) leaving: Leaving,
    pub(super) streams: Streams,
    pub(super) recent: Recent,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    /// Of the last block that came.
    pub(super) fields: Fields,
    /// A block of several frames that is arriving, and what has come of it.
    pub(super) block: Option<Assembly>,
    pub(super) fragments: Vec<u8>,
    pub(super) remote: Remote,
    pub(super) send: Window,
    pub(super) receive: Receive,
    /// The window that the peer gives a new stream: another than ours until it has acknowledged our SETTINGS.
    pub(super) initial_window: u32,
    pub(super) budget: Budget,
    /// The next stream to open; clients only.
    pub(super) next: u32,
    /// The highest stream that the peer has opened.
    pub(super) last: u32,
    /// The last stream that the peer has looked at, if it takes no more.
    pub(super) goaway: Option<u32>,
    /// Streams from this slot on are to be looked at, whether they are behind that.
    pub(super) sweep: Option<usize>,
    /// When the peer must have acknowledged our SETTINGS.
    pub(super) ack_due: Option<Instant>,
    pub(super) settings_due: Option<Instant>,
    pub(super) ping_due: Option<Instant>,
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// The client's preface is due.
    Preface,
    /// The peer's SETTINGS are due.
    Settings,
    /// Anything may come.
    Open,
    /// Nothing is read any more.
    Over,
}

/// How far a farewell of ours has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leaving {
    No,
    /// The peer was told that there will be an end. Streams that it opened before it heard are served; it has
    /// heard when it answers a PING, or at this time.
    Announced(Instant),
    /// It was told which stream is the last.
    Said(u32),
}

/// A block of several frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assembly {
    pub(super) stream: u32,
    pub(super) end: bool,
    /// CONTINUATION frames so far.
    pub(super) frames: u16,
    pub(super) due: Instant,
}

/// What fields belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// A response before the final one.
    Informational,
    /// A request, or a final response.
    Head,
    /// What stands behind a body.
    Trailers,
}

/// What came of a peer's bytes. Data are a piece of those bytes; fields are in memory of the connection until it
/// is used again.
#[derive(Debug)]
pub enum Event<'s, 'i> {
    /// The peer's SETTINGS came, for the first time: how many streams it takes is known now.
    Ready,
    /// A part of a message. In servers, a head begins a stream.
    Fields {
        /// Of this stream.
        stream: StreamKey,
        /// What it is.
        part: Part,
        /// Status of a response; zero in requests and trailers.
        status: u16,
        /// The fields. They are a message as HTTP wants it, in the order in which they came.
        fields: &'s Fields,
        /// The peer sends no more on this stream.
        end: bool,
    },
    /// A request whose head is larger than allowed begins a stream. It can be answered with 431.
    TooLarge {
        /// This one.
        stream: StreamKey,
        /// The peer sends no more on it.
        end: bool,
    },
    /// A piece of a body. Its length is to be released ([`Connection::release`]) when somebody has taken it.
    Data {
        /// Of this stream.
        stream: StreamKey,
        /// The piece.
        data: &'i [u8],
        /// The peer sends no more on this stream.
        end: bool,
    },
    /// A stream is over before its time.
    Reset {
        /// This one; the connection has forgotten it.
        stream: StreamKey,
        /// What the peer said, or was told.
        code: Code,
        /// Why.
        fault: Fault,
    },
    /// A request was turned away at the door: it never became a stream.
    Refused(Fault),
    /// The answer to [`Connection::ping`].
    Pong,
    /// The peer takes no more streams; it finishes those that it has not excluded.
    Goaway(Code),
    /// The connection is over, and its streams with it. What was written is to be sent, then it is to be closed.
    Over(Failure),
}

/// Why a stream was over before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The peer reset it.
    Peer,
    /// The peer has not looked at it: it can be tried elsewhere (RFC 9113, section 8.7).
    Unprocessed,
    /// The peer sent no message as HTTP wants it.
    Malformed(Flaw),
    /// More header bytes or fields than allowed.
    TooLarge,
    /// More streams at once than allowed.
    TooMany,
    /// More data than its window, or a window beyond all bounds.
    Flow,
    /// The peer sent something on a stream that it had ended.
    Ended,
    /// The peer did not take what we had for it for too long.
    Stalled,
}

/// Why a connection is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What the peer was told.
    pub code: Code,
    /// What it did too often, if that is why.
    pub flood: Option<Flood>,
    /// One sentence for the peer and for logs.
    pub what: &'static str,
}

impl Failure {
    pub(super) const fn new(code: Code, what: &'static str) -> Self {
        Self { code, flood: None, what }
    }

    pub(super) const fn protocol(what: &'static str) -> Self {
        Self::new(Code::PROTOCOL_ERROR, what)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.code, "a frame is malformed")
    }
}

impl From<Flood> for Failure {
    fn from(flood: Flood) -> Self {
        Self { code: Code::ENHANCE_YOUR_CALM, flood: Some(flood), what: flood.as_str() }
    }
}

/// Why a timeout was armed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The peer's SETTINGS, or its acknowledgement of ours, are due.
    Settings,
    /// The rest of a block is due.
    Block,
    /// The answer to a PING is due.
    Ping,
    /// A stream has not got on for too long.
    Stall,
    /// The last stream is to be named.
    Farewell,
}

/// PINGs that measure nothing but tell that the peer is there, or that it has heard of our farewell.
pub(super) const KEEP_ALIVE: [u8; 8] = *b"evenkeel";
pub(super) const FAREWELL: [u8; 8] = *b"farewell";

impl Connection {
    /// Begins a connection: writes what comes first.
    pub fn new(role: Role, config: &Config, out: &mut Out<'_, '_>, now: Instant) -> Self {
        let stream_window = config.stream_window.min(MAX_WINDOW);
        // It cannot be made smaller than it is for everybody.
        let connection_window = config.connection_window.clamp(DEFAULT_WINDOW, MAX_WINDOW);
        let config = Config { stream_window, connection_window, ..*config };
        let out = out.spill();
        if role == Role::Client {
            out.extend_from_slice(PREFACE);
        }
        frame::put_settings(out, &config.parameters(role));
        if connection_window > DEFAULT_WINDOW {
            frame::put_window_update(out, 0, connection_window - DEFAULT_WINDOW);
        }
        let due = Some(now + config.settings_timeout);
        Self {
            role,
            config,
            phase: if role == Role::Client { Phase::Settings } else { Phase::Preface },
            leaving: Leaving::No,
            streams: Streams::new(),
            recent: Recent::default(),
            decoder: Decoder::default(),
            encoder: Encoder::new(config.table_bytes),
            fields: Fields::default(),
            block: None,
            fragments: Vec::new(),
            remote: Remote::default(),
            send: Window::new(DEFAULT_WINDOW),
            receive: Receive::new(connection_window),
            initial_window: DEFAULT_WINDOW,
            budget: Budget::new(config.allowance, now),
            next: 1,
            last: 0,
            goaway: None,
            sweep: None,
            ack_due: due,
            settings_due: due,
            ping_due: None,
        }
    }

    /// What the peer told us.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// The peer's SETTINGS have come.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The stream is not over: at least one side may send something on it.
    pub fn is_open(&self, stream: StreamKey) -> bool {
        self.streams.get(stream).is_some()
    }

    /// Streams that are open.
    pub fn open_streams(&self) -> u32 {
        self.streams.len()
    }

    /// There will be no more streams, and there are none: what was written is to be sent, then the connection is to
    /// be closed.
    pub fn is_finished(&self) -> bool {
        // A client's GOAWAY is about streams that we would open. It closes the connection when it is done.
        let farewell = (self.role == Role::Client && self.goaway.is_some()) || matches!(self.leaving, Leaving::Said(_));
        self.phase == Phase::Over || (farewell && self.streams.len() == 0)
    }

    /// Bytes that this connection takes.
    pub fn footprint(&self) -> usize {
        size_of::<Self>()
            + self.streams.footprint()
            + self.recent.footprint()
            + self.decoder.footprint()
            + self.encoder.footprint()
            + self.fields.footprint()
            + self.fragments.capacity()
    }

    /// Gives back memory that an idle connection does not need. The tables stay: they are part of what the
    /// peers agree on.
    pub fn relax(&mut self) {
        if self.streams.len() == 0 {
            self.streams.shrink();
            self.recent.shrink();
            self.fields = Fields::default();
            if self.block.is_none() {
                self.fragments = Vec::new();
            }
        }
    }

    /// When [`Connection::handle_timeout`] has something to do, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let settings = self.ack_due.into_iter().chain(self.settings_due).map(|due| (due, Reason::Settings));
        let farewell = match self.leaving {
            Leaving::Announced(until) => Some((until, Reason::Farewell)),
            Leaving::No | Leaving::Said(_) => None,
        };
        if self.phase == Phase::Over {
            return None;
        }
        settings
            .chain(self.block.map(|block| (block.due, Reason::Block)))
            .chain(self.ping_due.map(|due| (due, Reason::Ping)))
            .chain(farewell)
            .chain(self.streams.slowest().map(|(_, since)| (since + self.config.stall_timeout, Reason::Stall)))
            .min_by_key(|&(due, _)| due)
    }

    /// Acts on what is due. To be called until there is nothing more.
    pub fn handle_timeout(&mut self, out: &mut Out<'_, '_>, now: Instant) -> Option<Event<'static, 'static>> {
        let (_, reason) = self.poll_timeout().filter(|&(due, _)| due <= now)?;
        let failure = match reason {
            Reason::Settings => Failure::new(Code::SETTINGS_TIMEOUT, "SETTINGS did not come, or were not acknowledged"),
            Reason::Ping => Failure::new(Code::NO_ERROR, "a PING was not answered"),
            Reason::Block => Flood::Continuations.into(),
            Reason::Farewell => {
                self.say_last(out);
                return self.handle_timeout(out, now);
            }
            Reason::Stall => {
                let (stream, _) = self.streams.slowest()?;
                let code = Code::CANCEL;
                self.reset(stream, code, out);
                return Some(Event::Reset { stream, code, fault: Fault::Stalled });
            }
        };
        Some(Event::Over(self.fail(failure, out)))
    }

    /// Ends the connection as soon as its streams are over ([`Connection::is_finished`]). A server first says that
    /// there will be an end, for its client may be about to open a stream (RFC 9113, section 6.8).
    pub fn leave(&mut self, out: &mut Out<'_, '_>, now: Instant) {
        if self.leaving != Leaving::No || self.phase == Phase::Over {
            return;
        }
        if self.role == Role::Client {
            return self.say_last(out);
        }
        frame::put_goaway(out.spill(), MAX_STREAM, Code::NO_ERROR, "");
        frame::put_ping(out.spill(), FAREWELL, false);
        self.leaving = Leaving::Announced(now + self.config.farewell);
    }

    /// Ends the connection now, and its streams with it. They are not heard of any more.
    pub fn close(&mut self, code: Code, out: &mut Out<'_, '_>) {
        if self.phase != Phase::Over {
            self.fail(Failure::new(code, ""), out);
        }
    }

    /// Asks the peer whether it is there: an [`Event::Pong`] in time, or the connection is over.
    pub fn ping(&mut self, out: &mut Out<'_, '_>, now: Instant) {
        if self.ping_due.is_none() && self.phase != Phase::Over {
            frame::put_ping(out.spill(), KEEP_ALIVE, false);
            self.ping_due = Some(now + self.config.ping_timeout);
        }
    }

    /// A PING of ours has not been answered yet.
    pub fn awaits_pong(&self) -> bool {
        self.ping_due.is_some()
    }

    /// Names the last stream.
    pub(super) fn say_last(&mut self, out: &mut Out<'_, '_>) {
        frame::put_goaway(out.spill(), self.last, Code::NO_ERROR, "");
        self.leaving = Leaving::Said(self.last);
    }

    pub(super) fn fail(&mut self, failure: Failure, out: &mut Out<'_, '_>) -> Failure {
        frame::put_goaway(out.spill(), self.last, failure.code, failure.what);
        self.phase = Phase::Over;
        self.block = None;
        failure
    }

    /// Forgets a stream. What nobody has taken of it does not weigh on the others.
    pub(super) fn forget(&mut self, key: StreamKey, by: EndedBy, out: &mut Out<'_, '_>) {
        let Some(stream) = self.streams.get(key) else { return };
        self.receive.taken(stream.receive.held());
        self.streams.remove(key);
        self.recent.push(key.id(), by);
        self.credit(out);
    }

    /// Forgets a stream if both sides have ended it.
    pub(super) fn forget_if_done(&mut self, key: StreamKey, out: &mut Out<'_, '_>) {
        let done =
            |stream: &&_| matches!(stream, super::streams::Stream { receiving: Side::Ended, sending: Side::Ended, .. });
        if self.streams.get(key).filter(done).is_some() {
            self.budget.earn(Flood::Resets, 1);
            self.forget(key, EndedBy::Peer, out);
        }
    }

    /// Gives the peer credit on the connection, if it is time.
    #[inline]
    pub(super) fn credit(&mut self, out: &mut Out<'_, '_>) {
        if let Some(increment) = self.receive.update(self.config.connection_window) {
            frame::put_window_update(out.spill(), 0, increment);
        }
    }
}
