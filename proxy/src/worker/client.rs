//! What the worker keeps of one client connection.

use super::arrive::Arrival;
use super::buffer::Held;
use super::http2::{Guest, Http2};
use super::link::Link;
use super::slab::Key;
use super::socket::Stream;
use super::splice::{Splice, Toward};
use evenkeel_core::end::End;
use evenkeel_core::endpoint::EndpointId;
use evenkeel_core::picker::Ticket;
use evenkeel_core::time::Instant;
use evenkeel_wire::session::{Leave, Peer, Session, TurnLog, Want};

/// Endpoints remembered as tried for one turn.
pub(super) const TRIED: usize = 4;

/// One turn on its way.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) want: Want,
    /// The choice; `None` until one is made.
    pub(super) ticket: Option<Ticket>,
    /// Index of the chosen endpoint's pool.
    pub(super) pool: u32,
    pub(super) began: Instant,
    /// When the present try began.
    pub(super) tried_at: Instant,
    /// When it got the link that it has, or had last.
    pub(super) linked_at: Option<Instant>,
    pub(super) first_byte: Option<Instant>,
    /// The status of the answer that began.
    pub(super) status: Option<u16>,
    /// What there is to log of a turn that became a tunnel.
    pub(super) log: Option<Box<TurnLog>>,
    /// Any byte of a response was seen: from here on nothing is tried again.
    pub(super) heard: bool,
    /// Bytes of the request that were sent are not kept: no replay is possible.
    pub(super) dropped: bool,
    /// Waits in the pool's queue since `tried_at`.
    pub(super) queued: bool,
    /// Waits to be let in until then.
    pub(super) held: Option<Instant>,
    /// Is one of the upgrades that the service may have.
    pub(super) upgrade: bool,
    /// The next link must be a new one: it is wanted so, or a pooled one just failed.
    pub(super) fresh: bool,
    /// Tries made, the present one included.
    pub(super) tries: u32,
    tried: Option<Box<Tried>>,
}

/// Endpoints not to be tried again while there are others. Most turns have none.
#[derive(Default, Debug)]
struct Tried(Vec<EndpointId>);

impl Turn {
    pub(super) fn new(want: Want, now: Instant) -> Self {
        Self {
            want,
            ticket: None,
            pool: 0,
            began: now,
            tried_at: now,
            linked_at: None,
            first_byte: None,
            status: None,
            log: None,
            heard: false,
            dropped: false,
            queued: false,
            held: None,
            upgrade: false,
            fresh: want.fresh,
            tries: 1,
            tried: None,
        }
    }

    pub(super) fn tried(&self) -> &[EndpointId] {
        self.tried.as_deref().map_or(&[], |tried| &tried.0)
    }

    pub(super) fn note_tried(&mut self, id: EndpointId) {
        let Tried(ids) = &mut **self.tried.get_or_insert_default();
        if ids.len() < TRIED {
            ids.push(id);
        }
    }
}

/// A session on its way out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub(super) end: End,
    pub(super) abort: bool,
    /// The client may still be sending.
    pub(super) linger: bool,
    /// FIN is sent; what the client still sends is read and dropped, because closing a socket with
    /// unread bytes resets it and may take our last answer away from the client.
    pub(super) lingering: bool,
    /// When patience ends.
    pub(super) until: Instant,
}

/// What few sessions have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// The endpoint of all its turns, once chosen (policy `random`).
    pub(super) pin: Option<EndpointId>,
    /// What it has if it speaks HTTP/2.
    pub(super) http2: Option<Box<Http2>>,
    /// Its turn is a stream of a shared link.
    pub(super) guest: Option<Guest>,
}

/// One client connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) stream: Stream,
    pub(super) service: u32,
    pub(super) engine: Session,
    /// What must come before the engine's protocol.
    pub(super) arrival: Option<Box<Arrival>>,
    /// It is one of those that the service may have; if not, it is being told so.
    pub(super) admitted: bool,
    /// It is counted for its client's address.
    pub(super) counted: bool,
    pub(super) peer: Peer,
    pub(super) link: Option<Key>,
    pub(super) turn: Option<Box<Turn>>,
    /// What few sessions have.
    pub(super) rare: Option<Box<Rare>>,
    pub(super) buffers: Held,
    /// Input that waits is to be offered again as soon as the engine wants input.
    pub(super) offer: bool,
    /// What moves inside the kernel; `None` while nothing does.
    pub(super) splice: Option<Box<Splice>>,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The client closed its half: after a short read there is still EOF to read.
    pub(super) closed: bool,
    /// EOF was read.
    pub(super) eof: bool,
    /// Send FIN to the client once everything is written.
    pub(super) finish_client: bool,
    /// Send FIN to the link once everything is written.
    pub(super) finish_link: bool,
    /// In the list of sessions to drive.
    pub(super) queued: bool,
    pub(super) leaving: Option<Box<Leaving>>,
    /// When the session is to be asked to go, and why.
    pub(super) leave: Option<(Instant, Leave)>,
    pub(super) opened: Instant,
    pub(super) turns: u64,
    /// The earliest timer that is armed for it.
    pub(super) armed: Option<Instant>,
}

impl Client {
    /// Something that goes there is in a pipe.
    #[inline]
    pub(super) fn pipes(&self, toward: Toward) -> bool {
        self.splice.as_ref().is_some_and(|splice| splice.holds(toward))
    }

    /// The endpoint of all its turns, if it has one.
    pub(super) fn pin(&self) -> Option<EndpointId> {
        self.rare.as_ref()?.pin
    }

    pub(super) fn set_pin(&mut self, endpoint: EndpointId) {
        self.rare.get_or_insert_default().pin = Some(endpoint);
    }

    /// What it has of a shared link, if its turn is on one.
    pub(super) fn guest(&self) -> Option<&Guest> {
        self.rare.as_ref()?.guest.as_ref()
    }

    /// It speaks HTTP/2.
    #[inline]
    pub(super) fn is_http2(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.http2.is_some())
    }

    pub(super) fn new(
        stream: Stream,
        service: u32,
        engine: Session,
        peer: Peer,
        arrival: Option<Box<Arrival>>,
        admitted: bool,
        now: Instant,
    ) -> Self {
        Self {
            stream,
            service,
            engine,
            arrival,
            admitted,
            counted: false,
            peer,
            link: None,
            turn: None,
            rare: None,
            buffers: Held::default(),
            offer: false,
            splice: None,
            readable: false,
            writable: true,
            closed: false,
            eof: false,
            finish_client: false,
            finish_link: false,
            queued: false,
            leaving: None,
            leave: None,
            opened: now,
            turns: 0,
            armed: None,
        }
    }
}

/// What every session has, what every turn has besides, and what every link has. Something that is needed only while
/// a session is driven belongs into its buffers or on the stack, something that few sessions have into a box.
const _: () = {
    assert!(size_of::<Client>() <= 240, "an idle HTTP/1.1 session: see Memory in docs/performance.md");
    assert!(size_of::<Turn>() <= 120, "a TCP or WebSocket session, too: see Memory in docs/performance.md");
    assert!(size_of::<Link>() <= 64, "a TCP or WebSocket session, too: see Memory in docs/performance.md");
};
