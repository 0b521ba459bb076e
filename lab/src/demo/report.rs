//! The page that `--report` writes: one file, no scripts, nothing loaded from elsewhere.
//!
//! Plots are SVG written here, because their colours come from the style sheet: the page follows the
//! reader's light or dark setting, which images with colours of their own cannot.

use super::outcome::{Outcome, Phase, PodFigures, Scenario, Stage};
use super::summary::grouped;
use super::{Protocol, Way};
use std::fmt::Write as _;

/// The page as HTML. Writing to a `String` cannot fail, so results of `write!` are dropped.
pub fn page(outcome: &Outcome) -> String {
    let mut html = String::with_capacity(64 * 1024);
    let scenario = &outcome.scenario;
    let title = match scenario.clients {
        1 => "The same client, twice".to_owned(),
        n => format!("The same {n} clients, twice"),
    };
    let _ = write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>evenkeel demo: {title}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n\
         <p>{story}</p>\n",
        css = include_str!("report.css"),
        story = story(scenario),
    );
    pair(&mut html, outcome, verdict);
    if !outcome.counts_agree {
        html.push_str("<h2 class=\"bad\">The counts disagree</h2>\n");
        for what in &outcome.disagreements {
            let _ = writeln!(html, "<p>{}</p>", escape(what));
        }
    }

    heading(
        &mut html,
        "Requests per second of each Pod",
        "Counted by the Pods, over the half second before each point. Even means: every line on the dashed one.",
    );
    key(&mut html, &[("old", "first Pods"), ("new", "Pods added by scaling"), ("fair", "fair share")]);
    let highest = outcome.phases.iter().flat_map(|phase| phase.series.requests_per_second.iter().flatten().copied());
    let top = highest.fold(1.0, f64::max);
    pair(&mut html, outcome, |html, phase, outcome| rates(html, phase, &outcome.scenario, top));

    let stretch = outcome.phases.first().map_or(0.0, |phase| (phase.last.to_ms - phase.last.from_ms) / 1e3);
    heading(
        &mut html,
        "What it comes to",
        &format!("Share of the requests of each phase's last {stretch:.1} s. The dashed line is the fair share."),
    );
    let shares = outcome.phases.iter().flat_map(|phase| phase.last.shares.iter().copied());
    let widest = shares.fold(0.01, f64::max);
    pair(&mut html, outcome, |html, phase, _| bars(html, phase, widest));

    heading(
        &mut html,
        "Latency at the clients",
        &format!(
            "Each Pod works on one request at a time, for {} ms: more than its share means a queue.",
            scenario.work_per_request_ms
        ),
    );
    key(&mut html, &[("p99", "99th percentile"), ("p50", "median")]);
    let slowest =
        outcome.phases.iter().flat_map(|phase| phase.series.p99_ms.iter().flatten().copied()).fold(1.0, f64::max);
    pair(&mut html, outcome, |html, phase, outcome| latencies(html, phase, &outcome.scenario, slowest));

    heading(&mut html, "Pod by Pod", "Connections, requests and bytes as each Pod counted them.");
    html.push_str("<div class=\"stacked\">\n");
    pair(&mut html, outcome, table);
    html.push_str("</div>\n");

    heading(&mut html, "Was it bad luck?", &luck(outcome));
    heading(&mut html, "Once more", "The same seed gives the same clients, schedules and random placement:");
    let _ = write!(html, "<p><code>{}</code></p>\n</main>\n</body>\n</html>\n", command(scenario));
    html
}

fn story(scenario: &Scenario) -> String {
    let scaling = match scenario.scale_at_ms {
        Some(at) => {
            format!(
                "After {:.1} s the {} Pods become {}; every client stays connected. ",
                at / 1e3,
                scenario.pods,
                scenario.scale_to
            )
        }
        None => format!("{} Pods serve them. ", scenario.pods),
    };
    let rule = match scenario.protocol {
        Protocol::Http | Protocol::Http2 => {
            "A Service chooses a Pod once, at random, when a connection opens. \
             evenkeel chooses for every request inside the connection."
        }
        Protocol::Grpc => {
            "A Service chooses a Pod once, at random, when a connection opens. \
             evenkeel chooses for every call inside the connection."
        }
        Protocol::WebSocket => {
            "A Service chooses a Pod at random when a connection opens. evenkeel chooses the one with the fewest \
             sessions, and when Pods are added it asks some sessions, between two messages, to come back: their \
             clients land on the new Pods."
        }
        Protocol::Tcp => {
            "A Service chooses a Pod at random when a connection opens; evenkeel chooses the one with the fewest. The \
             bytes are opaque here, so an established connection stays where it is: moving one takes a protocol with \
             a safe point. After scaling as many clients again arrive, and show where new connections go."
        }
    };
    format!(
        "Each keeps one connection open and sends {} requests per second on it. {scaling}{rule}",
        scenario.requests_per_second_per_client
    )
}

fn heading(html: &mut String, title: &str, note: &str) {
    let _ = writeln!(html, "<h2>{}</h2>\n<p class=\"soft\">{}</p>", escape(title), escape(note));
}

fn key(html: &mut String, entries: &[(&str, &str)]) {
    html.push_str("<ul class=\"key\">");
    for (class, text) in entries {
        let _ = write!(html, "<li><span class=\"{class}\"></span>{text}</li>");
    }
    html.push_str("</ul>\n");
}

/// Both phases beside each other, one card each.
fn pair(html: &mut String, outcome: &Outcome, draw: impl Fn(&mut String, &Phase, &Outcome)) {
    html.push_str("<div class=\"pair\">\n");
    for phase in &outcome.phases {
        let rule = match (phase.way, outcome.scenario.protocol) {
            (Way::Service, _) => "a random Pod per connection, for good",
            (Way::Evenkeel, Protocol::Http | Protocol::Http2) => "a Pod per request",
            (Way::Evenkeel, Protocol::Grpc) => "a Pod per call",
            (Way::Evenkeel, Protocol::Tcp) => "the Pod with the fewest connections",
            (Way::Evenkeel, Protocol::WebSocket) => "the Pod with the fewest sessions; sessions move",
        };
        let _ = writeln!(html, "<section class=\"card\">\n<h3>{}</h3>\n<p class=\"soft\">{rule}</p>", phase.way.name());
        draw(html, phase, outcome);
        html.push_str("</section>\n");
    }
    html.push_str("</div>\n");
}

fn verdict(html: &mut String, phase: &Phase, _: &Outcome) {
    let last = &phase.last;
    let skew = last.skew.unwrap_or(0.0);
    let mut facts = vec![
        ("skew (1 is even)", judged(skew <= 1.2, &format!("{skew:.2}"))),
        ("effective Pods", format!("{:.1} <small>of {}</small>", last.effective_pods.unwrap_or(0.0), last.pods)),
        ("p99 latency", last.p99_ms.map_or("–".into(), |p99| format!("{p99:.1} <small>ms</small>"))),
        (
            "failed, dropped",
            judged(
                phase.failed + phase.dropped == 0,
                &format!("{}, {}", grouped(phase.failed), grouped(phase.dropped)),
            ),
        ),
    ];
    if let Some(new) = &phase.new_pods {
        let time = |time: Option<f64>| match time {
            Some(after) => format!("{} <small>ms</small>", grouped(after.round() as u64)),
            None => judged(false, "never"),
        };
        facts.push(("new Pods’ first request", time(new.first_request_ms)));
        facts.push(("new Pods at fair share", time(new.fair_share_ms)));
    }
    html.push_str("<dl>\n");
    for (term, value) in facts {
        let _ = writeln!(html, "<div><dt>{term}</dt><dd>{value}</dd></div>");
    }
    html.push_str("</dl>\n");
    if let Some(error) = &phase.first_error {
        let _ = writeln!(html, "<p class=\"bad\">First failure: {}</p>", escape(error));
    }
}

fn judged(good: bool, text: &str) -> String {
    format!("<span class=\"{}\">{text}</span>", if good { "good" } else { "bad" })
}

/// Maps time and a figure to the plane of a line plot.
struct Plane {
    seconds: f64,
    top: f64,
}

impl Plane {
    const WIDTH: f64 = 520.0;
    const HEIGHT: f64 = 250.0;
    const LEFT: f64 = 44.0;
    const RIGHT: f64 = 12.0;
    const ABOVE: f64 = 22.0;
    const BELOW: f64 = 28.0;

    fn x(&self, seconds: f64) -> f64 {
        Self::LEFT + seconds / self.seconds * (Self::WIDTH - Self::LEFT - Self::RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        Self::HEIGHT - Self::BELOW - value / self.top * (Self::HEIGHT - Self::ABOVE - Self::BELOW)
    }

    /// Begins the plot: grid, axes, and where Pods were added.
    fn open(&self, html: &mut String, label: &str, scaled_at: Option<f64>) {
        let _ = writeln!(
            html,
            "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{label}\">",
            Self::WIDTH,
            Self::HEIGHT
        );
        let step = round_step(self.top / 4.0);
        let mut value = 0.0;
        while value <= self.top {
            let y = self.y(value);
            let _ = writeln!(
                html,
                "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
                Self::LEFT,
                Self::WIDTH - Self::RIGHT,
                Self::LEFT - 6.0,
                y + 4.0
            );
            value += step;
        }
        let step = round_step(self.seconds / 7.0).max(1.0);
        let mut second = 0.0;
        while second <= self.seconds {
            let _ = writeln!(
                html,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{second} s</text>",
                self.x(second),
                Self::HEIGHT - 8.0
            );
            second += step;
        }
        if let Some(at) = scaled_at {
            let x = self.x(at);
            let _ = writeln!(
                html,
                "<line class=\"event\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"12\">Pods added</text>",
                Self::ABOVE - 6.0,
                Self::HEIGHT - Self::BELOW,
                x - 6.0
            );
        }
    }

    /// A line through the points that have a value.
    fn line(
        &self,
        html: &mut String,
        class: &str,
        name: &str,
        at_ms: &[f64],
        values: impl Iterator<Item = Option<f64>>,
    ) {
        let _ = write!(html, "<polyline class=\"{class}\" points=\"");
        for (at, value) in at_ms.iter().zip(values) {
            if let Some(value) = value {
                let _ = write!(html, "{:.1},{:.1} ", self.x(at / 1e3), self.y(value));
            }
        }
        let _ = writeln!(html, "\"><title>{name}</title></polyline>");
    }
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|&step| step >= least).unwrap_or(least)
}

fn rates(html: &mut String, phase: &Phase, scenario: &Scenario, top: f64) {
    let plane = Plane { seconds: scenario.duration_ms / 1e3, top: top * 1.05 };
    let scaled_at = phase.scaled_at_ms.map(|at| at / 1e3);
    plane.open(html, "requests per second of each Pod over time", scaled_at);
    // The first half second has no full window behind it.
    let from = phase.series.at_ms.partition_point(|&at| at < 500.0);
    let at_ms = &phase.series.at_ms[from..];
    for (pod, line) in phase.pods.iter().zip(&phase.series.requests_per_second) {
        // A Pod has no rate before there is one.
        let since = if pod.new { phase.scaled_at_ms.unwrap_or(0.0) } else { 0.0 };
        let there = at_ms.iter().zip(&line[from..]).map(|(&at, &rate)| (at >= since).then_some(rate));
        plane.line(html, class(pod), &pod.name, at_ms, there);
    }
    let fair = |stage: &Stage| stage.requests_per_second * stage.fair_share;
    let mut mark = |from: f64, to: f64, rate: f64| {
        let (x1, x2, y) = (plane.x(from), plane.x(to), plane.y(rate));
        let _ = writeln!(html, "<line class=\"mark\" x1=\"{x1:.1}\" x2=\"{x2:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
    };
    mark(0.0, scaled_at.unwrap_or(plane.seconds), fair(&phase.before));
    if let (Some(at), Some(_)) = (scaled_at, &phase.after) {
        mark(at, plane.seconds, fair(&phase.last));
    }
    html.push_str("</svg>\n");
}

fn latencies(html: &mut String, phase: &Phase, scenario: &Scenario, slowest: f64) {
    let plane = Plane { seconds: scenario.duration_ms / 1e3, top: slowest * 1.05 };
    plane.open(html, "latency over time in milliseconds", phase.scaled_at_ms.map(|at| at / 1e3));
    let series = &phase.series;
    plane.line(html, "p99", "99th percentile", &series.at_ms, series.p99_ms.iter().copied());
    plane.line(html, "p50", "median", &series.at_ms, series.p50_ms.iter().copied());
    html.push_str("</svg>\n");
}

fn bars(html: &mut String, phase: &Phase, widest: f64) {
    const ROW: f64 = 26.0;
    const LEFT: f64 = 64.0;
    const WIDTH: f64 = 520.0;
    const ROOM: f64 = WIDTH - LEFT - 60.0;
    let height = ROW * phase.pods.len() as f64 + 8.0;
    let _ = writeln!(html, "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"share of each Pod\">");
    for (index, (pod, share)) in phase.pods.iter().zip(&phase.last.shares).enumerate() {
        let y = ROW * index as f64 + 4.0;
        let width = share / widest * ROOM;
        let _ = writeln!(
            html,
            "<text class=\"name\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"16\" rx=\"2\"/>\
             <text class=\"value\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{:.1} %</text>",
            LEFT - 8.0,
            y + 14.0,
            pod.name,
            class(pod),
            y + 2.0,
            WIDTH,
            y + 14.0,
            share * 100.0
        );
    }
    let x = LEFT + phase.last.fair_share / widest * ROOM;
    let _ = writeln!(html, "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{height}\"/>\n</svg>");
}

fn table(html: &mut String, phase: &Phase, _: &Outcome) {
    html.push_str(
        "<div class=\"wide\"><table>\n<thead><tr><th>Pod</th><th>connections</th><th>requests</th><th>received</th>\
         <th>sent</th><th>first request</th><th>fair share</th></tr></thead>\n<tbody>\n",
    );
    let time = |time: Option<f64>| time.map_or("–".into(), |time| format!("{} ms", grouped(time.round() as u64)));
    for pod in &phase.pods {
        let _ = writeln!(
            html,
            "<tr><td>{}{}</td><td>{}</td><td>{}</td><td>{} B</td><td>{} B</td><td>{}</td><td>{}</td></tr>",
            pod.name,
            if pod.new { " (new)" } else { "" },
            grouped(pod.connections),
            grouped(pod.requests),
            grouped(pod.bytes_received),
            grouped(pod.bytes_sent),
            time(pod.first_request_ms),
            if pod.new { time(pod.fair_share_ms) } else { String::new() },
        );
    }
    html.push_str("</tbody></table></div>\n");
}

fn luck(outcome: &Outcome) -> String {
    let chance = &outcome.chance;
    let mut text = format!(
        "{} connections placed at random on {} Pods give a skew of {:.2} on average and leave {:.1} Pods without any.",
        chance.connections, chance.pods, chance.expected_skew, chance.expected_idle_pods
    );
    if let Some(probability) = outcome.chance_of_this {
        let _ = write!(
            text,
            " What the Service’s phase began with, or worse, happens in {:.0} % of cases.",
            probability * 100.0
        );
    }
    text
}

fn command(scenario: &Scenario) -> String {
    let protocol = scenario.protocol.name();
    format!(
        "evenkeel demo --clients {} --pods {} --scale-to {} --protocol {protocol} --rate {} --duration {}ms --seed {}",
        scenario.clients,
        scenario.pods,
        scenario.scale_to,
        scenario.requests_per_second_per_client,
        scenario.duration_ms,
        scenario.seed
    )
}

fn class(pod: &PodFigures) -> &'static str {
    if pod.new { "new" } else { "old" }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::outcome::tests::outcome;

    /// Every element that is opened is closed, in order (the page is written so that XML rules hold).
    fn assert_balanced(html: &str) {
        let mut open = Vec::new();
        for tag in html.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').expect("a tag that ends");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "closing {name}");
            } else if !tag.starts_with('!') && !tag.ends_with('/') {
                open.push(tag.split_whitespace().next().unwrap_or_default());
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn the_page_is_well_formed_and_loads_nothing() {
        let html = page(&outcome().0);
        assert_balanced(&html);
        for foreign in ["http:", "https:", "//", "src=", "href=", "url(", "@import", "<script"] {
            assert!(!html.contains(foreign), "{foreign}");
        }
        assert_eq!(html.matches("<svg").count(), 6);
        assert_eq!(html.matches("<polyline").count(), 2 * (6 + 2));
        assert!(!html.contains("NaN") && !html.contains("inf"));
    }

    #[test]
    fn what_others_said_is_escaped() {
        let (mut outcome, _) = outcome();
        outcome.phases[1].first_error = Some("<b>&".into());
        let html = page(&outcome);
        assert!(html.contains("First failure: &lt;b&gt;&amp;"));
        assert_balanced(&html);
    }

    #[test]
    fn steps_are_round() {
        assert_eq!([0.3, 1.0, 1.1, 37.0, 60.0].map(round_step), [0.5, 1.0, 2.0, 50.0, 100.0]);
    }
}
