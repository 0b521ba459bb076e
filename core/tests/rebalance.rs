//! Sessions move to where they are missing: how many, how fast, and never back.

mod common;

use common::{World, id, spec};
use evenkeel_core::balancer::{Config, Fact, Input, Pace, Policy, RebalanceConfig, Shed};
use evenkeel_core::endpoint::{EndpointId, Readiness};
use evenkeel_core::picker::{Scope, Ticket};
use evenkeel_core::time::{Duration, Instant};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

const STEP: Duration = Duration::from_millis(50);

/// Clients of long sessions, who come back some time after they were asked to go.
struct Clients {
    world: World,
    sessions: Vec<Session>,
    /// Who is away, and until when.
    away: VecDeque<Instant>,
    comes_back_after: Duration,
    moves: usize,
}

struct Session {
    ticket: Ticket,
    opened: Instant,
}

impl Clients {
    fn new(config: RebalanceConfig, endpoints: usize, sessions: usize) -> Self {
        let policy = Policy::LeastSession;
        let config = Config { turn_policy: policy, session_policy: policy, rebalance: config, ..Config::default() };
        let mut world = World::with(config);
        world.scale(endpoints);
        let comes_back_after = Duration::from_millis(100);
        let mut clients = Self { world, sessions: Vec::new(), away: VecDeque::new(), comes_back_after, moves: 0 };
        (0..sessions).for_each(|_| clients.open());
        clients.run(Duration::from_secs(2));
        clients
    }

    fn open(&mut self) {
        let ticket = self.world.pick(Scope::Session).expect("an endpoint");
        self.sessions.push(Session { ticket, opened: self.world.now });
    }

    /// Does at once what is wished for, the oldest first.
    fn obey(&mut self, shed: &Shed) {
        while shed.take() {
            let of_it = |s: &Session| s.ticket.endpoint().id == shed.endpoint.id && s.opened < shed.opened_before;
            let Some(at) = self.sessions.iter().position(of_it) else { return shed.give_back() };
            self.moves += 1;
            self.sessions.remove(at).ticket.leaves();
            self.away.push_back(self.world.now + self.comes_back_after);
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.world.now + duration;
        while self.world.now < end {
            self.world.run(STEP);
            for shed in std::mem::take(&mut self.world.sheds) {
                self.obey(&shed);
            }
            while self.away.front().is_some_and(|&back| back <= self.world.now) {
                self.away.pop_front();
                self.open();
            }
        }
    }

    fn counts(&self) -> BTreeMap<EndpointId, usize> {
        let mut counts = BTreeMap::new();
        for session in &self.sessions {
            *counts.entry(session.ticket.endpoint().id).or_default() += 1;
        }
        counts
    }

    /// Largest share ÷ fair share over the first n endpoints.
    fn skew(&self, n: usize) -> f64 {
        let max = self.counts().into_values().max().unwrap_or(0);
        max as f64 * n as f64 / self.sessions.len() as f64
    }
}

/// Until skew is at most 1.10; seconds.
fn settle(clients: &mut Clients, n: usize) -> f64 {
    let began = clients.world.now;
    while clients.skew(n) > 1.10 || !clients.away.is_empty() {
        clients.run(STEP);
        assert!(clients.world.now.since(began) < Duration::from_secs(60), "never even: {:?}", clients.counts());
    }
    clients.world.now.since(began).as_secs_f64()
}

/// 600 of 1,000 sessions have to move; at 5 % a second that takes 12 s, whatever the clients' delay.
#[test]
fn two_endpoints_become_five() {
    for delay_ms in [20, 500, 3_000, 5_000] {
        let mut clients = Clients::new(RebalanceConfig::default(), 2, 1_000);
        clients.comes_back_after = Duration::from_millis(delay_ms);
        clients.world.scale(5);
        let took = settle(&mut clients, 5);
        assert!(took <= 12.0 + delay_ms as f64 / 1000.0 + 1.0, "{delay_ms} ms: {took} s");
        clients.run(Duration::from_secs(60));
        assert!(clients.moves <= 630, "{delay_ms} ms: {} moves", clients.moves);
        assert!(clients.skew(5) <= 1.03, "{delay_ms} ms: {:?}", clients.counts());
    }
}

/// Slow start: the fair share of one that is new among many grows, and what moves to it is no more than
/// that; nothing is moved twice.
#[test]
fn a_sixth_endpoint_fills_slowly() {
    let mut clients = Clients::new(RebalanceConfig::default(), 5, 500);
    clients.world.scale(6);
    for second in 1..=10 {
        clients.run(Duration::from_secs(1));
        let weight = f64::from(second) / 10.0;
        let share = 500.0 * weight / (5.0 + weight);
        let new = clients.counts().get(&id(5)).copied().unwrap_or(0);
        assert!(new as f64 <= share + 1.0, "{new} after {second} s of 10 s, fair would be {share}");
    }
    clients.run(Duration::from_secs(15));
    assert!(clients.skew(6) <= 1.03, "{:?}", clients.counts());
    assert!(clients.moves <= 84, "{} moves", clients.moves);
}

#[test]
fn few_sessions_move_only_if_that_helps() {
    for (before, after, sessions, moves) in [(2, 3, 4, 1), (2, 3, 2, 0), (1, 2, 1, 0), (1, 3, 3, 2), (2, 5, 7, 3)] {
        let mut clients = Clients::new(RebalanceConfig::default(), before, sessions);
        clients.world.scale(after);
        clients.run(Duration::from_secs(90));
        assert_eq!(clients.moves, moves, "{sessions} on {before}, then {after}: {:?}", clients.counts());
    }
}

#[test]
fn the_pace_is_kept() {
    for (pace, per_second) in [(Pace::Fraction(0.02), 20.0), (Pace::PerSecond(7.0), 7.0)] {
        let mut clients = Clients::new(RebalanceConfig { pace, ..RebalanceConfig::default() }, 2, 1_000);
        clients.world.scale(5);
        clients.run(Duration::from_secs(20));
        // One second's worth may be spent at once in the beginning.
        let expected = 21.0 * per_second;
        assert!((0.9 * expected..=1.05 * expected).contains(&(clients.moves as f64)), "{pace:?}: {}", clients.moves);
    }
    let mut clients = Clients::new(RebalanceConfig { per_endpoint: 3.0, ..RebalanceConfig::default() }, 2, 1_000);
    clients.world.scale(5);
    clients.run(Duration::from_secs(20));
    assert!((100..=130).contains(&clients.moves), "2 endpoints, 3 a second each, 20 s: {}", clients.moves);
}

#[test]
fn switched_off_nothing_moves() {
    let mut clients = Clients::new(RebalanceConfig { enabled: false, ..RebalanceConfig::default() }, 2, 100);
    clients.world.scale(5);
    clients.run(Duration::from_secs(60));
    assert_eq!(clients.moves, 0);
    let view = clients.world.balancer.rebalancing(clients.world.now);
    assert!(!view.enabled && view.needed == 60 && view.skew == 2.5, "{view:?}");
}

#[test]
fn clients_that_do_not_come_back_are_not_sent_away_for_long() {
    let mut clients = Clients::new(RebalanceConfig::default(), 2, 1_000);
    clients.comes_back_after = Duration::from_secs(1_000_000);
    clients.world.scale(5);
    clients.run(Duration::from_secs(45));
    assert!(clients.world.facts.contains(&Fact::RebalancePaused), "{:?}", clients.world.facts.last());
    let moves = clients.moves;
    clients.run(Duration::from_secs(500));
    assert_eq!(clients.moves, moves);
    assert!(clients.world.balancer.rebalancing(clients.world.now).paused.is_some());
}

/// What cannot be moved (opaque connections) is wished for again and again, and changes nothing.
#[test]
fn a_wish_that_nobody_fulfils_does_not_add_up() {
    let mut clients = Clients::new(RebalanceConfig::default(), 2, 100);
    clients.world.scale(5);
    for _ in 0..600 {
        clients.world.run(STEP);
        let wished: u32 = clients.world.sheds.iter().map(|s| s.quota.load(std::sync::atomic::Ordering::Relaxed)).sum();
        assert!(wished <= 5, "{wished} at once");
    }
    let view = clients.world.balancer.rebalancing(clients.world.now);
    assert_eq!((view.moves, view.away, view.needed), (0, 0, 60));
}

#[test]
fn who_was_moved_rests() {
    let mut clients = Clients::new(RebalanceConfig::default(), 1, 100);
    clients.world.scale(2);
    clients.run(Duration::from_secs(30));
    let moved = clients.moves;
    // 3 % of skew are even enough.
    assert!((49..=50).contains(&moved), "{moved}");
    // The endpoint with those who were not moved goes: all are on the other now, and a third comes.
    clients.world.set(vec![spec(1), spec(2)]);
    let gone = |s: &Session| s.ticket.endpoint().id == id(0);
    let stayed = clients.sessions.iter().filter(|s| gone(s)).count();
    clients.sessions.retain(|s| !gone(s));
    assert_eq!(stayed, 100 - moved);
    clients.run(Duration::from_secs(20));
    assert_eq!(clients.moves, moved, "all that are left were moved less than a minute ago");
    clients.run(Duration::from_secs(60));
    assert!((24..=25).contains(&(clients.moves - moved)), "{}", clients.moves);
}

#[test]
fn leaving_endpoints_tell_their_sessions_to_go_if_there_are_others() {
    let mut world = World::new(Policy::LeastSession, 3);
    let terminating = |i| {
        let mut spec = spec(i);
        spec.readiness = Readiness::Terminating;
        spec
    };
    let weightless = |i| {
        let mut spec = spec(i);
        spec.weight = 0.0;
        spec
    };
    world.set(vec![terminating(0), weightless(1), spec(2)]);
    assert_eq!(world.leaving, [id(0), id(1)].into());
    world.set(vec![spec(0), weightless(1), spec(2)]);
    assert_eq!(world.leaving, [id(1)].into());
    world.input(Input::Drain(id(2), true));
    assert_eq!(world.leaving, [id(1), id(2)].into());
    world.input(Input::Drain(id(2), false));
    assert_eq!(world.leaving, [id(1)].into());
    // Nobody is told to go to nowhere.
    world.set(vec![spec(0)]);
    world.set(vec![terminating(0)]);
    assert!(!world.leaving.contains(&id(0)));
    world.set(vec![terminating(0), spec(3)]);
    assert!(world.leaving.contains(&id(0)));
}

#[test]
fn sessions_are_counted_across_a_flap() {
    let mut world = World::new(Policy::LeastSession, 2);
    let tickets: Vec<Ticket> = (0..10).map(|_| world.pick(Scope::Session).unwrap()).collect();
    world.scale(1);
    assert!(world.leaving.contains(&id(1)));
    world.scale(2);
    assert!(!world.leaving.contains(&id(1)), "it is back: nobody has to go");
    let next = world.pick(Scope::Session).unwrap();
    let counts = [0, 1].map(|i| world.view(i).endpoint.load.sessions.load(std::sync::atomic::Ordering::Relaxed));
    assert_eq!(counts.iter().sum::<u32>(), 11, "{counts:?}");
    drop((tickets, next));
    let counts = [0, 1].map(|i| world.view(i).endpoint.load.sessions.load(std::sync::atomic::Ordering::Relaxed));
    assert_eq!(counts, [0, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every move lowers Σ L², so there are hardly more than the excess above fair shares, and it ends.
    #[test]
    fn moves_are_as_few_as_can_be(before in 1_usize..6, after in 1_usize..9, sessions in 1_usize..200) {
        prop_assume!(after > before);
        let mut clients = Clients::new(RebalanceConfig::default(), before, sessions);
        clients.world.scale(after);
        clients.run(Duration::from_secs(100));
        let counts = clients.counts();
        let (floor, ceiling) = (sessions / after, sessions.div_ceil(after));
        let fewest: usize = {
            // What the old endpoints had above the ceiling, or the new ones lack to the floor.
            let excess: usize = (0..before).map(|i| (sessions / before + usize::from(i < sessions % before)).saturating_sub(ceiling)).sum();
            excess.max((after - before) * floor)
        };
 prop_assert!(clients.moves <= fewest + 1, "{} moves, {fewest} needed: {counts:?}", clients.moves);
        let most = counts.values().copied().max().unwrap_or(0);
        prop_assert!(most <= ceiling || clients.skew(after) <= 1.10, "{counts:?}");
    }
}
