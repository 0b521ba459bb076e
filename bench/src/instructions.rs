//! Hot paths, run a given number of times for callgrind to count (`cargo xtask instructions`).
//!
//! `instructions list` names them, each with the least N that is worth counting; `instructions NAME N` runs one
//! N times.

use evenkeel_bench::{balancer, published, specs};
use evenkeel_core::balancer::{Input, Policy};
use evenkeel_core::picker::{Ask, Outcome, Scope};
use evenkeel_core::rng::Rng;
use evenkeel_core::time::{Duration, Instant};
use evenkeel_wire::http2::FieldWriter;
use evenkeel_wire::http2::connection::{Connection, Event, Part};
use evenkeel_wire::http2::forward::{Added, Asked, grpc_status, put_request, put_response, put_trailers};
use evenkeel_wire::http2::frame;
use evenkeel_wire::http2::hpack::{Capacity, Decoder, Encoder, Fields, Form};
use evenkeel_wire::http2::settings::{Config as Http2, Role};
use evenkeel_wire::http2::streams::StreamKey;
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

/// What grpc-go sends for a unary call. A deadline is another one each time.
const CALL: [(&str, &str, Form); 8] = [
    (":method", "POST", Form::Indexed),
    (":scheme", "http", Form::Indexed),
    (":path", "/shop.Catalog/Lookup", Form::Indexed),
    (":authority", "catalog.shop.svc:8080", Form::Indexed),
    ("content-type", "application/grpc", Form::Indexed),
    ("user-agent", "grpc-go/1.75.0", Form::Indexed),
    ("te", "trailers", Form::Indexed),
    ("grpc-timeout", "999874u", Form::Plain),
];
/// And what it answers, before and behind the message.
const ANSWER: [(&str, &str, Form); 2] =
    [(":status", "200", Form::Indexed), ("content-type", "application/grpc", Form::Indexed)];
const STATUS: [(&str, &str, Form); 2] = [("grpc-status", "0", Form::Indexed), ("grpc-message", "", Form::Indexed)];

/// What turns a session into one that is relayed, its answer, and a message of it.
const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const FRAME: &[u8] = b"\x82\x100123456789abcdef";

/// Runs a path so many times.
type Run = fn(u32);

/// Paths that are not picks or turns, with how often is enough.
const OTHERS: [(&str, u32, Run); 7] = [
    ("websocket message there and back", MANY, |n| relay(Protocol::Http1, &[(UPGRADE, UPGRADED)], FRAME, n)),
    ("tcp bytes there and back", MANY, |n| relay(Protocol::Tcp, &[], FRAME, n)),
    ("hpack grpc request", MANY, hpack),
    ("http2 unary call", MANY, call),
    ("http2 turn", MANY, http2_turn),
    ("change of one endpoint of 10,000", 2, change),
    ("change of all of 10,000 endpoints", 2, change_all),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["list"] => {
            Policy::ALL.iter().for_each(|policy| println!("pick {}\t{MANY}", policy.as_str()));
            TURNS.iter().for_each(|(name, ..)| println!("{name}\t{MANY}"));
            OTHERS.iter().for_each(|(name, n, _)| println!("{name}\t{n}"));
        }
        [name, n] => {
            let n = n.parse().unwrap_or(1);
            if let Some(policy) = Policy::ALL.iter().find(|policy| name.strip_prefix("pick ") == Some(policy.as_str()))
            {
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

/// Others take the place of all endpoints, and the first of them that of these, while sessions are on both.
fn change_all(n: u32) {
    let mut balancer = balancer(Policy::PeakEwma, CHANGED);
    let mut now = Instant::from_nanos(100_000_000_000);
    let mut in_use = vec![published(&mut balancer)];
    for i in 0..n {
        now += Duration::from_secs(1);
        let mut endpoints = specs(2 * CHANGED);
        let others = endpoints.split_off(CHANGED as usize);
        let endpoints = if i % 2 == 0 { others } else { endpoints };
        balancer.handle(Input::Endpoints { source: 0, endpoints }, now);
        in_use.push(published(&mut balancer));
    }
    black_box(in_use);
}

/// A block of these fields.
fn block(encoder: &mut Encoder, fields: &[(&str, &str, Form)]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for (name, value, form) in fields {
        encoder.put(name.as_bytes(), value.as_bytes(), *form, &mut out);
    }
    out
}

/// From the block of one connection to that of another.
fn hpack(n: u32) {
    let (mut theirs, mut decoder, mut encoder) = (Encoder::new(4096), Decoder::default(), Encoder::new(4096));
    // The first one fills the tables.
    let (first, block) = (block(&mut theirs, &CALL), block(&mut theirs, &CALL));
    let (mut fields, mut out) = (Fields::default(), Vec::new());
    let capacity = Capacity { bytes: 64 * 1024, fields: 100 };
    for block in std::iter::once(&first).chain(std::iter::repeat_n(&block, n as usize)) {
        fields.clear();
        out.clear();
        assert_eq!(decoder.decode(black_box(block), capacity, &mut fields), Ok(()));
        fields.iter().for_each(|field| encoder.forward(&field, &mut out));
        black_box(&out);
    }
}

/// One side of a call: what is said on its stream, the stream's number to be filled in.
struct Script {
    bytes: Vec<u8>,
    /// Where the frames begin.
    frames: Vec<usize>,
}

impl Script {
    fn new() -> Self {
        Self { bytes: Vec::new(), frames: Vec::new() }
    }

    fn headers(mut self, block: &[u8], end: bool) -> Self {
        let start = self.bytes.len();
        self.frames.push(start);
        self.bytes.extend_from_slice(&[0; frame::HEADER_BYTES]);
        self.bytes.extend_from_slice(block);
        frame::finish_headers(&mut self.bytes, start, 0, end, frame::DEFAULT_PAYLOAD_BYTES);
        self
    }

    fn data(mut self, data: &[u8], end: bool) -> Self {
        self.frames.push(self.bytes.len());
        frame::put_data(&mut self.bytes, 0, data.len(), end);
        self.bytes.extend_from_slice(data);
        self
    }

    fn on(&mut self, stream: u32) -> &[u8] {
        for at in &self.frames {
            self.bytes[at + 5..at + 9].copy_from_slice(&stream.to_be_bytes());
        }
        black_box(&self.bytes)
    }
}

/// The two streams of a call.
#[derive(Default)]
struct Turn {
    session: Option<StreamKey>,
    link: Option<StreamKey>,
}

/// Passes on what came on one connection to another, of whose streams `onward` is one once there is one.
fn pass(
    (from, back): (&mut Connection, &mut Vec<u8>),
    (to, forth): (&mut Connection, &mut Vec<u8>),
    bytes: &[u8],
    mut onward: Option<StreamKey>,
    now: Instant,
) -> Turn {
    let (mut input, mut back, mut forth) = (bytes, Out::new(back), Out::new(forth));
    let mut session = None;
    while let Some(event) = from.recv(&mut input, &mut back, now) {
        match event {
            Event::Fields { stream, part, fields, end, .. } => {
                session = Some(stream);
                let write = |writer: &mut FieldWriter<'_>| fields.iter().for_each(|field| writer.forward(&field));
                match onward {
                    None => onward = to.request(end, &mut forth, write),
                    Some(onward) => assert!(to.fields(onward, part, end, &mut forth, write)),
                }
            }
            Event::Data { stream, data, end } => {
                let sent = onward.map_or(0, |onward| to.data(onward, data, end, &mut forth, now));
                from.release(stream, sent, &mut back);
            }
            Event::Ready => {}
            other => panic!("{other:?}"),
        }
    }
    // As if it had been written.
    forth.take_tail();
    Turn { session, link: onward }
}

/// A session and a link that have greeted their peers, with what they have to say.
struct Pair {
    session: Connection,
    client: Vec<u8>,
    upstream: Connection,
    link: Vec<u8>,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let (config, now) = (Http2::default(), Instant::from_nanos(1_000_000_000));
        let (mut client, mut link) = (Vec::new(), Vec::new());
        let mut session = Connection::new(Role::Server, &config, &mut Out::new(&mut client), now);
        let mut upstream = Connection::new(Role::Client, &config, &mut Out::new(&mut link), now);
        let mut hello = frame::PREFACE.to_vec();
        frame::put_settings(&mut hello, &[]);
        frame::put_settings_ack(&mut hello);
        frame::put_window_update(&mut hello, 0, 1 << 30);
        pass((&mut session, &mut client), (&mut upstream, &mut link), &hello, None, now);
        let hello = &hello[frame::PREFACE.len()..];
        pass((&mut upstream, &mut link), (&mut session, &mut client), hello, None, now);
        Self { session, client, upstream, link, now }
    }

    /// Calls `turn` with what a client asks and its server answers, so many times and once more.
    fn calls(&mut self, n: u32, mut turn: impl FnMut(&mut Self, &[u8], &mut Script)) {
        let (mut asking, mut answering) = (Encoder::new(4096), Encoder::new(4096));
        // The first ones fill the tables.
        let mut scripts = [(); 2].map(|()| {
            let asks = Script::new().headers(&block(&mut asking, &CALL), false).data(&[7; 64], true);
            let answers = Script::new().headers(&block(&mut answering, &ANSWER), false).data(&[7; 64], false);
            (asks, answers.headers(&block(&mut answering, &STATUS), true))
        });
        for number in 0..=n {
            let (asks, answers) = &mut scripts[usize::from(number > 0)];
            self.client.clear();
            self.link.clear();
            turn(self, asks.on(2 * number + 1), answers);
            black_box((&self.client, &self.link));
        }
        assert_eq!((self.session.open_streams(), self.upstream.open_streams()), (0, 0), "all calls are answered");
    }
}

/// Unary calls from a session to a link and back, through the two engines only.
fn call(n: u32) {
    Pair::new().calls(n, |pair, asked, answers| {
        let Pair { session, client, upstream, link, now } = pair;
        let turn = pass((session, client), (upstream, link), asked, None, *now);
        let answered = answers.on(turn.link.map_or(0, StreamKey::id));
        pass((upstream, link), (session, client), answered, turn.session, *now);
    });
}

/// The same with all that a worker asks of the engine for a turn: it reads the request, keeps it until it is answered,
/// adds who asked, and looks how the call went.
fn http2_turn(n: u32) {
    let address = SocketAddr::from(([127, 0, 0, 1], 8080));
    let (settings, peer) = (Settings::default(), Peer::plain(address, address.into()));
    let mut pair = Pair::new();
    let context = Context::new(&settings, &peer, pair.now);
    let added = Added::of(&context);
    let (mut kept, mut waiting) = (Fields::default(), Vec::new());
    pair.calls(n, |pair, mut asked, answers| {
        let Pair { session, client, upstream, link, now } = pair;
        let (mut here, mut there) = (None, None);
        waiting.clear();
        while let Some(event) = session.recv(&mut asked, &mut Out::new(client), *now) {
            match event {
                Event::Fields { stream, fields, end, .. } => {
                    black_box(Asked::of(fields, &context).is_ok());
                    kept.copy_from(fields);
                    here = Some(stream);
                    there = upstream.request(end, &mut Out::new(link), |writer| {
                        put_request(&kept, &added, None, Default::default(), writer, &context);
                    });
                }
                Event::Data { stream, data, end } => {
                    waiting.extend_from_slice(data);
                    let mut out = Out::new(link);
                    let sent = there.map_or(0, |there| upstream.data(there, &waiting, end, &mut out, *now));
                    out.spill();
                    session.release(stream, sent, &mut Out::new(client));
                }
                other => panic!("{other:?}"),
            }
        }
        let (Some(here), Some(there)) = (here, there) else { panic!("a request was read") };
        let mut answered = answers.on(there.id());
        while let Some(event) = upstream.recv(&mut answered, &mut Out::new(link), *now) {
            match event {
                Event::Fields { part, fields, end, .. } => {
                    black_box(grpc_status(fields));
                    session.fields(here, part, end, &mut Out::new(client), |writer| match part {
                        Part::Trailers => put_trailers(fields, writer),
                        Part::Informational | Part::Head => put_response(fields, false, writer, &settings),
                    });
                }
                Event::Data { stream, data, end } => {
                    let mut out = Out::new(client);
                    let sent = session.data(here, data, end, &mut out, *now);
                    out.spill();
                    upstream.release(stream, sent, &mut Out::new(link));
                }
                other => panic!("{other:?}"),
            }
        }
    });
}
