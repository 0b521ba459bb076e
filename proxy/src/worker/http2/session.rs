//! Sessions: from a client's bytes to links.

use super::grpc::{Call, calls_end};
use super::{Http2, Line, Place, Stream, Way, find, old_at};
use crate::worker::Worker;
use crate::worker::client::Turn;
use crate::worker::drive::BUDGET;
use crate::worker::slab::Key;
use evenkeel_core::end::{Cause, End, Limit, Phase};
use evenkeel_core::time::{Duration, Instant};
use evenkeel_wire::http2::connection::{Connection, Event, Failure, Fault, Part};
use evenkeel_wire::http2::error::Code;
use evenkeel_wire::http2::forward::{Asked, Turned, answer, is_grpc};
use evenkeel_wire::http2::hpack::Fields;
use evenkeel_wire::http2::settings::Role;
use evenkeel_wire::http2::streams::StreamKey;
use evenkeel_wire::out::Out;
use evenkeel_wire::session::{Context, Leave, LinkError, Session};
use std::io;

/// A client that does not read what it makes us say of its connection is not read from beyond this many times what may
/// wait for it.
const PATIENCE: usize = 4;

/// What is done with a stream when its time has come.
#[derive(Clone, Copy)]
pub(super) enum Due {
    /// It has waited for long enough, and is tried again.
    Again,
    /// It has waited for too long.
    Fail(LinkError),
}

/// How a session goes on after it was driven.
enum Next {
    On,
    /// It ends with what was written.
    End(End),
    /// Its connection broke.
    Lost,
}

impl Worker {
    /// The client speaks HTTP/2.
    pub(in crate::worker) fn begin_http2(&mut self, key: Key) {
        let Self { sessions, services, pool, now, rng, .. } = self;
        let Some(client) = sessions.get_mut(key) else { return };
        let Some(Some(served)) = services.get(client.service as usize) else { return };
        let until = old_at(served.shared.config.timeouts.max_age, *now, rng);
        let mut out = pool.take();
        let connection = Connection::new(Role::Server, &served.shared.http2, &mut Out::new(&mut out), *now);
        let http2 = Http2 {
            line: Line::new(connection, out, *now, until),
            input: Vec::new(),
            streams: Vec::new(),
            added: None,
            due: None,
            since: *now,
            relaxed: false,
            told: None,
            calls_end: None,
        };
        client.engine = Session::http2();
        client.rare.get_or_insert_default().http2 = Some(Box::new(http2));
        self.touch(key);
    }

    /// Drives a session.
    pub(in crate::worker) fn drive_http2(&mut self, key: Key, scratch: &mut [u8]) {
        let driven = self.with_session(key, |worker, http2| worker.drive_streams(key, http2, scratch));
        let Some(client) = self.sessions.get_mut(key) else { return };
        client.buffers.settle(&mut self.pool);
        match driven {
            None | Some(Next::On) => self.rearm(key),
            Some(Next::End(end)) => self.end_http2(key, end),
            Some(Next::Lost) => self.client_lost(key),
        }
    }

    fn drive_streams(&mut self, key: Key, http2: &mut Http2, scratch: &mut [u8]) -> Next {
        let Some(client) = self.sessions.get(key) else { return Next::On };
        let service = client.service;
        if let Some(end) = self.take_leave(key, http2) {
            return Next::End(end);
        }
        self.act_on_time(key, http2);
        let most = self.room(service).most.saturating_mul(PATIENCE);
        let mut budget = BUDGET;
        if let Some(client) = self.sessions.get_mut(key)
            && !client.buffers.input.is_empty()
        {
            // What it was recognised by.
            let first = std::mem::take(&mut client.buffers.input);
            if let Some(next) = self.read_input(key, http2, &first) {
                return next;
            }
            self.pool.give(first);
        }
        while let Some(client) = self.sessions.get_mut(key) {
            if !client.readable || http2.line.out.unsent().len() > most {
                break;
            }
            if budget == 0 {
                self.touch(key);
                break;
            }
            let n = match client.stream.read(scratch) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    client.readable = false;
                    break;
                }
                Err(_) => return Next::Lost,
            };
            if n == 0 {
                let cause = if http2.line.connection.open_streams() == 0 { Cause::Done } else { Cause::ClientClosed };
                return Next::End(End { cause, phase: Phase::Idle });
            }
            if n < scratch.len() && !client.closed {
                client.readable = false;
            }
            http2.line.heard = self.now;
            budget = budget.saturating_sub(n);
            if let Some(Some(served)) = self.services.get(service as usize) {
                served.tally.bytes_received.add(n as u64);
            }
            if let Some(next) = self.read_input(key, http2, &scratch[..n]) {
                return next;
            }
        }
        self.resume_down(key, http2);
        if http2.line.connection.is_finished() {
            return Next::End(End { cause: http2.told.unwrap_or(Cause::Done), phase: Phase::Idle });
        }
        Next::On
    }

    /// Reads what is there of frames, with what was left of the last read before it.
    fn read_input(&mut self, key: Key, http2: &mut Http2, read: &[u8]) -> Option<Next> {
        let mut stash = std::mem::take(&mut http2.input);
        let (next, left) = if stash.is_empty() {
            let (next, left) = self.read_frames(key, http2, read);
            if left > 0 {
                stash = self.pool.take();
                stash.extend_from_slice(&read[read.len() - left..]);
            }
            (next, left)
        } else {
            stash.extend_from_slice(read);
            let (next, left) = self.read_frames(key, http2, &stash);
            stash.drain(..stash.len() - left);
            (next, left)
        };
        if left > 0 {
            http2.input = stash;
        } else {
            self.pool.give(stash);
        }
        next
    }

    /// Reads frames; returns how many bytes are left of the input.
    fn read_frames(&mut self, key: Key, http2: &mut Http2, mut input: &[u8]) -> (Option<Next>, usize) {
        loop {
            let Line { connection, out, .. } = &mut http2.line;
            let event = connection.recv(&mut input, &mut Out::new(out.lend_wide(&mut self.pool)), self.now);
            let Some(event) = event else { return (None, input.len()) };
            match event {
                Event::Fields { stream, part: Part::Trailers, fields, .. } => {
                    let trailers = self.lines.keep(fields);
                    if let Some(stream) = http2.get(stream) {
                        stream.up.trailers = Some(trailers);
                        stream.up.ended = true;
                    }
                    self.resume_up(key, http2, stream);
                    self.note_due(key, http2, stream);
                    self.answer_inquiry(key, http2, stream);
                }
                Event::Fields { stream, fields, end, .. } => match self.request_came(key, stream, fields, end) {
                    Ok(begun) => {
                        http2.insert(begun, &mut self.lines);
                        self.note_due(key, http2, stream);
                        if !self.begin_inquiry(key, http2, stream) {
                            self.place(key, http2, stream);
                        }
                    }
                    Err(turned) => {
                        let call = is_grpc(fields);
                        self.turn_away(key, http2, stream, &turned, call);
                    }
                },
                Event::TooLarge { stream, .. } => self.turn_away(key, http2, stream, &Turned::too_large(), false),
                Event::Data { stream, data, end } => self.data_up(key, http2, stream, data, end),
                Event::Reset { stream, code, fault } => self.client_reset(key, http2, stream, code, fault),
                Event::Refused(fault) => self.note_refusal(key, fault),
                Event::Over(failure) => {
                    self.note_flood(key, &failure);
                    return (Some(Next::End(end_of(failure))), 0);
                }
                // A client that says it opens no more is served as before.
                Event::Ready | Event::Pong | Event::Goaway(_) => {}
            }
        }
    }

    /// A request has come.
    fn request_came(&mut self, key: Key, at: StreamKey, fields: &Fields, end: bool) -> Result<Stream, Turned> {
        let Self { sessions, services, lines, tracer, rng, now, .. } = self;
        let gone = Turned::too_large;
        let client = sessions.get_mut(key).ok_or_else(gone)?;
        let served = services.get_mut(client.service as usize).and_then(Option::as_mut).ok_or_else(gone)?;
        let max_age = served.shared.config.timeouts.max_stream_age;
        let span = tracer.as_ref().map(|tracer| tracer.draw(rng));
        let context = Context { span, ..Context::new(&served.shared.settings, &client.peer, *now) };
        let asked = Asked::of(fields, &context)?;
        served.tally.turns.add(1);
        served.tally.turns_active.add(1);
        served.budget.deposit(*now);
        client.turns += 1;
        let mut up = Way { ended: end, ..Way::default() };
        up.waiting.keep = true;
        Ok(Stream {
            key: at,
            turn: Turn::new(asked.want, *now),
            place: Place::Waits,
            kind: (asked.head, asked.grpc),
            bodiless: end,
            call: asked.grpc.then(|| Call::new(asked.timeout, max_age, rng, *now)),
            inquiry: None,
            traced: asked.traced,
            log: asked.log,
            request: Some(lines.keep(fields)),
            up,
            down: Way::default(),
            received: 0,
            since: *now,
            unwell: false,
        })
    }

    /// Answers a request that never became a turn.
    fn turn_away(&mut self, key: Key, http2: &mut Http2, at: StreamKey, turned: &Turned, call: bool) {
        if let Some(limit) = turned.limit {
            self.note_limit(key, limit);
        }
        let Self { sessions, services, pool, now, .. } = self;
        let Some(client) = sessions.get(key) else { return };
        let Some(Some(served)) = services.get(client.service as usize) else { return };
        let Line { connection, out, .. } = &mut http2.line;
        let settings = (&served.shared.settings, *now);
        answer(connection, at, &turned.own, (false, call), &mut Out::new(out.lend_wide(pool)), settings);
        if call {
            served.tally.calls[usize::from(turned.own.grpc_status())].add(1);
        }
    }

    /// Some of a body has come.
    fn data_up(&mut self, key: Key, http2: &mut Http2, at: StreamKey, data: &[u8], end: bool) {
        let Some(client) = self.sessions.get(key) else { return };
        let service = client.service;
        let room = self.room(service);
        let Self { shared, solos, services, pool, now, .. } = self;
        let Some(Some(served)) = services.get(service as usize) else { return };
        let Some(stream) = http2.get(at) else {
            // Nobody takes it.
            return http2.line.release(at, data.len(), pool);
        };
        stream.received += data.len() as u64;
        stream.since = *now;
        stream.up.ended |= end;
        if let Some(log) = &mut stream.log {
            log.received += data.len() as u64;
        }
        if served.shared.settings.body_bytes.is_some_and(|most| stream.received > most) {
            let too_large = Turned::body_too_large();
            self.note_limit(key, Limit::BodyBytes);
            return self.answer_stream(key, http2, at, too_large.own);
        }
        // What may have to be sent again is kept, up to a limit.
        if stream.up.waiting.keep && stream.up.waiting.bytes.len() + data.len() > served.shared.config.retry.buffer {
            stream.up.waiting.forget_sent();
        }
        let sent = match stream.place {
            Place::Waits => {
                stream.up.waiting.lend(pool).extend_from_slice(data);
                0
            }
            Place::Done => {
                if let Some(inquiry) = &mut stream.inquiry {
                    inquiry.hear(data);
                }
                data.len()
            }
            Place::Solo(link) => {
                // There is credit for it when its link took it.
                if let Some(solo) = solos.get_mut(link) {
                    solo.send(&mut stream.up, data, pool);
                }
                0
            }
            Place::There(link, there) => match shared.get_mut(link) {
                Some(shared) => shared.line.data(there, &mut stream.up, data, room, pool),
                None => data.len(),
            },
        };
        let place = stream.place;
        http2.line.release(at, sent, pool);
        if let Place::There(link, _) | Place::Solo(link) = place {
            self.list_link(link);
        }
        if end {
            // From here on the endpoint is waited for.
            self.note_due(key, http2, at);
            self.answer_inquiry(key, http2, at);
        }
    }

    /// Goes on with what waits for the endpoint.
    pub(super) fn resume_up(&mut self, key: Key, http2: &mut Http2, at: StreamKey) {
        let Some(client) = self.sessions.get(key) else { return };
        let room = self.room(client.service);
        let Self { shared, solos, pool, .. } = self;
        let Some(stream) = http2.get(at) else { return };
        match stream.place {
            Place::There(link, there) => {
                let Some(shared) = shared.get_mut(link) else { return };
                let sent = shared.line.resume(there, &mut stream.up, room, pool);
                http2.line.release(at, sent, pool);
                self.list_link(link);
            }
            Place::Solo(link) => {
                let Some(solo) = solos.get_mut(link) else { return };
                solo.send(&mut stream.up, &[], pool);
                self.list_link(link);
            }
            Place::Waits | Place::Done => {}
        }
    }

    /// Goes on with what waits for the client, as far as it has room now.
    fn resume_down(&mut self, key: Key, http2: &mut Http2) {
        let Some(client) = self.sessions.get(key) else { return };
        let room = self.room(client.service);
        if http2.line.has_room_again(room.most) {
            let keys = http2.keys();
            for at in http2.line.in_turn(keys, |at| at.slot()) {
                self.stream_down(key, http2, at);
                if http2.line.full {
                    break;
                }
            }
        }
        while !http2.line.full
            && let Some(at) = http2.line.connection.writable()
        {
            self.stream_down(key, http2, at);
        }
    }

    fn stream_down(&mut self, key: Key, http2: &mut Http2, at: StreamKey) {
        let Some(client) = self.sessions.get(key) else { return };
        let room = self.room(client.service);
        let Http2 { line, streams, .. } = http2;
        let Some(stream) = find(streams, at) else { return };
        let sent = line.resume(at, &mut stream.down, room, &mut self.pool);
        let done = stream.down.done;
        if sent > 0 {
            stream.since = self.now;
        }
        if let Place::There(link, there) = stream.place
            && sent > 0
            && let Some(shared) = self.shared.get_mut(link)
        {
            shared.line.release(there, sent, &mut self.pool);
            self.list_link(link);
        }
        if let Place::Solo(link) = stream.place
            && sent > 0
        {
            // It may have been stopped.
            self.touch_link(link);
        }
        if done {
            self.complete(key, http2, at);
        }
    }

    /// A stream is over before its time, by the client's doing.
    fn client_reset(&mut self, key: Key, http2: &mut Http2, at: StreamKey, _code: Code, fault: Fault) {
        let Some(stream) = http2.get(at) else { return };
        let cause = match fault {
            Fault::Peer => Cause::ClientClosed,
            Fault::Stalled => Cause::ClientTimeout,
            _ => Cause::ClientProtocol,
        };
        let phase = if stream.turn.status.is_some() { Phase::Response } else { Phase::Wait };
        self.end_stream(key, http2, at, None, Some(End { cause, phase }));
    }

    fn note_refusal(&mut self, key: Key, fault: Fault) {
        match fault {
            Fault::TooMany => self.note_limit(key, Limit::Streams),
            Fault::TooLarge => self.note_limit(key, Limit::HeaderBytes),
            _ => {}
        }
    }

    /// The connection is over; perhaps for what its client did too often.
    fn note_flood(&self, key: Key, failure: &Failure) {
        if let Some(client) = self.sessions.get(key) {
            self.count_flood(client.service, 0, failure);
        }
    }

    /// What is due: of the connection, of streams, or of a session that nobody uses.
    fn act_on_time(&mut self, key: Key, http2: &mut Http2) {
        let now = self.now;
        loop {
            let Line { connection, out, .. } = &mut http2.line;
            match connection.handle_timeout(&mut Out::new(out.lend_wide(&mut self.pool)), now) {
                Some(Event::Reset { stream, code, fault }) => self.client_reset(key, http2, stream, code, fault),
                Some(Event::Over(failure)) => {
                    // That it is finished is found by whoever looks.
                    http2.told = Some(end_of(failure).cause);
                    self.note_flood(key, &failure);
                    break;
                }
                Some(_) | None => break,
            }
        }
        if self.idle_until(key, http2).is_some_and(|until| until <= now) {
            http2.told = Some(Cause::Idle);
            let Line { connection, out, .. } = &mut http2.line;
            connection.leave(&mut Out::new(out.lend_wide(&mut self.pool)), now);
        }
        if http2.line.until.is_some_and(|until| until <= now) {
            http2.line.until = None;
            http2.told.get_or_insert(Cause::Aged);
            let Line { connection, out, .. } = &mut http2.line;
            connection.leave(&mut Out::new(out.lend_wide(&mut self.pool)), now);
        }
        http2.line.ping(self.ping_of(key), now, &mut self.pool);
        if http2.relaxes().is_some_and(|at| at <= now) && !http2.is_busy() {
            http2.line.connection.relax();
            (http2.streams, http2.added, http2.relaxed) = (Vec::new(), None, true);
        }
        if http2.due.is_none_or(|due| due > now) {
            return;
        }
        http2.due = None;
        for at in http2.keys() {
            match self.stream_due(key, http2, at) {
                Some((due, what)) if due <= now => {
                    self.stream_late(key, http2, at, what);
                    self.note_due(key, http2, at);
                }
                _ => self.note_due(key, http2, at),
            }
        }
    }

    /// When a stream has waited for long enough, or too long.
    pub(super) fn stream_due(&self, key: Key, http2: &mut Http2, at: StreamKey) -> Option<(Instant, Due)> {
        let client = self.sessions.get(key)?;
        let served = self.services.get(client.service as usize)?.as_ref()?;
        let (settings, limits) = (&served.shared.settings, &served.shared.config.limits);
        let end = http2.calls_end;
        let stream = http2.get(at)?;
        let waits = stream.up.ended && stream.turn.first_byte.is_none();
        let fail = |cause| Due::Fail(LinkError::Failed(cause));
        let due = match settings.request_timeout.filter(|_| waits) {
            _ if stream.turn.queued => (stream.turn.tried_at + limits.queue_timeout, Due::Fail(LinkError::Overload)),
            Some(timeout) => (stream.since + timeout, fail(Cause::EndpointTimeout)),
            None => {
                let cause = if stream.up.ended { Cause::EndpointTimeout } else { Cause::ClientTimeout };
                (stream.since + settings.idle_timeout, fail(cause))
            }
        };
        let call = stream.call.as_ref().and_then(Call::due).map(|(at, cause)| (at, fail(cause)));
        let end = end.filter(|_| stream.call.is_some()).map(|at| (at, fail(Cause::Shutdown)));
        let again = stream.turn.held.map(|at| (at, Due::Again));
        // Who watches hears nothing for as long as nothing changes.
        let due = Some(due).filter(|_| !stream.inquiry.as_ref().is_some_and(|inquiry| inquiry.is_watching()));
        [due, call, end, again].into_iter().flatten().min_by_key(|&(at, _)| at)
    }

    /// A stream is not late before a time that is known.
    pub(super) fn note_due(&self, key: Key, http2: &mut Http2, at: StreamKey) {
        if let Some((due, _)) = self.stream_due(key, http2, at) {
            http2.due = Some(http2.due.map_or(due, |before| before.min(due)));
        }
    }

    fn stream_late(&mut self, key: Key, http2: &mut Http2, at: StreamKey, due: Due) {
        let Due::Fail(error) = due else { return self.place(key, http2, at) };
        if error == LinkError::Failed(Cause::Aged) {
            self.note_limit(key, Limit::StreamAge);
        }
        if error == LinkError::Overload {
            self.note_limit(key, Limit::QueueTime);
        }
        self.fail_stream(key, http2, at, error);
    }

    /// When something is due in a session.
    pub(in crate::worker) fn http2_due(&self, key: Key) -> Option<Instant> {
        let client = self.sessions.get(key)?;
        let http2 = client.rare.as_ref()?.http2.as_ref()?;
        let connection = http2.line.connection.poll_timeout().map(|(due, _)| due);
        let ping = http2.line.ping_at(self.ping_of(key));
        let dues = [self.idle_until(key, http2), connection, http2.due, http2.relaxes(), ping, http2.line.until];
        dues.into_iter().flatten().min()
    }

    fn ping_of(&self, key: Key) -> Option<Duration> {
        let client = self.sessions.get(key)?;
        self.services.get(client.service as usize)?.as_ref()?.shared.config.timeouts.ping
    }

    /// How long a session without a turn may stay.
    fn idle_until(&self, key: Key, http2: &Http2) -> Option<Instant> {
        let client = self.sessions.get(key)?;
        let settings = &self.services.get(client.service as usize)?.as_ref()?.shared.settings;
        let patience = if client.turns == 0 { settings.first_byte_timeout } else { settings.idle_timeout };
        let idle = http2.told.is_none() && http2.line.connection.open_streams() == 0;
        idle.then_some(http2.since + patience)
    }

    /// Says farewell if it is time: first that there will be an end, and when that has come, that it is here.
    fn take_leave(&mut self, key: Key, http2: &mut Http2) -> Option<End> {
        let client = self.sessions.get_mut(key)?;
        let (at, _) = client.leave.filter(|&(at, _)| at <= self.now)?;
        client.leave = None;
        if http2.told.replace(Cause::Shutdown) == Some(Cause::Shutdown) {
            return Some(End { cause: Cause::Shutdown, phase: Phase::Idle });
        }
        let served = self.services.get(client.service as usize).and_then(Option::as_ref);
        if let Some(until) = self.draining.or(served.and_then(|served| served.leaves_by)) {
            http2.calls_end = Some(calls_end(until, self.now));
            http2.due = Some(self.now);
        }
        // The process is cut when its own time is over.
        client.leave = served.and_then(|served| served.leaves_by).filter(|&by| by > at).map(|by| (by, Leave::Shutdown));
        let Line { connection, out, .. } = &mut http2.line;
        connection.leave(&mut Out::new(out.lend_wide(&mut self.pool)), self.now);
        None
    }

    /// The session ends: its streams now, its connection when it has taken what was written.
    fn end_http2(&mut self, key: Key, end: End) {
        self.end_streams(key, end);
        let Some(client) = self.sessions.get_mut(key) else { return };
        if let Some(http2) = client.rare.as_mut().and_then(|rare| rare.http2.take()) {
            let mut http2 = *http2;
            let Line { connection, out, .. } = &mut http2.line;
            connection.close(Code::NO_ERROR, &mut Out::new(out.lend_wide(&mut self.pool)));
            client.buffers.to_client = http2.line.out;
        }
        let eof = matches!(end.cause, Cause::Done | Cause::ClientClosed);
        self.begin_leaving(key, end, false, !eof);
    }

    /// Ends the turns of all streams of a session that is about to go.
    pub(in crate::worker) fn end_streams(&mut self, key: Key, end: End) {
        self.with_session(key, |worker, http2| {
            for at in http2.keys() {
                let status = http2.get(at).and_then(|stream| stream.turn.status);
                let phase = if status.is_some() { Phase::Response } else { Phase::Wait };
                let end = if end.cause == Cause::Done { Cause::ClientClosed } else { end.cause };
                worker.end_stream(key, http2, at, None, Some(End { cause: end, phase }));
            }
        });
    }
}

/// Why a client's connection is over.
fn end_of(failure: Failure) -> End {
    let cause = match (failure.flood, failure.code) {
        (Some(_), _) => Cause::ClientLimit,
        // `NO_ERROR`: a PING that was not answered.
        (None, Code::SETTINGS_TIMEOUT | Code::NO_ERROR) => Cause::ClientTimeout,
        (None, _) => Cause::ClientProtocol,
    };
    End { cause, phase: Phase::Idle }
}
