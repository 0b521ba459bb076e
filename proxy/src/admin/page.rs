//! `/`: services and endpoints at a glance, in plain HTML.

use crate::control::{Control, EndpointNow, ServiceNow};
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--bar:#3b82f6;--fair:#8888;--bad:#d33}\
body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem auto;max-width:64rem;padding:0 1rem}\
h1{font-size:1.3rem}h2{font-size:1.1rem;margin:1.5rem 0 .3rem}p{margin:.2rem 0}\
.t{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{text-align:left;padding:.25rem .6rem .25rem 0;border-bottom:1px solid var(--line);white-space:nowrap}\
td:last-child{white-space:normal}.n{text-align:right}.off{opacity:.6}.bad{color:var(--bad)}\
.bar{position:relative;width:8rem;height:.8rem;background:var(--line);border-radius:2px}\
.bar i{position:absolute;inset:0 auto 0 0;background:var(--bar);border-radius:2px}\
.bar b{position:absolute;top:-.15rem;bottom:-.15rem;width:2px;background:currentColor}";

pub(super) async fn page(State(control): State<Arc<Control>>) -> impl IntoResponse {
    let mut html = String::from("<!doctype html><html lang=en><meta charset=utf-8>");
    html.push_str(
        "<meta name=viewport content=\"width=device-width,initial-scale=1\"><meta http-equiv=refresh content=5>",
    );
    html.push_str("<title>evenkeel</title><style>");
    html.push_str(STYLE);
    html.push_str("</style><h1>evenkeel</h1>");
    if let Some(reason) = control.unready() {
        put(&mut html, format_args!("<p class=bad>not ready: {}</p>", Escaped(&reason)));
    }
    for service in control.services() {
        section(&mut html, &service.now().await);
    }
    html.push_str("<p><a href=/metrics>metrics</a> · <a href=/api/v1/services>services</a> · <a href=/api/v1/events>events</a> · <a href=/openapi.json>API</a></p></html>");
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, policy)], html)
}

fn section(html: &mut String, now: &ServiceNow) {
    put(html, format_args!("<h2>{}</h2><p>listening on {}; ", Escaped(&now.name), Escaped(&now.listening.join(", "))));
    put(
        html,
        format_args!(
            "{} sessions, {} requests, {} in flight",
            now.sums.sessions, now.sums.turns, now.sums.turns_active
        ),
    );
    if let Some(skew) = now.turn_skew {
        put(html, format_args!("; skew {:.2}, {:.1} effective endpoints", skew.skew, skew.effective));
    }
    html.push_str("</p>");
    for source in &now.sources {
        if let Some(error) = &source.error {
            put(html, format_args!("<p class=bad>{}: {}</p>", Escaped(&source.target), Escaped(error)));
        }
    }
    html.push_str("<div class=t><table><tr><th>Endpoint<th>Share<th class=n>share<th class=n>fair<th class=n>requests<th class=n>in flight<th class=n>sessions<th class=n>p50<th class=n>p99<th>Why</tr>");
    for endpoint in &now.endpoints {
        row(html, endpoint);
    }
    html.push_str("</table></div>");
}

fn row(html: &mut String, now: &EndpointNow) {
    let load = &now.view.endpoint.load;
    let ms = |q| now.sums.latency_ms(q).map_or_else(|| "–".into(), |ms| format!("≤ {ms} ms"));
    let percent = |share: f64| (share * 100.0).clamp(0.0, 100.0);
    put(
        html,
        format_args!(
            "<tr{}><td>{}<td><div class=bar><i style=\"width:{:.1}%\"></i><b style=\"left:{:.1}%\"></b></div>\
             <td class=n>{:.1} %<td class=n>{:.1} %<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}<td>{}</tr>",
            if now.view.usable { "" } else { " class=off" },
            Escaped(&now.address),
            percent(now.share),
            percent(now.view.fair_share),
            percent(now.share),
            percent(now.view.fair_share),
            now.sums.turns,
            load.turns.load(Relaxed),
            load.sessions.load(Relaxed),
            ms(0.5),
            ms(0.99),
            Escaped(&now.view.explanation),
        ),
    );
}

fn put(html: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a string cannot fail.
    let _infallible = html.write_fmt(text);
}

/// Text that cannot become markup.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '&' => f.write_str("&amp;"),
            '"' => f.write_str("&quot;"),
            c => f.write_char(c),
        })
    }
}
