//! What stands before the protocol, and who is let in: PROXY headers, Unix sockets, limits.

mod common;

use common::peers::{Process, directory, free_port, have};
use common::pki::{Pki, s_client};
use common::{Backend, Client, Proxy, connect, eventually, field, read_all, read_head, read_response, respond, status};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// HAProxy with one frontend and one backend, in the same mode.
fn haproxy(mode: &str, listens: &str, server: &str) -> (SocketAddr, Process) {
    let home = directory("haproxy");
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config = format!(
        "defaults\n mode {mode}\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
         listen all\n bind {addr} {listens}\n server one {server}\n"
    );
    std::fs::write(home.join("haproxy.cfg"), config).expect("written");
    let mut command = Command::new("haproxy");
    command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin");
    command.arg("-f").arg(home.join("haproxy.cfg")).arg("-db");
    let process = Process::start(&mut command, home);
    (addr, if listens.contains("accept-proxy") { process.bound(addr) } else { process.listening(addr) })
}

#[test]
fn haproxy_says_who_its_client_is() {
    if !have(&["haproxy"]) {
        return;
    }
    let backend = Backend::mirror();
    let proxy = Proxy::yaml(&format!(
        "- {{name: test, listen: '127.0.0.1:0', target: '{}', accept_proxy: 127.0.0.0/8}}\n",
        backend.addr
    ));
    for sends in ["send-proxy", "send-proxy-v2"] {
        let (addr, _haproxy) = haproxy("tcp", "", &format!("{} {sends}", proxy.addr));
        // A client that can be told from HAProxy itself.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 9, 9, 9], 0)).into()).expect("all of 127 is ours");
        socket.connect(&addr.into()).expect("connected");
        let mut client = Client(TcpStream::from(socket));
        for _ in 0..3 {
            let answer = client.get("/");
            assert!(answer.contains("\r\nX-Forwarded-For: 127.9.9.9\r\n"), "{sends}: {answer}");
        }
        let sessions = proxy.admin("/api/v1/sessions");
        assert!(sessions.contains("\"client\":\"127.9.9.9:"), "{sessions}");
    }
}

#[test]
fn a_proxy_header_counts_from_where_it_is_expected_only() {
    let backend = Backend::mirror();
    let proxy = |accepts: &str| {
        let to = backend.addr;
        Proxy::yaml(&format!(
            "- {{name: test, listen: '127.0.0.1:0', target: '{to}', timeouts: {{header: 1s}}{accepts}}}\n"
        ))
    };
    let header = "PROXY TCP4 203.0.113.7 203.0.113.8 1234 80\r\n";
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

    let trusted = proxy(", accept_proxy: [192.0.2.0/24, '127.0.0.1']");
    assert!(trusted.ask(&format!("{header}{request}")).contains("X-Forwarded-For: 203.0.113.7"));
    // In pieces, and with the request behind it in the last one.
    let mut client = trusted.connect();
    for byte in header.bytes() {
        client.write_all(&[byte]).expect("sent");
    }
    client.write_all(request.as_bytes()).expect("sent");
    assert!(read_all(&mut client).contains("X-Forwarded-For: 203.0.113.7"));
    // The other proxy's own health check.
    let local = [b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".as_slice(), request.as_bytes()].concat();
    let mut client = trusted.connect();
    client.write_all(&local).expect("sent");
    assert!(read_all(&mut client).contains("X-Forwarded-For: 127.0.0.1"));
    // None, half of one, a wrong one: gone, without an answer.
    for wrong in [request, "PROX", "PROXY TCP4 1.2.3.4\r\nGET / HTTP/1.1\r\n\r\n", "PROXY TCP5 a b c d\r\n"] {
        let heard = trusted.ask(wrong);
        assert!(heard.is_empty() || heard == "<reset>", "{wrong:?}: {heard}");
    }
    eventually("each has a cause", || {
        trusted.metric("evenkeel_session_ends_total", "client-protocol") == 3.0
            && trusted.metric("evenkeel_session_ends_total", "client-timeout") == 1.0
    });

    // Anybody could say so.
    for accepts in ["", ", accept_proxy: 192.0.2.0/24"] {
        let (auto, http) = (proxy(accepts), proxy(&format!("{accepts}, protocol: http")));
        let before = backend.connections();
        let answer = http.ask(&format!("{header}{request}"));
        assert_eq!(status(&answer), 400, "{answer}");
        assert_eq!(auto.ask(&format!("{header}{request}")), "", "nor is it passed on");
        assert_eq!(backend.connections(), before);
    }
}

#[test]
fn a_proxy_header_comes_before_tls() {
    if !have(&["haproxy", "openssl"]) {
        return;
    }
    let (pki, backend) = (Pki::new(), Backend::mirror());
    let files = pki.sign("server", "/CN=server", "DNS:localhost");
    let proxy = Proxy::yaml(&format!(
        "- {{name: test, listen: '127.0.0.1:0', target: '{}', accept_proxy: 127.0.0.0/8, tls: {{{}}}}}\n",
        backend.addr,
        files.yaml()
    ));
    let (addr, _haproxy) = haproxy("tcp", "", &format!("{} send-proxy-v2", proxy.addr));
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let heard = s_client(addr, &pki.ca(), &["-quiet"], request);
    assert!(heard.contains("X-Forwarded-Proto: https") && heard.contains("X-Forwarded-For: 127.0.0.1"), "{heard}");
}

#[test]
fn endpoints_are_told_who_the_client_is_and_no_two_clients_share_a_link() {
    if !have(&["haproxy"]) {
        return;
    }
    for version in ["v1", "v2"] {
        let backend = Backend::mirror();
        let one = haproxy("http", "accept-proxy", &format!("{}", backend.addr));
        let two = haproxy("http", "accept-proxy", &format!("{}", backend.addr));
        let proxy = Proxy::yaml(&format!(
            "- {{name: test, listen: '127.0.0.1:0', target: '{},{}', http: {{x_forwarded: remove}}, balance: {{policy: round-robin}}, upstream: {{send_proxy: {version}}}, health: {{check: {{http: {{path: /}}, every: 1s}}}}}}\n",
            one.0, two.0
        ));
        // Three, so that each is served by each in turn.
        let mut clients = [Client::of(&proxy), Client::of(&proxy), Client::of(&proxy)];
        for _ in 0..10 {
            for client in &mut clients {
                let answer = client.get("/");
                assert_eq!(status(&answer), 200, "{answer}");
            }
        }
        // Each went to each endpoint, in turn; and a link is for one client.
        let connects = proxy.metric("evenkeel_connects_total", "");
        assert!(connects >= 6.0, "{connects}");
        eventually("the check is passed, PROXY header and all", || {
            proxy.admin("/api/v1/services/test").contains("\"endpoints_usable\":2")
        });
    }
}

#[test]
fn a_client_that_stays_with_an_endpoint_keeps_its_link_there() {
    let backend = Backend::start(|mut stream, _| {
        let mut header = Vec::new();
        while !header.ends_with(b"\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).expect("a header") == 0 {
                return;
            }
            header.push(byte[0]);
        }
        let who = String::from_utf8(header).expect("text");
        while respond(&mut stream, 200, who.split(' ').nth(4).expect("a port")) {}
    });
    let proxy = Proxy::yaml(&format!(
        "- {{name: test, listen: '127.0.0.1:0', target: '{}', upstream: {{send_proxy: v1}}}}\n",
        backend.addr
    ));
    let mut clients = [Client::of(&proxy), Client::of(&proxy)];
    for _ in 0..5 {
        for client in &mut clients {
            let port = client.0.local_addr().expect("bound").port().to_string();
            assert!(client.get("/").ends_with(&port), "its own port on its own link");
        }
    }
    assert_eq!(backend.connections(), 2);
    // Links go with their clients.
    drop(clients);
    eventually("they are closed", || proxy.metric("evenkeel_links", "") == 0.0);
}

#[test]
fn unix_sockets_on_both_sides() {
    let home = directory("sockets");
    let (front, back) = (home.join("front"), home.join("back"));
    let listener = std::os::unix::net::UnixListener::bind(&back).expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut bytes = [0; 1024];
                while let Ok(1..) = stream.read(&mut bytes) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlocal").expect("sent");
                }
            });
        }
    });
    let proxy = Proxy::yaml(&format!(
        "- {{name: test, listen: 'unix://{}', target: 'unix://{}'}}\n",
        front.display(),
        back.display()
    ));
    let mut client = UnixStream::connect(&front).expect("it listens");
    for _ in 0..3 {
        client.write_all(GET.as_bytes()).expect("sent");
        let mut answer = [0; 43];
        client.read_exact(&mut answer).expect("an answer");
        assert!(answer.ends_with(b"local"));
    }
    drop(proxy);
    std::fs::remove_dir_all(home).expect("removed");
}

fn limited(backend: SocketAddr, limits: &str) -> Proxy {
    Proxy::yaml(&format!("- {{name: test, listen: '127.0.0.1:0', target: '{backend}', limits: {{{limits}}}}}\n"))
}

fn hits(proxy: &Proxy, limit: &str) -> f64 {
    proxy.metric("evenkeel_limit_hits_total", &format!("limit=\"{limit}\""))
}

#[test]
fn a_session_too_many_is_told_so() {
    let backend = Backend::answering("ok");
    for (limits, limit) in [("sessions: 3", "sessions"), ("sessions_per_source: 3", "sessions_per_source")] {
        let proxy = limited(backend.addr, limits);
        let mut clients: Vec<Client> = (0..3).map(|_| Client::of(&proxy)).collect();
        assert!(clients.iter_mut().all(|client| status(&client.get("/")) == 200));
        let answer = proxy.ask(GET);
        assert_eq!(status(&answer), 503, "{answer}");
        assert_eq!(field(&answer, "retry-after"), Some("1"), "{answer}");
        assert_eq!(field(&answer, "evenkeel-reason"), Some("overload; phase=detect"), "{answer}");
        // Who does not speak HTTP, or does not speak, is closed.
        assert_eq!(proxy.ask("\x01\x02\x03\r\n"), "");
        assert_eq!(read_all(&mut proxy.connect()), "");
        assert_eq!(hits(&proxy, limit), 3.0);
        assert!(clients.iter_mut().all(|client| status(&client.get("/")) == 200));
        drop(clients.pop());
        eventually("there is room again", || status(&proxy.get("/")) == 200);
    }
}

#[test]
fn sessions_are_counted_for_the_address_behind_a_proxy_header() {
    let backend = Backend::answering("ok");
    let proxy = Proxy::yaml(&format!(
        "- {{name: test, listen: '127.0.0.1:0', target: '{}', accept_proxy: 127.0.0.1, limits: {{sessions_per_source: 1}}}}\n",
        backend.addr
    ));
    let from = |address: &str| {
        let mut client = Client::of(&proxy);
        client.0.write_all(format!("PROXY TCP4 {address} 10.0.0.1 1 2\r\n").as_bytes()).expect("sent");
        client
    };
    let (mut one, mut two) = (from("10.1.1.1"), from("10.1.1.2"));
    assert_eq!((status(&one.get("/")), status(&two.get("/"))), (200, 200));
    let mut third = from("10.1.1.1");
    assert_eq!(status(&third.get("/")), 503);
    drop(one);
    eventually("there is room again", || status(&from("10.1.1.1").get("/")) == 200);
}

#[test]
fn bodies_have_a_size_and_a_pace() {
    let backend = Backend::start(|mut stream, _| {
        let head = read_head(&mut stream);
        if head.is_empty() {
            return;
        }
        let mut bytes = [0; 4096];
        while let Ok(1..) = stream.read(&mut bytes) {}
    });
    let proxy = limited(backend.addr, "body_bytes: 1KiB");
    let head = "POST / HTTP/1.1\r\nHost: a\r\n";
    let answer = proxy.ask(&format!("{head}Content-Length: 1025\r\n\r\n"));
    assert_eq!((status(&answer), backend.connections()), (413, 0), "before anybody is asked: {answer}");
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    let answer = proxy.ask(&format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}1\r\nx\r\n0\r\n\r\n"));
    assert_eq!(status(&answer), 413, "{answer}");
    assert_eq!(field(&answer, "evenkeel-reason"), Some("client-limit; phase=request"), "{answer}");
    assert_eq!(hits(&proxy, "body_bytes"), 2.0);
    // (That a body keeps its pace takes ten seconds to tell: virtual ones, in wire/tests.)
}

/// Switches protocols and stays.
fn upgrading() -> Backend {
    Backend::start(|mut stream, _| {
        read_head(&mut stream);
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(answer.as_bytes()).expect("sent");
        let _end = stream.read(&mut [0]);
    })
}

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn upgrade(proxy: &Proxy) -> (TcpStream, String) {
    let mut client = proxy.connect();
    client.write_all(UPGRADE.as_bytes()).expect("sent");
    let answer = read_response(&mut client);
    (client, answer)
}

#[test]
fn upgrades_have_a_number() {
    let backend = upgrading();
    let proxy = limited(backend.addr, "upgrades: 2");
    let (one, two) = (upgrade(&proxy), upgrade(&proxy));
    assert_eq!((status(&one.1), status(&two.1)), (101, 101));
    let (mut third, answer) = upgrade(&proxy);
    assert_eq!((status(&answer), field(&answer, "retry-after")), (503, Some("1")), "{answer}");
    assert_eq!(hits(&proxy, "upgrades"), 1.0);
    drop(one);
    eventually("there is room again, on the same connection", || {
        third.write_all(UPGRADE.as_bytes()).expect("sent");
        status(&read_response(&mut third)) == 101
    });
}

#[test]
fn upgrades_come_in_at_a_rate_or_later() {
    let backend = upgrading();
    // One of two workers: half of ten a second, and nobody waits.
    let proxy = limited(backend.addr, "upgrade_rate: 10/s, upgrade_wait: 1ms");
    let tries: Vec<(TcpStream, String)> = (0..20).map(|_| upgrade(&proxy)).collect();
    let refused: Vec<&String> = tries.iter().map(|(_, answer)| answer).filter(|a| status(a) == 503).collect();
    assert!(!refused.is_empty(), "twenty at once are more than ten a second");
    for answer in refused {
        let after: u32 = field(answer, "retry-after").expect("when to come back").parse().expect("seconds");
        assert!((1..=10).contains(&after), "{answer}");
    }
    let patient = limited(backend.addr, "upgrade_rate: 50/s, upgrade_wait: 10s");
    let clients: Vec<TcpStream> = (0..60).map(|_| patient.connect()).collect();
    for mut client in &clients {
        client.write_all(UPGRADE.as_bytes()).expect("sent");
    }
    for mut client in clients {
        assert_eq!(status(&read_response(&mut client)), 101, "it waited for its turn");
    }
    // Requests do not wait behind upgrades.
    assert_eq!(hits(&patient, "upgrade_rate"), 0.0);
}

#[test]
fn heads_have_limits_that_are_counted() {
    let backend = Backend::answering("ok");
    let proxy = limited(backend.addr, "header_bytes: 1KiB, header_fields: 5, uri_bytes: 100");
    let long = "x".repeat(2000);
    for (request, code, limit) in [
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), 431, "header_bytes"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(5)), 431, "header_fields"),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100)), 414, "uri_bytes"),
    ] {
        let answer = proxy.ask(&request);
        assert_eq!(status(&answer), code, "{answer}");
        assert_eq!(hits(&proxy, limit), 1.0, "{limit}");
    }
}

#[test]
fn the_first_byte_and_the_head_must_come() {
    let backend = Backend::answering("ok");
    let proxy = Proxy::yaml(&format!(
        "- {{name: test, listen: '127.0.0.1:0', target: '{}', timeouts: {{first_byte: 300ms, header: 200ms}}}}\n",
        backend.addr
    ));
    assert_eq!(read_all(&mut proxy.connect()), "", "silence is answered by silence");
    assert_eq!(hits(&proxy, "first_byte"), 1.0);
    let mut slow = proxy.connect();
    slow.write_all(b"GET / HTTP/1.1\r\nHos").expect("sent");
    assert_eq!(status(&read_all(&mut slow)), 408);
    assert_eq!(hits(&proxy, "header"), 1.0);
    // Who has spoken may be silent.
    let mut client = Client::of(&proxy);
    assert_eq!(status(&client.get("/")), 200);
    let mut later = connect(proxy.addr);
    assert_eq!(read_all(&mut later), "", "longer than the first byte may take");
    assert_eq!(status(&client.get("/")), 200);
}
