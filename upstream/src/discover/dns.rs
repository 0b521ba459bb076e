//! Endpoints from DNS: the addresses of a headless Service, or SRV records.
//!
//! A name with IPv4 and IPv6 addresses has its Pods twice: IPv4 is used, and IPv6 where there is no IPv4.
//!
//! Asked again when the answer's time is over (with some jitter, so that many evenkeels do not ask at
//! once), or when an endpoint failed and the answer may be out of date. A failure keeps the last good
//! set; "no such name" is one too, for a name server that just restarted says so of every name.

use super::{Sink, Update};
use evenkeel_core::endpoint::{EndpointSpec, Readiness};
use evenkeel_core::rng::Rng;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, TokioResolver};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Answers live at least this long, whatever they say.
const MIN_LIFE: Duration = Duration::from_secs(1);
/// And at most this long: a headless Service can change any time.
const MAX_LIFE: Duration = Duration::from_secs(30);
/// Longest wait for an answer, all name servers, tries and record types together.
const PATIENCE: Duration = Duration::from_secs(8);
/// Wait after a first failure; doubled with every further one, up to [`MAX_LIFE`].
const RETRY: Duration = Duration::from_secs(1);

pub(super) enum Question {
    /// A or AAAA, and the port.
    Addresses(String, u16),
    /// SRV.
    Services(String),
}

impl Question {
    fn name(&self) -> &str {
        match self {
            Self::Addresses(name, _) | Self::Services(name) => name,
        }
    }
}

pub(super) async fn run(question: Question, server: Option<SocketAddr>, again: Arc<Notify>, sink: Sink) {
    let mut rng = Rng::seeded(jitter_seed());
    let mut last: Option<Update> = None;
    let mut failures = 0u32;
    loop {
        let answer = match tokio::time::timeout(PATIENCE, ask(&question, server)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("{}: no answer within {PATIENCE:?}", question.name())),
        };
        let (update, life) = match answer {
            Ok((mut endpoints, life)) => {
                failures = 0;
                endpoints.sort_by(|a, b| a.address.cmp(&b.address));
                endpoints.dedup_by(|a, b| a.address == b.address);
                (Ok(endpoints), life.clamp(MIN_LIFE, MAX_LIFE))
            }
            Err(error) => {
                failures += 1;
                (Err(error), (RETRY * 2u32.saturating_pow(failures - 1)).min(MAX_LIFE))
            }
        };
        if last.as_ref() != Some(&update) {
            last = Some(update.clone());
            sink.say(update).await;
        }
        let wait = life.mul_f64(0.9 + 0.2 * rng.unit());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = async {
                // However much fails, one question a second.
                tokio::time::sleep(MIN_LIFE).await;
                again.notified().await;
            } => {}
        }
    }
}

async fn ask(question: &Question, server: Option<SocketAddr>) -> Result<(Vec<EndpointSpec>, Duration), String> {
    let resolver = resolver(server).map_err(|error| format!("no name servers: {error}"))?;
    match question {
        Question::Addresses(name, port) => {
            let answer = resolver.lookup_ip(name.as_str()).await.map_err(|error| format!("{name}: {error}"))?;
            let endpoints = answer.iter().map(|ip| EndpointSpec::at(SocketAddr::new(ip, *port))).collect();
            Ok((endpoints, answer.valid_until().saturating_duration_since(Instant::now())))
        }
        Question::Services(name) => services(&resolver, name).await,
    }
}

/// The targets of the lowest-numbered priority are ready; the others are known, in case they are
/// needed. Weights are as in the records, 0 meaning "hardly ever" (RFC 2782).
async fn services(resolver: &TokioResolver, name: &str) -> Result<(Vec<EndpointSpec>, Duration), String> {
    let answer = resolver.srv_lookup(name).await.map_err(|error| format!("{name}: {error}"))?;
    let mut life = answer.valid_until().saturating_duration_since(Instant::now());
    let records: Vec<_> = answer
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(srv.clone()),
            _ => None,
        })
        .collect();
    let first = records.iter().map(|r| r.priority).min().unwrap_or(0);
    let mut endpoints = Vec::new();
    for record in records {
        let target = record.target.to_string();
        let answer = resolver.lookup_ip(target.as_str()).await.map_err(|error| format!("{target}: {error}"))?;
        life = life.min(answer.valid_until().saturating_duration_since(Instant::now()));
        for ip in answer.iter() {
            let mut spec = EndpointSpec::at(SocketAddr::new(ip, record.port));
            spec.weight = f64::from(record.weight).max(0.01);
            if record.priority != first {
                spec.readiness = Readiness::NotReady;
            }
            endpoints.push(spec);
        }
    }
    Ok((endpoints, life))
}

/// A resolver per question: its cache would only answer what we ask because we doubt it, and the
/// system's configuration may have changed.
fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, String> {
    let mut builder = match server {
        None => Resolver::builder_tokio().map_err(|error| error.to_string())?,
        Some(server) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            let name_server = NameServerConfig::new(server.ip(), true, connections.into());
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![name_server]);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    builder.build().map_err(|error| error.to_string())
}

fn jitter_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
