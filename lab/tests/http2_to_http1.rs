//! HTTP/2 clients in front of endpoints that speak HTTP/1.1.

mod common;

use common::http2::{Fields, Heard, Peer, value};
use common::peers::{Nginx, directory, have};
use common::pki::{Pki, s_client};
use common::{Backend, Proxy, eventually, field, read_head, respond};
use evenkeel_proxy::config::{Service, UpstreamProtocol};
use evenkeel_wire::http2::connection::{Fault, Part};
use evenkeel_wire::http2::error::Code;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

/// A proxy whose endpoints speak HTTP/1.1.
fn proxy(backends: &[SocketAddr]) -> Proxy {
    with(backends, |_| {})
}

fn with(backends: &[SocketAddr], change: impl FnOnce(&mut Service)) -> Proxy {
    Proxy::with(backends, |service| {
        service.upstream.protocol = UpstreamProtocol::Http1;
        change(service);
    })
}

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

fn nothing_is_in_flight(proxy: &Proxy) {
    eventually("nothing is in flight", || proxy.metric("evenkeel_turns_in_flight", "") == 0.0);
}

/// A server that tells what it is sent, connection by connection, and answers nothing.
fn silent() -> (Backend, Receiver<Vec<u8>>) {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let backend = Backend::start(move |mut stream, _| {
        let mut bytes = Vec::new();
        // Whatever ends it: it is over.
        let _over = stream.read_to_end(&mut bytes);
        tell.lock().expect("alone").send(bytes).expect("somebody waits");
    });
    (backend, told)
}

/// A server whose connections do as they are told, and that passes on what they find.
fn scripted<T: Send + 'static>(
    serve: impl Fn(&mut TcpStream, usize) -> Option<T> + Send + Sync + 'static,
) -> (Backend, Receiver<T>) {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let backend = Backend::start(move |mut stream, number| {
        if let Some(found) = serve(&mut stream, number) {
            tell.lock().expect("alone").send(found).expect("somebody waits");
        }
    });
    (backend, told)
}

/// What the endpoint gets of a request whose body does not come.
fn written(fields: &[(&str, &str)], end: bool) -> String {
    let (backend, told) = silent();
    let proxy = proxy(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    let stream = client.request(fields, end);
    eventually("it is there", || proxy.metric("evenkeel_endpoint_bytes_sent_total", "") > 0.0);
    client.reset(stream, Code::CANCEL);
    String::from_utf8(told.recv().expect("a connection")).expect("text")
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/a?b=c"), (":authority", "shop.example")];

/// The fields of `GET`, with some others or more.
fn get<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut list = GET.to_vec();
    for &(name, value) in changes {
        match list.iter_mut().find(|(known, _)| *known == name && name.starts_with(':')) {
            Some(field) => field.1 = value,
            None => list.push((name, value)),
        }
    }
    list
}

#[test]
fn real_clients_are_served_by_a_real_server() {
    if !have(&["nginx", "h2load", "curl", "nghttp"]) {
        return;
    }
    let servers: Vec<_> = (0..3).map(|_| Nginx::start()).collect();
    servers.iter().for_each(|nginx| fs::write(nginx.home().join("large"), "x".repeat(1 << 20)).expect("written"));
    let addresses: Vec<SocketAddr> = servers.iter().map(|nginx| nginx.addr).collect();
    let proxy = proxy(&addresses);
    let url = |path: &str| format!("http://{}{path}", proxy.addr);
    let said = run(Command::new("h2load").args(["-n", "300", "-c", "1", "-m", "10", &url("/page")]));
    assert!(said.contains("300 succeeded, 0 failed"), "{said}");
    assert_eq!(turns(&proxy), [100, 100, 100]);
    let said = run(Command::new("h2load").args(["-n", "3000", "-c", "3", "-m", "100", &url("/page")]));
    assert!(said.contains("3000 succeeded, 0 failed") && said.contains("status codes: 3000 2xx"), "{said}");
    assert_eq!(turns(&proxy), [1100, 1100, 1100]);
    let said = run(Command::new("h2load").args(["-n", "100", "-c", "1", "-m", "100", &url("/large")]));
    assert!(said.contains("status codes: 100 2xx"), "{said}");

    let home = directory("curl");
    fs::write(home.join("body"), "y".repeat(1 << 20)).expect("written");
    let curl = |arguments: &[&str]| {
        let always = ["--silent", "--show-error", "--max-time", "20", "--http2-prior-knowledge"];
        run(Command::new("curl").current_dir(&home).args(always).args(arguments))
    };
    let said = curl(&["--include", &url("/page")]);
    assert!(said.starts_with("HTTP/2 200") && said.ends_with("a page of nginx\n"), "{said}");
    assert_eq!(curl(&[&url("/large")]).len(), 1 << 20);
    let said = curl(&["--head", &url("/large")]);
    assert!(said.starts_with("HTTP/2 200") && said.contains("content-length: 1048576"), "{said}");
    let etag = said.lines().find_map(|line| line.strip_prefix("etag: ")).expect("nginx has one").trim().to_owned();
    let said = curl(&["--include", "--header", &format!("if-none-match: {etag}"), &url("/large")]);
    assert!(said.starts_with("HTTP/2 304"), "{said}");
    assert!(curl(&["--include", &url("/nothing")]).starts_with("HTTP/2 204"));
    // With a length, and, from a pipe, without.
    for put in [&["--upload-file", "body"][..], &["--upload-file", "-"]] {
        let said = run(Command::new("sh").current_dir(&home).arg("-c").arg(format!(
            "cat body | curl --silent --show-error --max-time 20 --http2-prior-knowledge --include {} {}",
            put.join(" "),
            url("/put/file"),
        )));
        assert!(said.starts_with("HTTP/2 201") || said.starts_with("HTTP/2 204"), "{said}");
    }
    let stored = servers.iter().filter_map(|nginx| fs::read_to_string(nginx.home().join("put/file")).ok());
    let stored: Vec<String> = stored.collect();
    assert!(!stored.is_empty() && stored.iter().all(|file| *file == "y".repeat(1 << 20)));
    assert_eq!(run(Command::new("nghttp").arg(url("/page"))), "a page of nginx\n");
    nothing_is_in_flight(&proxy);
}

#[test]
fn a_request_is_one_of_http1_at_its_endpoint() {
    let head = written(&get(&[("cookie", "a=1"), ("te", "trailers"), ("x-a", "1"), ("cookie", "b=2")]), true);
    let expected = "GET /a?b=c HTTP/1.1\r\nHost: shop.example\r\nx-a: 1\r\nx-forwarded-for: 127.0.0.1\r\n\
                    x-forwarded-proto: http\r\ncookie: a=1; b=2\r\nConnection: TE\r\nTE: trailers\r\n\r\n";
    assert_eq!(head, expected);
    let head = written(&get(&[(":method", "POST")]), false);
    assert!(head.ends_with("\r\nTransfer-Encoding: chunked\r\n\r\n") && !head.contains("ontent-"), "{head}");
    let head = written(&get(&[(":method", "POST"), ("content-length", "5")]), false);
    assert!(head.ends_with("\r\nContent-Length: 5\r\n\r\n") && !head.contains("hunked"), "{head}");
    let host = [GET[0], GET[1], GET[2], ("host", "other.example")];
    assert!(written(&host, true).starts_with("GET /a?b=c HTTP/1.1\r\nHost: other.example\r\n"));
    let head = written(&get(&[(":method", "OPTIONS"), (":path", "*")]), true);
    assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n"), "{head}");
}

#[test]
fn nothing_that_can_be_read_in_two_ways_reaches_an_endpoint() {
    let (backend, seen) = scripted(|stream, _| {
        let head = read_head(stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
        Some(head)
    });
    let proxy = proxy(&[backend.addr]);
    for (name, bad) in [
        ("x", "a\r\nevil: yes"),
        ("x", "a\nevil: yes"),
        ("x", "a\0"),
        ("x\r\nevil", "yes"),
        ("x: y\r\nevil", "yes"),
        ("x y", "z"),
        ("", "x"),
        ("X-Upper", "x"),
        (":path", "/ HTTP/1.1\r\nevil: yes\r\n\r\n"),
        (":path", "/a b"),
        (":path", "evil"),
        (":path", ""),
        (":path", "*"),
        (":path", "http://evil/"),
        (":path", "/\u{e4}"),
        (":method", "GET /evil HTTP/1.1\r\n\r\nGET"),
        (":method", "G T"),
        (":method", ""),
        (":authority", "a\r\nevil: yes"),
        (":authority", "a, evil"),
        (":authority", "evil@a"),
        (":authority", ""),
        ("host", "evil"),
        ("transfer-encoding", "chunked"),
        ("transfer_encoding", "chunked"),
        ("connection", "keep-alive, evil"),
        ("upgrade", "websocket"),
        ("keep-alive", "5"),
        ("content-length", "5, 5"),
        ("content-length", "+5"),
        ("content-length", "5"),
        ("content_length", "5"),
        ("te", "gzip"),
        ("expect", "evil"),
        (":scheme", "ht\ntp"),
        (":evil", "yes"),
    ] {
        // A connection of its own: some of it costs more than the stream.
        let mut client = Peer::client(proxy.addr);
        let stream = client.request(&get(&[(name, bad)]), true);
        loop {
            match client.hear() {
                Heard::Fields(_, Part::Head, fields, _) => {
                    let status = value(&fields, ":status").to_owned();
                    assert!(["400", "417"].contains(&&*status), "{name:?}: {bad:?} is answered with {status}");
                    break;
                }
                Heard::Reset(of, code, _) => {
                    assert_eq!((of, code), (stream, Code::PROTOCOL_ERROR), "{name:?}: {bad:?}");
                    break;
                }
                Heard::Over => break,
                Heard::Data(..) | Heard::Fields(..) | Heard::Goaway(_) => {}
            }
        }
    }
    let mut client = Peer::client(proxy.addr);
    let stream = client.request(&GET, true);
    assert_eq!(client.whole(stream).0, "200");
    let first = seen.recv().expect("the request that is well");
    assert!(first.starts_with("GET /a?b=c HTTP/1.1\r\n") && !first.contains("evil"), "{first}");
    assert!(seen.try_recv().is_err());
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_body_that_is_not_as_long_as_announced_never_looks_whole() {
    for (length, body, end) in [("5", "abcdeGET /evil HTTP/1.1\r\n\r\n", true), ("50", "abc", true)] {
        let (backend, told) = silent();
        let proxy = proxy(&[backend.addr]);
        let mut client = Peer::client(proxy.addr);
        let stream = client.request(&get(&[(":method", "PUT"), ("content-length", length)]), false);
        client.data(stream, body.as_bytes(), end);
        assert_eq!(client.hear(), Heard::Reset(stream, Code::PROTOCOL_ERROR, Fault::Peer));
        // If a connection had been begun, it ends in the body.
        if backend.connections() > 0
            && let Ok(bytes) = told.recv()
        {
            let bytes = String::from_utf8(bytes).expect("text");
            assert!(!bytes.contains("evil"), "{bytes}");
        }
        nothing_is_in_flight(&proxy);
    }
}

#[test]
fn bodies_and_trailers_pass_both_ways() {
    let (backend, got) = scripted(|stream, _| {
        let head = read_head(stream);
        let mut body = Vec::new();
        let mut byte = [0];
        while !body.ends_with(b"0\r\nx-sum: 7\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            body.push(byte[0]);
        }
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-check\r\nConnection: x-hop\r\nx-hop: 1\r\n\r\n\
                      5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-Check: 9\r\nContent-Length: 3\r\n\r\n";
        stream.write_all(answer.as_bytes()).ok()?;
        Some((head, String::from_utf8(body).ok()?))
    });
    let proxy = with(&[backend.addr], |service| service.http.via = true);
    let mut client = Peer::client(proxy.addr);
    let stream = client.request(&get(&[(":method", "POST")]), false);
    client.data(stream, b"abc", false);
    client.data(stream, b"defg", false);
    client.fields(stream, Part::Trailers, &[("x-sum", "7"), ("content-type", "evil/evil")], true);
    let (mut head, mut body) = (Fields::new(), Vec::new());
    let trailers = loop {
        match client.hear() {
            Heard::Fields(_, Part::Head, fields, false) => head = fields,
            Heard::Data(_, data, false) => body.extend(data),
            Heard::Fields(_, Part::Trailers, fields, true) => break fields,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        (value(&head, ":status"), value(&head, "via"), value(&head, "trailer")),
        ("200", "1.1 evenkeel", "x-check")
    );
    assert!(head.iter().all(|(name, _)| !["connection", "x-hop", "transfer-encoding"].contains(&&**name)), "{head:?}");
    assert_eq!((&body[..], &trailers[..]), (&b"hello world"[..], &[("x-check".to_owned(), "9".to_owned())][..]));
    let (head, body) = got.recv().expect("a request");
    assert_eq!(field(&head, "via"), Some("2 evenkeel"));
    // In which chunks depends on what had come when the link was there.
    assert!(
        ["7\r\nabcdefg\r\n0\r\nx-sum: 7\r\n\r\n", "3\r\nabc\r\n4\r\ndefg\r\n0\r\nx-sum: 7\r\n\r\n"].contains(&&*body),
        "{body}"
    );
}

#[test]
fn an_answer_may_end_with_its_connection() {
    let (backend, _) = scripted(|stream, _| {
        read_head(stream);
        stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall there is").ok()?;
        None::<()>
    });
    let proxy = proxy(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    for _ in 0..3 {
        let stream = client.request(&GET, true);
        assert_eq!(client.whole(stream).1, "all there is");
    }
    assert_eq!(backend.connections(), 3);
}

#[test]
fn hundred_streams_at_once_have_links_of_their_own_and_leave_them_for_the_next() {
    let servers = ["a", "b", "c"].map(|name| {
        let waits = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        Backend::start(move |mut stream, _| {
            // Nobody is answered before many have asked.
            if read_head(&mut stream).is_empty() {
                return;
            }
            waits.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            eventually("all have asked", || waits.load(std::sync::atomic::Ordering::SeqCst) >= 33);
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}");
            if stream.write_all(answer.as_bytes()).is_ok() {
                while respond(&mut stream, 200, name) {}
            }
        })
    });
    let proxy = proxy(&servers.each_ref().map(|server| server.addr));
    let mut client = Peer::client(proxy.addr);
    let streams: Vec<_> = (0..99).map(|_| client.request(&GET, true)).collect();
    let mut answers = std::collections::HashMap::new();
    let mut ended = 0;
    while ended < streams.len() {
        if let Heard::Data(_, data, end) = client.hear() {
            *answers.entry(data).or_insert(0) += 1;
            ended += usize::from(end);
        }
    }
    assert_eq!(["a", "b", "c"].map(|name| answers[name.as_bytes()]), [33; 3]);
    for _ in 0..99 {
        let stream = client.request(&GET, true);
        assert_eq!(client.whole(stream).0, "200");
    }
    assert_eq!(servers.iter().map(Backend::connections).sum::<usize>(), 99);
    assert_eq!(turns(&proxy), [66; 3]);
}

#[test]
fn an_endpoint_that_breaks_off_never_looks_like_the_end() {
    let (backend, _) = scripted(|stream, number| {
        read_head(stream);
        let answer: &[u8] = match number {
            0 => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            1 => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            2 => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nno chunk\r\n",
            _ => b"",
        };
        stream.write_all(answer).ok()?;
        None::<()>
    });
    let proxy = proxy(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    for _ in 0..3 {
        let stream = client.request(&GET, true);
        assert_eq!(value(&client.head().1, ":status"), "200");
        assert_eq!(client.hear(), Heard::Data(stream, b"half".to_vec(), false));
        assert_eq!(client.hear(), Heard::Reset(stream, Code::INTERNAL_ERROR, Fault::Peer));
    }
    let stream = client.request(&GET, true);
    let (status, body, _) = client.whole(stream);
    assert_eq!((&*status, &*body), ("502", "the endpoint closed its connection before it answered\n"));
    nothing_is_in_flight(&proxy);
}

#[test]
fn what_is_no_answer_is_not_passed_on() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx : y\r\n\r\n",
    ] {
        let (backend, _) = scripted(move |stream, _| {
            read_head(stream);
            stream.write_all(answer.as_bytes()).ok()?;
            stream.read_exact(&mut [0]).ok()?;
            None::<()>
        });
        let proxy = proxy(&[backend.addr]);
        let mut client = Peer::client(proxy.addr);
        let stream = client.request(&GET, true);
        let (status, body, _) = client.whole(stream);
        assert_eq!((&*status, &*body), ("502", "the endpoint's answer was not valid HTTP\n"), "{answer}");
    }
}

#[test]
fn bytes_behind_an_answer_reach_nobody() {
    let (backend, _) = scripted(|stream, _| {
        while !read_head(stream).is_empty() {
            let two = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
            stream.write_all(two.as_bytes()).ok()?;
        }
        None::<()>
    });
    let proxy = proxy(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    for _ in 0..5 {
        let stream = client.request(&GET, true);
        assert_eq!(client.whole(stream).1, "ok");
    }
    assert_eq!(backend.connections(), 5);
}

#[test]
fn a_pooled_link_that_closes_costs_no_get_and_may_have_run_a_post() {
    let (backend, asked) = scripted(|stream, number| {
        respond(stream, 200, "first");
        let head = read_head(stream);
        if number > 0 && !head.is_empty() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain").ok()?;
            read_head(stream);
        }
        Some(head)
    });
    let proxy = proxy(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    let stream = client.request(&GET, true);
    assert_eq!(client.whole(stream).1, "first");
    // The link closes under this one, which then is the first of another.
    let stream = client.request(&GET, true);
    assert_eq!(client.whole(stream).1, "first");
    assert!(asked.recv().expect("the first connection").starts_with("GET"));
    assert_eq!(backend.connections(), 2);

    let (backend, _) = scripted(|stream, _| {
        respond(stream, 200, "first");
        read_head(stream);
        None::<()>
    });
    let proxy = self::proxy(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    let stream = client.request(&GET, true);
    assert_eq!(client.whole(stream).1, "first");
    let stream = client.request(&get(&[(":method", "POST")]), true);
    assert_eq!(client.whole(stream).0, "502");
    assert_eq!(backend.connections(), 1);
}

#[test]
fn no_connection_and_503_are_tried_elsewhere_with_the_body() {
    let (busy, _) = scripted(|stream, _| {
        read_head(stream);
        stream.read_exact(&mut [0; 5]).ok()?;
        stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy").ok()?;
        stream.read_exact(&mut [0]).ok()?;
        None::<()>
    });
    let (well, got) = scripted(|stream, _| {
        loop {
            if read_head(stream).is_empty() {
                return None;
            }
            let mut body = [0; 5];
            stream.read_exact(&mut body).ok()?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell").ok()?;
            if &body != b"abcde" {
                return Some(body);
            }
        }
    });
    for other in [busy.addr, Backend::nobody()] {
        let proxy = with(&[other, well.addr], |service| {
            service.retry.on_unavailable = true;
            (service.retry.budget, service.retry.reserve) = (1.0, 100.0);
        });
        let mut client = Peer::client(proxy.addr);
        for _ in 0..4 {
            let stream = client.request(&get(&[(":method", "PUT"), ("content-length", "5")]), false);
            client.data(stream, b"abcde", true);
            assert_eq!(client.whole(stream).1, "well");
        }
    }
    assert!(got.try_recv().is_err());
}

#[test]
fn a_client_that_resets_a_stream_closes_its_link() {
    let (backend, over) = scripted(|stream, _| {
        read_head(stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").ok()?;
        Some(matches!(stream.read(&mut [0]), Ok(0)))
    });
    let proxy = proxy(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    let stream = client.request(&GET, true);
    client.head();
    client.reset(stream, Code::CANCEL);
    assert!(over.recv().expect("it ends"));
    nothing_is_in_flight(&proxy);
    assert_eq!(proxy.metric("evenkeel_links", ""), 0.0);
}

#[test]
fn a_client_that_reads_nothing_stops_its_endpoint_and_no_other_stream() {
    let (backend, _) = scripted(|stream, _| {
        loop {
            match read_head(stream) {
                head if head.is_empty() => return None::<()>,
                head if head.starts_with("GET /quick") => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nquick").ok()?;
                }
                _ => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
                    // Until the client goes.
                    while stream.write_all(&[b'x'; 16 * 1024]).is_ok() {}
                    return None;
                }
            }
        }
    });
    let proxy = proxy(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    client.takes = false;
    let slow = client.request(&get(&[(":path", "/slow")]), true);
    let mut came = 0;
    while came < 65_535 {
        if let Heard::Data(stream, data, _) = client.hear() {
            assert_eq!(stream, slow);
            came += data.len();
        }
    }
    let quick = client.request(&get(&[(":path", "/quick")]), true);
    assert_eq!(client.whole(quick).1, "quick");
    let mut before = -1.0;
    eventually("nothing more is read from it", || {
        let read = proxy.metric("evenkeel_endpoint_bytes_received_total", "");
        std::mem::replace(&mut before, read) == read
    });
    // A window with the client, a buffer here, and one read.
    assert!(before < 4.0 * 65_536.0, "{before} bytes were taken for a client that reads nothing");
}

#[test]
fn an_endpoint_that_reads_nothing_stops_its_client() {
    let (backend, _) = scripted(|stream, _| {
        stream.read_exact(&mut [0]).ok()?;
        // As long as the test lasts.
        eventually("the client is gone", || {
            matches!(stream.peek(&mut [0; 1]), Ok(0) | Err(_)) || stream.take_error().is_err()
        });
        None::<()>
    });
    let proxy = proxy(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    let stream = client.request(&get(&[(":method", "POST")]), false);
    let (piece, mut sent, mut waited) = ([b'x'; 16 * 1024], 0, 0);
    const MOST: usize = 256 << 20;
    while sent < MOST && waited < 50 {
        let n = client.data(stream, &piece, false);
        sent += n;
        if n == 0 && client.hear_quick().is_none() {
            waited += 1;
        }
    }
    assert!(sent < MOST, "all of it was taken for an endpoint that reads nothing");
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on() {
    let (backend, _) = scripted(|stream, _| {
        let head = read_head(stream);
        if field(&head, "expect") == Some("100-continue") {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").ok()?;
        }
        stream.read_exact(&mut [0; 3]).ok()?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").ok()?;
        stream.read_exact(&mut [0]).ok()?;
        None::<()>
    });
    let proxy = proxy(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    let fields = get(&[(":method", "POST"), ("content-length", "3"), ("expect", "100-continue")]);
    let stream = client.request(&fields, false);
    for status in ["100", "103"] {
        let Heard::Fields(_, Part::Informational, fields, false) = client.hear() else { panic!("it is told") };
        assert_eq!(value(&fields, ":status"), status);
    }
    client.data(stream, b"abc", true);
    assert_eq!(client.whole(stream).1, "ok");
}

#[test]
fn an_answer_before_the_request_is_whole_ends_both() {
    let (backend, _) = scripted(|stream, _| {
        read_head(stream);
        stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno").ok()?;
        stream.read_to_end(&mut Vec::new()).ok()?;
        None::<()>
    });
    let proxy = proxy(&[backend.addr]);
    let mut client = Peer::client(proxy.addr);
    for _ in 0..2 {
        let stream = client.request(&get(&[(":method", "POST")]), false);
        assert_eq!(value(&client.head().1, ":status"), "413");
        assert_eq!(client.hear(), Heard::Data(stream, b"no".to_vec(), true));
        assert_eq!(client.hear(), Heard::Reset(stream, Code::NO_ERROR, Fault::Peer));
    }
    // What is left of a request is on its way: nobody else gets that connection.
    assert_eq!(backend.connections(), 2);
}

#[test]
fn an_endpoint_that_does_not_answer_in_time_is_not_waited_for() {
    let (backend, _) = silent();
    let proxy = with(&[backend.addr], |service| {
        service.timeouts.request = Some(std::time::Duration::from_millis(50));
    });
    let mut client = Peer::client(proxy.addr);
    let stream = client.request(&GET, true);
    assert_eq!(client.whole(stream).0, "504");
    nothing_is_in_flight(&proxy);
}

#[test]
fn streams_wait_for_links_with_sessions_of_http1() {
    let backend = Backend::answering("well");
    let proxy = with(&[backend.addr], |service| {
        service.upstream.max_connections = Some(1);
        service.limits.queue_timeout = std::time::Duration::from_secs(20);
    });
    let mut client = Peer::client(proxy.addr);
    let mut other = common::Client::of(&proxy);
    for _ in 0..5 {
        let streams: Vec<_> = (0..20).map(|_| client.request(&GET, true)).collect();
        assert!(other.get("/").ends_with("well"));
        let mut ended = 0;
        while ended < streams.len() {
            match client.hear() {
                Heard::Data(_, data, true) => {
                    assert_eq!(data, b"well");
                    ended += 1;
                }
                Heard::Fields(_, _, fields, _) => assert_eq!(value(&fields, ":status"), "200"),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(backend.connections(), 1);
    nothing_is_in_flight(&proxy);
}

#[test]
fn a_process_that_leaves_finishes_what_it_has() {
    let (go, gone) = channel::<()>();
    let gone = Mutex::new(gone);
    let (backend, asked) = scripted(move |stream, _| {
        let head = read_head(stream);
        gone.lock().expect("alone").recv().ok()?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast").ok()?;
        Some(head)
    });
    let mut proxy = Proxy::configured(
        &backend.addr.to_string(),
        |service| service.upstream.protocol = UpstreamProtocol::Http1,
        |config| config.drain.grace = std::time::Duration::from_secs(10),
    );
    let mut client = Peer::client(proxy.addr);
    let stream = client.request(&GET, true);
    eventually("it is there", || proxy.metric("evenkeel_endpoint_bytes_sent_total", "") > 0.0);
    proxy.running.drain();
    assert_eq!(client.hear(), Heard::Goaway(Code::NO_ERROR));
    go.send(()).expect("somebody waits");
    assert_eq!(client.whole(stream).1, "last");
    assert!(asked.recv().is_ok());
}

fn curl(pki: &Pki, arguments: &[&str]) -> String {
    let always = ["--silent", "--show-error", "--max-time", "20", "--include", "--cacert"];
    run(Command::new("curl").args(always).arg(pki.ca()).args(arguments))
}

#[test]
fn a_browser_agrees_on_http2_in_front_of_a_server_without() {
    if !have(&["nginx", "curl", "openssl"]) {
        return;
    }
    let (pki, nginx) = (Pki::new(), Nginx::start());
    let files = pki.sign("server", "/CN=server", "DNS:localhost,IP:127.0.0.1");
    let proxy = |protocol: &str, more: &str| {
        let (target, tls) = (nginx.addr, files.yaml());
        Proxy::yaml(&format!(
            "- {{name: test, listen: '127.0.0.1:0', target: '{target}', protocol: {protocol}, tls: {{{tls}}}{more}}}\n"
        ))
    };
    for protocol in ["auto", "http"] {
        let proxy = proxy(protocol, "");
        let url = format!("https://localhost:{}/page", proxy.addr.port());
        for (arguments, version) in
            [(&["--http2"][..], "HTTP/2 200"), (&["--http1.1"], "HTTP/1.1 200"), (&["--no-alpn"], "HTTP/1.1 200")]
        {
            let said = curl(&pki, &[arguments, &[&url]].concat());
            assert!(
                said.starts_with(version) && said.ends_with("a page of nginx\n"),
                "{protocol} {arguments:?}: {said}"
            );
        }
    }
    for (protocol, more) in [("http1", ""), ("auto", ", upstream: {send_proxy: v1}")] {
        let proxy = proxy(protocol, more);
        let said = s_client(proxy.addr, &pki.ca(), &["-alpn", "h2,http/1.1"], "");
        assert!(said.contains("ALPN protocol: http/1.1"), "{protocol}: {said}");
    }
    let proxy = proxy("http2", ", upstream: {protocol: http1}");
    let url = format!("https://localhost:{}/page", proxy.addr.port());
    assert!(curl(&pki, &["--http2", &url]).starts_with("HTTP/2 200"));
    let said = s_client(proxy.addr, &pki.ca(), &["-alpn", "http/1.1"], "");
    assert!(said.contains("No ALPN negotiated") || said.contains("no application protocol"), "{said}");
}

#[test]
fn grpc_stays_http2_to_the_end() {
    if !have(&["curl", "openssl"]) {
        return;
    }
    let (pki, backend) = (Pki::new(), common::http2::answering("well"));
    let (target, tls) = (backend.addr, pki.sign("server", "/CN=server", "DNS:localhost").yaml());
    let proxy = Proxy::yaml(&format!("- {{name: test, listen: '127.0.0.1:0', target: '{target}', tls: {{{tls}}}}}\n"));
    let url = format!("https://localhost:{}/a.B/C", proxy.addr.port());
    let said = curl(&pki, &["--http2", "--header", "content-type: application/grpc", "--data", "x", &url]);
    assert!(said.starts_with("HTTP/2 200") && said.ends_with("well"), "{said}");
}

#[test]
fn endpoints_choose_by_alpn_each_for_itself() {
    if !have(&["nginx", "curl", "openssl", "h2load"]) {
        return;
    }
    let pki = Pki::new();
    let files = pki.sign("server", "/CN=server", "DNS:localhost,IP:127.0.0.1");
    let servers = [true, false].map(|http2| Nginx::tls(&files, http2));
    let (ca, tls) = (pki.ca().display().to_string(), files.yaml());
    let proxy = |targets: &str, protocol: &str| {
        Proxy::yaml(&format!(
            "- {{name: test, listen: '127.0.0.1:0', target: '{targets}', tls: {{{tls}}}, balance: {{policy: round-robin}}, \
             upstream: {{tls: {{ca: '{ca}'}}, protocol: {protocol}}}}}\n"
        ))
    };
    let [with, without] = servers.each_ref().map(|nginx| nginx.addr.to_string());
    for (target, protocol, asked, spoken) in [
        (&with, "auto", "--http2", "HTTP/2.0"),
        (&without, "auto", "--http2", "HTTP/1.1"),
        (&with, "auto", "--http1.1", "HTTP/1.1"),
        (&with, "http1", "--http2", "HTTP/1.1"),
        (&with, "http2", "--http2", "HTTP/2.0"),
    ] {
        let proxy = proxy(target, protocol);
        let url = format!("https://localhost:{}/page", proxy.addr.port());
        for _ in 0..2 {
            let said = curl(&pki, &[asked, &url]);
            let found = field(&said.replace("HTTP/2 200 ", "HTTP/2 200"), "x-protocol").map(str::to_owned);
            assert_eq!(found.as_deref(), Some(spoken), "{protocol} {asked}: {said}");
        }
    }
    // Both at once, and many before anybody knows.
    let proxy = proxy(&format!("{with},{without}"), "auto");
    let url = format!("https://localhost:{}/page", proxy.addr.port());
    let said = run(Command::new("h2load").args(["-n", "2000", "-c", "4", "-m", "20", &url]));
    assert!(said.contains("status codes: 2000 2xx"), "{said}");
    let turns = turns(&proxy);
    assert_eq!(turns.iter().sum::<u64>(), 2000);
    assert!(turns.iter().all(|&turns| turns > 900), "{turns:?}");
    servers.iter().for_each(|nginx| fs::write(nginx.home().join("large"), "x".repeat(1 << 20)).expect("written"));
    let url = format!("https://localhost:{}/large", proxy.addr.port());
    let said = run(Command::new("h2load").args(["-n", "60", "-c", "2", "-m", "30", &url]));
    assert!(said.contains("status codes: 60 2xx"), "{said}");
}
