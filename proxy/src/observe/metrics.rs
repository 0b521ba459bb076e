//! Metrics: one table says what there is, what it means and how to read it. `/metrics` and
//! `docs/metrics.md` both come from it. Everything is read when somebody asks; the data path only
//! counts.

use super::spans::{Counts, Dropped};
use super::sums::{EndpointSums, OTHER, merged};
use crate::control::Control;
use crate::now::{EndpointNow, ServiceNow};
use crate::registry::LATENCY_BOUNDS_US;
use evenkeel_core::end::{Cause, Limit};
use evenkeel_core::endpoint::Readiness;
use evenkeel_wire::grpc;
use evenkeel_wire::http2::budget::Flood;
use evenkeel_wire::session::Leave;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Endpoints of one service that have labels of their own; further ones are counted as one.
const MAX_ENDPOINTS: usize = 1000;

/// Everything that one scrape needs.
#[derive(Debug)]
struct Scrape {
    services: Vec<ServiceNow>,
    events: Vec<((String, &'static str), u64)>,
    workers: usize,
    stalled: Vec<usize>,
    uptime: f64,
    access_log_dropped: u64,
    spans: Arc<Counts>,
    reloads: crate::control::Reloads,
    process: Process,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric.
struct Metric {
    /// Without the `_total` of counters.
    name: &'static str,
    kind: Kind,
    labels: &'static str,
    help: &'static str,
    read: fn(&Scrape, &mut Samples<'_, '_>) -> fmt::Result,
}

/// Where a metric's samples go.
struct Samples<'a, 'b>(&'a mut MetricEncoder<'b>);

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Samples<'_, '_> {
    fn count(&mut self, labels: Labels<'_>, value: u64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_counter::<Labels<'_>, u64, f64>(&value, None)
    }

    fn gauge(&mut self, labels: Labels<'_>, value: f64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_gauge(&value)
    }

    fn histogram(&mut self, labels: Labels<'_>, sums: &EndpointSums) -> fmt::Result {
        let bounds = LATENCY_BOUNDS_US.iter().map(|&us| us as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(sums.latency).collect();
        let count = sums.latency.iter().sum();
        let sum = sums.latency_sum_us as f64 / 1e6;
        self.0.encode_family(&labels)?.encode_histogram::<Labels<'_>>(sum, count, &buckets, None)
    }
}

impl ServiceNow {
    /// The sums of every endpoint with a label of its own, then of all others as one.
    fn labelled(&self) -> Vec<(&str, EndpointSums)> {
        let all: Vec<(&str, &EndpointSums)> = self
            .endpoints
            .iter()
            .map(|e| (e.address.as_str(), &e.sums))
            .chain(self.departed.iter().map(|(address, sums)| (address.as_str(), sums)))
            .collect();
        let (own, others) = all.split_at(all.len().min(MAX_ENDPOINTS));
        let mut labelled: Vec<_> = own.iter().map(|&(address, sums)| (address, sums.clone())).collect();
        if !others.is_empty() {
            labelled.push((OTHER, merged(others.iter().map(|&(_, sums)| sums))));
        }
        labelled
    }
}

/// A sample for each service.
fn services(
    scrape: &Scrape,
    out: &mut Samples<'_, '_>,
    value: impl Fn(&ServiceNow) -> u64,
    counter: bool,
) -> fmt::Result {
    scrape.services.iter().try_for_each(|s| {
        let labels = vec![("service", s.name.as_str())];
        if counter { out.count(labels, value(s)) } else { out.gauge(labels, value(s) as f64) }
    })
}

/// A sample for each endpoint that has a label of its own, of what was counted for it.
fn counted(
    scrape: &Scrape,
    out: &mut Samples<'_, '_>,
    value: impl Fn(&EndpointSums) -> u64,
    counter: bool,
) -> fmt::Result {
    for service in &scrape.services {
        for (endpoint, sums) in service.labelled() {
            let labels = vec![("service", service.name.as_str()), ("endpoint", endpoint)];
            if counter { out.count(labels, value(&sums))? } else { out.gauge(labels, value(&sums) as f64)? }
        }
    }
    Ok(())
}

/// A sample for each endpoint that is known now.
fn known(scrape: &Scrape, out: &mut Samples<'_, '_>, value: impl Fn(&EndpointNow) -> f64) -> fmt::Result {
    for service in &scrape.services {
        for endpoint in service.endpoints.iter().take(MAX_ENDPOINTS) {
            out.gauge(vec![("service", &service.name), ("endpoint", &endpoint.address)], value(endpoint))?;
        }
    }
    Ok(())
}

fn causes<'a>(counts: &'a [u64]) -> impl Iterator<Item = (&'static str, u64)> + 'a {
    Cause::ALL.iter().zip(counts).filter(|&(_, &n)| n > 0).map(|(cause, &n)| (cause.as_str(), n))
}

const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

const METRICS: &[Metric] = &[
    Metric {
        name: "evenkeel_requests",
        kind: Kind::Counter,
        labels: "service, endpoint, status_class",
        help: "Turns that ended (requests; sessions of opaque protocols, class none)",
        read: |scrape, out| {
            for service in &scrape.services {
                for (endpoint, sums) in service.labelled() {
                    for (class, &n) in CLASSES.iter().zip(&sums.status).filter(|&(_, &n)| n > 0) {
                        let labels =
                            vec![("service", service.name.as_str()), ("endpoint", endpoint), ("status_class", class)];
                        out.count(labels, n)?;
                    }
                }
            }
            Ok(())
        },
    },
    Metric {
        name: "evenkeel_endpoint_turns",
        kind: Kind::Counter,
        labels: "service, endpoint",
        help: "Turns given to an endpoint, ended or not, retries included",
        read: |scrape, out| counted(scrape, out, |s| s.turns, true),
    },
    Metric {
        name: "evenkeel_turns",
        kind: Kind::Counter,
        labels: "service",
        help: "Turns that clients asked for",
        read: |scrape, out| services(scrape, out, |s| s.sums.turns, true),
    },
    Metric {
        name: "evenkeel_turns_active",
        kind: Kind::Gauge,
        labels: "service",
        help: "Turns in flight or waiting for an endpoint",
        read: |scrape, out| services(scrape, out, |s| s.sums.turns_active, false),
    },
    Metric {
        name: "evenkeel_turns_in_flight",
        kind: Kind::Gauge,
        labels: "service, endpoint",
        help: "Turns in flight at an endpoint",
        read: |scrape, out| known(scrape, out, |e| f64::from(e.view.endpoint.load.turns.load(Relaxed))),
    },
    Metric {
        name: "evenkeel_turn_failures",
        kind: Kind::Counter,
        labels: "service, cause",
        help: "Turns that failed, as clients saw it",
        read: |scrape, out| {
            scrape.services.iter().try_for_each(|s| {
                causes(&s.sums.failures)
                    .try_for_each(|(cause, n)| out.count(vec![("service", &s.name), ("cause", cause)], n))
            })
        },
    },
    Metric {
        name: "evenkeel_endpoint_failures",
        kind: Kind::Counter,
        labels: "service, endpoint, cause",
        help: "Tries that an endpoint failed, those that were retried included",
        read: |scrape, out| {
            for service in &scrape.services {
                for (endpoint, sums) in service.labelled() {
                    for (cause, n) in causes(&sums.failures) {
                        out.count(vec![("service", &service.name), ("endpoint", endpoint), ("cause", cause)], n)?;
                    }
                }
            }
            Ok(())
        },
    },
    Metric {
        name: "evenkeel_first_byte_seconds",
        kind: Kind::Histogram,
        labels: "service, endpoint",
        help: "Time from handing a turn to an endpoint to the first byte of its answer",
        read: |scrape, out| {
            scrape.services.iter().try_for_each(|s| {
                s.labelled().iter().try_for_each(|(endpoint, sums)| {
                    out.histogram(vec![("service", &s.name), ("endpoint", endpoint)], sums)
                })
            })
        },
    },
    Metric {
        name: "evenkeel_endpoint_bytes_sent",
        kind: Kind::Counter,
        labels: "service, endpoint",
        help: "Bytes sent to an endpoint",
        read: |scrape, out| counted(scrape, out, |s| s.bytes_sent, true),
    },
    Metric {
        name: "evenkeel_endpoint_bytes_received",
        kind: Kind::Counter,
        labels: "service, endpoint",
        help: "Bytes received from an endpoint",
        read: |scrape, out| counted(scrape, out, |s| s.bytes_received, true),
    },
    Metric {
        name: "evenkeel_client_bytes_received",
        kind: Kind::Counter,
        labels: "service",
        help: "Bytes received from clients",
        read: |scrape, out| services(scrape, out, |s| s.sums.bytes_received, true),
    },
    Metric {
        name: "evenkeel_client_bytes_sent",
        kind: Kind::Counter,
        labels: "service",
        help: "Bytes sent to clients",
        read: |scrape, out| services(scrape, out, |s| s.sums.bytes_sent, true),
    },
    Metric {
        name: "evenkeel_spliced_bytes",
        kind: Kind::Counter,
        labels: "service",
        help: "Bytes sent to clients and endpoints that moved inside the kernel: large bodies and streams without TLS",
        read: |scrape, out| services(scrape, out, |s| s.sums.bytes_spliced, true),
    },
    Metric {
        name: "evenkeel_sessions",
        kind: Kind::Gauge,
        labels: "service",
        help: "Client connections open",
        read: |scrape, out| services(scrape, out, |s| s.sums.sessions, false),
    },
    Metric {
        name: "evenkeel_sessions_accepted",
        kind: Kind::Counter,
        labels: "service",
        help: "Client connections accepted",
        read: |scrape, out| services(scrape, out, |s| s.sums.accepted, true),
    },
    Metric {
        name: "evenkeel_session_ends",
        kind: Kind::Counter,
        labels: "service, cause",
        help: "Client connections that ended, by cause",
        read: |scrape, out| {
            scrape.services.iter().try_for_each(|s| {
                causes(&s.sums.ends)
                    .try_for_each(|(cause, n)| out.count(vec![("service", &s.name), ("cause", cause)], n))
            })
        },
    },
    Metric {
        name: "evenkeel_sessions_asked",
        kind: Kind::Counter,
        labels: "service, reason",
        help: "Sessions asked to go by their protocol's means: moved (for balance), endpoint-drained, shutdown",
        read: |scrape, out| {
            scrape.services.iter().try_for_each(|s| {
                let reasons = Leave::ALL.iter().zip(s.sums.asked);
                reasons
                    .into_iter()
                    .try_for_each(|(reason, n)| out.count(vec![("service", &s.name), ("reason", reason.as_str())], n))
            })
        },
    },
    Metric {
        name: "evenkeel_moves_needed",
        kind: Kind::Gauge,
        labels: "service",
        help: "Sessions that would have to move for their counts to be even",
        read: |scrape, out| services(scrape, out, |s| u64::from(s.rebalance.needed), false),
    },
    Metric {
        name: "evenkeel_endpoint_sessions",
        kind: Kind::Gauge,
        labels: "service, endpoint",
        help: "Sessions placed whole on an endpoint (opaque protocols, upgrades)",
        read: |scrape, out| known(scrape, out, |e| f64::from(e.view.endpoint.load.sessions.load(Relaxed))),
    },
    Metric {
        name: "evenkeel_links",
        kind: Kind::Gauge,
        labels: "service, endpoint",
        help: "Upstream connections open",
        read: |scrape, out| counted(scrape, out, |s| s.links, false),
    },
    Metric {
        name: "evenkeel_links_idle",
        kind: Kind::Gauge,
        labels: "service, endpoint",
        help: "Upstream connections idle in their pool",
        read: |scrape, out| counted(scrape, out, |s| s.idle_links, false),
    },
    Metric {
        name: "evenkeel_connects",
        kind: Kind::Counter,
        labels: "service, endpoint",
        help: "Upstream connections begun",
        read: |scrape, out| counted(scrape, out, |s| s.connects, true),
    },
    Metric {
        name: "evenkeel_retries",
        kind: Kind::Counter,
        labels: "service",
        help: "Turns tried again on another endpoint, on the retry budget",
        read: |scrape, out| services(scrape, out, |s| s.sums.retries, true),
    },
    Metric {
        name: "evenkeel_retries_refused",
        kind: Kind::Counter,
        labels: "service",
        help: "Retries not made because the budget was used up",
        read: |scrape, out| services(scrape, out, |s| s.sums.retries_refused, true),
    },
    Metric {
        name: "evenkeel_limit_hits",
        kind: Kind::Counter,
        labels: "service, limit",
        help: "How often a limit refused or ended something, by the name of its key (`descriptors`: the open files of the process)",
        read: |scrape, out| {
            scrape.services.iter().try_for_each(|s| {
                let hits = Limit::ALL.iter().zip(s.sums.limits).filter(|&(_, n)| n > 0);
                hits.into_iter().try_for_each(|(limit, n)| {
                    out.count(vec![("service", s.name.as_str()), ("limit", limit.as_str())], n)
                })
            })
        },
    },
    Metric {
        name: "evenkeel_http2_floods",
        kind: Kind::Counter,
        labels: "service, peer, kind",
        help: "HTTP/2 connections that ended with ENHANCE_YOUR_CALM for what a client or an endpoint did too often, by what it was",
        read: |scrape, out| {
            scrape.services.iter().try_for_each(|s| {
                ["client", "endpoint"].into_iter().zip(s.sums.floods).try_for_each(|(peer, floods)| {
                    let seen = Flood::ALL.iter().zip(floods).filter(|&(_, n)| n > 0);
                    seen.into_iter().try_for_each(|(flood, n)| {
                        out.count(vec![("service", s.name.as_str()), ("peer", peer), ("kind", flood.as_str())], n)
                    })
                })
            })
        },
    },
    Metric {
        name: "evenkeel_grpc_calls",
        kind: Kind::Counter,
        labels: "service, grpc_status",
        help: "gRPC calls that ended, by status, as clients saw it: that of the endpoint or of evenkeel, 1 if the client gave up, or what clients make of an answer without; `other`: a status that is none",
        read: |scrape, out| {
            scrape.services.iter().try_for_each(|s| {
                let counts = s.sums.calls.iter().enumerate().filter(|&(_, &n)| n > 0);
                counts.into_iter().try_for_each(|(status, &n)| {
                    let status = if status < grpc::status::COUNT { status.to_string() } else { OTHER.into() };
                    out.count(vec![("service", s.name.as_str()), ("grpc_status", &status)], n)
                })
            })
        },
    },
    Metric {
        name: "evenkeel_tls_handshakes",
        kind: Kind::Counter,
        labels: "service",
        help: "TLS handshakes with clients that were completed; those that failed are sessions that ended with cause client-tls",
        read: |scrape, out| services(scrape, out, |s| s.sums.handshakes, true),
    },
    Metric {
        name: "evenkeel_certificate_expiry_timestamp_seconds",
        kind: Kind::Gauge,
        labels: "service",
        help: "When the first of a service's certificates ends, seconds since 1970",
        read: |scrape, out| {
            scrape.services.iter().try_for_each(|s| match s.certificate_expires {
                Some(at) => out.gauge(vec![("service", s.name.as_str())], at as f64),
                None => Ok(()),
            })
        },
    },
    Metric {
        name: "evenkeel_share_ratio",
        kind: Kind::Gauge,
        labels: "service, endpoint",
        help: "An endpoint's part of the turns of the last 10 s, of those of endpoints that may be picked if it may",
        read: |scrape, out| known(scrape, out, |e| e.share),
    },
    Metric {
        name: "evenkeel_fair_share_ratio",
        kind: Kind::Gauge,
        labels: "service, endpoint",
        help: "What its part should be, by weight, slow start and health",
        read: |scrape, out| known(scrape, out, |e| e.view.fair_share),
    },
    Metric {
        name: "evenkeel_skew_ratio",
        kind: Kind::Gauge,
        labels: "service, of",
        help: "Highest share by fair share, of turns (last 10 s) or sessions; 1 is even",
        read: |scrape, out| {
            for service in &scrape.services {
                for (of, skew) in [("turns", service.turn_skew), ("sessions", service.session_skew)] {
                    if let Some(skew) = skew {
                        out.gauge(vec![("service", &service.name), ("of", of)], skew.skew)?;
                    }
                }
            }
            Ok(())
        },
    },
    Metric {
        name: "evenkeel_endpoints",
        kind: Kind::Gauge,
        labels: "service, state",
        help: "Endpoints: usable, unusable, terminating, not-ready",
        read: |scrape, out| {
            for service in &scrape.services {
                for state in ["usable", "unusable", "terminating", "not-ready"] {
                    let of = |e: &&EndpointNow| match (e.view.usable, e.view.readiness) {
                        (true, _) => "usable",
                        (false, Readiness::Ready) => "unusable",
                        (false, Readiness::Terminating) => "terminating",
                        (false, Readiness::NotReady) => "not-ready",
                    };
                    let n = service.endpoints.iter().filter(|e| of(e) == state).count();
                    out.gauge(vec![("service", &service.name), ("state", state)], n as f64)?;
                }
            }
            Ok(())
        },
    },
    Metric {
        name: "evenkeel_events",
        kind: Kind::Counter,
        labels: "service, kind",
        help: "Events: added, removed, ejected, readmitted, healthy, unhealthy, panic, calm, source-failed, source-recovered, drained, undrained, certificate-renewed, certificate-failed, rebalancing, rebalanced, rebalance-paused; without service: reloaded, reload-failed",
        read: |scrape, out| {
            scrape
                .events
                .iter()
                .try_for_each(|((service, kind), n)| out.count(vec![("service", service), ("kind", kind)], *n))
        },
    },
    Metric {
        name: "evenkeel_source_up",
        kind: Kind::Gauge,
        labels: "service, target",
        help: "1 if a source of endpoints is well, 0 if it failed (its last good set is in use)",
        read: |scrape, out| {
            for service in &scrape.services {
                for source in &service.sources {
                    let labels = vec![("service", service.name.as_str()), ("target", source.target.as_str())];
                    out.gauge(labels, f64::from(u8::from(source.error.is_none())))?;
                }
            }
            Ok(())
        },
    },
    Metric {
        name: "evenkeel_access_log_dropped",
        kind: Kind::Counter,
        labels: "",
        help: "Access log lines dropped because standard output was too slow",
        read: |scrape, out| out.count(vec![], scrape.access_log_dropped),
    },
    Metric {
        name: "evenkeel_spans_exported",
        kind: Kind::Counter,
        labels: "",
        help: "Spans that a collector took",
        read: |scrape, out| out.count(vec![], scrape.spans.exported.load(Relaxed)),
    },
    Metric {
        name: "evenkeel_spans_dropped",
        kind: Kind::Counter,
        labels: "reason",
        help: "Spans dropped: queue-full (more than `tracing.queue` waited), refused (by the collector), unreachable (it was, or had no time, five times in a row)",
        read: |scrape, out| {
            let dropped = Dropped::ALL.iter().zip(&scrape.spans.dropped);
            dropped.into_iter().try_for_each(|(why, n)| out.count(vec![("reason", why.as_str())], n.load(Relaxed)))
        },
    },
    Metric {
        name: "evenkeel_span_export_failures",
        kind: Kind::Counter,
        labels: "",
        help: "Attempts to send spans that failed, those that were made again included",
        read: |scrape, out| out.count(vec![], scrape.spans.failures.load(Relaxed)),
    },
    Metric {
        name: "evenkeel_workers",
        kind: Kind::Gauge,
        labels: "",
        help: "Worker threads",
        read: |scrape, out| out.gauge(vec![], scrape.workers as f64),
    },
    Metric {
        name: "evenkeel_workers_stalled",
        kind: Kind::Gauge,
        labels: "",
        help: "Worker threads that have been busy with one turn of their loop for more than a second",
        read: |scrape, out| out.gauge(vec![], scrape.stalled.len() as f64),
    },
    Metric {
        name: "evenkeel_build_info",
        kind: Kind::Gauge,
        labels: "version",
        help: "Always 1",
        read: |_, out| out.gauge(vec![("version", env!("CARGO_PKG_VERSION"))], 1.0),
    },
    Metric {
        name: "evenkeel_config_reloads",
        kind: Kind::Counter,
        labels: "result",
        help: "Configurations read: ok (took effect, the first one included), failed (changed nothing)",
        read: |scrape, out| {
            out.count(vec![("result", "ok")], scrape.reloads.generation)?;
            out.count(vec![("result", "failed")], scrape.reloads.failed)
        },
    },
    Metric {
        name: "evenkeel_config_last_reload_successful",
        kind: Kind::Gauge,
        labels: "",
        help: "1: the configuration that runs is the one in the file; 0: the file is wrong (GET /api/v1/config says why)",
        read: |scrape, out| out.gauge(vec![], if scrape.reloads.error.is_none() { 1.0 } else { 0.0 }),
    },
    Metric {
        name: "evenkeel_uptime_seconds",
        kind: Kind::Gauge,
        labels: "",
        help: "Seconds since the process began to serve",
        read: |scrape, out| out.gauge(vec![], scrape.uptime),
    },
    Metric {
        name: "process_resident_memory_bytes",
        kind: Kind::Gauge,
        labels: "",
        help: "Resident memory",
        read: |scrape, out| out.gauge(vec![], scrape.process.resident),
    },
    Metric {
        name: "process_open_fds",
        kind: Kind::Gauge,
        labels: "",
        help: "Open file descriptors",
        read: |scrape, out| out.gauge(vec![], scrape.process.fds),
    },
    Metric {
        name: "process_cpu_seconds",
        kind: Kind::Counter,
        labels: "",
        help: "Processor time, user and system",
        read: |scrape, out| {
            let labels: Labels<'_> = vec![];
            out.0.encode_family(&labels)?.encode_counter::<Labels<'_>, f64, f64>(&scrape.process.cpu, None)
        },
    },
];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in METRICS {
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut samples = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            (metric.read)(self, &mut Samples(&mut samples))?;
        }
        Ok(())
    }
}

/// What the kernel says of this process; zeros where it does not.
#[derive(Clone, Copy, Debug, Default)]
struct Process {
    resident: f64,
    fds: f64,
    cpu: f64,
}

impl Process {
    fn now() -> Self {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let resident = pages.split(' ').nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) * 4096.0;
        let fds = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as f64;
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // Fields 14 and 15, counted behind the name, which may have spaces; in ticks of 10 ms.
        let after = stat.rsplit(") ").next().unwrap_or_default();
        let ticks = after.split(' ').skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum::<f64>();
        Self { resident, fds, cpu: ticks / 100.0 }
    }
}

/// The text that `/metrics` answers (OpenMetrics 1.0).
pub(crate) async fn scrape(control: &Control) -> Result<String, fmt::Error> {
    let scrape = Scrape {
        services: control.now().await,
        events: control.events.counts(),
        workers: control.workers.len(),
        stalled: control.stalled(),
        uptime: control.clock.origin().elapsed().as_secs_f64(),
        access_log_dropped: control.registry.access_log_dropped.load(Relaxed),
        spans: control.registry.spans.clone(),
        reloads: control.reloads.lock().map(|r| r.clone()).unwrap_or_default(),
        process: Process::now(),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// `docs/metrics.md`.
pub fn reference() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         Generated from the program by `cargo xtask generate`; a test compares them.\n\n\
         `GET /metrics` at the admin address answers in OpenMetrics text, which Prometheus reads.\n\
         The label `endpoint` has at most 1,000 values for each service; further endpoints are counted as `other`.\n\n\
         | Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n",
    );
    for metric in METRICS {
        let (suffix, kind) = match metric.kind {
            Kind::Counter => ("_total", "counter"),
            Kind::Gauge => ("", "gauge"),
            Kind::Histogram => ("", "histogram"),
        };
        // Writing into a string cannot fail.
        let _infallible =
            writeln!(text, "| `{}{suffix}` | {kind} | {} | {} |", metric.name, metric.labels, metric.help);
    }
    text.push_str("\nCauses (labels `cause`):\n\n");
    for cause in Cause::ALL {
        let _infallible = writeln!(text, "* `{cause}`");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_is_the_one_of_this_program() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let manual = std::fs::read_to_string(path).unwrap_or_default();
        assert!(manual == reference(), "docs/metrics.md is out of date: run cargo xtask generate");
    }

    #[test]
    fn names_follow_the_conventions() {
        for metric in METRICS {
            assert!(metric.name.starts_with("evenkeel_") || metric.name.starts_with("process_"), "{}", metric.name);
            assert!(!metric.name.ends_with("_total") && !metric.help.ends_with('.'), "{}", metric.name);
        }
    }
}
