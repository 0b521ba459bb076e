//! Memory of the program: what an idle session of each kind costs, and what is left of many that have ended.
//!
//! Counted is what is the program's own (`RssAnon`); the kernel has its socket buffers besides. When a budget is
//! exceeded, something that a session needs only while it is driven, or only during a turn, has most likely moved
//! into what it always has: see "Memory" in docs/performance.md.

mod common;

use common::peers::{free_port, have};
use common::pki::Pki;
use common::program::Program;
use common::{Backend, connect, eventually, read_head};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// What one idle session of a kind may cost, and of how many the mean is taken.
struct Budget {
    kind: &'static str,
    sessions: usize,
    bytes: usize,
}

const HTTP: Budget = Budget { kind: "HTTP/1.1", sessions: 5_000, bytes: 450 };
/// With its link and its turn.
const TCP: Budget = Budget { kind: "TCP", sessions: 5_000, bytes: 620 };
const WEBSOCKET: Budget = Budget { kind: "WebSocket", sessions: 5_000, bytes: 620 };
/// Above all the tables of HPACK for both directions, and what is known of the connection.
const HTTP2: Budget = Budget { kind: "HTTP/2", sessions: 5_000, bytes: 6 * 1024 };
/// Above all rustls's state of a connection: four secrets with their expanded keys.
const TLS: Budget = Budget { kind: "HTTP/1.1 over TLS", sessions: 5_000, bytes: 9 * 1024 };

/// Of what sessions cost, the part that may be left when they have ended: timers that have not run out, spare
/// buffers, pages that hold something else, too.
const LEFT: f64 = 0.4;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A server that says one thing on each of its connections, and keeps them.
fn keeper(greet: fn(&mut TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            greet(&mut stream);
            open.push(stream);
        }
    });
    addr
}

/// Opens sessions, closes them again, and says what was more than it may be.
fn check<T>(budget: &Budget, service: &str, begin: impl Fn(SocketAddr) -> T) -> Vec<String> {
    let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config = format!("workers: 1\nservices: [{{name: test, listen: '{at}', {service}}}]\n");
    let program = Program::start(&config);
    let count = || program.metric("evenkeel_sessions{service=\"test\"}") as usize;
    drop(begin(at));
    eventually("the first session is over", || count() == 0);
    let before = program.own_memory();
    let sessions: Vec<T> = (0..budget.sessions).map(|_| begin(at)).collect();
    let cost = program.own_memory() - before;
    let each = cost as usize / budget.sessions;
    drop(sessions);
    eventually("all sessions are over", || count() == 0);
    let mut left = 1.0;
    let mut few = || {
        left = program.own_memory().saturating_sub(before) as f64 / cost as f64;
        left <= LEFT
    };
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while !few() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    println!("{:18} {each:6} bytes each, of {}; {:3.0} % of it left", budget.kind, budget.bytes, 100.0 * left);
    let mut wrong = Vec::new();
    if each > budget.bytes {
        wrong.push(format!("{}: {each} bytes a session, more than {}", budget.kind, budget.bytes));
    }
    if left > LEFT {
        wrong.push(format!("{}: {:.0} % of the memory was not given back", budget.kind, 100.0 * left));
    }
    wrong
}

/// A session whose end is a reset: it is over at once, whatever its server says.
struct Abrupt(TcpStream);

impl Drop for Abrupt {
    fn drop(&mut self) {
        socket2::SockRef::from(&self.0).set_linger(Some(std::time::Duration::ZERO)).expect("an option");
    }
}

/// A session that has said `request` and heard the head of an answer.
fn asking(at: SocketAddr, request: &[u8]) -> TcpStream {
    let mut session = connect(at);
    session.write_all(request).expect("sent");
    assert!(!read_head(&mut session).is_empty(), "an answer");
    session
}

#[test]
fn idle_sessions_stay_within_their_budgets_and_leave_little() {
    more_files();
    // Nothing follows the head, so that all of the answer is read.
    let http = Backend::answering("").addr;
    let tcp = keeper(|stream| stream.write_all(b"hello").expect("sent"));
    let websocket = keeper(|stream| {
        assert!(!read_head(stream).is_empty());
        stream.write_all(UPGRADED).expect("sent");
    });
    let mut wrong = check(&HTTP, &format!("target: '{http}', protocol: http"), |at| asking(at, REQUEST));
    wrong.extend(check(&TCP, &format!("target: '{tcp}', protocol: tcp"), |at| {
        let mut session = connect(at);
        session.read_exact(&mut [0; 5]).expect("the server speaks first");
        Abrupt(session)
    }));
    wrong
        .extend(check(&WEBSOCKET, &format!("target: '{websocket}', protocol: http"), |at| Abrupt(asking(at, UPGRADE))));
    let http2 = common::http2::answering("hello").addr;
    wrong.extend(check(&HTTP2, &format!("target: '{http2}', protocol: http2"), |at| {
        let mut session = common::http2::Peer::client(at);
        let asked = session.get("/");
        assert_eq!(session.whole(asked).0, "200");
        session
    }));
    if have(&["openssl"]) {
        wrong.extend(check_tls(http));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("; "));
}

fn check_tls(backend: SocketAddr) -> Vec<String> {
    let pki = Pki::new();
    let files = pki.sign("server", "/CN=server", "DNS:localhost");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.ca()).expect("PEM")).expect("a certificate");
    let config = Arc::new(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
    check(&TLS, &format!("target: '{backend}', protocol: http, tls: {{{}}}", files.yaml()), |at| {
        let name = "localhost".try_into().expect("a name");
        let connection = rustls::ClientConnection::new(config.clone(), name).expect("settings that fit");
        let mut session = rustls::StreamOwned::new(connection, connect(at));
        session.write_all(REQUEST).expect("sent");
        assert!(session.read(&mut [0; 512]).expect("an answer") > 0);
        session
    })
}

/// Both ends of all sessions are this process's.
fn more_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("as many as are allowed");
}
