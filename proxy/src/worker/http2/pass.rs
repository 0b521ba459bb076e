//! Data and credit from one connection to another, and what is written in the end.

use super::{Http2, Line, Shared, Unwritten, Way};
use crate::worker::Worker;
use crate::worker::buffer::{Pool, SendBuf};
use crate::worker::link::LinkState;
use crate::worker::slab::Key;
use crate::worker::socket::Stream as Socket;
use evenkeel_core::time::Instant;
use evenkeel_wire::http2::connection::Part;
use evenkeel_wire::http2::error::Code;
use evenkeel_wire::http2::forward::put_trailers;
use evenkeel_wire::http2::streams::StreamKey;
use evenkeel_wire::out::Out;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// How much room a line has, and what time it is.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Bytes that may wait to be written before streams have to wait.
    pub(super) most: usize,
    pub(super) now: Instant,
}

impl Line {
    /// Passes data on behind what waits already; returns how much of what waited, and of these, went. The rest waits.
    pub(super) fn data(&mut self, key: StreamKey, way: &mut Way, data: &[u8], room: Room, pool: &mut Pool) -> usize {
        if way.waiting.keep || !way.waiting.unsent().is_empty() || !self.has_room(room.most) {
            way.waiting.lend(pool).extend_from_slice(data);
            return self.resume(key, way, room, pool);
        }
        let end = way.ended && way.trailers.is_none();
        let mut out = Out::new(self.out.lend_wide(pool));
        let sent = self.connection.data(key, data, end, &mut out, room.now);
        out.spill();
        if sent < data.len() {
            way.waiting.lend(pool).extend_from_slice(&data[sent..]);
        } else {
            way.done |= end;
        }
        sent
    }

    /// Passes on what waits, and the end if that has come; returns how many bytes went.
    pub(super) fn resume(&mut self, key: StreamKey, way: &mut Way, room: Room, pool: &mut Pool) -> usize {
        if way.done {
            return 0;
        }
        let waiting = way.waiting.unsent().len();
        if waiting > 0 && !self.has_room(room.most) {
            if !std::mem::replace(&mut self.full, true) {
                self.next = key.slot();
            }
            return 0;
        }
        let end = way.ended && way.trailers.is_none();
        let mut sent = 0;
        if waiting > 0 || end {
            let mut out = Out::new(self.out.lend_wide(pool));
            sent = self.connection.data(key, way.waiting.unsent(), end, &mut out, room.now);
            out.spill();
            way.waiting.advance(sent);
        }
        if sent < waiting {
            return sent;
        }
        way.done |= end;
        if let Some(trailers) = way.trailers.as_ref() {
            let mut out = Out::new(self.out.lend_wide(pool));
            self.connection.fields(key, Part::Trailers, true, &mut out, |writer| put_trailers(trailers, writer));
            way.done = true;
        }
        sent
    }

    /// The peer may send so much more on this stream.
    pub(super) fn release(&mut self, key: StreamKey, bytes: usize, pool: &mut Pool) {
        if bytes > 0 {
            self.connection.release(key, bytes, &mut Out::new(self.out.lend_wide(pool)));
        }
    }

    /// Streams may write. Once one had to wait all do, or those that have more to say would pass it by.
    fn has_room(&self, most: usize) -> bool {
        !self.full && self.out.unsent().len() < most
    }

    /// Streams had to wait, and need not any more.
    pub(super) fn has_room_again(&self, most: usize) -> bool {
        self.full && self.out.unsent().len() <= most / 2
    }

    /// Those that had to wait go on: all of them in the order of their slots, which is that of `all`, from the one
    /// that had to wait first.
    pub(super) fn in_turn<T>(&mut self, mut all: Vec<T>, slot: impl Fn(&T) -> usize) -> Vec<T> {
        self.full = false;
        let first = all.partition_point(|one| slot(one) < self.next);
        all.rotate_left(first);
        all
    }

    /// Gives the buffer back if nothing waits in it.
    pub(super) fn settle(&mut self, pool: &mut Pool) {
        if self.out.bytes.is_empty() {
            pool.give(std::mem::take(&mut self.out.bytes));
        }
    }
}

impl SendBuf {
    /// Writes what waits, until the socket takes no more; returns how many bytes went.
    pub(super) fn write(&mut self, stream: &mut Socket, writable: &mut bool) -> io::Result<usize> {
        let mut total = 0;
        while *writable && (!self.unsent().is_empty() || stream.holds_output()) {
            let waiting = self.unsent();
            match stream.write(waiting, &[]) {
                Ok(n) => {
                    *writable = n == waiting.len() && !stream.holds_output();
                    self.advance(n);
                    total += n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => *writable = false,
                Err(e) => return Err(e),
            }
        }
        Ok(total)
    }
}

impl Worker {
    /// A session may have something to be written, or TLS holds what its socket has not taken.
    pub(super) fn list_session(&mut self, key: Key, http2: &mut Http2) {
        let holds = self.sessions.get(key).is_some_and(|client| client.stream.holds_output());
        if !holds && http2.line.out.unsent().is_empty() {
            http2.line.settle(&mut self.pool);
        } else if !std::mem::replace(&mut http2.line.listed, true) {
            self.lines.unwritten.push(Unwritten::Session(key));
        }
    }

    /// A link has something to be written.
    pub(super) fn list_link(&mut self, key: Key) {
        let listed = self.shared.get_mut(key).map(|shared| &mut shared.line.listed);
        let listed = listed.or_else(|| self.solos.get_mut(key).map(|solo| &mut solo.listed));
        if listed.is_some_and(|listed| !std::mem::replace(listed, true)) {
            self.lines.unwritten.push(Unwritten::Link(key));
        }
    }

    /// Writes once to each connection that has something to be written: the end of a turn of the loop.
    pub(in crate::worker) fn write_lines(&mut self) {
        loop {
            if let Some((link, stream)) = self.lines.resets.pop() {
                self.abandon(link, stream);
                continue;
            }
            if let Some(handover) = self.lines.handovers.pop() {
                self.hand_over(handover);
                continue;
            }
            match self.lines.unwritten.pop() {
                Some(Unwritten::Session(key)) => self.write_session(key),
                Some(Unwritten::Link(key)) => self.write_link(key),
                None => return,
            }
        }
    }

    pub(super) fn write_session(&mut self, key: Key) {
        let Self { sessions, services, pool, .. } = self;
        let Some(client) = sessions.get_mut(key) else { return };
        let Some(http2) = client.rare.as_mut().and_then(|rare| rare.http2.as_mut()) else { return };
        let Some(Some(served)) = services.get(client.service as usize) else { return };
        http2.line.listed = false;
        let written = http2.line.out.write(&mut client.stream, &mut client.writable);
        let resumes = http2.line.has_room_again(served.shared.config.limits.buffer);
        http2.line.settle(pool);
        match written {
            Ok(n) => served.tally.bytes_sent.add(n as u64),
            Err(_) => return self.client_lost(key),
        }
        let http2 = client.rare.as_mut().and_then(|rare| rare.http2.as_mut());
        if resumes || http2.is_some_and(|http2| http2.line.connection.is_finished()) {
            self.touch(key);
        }
    }

    pub(super) fn write_link(&mut self, key: Key) {
        if self.solos.get(key).is_some() {
            return self.write_solo(key);
        }
        let Self { links, shared, services, pool, .. } = self;
        let (Some(link), Some(shared)) = (links.get_mut(key), shared.get_mut(key)) else { return };
        let Some(Some(served)) = services.get(link.service as usize) else { return };
        shared.line.listed = false;
        // What waits for a connection is written when it is there.
        if link.state != LinkState::Shared {
            return;
        }
        let written = shared.line.out.write(&mut link.stream, &mut link.writable);
        let mut touch = shared.line.has_room_again(served.shared.config.limits.buffer);
        shared.line.settle(pool);
        touch |= shared.line.connection.is_finished();
        match written {
            Ok(n) => {
                if let Some(Some(pool)) = served.pools.get(link.pool as usize) {
                    pool.tally.bytes_sent.add(n as u64);
                }
            }
            Err(_) => {
                // The endpoint may have answered before it stopped listening: read that first.
                (link.broken, link.readable, link.closed, touch) = (true, true, true, true);
                let waiting = shared.line.out.bytes.len() - shared.line.out.sent;
                shared.line.out.advance(waiting);
            }
        }
        if touch {
            self.touch_link(key);
        }
    }

    /// Sees to it that a link that is shared, or of a stream, is driven before the loop sleeps again.
    pub(in crate::worker) fn touch_link(&mut self, key: Key) {
        let queued = self.shared.get_mut(key).map(|shared| &mut shared.queued);
        let queued = queued.or_else(|| self.solos.get_mut(key).map(|solo| &mut solo.queued));
        if queued.is_some_and(|queued| !std::mem::replace(queued, true)) {
            self.lines.touched.push(key);
        }
    }

    /// How much a line of this service may hold, and what time it is.
    pub(super) fn room(&self, service: u32) -> Room {
        let served = self.services.get(service as usize).and_then(Option::as_ref);
        Room { most: served.map_or(0, |served| served.shared.config.limits.buffer), now: self.now }
    }

    /// Calls with what a session has, which is not in its place meanwhile.
    pub(super) fn with_session<R>(&mut self, key: Key, call: impl FnOnce(&mut Self, &mut Http2) -> R) -> Option<R> {
        let mut http2 = self.sessions.get_mut(key)?.rare.as_mut()?.http2.take()?;
        // A panic ends the session that is to blame, and finds everything in its place.
        let result = catch_unwind(AssertUnwindSafe(|| call(self, &mut http2)));
        self.list_session(key, &mut http2);
        if let Some(rare) = self.sessions.get_mut(key).and_then(|client| client.rare.as_mut()) {
            rare.http2 = Some(http2);
        }
        Some(result.unwrap_or_else(|panic| resume_unwind(panic)))
    }

    /// Ends a stream of a link that nobody needs any more.
    fn abandon(&mut self, key: Key, stream: StreamKey) {
        if self.solos.get(key).is_some() {
            return self.abandon_solo(key);
        }
        let Self { links, shared, pool, now, .. } = self;
        let (Some(link), Some(shared)) = (links.get_mut(key), shared.get_mut(key)) else { return };
        let Shared { line, .. } = shared;
        line.connection.reset(stream, Code::CANCEL, &mut Out::new(line.out.lend_wide(pool)));
        shared.unseat(stream);
        link.since = *now;
        self.list_link(key);
        self.vacancy(key);
    }
}
