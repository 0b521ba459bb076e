//! gRPC through evenkeel: grpcio on both sides, and peers that do as they are told for what it cannot be made to do.

mod common;

use common::http2::{Heard, Peer, server, value};
use common::peers::{Catalog, Process, directory, free_port, have, python};
use common::pki::Pki;
use common::{Backend, PATIENCE, Proxy, eventually};
use evenkeel_proxy::config::{Service, UpstreamProtocol};
use evenkeel_wire::grpc::timeout;
use evenkeel_wire::http2::connection::Part;
use evenkeel_wire::http2::error::Code;
use evenkeel_wire::http2::streams::StreamKey;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A server or a client by grpcio.
fn grpcio(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/calls.py"));
    command
}

/// The server of `calls.py`, which says what its methods do.
fn serve(python: &Path) -> (SocketAddr, Process) {
    serve_with(python, &[])
}

fn serve_with(python: &Path, arguments: &[&str]) -> (SocketAddr, Process) {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = grpcio(python);
    command.args(["serve", &addr.port().to_string()]).args(arguments);
    (addr, Process::start(&mut command, directory("grpcio")).listening(addr))
}

/// What grpcio's client saw of a call: code, details, messages, trailers.
fn ask(python: &Path, addr: SocketAddr, arguments: &[&str]) -> Value {
    let out = grpcio(python).args(["ask", &addr.to_string()]).args(arguments).output().expect("it runs");
    let complained = String::from_utf8_lossy(&out.stderr);
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {complained}"))
}

/// A call with one message of this many bytes.
fn message(length: u8) -> Vec<u8> {
    [&[0, 0, 0, 0, length][..], &vec![b'm'; length.into()]].concat()
}

const GRPC: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/grpc")];

#[test]
fn calls_of_every_kind_pass_and_each_is_a_turn() {
    let Some(python) = python() else { return };
    let servers: Vec<_> = (0..2).map(|_| serve(&python)).collect();
    let addresses: Vec<SocketAddr> = servers.iter().map(|(addr, _)| *addr).collect();
    let proxy = Proxy::start(&addresses);
    let mut names: Vec<String> = (0..2)
        .map(|_| {
            let said = ask(&python, proxy.addr, &["unary", "/test.Calls/Name"]);
            said["messages"][0].as_str().expect("a name").to_owned()
        })
        .collect();
    names.sort();
    let mut expected: Vec<String> = addresses.iter().map(|addr| addr.port().to_string()).collect();
    expected.sort();
    assert_eq!(names, expected);
    for (arguments, messages) in [
        (&["unary", "/test.Calls/Echo", "a"][..], &["a"][..]),
        (&["server", "/test.Calls/Many", "3"], &["0", "1", "2"]),
        (&["client", "/test.Calls/Sum", "a", "bb", ""], &["3"]),
        (&["bidi", "/test.Calls/Chat", "a", "", "b"], &["a", "", "b"]),
    ] {
        let said = ask(&python, proxy.addr, arguments);
        assert_eq!((said["code"].as_u64(), &said["messages"]), (Some(0), &Value::from(messages)), "{said}");
    }
    let said = ask(&python, proxy.addr, &["unary", "/test.Calls/Fail", "9"]);
    assert_eq!((said["code"].as_u64(), said["details"].as_str()), (Some(9), Some("as it was asked to")));
}

#[test]
fn a_deadline_is_passed_on_and_kept() {
    let Some(python) = python() else { return };
    let (addr, _server) = serve(&python);
    let proxy = Proxy::start(&[addr]);
    let said = ask(&python, proxy.addr, &["unary", "/test.Calls/Left", "--timeout", "1000"]);
    let left: f64 = said["messages"][0].as_str().and_then(|left| left.parse().ok()).expect("a number");
    assert!(left > 900.0 && left <= 1000.0, "{left}");
    let said = ask(&python, proxy.addr, &["unary", "/test.Calls/Wait", "--timeout", "0.2"]);
    assert_eq!(said["code"], 4, "{said}");
    eventually("the server knows that nobody waits", || {
        ask(&python, proxy.addr, &["unary", "/test.Calls/Cancelled"])["messages"][0] == "1"
    });
    assert_eq!(proxy.metric("evenkeel_turns_in_flight", ""), 0.0);
}

/// A call that has so much time.
fn call_for(client: &mut Peer, time: &str) -> StreamKey {
    client.request(
        &[
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "test"),
            (":path", "/a.B/C"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", time),
        ],
        false,
    )
}

#[test]
fn a_call_whose_time_is_over_ends_with_a_status_and_its_endpoint_is_told() {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let backend = server(move |peer, _| {
        let (mut answers, tell) = (false, |heard| tell.lock().expect("alone").send(heard).expect("somebody waits"));
        loop {
            match peer.hear() {
                Heard::Fields(stream, Part::Head, ..) if std::mem::replace(&mut answers, true) => {
                    peer.fields(stream, Part::Head, &GRPC, false);
                    peer.data(stream, &message(3)[..6], false);
                }
                Heard::Over => return,
                heard @ Heard::Reset(..) => tell(heard),
                _ => {}
            }
        }
    });
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    let silent = call_for(&mut client, "100m");
    let (status, _, fields) = client.whole(silent);
    assert_eq!((&*status, value(&fields, "grpc-status")), ("200", "4"));
    assert_eq!(value(&fields, "grpc-message"), "evenkeel: the deadline of the call passed before it was answered");
    assert_eq!(value(&fields, "evenkeel-reason"), "deadline; phase=wait");
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(Heard::Reset(_, Code::CANCEL, _))));
    // An answer that has begun ends with trailers, whatever is missing of it.
    let begun = call_for(&mut client, "100000u");
    let (_, body, trailers) = client.whole(begun);
    assert_eq!((body.len(), value(&trailers, "grpc-status")), (6, "4"));
    let said = "evenkeel: the deadline of the call passed before its answer was complete";
    assert_eq!(value(&trailers, "grpc-message"), said);
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(Heard::Reset(_, Code::CANCEL, _))));
    let given_up = call_for(&mut client, "100S");
    while !matches!(client.hear(), Heard::Fields(of, ..) if of == given_up) {}
    client.reset(given_up, Code::CANCEL);
    eventually("it was given up", || proxy.metric("evenkeel_grpc_calls_total", "grpc_status=\"1\"") == 1.0);
    let late = call_for(&mut client, "0n");
    let (_, _, fields) = client.whole(late);
    assert_eq!(value(&fields, "grpc-message"), "evenkeel: the deadline of the call passed before it was sent");
    assert_eq!(proxy.metric("evenkeel_turn_failures_total", "deadline"), 3.0);
    assert_eq!(proxy.metric("evenkeel_turns_in_flight", ""), 0.0);
}

#[test]
fn what_is_sent_on_is_what_is_left() {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let backend = server(move |peer, _| {
        loop {
            match peer.hear() {
                Heard::Fields(stream, Part::Head, fields, _) => {
                    let time = value(&fields, "grpc-timeout").to_owned();
                    tell.lock().expect("alone").send(time).expect("somebody waits");
                    peer.fields(stream, Part::Head, &[&GRPC[..], &[("grpc-status", "0")]].concat(), true);
                }
                Heard::Over => return,
                _ => {}
            }
        }
    });
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    // It waits for the link that it is the first to need.
    let waits = call_for(&mut client, "100S");
    assert_eq!(value(&client.whole(waits).2, "grpc-status"), "0");
    let sent = told.recv().expect("a call");
    let left = timeout(sent.as_bytes()).expect("a timeout");
    assert!(left < Duration::from_secs(100) && left > Duration::from_secs(80), "{sent}");
    // What need not wait goes on as it came, and what is no timeout is not ours to judge.
    for time in ["100S", "99999999H", "1.5S", "1s"] {
        let stream = call_for(&mut client, time);
        assert_eq!(value(&client.whole(stream).2, "grpc-status"), "0");
        assert_eq!(told.recv().as_deref(), Ok(time));
    }
}

#[test]
fn the_time_for_an_answer_to_begin_is_none_for_its_end() {
    let (tell, told) = mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let backend = server(move |peer, _| {
        let (stream, ..) = peer.head();
        peer.fields(stream, Part::Head, &GRPC, false);
        told.lock().expect("alone").recv().expect("to go on");
        peer.data(stream, &message(1), false);
        peer.fields(stream, Part::Trailers, &[("grpc-status", "0")], true);
        while peer.hear() != Heard::Over {}
    });
    let proxy = Proxy::with(&[backend.addr], |service| service.timeouts.request = Some(Duration::from_millis(100)));
    let mut client = Peer::client(proxy.addr);
    let long = call_for(&mut client, "100S");
    client.data(long, &message(1), true);
    client.head();
    // Twice its time and more: another call's is over meanwhile, and one more after it.
    for _ in 0..2 {
        let late = call_for(&mut client, "100S");
        client.data(late, &message(1), true);
        let (_, _, fields) = client.whole(late);
        assert_eq!(value(&fields, "grpc-message"), "evenkeel: the endpoint did not answer in time");
    }
    tell.send(()).expect("it waits");
    assert_eq!(value(&client.whole(long).2, "grpc-status"), "0");
}

/// A server that says this, trailers only, of the first calls, and of the others that they went well; the head of each
/// is told.
fn failing(fields: &'static [(&str, &str)], calls: usize) -> (Backend, mpsc::Receiver<Vec<(String, String)>>) {
    let (tell, told) = mpsc::channel();
    let state = std::sync::Mutex::new((tell, 0));
    let backend = server(move |peer, _| {
        loop {
            match peer.hear() {
                Heard::Fields(stream, Part::Head, head, _) => {
                    let mut state = state.lock().expect("alone");
                    state.1 += 1;
                    let answer = if state.1 <= calls { fields } else { &[("grpc-status", "0")] };
                    // A test that knows enough has gone.
                    let _gone = state.0.send(head);
                    peer.fields(stream, Part::Head, &[&GRPC[..], answer].concat(), true);
                }
                Heard::Over => return,
                _ => {}
            }
        }
    });
    (backend, told)
}

fn retrying(service: &mut Service) {
    (service.retry.on_unavailable, service.retry.attempts) = (true, 3);
}

fn whole_call(client: &mut Peer) -> StreamKey {
    let stream = call_for(client, "100S");
    client.data(stream, &message(1), true);
    stream
}

#[test]
fn what_was_not_run_runs_again_and_its_endpoint_hears_how_often() {
    let (backend, told) = failing(&[("grpc-status", "14")], 2);
    let proxy = Proxy::with(&[backend.addr], retrying);
    let mut client = Peer::client(proxy.addr);
    let stream = whole_call(&mut client);
    assert_eq!(value(&client.whole(stream).2, "grpc-status"), "0");
    let heads: Vec<_> = (0..3).map(|_| told.recv().expect("a call")).collect();
    let attempts = heads.iter().map(|head| value(head, "grpc-previous-rpc-attempts"));
    assert_eq!(attempts.collect::<Vec<_>>(), ["", "1", "2"]);
    assert_eq!(proxy.metric("evenkeel_retries_total", ""), 2.0);
    assert_eq!(proxy.metric("evenkeel_grpc_calls_total", "grpc_status=\"0\""), 1.0);
}

#[test]
fn tries_of_the_client_and_of_ours_are_added() {
    let (backend, told) = failing(&[("grpc-status", "14")], 1);
    let proxy = Proxy::with(&[backend.addr], retrying);
    let mut client = Peer::client(proxy.addr);
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", "/a.B/C"),
        ("content-type", "application/grpc"),
        ("grpc-previous-rpc-attempts", "2"),
    ];
    let stream = client.request(&fields, true);
    client.whole(stream);
    let attempts = [(); 2].map(|()| value(&told.recv().expect("a call"), "grpc-previous-rpc-attempts").to_owned());
    assert_eq!(attempts, ["2", "3"]);
}

#[test]
fn whoever_is_pushed_back_waits_or_does_not_try_again() {
    let (backend, told) = failing(&[("grpc-status", "14"), ("grpc-retry-pushback-ms", "300")], 1);
    let proxy = Proxy::with(&[backend.addr], retrying);
    let mut client = Peer::client(proxy.addr);
    let stream = whole_call(&mut client);
    assert_eq!(value(&client.whole(stream).2, "grpc-status"), "0");
    told.recv().expect("a call");
    let left = timeout(value(&told.recv().expect("a second"), "grpc-timeout").as_bytes()).expect("a timeout");
    assert!(left <= Duration::from_millis(99_700), "{left:?}");
    for refusal in [
        &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")],
        // Longer than the call may take.
        &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "200000")],
    ] {
        let (backend, told) = failing(refusal, 1);
        let proxy = Proxy::with(&[backend.addr], retrying);
        let mut client = Peer::client(proxy.addr);
        let stream = whole_call(&mut client);
        let (_, _, fields) = client.whole(stream);
        // The client is told, and may know better.
        assert_eq!(value(&fields, "grpc-status"), "14");
        assert_eq!(value(&fields, refusal[1].0), refusal[1].1);
        told.recv().expect("a call");
        assert!(told.try_recv().is_err());
        assert_eq!(proxy.metric("evenkeel_grpc_calls_total", "grpc_status=\"14\""), 1.0);
    }
}

/// Ejected after three failures in a row.
fn strict(service: &mut Service) {
    service.balance.core.outlier.consecutive = Some(3);
}

fn ejections(proxy: &Proxy) -> f64 {
    proxy.metric("evenkeel_events_total", "kind=\"ejected\"")
}

#[test]
fn statuses_that_speak_of_an_endpoints_health_are_heard_and_others_are_not() {
    for (status, ejected) in
        [("2", false), ("5", false), ("16", false), ("99", false), ("4", true), ("8", true), ("13", true), ("14", true)]
    {
        let (bad, _bad) = failing(Box::leak(Box::new([("grpc-status", status)])), usize::MAX);
        let (good, _good) = failing(&[], 0);
        let proxy = Proxy::with(&[bad.addr, good.addr], strict);
        let mut client = Peer::client(proxy.addr);
        for _ in 0..8 {
            // Without a deadline, so that its being over can only be the endpoint's own.
            let stream = client.call("/a.B/C");
            client.data(stream, &message(1), true);
            client.whole(stream);
        }
        if ejected {
            eventually("it is ejected", || ejections(&proxy) == 1.0);
        } else {
            assert_eq!(ejections(&proxy), 0.0, "{status}");
            let label = if status == "99" { "other" } else { status };
            assert_eq!(proxy.metric("evenkeel_grpc_calls_total", &format!("grpc_status=\"{label}\"")), 4.0);
        }
    }
}

#[test]
fn an_endpoint_is_to_blame_for_a_deadline_only_if_it_had_time_and_answered_nobody() {
    // It answers what is at an even number in its order, and leaves the rest to its deadline.
    let alive = server(|peer, _| {
        let mut number = 0;
        loop {
            match peer.hear() {
                Heard::Fields(stream, Part::Head, ..) => {
                    if number % 2 == 0 {
                        peer.fields(stream, Part::Head, &[&GRPC[..], &[("grpc-status", "0")]].concat(), true);
                    }
                    number += 1;
                }
                Heard::Over => return,
                _ => {}
            }
        }
    });
    let silent = server(|peer, _| while peer.hear() != Heard::Over {});
    for (hung, time, ejected) in [(true, "1S", true), (true, "1m", false), (false, "1S", false)] {
        let (well, _calls) = failing(&[], 0);
        let first = if hung { silent.addr } else { alive.addr };
        let proxy = Proxy::with(&[first, well.addr], strict);
        let mut client = Peer::client(proxy.addr);
        // All at once: what the living endpoint does not answer waits while it answers others.
        let streams: Vec<_> = (0..16).map(|_| call_for(&mut client, time)).collect();
        let mut over = 0;
        while over < streams.len() {
            match client.hear() {
                Heard::Fields(_, _, _, true) => over += 1,
                Heard::Over => panic!("the connection is over"),
                _ => {}
            }
        }
        if ejected {
            eventually("it is ejected", || ejections(&proxy) == 1.0);
        } else {
            assert_eq!(ejections(&proxy), 0.0, "{hung} {time}");
        }
    }
}

#[test]
fn an_answer_of_http_is_passed_on_and_counted_as_clients_take_it() {
    let backend = server(|peer, _| {
        loop {
            match peer.hear() {
                Heard::Fields(stream, Part::Head, ..) => peer.answer(stream, "503", "<html>"),
                Heard::Over => return,
                _ => {}
            }
        }
    });
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    let stream = whole_call(&mut client);
    let (status, body, _) = client.whole(stream);
    assert_eq!((&*status, &*body), ("503", "<html>"));
    assert_eq!(proxy.metric("evenkeel_grpc_calls_total", "grpc_status=\"14\""), 1.0);
    // What is refused at the door has a status, too.
    let long = "/".repeat(9000);
    let stream = client.call(&long);
    let (status, _, fields) = client.whole(stream);
    assert_eq!((&*status, value(&fields, "grpc-status")), ("200", "8"));
}

/// Why an endpoint is not used, by its address; empty if it is.
fn unused_for(proxy: &Proxy, addr: SocketAddr) -> String {
    let service = proxy.service();
    let endpoints = service["endpoints"].as_array().expect("endpoints").clone();
    let its = endpoints.into_iter().find(|endpoint| endpoint["address"] == addr.to_string()).expect("it is known");
    assert!(its["state"].is_string(), "{its}");
    if its["state"] == "well" { String::new() } else { its.to_string() }
}

#[test]
fn endpoints_are_asked_for_their_health_by_grpc() {
    let Some(python) = python() else { return };
    let (first, _first) = serve(&python);
    let (second, _second) = serve(&python);
    let check = |service: &str| {
        format!("check: {{grpc: {{service: {service}}}, every: 50ms, timeout: 10s, unhealthy: 1, healthy: 1}}")
    };
    let to = |target: &str, check: &str| {
        Proxy::yaml(&format!(
            "- {{name: test, listen: '127.0.0.1:0', target: '{target}', protocol: grpc, balance: {{slow_start: off}}, health: {{{check}}}}}\n"
        ))
    };
    let proxy = to(&format!("{first},{second}"), &check("test.Calls"));
    eventually("both are well", || [first, second].iter().all(|&addr| unused_for(&proxy, addr).is_empty()));
    assert_eq!(ask(&python, first, &["unary", "/test.Calls/Serve", "2"])["code"], 0);
    eventually("it does not serve", || unused_for(&proxy, first).contains("it is NOT_SERVING"));
    for _ in 0..4 {
        let said = ask(&python, proxy.addr, &["unary", "/test.Calls/Name"]);
        assert_eq!(said["messages"][0], second.port().to_string());
    }
    assert_eq!(ask(&python, first, &["unary", "/test.Calls/Serve", "1"])["code"], 0);
    eventually("it serves again", || unused_for(&proxy, first).is_empty());
    let proxy = to(&first.to_string(), &check("test.Other"));
    eventually("nobody has heard of it", || unused_for(&proxy, first).contains("knows no service of this name"));
    // What is no server of HTTP/2 is not well, either.
    let other = Backend::start(|mut stream, _| {
        let _gone = std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let proxy = to(&other.addr.to_string(), &check("test.Calls"));
    eventually("that is no HTTP/2", || unused_for(&proxy, other.addr).contains("the answer was not HTTP/2"));
}

#[test]
fn endpoints_behind_tls_are_asked_over_tls() {
    if !have(&["openssl"]) {
        return;
    }
    let Some(python) = python() else { return };
    let pki = Pki::new();
    let files = pki.sign("server", "/CN=server", "DNS:localhost,IP:127.0.0.1");
    let (key, cert) = (files.key.display().to_string(), files.cert.display().to_string());
    let (addr, _server) = serve_with(&python, &["--key", &key, "--cert", &cert]);
    let ca = pki.ca().display().to_string();
    let with = |service: &str| {
        Proxy::yaml(&format!(
            "- {{name: test, listen: '127.0.0.1:0', target: '{addr}', protocol: grpc, upstream: {{tls: {{ca: '{ca}'}}}}, \
             health: {{check: {{grpc: {{service: {service}}}, every: 50ms, timeout: 10s}}}}}}\n"
        ))
    };
    // That its answer is understood shows in what it does not know.
    let proxy = with("test.Other");
    eventually("nobody has heard of it", || unused_for(&proxy, addr).contains("knows no service of this name"));
    let proxy = with("test.Calls");
    assert_eq!(proxy.metric("evenkeel_endpoints", "usable"), 1.0);
}

/// What grpcio's client for `grpc.health.v1` is told.
fn health(python: &Path, addr: SocketAddr, service: &str) -> String {
    let out = grpcio(python).args(["health", &addr.to_string(), service]).output().expect("it runs");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

#[test]
fn evenkeel_says_how_its_service_is_if_it_is_to() {
    let Some(python) = python() else { return };
    let (addr, _server) = serve(&python);
    // By default the call is one like any other.
    let proxy = Proxy::start(&[addr]);
    assert_eq!(health(&python, proxy.addr, "test.Calls"), "SERVING");
    assert_eq!(health(&python, proxy.addr, "test"), "NOT_FOUND");
    assert_eq!(proxy.metric("evenkeel_requests_total", ""), 2.0);

    let catalog = Catalog::new(&[addr]);
    let mut proxy = Proxy::configured(
        &catalog.target(),
        |service| service.grpc_health = true,
        |config| config.drain.grace = Duration::from_secs(600),
    );
    assert_eq!(health(&python, proxy.addr, "test"), "SERVING");
    assert_eq!(health(&python, proxy.addr, ""), "SERVING");
    assert_eq!(health(&python, proxy.addr, "test.Calls"), "NOT_FOUND");
    assert_eq!(proxy.metric("evenkeel_requests_total", ""), 0.0);
    // Everything else passes.
    assert_eq!(ask(&python, proxy.addr, &["unary", "/test.Calls/Echo", "a"])["messages"][0], "a");

    let mut command = grpcio(&python);
    command.args(["health", &proxy.addr.to_string(), "test", "--watch", "4"]).stdout(Stdio::piped());
    let mut watcher = command.spawn().expect("it runs");
    let mut lines = BufReader::new(watcher.stdout.take().expect("a pipe")).lines().map(|line| line.expect("a line"));
    assert_eq!(lines.next().as_deref(), Some("SERVING"));
    catalog.set(&[]);
    assert_eq!(lines.next().as_deref(), Some("NOT_SERVING"));
    assert_eq!(health(&python, proxy.addr, "test"), "NOT_SERVING");
    catalog.set(&[addr]);
    assert_eq!(lines.next().as_deref(), Some("SERVING"));
    // Clients are served as before, but this one knows.
    proxy.running.retire();
    assert_eq!(lines.next().as_deref(), Some("NOT_SERVING"));
    assert_eq!(lines.next(), None);
    assert_eq!(health(&python, proxy.addr, "test"), "NOT_SERVING");
    assert!(watcher.wait().expect("it ends").success());
    eventually("it watches no more", || proxy.metric("evenkeel_turns_active", "") == 0.0);
}

#[test]
fn a_question_that_is_none_is_refused() {
    let proxy = Proxy::with(&[Backend::nobody()], |service| service.grpc_health = true);
    let mut client = Peer::client(proxy.addr);
    for (question, status) in [
        (&b""[..], "3"),
        (&[0, 0, 0, 0, 9], "3"),
        (&[1, 0, 0, 0, 0], "3"),
        (&[0; 3000], "3"),
        (&[0, 0, 0, 0, 3, 10, 1, b'x'], "5"),
    ] {
        let stream = client.call("/grpc.health.v1.Health/Check");
        client.data(stream, question, true);
        assert_eq!(value(&client.whole(stream).2, "grpc-status"), status, "{question:?}");
    }
    let stream = client.call("/grpc.health.v1.Health/Watch");
    client.data(stream, &[0, 0, 0, 0, 3, 10, 1, b'x'], true);
    client.head();
    // SERVICE_UNKNOWN, and more if ever there is more.
    assert_eq!(client.hear(), Heard::Data(stream, vec![0, 0, 0, 0, 2, 8, 3], false));
}

/// A server that begins to answer every call and says no more; of what becomes of them it tells.
fn beginning() -> (Backend, mpsc::Receiver<Heard>) {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let backend = server(move |peer, _| {
        loop {
            match peer.hear() {
                Heard::Fields(stream, Part::Head, ..) => peer.fields(stream, Part::Head, &GRPC, false),
                Heard::Over => return,
                heard @ Heard::Reset(..) => {
                    // A test that knows enough has gone.
                    let _gone = tell.lock().expect("alone").send(heard);
                }
                _ => {}
            }
        }
    });
    (backend, told)
}

fn pushback(fields: &[(String, String)]) -> u32 {
    value(&fields.to_vec(), "grpc-retry-pushback-ms").parse().expect("milliseconds")
}

#[test]
fn a_call_that_is_old_is_asked_to_begin_again() {
    let (backend, told) = beginning();
    let proxy = Proxy::with(&[backend.addr], |service| {
        service.timeouts.max_stream_age = Some(Duration::from_millis(200));
    });
    let mut client = Peer::client(proxy.addr);
    let stream = client.call("/a.B/C");
    let (_, _, trailers) = client.whole(stream);
    assert_eq!(value(&trailers, "grpc-status"), "14");
    assert_eq!(value(&trailers, "grpc-message"), "evenkeel: the call is as old as calls may become");
    assert!((1..=1000).contains(&pushback(&trailers)), "{trailers:?}");
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(Heard::Reset(_, Code::CANCEL, _))));
    assert_eq!(proxy.metric("evenkeel_limit_hits_total", "max_stream_age"), 1.0);
    // It is no failure of its endpoint.
    assert_eq!(proxy.metric("evenkeel_grpc_calls_total", "grpc_status=\"14\""), 1.0);
    let service = proxy.service();
    assert_eq!(service["endpoints"][0]["state"], "well", "{service}");
}

#[test]
fn when_the_process_leaves_every_call_ends_with_a_status() {
    let (backend, told) = beginning();
    let mut proxy = Proxy::grace(&[backend.addr], Duration::from_secs(3));
    let mut clients: Vec<Peer> = (0..3).map(|_| Peer::client(proxy.addr)).collect();
    for client in &mut clients {
        let streams: Vec<_> = (0..30).map(|_| client.call("/a.B/C")).collect();
        streams.iter().for_each(|_| {
            client.head();
        });
    }
    proxy.running.drain();
    for client in &mut clients {
        let mut ends = 0;
        loop {
            match client.hear() {
                Heard::Fields(_, Part::Trailers, fields, true) => {
                    assert_eq!(value(&fields, "grpc-status"), "14");
                    assert_eq!(value(&fields, "grpc-message"), "evenkeel: evenkeel is shutting down");
                    assert!((1..=1000).contains(&pushback(&fields)));
                    ends += 1;
                }
                Heard::Over => break,
                Heard::Goaway(_) | Heard::Reset(_, Code::NO_ERROR, _) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(ends, 30);
    }
    for _ in 0..90 {
        assert!(matches!(told.recv_timeout(PATIENCE), Ok(Heard::Reset(_, Code::CANCEL, _))));
    }
}

#[test]
fn clients_of_other_people_understand_both_farewells() {
    let Some(python) = python() else { return };
    let (addr, _server) = serve(&python);
    let proxy = Proxy::with(&[addr], |service| service.timeouts.max_stream_age = Some(Duration::from_millis(500)));
    let said = ask(&python, proxy.addr, &["server", "/test.Calls/Begin", "2"]);
    assert_eq!((&said["code"], &said["messages"]), (&Value::from(14), &Value::from(vec!["0", "1"])), "{said}");
    assert_eq!(said["details"], "evenkeel: the call is as old as calls may become");
    assert!(said["trailers"]["grpc-retry-pushback-ms"].is_string(), "{said}");

    let mut proxy = Proxy::grace(&[addr], Duration::from_secs(3));
    let mut command = grpcio(&python);
    command.args(["ask", &proxy.addr.to_string(), "server", "/test.Calls/Begin", "1"]);
    let mut client = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut words = BufReader::new(client.stderr.take().expect("a pipe")).lines().map(|line| line.expect("a line"));
    assert_eq!(words.next().as_deref(), Some("heard 0"));
    proxy.running.drain();
    let out = client.wait_with_output().expect("it ends");
    let said: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(
        (&said["code"], said["details"].as_str()),
        (&Value::from(14), Some("evenkeel: evenkeel is shutting down"))
    );
}

#[test]
fn a_server_says_through_evenkeel_what_it_has() {
    let Some(python) = python() else { return };
    let (addr, _server) = serve(&python);
    let proxy = Proxy::start(&[addr]);
    let out = grpcio(&python).args(["reflect", &proxy.addr.to_string()]).output().expect("it runs");
    let said = String::from_utf8_lossy(&out.stdout);
    let expected = "grpc.health.v1.Health grpc.reflection.v1alpha.ServerReflection test.Calls\n";
    let methods = said.strip_prefix(expected).unwrap_or_else(|| panic!("{out:?}"));
    assert!(methods.contains("Check") && methods.contains("Watch"), "{said}");
}

/// gRPC-Web is HTTP that only its ends understand: its trailers are bytes of the body, over whichever version.
#[test]
fn grpc_web_passes_as_any_other_request() {
    const TRAILERS: &[u8] = b"\x80\0\0\0\x0fgrpc-status: 0\r\n";
    const WEB: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/grpc-web+proto")];
    let backend = server(|peer, _| {
        loop {
            match peer.hear() {
                Heard::Data(stream, data, true) => {
                    peer.fields(stream, Part::Head, &WEB, false);
                    peer.data(stream, &[&data, TRAILERS].concat(), true);
                }
                Heard::Over => return,
                _ => {}
            }
        }
    });
    let proxy = Proxy::with(&[backend.addr], |service| service.upstream.protocol = UpstreamProtocol::Http2);
    // As a browser's library over HTTP/1.1.
    let body = message(4);
    let mut client = proxy.connect();
    let head = "POST /a.B/C HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc-web+proto\r\nX-Grpc-Web: 1\r\n\
                Connection: close\r\nContent-Length: 9\r\n\r\n";
    client.write_all(&[head.as_bytes(), &body].concat()).expect("sent");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("an answer");
    assert!(answer.windows(26).any(|w| w == b"application/grpc-web+proto"));
    let chunk = [&body[..], TRAILERS].concat();
    assert!(answer.windows(chunk.len()).any(|w| w == chunk), "{:?}", String::from_utf8_lossy(&answer));
    // No call of gRPC was seen, nor is it answered as one.
    assert_eq!(proxy.metric("evenkeel_grpc_calls_total", ""), 0.0);
    let nobody = Proxy::start(&[SocketAddr::from(([127, 0, 0, 1], free_port()))]);
    let mut client = Peer::client(nobody.addr);
    let fields = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/"), WEB[1]];
    let stream = client.request(&fields, true);
    assert_eq!(client.whole(stream).0, "502");
}
