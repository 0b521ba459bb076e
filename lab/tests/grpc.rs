//! gRPC through evenkeel: grpcio on both sides, and peers that do as they are told for what it cannot be made to do.

mod common;

use common::http2::{Heard, Peer, server, value};
use common::peers::{Process, directory, free_port, python};
use common::{Proxy, eventually};
use evenkeel_wire::grpc::timeout;
use evenkeel_wire::http2::connection::Part;
use evenkeel_wire::http2::error::Code;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
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
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = grpcio(python);
    command.args(["serve", &addr.port().to_string()]);
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
fn call_for(client: &mut Peer, time: &str) -> evenkeel_wire::http2::streams::StreamKey {
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
    assert!(matches!(told.recv(), Ok(Heard::Reset(_, Code::CANCEL, _))));
    // An answer that has begun ends with trailers, whatever is missing of it.
    let begun = call_for(&mut client, "100000u");
    let (_, body, trailers) = client.whole(begun);
    assert_eq!((body.len(), value(&trailers, "grpc-status")), (6, "4"));
    let said = "evenkeel: the deadline of the call passed before its answer was complete";
    assert_eq!(value(&trailers, "grpc-message"), said);
    assert!(matches!(told.recv(), Ok(Heard::Reset(_, Code::CANCEL, _))));
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
