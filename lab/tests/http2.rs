//! HTTP/2 on both sides: each request of a connection is a turn of its own.

mod common;

use common::http2::{Heard, Peer, answering, server, value};
use common::peers::{directory, have, nghttpd, nghttpd_with};
use common::pki::Pki;
use common::{Backend, Proxy, eventually};
use evenkeel_core::balancer::Policy;
use evenkeel_proxy::config::Protocol;
use evenkeel_wire::http2::connection::{Fault, Part};
use evenkeel_wire::http2::error::Code;
use evenkeel_wire::http2::settings::{Config, Role};
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (said, complained) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{said}\n{complained}");
    said.into_owned()
}

/// Turns by endpoint.
fn turns(proxy: &Proxy) -> Vec<u64> {
    let service = proxy.service();
    service["endpoints"].as_array().expect("endpoints").iter().filter_map(|e| e["turns"].as_u64()).collect()
}

#[test]
fn requests_of_one_connection_go_to_all_endpoints_in_turn() {
    if !have(&["nghttpd", "h2load"]) {
        return;
    }
    let servers: Vec<_> = (0..3).map(|_| nghttpd(&[])).collect();
    let addresses: Vec<SocketAddr> = servers.iter().map(|(addr, _)| *addr).collect();
    for protocol in [Protocol::Auto, Protocol::Http, Protocol::Http2] {
        let proxy = Proxy::with(&addresses, |service| service.protocol = protocol);
        let url = format!("http://{}/page", proxy.addr);
        let said = run(Command::new("h2load").args(["-n", "300", "-c", "1", "-m", "10", &url]));
        assert!(said.contains("300 succeeded, 0 failed"), "{said}");
        assert_eq!(turns(&proxy), [100, 100, 100]);
        // More streams at once than an endpoint takes on one connection.
        let said = run(Command::new("h2load").args(["-n", "3000", "-c", "10", "-m", "100", &url]));
        assert!(said.contains("3000 succeeded, 0 failed"), "{said}");
        assert_eq!(turns(&proxy).iter().sum::<u64>(), 3300);
        assert_eq!(proxy.metric("evenkeel_turns_in_flight", ""), 0.0);
    }
}

#[test]
fn curl_gets_and_puts_what_is_large_and_sees_trailers() {
    if !have(&["nghttpd", "nghttp", "curl"]) {
        return;
    }
    let (addr, _server) = nghttpd(&["--echo-upload", "--trailer", "x-sum: 7"]);
    let proxy = Proxy::start(&[addr]);
    let home = directory("curl");
    fs::write(home.join("body"), "y".repeat(3 << 20)).expect("written");
    let curl = |arguments: &[&str]| {
        let always = ["--silent", "--show-error", "--max-time", "20", "--http2-prior-knowledge"];
        run(Command::new("curl").current_dir(&home).args(always).args(arguments))
    };
    let url = |path: &str| format!("http://{}{path}", proxy.addr);
    let said = curl(&["--include", &url("/page")]);
    assert!(said.starts_with("HTTP/2 200") && said.contains("a page of nghttpd\n"), "{said}");
    let said = run(Command::new("nghttp").args(["--verbose", &url("/page")]));
    assert!(said.contains("x-sum: 7"), "{said}");
    assert_eq!(curl(&[&url("/large")]).len(), 1 << 20);
    assert_eq!(curl(&["--data-binary", "@body", &url("/echo")]), "y".repeat(3 << 20));
}

#[test]
fn the_endpoint_is_told_who_asked_and_the_client_what_it_says() {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let backend = server(move |peer, _| {
        let (stream, fields, end) = peer.head();
        tell.lock().expect("alone").send((fields, end)).expect("somebody waits");
        peer.fields(stream, Part::Informational, &[(":status", "103"), ("link", "</a.css>")], false);
        peer.fields(stream, Part::Head, &[(":status", "200"), ("x-own", "1")], false);
        peer.data(stream, b"body", false);
        peer.fields(stream, Part::Trailers, &[("grpc-status", "0")], true);
        peer.hear();
    });
    let proxy = Proxy::with(&[backend.addr], |service| service.http.via = true);
    let mut client = Peer::client(proxy.addr);
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/a?b=c"),
        (":authority", "shop.example"),
        ("x-forwarded-for", "192.0.2.1"),
        ("te", "trailers"),
    ];
    let stream = client.request(&fields, true);
    let (asked, end) = told.recv().expect("a request");
    assert!(end);
    for (name, expected) in [
        (":path", "/a?b=c"),
        (":authority", "shop.example"),
        ("te", "trailers"),
        ("x-forwarded-for", "192.0.2.1, 127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("via", "2 evenkeel"),
    ] {
        assert_eq!(value(&asked, name), expected, "{name} in {asked:?}");
    }
    let Heard::Fields(_, Part::Informational, hints, false) = client.hear() else { panic!("hints come first") };
    assert_eq!(value(&hints, "link"), "</a.css>");
    let (_, head, _) = client.head();
    assert_eq!((value(&head, "x-own"), value(&head, "via")), ("1", "2 evenkeel"));
    assert_eq!(client.hear(), Heard::Data(stream, b"body".to_vec(), false));
    let trailers = vec![("grpc-status".to_owned(), "0".to_owned())];
    assert_eq!(client.hear(), Heard::Fields(stream, Part::Trailers, trailers, true));
}

#[test]
fn errors_of_our_own_are_responses_or_grpc_statuses() {
    let proxy = Proxy::start(&[Backend::nobody()]);
    let mut client = Peer::client(proxy.addr);
    let stream = client.get("/");
    let (status, body, _) = client.whole(stream);
    assert_eq!((&*status, &*body), ("502", "no endpoint could be connected to\n"));
    let stream = client.call("/shop.Catalog/Lookup");
    let (status, body, fields) = client.whole(stream);
    assert_eq!((&*status, &*body, value(&fields, "grpc-status")), ("200", "", "14"));
    assert_eq!(value(&fields, "grpc-message"), "evenkeel: no endpoint could be connected to");
    assert_eq!(value(&fields, "evenkeel-reason"), "connect-failed; phase=connect");
    // What was not to be is no error of the connection.
    let stream = client.request(&[(":method", "CONNECT"), (":authority", "a:443")], true);
    assert_eq!(client.whole(stream).0, "501");
}

#[test]
fn an_endpoint_that_does_not_answer_in_time_is_not_waited_for() {
    let backend = server(|peer, _| while peer.hear() != Heard::Over {});
    let proxy = Proxy::with(&[backend.addr], |service| service.timeouts.request = Some(Duration::from_millis(50)));
    let mut client = Peer::client(proxy.addr);
    let stream = client.get("/");
    assert_eq!(client.whole(stream).0, "504");
    let stream = client.call("/a.B/C");
    client.data(stream, b"\0\0\0\0\0", true);
    assert_eq!(value(&client.whole(stream).2, "grpc-status"), "4");
    assert_eq!(proxy.metric("evenkeel_turns_in_flight", ""), 0.0);
}

#[test]
fn a_stream_that_was_refused_runs_elsewhere_whatever_it_is() {
    let refusing = server(|peer, _| {
        loop {
            match peer.hear() {
                Heard::Fields(stream, Part::Head, ..) => peer.reset(stream, Code::REFUSED_STREAM),
                Heard::Over => return,
                _ => {}
            }
        }
    });
    let other = answering("well");
    let proxy = Proxy::start(&[refusing.addr, other.addr]);
    let mut client = Peer::client(proxy.addr);
    for _ in 0..4 {
        let stream = client.call("/a.B/C");
        client.data(stream, b"\0\0\0\0\0", true);
        assert_eq!(client.whole(stream).1, "well");
    }
}

#[test]
fn what_a_goaway_excludes_runs_elsewhere_and_the_rest_is_finished() {
    let leaving = server(|peer, number| {
        let (first, ..) = peer.head();
        if number > 0 {
            return peer.answer(first, "200", "again");
        }
        let (_second, ..) = peer.head();
        peer.goaway(first.id());
        peer.answer(first, "200", "first");
        while peer.hear() != Heard::Over {}
    });
    let proxy = Proxy::start(&[leaving.addr]);
    let mut client = Peer::client(proxy.addr);
    let (first, second) = (client.get("/1"), client.get("/2"));
    let mut bodies = Vec::new();
    while bodies.len() < 2 {
        if let Heard::Data(stream, data, _) = client.hear() {
            bodies.push((stream, String::from_utf8(data).expect("text")));
        }
    }
    bodies.sort_by_key(|(stream, _)| stream.id());
    assert_eq!(bodies, [(first, "first".to_owned()), (second, "again".to_owned())]);
}

#[test]
fn resets_reach_the_other_side() {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let backend = server(move |peer, _| {
        let (stream, ..) = peer.head();
        peer.fields(stream, Part::Head, &[(":status", "200")], false);
        tell.lock().expect("alone").send(peer.hear()).expect("somebody waits");
        let (stream, ..) = peer.head();
        peer.fields(stream, Part::Head, &[(":status", "200")], false);
        peer.data(stream, b"half", false);
        peer.reset(stream, Code::INTERNAL_ERROR);
        while peer.hear() != Heard::Over {}
    });
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    let stream = client.get("/1");
    client.head();
    client.reset(stream, Code::CANCEL);
    assert!(matches!(told.recv(), Ok(Heard::Reset(_, Code::CANCEL, Fault::Peer))));
    let stream = client.get("/2");
    client.head();
    assert_eq!(client.hear(), Heard::Data(stream, b"half".to_vec(), false));
    assert_eq!(client.hear(), Heard::Reset(stream, Code::INTERNAL_ERROR, Fault::Peer));
    eventually("nothing is in flight", || proxy.metric("evenkeel_turns_in_flight", "") == 0.0);
}

#[test]
fn a_stream_that_nobody_reads_stops_its_sender_and_no_other_stream() {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let backend = server(move |peer, _| {
        let (slow, ..) = peer.head();
        peer.fields(slow, Part::Head, &[(":status", "200")], false);
        // As much as goes: until no window is left for a while.
        let piece = [b'x'; 16 * 1024];
        let mut sent = 0;
        loop {
            let n = peer.data(slow, &piece, false);
            sent += n;
            if n < piece.len() {
                match peer.hear_quick() {
                    Some(Heard::Fields(other, Part::Head, ..)) => {
                        peer.answer(other, "200", "quick");
                        tell.lock().expect("alone").send(sent).expect("somebody waits");
                    }
                    Some(Heard::Over) => return,
                    _ => {}
                }
            }
        }
    });
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    client.takes = false;
    let slow = client.get("/slow");
    let mut came = 0;
    while came < 64 * 1024 {
        if let Heard::Data(stream, data, _) = client.hear() {
            assert_eq!(stream, slow);
            came += data.len();
        }
    }
    let quick = client.get("/quick");
    assert_eq!(client.whole(quick).1, "quick");
    // A window with the client, one here, and what was on its way.
    let sent = told.recv().expect("the other stream was heard of");
    assert!(sent <= 3 * 64 * 1024, "{sent} bytes were taken for a client that reads nothing");
}

#[test]
fn more_than_a_connection_has_room_for_comes_through_and_every_stream_has_its_turn() {
    // So few that the windows of connections, with the credit that is still owed, are larger than what they send.
    const STREAMS: usize = 7;
    let body: &'static str = Box::leak("x".repeat(60_000).into_boxed_str());
    let backend = answering(body);
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    let first: Vec<_> = (0..STREAMS).map(|_| client.get("/")).collect();
    let mut waiting = first.clone();
    // Whenever one is over another one begins, so that there is always more to be sent than there is room for.
    let mut begun = STREAMS;
    while first.iter().any(|stream| waiting.contains(stream)) {
        match client.hear() {
            Heard::Data(stream, _, true) => {
                waiting.retain(|&other| other != stream);
                waiting.push(client.get("/"));
                begun += 1;
            }
            Heard::Fields(..) | Heard::Data(..) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(begun <= 4 * STREAMS, "the first ones were over after {begun} had begun");

    // And in the other direction.
    let mut client = Peer::client(proxy.addr);
    let small = client.get("/");
    assert_eq!(client.whole(small).1, body, "and the windows are known");
    let calls: Vec<_> = (0..STREAMS).map(|_| client.call("/upload")).collect();
    for &call in &calls {
        assert_eq!(client.data(call, body.as_bytes(), true), body.len());
    }
    let mut waiting = calls;
    while !waiting.is_empty() {
        match client.hear() {
            Heard::Data(stream, _, true) => waiting.retain(|&other| other != stream),
            Heard::Fields(..) | Heard::Data(..) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_process_that_leaves_says_so_and_finishes() {
    let backend = answering("well");
    let mut proxy = Proxy::grace(&[backend.addr], Duration::from_secs(10));
    let mut client = Peer::client(proxy.addr);
    let open = client.call("/a.B/C");
    let stream = client.get("/");
    assert_eq!(client.whole(stream).1, "well");
    proxy.running.drain();
    assert_eq!(client.hear(), Heard::Goaway(Code::NO_ERROR));
    // What was on its way when it was said is served.
    client.data(open, b"\0\0\0\0\0", true);
    assert_eq!(client.whole(open).1, "well");
    loop {
        if client.hear() == Heard::Over {
            break;
        }
    }
}

#[test]
fn tls_agrees_on_it_on_both_sides() {
    if !have(&["nghttpd", "h2load", "curl", "openssl"]) {
        return;
    }
    let pki = Pki::new();
    let files = pki.sign("server", "/CN=server", "DNS:localhost,IP:127.0.0.1");
    let (key, cert) = (files.key.display().to_string(), files.cert.display().to_string());
    let (addr, _server) = nghttpd_with(&[], &[&key, &cert]);
    let (ca, yaml) = (pki.ca().display().to_string(), files.yaml());
    let proxy = Proxy::yaml(&format!(
        "- {{name: test, listen: '127.0.0.1:0', target: '{addr}', protocol: grpc, tls: {{{yaml}}}, \
         upstream: {{tls: {{ca: '{ca}'}}}}}}\n"
    ));
    let url = format!("https://localhost:{}", proxy.addr.port());
    let always = ["--silent", "--show-error", "--max-time", "20", "--http2", "--cacert", &ca];
    let said = run(Command::new("curl").args(always).args(["--include", &format!("{url}/page")]));
    assert!(said.starts_with("HTTP/2 200") && said.contains("a page of nghttpd\n"), "{said}");
    assert_eq!(run(Command::new("curl").args(always).arg(format!("{url}/large"))).len(), 1 << 20);
    let said = run(Command::new("h2load").args(["-n", "1000", "-c", "4", "-m", "10", &format!("{url}/page")]));
    assert!(said.contains("1000 succeeded, 0 failed"), "{said}");
}

#[test]
fn an_endpoint_that_dies_takes_with_it_what_may_have_run_and_nothing_else() {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let dying = server(move |peer, number| {
        // The first connection lives through one request.
        let (stream, ..) = peer.head();
        if number == 0 {
            peer.answer(stream, "200", "last words");
            peer.head();
            tell.lock().expect("alone").send(()).expect("somebody waits");
        }
    });
    let other = answering("well");
    let proxy = Proxy::start(&[dying.addr, other.addr]);
    let mut client = Peer::client(proxy.addr);
    let mut bodies: Vec<String> = (0..2)
        .map(|_| {
            let stream = client.get("/");
            client.whole(stream).1
        })
        .collect();
    bodies.sort();
    assert_eq!(bodies, ["last words", "well"]);
    // Its link had served others, so it is what a pooled link is: a GET runs elsewhere.
    while told.try_recv().is_err() {
        let stream = client.get("/");
        assert_eq!(client.whole(stream).1, "well");
    }
    // On a connection of its own a POST may have run.
    let answers: Vec<String> = (0..2)
        .map(|_| {
            let stream = client.call("/a.B/C");
            client.data(stream, b"\0\0\0\0\0", true);
            let (_, body, fields) = client.whole(stream);
            body + value(&fields, "grpc-status")
        })
        .collect();
    assert!(answers.contains(&"well".to_owned()) && answers.contains(&"14".to_owned()), "{answers:?}");
}

#[test]
fn a_session_has_so_many_requests_at_once() {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let backend = server(move |peer, _| {
        let (first, ..) = peer.head();
        tell.lock().expect("alone").send(()).expect("somebody waits");
        peer.head();
        peer.answer(first, "200", "well");
        peer.hear();
    });
    let proxy = Proxy::with(&[backend.addr], |service| service.limits.streams = 2);
    let mut client = Peer::client(proxy.addr);
    let first = client.get("/1");
    told.recv().expect("the limit came with the answer to the preface");
    // Our own engine knows the limit, once it has heard of it.
    assert_eq!(client.hear_quick(), None);
    assert_eq!(client.connection.room(), 1);
    client.get("/2");
    assert_eq!(client.whole(first).1, "well");
}

#[test]
fn random_is_what_kube_proxy_does_a_session_stays_where_it_is() {
    let backends = [answering("a"), answering("b"), answering("c")];
    let addresses = backends.each_ref().map(|backend| backend.addr);
    let proxy = Proxy::with(&addresses, |service| service.balance.core.turn_policy = Policy::Random);
    let mut client = Peer::client(proxy.addr);
    let mut asks = || {
        let stream = client.get("/");
        client.whole(stream).1
    };
    let first = asks();
    assert!((0..20).all(|_| asks() == first));
}

/// Such a server says SETTINGS before it hears of anybody: that is no protocol of its own.
#[test]
fn a_client_that_takes_its_time_is_served_by_requests_all_the_same() {
    let backends = [answering("well"), answering("well")];
    let proxy = Proxy::with(&backends.each_ref().map(|backend| backend.addr), |service| {
        service.balance.core.session_policy = Policy::RoundRobin;
    });
    let heard = || proxy.metric("evenkeel_endpoint_bytes_received_total", "");
    for n in 1..=4 {
        let before = heard();
        let stream = proxy.connect();
        eventually("a link was opened to listen to the server, which spoke", || heard() > before);
        let mut client = Peer::new(stream, Role::Client, Config::default());
        for _ in 0..4 {
            let stream = client.get("/");
            assert_eq!(client.whole(stream).1, "well");
        }
        assert_eq!(proxy.metric("evenkeel_turns_total", ""), f64::from(4 * n));
    }
    let turns = turns(&proxy);
    assert_eq!(turns, [8, 8]);
    // And who speaks neither has a connection of its own.
    let mut opaque = proxy.connect();
    opaque.write_all(b"\x16\x03\x01").expect("sent");
    assert_eq!(opaque.read(&mut [0; 9]).expect("what the server says"), 9);
}

#[test]
fn what_is_no_http2_ends_its_session_only() {
    let backend = answering("well");
    let proxy = Proxy::with(&[backend.addr], |service| service.protocol = Protocol::Http2);
    let mut client = Peer::client(proxy.addr);
    let stream = client.get("/");
    assert_eq!(client.whole(stream).1, "well");
    let answer = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.contains("does not begin like one of HTTP/2"), "{answer:?}");
    let stream = client.get("/");
    assert_eq!(client.whole(stream).1, "well");
    assert_eq!(proxy.metric("evenkeel_session_ends_total", "client-protocol"), 1.0);
}

#[test]
fn a_body_that_is_too_large_is_refused_when_it_is() {
    let backend = answering("well");
    let proxy = Proxy::with(&[backend.addr], |service| service.limits.body_bytes = Some(1000));
    let mut client = Peer::client(proxy.addr);
    let stream = client.call("/a.B/C");
    client.data(stream, &[0; 600], false);
    client.data(stream, &[0; 600], false);
    assert_eq!(value(&client.whole(stream).2, "grpc-status"), "8");
    assert_eq!(proxy.metric("evenkeel_limit_hits_total", "body_bytes"), 1.0);
}

#[test]
fn connections_grow_old_and_lose_nothing_by_it() {
    let backend = answering("well");
    let proxy = Proxy::with(&[backend.addr], |service| {
        service.upstream.max_age = Some(Duration::from_millis(300));
        service.timeouts.max_age = Some(Duration::from_millis(700));
    });
    let mut client = Peer::client(proxy.addr);
    // One that is under way when both connections are told to go.
    let long = client.call("/long");
    let mut turns = 0;
    // A client that was told to go opens no more streams.
    while client.connection.room() > 0 {
        let stream = client.get("/");
        assert_eq!(client.whole(stream).1, "well");
        turns += 1;
        let _told = client.hear_quick();
    }
    assert!(turns > 1 && backend.connections() > 1, "{turns} turns, {} links", backend.connections());
    client.data(long, b"the end", true);
    assert_eq!(client.whole(long).1, "well");
    eventually("it is gone for its age", || proxy.metric("evenkeel_session_ends_total", "aged") == 1.0);
    assert_eq!(proxy.metric("evenkeel_turn_failures_total", ""), 0.0);
}

#[test]
fn who_does_not_answer_a_ping_is_not_waited_for() {
    let silent = Backend::start(|mut stream, _| {
        let mut settings = Vec::new();
        evenkeel_wire::http2::frame::put_settings(&mut settings, &[]);
        stream.write_all(&settings).expect("sent");
        // It reads, and says nothing more.
        while stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {}
    });
    let proxy = Proxy::with(&[silent.addr], |service| service.timeouts.ping = Some(Duration::from_millis(50)));
    let mut client = Peer::client(proxy.addr);
    let stream = client.call("/a.B/C");
    // The client answers PINGs while it listens; its endpoint does not, and that has as long again.
    let trailers = client.whole(stream).2;
    assert!(value(&trailers, "grpc-message").contains("did not answer in time"), "{trailers:?}");
    assert_eq!(proxy.metric("evenkeel_turn_failures_total", "endpoint-timeout"), 1.0);
    assert_eq!(proxy.metric("evenkeel_session_ends_total", ""), 0.0);
}

#[test]
fn what_a_full_buffer_held_up_goes_on_when_that_was_written() {
    let backend = server(|peer, _| {
        let (stream, ..) = peer.head();
        let mut body = Vec::new();
        loop {
            let Heard::Data(_, data, end) = peer.hear() else { panic!("the body comes") };
            body.extend(data);
            if end {
                break;
            }
        }
        peer.fields(stream, Part::Head, &[(":status", "200")], false);
        assert_eq!(peer.data(stream, &body, true), body.len());
        peer.hear();
    });
    let proxy = Proxy::with(&[backend.addr], |service| service.limits.buffer = 1000);
    let mut client = Peer::client(proxy.addr);
    // All of it at once: nothing comes behind it that could set the rest going.
    let stream = client.call("/a.B/C");
    assert_eq!(client.data(stream, &[b'x'; 60_000], true), 60_000);
    assert_eq!(client.whole(stream).1.len(), 60_000);
}
