//! Endpoints come, go, fail and return: what every policy must keep, and how health works.

mod common;

use common::{World, address, failed, id, keys, quick, spec};
use evenkeel_core::balancer::{Config, Fact, Grounds, Input, OutlierConfig, Policy, Standing};
use evenkeel_core::endpoint::{EndpointSpec, Readiness};
use evenkeel_core::picker::{NoPick, Outcome, Scope, Ticket};
use evenkeel_core::rng::Rng;
use evenkeel_core::time::Duration;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_new_endpoint_gets_its_share_and_one_that_left_gets_nothing() {
    for policy in Policy::ALL {
        let mut world = World::new(policy, 3);
        world.turns(300);
        world.scale(6);
        world.run(secs(11));
        let counts = world.turns(6_000);
        for i in 3..6 {
            let count = counts.get(&id(i)).copied().unwrap_or(0);
            assert!(count > 600, "{policy:?}: {counts:?}");
        }
        world.scale(2);
        let counts = world.turns(100);
        assert!(counts.keys().all(|&k| k == id(0) || k == id(1)), "{policy:?}: {counts:?}");
        assert_eq!(world.retired, 4);
    }
}

#[test]
fn nobody_is_an_answer_and_somebody_again_is_recovery() {
    for policy in Policy::ALL {
        let mut world = World::new(policy, 3);
        world.scale(0);
        assert_eq!(world.pick(Scope::Turn).unwrap_err(), NoPick::Empty, "{policy:?}");
        let mut waiting = spec(0);
        waiting.readiness = Readiness::NotReady;
        world.set(vec![waiting]);
        assert_eq!(world.pick(Scope::Turn).unwrap_err(), NoPick::NoneReady, "{policy:?}");
        world.scale(1);
        assert_eq!(world.turns(10)[&id(0)], 10, "{policy:?}");
    }
}

#[test]
fn counters_survive_every_rebuild() {
    for policy in Policy::ALL {
        let mut world = World::new(policy, 4);
        let tickets: Vec<Ticket> = (0..40).map(|_| world.pick(Scope::Session).unwrap()).collect();
        for n in [6, 2, 4, 9, 4] {
            world.scale(n);
        }
        let held = |i: usize| tickets.iter().filter(|t| t.endpoint().id == id(i)).count();
        let counted = |world: &World, i: usize| world.view(i).endpoint.load.sessions.load(Relaxed) as usize;
        for i in 0..2 {
            assert_eq!(counted(&world, i), held(i), "{policy:?}");
        }
        drop(tickets);
        assert!((0..4).all(|i| counted(&world, i) == 0), "{policy:?}");
    }
}

#[test]
fn only_the_keys_of_what_changed_move() {
    for (policy, stray) in [(Policy::RingHash, 0.0), (Policy::Maglev, 0.02)] {
        let n = 100;
        let mut world = World::new(policy, n);
        let keys = keys(50_000);
        let place = |world: &mut World| -> Vec<_> {
            keys.iter().map(|&k| world.pick_key(Scope::Turn, Some(k)).unwrap().endpoint().id).collect()
        };
        let before = place(&mut world);
        world.scale(n - 1);
        world.run(secs(60));
        let after = place(&mut world);
        let moved = before.iter().zip(&after).filter(|(b, a)| **b != id(n - 1) && b != a).count();
        assert!(moved as f64 / keys.len() as f64 <= stray, "{policy:?}: {moved} keys moved");
        world.scale(n);
        world.run(secs(60));
        assert_eq!(place(&mut world), before, "{policy:?}");
    }
}

#[test]
fn while_a_table_is_built_the_old_one_serves() {
    let mut world = World::new(Policy::Maglev, 50);
    world.scale(40);
    // The picker is new, its table is not: nobody who left is picked, and who stayed keeps its keys.
    let counts = world.turns(1_000);
    assert!((40..50).all(|i| !counts.contains_key(&id(i))));
    let published = world.published;
    world.run(secs(1));
    assert!(world.published > published);
}

#[test]
fn a_table_is_finished_whatever_else_changes_meanwhile() {
    let mut world = World::new(Policy::Maglev, 40);
    let mut endpoints: Vec<EndpointSpec> = (0..50).map(spec).collect();
    world.set(endpoints.clone());
    // Somebody who takes no turns: the table in the making is still the right one.
    endpoints.push(EndpointSpec { readiness: Readiness::NotReady, ..spec(50) });
    world.set(endpoints);
    world.run(secs(1));
    let counts = world.turns(10_000);
    assert!((40..50).all(|i| counts.contains_key(&id(i))), "{counts:?}");
}

#[test]
fn a_list_in_another_order_is_the_same() {
    for policy in Policy::ALL {
        let mut world = World::new(policy, 20);
        let (published, facts) = (world.published, world.facts.len());
        world.set((0..20).rev().map(spec).collect());
        // Somebody twice is somebody once.
        world.set((0..20).chain(3..5).map(spec).collect());
        assert_eq!((world.published, world.facts.len()), (published, facts), "{policy:?}");
        world.scale(19);
        assert_eq!((world.published, world.retired), (published + 1, 1), "{policy:?}");
    }
}

#[test]
fn overlapping_sources_are_merged_and_the_best_readiness_wins() {
    let mut world = World::new(Policy::RoundRobin, 0);
    let mut leaving = spec(0);
    leaving.readiness = Readiness::Terminating;
    world.input(Input::Endpoints { source: 1, endpoints: vec![leaving.clone(), spec(1)] });
    world.input(Input::Endpoints { source: 2, endpoints: vec![spec(0), spec(2)] });
    assert_eq!(world.turns(30).len(), 3);
    world.input(Input::SourceGone { source: 2 });
    assert_eq!(world.turns(30).keys().collect::<Vec<_>>(), [&id(1)]);
    // Leaving endpoints are used when nothing else is left.
    world.input(Input::Endpoints { source: 1, endpoints: vec![leaving] });
    assert_eq!(world.turns(30)[&id(0)], 30);
    assert!(world.view(0).explanation.contains("terminating"));
}

#[test]
fn weight_zero_and_an_operator_drain() {
    for policy in Policy::ALL {
        let mut world = World::new(policy, 3);
        let held = world.pick(Scope::Session).unwrap();
        let mut idle = spec(0);
        idle.weight = 0.0;
        world.set(vec![idle, spec(1), spec(2)]);
        world.input(Input::Drain(id(1), true));
        assert_eq!(world.turns(50)[&id(2)], 50, "{policy:?}");
        assert_eq!(world.view(0).explanation, "not picked: its weight has been 0 for 0 s");
        assert_eq!(world.view(1).explanation, "not picked: an operator has been draining it for 0 s");
        world.input(Input::Drain(id(1), false));
        world.run(secs(11));
        assert!(world.view(1).usable);
        drop(held);
    }
}

#[test]
fn a_new_endpoint_starts_slowly_and_arrives() {
    let mut world = World::new(Policy::Weighted, 9);
    world.scale(10);
    let share = |world: &mut World| world.turns(9_100)[&id(9)] as f64 / 9_100.0;
    // A tenth of a share of 9.1: 1.1 %.
    assert!((share(&mut world) - 0.1 / 9.1).abs() < 0.002);
    world.run(secs(5));
    assert!((share(&mut world) - 0.5 / 9.5).abs() < 0.005);
    assert!(world.view(9).explanation.contains("slow start"), "{}", world.view(9).explanation);
    world.run(secs(6));
    assert!((share(&mut world) - 0.1).abs() < 0.002);
}

#[test]
fn when_most_is_new_nothing_starts_slowly() {
    let mut world = World::new(Policy::Weighted, 2);
    world.scale(6);
    let counts = world.turns(600);
    assert!(counts.values().all(|&c| (98..=102).contains(&c)), "{counts:?}");
}

#[test]
fn an_endpoint_that_fails_is_ejected_probed_and_comes_back() {
    let mut world = World::new(Policy::RoundRobin, 3);
    let dead = |i| if i == id(1) { failed() } else { quick() };
    let failures = (0..300).filter(|_| world.turn(dead) == id(1)).count();
    assert_eq!(failures, 5, "five in a row, then none");
    assert!(matches!(world.facts.last(), Some(Fact::Ejected { grounds: Grounds::Streak(5), .. })));
    // 30 s ± 20 %.
    world.run(secs(12));
    let view = world.view(1);
    assert!(
        matches!(view.standing, Standing::Ejected { grounds: Grounds::Streak(5), left }
        if (secs(12)..=secs(24)).contains(&left)),
        "{:?}",
        view.standing
    );
    assert_eq!(view.since, Some(secs(12)));
    let said = &view.explanation;
    assert!(
        said.starts_with("not picked: it was ejected 12 s ago, for ") && said.ends_with(": 5 failures in a row"),
        "{said}"
    );
    world.run(secs(11));
    assert!((0..30).all(|_| world.turn(dead) != id(1)));
    world.run(secs(14));
    // One turn as a probe, and out again.
    assert_eq!((0..30).filter(|_| world.turn(dead) == id(1)).count(), 1);
    // 60 s ± 20 %; then it is well.
    world.run(secs(73));
    assert_eq!(world.turn(|_| quick()), id(1));
    assert!(world.facts.contains(&Fact::Readmitted(id(1))));
    world.run(secs(11));
    assert_eq!(world.turns(300)[&id(1)], 100);
}

#[test]
fn only_one_probe_is_under_way_and_a_lost_one_is_made_again() {
    let mut world = World::new(Policy::RoundRobin, 3);
    for _ in 0..30 {
        world.turn(|i| if i == id(0) { failed() } else { quick() });
    }
    world.run(secs(40));
    let probe = world.pick(Scope::Turn).unwrap();
    assert_eq!(probe.endpoint().id, id(0));
    let others: Vec<Ticket> = (0..20).map(|_| world.pick(Scope::Turn).unwrap()).collect();
    assert!(others.iter().all(|t| t.endpoint().id != id(0)));
    let _ = probe.complete(Outcome::Unknown, world.now);
    assert_eq!(world.pick(Scope::Turn).unwrap().endpoint().id, id(0));
}

#[test]
fn no_more_are_ejected_than_allowed() {
    let mut world = World::new(Policy::RoundRobin, 10);
    for _ in 0..500 {
        world.turn(|_| failed());
    }
    let ejected = world.facts.iter().filter(|f| matches!(f, Fact::Ejected { .. })).count();
    assert_eq!(ejected, 1, "a tenth of ten");
}

#[test]
fn when_too_few_are_fit_all_are_used_and_it_is_said() {
    let mut world = World::new(Policy::RoundRobin, 4);
    for i in 0..3 {
        world.input(Input::Checked { endpoint: id(i), healthy: false, detail: "refused".into() });
    }
    assert!(world.facts.contains(&Fact::Panic(true)));
    assert_eq!(world.turns(40).len(), 4);
    assert!(world.view(0).explanation.contains("panic"));
    world.input(Input::Checked { endpoint: id(0), healthy: true, detail: "".into() });
    assert_eq!(world.facts.last(), Some(&Fact::Panic(false)));
    world.run(secs(11));
    assert_eq!(world.turns(40).len(), 2);
}

#[test]
fn a_deviant_failure_rate_ejects_by_median_even_among_many_deviants() {
    let outlier =
        OutlierConfig { consecutive: None, deviation: Some(6.0), max_ejected: 0.5, ..OutlierConfig::default() };
    let mut world = World::with(Config { turn_policy: Policy::RoundRobin, outlier, ..Config::default() });
    world.scale(9);
    // Two of nine fail half of their turns: beyond what mean and σ can see.
    let mut rng = Rng::seeded(5);
    for _ in 0..12 * 900 {
        let coin = rng.below(2) == 0;
        world.turn(|i| if (i == id(0) || i == id(1)) && coin { failed() } else { quick() });
        world.run(Duration::from_micros(1_111));
    }
    let mut ejected: Vec<_> = world
        .facts
        .iter()
        .filter_map(|f| if let Fact::Ejected { endpoint, .. } = f { Some(*endpoint) } else { None })
        .collect();
    ejected.sort_unstable();
    ejected.dedup();
    let mut expected = vec![id(0), id(1)];
    expected.sort_unstable();
    assert_eq!(ejected, expected);
}

#[test]
fn random_is_blind_to_ejection_and_pins() {
    let mut world = World::new(Policy::Random, 3);
    world.input(Input::Checked { endpoint: id(0), healthy: false, detail: "x".into() });
    assert!(world.turns(200).contains_key(&id(0)));
    assert!(world.picker.pins_sessions() && world.picker.repick(id(0), Scope::Turn, world.now).is_some());
}

#[test]
fn an_idle_service_hardly_wakes_up() {
    let mut world = World::new(Policy::PeakEwma, 10);
    world.run(secs(20));
    let before = world.published;
    let mut wakes = 0;
    let end = world.now + secs(60);
    while let Some((at, _)) = world.balancer.poll_timeout().filter(|&(at, _)| at <= end) {
        world.balancer.handle_timeout(at);
        wakes += 1;
    }
    assert!(wakes <= 61, "{wakes} wake-ups in a minute");
    assert_eq!(world.published, before);
}

#[test]
fn an_endpoint_that_hangs_loses_its_turns() {
    let mut world = World::new(Policy::PeakEwma, 5);
    world.turns(500);
    // It keeps ten turns and answers none.
    let mut hung = Vec::new();
    while hung.len() < 10 {
        let ticket = world.pick(Scope::Turn).unwrap();
        if ticket.endpoint().id == id(2) {
            hung.push(ticket);
        }
    }
    world.run(secs(2));
    let counts = world.turns(500);
    assert!(counts.get(&id(2)).copied().unwrap_or(0) <= 5, "{counts:?}");
}

proptest! {
    /// Whatever sources say in whatever order, the picker holds exactly what some source calls ready.
    #[test]
    fn the_picker_is_the_union_of_what_is_ready(
        updates in prop::collection::vec((0u64..4, prop::collection::vec((0usize..8, 0u8..3), 0..6)), 1..20)
    ) {
        let mut world = World::new(Policy::RoundRobin, 0);
        let mut model: BTreeMap<u64, Vec<EndpointSpec>> = BTreeMap::new();
        for (source, endpoints) in updates {
            let endpoints: Vec<EndpointSpec> = endpoints.into_iter().map(|(i, readiness)| {
                let mut spec = EndpointSpec::at(address(i));
                spec.readiness = [Readiness::NotReady, Readiness::Terminating, Readiness::Ready][usize::from(readiness)];
                spec
            }).collect();
            model.insert(source, endpoints.clone());
            world.input(Input::Endpoints { source, endpoints });
        }
        let best = |wanted| {
            let mut ids: Vec<_> = model.values().flatten().filter(|s| s.readiness == wanted).map(EndpointSpec::id).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        let expected = match best(Readiness::Ready) {
            ready if ready.is_empty() => best(Readiness::Terminating),
            ready => ready,
        };
        let mut picked: Vec<_> = world.picker.endpoints().map(|e| e.id).collect();
        picked.sort_unstable();
        prop_assert_eq!(picked, expected);
    }
}

#[test]
fn a_few_new_endpoints_are_warmed_and_a_flood_of_them_is_not() {
    let mut world = World::new(Policy::PeakEwma, 3);
    world.scale(10);
    assert_eq!(world.warmed, 10, "each once");
    world.scale(1_000);
    assert_eq!(world.warmed, 10, "they get their links when they are needed");
}
