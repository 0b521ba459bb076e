//! How a session ends, and how all of them do when there is no more time.

use super::Worker;
use super::arrive::source_of;
use super::client::Leaving;
use super::complaints::{Subject, is_clients};
use super::slab::Key;
use super::splice::Toward;
use crate::now::Opened;
use crate::registry::SessionView;
use evenkeel_core::end::{Cause, End, Phase};
use evenkeel_core::picker::Scope;
use evenkeel_wire::session::{LinkFate, TurnEnd};
use std::io;

/// How long a client may keep sending after our last answer to it.
const LINGER: u64 = 2;

impl Worker {
    /// The engine is done with the session: its last bytes go out, then it closes.
    pub(super) fn begin_leaving(&mut self, key: Key, end: End, abort: bool, linger: bool) {
        let until = self.farewell();
        let Some(client) = self.sessions.get_mut(key) else { return };
        if client.leaving.is_none() {
            // Turns that the endpoint or we failed were heard of when they ended.
            if is_clients(end.cause)
                && let Some(Some(served)) = self.services.get(client.service as usize)
            {
                let (service, client) = (&*served.shared.config.name, client.peer.client);
                self.complaints.hear(end, &Subject { service, client, endpoint: None, detail: None }, self.now);
            }
            client.leaving = Some(Box::new(Leaving { end, abort, linger, lingering: false, until }));
        }
        if let Some(link) = client.link.take() {
            self.remove_link(link);
        }
        self.touch(key);
    }

    /// Drives a session that is on its way out.
    pub(super) fn leave(&mut self, key: Key, scratch: &mut [u8]) {
        self.flush_client(key, &[]);
        let linger = super::drive::until(self.now, LINGER);
        let Some(client) = self.sessions.get_mut(key) else { return };
        let waits = !client.buffers.to_client.unsent().is_empty() || client.pipes(Toward::Client);
        let Some(leaving) = &mut client.leaving else { return };
        if waits || client.stream.holds_output() {
            return self.rearm(key);
        }
        if leaving.abort || client.eof || !leaving.linger {
            let Leaving { end, abort, .. } = **leaving;
            return self.remove_session(key, end, abort);
        }
        if !leaving.lingering {
            (leaving.lingering, leaving.until) = (true, linger);
            client.stream.finish();
        }
        let end = leaving.end;
        loop {
            match client.stream.read(scratch) {
                Ok(n) if n == scratch.len() => {}
                // Not the end yet: wait for more, or for patience to end.
                Ok(n) if n > 0 => break,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                _ => return self.remove_session(key, end, false),
            }
        }
        client.readable = false;
        self.rearm(key);
    }

    /// A leaving session's time is over.
    pub(super) fn patience_ends(&mut self, key: Key) {
        if let Some(&Leaving { end, lingering, .. }) = self.sessions.get(key).and_then(|c| c.leaving.as_deref()) {
            self.remove_session(key, end, !lingering);
        }
    }

    /// The client reset its connection, or cannot be written to.
    pub(super) fn client_lost(&mut self, key: Key) {
        if let Some(client) = self.sessions.get(key) {
            let end = match &client.leaving {
                Some(leaving) => leaving.end,
                None => End { cause: Cause::ClientClosed, phase: client.engine.phase() },
            };
            self.remove_session(key, end, true);
        }
    }

    /// Closes a session and forgets it; every session ends here, once.
    pub(super) fn remove_session(&mut self, key: Key, end: End, abort: bool) {
        self.end_streams(key, end);
        let log = self.sessions.get_mut(key).and_then(|client| client.engine.take_log());
        self.end_turn(key, TurnEnd { fate: LinkFate::Close, status: None, failure: Some(end), log });
        let Some(mut client) = self.sessions.remove(key) else { return };
        self.descriptors.give();
        if abort {
            client.stream.abort_on_close();
        } else {
            client.stream.goodbye();
        }
        if let Some(link) = client.link {
            self.remove_link(link);
        }
        if let Some(splice) = &mut client.splice {
            splice.drop_pipe(Toward::Client, &mut self.pipes, &self.descriptors);
        }
        client.buffers.clear(&mut self.pool);
        if let Some(Some(served)) = self.services.get(client.service as usize) {
            served.tally.sessions.sub(1);
            served.tally.ends[end.cause as usize].add(1);
            if client.admitted {
                served.shared.leave();
            }
            if client.counted {
                served.shared.leave_source(source_of(client.peer.client.ip()));
            }
        }
        self.refused -= usize::from(!client.admitted);
        self.forget_if_gone(client.service);
        self.publish_load();
    }

    /// Ends everything now.
    pub(super) fn cut(&mut self) {
        for key in self.sessions.keys() {
            if let Some(client) = self.sessions.get(key) {
                let phase = client.engine.phase();
                let busy =
                    client.rare.as_ref().and_then(|rare| rare.http2.as_ref()).is_some_and(|http2| http2.is_busy());
                let clean = matches!(phase, Phase::Idle | Phase::Detect) && !busy;
                self.remove_session(key, End { cause: Cause::Shutdown, phase }, !clean);
            }
        }
        for key in self.links.keys() {
            self.remove_link(key);
        }
        self.heartbeat.stops();
    }

    /// When each session of a service was opened, by the endpoint on which it is placed whole.
    pub(super) fn opened(&self, service: u32) -> Opened {
        let mut opened = Opened::new();
        let Some(Some(served)) = self.services.get(service as usize) else { return opened };
        for client in self.sessions.values().filter(|client| client.service == service) {
            let placed = client.turn.as_ref().filter(|t| t.want.scope == Scope::Session && t.ticket.is_some());
            let pool = placed.and_then(|turn| served.pools.get(turn.pool as usize)?.as_ref());
            opened.entry(pool.map(|pool| pool.endpoint.id)).or_default().push(client.opened);
        }
        opened
    }

    /// Up to `limit` sessions, for the admin API.
    pub(super) fn describe(&self, limit: usize) -> Vec<SessionView> {
        let views = self.sessions.keys().into_iter().take(limit).filter_map(|key| {
            let client = self.sessions.get(key)?;
            let served = self.services.get(client.service as usize)?.as_ref()?;
            let link = client.link.or_else(|| Some(client.guest()?.link)).and_then(|k| self.links.get(k));
            let endpoint = link.and_then(|l| served.pools.get(l.pool as usize)?.as_ref());
            Some(SessionView {
                id: key.bits(),
                worker: self.index,
                service: served.shared.config.name.clone(),
                client: client.peer.client.to_string(),
                protocol: client.engine.protocol().into(),
                phase: client.engine.phase().as_str().into(),
                endpoint: endpoint.map(|p| p.endpoint.address.to_string()),
                age_seconds: self.now.since(client.opened).as_secs_f64(),
                turns: client.turns,
            })
        });
        views.collect()
    }
}
