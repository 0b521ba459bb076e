//! Another configuration while clients are connected: what it does not concern is not touched.

mod common;

use common::{Backend, Client, PATIENCE, connect, eventually, field, read_all, status};
use evenkeel_core::address::Address;
use evenkeel_proxy::config::{Config, parse};
use evenkeel_proxy::{Running, start};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// A proxy that is configured by text, as a file would.
struct Proxy {
    running: Running,
    runtime: tokio::runtime::Runtime,
}

fn config(services: &str) -> Config {
    let text = format!("admin: 127.0.0.1:0\nworkers: 2\ndrain: {{grace: 3s}}\nservices:\n{services}");
    parse("test.yaml", &text).unwrap_or_else(|e| panic!("{e}"))
}

impl Proxy {
    fn start(services: &str) -> Self {
        let running = start(config(services)).expect("it starts");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { running, runtime }
    }

    fn reload(&self, services: &str) -> Result<Vec<String>, String> {
        self.runtime.block_on(self.running.reload(config(services))).map_err(|error| error.to_string())
    }

    fn addr(&self, service: &str) -> SocketAddr {
        let Address::Ip(addr) = self.running.listening[service][0] else { panic!("a TCP listener") };
        addr
    }

    fn admin(&self, path: &str) -> String {
        let mut client = connect(self.running.admin.expect("an admin API"));
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).expect("sent");
        read_all(&mut client)
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[test]
fn nothing_changes_for_a_session_that_the_change_does_not_concern() {
    let (one, two) = (Backend::answering("one"), Backend::answering("two"));
    let (a, b) = (free(), free());
    let before = format!(
        "- {{name: a, listen: '{a}', target: '{}'}}\n- {{name: b, listen: '{b}', target: '{}'}}\n",
        one.addr, two.addr
    );
    let proxy = Proxy::start(&before);
    let mut client = Client(connect(a));
    assert_eq!(body(&client.get("/")), "one");
    assert_eq!(proxy.reload(&before), Ok(vec![]), "nothing to do");
    // b goes, c comes, a has another timeout: its client stays on its connection.
    let c = free();
    let after = format!(
        "- {{name: a, listen: '{a}', target: '{}', timeouts: {{idle: 2h}}}}\n- {{name: c, listen: '{c}', target: '{}'}}\n",
        one.addr, two.addr
    );
    let changes = proxy.reload(&after).expect("it works");
    for change in ["service a: changed", "service b: gone", "service c: new"] {
        assert!(changes.iter().any(|c| c.starts_with(change)), "{change} in {changes:?}");
    }
    assert_eq!(body(&client.get("/")), "one");
    assert_eq!(one.connections(), 1, "and so does the link behind it");
    assert_eq!(body(&Client(connect(c)).get("/")), "two");
    eventually("b listens no more", || TcpStream::connect(b).is_err());
    let services = proxy.admin("/api/v1/services");
    assert!(services.contains("\"c\"") && !services.contains("\"b\""), "{services}");
}

#[test]
fn what_cannot_be_bound_changes_nothing() {
    let one = Backend::answering("one");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (a, taken) = (free(), taken.local_addr().expect("bound"));
    let proxy = Proxy::start(&format!("- {{name: a, listen: '{a}', target: '{}'}}\n", one.addr));
    let error = proxy
        .reload(&format!("- {{name: b, listen: ['{}', '{taken}'], target: '{}'}}\n", free(), one.addr))
        .expect_err("it is taken");
    assert!(error.contains("service b") && error.contains(&taken.to_string()), "{error}");
    assert_eq!(body(&Client(connect(a)).get("/")), "one");
    assert!(!proxy.admin("/api/v1/services").contains("\"b\""));
}

#[test]
fn targets_policies_and_limits_change_under_a_client() {
    let (one, two) = (Backend::answering("one"), Backend::answering("two"));
    let a = free();
    let proxy = Proxy::start(&format!("- {{name: a, listen: '{a}', target: '{}'}}\n", one.addr));
    let mut client = Client(connect(a));
    assert_eq!(body(&client.get("/")), "one");
    let both = format!("{},{}", one.addr, two.addr);
    proxy
        .reload(&format!("- {{name: a, listen: '{a}', target: '{both}', balance: {{policy: round-robin}}}}\n"))
        .expect("it works");
    let mut seen = std::collections::BTreeSet::new();
    eventually("both", || {
        seen.insert(body(&client.get("/")).to_owned());
        seen.len() == 2
    });
    // There is always somebody: the old target holds until the new one has spoken.
    for i in 0..20 {
        let target = if i % 2 == 0 { two.addr.to_string() } else { both.clone() };
        proxy.reload(&format!("- {{name: a, listen: '{a}', target: '{target}'}}\n")).expect("it works");
        assert_eq!(status(&client.get("/")), 200);
    }
    proxy
        .reload(&format!("- {{name: a, listen: '{a}', target: '{both}', limits: {{uri_bytes: 64}}}}\n"))
        .expect("it works");
    eventually("the limit holds", || {
        let mut client = Client(connect(a));
        status(&client.get(&format!("/{}", "x".repeat(100)))) == 414
    });
}

#[test]
fn a_listener_moves_to_another_service_and_clients_wait_in_its_queue() {
    let (one, two) = (Backend::answering("one"), Backend::answering("two"));
    let a = free();
    let proxy = Proxy::start(&format!("- {{name: a, listen: '{a}', target: '{}'}}\n", one.addr));
    let mut before = Client(connect(a));
    assert_eq!(body(&before.get("/")), "one");
    proxy
        .reload(&format!(
            "- {{name: a, listen: '{}', target: '{}'}}\n- {{name: b, listen: '{a}', target: '{}'}}\n",
            free(),
            one.addr,
            two.addr
        ))
        .expect("it works");
    eventually("b has it", || body(&Client(connect(a)).get("/")) == "two");
    assert_eq!(body(&before.get("/")), "one", "who was connected stays with a");
}

#[test]
fn the_sessions_of_a_service_that_is_gone_finish() {
    let hello = Backend::start(|mut stream, _| {
        stream.write_all(b"hello").expect("sent");
        let mut byte = [0];
        while stream.read(&mut byte).is_ok_and(|n| n == 1) {
            stream.write_all(&byte).expect("sent");
        }
    });
    let (one, other) = (Backend::answering("one"), Backend::answering("other"));
    let (a, b) = (free(), free());
    let keep = format!("- {{name: keep, listen: '{}', target: '{}'}}\n", free(), other.addr);
    let proxy = Proxy::start(&format!(
        "{keep}- {{name: a, listen: '{a}', target: '{}'}}\n- {{name: b, listen: '{b}', target: '{}', protocol: tcp}}\n",
        one.addr, hello.addr
    ));
    let mut http = Client(connect(a));
    assert_eq!(body(&http.get("/")), "one");
    let mut tcp = connect(b);
    let mut greeting = [0; 5];
    tcp.read_exact(&mut greeting).expect("the server speaks first");
    proxy.reload(&keep).expect("it works");
    // A request that an idle client sends is answered, and is its last as soon as workers know.
    eventually("told to close", || {
        let answer = http.get("/");
        assert_eq!(body(&answer), "one");
        field(&answer, "connection") == Some("close")
    });
    // Opaque connections go on until the grace of 3 s is over.
    tcp.write_all(b"x").expect("sent");
    tcp.read_exact(&mut greeting[..1]).expect("it still works");
    let began = std::time::Instant::now();
    tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert!(!matches!(tcp.read(&mut greeting), Ok(n) if n > 0));
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

#[test]
fn a_failed_reload_is_said_until_the_file_is_well_again() {
    let one = Backend::answering("one");
    let services = format!("- {{name: a, listen: '127.0.0.1:0', target: '{}'}}\n", one.addr);
    let proxy = Proxy::start(&services);
    let addr = proxy.addr("a");
    proxy.running.reload_failed("test.yaml:3:5: unknown key");
    let metrics = proxy.admin("/metrics");
    assert!(metrics.contains("evenkeel_config_last_reload_successful{} 0.0"), "{metrics}");
    assert!(metrics.contains("evenkeel_config_reloads_total{result=\"failed\"} 1"), "{metrics}");
    assert!(proxy.admin("/api/v1/config").contains("test.yaml:3:5: unknown key"));
    assert_eq!(body(&Client(connect(addr)).get("/")), "one");
    proxy.reload(&services).expect("it works");
    let metrics = proxy.admin("/metrics");
    assert!(metrics.contains("evenkeel_config_last_reload_successful{} 1.0"), "{metrics}");
    assert!(proxy.admin("/api/v1/config").contains("\"error\":null"));
}
