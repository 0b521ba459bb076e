//! `/api/v1/live`: the present as server-sent events, once a second.

use super::api::Refusal;
use super::json::{endpoint, history, summary};
use super::why;
use crate::control::Control;
use crate::live::{Moment, PERIOD};
use crate::now::{ServiceNow, first};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::time::MissedTickBehavior;

/// Services whose endpoints are shown beside each other.
pub(super) const SERVICES: usize = 8;
/// Endpoints that each of them shows.
pub(super) const ENDPOINTS: usize = 12;
/// Endpoints that can be asked for.
const MAX_ENDPOINTS: usize = 1000;
/// Facts in one message.
pub(super) const EVENTS: usize = 50;

#[derive(Deserialize)]
pub(super) struct Wish {
    service: Option<String>,
    endpoints: Option<usize>,
}

pub(super) async fn live(State(control): State<Arc<Control>>, Query(wish): Query<Wish>) -> Response {
    let Some(place) = control.live.follow() else {
        let error = "too many follow already";
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error, "close a dashboard or an evenkeel top");
        return refusal.into_response();
    };
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let start = (control, wish, ticks, place, 0, 0);
    let messages = stream::unfold(start, |(control, wish, mut ticks, place, mut seen, heard)| async move {
        let moment = loop {
            ticks.tick().await;
            let moment = control.live.latest(&control).await;
            if moment.number != seen {
                break moment;
            }
        };
        seen = moment.number;
        let events = control.events.after(heard, EVENTS);
        let heard = events.last().map_or(heard, |event| event.id);
        let mut message = message(&control, &moment, &wish);
        message["events"] = json!(events);
        let event = Event::default().event("moment").id(seen.to_string()).json_data(message).unwrap_or_default();
        Some((Ok::<_, Infallible>(event), (control, wish, ticks, place, seen, heard)))
    });
    Sse::new(messages).into_response()
}

/// A moment in JSON: all services; endpoints of the one that is asked for, else of those that matter first.
fn message(control: &Control, moment: &Moment, wish: &Wish) -> Value {
    let shown: Vec<&ServiceNow> = match &wish.service {
        Some(name) => moment.services.iter().filter(|s| s.name == *name).collect(),
        None => first(&moment.services, SERVICES),
    };
    let limit = wish.endpoints.unwrap_or(ENDPOINTS).min(MAX_ENDPOINTS);
    let services = moment.services.iter().map(|now| {
        let mut value = summary(now);
        value["headline"] = json!(why::headline(now));
        if shown.iter().any(|s| s.name == now.name) {
            let endpoints = now.first(limit);
            value["endpoints_more"] = json!(now.endpoints.len() - endpoints.len());
            value["endpoints"] = endpoints.into_iter().map(endpoint).collect();
            value["skew_history"] = json!(history(now));
            value["why"] = json!(why::of_service(now, None));
        }
        value
    });
    json!({
        "unix_ms": unix_ms(SystemTime::now()),
        "started_unix_ms": unix_ms(control.started),
        "name": control.name,
        "version": env!("CARGO_PKG_VERSION"),
        "unready": moment.unready,
        "config": moment.reloads,
        "services": services.collect::<Vec<Value>>(),
    })
}

pub(super) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
