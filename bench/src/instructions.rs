//! Hot paths, run a given number of times for callgrind to count (`cargo xtask instructions`).
//!
//! `instructions list` names them, each with the least N that is worth counting; `instructions NAME N` runs one
//! N times.

use evenkeel_bench::{POLICIES, balancer, published, specs};
use evenkeel_core::balancer::{Input, Policy};
use evenkeel_core::picker::{Ask, Outcome, Scope};
use evenkeel_core::rng::Rng;
use evenkeel_core::time::{Duration, Instant};
use evenkeel_wire::out::Out;
use evenkeel_wire::session::{Context, Io, Peer, Protocol, Session, Settings};
use std::hint::black_box;
use std::net::SocketAddr;
use std::process::ExitCode;

/// Of what is short.
const MANY: u32 = 1_000;
/// Endpoints to pick from.
const ENDPOINTS: u32 = 1_000;
/// Endpoints of which one changes.
const CHANGED: u32 = 10_000;

/// What wrk sends.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
/// What a browser sends.
const BROWSER: &[u8] = b"GET /shop/cart?item=42 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nCookie: id=6b8b4567327b23c6; theme=dark\r\nConnection: keep-alive\r\nReferer: http://shop.example/shop\r\n\r\n";
/// What nginx answers.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Mon, 23 Nov 2026 22:00:00 GMT\r\nContent-Type: text/html\r\nContent-Length: 16\r\nLast-Modified: Mon, 23 Nov 2026 21:00:00 GMT\r\nConnection: keep-alive\r\nETag: \"6b04bb44-62\"\r\nAccept-Ranges: bytes\r\n\r\n0123456789abcdef";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n";

const TURNS: [(&str, &[u8], &[u8]); 3] = [
    ("http1 turn", REQUEST, RESPONSE),
    ("http1 turn of a browser", BROWSER, RESPONSE),
    ("http1 turn chunked", REQUEST, CHUNKED),
];

/// What turns a session into one that is relayed, its answer, and a message of it.
const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const FRAME: &[u8] = b"\x82\x100123456789abcdef";

/// Runs a path so many times.
type Run = fn(u32);

/// Paths that are not picks or turns, with how often is enough.
const OTHERS: [(&str, u32, Run); 3] = [
    ("websocket message there and back", MANY, |n| relay(Protocol::Http1, &[(UPGRADE, UPGRADED)], FRAME, n)),
    ("tcp bytes there and back", MANY, |n| relay(Protocol::Tcp, &[], FRAME, n)),
    ("change of one endpoint of 10,000", 2, change),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["list"] => {
            POLICIES.iter().for_each(|(name, _)| println!("pick {name}\t{MANY}"));
            TURNS.iter().for_each(|(name, ..)| println!("{name}\t{MANY}"));
            OTHERS.iter().for_each(|(name, n, _)| println!("{name}\t{n}"));
        }
        [name, n] => {
            let n = n.parse().unwrap_or(1);
            if let Some((_, policy)) = POLICIES.iter().find(|(known, _)| name.strip_prefix("pick ") == Some(*known)) {
                pick(*policy, n);
            } else if let Some((_, request, response)) = TURNS.iter().find(|(known, ..)| *known == name) {
                turn(request, response, n);
            } else if let Some((.., run)) = OTHERS.iter().find(|(known, ..)| *known == name) {
                run(n);
            } else {
                eprintln!("{name} is not known: instructions list");
                return ExitCode::from(2);
            }
        }
        _ => {
            eprintln!("usage: instructions list | instructions NAME N");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Picks, and completes at once.
fn pick(policy: Policy, n: u32) {
    let picker = published(&mut balancer(policy, ENDPOINTS));
    let mut rng = Rng::seeded(7);
    let mut now = Instant::from_nanos(1_000_000_000);
    for _ in 0..n {
        now += Duration::from_micros(10);
        let ask = Ask { scope: Scope::Turn, key: Some(rng.next_u64()), avoid: &[] };
        if let Ok(ticket) = picker.pick(&ask, &mut rng, now) {
            let _noticed = black_box(ticket.complete(Outcome::Success(Duration::from_millis(2)), now));
        }
    }
}

/// One request and its response through a session.
fn turn(request: &[u8], response: &[u8], n: u32) {
    let address = SocketAddr::from(([127, 0, 0, 1], 8080));
    let settings = Settings { protocol: Protocol::Http1, ..Settings::default() };
    let peer = Peer::plain(address, address.into());
    let mut now = Instant::from_nanos(1_000_000_000);
    let context = Context::new(&settings, &peer, now);
    let mut session = Session::new(&context);
    let (mut client, mut link) = (Vec::new(), Vec::new());
    for _ in 0..n {
        now += Duration::from_millis(1);
        let context = Context::new(&settings, &peer, now);
        let mut io = Io { client: Out::new(&mut client), link: Out::new(&mut link) };
        session.client_data(black_box(request), &mut io, &context);
        while session.poll_output().is_some() {}
        session.link_opened(&mut io, &context);
        session.link_data(black_box(response), &mut io, &context);
        while let Some(output) = session.poll_output() {
            black_box(output);
        }
        io.client.take_tail();
        io.link.take_tail();
        black_box((&client, &link));
        client.clear();
        link.clear();
    }
    assert!(session.wants_client(), "the session goes on");
}

/// Bytes there and back through a session that is placed whole, after what makes it one.
fn relay(protocol: Protocol, before: &[(&[u8], &[u8])], bytes: &[u8], n: u32) {
    let address = SocketAddr::from(([127, 0, 0, 1], 8080));
    let settings = Settings { protocol, ..Settings::default() };
    let peer = Peer::plain(address, address.into());
    let context = Context::new(&settings, &peer, Instant::from_nanos(1_000_000_000));
    let mut session = Session::new(&context);
    let mut exchange = |there: &[u8], back: &[u8]| {
        let (mut client, mut link) = (Vec::new(), Vec::new());
        let mut io = Io { client: Out::new(&mut client), link: Out::new(&mut link) };
        assert_eq!(session.client_data(black_box(there), &mut io, &context), there.len());
        while session.poll_output().is_some() {}
        session.link_opened(&mut io, &context);
        assert_eq!(session.link_data(black_box(back), &mut io, &context), back.len());
        while session.poll_output().is_some() {}
        black_box((io.client.take_tail(), io.link.take_tail()));
    };
    before.iter().for_each(|(there, back)| exchange(there, back));
    (0..n).for_each(|_| exchange(bytes, bytes));
}

/// One endpoint more, or one less, of many.
fn change(n: u32) {
    let mut balancer = balancer(Policy::PeakEwma, CHANGED);
    let mut now = Instant::from_nanos(100_000_000_000);
    for i in 0..n {
        now += Duration::from_secs(1);
        balancer.handle(Input::Endpoints { source: 0, endpoints: specs(CHANGED + i % 2) }, now);
        black_box(published(&mut balancer));
    }
}
