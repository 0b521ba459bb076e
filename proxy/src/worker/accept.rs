//! New clients: each goes to the worker that has fewest.
//!
//! A listener belongs to one worker, so a new connection wakes one thread. Hashing connections onto
//! workers (`SO_REUSEPORT`) would be the problem that evenkeel exists for, inside evenkeel.

use super::client::Client;
use super::complaints::Subject;
use super::socket::{self, Listener};
use super::{Accepted, Command, LISTENERS, Listening, Timer, Worker};
use evenkeel_core::end::{Cause, End, Phase};
use evenkeel_core::time::Duration;
use evenkeel_wire::session::{Context, Peer, Session};
use mio::Token;
use std::io;
use std::sync::atomic::Ordering;
use tracing::warn;

/// Clients accepted in one turn of the loop; those who are served already come first.
const ACCEPTS: usize = 64;
/// Pause after the system ran out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// How an attempt to accept went.
#[derive(PartialEq, Eq)]
enum Accept {
    Took,
    Empty,
    /// Nothing more can be taken for now.
    Pause,
}

impl Worker {
    pub(super) fn listen(&mut self, service: u32, id: u32, mut socket: Listener) {
        if self.draining.is_some() {
            return;
        }
        let free = self.listeners.iter().position(Option::is_none);
        let index = free.unwrap_or(self.listeners.len());
        if let Err(error) = socket.register(self.poll.registry(), Token(LISTENERS - index)) {
            warn!(%error, service, "cannot watch a listener");
            return;
        }
        let listening = Some(Listening { id, service, socket });
        match self.listeners.get_mut(index) {
            Some(free) => *free = listening,
            None => self.listeners.push(listening),
        }
        self.accept(index);
    }

    /// Stops to listen. Clients that wait in the queue would be reset, so they are taken first, unless
    /// the socket goes on elsewhere.
    pub(super) fn unlisten(&mut self, id: u32, moved: bool) {
        let is_it = |l: &Option<Listening>| l.as_ref().is_some_and(|l| l.id == id);
        let Some(index) = self.listeners.iter().position(is_it) else { return };
        if !moved {
            while self.accept_one(index) == Accept::Took {}
        }
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
                Accept::Pause => {
                    self.wheel.arm(self.now + PAUSE, Timer::Accept(index as u32));
                    return;
                }
            }
        }
        // The edge is used up; more may wait.
        self.wheel.arm(self.now, Timer::Accept(index as u32));
    }

    fn accept_one(&mut self, index: usize) -> Accept {
        let Some(Some(listening)) = self.listeners.get(index) else { return Accept::Empty };
        let service = listening.service;
        match listening.socket.accept() {
            Ok((stream, client, local)) => {
                let accepted = Accepted { stream, client, local, service };
                match self.least_loaded() {
                    Some(peer) => self.peers[peer].send(Command::Adopt(accepted)),
                    None => self.adopt(accepted),
                }
                Accept::Took
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Accept::Empty,
            Err(error) if socket::is_local(&error) => {
                warn!(%error, "cannot accept; trying again in 100 ms");
                Accept::Pause
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

    pub(super) fn adopt(&mut self, accepted: Accepted) {
        let Accepted { mut stream, client, local, service } = accepted;
        let Some(Some(served)) = self.services.get(service as usize) else { return };
        let tally = &served.tally;
        tally.accepted.add(1);
        if self.draining.is_some() || !served.shared.admit() {
            let cause = if self.draining.is_some() { Cause::Shutdown } else { Cause::Overload };
            tally.ends[cause as usize].add(1);
            let subject = Subject { service: &served.shared.config.name, client, endpoint: None };
            self.complaints.hear(End { cause, phase: Phase::Detect }, &subject, self.now);
            return;
        }
        let key = self.sessions.next_key();
        if let Err(error) = stream.register(self.poll.registry(), Token(key.bits() as usize)) {
            warn!(%error, "cannot watch a client connection");
            tally.ends[Cause::Local as usize].add(1);
            served.shared.leave();
            return;
        }
        tally.sessions.add(1);
        let peer = Peer { client, local, tls: false };
        let context = Context { settings: &served.shared.settings, peer: &peer, now: self.now, may_retry: false };
        let session = Client {
            stream,
            service,
            engine: Session::new(&context),
            peer,
            link: None,
            turn: None,
            pin: None,
            input: Vec::new(),
            offer: false,
            to_client: super::buffer::SendBuf::default(),
            to_link: super::buffer::SendBuf::default(),
            readable: false,
            writable: true,
            closed: false,
            eof: false,
            finish_client: false,
            finish_link: false,
            queued: false,
            leaving: None,
            leave: None,
            opened: self.now,
            turns: 0,
            armed: None,
        };
        let key = self.sessions.insert(session);
        self.publish_load();
        self.leave_with_process(key);
        // A server may have to speak first; and timers are armed.
        self.touch(key);
    }
}
