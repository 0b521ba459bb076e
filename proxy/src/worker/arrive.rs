//! From a connection to a session: what comes before the protocol.
//!
//! A PROXY header, if the client is a proxy that is trusted to send one; then a TLS ClientHello, where TLS
//! ends here or where its name says which service is wanted. Only then does the session begin.

use super::Worker;
use super::complaints::Subject;
use super::slab::Key;
use super::socket::NO_ADDRESS;
use evenkeel_core::end::{Cause, End, Limit, Phase};
use evenkeel_core::time::Instant;
use evenkeel_wire::edge::{ClientHello, Found, client_hello, proxy_header};
use evenkeel_wire::session::{Context, PeerTls, Session};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// The fatal alert `unrecognized_name` (RFC 6066, section 3), for who asks for a name that nobody has.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
/// Bytes that may wait to be understood: more than a PROXY header and a ClientHello together.
const MOST: usize = 32 * 1024;

/// A connection that is no session yet.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) step: Step,
    pub(super) since: Instant,
    /// Services that share the address, if there are others than the session's.
    pub(super) others: Option<Arc<[u32]>>,
}

/// What is awaited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// The end of a PROXY header.
    Proxy,
    /// The end of a ClientHello, or the first byte of something else.
    Hello,
    /// The end of the handshake.
    Tls,
}

/// How one step went.
enum Went {
    /// There may be more to do.
    On,
    /// Bytes are missing.
    Waits,
    /// It is a session now, or it is gone.
    Over,
}

/// A handshake that failed, and how it is said to people.
struct Failed {
    cause: Cause,
    detail: String,
}

impl Failed {
    fn new(cause: Cause, detail: impl ToString) -> Self {
        Self { cause, detail: detail.to_string() }
    }
}

/// Who a client counts as: an IPv4 address, or the network that one IPv6 subscriber has (RFC 6177).
pub(super) fn source_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

impl Worker {
    /// What must come before the session of a client of this service, if anything.
    pub(super) fn arrival(&self, service: u32, client: IpAddr, others: Option<Arc<[u32]>>) -> Option<Box<Arrival>> {
        let served = self.services.get(service as usize)?.as_ref()?;
        let config = &served.shared.config;
        let proxied = config.accept_proxy.iter().any(|network| network.contains(client));
        let step = match others.is_some() || config.tls.is_some() || !config.sni.is_empty() {
            _ if proxied => Step::Proxy,
            true => Step::Hello,
            false => return None,
        };
        Some(Box::new(Arrival { step, since: self.now, others }))
    }

    /// Goes on with a connection that is no session yet.
    #[inline(never)]
    pub(super) fn arrive(&mut self, key: Key, scratch: &mut [u8]) {
        loop {
            let Some(client) = self.sessions.get(key) else { return };
            let Some(step) = client.arrival.as_ref().map(|arrival| arrival.step) else { return };
            if client.leave.is_some_and(|(at, _)| at <= self.now) {
                return self.remove_session(key, End { cause: Cause::Shutdown, phase: Phase::Handshake }, false);
            }
            let went = match step {
                Step::Proxy => self.proxy_step(key),
                Step::Hello => self.hello_step(key),
                Step::Tls => self.tls_step(key),
            };
            match went {
                Ok(Went::On) => {}
                Ok(Went::Over) => return,
                Ok(Went::Waits) if step == Step::Tls || !self.read_arrival(key, scratch) => break,
                Ok(Went::Waits) => {}
                Err(failed) => return self.arrival_failed(key, &failed),
            }
        }
        self.rearm(key);
    }

    /// Reads what there is; false: nothing, or it was the end.
    fn read_arrival(&mut self, key: Key, scratch: &mut [u8]) -> bool {
        let Some(client) = self.sessions.get_mut(key) else { return false };
        if !client.readable {
            return false;
        }
        match client.stream.read(scratch) {
            Ok(0) => {}
            Ok(n) => {
                client.buffers.input.extend_from_slice(&scratch[..n]);
                client.readable = n == scratch.len() || client.closed;
                return true;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                client.readable = false;
                return false;
            }
            Err(_) => {}
        }
        // Gone before it said what it wanted: a port scan, a health check of a load balancer.
        self.remove_session(key, End { cause: Cause::ClientClosed, phase: Phase::Handshake }, false);
        false
    }

    fn proxy_step(&mut self, key: Key) -> Result<Went, Failed> {
        let Some(client) = self.sessions.get_mut(key) else { return Ok(Went::Over) };
        let header = match proxy_header(&client.buffers.input) {
            Found::Whole(header) => header,
            Found::Partial => return Ok(Went::Waits),
            Found::Wrong => {
                let detail = "accept_proxy has its address, but it sent no PROXY header";
                return Err(Failed::new(Cause::ClientProtocol, detail));
            }
        };
        client.buffers.input.drain(..header.length);
        if let Some((from, to)) = header.addresses {
            (client.peer.client, client.peer.local) = (from, Arc::new(to));
        }
        let Some(Some(served)) = self.services.get(client.service as usize) else { return Ok(Went::Over) };
        let config = &served.shared.config;
        let others = client.arrival.as_ref().is_some_and(|arrival| arrival.others.is_some());
        let hello = others || config.tls.is_some() || !config.sni.is_empty();
        if let Some(arrival) = &mut client.arrival {
            arrival.step = Step::Hello;
        }
        if !self.admit_source(key) {
            return Ok(self.begin_refused(key));
        }
        if hello { Ok(Went::On) } else { Ok(self.begin(key)) }
    }

    /// Counts the session for its client's address; false: that has as many as it may.
    pub(super) fn admit_source(&mut self, key: Key) -> bool {
        let Some(client) = self.sessions.get_mut(key) else { return true };
        let Some(Some(served)) = self.services.get(client.service as usize) else { return true };
        if client.peer.client == NO_ADDRESS {
            return true;
        }
        let source = source_of(client.peer.client.ip());
        match served.shared.admit_source(source) {
            Ok(counted) => {
                client.counted = counted;
                true
            }
            Err(limit) => {
                served.tally.limits[limit as usize].add(1);
                false
            }
        }
    }

    fn hello_step(&mut self, key: Key) -> Result<Went, Failed> {
        let Some(client) = self.sessions.get_mut(key) else { return Ok(Went::Over) };
        let (input, mut room) = (std::mem::take(&mut client.buffers.input), Vec::new());
        let found = match client_hello(&input, &mut room) {
            Found::Partial if input.len() < MOST => {
                client.buffers.input = input;
                return Ok(Went::Waits);
            }
            Found::Whole(hello) => Some(hello),
            Found::Partial | Found::Wrong => None,
        };
        let went = self.greet(key, found.as_ref(), &input);
        match self.sessions.get_mut(key) {
            // Not TLS that ends here: the session reads it.
            Some(client) if client.stream.tls().is_none() => client.buffers.input = input,
            _ => self.pool.give(input),
        }
        match went? {
            Went::Over => Ok(self.begin(key)),
            went => Ok(went),
        }
    }

    /// Finds the service for a client's first bytes, and answers in TLS if that ends here. `Over`: the
    /// session can begin.
    fn greet(&mut self, key: Key, hello: Option<&ClientHello<'_>>, input: &[u8]) -> Result<Went, Failed> {
        let Some(client) = self.sessions.get(key) else { return Ok(Went::On) };
        let service = self.service_for(client.service, client.arrival.as_ref().and_then(|a| a.others.clone()), hello);
        let Some(service) = service else {
            let alert: &[u8] = if hello.is_some() { &UNRECOGNIZED_NAME } else { &[] };
            if let Some(client) = self.sessions.get_mut(key) {
                // It is told if its socket takes it at once, as new ones do.
                let _unheard = client.stream.write(alert, &[]);
            }
            let name = hello.and_then(|hello| hello.name);
            let detail = match name {
                Some(name) => format!("no service here has the name {name:?} in its sni"),
                None => "it asks for no name, and every service here has some in its sni".into(),
            };
            return Err(Failed::new(Cause::ClientTls, detail));
        };
        if !self.rehome(key, service) {
            return Ok(Went::On);
        }
        let Some(Some(served)) = self.services.get(service as usize) else { return Ok(Went::On) };
        let Some(client) = self.sessions.get_mut(key) else { return Ok(Went::On) };
        let Some(tls) = &served.shared.tls else { return Ok(Went::Over) };
        let config = hello.map_or_else(|| tls.fallback(), |hello| tls.config(hello));
        client.stream.accept_tls(config, input).map_err(|error| Failed::new(Cause::ClientTls, error))?;
        if let Some(arrival) = &mut client.arrival {
            arrival.step = Step::Tls;
        }
        Ok(Went::On)
    }

    /// The service that a client wants: by its exact name, by a wildcard, or the one without names.
    fn service_for(&self, own: u32, others: Option<Arc<[u32]>>, hello: Option<&ClientHello<'_>>) -> Option<u32> {
        let own = [own];
        let all = others.as_deref().unwrap_or(&own);
        let name = hello.and_then(|hello| hello.name).map(str::to_ascii_lowercase);
        let names = |service: u32| {
            let served = self.services.get(service as usize).and_then(Option::as_ref);
            served.map(|served| served.shared.config.sni.as_slice())
        };
        let find = |fits: &dyn Fn(&[String]) -> bool| all.iter().copied().find(|&s| names(s).is_some_and(fits));
        let named = name.and_then(|name| {
            let exact = find(&|sni| sni.contains(&name));
            exact.or_else(|| find(&|sni| sni.iter().any(|pattern| crate::tls::matches(pattern, &name))))
        });
        named.or_else(|| find(&<[String]>::is_empty))
    }

    /// The session belongs to another service than was thought; false: that has no room for it.
    fn rehome(&mut self, key: Key, service: u32) -> bool {
        let Some(client) = self.sessions.get_mut(key) else { return false };
        let before = std::mem::replace(&mut client.service, service);
        if before == service {
            return true;
        }
        let counted = std::mem::take(&mut client.counted);
        let Some(Some(old)) = self.services.get(before as usize) else { return false };
        old.tally.sessions.sub(1);
        old.shared.leave();
        if counted {
            old.shared.leave_source(source_of(client.peer.client.ip()));
        }
        let Some(Some(new)) = self.services.get(service as usize) else { return false };
        new.tally.sessions.add(1);
        let admitted = new.shared.admit();
        if !admitted {
            new.tally.limits[Limit::Sessions as usize].add(1);
        }
        client.admitted = admitted;
        // As such it is counted when it ends.
        self.refused += usize::from(!admitted);
        self.forget_if_gone(before);
        if admitted && self.admit_source(key) {
            return true;
        }
        // TLS must come before any answer, and costs more than the answer is worth.
        self.remove_session(key, End { cause: Cause::Overload, phase: Phase::Handshake }, false);
        false
    }

    fn tls_step(&mut self, key: Key) -> Result<Went, Failed> {
        let Some(client) = self.sessions.get_mut(key) else { return Ok(Went::Over) };
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData => Failed::new(Cause::ClientTls, error),
            _ => Failed::new(Cause::ClientClosed, error),
        };
        if !client.stream.handshake().map_err(failed)? {
            client.readable = false;
            return Ok(Went::Waits);
        }
        let Some(Some(served)) = self.services.get(client.service as usize) else { return Ok(Went::Over) };
        served.tally.handshakes.add(1);
        let wanted = served.shared.tls.as_ref().is_some_and(|tls| tls.subject);
        let certificate = client.stream.tls().filter(|_| wanted).and_then(|tls| tls.peer_certificate());
        let subject = certificate.and_then(crate::tls::subject);
        let http2 = client.stream.tls().and_then(|tls| tls.protocol()) == Some(crate::tls::HTTP2);
        client.peer.tls = Some(Box::new(PeerTls { subject, http2 }));
        Ok(self.begin(key))
    }

    /// The session begins.
    fn begin(&mut self, key: Key) -> Went {
        self.begin_as(key, Session::new)
    }

    /// It is turned away.
    fn begin_refused(&mut self, key: Key) -> Went {
        self.begin_as(key, Session::refused)
    }

    fn begin_as(&mut self, key: Key, session: impl FnOnce(&Context<'_>) -> Session) -> Went {
        let Self { sessions, services, now, .. } = self;
        if let Some(client) = sessions.get_mut(key)
            && let Some(Some(served)) = services.get(client.service as usize)
        {
            client.engine = session(&Context::new(&served.shared.settings, &client.peer, *now));
            client.arrival = None;
            // What was read with the handshake is in its buffers.
            client.readable = true;
            client.offer = !client.buffers.input.is_empty();
            client.armed = None;
        }
        self.leave_with_process(key);
        self.touch(key);
        Went::Over
    }

    fn arrival_failed(&mut self, key: Key, failed: &Failed) {
        let Some(client) = self.sessions.get(key) else { return };
        let end = End { cause: failed.cause, phase: Phase::Handshake };
        if let Some(Some(served)) = self.services.get(client.service as usize) {
            let (service, client) = (&*served.shared.config.name, client.peer.client);
            let subject = Subject { service, client, endpoint: None, detail: Some(&failed.detail) };
            self.complaints.hear(end, &subject, self.now);
        }
        self.remove_session(key, end, false);
    }

    /// What must come before a session has not come in time.
    pub(super) fn arrival_late(&mut self, key: Key) {
        let Some(client) = self.sessions.get(key) else { return };
        if let Some(Some(served)) = self.services.get(client.service as usize) {
            served.tally.limits[Limit::HeaderTime as usize].add(1);
        }
        let failed = Failed::new(Cause::ClientTimeout, "the handshake took too long");
        self.arrival_failed(key, &failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_or_a_subscriber() {
        for (client, source) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            assert_eq!(source_of(client.parse().unwrap()), source.parse::<IpAddr>().unwrap(), "{client}");
        }
    }
}
