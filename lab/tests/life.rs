//! How the process ends: with everybody served and told, and without surprises for those who send it clients.

mod common;

use common::peers::{Nginx, Wrk, free_port, have, python};
use common::program::Program;
use common::sockets::{Clients, Pods};
use common::{Client, PATIENCE, connect, echo, echoes, eventually, field, read_response, status};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// Asks on one connection as fast as answers come, until one says that it is the last.
fn asks_until_told(addr: SocketAddr) {
    let mut client = Client(connect(addr));
    loop {
        let answer = client.get("/page");
        assert_eq!(status(&answer), 200, "{answer}");
        if field(&answer, "connection") == Some("close") {
            return assert_eq!(common::read_all(&mut client.0), "");
        }
    }
}

const SESSIONS: usize = 300;
const GRACE: f64 = 14.0;
const DELAY: f64 = 4.0;

#[test]
fn sigterm_under_load_fails_nobody_and_keeps_its_order() {
    if !have(&["nginx", "wrk"]) {
        return;
    }
    let Some(python) = python() else { return };
    let (nginx, pods, echo) = (Nginx::start(), Pods::start(&python, 2), echo());
    let (web, chat, raw) = (free(), free(), free());
    let program = Program::start(&format!(
        "workers: 2\ndrain: {{grace: {GRACE}s, delay: {DELAY}s}}\nservices:\n\
         - {{name: web, listen: '{web}', target: '{}'}}\n\
         - {{name: chat, listen: '{chat}', target: '{},{}', protocol: websocket}}\n\
         - {{name: raw, listen: '{raw}', target: '{}', protocol: tcp}}\n",
        nginx.addr, pods.addrs[0], pods.addrs[1], echo.addr
    ));
    let clients = Clients::with(&python, chat, SESSIONS, &["--once"]);
    assert_eq!(pods.open(), [150, 150]);
    // Opaque sessions that talk until they cannot; when that was.
    let talks = |mut stream: TcpStream| {
        std::thread::spawn(move || {
            while echoes(&mut stream) {
                std::thread::sleep(Duration::from_millis(10));
            }
            now()
        })
    };
    let opaque: Vec<_> = (0..4).map(|_| talks(connect(raw))).collect();
    let wrk = Wrk::start(web, 32, 60);
    let busy: Vec<_> = (0..4).map(|_| std::thread::spawn(move || asks_until_told(web))).collect();
    eventually("load", || program.service("web")["turns"].as_u64().is_some_and(|turns| turns > 1_000));

    let began = now();
    program.signal("-TERM");
    eventually("readiness turns", || program.ready() == 503);
    // Nothing else has: every listener takes clients, and no session was told.
    assert_eq!(status(&Client(connect(web)).get("/page")), 200);
    assert!(echoes(&mut connect(raw)));
    assert_eq!(pods.open(), [150, 150]);
    for listener in [web, chat, raw] {
        eventually("nobody listens", || TcpStream::connect(listener).is_err());
    }
    assert!(now() >= began + DELAY, "for the delay it listens");
    busy.into_iter().for_each(|client| client.join().expect("every request was answered"));
    let load = wrk.stop();
    assert!(load.requests > 1_000 && load.unanswered == 0, "{}", load.said);
    eventually("all sessions are told", || pods.open() == [0, 0]);
    let ended = opaque.into_iter().map(|session| session.join().expect("it ends by itself"));
    let first = ended.fold(f64::MAX, f64::min);
    assert!(first >= began + GRACE, "opaque sessions have the whole grace, not {:.1} s", first - began);
    assert_eq!(program.exit(), 0);
    let took = now() - began;
    // What is beyond the grace is this machine's.
    assert!((GRACE..GRACE + 8.0).contains(&took), "{took:.1} s");

    let seen = clients.stop_when_closed();
    assert_eq!((&seen["codes"]["1001"], &seen["failed"]), (&SESSIONS.into(), &0.into()), "{seen}");
    let times = seen["closed_at"].as_array().expect("a list").iter().filter_map(|at| at.as_f64());
    spread_evenly(times.collect(), began + DELAY, 0.8 * (GRACE - DELAY));
}

/// Were sessions told at times drawn evenly from `period` seconds?
fn spread_evenly(times: Vec<f64>, from: f64, period: f64) {
    assert!(times.iter().all(|&at| at >= from), "nobody is told while the process may still be sent clients");
    let (mut slices, n) = ([0usize; 10], times.len() as f64);
    for at in times {
        slices[(((at - from) / period * 10.0) as usize).min(9)] += 1;
    }
    // The number in a slice is binomial with a mean of 30 and σ = 5.2; of one that has more than 62 (> 6 σ) the
    // probability is below 10⁻⁶. A second lost to other processes may bring another slice's share.
    assert!(slices.iter().all(|&k| k <= 62 + 32), "{slices:?}");
    // In the first half: mean 150, σ = 8.7; six of these, and the share of a second.
    let half: usize = slices[..5].iter().sum();
    assert!((half as f64 - n / 2.0).abs() <= 52.0 + 32.0, "{slices:?}");
}

/// Waits with sessions that would stay for long, after the first of two signals.
fn cut(delay: &str, waits: impl Fn(&Program, SocketAddr)) {
    let echo = echo();
    let raw = free();
    let program = Program::start(&format!(
        "drain: {{grace: 120s, delay: {delay}}}\nservices:\n\
         - {{name: raw, listen: '{raw}', target: '{}', protocol: tcp}}\n",
        echo.addr
    ));
    let mut session = connect(raw);
    assert!(echoes(&mut session));
    program.signal("-TERM");
    waits(&program, raw);
    assert!(echoes(&mut session));
    let began = now();
    program.signal("-TERM");
    assert_eq!(program.exit(), 0);
    assert!(!echoes(&mut session));
    assert!(now() - began < PATIENCE.as_secs_f64());
}

#[test]
fn a_second_sigterm_cuts_while_clients_are_still_accepted() {
    cut("60s", |program, raw| {
        eventually("readiness turns", || program.ready() == 503);
        assert!(echoes(&mut connect(raw)));
    });
}

#[test]
fn a_second_sigterm_cuts_what_is_left() {
    cut("off", |_, raw| eventually("nobody listens", || TcpStream::connect(raw).is_err()));
}

#[test]
fn clients_that_wait_in_the_queue_of_a_listener_that_closes_are_served() {
    if !have(&["nginx"]) {
        return;
    }
    let nginx = Nginx::start();
    let web = free();
    let program = Program::start(&format!(
        "workers: 2\ndrain: {{grace: 20s, delay: off}}\nservices:\n- {{name: web, listen: '{web}', target: '{}'}}\n",
        nginx.addr
    ));
    // Stopped, it accepts nobody; the kernel does. More wait than one turn of a worker's loop takes.
    program.signal("-STOP");
    let clients: Vec<_> = (0..500)
        .map(|_| {
            let mut client = connect(web);
            client.write_all(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n").expect("taken by the kernel");
            client
        })
        .collect();
    program.signal("-TERM");
    program.signal("-CONT");
    for mut client in clients {
        assert_eq!(status(&read_response(&mut client)), 200);
    }
    assert_eq!(program.exit(), 0);
}
