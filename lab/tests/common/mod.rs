//! What the end-to-end tests share: a proxy on loopback, backends that misbehave on request, raw
//! conversations with both.
//!
//! Backends here are hand-written only for faults that a real server cannot be made to have; the
//! real ones are in `peers`.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

pub mod browser;
pub mod http2;
pub mod peers;
pub mod pki;
pub mod program;
pub mod sockets;

use evenkeel_core::address::Address;
use evenkeel_core::balancer::Policy;
use evenkeel_proxy::config::{Config, Service, parse};
use evenkeel_proxy::{Running, start};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

/// Longer than anything here takes; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy with one service.
pub struct Proxy {
    pub running: Running,
    pub addr: SocketAddr,
}

impl Proxy {
    /// Starts one in front of `backends`, in turn (round-robin), on a port of its own.
    pub fn start(backends: &[SocketAddr]) -> Self {
        Self::with(backends, |_| {})
    }

    /// The same, with changes to the service's settings.
    pub fn with(backends: &[SocketAddr], change: impl FnOnce(&mut Service)) -> Self {
        let list: Vec<String> = backends.iter().map(ToString::to_string).collect();
        Self::to(&list.join(","), change)
    }

    /// The same as it is by default, with this long to leave.
    pub fn grace(backends: &[SocketAddr], grace: Duration) -> Self {
        let list: Vec<String> = backends.iter().map(ToString::to_string).collect();
        Self::configured(&list.join(","), |_| {}, |config| config.drain.grace = grace)
    }

    /// The same, for any target.
    pub fn to(target: &str, change: impl FnOnce(&mut Service)) -> Self {
        Self::configured(target, change, |_| {})
    }

    /// The same, with changes to the settings of the process, too.
    pub fn configured(target: &str, change: impl FnOnce(&mut Service), process: impl FnOnce(&mut Config)) -> Self {
        let listen: Address = "127.0.0.1:0".parse().expect("an address");
        let mut service = Service::new("test", vec![listen], vec![target.parse().expect("a target")]);
        service.balance.core.turn_policy = Policy::RoundRobin;
        change(&mut service);
        let mut config = Config::new();
        config.workers = Some(1);
        config.admin = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.services.push(service);
        process(&mut config);
        let running = start(config).expect("the proxy starts");
        let Address::Ip(addr) = running.listening["test"][0] else { panic!("a TCP listener") };
        Self { running, addr }
    }

    /// One whose services are written as in a file; the first is called `test`.
    pub fn yaml(services: &str) -> Self {
        let text = format!("admin: 127.0.0.1:0\nworkers: 2\ndrain: {{grace: 3s}}\nservices:\n{services}");
        let config = parse("test.yaml", &text).unwrap_or_else(|e| panic!("{e}"));
        let running = start(config).unwrap_or_else(|e| panic!("{e}"));
        let addr = match running.listening["test"][0] {
            Address::Ip(addr) => addr,
            Address::Unix(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        };
        Self { running, addr }
    }

    /// The value of a metric, or the sum over those whose labels contain `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let page = self.admin("/metrics");
        let samples = page.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
        let its = samples.filter(|(found, _)| found.is_empty() || (found.starts_with('{') && found.contains(labels)));
        its.map(|(_, value)| value.parse::<f64>().expect("a number")).sum()
    }

    /// A client connection.
    pub fn connect(&self) -> TcpStream {
        connect(self.addr)
    }

    /// Sends `request` on a connection of its own and returns everything that comes back.
    pub fn ask(&self, request: &str) -> String {
        let mut client = self.connect();
        client.write_all(request.as_bytes()).expect("the request is taken");
        read_all(&mut client)
    }

    /// What the admin API answers.
    pub fn admin(&self, path: &str) -> String {
        self.admin_ask("GET", path)
    }

    pub fn admin_ask(&self, method: &str, path: &str) -> String {
        let mut client = connect(self.running.admin.expect("an admin API"));
        let request = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).expect("sent");
        read_all(&mut client)
    }

    /// The service as the admin API describes it.
    pub fn service(&self) -> serde_json::Value {
        let answer = self.admin("/api/v1/services/test");
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e} in {answer:?}"))
    }

    /// A plain `GET` whose connection ends with it.
    pub fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"))
    }
}

pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("the listener is there");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Everything up to the end of the connection, however it ends.
pub fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => bytes.extend_from_slice(b"<reset>"),
        Err(e) => panic!("{e} after {:?}", String::from_utf8_lossy(&bytes)),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads one response with `Content-Length`: head and body.
pub fn read_response(stream: &mut TcpStream) -> String {
    let head = read_head(stream);
    let length = field(&head, "content-length").map_or(0, |n| n.parse().expect("a number"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("the whole body");
    head + &String::from_utf8_lossy(&body)
}

/// Reads one head.
pub fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).expect("a head") {
            0 => break,
            _ => head.push(byte[0]),
        }
    }
    String::from_utf8(head).expect("text")
}

/// The value of a field of a message.
pub fn field<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    let head = message.split("\r\n\r\n").next()?;
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The status of a response.
pub fn status(response: &str) -> u16 {
    response.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status in {response:?}"))
}

/// A server on a port of its own; each connection runs `serve` on a thread.
pub struct Backend {
    pub addr: SocketAddr,
    /// Connections accepted.
    pub connections: Arc<AtomicUsize>,
}

impl Backend {
    pub fn start(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, serve) = (connections.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (serve, number) = (serve.clone(), count.fetch_add(1, SeqCst));
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                std::thread::spawn(move || serve(stream, number));
            }
        });
        Self { addr, connections }
    }

    /// Answers every request with 200 and `body`, keeping connections open.
    pub fn answering(body: &'static str) -> Self {
        Self::start(move |mut stream, _| while respond(&mut stream, 200, body) {})
    }

    /// Answers every request with its own head.
    pub fn mirror() -> Self {
        Self::start(|mut stream, _| {
            loop {
                let head = read_head(&mut stream);
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
                if head.is_empty() || stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        })
    }

    /// An address at which nobody listens.
    pub fn nobody() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
    }

    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

/// Reads one request without a body and answers it; false when the connection is over.
pub fn respond(stream: &mut TcpStream, status: u16, body: &str) -> bool {
    if read_head(stream).is_empty() {
        return false;
    }
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).is_ok()
}

/// Sends back what it gets, byte by byte.
pub fn echo() -> Backend {
    Backend::start(|mut stream, _| {
        let mut byte = [0];
        while stream.read(&mut byte).is_ok_and(|n| n == 1) && stream.write_all(&byte).is_ok() {}
    })
}

/// One byte to such a server and back; false: the session is over.
pub fn echoes(stream: &mut TcpStream) -> bool {
    stream.write_all(b"x").is_ok() && stream.read(&mut [0]).is_ok_and(|n| n == 1)
}

/// Makes closing the stream send RST.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option");
    drop(stream);
}

/// Waits until `done`, however long that takes within patience. For things that another thread or
/// process has to notice; nothing is measured by it.
pub fn eventually(what: &str, done: impl FnMut() -> bool) {
    within(PATIENCE, what, done);
}

/// The same for what takes longer than most, and more so on a machine that is busy with other things.
pub fn within(patience: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + patience;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A client that keeps its connection.
pub struct Client(pub TcpStream);

impl Client {
    pub fn of(proxy: &Proxy) -> Self {
        Self(proxy.connect())
    }

    /// One request, one response.
    pub fn get(&mut self, path: &str) -> String {
        self.get_with(path, "")
    }

    /// The same with more fields, each ended by CRLF.
    pub fn get_with(&mut self, path: &str, fields: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
        self.0.write_all(request.as_bytes()).expect("sent");
        read_response(&mut self.0)
    }
}
