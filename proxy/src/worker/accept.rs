//! New clients: each goes to the worker that has fewest.
//!
//! A listener belongs to one worker, so a new connection wakes one thread. Hashing connections onto
//! workers (`SO_REUSEPORT`) would be the problem that evenkeel exists for, inside evenkeel.

use super::arrive::Step;
use super::client::Client;
use super::complaints::Subject;
use super::slab::Key;
use super::socket::{self, Listener};
use super::{Accepted, Command, LISTENERS, Listening, Timer, Worker};
use evenkeel_core::end::{Cause, End, Limit, Phase};
use evenkeel_core::time::Duration;
use evenkeel_wire::session::{Context, Peer, Session};
use mio::Token;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tracing::warn;

/// Clients accepted in one turn of the loop; those who are served already come first.
const ACCEPTS: usize = 64;
/// Sessions of one worker that there is no room for, and that are told so; further ones are closed without
/// a word.
const MAX_REFUSED: usize = 256;
/// Pause after the system ran out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// How long clients of a new service wait in the queue for its first endpoints, and how often it is looked.
const PATIENCE: Duration = Duration::from_millis(500);
const FIRST: Duration = Duration::from_millis(5);

/// How an attempt to accept went.
#[derive(PartialEq, Eq)]
enum Accept {
    Took,
    Empty,
    /// Nothing more can be taken for now.
    Pause(Duration),
}

impl Worker {
    pub(super) fn listen(&mut self, id: u32, services: Arc<[u32]>, mut socket: Listener) {
        if self.draining.is_some() {
            return;
        }
        let free = self.listeners.iter().position(Option::is_none);
        let index = free.unwrap_or(self.listeners.len());
        if let Err(error) = socket.register(self.poll.registry(), Token(LISTENERS - index)) {
            warn!(%error, "cannot watch a listener");
            return;
        }
        let listening = Some(Listening { id, services, socket, patience: self.now + PATIENCE, armed: false });
        match self.listeners.get_mut(index) {
            Some(free) => *free = listening,
            None => self.listeners.push(listening),
        }
        self.accept(index);
    }

    pub(super) fn relisten(&mut self, id: u32, services: Arc<[u32]>) {
        if let Some(listening) = self.listeners.iter_mut().flatten().find(|listening| listening.id == id) {
            (listening.services, listening.patience) = (services, self.now + PATIENCE);
        }
    }

    /// Stops to listen. Clients that wait in the queue would be reset, so they are taken first.
    pub(super) fn unlisten(&mut self, id: u32) {
        let is_it = |l: &Option<Listening>| l.as_ref().is_some_and(|l| l.id == id);
        let Some(index) = self.listeners.iter().position(is_it) else { return };
        while self.accept_one(index) == Accept::Took {}
        if let Some(mut listening) = self.listeners[index].take() {
            // There may be other handles to it, so closing this one does not end the watch.
            let _closes_anyway = listening.socket.deregister(self.poll.registry());
        }
    }

    pub(super) fn accept(&mut self, index: usize) {
        for _ in 0..ACCEPTS {
            match self.accept_one(index) {
                Accept::Took => {}
                Accept::Empty => return,
                Accept::Pause(pause) => return self.accept_later(index, pause),
            }
        }
        // The edge is used up; more may wait.
        self.accept_later(index, Duration::ZERO);
    }

    /// Tries again after a while. Every client that comes meanwhile is an edge of its own, so there is one timer
    /// for all of them: else a pause would gather as many as clients came in it.
    fn accept_later(&mut self, index: usize, after: Duration) {
        if let Some(Some(listening)) = self.listeners.get_mut(index)
            && !std::mem::replace(&mut listening.armed, true)
        {
            self.wheel.arm(self.now + after, Timer::Accept(index as u32));
        }
    }

    /// The timer of a listener.
    pub(super) fn accept_again(&mut self, index: usize) {
        if let Some(Some(listening)) = self.listeners.get_mut(index) {
            listening.armed = false;
            self.accept(index);
        }
    }

    fn accept_one(&mut self, index: usize) -> Accept {
        let Some(Some(listening)) = self.listeners.get(index) else { return Accept::Empty };
        let knows = |&service: &u32| self.services.get(service as usize)?.as_ref().map(|served| served.published);
        if self.now < listening.patience && listening.services.iter().any(|service| knows(service) == Some(false)) {
            return Accept::Pause(FIRST);
        }
        if !self.descriptors.has_room() {
            self.descriptors_are_short(listening.services.first().copied());
            return Accept::Pause(PAUSE);
        }
        let services = listening.services.clone();
        match listening.socket.accept() {
            Ok((stream, client, local)) => {
                self.descriptors.take();
                let accepted = Accepted { stream, client, local, services };
                match self.least_loaded() {
                    Some(peer) => self.peers[peer].send(Command::Adopt(accepted)),
                    None => self.adopt(accepted),
                }
                Accept::Took
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Accept::Empty,
            Err(error) if socket::is_local(&error) => {
                warn!(%error, "cannot accept; trying again in 100 ms");
                Accept::Pause(PAUSE)
            }
            // The client was gone before it was accepted.
            Err(_) => Accept::Took,
        }
    }

    /// The worker with the fewest sessions, if that is not this one.
    fn least_loaded(&self) -> Option<usize> {
        let own = self.sessions.len();
        let (peer, load) = (0..self.peers.len())
            .map(|i| (i, self.peers[i].load.load(Ordering::Relaxed)))
            .min_by_key(|&(i, load)| (load, i != self.index))?;
        if peer == self.index || load >= own {
            return None;
        }
        // Counted now, for it may take its turn of the loop until the worker does so itself.
        self.peers[peer].load.fetch_add(1, Ordering::Relaxed);
        Some(peer)
    }

    /// Clients wait in the queue of the listener until sessions end; the admin API goes on.
    fn descriptors_are_short(&mut self, service: Option<u32>) {
        if let Some(Some(served)) = service.and_then(|service| self.services.get(service as usize)) {
            served.tally.limits[Limit::Descriptors as usize].add(1);
        }
        if self.complaints.admit(self.now) {
            warn!(
                limit = self.descriptors.limit(),
                "too many open files: clients are not accepted until some are closed; raise the limit (ulimit -n)"
            );
        }
    }

    pub(super) fn adopt(&mut self, accepted: Accepted) {
        let Accepted { mut stream, client, local, services } = accepted;
        let first = services.first().copied();
        let Some((service, Some(served))) = first.and_then(|s| Some((s, self.services.get(s as usize)?.as_ref())))
        else {
            return self.descriptors.give();
        };
        let (tally, shared) = (served.tally.clone(), served.shared.clone());
        tally.accepted.add(1);
        let turn_away = |worker: &mut Self, cause: Cause| {
            tally.ends[cause as usize].add(1);
            let subject = Subject { service: &shared.config.name, client, endpoint: None, detail: None };
            worker.complaints.hear(End { cause, phase: Phase::Detect }, &subject, worker.now);
        };
        let others = (services.len() > 1).then_some(services);
        let arrival = self.arrival(service, client.ip(), others);
        let admitted = shared.admit();
        if !admitted {
            tally.limits[Limit::Sessions as usize].add(1);
            if arrival.is_some() || self.refused >= MAX_REFUSED {
                self.descriptors.give();
                return turn_away(self, Cause::Overload);
            }
        }
        let key = self.sessions.next_key();
        if let Err(error) = stream.register(self.poll.registry(), Token(key.bits() as usize)) {
            warn!(%error, "cannot watch a client connection");
            tally.ends[Cause::Local as usize].add(1);
            self.descriptors.give();
            if admitted {
                shared.leave();
            }
            return;
        }
        tally.sessions.add(1);
        let peer = Peer::plain(client, local);
        let context = Context::new(&shared.settings, &peer, self.now);
        let engine = match (admitted, &arrival) {
            (false, _) => Session::refused(&context),
            (true, Some(_)) => Session::arriving(),
            (true, None) => Session::new(&context),
        };
        // Behind a PROXY header is another address.
        let source_is_known = arrival.as_ref().is_none_or(|arrival| arrival.step != Step::Proxy);
        self.refused += usize::from(!admitted);
        let key = self.sessions.insert(Client::new(stream, service, engine, peer, arrival, admitted, self.now));
        self.publish_load();
        if admitted && source_is_known && !self.admit_source(key) {
            self.refuse_arrived(key);
        }
        self.leave_with_process(key);
        // A server may have to speak first; and timers are armed.
        self.touch(key);
    }

    /// The client's address has as many sessions as it may.
    fn refuse_arrived(&mut self, key: Key) {
        let Self { sessions, services, now, .. } = self;
        let Some(client) = sessions.get_mut(key) else { return };
        let Some(Some(served)) = services.get(client.service as usize) else { return };
        if client.arrival.is_some() || self.refused >= MAX_REFUSED {
            return self.remove_session(key, End { cause: Cause::Overload, phase: Phase::Detect }, false);
        }
        client.engine = Session::refused(&Context::new(&served.shared.settings, &client.peer, *now));
        served.shared.leave();
        client.admitted = false;
        self.refused += 1;
    }
}
