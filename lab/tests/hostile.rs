//! Clients and backends that take what they can. The proxy runs in a process of its own, whose peak of
//! resident memory is compared with what its limits allow, and somebody well behaved is served meanwhile.

mod common;

use common::{Backend, PATIENCE, connect, eventually, field, read_all, read_head, read_response, status};
use evenkeel_core::address::Address;
use evenkeel_proxy::{config, start};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The default of `limits.header_bytes` and of `limits.buffer`.
const LIMIT: u64 = 64 * KIB;
/// One read of the worker; it may come on top of a buffer that is just below its limit.
const READ: u64 = 64 * KIB;
/// A vector that grows doubles, and both halves of its last move may be resident.
const GROWTH: u64 = 2;
/// Slabs, the timer wheel, the allocator's own, pages of the program that had not been touched.
const SLACK: u64 = 4 * MIB;

/// The environment variable that turns this test program into a proxy.
const CONFIG: &str = "EVENKEEL_HOSTILE_CONFIG";

/// Not a test: the process that the tests talk to. It ends with its standard input.
#[test]
#[ignore = "the process that the other tests start"]
fn the_proxy() {
    let Ok(text) = std::env::var(CONFIG) else { return };
    let config = config::parse("hostile.yaml", &text).unwrap_or_else(|problems| panic!("{problems:?}"));
    let running = start(config).expect("the proxy starts");
    let Address::Ip(addr) = running.listening["test"][0] else { panic!("a TCP listener") };
    println!("listening on {addr}");
    let _until_closed = std::io::stdin().read_to_end(&mut Vec::new());
}

struct Proxy {
    child: Child,
    addr: SocketAddr,
    /// Resident bytes when it began to listen.
    before: u64,
}

impl Proxy {
    /// One in front of a backend; `more` are further keys of its service.
    fn start(backend: SocketAddr, more: &str) -> Self {
        let text = format!(
            "admin: off\nworkers: 1\nservices:\n  - name: test\n    listen: 127.0.0.1:0\n    \
             target: {backend}\n    protocol: http\n{more}"
        );
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "the_proxy", "--ignored", "--nocapture"])
            .env(CONFIG, text)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let addr = loop {
            let line = lines.next().expect("it ended").expect("a line");
            if let Some((_, addr)) = line.split_once("listening on ") {
                break addr.parse().expect("an address");
            }
        };
        // What else it writes goes nowhere, but must not block it.
        thread::spawn(move || lines.for_each(drop));
        let mut proxy = Self { child, addr, before: 0 };
        // Once through everything, so that first uses do not count.
        proxy.serves();
        proxy.before = proxy.memory("VmHWM");
        proxy
    }

    /// A figure of `/proc/PID/status`, in bytes.
    fn memory(&self, what: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
        let kib = line.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.unwrap_or_else(|| panic!("no {what} in {status}")) * KIB
    }

    /// What it has taken at most since it started.
    fn grew_by_at_most(&self, bound: u64) {
        let grown = self.memory("VmHWM") - self.before;
        println!("grew by {} KiB of {} KiB allowed", grown / KIB, bound / KIB);
        assert!(grown <= bound, "grew by {} KiB, allowed are {} KiB", grown / KIB, bound / KIB);
    }

    fn connect(&self) -> TcpStream {
        connect(self.addr)
    }

    /// A client that does as it should is served, on a connection of its own and on one that it keeps.
    fn serves(&self) {
        let mut client = self.connect();
        for _ in 0..10 {
            client.write_all(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
            let answer = read_response(&mut client);
            assert_eq!((status(&answer), answer.ends_with("a page")), (200, true), "{answer}");
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Fails only if it is gone already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// `/page` is a page; `/large` is a response of 64 MiB; everything else is read to its end, and answered
/// with how many bytes of content it had.
fn backend() -> Backend {
    Backend::start(|stream, _| {
        let mut stream = BufReader::new(stream);
        loop {
            let head = read_head_of(&mut stream);
            let Some(target) = head.split(' ').nth(1) else { return };
            let sent = match target {
                "/page" => stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\na page"),
                "/large" => large(stream.get_mut()),
                _ => {
                    let Some(length) = content(&mut stream, &head) else { return };
                    let text = length.to_string();
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                    stream.get_mut().write_all(answer.as_bytes())
                }
            };
            if sent.is_err() {
                return;
            }
        }
    })
}

const LARGE: u64 = 64 * MIB;

fn large(stream: &mut TcpStream) -> std::io::Result<()> {
    // Blocks for as long as nobody reads.
    stream.set_write_timeout(None)?;
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n")?;
    let piece = vec![b'x'; MIB as usize];
    (0..LARGE / MIB).try_for_each(|_| stream.write_all(&piece))
}

fn read_head_of(stream: &mut BufReader<TcpStream>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if !matches!(stream.read_line(&mut head), Ok(1..)) {
            return String::new();
        }
    }
    head
}

/// How many bytes of content a request has; `None` if it ends early.
fn content(stream: &mut BufReader<TcpStream>, head: &str) -> Option<u64> {
    let swallow = |stream: &mut BufReader<TcpStream>, n: u64| {
        let read = std::io::copy(&mut stream.take(n), &mut std::io::sink());
        (read.ok() == Some(n)).then_some(n)
    };
    if let Some(length) = field(head, "content-length") {
        return swallow(stream, length.parse().ok()?);
    }
    field(head, "transfer-encoding")?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let size = u64::from_str_radix(line.trim_end(), 16).ok()?;
        if size == 0 {
            break;
        }
        length += swallow(stream, size)?;
        swallow(stream, 2)?;
    }
    let mut end = String::new();
    while !end.ends_with("\r\n\r\n") && end != "\r\n" {
        stream.read_line(&mut end).ok()?;
    }
    Some(length)
}

/// Sends a head, then a text over and over, until evenkeel has had enough or it was said so often; returns
/// everything that came back.
fn insist(proxy: &Proxy, head: &str, text: &str, times: usize, tail: &str) -> String {
    let mut client = proxy.connect();
    let piece = text.repeat(64.min(times));
    let all = || {
        let mut stream = &client;
        stream.write_all(head.as_bytes())?;
        for _ in 0..times / 64.min(times) {
            stream.write_all(piece.as_bytes())?;
        }
        stream.write_all(tail.as_bytes())
    };
    match all() {
        Ok(()) => {}
        Err(e) => assert!(matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{e}"),
    }
    read_all(&mut client)
}

#[test]
fn heads_without_end_are_431_and_cost_their_limit() {
    let backend = backend();
    let proxy = Proxy::start(backend.addr, "");
    let attacks = [
        // 100,000 fields, and 10 MB of one.
        ("GET / HTTP/1.1\r\nHost: a\r\n", "X: y\r\n", 100_000, "431"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: ", "0123456789", 1_000_000, "431"),
        ("GET /", "0123456789", 1_000_000, "414"),
        ("", "\r\n", 100_000, "400"),
    ];
    thread::scope(|scope| {
        for _ in 0..5 {
            for (head, text, times, wanted) in attacks {
                let proxy = &proxy;
                scope.spawn(move || {
                    let heard = insist(proxy, head, text, times, "\r\n\r\n");
                    // The answer may be lost to a client that goes on talking for longer than is waited.
                    assert!(heard.starts_with(&format!("HTTP/1.1 {wanted} ")) || heard == "<reset>", "{heard}");
                });
            }
        }
        proxy.serves();
    });
    proxy.serves();
    // 20 clients at once, each with a head that is just not complete.
    proxy.grew_by_at_most(20 * (LIMIT + READ) * GROWTH + SLACK);
}

#[test]
fn chunks_without_end_cost_one_buffer() {
    let backend = backend();
    let proxy = Proxy::start(backend.addr, "");
    let post = "POST /count HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let extension = format!("1;{}\r\nx\r\n", "e".repeat(250));
    let attacks: [(String, &str, usize, &str, &str); 5] = [
        // 10 MB of one extension.
        (format!("{post}1;"), "0123456789", 1_000_000, "\r\nx\r\n0\r\n\r\n", "HTTP/1.1 400 "),
        // 10 MB of trailers.
        (format!("{post}0\r\n"), "X: 3456\r\n", 1_100_000, "\r\n", "HTTP/1.1 431 "),
        // Extensions of a size that is allowed, again and again: dropped one by one.
        (post.to_owned(), &extension, 40_000, "0\r\n\r\n", "HTTP/1.1 200 "),
        // 1.6 million chunks of one byte.
        (post.to_owned(), "1\r\nx\r\n", 1_600_000, "0\r\n\r\n", "HTTP/1.1 200 "),
        // A size of zeros without end.
        (post.to_owned(), "0", 1_000_000, "\r\n\r\n", "HTTP/1.1 400 "),
    ];
    thread::scope(|scope| {
        for (head, text, times, tail, wanted) in &attacks {
            let proxy = &proxy;
            scope.spawn(move || {
                let heard = insist(proxy, head, text, *times, tail);
                assert!(heard.starts_with(wanted) || heard == "<reset>", "{heard}");
                if wanted.contains("200") {
                    assert!(heard.ends_with(&times.to_string()), "every byte arrives: {heard}");
                }
            });
        }
        proxy.serves();
    });
    proxy.serves();
    // Five clients; a trailer section is read whole, up to the limit of a head.
    proxy.grew_by_at_most(5 * (LIMIT + READ) * GROWTH + SLACK);
}

#[test]
fn hundreds_of_slow_heads_cost_what_they_said_and_time_out() {
    const CLIENTS: u64 = 400;
    let backend = backend();
    let proxy = Proxy::start(backend.addr, "    timeouts: {header: 3s}\n");
    // Each a head of 60 KiB that lacks its end, then one byte after the other.
    let begin = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(60 * 1024));
    let mut clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let mut client = proxy.connect();
            client.write_all(begin.as_bytes()).expect("sent");
            client
        })
        .collect();
    proxy.serves();
    // They drip until each has been told that it took too long.
    let mut told = 0;
    eventually("every one is told", || {
        clients.retain_mut(|client| {
            client.set_nonblocking(true).expect("an option");
            let mut answer = [0; 4096];
            match client.read(&mut answer) {
                Ok(n) => {
                    assert!(answer[..n].starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer[..n]));
                    told += 1;
                    false
                }
                // Fails when evenkeel has closed and its answer is on the way.
                Err(_) => client.write(b"a").is_ok() || client.peek(&mut answer).is_ok(),
            }
        });
        proxy.serves();
        clients.is_empty()
    });
    assert_eq!(told, CLIENTS, "with a word, not with a reset");
    proxy.grew_by_at_most(CLIENTS * LIMIT * GROWTH + SLACK);
}

#[test]
fn hundreds_of_slow_bodies_cost_nothing_but_their_connections() {
    const CLIENTS: u64 = 300;
    let backend = backend();
    // Slower than they may be by default.
    let more = "    limits: {body_rate: off}\n    upstream: {connect_timeout: 10s}\n";
    let proxy = Proxy::start(backend.addr, more);
    let mut clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let mut client = proxy.connect();
            client.write_all(b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n").expect("sent");
            client
        })
        .collect();
    for round in 0..40 {
        for client in &mut clients {
            client.write_all(b"x").expect("sent");
        }
        if round % 10 == 0 {
            proxy.serves();
        }
    }
    for client in &mut clients {
        let answer = read_response(client);
        assert!(status(&answer) == 200 && answer.ends_with("\r\n\r\n40"), "{answer}");
    }
    // A request of one buffer may be kept for a retry, in a buffer of 1 KiB; and two sockets' state.
    proxy.grew_by_at_most(CLIENTS * 4 * KIB + SLACK);
}

#[test]
fn nine_thousand_idle_connections_cost_a_kilobyte_each() {
    const CLIENTS: u64 = 9_000;
    let backend = backend();
    let proxy = Proxy::start(backend.addr, "");
    let mut clients: Vec<TcpStream> = Vec::new();
    for number in 0..CLIENTS {
        let mut client = proxy.connect();
        // Half of them have asked for something before.
        if number % 2 == 0 {
            client.write_all(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
            assert_eq!(status(&read_response(&mut client)), 200);
        }
        clients.push(client);
    }
    proxy.serves();
    proxy.grew_by_at_most(CLIENTS * KIB + SLACK);
    // They are there, all of them.
    for client in clients.iter_mut().step_by(100) {
        client.write_all(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        assert_eq!(status(&read_response(client)), 200);
    }
}

#[test]
fn clients_that_never_read_cost_one_buffer_each() {
    const CLIENTS: u64 = 100;
    let backend = backend();
    let proxy = Proxy::start(backend.addr, "");
    let clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let mut client = proxy.connect();
            client.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
            client
        })
        .collect();
    // Each has its answer, and nobody reads more of it than its first bytes.
    for client in &clients {
        let mut begin = [0; 12];
        (&mut &*client).read_exact(&mut begin).expect("an answer");
        assert_eq!(&begin, b"HTTP/1.1 200");
    }
    proxy.serves();
    stands_still(&proxy);
    proxy.grew_by_at_most(CLIENTS * (LIMIT + READ) * GROWTH + SLACK);
    proxy.serves();
}

/// Waits until the proxy has nothing left to do: its processor time stands still.
fn stands_still(proxy: &Proxy) {
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", proxy.child.id())).expect("it lives");
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        (fields[11].to_owned(), fields[12].to_owned())
    };
    let mut last = (ticks(), Instant::now());
    eventually("quiet", || {
        let now = ticks();
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() > Duration::from_millis(500)
    });
}

#[test]
fn backends_that_never_read_cost_one_buffer_each() {
    const CLIENTS: u64 = 100;
    // Answers `/page`, and reads nothing behind any other head.
    let backend = Backend::start(|mut stream, _| {
        loop {
            let head = read_head(&mut stream);
            match head.split(' ').nth(1) {
                None => return,
                Some("/page") => {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\na page";
                    stream.write_all(answer).expect("answered");
                }
                Some(_) => {
                    // Until the other side has had enough.
                    thread::park_timeout(PATIENCE * 10);
                    return;
                }
            }
        }
    });
    let proxy = Proxy::start(backend.addr, "    timeouts: {request: off}\n");
    let sent: Arc<Vec<AtomicU64>> = Arc::new((0..CLIENTS).map(|_| AtomicU64::new(0)).collect());
    let clients: Vec<TcpStream> = (0..CLIENTS as usize)
        .map(|number| {
            let client = proxy.connect();
            let (mut sender, sent) = (client.try_clone().expect("a second handle"), sent.clone());
            thread::spawn(move || {
                let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n");
                let piece = [b'x'; 64 * 1024];
                let mut next = head.as_bytes();
                // Ends when the test does.
                while sender.write_all(next).is_ok() {
                    sent[number].fetch_add(next.len() as u64, SeqCst);
                    next = &piece;
                }
            });
            client
        })
        .collect();
    eventually("every upload has begun", || sent.iter().all(|sent| sent.load(SeqCst) > 100_000));
    proxy.serves();
    stands_still(&proxy);
    for sent in sent.iter() {
        assert!(sent.load(SeqCst) < LARGE, "swallowed by somebody");
    }
    proxy.grew_by_at_most(CLIENTS * (LIMIT + READ) * GROWTH + SLACK);
    for client in &clients {
        client.shutdown(Shutdown::Both).expect("closed");
    }
    proxy.serves();
}

#[test]
fn a_flood_of_pipelined_requests_waits_where_it_is() {
    const CLIENTS: usize = 20;
    let backend = backend();
    let proxy = Proxy::start(backend.addr, "");
    let sent = Arc::new(AtomicU64::new(0));
    let clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let client = proxy.connect();
            let (mut sender, sent) = (client.try_clone().expect("a second handle"), sent.clone());
            thread::spawn(move || {
                let piece = "GET /page HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2_000);
                // 100 million requests: ends when the test does.
                for _ in 0..50_000 {
                    if sender.write_all(piece.as_bytes()).is_err() {
                        return;
                    }
                    sent.fetch_add(piece.len() as u64, SeqCst);
                }
            });
            client
        })
        .collect();
    eventually("the flood", || sent.load(SeqCst) > 20 * 64 * 1024);
    for _ in 0..5 {
        proxy.serves();
    }
    // The unread requests of each, and the answers that it does not read.
    proxy.grew_by_at_most(CLIENTS as u64 * (LIMIT + READ) * 2 * GROWTH + SLACK);
    for client in &clients {
        client.shutdown(Shutdown::Both).expect("closed");
    }
    proxy.serves();
}
