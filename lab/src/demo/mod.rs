//! `evenkeel demo`: the same clients twice, behind a Service and behind evenkeel.
//!
//! Real Pods ([`crate::pod`]) and real connections on loopback addresses. In the first phase every
//! connection goes to a Pod drawn when it opens, which is what a Service does; in the second all go
//! to evenkeel in this process. In both, Pods are added while the clients stay. `phase` runs and
//! records, `outcome` turns what was recorded into figures, `screen` and `report` draw them.

pub mod crowd;
pub mod figures;
pub mod front;
pub mod outcome;
pub mod phase;
mod report;
mod screen;
mod summary;

use evenkeel_core::balancer::{Pace, RebalanceConfig};
use outcome::{Outcome, Phase};
use serde::Serialize;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// How long one request occupies a Pod, which works on one at a time: a Pod with more than its share
/// queues, as a Pod at its processor limit does.
pub const WORK: Duration = Duration::from_millis(2);
/// Slow start of the demo's service. The default is 10 s; loopback Pods have no caches to warm, and
/// nobody wants to watch that long.
pub const SLOW_START: Duration = Duration::from_secs(1);
/// The part of the time after scaling in which sessions move.
const MOVING: f64 = 0.4;
/// The least requests per second of a client.
const LEAST_RATE: f64 = 0.1;
/// More requests per second than this keep the demo's own threads so busy that they would be what is measured.
const MAX_REQUESTS_PER_SECOND: f64 = 5_000.0;

/// What stands between clients and Pods.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// A Kubernetes Service: one Pod for each connection, at random, for life.
    Service,
    /// evenkeel.
    Evenkeel,
}

impl Way {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "Kubernetes Service",
            Self::Evenkeel => "evenkeel",
        }
    }
}

/// What clients and Pods speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive: a request is a turn.
    #[default]
    Http,
    /// HTTP/2: a request is a turn.
    Http2,
    /// gRPC: a call is a turn.
    Grpc,
    /// Opaque lines: the whole connection is a turn.
    Tcp,
    /// WebSocket: the whole session is a turn, and can be asked to move.
    WebSocket,
}

impl Protocol {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::WebSocket => "websocket",
        }
    }
}

/// How the demo reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Output {
    /// For people: live on a terminal, the result elsewhere.
    #[default]
    Text,
    /// One JSON document on standard output.
    Json,
}

/// What to show.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// Clients, each with one connection.
    pub clients: u64,
    /// Pods at the beginning.
    pub pods: usize,
    /// Pods after scaling; as many as `pods`: no scaling.
    pub scale_to: usize,
    /// What they speak.
    pub protocol: Protocol,
    /// Requests per second and client.
    pub rate: f64,
    /// Of one phase.
    pub duration: Duration,
    /// Of everything that is drawn by chance.
    pub seed: u64,
    /// How the result is printed.
    pub output: Output,
    /// Where to write a page with plots.
    pub report: Option<PathBuf>,
    /// May text have colours?
    pub color: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clients: 12,
            pods: 3,
            scale_to: 6,
            protocol: Protocol::Http,
            rate: 40.0,
            duration: Duration::from_secs(7),
            seed: 9,
            output: Output::Text,
            report: None,
            color: true,
        }
    }
}

/// Why the demo could not be shown.
#[derive(Debug)]
pub enum Error {
    /// An option is out of range.
    Usage(String),
    /// What should stand before the Pods could not start.
    Start(Way, io::Error),
    /// This machine could not give a port, a thread or a file.
    Local(io::Error),
    /// The terminal or pipe could not be written.
    Output(io::Error),
    /// The report could not be written.
    Report(PathBuf, io::Error),
    /// Ctrl-C.
    Interrupted,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) => f.write_str(what),
            Self::Start(way, e) => write!(f, "{} could not start: {e}", way.name()),
            Self::Local(e) => write!(f, "the demo could not run: {e}"),
            Self::Output(e) => write!(f, "cannot write the result: {e}"),
            Self::Report(path, e) => write!(f, "cannot write the report {}: {e}", path.display()),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {}

impl Options {
    /// Requests per second of each of so many clients that keep so many Pods as busy as those of the default
    /// scenario are; no busier all together, for this machine has to do all of it.
    pub fn rate_for(clients: u64, pods: usize) -> f64 {
        let usual = Self::default();
        let busy = usual.rate * usual.clients as f64 * pods.min(usual.pods) as f64 / usual.pods as f64;
        let rate = busy / clients.max(1) as f64;
        let step = if rate < 1.0 { 0.01 } else { 1.0 };
        ((rate / step).floor() * step).clamp(LEAST_RATE, usual.rate)
    }

    /// The part of all sessions that evenkeel moves each second: as by default, or what it takes to be done
    /// before the phase ends.
    pub fn moves_per_second(&self) -> f64 {
        let Pace::Fraction(usual) = RebalanceConfig::default().pace else { return 0.0 };
        let needed = 1.0 - self.pods as f64 / self.scale_to as f64;
        let time = self.scale_at().map_or(Duration::ZERO, |at| self.duration - at).as_secs_f64();
        if time > 0.0 { usual.max(needed / (MOVING * time)) } else { usual }
    }

    /// Clients that arrive after scaling: opaque connections cannot be moved, so new ones show
    /// where connections go from then on.
    pub fn second_wave(&self) -> u64 {
        if self.protocol == Protocol::Tcp && self.scale_at().is_some() { self.clients } else { 0 }
    }

    /// When Pods are added; `None`: never.
    pub fn scale_at(&self) -> Option<Duration> {
        (self.scale_to > self.pods).then(|| self.duration.mul_f64(3.0 / 7.0))
    }

    /// The stretch before now over which current shares are taken.
    pub fn last_stretch(&self) -> Duration {
        (self.duration * 2 / 7).min(Duration::from_secs(2))
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// [`Error::Usage`], which says what is allowed.
    pub fn check(&self) -> Result<(), Error> {
        let usage = |what: String| Err(Error::Usage(what));
        if !(1..=1000).contains(&self.clients) {
            return usage(format!("--clients {}: choose 1 to 1000", self.clients));
        }
        if !(1..=64).contains(&self.pods) {
            return usage(format!("--pods {}: choose 1 to 64", self.pods));
        }
        if !(self.pods..=128).contains(&self.scale_to) {
            return usage(format!(
                "--scale-to {}: choose {} to 128 (the demo only adds Pods)",
                self.scale_to, self.pods
            ));
        }
        if !(self.rate >= LEAST_RATE && self.rate * self.clients as f64 <= MAX_REQUESTS_PER_SECOND) {
            let most = (MAX_REQUESTS_PER_SECOND / self.clients as f64).floor();
            return usage(format!(
                "--rate {}: choose {LEAST_RATE} to {most} requests per second for each of {} clients",
                self.rate, self.clients
            ));
        }
        if !(Duration::from_secs(2)..=Duration::from_secs(600)).contains(&self.duration) {
            return usage(format!("--duration {:?}: choose 2s to 600s for each of the two phases", self.duration));
        }
        Ok(())
    }
}

/// Shows the demo on standard output and gives everything it found.
///
/// # Errors
/// See [`Error`]; counts that disagree are no error here but [`Outcome::counts_agree`].
pub fn run(options: &Options) -> Result<Outcome, Error> {
    options.check()?;
    let stop = interrupts().map_err(Error::Local)?;
    let mut screen = screen::Screen::open(options);
    let mut phases: Vec<Phase> = Vec::new();
    for way in [Way::Service, Way::Evenkeel] {
        screen.begin(way).map_err(Error::Output)?;
        let recorded = phase::run(way, options, &stop, &mut |recording| {
            screen.show(&phases, Some(Phase::of(recording, options)))
        })?;
        let recording = recorded.ok_or(Error::Interrupted)?;
        phases.push(Phase::of(&recording, options).with_series(&recording));
    }
    let outcome = Outcome::of(phases, options);
    if let Some(path) = &options.report {
        fs::write(path, report::page(&outcome)).map_err(|e| Error::Report(path.clone(), e))?;
    }
    match options.output {
        Output::Text => screen.finish(&outcome).map_err(Error::Output)?,
        Output::Json => {
            let mut out = io::stdout().lock();
            serde_json::to_writer_pretty(&mut out, &outcome).map_err(|e| Error::Output(e.into()))?;
            writeln!(out).map_err(Error::Output)?;
        }
    }
    Ok(outcome)
}

/// Sets the flag at the first SIGINT or SIGTERM, so that the terminal can be put back in order.
fn interrupts() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut term = {
        let _context = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = term.recv() => {}
            }
        });
        flag.store(true, Relaxed);
    })?;
    Ok(stop)
}
