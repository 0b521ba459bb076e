//! Services and endpoints as JSON.

use super::why;
use crate::now::{Ages, EndpointNow, ServiceNow};
use evenkeel_core::balancer::{RebalanceView, Standing};
use evenkeel_core::end::Cause;
use evenkeel_core::endpoint::Readiness;
use evenkeel_core::skew::Skew;
use evenkeel_core::time::Duration;
use evenkeel_wire::session::Leave;
use serde_json::{Value, json};
use std::sync::atomic::Ordering::Relaxed;

/// A service without its endpoints.
pub(super) fn summary(now: &ServiceNow) -> Value {
    let sources: Vec<Value> =
        now.sources.iter().map(|s| json!({"target": s.target, "endpoints": s.endpoints, "error": s.error})).collect();
    let asked = Leave::ALL.iter().zip(now.sums.asked).map(|(why, n)| (why.as_str().into(), n.into()));
    json!({
        "name": now.name,
        "listen": now.listening,
        "protocol": now.protocol,
        "policy": now.turn_policy.as_str(),
        "session_policy": now.session_policy.as_str(),
        "sources": sources,
        "sessions": now.sums.sessions,
        "sessions_accepted": now.sums.accepted,
        "turns": now.sums.turns,
        "turns_per_second": rounded(now.rate),
        "turns_active": now.sums.turns_active,
        "turns_in_flight": now.in_flight(),
        "failures": by_cause(&now.sums.failures),
        "failed_lately": now.lately.failures,
        "retries": now.sums.retries,
        "retries_refused": now.sums.retries_refused,
        "endpoints_known": now.endpoints.len(),
        "endpoints_usable": now.usable(),
        "moves": {"asked": asked.collect::<serde_json::Map<String, Value>>()},
        "rebalance": rebalance(&now.rebalance),
        "measure": now.measure.as_str(),
        "skew": {"turns": figures(now.turn_skew), "sessions": figures(now.session_skew)},
    })
}

/// Skew of a service's work in the last two minutes, second by second, oldest first.
pub(super) fn history(now: &ServiceNow) -> Vec<Option<f64>> {
    now.skews.iter().map(|skew| skew.map(rounded)).collect()
}

/// What rebalancing would do now, in figures and in a sentence.
fn rebalance(view: &RebalanceView) -> Value {
    json!({
        "state": why::rebalance_state(view),
        "skew": view.skew,
        "limit": view.limit,
        "would_move": view.needed,
        "away": view.away,
        "moves": view.moves,
        "sentence": why::rebalance(view),
    })
}

fn figures(skew: Option<Skew>) -> Value {
    skew.map_or(Value::Null, |s| {
        json!({"skew": s.skew, "cv": s.cv, "jain": s.jain, "effective_endpoints": s.effective, "chance_level": s.chance})
    })
}

fn by_cause(counts: &[u64]) -> serde_json::Map<String, Value> {
    Cause::ALL.iter().zip(counts).filter(|&(_, &n)| n > 0).map(|(c, &n)| (c.to_string(), n.into())).collect()
}

/// One endpoint.
pub(super) fn endpoint(now: &EndpointNow) -> Value {
    let (view, sums) = (&now.view, &now.sums);
    let (grounds, left) = match view.standing {
        Standing::Ejected { grounds, left } => (Some(grounds.to_string()), Some(left)),
        Standing::Probation { grounds } => (Some(grounds.to_string()), None),
        Standing::SlowStart { left, .. } => (None, Some(left)),
        _ => (None, None),
    };
    json!({
        "address": now.address,
        "name": view.endpoint.name,
        "zone": view.endpoint.zone,
        "readiness": match view.readiness {
            Readiness::Ready => "ready",
            Readiness::Terminating => "terminating",
            Readiness::NotReady => "not-ready",
        },
        "usable": view.usable,
        "state": view.standing.as_str(),
        "state_seconds": view.since.map(seconds),
        "state_left_seconds": left.map(seconds),
        "state_reason": grounds,
        "weight": view.weight,
        "effective_weight": view.effective_weight,
        "share": now.share,
        "fair_share": view.fair_share,
        "session_share": now.session_share,
        "fair_sessions": view.fair_sessions,
        "sessions": now.sessions(),
        "sessions_leaving": view.endpoint.load.leaving.load(Relaxed),
        "turns_in_flight": now.in_flight(),
        "turns": sums.turns,
        "turns_per_second": rounded(now.rate),
        "failures": by_cause(&sums.failures),
        "failed_lately": now.failed_lately,
        "first_byte_ms": {"p50": sums.latency_ms(0.5), "p99": sums.latency_ms(0.99)},
        "bytes": {"sent": sums.bytes_sent, "received": sums.bytes_received},
        "links": {"open": sums.links, "idle": sums.idle_links, "opened": sums.connects},
        "why": view.explanation,
    })
}

/// Ages of sessions, in seconds.
pub(super) fn ages(ages: Option<&Ages>) -> Value {
    ages.map_or(Value::Null, |a| {
        json!({
            "count": a.count,
            "youngest": seconds(a.youngest),
            "median": seconds(a.median),
            "oldest": seconds(a.oldest),
        })
    })
}

fn seconds(time: Duration) -> f64 {
    rounded(time.as_secs_f64())
}

/// Two decimals: more would be noise that a stream carries every second.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
