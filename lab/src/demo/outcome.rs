//! From what was recorded to the figures: what `--output json` prints and everything else draws.

use super::figures::{Chance, Spread, percentile};
use super::phase::Recording;
use super::{Options, Protocol, SLOW_START, WORK, Way};
use serde::Serialize;
use std::time::Duration;

/// Step of the time series.
const SERIES_STEP: Duration = Duration::from_millis(100);
/// Rates and latencies of the time series are taken over this long before each point.
const SERIES_WINDOW: Duration = Duration::from_millis(500);
/// A new Pod has its share when it has this much of the fair share.
const SHARE_REACHED: f64 = 0.9;
/// Sessions are evenly spread up to this skew.
const EVEN: f64 = 1.10;
/// A share is measured over at least so many requests per Pod.
const SHARE_REQUESTS: f64 = 20.0;

/// Everything the demo found.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Version of evenkeel.
    pub version: &'static str,
    /// What was run.
    pub scenario: Scenario,
    /// What random placement of the first connections does on average.
    pub chance: Chance,
    /// Probability that chance does at least as badly as it did in the Service's phase.
    pub chance_of_this: Option<f64>,
    /// First the Service, then evenkeel.
    pub phases: Vec<Phase>,
    /// Do the clients' successes equal the Pods' counts, Pod by Pod?
    pub counts_agree: bool,
    /// Where they do not.
    pub disagreements: Vec<String>,
    /// What was seen, and what to run next.
    pub summary: Vec<String>,
}

/// What was run.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // The names say it; the JSON is documented by them.
pub struct Scenario {
    pub clients: u64,
    pub second_wave: u64,
    pub pods: usize,
    pub scale_to: usize,
    pub protocol: Protocol,
    pub requests_per_second_per_client: f64,
    pub work_per_request_ms: f64,
    pub duration_ms: f64,
    pub scale_at_ms: Option<f64>,
    pub seed: u64,
    pub evenkeel_policy: &'static str,
    pub evenkeel_slow_start_ms: f64,
    pub evenkeel_moves_per_second: f64,
    pub share_window_ms: f64,
    pub share_reached: f64,
}

/// One phase in figures. Times are milliseconds since its beginning, unless they say otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// What stood between clients and Pods.
    pub way: Way,
    /// How long it has run.
    pub elapsed_ms: f64,
    /// When more Pods were announced.
    pub scaled_at_ms: Option<f64>,
    /// Requests, counted by the Pods.
    pub requests: u64,
    /// Good answers, counted by the clients.
    pub succeeded: u64,
    /// Requests without a good answer, counted by the clients.
    pub failed: u64,
    /// Connections that the other side closed, counted by the clients.
    pub dropped: u64,
    /// Times that a client was told to come back elsewhere (WebSocket), counted by the clients.
    pub moved: u64,
    /// Requests that crossed such a word and were asked again, counted by the clients.
    pub repeated: u64,
    /// Connections that clients opened.
    pub connections_opened: u64,
    /// The first thing that went wrong.
    pub first_error: Option<String>,
    /// From the beginning until Pods were added (or until now).
    pub before: Stage,
    /// From then until now.
    pub after: Option<Stage>,
    /// The last stretch: what it has come to.
    pub last: Stage,
    /// How the added Pods fared.
    pub new_pods: Option<NewPods>,
    /// How connections were spread.
    pub sessions: Sessions,
    /// Pod by Pod.
    pub pods: Vec<PodFigures>,
    /// Over time.
    pub series: Series,
}

/// A stretch of a phase. Requests are counted by the Pods, latencies by the clients.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // The names say it; see `Spread` for the figures.
pub struct Stage {
    pub from_ms: f64,
    pub to_ms: f64,
    pub pods: usize,
    pub requests: u64,
    pub requests_per_second: f64,
    pub requests_by_pod: Vec<u64>,
    pub shares: Vec<f64>,
    pub fair_share: f64,
    pub skew: Option<f64>,
    pub jain: Option<f64>,
    pub effective_pods: Option<f64>,
    pub idle_pods: usize,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

/// How the Pods that scaling added fared.
#[derive(Clone, Debug, Serialize)]
pub struct NewPods {
    /// How many there are.
    pub pods: usize,
    /// Requests they got.
    pub requests: u64,
    /// Requests all Pods got since they were announced.
    pub requests_of: u64,
    /// Connections opened to them.
    pub connections: u64,
    /// From their announcement until each of them had a request; `None`: one never had.
    pub first_request_ms: Option<f64>,
    /// From their announcement until each of them had reached its share; `None`: one never did.
    pub fair_share_ms: Option<f64>,
}

/// How connections were spread over the Pods, which counted them, and what it took.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sessions {
    /// Open while the clients were still there, by Pod.
    pub open: Vec<u64>,
    /// Of these: the most of one Pod ÷ the mean.
    pub skew: Option<f64>,
    /// From the announcement of new Pods until the skew was 1.10 or less, for good; `None`: it never was.
    pub even_ms: Option<f64>,
    /// The fewest that had to move for that, when the Pods were announced, until none has two more than
    /// another.
    pub moves_needed: Option<u64>,
    /// Times that a client was told to come back elsewhere.
    pub moves: u64,
    /// The most times that one client was.
    pub most_moves: u64,
}

/// One Pod, as it counted itself (the last two fields apart).
#[derive(Clone, Debug, Serialize)]
pub struct PodFigures {
    /// `pod-1`, …
    pub name: String,
    /// Where it listened.
    pub address: String,
    /// Was it added by scaling?
    pub new: bool,
    /// Connections it accepted.
    pub connections: u64,
    /// Connections open when the phase ended.
    pub open_connections: u64,
    /// Requests it received whole.
    pub requests: u64,
    /// Responses it wrote whole.
    pub responses: u64,
    /// Bytes it read.
    pub bytes_received: u64,
    /// Bytes it wrote.
    pub bytes_sent: u64,
    /// From its announcement to its first request.
    pub first_request_ms: Option<f64>,
    /// From its announcement until it reached its share.
    pub fair_share_ms: Option<f64>,
    /// Good answers that clients say came from it.
    pub client_successes: u64,
}

/// Figures over time: one value per point of `at_ms`, each over the 500 ms before it.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)] // The names say it.
pub struct Series {
    pub at_ms: Vec<f64>,
    pub requests_per_second: Vec<Vec<f64>>,
    pub p50_ms: Vec<Option<f64>>,
    pub p99_ms: Vec<Option<f64>>,
}

impl Phase {
    /// The figures of a phase, finished or not.
    pub fn of(recording: &Recording, options: &Options) -> Self {
        let ledger = &recording.ledger;
        let now = recording.elapsed;
        let scaled = recording.scaled_at;
        let stage = |from, to, pods| Stage::of(recording, from, to, pods);
        let last_from = now.saturating_sub(options.last_stretch());
        let all = recording.pods.len();
        let mut phase = Self {
            way: recording.way,
            elapsed_ms: millis(now),
            scaled_at_ms: scaled.map(millis),
            requests: recording.pods.iter().map(|pod| pod.counts.requests).sum(),
            succeeded: ledger.answers.len() as u64,
            failed: ledger.failed,
            dropped: ledger.dropped,
            moved: ledger.moved,
            repeated: ledger.repeated,
            connections_opened: ledger.opened,
            first_error: ledger.first_error.clone(),
            before: stage(Duration::ZERO, scaled.unwrap_or(now), all.min(options.pods)),
            after: scaled.map(|at| stage(at, now, all)),
            last: stage(last_from, now, all),
            new_pods: None,
            sessions: Sessions::of(recording),
            pods: Vec::new(),
            series: Series::default(),
        };
        let mut successes = vec![0; all];
        for answer in &ledger.answers {
            if let Some(count) = successes.get_mut(answer.pod) {
                *count += 1;
            }
        }
        let reached = shares_reached(recording, options);
        phase.pods = recording
            .pods
            .iter()
            .enumerate()
            .map(|(index, pod)| PodFigures {
                name: pod.name.clone(),
                address: pod.address.to_string(),
                new: pod.new,
                connections: pod.counts.connections,
                open_connections: pod.open,
                requests: pod.counts.requests,
                responses: pod.counts.responses,
                bytes_received: pod.counts.bytes_received,
                bytes_sent: pod.counts.bytes_sent,
                first_request_ms: pod.first_request.map(|at| {
                    millis(at.saturating_sub(if pod.new { scaled.unwrap_or_default() } else { Duration::ZERO }))
                }),
                fair_share_ms: reached[index].map(millis),
                client_successes: successes[index],
            })
            .collect();
        phase.new_pods = phase.after.as_ref().map(|after| NewPods::of(&phase.pods, after.requests));
        phase
    }

    /// Adds the time series, which is drawn only when the phase is over.
    pub fn with_series(mut self, recording: &Recording) -> Self {
        self.series = Series::of(recording);
        self
    }

    /// Where clients and Pods disagree about what happened, one sentence each.
    pub fn disagreements(&self) -> Vec<String> {
        let mut found = Vec::new();
        for pod in &self.pods {
            // A request whose answer was lost on the way is counted by the Pod alone.
            let lost = pod.requests.checked_sub(pod.client_successes);
            if lost.is_none_or(|lost| lost > self.failed + self.repeated) {
                found.push(format!(
                    "{}: {} counted {} requests, its clients {} answers from it ({} failed)",
                    self.way.name(),
                    pod.name,
                    pod.requests,
                    pod.client_successes,
                    self.failed
                ));
            }
        }
        let accepted: u64 = self.pods.iter().map(|pod| pod.connections).sum();
        if self.way == Way::Service && accepted != self.connections_opened {
            found.push(format!(
                "{}: Pods accepted {accepted} connections, clients opened {}",
                self.way.name(),
                self.connections_opened
            ));
        }
        found
    }
}

impl Stage {
    fn of(recording: &Recording, from: Duration, to: Duration, pods: usize) -> Self {
        let mut requests_by_pod = recording.requests_between(from, to);
        requests_by_pod.truncate(pods);
        let spread = Spread::of(&requests_by_pod);
        let requests = requests_by_pod.iter().sum();
        let mut latencies = latencies(recording, from, to);
        let seconds = (to - from).as_secs_f64();
        Self {
            from_ms: millis(from),
            to_ms: millis(to),
            pods,
            requests,
            requests_per_second: if seconds > 0.0 { requests as f64 / seconds } else { 0.0 },
            requests_by_pod,
            shares: spread.shares,
            fair_share: spread.fair_share,
            skew: spread.skew,
            jain: spread.jain,
            effective_pods: spread.effective_pods,
            idle_pods: spread.idle_pods,
            p50_ms: percentile(&mut latencies, 0.50),
            p99_ms: percentile(&mut latencies, 0.99),
        }
    }
}

impl NewPods {
    fn of(pods: &[PodFigures], requests_of: u64) -> Self {
        let new: Vec<_> = pods.iter().filter(|pod| pod.new).collect();
        let slowest = |time: fn(&PodFigures) -> Option<f64>| {
            new.iter().map(|pod| time(pod)).try_fold(0.0, |slowest: f64, time| time.map(|time| slowest.max(time)))
        };
        Self {
            pods: new.len(),
            requests: new.iter().map(|pod| pod.requests).sum(),
            requests_of,
            connections: new.iter().map(|pod| pod.connections).sum(),
            first_request_ms: slowest(|pod| pod.first_request_ms),
            fair_share_ms: slowest(|pod| pod.fair_share_ms),
        }
    }
}

impl Sessions {
    fn of(recording: &Recording) -> Self {
        let pods = recording.pods.len();
        let spread = |sessions: &[u64]| {
            let mut all = sessions.to_vec();
            all.resize(pods, 0);
            Spread::of(&all).skew
        };
        let samples: Vec<_> = recording.samples.iter().filter(|sample| !sample.sessions.is_empty()).collect();
        let open: Vec<u64> = recording.pods.iter().map(|pod| pod.open).collect();
        let announced = recording.scaled_at.map(|announced| {
            let (before, after) = samples.split_at(samples.partition_point(|sample| sample.at <= announced));
            let uneven = after.iter().rposition(|sample| spread(&sample.sessions).is_none_or(|skew| skew > EVEN));
            let even = after.get(uneven.map_or(0, |last| last + 1));
            (before.last().map(|sample| needed(&sample.sessions, pods)), even.map(|sample| sample.at - announced))
        });
        let (moves_needed, even) = announced.unwrap_or_default();
        Self {
            skew: spread(&open),
            open,
            even_ms: even.map(millis),
            moves_needed,
            moves: recording.ledger.moved,
            most_moves: recording.ledger.most_moved,
        }
    }
}

/// The fewest sessions that have to move for so many Pods to have the same number, or one less.
fn needed(sessions: &[u64], pods: usize) -> u64 {
    let total: u64 = sessions.iter().sum();
    let (each, rest) = (total / pods as u64, total as usize % pods);
    let mut fullest = sessions.to_vec();
    fullest.sort_unstable_by_key(|&n| std::cmp::Reverse(n));
    // Those that have most may keep what is left over.
    fullest.iter().enumerate().map(|(i, n)| n.saturating_sub(each + u64::from(i < rest))).sum()
}

impl Series {
    fn of(recording: &Recording) -> Self {
        let mut series = Self { requests_per_second: vec![Vec::new(); recording.pods.len()], ..Self::default() };
        let mut at = SERIES_STEP;
        while at <= recording.elapsed {
            let from = at.saturating_sub(SERIES_WINDOW);
            let seconds = (at - from).as_secs_f64();
            series.at_ms.push(millis(at));
            for (line, count) in series.requests_per_second.iter_mut().zip(recording.requests_between(from, at)) {
                line.push(count as f64 / seconds);
            }
            let mut latencies = latencies(recording, from, at);
            series.p50_ms.push(percentile(&mut latencies, 0.50));
            series.p99_ms.push(percentile(&mut latencies, 0.99));
            at += SERIES_STEP;
        }
        series
    }
}

fn latencies(recording: &Recording, from: Duration, to: Duration) -> Vec<f64> {
    let answers = &recording.ledger.answers;
    let range = |at: Duration| answers.partition_point(|answer| answer.at < at);
    answers[range(from)..range(to).max(range(from))].iter().map(|answer| millis(answer.latency)).collect()
}

/// How long after its announcement each new Pod had, over the window before, nine tenths of its
/// fair share for the first time.
fn shares_reached(recording: &Recording, options: &Options) -> Vec<Option<Duration>> {
    let mut reached = vec![None; recording.pods.len()];
    let Some(announced) = recording.scaled_at else { return reached };
    let window = share_window(options);
    for sample in recording.samples.iter().filter(|sample| sample.at > announced) {
        let counts = recording.requests_between(sample.at.saturating_sub(window), sample.at);
        let spread = Spread::of(&counts);
        for (index, pod) in recording.pods.iter().enumerate() {
            if pod.new && reached[index].is_none() && spread.shares[index] >= SHARE_REACHED * spread.fair_share {
                reached[index] = Some(sample.at - announced);
            }
        }
    }
    reached
}

/// Long enough that a fair share is some twenty requests, between half a second and two.
pub fn share_window(options: &Options) -> Duration {
    let fair_rate = options.rate * (options.clients + options.second_wave()) as f64 / options.scale_to as f64;
    Duration::from_secs_f64((SHARE_REQUESTS / fair_rate).clamp(0.5, 2.0))
}

impl Outcome {
    /// Of both phases, finished.
    pub fn of(phases: Vec<Phase>, options: &Options) -> Self {
        let chance = Chance::of(options.clients, options.pods as u64);
        let disagreements: Vec<_> = phases.iter().flat_map(Phase::disagreements).collect();
        // Each client's first connection; reconnects would count twice, so only without them.
        let first = phases.iter().find(|phase| phase.way == Way::Service && phase.dropped == 0);
        let chance_of_this = first.map(|phase| {
            let at_start = phase.pods.iter().filter(|pod| !pod.new).map(|pod| pod.connections);
            chance.at_least(at_start.max().unwrap_or(0))
        });
        let (policy, slow_start) = match options.protocol {
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => ("least-request", SLOW_START),
            Protocol::Tcp | Protocol::WebSocket => ("least-session", Duration::ZERO),
        };
        let summary = super::summary::lines(&phases, options);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            scenario: Scenario {
                clients: options.clients,
                second_wave: options.second_wave(),
                pods: options.pods,
                scale_to: options.scale_to,
                protocol: options.protocol,
                requests_per_second_per_client: options.rate,
                work_per_request_ms: millis(WORK),
                duration_ms: millis(options.duration),
                scale_at_ms: options.scale_at().map(millis),
                seed: options.seed,
                evenkeel_policy: policy,
                evenkeel_slow_start_ms: millis(slow_start),
                evenkeel_moves_per_second: options.moves_per_second(),
                share_window_ms: millis(share_window(options)),
                share_reached: SHARE_REACHED,
            },
            // For a session protocol the second wave joins the same Pods, so the count mixes waves.
            chance_of_this: chance_of_this.filter(|_| options.second_wave() == 0),
            chance,
            phases,
            counts_agree: disagreements.is_empty(),
            disagreements,
            summary,
        }
    }
}

/// Milliseconds, with microseconds as decimals.
pub fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::demo::crowd::{Answered, Ledger};
    use crate::demo::phase::{PodRecord, Sample};
    use crate::pod::Counts;
    use serde_json::Value;
    use std::net::SocketAddr;

    /// A phase of 7 s without sockets: Pod i gets `rates[i]` requests per 100 ms, new ones from
    /// 3 s on; every request takes as many milliseconds as the number of its Pod.
    fn recording(way: Way, options: &Options, before: &[u64], after: &[u64]) -> Recording {
        let hundred = Duration::from_millis(100);
        let mut requests = vec![0; options.pods];
        let mut ledger = Ledger { opened: options.clients, ..Ledger::default() };
        let mut samples = Vec::new();
        let mut first = vec![None; options.scale_to];
        for step in 1..=70 {
            let at = hundred * step;
            let rates = if step <= 30 { before } else { after };
            requests.resize(rates.len(), 0);
            for (pod, &rate) in rates.iter().enumerate() {
                requests[pod] += rate;
                first[pod] = first[pod].or((rate > 0).then_some(at));
                let latency = Duration::from_millis(pod as u64 + 1);
                ledger.answers.extend((0..rate).map(|_| Answered { at, latency, pod }));
            }
            let sessions = if step <= 30 { vec![9, 3, 0] } else { vec![3, 3, 2, 2, 1, 1] };
            samples.push(Sample { at, requests: requests.clone(), sessions });
        }
        let pods = requests.iter().enumerate().map(|(pod, &requests)| PodRecord {
            name: format!("pod-{}", pod + 1),
            address: SocketAddr::from(([127, 0, 0, 1], 9001 + pod as u16)),
            new: pod >= options.pods,
            counts: Counts {
                requests,
                responses: requests,
                connections: if pod < options.pods { 4 } else { 0 },
                ..Counts::default()
            },
            open: 0,
            first_request: first[pod],
        });
        let pods = pods.collect();
        Recording { way, elapsed: hundred * 70, scaled_at: Some(hundred * 30), pods, samples, ledger }
    }

    /// Both phases of the default scenario: 12, 24, 12 in each 100 ms, then the same or 8 each.
    pub(crate) fn outcome() -> (Outcome, Options) {
        let options = Options::default();
        let service = recording(Way::Service, &options, &[12, 24, 12], &[12, 24, 12, 0, 0, 0]);
        let evenkeel = recording(Way::Evenkeel, &options, &[16; 3], &[8; 6]);
        let phases = [service, evenkeel].map(|recorded| Phase::of(&recorded, &options).with_series(&recorded));
        (Outcome::of(phases.into(), &options), options)
    }

    #[test]
    fn stages_are_cut_where_pods_were_added() {
        let (outcome, _) = outcome();
        let service = &outcome.phases[0];
        assert_eq!(service.before.requests_by_pod, [360, 720, 360]);
        assert_eq!(service.before.skew, Some(1.5));
        let after = service.after.as_ref().unwrap();
        assert_eq!(after.requests_by_pod, [480, 960, 480, 0, 0, 0]);
        assert_eq!((after.skew, after.idle_pods, after.p99_ms), (Some(3.0), 3, Some(3.0)));
        assert_eq!((service.last.from_ms, service.last.requests), (5_000.0, 960));
        assert_eq!(service.before.requests + after.requests, service.requests);
        // (1+2+1)² / (6 · (1+4+1)) = 4/9: six Pods do the work of 8/3.
        assert!((after.effective_pods.unwrap() - 8.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn new_pods_are_timed_from_their_announcement() {
        let (outcome, _) = outcome();
        let new = |phase: usize| outcome.phases[phase].new_pods.as_ref().unwrap();
        assert_eq!((new(0).requests, new(0).first_request_ms, new(0).fair_share_ms), (0, None, None));
        assert_eq!((new(1).requests, new(1).requests_of, new(1).first_request_ms), (3 * 320, 1_920, Some(100.0)));
        // Over a window of 500 ms with 48 requests per 100 ms, 90 % of a sixth is 36: five steps of 8.
        assert_eq!(new(1).fair_share_ms, Some(500.0));
    }

    #[test]
    fn moves_are_compared_with_the_fewest_that_would_do() {
        let options = Options::default();
        let mut recorded = recording(Way::Evenkeel, &options, &[16; 3], &[8; 6]);
        for (pod, open) in recorded.pods.iter_mut().zip([2; 6]) {
            pod.open = open;
        }
        (recorded.ledger.moved, recorded.ledger.most_moved) = (9, 2);
        recorded.samples[40].sessions = vec![2; 6];
        recorded.samples[50].sessions = vec![2; 6];
        for late in &mut recorded.samples[52..] {
            late.sessions = vec![2; 6];
        }
        let sessions = Phase::of(&recorded, &options).sessions;
        // 12 sessions, two for each of six Pods: seven leave the first and one the second.
        assert_eq!((sessions.moves_needed, sessions.moves, sessions.most_moves), (Some(8), 9, 2));
        // Announced after 3 s; the skew was 1.5 for the last time after 5.2 s.
        assert_eq!((sessions.skew, sessions.even_ms), (Some(1.0), Some(2_300.0)));
        assert_eq!(
            (needed(&[500, 500], 5), needed(&[3, 3, 4], 3), needed(&[7, 0], 3), needed(&[0], 2)),
            (600, 0, 4, 0)
        );
    }

    #[test]
    fn counts_that_differ_are_named() {
        let options = Options::default();
        let mut recorded = recording(Way::Evenkeel, &options, &[16; 3], &[8; 6]);
        assert!(Phase::of(&recorded, &options).disagreements().is_empty());
        recorded.pods[4].counts.requests += 1;
        let found = Phase::of(&recorded, &options).disagreements();
        assert!(found.len() == 1 && found[0].contains("pod-5 counted 321 requests"), "{found:?}");
        // An answer that got lost explains the difference.
        recorded.ledger.failed = 1;
        assert!(Phase::of(&recorded, &options).disagreements().is_empty());
        recorded.pods[4].counts.requests -= 2;
        assert_eq!(Phase::of(&recorded, &options).disagreements().len(), 1);
    }

    /// What scripts may rely on.
    #[test]
    fn the_json_has_every_figure() {
        let (outcome, _) = outcome();
        let json = serde_json::to_value(&outcome).unwrap();
        for key in ["/scenario/clients", "/scenario/seed", "/scenario/share_window_ms", "/chance/expected_skew"] {
            assert!(json.pointer(key).is_some_and(Value::is_number), "{key}");
        }
        assert_eq!(json["counts_agree"], true);
        assert_eq!(json["summary"].as_array().unwrap().len(), 3);
        for (phase, way) in json["phases"].as_array().unwrap().iter().zip(["service", "evenkeel"]) {
            assert_eq!(phase["way"], way);
            for key in ["requests", "succeeded", "failed", "dropped", "moved", "connections_opened", "scaled_at_ms"] {
                assert!(phase[key].is_number(), "{key}");
            }
            for stage in ["before", "after", "last"] {
                for key in ["requests", "fair_share", "skew", "jain", "effective_pods", "p50_ms", "p99_ms"] {
                    assert!(phase[stage][key].is_number(), "{stage}.{key}");
                }
                let shares: f64 = phase[stage]["shares"].as_array().unwrap().iter().filter_map(Value::as_f64).sum();
                assert!((shares - 1.0).abs() < 1e-9);
            }
            for pod in phase["pods"].as_array().unwrap() {
                for key in ["requests", "responses", "connections", "bytes_received", "bytes_sent"] {
                    assert!(pod[key].is_number(), "{key}");
                }
            }
            let series = &phase["series"];
            let points = series["at_ms"].as_array().unwrap().len();
            assert_eq!((points, series["p99_ms"].as_array().unwrap().len()), (70, 70));
            let lines = series["requests_per_second"].as_array().unwrap();
            assert!(lines.len() == 6 && lines.iter().all(|line| line.as_array().unwrap().len() == points));
        }
    }

    #[test]
    fn the_summary_says_what_was_seen_and_fits_the_terminal() {
        let (outcome, _) = outcome();
        assert_eq!(
            outcome.summary[..2],
            [
                "Service:  the 3 new Pods got 0 of 1,920 requests; 6 Pods did the work of 2.7.",
                "evenkeel: new Pods at fair share after 500 ms; 0 failed, 0 dropped.",
            ]
        );
        assert!(outcome.summary.iter().all(|line| line.chars().count() < 80), "{:?}", outcome.summary);
    }
}
