//! The admin API: what evenkeel knows, over HTTP, on the control thread.
//!
//! On loopback by default. Requests that change something must not come from a web page of somebody
//! else's: they are refused if they have an `Origin` or a `Host` that is not ours.

mod api;
mod json;
mod live;
mod page;
mod why;

use crate::control::Control;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::future::Future;
use std::io;
use std::sync::Arc;
use tokio::net::TcpListener;

/// The description of the API.
const OPENAPI: &str = include_str!("openapi.json");

/// Serves the admin API until the process ends.
pub(crate) fn serve(listener: TcpListener, control: Arc<Control>) -> impl Future<Output = io::Result<()>> {
    let router = router(control);
    async move { axum::serve(listener, router).await }
}

fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/", get(page::all))
        .route("/services/{name}", get(page::one))
        .route("/page.css", get(page::style))
        .route("/page.js", get(page::script))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(|| async { ([(header::CONTENT_TYPE, "application/json")], OPENAPI) }))
        .route("/api/v1/services", get(api::services))
        .route("/api/v1/services/{name}", get(api::service))
        .route("/api/v1/services/{name}/endpoints", get(api::endpoints))
        .route("/api/v1/services/{name}/endpoints/{address}/drain", post(api::drain).delete(api::undrain))
        .route("/api/v1/services/{name}/why", get(why::service))
        .route("/api/v1/services/{name}/endpoints/{address}/why", get(why::endpoint))
        .route("/api/v1/sessions", get(api::sessions))
        .route("/api/v1/events", get(api::events))
        .route("/api/v1/live", get(live::live))
        .route("/api/v1/config", get(api::config))
        .fallback(|| async { api::Refusal::new(StatusCode::NOT_FOUND, "no such page", "see /openapi.json") })
        .with_state(control)
}

/// Is the process alive? Not if a worker has been stuck for a second.
async fn livez(State(control): State<Arc<Control>>) -> Response {
    match control.stalled().as_slice() {
        [] => "ok\n".into_response(),
        stuck => (StatusCode::SERVICE_UNAVAILABLE, format!("workers {stuck:?} do not turn\n")).into_response(),
    }
}

/// Should it be sent clients? Not before endpoints are known, nor while it drains.
async fn readyz(State(control): State<Arc<Control>>) -> Response {
    match control.unready() {
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics(State(control): State<Arc<Control>>, headers: HeaderMap) -> Response {
    let open = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok()).is_some_and(|a| a.contains("openmetrics"));
    let kind = match open {
        true => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        false => "text/plain; version=0.0.4; charset=utf-8",
    };
    match crate::observe::metrics::scrape(&control).await {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(_) => api::Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written", "see the log")
            .into_response(),
    }
}
