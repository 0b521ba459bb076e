//! WebSocket sessions of real clients on real servers: moved, drained, counted, told to go.

mod common;

use common::peers::{Catalog, have, python};
use common::sockets::{Clients, Pods};
use common::{Proxy, eventually};
use evenkeel_core::balancer::Pace;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn skew(open: &[u64]) -> f64 {
    let max = open.iter().max().copied().unwrap_or(0);
    max as f64 * open.len() as f64 / open.iter().sum::<u64>().max(1) as f64
}

#[test]
fn a_thousand_sessions_on_two_pods_spread_over_five() {
    let Some(python) = python() else { return };
    let pods = Pods::start(&python, 5);
    let catalog = Catalog::new(&pods.addrs[..2]);
    let proxy = Proxy::configured(&catalog.target(), |_| {}, |config| config.workers = Some(2));
    let clients = Clients::start(&python, proxy.addr, 1_000);
    let before = pods.open();
    // Two workers may choose in the same moment.
    assert!(before[0].abs_diff(before[1]) <= 2, "by count, not by chance: {before:?}");
    catalog.set(&pods.addrs);
    let began = Instant::now();
    eventually("even", || skew(&pods.open()) <= 1.10 && pods.open().iter().sum::<u64>() == 1_000);
    let took = began.elapsed();
    // The pace: 600 moves at 5 % of 1,000 a second cannot take less than 11 s (the first second's worth may
    // be spent at once), and the issue is settled within 30.
    assert!((Duration::from_secs(7)..Duration::from_secs(30)).contains(&took), "{took:?}");
    eventually("done", || proxy.service()["rebalance"]["state"] == "calm");
    let seen = clients.stop();
    let moves = seen["moves"].as_u64().expect("a number");
    assert!((500..=660).contains(&moves), "the minimum is 600, and a skew of 1.03 is even: {seen}");
    assert_eq!((&seen["most_moves"], &seen["codes"]["1012"]), (&1.into(), &seen["moves"]), "nobody twice: {seen}");
    assert_eq!(
        (&seen["failed"], &seen["mismatched"], &seen["now_open"]),
        (&0.into(), &0.into(), &1_000.into()),
        "{seen}"
    );
    assert_eq!(proxy.service()["moves"]["asked"]["moved"], moves);
}

#[test]
fn sessions_leave_an_endpoint_that_leaves_and_stay_with_one_that_flaps() {
    let Some(python) = python() else { return };
    let pods = Pods::start(&python, 3);
    let catalog = Catalog::new(&pods.addrs);
    let proxy = Proxy::to(&catalog.target(), |service| {
        service.upstream.drain_grace = Duration::from_secs(4);
        service.balance.core.slow_start = Duration::ZERO;
        service.balance.core.rebalance.enabled = false;
    });
    let clients = Clients::start(&python, proxy.addr, 150);
    assert_eq!(pods.open(), [50, 50, 50]);
    // An operator drains one: asked over 80 % of 4 s, not at once.
    let drain = format!("/api/v1/services/test/endpoints/{}/drain", pods.addrs[0]);
    let began = Instant::now();
    assert!(proxy.admin_ask("POST", &drain).contains(" 200 "));
    eventually("drained", || pods.open()[0] == 0);
    let took = began.elapsed();
    assert!((Duration::from_millis(1_600)..Duration::from_secs(6)).contains(&took), "{took:?}");
    eventually("elsewhere", || pods.open() == [0, 75, 75]);
    assert!(proxy.admin_ask("DELETE", &drain).contains(" 200 "));
    // One is gone from discovery and back before anybody had to go far: counts are as they were.
    catalog.set(&pods.addrs[..2]);
    eventually("gone", || proxy.service()["endpoints_known"] == 2);
    catalog.set(&pods.addrs);
    eventually("back", || proxy.service()["endpoints_known"] == 3);
    let service = proxy.service();
    let counted: u64 =
        service["endpoints"].as_array().expect("a list").iter().filter_map(|e| e["sessions"].as_u64()).sum();
    assert!(counted >= 150 - 75, "{service}");
    eventually("all are counted", || {
        let service = proxy.service();
        let endpoints = service["endpoints"].as_array().expect("a list");
        let mut sessions: Vec<u64> = endpoints.iter().filter_map(|e| e["sessions"].as_u64()).collect();
        let mut open = pods.open();
        sessions.sort_unstable();
        open.sort_unstable();
        sessions == open && open.iter().sum::<u64>() == 150
    });
    let seen = clients.stop();
    assert_eq!((&seen["failed"], &seen["mismatched"]), (&0.into(), &0.into()), "{seen}");
    assert_eq!(seen["codes"].as_object().map(|codes| codes.len()), Some(1), "only 1012: {seen}");
}

#[test]
fn a_leaving_process_says_1001() {
    let Some(python) = python() else { return };
    let pods = Pods::start(&python, 1);
    let mut proxy = Proxy::grace(&pods.addrs, Duration::from_secs(5));
    let clients = Clients::start(&python, proxy.addr, 200);
    // (That the times are spread over the grace: life.rs.)
    proxy.running.drain();
    eventually("all told", || pods.open() == [0]);
    assert!(proxy.running.wait(common::PATIENCE));
    let seen = clients.stop_when_closed();
    assert_eq!(seen["codes"]["1001"], 200, "{seen}");
}

#[test]
fn the_ws_package_of_node_moves_too() {
    if !have(&["node"]) {
        return;
    }
    let Some(python) = python() else { return };
    let pods = Pods::start(&python, 2);
    let catalog = Catalog::new(&pods.addrs[..1]);
    let proxy = Proxy::to(&catalog.target(), |service| {
        service.balance.core.rebalance.pace = Pace::PerSecond(20.0);
        service.balance.core.slow_start = Duration::ZERO;
    });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/sockets.mjs");
    let mut node = Command::new("node");
    node.args([script, &format!("ws://{}/", proxy.addr), "20"]).env("NODE_PATH", common::peers::node_modules());
    let mut child = node.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node starts");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    assert_eq!(line.trim(), "open");
    assert_eq!(pods.open(), [20, 0]);
    catalog.set(&pods.addrs);
    eventually("even", || pods.open() == [10, 10]);
    drop(child.stdin.take());
    line.clear();
    output.read_line(&mut line).expect("a line");
    let seen: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"));
    child.wait().expect("it ends");
    assert_eq!((&seen["codes"]["1012"], &seen["mismatched"]), (&10.into(), &0.into()), "{seen}");
    drop(pods.process);
}
