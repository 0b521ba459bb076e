//! One phase: Pods, what stands before them, and clients, run along a timeline and recorded.

use super::crowd::{Client, Crowd, Ledger};
use super::front::Front;
use super::{Error, Options, Protocol, WORK, Way};
use crate::pod::{Behaviour, Counts, Pod};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// How often the Pods' counters are read; also the resolution of times to a share.
pub const SAMPLE_EVERY: Duration = Duration::from_millis(10);
/// How often the phase is shown.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// The clients of the second wave (`--protocol tcp`) arrive from here after scaling, spread over
/// [`WAVE_OVER`].
const WAVE_AFTER: Duration = Duration::from_millis(250);
/// See [`WAVE_AFTER`].
const WAVE_OVER: Duration = Duration::from_millis(750);

/// Everything counted in a phase so far.
#[derive(Clone, Debug)]
pub struct Recording {
    /// What stood between clients and Pods.
    pub way: Way,
    /// How long the phase has run.
    pub elapsed: Duration,
    /// When more Pods were announced.
    pub scaled_at: Option<Duration>,
    /// The Pods, in order of start.
    pub pods: Vec<PodRecord>,
    /// The Pods' request counters over time.
    pub samples: Vec<Sample>,
    /// The clients' side.
    pub ledger: Ledger,
}

/// One Pod of a phase.
#[derive(Clone, Debug)]
pub struct PodRecord {
    /// `pod-1`, …
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Was it added by scaling?
    pub new: bool,
    /// What it counted.
    pub counts: Counts,
    /// Connections open while the clients were still there.
    pub open: u64,
    /// Its first request, since the beginning of the phase.
    pub first_request: Option<Duration>,
}

/// The Pods' request counters at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Since the beginning of the phase.
    pub at: Duration,
    /// Requests so far, by Pod; Pods yet to come are missing.
    pub requests: Vec<u64>,
    /// Connections open, in the same way; empty once the clients have gone.
    pub sessions: Vec<u64>,
}

impl Recording {
    /// Each Pod's requests up to `at`, by the last sample not after it.
    pub fn requests_at(&self, at: Duration) -> Vec<u64> {
        let after = self.samples.partition_point(|sample| sample.at <= at);
        let sample = after.checked_sub(1).and_then(|index| self.samples.get(index));
        (0..self.pods.len()).map(|pod| sample.and_then(|s| s.requests.get(pod)).copied().unwrap_or(0)).collect()
    }

    /// Each Pod's requests in `from..to`.
    pub fn requests_between(&self, from: Duration, to: Duration) -> Vec<u64> {
        let before = self.requests_at(from);
        self.requests_at(to).iter().zip(before).map(|(to, from)| to - from).collect()
    }
}

/// Runs one phase and shows it on the way. Gives `None` when `stop` was set.
///
/// # Errors
/// A Pod, a client thread or evenkeel could not start.
pub fn run(
    way: Way,
    options: &Options,
    stop: &AtomicBool,
    show: &mut dyn FnMut(&Recording) -> std::io::Result<()>,
) -> Result<Option<Recording>, Error> {
    let mut pods = Vec::new();
    start_pods(&mut pods, options.pods, options.protocol)?;
    let front = Arc::new(Front::open(way, options, &addresses(&pods)).map_err(|e| Error::Start(way, e))?);
    let begin = Instant::now();
    let mut crowd = Crowd::start(options, front.clone(), begin).map_err(Error::Local)?;
    for number in 0..options.clients {
        crowd.add(Client { number, arrives: Duration::ZERO, first: front.route() });
    }

    let mut recording = Recording {
        way,
        elapsed: Duration::ZERO,
        scaled_at: None,
        pods: Vec::new(),
        samples: Vec::new(),
        ledger: Ledger::default(),
    };
    let mut show_at = Duration::ZERO;
    let mut tick = begin;
    while recording.elapsed < options.duration {
        if stop.load(Relaxed) {
            return Ok(None);
        }
        recording.elapsed = begin.elapsed();
        if recording.scaled_at.is_none() && options.scale_at().is_some_and(|at| recording.elapsed >= at) {
            start_pods(&mut pods, options.scale_to, options.protocol)?;
            let announced = front.announce(&addresses(&pods)).map_err(Error::Local)?;
            recording.scaled_at = Some(announced - begin);
            if options.protocol == Protocol::Tcp {
                for wave in 0..options.clients {
                    let spread = WAVE_OVER.mul_f64(wave as f64 / options.clients as f64);
                    let arrives = announced - begin + WAVE_AFTER + spread;
                    crowd.add(Client { number: options.clients + wave, arrives, first: front.route() });
                }
            }
        }
        recording.read(&pods, options, begin);
        for record in &mut recording.pods {
            record.open = record.counts.open;
        }
        if recording.elapsed >= show_at {
            show_at = recording.elapsed + SHOW_EVERY;
            recording.ledger.clone_from(&crowd.ledger());
            show(&recording).map_err(Error::Output)?;
        }
        tick += SAMPLE_EVERY;
        thread::sleep(tick.saturating_duration_since(Instant::now()));
    }
    crowd.finish();
    recording.ledger.clone_from(&crowd.ledger());
    // The phase ends with its last answer: that clients then stay connected a little longer is no
    // part of any rate.
    let last_answer = recording.ledger.answers.last().map_or(Duration::ZERO, |answer| answer.at);
    recording.read(&pods, options, begin);
    recording.close(last_answer);
    Ok(Some(recording))
}

impl Recording {
    fn read(&mut self, pods: &[Pod], options: &Options, begin: Instant) {
        self.elapsed = begin.elapsed();
        for (index, pod) in pods.iter().enumerate() {
            let counts = pod.counts();
            let first_request = counts.first_request.map(|at| at.saturating_duration_since(begin));
            match self.pods.get_mut(index) {
                Some(record) => (record.counts, record.first_request) = (counts, first_request),
                None => self.pods.push(PodRecord {
                    name: pod.name().to_owned(),
                    address: pod.addr(),
                    new: index >= options.pods,
                    counts,
                    open: 0,
                    first_request,
                }),
            }
        }
        let requests = self.pods.iter().map(|pod| pod.counts.requests).collect();
        let sessions = self.pods.iter().map(|pod| pod.counts.open).collect();
        self.samples.push(Sample { at: self.elapsed, requests, sessions });
    }

    /// Dates the last sample back to `end`, or to the sample before it if that is later.
    fn close(&mut self, end: Duration) {
        if let Some(last) = self.samples.pop() {
            self.elapsed = self.samples.last().map_or(end, |before| before.at.max(end));
            self.samples.push(Sample { at: self.elapsed, sessions: Vec::new(), ..last });
        }
    }
}

fn start_pods(pods: &mut Vec<Pod>, total: usize, protocol: Protocol) -> Result<(), Error> {
    let behaviour = Behaviour { work: WORK, ..Behaviour::default() };
    while pods.len() < total {
        let name = format!("pod-{}", pods.len() + 1);
        pods.push(Pod::start(name, protocol.into(), behaviour.clone()).map_err(Error::Local)?);
    }
    Ok(())
}

fn addresses(pods: &[Pod]) -> Vec<SocketAddr> {
    pods.iter().map(Pod::addr).collect()
}
