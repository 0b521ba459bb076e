//! Traces: continued through evenkeel between SDKs of OpenTelemetry, and spans that reach a collector, or do
//! not, while nobody waits for them.

mod common;

use common::peers::{Process, directory, free_port, have, python};
use common::pki::Pki;
use common::{Backend, Client, Proxy, connect, eventually, field, read_all, read_head, reset, respond, status};
use evenkeel_proxy::config::{ClientTls, Tracing};
use serde_json::Value;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/traces.py");

/// Every trace is recorded.
fn tracing(url: &str) -> Tracing {
    Tracing { sample: 1.0, ..Tracing::new(url.parse().expect("a URL")) }
}

fn traced(backends: &[SocketAddr], tracing: Tracing) -> Proxy {
    traced_with(backends, tracing, |_| {})
}

fn traced_with(
    backends: &[SocketAddr],
    tracing: Tracing,
    change: impl FnOnce(&mut evenkeel_proxy::config::Service),
) -> Proxy {
    let list: Vec<String> = backends.iter().map(ToString::to_string).collect();
    Proxy::configured(&list.join(","), change, |config| config.tracing = Some(tracing))
}

/// What `/metrics` says of a counter.
fn counted(proxy: &Proxy, name: &str) -> u64 {
    let metrics = proxy.admin("/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    line.unwrap_or_else(|| panic!("{name} in {metrics}")).parse().expect("a number")
}

const EXPORTED: &str = "evenkeel_spans_exported_total{}";
const FAILURES: &str = "evenkeel_span_export_failures_total{}";
const QUEUE_FULL: &str = "evenkeel_spans_dropped_total{reason=\"queue-full\"}";
const REFUSED: &str = "evenkeel_spans_dropped_total{reason=\"refused\"}";
const UNREACHABLE: &str = "evenkeel_spans_dropped_total{reason=\"unreachable\"}";

/// A collector that does as it is told.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Value>>>,
    /// What it answers next; 200 when there is nothing left.
    answers: Arc<Mutex<VecDeque<&'static str>>>,
    /// Whoever connects finds nobody.
    away: Arc<AtomicBool>,
}

const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n";
const WRONG: &str = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
const TAKEN: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

impl Collector {
    fn start(&self) -> String {
        let this = self.clone();
        let server = Backend::start(move |mut stream, _| {
            while !this.away.load(SeqCst) && this.take(&mut stream) {}
            reset(stream);
        });
        format!("http://{}", server.addr)
    }

    fn take(&self, stream: &mut TcpStream) -> bool {
        let head = read_head(stream);
        let Some(length) = field(&head, "content-length").and_then(|n| n.parse().ok()) else { return false };
        let mut body = vec![0; length];
        stream.read_exact(&mut body).expect("a whole body");
        let answer = self.answers.lock().expect("a lock").pop_front().unwrap_or(TAKEN);
        if answer == TAKEN {
            let export: Value = serde_json::from_slice(&body).expect("JSON");
            let spans = export["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans").clone();
            self.spans.lock().expect("a lock").extend(spans);
        }
        stream.write_all(answer.as_bytes()).is_ok()
    }

    fn spans(&self) -> Vec<Value> {
        self.spans.lock().expect("a lock").clone()
    }

    /// Waits for so many spans.
    fn wait_for(&self, n: usize) -> Vec<Value> {
        eventually("spans at the collector", || self.spans().len() >= n);
        self.spans()
    }
}

/// An attribute of a span.
fn attribute(span: &Value, key: &str) -> Option<String> {
    let found = span["attributes"].as_array()?.iter().find(|attribute| attribute["key"] == key)?;
    let value = found["value"].as_object()?.values().next()?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

/// A collector of other people's, as a process.
struct Peer {
    url: String,
    addr: SocketAddr,
    _process: Process,
}

impl Peer {
    fn start(python: &std::path::Path, arguments: &[&str]) -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new(python);
        command.arg(SCRIPT).arg(arguments[0]).arg(addr.port().to_string()).args(&arguments[1..]);
        let process = Process::start(&mut command, directory("traces")).listening(addr);
        Self { url: format!("http://{addr}"), addr, _process: process }
    }

    /// What a collector in the clear has.
    fn has(&self) -> Value {
        let mut stream = connect(self.addr);
        stream.write_all(b"GET /spans HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
        let answer = read_all(&mut stream);
        serde_json::from_str(answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)).expect("JSON")
    }
}

fn ask(python: &std::path::Path, url: &str) -> Value {
    let out = Command::new(python).args([SCRIPT, "ask", url]).output().expect("it runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

#[test]
fn a_client_evenkeel_and_a_backend_are_one_trace() {
    let Some(python) = python() else { return };
    let (collector, backend) = (Peer::start(&python, &["collect"]), Peer::start(&python, &["serve"]));
    let mut tracing = Tracing::new(collector.url.parse().expect("a URL"));
    // The client decides: none of the traces that begin here are recorded.
    (tracing.sample, tracing.service) = (0.0, "edge".into());
    tracing.headers.push(("X-Tenant".into(), "seven".into()));
    let proxy = traced(&[backend.addr], tracing);
    let said = ask(&python, &format!("http://{}/cart/7?secret=1", proxy.addr));
    assert_eq!(status(&proxy.get("/not/recorded")), 200);

    let mut has = Value::Null;
    eventually("a span", || {
        has = collector.has();
        has["spans"].as_array().is_some_and(|spans| !spans.is_empty()) || has["errors"] != Value::Array(vec![])
    });
    assert_eq!(has["errors"], Value::Array(vec![]));
    let span = &has["spans"][0];
    assert_eq!(has["spans"].as_array().map(Vec::len), Some(1), "{has}");
    for side in [&said["client"], &said["backend"]] {
        assert_eq!(side["trace"], span["trace"], "{said} {has}");
    }
    assert_eq!(span["parent"], said["client"]["span"]);
    assert_eq!(said["backend"]["parent"], span["span"]);
    assert_eq!(said["backend"]["sampled"], true);
    assert_eq!(said["backend"]["state"], "vendor=opaque,other=1");

    assert_eq!(
        (span["name"].as_str(), span["kind"].as_u64(), span["status"].as_u64()),
        (Some("GET"), Some(2), Some(0))
    );
    assert_eq!((span["scope"].as_str(), span["flags"].as_u64()), (Some("evenkeel"), Some(0x301)));
    assert!(span["began"].as_u64() <= span["ended"].as_u64(), "{span}");
    let attributes = &span["attributes"];
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.scheme", "http"),
        ("url.path", "/cart/7"),
        ("server.address", "127.0.0.1"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("evenkeel.service", "test"),
        ("evenkeel.endpoint", &backend.addr.to_string()),
        ("evenkeel.cause", "done"),
    ] {
        assert_eq!(attributes[key], value, "{key} in {attributes}");
    }
    assert_eq!(attributes["http.response.status_code"], 200);
    assert_eq!((&attributes["evenkeel.tries"], &attributes["server.port"]), (&1.into(), &proxy.addr.port().into()));
    assert!(attributes["user_agent.original"].as_str().is_some_and(|agent| agent.starts_with("python-requests/")));
    assert!(!span.to_string().contains("secret"), "{span}");
    assert_eq!(span["resource"]["service.name"], "edge");
    assert_eq!(span["resource"]["service.instance.id"].as_str().map(str::len), Some(36));
    assert_eq!(has["fields"]["x-tenant"].as_str().or(has["fields"]["X-Tenant"].as_str()), Some("seven"));
}

#[test]
fn spans_go_to_a_collector_over_tls_whose_name_is_checked() {
    let Some(python) = python() else { return };
    if !have(&["openssl"]) {
        return;
    }
    let pki = Pki::new();
    let files = pki.sign("collector", "/CN=collector", "DNS:collector.example");
    let paths = [&files.cert, &files.key].map(|path| path.to_str().expect("a path"));
    let collector = Peer::start(&python, &["collect", paths[0], paths[1]]);
    let backend = Backend::answering("x");
    let mut config = tracing(&format!("https://{}", collector.addr));
    let tls = ClientTls { ca: Some(pki.ca()), ..ClientTls::default() };
    for (name, taken) in [("collector.example", true), ("another.example", false)] {
        config.tls = Some(ClientTls { sni: Some(name.into()), ..tls.clone() });
        let proxy = traced(&[backend.addr], config.clone());
        assert_eq!(status(&proxy.get("/")), 200);
        eventually("an attempt", || counted(&proxy, EXPORTED) + counted(&proxy, FAILURES) > 0);
        assert_eq!((counted(&proxy, EXPORTED) > 0, counted(&proxy, FAILURES) > 0), (taken, !taken), "{name}");
    }
}

#[test]
fn a_collector_that_is_away_costs_no_request_and_is_found_again() {
    let (collector, backend) = (Collector::default(), Backend::answering("x"));
    collector.away.store(true, SeqCst);
    let proxy = traced(&[backend.addr], Tracing { queue: 8, ..tracing(&collector.start()) });
    let mut client = Client::of(&proxy);
    eventually("spans are dropped, one way and the other", || {
        assert_eq!(status(&client.get("/")), 200);
        counted(&proxy, QUEUE_FULL) > 0 && counted(&proxy, UNREACHABLE) > 0
    });
    assert_eq!(counted(&proxy, EXPORTED), 0);
    assert!(counted(&proxy, FAILURES) >= 5, "five attempts for the first batch");
    collector.away.store(false, SeqCst);
    eventually("it takes spans", || {
        assert_eq!(status(&client.get("/back")), 200);
        counted(&proxy, EXPORTED) > 0
    });
    assert!(!collector.spans().is_empty());
}

#[test]
fn a_collector_that_never_answers_holds_no_more_than_the_queue_and_one_batch() {
    let (entered, silent) = std::sync::mpsc::channel();
    let collector = Backend::start(move |stream, _| {
        entered.send(stream).expect("the test is there");
    });
    let backend = Backend::answering("x");
    let slow =
        Tracing { queue: 16, timeout: Duration::from_secs(3600), ..tracing(&format!("http://{}", collector.addr)) };
    let proxy = traced(&[backend.addr], slow);
    let mut client = Client::of(&proxy);
    for _ in 0..1_000 {
        assert_eq!(status(&client.get("/")), 200);
    }
    let held = silent.recv_timeout(common::PATIENCE).expect("it was connected to");
    // Every request is over; a batch has 512 spans.
    assert!(counted(&proxy, QUEUE_FULL) >= 1_000 - 16 - 512, "{}", counted(&proxy, QUEUE_FULL));
    assert_eq!(counted(&proxy, EXPORTED), 0);
    drop(held);
}

#[test]
fn a_busy_collector_is_asked_again_and_one_that_says_no_is_not() {
    let (collector, backend) = (Collector::default(), Backend::answering("x"));
    collector.answers.lock().expect("a lock").extend([BUSY, BUSY]);
    let proxy = traced(&[backend.addr], tracing(&collector.start()));
    assert_eq!(status(&proxy.get("/1")), 200);
    let spans = collector.wait_for(1);
    assert_eq!(attribute(&spans[0], "url.path").as_deref(), Some("/1"));
    eventually("counted", || counted(&proxy, EXPORTED) == 1);
    assert_eq!((counted(&proxy, FAILURES), counted(&proxy, UNREACHABLE)), (2, 0));
    collector.answers.lock().expect("a lock").push_back(WRONG);
    assert_eq!(status(&proxy.get("/2")), 200);
    eventually("refused", || counted(&proxy, REFUSED) == 1);
    assert_eq!((counted(&proxy, FAILURES), counted(&proxy, EXPORTED)), (3, 1));
}

#[test]
fn what_waits_is_sent_before_the_process_ends() {
    let (collector, backend) = (Collector::default(), Backend::answering("x"));
    let proxy = traced(&[backend.addr], tracing(&collector.start()));
    for _ in 0..3 {
        assert_eq!(status(&proxy.get("/")), 200);
    }
    drop(proxy);
    assert_eq!(collector.spans().len(), 3);
}

#[test]
fn every_way_to_end_has_its_span() {
    let collector = Collector::default();
    let url = collector.start();
    let backend = Backend::start(|mut stream, _| {
        let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
        loop {
            let head = read_head(&mut stream);
            let path = head.split(' ').nth(1).unwrap_or_default();
            match path {
                "" => return,
                "/broken" => return,
                "/cut" => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").expect("sent");
                    return reset(stream);
                }
                "/silent" => {
                    let _gone = stream.read(&mut [0]);
                    return;
                }
                "/chat" => {
                    let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n");
                    stream.write_all(answer.as_bytes()).expect("sent");
                    let _gone = stream.read(&mut [0]);
                    return;
                }
                _ => stream.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").expect("sent"),
            }
        }
    });
    let proxy = traced(&[backend.addr], tracing(&url));
    let say = |request: String| {
        let mut client = proxy.connect();
        client.write_all(request.as_bytes()).expect("sent");
        client
    };
    let get = |path: &str| say(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    assert_eq!(status(&read_head(&mut get("/error"))), 500);
    assert_eq!(status(&read_head(&mut get("/broken"))), 502);
    assert!(read_all(&mut get("/cut")).ends_with("half<reset>"));
    let mut chat = say("GET /chat HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".into());
    assert_eq!(status(&read_head(&mut chat)), 101);
    let gone = get("/silent");
    eventually("it waits", || proxy.admin("/api/v1/sessions").contains("\"wait\""));
    reset(gone);
    let spans = collector.wait_for(5);
    for (path, code, error, phase) in [
        ("/error", Some("500"), Some("500"), None),
        ("/broken", Some("502"), Some("endpoint-closed"), Some("wait")),
        ("/cut", Some("200"), Some("endpoint-closed"), Some("response")),
        ("/chat", Some("101"), None, None),
        ("/silent", None, Some("client-closed"), Some("wait")),
    ] {
        let span = spans.iter().find(|span| attribute(span, "url.path").as_deref() == Some(path));
        let span = span.unwrap_or_else(|| panic!("{path} in {spans:?}"));
        let said = |key| attribute(span, key);
        assert_eq!(said("http.response.status_code").as_deref(), code, "{path}");
        assert_eq!(said("error.type").as_deref(), error, "{path}");
        assert_eq!(said("evenkeel.phase").as_deref(), phase, "{path}");
        assert_eq!(span["status"]["code"] == 2, error.is_some(), "{path}");
        assert_eq!(said("evenkeel.endpoint"), Some(backend.addr.to_string()), "{path}");
    }
    // The session that the handshake became has none of its own.
    drop((chat, proxy));
    assert_eq!(collector.spans().len(), 5);
}

#[test]
fn a_turn_that_was_tried_again_is_one_span() {
    let (collector, good) = (Collector::default(), Backend::answering("good"));
    let proxy = traced(&[Backend::nobody(), good.addr], tracing(&collector.start()));
    // In turn, so that of two that follow each other one meets nobody first.
    for _ in 0..4 {
        assert_eq!(status(&proxy.get("/")), 200);
    }
    let spans = collector.wait_for(4);
    let tries = |span| attribute(span, "evenkeel.tries").expect("tries");
    assert!(spans.iter().any(|span| tries(span) == "2"), "{spans:?}");
    for span in &spans {
        let again = attribute(span, "http.request.resend_count");
        assert_eq!(again.as_deref(), if tries(span) == "2" { Some("1") } else { None });
        assert_eq!(attribute(span, "evenkeel.endpoint"), Some(good.addr.to_string()));
    }
    assert_eq!(spans.len(), 4);
}

#[test]
fn tracing_begins_and_ends_with_a_reload() {
    const SAID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (one, two) = (Collector::default(), Collector::default());
    let (first, second) = (one.start(), two.start());
    // It answers with the parent that it was told.
    let backend = Backend::start(|mut stream, _| {
        loop {
            let head = read_head(&mut stream);
            let Some(parent) = field(&head, "traceparent").map(str::to_owned) else { return };
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 55\r\n\r\n{parent}").as_bytes())
                .expect("sent");
        }
    });
    let listen = format!("127.0.0.1:{}", free_port());
    let config = |tracing: &str| {
        let service = format!("- {{name: a, listen: '{listen}', target: '{}'}}", backend.addr);
        let text = format!("admin: off\nworkers: 1\ntracing: {tracing}\nservices:\n{service}\n");
        evenkeel_proxy::config::parse("test.yaml", &text).expect("valid")
    };
    let running = evenkeel_proxy::start(config("off")).expect("it starts");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let reload = |tracing: &str| runtime.block_on(running.reload(config(tracing))).expect("it works");
    let mut client = Client(connect(listen.parse().expect("an address")));
    let mut told = || {
        let answer = client.get_with("/", &format!("traceparent: {SAID}\r\n"));
        answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
    };
    assert_eq!(told(), SAID, "untouched");
    assert_eq!(reload(&format!("{{otlp: '{first}'}}")), ["tracing: changed"]);
    eventually("it takes part", || told() != SAID);
    let ours = told();
    assert!(ours[..36] == SAID[..36] && ours[36..52] != SAID[36..52] && ours[52..] == SAID[52..], "{ours}");
    one.wait_for(1);
    assert_eq!(reload(&format!("{{otlp: '{first}'}}")), [""; 0], "nothing to do");
    reload(&format!("{{otlp: '{second}'}}"));
    eventually("the other collector has some", || {
        told();
        !two.spans().is_empty()
    });
    reload("off");
    eventually("untouched again", || told() == SAID);
}

#[test]
fn a_request_that_is_none_has_no_span() {
    let (collector, backend) = (
        Collector::default(),
        Backend::start(|mut stream, _| {
            respond(&mut stream, 200, "x");
        }),
    );
    let proxy = traced(&[backend.addr], tracing(&collector.start()));
    assert_eq!(status(&proxy.ask("GET / HTTP/1.1\r\n\r\n")), 400);
    assert_eq!(status(&proxy.get("/good")), 200);
    drop(proxy);
    let paths: Vec<_> = collector.spans().iter().filter_map(|span| attribute(span, "url.path")).collect();
    assert_eq!(paths, ["/good"]);
}
