//! Clients of HTTP/1.1 in front of endpoints that speak HTTP/2: each turn is a stream of a link that sessions share.

mod common;

use common::http2::{Fields, Heard, Peer, answering, server, value};
use common::peers::{Nginx, Process, Wrk, directory, free_port, have, nghttpd, nghttpd_with, python};
use common::pki::Pki;
use common::{Backend, Proxy, eventually, field, read_all, read_head, status};
use evenkeel_proxy::config::{Forwarding, Service, UpstreamProtocol};
use evenkeel_wire::http2::connection::{Fault, Part};
use evenkeel_wire::http2::error::Code;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

fn proxy(backends: &[SocketAddr]) -> Proxy {
    proxy_with(backends, |_| {})
}

fn proxy_with(backends: &[SocketAddr], change: impl FnOnce(&mut Service)) -> Proxy {
    Proxy::with(backends, |service| {
        service.upstream.protocol = UpstreamProtocol::Http2;
        change(service);
    })
}

/// A server of which each connection does as it is told, and has somebody to tell what it hears.
fn telling<T: Send + 'static>(
    serve: impl Fn(&mut Peer, usize, &dyn Fn(T)) + Send + Sync + 'static,
) -> (Backend, mpsc::Receiver<T>) {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let backend = server(move |peer, number| {
        serve(peer, number, &|what| tell.lock().expect("alone").send(what).expect("somebody waits"));
    });
    (backend, told)
}

/// The request of a stream up to its end: head, body, trailers.
fn whole_request(peer: &mut Peer) -> (Fields, Vec<u8>, Fields) {
    let (stream, head, mut ended) = peer.head();
    let (mut body, mut trailers) = (Vec::new(), Fields::new());
    while !ended {
        match peer.hear() {
            Heard::Data(of, data, end) if of == stream => {
                body.extend(data);
                ended = end;
            }
            Heard::Fields(of, Part::Trailers, fields, end) if of == stream => (trailers, ended) = (fields, end),
            other => panic!("{other:?}"),
        }
    }
    peer.answer(stream, "200", "well");
    (head, body, trailers)
}

fn curl(arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    let out = command.args(["--silent", "--show-error", "--max-time", "20"]).args(arguments).output().expect("curl");
    let (said, complained) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{arguments:?}: {said}\n{complained}");
    said.into_owned()
}

/// Reads a response in chunks, and returns its head, its content, and its trailers as they stand.
fn read_chunked(stream: &mut TcpStream) -> (String, String, String) {
    let head = read_head(stream);
    assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
    let (mut content, mut byte) = (Vec::new(), [0]);
    let mut line = |stream: &mut TcpStream| {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            stream.read_exact(&mut byte).expect("a line");
            line.push(byte[0]);
        }
        String::from_utf8(line).expect("text")
    };
    loop {
        let size = usize::from_str_radix(line(stream).trim_end(), 16).expect("a size");
        if size == 0 {
            break;
        }
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).expect("a chunk");
        content.extend_from_slice(&chunk[..size]);
    }
    let mut trailers = String::new();
    while !trailers.ends_with("\r\n\r\n") && trailers != "\r\n" {
        trailers += &line(stream);
    }
    (head, String::from_utf8(content).expect("text"), trailers)
}

/// One request on a connection that is kept; the content of its answer.
fn ask(client: &mut TcpStream, request: &str) -> String {
    client.write_all(request.as_bytes()).expect("sent");
    read_chunked(client).1
}

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
const LAST_GET: &str = "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody";

#[test]
fn curl_gets_and_puts_whatever_the_framing() {
    if !have(&["nghttpd", "curl"]) {
        return;
    }
    let (addr, _server) = nghttpd(&["--echo-upload"]);
    let proxy = proxy(&[addr]);
    let url = |path: &str| format!("http://{}{path}", proxy.addr);
    let said = curl(&["--include", &url("/page")]);
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("\r\n\r\na page of nghttpd\n"), "{said}");
    assert_eq!(field(&said, "content-length"), Some("18"));
    assert_eq!(curl(&["--http1.0", &url("/page")]), "a page of nghttpd\n");
    assert_eq!(curl(&[&url("/large")]).len(), 1 << 20);
    let said = curl(&["--head", &url("/page")]);
    assert_eq!((status(&said), field(&said, "content-length")), (200, Some("18")), "{said}");
    let file = directory("curl").join("body");
    let body = "y".repeat(3 << 20);
    fs::write(&file, &body).expect("written");
    let upload = format!("@{}", file.display());
    // With a length curl asks first (Expect: 100-continue), and without one.
    assert!(curl(&["--data-binary", &upload, &url("/echo")]) == body);
    assert!(curl(&["--data-binary", &upload, "-H", "Transfer-Encoding: chunked", &url("/echo")]) == body);
    // Several on one connection.
    let said = curl(&["-o", "/dev/null", "-o", "/dev/null", "-w", "%{num_connects} ", &url("/page"), &url("/large")]);
    assert_eq!(said, "1 0 ");
    assert_eq!(proxy.metric("evenkeel_turns_in_flight", ""), 0.0);
    assert_eq!(proxy.metric("evenkeel_connects_total", ""), 1.0);
}

/// HTTP/1.1 to HTTP/2 and back again: what arrives is compared with what was sent.
#[test]
fn aiohttp_and_requests_cannot_tell_that_there_is_http2_between() {
    let Some(python) = python() else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/peers.py");
    let port = free_port();
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let mut command = Command::new(&python);
    command.args([script, "serve", &port.to_string()]);
    let _server = Process::start(&mut command, directory("aiohttp")).listening(addr);
    let back = Proxy::with(&[addr], |service| {
        service.upstream.protocol = UpstreamProtocol::Http1;
        service.http.x_forwarded = Forwarding::Keep;
    });
    let proxy = proxy(&[back.addr]);
    let out = Command::new(&python).args([script, "request", &format!("http://{}", proxy.addr)]).output();
    let out = out.expect("Python runs");
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(proxy.metric("evenkeel_connects_total", ""), 1.0);
}

#[test]
fn nginx_serves_everything_curl_can_ask_for() {
    if !have(&["nginx", "curl"]) {
        return;
    }
    let nginx = Nginx::http2();
    let proxy = proxy(&[nginx.addr]);
    let url = |path: &str| format!("http://{}{path}", proxy.addr);
    assert_eq!(curl(&[&url("/page")]), "a page of nginx\n");
    let code = |arguments: &[&str]| curl(&[&["-o", "/dev/null", "-w", "%{http_code}"], arguments].concat());
    assert_eq!(code(&[&url("/nothing")]), "204");
    assert_eq!(code(&[&url("/missing")]), "404");
    assert_eq!(code(&["--range", "2-5", &url("/page")]), "206");
    let tagged = curl(&["--head", &url("/page")]);
    let tag = format!("If-None-Match: {}", field(&tagged, "etag").expect("a tag"));
    assert_eq!(code(&["-H", &tag, &url("/page")]), "304");
    let file = directory("curl").join("upload");
    fs::write(&file, "z".repeat(1 << 20)).expect("written");
    assert_eq!(code(&["--upload-file", &file.display().to_string(), &url("/put/file")]), "201");
    assert_eq!(fs::read_to_string(nginx.home().join("put/file")).expect("it is there").len(), 1 << 20);
}

#[test]
fn many_clients_share_few_links_and_their_turns_go_to_all_endpoints() {
    if !have(&["nghttpd", "wrk"]) {
        return;
    }
    let servers: Vec<_> = (0..3).map(|_| nghttpd(&[])).collect();
    let addresses: Vec<SocketAddr> = servers.iter().map(|(addr, _)| *addr).collect();
    let proxy = proxy(&addresses);
    let load = Wrk::start(proxy.addr, 64, 1).done();
    assert_eq!(load.failures, 0, "{}", load.said);
    let service = proxy.service();
    let turns = service["endpoints"].as_array().expect("endpoints").iter().filter_map(|e| e["turns"].as_u64());
    let turns: Vec<u64> = turns.collect();
    let (least, most) = (turns.iter().min().expect("three"), turns.iter().max().expect("three"));
    assert!(turns.len() == 3 && most - least <= 64, "in turn: {turns:?}");
    assert_eq!(proxy.metric("evenkeel_connects_total", ""), 3.0);
    eventually("nothing is in flight", || proxy.metric("evenkeel_turns_in_flight", "") == 0.0);
}

#[test]
fn a_request_becomes_fields_and_an_answer_a_head() {
    let (backend, told) = telling(|peer, _, tell| {
        let (stream, fields, end) = peer.head();
        tell((fields, end));
        peer.fields(stream, Part::Informational, &[(":status", "103"), ("link", "</a.css>")], false);
        peer.fields(stream, Part::Head, &[(":status", "404"), ("x-own", "1"), ("proxy-authenticate", "no")], false);
        peer.data(stream, b"body", false);
        peer.fields(stream, Part::Trailers, &[("x-sum", "7"), ("set-cookie", "no")], true);
        peer.hear();
    });
    let proxy = proxy_with(&[backend.addr], |service| service.http.via = true);
    let mut client = proxy.connect();
    client
        .write_all(
            b"GET http://shop.example/a?b=c HTTP/1.1\r\nHost: other\r\nX-Own: Kept\r\nCookie: a=b; c=d\r\n\
              Connection: keep-alive, X-Mine, TE\r\nX-Mine: gone\r\nKeep-Alive: 5\r\nTE: trailers, deflate\r\n\
              X-Forwarded-For: 192.0.2.1\r\n\r\n",
        )
        .expect("sent");
    let (asked, end) = told.recv().expect("a request");
    assert!(end);
    let names: Vec<&str> = asked.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names[..4], [":method", ":scheme", ":path", ":authority"]);
    for (name, expected) in [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/a?b=c"),
        (":authority", "shop.example"),
        ("x-own", "Kept"),
        ("cookie", "a=b; c=d"),
        ("te", "trailers"),
        ("x-forwarded-for", "192.0.2.1, 127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("via", "1.1 evenkeel"),
    ] {
        assert_eq!(value(&asked, name), expected, "{name} in {asked:?}");
    }
    for gone in ["host", "connection", "keep-alive", "x-mine", "transfer-encoding", "content-length"] {
        assert!(!names.contains(&gone), "{gone} in {asked:?}");
    }
    let hints = read_head(&mut client);
    assert!(hints.starts_with("HTTP/1.1 103 Early Hints\r\n") && hints.contains("link: </a.css>\r\n"), "{hints}");
    let (head, body, trailers) = read_chunked(&mut client);
    assert!(head.starts_with("HTTP/1.1 404 Not Found\r\nx-own: 1\r\nVia: 2 evenkeel\r\n"), "{head}");
    assert!(!head.contains("proxy-authenticate"), "{head}");
    assert_eq!((&*body, &*trailers), ("body", "x-sum: 7\r\n\r\n"));
}

#[test]
fn bodies_and_trailers_of_requests_arrive_as_data_and_trailers() {
    let (backend, told) = telling(|peer, _, tell| {
        loop {
            tell(whole_request(peer));
        }
    });
    let proxy = proxy(&[backend.addr]);
    let mut client = proxy.connect();
    let request = "POST /1 HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3;ext=1\r\nabc\r\n1\r\nd\r\n0\r\nX-Sum: 4\r\nContent-Length: 9\r\n\r\n";
    assert_eq!(ask(&mut client, request), "well");
    let (head, body, trailers) = told.recv().expect("a request");
    assert_eq!((value(&head, "transfer-encoding"), &*body), ("", &b"abcd"[..]));
    assert_eq!(trailers, [("x-sum".to_owned(), "4".to_owned())]);
    // Pipelined: one that says its length, one that says that there is nothing, one without a word.
    client
        .write_all(
            b"PUT /2 HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi\
              POST /3 HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n\
              OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n",
        )
        .expect("sent");
    for (path, length, content) in [("/2", "2", "hi"), ("/3", "0", ""), ("*", "", "")] {
        assert_eq!(read_chunked(&mut client).1, "well");
        let (head, body, _) = told.recv().expect("a request");
        assert_eq!((value(&head, ":path"), value(&head, "content-length")), (path, length));
        assert_eq!(body, content.as_bytes());
    }
}

#[test]
fn answers_without_content_end_with_their_head_and_the_connection_goes_on() {
    let backend = server(|peer, _| {
        loop {
            let (stream, fields, _) = peer.head();
            match value(&fields, ":path") {
                "/204" => peer.fields(stream, Part::Head, &[(":status", "204")], true),
                "/304" => peer.fields(stream, Part::Head, &[(":status", "304"), ("content-length", "7")], true),
                // The end comes by itself.
                "/late" => {
                    peer.fields(stream, Part::Head, &[(":status", "200"), ("content-length", "7")], false);
                    peer.data(stream, b"", true);
                }
                _ => peer.fields(stream, Part::Head, &[(":status", "200")], true),
            }
        }
    });
    let proxy = proxy(&[backend.addr]);
    let mut client = proxy.connect();
    for (method, path, code, length) in [
        ("GET", "/204", 204, None),
        ("GET", "/304", 304, Some("7")),
        ("HEAD", "/late", 200, Some("7")),
        ("GET", "/nothing", 200, Some("0")),
        ("GET", "/nothing", 200, Some("0")),
    ] {
        client.write_all(format!("{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).expect("sent");
        let head = read_head(&mut client);
        assert_eq!((status(&head), field(&head, "content-length")), (code, length), "{method} {path}");
        assert_eq!((field(&head, "transfer-encoding"), field(&head, "connection")), (None, None), "{head}");
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_client_of_http_1_0_gets_content_to_the_end_of_its_connection() {
    let backend = answering("well");
    let proxy = proxy(&[backend.addr]);
    let answer = proxy.ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(field(&answer, "connection"), Some("close"));
    assert!(field(&answer, "transfer-encoding").is_none() && answer.ends_with("\r\n\r\nwell"), "{answer}");
}

#[test]
fn who_asks_whether_to_go_on_is_told_by_the_endpoint() {
    let backend = server(|peer, _| {
        let (stream, fields, end) = peer.head();
        assert_eq!((value(&fields, "expect"), end), ("100-continue", false));
        peer.fields(stream, Part::Informational, &[(":status", "100")], false);
        assert_eq!(peer.hear(), Heard::Data(stream, b"body".to_vec(), true));
        peer.answer(stream, "200", "well");
        // The next one it does not want, and says so before it comes.
        let (stream, ..) = peer.head();
        peer.answer(stream, "403", "no");
        peer.reset(stream, Code::NO_ERROR);
        while peer.hear() != Heard::Over {}
    });
    let proxy = proxy(&[backend.addr]);
    let mut client = proxy.connect();
    let head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    client.write_all(head.as_bytes()).expect("sent");
    assert!(read_head(&mut client).starts_with("HTTP/1.1 100 Continue\r\n\r\n"));
    assert_eq!(ask(&mut client, "body"), "well");
    client.write_all(head.as_bytes()).expect("sent");
    let answer = read_all(&mut client);
    assert_eq!((status(&answer), field(&answer, "connection")), (403, Some("close")), "{answer}");
}

#[test]
fn what_an_endpoint_has_not_looked_at_runs_elsewhere_whatever_it_is() {
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
    let proxy = proxy(&[refusing.addr, other.addr]);
    for _ in 0..4 {
        assert!(proxy.ask(POST).contains("\r\nwell\r\n"));
    }
    // Nobody else is there: there is no sense in asking again and again.
    let alone = self::proxy(&[refusing.addr]);
    assert_eq!(status(&alone.ask(POST)), 503);
    assert_eq!(alone.metric("evenkeel_turns_in_flight", ""), 0.0);
}

#[test]
fn what_a_goaway_excludes_runs_elsewhere_and_the_rest_is_finished() {
    let (leaving, told) = telling(|peer, number, tell| {
        let (first, ..) = peer.head();
        if number > 0 {
            return peer.answer(first, "200", "again");
        }
        tell(());
        let (_second, ..) = peer.head();
        peer.goaway(first.id());
        peer.answer(first, "200", "first");
        while peer.hear() != Heard::Over {}
    });
    let proxy = proxy(&[leaving.addr]);
    let (mut first, mut second) = (proxy.connect(), proxy.connect());
    first.write_all(GET.as_bytes()).expect("sent");
    told.recv().expect("it is there");
    second.write_all(POST.as_bytes()).expect("sent");
    assert_eq!(read_chunked(&mut first).1, "first");
    assert_eq!(read_chunked(&mut second).1, "again");
}

#[test]
fn an_endpoint_that_dies_in_its_answer_breaks_the_client_s_connection() {
    let backend = server(|peer, number| {
        let (stream, ..) = peer.head();
        peer.fields(stream, Part::Head, &[(":status", "200")], false);
        peer.data(stream, b"half", false);
        if number == 0 {
            // One stream only.
            peer.reset(stream, Code::INTERNAL_ERROR);
            let (stream, ..) = peer.head();
            peer.fields(stream, Part::Head, &[(":status", "200")], false);
            peer.data(stream, b"half", false);
        }
    });
    let proxy = proxy(&[backend.addr]);
    for _ in 0..3 {
        let answer = proxy.ask(LAST_GET);
        assert!(answer.ends_with("4\r\nhalf\r\n<reset>"), "{answer}");
    }
    eventually("nothing is in flight", || proxy.metric("evenkeel_turns_in_flight", "") == 0.0);
}

#[test]
fn an_endpoint_that_dies_before_its_answer_is_a_reason_to_look_elsewhere_for_some() {
    let (dying, told) = telling(|peer, number, tell| {
        // The first connection lives through one request.
        let (stream, ..) = peer.head();
        if number == 0 {
            peer.answer(stream, "200", "last words");
            peer.head();
            tell(());
        }
    });
    let other = answering("well");
    let proxy = proxy(&[dying.addr, other.addr]);
    let mut client = proxy.connect();
    let mut bodies = [ask(&mut client, GET), ask(&mut client, GET)];
    bodies.sort();
    assert_eq!(bodies, ["last words", "well"]);
    // Its link had served others, so it is what a pooled link is: a GET runs elsewhere.
    while told.try_recv().is_err() {
        assert_eq!(ask(&mut client, GET), "well");
    }
    // On a connection of its own a POST may have run.
    let answers = [proxy.ask(POST), proxy.ask(POST)];
    let mut codes = answers.each_ref().map(|answer| status(answer));
    codes.sort_unstable();
    assert_eq!(codes, [200, 502], "{answers:?}");
    assert!(answers.iter().any(|answer| field(answer, "evenkeel-reason") == Some("endpoint-closed; phase=wait")));
}

#[test]
fn an_endpoint_that_says_unavailable_is_not_the_last_word() {
    let busy = server(|peer, _| {
        loop {
            match peer.hear() {
                Heard::Fields(stream, Part::Head, ..) => peer.answer(stream, "503", "busy"),
                Heard::Over => return,
                _ => {}
            }
        }
    });
    let other = answering("well");
    let proxy = proxy_with(&[busy.addr, other.addr], |service| service.retry.on_unavailable = true);
    let mut client = proxy.connect();
    assert!((0..4).all(|_| ask(&mut client, GET) == "well"));
    assert!(proxy.metric("evenkeel_retries_total", "") >= 1.0);
}

#[test]
fn endpoints_that_cannot_be_had_have_their_reasons() {
    let unreachable = proxy(&[Backend::nobody()]);
    let answer = unreachable.ask(LAST_GET);
    assert_eq!((status(&answer), field(&answer, "evenkeel-reason")), (502, Some("connect-failed; phase=connect")));
    // It speaks HTTP/1.1 only, and says so in words that HTTP/2 does not have.
    let old = Backend::answering("old");
    let answer = proxy(&[old.addr]).ask(LAST_GET);
    assert_eq!((status(&answer), field(&answer, "evenkeel-reason")), (502, Some("endpoint-protocol; phase=wait")));
    let silent = server(|peer, _| while peer.hear() != Heard::Over {});
    let late = proxy_with(&[silent.addr], |service| service.timeouts.request = Some(Duration::from_millis(50)));
    let answer = late.ask(LAST_GET);
    assert_eq!((status(&answer), field(&answer, "evenkeel-reason")), (504, Some("endpoint-timeout; phase=wait")));
    let malformed = server(|peer, _| {
        let (stream, ..) = peer.head();
        peer.fields(stream, Part::Head, &[(":status", "200"), ("connection", "close")], true);
        peer.hear();
    });
    let answer = proxy(&[malformed.addr]).ask(LAST_GET);
    assert_eq!((status(&answer), field(&answer, "evenkeel-reason")), (502, Some("endpoint-protocol; phase=wait")));
}

#[test]
fn a_client_that_goes_away_ends_its_stream_and_no_other() {
    let (backend, told) = telling(|peer, _, tell| {
        loop {
            match peer.hear() {
                Heard::Fields(stream, Part::Head, fields, _) if value(&fields, ":path") == "/slow" => {
                    peer.fields(stream, Part::Head, &[(":status", "200")], false);
                }
                Heard::Fields(stream, Part::Head, ..) => peer.answer(stream, "200", "well"),
                Heard::Reset(_, code, fault) => tell((code, fault)),
                Heard::Over => return,
                _ => {}
            }
        }
    });
    let proxy = proxy(&[backend.addr]);
    let mut client = proxy.connect();
    client.write_all(b"GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").expect("sent");
    read_head(&mut client);
    common::reset(client);
    assert_eq!(told.recv(), Ok((Code::CANCEL, Fault::Peer)));
    assert_eq!(ask(&mut proxy.connect(), GET), "well");
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_client_that_does_not_read_stops_its_endpoint_and_nobody_else() {
    let (backend, told) = telling(|peer, _, tell| {
        let (slow, ..) = peer.head();
        peer.fields(slow, Part::Head, &[(":status", "200")], false);
        // As much as goes: until no window is left for a while, and another request comes.
        let piece = [b'x'; 16 * 1024];
        let mut sent = 0;
        loop {
            let n = peer.data(slow, &piece, false);
            sent += n;
            if n == piece.len() {
                continue;
            }
            match peer.hear_quick() {
                Some(Heard::Fields(other, Part::Head, ..)) => peer.answer(other, "200", "quick"),
                Some(Heard::Reset(..)) => break tell(sent),
                Some(Heard::Over) => return,
                _ => {}
            }
        }
        let (other, ..) = peer.head();
        peer.answer(other, "200", "quick");
        while peer.hear() != Heard::Over {}
    });
    let proxy = proxy(&[backend.addr]);
    let slow = proxy.connect();
    socket2::SockRef::from(&slow).set_recv_buffer_size(16 * 1024).expect("an option");
    (&slow).write_all(GET.as_bytes()).expect("sent");
    eventually("its answer begins", || slow.peek(&mut [0]).is_ok_and(|n| n > 0));
    let mut quick = proxy.connect();
    let asks = |quick: &mut TcpStream| assert_eq!(ask(quick, GET), "quick");
    asks(&mut quick);
    // Nothing gets on any more: the sockets between us are full, and so are the windows.
    let mut before = 0.0;
    eventually("the endpoint has stopped", || {
        asks(&mut quick);
        let sent = proxy.metric("evenkeel_bytes_sent_total", "");
        std::mem::replace(&mut before, sent) + 1024.0 > sent
    });
    common::reset(slow);
    let sent = told.recv().expect("the slow one is gone");
    // Its socket's buffers are a machine's to size: what counts is that there was an end.
    assert!(sent < 64 << 20, "{sent} bytes were taken for a client that reads nothing");
    asks(&mut quick);
}

#[test]
fn an_upload_that_nobody_takes_stops_its_client_and_goes_on_later() {
    let (backend, told) = telling(|peer, _, tell| {
        peer.takes = false;
        let (stream, ..) = peer.head();
        let mut came = 0;
        while came < 64 * 1024 {
            if let Heard::Data(_, data, _) = peer.hear() {
                came += data.len();
            }
        }
        // No more than its window came.
        assert_eq!(peer.hear_quick(), None);
        tell(came);
        peer.takes = true;
        peer.release(stream, came);
        loop {
            if let Heard::Data(_, data, end) = peer.hear() {
                came += data.len();
                if end {
                    break;
                }
            }
        }
        tell(came);
        peer.answer(stream, "200", "well");
        peer.hear();
    });
    let proxy = proxy(&[backend.addr]);
    let mut client = proxy.connect();
    let body = vec![b'z'; 2 << 20];
    let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut writer = client.try_clone().expect("a second handle");
    let upload = std::thread::spawn(move || {
        writer.write_all(head.as_bytes()).expect("sent");
        writer.write_all(&body).expect("sent");
    });
    assert_eq!(told.recv(), Ok(64 * 1024));
    assert_eq!(told.recv(), Ok(2 << 20));
    assert_eq!(read_chunked(&mut client).1, "well");
    upload.join().expect("all of it was taken");
}

#[test]
fn one_link_is_enough_if_there_may_be_no_other_and_turns_wait_in_a_line() {
    let (backend, told) = telling(|peer, _, tell| {
        let mut open = Vec::new();
        loop {
            match peer.hear() {
                Heard::Fields(stream, Part::Head, ..) => open.push(stream),
                Heard::Over => return,
                _ => {}
            }
            if open.len() == 2 {
                tell(());
                open.drain(..).for_each(|stream| peer.answer(stream, "200", "well"));
            }
        }
    });
    let proxy = proxy_with(&[backend.addr], |service| service.upstream.max_connections = Some(1));
    let mut clients: Vec<TcpStream> = (0..4).map(|_| proxy.connect()).collect();
    clients.iter_mut().for_each(|client| client.write_all(GET.as_bytes()).expect("sent"));
    clients.iter_mut().for_each(|client| assert_eq!(read_chunked(client).1, "well"));
    assert_eq!((told.try_iter().count(), backend.connections()), (2, 1));
}

#[test]
fn a_process_that_leaves_tells_its_clients_with_their_last_answer() {
    let (backend, told) = telling(|peer, _, tell| {
        let (stream, ..) = peer.head();
        tell(stream);
        peer.hear_quick();
        peer.answer(stream, "200", "well");
        while peer.hear() != Heard::Over {}
        tell(stream);
    });
    let mut proxy = Proxy::configured(
        &backend.addr.to_string(),
        |service| service.upstream.protocol = UpstreamProtocol::Http2,
        |config| config.drain.grace = Duration::from_secs(10),
    );
    let mut client = proxy.connect();
    client.write_all(GET.as_bytes()).expect("sent");
    told.recv().expect("it is there");
    proxy.running.drain();
    let (head, body, _) = read_chunked(&mut client);
    assert_eq!((field(&head, "connection"), &*body), (Some("close"), "well"));
    // The link goes when nobody uses it.
    told.recv().expect("it is gone");
}

#[test]
fn tls_agrees_on_http2_with_the_endpoint_whatever_the_client_speaks() {
    if !have(&["nghttpd", "curl", "openssl"]) {
        return;
    }
    let pki = Pki::new();
    let files = pki.sign("server", "/CN=server", "DNS:localhost,IP:127.0.0.1");
    let (key, cert) = (files.key.display().to_string(), files.cert.display().to_string());
    let (addr, _server) = nghttpd_with(&[], &[&key, &cert]);
    let (ca, yaml) = (pki.ca().display().to_string(), files.yaml());
    let proxy = Proxy::yaml(&format!(
        "- {{name: test, listen: '127.0.0.1:0', target: '{addr}', tls: {{{yaml}}}, \
         upstream: {{protocol: http2, tls: {{ca: '{ca}'}}}}}}\n"
    ));
    let url = |path: &str| format!("https://localhost:{}{path}", proxy.addr.port());
    let said = curl(&["--http1.1", "--cacert", &ca, "--include", &url("/page")]);
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("a page of nghttpd\n"), "{said}");
    assert_eq!(curl(&["--http1.1", "--cacert", &ca, &url("/large")]).len(), 1 << 20);
}

#[test]
fn what_is_no_http_has_a_connection_of_its_own() {
    let echo = common::echo();
    let proxy = proxy(&[echo.addr]);
    let mut client = proxy.connect();
    client.write_all(b"\x00\x01").expect("sent");
    let mut back = [0; 2];
    client.read_exact(&mut back).expect("an echo");
    assert_eq!(back, *b"\x00\x01");
}
