//! What workers count, where the control thread can read it.
//!
//! Each worker owns its tallies and is their only writer, so counting is a plain load and store;
//! readers sum over workers.

use crate::observe::spans::Counts;
pub use crate::observe::sums::{Departed, EndpointSums};
use evenkeel_core::end::{Cause, Limit};
use evenkeel_core::endpoint::Endpoint;
use evenkeel_core::time::Instant;
use evenkeel_wire::grpc::status;
use evenkeel_wire::http2::budget::Flood;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// A counter with one writer and any number of readers.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Subtracts; only the owning worker may call this (for gauges).
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the latency histogram, in microseconds; one more bucket is unbounded.
pub const LATENCY_BOUNDS_US: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// What one worker counted for one endpoint of one service.
///
/// With thousands of endpoints each turn finds that of its own in memory and not in a cache: what every turn counts
/// stands first and together, so that it needs three lines (with the bucket of its latency) and not six.
#[derive(Default, Debug)]
#[repr(C, align(64))]
pub struct EndpointTally {
    /// Turns that were given to it.
    pub turns: Counter,
    /// Bytes to the endpoint.
    pub bytes_sent: Counter,
    /// Bytes from the endpoint.
    pub bytes_received: Counter,
    /// Sum of the times to first byte, microseconds.
    pub latency_sum_us: Counter,
    /// Idle connections in the pool.
    pub idle_links: Counter,
    /// Connections open now, idle or not.
    pub links: Counter,
    /// Connections opened.
    pub connects: Counter,
    /// Turns tried again elsewhere after this endpoint failed them.
    pub retried: Counter,
    /// Turns by status class: 1xx (upgrades) … 5xx; index 0: no status (TCP).
    pub status: [Counter; 6],
    /// Time to first byte, by bucket of [`LATENCY_BOUNDS_US`].
    pub latency: [Counter; LATENCY_BOUNDS_US.len() + 1],
    /// Turns it failed, by [`Cause`] in order of [`Cause::ALL`].
    pub failures: [Counter; Cause::ALL.len()],
}

impl EndpointTally {
    /// Files a time to first byte; only the owning worker may call this.
    pub fn observe_latency(&self, us: u64) {
        let bucket = LATENCY_BOUNDS_US.partition_point(|&bound| bound < us);
        self.latency[bucket].add(1);
        self.latency_sum_us.add(us);
    }
}

/// What one worker counted for one service, apart from its endpoints.
#[derive(Default, Debug)]
pub struct ServiceTally {
    /// Client connections accepted.
    pub accepted: Counter,
    /// Client connections open now.
    pub sessions: Counter,
    /// Turns asked for by clients.
    pub turns: Counter,
    /// Turns in flight or waiting.
    pub turns_active: Counter,
    /// Turns that failed, by [`Cause`] in order of [`Cause::ALL`].
    pub failures: [Counter; Cause::ALL.len()],
    /// Sessions that ended, by [`Cause`] in order of [`Cause::ALL`].
    pub ends: [Counter; Cause::ALL.len()],
    /// Limits that were run into, in order of [`Limit::ALL`].
    pub limits: [Counter; Limit::ALL.len()],
    /// HTTP/2 connections that ended for what their peer did too often, by [`Flood`] in order of [`Flood::ALL`]: of
    /// clients, then of endpoints.
    pub floods: [[Counter; Flood::ALL.len()]; 2],
    /// TLS handshakes with clients that were completed.
    pub handshakes: Counter,
    /// Sessions that were asked to go, by [`Leave`](evenkeel_wire::session::Leave).
    pub asked: [Counter; 3],
    /// Retries made.
    pub retries: Counter,
    /// Retries not made for want of budget.
    pub retries_refused: Counter,
    /// Bytes from clients.
    pub bytes_received: Counter,
    /// Bytes to clients.
    pub bytes_sent: Counter,
    /// Bytes, in either direction, that moved inside the kernel.
    pub bytes_spliced: Counter,
    /// Calls of gRPC that ended, by status; those of statuses that are none come behind.
    pub calls: [Counter; status::COUNT + 1],
}

/// One service as the control thread sees it.
#[derive(Debug)]
pub struct ServiceEntry {
    /// Its name.
    pub name: String,
    /// One per worker.
    pub workers: Vec<Arc<ServiceTally>>,
    /// One per worker and endpoint that the worker has met, while it has links to it.
    pub endpoints: Mutex<Vec<Tallied>>,
    /// Counts of tallies that no worker writes to any more.
    pub departed: Mutex<Departed>,
}

/// An endpoint, and what one worker counts for it.
pub type Tallied = (Arc<Endpoint>, Arc<EndpointTally>);

/// All services of the process.
#[derive(Default, Debug)]
pub struct Registry {
    /// In order of configuration.
    pub services: Mutex<Vec<Arc<ServiceEntry>>>,
    /// One per worker.
    pub heartbeats: Mutex<Vec<Arc<Heartbeat>>>,
    /// Access log records dropped because the writer did not keep up.
    pub access_log_dropped: Arc<AtomicU64>,
    /// What became of spans.
    pub(crate) spans: Arc<Counts>,
}

/// Proof that a worker lives.
#[derive(Default, Debug)]
pub struct Heartbeat {
    /// When it began its last turn, nanoseconds since the process began; `u64::MAX`: it stopped.
    last_turn: AtomicU64,
    /// It waits for events, which may take its time.
    asleep: std::sync::atomic::AtomicBool,
}

impl Heartbeat {
    /// The worker begins a turn of its loop.
    pub fn turns(&self, now: Instant) {
        self.last_turn.store(now.as_nanos(), Relaxed);
        self.asleep.store(false, Relaxed);
    }

    /// The worker waits for events.
    pub fn sleeps(&self) {
        self.asleep.store(true, Relaxed);
    }

    /// The worker ended as it should.
    pub fn stops(&self) {
        self.last_turn.store(u64::MAX, Relaxed);
    }

    /// Has the worker been busy with one turn of its loop for longer than `limit`?
    pub fn stalled(&self, now: Instant, limit: std::time::Duration) -> bool {
        let last = self.last_turn.load(Relaxed);
        !self.asleep.load(Relaxed) && last != u64::MAX && now.since(Instant::from_nanos(last)) > limit
    }
}

/// One session, for the admin API.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SessionView {
    /// Unique within its worker while the session lives.
    pub id: u64,
    /// Index of its worker.
    pub worker: usize,
    /// Service name.
    pub service: String,
    /// Client address.
    pub client: String,
    /// What it speaks.
    pub protocol: String,
    /// How far it, or its present turn, has come.
    pub phase: String,
    /// The endpoint that serves its present turn.
    pub endpoint: Option<String>,
    /// Seconds since it was accepted.
    pub age_seconds: f64,
    /// Turns it has had.
    pub turns: u64,
}
