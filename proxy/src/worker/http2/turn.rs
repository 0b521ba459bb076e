//! Turns of HTTP/2: choosing an endpoint for a stream, opening it there, trying again, its end.
//!
//! What may be tried again is what `worker/turn.rs` says, and, by the words of its endpoint, a stream that was not
//! looked at: refused, or behind the last one of a GOAWAY (RFC 9113, section 8.7).

use super::grpc::{pushback_after, wait_before_retry};
use super::{Http2, Line, Place, Shared, Tenant, added_for, find};
use crate::service::Version;
use crate::worker::Worker;
use crate::worker::dial::Failed;
use crate::worker::link::{EndpointPool, LinkState, Waiter};
use crate::worker::slab::Key;
use evenkeel_core::end::{Cause, End, Limit, Phase};
use evenkeel_core::picker::Ask;
use evenkeel_wire::answer::Own;
use evenkeel_wire::grpc::status;
use evenkeel_wire::http2::error::Code;
use evenkeel_wire::http2::forward::{answer, end_call, put_request};
use evenkeel_wire::http2::hpack::Fields;
use evenkeel_wire::http2::streams::StreamKey;
use evenkeel_wire::out::Out;
use evenkeel_wire::session::{Context, LinkError, LinkFate, TurnEnd};

/// Where a stream can go at an endpoint.
pub(super) enum Found {
    /// On this link.
    Room(Key),
    /// On a link that is being opened, perhaps.
    Soon,
    /// Nowhere yet.
    Nothing,
}

impl Worker {
    /// Chooses an endpoint for a stream and opens it there, or has it wait for a link.
    pub(super) fn place(&mut self, key: Key, http2: &mut Http2, at: StreamKey) {
        let waiter = Waiter::Stream(key, at);
        loop {
            let Some(client) = self.sessions.get_mut(key) else { return };
            let Some(stream) = http2.get(at) else { return };
            if stream.call.as_ref().is_some_and(|call| call.is_over(self.now)) {
                return self.fail_stream(key, http2, at, LinkError::Failed(Cause::Deadline));
            }
            let service = client.service;
            let Some(Some(served)) = self.services.get_mut(service as usize) else { return };
            let version = served.shared.speaks_to_stream(client.peer.agreed_on_http2(), stream.kind.1);
            let ask = Ask { scope: stream.turn.want.scope, key: stream.turn.want.key, avoid: stream.turn.tried() };
            let pinned = client.pin().and_then(|id| served.picker.repick(id, ask.scope, self.now));
            let ticket = match pinned.map_or_else(|| served.picker.pick(&ask, &mut self.rng, self.now), Ok) {
                Ok(ticket) => ticket,
                Err(none) => return self.fail_stream(key, http2, at, LinkError::NoEndpoint(none)),
            };
            if served.picker.pins_sessions() {
                client.set_pin(ticket.endpoint().id);
            }
            let pool = served.pool_for(ticket.endpoint());
            let turn = &mut stream.turn;
            (turn.ticket, turn.pool, turn.tried_at, turn.held) = (Some(ticket), pool, self.now, None);
            if let Some(call) = &mut stream.call {
                call.placed(turn);
            }
            let chosen = served.pools.get(pool as usize).and_then(Option::as_ref).and_then(|pool| pool.speaks);
            if version.or(chosen) == Some(Version::Http1) {
                if self.fits_http1(key, http2, at) && self.place_solo(key, http2, at, (service, pool)) {
                    continue;
                }
                return;
            }
            match self.find_shared(service, pool) {
                Found::Room(link) => return self.open(key, http2, at, link),
                Found::Soon => return self.wait_shared(waiter, service, pool),
                Found::Nothing => {}
            }
            if self.links_are_enough(service, pool) {
                return self.wait_in_queue(key, http2, at, service, pool);
            }
            match self.connect(service, pool, None, true) {
                Ok(_) => return self.wait_shared(waiter, service, pool),
                Err(failed) => {
                    if !self.stream_failed(key, http2, at, failed) {
                        return;
                    }
                }
            }
        }
    }

    pub(super) fn find_shared(&self, service: u32, pool: u32) -> Found {
        let served = self.services.get(service as usize).and_then(Option::as_ref);
        let Some(pool) = served.and_then(|served| served.pools.get(pool as usize)?.as_ref()) else {
            return Found::Nothing;
        };
        let mut found = Found::Nothing;
        for &key in &pool.shared {
            let Some(link) = self.links.get(key) else { continue };
            match self.shared.get(key) {
                Some(shared) if link.closed || shared.line.connection.room() == 0 => {}
                Some(shared) if link.state == LinkState::Shared && shared.line.connection.is_ready() => {
                    return Found::Room(key);
                }
                // It is driven, or not ready yet.
                _ => found = Found::Soon,
            }
        }
        found
    }

    pub(super) fn links_are_enough(&self, service: u32, pool: u32) -> bool {
        let Some(Some(served)) = self.services.get(service as usize) else { return true };
        let open = served.pools.get(pool as usize).and_then(Option::as_ref).map_or(0, |pool| pool.open);
        served.shared.config.upstream.max_connections.is_some_and(|most| open >= most)
    }

    pub(super) fn wait_shared(&mut self, waiter: Waiter, service: u32, pool: u32) {
        if let Some(Some(served)) = self.services.get_mut(service as usize)
            && let Some(Some(pool)) = served.pools.get_mut(pool as usize)
        {
            pool.streams.push_back(waiter);
        }
    }

    /// Every link is full, and there may not be another.
    fn wait_in_queue(&mut self, key: Key, http2: &mut Http2, at: StreamKey, service: u32, pool: u32) {
        self.queue_stream(key, http2, at, service, pool, |pool| pool.streams.push_back(Waiter::Stream(key, at)));
    }

    /// Has a stream wait in a queue of its pool, if there is room in that.
    pub(super) fn queue_stream(
        &mut self,
        key: Key,
        http2: &mut Http2,
        at: StreamKey,
        service: u32,
        pool: u32,
        queue: impl FnOnce(&mut EndpointPool),
    ) {
        let Some(Some(served)) = self.services.get_mut(service as usize) else { return };
        if served.waiting >= served.shared.config.limits.queue {
            served.tally.limits[Limit::Queue as usize].add(1);
            return self.fail_stream(key, http2, at, LinkError::Overload);
        }
        served.waiting += 1;
        if let Some(stream) = http2.get(at) {
            stream.turn.queued = true;
        }
        self.note_due(key, http2, at);
        if let Some(pool) = self.pool_mut(service, pool) {
            queue(pool);
        }
    }

    /// Opens a stream on a link that has room.
    fn open(&mut self, key: Key, http2: &mut Http2, at: StreamKey, link_key: Key) {
        let Some(service) = self.sessions.get(key).map(|client| client.service) else { return };
        let room = self.room(service);
        let Self { sessions, services, links, shared, pool, now, .. } = self;
        let (Some(client), Some(link)) = (sessions.get(key), links.get_mut(link_key)) else { return };
        let Some(Some(served)) = services.get_mut(service as usize) else { return };
        let Http2 { streams, added, line: session, .. } = http2;
        let (Some(shared), Some(stream)) = (shared.get_mut(link_key), find(streams, at)) else { return };
        let Some(request) = stream.request.as_ref() else { return };
        let context = Context::new(&served.shared.settings, &client.peer, *now);
        let added = added_for(added, &context);
        let end = stream.up.ended && stream.up.is_clear();
        let amended = stream.call.as_ref().map(|call| call.amended(stream.turn.began, *now)).unwrap_or_default();
        let Shared { line: Line { connection, out, .. }, .. } = shared;
        let opened = connection.request(end, &mut Out::new(out.lend_wide(pool)), |writer| {
            put_request(request, added, stream.traced.as_ref(), amended, writer, &context);
        });
        // There was room.
        let Some(there) = opened else { return };
        shared.seat(Tenant { own: there, session: key, stream: Some(at) });
        stream.place = Place::There(link_key, there);
        stream.up.done = end;
        stream.turn.linked_at = Some(*now);
        if std::mem::take(&mut stream.turn.queued) {
            served.waiting -= 1;
        }
        stream.since = *now;
        link.turns = link.turns.saturating_add(1);
        if let Some(Some(pool)) = served.pools.get(link.pool as usize) {
            pool.tally.turns.add(1);
        }
        let sent = if end { 0 } else { shared.line.resume(there, &mut stream.up, room, pool) };
        session.release(at, sent, pool);
        self.list_link(link_key);
    }

    /// A link has room: turns that wait for one go there, as many as there is room for. The others look elsewhere.
    pub(super) fn vacancy(&mut self, key: Key) {
        let Some(link) = self.links.get(key) else { return };
        let (service, pool) = (link.service, link.pool);
        let waits = |worker: &Self| {
            let served = worker.services.get(service as usize).and_then(Option::as_ref);
            served.and_then(|served| served.pools.get(pool as usize)?.as_ref()).map_or(0, |pool| pool.streams.len())
        };
        for _ in 0..waits(self) {
            match self.find_shared(service, pool) {
                Found::Room(_) => {}
                Found::Nothing if !self.links_are_enough(service, pool) => {}
                Found::Soon | Found::Nothing => return,
            }
            let Some(Some(served)) = self.services.get_mut(service as usize) else { return };
            let Some(Some(entry)) = served.pools.get_mut(pool as usize) else { return };
            let (session, at) = match entry.streams.pop_front() {
                Some(Waiter::Stream(session, at)) => (session, at),
                Some(Waiter::Session(session)) => {
                    self.guest_waited(session, service, pool, None);
                    continue;
                }
                None => return,
            };
            self.with_session(session, |worker, http2| {
                let Some(stream) = http2.get(at) else { return };
                if stream.place != Place::Waits || stream.turn.pool != pool || stream.turn.ticket.is_none() {
                    return;
                }
                match worker.find_shared(service, pool) {
                    Found::Room(link) => worker.open(session, http2, at, link),
                    Found::Soon | Found::Nothing => {
                        worker.unqueue_stream(service, http2, at);
                        worker.place(session, http2, at);
                    }
                }
            });
        }
    }

    pub(super) fn unqueue_stream(&mut self, service: u32, http2: &mut Http2, at: StreamKey) {
        if let Some(stream) = http2.get(at)
            && std::mem::take(&mut stream.turn.queued)
            && let Some(Some(served)) = self.services.get_mut(service as usize)
        {
            served.waiting -= 1;
        }
    }

    /// A try got no connection: true if the stream may be tried elsewhere; if not, the client knows.
    pub(super) fn stream_failed(&mut self, key: Key, http2: &mut Http2, at: StreamKey, failed: Failed) -> bool {
        let Some(service) = self.sessions.get(key).map(|client| client.service) else { return false };
        self.unqueue_stream(service, http2, at);
        let Some(stream) = http2.get(at) else { return false };
        let (cause, local) = failed.cause();
        self.close_try(service, &mut stream.turn, cause, local);
        let served = self.services.get(service as usize).and_then(Option::as_ref);
        let retries = served.is_some_and(|served| served.shared.config.retry.on_connect);
        if retries && !local && self.allow_retry(service, &mut stream.turn) {
            return true;
        }
        self.fail_stream(key, http2, at, LinkError::Failed(cause));
        false
    }

    /// The endpoint has not looked at the stream (`alone`: at this one, of all on its link).
    pub(super) fn stream_unprocessed(&mut self, key: Key, http2: &mut Http2, at: StreamKey, alone: bool) {
        let Some(service) = self.sessions.get(key).map(|client| client.service) else { return };
        let Some(stream) = http2.get(at) else { return };
        stream.place = Place::Waits;
        if stream.may_run_again() {
            // An endpoint that leaves has said so for all: that is no failure, and costs no budget.
            if !alone {
                if let Some(ticket) = stream.turn.ticket.take() {
                    stream.turn.note_tried(ticket.endpoint().id);
                }
                return self.run_again(key, http2, at);
            }
            if self.allow_retry(service, &mut stream.turn) {
                self.close_try(service, &mut stream.turn, Cause::EndpointClosed, true);
                return self.run_again(key, http2, at);
            }
        }
        self.fail_stream(key, http2, at, LinkError::Refused);
    }

    /// The link of a stream is gone; `stale`: one that had served others before; `safe`: it did not run, or may run
    /// twice.
    pub(super) fn stream_lost(
        &mut self,
        key: Key,
        http2: &mut Http2,
        at: StreamKey,
        cause: Cause,
        (stale, safe): (bool, bool),
    ) {
        let Some(service) = self.sessions.get(key).map(|client| client.service) else { return };
        let Some(stream) = http2.get(at) else { return };
        if stream.down.ended {
            // All of the answer is here.
            (stream.place, stream.up.done) = (Place::Done, true);
            return;
        }
        stream.place = Place::Waits;
        if safe && stream.may_run_again() {
            let turn = &mut stream.turn;
            if stale && !turn.fresh {
                // As with a pooled link of HTTP/1.1: it may close whenever it likes.
                turn.fresh = true;
                if let Some(ticket) = turn.ticket.take() {
                    turn.note_tried(ticket.endpoint().id);
                }
                return self.run_again(key, http2, at);
            }
            let served = self.services.get(service as usize).and_then(Option::as_ref);
            if served.is_some_and(|served| served.shared.config.retry.on_reset) && self.allow_retry(service, turn) {
                self.close_try(service, turn, Cause::EndpointClosed, false);
                return self.run_again(key, http2, at);
            }
        }
        self.fail_stream(key, http2, at, LinkError::Failed(cause));
    }

    /// The answer says that the endpoint did not run the turn: true if it is run elsewhere.
    pub(super) fn retry_stream(&mut self, key: Key, http2: &mut Http2, at: StreamKey, answer: &Fields) -> bool {
        let Some(service) = self.sessions.get(key).map(|client| client.service) else { return false };
        let due = self.stream_due(key, http2, at);
        let Some(stream) = http2.get(at) else { return false };
        let mut again = self.now;
        if stream.call.is_some() {
            let Some(wait) = wait_before_retry(answer) else { return false };
            again += wait;
            // Its client may have more time than there is here, and is told how long to wait.
            if due.is_some_and(|(due, _)| due <= again) {
                return false;
            }
        }
        if !self.allow_retry(service, &mut stream.turn) {
            return false;
        }
        if let Some(call) = &mut stream.call {
            call.tried();
        }
        self.close_try(service, &mut stream.turn, Cause::EndpointClosed, false);
        // A link of HTTP/1.1 goes when it was driven.
        if let Place::There(link, there) = std::mem::replace(&mut stream.place, Place::Waits) {
            self.lines.resets.push((link, there));
        }
        if again == self.now {
            self.run_again(key, http2, at);
        } else if let Some(stream) = http2.get(at) {
            stream.rewind();
            stream.turn.held = Some(again);
            self.note_due(key, http2, at);
        }
        true
    }

    fn run_again(&mut self, key: Key, http2: &mut Http2, at: StreamKey) {
        if let Some(stream) = http2.get(at) {
            stream.rewind();
        }
        self.place(key, http2, at);
    }

    /// Ends a stream that its endpoint, or we, could not serve.
    pub(super) fn fail_stream(&mut self, key: Key, http2: &mut Http2, at: StreamKey, error: LinkError) {
        let Some(stream) = http2.get(at) else { return };
        if error == LinkError::Failed(Cause::Deadline) {
            stream.unwell = stream.call.as_ref().is_some_and(|call| call.is_to_blame(&stream.turn));
        }
        let Some(status) = stream.turn.status else {
            let mut own = Own { pushback: pushback_after(error.cause(), &mut self.rng), ..Own::of(error) };
            if error == LinkError::Failed(Cause::Deadline) && stream.place == Place::Waits {
                (own.end.phase, own.sentence) = (Phase::Connect, "the deadline of the call passed before it was sent");
            }
            return self.answer_stream(key, http2, at, own);
        };
        let call = stream.call.as_ref().is_some_and(|call| call.answered);
        let own = Own { pushback: pushback_after(error.cause(), &mut self.rng), ..Own::amid(error) };
        let Self { sessions, services, pool, .. } = self;
        let Some(client) = sessions.get(key) else { return };
        let Some(Some(served)) = services.get(client.service as usize) else { return };
        let Line { connection, out, .. } = &mut http2.line;
        let mut out = Out::new(out.lend_wide(pool));
        if call {
            end_call(connection, at, &own, &mut out, &served.shared.settings);
        } else {
            // Never a clean end of what is not whole.
            connection.reset(at, Code::INTERNAL_ERROR, &mut out);
        }
        self.end_stream(key, http2, at, Some(status), Some(own.end));
    }

    /// Ends a stream of whose answer nothing was passed on with one of ours.
    pub(super) fn answer_stream(&mut self, key: Key, http2: &mut Http2, at: StreamKey, own: Own<'static>) {
        let Self { sessions, services, pool, now, .. } = self;
        let Some(client) = sessions.get(key) else { return };
        let Some(Some(served)) = services.get(client.service as usize) else { return };
        let Some(kind) = http2.get(at).map(|stream| stream.kind) else { return };
        let Line { connection, out, .. } = &mut http2.line;
        answer(connection, at, &own, kind, &mut Out::new(out.lend_wide(pool)), (&served.shared.settings, *now));
        let status = if kind.1 { 200 } else { own.status };
        self.end_stream(key, http2, at, Some(status), Some(own.end));
    }

    /// The client has all of the answer.
    pub(super) fn complete(&mut self, key: Key, http2: &mut Http2, at: StreamKey) {
        let Some(stream) = http2.get(at) else { return };
        let (status, up) = (stream.turn.status, stream.up.done);
        if !up {
            // The rest of the request is of no use to anybody (RFC 9113, section 8.1).
            let Line { connection, out, .. } = &mut http2.line;
            connection.reset(at, Code::NO_ERROR, &mut Out::new(out.lend_wide(&mut self.pool)));
        }
        self.end_stream(key, http2, at, status, None);
    }

    /// The turn is over: books, then memory.
    pub(super) fn end_stream(
        &mut self,
        key: Key,
        http2: &mut Http2,
        at: StreamKey,
        status: Option<u16>,
        failure: Option<End>,
    ) {
        let Some(service) = self.sessions.get(key).map(|client| client.service) else { return };
        self.unqueue_stream(service, http2, at);
        let Some(mut stream) = http2.remove(at, &mut self.lines) else { return };
        http2.since = self.now;
        if stream.inquiry.is_some()
            && let Some(Some(served)) = self.services.get_mut(service as usize)
        {
            served.watchers.retain(|&watcher| watcher != (key, at));
        }
        match stream.place {
            Place::There(link, there) => self.lines.resets.push((link, there)),
            Place::Solo(link) => self.lines.resets.push((link, at)),
            Place::Waits | Place::Done => {}
        }
        self.lines.give(stream.request.take());
        self.lines.give(stream.up.trailers.take());
        self.lines.give(stream.down.trailers.take());
        self.pool.give(std::mem::take(&mut stream.up.waiting.bytes));
        self.pool.give(std::mem::take(&mut stream.down.waiting.bytes));
        let mut log = stream.log.take();
        if let Some(call) = &stream.call
            && let Some(Some(served)) = self.services.get(service as usize)
        {
            let ended = call.ended(status.or(stream.turn.status), failure);
            served.tally.calls[usize::from(ended).min(status::COUNT)].add(1);
            if let Some(log) = &mut log {
                log.grpc_status = Some(ended);
            }
        }
        self.close_turn(key, stream.turn, TurnEnd { fate: LinkFate::Close, status, failure, log }, stream.unwell);
    }

    /// A shared link is gone, and with it what was on it and what waited for it.
    pub(in crate::worker) fn shared_gone(
        &mut self,
        key: Key,
        (service, pool): (u32, u32),
        shared: Box<Shared>,
        turns: u32,
    ) {
        let Shared { mut line, input, tenants, cause, .. } = *shared;
        self.pool.give(input);
        self.pool.give(std::mem::take(&mut line.out.bytes));
        let mut waiting = Default::default();
        if let Some(Some(served)) = self.services.get_mut(service as usize)
            && let Some(Some(entry)) = served.pools.get_mut(pool as usize)
        {
            entry.shared.retain(|&other| other != key);
            if entry.shared.is_empty() {
                waiting = std::mem::take(&mut entry.streams);
            }
        }
        for tenant in tenants.into_iter().flatten() {
            // The link has served others than those that it takes with it.
            let stale = turns > 1;
            let Some(at) = tenant.stream else {
                self.guest_lost(key, tenant, cause, stale);
                continue;
            };
            self.with_session(tenant.session, |worker, http2| {
                let place = http2.get(at).map(|stream| stream.place);
                if place == Some(Place::There(key, tenant.own)) {
                    let safe = http2.get(at).is_some_and(|stream| stream.turn.want.idempotent);
                    worker.stream_lost(tenant.session, http2, at, cause, (stale, safe));
                }
            });
        }
        for waiter in waiting {
            let failed = if cause == Cause::Local { Failed::Local } else { Failed::Endpoint(cause) };
            let (session, at) = match waiter {
                Waiter::Stream(session, at) => (session, at),
                Waiter::Session(session) => {
                    self.guest_waited(session, service, pool, Some(failed));
                    continue;
                }
            };
            self.with_session(session, |worker, http2| {
                let Some(stream) = http2.get(at) else { return };
                let waits = stream.place == Place::Waits && stream.turn.pool == pool && stream.turn.ticket.is_some();
                if waits && worker.stream_failed(session, http2, at, failed) {
                    worker.place(session, http2, at);
                }
            });
        }
    }
}
