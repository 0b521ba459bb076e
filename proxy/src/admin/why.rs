//! Why a service or an endpoint gets what it gets, in sentences: for `evenkeel why` and the dashboard.

use super::api::{Refusal, find, position};
use super::json;
use crate::control::{Control, Reloads};
use crate::format::{count, percent};
use crate::now::{Ages, EndpointNow, ServiceNow, SessionAges, UNEVEN};
use crate::recent::Measure;
use axum::Json;
use axum::extract::{Path, State};
use evenkeel_core::balancer::{Policy, RebalanceView, Standing, brief};
use evenkeel_core::end::Cause;
use evenkeel_wire::session::Leave;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Endpoints that one sentence names.
const NAMED: usize = 3;

pub(super) async fn service(
    State(control): State<Arc<Control>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let (now, ages) = look(&control, &name).await?;
    let mut sentences = of_service(&now, Some(&ages));
    let reloads = control.reloads.lock().map(|r| r.clone()).unwrap_or_default();
    sentences.extend(reload(&reloads));
    Ok(Json(json!({
        "service": name,
        "sentences": sentences,
        "session_ages": json::ages(ages.all.as_ref()),
        "figures": json::summary(&now),
    })))
}

pub(super) async fn endpoint(
    State(control): State<Arc<Control>>,
    Path((name, wanted)): Path<(String, String)>,
) -> Result<Json<Value>, Refusal> {
    let (now, ages) = look(&control, &name).await?;
    let endpoint = &now.endpoints[position(&name, &wanted, now.endpoints.iter().map(|e| &e.view))?];
    let ages = ages.placed.get(&endpoint.view.endpoint.id);
    Ok(Json(json!({
        "service": name,
        "endpoint": endpoint.address,
        "sentences": of_endpoint(&now, endpoint, ages),
        "session_ages": json::ages(ages),
        "figures": json::endpoint(endpoint),
    })))
}

async fn look(control: &Arc<Control>, name: &str) -> Result<(ServiceNow, SessionAges), Refusal> {
    let service = find(control, name)?;
    let now = service.now(control.clock.now()).await;
    let (control, index) = (control.clone(), service.service().index);
    // Workers answer between two turns of their loops; waiting for them must not stop the rest.
    let ages = tokio::task::spawn_blocking(move || control.ages(index)).await;
    Ok((now, ages.unwrap_or_default()))
}

/// What there is to say of a service; how old its sessions are only if that was looked at.
pub(super) fn of_service(now: &ServiceNow, ages: Option<&SessionAges>) -> Vec<String> {
    let mut said = vec![headline(now)];
    said.extend(now.failing().map(|_| evenness(now)));
    said.extend(now.hottest().filter(|_| now.is_uneven()).and_then(|hot| heat(now, hot, ages)));
    said.extend(standings(now));
    if let Some(ages) = ages.and_then(|ages| ages.all) {
        said.push(format!("Of its {}.", age(&ages)));
    }
    if now.measure == Measure::Sessions || now.rebalance.moves > 0 || now.rebalance.needed > 0 {
        said.push(format!("Rebalancing: {}.", rebalance(&now.rebalance)));
    }
    said.extend(moves(now));
    said.extend(failures(&now.sums.failures).map(|failed| {
        format!("Of {} requests so far {} failed: {failed}.", count(now.sums.turns), count(now.sums.failed()))
    }));
    for source in &now.sources {
        if let Some(error) = &source.error {
            let last = match source.endpoints {
                Some(n) => format!("its last good {n} endpoints stay"),
                None => "it has never given any".into(),
            };
            said.push(format!("Its source {} fails: {error}; {last}.", source.target));
        }
    }
    said
}

/// The one sentence that matters most: what fails, else how even its work is.
pub(super) fn headline(now: &ServiceNow) -> String {
    match now.failing() {
        Some(part) => format!("{} of its requests failed in the last 10 s.", percent(part)),
        None => evenness(now),
    }
}

fn evenness(now: &ServiceNow) -> String {
    let words = now.measure.words();
    if now.endpoints.is_empty() {
        return "It has no endpoints, so every request fails.".into();
    }
    if now.usable() == 0 {
        return format!("None of its {} endpoints can be picked, so every request fails.", now.endpoints.len());
    }
    let (Some(skew), Some(hottest)) = (now.skew(), now.hottest()) else {
        return match now.sums.turns {
            0 => "It has had no requests yet.".into(),
            turns => format!("None of its {} requests has reached an endpoint.", count(turns)),
        };
    };
    let load = hottest.load(now.measure).unwrap_or(1.0);
    if now.usable() == 1 {
        return format!("{} takes all of its {words}: nobody else can be picked.", hottest.address);
    }
    if skew.skew <= UNEVEN {
        return format!("Its {words} are even: the fullest endpoint has {load:.2} × its fair share.");
    }
    if !now.is_uneven() {
        let chance = match now.measure {
            Measure::Turns => format!(", and chance alone would make that {:.2}", skew.chance),
            Measure::Sessions => String::new(),
        };
        return format!(
            "Its {words} are as even as so few can be: the fullest endpoint has {load:.2} × its fair share{chance}."
        );
    }
    let (share, fair) = (hottest.share_of(now.measure), hottest.view.fair_share);
    format!(
        "{} is hot: it has {} of the {words}, {load:.2} × its fair share of {}.",
        hottest.address,
        percent(share),
        percent(fair)
    )
}

/// What makes the hottest endpoint so hot, as far as that can be seen.
fn heat(now: &ServiceNow, hot: &EndpointNow, ages: Option<&SessionAges>) -> Option<String> {
    let policy = match now.measure {
        Measure::Turns => now.turn_policy,
        Measure::Sessions => now.session_policy,
    };
    let because = match policy {
        Policy::Random => "policy random draws an endpoint per session and never again".into(),
        Policy::RingHash | Policy::Maglev => "keys decide where work goes, and some keys have more of it".into(),
        _ if now.measure == Measure::Sessions => {
            let ages = ages?;
            let its = ages.placed.get(&hot.view.endpoint.id)?;
            let others = ages.placed.iter().filter(|(id, _)| **id != hot.view.endpoint.id).map(|(_, a)| a.oldest).max();
            match others {
                Some(others) if others * 2 < its.oldest => format!(
                    "its sessions are older: its oldest has been open for {}, the oldest elsewhere for {}",
                    brief(its.oldest),
                    brief(others)
                ),
                None => "all its sessions opened while nobody else was picked".into(),
                _ => return None,
            }
        }
        Policy::PeakEwma | Policy::LeastRequest => {
            let load = |e: &EndpointNow| e.load(now.measure).unwrap_or(f64::MAX);
            let usable = now.endpoints.iter().filter(|e| e.view.usable);
            let cold = usable.min_by(|a, b| load(a).total_cmp(&load(b)))?;
            let (its, here) = (cold.sums.latency_ms(0.5)?, hot.sums.latency_ms(0.5)?);
            if its <= here {
                return None;
            }
            format!(
                "{} is slower and takes only {:.2} × its fair share: half of its answers begin within {its} ms, here \
                 within {here} ms",
                cold.address,
                load(cold)
            )
        }
        _ => return None,
    };
    Some(format!("That is because {because}."))
}

/// Who is picked, and who has something against it.
fn standings(now: &ServiceNow) -> Option<String> {
    let odd: Vec<&EndpointNow> = now.endpoints.iter().filter(|e| e.view.standing != Standing::Well).collect();
    if odd.is_empty() {
        return None;
    }
    let mut named: Vec<String> =
        odd.iter().take(NAMED).map(|e| format!("{} is {}", e.address, state(e.view.standing))).collect();
    if odd.len() > NAMED {
        named.push(format!("and {} more are not well", odd.len() - NAMED));
    }
    Some(format!("{} of {} endpoints are picked: {}.", now.usable(), now.endpoints.len(), named.join(", ")))
}

/// A standing, behind "is".
fn state(standing: Standing) -> &'static str {
    match standing {
        Standing::Well => "well",
        Standing::SlowStart { .. } => "in slow start",
        Standing::Probation { .. } => "on probation",
        Standing::Ejected { .. } => "ejected",
        Standing::Unhealthy => "unhealthy",
        Standing::Weightless => "without weight",
        Standing::NotReady => "not ready",
        Standing::Terminating => "terminating",
        Standing::Drained => "drained by an operator",
    }
}

fn age(ages: &Ages) -> String {
    match ages.count {
        1 => format!("1 session the age is {}", brief(ages.oldest)),
        n => format!(
            "{n} sessions the oldest has been open for {}, half for more than {}, the youngest for {}",
            brief(ages.oldest),
            brief(ages.median),
            brief(ages.youngest)
        ),
    }
}

/// What rebalancing would do now, without a full stop.
pub(super) fn rebalance(view: &RebalanceView) -> String {
    let RebalanceView { paused, skew, limit, needed, away, .. } = *view;
    let sessions = if needed == 1 { "1 session".into() } else { format!("{needed} sessions") };
    match (rebalance_state(view), needed) {
        (_, 0) => format!("session counts are even (skew {skew:.2}); nothing would move"),
        ("off", _) => format!("{sessions} would have to move (skew {skew:.2}), but rebalancing is off"),
        ("paused", _) => format!(
            "{sessions} would have to move (skew {skew:.2}), but clients that were asked to did not come back: none is \
             asked for {} more",
            brief(paused.unwrap_or_default())
        ),
        ("active", _) => format!("{sessions} are to move (skew {skew:.2}); {away} are on their way"),
        _ if skew > limit => format!("{sessions} are to move if skew {skew:.2} lasts: it is above {limit:.2}"),
        _ => format!("{sessions} would make it even, but skew {skew:.2} is not above {limit:.2}"),
    }
}

pub(super) fn rebalance_state(view: &RebalanceView) -> &'static str {
    match (view.enabled, view.paused, view.active) {
        (false, ..) => "off",
        (_, Some(_), _) => "paused",
        (.., true) => "active",
        _ => "calm",
    }
}

fn moves(now: &ServiceNow) -> Option<String> {
    let asked = Leave::ALL.iter().zip(now.sums.asked).filter(|(_, n)| *n > 0);
    let said: Vec<String> = asked
        .map(|(why, n)| match why {
            Leave::Move => format!("{n} for balance"),
            Leave::EndpointDrained => format!("{n} because their endpoint leaves"),
            Leave::Shutdown => format!("{n} because evenkeel does"),
        })
        .collect();
    (!said.is_empty()).then(|| format!("Sessions that it asked to go, so far: {}.", said.join(", ")))
}

/// How often each cause was; `None` if nothing failed.
fn failures(counts: &[u64]) -> Option<String> {
    let causes = Cause::ALL.iter().zip(counts).filter(|&(_, &n)| n > 0);
    let causes: Vec<String> = causes.map(|(cause, n)| format!("{} {cause}", count(*n))).collect();
    (!causes.is_empty()).then(|| causes.join(", "))
}

fn reload(reloads: &Reloads) -> Option<String> {
    let error = reloads.error.as_deref()?.trim_end();
    Some(format!("The last reload failed, and configuration {} stays: {error}", reloads.generation))
}

/// What there is to say of an endpoint.
pub(super) fn of_endpoint(now: &ServiceNow, endpoint: &EndpointNow, ages: Option<&Ages>) -> Vec<String> {
    let (view, address, words) = (&endpoint.view, &endpoint.address, now.measure.words());
    let load = &view.endpoint.load;
    let mut said = Vec::new();
    let name = view.endpoint.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
    said.push(if now.skew().is_none() {
        format!("{address}{name} has had no {words} yet; its fair share is {}.", percent(view.fair_share))
    } else {
        let share = percent(endpoint.share_of(now.measure));
        match endpoint.load(now.measure) {
            Some(load) => format!(
                "{address}{name} has {share} of the {words}; its fair share is {}, so that is {load:.2} ×.",
                percent(view.fair_share)
            ),
            None => format!("{address}{name} has {share} of the {words}, and no fair share while it is not picked."),
        }
    });
    said.push(format!("It is {}.", view.explanation));
    if view.weight != 1.0 && view.weight > 0.0 {
        let all: f64 = now.endpoints.iter().filter(|e| e.view.usable).map(|e| e.view.weight).sum();
        said.push(format!("Its weight is {}; those that are picked have {all} together.", view.weight));
    }
    let (sessions, leaving) = (endpoint.sessions(), load.leaving.load(Relaxed));
    let its = if sessions == 1 { "1 session".into() } else { format!("{sessions} sessions") };
    match view.fair_sessions.map(u64::from) {
        Some(fair) if sessions > fair => {
            let what = match rebalance_state(&now.rebalance) {
                "active" => "rebalancing moves them away",
                "off" => "rebalancing is off, so they stay",
                "paused" => "rebalancing pauses, so they stay for now",
                _ if now.rebalance.skew > now.rebalance.limit => "rebalancing moves them if that lasts",
                _ => "rebalancing does nothing about so few",
            };
            said.push(format!("It has {its}, {} more than if all were even; {what}.", sessions - fair));
        }
        Some(fair) if sessions < fair => {
            said.push(format!("It has {its}; if all were even it would have {fair}."));
        }
        _ if sessions > 0 => said.push(format!("It has {its}.")),
        _ => {}
    }
    if leaving > 0 {
        said.push(format!("{leaving} sessions that were asked to go are not gone yet."));
    }
    if let Some(ages) = ages {
        said.push(format!("Of its {}.", age(ages)));
    }
    if let (Some(p50), Some(p99)) = (endpoint.sums.latency_ms(0.5), endpoint.sums.latency_ms(0.99)) {
        said.push(format!("Half of its answers began within {p50} ms, 99 % within {p99} ms."));
    }
    said.extend(failures(&endpoint.sums.failures).map(|failed| {
        let lately = count(endpoint.failed_lately);
        format!("It has failed {} tries, {lately} of them in the last 10 s: {failed}.", count(endpoint.sums.failed()))
    }));
    said
}
