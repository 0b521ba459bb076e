//! Links of HTTP/1.1 under streams: while its turn lasts, a stream has one for itself. It comes from the pool that
//! sessions of HTTP/1.1 take theirs from, and goes back there.

use super::{Handover, Http2, Place, Solo, Way, added_for, find};
use crate::worker::Worker;
use crate::worker::buffer::Pool;
use crate::worker::dial::Failed;
use crate::worker::drive::BUDGET;
use crate::worker::link::{LinkState, Waiter};
use crate::worker::slab::Key;
use evenkeel_core::end::{Cause, End, Phase};
use evenkeel_wire::answer::Own;
use evenkeel_wire::http1::exchange::{self, Exchange};
use evenkeel_wire::http1::head::Flaw;
use evenkeel_wire::http2::forward::Answer;
use evenkeel_wire::http2::streams::StreamKey;
use evenkeel_wire::session::Context;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tracing::error;

/// What becomes of a link that was driven.
enum Fate {
    /// Its stream goes on.
    Stays,
    /// Its turn is over, and it may serve another.
    Free,
    /// It is closed, and its stream with it if that needs it still.
    Gone,
}

impl Solo {
    fn new(key: Key, session: Key, stream: StreamKey) -> Self {
        Self {
            key,
            session,
            stream,
            exchange: None,
            out: Default::default(),
            input: Vec::new(),
            owed: 0,
            sent: false,
            heard: false,
            listed: false,
            queued: false,
            cause: Cause::EndpointClosed,
        }
    }

    /// Why it is about to go.
    pub(in crate::worker) fn fails_with(&mut self, cause: Cause) {
        self.cause = cause;
    }

    /// Writes what waits of the request, and `data` behind it, and its end if that has come. As long as the link is
    /// not there, it waits.
    pub(super) fn send(&mut self, way: &mut Way, data: &[u8], pool: &mut Pool) {
        let Some(exchange) = &mut self.exchange else {
            return way.waiting.lend(pool).extend_from_slice(data);
        };
        if way.waiting.keep || !way.waiting.unsent().is_empty() {
            way.waiting.lend(pool).extend_from_slice(data);
            let waiting = way.waiting.unsent();
            exchange.data(waiting, self.out.lend(pool));
            let sent = waiting.len();
            self.owed += sent;
            way.waiting.advance(sent);
        } else {
            exchange.data(data, self.out.lend(pool));
            self.owed += data.len();
        }
        if way.ended && !std::mem::replace(&mut way.done, true) {
            exchange.finish(way.trailers.as_deref(), self.out.lend(pool));
        }
    }
}

/// How a request is refused that HTTP/1.1 does not have.
fn refusal(flaw: Flaw) -> Own<'static> {
    let end = End { cause: Cause::ClientProtocol, phase: Phase::Request };
    Own { status: flaw.status(), end, sentence: flaw.explain(), retry_after: 1, pushback: None }
}

impl Worker {
    /// Refuses a stream whose request could be read in two ways over HTTP/1.1. True: it is as it should be.
    pub(super) fn fits_http1(&mut self, key: Key, http2: &mut Http2, at: StreamKey) -> bool {
        let Some(stream) = http2.get(at) else { return false };
        let Some(request) = stream.request.as_ref() else { return false };
        match exchange::check(request, stream.bodiless) {
            Ok(()) => true,
            Err(flaw) => {
                self.answer_stream(key, http2, at, refusal(flaw));
                false
            }
        }
    }

    /// Gets a link of HTTP/1.1 for a stream, or a place in the queue for one. True: there is none, and another
    /// endpoint may be tried.
    pub(super) fn place_solo(
        &mut self,
        key: Key,
        http2: &mut Http2,
        at: StreamKey,
        (service, pool): (u32, u32),
    ) -> bool {
        let fresh = http2.get(at).is_some_and(|stream| stream.turn.fresh);
        if !fresh && let Some(link) = self.pop_idle(service, pool) {
            self.solos.put(Box::new(Solo::new(link, key, at)));
            self.begin_solo(key, http2, at, link);
            return false;
        }
        if self.links_are_enough(service, pool) {
            // One that nobody uses makes room for the new one that it has to be.
            match self.pop_idle(service, pool) {
                Some(idle) => self.remove_popped(idle),
                None => {
                    self.queue_stream(key, http2, at, service, pool, |pool| {
                        pool.waiting.push_back(Waiter::Stream(key, at));
                    });
                    return false;
                }
            }
        }
        match self.connect(service, pool, None, false) {
            Ok(link) => {
                self.solos.put(Box::new(Solo::new(link, key, at)));
                if let Some(stream) = http2.get(at) {
                    stream.place = Place::Solo(link);
                }
                false
            }
            Err(failed) => self.stream_failed(key, http2, at, failed),
        }
    }

    /// A link that was to be shared speaks HTTP/1.1: it is one like others, and those who waited for it look for such.
    pub(in crate::worker) fn unshare(&mut self, key: Key) {
        let Some(shared) = self.shared.take(key) else { return };
        self.pool.give(shared.line.out.bytes);
        let Some((service, pool)) = self.links.get(key).map(|link| (link.service, link.pool)) else { return };
        let mut waiting = Default::default();
        if let Some(entry) = self.pool_mut(service, pool) {
            entry.shared.retain(|&other| other != key);
            waiting = std::mem::take(&mut entry.streams);
        }
        self.release(key);
        for waiter in waiting {
            let (session, at) = match waiter {
                Waiter::Stream(session, at) => (session, at),
                Waiter::Session(session) => {
                    // It was to be spoken to in HTTP/2 alone.
                    let failed = Failed::Endpoint(Cause::EndpointProtocol);
                    self.guest_waited(session, service, pool, Some(failed));
                    continue;
                }
            };
            self.with_session(session, |worker, http2| {
                let Some(stream) = http2.get(at) else { return };
                if stream.place != Place::Waits || stream.turn.pool != pool || stream.turn.ticket.is_none() {
                    return;
                }
                worker.unqueue_stream(service, http2, at);
                if worker.fits_http1(session, http2, at) && worker.place_solo(session, http2, at, (service, pool)) {
                    worker.place(session, http2, at);
                }
            });
        }
    }

    /// A link is there for the stream that it was opened for.
    pub(in crate::worker) fn solo_opened(&mut self, key: Key) {
        let Some((session, at)) = self.solos.get(key).map(|solo| (solo.session, solo.stream)) else { return };
        self.with_session(session, |worker, http2| worker.begin_solo(session, http2, at, key));
    }

    /// Begins the turn of a stream on a link.
    fn begin_solo(&mut self, key: Key, http2: &mut Http2, at: StreamKey, link_key: Key) {
        let Self { sessions, services, links, solos, pool, now, .. } = self;
        let (Some(client), Some(link)) = (sessions.get(key), links.get_mut(link_key)) else { return };
        let Some(Some(served)) = services.get_mut(client.service as usize) else { return };
        let Http2 { streams, added, .. } = http2;
        let (Some(solo), Some(stream)) = (solos.get_mut(link_key), find(streams, at)) else { return };
        let Some(request) = stream.request.as_ref() else { return };
        (link.state, link.session, link.since) = (LinkState::Solo, None, *now);
        stream.place = Place::Solo(link_key);
        stream.turn.linked_at = Some(*now);
        stream.since = *now;
        if std::mem::take(&mut stream.turn.queued) {
            served.waiting -= 1;
        }
        if let Some(Some(pool)) = served.pools.get(link.pool as usize) {
            pool.tally.turns.add(1);
        }
        let context = Context::new(&served.shared.settings, &client.peer, *now);
        let (added, traced) = (added_for(added, &context), stream.traced.as_ref());
        let out = solo.out.lend(pool);
        solo.exchange = Some(Exchange::new(request, stream.bodiless, (added, traced), out, &context));
        solo.send(&mut stream.up, &[], pool);
        self.note_due(key, http2, at);
        self.list_link(link_key);
    }

    /// Drives the link of a stream.
    pub(super) fn drive_solo(&mut self, key: Key, scratch: &mut [u8]) {
        let Some(mut solo) = self.solos.take(key) else { return };
        solo.queued = false;
        let session = solo.session;
        let driven = catch_unwind(AssertUnwindSafe(|| {
            self.with_session(session, |worker, http2| worker.read_solo(key, &mut solo, http2, scratch))
        }));
        if driven.is_err() {
            error!("bug: a connection to an endpoint panicked and was closed; please report it");
            solo.cause = Cause::Bug;
        }
        match driven {
            Ok(Some(Fate::Stays)) => {
                let waits = !solo.out.unsent().is_empty();
                let holds = self.links.get(key).is_some_and(|link| link.stream.holds_output());
                self.solos.put(solo);
                if waits || holds {
                    self.list_link(key);
                }
            }
            Ok(Some(Fate::Free)) => {
                self.pool.give(solo.out.bytes);
                if let Some(link) = self.links.get_mut(key) {
                    link.turns = link.turns.saturating_add(1);
                }
                self.release(key);
            }
            Ok(Some(Fate::Gone) | None) | Err(_) => {
                self.solos.put(solo);
                self.remove_link(key);
            }
        }
    }

    fn read_solo(&mut self, key: Key, solo: &mut Solo, http2: &mut Http2, scratch: &mut [u8]) -> Fate {
        let Some(link) = self.links.get(key) else { return Fate::Gone };
        if link.state != LinkState::Solo {
            return Fate::Stays;
        }
        let (service, pool) = (link.service, link.pool);
        let most = self.room(service).most;
        let mut budget = BUDGET;
        loop {
            let Some(stream) = http2.get(solo.stream).filter(|stream| stream.place == Place::Solo(key)) else {
                return Fate::Gone;
            };
            let Some(link) = self.links.get_mut(key) else { return Fate::Gone };
            // A client that takes nothing stops the endpoint.
            if !link.readable || stream.down.waiting.unsent().len() > most {
                return Fate::Stays;
            }
            if budget == 0 {
                self.lines.touched.push(key);
                solo.queued = true;
                return Fate::Stays;
            }
            let n = match link.stream.read(scratch) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    link.readable = false;
                    return Fate::Stays;
                }
                Err(_) => return Fate::Gone,
            };
            if n == 0 {
                if solo.exchange.as_mut().is_some_and(Exchange::eof) {
                    stream.place = Place::Done;
                    self.pass_data(solo.session, http2, solo.stream, &[], true);
                }
                return Fate::Gone;
            }
            if n < scratch.len() && !link.closed {
                link.readable = false;
            }
            budget = budget.saturating_sub(n);
            solo.heard = true;
            if let Some(Some(served)) = self.services.get(service as usize)
                && let Some(Some(pool)) = served.pools.get(pool as usize)
            {
                pool.tally.bytes_received.add(n as u64);
            }
            if let Some(fate) = self.read_answer(key, solo, http2, &scratch[..n]) {
                return fate;
            }
        }
    }

    /// Reads of an answer what is there, with what was left of the last read before it.
    fn read_answer(&mut self, key: Key, solo: &mut Solo, http2: &mut Http2, read: &[u8]) -> Option<Fate> {
        let mut stash = std::mem::take(&mut solo.input);
        let fate = if stash.is_empty() {
            let mut input = read;
            let fate = self.pass_on(key, solo, http2, &mut input);
            if !input.is_empty() {
                stash = self.pool.take();
                stash.extend_from_slice(input);
            }
            fate
        } else {
            stash.extend_from_slice(read);
            let mut input = &stash[..];
            let fate = self.pass_on(key, solo, http2, &mut input);
            let left = input.len();
            stash.drain(..stash.len() - left);
            fate
        };
        if stash.is_empty() {
            self.pool.give(stash);
        } else {
            solo.input = stash;
        }
        fate
    }

    fn pass_on(&mut self, key: Key, solo: &mut Solo, http2: &mut Http2, input: &mut &[u8]) -> Option<Fate> {
        let mut fields = self.lines.spare.pop().unwrap_or_default();
        let fate = loop {
            let Some(service) = self.sessions.get(solo.session).map(|client| client.service) else {
                break Some(Fate::Gone);
            };
            let Some(Some(served)) = self.services.get(service as usize) else { break Some(Fate::Gone) };
            let Some(exchange) = &mut solo.exchange else { break None };
            let Some(answer) = exchange.recv(input, &mut fields, &served.shared.settings) else { break None };
            let (session, at) = (solo.session, solo.stream);
            match answer {
                exchange::Answer::Fields { part, status, fields, end } => {
                    let answer = Answer { part, status, fields, end };
                    if !self.pass_answer(session, http2, at, &answer, true) {
                        // It runs elsewhere. What else this endpoint says goes with its link.
                        break Some(Fate::Gone);
                    }
                }
                exchange::Answer::Data { data, end } => {
                    self.pass_data(session, http2, at, data, end);
                }
                exchange::Answer::Flaw(_) => {
                    solo.cause = Cause::EndpointProtocol;
                    break Some(Fate::Gone);
                }
            }
            let done = solo.exchange.as_ref().is_some_and(Exchange::is_done);
            match http2.get(at).filter(|stream| stream.place == Place::Solo(key)) {
                // What waits of the answer needs no link.
                Some(stream) if done => stream.place = Place::Done,
                None if !done => break Some(Fate::Gone),
                _ => {}
            }
            if done {
                let clean = input.is_empty()
                    && solo.out.unsent().is_empty()
                    && solo.exchange.as_ref().is_some_and(Exchange::leaves_clean)
                    && self.links.get_mut(key).is_some_and(|link| link.is_clean() && !link.stream.holds_output());
                break Some(if clean { Fate::Free } else { Fate::Gone });
            }
        };
        self.lines.give(Some(fields));
        fate
    }

    /// Writes what waits for the endpoint of a stream. The client may send as much again when all of it was taken.
    pub(super) fn write_solo(&mut self, key: Key) {
        let Self { links, solos, services, pool, .. } = self;
        let (Some(link), Some(solo)) = (links.get_mut(key), solos.get_mut(key)) else { return };
        solo.listed = false;
        if link.state != LinkState::Solo || link.broken {
            return;
        }
        match solo.out.write(&mut link.stream, &mut link.writable) {
            Ok(n) => {
                solo.sent |= n > 0;
                if let Some(Some(served)) = services.get(link.service as usize)
                    && let Some(Some(entry)) = served.pools.get(link.pool as usize)
                {
                    entry.tally.bytes_sent.add(n as u64);
                }
            }
            Err(_) => {
                // The endpoint may have answered before it stopped listening: read that first.
                (link.broken, link.readable, link.closed) = (true, true, true);
                solo.sent = true;
                self.touch_link(key);
                return;
            }
        }
        let credit = if solo.out.unsent().is_empty() { std::mem::take(&mut solo.owed) } else { 0 };
        if solo.out.bytes.is_empty() {
            pool.give(std::mem::take(&mut solo.out.bytes));
        }
        let (session, at, sent) = (solo.session, solo.stream, solo.sent);
        self.with_session(session, |worker, http2| {
            let Some(stream) = http2.get(at).filter(|stream| stream.place == Place::Solo(key)) else { return };
            if credit > 0 {
                stream.since = worker.now;
            }
            if sent && !stream.turn.want.idempotent {
                // It may have begun to run.
                stream.up.waiting.forget_sent();
            }
            http2.line.release(at, credit, &mut worker.pool);
        });
    }

    /// The link of a stream is gone.
    pub(in crate::worker) fn solo_gone(&mut self, key: Key, solo: Solo, turns: u32) {
        let Solo { session, stream: at, exchange, out, input, sent, heard, cause, .. } = solo;
        self.pool.give(out.bytes);
        self.pool.give(input);
        self.with_session(session, |worker, http2| {
            let Some(stream) = http2.get(at).filter(|stream| stream.place == Place::Solo(key)) else { return };
            if exchange.is_some() {
                let safe = !heard && (stream.turn.want.idempotent || !sent);
                return worker.stream_lost(session, http2, at, cause, (turns > 0, safe));
            }
            stream.place = Place::Waits;
            let failed = if cause == Cause::Local { Failed::Local } else { Failed::Endpoint(cause) };
            if worker.stream_failed(session, http2, at, failed) {
                worker.place(session, http2, at);
            }
        });
    }

    /// Closes the link of a stream that is not there any more.
    pub(super) fn abandon_solo(&mut self, key: Key) {
        let Some((session, at)) = self.solos.get(key).map(|solo| (solo.session, solo.stream)) else { return };
        let used =
            self.with_session(session, |_, http2| http2.get(at).is_some_and(|stream| stream.place == Place::Solo(key)));
        if used != Some(true) {
            self.remove_link(key);
        }
    }

    /// Gives a stream the link, or the room for one, that it waited for: at the end of the loop's turn, when every
    /// session is in its place.
    pub(super) fn hand_over(&mut self, handover: Handover) {
        let Handover { session, stream: at, service, pool, link } = handover;
        let waits = |http2: &mut Http2| {
            let stream = http2.get(at).filter(|stream| stream.place == Place::Waits && stream.turn.queued);
            stream.filter(|stream| stream.turn.pool == pool).map(|stream| stream.turn.fresh)
        };
        let fresh = self.with_session(session, |_, http2| waits(http2)).flatten();
        let link = link.filter(|&link| self.links.get(link).is_some());
        match (fresh, link) {
            // Somebody else has use for it.
            (None, Some(link)) => self.release(link),
            (None, None) => self.offer_room(service, pool),
            (Some(true), Some(link)) => {
                // It waits for room, not for this link.
                if let Some(pool) = self.pool_mut(service, pool) {
                    pool.waiting.push_front(Waiter::Stream(session, at));
                }
                self.remove_popped(link);
            }
            (Some(false), Some(link)) => {
                self.solos.put(Box::new(Solo::new(link, session, at)));
                self.with_session(session, |worker, http2| worker.begin_solo(session, http2, at, link));
            }
            (Some(_), None) => {
                self.with_session(session, |worker, http2| {
                    worker.unqueue_stream(service, http2, at);
                    if let Some(stream) = http2.get(at) {
                        stream.turn.ticket = None;
                    }
                    worker.place(session, http2, at);
                });
            }
        }
    }
}
