//! Bytes that are slow, many, late, or come one by one; and protocols that are not HTTP.

mod common;

use common::peers::Catalog;
use common::{
    Backend, Client, PATIENCE, Proxy, connect, eventually, field, read_all, read_head, read_response, respond, status,
};
use evenkeel_proxy::config::Protocol;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// A body that no buffer holds.
const GIGABYTE: u64 = 1 << 30;
/// What this process may grow by while one is under way: the kernel's buffers are not counted, ours
/// hold 64 KiB for each direction, and the rest is room for the allocator.
const FLAT: u64 = 24 << 20;

/// Resident bytes of this process (the proxy runs in it).
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    status.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).expect("a number") * 4096
}

/// Sends `total` bytes, counting.
fn pour(stream: &mut TcpStream, total: u64, sent: &AtomicU64) {
    let piece = vec![b'x'; 256 * 1024];
    let mut left = total;
    while left > 0 {
        let n = left.min(piece.len() as u64) as usize;
        stream.write_all(&piece[..n]).expect("sent");
        left -= n as u64;
        sent.fetch_add(n as u64, SeqCst);
    }
}

/// Reads `total` bytes and drops them.
fn swallow(stream: &mut TcpStream, total: u64) {
    let mut room = vec![0; 256 * 1024];
    let mut left = total;
    while left > 0 {
        let n = left.min(room.len() as u64) as usize;
        let n = stream.read(&mut room[..n]).expect("read");
        assert!(n > 0, "{left} bytes are missing");
        left -= n as u64;
    }
}

/// Waits until the sender has been stopped by back pressure: it sends no more for a while.
fn stalled(sent: &AtomicU64) -> u64 {
    let mut seen = (sent.load(SeqCst), std::time::Instant::now());
    eventually("back pressure", || {
        let now = sent.load(SeqCst);
        if now != seen.0 {
            seen = (now, std::time::Instant::now());
        }
        now > 0 && seen.1.elapsed().as_millis() > 200
    });
    seen.0
}

#[test]
fn a_gigabyte_to_a_slow_reader_takes_no_memory() {
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    let backend = Backend::start(move |mut stream, _| {
        read_head(&mut stream);
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {GIGABYTE}\r\n\r\n").expect("sent");
        pour(&mut stream, GIGABYTE, &counter);
    });
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = proxy.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    assert_eq!(status(&read_head(&mut client)), 200);
    let before = resident();
    // Reads nothing: the backend has to stop, with no more than the sockets hold under way.
    assert!(stalled(&sent) < GIGABYTE / 8, "the proxy swallows what nobody reads");
    assert!(resident() < before + FLAT, "{} bytes more", resident() - before);
    // Reads again: every byte arrives.
    swallow(&mut client, GIGABYTE);
    assert!(resident() < before + FLAT, "{} bytes more", resident() - before);
    assert_eq!(sent.load(SeqCst), GIGABYTE);
}

#[test]
fn a_gigabyte_from_a_client_to_a_slow_backend_takes_no_memory() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::start(move |mut stream, _| {
        read_head(&mut stream);
        wait.lock().expect("one at a time").recv().expect("the test goes on");
        swallow(&mut stream, GIGABYTE);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("sent");
    });
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = proxy.connect();
    write!(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {GIGABYTE}\r\n\r\n").expect("sent");
    let before = resident();
    let sent = Arc::new(AtomicU64::new(0));
    let (counter, mut sender) = (sent.clone(), client.try_clone().expect("a second handle"));
    let upload = std::thread::spawn(move || pour(&mut sender, GIGABYTE, &counter));
    assert!(stalled(&sent) < GIGABYTE / 8, "the proxy swallows what nobody reads");
    assert!(resident() < before + FLAT, "{} bytes more", resident() - before);
    go.send(()).expect("the backend waits");
    assert!(read_response(&mut client).ends_with("ok"));
    upload.join().expect("all sent");
    assert!(resident() < before + FLAT, "{} bytes more", resident() - before);
}

#[test]
fn one_byte_at_a_time_from_both_sides() {
    let backend = Backend::start(|mut stream, _| {
        stream.set_nodelay(true).expect("an option");
        while !read_head(&mut stream).is_empty() {
            let mut body = [0; 5];
            stream.read_exact(&mut body).expect("the body");
            let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n";
            answer.iter().for_each(|byte| stream.write_all(&[*byte]).expect("sent"));
        }
    });
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = proxy.connect();
    client.set_nodelay(true).expect("an option");
    for _ in 0..3 {
        for byte in b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345" {
            client.write_all(&[*byte]).expect("sent");
        }
        let head = read_head(&mut client);
        assert_eq!((status(&head), field(&head, "transfer-encoding")), (200, Some("chunked")), "{head}");
        let mut content = Vec::new();
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).expect("a chunk size");
                line.push(byte[0]);
            }
            let size = std::str::from_utf8(&line).ok().and_then(|l| usize::from_str_radix(l.trim(), 16).ok());
            let mut chunk = vec![0; size.expect("a size") + 2];
            client.read_exact(&mut chunk).expect("a chunk");
            if chunk.len() == 2 {
                break;
            }
            content.extend_from_slice(&chunk[..chunk.len() - 2]);
        }
        assert_eq!(content, b"helloyou");
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let backend = Backend::answering("late");
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = proxy.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    client.shutdown(Shutdown::Write).expect("half-closed");
    let response = read_all(&mut client);
    assert!(response.starts_with("HTTP/1.1 200") && response.ends_with("late"), "{response}");
}

#[test]
fn a_head_over_the_limit_is_431_and_garbage_is_not_passed_on() {
    // A connection may be opened ahead of need; no byte may come over it.
    let heard = Arc::new(AtomicU64::new(0));
    let counter = heard.clone();
    let backend = Backend::start(move |mut stream, _| {
        counter.fetch_add(stream.read(&mut [0; 1024]).unwrap_or(0) as u64, SeqCst);
    });
    let proxy = Proxy::with(&[backend.addr], |service| service.protocol = Protocol::Http1);
    let long = "a".repeat(70_000);
    assert_eq!(status(&proxy.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"))), 431);
    let many = "X: y\r\n".repeat(101);
    assert_eq!(status(&proxy.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"))), 431);
    assert_eq!(status(&proxy.ask(&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"))), 414);
    assert_eq!(status(&proxy.ask("\u{1}\u{2}garbage\r\n\r\n")), 400);
    let response = proxy.ask("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n");
    assert_eq!(status(&response), 501, "{response}");
    assert_eq!(heard.load(SeqCst), 0, "nothing reached the backend");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::start(|mut stream, _| {
        loop {
            let head = read_head(&mut stream);
            let Some(path) = head.split(' ').nth(1) else { return };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
            stream.write_all(answer.as_bytes()).expect("sent");
        }
    });
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = proxy.connect();
    let requests: String = (0..100).map(|i| format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.write_all(requests.as_bytes()).expect("sent");
    for i in 0..100 {
        assert!(read_response(&mut client).ends_with(&format!("\r\n/{i}")));
    }
}

#[test]
fn an_upgraded_connection_is_passed_through_both_ways() {
    let backend = Backend::start(|mut stream, _| {
        let head = read_head(&mut stream);
        assert_eq!(field(&head, "upgrade"), Some("echo"), "{head}");
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nwelcome")
            .expect("sent");
        let mut byte = [0];
        while stream.read(&mut byte).is_ok_and(|n| n > 0) {
            stream.write_all(&byte).expect("sent");
        }
    });
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = proxy.connect();
    // The first bytes of the new protocol come with the request, as some clients do.
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").expect("sent");
    assert_eq!(status(&read_head(&mut client)), 101);
    client.write_all(b" one two").expect("sent");
    client.shutdown(Shutdown::Write).expect("half-closed");
    assert_eq!(read_all(&mut client), "welcome one two");
}

/// A line echo that greets first, as mail and database servers do.
fn greeter() -> Backend {
    Backend::start(|mut stream, _| {
        stream.write_all(b"220 ready\r\n").expect("sent");
        let mut room = [0; 1024];
        while let Ok(n) = stream.read(&mut room) {
            if n == 0 || stream.write_all(&room[..n]).is_err() {
                return;
            }
        }
    })
}

#[test]
fn a_server_that_speaks_first_is_heard_without_a_word_of_the_client() {
    let backend = greeter();
    for protocol in [Protocol::Auto, Protocol::Tcp] {
        let proxy = Proxy::with(&[backend.addr], |service| service.protocol = protocol);
        let mut client = proxy.connect();
        let mut greeting = [0; 11];
        client.read_exact(&mut greeting).expect("a greeting");
        assert_eq!(&greeting, b"220 ready\r\n");
        client.write_all(b"EHLO\r\n").expect("sent");
        client.shutdown(Shutdown::Write).expect("half-closed");
        assert_eq!(read_all(&mut client), "EHLO\r\n");
    }
}

#[test]
fn opaque_connections_are_spread_and_a_dead_backend_is_passed_over() {
    let backends = [greeter(), greeter(), greeter()];
    let addresses = [backends[0].addr, backends[1].addr, backends[2].addr, Backend::nobody()];
    let proxy = Proxy::with(&addresses, |service| service.protocol = Protocol::Tcp);
    let clients: Vec<TcpStream> = (0..30)
        .map(|_| {
            let mut client = proxy.connect();
            let mut greeting = [0; 11];
            client.read_exact(&mut greeting).expect("a greeting");
            client
        })
        .collect();
    // Fewest sessions first: all but the dead one have the same.
    let counts: Vec<usize> = backends.iter().map(Backend::connections).collect();
    assert_eq!(counts, [10, 10, 10]);
    drop(clients);
    eventually("all sessions are over", || proxy.service()["sessions"] == 0);
}

#[test]
fn http_and_other_protocols_share_a_listener() {
    let backend = Backend::start(|mut stream, _| {
        let mut first = [0; 1];
        if stream.read_exact(&mut first).is_err() {
            return;
        }
        match first[0] {
            b'G' => drop(respond(&mut stream, 200, "http")),
            _ => {
                stream.read_exact(&mut [0; 8]).expect("the rest");
                stream.write_all(b"opaque").expect("sent");
            }
        }
    });
    let proxy = Proxy::start(&[backend.addr]);
    assert!(proxy.get("/").ends_with("http"));
    let mut client = proxy.connect();
    client.write_all(b"\x16\x03\x01 hello").expect("sent");
    let mut answer = [0; 6];
    client.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"opaque");
    // A client that says nothing for longer than the detection waits, and then speaks HTTP.
    let mut client = proxy.connect();
    eventually("a link was opened to listen to the server", || backend.connections() >= 3);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
    assert!(read_all(&mut client).ends_with("http"));
    // That link was no turn. One that it becomes, for a client that goes on in another protocol, is.
    assert_eq!(proxy.metric("evenkeel_turns_total", r#"service="test""#), 3.0);
    let mut client = proxy.connect();
    let before = backend.connections();
    eventually("a link was opened to listen to the server", || backend.connections() > before);
    client.write_all(b"\x16\x03\x01 hello").expect("sent");
    client.read_exact(&mut answer).expect("an answer");
    eventually("one more turn", || proxy.service()["endpoints"][0]["turns"] == 4);
    assert_eq!(proxy.metric("evenkeel_turns_total", r#"service="test""#), 4.0);
}

#[test]
fn what_is_not_http_gets_a_link_that_nobody_had() {
    let backend = Backend::start(|mut stream, _| {
        let mut first = [0; 1];
        while stream.peek(&mut first).is_ok_and(|n| n > 0) && first[0] == b'G' {
            respond(&mut stream, 200, "http");
        }
        if stream.read_exact(&mut [0; 9]).is_ok() {
            stream.write_all(b"opaque").expect("sent");
        }
    });
    let proxy = Proxy::with(&[backend.addr], |service| service.upstream.max_connections = Some(1));
    for n in 1..=3 {
        let mut http = proxy.connect();
        http.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        assert!(read_response(&mut http).ends_with("http"));
        // There may be one link, and one is there. It goes, for this client needs another.
        let mut client = proxy.connect();
        client.write_all(b"\x16\x03\x01 hello").expect("sent");
        let mut answer = [0; 6];
        client.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"opaque");
        assert_eq!(backend.connections(), 2 * n);
        assert_eq!(client.read(&mut answer).expect("the end"), 0);
    }
}

#[test]
fn a_drain_under_load_finishes_every_request_and_tells_every_client() {
    let backend = Backend::answering("x");
    let mut proxy = Proxy::start(&[backend.addr]);
    let addr = proxy.addr;
    let started = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let started = started.clone();
            std::thread::spawn(move || {
                let mut client = connect(addr);
                for n in 0.. {
                    // Between two answers an idle connection may be closed; a client sees that before it
                    // sends. Here requests follow each other at once, so each must be answered.
                    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
                    let response = read_response(&mut client);
                    assert_eq!(status(&response), 200, "request {n}: {response}");
                    started.fetch_add(1, SeqCst);
                    if field(&response, "connection") == Some("close") {
                        assert_eq!(read_all(&mut client), "");
                        return;
                    }
                }
            })
        })
        .collect();
    eventually("load", || started.load(SeqCst) > 200);
    proxy.running.drain();
    clients.into_iter().for_each(|client| client.join().expect("every request was answered"));
    assert!(proxy.running.wait(PATIENCE), "all sessions are over");
    assert!(TcpStream::connect(addr).is_err(), "nobody listens any more");
}

#[test]
fn a_new_endpoint_is_connected_to_before_its_first_request() {
    let (old, new) = (Backend::answering("old"), Backend::answering("new"));
    let catalog = Catalog::new(&[old.addr]);
    let proxy = Proxy::to(&catalog.target(), |_| {});
    let mut client = Client::of(&proxy);
    assert_eq!(status(&client.get("/")), 200);
    catalog.set(&[old.addr, new.addr]);
    // No request is under way.
    eventually("a warm link", || new.connections() == 1);
    assert!((0..4).any(|_| client.get("/").ends_with("new")));
    assert_eq!(new.connections(), 1);
}
