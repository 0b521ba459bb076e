//! Spans: one for each turn of a trace that is recorded, from the worker that had it to a collector.
//!
//! A worker makes a [`Span`] of the facts of a turn and puts it into a bounded queue, or drops and counts it:
//! nothing waits for a collector. A task of the control thread ([`export`]) sends what is in the queue, in the
//! words of OpenTelemetry ([`otlp`]).

mod export;
mod otlp;

pub(crate) use self::export::{Exporter, Prepared};

use super::turn::TurnRecord;
use crate::worker::socket::NO_ADDRESS;
use evenkeel_core::end::End;
use evenkeel_core::rng::Rng;
use evenkeel_core::time::Duration;
use evenkeel_wire::trace::{NewSpan, Trace};
use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroU128};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;
use tokio::sync::mpsc::Sender;

/// Bytes of what a client said that a span keeps, of each thing: with the longest of all of them a span has
/// about 5 KiB, so that a queue is bounded in bytes too.
const CLIPPED: usize = 1024;

/// Random bits of a trace id that decide whether it is recorded: those that W3C Trace Context, Level 2, asks
/// to be random, and that other samplers look at.
const RANDOM_BITS: u32 = 56;

/// One turn in a trace.
#[derive(Debug)]
pub(crate) struct Span {
    trace: Trace,
    began: SystemTime,
    ended: SystemTime,
    service: String,
    endpoint: Option<String>,
    client: Option<SocketAddr>,
    tls: bool,
    method: String,
    path: String,
    host: String,
    user_agent: String,
    version: &'static str,
    status: Option<u16>,
    end: Option<End>,
    waited: Option<Duration>,
    first_byte: Option<Duration>,
    tries: u32,
}

/// What became of spans. Outlives changes of the configuration.
#[derive(Default, Debug)]
pub(crate) struct Counts {
    /// Taken by a collector.
    pub(crate) exported: AtomicU64,
    /// Dropped, by [`Dropped`].
    pub(crate) dropped: [AtomicU64; Dropped::ALL.len()],
    /// Attempts to send some that failed.
    pub(crate) failures: AtomicU64,
}

/// Why a span was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dropped {
    /// The queue was full.
    QueueFull,
    /// The collector took it for wrong.
    Refused,
    /// The collector could not be reached, or had no time, often enough.
    Unreachable,
}

impl Dropped {
    /// Every value, in order of declaration.
    pub(crate) const ALL: [Self; 3] = [Self::QueueFull, Self::Refused, Self::Unreachable];

    /// The name in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
        }
    }
}

impl Counts {
    fn lost(&self, why: Dropped, spans: u64) {
        self.dropped[why as usize].fetch_add(spans, Relaxed);
    }
}

/// A worker's part in traces.
#[derive(Clone, Debug)]
pub(crate) struct Tracer {
    queue: Sender<Span>,
    /// Trace ids whose random bits are below are not recorded.
    threshold: u64,
    counts: Arc<Counts>,
}

impl Tracer {
    fn new(queue: Sender<Span>, sample: f64, counts: Arc<Counts>) -> Self {
        let all = (1u64 << RANDOM_BITS) as f64;
        Self { queue, threshold: ((1.0 - sample) * all) as u64, counts }
    }

    /// Names for a request, and for its trace should it have none. Who has seen many of them could foretell
    /// others: they are no secrets.
    pub(crate) fn draw(&self, rng: &mut Rng) -> NewSpan {
        let (high, low, span) = (rng.next_u64(), rng.next_u64(), rng.next_u64());
        let trace_id = u128::from(high) << 64 | u128::from(low);
        NewSpan {
            // Zero is no name (section 3.2.2). It would come once in the lifetime of the universe.
            span_id: NonZeroU64::new(span).unwrap_or(NonZeroU64::MIN),
            trace_id: NonZeroU128::new(trace_id).unwrap_or(NonZeroU128::MIN),
            sampled: low & ((1 << RANDOM_BITS) - 1) >= self.threshold,
        }
    }

    /// Tells of a turn, if its trace is recorded.
    pub(crate) fn write(&self, turn: &TurnRecord) {
        let Some(trace) = turn.log.trace.filter(Trace::is_sampled) else { return };
        if self.queue.try_send(Span::of(trace, turn)).is_err() {
            self.counts.lost(Dropped::QueueFull, 1);
        }
    }
}

impl Span {
    fn of(trace: Trace, turn: &TurnRecord) -> Self {
        let log = &turn.log;
        Self {
            trace,
            began: turn.ended.checked_sub(turn.duration).unwrap_or(turn.ended),
            ended: turn.ended,
            service: turn.service.clone(),
            endpoint: turn.endpoint.clone(),
            client: Some(turn.client).filter(|client| *client != NO_ADDRESS),
            tls: turn.tls,
            method: clipped(&log.method),
            path: clipped(path(&log.target)),
            host: clipped(&log.host),
            user_agent: clipped(&log.user_agent),
            version: log.version,
            status: turn.status,
            end: turn.end,
            waited: turn.waited,
            first_byte: turn.first_byte,
            tries: turn.tries,
        }
    }
}

fn clipped(text: &str) -> String {
    text[..text.floor_char_boundary(CLIPPED)].into()
}

/// The path of a request target. Queries stay here: they are where secrets are.
fn path(target: &str) -> &str {
    let target = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
        _ => target,
    };
    match target.split('?').next() {
        None | Some("") => "/",
        Some(path) => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_wire::session::TurnLog;
    use tokio::sync::mpsc::channel;

    pub(super) fn turn(log: TurnLog) -> TurnRecord {
        TurnRecord {
            service: "shop".into(),
            endpoint: Some("10.0.0.1:80".into()),
            client: ([192, 0, 2, 7], 4000).into(),
            tls: false,
            status: Some(200),
            end: None,
            waited: Some(Duration::from_micros(1_500)),
            first_byte: Some(Duration::from_millis(4)),
            duration: Duration::from_millis(5),
            tries: 1,
            ended: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000),
            log: Box::new(log),
        }
    }

    pub(super) fn traced(flags: u8) -> TurnLog {
        let trace = Trace {
            trace_id: NonZeroU128::new(0xA).unwrap(),
            span_id: NonZeroU64::new(0xB).unwrap(),
            parent_id: NonZeroU64::new(0xC),
            flags,
        };
        TurnLog { trace: Some(trace), version: "1.1", method: "GET".into(), target: "/".into(), ..TurnLog::default() }
    }

    #[test]
    fn as_many_traces_are_recorded_as_the_ratio_says() {
        let mut rng = Rng::seeded(3);
        for (sample, least, most) in [(0.0, 0, 0), (1.0, 10_000, 10_000), (0.01, 50, 150), (0.5, 4_750, 5_250)] {
            // Binomial(10,000, p): five sigma are 50 for 1 % and 250 for 50 %.
            let tracer = Tracer::new(channel(1).0, sample, Arc::default());
            let recorded = (0..10_000).filter(|_| tracer.draw(&mut rng).sampled).count();
            assert!((least..=most).contains(&recorded), "{sample}: {recorded}");
        }
    }

    #[test]
    fn names_are_not_used_twice() {
        let (tracer, mut rng) = (Tracer::new(channel(1).0, 0.5, Arc::default()), Rng::seeded(4));
        let mut names: Vec<u64> = Vec::new();
        for _ in 0..1_000 {
            let new = tracer.draw(&mut rng);
            let trace = new.trace_id.get();
            names.extend([new.span_id.get(), trace as u64, (trace >> 64) as u64]);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 3_000);
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted_and_what_is_not_recorded_costs_nothing() {
        let (queue, mut spans) = channel(2);
        let tracer = Tracer::new(queue, 1.0, Arc::default());
        tracer.write(&turn(traced(0)));
        tracer.write(&turn(TurnLog::default()));
        assert!(spans.try_recv().is_err());
        (0..5).for_each(|_| tracer.write(&turn(traced(1))));
        assert_eq!(tracer.counts.dropped[Dropped::QueueFull as usize].load(Relaxed), 3);
        assert!(spans.try_recv().is_ok() && spans.try_recv().is_ok() && spans.try_recv().is_err());
    }

    #[test]
    fn a_span_is_small_whatever_a_client_says() {
        let long = "\u{20ac}".repeat(30_000);
        let log = TurnLog { target: format!("/{long}"), host: long.clone(), user_agent: long.clone(), ..traced(1) };
        let span = Span::of(log.trace.unwrap(), &turn(log));
        let bytes = [&span.method, &span.path, &span.host, &span.user_agent].map(String::len);
        assert!(bytes.iter().all(|&n| n <= CLIPPED) && bytes[1] > 1000, "{bytes:?}");
    }

    #[test]
    fn queries_are_not_part_of_a_path() {
        for (target, expected) in [
            ("/a/b?secret=1", "/a/b"),
            ("/", "/"),
            ("/?", "/"),
            ("*", "*"),
            ("http://a.example/b?c", "/b"),
            ("http://a.example", "/"),
            ("http://a.example?secret", "/"),
            ("/go?to=http://b.example/c", "/go"),
        ] {
            assert_eq!(path(target), expected, "{target}");
        }
    }
}
