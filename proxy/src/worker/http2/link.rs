//! Shared links: from an endpoint's bytes to sessions.

use super::{Http2, Line, Place, Shared, Tenant, find};
use crate::worker::drive::{BUDGET, HORIZON};
use crate::worker::link::{Link, LinkState};
use crate::worker::slab::Key;
use crate::worker::{Timer, Worker};
use evenkeel_core::end::Cause;
use evenkeel_core::time::{Duration, Instant};
use evenkeel_wire::grpc::status::{CANCELLED, UNAVAILABLE};
use evenkeel_wire::http2::connection::{Connection, Event, Failure, Fault, Part};
use evenkeel_wire::http2::error::Code;
use evenkeel_wire::http2::forward::{Answer, grpc_status, is_grpc, put_response};
use evenkeel_wire::http2::hpack::Fields;
use evenkeel_wire::http2::settings::{Config, Role};
use evenkeel_wire::http2::streams::StreamKey;
use evenkeel_wire::out::Out;
use evenkeel_wire::session::LinkError;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tracing::error;

impl Shared {
    /// What a link has that is about to be opened.
    pub(in crate::worker) fn new(
        key: Key,
        config: &Config,
        mut out: Vec<u8>,
        (now, until): (Instant, Option<Instant>),
    ) -> Self {
        let connection = Connection::new(Role::Client, config, &mut Out::new(&mut out), now);
        Self {
            key,
            line: Line::new(connection, out, now, until),
            input: Vec::new(),
            tenants: Vec::new(),
            armed: None,
            cause: Cause::EndpointClosed,
            queued: false,
        }
    }

    /// Why it is about to go.
    pub(in crate::worker) fn fails_with(&mut self, cause: Cause) {
        self.cause = cause;
    }

    /// Nobody uses it.
    fn is_idle(&self) -> bool {
        self.line.connection.open_streams() == 0
    }
}

impl Worker {
    /// A link that is to be shared is there.
    pub(in crate::worker) fn shared_opened(&mut self, key: Key) {
        let Some(link) = self.links.get_mut(key) else { return };
        (link.state, link.session, link.since) = (LinkState::Shared, None, self.now);
        self.list_link(key);
        self.touch_link(key);
    }

    /// Drives the links that something happened to.
    pub(in crate::worker) fn drive_links(&mut self) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut touched = std::mem::take(&mut self.lines.touched);
        for key in touched.drain(..) {
            if self.solos.get(key).is_some() {
                self.drive_solo(key, &mut scratch);
            } else {
                self.drive_link(key, &mut scratch);
            }
        }
        // Those that were touched meanwhile come next time.
        touched.append(&mut self.lines.touched);
        self.lines.touched = touched;
        self.scratch = scratch;
    }

    fn drive_link(&mut self, key: Key, scratch: &mut [u8]) {
        let Some(mut shared) = self.shared.take(key) else { return };
        shared.queued = false;
        let driven = catch_unwind(AssertUnwindSafe(|| self.drive_shared(key, &mut shared, scratch)));
        if driven.is_err() {
            error!("bug: a connection to an endpoint panicked and was closed; please report it");
            shared.cause = Cause::Bug;
        }
        // TLS may hold what the socket has not taken, and have no more to come.
        let holds = self.links.get(key).is_some_and(|link| link.stream.holds_output());
        let waits = !shared.line.out.unsent().is_empty() || holds;
        shared.line.settle(&mut self.pool);
        let finished = shared.line.connection.is_finished() && !waits;
        self.shared.put(shared);
        if !matches!(driven, Ok(true)) || finished {
            return self.remove_link(key);
        }
        if waits {
            self.list_link(key);
        }
        self.vacancy(key);
        self.rearm_link(key);
    }

    /// False: it is gone.
    fn drive_shared(&mut self, key: Key, shared: &mut Shared, scratch: &mut [u8]) -> bool {
        let Some(link) = self.links.get(key) else { return false };
        if link.state != LinkState::Shared {
            return true;
        }
        let (service, pool) = (link.service, link.pool);
        if !self.act_on_link_time(key, shared) {
            return false;
        }
        let mut budget = BUDGET;
        while let Some(link) = self.links.get_mut(key)
            && link.readable
        {
            if budget == 0 {
                self.lines.touched.push(key);
                shared.queued = true;
                break;
            }
            let n = match link.stream.read(scratch) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    link.readable = false;
                    break;
                }
                Err(_) => return false,
            };
            if n == 0 {
                return false;
            }
            if n < scratch.len() && !link.closed {
                link.readable = false;
            }
            shared.line.heard = self.now;
            budget = budget.saturating_sub(n);
            if let Some(Some(served)) = self.services.get(service as usize)
                && let Some(Some(pool)) = served.pools.get(pool as usize)
            {
                pool.tally.bytes_received.add(n as u64);
            }
            let mut stash = std::mem::take(&mut shared.input);
            let alive = if stash.is_empty() {
                let mut input = &scratch[..n];
                let alive = self.read_answers(key, shared, &mut input);
                stash.extend_from_slice(input);
                alive
            } else {
                stash.extend_from_slice(&scratch[..n]);
                let mut input = &stash[..];
                let alive = self.read_answers(key, shared, &mut input);
                let left = input.len();
                stash.drain(..stash.len() - left);
                alive
            };
            if !stash.is_empty() {
                shared.input = stash;
            } else {
                self.pool.give(stash);
            }
            if !alive {
                return false;
            }
        }
        self.resume_tenants(service, shared);
        true
    }

    fn note_flood_of_endpoint(&self, key: Key, failure: &Failure) {
        if let Some(link) = self.links.get(key) {
            self.count_flood(link.service, 1, failure);
        }
    }

    /// Counts it if a connection ended for what its peer, a client (0) or an endpoint (1), did too often.
    pub(super) fn count_flood(&self, service: u32, peer: usize, failure: &Failure) {
        if let Some(flood) = failure.flood
            && let Some(Some(served)) = self.services.get(service as usize)
        {
            served.tally.floods[peer][flood as usize].add(1);
        }
    }

    /// Reads frames. False: the connection is over.
    fn read_answers(&mut self, key: Key, shared: &mut Shared, input: &mut &[u8]) -> bool {
        loop {
            let Shared { line, tenants, .. } = shared;
            let event = line.connection.recv(input, &mut Out::new(line.out.lend_wide(&mut self.pool)), self.now);
            let Some(event) = event else { return true };
            let tenant = |own: StreamKey| tenants.get(own.slot()).copied().flatten().filter(|t| t.own == own);
            match event {
                Event::Fields { stream, part, status, fields, end } => {
                    let answer = Answer { part, status, fields, end };
                    match tenant(stream).map(|tenant| (tenant, tenant.stream)) {
                        Some((tenant, Some(at))) => self.answer_came(key, tenant, at, &answer),
                        Some((tenant, None)) => self.guest_fields(key, tenant, &answer),
                        None => {}
                    }
                    if end {
                        self.answer_ended(key, shared, stream);
                    }
                }
                Event::Data { stream, data, end } => {
                    let sent = match tenant(stream).map(|tenant| (tenant, tenant.stream)) {
                        Some((tenant, Some(at))) => self.data_came(key, tenant, at, data, end),
                        Some((tenant, None)) => self.guest_data(key, tenant, data, end),
                        None => data.len(),
                    };
                    line.release(stream, sent, &mut self.pool);
                    if end {
                        self.answer_ended(key, shared, stream);
                    }
                }
                Event::Reset { stream, code, fault } => {
                    if let Some(tenant) = tenant(stream) {
                        // With room left, it is this one that was refused, and not all that came too late.
                        let alone = line.connection.room() > 0;
                        shared.unseat(stream);
                        self.answer_broke(key, tenant, code, fault, alone);
                    }
                }
                Event::Over(failure) => {
                    shared.cause = Cause::EndpointProtocol;
                    self.note_flood_of_endpoint(key, &failure);
                    return false;
                }
                Event::Ready | Event::Pong | Event::Goaway(_) | Event::TooLarge { .. } | Event::Refused(_) => {}
            }
        }
    }

    /// All of an answer has come: if all of its request has gone, too, the stream is over.
    fn answer_ended(&mut self, key: Key, shared: &mut Shared, own: StreamKey) {
        if !shared.line.connection.is_open(own) {
            shared.unseat(own);
            if let Some(link) = self.links.get_mut(key) {
                link.since = self.now;
            }
        }
    }

    /// Fields of an answer.
    fn answer_came(&mut self, key: Key, tenant: Tenant, at: StreamKey, answer: &Answer<'_>) {
        self.with_session(tenant.session, |worker, http2| {
            let Tenant { own, session, .. } = tenant;
            if http2.get(at).is_some_and(|stream| stream.place == Place::There(key, own)) {
                worker.pass_answer(session, http2, at, answer, false);
            }
        });
    }

    /// Passes on fields of an answer; `noted`: they say already by which way they came (`via`). False: the request is
    /// run elsewhere instead.
    pub(super) fn pass_answer(
        &mut self,
        session: Key,
        http2: &mut Http2,
        at: StreamKey,
        answer: &Answer<'_>,
        noted: bool,
    ) -> bool {
        let &Answer { part, status, fields, end } = answer;
        let Some(stream) = http2.get(at) else { return true };
        let grpc = if stream.kind.1 && (end || part == Part::Trailers) { grpc_status(fields) } else { None };
        if part == Part::Head
            && self.may_rerun(session, http2, at, status, grpc.is_some_and(|grpc| did_not_run(grpc, fields)))
            && self.retry_stream(session, http2, at, fields)
        {
            return false;
        }
        let Self { sessions, services, lines, pool, now, .. } = self;
        let Some(client) = sessions.get(session) else { return true };
        let Some(Some(served)) = services.get(client.service as usize) else { return true };
        let Some(stream) = http2.get(at) else { return true };
        stream.turn.heard = true;
        stream.since = *now;
        if let Some(call) = &mut stream.call {
            call.answered |= part == Part::Head && is_grpc(fields);
            call.status = grpc.or(call.status);
            stream.unwell = grpc.is_some_and(|status| call.is_unwell(status, &stream.turn));
        }
        if part == Part::Head {
            stream.turn.status = Some(status);
            lines.give(stream.request.take());
            stream.up.waiting.forget_sent();
            if stream.turn.first_byte.replace(*now).is_none()
                && let Some(Some(entry)) = served.pools.get(stream.turn.pool as usize)
            {
                entry.tally.observe_latency(now.since(stream.turn.tried_at).as_micros() as u64);
            }
        }
        stream.answered(end);
        if part == Part::Trailers && !stream.down.is_clear() {
            stream.down.trailers = Some(lines.keep(fields));
            return true;
        }
        let done = stream.down.ended;
        stream.down.done = done;
        let settings = &served.shared.settings;
        let Line { connection, out, .. } = &mut http2.line;
        connection.fields(at, part, end, &mut Out::new(out.lend_wide(pool)), |writer| match part {
            Part::Trailers => fields.iter().for_each(|field| writer.forward(&field)),
            Part::Informational | Part::Head => put_response(fields, noted, writer, settings),
        });
        if done {
            self.complete(session, http2, at);
        } else {
            self.note_due(session, http2, at);
        }
        true
    }

    /// May a turn that was answered so be run elsewhere?
    fn may_rerun(&self, session: Key, http2: &mut Http2, at: StreamKey, status: u16, unrun: bool) -> bool {
        let Some(client) = self.sessions.get(session) else { return false };
        let Some(Some(served)) = self.services.get(client.service as usize) else { return false };
        let Some(stream) = http2.get(at) else { return false };
        let turn = &stream.turn;
        let refused = unrun || (status == 503 && turn.want.idempotent);
        refused && served.shared.config.retry.on_unavailable && stream.may_run_again()
    }

    /// Some of the body of an answer; returns how much of it the client's connection took.
    fn data_came(&mut self, key: Key, tenant: Tenant, at: StreamKey, data: &[u8], end: bool) -> usize {
        let taken = self.with_session(tenant.session, |worker, http2| {
            let Tenant { own, session, .. } = tenant;
            http2.get(at).filter(|stream| stream.place == Place::There(key, own))?;
            worker.pass_data(session, http2, at, data, end)
        });
        taken.flatten().unwrap_or(data.len())
    }

    /// Passes on some of the body of an answer; returns how much of it the client's connection took.
    pub(super) fn pass_data(
        &mut self,
        session: Key,
        http2: &mut Http2,
        at: StreamKey,
        data: &[u8],
        end: bool,
    ) -> Option<usize> {
        let room = self.room(self.sessions.get(session)?.service);
        let Http2 { line, streams, .. } = http2;
        let stream = find(streams, at)?;
        stream.since = self.now;
        stream.answered(end);
        if let Some(log) = &mut stream.log {
            log.sent += data.len() as u64;
        }
        let sent = line.data(at, &mut stream.down, data, room, &mut self.pool);
        if stream.down.done {
            self.complete(session, http2, at);
        }
        Some(sent)
    }

    /// A stream of the link is over before its time.
    fn answer_broke(&mut self, key: Key, tenant: Tenant, code: Code, fault: Fault, alone: bool) {
        let Some(at) = tenant.stream else { return self.guest_broke(key, tenant, fault, alone) };
        self.with_session(tenant.session, |worker, http2| {
            let Tenant { own, session, .. } = tenant;
            let Some(stream) = http2.get(at).filter(|stream| stream.place == Place::There(key, own)) else { return };
            stream.place = Place::Done;
            // The answer is whole: the endpoint wants no more of the request.
            if stream.down.ended && code == Code::NO_ERROR {
                return;
            }
            let cause = match fault {
                Fault::Unprocessed => return worker.stream_unprocessed(session, http2, at, alone),
                Fault::Peer => Cause::EndpointClosed,
                Fault::Stalled => Cause::EndpointTimeout,
                _ => Cause::EndpointProtocol,
            };
            worker.fail_stream(session, http2, at, LinkError::Failed(cause));
        });
    }

    /// Goes on with what waits for the endpoint, as far as it has room now.
    fn resume_tenants(&mut self, service: u32, shared: &mut Shared) {
        let room = self.room(service);
        if shared.line.has_room_again(room.most) {
            let tenants = shared.tenants.iter().copied().flatten().collect();
            for tenant in shared.line.in_turn(tenants, |tenant: &Tenant| tenant.own.slot()) {
                self.resume_tenant(tenant, shared);
                if shared.line.full {
                    break;
                }
            }
        }
        while !shared.line.full
            && let Some(own) = shared.line.connection.writable()
        {
            if let Some(tenant) = shared.tenant(own) {
                self.resume_tenant(tenant, shared);
            }
        }
    }

    fn resume_tenant(&mut self, tenant: Tenant, shared: &mut Shared) {
        let Some(at) = tenant.stream else {
            return self.resume_guest(tenant.session, tenant.own, &mut shared.line);
        };
        let Some(service) = self.sessions.get(tenant.session).map(|client| client.service) else { return };
        let room = self.room(service);
        self.with_session(tenant.session, |worker, http2| {
            let Some(stream) = http2.get(at) else { return };
            let sent = shared.line.resume(tenant.own, &mut stream.up, room, &mut worker.pool);
            if sent > 0 {
                stream.since = worker.now;
            }
            http2.line.release(at, sent, &mut worker.pool);
        });
    }

    /// What is due on a shared link. False: it is gone.
    fn act_on_link_time(&mut self, key: Key, shared: &mut Shared) -> bool {
        let now = self.now;
        loop {
            let Line { connection, out, .. } = &mut shared.line;
            match connection.handle_timeout(&mut Out::new(out.lend_wide(&mut self.pool)), now) {
                Some(Event::Reset { stream, code, fault }) => {
                    if let Some(tenant) = shared.tenant(stream) {
                        shared.unseat(stream);
                        self.answer_broke(key, tenant, code, fault, true);
                    }
                }
                Some(Event::Over(failure)) => {
                    shared.cause =
                        if failure.flood.is_some() { Cause::EndpointProtocol } else { Cause::EndpointTimeout };
                    self.note_flood_of_endpoint(key, &failure);
                    return false;
                }
                Some(_) => {}
                None => break,
            }
        }
        let Some(link) = self.links.get(key) else { return false };
        let aged = shared.line.until.is_some_and(|until| until <= now);
        if aged || self.idle_link_until(link, shared).is_some_and(|until| until <= now) {
            shared.line.until = None;
            let Line { connection, out, .. } = &mut shared.line;
            connection.leave(&mut Out::new(out.lend_wide(&mut self.pool)), now);
        }
        let ping = self.link_ping(link.service);
        shared.line.ping(ping, now, &mut self.pool);
        true
    }

    /// How long a shared link that nobody uses may stay: not at all if its endpoint is not in use any more.
    fn idle_link_until(&self, link: &Link, shared: &Shared) -> Option<Instant> {
        let served = self.services.get(link.service as usize)?.as_ref()?;
        let entry = served.pools.get(link.pool as usize)?.as_ref()?;
        let stays = entry.usable && self.draining.is_none() && served.leaves_by.is_none();
        let until = if stays { link.since + served.shared.config.upstream.idle_timeout } else { link.since };
        (shared.is_idle() && entry.streams.is_empty() && !shared.line.connection.is_finished()).then_some(until)
    }

    fn link_ping(&self, service: u32) -> Option<Duration> {
        self.services.get(service as usize)?.as_ref()?.shared.config.timeouts.ping
    }

    fn rearm_link(&mut self, key: Key) {
        let Some(link) = self.links.get(key) else { return };
        let Some(shared) = self.shared.get(key) else { return };
        let connection = shared.line.connection.poll_timeout().map(|(due, _)| due);
        let ping = shared.line.ping_at(self.link_ping(link.service));
        let soon =
            [self.idle_link_until(link, shared), connection, ping, shared.line.until].into_iter().flatten().min();
        let due = soon.map_or(self.now + HORIZON, |soon| soon.min(self.now + HORIZON));
        if let Some(shared) = self.shared.get_mut(key)
            && shared.armed.is_none_or(|armed| due < armed)
        {
            shared.armed = Some(due);
            self.wheel.arm(due, Timer::Link(key));
        }
    }

    /// The timer of a shared link.
    pub(in crate::worker) fn shared_timeout(&mut self, key: Key) {
        if let Some(shared) = self.shared.get_mut(key) {
            shared.armed = None;
            self.touch_link(key);
        }
    }
}

/// Is a status of gRPC that is the whole answer one of a call that did not run? UNAVAILABLE says so. And servers built
/// on the C core that shut down say CANCELLED, in this one word, to calls that came before their GOAWAY was read, and
/// that no application has seen; an application's own has words of its own.
fn did_not_run(status: u8, fields: &Fields) -> bool {
    let bare = || fields.iter().any(|field| (field.name(), field.value()) == (b"grpc-message", b"CANCELLED"));
    status == UNAVAILABLE || (status == CANCELLED && bare())
}
