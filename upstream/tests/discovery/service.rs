//! A service with a running pump, and what it can be asked.

use evenkeel_core::balancer::{Config, Fact};
use evenkeel_upstream::check;
use evenkeel_upstream::pump::{self, Clock, Event, Pump, Spec};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a test waits for what must come; what comes sooner is noticed at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// A service under test.
pub struct Service {
    pub pump: Pump,
    events: Receiver<Event>,
}

fn spec(targets: &[&str], check: Option<check::Config>) -> Spec {
    Spec {
        name: "test".into(),
        targets: targets.iter().map(|target| target.parse().expect("a target")).collect(),
        balance: Config { slow_start: evenkeel_core::time::Duration::ZERO, ..Config::default() },
        check,
        proxy_id: 1,
        seed: 1,
    }
}

impl Service {
    /// Endpoints from this target, without checks.
    pub fn of(target: &str) -> Self {
        Self::checked(target, None)
    }

    pub fn checked(target: &str, check: Option<check::Config>) -> Self {
        let spec = spec(&[target], check);
        let (send, events) = channel();
        let clock = Clock::new(std::time::Instant::now());
        let pump = pump::spawn(spec, clock, move |event| {
            // The test may be over.
            let _gone = send.send(event);
        });
        Self { pump, events }
    }

    /// Goes on with other targets.
    pub async fn retarget(&self, targets: &[&str]) {
        self.pump.configure(spec(targets, None)).await;
    }

    /// Addresses that may be picked, in order.
    pub async fn usable(&self) -> Vec<String> {
        let mut addresses: Vec<String> = self
            .pump
            .explain()
            .await
            .endpoints
            .iter()
            .filter(|v| v.usable)
            .map(|v| v.endpoint.address.to_string())
            .collect();
        addresses.sort();
        addresses
    }

    /// Waits until exactly these may be picked.
    pub async fn becomes(&self, addresses: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let usable = self.usable().await;
            if usable == addresses {
                return;
            }
            assert!(Instant::now() < deadline, "still {usable:?}, expected {addresses:?}; {:?}", self.pump.sources());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the source complains of this.
    pub async fn complains(&self, of: &str) {
        let deadline = Instant::now() + PATIENCE;
        let complains = || self.pump.sources().iter().any(|s| s.error.as_ref().is_some_and(|error| error.contains(of)));
        while !complains() {
            assert!(Instant::now() < deadline, "no complaint of {of:?}: {:?}", self.pump.sources());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// The source has nothing to complain of.
    pub fn is_well(&self) -> bool {
        self.pump.sources().iter().all(|source| source.error.is_none())
    }

    /// The facts so far that are about health.
    pub fn health_facts(&self) -> Vec<Fact> {
        let facts = self.events.try_iter().filter_map(|event| match event {
            Event::Fact(fact @ Fact::HealthChanged { .. }, _) => Some(fact),
            _ => None,
        });
        facts.collect()
    }
}
