//! A service as workers and control share it.

use crate::config;
use crate::registry::ServiceEntry;
use evenkeel_core::balancer::Policy;
use evenkeel_wire::session;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A service as it is configured now, and what outlives a change of that.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) index: u32,
    pub(crate) config: config::Service,
    /// The part of the configuration that sessions read.
    pub(crate) settings: session::Settings,
    pub(crate) entry: Arc<ServiceEntry>,
    sessions: Arc<AtomicUsize>,
}

impl Service {
    pub(crate) fn new(index: u32, process: &config::Config, config: config::Service, entry: Arc<ServiceEntry>) -> Self {
        Self { index, settings: settings(process, &config), config, entry, sessions: Arc::default() }
    }

    /// The same service under another configuration.
    pub(crate) fn changed(&self, process: &config::Config, config: config::Service) -> Self {
        let (settings, entry, sessions) = (settings(process, &config), self.entry.clone(), self.sessions.clone());
        Self { index: self.index, settings, config, entry, sessions }
    }

    /// Takes one of the sessions that the service may have; false: it has them all.
    pub(crate) fn admit(&self) -> bool {
        let limit = self.config.limits.sessions;
        self.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1)).is_ok()
    }

    /// Gives it back.
    pub(crate) fn leave(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

fn settings(process: &config::Config, service: &config::Service) -> session::Settings {
    let hashes = |policy| matches!(policy, Policy::RingHash | Policy::Maglev);
    let balance = &service.balance;
    session::Settings {
        protocol: match service.protocol {
            config::Protocol::Auto => session::Protocol::Auto,
            config::Protocol::Http1 => session::Protocol::Http1,
            config::Protocol::Tcp => session::Protocol::Tcp,
        },
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
        header_timeout: service.timeouts.header,
        request_timeout: service.timeouts.request,
        idle_timeout: service.timeouts.idle,
        detect_timeout: service.timeouts.detect,
        log: process.access_log.is_some(),
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
