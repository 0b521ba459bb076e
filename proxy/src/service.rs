//! A service as workers and control share it.

use crate::config::{self, UpstreamProtocol};
use crate::registry::ServiceEntry;
use crate::tls;
use evenkeel_core::balancer::Policy;
use evenkeel_core::end::Limit;
use evenkeel_core::time::Duration;
use evenkeel_wire::http2::settings::Config as Http2;
use evenkeel_wire::session;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A version of HTTP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Version {
    /// HTTP/1.1, and what is older.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A service as it is configured now, and what outlives a change of that.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) index: u32,
    pub(crate) config: config::Service,
    /// The part of the configuration that sessions read.
    pub(crate) settings: session::Settings,
    /// How peers of HTTP/2 connections are treated.
    pub(crate) http2: Http2,
    /// How clients are met, if TLS ends here.
    pub(crate) tls: Option<tls::Server>,
    /// How endpoints are spoken to, if over TLS.
    pub(crate) upstream_tls: Option<tls::Client>,
    pub(crate) entry: Arc<ServiceEntry>,
    live: Arc<Live>,
}

/// What is counted over all workers, against limits.
#[derive(Debug, Default)]
struct Live {
    sessions: AtomicUsize,
    upgrades: AtomicUsize,
    /// Of those that were counted so: how many from each address.
    sources: Mutex<HashMap<IpAddr, usize>>,
}

/// TLS settings of a service, read from its files.
pub(crate) type Tls = (Option<tls::Server>, Option<tls::Client>);

/// Reads the files that a service's TLS settings name.
///
/// # Errors
/// The first that cannot be used.
pub(crate) fn load_tls(config: &config::Service) -> Result<Tls, String> {
    let server = config.tls.as_ref().map(|tls| tls::server(tls, config.protocol, config.shares_links())).transpose()?;
    let client = config.upstream.tls.as_ref();
    Ok((server, client.map(|tls| tls::client(tls, config.host(), config.protocol)).transpose()?))
}

impl Service {
    pub(crate) fn new(
        index: u32,
        process: &config::Config,
        config: config::Service,
        (tls, upstream_tls): Tls,
        entry: Arc<ServiceEntry>,
    ) -> Self {
        let (settings, http2) = (settings(process, &config), http2(&config));
        Self { index, settings, http2, tls, upstream_tls, config, entry, live: Arc::default() }
    }

    /// The same service under another configuration.
    pub(crate) fn changed(&self, process: &config::Config, config: config::Service, (tls, upstream_tls): Tls) -> Self {
        let (entry, live) = (self.entry.clone(), self.live.clone());
        let (settings, http2) = (settings(process, &config), http2(&config));
        Self { index: self.index, settings, http2, tls, upstream_tls, config, entry, live }
    }

    /// The same service with what its files say now.
    pub(crate) fn with_tls(&self, (tls, upstream_tls): Tls) -> Self {
        let Self { index, config, settings, http2, entry, live, .. } = self;
        let (config, settings) = (config.clone(), settings.clone());
        Self {
            index: *index,
            config,
            settings,
            http2: *http2,
            tls,
            upstream_tls,
            entry: entry.clone(),
            live: live.clone(),
        }
    }

    /// What endpoints are to be spoken to in, for a request of a client that speaks this.
    pub(crate) fn speaks(&self, client: Version) -> Version {
        speaks(&self.config, client)
    }

    /// The same for a request that comes over HTTP/2, perhaps because we offered that (`agreed`). `None`: that is
    /// the endpoint's to say.
    pub(crate) fn speaks_to_stream(&self, agreed: bool, grpc: bool) -> Option<Version> {
        (!self.endpoints_choose()).then(|| self.speaks(stands_for(agreed, grpc)))
    }

    /// Connections for requests that come over HTTP/2 speak what their endpoint chooses (ALPN).
    pub(crate) fn endpoints_choose(&self) -> bool {
        endpoints_choose(&self.config)
    }

    /// Do the files of its TLS settings say something else than when they were read?
    pub(crate) fn tls_changed(&self) -> bool {
        let server = self.config.tls.as_ref().map(tls::server_fingerprint);
        let client = self.config.upstream.tls.as_ref().map(tls::client_fingerprint);
        server != self.tls.as_ref().map(|tls| tls.fingerprint)
            || client != self.upstream_tls.as_ref().map(|tls| tls.fingerprint)
    }

    /// What the file system says of those files now.
    pub(crate) fn tls_fingerprint(&self) -> u64 {
        let server = self.config.tls.as_ref().map_or(0, tls::server_fingerprint);
        server ^ self.config.upstream.tls.as_ref().map_or(0, tls::client_fingerprint).rotate_left(32)
    }

    /// Takes one of the sessions that the service may have; false: it has them all.
    pub(crate) fn admit(&self) -> bool {
        take(&self.live.sessions, self.config.limits.sessions)
    }

    /// Gives it back.
    pub(crate) fn leave(&self) {
        self.live.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes one of the sessions that a client address may have. `Ok(true)`: it is to be given back.
    pub(crate) fn admit_source(&self, source: IpAddr) -> Result<bool, Limit> {
        let Some(limit) = self.config.limits.sessions_per_source else { return Ok(false) };
        let mut sources = self.live.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = sources.entry(source).or_default();
        if *sessions >= limit {
            return Err(Limit::SessionsPerSource);
        }
        *sessions += 1;
        Ok(true)
    }

    /// Gives it back.
    pub(crate) fn leave_source(&self, source: IpAddr) {
        let mut sources = self.live.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut sessions) = sources.entry(source) {
            *sessions.get_mut() -= 1;
            if *sessions.get() == 0 {
                sessions.remove();
            }
        }
    }

    /// Takes one of the upgraded sessions that the service may have.
    pub(crate) fn admit_upgrade(&self) -> bool {
        take(&self.live.upgrades, self.config.limits.upgrades.unwrap_or(usize::MAX))
    }

    /// Gives it back.
    pub(crate) fn leave_upgrade(&self) {
        self.live.upgrades.fetch_sub(1, Ordering::Relaxed);
    }
}

fn endpoints_choose(service: &config::Service) -> bool {
    service.upstream.tls.is_some()
        && service.upstream.protocol == UpstreamProtocol::Auto
        && service.protocol != config::Protocol::Http2
}

/// What a request over HTTP/2 says about endpoints. Whoever begins with HTTP/2 by prior knowledge knows what they
/// speak. A browser that we offer it knows nothing of them, and nearly everybody there is understands HTTP/1.1. Only
/// gRPC needs HTTP/2 to the end.
fn stands_for(agreed: bool, grpc: bool) -> Version {
    if agreed && !grpc { Version::Http1 } else { Version::Http2 }
}

fn speaks(service: &config::Service, client: Version) -> Version {
    match (service.upstream.protocol, service.protocol) {
        (UpstreamProtocol::Http1, _) => Version::Http1,
        (UpstreamProtocol::Http2, _) | (UpstreamProtocol::Auto, config::Protocol::Http2) => Version::Http2,
        (UpstreamProtocol::Auto, _) => client,
    }
}

fn take(count: &AtomicUsize, limit: usize) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1)).is_ok()
}

fn settings(process: &config::Config, service: &config::Service) -> session::Settings {
    let hashes = |policy| matches!(policy, Policy::RingHash | Policy::Maglev);
    let balance = &service.balance;
    session::Settings {
        protocol: match service.protocol {
            config::Protocol::Auto => session::Protocol::Auto,
            // Links that name their client are not shared.
            config::Protocol::Http if !service.shares_links() => session::Protocol::Http1,
            config::Protocol::Http => session::Protocol::Http,
            config::Protocol::Http1 => session::Protocol::Http1,
            config::Protocol::Http2 => session::Protocol::Http2,
            config::Protocol::Tcp => session::Protocol::Tcp,
        },
        http2: service.shares_links(),
        via: service.http.via.then(|| process.name.clone()),
        x_forwarded: forwarding(service.http.x_forwarded),
        forwarded: forwarding(service.http.forwarded),
        reason: service.http.reason,
        affinity: match &balance.affinity {
            _ if !hashes(balance.core.turn_policy) && !hashes(balance.core.session_policy) => session::Affinity::None,
            config::Affinity::Source => session::Affinity::Source,
            config::Affinity::Header(name) => session::Affinity::Header(name.to_ascii_lowercase()),
            config::Affinity::Cookie(name) => session::Affinity::Cookie(name.clone()),
        },
        header_bytes: service.limits.header_bytes,
        header_fields: service.limits.header_fields,
        uri_bytes: service.limits.uri_bytes,
        client_subject: service.tls.as_ref().and_then(|tls| tls.client_header.clone()),
        body_bytes: service.limits.body_bytes,
        body_rate: service.limits.body_rate,
        first_byte_timeout: service.timeouts.first_byte,
        header_timeout: service.timeouts.header,
        request_timeout: service.timeouts.request,
        idle_timeout: service.timeouts.idle,
        // Who serves HTTP does not speak first, or, in HTTP/2, says nothing that a client could use.
        detect_timeout: (service.upstream.protocol == UpstreamProtocol::Auto).then_some(service.timeouts.detect),
        log: process.access_log.is_some(),
    }
}

/// How long a peer may take to answer a PING.
const PONG: Duration = Duration::from_secs(10);

/// How peers of HTTP/2 connections are treated.
fn http2(service: &config::Service) -> Http2 {
    Http2 {
        streams: service.limits.streams,
        header_bytes: service.limits.header_bytes as u32,
        header_fields: service.limits.header_fields as u32,
        extended_connect: false,
        block_timeout: service.timeouts.header,
        stall_timeout: service.timeouts.stall,
        ping_timeout: service.timeouts.ping.map_or(PONG, |ping| ping.min(PONG)),
        ..Http2::default()
    }
}

fn forwarding(how: config::Forwarding) -> session::Forwarding {
    match how {
        config::Forwarding::Keep => session::Forwarding::Keep,
        config::Forwarding::Append => session::Forwarding::Append,
        config::Forwarding::Replace => session::Forwarding::Replace,
        config::Forwarding::Remove => session::Forwarding::Remove,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Protocol;

    #[test]
    fn endpoints_are_spoken_to_as_configured_or_as_their_client_speaks() {
        use Version::{Http1, Http2};
        for (protocol, upstream, to_http1, to_http2) in [
            (Protocol::Auto, UpstreamProtocol::Auto, Http1, Http2),
            (Protocol::Http, UpstreamProtocol::Auto, Http1, Http2),
            (Protocol::Http2, UpstreamProtocol::Auto, Http2, Http2),
            (Protocol::Http, UpstreamProtocol::Http1, Http1, Http1),
            (Protocol::Http2, UpstreamProtocol::Http1, Http1, Http1),
            (Protocol::Http, UpstreamProtocol::Http2, Http2, Http2),
            (Protocol::Http1, UpstreamProtocol::Http2, Http2, Http2),
        ] {
            let mut service = config::Service::new("a", Vec::new(), Vec::new());
            (service.protocol, service.upstream.protocol) = (protocol, upstream);
            assert_eq!(speaks(&service, Http1), to_http1, "{protocol:?} {upstream:?}");
            assert_eq!(speaks(&service, Http2), to_http2, "{protocol:?} {upstream:?}");
        }
    }
}
