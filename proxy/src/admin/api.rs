//! `/api/v1`: services, endpoints, sessions and events as JSON; drains.

use crate::control::{Control, Controlled, EndpointNow, ServiceNow};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event as Sse, KeepAlive, Sse as Stream};
use axum::response::{IntoResponse, Response};
use evenkeel_core::balancer::{Input, RebalanceView};
use evenkeel_core::end::Cause;
use evenkeel_core::endpoint::Readiness;
use evenkeel_core::skew::Skew;
use evenkeel_wire::session::Leave;
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::broadcast::error::RecvError;

/// Sessions that one answer describes, for each worker, unless fewer are asked for.
const MAX_SESSIONS: usize = 1000;

/// An answer that says no, and what to do instead.
pub(super) struct Refusal {
    status: StatusCode,
    error: String,
    remedy: &'static str,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, remedy: &'static str) -> Self {
        Self { status, error: error.into(), remedy }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(json!({"error": self.error, "remedy": self.remedy}))).into_response()
    }
}

fn find(control: &Control, name: &str) -> Result<Arc<Controlled>, Refusal> {
    control.service(name).ok_or_else(|| {
        Refusal::new(StatusCode::NOT_FOUND, format!("no service {name:?}"), "GET /api/v1/services lists them")
    })
}

pub(super) async fn services(State(control): State<Arc<Control>>) -> Json<Value> {
    let mut services = Vec::new();
    for service in control.services() {
        services.push(summary(&service.now().await));
    }
    Json(json!({"name": control.name, "version": env!("CARGO_PKG_VERSION"), "services": services}))
}

pub(super) async fn service(
    State(control): State<Arc<Control>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let now = find(&control, &name)?.now().await;
    let mut value = summary(&now);
    value["endpoints"] = now.endpoints.iter().map(endpoint).collect();
    Ok(Json(value))
}

pub(super) async fn endpoints(
    State(control): State<Arc<Control>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let now = find(&control, &name)?.now().await;
    Ok(Json(json!({"service": name, "endpoints": now.endpoints.iter().map(endpoint).collect::<Vec<_>>()})))
}

fn summary(now: &ServiceNow) -> Value {
    let sources: Vec<Value> =
        now.sources.iter().map(|s| json!({"target": s.target, "endpoints": s.endpoints, "error": s.error})).collect();
    let failures: serde_json::Map<String, Value> = by_cause(&now.sums.failures);
    json!({
        "name": now.name,
        "listen": now.listening,
        "protocol": now.protocol,
        "policy": now.policy,
        "sources": sources,
        "sessions": now.sums.sessions,
        "sessions_accepted": now.sums.accepted,
        "turns": now.sums.turns,
        "turns_active": now.sums.turns_active,
        "failures": failures,
        "retries": now.sums.retries,
        "retries_refused": now.sums.retries_refused,
        "endpoints_known": now.endpoints.len(),
        "endpoints_usable": now.endpoints.iter().filter(|e| e.view.usable).count(),
        "moves": {
            "asked": Leave::ALL.iter().zip(now.sums.asked).map(|(why, n)| (why.as_str().into(), n.into()))
                .collect::<serde_json::Map<String, Value>>(),
        },
        "rebalance": rebalance(&now.rebalance),
        "skew": {"turns": figures(now.turn_skew), "sessions": figures(now.session_skew)},
    })
}

/// What rebalancing would do now, in figures and in a sentence.
fn rebalance(view: &RebalanceView) -> Value {
    let RebalanceView { enabled, active, paused, skew, needed, away, moves } = *view;
    let state = match (enabled, paused, active) {
        (false, ..) => "off",
        (_, Some(_), _) => "paused",
        (.., true) => "active",
        _ => "calm",
    };
    let sentence = match (state, needed) {
        (_, 0) => format!("session counts are even (skew {skew:.2}); nothing would move"),
        ("off", _) => format!("{needed} sessions would have to move (skew {skew:.2}), but rebalancing is off"),
        ("paused", _) => format!(
            "{needed} sessions would have to move (skew {skew:.2}), but clients that were asked to did not come back: \
             none is asked for {:.0} s more",
            paused.unwrap_or_default().as_secs_f64()
        ),
        ("active", _) => format!("{needed} sessions are being moved (skew {skew:.2}); {away} are on their way"),
        _ => format!("{needed} sessions would make it even, but skew {skew:.2} is not above the limit"),
    };
    json!({"state": state, "skew": skew, "would_move": needed, "away": away, "moves": moves, "sentence": sentence})
}

/// The configuration that runs, and how reading it again went.
pub(super) async fn config(State(control): State<Arc<Control>>) -> Json<Value> {
    Json(json!(control.reloads.lock().map(|r| r.clone()).unwrap_or_default()))
}

fn figures(skew: Option<Skew>) -> Value {
    skew.map_or(Value::Null, |s| {
        json!({"skew": s.skew, "cv": s.cv, "jain": s.jain, "effective_endpoints": s.effective, "chance_level": s.chance})
    })
}

fn by_cause(counts: &[u64]) -> serde_json::Map<String, Value> {
    Cause::ALL.iter().zip(counts).filter(|&(_, &n)| n > 0).map(|(c, &n)| (c.to_string(), n.into())).collect()
}

fn endpoint(now: &EndpointNow) -> Value {
    let (view, sums) = (&now.view, &now.sums);
    let load = &view.endpoint.load;
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
        "weight": view.weight,
        "effective_weight": view.effective_weight,
        "share": now.share,
        "fair_share": view.fair_share,
        "session_share": now.session_share,
        "sessions": load.sessions.load(Relaxed),
        "sessions_leaving": load.leaving.load(Relaxed),
        "turns_in_flight": load.turns.load(Relaxed),
        "turns": sums.turns,
        "failures": by_cause(&sums.failures),
        "first_byte_ms": {"p50": sums.latency_ms(0.5), "p99": sums.latency_ms(0.99)},
        "bytes": {"sent": sums.bytes_sent, "received": sums.bytes_received},
        "links": {"open": sums.links, "idle": sums.idle_links, "opened": sums.connects},
        "why": view.explanation,
    })
}

pub(super) async fn drain(control: State<Arc<Control>>, path: Path<(String, String)>, headers: HeaderMap) -> Response {
    set_drain(&control, &path, &headers, true).await.into_response()
}

pub(super) async fn undrain(
    control: State<Arc<Control>>,
    path: Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    set_drain(&control, &path, &headers, false).await.into_response()
}

async fn set_drain(
    control: &Control,
    (name, address): &(String, String),
    headers: &HeaderMap,
    drains: bool,
) -> Result<Json<Value>, Refusal> {
    own_request(headers)?;
    let service = find(control, name)?;
    let views = service.pump.explain().await.endpoints;
    let Some(view) = views.iter().find(|v| v.endpoint.address.to_string() == *address) else {
        let error = format!("service {name:?} has no endpoint {address:?}");
        return Err(Refusal::new(StatusCode::NOT_FOUND, error, "GET …/endpoints lists them"));
    };
    service.pump.input(Input::Drain(view.endpoint.id, drains));
    let kind = if drains { "drained" } else { "undrained" };
    control.events.note(name, kind, address.clone(), "by the admin API".into());
    Ok(Json(json!({"service": name, "endpoint": address, "drained": drains})))
}

/// Refuses what a web page elsewhere may have made a browser send (cross-site requests, DNS rebinding).
fn own_request(headers: &HeaderMap) -> Result<(), Refusal> {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    if headers.contains_key(header::ORIGIN) || !(name == "localhost" || name.parse::<std::net::IpAddr>().is_ok()) {
        let error = "changes are only taken from clients that are no web pages and use an address as Host";
        return Err(Refusal::new(StatusCode::FORBIDDEN, error, "use curl with the IP address"));
    }
    Ok(())
}

#[derive(Deserialize)]
pub(super) struct Limit {
    limit: Option<usize>,
}

pub(super) async fn sessions(State(control): State<Arc<Control>>, Query(limit): Query<Limit>) -> Response {
    let limit = limit.limit.unwrap_or(100).min(MAX_SESSIONS);
    // Workers answer between two turns of their loops; waiting for them must not stop the rest.
    match tokio::task::spawn_blocking(move || control.sessions(limit)).await {
        Ok(sessions) => Json(json!({"sessions": sessions})).into_response(),
        Err(_) => {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "sessions could not be read", "see the log").into_response()
        }
    }
}

/// What happened lately, and what happens from now on, as server-sent events.
pub(super) async fn events(State(control): State<Arc<Control>>) -> impl IntoResponse {
    let (past, stream) = control.events.follow();
    let start = (past.into_iter(), stream);
    let events = futures_util::stream::unfold(start, |(mut past, mut stream)| async move {
        let event = match past.next() {
            Some(event) => event,
            None => loop {
                match stream.recv().await {
                    Ok(event) => break event,
                    // Too slow: some are missing, which the ids show.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            },
        };
        let sse = Sse::default().id(event.id.to_string()).event(event.kind);
        let sse = sse.json_data(&event).unwrap_or_default();
        Some((Ok::<_, Infallible>(sse), (past, stream)))
    });
    Stream::new(events).keep_alive(KeepAlive::default())
}
