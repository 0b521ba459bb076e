//! Asking sessions to go: because the process leaves, because their endpoint does, or because it has more
//! than its share.
//!
//! Those who are asked together would come back together, so they are asked at times drawn evenly from
//! most of the time there is. A session is asked by the means of its protocol ([`Session::leave`]); one
//! without any stays until its time is over.
//!
//! [`Session::leave`]: evenkeel_wire::session::Session::leave

use super::Worker;
use super::slab::Key;
use evenkeel_core::balancer::Shed;
use evenkeel_core::end::{Cause, End};
use evenkeel_core::endpoint::Endpoint;
use evenkeel_core::picker::Scope;
use evenkeel_core::time::{Duration, Instant};
use evenkeel_wire::session::Leave;
use std::cmp::Reverse;

/// The part of a grace within which sessions are asked: the last of them need the rest to go.
const ASKING: f64 = 0.8;
/// Idle HTTP sessions are told within this; they have nothing to lose and come back when they need to.
const IDLE_HTTP: Duration = Duration::from_secs(5);

impl Worker {
    /// The process leaves; its listeners are closed. An HTTP session in a turn finishes it; one that is
    /// idle is told with its next answer, or after a while: closing it now would race with the request
    /// that its client may just be sending.
    pub(super) fn drain(&mut self, grace: Duration) {
        self.draining = Some(self.now + grace);
        for key in self.sessions.keys() {
            self.leave_with_process(key);
            self.touch(key);
        }
        for key in self.links.keys() {
            if self.links.get(key).is_some_and(|l| l.state == super::link::LinkState::Idle) {
                self.remove_link(key);
            }
            self.touch_link(key);
        }
    }

    /// The service is gone from the configuration: its sessions are to go, and it after them.
    pub(super) fn remove_service(&mut self, service: u32, grace: Duration) {
        let Some(Some(served)) = self.services.get_mut(service as usize) else { return };
        served.leaves_by = Some(self.now + grace);
        let idle: Vec<Key> = served.pools.iter().flatten().flat_map(|pool| pool.idle.iter().copied()).collect();
        let shared: Vec<Key> = served.pools.iter().flatten().flat_map(|pool| pool.shared.iter().copied()).collect();
        for link in idle {
            self.remove_link(link);
        }
        for link in shared {
            self.touch_link(link);
        }
        for key in self.sessions.keys() {
            if self.sessions.get(key).is_some_and(|c| c.service == service) {
                self.leave_with_process(key);
                self.touch(key);
            }
        }
        self.tell_watchers(service);
        self.forget_if_gone(service);
    }

    /// Forgets a removed service when the last of its sessions is over.
    pub(super) fn forget_if_gone(&mut self, service: u32) {
        if let Some(Some(served)) = self.services.get(service as usize)
            && served.leaves_by.is_some()
            && served.tally.sessions.get() == 0
        {
            let links = self.links.keys().into_iter();
            let its = links.filter(|&key| self.links.get(key).is_some_and(|l| l.service == service));
            for key in its.collect::<Vec<_>>() {
                self.remove_link(key);
            }
            self.services[service as usize] = None;
        }
    }

    /// Gives the session a time to go before the process, or its service, does.
    pub(super) fn leave_with_process(&mut self, key: Key) {
        let Some(client) = self.sessions.get_mut(key) else { return };
        let removed = self.services.get(client.service as usize).and_then(Option::as_ref).and_then(|s| s.leaves_by);
        let Some(until) = self.draining.or(removed) else { return };
        let grace = until.since(self.now);
        let spread = match client.engine.can_leave() {
            Some(_) => grace.mul_f64(ASKING),
            None => (grace / 2).min(IDLE_HTTP),
        };
        let at = self.now + spread.mul_f64(0.01 + 0.99 * self.rng.unit());
        if client.leave.is_none_or(|(before, _)| at < before) {
            client.leave = Some((at, Leave::Shutdown));
        }
    }

    /// The endpoint leaves: its sessions have until then.
    pub(super) fn endpoint_leaves(&mut self, service: u32, endpoint: &Endpoint) {
        let Some(Some(served)) = self.services.get(service as usize) else { return };
        let grace = served.shared.config.upstream.drain_grace;
        let Some(pool) = self.find_pool(service, endpoint) else { return };
        self.set_leaves_by(service, pool, Some(self.now + grace));
        for key in self.sessions_of(service, pool) {
            self.leave_with_endpoint(key);
            self.rearm(key);
        }
    }

    /// The endpoint does not leave after all: who was not asked yet need not go.
    pub(super) fn endpoint_stays(&mut self, service: u32, endpoint: &Endpoint) {
        let Some(pool) = self.find_pool(service, endpoint) else { return };
        self.set_leaves_by(service, pool, None);
        for key in self.sessions_of(service, pool) {
            if let Some(client) = self.sessions.get_mut(key)
                && client.leave.is_some_and(|(_, why)| why == Leave::EndpointDrained)
            {
                client.leave = None;
            }
            // The process may be leaving all the same.
            self.leave_with_process(key);
            self.rearm(key);
        }
    }

    /// Gives a session that is placed whole a time to go before its endpoint or the process does.
    pub(super) fn leave_with_endpoint(&mut self, key: Key) {
        let until = self.pool_of(key).and_then(|pool| pool.leaves_by);
        let Some(client) = self.sessions.get_mut(key) else { return };
        if let Some(until) = until
            && client.leave.is_none()
        {
            let at = match client.engine.can_leave() {
                Some(_) => self.now + until.since(self.now).mul_f64(ASKING * self.rng.unit()),
                None => until,
            };
            client.leave = Some((at, Leave::EndpointDrained));
        }
        self.leave_with_process(key);
    }

    /// Asks sessions of the endpoint to go, as long as any are wanted: those that can go at once before
    /// those in the middle of something, those that were silent for long before the others.
    pub(super) fn shed(&mut self, service: u32, shed: &Shed) {
        let Some(pool) = self.find_pool(service, &shed.endpoint) else { return };
        let mut candidates: Vec<(Reverse<bool>, Instant, Key)> = Vec::new();
        for key in self.sessions_of(service, pool) {
            let Some(client) = self.sessions.get(key) else { continue };
            if client.leave.is_none()
                && client.opened < shed.opened_before
                && let Some(now) = client.engine.can_leave()
            {
                candidates.push((Reverse(now), client.engine.quiet_since(), key));
            }
        }
        candidates.sort_unstable_by_key(|&(now, since, _)| (now, since));
        for (_, _, key) in candidates {
            if !shed.take() {
                return;
            }
            if !self.ask(key, Leave::Move) {
                shed.give_back();
            }
            self.touch(key);
        }
    }

    /// Acts on a session whose time to go has come.
    pub(super) fn leave_if_due(&mut self, key: Key) {
        let Some(client) = self.sessions.get_mut(key) else { return };
        let Some((at, why)) = client.leave else { return };
        if client.is_http2() {
            return self.touch(key);
        }
        // An HTTP session in a turn may be told at once: it finishes it.
        let in_turn = why == Leave::Shutdown && client.turn.is_some() && client.engine.protocol() == "http/1.1";
        let removed = self.services.get(client.service as usize).and_then(Option::as_ref).and_then(|s| s.leaves_by);
        // … but only once: then it waits for the end of its service's grace.
        let in_turn = in_turn && removed != Some(at);
        if at > self.now && !in_turn {
            return;
        }
        client.leave = None;
        // Its endpoint answered otherwise than was thought, or another one did: it is no session there.
        if why == Leave::EndpointDrained && self.pool_of(key).is_none_or(|pool| pool.leaves_by.is_none()) {
            return self.leave_with_process(key);
        }
        let asked = self.ask(key, why);
        match why {
            Leave::Shutdown if !asked => {
                self.with_engine(key, |engine, io, context| engine.drain(io, context));
                self.cut_with_service(key);
            }
            Leave::EndpointDrained if !asked => self.cut_drained(key),
            _ => {}
        }
        self.touch(key);
    }

    /// A session of a removed service has until the end of its grace. (The process cuts by itself.)
    fn cut_with_service(&mut self, key: Key) {
        let Some(client) = self.sessions.get_mut(key) else { return };
        let served = self.services.get(client.service as usize).and_then(Option::as_ref);
        let Some(until) = served.and_then(|s| s.leaves_by).filter(|_| client.leaving.is_none()) else { return };
        if until > self.now {
            client.leave = Some((until, Leave::Shutdown));
        } else {
            let phase = client.engine.phase();
            self.remove_session(key, End { cause: Cause::Shutdown, phase }, true);
        }
    }

    /// Asks one session to go; false: its protocol has no means to, or it is going already.
    fn ask(&mut self, key: Key, why: Leave) -> bool {
        let mut asked = false;
        self.with_engine(key, |engine, io, context| asked = engine.leave(why, io, context));
        if !asked {
            return false;
        }
        let Some(client) = self.sessions.get_mut(key) else { return true };
        if let Some(ticket) = client.turn.as_mut().and_then(|turn| turn.ticket.as_mut()) {
            ticket.leaves();
        }
        if let Some(Some(served)) = self.services.get(client.service as usize) {
            served.tally.asked[why as usize].add(1);
        }
        true
    }

    /// An opaque session has had its endpoint's grace, or one of which nobody has said anything yet. What is on
    /// its way already belongs to the session.
    fn cut_drained(&mut self, key: Key) {
        let Some(client) = self.sessions.get(key) else { return };
        let opaque = client.turn.as_ref().is_some_and(|turn| turn.want.scope == Scope::Session);
        if opaque && client.leaving.is_none() && matches!(client.engine.protocol(), "tcp" | "unknown") {
            let end = End { cause: Cause::EndpointDrained, phase: client.engine.phase() };
            self.begin_leaving(key, end, false, true);
        }
    }

    fn find_pool(&self, service: u32, endpoint: &Endpoint) -> Option<u32> {
        let served = self.services.get(service as usize)?.as_ref()?;
        let is_it = |p: &super::link::EndpointPool| std::ptr::eq(&*p.endpoint, endpoint);
        Some(served.pools.iter().position(|p| p.as_ref().is_some_and(is_it))? as u32)
    }

    fn set_leaves_by(&mut self, service: u32, pool: u32, until: Option<Instant>) {
        if let Some(Some(served)) = self.services.get_mut(service as usize)
            && let Some(Some(pool)) = served.pools.get_mut(pool as usize)
        {
            pool.leaves_by = until;
        }
    }

    fn pool_of(&self, key: Key) -> Option<&super::link::EndpointPool> {
        let client = self.sessions.get(key)?;
        let pool = client.turn.as_ref()?.pool;
        self.services.get(client.service as usize)?.as_ref()?.pools.get(pool as usize)?.as_ref()
    }

    /// Sessions that are placed whole on the endpoint of this pool.
    fn sessions_of(&self, service: u32, pool: u32) -> Vec<Key> {
        let is_of = |key: &Key| {
            self.sessions.get(*key).is_some_and(|client| {
                let turn = client.turn.as_ref();
                client.service == service
                    && turn.is_some_and(|t| t.want.scope == Scope::Session && t.pool == pool && t.ticket.is_some())
            })
        };
        self.sessions.keys().into_iter().filter(is_of).collect()
    }
}
