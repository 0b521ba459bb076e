//! One session at a time: sockets to engine, engine to sockets.
//!
//! A session is driven while it makes progress: write what waits, take what the engine can use,
//! carry out what it wants. Each socket is read until a short read (a full stream socket would have
//! filled the buffer) and written until a short write, so no system call is made whose answer is
//! known. Bytes that the engine passes on unchanged go from the read buffer straight to the other
//! socket; those that it need not even see, and that are many, do not come here at all (`splice`).

use super::buffer::Buffers;
use super::client::Client;
use super::link::LinkState;
use super::slab::Key;
use super::splice::{BULK, Toward};
use super::{Timer, Worker};
use evenkeel_core::end::{Cause, End, Phase};
use evenkeel_core::time::{Duration, Instant};
use evenkeel_wire::out::Out;
use evenkeel_wire::session::{Context, Io, Output};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tracing::error;

/// Bytes that one session may read before others have their turn.
pub(super) const BUDGET: usize = 512 * 1024;

/// A session is looked at at least this often. A timer of one that has ended stays armed, so if sessions armed
/// theirs for an hour, the wheel would hold an hour's worth of sessions that are long gone.
pub(super) const HORIZON: Duration = Duration::from_secs(60);

/// A tail up to this size is copied behind the bytes that it follows: cheaper than a vectored write.
const SMALL: usize = 4 * 1024;

/// Pieces of the input that the engine passes on and that are not written yet; they follow what
/// waits in the buffers.
#[derive(Clone, Copy, Default)]
pub(super) struct Tails<'a> {
    client: &'a [u8],
    link: &'a [u8],
}

impl Worker {
    /// Drives a session; a panic in it ends it, and nothing else.
    pub(super) fn drive(&mut self, key: Key) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let driven = catch_unwind(AssertUnwindSafe(|| self.drive_with(key, &mut scratch)));
        self.scratch = scratch;
        if driven.is_err() {
            let phase = self.sessions.get(key).map(|c| c.engine.phase());
            error!(?phase, "bug: a session panicked and was ended; please report it");
            if let Some(phase) = phase {
                self.remove_session(key, End { cause: Cause::Bug, phase }, true);
            }
        }
    }

    fn drive_with(&mut self, key: Key, scratch: &mut [u8]) {
        let Some(client) = self.sessions.get_mut(key) else { return };
        client.queued = false;
        if client.arrival.is_some() {
            self.arrive(key, scratch);
            if self.sessions.get(key).is_none_or(|client| client.arrival.is_some()) {
                return;
            }
        }
        if let Some(client) = self.sessions.get_mut(key) {
            if client.is_http2() {
                return self.drive_http2(key, scratch);
            }
            client.buffers.lend(&mut self.pool);
        }
        let mut budget = BUDGET;
        self.carry_out(key, Tails::default());
        loop {
            let Some(client) = self.sessions.get(key) else { return };
            if client.leaving.is_some() {
                return self.leave(key, scratch);
            }
            let high = self.high(client);
            // A session that is relayed may be over with its client's end, so that is heard last: when nothing
            // that was said before waits any more.
            let last = client.closed && client.engine.phase() == Phase::Relay;
            let most = if last { 0 } else { high };
            let link_drained = client.buffers.to_link.unsent().len() <= most && !client.pipes(Toward::Link);
            let client_drained = client.buffers.to_client.unsent().len() <= high && !client.pipes(Toward::Client);
            if client.offer && client.engine.wants_client() && link_drained {
                self.offer_stash(key);
            } else if client.readable && !client.eof && client.engine.wants_client() && link_drained {
                if budget == 0 {
                    return self.touch(key);
                }
                budget = budget.saturating_sub(self.take_from_client(key, scratch, budget));
            } else if client_drained && self.link_has_something(client) {
                if budget == 0 {
                    return self.touch(key);
                }
                budget = budget.saturating_sub(self.take_from_link(key, scratch, budget));
            } else if client.closed && !(client.engine.wants_client() && link_drained) && self.client_is_gone(key) {
                return self.client_lost(key);
            } else {
                break;
            }
        }
        self.leave_if_due(key);
        if self.sessions.get(key).is_some_and(|client| client.rare.is_some()) {
            self.credit_guest(key);
        }
        self.settle(key);
        self.rearm(key);
    }

    /// More waiting than this stops whoever writes it.
    fn high(&self, client: &Client) -> usize {
        match &self.services[client.service as usize] {
            Some(served) => served.shared.config.limits.buffer,
            None => 0,
        }
    }

    fn link_has_something(&self, client: &Client) -> bool {
        let link = client.link.and_then(|key| self.links.get(key));
        link.is_some_and(|l| l.state == LinkState::Busy && l.readable && client.engine.wants_link())
    }

    /// A reset shows while nothing is read from the client; a half-closed client still waits for
    /// its answer, or for an endpoint that is slow.
    fn client_is_gone(&self, key: Key) -> bool {
        self.sessions.get(key).is_some_and(|c| matches!(c.stream.take_error(), Ok(Some(_)) | Err(_)))
    }

    /// Takes once what the client sent; returns how many bytes came.
    #[inline]
    fn take_from_client(&mut self, key: Key, scratch: &mut [u8], budget: usize) -> usize {
        if self.sessions.get(key).is_some_and(|client| client.splice.is_some())
            && let Some(n) = self.splice_client(key, budget)
        {
            return n;
        }
        let n = self.read_client(key, scratch);
        if n >= BULK {
            self.expect_bulk(key, Toward::Link);
        }
        n
    }

    /// Takes once what the endpoint sent; returns how many bytes came.
    #[inline]
    fn take_from_link(&mut self, key: Key, scratch: &mut [u8], budget: usize) -> usize {
        if self.sessions.get(key).is_some_and(|client| client.splice.is_some())
            && let Some(n) = self.splice_link(key, budget)
        {
            return n;
        }
        let n = self.read_link(key, scratch);
        if n >= BULK {
            self.expect_bulk(key, Toward::Client);
        }
        n
    }

    /// The client will send no more. To be read again if it is not the time to hear that.
    pub(super) fn client_finished(&mut self, key: Key) {
        if let Some(client) = self.sessions.get_mut(key) {
            client.closed = true;
            if client.engine.phase() == Phase::Relay && !client.buffers.to_link.unsent().is_empty() {
                return;
            }
            (client.eof, client.readable) = (true, false);
            self.with_engine(key, |engine, io, context| engine.client_eof(io, context));
        }
    }

    /// Reads once from the client and feeds the engine; returns how many bytes came.
    fn read_client(&mut self, key: Key, scratch: &mut [u8]) -> usize {
        let Some(client) = self.sessions.get_mut(key) else { return 0 };
        let n = match client.stream.read(scratch) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                client.readable = false;
                return 0;
            }
            Err(_) => {
                self.client_lost(key);
                return 0;
            }
        };
        if n < scratch.len() && n > 0 && !client.closed {
            client.readable = false;
        }
        if n == 0 {
            self.client_finished(key);
            return 0;
        }
        if let Some(Some(served)) = self.services.get(client.service as usize) {
            served.tally.bytes_received.add(n as u64);
        }
        if client.buffers.input.is_empty() {
            let (consumed, more) = self.feed_client(key, &scratch[..n]);
            if let Some(client) = self.sessions.get_mut(key)
                && consumed < n
            {
                let stash = &mut client.buffers.input;
                if stash.capacity() == 0 {
                    *stash = self.pool.take();
                }
                stash.extend_from_slice(&scratch[consumed..n]);
                client.offer = more;
            }
        } else {
            client.buffers.input.extend_from_slice(&scratch[..n]);
            self.offer_stash(key);
        }
        n
    }

    /// Offers the engine what it could not use before: once when it begins to want input again, and
    /// again as long as it takes some of it.
    fn offer_stash(&mut self, key: Key) {
        let Some(client) = self.sessions.get_mut(key) else { return };
        client.offer = false;
        let mut stash = std::mem::take(&mut client.buffers.input);
        let (consumed, more) = self.feed_client(key, &stash);
        stash.drain(..consumed);
        match self.sessions.get_mut(key) {
            Some(client) if !stash.is_empty() => {
                client.offer = more;
                client.buffers.input = stash;
            }
            _ => self.pool.give(stash),
        }
    }

    /// Feeds the engine; returns how much it used, and whether it may use the rest without more.
    fn feed_client(&mut self, key: Key, input: &[u8]) -> (usize, bool) {
        let Self { sessions, services, pool, now, tracer, rng, .. } = self;
        let Some(client) = sessions.get_mut(key) else { return (0, false) };
        let Some(Some(served)) = services.get(client.service as usize) else { return (0, false) };
        let in_turn = client.turn.is_some();
        let span = tracer.as_ref().map(|tracer| tracer.draw(rng));
        let context = Context { span, ..Context::new(&served.shared.settings, &client.peer, *now) };
        let Buffers { to_client, to_link, .. } = client.buffers.lend(pool);
        let mut io = Io { client: Out::new(to_client.lend(pool)), link: Out::new(to_link.lend(pool)) };
        let consumed = client.engine.client_data(input, &mut io, &context);
        let tails = Tails { client: io.client.take_tail(), link: io.link.take_tail() };
        self.carry_out(key, tails);
        let Some(client) = self.sessions.get(key) else { return (consumed, false) };
        let turn_ended = in_turn && client.turn.is_none();
        (consumed, consumed > 0 || turn_ended || !client.engine.wants_client())
    }

    /// Reads once from the link and feeds the engine; returns how many bytes came.
    fn read_link(&mut self, key: Key, scratch: &mut [u8]) -> usize {
        let Some(client) = self.sessions.get_mut(key) else { return 0 };
        let Some(link_key) = client.link else { return 0 };
        let Some(link) = self.links.get_mut(link_key) else { return 0 };
        // What is read of an answer is copied. If it is long, what comes after its first part need not be.
        let most = if client.turn.as_ref().is_some_and(|turn| !turn.heard) { BULK } else { scratch.len() };
        let n = match link.stream.read(&mut scratch[..most]) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                link.readable = false;
                return 0;
            }
            Err(_) => {
                self.link_lost(key, Cause::EndpointClosed);
                return 0;
            }
        };
        if n < most && !link.closed {
            link.readable = false;
        }
        if n == 0 {
            link.readable = false;
            self.link_finished(key);
            return 0;
        }
        self.heard(key, n);
        let Some(client) = self.sessions.get_mut(key) else { return n };
        if client.buffers.answer.is_empty() {
            self.feed_link(key, link_key, &scratch[..n]);
        } else {
            let mut input = std::mem::take(&mut client.buffers.answer);
            input.extend_from_slice(&scratch[..n]);
            self.feed_link(key, link_key, &input);
            self.pool.give(input);
        }
        n
    }

    fn feed_link(&mut self, key: Key, link_key: Key, input: &[u8]) {
        let may_retry = self.may_retry_unavailable(key);
        let Self { sessions, services, links, pool, now, .. } = self;
        let Some(client) = sessions.get_mut(key) else { return };
        let Some(Some(served)) = services.get(client.service as usize) else { return };
        let context = Context { may_retry, ..Context::new(&served.shared.settings, &client.peer, *now) };
        let Buffers { to_client, to_link, .. } = client.buffers.lend(pool);
        let mut io = Io { client: Out::new(to_client.lend(pool)), link: Out::new(to_link.lend(pool)) };
        let consumed = client.engine.link_data(input, &mut io, &context);
        let tails = Tails { client: io.client.take_tail(), link: io.link.take_tail() };
        if consumed < input.len()
            && let Some(link) = links.get_mut(link_key)
        {
            // If the turn is over these are bytes behind its response.
            link.dirty = true;
            let answer = &mut client.buffers.answer;
            if answer.capacity() == 0 {
                *answer = pool.take();
            }
            answer.extend_from_slice(&input[consumed..]);
        }
        self.carry_out(key, tails);
        // Still the same turn: the engine waits for the rest of a head.
        if let Some(link) = self.links.get_mut(link_key)
            && link.state == LinkState::Busy
        {
            link.dirty = false;
        }
    }

    /// Calls the engine with something that is not input.
    pub(super) fn with_engine(
        &mut self,
        key: Key,
        call: impl FnOnce(&mut evenkeel_wire::session::Session, &mut Io<'_, '_>, &Context<'_>),
    ) {
        self.call_engine(key, call);
        self.carry_out(key, Tails::default());
    }

    /// The same, for use while outputs are being carried out.
    pub(super) fn call_engine(
        &mut self,
        key: Key,
        call: impl FnOnce(&mut evenkeel_wire::session::Session, &mut Io<'_, '_>, &Context<'_>),
    ) {
        let Self { sessions, services, pool, now, .. } = self;
        let Some(client) = sessions.get_mut(key) else { return };
        let Some(Some(served)) = services.get(client.service as usize) else { return };
        let link_backlog = !client.buffers.to_link.unsent().is_empty() || client.pipes(Toward::Link);
        let context = Context { link_backlog, ..Context::new(&served.shared.settings, &client.peer, *now) };
        let Buffers { to_client, to_link, .. } = client.buffers.lend(pool);
        let mut io = Io { client: Out::new(to_client.lend(pool)), link: Out::new(to_link.lend(pool)) };
        call(&mut client.engine, &mut io, &context);
        // Calls without input have no tail.
        io.client.spill();
        io.link.spill();
    }

    /// Carries out what the engine wants, then writes once to each side.
    pub(super) fn carry_out(&mut self, key: Key, mut tails: Tails<'_>) {
        self.obey_engine(key, &mut tails);
        self.flush_link(key, tails.link);
        self.flush_client(key, tails.client);
    }

    /// Carries out what the engine wants.
    #[inline]
    pub(super) fn obey_engine(&mut self, key: Key, tails: &mut Tails<'_>) {
        while let Some(client) = self.sessions.get_mut(key) {
            let Some(output) = client.engine.poll_output() else { break };
            match output {
                Output::Want(want) => {
                    self.spill(key, tails);
                    self.begin_turn(key, want);
                }
                Output::Answered(status) => self.answered(key, status),
                Output::Retry => self.retry_refused(key),
                Output::Limit(limit) => self.note_limit(key, limit),
                Output::Http2 => self.begin_http2(key),
                Output::Tunnel(log) => self.tunnel(key, log),
                Output::Turn(end) => {
                    // The last bytes of a request must reach the link before it changes hands.
                    tails.link = self.flush_link(key, tails.link);
                    self.end_turn(key, end);
                }
                Output::FinishClient => client.finish_client = true,
                Output::FinishLink => client.finish_link = true,
                Output::End { end, abort, linger } => self.begin_leaving(key, end, abort, linger),
            }
        }
    }

    /// Copies what was to be passed on uncopied: something is about to be written behind it.
    fn spill(&mut self, key: Key, tails: &mut Tails<'_>) {
        if let Some(client) = self.sessions.get_mut(key) {
            client.buffers.to_client.bytes.extend_from_slice(std::mem::take(&mut tails.client));
            client.buffers.to_link.bytes.extend_from_slice(std::mem::take(&mut tails.link));
        }
    }

    /// Writes to the client what waits and then `tail`; what does not fit is kept.
    pub(super) fn flush_client(&mut self, key: Key, mut tail: &[u8]) {
        let Self { sessions, services, pipes, descriptors, .. } = self;
        let Some(client) = sessions.get_mut(key) else { return };
        let (mut total, mut spliced) = (0, 0);
        let out = &mut client.buffers.to_client;
        if let Some(splice) = &mut client.splice {
            match splice.pour(Toward::Client, &client.stream, &mut client.writable, out, pipes, descriptors) {
                Ok(n) => (total, spliced) = (n, n),
                Err(_) => return self.client_lost(key),
            }
        }
        if tail.len() <= SMALL && !out.bytes.is_empty() {
            out.bytes.extend_from_slice(std::mem::take(&mut tail));
        }
        let stream = &mut client.stream;
        while client.writable && (out.sent < out.bytes.len() || !tail.is_empty() || stream.holds_output()) {
            let head = out.unsent();
            let want = head.len() + tail.len();
            match stream.write(head, tail) {
                Ok(n) => {
                    let from_head = n.min(head.len());
                    tail = &tail[n - from_head..];
                    out.advance(from_head);
                    client.writable = n == want && !stream.holds_output();
                    total += n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => client.writable = false,
                Err(_) => return self.client_lost(key),
            }
        }
        out.bytes.extend_from_slice(tail);
        if client.finish_client && client.buffers.to_client.bytes.is_empty() && !client.pipes(Toward::Client) {
            client.finish_client = false;
            client.stream.finish();
        }
        if total > 0
            && let Some(Some(served)) = services.get(client.service as usize)
        {
            served.tally.bytes_sent.add(total as u64);
            served.tally.bytes_spliced.add(spliced as u64);
        }
    }

    /// Writes to the link what waits and then `tail`; what does not fit, or must be kept for a
    /// replay, is copied. Always returns an empty slice, for the caller to go on with.
    fn flush_link<'a>(&mut self, key: Key, mut tail: &'a [u8]) -> &'a [u8] {
        let Self { sessions, links, services, pipes, descriptors, .. } = self;
        let Some(client) = sessions.get_mut(key) else { return &[] };
        let Some(Some(served)) = services.get(client.service as usize) else { return &[] };
        let (out, mut dropped) = (&mut client.buffers.to_link, false);
        if out.keep && (!tail.is_empty() || out.bytes.len() > served.shared.config.retry.buffer) {
            if out.bytes.len() + tail.len() <= served.shared.config.retry.buffer {
                out.bytes.extend_from_slice(std::mem::take(&mut tail));
            } else if client.link.and_then(|l| links.get(l)).is_some_and(|l| l.state == LinkState::Busy) {
                // Too much to keep: from here on the turn cannot be run again.
                dropped |= out.forget_sent();
            }
        }
        let link = client.link.and_then(|l| links.get_mut(l));
        let Some(link) = link.filter(|l| l.state == LinkState::Busy) else {
            self.flush_guest(key, tail);
            return &[];
        };
        let (mut total, mut spliced) = (0, 0);
        if let Some(splice) = client.splice.as_mut().filter(|_| !link.broken) {
            match splice.pour(Toward::Link, &link.stream, &mut link.writable, out, pipes, descriptors) {
                Ok(n) => (total, spliced) = (n, n),
                Err(_) => (link.broken, link.readable, link.closed) = (true, true, true),
            }
        }
        if tail.len() <= SMALL && !out.bytes.is_empty() {
            out.bytes.extend_from_slice(std::mem::take(&mut tail));
        }
        while link.writable
            && !link.broken
            && (out.sent < out.bytes.len() || !tail.is_empty() || link.stream.holds_output())
        {
            let head = out.unsent();
            let want = head.len() + tail.len();
            match link.stream.write(head, tail) {
                Ok(n) => {
                    let from_head = n.min(head.len());
                    tail = &tail[n - from_head..];
                    dropped |= out.advance(from_head);
                    link.writable = n == want && !link.stream.holds_output();
                    total += n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => link.writable = false,
                Err(_) => {
                    // The endpoint may have answered before it stopped listening: read that first.
                    (link.broken, link.readable, link.closed) = (true, true, true);
                }
            }
        }
        if link.broken && !out.keep {
            dropped |= out.advance(out.bytes.len() - out.sent);
            tail = &[];
        }
        out.bytes.extend_from_slice(tail);
        let waits = client.splice.as_ref().is_some_and(|splice| splice.holds(Toward::Link));
        if client.finish_link && out.sent == out.bytes.len() && !waits {
            client.finish_link = false;
            link.stream.finish();
        }
        if dropped && let Some(turn) = &mut client.turn {
            turn.dropped = true;
        }
        if total > 0
            && let Some(Some(pool)) = served.pools.get(link.pool as usize)
        {
            pool.tally.bytes_sent.add(total as u64);
            served.tally.bytes_spliced.add(spliced as u64);
        }
        &[]
    }

    /// Gives buffers back that hold nothing.
    fn settle(&mut self, key: Key) {
        let Self { sessions, pool, .. } = self;
        if let Some(client) = sessions.get_mut(key) {
            client.buffers.settle(pool);
            if client.splice.as_ref().is_some_and(|splice| splice.is_over()) {
                client.splice = None;
            }
        }
    }

    /// Arms the wheel if something is due earlier than what is armed.
    pub(super) fn rearm(&mut self, key: Key) {
        let http2 = self.http2_due(key);
        let Self { sessions, services, wheel, now, .. } = self;
        let Some(client) = sessions.get_mut(key) else { return };
        let Some(Some(served)) = services.get(client.service as usize) else { return };
        let mut due = http2.map_or(*now + HORIZON, |due| due.min(*now + HORIZON));
        if let Some((engine, _)) = client.engine.poll_timeout(&served.shared.settings) {
            due = due.min(engine);
        }
        if let Some(turn) = &client.turn {
            if turn.queued {
                due = due.min(turn.tried_at + served.shared.config.limits.queue_timeout);
            }
            due = due.min(turn.held.unwrap_or(due));
        }
        if let Some(arrival) = &client.arrival {
            due = due.min(arrival.since + served.shared.config.timeouts.header);
        }
        match (&client.leaving, client.leave) {
            (Some(leaving), _) => due = due.min(leaving.until),
            // Who is on its way out already has nothing to be asked.
            (None, Some((asked, _))) => due = due.min(asked),
            (None, None) => {}
        }
        if client.armed.is_none_or(|armed| due < armed) {
            client.armed = Some(due);
            wheel.arm(due, Timer::Session(key));
        }
    }

    pub(super) fn session_timeout(&mut self, key: Key) {
        let now = self.now;
        let Some(client) = self.sessions.get_mut(key) else { return };
        // A timer that was overtaken by an earlier one.
        if client.armed.is_none_or(|armed| armed > now + TICK) {
            return;
        }
        client.armed = None;
        if client.leaving.as_ref().is_some_and(|l| l.until <= now) {
            return self.patience_ends(key);
        }
        if let Some(arrival) = &client.arrival {
            let limit = self.services[client.service as usize].as_ref().map(|s| s.shared.config.timeouts.header);
            if limit.is_some_and(|limit| arrival.since + limit <= now) {
                return self.arrival_late(key);
            }
            return self.touch(key);
        }
        if let Some(turn) = client.turn.as_mut().filter(|turn| turn.held.is_some_and(|at| at <= now)) {
            turn.held = None;
            self.acquire(key);
        }
        let Some(client) = self.sessions.get(key) else { return };
        if let Some(turn) = client.turn.as_ref().filter(|t| t.queued) {
            let limit = self.services[client.service as usize].as_ref().map(|s| s.shared.config.limits.queue_timeout);
            if limit.is_some_and(|limit| turn.tried_at + limit <= now) {
                self.give_up_waiting(key);
            }
        }
        if self.sessions.get(key).is_some_and(|c| c.leaving.is_none()) {
            self.with_engine(key, |engine, io, context| engine.handle_timeout(io, context));
        }
        self.touch(key);
    }
}

/// The wheel's resolution: a timer fires in the tick of its deadline.
const TICK: Duration = Duration::from_millis(1);

/// When patience with a peer that has to do something ends.
pub(super) fn until(now: Instant, seconds: u64) -> Instant {
    now + Duration::from_secs(seconds)
}
