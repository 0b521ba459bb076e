//! Turns of HTTP/1.1 on shared links: guests there.
//!
//! Such a turn is like any other of its session, which has one at a time; but where that would have a link of its own
//! it has a stream. Its request waits in the session's buffer as HTTP/1.1, and becomes fields and data when there is a
//! stream ([`Upload`]); what the endpoint says on that goes to the session's engine as it is. What that makes for the
//! client is written when the link has been read, for all sessions that it had something for.

use super::turn::Found;
use super::{Line, Shared, Tenant};
use crate::worker::Worker;
use crate::worker::buffer::{Buffers, Pool};
use crate::worker::client::Client;
use crate::worker::dial::Failed;
use crate::worker::drive::Tails;
use crate::worker::link::Waiter;
use crate::worker::slab::Key;
use evenkeel_core::end::Cause;
use evenkeel_core::time::Instant;
use evenkeel_wire::http1::{Opened, Upload};
use evenkeel_wire::http2::connection::Fault;
use evenkeel_wire::http2::forward::Answer;
use evenkeel_wire::http2::streams::StreamKey;
use evenkeel_wire::out::Out;
use evenkeel_wire::session::{Context, Io, LinkError, Session};

/// What a session has of the shared link that its turn is on.
#[derive(Debug)]
pub(in crate::worker) struct Guest {
    pub(in crate::worker) link: Key,
    stream: StreamKey,
    upload: Upload,
    /// Bytes of the answer that wait for a client that is slow: the endpoint gets no credit for them.
    held: usize,
    /// The session is in the list of those that something came for.
    listed: bool,
    /// All of the request has gone, and all of the answer has come: the link has forgotten the stream by itself.
    over: bool,
}

/// Passes on what waits of a request, and `tail` behind it, as far as it goes. What does not is kept.
fn upload(
    client: &mut Client,
    line: &mut Line,
    tail: &[u8],
    (most, kept): (usize, usize),
    now: Instant,
    pool: &mut Pool,
) {
    let Client { rare, buffers, turn, .. } = client;
    let Some(guest) = rare.as_mut().and_then(|rare| rare.guest.as_mut()) else { return };
    let waiting = &mut buffers.lend(pool).to_link;
    let mut dropped = false;
    if waiting.keep && waiting.bytes.len() + tail.len() > kept {
        dropped |= waiting.forget_sent();
    }
    let direct = !waiting.keep && waiting.unsent().is_empty();
    if !direct {
        waiting.bytes.extend_from_slice(tail);
    }
    let input = if direct { tail } else { waiting.unsent() };
    let mut sent = 0;
    if line.out.unsent().len() >= most {
        line.full |= !input.is_empty();
    } else {
        let mut out = Out::new(line.out.lend_wide(pool));
        sent = guest.upload.relay(input, guest.stream, &mut line.connection, &mut out, now);
        out.spill();
    }
    if direct {
        waiting.bytes.extend_from_slice(&tail[sent..]);
        dropped |= sent > 0;
    } else {
        dropped |= waiting.advance(sent);
    }
    if let Some(turn) = turn {
        turn.dropped |= dropped;
    }
}

impl Worker {
    /// Opens a stream for the turn of a session at the endpoint that was chosen, or has it wait for a link.
    ///
    /// # Errors
    /// There is no connection to be had.
    pub(in crate::worker) fn lodge(&mut self, key: Key, service: u32, pool: u32) -> Result<(), Failed> {
        match self.find_shared(service, pool) {
            Found::Room(link) => self.open_guest(key, link),
            Found::Soon => self.wait_shared(Waiter::Session(key), service, pool),
            Found::Nothing if self.links_are_enough(service, pool) => self.enqueue(key, service, pool, true),
            Found::Nothing => {
                self.connect(service, pool, None, true)?;
                self.wait_shared(Waiter::Session(key), service, pool);
            }
        }
        Ok(())
    }

    /// Opens a stream on a link that has room.
    fn open_guest(&mut self, key: Key, link_key: Key) {
        let Self { sessions, services, links, shared, pool, now, .. } = self;
        let (Some(client), Some(link)) = (sessions.get_mut(key), links.get_mut(link_key)) else { return };
        let Some(Some(served)) = services.get_mut(client.service as usize) else { return };
        let (Some(shared), Some(turn)) = (shared.get_mut(link_key), client.turn.as_mut()) else { return };
        let waiting = &mut client.buffers.lend(pool).to_link;
        let Shared { line: Line { connection, out, .. }, .. } = shared;
        let secure = client.peer.tls.is_some();
        let opened = Upload::open(waiting.unsent(), secure, connection, &mut Out::new(out.lend_wide(pool)));
        let Some(Opened { stream, upload, length }) = opened else {
            // There was room, and the engine has written a request.
            return self.refuse(key, LinkError::Failed(Cause::Bug));
        };
        // Until the endpoint has answered it may say that it has not looked at it.
        waiting.keep = true;
        waiting.advance(length);
        shared.seat(Tenant { own: stream, session: key, stream: None });
        client.rare.get_or_insert_default().guest =
            Some(Guest { link: link_key, stream, upload, held: 0, listed: false, over: false });
        turn.linked_at = Some(*now);
        if std::mem::take(&mut turn.queued) {
            served.waiting -= 1;
        }
        link.turns = link.turns.saturating_add(1);
        if let Some(Some(pool)) = served.pools.get(link.pool as usize) {
            pool.tally.turns.add(1);
        }
        self.call_engine(key, |engine, io, context| engine.link_opened(io, context));
        self.flush_guest(key, &[]);
    }

    /// Passes on what waits of a request of a session that has no link of its own, and `tail` behind it.
    pub(in crate::worker) fn flush_guest(&mut self, key: Key, tail: &[u8]) {
        let Self { sessions, services, shared, pool, now, .. } = self;
        let Some(client) = sessions.get_mut(key) else { return };
        let Some(Some(served)) = services.get(client.service as usize) else { return };
        let guest = client.rare.as_ref().and_then(|rare| rare.guest.as_ref()).map(|guest| guest.link);
        let config = &served.shared.config;
        match guest.and_then(|link| Some((link, shared.get_mut(link)?))) {
            Some((link, shared)) => {
                upload(client, &mut shared.line, tail, (config.limits.buffer, config.retry.buffer), *now, pool);
                self.list_link(link);
            }
            // It waits for a link, or that is being driven.
            None if !tail.is_empty() => client.buffers.lend(pool).to_link.bytes.extend_from_slice(tail),
            None => {}
        }
    }

    /// The link of a guest, which is being driven, has room again.
    pub(super) fn resume_guest(&mut self, key: Key, own: StreamKey, line: &mut Line) {
        let Self { sessions, services, pool, now, .. } = self;
        let Some(client) = sessions.get_mut(key) else { return };
        let Some(Some(served)) = services.get(client.service as usize) else { return };
        let guest = client.rare.as_ref().and_then(|rare| rare.guest.as_ref());
        if guest.is_some_and(|guest| guest.stream == own) {
            let config = &served.shared.config;
            upload(client, line, &[], (config.limits.buffer, config.retry.buffer), *now, pool);
            // Its client may be read again.
            self.guest_hears(key, false);
        }
    }

    /// A part of an answer has come.
    pub(super) fn guest_fields(&mut self, link: Key, tenant: Tenant, answer: &Answer<'_>) {
        if self.is_guest(link, tenant) {
            self.heard(tenant.session, 0);
            self.guest_hears(tenant.session, answer.end);
            self.feed_guest(tenant.session, |engine, io, context| engine.stream_fields(answer, io, context));
        }
    }

    /// Some of the body of an answer; returns how much of it the endpoint gets credit for.
    pub(super) fn guest_data(&mut self, link: Key, tenant: Tenant, data: &[u8], end: bool) -> usize {
        let session = tenant.session;
        if !self.is_guest(link, tenant) {
            return data.len();
        }
        self.guest_hears(session, end);
        self.feed_guest(session, |engine, io, context| engine.stream_data(data, end, io, context));
        let Some(client) = self.sessions.get_mut(session) else { return data.len() };
        let waits = client.buffers.to_client.unsent().len();
        let most = self.services[client.service as usize].as_ref().map_or(0, |s| s.shared.config.limits.buffer);
        match client.rare.as_mut().and_then(|rare| rare.guest.as_mut()) {
            Some(guest) if waits > most => {
                guest.held += data.len();
                0
            }
            _ => data.len(),
        }
    }

    /// Something came for a session, which is driven when what came for others has been read. `end`: it is the last of
    /// its answer.
    fn guest_hears(&mut self, key: Key, end: bool) {
        let Some(client) = self.sessions.get_mut(key) else { return };
        if let Some(guest) = client.rare.as_mut().and_then(|rare| rare.guest.as_mut()) {
            guest.over = end && guest.upload.is_done();
            if !std::mem::replace(&mut guest.listed, true) {
                self.lines.answered.push(key);
            }
        }
    }

    /// A client has taken what waited for it: the endpoint may go on.
    pub(in crate::worker) fn credit_guest(&mut self, key: Key) {
        let Self { sessions, services, shared, pool, .. } = self;
        let Some(client) = sessions.get_mut(key) else { return };
        let Some(Some(served)) = services.get(client.service as usize) else { return };
        let waits = client.buffers.to_client.unsent().len();
        let Some(guest) = client.rare.as_mut().and_then(|rare| rare.guest.as_mut()) else { return };
        if guest.held > 0
            && waits <= served.shared.config.limits.buffer
            && let Some(shared) = shared.get_mut(guest.link)
        {
            shared.line.release(guest.stream, std::mem::take(&mut guest.held), pool);
            let link = guest.link;
            self.list_link(link);
        }
    }

    /// The stream of a guest is over before its time.
    pub(super) fn guest_broke(&mut self, link: Key, tenant: Tenant, fault: Fault, alone: bool) {
        let key = tenant.session;
        if !self.is_guest(link, tenant) {
            return;
        }
        self.forget_guest(key);
        let error = match fault {
            Fault::Unprocessed if self.run_unprocessed(key, alone) => return self.finish_guest(key),
            Fault::Unprocessed => LinkError::Refused,
            Fault::Peer => LinkError::Failed(Cause::EndpointClosed),
            Fault::Stalled => LinkError::Failed(Cause::EndpointTimeout),
            _ => LinkError::Failed(Cause::EndpointProtocol),
        };
        self.call_engine(key, |engine, io, context| engine.link_failed(error, io, context));
        self.finish_guest(key);
    }

    /// The endpoint has not looked at the request (`alone`: at this one, of all on its link): true if it is run
    /// elsewhere.
    fn run_unprocessed(&mut self, key: Key, alone: bool) -> bool {
        let Some(turn) = self.sessions.get_mut(key).and_then(|client| client.turn.as_mut()) else { return false };
        if turn.heard || turn.dropped {
            return false;
        }
        // An endpoint that leaves has said so for all: that is no failure, and costs no budget.
        if !alone {
            if let Some(ticket) = turn.ticket.take() {
                turn.note_tried(ticket.endpoint().id);
            }
        } else if self.take_retry(key) {
            self.complete_try(key, Cause::EndpointClosed, true);
        } else {
            return false;
        }
        self.rerun(key);
        true
    }

    /// The link of a guest is gone; `stale`: one that had served others before.
    pub(super) fn guest_lost(&mut self, link: Key, tenant: Tenant, cause: Cause, stale: bool) {
        let key = tenant.session;
        if !self.is_guest(link, tenant) {
            return;
        }
        self.forget_guest(key);
        if !self.retry_safe(key, stale, false) {
            let error = LinkError::Failed(cause);
            self.call_engine(key, |engine, io, context| engine.link_failed(error, io, context));
        }
        self.finish_guest(key);
    }

    /// The link that a turn waits for, at the endpoint with this pool, is there, or will not be: it goes there, or looks
    /// elsewhere.
    pub(super) fn guest_waited(&mut self, key: Key, service: u32, pool: u32, failed: Option<Failed>) {
        let Some(client) = self.sessions.get(key) else { return };
        let placed = client.link.is_some() || client.guest().is_some();
        let waits = client.turn.as_ref().is_some_and(|turn| turn.pool == pool && turn.ticket.is_some());
        if placed || !waits || client.service != service {
            return;
        }
        match (failed, self.find_shared(service, pool)) {
            (None, Found::Room(link)) => self.open_guest(key, link),
            (None, Found::Soon | Found::Nothing) => {
                self.unqueue(key);
                self.acquire(key);
            }
            (Some(failed), _) => {
                self.unqueue(key);
                if self.try_failed(key, &failed) {
                    self.acquire(key);
                }
            }
        }
        self.finish_guest(key);
    }

    /// Something was decided about the turn of a session that is not being driven.
    fn finish_guest(&mut self, key: Key) {
        self.obey_engine(key, &mut Tails::default());
        self.touch(key);
    }

    /// The turn of a session needs its stream no more.
    pub(in crate::worker) fn leave_guest(&mut self, key: Key) {
        if let Some(guest) = self.forget_guest(key)
            && !guest.over
        {
            self.lines.resets.push((guest.link, guest.stream));
        }
    }

    fn forget_guest(&mut self, key: Key) -> Option<Guest> {
        self.sessions.get_mut(key)?.rare.as_mut()?.guest.take()
    }

    fn is_guest(&self, link: Key, tenant: Tenant) -> bool {
        let guest = self.sessions.get(tenant.session).and_then(Client::guest);
        guest.is_some_and(|guest| (guest.link, guest.stream) == (link, tenant.own))
    }

    /// Tells the engine of a session what came on its stream, and does what it wants; what it writes waits for the
    /// end of the turn of the loop.
    fn feed_guest<'i>(&mut self, key: Key, call: impl FnOnce(&mut Session, &mut Io<'_, 'i>, &Context<'_>)) {
        let may_retry = self.may_retry_unavailable(key);
        let Self { sessions, services, pool, now, .. } = self;
        let Some(client) = sessions.get_mut(key) else { return };
        let Some(Some(served)) = services.get(client.service as usize) else { return };
        let context = Context { may_retry, ..Context::new(&served.shared.settings, &client.peer, *now) };
        let Buffers { to_client, to_link, .. } = client.buffers.lend(pool);
        let mut io = Io { client: Out::new(to_client.lend(pool)), link: Out::new(to_link.lend(pool)) };
        call(&mut client.engine, &mut io, &context);
        io.client.spill();
        io.link.spill();
        self.obey_engine(key, &mut Tails::default());
    }

    /// Drives the sessions that shared links had something for.
    pub(in crate::worker) fn drive_answered(&mut self) {
        while let Some(key) = self.lines.answered.pop() {
            if let Some(guest) = self.sessions.get_mut(key).and_then(|client| client.rare.as_mut()?.guest.as_mut()) {
                guest.listed = false;
            }
            self.drive(key);
        }
    }
}
