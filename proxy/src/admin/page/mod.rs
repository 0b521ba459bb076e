//! `/`: the dashboard. The server writes it complete; a script of ours keeps it up to date if the browser
//! runs scripts, else the browser loads it again every few seconds.
//!
//! Rows and sections that the script adds are copies of `<template>`s that the same functions write, and
//! its formats of numbers are those of [`crate::format`]: a test compares the two.

mod markup;

use self::markup::{Escaped, link, sparkline};
use super::live::{ENDPOINTS, EVENTS, SERVICES, unix_ms};
use super::{api, why};
use crate::control::Control;
use crate::format::{count, decimals, encoded, load, milliseconds, per_second, percent, utc};
use crate::live::Moment;
use crate::now::{EndpointNow, ServiceNow, first};
use crate::observe::events::Event;
use crate::recent::{HISTORY, Measure};
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::response::{IntoResponse, Response};
use evenkeel_core::balancer::Standing;
use std::fmt::{Arguments, Write};
use std::sync::Arc;
use std::time::SystemTime;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Nothing but what this server sends, no inline script or style.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Endpoints at the top of the page of one service; the others are folded.
const UNFOLDED: usize = 50;

pub(super) async fn style() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/css; charset=utf-8"), (CACHE_CONTROL, "no-cache")], STYLE)
}

pub(super) async fn script() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/javascript; charset=utf-8"), (CACHE_CONTROL, "no-cache")], SCRIPT)
}

/// All services.
pub(super) async fn all(State(control): State<Arc<Control>>) -> impl IntoResponse {
    let moment = Moment::now(&control, 0).await;
    let mut page = Page::new(&control, &moment, None);
    if moment.services.len() > 1 {
        page.overview(&moment.services);
    }
    page.put(format_args!("<div id=services>"));
    for service in first(&moment.services, SERVICES) {
        page.section(service, ENDPOINTS, false);
    }
    page.put(format_args!("</div>"));
    page.events(&control.events.after(0, EVENTS));
    page.end()
}

/// One service, with all its endpoints.
pub(super) async fn one(
    State(control): State<Arc<Control>>,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, api::Refusal> {
    api::find(&control, &name)?;
    let mut moment = Moment::now(&control, 0).await;
    moment.services.retain(|service| service.name == name);
    let mut page = Page::new(&control, &moment, Some(&name));
    page.put(format_args!("<p><a href=/>All services</a></p><div id=services>"));
    for service in &moment.services {
        page.section(service, UNFOLDED, true);
    }
    page.put(format_args!("</div>"));
    let mut events = control.events.after(0, usize::MAX);
    events.retain(|event| event.service == name || event.service.is_empty());
    page.events(&events[events.len().saturating_sub(EVENTS)..]);
    Ok(page.end())
}

/// A page on its way.
struct Page(String);

impl Page {
    fn new(control: &Control, moment: &Moment, service: Option<&str>) -> Self {
        let mut page = Self(String::with_capacity(32 * 1024));
        let name = Escaped(&control.name);
        let (query, title) = match service {
            Some(service) => (
                format!("?service={}&endpoints={UNFOLDED}", encoded(service)),
                format!("{} · {name} · evenkeel", Escaped(service)),
            ),
            None => (String::new(), format!("{name} · evenkeel")),
        };
        page.put(format_args!(
            "<!doctype html><html lang=en data-live=\"/api/v1/live{query}\" data-history={HISTORY}>\
             <head><meta charset=utf-8><meta name=viewport content=\"width=device-width,initial-scale=1\">\
             <meta name=color-scheme content=\"light dark\"><title>{title}</title>\
             <link rel=icon href=\"data:,\"><link rel=stylesheet href=/page.css>\
             <noscript><meta http-equiv=refresh content=5></noscript><script src=/page.js defer></script></head><body>"
        ));
        page.put(format_args!(
            "<header><h1>evenkeel <span data-f=process>{name}</span></h1>\
             <p class=facts><span id=ready class=\"badge {ready_class}\">{ready}</span> \
             <span>version {version}</span> <span>since <time data-f=started>{started}</time> UTC</span> \
             <span id=live class=badge role=status><noscript>renewed every 5 s</noscript></span></p>",
            ready_class = if moment.unready.is_some() { "bad" } else { "good" },
            ready = Escaped(moment.unready.as_deref().unwrap_or("ready")),
            version = env!("CARGO_PKG_VERSION"),
            started = utc(unix_ms(control.started)),
        ));
        let reloads = &moment.reloads;
        let file = reloads.file.as_deref().unwrap_or("of the command line");
        page.put(format_args!(
            "<p class=facts>configuration <span data-f=file>{}</span>, \
             generation <span data-f=generation>{}</span>, since <time data-f=since>{}</time> UTC</p>",
            Escaped(file),
            reloads.generation,
            utc(reloads.since_unix_ms),
        ));
        let error = reloads.error.as_deref();
        page.put(format_args!(
            "<div id=reload class=alarm role=alert{}><p>The last reload failed; what runs stays.</p><pre>{}</pre></div></header><main>",
            if error.is_some() { "" } else { " hidden" },
            Escaped(error.unwrap_or_default().trim_end()),
        ));
        page
    }

    fn put(&mut self, text: Arguments<'_>) {
        // Writing into a string cannot fail.
        let _infallible = self.0.write_fmt(text);
    }

    fn overview(&mut self, services: &[ServiceNow]) {
        self.put(format_args!(
            "<section><h2>Services</h2><div class=box><table id=overview><thead><tr><th scope=col>Service\
             <th scope=col class=n>Endpoints<th scope=col class=n>Sessions<th scope=col class=n>Requests/s\
             <th scope=col class=n>Skew<th scope=col class=n>Moves<th scope=col>In short</thead><tbody>"
        ));
        services.iter().for_each(|now| self.overview_row(Some(now)));
        self.put(format_args!("</tbody></table></div></section><template id=overview-row>"));
        self.overview_row(None);
        self.put(format_args!("</template>"));
    }

    /// `None`: the template.
    fn overview_row(&mut self, now: Option<&ServiceNow>) {
        let text = |f: fn(&ServiceNow) -> String| now.map(f).unwrap_or_default();
        let name = text(|now| now.name.clone());
        self.put(format_args!(
            "<tr data-key=\"{key}\"><th scope=row><a data-f=name href=\"{link}\">{key}</a>\
             <td class=n data-f=endpoints>{endpoints}<td class=n data-f=sessions>{sessions}<td class=n data-f=rate>{rate}\
             <td class=n data-f=skew>{skew}<td class=n data-f=moves>{moves}<td data-f=headline>{headline}</tr>",
            key = Escaped(&name),
            link = link(&name),
            endpoints = text(endpoints),
            sessions = text(|now| count(now.sums.sessions)),
            rate = text(|now| per_second(now.rate)),
            skew = text(skew),
            moves = text(moves),
            headline = Escaped(&text(why::headline)),
        ));
    }

    /// `all`: endpoints beyond `limit` are folded; else they are behind a link.
    fn section(&mut self, now: &ServiceNow, limit: usize, all: bool) {
        let endpoints = now.first(limit);
        self.section_head(Some(now));
        let full = full_bar(&endpoints, now.measure);
        endpoints.iter().for_each(|endpoint| self.row(now, Some(endpoint), full));
        self.put(format_args!("</tbody></table></div>"));
        let more = now.endpoints.len() - endpoints.len();
        self.put(format_args!(
            "<p class=more data-f=more{}><a href=\"{}\">… and <span data-f=endpoints_more>{}</span> more</a></p>",
            if more == 0 || all { " hidden" } else { "" },
            link(&now.name),
            count(more as u64),
        ));
        if all && more > 0 {
            self.put(format_args!(
                "<details><summary>… and {} more, as they were when this page was loaded</summary><div class=box>",
                count(more as u64)
            ));
            self.table_head();
            for endpoint in now.endpoints.iter().filter(|e| !endpoints.iter().any(|shown| shown.address == e.address)) {
                self.row(now, Some(endpoint), full);
            }
            self.put(format_args!("</tbody></table></div></details>"));
        }
        self.put(format_args!("</section>"));
    }

    /// What every section has up to its first row.
    fn section_head(&mut self, now: Option<&ServiceNow>) {
        let text = |f: fn(&ServiceNow) -> String| now.map(f).unwrap_or_default();
        let name = text(|now| now.name.clone());
        self.put(format_args!(
            "<section class=service data-key=\"{key}\"><h2><a data-f=name href=\"{link}\">{key}</a></h2>\
             <p class=facts>listens on <span data-f=listen>{listen}</span>; protocol <span data-f=protocol>{protocol}</span>; \
             policy <span data-f=policy>{policy}</span></p><dl>",
            key = Escaped(&name),
            link = link(&name),
            listen = Escaped(&text(|now| now.listening.join(", "))),
            protocol = text(|now| now.protocol.into()),
            policy = text(policy),
        ));
        let history: &[Option<f64>] = now.map_or(&[], |now| &now.skews);
        let (points, top) = sparkline(history);
        self.put(format_args!(
            "<div class=wide><dt>Skew of <span data-f=measure>{measure}</span></dt><dd><span data-f=skew class={class}>{skew}</span> \
             <svg class=spark viewBox=\"0 0 {HISTORY} 24\" preserveAspectRatio=none role=img \
             aria-label=\"Skew in the last two minutes\"><path class=even d=\"M0 22H{HISTORY}\" /><path class=line d=\"{points}\" /></svg> \
             <small>2 min; top <span data-f=top>{top}</span></small></dd></div>",
            measure = text(|now| now.measure.words().into()),
            class = now.map_or("", heat),
            skew = text(skew),
        ));
        for (label, field, value) in [
            ("Endpoints picked", "endpoints", text(endpoints)),
            ("Sessions", "sessions", text(|now| count(now.sums.sessions))),
            ("Requests/s", "rate", text(|now| per_second(now.rate))),
            ("In flight", "active", text(|now| count(now.in_flight()))),
            ("Requests", "turns", text(|now| count(now.sums.turns))),
            ("Failed", "failures", text(|now| count(now.sums.failed()))),
            ("Moves", "moves", text(moves)),
        ] {
            self.put(format_args!("<div><dt>{label}</dt><dd data-f={field}>{value}</dd></div>"));
        }
        self.put(format_args!("</dl><ul class=why data-f=why>"));
        for sentence in now.map(|now| why::of_service(now, None)).unwrap_or_default() {
            self.put(format_args!("<li>{}</li>", Escaped(&sentence)));
        }
        self.put(format_args!("</ul><div class=box>"));
        self.table_head();
    }

    fn table_head(&mut self) {
        self.put(format_args!(
            "<table class=endpoints role=table><thead role=rowgroup><tr role=row><th role=columnheader scope=col>Endpoint\
             <th role=columnheader scope=col>State<th role=columnheader scope=col>Share, fair share\
             <th role=columnheader scope=col class=n>Sessions<th role=columnheader scope=col class=n>Requests/s\
             <th role=columnheader scope=col class=n>In flight<th role=columnheader scope=col class=n>p50\
             <th role=columnheader scope=col class=n>p99<th role=columnheader scope=col class=n>Failed\
             <th role=columnheader scope=col>Why</thead><tbody role=rowgroup>"
        ));
    }

    /// A row; `None`: the template. `full` is the share that a full bar stands for.
    fn row(&mut self, service: &ServiceNow, now: Option<&EndpointNow>, full: f64) {
        let (class, bar, fair) = now.map_or(("well", 0.0, None), |now| {
            let share = now.share_of(service.measure);
            (colour(service, now), share / full, now.view.usable.then(|| now.view.fair_share / full))
        });
        self.row_of(now, service.measure, class, bar, fair);
    }

    fn row_of(&mut self, now: Option<&EndpointNow>, measure: Measure, class: &str, bar: f64, fair: Option<f64>) {
        let text = |f: &dyn Fn(&EndpointNow) -> String| now.map(f).unwrap_or_default();
        let address = text(&|now| now.address.clone());
        let bar = (bar * 100.0).clamp(0.0, 100.0);
        self.put(format_args!(
            "<tr role=row data-key=\"{key}\" class={class}><th role=rowheader scope=row><span data-f=address>{key}</span> \
             <small data-f=place>{place}</small><td role=cell data-label=State><span class=badge data-f=state>{state}</span>\
             <td role=cell data-label=Share><svg class=bar viewBox=\"0 0 100 10\" preserveAspectRatio=none aria-hidden=true>\
             <rect class=track width=100 height=10 /><rect class=part data-f=bar width=\"{bar:.1}\" height=10 />\
             <rect class=fair data-f=mark x=\"{mark:.1}\" width=1 height=10{hidden} /></svg> \
             <span class=shares><b data-f=share>{share}</b> of <span data-f=fair>{fair_share}</span> \
             <span data-f=load>{load}</span></span>",
            key = Escaped(&address),
            place = Escaped(&text(&place)),
            state = text(&state),
            mark = (fair.unwrap_or(0.0) * 100.0).clamp(0.0, 99.0),
            hidden = if fair.is_some() { "" } else { " visibility=hidden" },
            share = text(&|now| percent(now.share_of(measure))),
            fair_share = text(&|now| percent(now.view.fair_share)),
            load = text(&|now| load(now.load(measure))),
        ));
        for (label, field, value) in [
            ("Sessions", "sessions", text(&|now| sessions(now, measure))),
            ("Requests/s", "rate", text(&|now| per_second(now.rate))),
            ("In flight", "active", text(&|now| count(now.in_flight()))),
            ("p50", "p50", text(&|now| milliseconds(now.sums.latency_ms(0.5)))),
            ("p99", "p99", text(&|now| milliseconds(now.sums.latency_ms(0.99)))),
            ("Failed", "failures", text(&|now| count(now.sums.failed()))),
        ] {
            self.put(format_args!("<td role=cell class=n data-label=\"{label}\" data-f={field}>{value}"));
        }
        let why = text(&|now| now.view.explanation.clone());
        self.put(format_args!("<td role=cell class=sentence data-label=Why data-f=why>{}</tr>", Escaped(&why)));
    }

    fn events(&mut self, events: &[Event]) {
        self.put(format_args!(
            "<section><h2>Events <small>UTC</small></h2><p id=quiet{}>Nothing has happened yet.</p><ol id=events>",
            if events.is_empty() { "" } else { " hidden" }
        ));
        events.iter().rev().for_each(|event| self.event(Some(event)));
        self.put(format_args!("</ol></section>"));
    }

    fn event(&mut self, event: Option<&Event>) {
        let text = |f: fn(&Event) -> &str| event.map(f).unwrap_or_default();
        self.put(format_args!(
            "<li data-id={}><time data-f=time>{}</time> <b data-f=kind>{}</b> <span data-f=service>{}</span> \
             <span data-f=subject>{}</span> <span data-f=detail>{}</span></li>",
            event.map_or(0, |event| event.id),
            event.map(|event| utc(event.unix_ms)).unwrap_or_default(),
            text(|event| event.kind),
            Escaped(text(|event| &event.service)),
            Escaped(text(|event| &event.subject)),
            Escaped(text(|event| &event.detail)),
        ));
    }

    fn end(mut self) -> Response {
        self.put(format_args!("</main><template id=event>"));
        self.event(None);
        self.put(format_args!("</template><template id=section>"));
        self.section_head(None);
        self.put(format_args!(
            "</tbody></table></div><p class=more data-f=more hidden><a>… and <span data-f=endpoints_more></span> more</a></p></section>\
             </template><template id=row><table><tbody>"
        ));
        self.row_of(None, Measure::Turns, "well", 0.0, None);
        self.put(format_args!(
            "</tbody></table></template><footer><a href=/metrics>metrics</a> <a href=/api/v1/services>services</a> \
             <a href=/api/v1/events>events</a> <a href=/openapi.json>API</a> \
             <span>as of <time id=shown>{}</time> UTC</span></footer></body></html>",
            utc(unix_ms(SystemTime::now()))
        ));
        let headers = [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (CACHE_CONTROL, "no-store"),
            (CONTENT_SECURITY_POLICY, POLICY),
            (REFERRER_POLICY, "no-referrer"),
        ];
        (headers, self.0).into_response()
    }
}

fn endpoints(now: &ServiceNow) -> String {
    format!("{} of {}", count(now.usable() as u64), count(now.endpoints.len() as u64))
}

fn skew(now: &ServiceNow) -> String {
    now.skew().map_or_else(|| "–".into(), |skew| decimals(skew.skew))
}

fn moves(now: &ServiceNow) -> String {
    count(now.sums.asked.iter().sum())
}

/// What decides, for what its work is counted in.
fn policy(now: &ServiceNow) -> String {
    let policy = match now.measure {
        Measure::Turns => now.turn_policy,
        Measure::Sessions => now.session_policy,
    };
    policy.as_str().into()
}

/// A class for the skew of a service.
fn heat(now: &ServiceNow) -> &'static str {
    if now.is_uneven() { "hot" } else { "well" }
}

/// What is known of it besides its address.
fn place(now: &EndpointNow) -> String {
    let endpoint = &now.view.endpoint;
    [endpoint.name.as_deref(), endpoint.zone.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Sessions placed on it; where requests are what is placed there are none to speak of.
fn sessions(now: &EndpointNow, measure: Measure) -> String {
    match now.sessions() {
        0 if measure == Measure::Turns => "–".into(),
        sessions => count(sessions),
    }
}

fn state(now: &EndpointNow) -> String {
    match now.view.standing {
        Standing::SlowStart { progress, .. } => format!("slow start {} %", (progress * 100.0).round()),
        standing => standing.as_str().replace('-', " "),
    }
}

/// A class for a row: something is against it, it is hot, it is warm, it is well.
fn colour(service: &ServiceNow, now: &EndpointNow) -> &'static str {
    match now.load(service.measure) {
        _ if now.view.standing.is_against() => "out",
        Some(load) if service.is_uneven() && load > 1.5 => "hot",
        Some(load) if service.is_uneven() && load > 1.1 => "warm",
        _ => "well",
    }
}

/// The share that a full bar stands for: twice the largest fair share, so that an even service has all its
/// bars half full, or the largest share if that is more.
fn full_bar(endpoints: &[&EndpointNow], measure: Measure) -> f64 {
    let shares = endpoints.iter().map(|e| e.share_of(measure));
    let fair = endpoints.iter().map(|e| e.view.fair_share * 2.0);
    shares.chain(fair).fold(0.0, f64::max).clamp(f64::MIN_POSITIVE, 1.0)
}
