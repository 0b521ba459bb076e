//! Connections to endpoints, and the pools they wait in between turns.

use super::slab::Key;
use super::socket::Stream;
use crate::registry::EndpointTally;
use crate::service::Version;
use evenkeel_core::endpoint::Endpoint;
use evenkeel_core::time::Instant;
use evenkeel_wire::http2::streams::StreamKey;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a link is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LinkState {
    /// SYN sent.
    Connecting,
    /// Serves the session.
    Busy,
    /// In its pool.
    Idle,
    /// HTTP/2: serves any number of turns, and has a [`Shared`](super::http2::Shared) beside it.
    Shared,
    /// Serves a turn of HTTP/2, and has a [`Solo`](super::http2::Solo) beside it.
    Solo,
}

/// Whose turn waits for a link.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    /// A session of HTTP/1.1, or of opaque bytes.
    Session(Key),
    /// A stream of a session of HTTP/2.
    Stream(Key, StreamKey),
}

/// One connection to an endpoint.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: Stream,
    pub(super) service: u32,
    /// Index of its [`EndpointPool`].
    pub(super) pool: u32,
    pub(super) state: LinkState,
    /// Whose turn it serves; `None` while idle or warming.
    pub(super) session: Option<Key>,
    /// What comes before the protocol (PROXY header, TLS) has begun.
    pub(super) introduced: bool,
    /// It named its session's client: no other session may use it, but this one may go elsewhere.
    pub(super) own: bool,
    /// Turns it has served, the present one not counted.
    pub(super) turns: u32,
    /// The kernel may have bytes for us.
    pub(super) readable: bool,
    /// The kernel may take bytes from us.
    pub(super) writable: bool,
    /// The endpoint closed its half (or all) of it: after a short read there is still EOF to read.
    pub(super) closed: bool,
    /// Writing failed; what the endpoint still said may be read.
    pub(super) broken: bool,
    /// It said something that nobody asked for.
    pub(super) dirty: bool,
    /// The present state began.
    pub(super) since: Instant,
    /// A timer is armed for it.
    pub(super) armed: bool,
}

/// The links of one worker to one endpoint.
#[derive(Debug)]
pub(super) struct EndpointPool {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) tally: Arc<EndpointTally>,
    /// May new turns go there?
    pub(super) usable: bool,
    /// It leaves: its sessions have until then.
    pub(super) leaves_by: Option<Instant>,
    /// What the endpoint chose when it could.
    pub(super) speaks: Option<Version>,
    /// Links in any state.
    pub(super) open: usize,
    /// Idle links, the one used last on top: the others can age and go.
    pub(super) idle: Vec<Key>,
    /// Turns that wait for a link of their own.
    pub(super) waiting: VecDeque<Waiter>,
    /// Links that are shared.
    pub(super) shared: Vec<Key>,
    /// Turns that wait for one of the shared ones.
    pub(super) streams: VecDeque<Waiter>,
}

impl Link {
    /// Nothing speaks against another turn on it.
    pub(super) fn is_clean(&mut self) -> bool {
        !self.closed && !self.broken && !self.dirty && self.is_quiet()
    }

    /// The endpoint has said nothing more. What the kernel has may be TLS talking to itself: session
    /// tickets come when they like.
    pub(super) fn is_quiet(&mut self) -> bool {
        if self.readable && self.stream.tls().is_some() {
            let nothing = self.stream.read(&mut [0]);
            self.readable = !matches!(nothing, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        }
        !self.readable
    }
}
