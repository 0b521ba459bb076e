//! Every policy through the same questions: does each endpoint get its share, within the bound that
//! theory gives the policy?

mod common;

use common::{World, chi_square, id, keys, quick, spec};
use evenkeel_core::balancer::{Config, Policy};
use evenkeel_core::endpoint::EndpointId;
use evenkeel_core::picker::{Outcome, Scope, Ticket};
use evenkeel_core::rng::Rng;
use evenkeel_core::time::Duration;
use std::collections::BTreeMap;

fn counts(counts: &BTreeMap<EndpointId, usize>, n: usize) -> Vec<usize> {
    (0..n).map(|i| counts.get(&id(i)).copied().unwrap_or(0)).collect()
}

/// Upper limit of χ² with `n − 1` degrees of freedom that chance exceeds less than once in a million
/// runs (Wilson and Hilferty's approximation at 4.75 σ).
fn chi_square_limit(n: usize) -> f64 {
    let k = (n - 1) as f64;
    k * (1.0 - 2.0 / (9.0 * k) + 4.75 * (2.0 / (9.0 * k)).sqrt()).powi(3)
}

#[test]
fn one_endpoint_gets_everything() {
    for policy in Policy::ALL {
        let mut world = World::new(policy, 1);
        assert_eq!(world.turns(100)[&id(0)], 100, "{policy:?}");
    }
}

#[test]
fn quick_turns_spread_within_the_bound_of_the_policy() {
    let (n, turns) = (7, 7_000);
    for policy in Policy::ALL {
        let mut world = World::new(policy, n);
        let counts = counts(&world.turns(turns), n);
        let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
        match policy {
            // In turn: any two counts differ by one at most.
            Policy::RoundRobin => assert!(spread <= 1, "{counts:?}"),
            // |count − m·w/W| < 1 + n·w/W, here 2, on either side. Without load least-request is this, and
            // so is least-session, which counts turns where there are no sessions.
            Policy::Weighted | Policy::LeastRequest | Policy::LeastSession => assert!(spread <= 4, "{counts:?}"),
            // Uniform draws; for hashes, of random keys (shares differ by 1/√512 there).
            Policy::Random => assert!(chi_square(&counts) < chi_square_limit(n), "{counts:?}"),
            Policy::Maglev => assert!(chi_square(&counts) < chi_square_limit(n), "{counts:?}"),
            Policy::RingHash => assert!(*counts.iter().max().unwrap() as f64 <= 1_000.0 * 1.25, "{counts:?}"),
            // Two draws among equals; a sample that is the peak for a moment moves a little.
            Policy::PeakEwma => assert!(*counts.iter().max().unwrap() as f64 <= 1_000.0 * 1.25, "{counts:?}"),
        }
    }
}

#[test]
fn weights_are_followed() {
    let weights = [1.0, 2.0, 3.0, 0.5, 1.5];
    let (total, turns) = (8.0, 8_000);
    for policy in [Policy::Weighted, Policy::LeastRequest, Policy::PeakEwma, Policy::RingHash, Policy::Maglev] {
        let mut world = World::new(policy, 0);
        world.set(
            weights
                .iter()
                .enumerate()
                .map(|(i, &weight)| {
                    let mut spec = spec(i);
                    spec.weight = weight;
                    spec
                })
                .collect(),
        );
        let counts = counts(&world.turns(turns), weights.len());
        for (count, weight) in counts.iter().zip(weights) {
            let expected = weight / total * turns as f64;
            let allowed = match policy {
                // 16-bit weights and the bound of the stride.
                Policy::Weighted | Policy::LeastRequest => 3.0 + expected * 0.001,
                _ => expected * 0.35,
            };
            assert!((*count as f64 - expected).abs() <= allowed, "{policy:?}: {counts:?}, weight {weight}");
        }
    }
}

#[test]
fn the_stride_keeps_its_bound_over_every_stretch() {
    let weights = [65.0, 1.0, 30.0, 30.0, 7.0];
    let total: f64 = weights.iter().sum();
    let mut world = World::new(Policy::Weighted, 0);
    world.set(
        weights
            .iter()
            .enumerate()
            .map(|(i, &weight)| {
                let mut spec = spec(i);
                spec.weight = weight;
                spec
            })
            .collect(),
    );
    let picks: Vec<EndpointId> = (0..3_000).map(|_| world.turn(|_| quick())).collect();
    for (i, weight) in weights.iter().enumerate() {
        let share = weight / total;
        let mut count = 0.0;
        for (m, pick) in picks.iter().enumerate() {
            count += f64::from(u8::from(*pick == id(i)));
            let error: f64 = count - (m as f64 + 1.0) * share;
            // From a random start the bound holds between any two places, so twice from the first.
            assert!(error.abs() < 2.0 * (1.0 + weights.len() as f64 * share), "{i} after {m}: {error}");
        }
    }
}

#[test]
fn random_is_what_the_occupancy_formulas_say() {
    // N sessions, each uniform on one of n Pods: idle Pods n(1−1/n)^N, P(all on one) n^(1−N).
    for (sessions, n, idle_expected, all_on_one) in [(5, 2, 0.0625, 0.0625), (2, 5, 3.2, 0.2), (20, 5, 0.0576, 0.0)] {
        let runs = 20_000;
        let (mut idle, mut on_one, mut highest) = (0, 0, 0);
        let mut world = World::new(Policy::Random, n);
        for _ in 0..runs {
            let tickets: Vec<Ticket> = (0..sessions).map(|_| world.pick(Scope::Session).unwrap()).collect();
            let mut loads = BTreeMap::new();
            for ticket in &tickets {
                *loads.entry(ticket.endpoint().id).or_insert(0) += 1;
            }
            idle += n - loads.len();
            on_one += usize::from(loads.len() == 1);
            highest += loads.values().max().unwrap();
        }
        let mean = |sum: usize| sum as f64 / f64::from(runs);
        // Five standard errors: a mean of 20,000 values in 0 … 5 is within 0.06.
        assert!((mean(idle) - idle_expected).abs() < 0.06, "{sessions} on {n}: idle {}", mean(idle));
        assert!((mean(on_one) - all_on_one).abs() < 0.015, "{sessions} on {n}: all on one {}", mean(on_one));
        let expected_highest = match (sessions, n) {
            (5, 2) => 3.4375,
            (2, 5) => 1.2,
            _ => 6.44,
        };
        assert!((mean(highest) - expected_highest).abs() < 0.06, "{sessions} on {n}: highest {}", mean(highest));
    }
}

#[test]
fn sessions_are_even_to_one_where_the_fewest_is_looked_for() {
    let mut world = World::new(Policy::LeastSession, 9);
    let tickets: Vec<Ticket> = (0..100).map(|_| world.pick(Scope::Session).unwrap()).collect();
    let mut loads = BTreeMap::new();
    for ticket in &tickets {
        *loads.entry(ticket.endpoint().id).or_insert(0) += 1;
    }
    assert_eq!((loads.len(), loads.values().min(), loads.values().max()), (9, Some(&11), Some(&12)));
}

#[test]
fn many_endpoints_stay_near_even_without_looking_at_all() {
    // Next in order unless one of two others has strictly fewer: m balls in turn are even to one, and
    // no challenge can raise the highest above that.
    let mut world = World::new(Policy::LeastSession, 100);
    let tickets: Vec<Ticket> = (0..1_000).map(|_| world.pick(Scope::Session).unwrap()).collect();
    let mut loads = BTreeMap::new();
    for ticket in &tickets {
        *loads.entry(ticket.endpoint().id).or_insert(0usize) += 1;
    }
    assert_eq!(loads.len(), 100);
    assert!(*loads.values().max().unwrap() <= 12, "{loads:?}");
}

#[test]
fn turns_that_stay_open_are_balanced_by_two_choices() {
    // Static balls into bins: the gap to the mean is at most ln ln n/ln 2 + 2 for two choices.
    let n = 100;
    for policy in [Policy::LeastRequest, Policy::PeakEwma] {
        let mut world = World::new(policy, n);
        // Everyone has answered once, or peak-ewma would keep away from those that have not.
        let tickets: Vec<Ticket> = (0..n * 10).map(|_| world.pick(Scope::Turn).unwrap()).collect();
        let mut loads = BTreeMap::new();
        for ticket in &tickets {
            *loads.entry(ticket.endpoint().id).or_insert(0usize) += 1;
        }
        let bound = 10.0 + (n as f64).ln().ln() / std::f64::consts::LN_2 + 2.0;
        assert!((*loads.values().max().unwrap() as f64) <= bound, "{policy:?}: {loads:?}");
    }
}

#[test]
fn a_slow_endpoint_loses_nearly_all_its_turns_to_peak_ewma() {
    // Eleven endpoints, one ten times slower: after its first slow answer only draws of the slow one
    // with itself, which do not happen, would choose it; until its average has decayed by ln 10 · τ.
    let mut world = World::new(Policy::PeakEwma, 11);
    let mut slow = 0;
    for _ in 0..20_000 {
        let latency = |i: EndpointId| Duration::from_millis(if i == id(3) { 2_000 } else { 167 });
        slow += usize::from(world.turn(|i| Outcome::Success(latency(i))) == id(3));
        world.run(Duration::from_millis(1));
    }
    assert!(slow <= 20_000 / 1_000, "{slow} turns of 20,000 went to the slow endpoint");
}

#[test]
fn peak_ewma_is_not_attracted_by_fast_failures() {
    let mut world = World::with(Config {
        outlier: evenkeel_core::balancer::OutlierConfig { consecutive: None, ..Default::default() },
        ..Config::default()
    });
    world.scale(5);
    let mut failures = 0;
    for _ in 0..5_000 {
        let outcome = |i| match i == id(0) {
            true => Outcome::Failure(Duration::from_micros(50), None),
            false => Outcome::Success(Duration::from_millis(20)),
        };
        failures += usize::from(world.turn(outcome) == id(0));
        world.run(Duration::from_millis(1));
    }
    assert!(failures <= 5, "{failures} turns of 5,000 went to an endpoint that fails at once");
}

#[test]
fn equal_keys_go_to_the_same_place_whoever_asks() {
    for policy in [Policy::RingHash, Policy::Maglev] {
        let (mut one, mut other) = (World::new(policy, 20), World::new(policy, 0));
        other.set((0..20).rev().map(spec).collect());
        other.rng = Rng::seeded(12345);
        for key in keys(1_000) {
            let of = |world: &mut World| world.pick_key(Scope::Turn, Some(key)).unwrap().endpoint().id;
            assert_eq!(of(&mut one), of(&mut other), "{policy:?}");
        }
    }
}

#[test]
fn shares_of_keys_are_as_even_as_theory_says() {
    let n = 100;
    let shares = |policy| {
        let mut world = World::new(policy, n);
        let mut counts = BTreeMap::new();
        for key in keys(1_000_000) {
            *counts.entry(world.pick_key(Scope::Turn, Some(key)).unwrap().endpoint().id).or_insert(0) += 1;
        }
        f64::from(*counts.values().max().unwrap()) / 10_000.0
    };
    // 100 points each: 1 + √(2·ln 100/100) = 1.30. Maglev 1.001, and five σ of the sample: 0.05.
    assert!(shares(Policy::RingHash) < 1.40);
    assert!(shares(Policy::Maglev) < 1.051);
}

#[test]
fn an_endpoint_tried_already_is_avoided_while_there_is_another() {
    for policy in Policy::ALL {
        for n in [2, 3, 30] {
            let mut world = World::new(policy, n);
            for _ in 0..200 {
                let first = world.pick(Scope::Turn).unwrap().endpoint().id;
                let ask = evenkeel_core::picker::Ask { scope: Scope::Turn, key: Some(7), avoid: &[first] };
                let second = world.picker.pick(&ask, &mut world.rng, world.now).unwrap().endpoint().id;
                // Random draws again four times: the same comes out with (1/n)^5.
                if policy != Policy::Random {
                    assert_ne!(first, second, "{policy:?} of {n}");
                }
            }
        }
    }
}
