//! `/api/v1`: services, endpoints, sessions and events as JSON; drains.

use super::json::{endpoint, summary};
use crate::config;
use crate::control::{Control, Controlled};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event as Sse, KeepAlive, Sse as Stream};
use axum::response::{IntoResponse, Response};
use evenkeel_core::balancer::{EndpointView, Input};
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;

/// Sessions that one answer describes, for each worker, unless fewer are asked for.
const MAX_SESSIONS: usize = 1000;

/// An answer that says no, and what to do instead.
pub(super) struct Refusal {
    status: StatusCode,
    error: String,
    remedy: &'static str,
    /// Names that may have been meant.
    near: Vec<String>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, remedy: &'static str) -> Self {
        Self { status, error: error.into(), remedy, near: Vec::new() }
    }

    /// There is nothing of that name.
    fn unknown(what: &str, name: &str, known: &[String], remedy: &'static str) -> Self {
        let mut refusal = Self::new(StatusCode::NOT_FOUND, format!("{what} {name:?}"), remedy);
        refusal.near = config::near(name, known.iter().map(String::as_str));
        refusal
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({"error": self.error, "remedy": self.remedy, "did_you_mean": self.near});
        (self.status, Json(body)).into_response()
    }
}

pub(super) fn find(control: &Control, name: &str) -> Result<Arc<Controlled>, Refusal> {
    control.service(name).ok_or_else(|| {
        let known: Vec<String> = control.services().iter().map(|service| service.name()).collect();
        Refusal::unknown("no service", name, &known, "GET /api/v1/services lists them")
    })
}

/// The index of the endpoint with this address or name.
pub(super) fn position<'a>(
    service: &str,
    wanted: &str,
    endpoints: impl Iterator<Item = &'a EndpointView> + Clone,
) -> Result<usize, Refusal> {
    let address = |view: &EndpointView| view.endpoint.address.to_string();
    let name = |view: &EndpointView| view.endpoint.name.as_deref().map(str::to_owned);
    let found = endpoints.clone().position(|v| address(v) == wanted || name(v).as_deref() == Some(wanted));
    found.ok_or_else(|| {
        let known: Vec<String> = endpoints.flat_map(|v| [Some(address(v)), name(v)]).flatten().collect();
        Refusal::unknown(&format!("service {service:?} has no endpoint"), wanted, &known, "GET …/endpoints lists them")
    })
}

pub(super) async fn services(State(control): State<Arc<Control>>) -> Json<Value> {
    let services: Vec<Value> = control.now().await.iter().map(summary).collect();
    Json(json!({"name": control.name, "version": env!("CARGO_PKG_VERSION"), "services": services}))
}

pub(super) async fn service(
    State(control): State<Arc<Control>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let now = find(&control, &name)?.now(control.clock.now()).await;
    let mut value = summary(&now);
    value["endpoints"] = now.endpoints.iter().map(endpoint).collect();
    Ok(Json(value))
}

pub(super) async fn endpoints(
    State(control): State<Arc<Control>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let now = find(&control, &name)?.now(control.clock.now()).await;
    Ok(Json(json!({"service": name, "endpoints": now.endpoints.iter().map(endpoint).collect::<Vec<_>>()})))
}

/// The configuration that runs, and how reading it again went.
pub(super) async fn config(State(control): State<Arc<Control>>) -> Json<Value> {
    Json(json!(control.reloads.lock().map(|r| r.clone()).unwrap_or_default()))
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
    let endpoint = &views[position(name, address, views.iter())?].endpoint;
    let address = endpoint.address.to_string();
    service.pump.input(Input::Drain(endpoint.id, drains));
    let kind = if drains { "drained" } else { "undrained" };
    control.note(name, kind, &address, "by the admin API");
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
