//! Opening a link: connecting, and what comes before the protocol on it.

use super::complaints::Subject;
use super::http2::{Shared, old_at};
use super::link::{Link, LinkState};
use super::slab::Key;
use super::socket::{self, Stream};
use super::{LINK_BIT, Timer, Worker};
use crate::service::Version;
use evenkeel_core::end::{Cause, End, Phase};
use evenkeel_wire::edge::put_proxy_header;
use mio::Token;

/// A connection attempt that did not work out.
pub(super) enum Failed {
    /// The endpoint's doing.
    Endpoint(Cause),
    /// This machine's.
    Local,
}

impl Failed {
    /// Why, and whether that is this machine's doing.
    pub(super) fn cause(&self) -> (Cause, bool) {
        match *self {
            Self::Endpoint(cause) => (cause, false),
            Self::Local => (Cause::Local, true),
        }
    }
}

impl Worker {
    /// Starts a connection for a session, or (`None`) to have one ready; `shared`: one of HTTP/2, for all sessions.
    pub(super) fn connect(
        &mut self,
        service: u32,
        pool: u32,
        session: Option<Key>,
        shared: bool,
    ) -> Result<Key, Failed> {
        let now = self.now;
        let Some(Some(served)) = self.services.get_mut(service as usize) else { return Err(Failed::Local) };
        let timeout = served.shared.config.upstream.connect_timeout;
        let Some(Some(entry)) = served.pools.get_mut(pool as usize) else { return Err(Failed::Local) };
        let failed = |error: std::io::Error| match socket::is_local(&error) {
            true => Failed::Local,
            false => Failed::Endpoint(Cause::ConnectFailed),
        };
        let mut stream = Stream::connect(&entry.endpoint.address).map_err(failed)?;
        let token = Token((self.links.next_key().bits() | LINK_BIT) as usize);
        stream.register(self.poll.registry(), token).map_err(|_| Failed::Local)?;
        self.descriptors.take();
        entry.open += 1;
        entry.tally.connects.add(1);
        entry.tally.links.add(1);
        let key = self.links.next_key();
        if shared {
            entry.shared.push(key);
            let until = old_at(served.shared.config.upstream.max_age, now, &mut self.rng);
            self.shared.put(Box::new(Shared::new(key, &served.shared.http2, self.pool.take(), (now, until))));
        }
        self.links.insert(Link {
            stream,
            service,
            pool,
            state: LinkState::Connecting,
            session,
            introduced: false,
            own: false,
            turns: 0,
            readable: false,
            writable: false,
            closed: false,
            broken: false,
            dirty: false,
            since: now,
            armed: true,
        });
        self.wheel.arm(now + timeout, Timer::Link(key));
        Ok(key)
    }

    /// A connecting link became writable, got an answer to its handshake, or failed.
    pub(super) fn connected(&mut self, key: Key) {
        let Some(link) = self.links.get_mut(key) else { return };
        let failed = match link.closed && link.stream.tls().is_none() {
            true => link.stream.take_error().unwrap_or_else(Some),
            false => None,
        };
        let up = match failed {
            Some(error) => Err((Cause::ConnectFailed, error)),
            None if !link.writable && link.stream.tls().is_none() => return,
            None => self.shake_hands(key),
        };
        match up {
            Ok(false) => {}
            Ok(true) if self.shared.get(key).is_some() && self.chose_http1(key) => self.unshare(key),
            Ok(true) if self.shared.get(key).is_some() => self.shared_opened(key),
            Ok(true) if self.solos.get(key).is_some() => self.solo_opened(key),
            Ok(true) => match self.links.get(key).and_then(|link| link.session) {
                Some(session) => {
                    self.attach(session, key);
                    self.touch(session);
                }
                None => self.release(key),
            },
            Err((_, error)) if socket::is_local(&error) => self.connect_failed(key, Failed::Local),
            Err((cause, error)) => {
                if cause == Cause::EndpointTls {
                    self.complain_of_tls(key, &error);
                    // Perhaps it does not speak any more what it chose once.
                    self.note_choice(key, None);
                }
                self.connect_failed(key, Failed::Endpoint(cause));
            }
        }
    }

    /// What comes before the protocol on a new link: a PROXY header, TLS. True: both are done.
    fn shake_hands(&mut self, key: Key) -> Result<bool, (Cause, std::io::Error)> {
        let Self { links, shared, services, sessions, .. } = self;
        let Some(link) = links.get_mut(key) else { return Ok(false) };
        let Some(Some(served)) = services.get(link.service as usize) else { return Ok(false) };
        let config = &served.shared.config.upstream;
        if !std::mem::replace(&mut link.introduced, true) {
            if let Some(version) = config.send_proxy {
                let peer = link.session.and_then(|session| sessions.get(session)).map(|client| &client.peer);
                let known = peer.filter(|peer| peer.client != socket::NO_ADDRESS);
                let mut header = Vec::new();
                put_proxy_header(&mut header, version, known.map(|peer| (peer.client, *peer.local)));
                let sent = link.stream.write(&header, &[]).map_err(|error| (Cause::ConnectFailed, error))?;
                if sent < header.len() {
                    // The buffer of a new socket is empty; whatever this is, it is no connection.
                    return Err((Cause::ConnectFailed, std::io::ErrorKind::WriteZero.into()));
                }
            }
            if let Some(tls) = &served.shared.upstream_tls {
                let pool = served.pools.get(link.pool as usize).and_then(Option::as_ref);
                let Some(address) = pool.map(|pool| &pool.endpoint.address) else { return Ok(false) };
                let settings = match shared.get(key).is_some() {
                    true if served.shared.endpoints_choose() => &tls.either,
                    true => &tls.http2,
                    false => &tls.config,
                };
                let started = link.stream.connect_tls(settings.clone(), tls.name_of(address));
                started.map_err(|error| (Cause::EndpointTls, error))?;
            }
        }
        let done = link.stream.handshake().map_err(|error| (Cause::EndpointTls, error))?;
        if link.stream.tls().is_some() {
            // Bytes behind the handshake, if there are any, are in its buffers.
            link.readable = done;
            link.writable = !link.stream.holds_output();
        }
        Ok(done)
    }

    /// Remembers what the endpoint of a link chose, if it could choose. True: that is HTTP/1.1.
    fn chose_http1(&mut self, key: Key) -> bool {
        let Some(link) = self.links.get(key) else { return false };
        let Some(Some(served)) = self.services.get(link.service as usize) else { return false };
        let Some(tls) = link.stream.tls().filter(|_| served.shared.endpoints_choose()) else { return false };
        let version = if tls.protocol() == Some(crate::tls::HTTP2) { Version::Http2 } else { Version::Http1 };
        self.note_choice(key, Some(version));
        version == Version::Http1
    }

    fn note_choice(&mut self, key: Key, version: Option<Version>) {
        let Some((service, pool)) = self.links.get(key).map(|link| (link.service, link.pool)) else { return };
        if let Some(pool) = self.pool_mut(service, pool) {
            pool.speaks = version;
        }
    }

    fn complain_of_tls(&mut self, key: Key, error: &std::io::Error) {
        let Some(link) = self.links.get(key) else { return };
        let Some(Some(served)) = self.services.get(link.service as usize) else { return };
        let pool = served.pools.get(link.pool as usize).and_then(Option::as_ref);
        let client = link.session.and_then(|session| self.sessions.get(session));
        let subject = Subject {
            service: &served.shared.config.name,
            client: client.map_or(socket::NO_ADDRESS, |client| client.peer.client),
            endpoint: pool.map(|pool| &pool.endpoint.address),
            detail: Some(&error.to_string()),
        };
        self.complaints.hear(End { cause: Cause::EndpointTls, phase: Phase::Connect }, &subject, self.now);
    }

    pub(super) fn connect_failed(&mut self, key: Key, failed: Failed) {
        let session = self.links.get(key).and_then(|l| l.session);
        if let Some(shared) = self.shared.get_mut(key) {
            shared.fails_with(failed.cause().0);
        }
        if let Some(solo) = self.solos.get_mut(key) {
            solo.fails_with(failed.cause().0);
        }
        self.remove_link(key);
        let Some(session) = session else { return };
        if let Some(client) = self.sessions.get_mut(session) {
            client.link = None;
        }
        if self.try_failed(session, &failed) {
            self.acquire(session);
        }
        self.touch(session);
    }
}
