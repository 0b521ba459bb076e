//! HTTP/2: sessions of many turns, and links that they share.
//!
//! A session has a [`Connection`] and, for each of its streams, a turn; a shared link has a `Connection` and, for each
//! of its streams, the name of the one that it carries. What comes on one of the two is passed to the other at once
//! and written at the end of the loop's turn, when everything that was to be read is read: one write for each
//! connection, however many streams it had something to say about.
//!
//! Whoever is driven (a session, a link) is taken out of its place for that time; the others are found in theirs. So
//! a session that is driven finds its links, a link its sessions, and what has to reach back to the one that is driven
//! waits for the end of the turn (`resets`).
//!
//! * `session`: from a client's bytes to links
//! * `link`: from an endpoint's bytes to sessions
//! * `solo`: links of HTTP/1.1, of which each has one stream
//! * `turn`: choosing an endpoint for a stream, opening it there, trying again, its end
//! * `grpc`: what calls have beyond that
//! * `guest`: turns of HTTP/1.1 on shared links
//! * `health`: those that are answered here
//! * `pass`: data, credit, and what is written in the end
//!
//! Decision 7 (`docs/decisions/0007-a-stream-is-a-turn.md`) says why, and what else goes through here.

mod grpc;
mod guest;
mod health;
mod link;
mod pass;
mod session;
mod solo;
mod turn;

use self::grpc::Call;
pub(super) use self::guest::Guest;
use self::health::Inquiry;
use super::buffer::{Pool, SendBuf};
use super::client::Turn;
use super::slab::Key;
use evenkeel_core::end::Cause;
use evenkeel_core::rng::Rng;
use evenkeel_core::time::{Duration, Instant};
use evenkeel_wire::http1::exchange::Exchange;
use evenkeel_wire::http2::connection::Connection;
use evenkeel_wire::http2::forward::{Added, Traced};
use evenkeel_wire::http2::hpack::Fields;
use evenkeel_wire::http2::streams::StreamKey;
use evenkeel_wire::out::Out;
use evenkeel_wire::session::{Context, TurnLog};

/// Streams, and heads and trailers, that a worker keeps the memory of.
const SPARE: usize = 1024;

/// How long a session without a request keeps the memory for the next ones.
const RELAX: Duration = Duration::from_secs(1);

/// A connection, and what waits to be written on it.
#[derive(Debug)]
struct Line {
    connection: Connection,
    out: SendBuf,
    /// It is in the list of those that are to be written.
    listed: bool,
    /// Streams have something for it that it had no room for.
    full: bool,
    /// The slot of the one that was the first of them.
    next: usize,
    /// Its peer said something last.
    heard: Instant,
    /// It is to leave then, for its age.
    until: Option<Instant>,
}

impl Line {
    fn new(connection: Connection, out: Vec<u8>, now: Instant, until: Option<Instant>) -> Self {
        let out = SendBuf { bytes: out, ..SendBuf::default() };
        Self { connection, out, listed: false, full: false, next: 0, heard: now, until }
    }

    /// When its peer is to be asked whether it is alive: requests are under way, and it has said nothing for so long.
    fn ping_at(&self, ping: Option<Duration>) -> Option<Instant> {
        let waits = self.connection.open_streams() > 0 && !self.connection.awaits_pong();
        ping.filter(|_| waits).map(|ping| self.heard + ping)
    }

    /// Asks it, if it is time.
    fn ping(&mut self, ping: Option<Duration>, now: Instant, pool: &mut Pool) {
        if self.ping_at(ping).is_some_and(|at| at <= now) {
            self.connection.ping(&mut Out::new(self.out.lend(pool)), now);
        }
    }
}

/// When something that may become so old has: not all at once that began at once.
pub(super) fn old_at(age: Option<Duration>, now: Instant, rng: &mut Rng) -> Option<Instant> {
    age.map(|age| now + age.mul_f64(0.9 + 0.2 * rng.unit()))
}

/// What a session of HTTP/2 has.
#[derive(Debug)]
pub(super) struct Http2 {
    line: Line,
    /// Bytes of a frame that is not whole.
    input: Vec<u8>,
    /// By slot.
    streams: Vec<Seat>,
    /// What its requests get besides; made for the first one.
    added: Option<Box<Added>>,
    /// No stream is late before this.
    due: Option<Instant>,
    /// The last stream ended, or the session began.
    since: Instant,
    /// Memory that an idle session does not need was given back.
    relaxed: bool,
    /// Its client was told that there will be an end, and why.
    told: Option<Cause>,
    /// Calls end then, for there will be no more time.
    calls_end: Option<Instant>,
}

/// Room for a stream. The memory of one that is over is used again ([`Lines`]).
type Seat = Option<Box<Option<Stream>>>;

/// The stream with this key, if it is still there.
#[inline]
fn find(streams: &mut [Seat], key: StreamKey) -> Option<&mut Stream> {
    streams.get_mut(key.slot())?.as_deref_mut()?.as_mut().filter(|stream| stream.key == key)
}

/// What every request of a client gets, made once for it.
fn added_for<'a>(added: &'a mut Option<Box<Added>>, context: &Context<'_>) -> &'a Added {
    if added.as_ref().is_some_and(|added| !added.suits(context.settings)) {
        *added = None;
    }
    added.get_or_insert_with(|| Box::new(Added::of(context)))
}

impl Http2 {
    #[inline]
    fn get(&mut self, key: StreamKey) -> Option<&mut Stream> {
        find(&mut self.streams, key)
    }

    fn insert(&mut self, stream: Stream, lines: &mut Lines) {
        let slot = stream.key.slot();
        if self.streams.len() <= slot {
            self.streams.resize_with(slot + 1, || None);
        }
        let mut seat = lines.seats.pop().unwrap_or_default();
        *seat = Some(stream);
        self.streams[slot] = Some(seat);
        self.relaxed = false;
    }

    fn remove(&mut self, key: StreamKey, lines: &mut Lines) -> Option<Stream> {
        self.get(key)?;
        let mut seat = self.streams[key.slot()].take()?;
        let stream = seat.take();
        if lines.seats.len() < SPARE {
            lines.seats.push(seat);
        }
        stream
    }

    /// It has a request under way.
    pub(super) fn is_busy(&self) -> bool {
        self.streams.iter().any(Option::is_some)
    }

    /// When it gives back what an idle session does not need.
    fn relaxes(&self) -> Option<Instant> {
        (!self.relaxed && self.line.connection.open_streams() == 0).then_some(self.since + RELAX)
    }

    fn keys(&self) -> Vec<StreamKey> {
        self.streams.iter().flatten().filter_map(|seat| (**seat).as_ref()).map(|stream| stream.key).collect()
    }
}

/// A stream of a session: a turn.
#[derive(Debug)]
struct Stream {
    key: StreamKey,
    turn: Turn,
    place: Place,
    /// `HEAD`, and gRPC: how an answer of ours looks.
    kind: (bool, bool),
    /// The request had no body when it began.
    bodiless: bool,
    /// What it is besides, if it is one of gRPC.
    call: Option<Call>,
    /// It is answered here.
    inquiry: Option<Box<Inquiry>>,
    traced: Option<Traced>,
    log: Option<Box<TurnLog>>,
    /// The head, until it need not be sent again.
    request: Option<Box<Fields>>,
    /// To the endpoint.
    up: Way,
    /// To the client.
    down: Way,
    /// Bytes of its body so far.
    received: u64,
    /// Something moved.
    since: Instant,
    /// The answer says that its endpoint is not well, as only gRPC can say it.
    unwell: bool,
}

impl Stream {
    /// All of the request that was sent is here, and nothing of an answer.
    fn may_run_again(&self) -> bool {
        !self.turn.heard && self.up.waiting.keep && self.request.is_some()
    }

    /// Some of the answer came; `end`: the last of it.
    fn answered(&mut self, end: bool) {
        self.down.ended |= end;
        if end && self.up.done && matches!(self.place, Place::There(..)) {
            // The link has forgotten its stream by itself.
            self.place = Place::Done;
        }
    }

    /// Begins again: nothing is sent, and it is nowhere.
    fn rewind(&mut self) {
        (self.up.waiting.sent, self.up.done, self.turn.heard) = (0, false, false);
        self.place = Place::Waits;
    }
}

/// Where the other half of a stream is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// Nowhere yet: it waits for a link.
    Waits,
    /// A stream of a shared link.
    There(Key, StreamKey),
    /// A link of HTTP/1.1 that it has for itself, if only to be opened.
    Solo(Key),
    /// The endpoint is done with it.
    Done,
}

/// One direction of a stream.
#[derive(Debug, Default)]
struct Way {
    /// Data that could not be passed on; with `keep`, those that were, too.
    waiting: SendBuf,
    /// What comes behind them.
    trailers: Option<Box<Fields>>,
    /// Nothing more comes.
    ended: bool,
    /// That was passed on.
    done: bool,
}

impl Way {
    /// Nothing waits.
    fn is_clear(&self) -> bool {
        self.waiting.unsent().is_empty() && self.trailers.is_none()
    }
}

/// What a link that is shared has.
#[derive(Debug)]
pub(super) struct Shared {
    /// Of the link.
    key: Key,
    line: Line,
    /// Bytes of a frame that is not whole.
    input: Vec<u8>,
    /// By slot.
    tenants: Vec<Option<Tenant>>,
    /// The earliest timer that is armed for it.
    armed: Option<Instant>,
    /// Why it is about to go.
    cause: Cause,
    /// It is in the list of links to drive.
    queued: bool,
}

/// What a link of HTTP/1.1 has while a stream uses it.
#[derive(Debug)]
pub(super) struct Solo {
    /// Of the link.
    key: Key,
    session: Key,
    stream: StreamKey,
    /// Request and answer, once the link is there.
    exchange: Option<Exchange>,
    /// To the endpoint.
    out: SendBuf,
    /// What the endpoint sent and could not be used yet: some of a head, or of trailers.
    input: Vec<u8>,
    /// Bytes of the body in `out`, for which the client has no credit yet.
    owed: usize,
    /// Some of the request was sent.
    sent: bool,
    /// Some of an answer has come.
    heard: bool,
    /// It is in the list of those that are to be written.
    listed: bool,
    /// It is in the list of links to drive.
    queued: bool,
    /// Why it is about to go.
    cause: Cause,
}

/// What stands beside a link.
pub(super) trait Beside {
    /// Of the link.
    fn key(&self) -> Key;
}

impl Beside for Shared {
    fn key(&self) -> Key {
        self.key
    }
}

impl Beside for Solo {
    fn key(&self) -> Key {
        self.key
    }
}

/// What some links have, by the index of the link: those of sessions of HTTP/1.1, of which there may be many, need no
/// room for it.
#[derive(Debug)]
pub(super) struct ByLink<T>(Vec<Option<Box<T>>>);

impl<T> Default for ByLink<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Beside> ByLink<T> {
    pub(super) fn get(&self, key: Key) -> Option<&T> {
        self.0.get(key.index as usize)?.as_deref().filter(|beside| beside.key() == key)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.0.get_mut(key.index as usize)?.as_deref_mut().filter(|beside| beside.key() == key)
    }

    pub(super) fn put(&mut self, beside: Box<T>) {
        let index = beside.key().index as usize;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index] = Some(beside);
    }

    pub(super) fn take(&mut self, key: Key) -> Option<Box<T>> {
        self.get(key)?;
        self.0[key.index as usize].take()
    }
}

/// Who a stream of a link belongs to.
#[derive(Clone, Copy, Debug)]
struct Tenant {
    own: StreamKey,
    session: Key,
    /// The stream of that session; `None`: it is one of HTTP/1.1, which has one turn at a time.
    stream: Option<StreamKey>,
}

impl Shared {
    fn tenant(&self, own: StreamKey) -> Option<Tenant> {
        self.tenants.get(own.slot()).copied().flatten().filter(|tenant| tenant.own == own)
    }

    fn seat(&mut self, tenant: Tenant) {
        let slot = tenant.own.slot();
        if self.tenants.len() <= slot {
            self.tenants.resize(slot + 1, None);
        }
        self.tenants[slot] = Some(tenant);
    }

    fn unseat(&mut self, own: StreamKey) {
        if self.tenant(own).is_some() {
            self.tenants[own.slot()] = None;
        }
    }
}

/// A connection that is to be written at the end of the loop's turn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unwritten {
    Session(Key),
    Link(Key),
}

/// What a stream waited for is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handover {
    pub(super) session: Key,
    pub(super) stream: StreamKey,
    pub(super) service: u32,
    pub(super) pool: u32,
    /// `None`: there is room for another link.
    pub(super) link: Option<Key>,
}

/// What a worker has for HTTP/2 as a whole.
#[derive(Debug, Default)]
pub(super) struct Lines {
    unwritten: Vec<Unwritten>,
    /// Shared links to drive this turn.
    pub(super) touched: Vec<Key>,
    /// Sessions of HTTP/1.1 that shared links had something for.
    answered: Vec<Key>,
    /// Streams of links that nobody needs any more; of a link of HTTP/1.1, the stream that had it.
    resets: Vec<(Key, StreamKey)>,
    /// Links, and room for them, that streams waited for.
    pub(super) handovers: Vec<Handover>,
    #[expect(clippy::vec_box, reason = "they change hands as boxes")]
    spare: Vec<Box<Fields>>,
    #[expect(clippy::vec_box, reason = "they change hands as boxes")]
    seats: Vec<Box<Option<Stream>>>,
}

impl Lines {
    /// A copy, in memory that was used before.
    fn keep(&mut self, fields: &Fields) -> Box<Fields> {
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.copy_from(fields);
        kept
    }

    fn give(&mut self, fields: Option<Box<Fields>>) {
        if let Some(fields) = fields
            && self.spare.len() < SPARE
        {
            self.spare.push(fields);
        }
    }
}
