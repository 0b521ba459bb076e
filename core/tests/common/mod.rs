//! A balancer in virtual time, for the suites.

#![allow(dead_code, reason = "each suite uses its own part of this module")]

use evenkeel_core::address::Address;
use evenkeel_core::balancer::{Balancer, Config, EndpointView, Fact, Input, Output, Policy, Shed};
use evenkeel_core::endpoint::{EndpointId, EndpointSpec};
use evenkeel_core::picker::{Ask, NoPick, Notice, Outcome, Picker, Scope, Ticket};
use evenkeel_core::rng::Rng;
use evenkeel_core::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

pub struct World {
    pub balancer: Balancer,
    pub picker: Arc<Picker>,
    pub now: Instant,
    pub rng: Rng,
    pub facts: Vec<Fact>,
    pub warmed: usize,
    pub retired: usize,
    pub published: usize,
    /// Endpoints whose sessions were told to go, and did not have that taken back.
    pub leaving: BTreeSet<EndpointId>,
    /// Wishes that sessions move, to be fulfilled by the test.
    pub sheds: Vec<Shed>,
}

impl World {
    pub fn new(policy: Policy, n: usize) -> Self {
        let config = Config { turn_policy: policy, session_policy: policy, ..Config::default() };
        let mut world = Self::with(config);
        world.scale(n);
        world
    }

    pub fn with(config: Config) -> Self {
        let now = Instant::from_nanos(1_000_000_000_000);
        Self {
            balancer: Balancer::new(config, 42, 7, now),
            picker: Arc::new(Picker::empty()),
            now,
            rng: Rng::seeded(11),
            facts: Vec::new(),
            warmed: 0,
            retired: 0,
            published: 0,
            leaving: BTreeSet::new(),
            sheds: Vec::new(),
        }
    }

    pub fn input(&mut self, input: Input) {
        self.balancer.handle(input, self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.balancer.poll_output() {
            match output {
                Output::Publish(picker) => {
                    self.picker = picker;
                    self.published += 1;
                }
                Output::Warm(_) => self.warmed += 1,
                Output::Retire(_) => self.retired += 1,
                Output::Leave(endpoint) => {
                    self.leaving.insert(endpoint.id);
                }
                Output::Stay(endpoint) => assert!(self.leaving.remove(&endpoint.id), "told to leave before"),
                Output::Shed(shed) => self.sheds.push(shed),
                Output::Fact(fact) => self.facts.push(fact),
            }
        }
    }

    /// Endpoints 0 … n−1, all ready.
    pub fn scale(&mut self, n: usize) {
        self.set((0..n).map(spec).collect());
    }

    pub fn set(&mut self, endpoints: Vec<EndpointSpec>) {
        self.input(Input::Endpoints { source: 0, endpoints });
    }

    /// Lets time pass, timers and all.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some((at, _)) = self.balancer.poll_timeout().filter(|&(at, _)| at <= end) {
            self.now = self.now.max(at);
            self.balancer.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    pub fn pick(&mut self, scope: Scope) -> Result<Ticket, NoPick> {
        self.pick_key(scope, None)
    }

    pub fn pick_key(&mut self, scope: Scope, key: Option<u64>) -> Result<Ticket, NoPick> {
        self.picker.pick(&Ask { scope, key, avoid: &[] }, &mut self.rng, self.now)
    }

    /// One turn that is over at once; returns who took it.
    pub fn turn(&mut self, outcome: impl Fn(EndpointId) -> Outcome) -> EndpointId {
        let ticket = self.pick(Scope::Turn).expect("an endpoint");
        let id = ticket.endpoint().id;
        match ticket.complete(outcome(id), self.now) {
            Notice::None => {}
            Notice::Suspect(id) => self.input(Input::Suspect(id)),
            Notice::Probed(id, passed) => self.input(Input::Probed(id, passed)),
        }
        id
    }

    /// Counts of `turns` quick turns, by endpoint.
    pub fn turns(&mut self, turns: usize) -> BTreeMap<EndpointId, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..turns {
            *counts.entry(self.turn(|_| quick())).or_default() += 1;
        }
        counts
    }

    pub fn view(&self, i: usize) -> EndpointView {
        let views = self.balancer.explain(self.now);
        views.into_iter().find(|v| v.endpoint.id == id(i)).expect("a known endpoint")
    }
}

pub fn quick() -> Outcome {
    Outcome::Success(Duration::from_millis(1))
}

pub fn failed() -> Outcome {
    Outcome::Failure(Duration::from_millis(1), None)
}

pub fn address(i: usize) -> Address {
    Address::Ip(SocketAddr::from(([10, 0, (i / 250) as u8, (i % 250) as u8], 80)))
}

pub fn spec(i: usize) -> EndpointSpec {
    EndpointSpec::at(address(i))
}

pub fn id(i: usize) -> EndpointId {
    spec(i).id()
}

/// Random affinity keys.
pub fn keys(n: usize) -> Vec<u64> {
    let mut rng = Rng::seeded(99);
    (0..n).map(|_| rng.next_u64()).collect()
}

/// χ² of counts against an even distribution.
pub fn chi_square(counts: &[usize]) -> f64 {
    let mean = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
    counts.iter().map(|&c| (c as f64 - mean).powi(2) / mean).sum()
}
