//! Turns: choosing an endpoint, getting a link to it, giving it back, trying again.
//!
//! What may be tried again is only what provably did not run, or what RFC 9110, section 9.2.2, allows
//! to run twice:
//!
//! * no connection: never ran;
//! * a pooled link that closes before the first byte of an answer: most likely the endpoint closed
//!   it while the request was under way; idempotent requests, and any of which no byte was sent;
//! * a new link that closes before the first byte: idempotent ones, if configured;
//! * 503: idempotent ones, if configured.

use super::client::Turn;
use super::complaints::{Subject, is_clients};
use super::dial::Failed;
use super::drive::until;
use super::http2::Handover;
use super::link::{EndpointPool, LinkState, Waiter};
use super::slab::Key;
use super::splice::Toward;
use super::{Served, Timer, Worker};
use crate::observe::turn::TurnRecord;
use crate::registry::EndpointTally;
use crate::service::Version;
use evenkeel_core::admission::Admission;
use evenkeel_core::end::{Cause, Limit};
use evenkeel_core::endpoint::Endpoint;
use evenkeel_core::picker::{Ask, Outcome, Picker, Scope};
use evenkeel_core::time::Instant;
use evenkeel_wire::session::{LinkError, LinkFate, Peer, TurnEnd, TurnLog, Want};
use std::sync::Arc;
use std::time::SystemTime;

impl Worker {
    pub(super) fn begin_turn(&mut self, key: Key, want: Want) {
        let Some(client) = self.sessions.get_mut(key) else { return };
        let Some(Some(served)) = self.services.get_mut(client.service as usize) else { return };
        if !want.listens {
            served.tally.turns.add(1);
            client.turns += 1;
        }
        served.tally.turns_active.add(1);
        served.budget.deposit(self.now);
        client.turn = Some(Box::new(Turn::new(want, self.now)));
        if want.idempotent {
            client.buffers.to_link.keep = true;
        }
        if want.upgrade && !self.let_in(key) {
            return;
        }
        let own = self.sessions.get(key).and_then(|client| self.links.get(client.link?)).is_some_and(|link| link.own);
        if own || !self.use_kept(key) {
            self.acquire(key);
        }
    }

    /// An upgrade begins what lasts: there may be only so many, and only so many at once. False: it waits,
    /// or was told to come back.
    fn let_in(&mut self, key: Key) -> bool {
        let workers = self.peers.len().max(1) as f64;
        let Self { sessions, services, rng, now, .. } = self;
        let Some(client) = sessions.get_mut(key) else { return false };
        let Some(turn) = client.turn.as_mut() else { return false };
        let Some(Some(served)) = services.get_mut(client.service as usize) else { return false };
        let limits = &served.shared.config.limits;
        turn.upgrade = served.shared.admit_upgrade();
        if !turn.upgrade {
            served.tally.limits[Limit::Upgrades as usize].add(1);
            self.refuse(key, LinkError::Later(1));
            return false;
        }
        let Some(rate) = limits.upgrade_rate else { return true };
        // A service without endpoints refuses by itself.
        let rate = rate * served.picker.size().max(1) as f64 / workers;
        match served.gate.ask(rate, limits.upgrade_wait, rng, *now) {
            Admission::Now => true,
            Admission::At(at) => {
                turn.held = Some(at);
                self.rearm(key);
                false
            }
            Admission::Later(seconds) => {
                served.tally.limits[Limit::UpgradeRate as usize].add(1);
                self.refuse(key, LinkError::Later(seconds));
                false
            }
        }
    }

    /// Somebody ran into a limit.
    pub(super) fn note_limit(&mut self, key: Key, limit: Limit) {
        if let Some(client) = self.sessions.get(key)
            && let Some(Some(served)) = self.services.get(client.service as usize)
        {
            served.tally.limits[limit as usize].add(1);
        }
    }

    /// Uses the session's own link, if it goes to the endpoint that was picked; drops it otherwise.
    fn use_own(&mut self, key: Key, pool: u32) -> bool {
        let Some(link_key) = self.sessions.get_mut(key).and_then(|client| client.link.take()) else { return false };
        let Some(link) = self.links.get_mut(link_key) else { return false };
        if link.pool == pool && link.state == LinkState::Busy && link.is_clean() {
            self.attach(key, link_key);
            return true;
        }
        self.remove_link(link_key);
        false
    }

    /// Uses the link that the session kept from its last turn, if the endpoint is still in use.
    fn use_kept(&mut self, key: Key) -> bool {
        let Some(client) = self.sessions.get_mut(key) else { return false };
        let (Some(link_key), Some(turn)) = (client.link, client.turn.as_mut()) else { return false };
        let Some(link) = self.links.get(link_key) else { return false };
        let Some(Some(served)) = self.services.get(client.service as usize) else { return false };
        let endpoint = served.pools.get(link.pool as usize).and_then(Option::as_ref).map(|p| p.endpoint.id);
        match endpoint.and_then(|id| served.picker.repick(id, turn.want.scope, self.now)) {
            Some(ticket) if !link.closed => {
                turn.pool = link.pool;
                turn.ticket = Some(ticket);
                self.attach(key, link_key);
                true
            }
            _ => {
                client.link = None;
                self.remove_link(link_key);
                false
            }
        }
    }

    /// Chooses an endpoint and gets a link to it, or a place in its queue.
    pub(super) fn acquire(&mut self, key: Key) {
        loop {
            let Some(client) = self.sessions.get_mut(key) else { return };
            let (index, pin) = (client.service, client.pin());
            let Some(turn) = client.turn.as_mut() else { return };
            let Some(Some(served)) = self.services.get_mut(index as usize) else { return };
            let own = served.shared.config.upstream.send_proxy.is_some();
            let shares = served.shares_links(&turn.want);
            let ask = Ask { scope: turn.want.scope, key: turn.want.key, avoid: turn.tried() };
            let pinned = pin.and_then(|id| served.picker.repick(id, ask.scope, self.now));
            let ticket = match pinned.map_or_else(|| served.picker.pick(&ask, &mut self.rng, self.now), Ok) {
                Ok(ticket) => ticket,
                Err(none) => return self.refuse(key, LinkError::NoEndpoint(none)),
            };
            let endpoint = ticket.endpoint().id;
            if served.picker.pins_sessions() {
                client.rare.get_or_insert_default().pin = Some(endpoint);
            }
            let pool_index = served.pool_for(ticket.endpoint());
            turn.ticket = Some(ticket);
            turn.pool = pool_index;
            turn.tried_at = self.now;
            let fresh = turn.fresh;
            if shares {
                match self.lodge(key, index, pool_index) {
                    Err(failed) if self.try_failed(key, &failed) => continue,
                    Ok(()) | Err(_) => return,
                }
            }
            if own {
                if self.use_own(key, pool_index) {
                    return;
                }
            } else if !fresh && let Some(link_key) = self.pop_idle(index, pool_index) {
                return self.attach(key, link_key);
            }
            let Some(pool) = self.pool_mut(index, pool_index) else { return };
            let open = pool.open;
            if self.max_connections(index).is_some_and(|most| open >= most) {
                // One that nobody uses makes room for the new one that it has to be.
                match self.pop_idle(index, pool_index) {
                    Some(idle) => self.remove_popped(idle),
                    None => return self.enqueue(key, index, pool_index, false),
                }
            }
            match self.connect(index, pool_index, Some(key), false) {
                Ok(link_key) => {
                    if let Some(client) = self.sessions.get_mut(key) {
                        client.link = Some(link_key);
                    }
                    return;
                }
                Err(failed) => {
                    if !self.try_failed(key, &failed) {
                        return;
                    }
                }
            }
        }
    }

    fn max_connections(&self, service: u32) -> Option<usize> {
        self.services[service as usize].as_ref()?.shared.config.upstream.max_connections
    }

    pub(super) fn pool_mut(&mut self, service: u32, pool: u32) -> Option<&mut EndpointPool> {
        self.services.get_mut(service as usize)?.as_mut()?.pools.get_mut(pool as usize)?.as_mut()
    }

    pub(super) fn pop_idle(&mut self, service: u32, pool: u32) -> Option<Key> {
        let pool = self.pool_mut(service, pool)?;
        let link = pool.idle.pop()?;
        pool.tally.idle_links.sub(1);
        Some(link)
    }

    /// There may not be another connection: the turn waits for a place on one (`shared`), or for one to be free.
    pub(super) fn enqueue(&mut self, key: Key, service: u32, pool: u32, shared: bool) {
        let Some(Some(served)) = self.services.get_mut(service as usize) else { return };
        if served.waiting >= served.shared.config.limits.queue {
            served.tally.limits[Limit::Queue as usize].add(1);
            return self.refuse(key, LinkError::Overload);
        }
        if let Some(client) = self.sessions.get_mut(key)
            && let Some(turn) = client.turn.as_mut()
            && let Some(Some(pool)) = served.pools.get_mut(pool as usize)
        {
            served.waiting += 1;
            turn.queued = true;
            let waiting = if shared { &mut pool.streams } else { &mut pool.waiting };
            waiting.push_back(Waiter::Session(key));
            self.rearm(key);
        }
    }

    /// The session's time in a queue is over.
    pub(super) fn give_up_waiting(&mut self, key: Key) {
        self.unqueue(key);
        self.note_limit(key, Limit::QueueTime);
        self.refuse(key, LinkError::Overload);
        self.carry_out(key, super::drive::Tails::default());
    }

    /// Takes the session out of the count of those that wait; its key in the queue is passed over.
    pub(super) fn unqueue(&mut self, key: Key) {
        let Some(client) = self.sessions.get_mut(key) else { return };
        if let Some(turn) = client.turn.as_mut()
            && std::mem::take(&mut turn.queued)
            && let Some(Some(served)) = self.services.get_mut(client.service as usize)
        {
            served.waiting -= 1;
        }
    }

    /// Tells the engine that there will be no link.
    pub(super) fn refuse(&mut self, key: Key, error: LinkError) {
        if let Some(client) = self.sessions.get_mut(key) {
            client.buffers.to_link.clear();
        }
        self.call_engine(key, |engine, io, context| engine.link_failed(error, io, context));
    }

    /// A try got no connection: true if the turn may be tried elsewhere; if not, the engine knows.
    pub(super) fn try_failed(&mut self, key: Key, failed: &Failed) -> bool {
        let (cause, local) = failed.cause();
        self.complete_try(key, cause, local);
        let retries = self.config_of(key).is_some_and(|retry| retry.on_connect);
        if retries && !local && self.take_retry(key) {
            return true;
        }
        self.refuse(key, LinkError::Failed(cause));
        false
    }

    fn config_of(&self, key: Key) -> Option<&crate::config::Retry> {
        let client = self.sessions.get(key)?;
        Some(&self.services.get(client.service as usize)?.as_ref()?.shared.config.retry)
    }

    /// Closes the books on one try: ticket, tally, the list of those tried.
    pub(super) fn complete_try(&mut self, key: Key, cause: Cause, local: bool) {
        self.with_turn(key, |worker, service, turn| worker.close_try(service, turn, cause, local));
    }

    /// Calls with the session's turn, which is not in its place meanwhile.
    fn with_turn<R>(&mut self, key: Key, call: impl FnOnce(&mut Self, u32, &mut Turn) -> R) -> Option<R> {
        let client = self.sessions.get_mut(key)?;
        let service = client.service;
        let mut turn = client.turn.take()?;
        let result = call(self, service, &mut turn);
        if let Some(client) = self.sessions.get_mut(key) {
            client.turn = Some(turn);
        }
        Some(result)
    }

    pub(super) fn close_try(&mut self, service: u32, turn: &mut Turn, cause: Cause, local: bool) {
        let now = self.now;
        let Some(ticket) = turn.ticket.take() else { return };
        turn.note_tried(ticket.endpoint().id);
        let outcome = if local { Outcome::Unknown } else { Outcome::Failure(now.since(turn.tried_at), None) };
        let pool = turn.pool;
        let notice = ticket.complete(outcome, now);
        if let Some(pool) = self.pool_mut(service, pool) {
            pool.tally.failures[cause as usize].add(1);
        }
        self.report(service, notice);
    }

    /// Takes one more try from what the turn and the service's budget allow.
    pub(super) fn take_retry(&mut self, key: Key) -> bool {
        self.with_turn(key, |worker, service, turn| worker.allow_retry(service, turn)).unwrap_or(false)
    }

    pub(super) fn allow_retry(&mut self, service: u32, turn: &mut Turn) -> bool {
        let Some(Some(served)) = self.services.get_mut(service as usize) else { return false };
        if turn.tries >= served.shared.config.retry.attempts {
            return false;
        }
        if !served.budget.try_withdraw(self.now) {
            served.tally.retries_refused.add(1);
            served.tally.limits[Limit::RetryBudget as usize].add(1);
            return false;
        }
        served.tally.retries.add(1);
        turn.tries += 1;
        if let Some(Some(pool)) = served.pools.get(turn.pool as usize) {
            pool.tally.retried.add(1);
        }
        true
    }

    /// Gives the link to the session's turn; what waits for it is sent at the end of the drive.
    pub(super) fn attach(&mut self, key: Key, link_key: Key) {
        let Some(client) = self.sessions.get_mut(key) else { return self.release(link_key) };
        let Some(link) = self.links.get_mut(link_key) else { return };
        (link.state, link.session, link.since) = (LinkState::Busy, Some(key), self.now);
        client.link = Some(link_key);
        let mut counts = true;
        if let Some(turn) = &mut client.turn {
            turn.linked_at = Some(self.now);
            counts = !turn.want.listens;
        }
        if counts
            && let Some(Some(served)) = self.services.get(client.service as usize)
            && let Some(Some(pool)) = served.pools.get(link.pool as usize)
        {
            pool.tally.turns.add(1);
        }
        self.call_engine(key, |engine, io, context| engine.link_opened(io, context));
    }

    /// Bytes came from the endpoint.
    pub(super) fn heard(&mut self, key: Key, bytes: usize) {
        let Some(client) = self.sessions.get_mut(key) else { return };
        let Some(turn) = client.turn.as_mut() else { return };
        if !turn.heard {
            turn.heard = true;
            // An answer in the making is not tried again, but for 503, which decides at its head.
            let retries =
                self.services[client.service as usize].as_ref().is_some_and(|s| s.shared.config.retry.on_unavailable);
            if !retries {
                turn.dropped |= client.buffers.to_link.forget_sent();
            }
        }
        if let Some(Some(served)) = self.services.get(client.service as usize)
            && let Some(Some(pool)) = served.pools.get(turn.pool as usize)
        {
            pool.tally.bytes_received.add(bytes as u64);
        }
    }

    /// The final answer begins.
    pub(super) fn answered(&mut self, key: Key, status: Option<u16>) {
        let Some(client) = self.sessions.get_mut(key) else { return };
        let Some(turn) = client.turn.as_mut() else { return };
        turn.dropped |= client.buffers.to_link.forget_sent();
        turn.status = status;
        if turn.first_byte.replace(self.now).is_none()
            && let Some(Some(served)) = self.services.get(client.service as usize)
            && let Some(Some(pool)) = served.pools.get(turn.pool as usize)
        {
            pool.tally.observe_latency(self.now.since(turn.tried_at).as_micros() as u64);
        }
    }

    /// The turn lasts as long as the session from now on, and counts like one. Its span is that of the
    /// handshake: nobody waits for hours to see it.
    pub(super) fn tunnel(&mut self, key: Key, log: Option<Box<TurnLog>>) {
        let Self { sessions, services, tracer, now, .. } = self;
        let Some(client) = sessions.get_mut(key) else { return };
        let Some(turn) = client.turn.as_mut() else { return };
        if let (Some(log), Some(Some(served))) = (log, services.get(client.service as usize)) {
            let record = served.record(turn, &client.peer, log, *now);
            if let Some(tracer) = tracer {
                tracer.write(&record);
            }
            turn.log = Some(record.log);
        }
        if std::mem::take(&mut turn.want.listens)
            && let Some(Some(served)) = services.get(client.service as usize)
        {
            served.tally.turns.add(1);
            client.turns += 1;
            if let Some(Some(pool)) = served.pools.get(turn.pool as usize)
                && turn.linked_at.is_some()
            {
                pool.tally.turns.add(1);
            }
        }
        turn.want.scope = Scope::Session;
        turn.ticket = turn.ticket.take().map(evenkeel_core::picker::Ticket::into_session);
        self.leave_with_endpoint(key);
    }

    /// May the turn still be run elsewhere when its endpoint answers 503?
    pub(super) fn may_retry_unavailable(&self, key: Key) -> bool {
        let Some(client) = self.sessions.get(key) else { return false };
        let (Some(turn), Some(retry)) = (client.turn.as_ref(), self.config_of(key)) else { return false };
        retry.on_unavailable && turn.want.idempotent && !turn.dropped && turn.tries < retry.attempts
    }

    /// The endpoint answered that it did not run the turn.
    pub(super) fn retry_refused(&mut self, key: Key) {
        self.complete_try(key, Cause::EndpointClosed, false);
        self.drop_link(key);
        if self.take_retry(key) {
            self.rerun(key);
        } else {
            self.refuse(key, LinkError::Overload);
        }
    }

    /// EOF from the endpoint.
    pub(super) fn link_finished(&mut self, key: Key) {
        if !self.retry_lost(key) {
            self.with_engine(key, |engine, io, context| engine.link_eof(io, context));
        }
    }

    /// The link broke.
    pub(super) fn link_lost(&mut self, key: Key, cause: Cause) {
        if !self.retry_lost(key) {
            self.drop_link(key);
            self.with_engine(key, |engine, io, context| engine.link_failed(LinkError::Failed(cause), io, context));
        }
    }

    /// The link closed: runs the turn elsewhere if that is safe.
    fn retry_lost(&mut self, key: Key) -> bool {
        let Some(client) = self.sessions.get(key) else { return false };
        let Some(link) = client.link.and_then(|link| self.links.get(link)) else { return false };
        let (stale, unsent) = (link.turns > 0, client.buffers.to_link.sent == 0);
        self.retry_safe(key, stale, unsent)
    }

    /// Nothing more comes for the turn: runs it elsewhere if that is safe. `stale`: its link had served others before;
    /// `unsent`: none of it was sent.
    pub(super) fn retry_safe(&mut self, key: Key, stale: bool, unsent: bool) -> bool {
        let Some(turn) = self.sessions.get(key).and_then(|client| client.turn.as_ref()) else { return false };
        let safe = turn.want.scope == Scope::Turn && !turn.heard && !turn.dropped;
        if !safe || !(turn.want.idempotent || unsent) {
            return false;
        }
        if stale && !turn.fresh {
            // Not the endpoint's failure: it may close an idle connection whenever it likes.
            if let Some(turn) = self.sessions.get_mut(key).and_then(|c| c.turn.as_mut()) {
                if let Some(ticket) = turn.ticket.take() {
                    turn.note_tried(ticket.endpoint().id);
                }
                turn.fresh = true;
            }
        } else {
            if !self.config_of(key).is_some_and(|retry| retry.on_reset) {
                return false;
            }
            if !self.take_retry(key) {
                return false;
            }
            self.complete_try(key, Cause::EndpointClosed, false);
        }
        self.drop_link(key);
        self.rerun(key);
        self.touch(key);
        true
    }

    pub(super) fn rerun(&mut self, key: Key) {
        if let Some(client) = self.sessions.get_mut(key) {
            client.buffers.to_link.sent = 0;
            if let Some(turn) = client.turn.as_mut() {
                turn.heard = false;
                client.buffers.to_link.keep = turn.want.idempotent;
            }
        }
        self.acquire(key);
    }

    fn drop_link(&mut self, key: Key) {
        let Some(client) = self.sessions.get_mut(key) else { return };
        if let Some(link) = client.link.take() {
            client.buffers.answer.clear();
            self.remove_link(link);
        } else {
            self.leave_guest(key);
        }
    }

    /// The turn is over: books, then link.
    pub(super) fn end_turn(&mut self, key: Key, end: TurnEnd) {
        self.unqueue(key);
        let Some(client) = self.sessions.get_mut(key) else { return };
        let Some(turn) = client.turn.take() else { return };
        let service = client.service;
        let link = client.link;
        let sent_all = client.buffers.to_link.unsent().is_empty() && !client.pipes(Toward::Link);
        if let Some(splice) = &mut client.splice {
            splice.end_turn(&mut self.pipes, &self.descriptors);
        }
        client.buffers.answer.clear();
        client.buffers.to_link.clear();
        let Some(Some(served)) = self.services.get(service as usize) else { return };
        let own = served.shared.config.upstream.send_proxy.is_some();
        let fate = end.fate;
        self.close_turn(key, *turn, end, false);
        let Some(link_key) = link else { return self.leave_guest(key) };
        let usable = sent_all && fate != LinkFate::Close;
        let link = self.links.get_mut(link_key).and_then(|link| (usable && link.is_clean()).then_some(link));
        match (fate, link) {
            (LinkFate::Keep, Some(link)) => link.turns += 1,
            (LinkFate::Reuse, Some(link)) if own => (link.own, link.turns) = (true, link.turns + 1),
            (LinkFate::Reuse, Some(link)) if link.state == LinkState::Busy => {
                link.turns += 1;
                self.clear_link(key);
                self.release(link_key);
            }
            _ => self.drop_link(key),
        }
    }

    /// Closes the books on a turn of a session. `unwell`: its endpoint is to blame, though it may have answered.
    #[inline]
    pub(super) fn close_turn(&mut self, key: Key, mut turn: Turn, mut end: TurnEnd, unwell: bool) {
        let now = self.now;
        let Some(client) = self.sessions.get(key) else { return };
        let service = client.service;
        let Some(Some(served)) = self.services.get_mut(service as usize) else { return };
        served.tally.turns_active.sub(1);
        if turn.upgrade {
            served.shared.leave_upgrade();
        }
        if let Some(failure) = end.failure {
            served.tally.failures[failure.cause as usize].add(1);
            if !is_clients(failure.cause) {
                let pool = served.pools.get(turn.pool as usize).and_then(Option::as_ref);
                let endpoint = pool.filter(|_| turn.ticket.is_some()).map(|p| &p.endpoint.address);
                let (service, client) = (&*served.shared.config.name, client.peer.client);
                self.complaints.hear(failure, &Subject { service, client, endpoint, detail: None }, now);
            }
        }
        let outcome = match outcome(&turn, &end, now) {
            Outcome::Success(took) | Outcome::Cancelled(took) if unwell => Outcome::Failure(took, None),
            outcome => outcome,
        };
        let handshake = turn.log.take();
        let tunnel = handshake.is_some();
        if let Some(log) = end.log.take().or(handshake) {
            let mut record = served.record(&turn, &client.peer, log, now);
            record.status = end.status.or(turn.status);
            record.end = end.failure;
            if let Some(tracer) = self.tracer.as_ref().filter(|_| !tunnel) {
                tracer.write(&record);
            }
            if let Some(access) = &self.access {
                access.write(record);
            }
        }
        if let Some(ticket) = turn.ticket {
            if let Some(Some(pool)) = served.pools.get(turn.pool as usize)
                && !turn.want.listens
            {
                tally_end(&pool.tally, &end);
            }
            let notice = ticket.complete(outcome, now);
            self.report(service, notice);
        }
    }

    fn clear_link(&mut self, key: Key) {
        if let Some(client) = self.sessions.get_mut(key) {
            client.link = None;
        }
    }

    /// A clean link at a safe point: to the next turn that waits for it, or to its pool.
    pub(super) fn release(&mut self, key: Key) {
        let Some(link) = self.links.get_mut(key) else { return };
        let (service, pool_index) = (link.service, link.pool);
        (link.state, link.session, link.since) = (LinkState::Idle, None, self.now);
        let armed = std::mem::replace(&mut link.armed, true);
        while let Some(waiter) = self.pool_mut(service, pool_index).and_then(|p| p.waiting.pop_front()) {
            let waiter = match waiter {
                Waiter::Session(session) => session,
                Waiter::Stream(session, stream) => {
                    if let Some(link) = self.links.get_mut(key) {
                        link.state = LinkState::Busy;
                    }
                    let link = Some(key);
                    let handover = Handover { session, stream, service, pool: pool_index, link };
                    return self.lines.handovers.push(handover);
                }
            };
            let Some(turn) = self.sessions.get(waiter).and_then(|c| c.turn.as_ref()).filter(|t| t.queued) else {
                continue;
            };
            if turn.fresh {
                // It waits for room, not for this link.
                if let Some(pool) = self.pool_mut(service, pool_index) {
                    pool.waiting.push_front(Waiter::Session(waiter));
                }
                return self.remove_popped(key);
            }
            self.unqueue(waiter);
            self.attach(waiter, key);
            return self.touch(waiter);
        }
        let Some(Some(served)) = self.services.get_mut(service as usize) else { return };
        served.warms = true;
        let upstream = &served.shared.config.upstream;
        let idle_timeout = upstream.idle_timeout;
        match served.pools.get_mut(pool_index as usize) {
            Some(Some(pool)) if pool.usable && pool.idle.len() < upstream.max_idle && self.draining.is_none() => {
                pool.idle.push(key);
                pool.tally.idle_links.add(1);
                if !armed {
                    self.wheel.arm(self.now + idle_timeout, Timer::Link(key));
                }
            }
            _ => self.remove_popped(key),
        }
    }

    /// Closes a link that is idle, but not in its pool's list, and so not to be looked for there.
    pub(super) fn remove_popped(&mut self, key: Key) {
        if let Some(link) = self.links.get_mut(key) {
            link.state = LinkState::Busy;
        }
        self.remove_link(key);
    }

    /// Closes a link and forgets it.
    pub(super) fn remove_link(&mut self, key: Key) {
        let Some(mut link) = self.links.remove(key) else { return };
        self.descriptors.give();
        link.stream.goodbye();
        let service = link.service;
        let Some(Some(served)) = self.services.get_mut(service as usize) else { return };
        let Some(Some(pool)) = served.pools.get_mut(link.pool as usize) else { return };
        pool.open -= 1;
        pool.tally.links.sub(1);
        if link.state == LinkState::Idle
            && let Some(at) = pool.idle.iter().rposition(|&k| k == key)
        {
            pool.idle.remove(at);
            pool.tally.idle_links.sub(1);
        }
        if let Some(shared) = self.shared.take(key) {
            self.shared_gone(key, (service, link.pool), shared, link.turns);
        }
        if let Some(solo) = self.solos.take(key) {
            self.solo_gone(key, *solo, link.turns);
        }
        self.offer_room(service, link.pool);
    }

    /// There is room for one connection now, perhaps for a turn that waits.
    pub(super) fn offer_room(&mut self, service: u32, pool_index: u32) {
        let Self { sessions, services, lines, .. } = self;
        let Some(Some(served)) = services.get_mut(service as usize) else { return };
        let Some(Some(pool)) = served.pools.get_mut(pool_index as usize) else { return };
        let queued = |waiter: Key| sessions.get(waiter).and_then(|c| c.turn.as_ref()).is_some_and(|t| t.queued);
        let waits = |waiter: &Waiter| match *waiter {
            Waiter::Session(session) => queued(session),
            // Whether it still does is seen when its session is in its place.
            Waiter::Stream(..) => true,
        };
        match std::iter::from_fn(|| pool.waiting.pop_front()).find(waits) {
            Some(Waiter::Session(waiter)) => {
                self.unqueue(waiter);
                if let Some(turn) = self.sessions.get_mut(waiter).and_then(|c| c.turn.as_mut()) {
                    turn.ticket = None;
                }
                self.acquire(waiter);
                self.touch(waiter);
            }
            Some(Waiter::Stream(session, stream)) => {
                lines.handovers.push(Handover { session, stream, service, pool: pool_index, link: None });
            }
            None if pool.open == 0 && !pool.usable => served.free_pool(pool_index),
            None => {}
        }
    }

    pub(super) fn link_timeout(&mut self, key: Key) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.armed = false;
        let Some(Some(served)) = self.services.get(link.service as usize) else { return };
        let upstream = &served.shared.config.upstream;
        let limit = match link.state {
            LinkState::Connecting => upstream.connect_timeout,
            LinkState::Idle => upstream.idle_timeout,
            // Armed again when it becomes idle.
            LinkState::Busy | LinkState::Solo => return,
            LinkState::Shared => return self.shared_timeout(key),
        };
        let due = link.since + limit;
        if due > self.now {
            link.armed = true;
            self.wheel.arm(due, Timer::Link(key));
        } else if link.state == LinkState::Connecting {
            self.connect_failed(key, Failed::Endpoint(Cause::ConnectTimeout));
        } else {
            self.remove_link(key);
        }
    }

    /// Picks from a new snapshot: links to endpoints that left go when their turn is over.
    pub(super) fn publish(&mut self, service: u32, picker: Arc<Picker>) {
        let Some(Some(served)) = self.services.get_mut(service as usize) else { return };
        (served.picker, served.published) = (picker, true);
        let (mut leaving, mut shared) = (Vec::new(), Vec::new());
        for index in 0..served.pools.len() as u32 {
            let Some(pool) = &mut served.pools[index as usize] else { continue };
            let current = served.by_endpoint.get(&pool.endpoint.id) == Some(&index);
            pool.usable = current && served.picker.usable(pool.endpoint.id);
            if !pool.usable {
                leaving.extend_from_slice(&pool.idle);
                shared.extend_from_slice(&pool.shared);
                if pool.open == 0 && pool.waiting.is_empty() {
                    served.free_pool(index);
                }
            }
        }
        for link in leaving {
            self.remove_link(link);
        }
        for link in shared {
            self.touch_link(link);
        }
        self.tell_watchers(service);
    }

    /// Has a link ready for the first turn of a new endpoint.
    pub(super) fn warm(&mut self, service: u32, endpoint: &Arc<Endpoint>) {
        let Some(Some(served)) = self.services.get_mut(service as usize) else { return };
        let alone = served.shared.config.upstream.send_proxy.is_some();
        if !served.warms || alone || self.draining.is_some() {
            return;
        }
        let pool = served.pool_for(endpoint);
        if self.pool_mut(service, pool).is_some_and(|p| p.open == 0) {
            // If it fails, the first turn finds out.
            let _failed = self.connect(service, pool, None, false);
        }
    }
}

impl Served {
    /// What there is to tell of a turn now.
    fn record(&self, turn: &Turn, peer: &Peer, log: Box<TurnLog>, now: Instant) -> TurnRecord {
        let since = |at: Option<Instant>| at.map(|at| at.since(turn.began));
        TurnRecord {
            service: self.shared.config.name.clone(),
            endpoint: turn.ticket.as_ref().map(|ticket| ticket.endpoint().address.to_string()),
            client: peer.client,
            tls: peer.tls.is_some(),
            status: turn.status,
            end: None,
            waited: since(turn.linked_at),
            first_byte: since(turn.first_byte),
            duration: now.since(turn.began),
            tries: turn.tries,
            ended: SystemTime::now(),
            log,
        }
    }

    /// Does a turn of HTTP/1.1 become a stream? What is not HTTP wants a link that nobody had.
    fn shares_links(&self, want: &Want) -> bool {
        !want.fresh && self.shared.speaks(Version::Http1) == Version::Http2
    }

    /// The pool of the endpoint, made if there is none.
    pub(super) fn pool_for(&mut self, endpoint: &Arc<Endpoint>) -> u32 {
        if let Some(&index) = self.by_endpoint.get(&endpoint.id)
            && self.pools[index as usize].as_ref().is_some_and(|p| p.endpoint.address == endpoint.address)
        {
            return index;
        }
        let tally = Arc::new(EndpointTally::default());
        if let Ok(mut tallies) = self.shared.entry.endpoints.lock() {
            tallies.push((endpoint.clone(), tally.clone()));
        }
        let pool = Some(EndpointPool {
            endpoint: endpoint.clone(),
            tally,
            usable: true,
            leaves_by: None,
            speaks: None,
            open: 0,
            idle: Vec::new(),
            waiting: std::collections::VecDeque::new(),
            shared: Vec::new(),
            streams: std::collections::VecDeque::new(),
        });
        let index = match self.free_pools.pop() {
            Some(index) => {
                self.pools[index as usize] = pool;
                index
            }
            None => {
                self.pools.push(pool);
                self.pools.len() as u32 - 1
            }
        };
        self.by_endpoint.insert(endpoint.id, index);
        index
    }

    fn free_pool(&mut self, index: u32) {
        if let Some(pool) = self.pools[index as usize].take() {
            // A name that moved to another address has another pool by now.
            if self.by_endpoint.get(&pool.endpoint.id) == Some(&index) {
                self.by_endpoint.remove(&pool.endpoint.id);
            }
            self.free_pools.push(index);
        }
    }
}

/// What the turn says about its endpoint.
fn outcome(turn: &Turn, end: &TurnEnd, now: evenkeel_core::time::Instant) -> Outcome {
    let took = turn.first_byte.unwrap_or(now).since(turn.tried_at);
    match end.failure.map(|f| f.cause) {
        None => match end.status {
            // 501 and 505 are answers about the request, not about the health of who answers.
            Some(500 | 502..=504 | 506..=599) => Outcome::Failure(took, None),
            _ if turn.first_byte.is_none() => Outcome::Unknown,
            _ => Outcome::Success(took),
        },
        Some(
            Cause::ConnectFailed
            | Cause::ConnectTimeout
            | Cause::EndpointClosed
            | Cause::EndpointProtocol
            | Cause::EndpointTls
            | Cause::EndpointTimeout,
        ) => Outcome::Failure(took, None),
        Some(Cause::ClientClosed | Cause::Deadline) if turn.first_byte.is_none() => Outcome::Cancelled(took),
        // The client's doing, but the endpoint had answered by then.
        Some(_) if turn.first_byte.is_some() => Outcome::Success(took),
        Some(_) => Outcome::Unknown,
    }
}

fn tally_end(tally: &EndpointTally, end: &TurnEnd) {
    if let Some(failure) = end.failure {
        tally.failures[failure.cause as usize].add(1);
    }
    let class = end.status.map_or(0, |status| usize::from(status / 100).min(5));
    tally.status[class].add(1);
}

/// How long a client may take to read the last bytes of its session.
pub(super) const FAREWELL: u64 = 10;

impl Worker {
    /// When patience with a leaving client ends.
    pub(super) fn farewell(&self) -> evenkeel_core::time::Instant {
        until(self.now, FAREWELL)
    }
}
