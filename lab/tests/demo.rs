//! The demo's phases on real sockets.

mod common;

use common::program;
use evenkeel_lab::demo::front::Front;
use evenkeel_lab::demo::outcome::Phase;
use evenkeel_lab::demo::{Options, Protocol, Way, phase};
use serde_json::Value;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

fn run(way: Way, options: &Options) -> Phase {
    let recorded = phase::run(way, options, &AtomicBool::new(false), &mut |_| Ok(()));
    Phase::of(&recorded.unwrap().unwrap(), options)
}

/// How many of the first connections each Pod must get, drawn again from the seed.
fn placement(options: &Options) -> Vec<u64> {
    let pods: Vec<_> = (0..options.pods).map(|pod| SocketAddr::from(([127, 0, 0, 1], 9000 + pod as u16))).collect();
    let front = Front::open(Way::Service, options, &pods).unwrap();
    let mut placed = vec![0; options.scale_to];
    for _ in 0..options.clients {
        placed[usize::from(front.route().port() - 9000)] += 1;
    }
    placed
}

#[test]
fn behind_a_service_new_pods_get_nothing_and_every_request_is_accounted_for() {
    let options = Options { duration: Duration::from_millis(1400), seed: 5, ..Options::default() };
    let phase = run(Way::Service, &options);
    assert_eq!(phase.disagreements(), Vec::<String>::new());
    assert_eq!((phase.failed, phase.dropped, phase.first_error), (0, 0, None));
    assert_eq!(phase.requests, phase.succeeded);
    // 12 clients at 40 requests per second for 1.4 s: 672, less what falls off the end.
    assert!((640..=680).contains(&phase.requests), "{}", phase.requests);
    let connections: Vec<_> = phase.pods.iter().map(|pod| pod.connections).collect();
    assert_eq!(connections, placement(&options));
    let open: Vec<_> = phase.pods.iter().map(|pod| pod.open_connections).collect();
    assert_eq!(open, connections);
    let new = phase.new_pods.unwrap();
    assert_eq!((new.pods, new.requests, new.connections, new.first_request_ms), (3, 0, 0, None));
}

#[test]
fn behind_a_service_a_second_wave_lands_at_random_again() {
    let options =
        Options { protocol: Protocol::Tcp, duration: Duration::from_millis(2800), seed: 2, ..Options::default() };
    let phase = run(Way::Service, &options);
    assert_eq!(phase.disagreements(), Vec::<String>::new());
    assert_eq!(phase.pods.iter().map(|pod| pod.connections).sum::<u64>(), 24);
    assert_eq!((phase.failed, phase.dropped), (0, 0));
}

#[test]
fn behind_evenkeel_new_pods_are_used_and_nobody_notices() {
    let options = Options { duration: Duration::from_millis(2800), ..Options::default() };
    let phase = run(Way::Evenkeel, &options);
    assert_eq!(phase.disagreements(), Vec::<String>::new());
    assert_eq!((phase.failed, phase.dropped, phase.first_error), (0, 0, None));
    assert_eq!((phase.requests, phase.connections_opened), (phase.succeeded, options.clients));
    assert!(phase.new_pods.unwrap().first_request_ms.is_some());
    // Six Pods of which only the first three work have a skew of at least 2.
    assert!(phase.last.idle_pods == 0 && phase.last.skew.unwrap() < 2.0, "{:?}", phase.last);
}

#[test]
fn behind_a_service_requests_over_http2_go_where_their_connection_went() {
    for protocol in [Protocol::Http2, Protocol::Grpc] {
        let options = Options { protocol, duration: Duration::from_millis(1400), seed: 5, ..Options::default() };
        let phase = run(Way::Service, &options);
        assert_eq!(phase.disagreements(), Vec::<String>::new());
        assert_eq!((phase.failed, phase.dropped, phase.first_error), (0, 0, None));
        let connections: Vec<_> = phase.pods.iter().map(|pod| pod.connections).collect();
        assert_eq!(connections, placement(&options));
        assert_eq!(phase.new_pods.unwrap().requests, 0);
    }
}

#[test]
fn behind_evenkeel_requests_and_calls_over_http2_reach_new_pods() {
    for protocol in [Protocol::Http2, Protocol::Grpc] {
        let options = Options { protocol, duration: Duration::from_millis(2800), ..Options::default() };
        let phase = run(Way::Evenkeel, &options);
        assert_eq!(phase.disagreements(), Vec::<String>::new());
        assert_eq!((phase.failed, phase.dropped, phase.first_error), (0, 0, None));
        assert_eq!((phase.requests, phase.connections_opened), (phase.succeeded, options.clients));
        assert!(phase.new_pods.unwrap().first_request_ms.is_some());
        // As over HTTP/1.1: Pods that got nothing would make it 2.
        assert!(phase.last.idle_pods == 0 && phase.last.skew.unwrap() < 2.0, "{:?}", phase.last);
    }
}

#[test]
fn behind_evenkeel_a_second_wave_of_opaque_connections_goes_to_new_pods() {
    let options = Options { protocol: Protocol::Tcp, duration: Duration::from_millis(2800), ..Options::default() };
    let phase = run(Way::Evenkeel, &options);
    assert_eq!(phase.disagreements(), Vec::<String>::new());
    assert_eq!((phase.failed, phase.dropped, phase.first_error), (0, 0, None));
    let open: Vec<_> = phase.pods.iter().map(|pod| pod.open_connections).collect();
    assert_eq!(open.iter().sum::<u64>(), 2 * options.clients, "{open:?}");
    // Four on each of the first three; every one of these stayed, every new one had the choice.
    assert!(open[..3].iter().all(|&n| n >= 4) && open[3..].iter().any(|&n| n > 0), "{open:?}");
}

#[test]
fn websocket_sessions_move_to_new_pods_and_every_request_is_answered() {
    let options =
        Options { protocol: Protocol::WebSocket, duration: Duration::from_millis(5600), ..Options::default() };
    let phase = run(Way::Evenkeel, &options);
    assert_eq!(phase.disagreements(), Vec::<String>::new());
    assert_eq!((phase.failed, phase.dropped, phase.first_error), (0, 0, None));
    // 12 sessions on 3 Pods, then 6: two of four leave each of the three.
    assert_eq!((phase.moved, phase.connections_opened), (6, 18));
    let open: Vec<_> = phase.pods.iter().map(|pod| pod.open_connections).collect();
    assert_eq!(open, [2; 6]);
}

#[test]
fn a_thousand_sessions_move_once_at_most_and_no_more_of_them_than_must() {
    let sizes = ["--clients", "1000", "--pods", "2", "--scale-to", "5", "--duration", "21s"];
    let mut demo = Command::new(program::binary());
    demo.args(["demo", "--protocol", "websocket", "--output", "json"]).args(sizes);
    let out = demo.stderr(Stdio::inherit()).output().expect("it runs");
    assert!(out.status.success());
    let shown: Value = serde_json::from_slice(&out.stdout).expect("one JSON document");
    let [service, evenkeel] = [0, 1].map(|phase| &shown["phases"][phase]);
    let new_pods = &service["sessions"]["open"].as_array().expect("a list")[2..];
    assert!(new_pods.iter().all(|open| open == 0) && service["moved"] == 0, "{}", service["sessions"]);
    let sessions = &evenkeel["sessions"];
    assert_eq!((&sessions["moves_needed"], &sessions["most_moves"]), (&600.into(), &1.into()), "{sessions}");
    assert!(sessions["moves"].as_u64().is_some_and(|moves| moves <= 660), "{sessions}");
    assert!(sessions["even_ms"].as_f64().is_some(), "a skew of 1.10 within the 12 s that are left: {sessions}");
    assert!(sessions["skew"].as_f64().is_some_and(|skew| skew <= 1.10), "{sessions}");
    assert_eq!(
        (&evenkeel["failed"], &evenkeel["dropped"], &evenkeel["first_error"]),
        (&0.into(), &0.into(), &Value::Null)
    );
}
