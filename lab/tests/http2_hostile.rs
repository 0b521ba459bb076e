//! Clients that speak HTTP/2 against its spirit, byte by byte. Each gets the error that is due and is counted;
//! somebody well behaved is served meanwhile, and endpoints see only what is a request.

mod common;

use common::http2::{Heard, Peer, server, value};
use common::{Backend, Proxy, connect, eventually};
use evenkeel_wire::http2::connection::Part;
use evenkeel_wire::http2::error::Code;
use evenkeel_wire::http2::frame::{self, PREFACE};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Types of frames.
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const CONTINUATION: u8 = 9;
/// Flags of HEADERS.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET`, `http`, `/`, and `a` as the authority.
const GET: &[u8] = b"\x82\x86\x84\x41\x01a";

/// A server that answers `/well`, and nothing else ever.
fn reluctant() -> Backend {
    server(|peer, _| {
        loop {
            match peer.hear() {
                Heard::Fields(stream, _, fields, _) if value(&fields, ":path") == "/well" => {
                    peer.answer(stream, "200", "well");
                }
                Heard::Over => return,
                _ => {}
            }
        }
    })
}

fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A field that is not indexed and not compressed.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0, name.len() as u8];
    field.extend_from_slice(name.as_bytes());
    field.push(value.len() as u8);
    field.extend_from_slice(value.as_bytes());
    field
}

/// A connection that says this after its preface.
fn client(proxy: &Proxy, says: &[u8]) -> TcpStream {
    let mut stream = connect(proxy.addr);
    let mut bytes = PREFACE.to_vec();
    frame::put_settings(&mut bytes, &[]);
    bytes.extend_from_slice(says);
    // It may be shown the door before it has said everything.
    let _cut = stream.write_all(&bytes);
    stream
}

/// What the proxy says: frames by type and stream, with payload, until the end or until `enough`.
fn frames(stream: &mut TcpStream, enough: impl Fn(u8, u32) -> bool) -> Vec<(u8, u32, Vec<u8>)> {
    let mut heard = Vec::new();
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        if stream.read_exact(&mut payload).is_err() {
            break;
        }
        heard.push((head[3], id, payload));
        if enough(head[3], id) {
            break;
        }
    }
    heard
}

/// The code of the GOAWAY that ends the connection.
fn goaway(stream: &mut TcpStream) -> Option<u32> {
    const GOAWAY: u8 = 7;
    let heard = frames(stream, |kind, _| kind == GOAWAY);
    let (_, _, payload) = heard.into_iter().find(|&(kind, ..)| kind == GOAWAY)?;
    Some(u32::from_be_bytes(payload[4..8].try_into().expect("four bytes")))
}

/// The code of the reset of a stream.
fn reset(stream: &mut TcpStream, id: u32) -> Option<u32> {
    const RST_STREAM: u8 = 3;
    let heard = frames(stream, |kind, of| kind == RST_STREAM && of == id);
    let (_, _, payload) = heard.into_iter().find(|&(kind, of, _)| kind == RST_STREAM && of == id)?;
    Some(u32::from_be_bytes(payload[..4].try_into().expect("four bytes")))
}

fn is_served(client: &mut Peer) {
    let stream = client.get("/well");
    assert_eq!(client.whole(stream).1, "well");
}

#[test]
fn who_keeps_us_busy_is_told_to_calm_down_and_nobody_else_notices() {
    let backend = reluctant();
    let proxy = Proxy::start(&[backend.addr]);
    let mut other = Peer::client(proxy.addr);
    is_served(&mut other);
    let many = |count: u32, each: &dyn Fn(&mut Vec<u8>, u32)| {
        let mut bytes = Vec::new();
        (0..count).for_each(|n| each(&mut bytes, n));
        bytes
    };
    let upload = |bytes: &mut Vec<u8>| put(bytes, HEADERS, END_HEADERS, 1, GET);
    let floods = [
        (
            "resets",
            many(200, &|bytes, n| {
                put(bytes, HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, GET);
                frame::put_reset(bytes, 2 * n + 1, Code::CANCEL);
            }),
        ),
        ("settings", many(200, &|bytes, n| frame::put_settings(bytes, &[(1, n)]))),
        ("pings", many(200, &|bytes, n| frame::put_ping(bytes, u64::from(n).to_be_bytes(), false))),
        (
            "empty-frames",
            many(200, &|bytes, n| {
                if n == 0 {
                    upload(bytes);
                }
                frame::put_data(bytes, 1, 0, false);
            }),
        ),
        ("window-updates", many(1_100, &|bytes, _| frame::put_window_update(bytes, 0, 1))),
        ("priorities", many(200, &|bytes, n| put(bytes, PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 16]))),
        (
            "continuations",
            many(100, &|bytes, n| match n {
                0 => put(bytes, HEADERS, 0, 1, &GET[..3]),
                _ => put(bytes, CONTINUATION, 0, 1, &literal("a", "b")),
            }),
        ),
    ];
    for (kind, bytes) in floods {
        let mut stream = client(&proxy, &bytes);
        assert_eq!(goaway(&mut stream), Some(Code::ENHANCE_YOUR_CALM.0), "{kind}");
        is_served(&mut other);
        eventually(kind, || proxy.metric("evenkeel_http2_floods_total", &format!("kind=\"{kind}\"")) == 1.0);
    }
    eventually("their streams are over", || proxy.service()["endpoints"][0]["turns_in_flight"] == 0);
    assert_eq!(proxy.metric("evenkeel_http2_floods_total", "peer=\"client\""), 7.0);
    assert_eq!(proxy.metric("evenkeel_session_ends_total", "client-limit"), 7.0);
}

#[test]
fn a_block_that_does_not_end_is_not_waited_for() {
    let backend = reluctant();
    let proxy = Proxy::with(&[backend.addr], |service| service.timeouts.header = Duration::from_millis(200));
    let mut bytes = Vec::new();
    put(&mut bytes, HEADERS, END_STREAM, 1, GET);
    assert_eq!(goaway(&mut client(&proxy, &bytes)), Some(Code::ENHANCE_YOUR_CALM.0));
    eventually("it is counted", || proxy.metric("evenkeel_http2_floods_total", "continuations") == 1.0);
    eventually("its end is", || proxy.metric("evenkeel_session_ends_total", "client-limit") == 1.0);
}

#[test]
fn what_breaks_a_connection_breaks_that_one() {
    let backend = reluctant();
    let proxy = Proxy::start(&[backend.addr]);
    let mut other = Peer::client(proxy.addr);
    let frame = |kind, flags, stream, payload: &[u8]| {
        let mut bytes = Vec::new();
        put(&mut bytes, kind, flags, stream, payload);
        bytes
    };
    let settings = |parameter, value| {
        let mut bytes = Vec::new();
        frame::put_settings(&mut bytes, &[(parameter, value)]);
        bytes
    };
    let updates = |stream, increments: &[u32]| {
        let mut bytes = Vec::new();
        put(&mut bytes, HEADERS, END_HEADERS, 1, GET);
        increments.iter().for_each(|&n| frame::put_window_update(&mut bytes, stream, n));
        bytes
    };
    let most = (1 << 31) - 1;
    let whole = END_HEADERS | END_STREAM;
    for (what, bytes, code) in [
        ("a table larger than allowed", frame(HEADERS, whole, 1, &[b"\x3f\xff\xff\x3f", GET].concat()), 9),
        ("an index that is none", frame(HEADERS, whole, 1, &[0xff, 0x80, 0x01]), 9),
        ("an integer without end", frame(HEADERS, whole, 1, &[0xff; 40]), 9),
        ("a code of Huffman that is none", frame(HEADERS, whole, 1, b"\x82\x86\x84\x41\x84\xff\xff\xff\xff"), 9),
        ("a window beyond its bounds", updates(0, &[most]), 3),
        ("a first window beyond them", settings(4, 1 << 31), 3),
        ("no increment", updates(0, &[0]), 1),
        ("a frame larger than agreed", frame(0, 0, 1, &[0; 16_385]), 6),
        ("a frame size that may not be", settings(5, 1), 1),
        ("data of no stream", frame(0, 0, 0, b"x"), 1),
        ("data of a stream that never was", frame(0, 0, 7, b"x"), 1),
        ("a stream of the server's numbers", frame(HEADERS, whole, 2, GET), 1),
        ("padding that is longer than its frame", frame(0, 8, 1, b"\xffx"), 1),
        ("a fragment of nothing", frame(CONTINUATION, END_HEADERS, 1, GET), 1),
        ("a push from a client", frame(5, END_HEADERS, 1, &[0, 0, 0, 2]), 1),
    ] {
        assert_eq!(goaway(&mut client(&proxy, &bytes)), Some(code), "{what}");
        is_served(&mut other);
    }
}

#[test]
fn a_small_block_that_becomes_a_large_list_is_one_request_too_large() {
    let backend = reluctant();
    let proxy = Proxy::start(&[backend.addr]);
    // A field of 3,900 bytes goes into the table, and is then said sixty times with one byte each.
    let mut block = [GET, b"\x40\x01a\x7f\xbd\x1d"].concat();
    block.extend_from_slice(&[b'x'; 3_900]);
    block.extend_from_slice(&[0xbe; 60]);
    let mut bytes = Vec::new();
    put(&mut bytes, HEADERS, END_HEADERS | END_STREAM, 1, &block);
    let mut stream = client(&proxy, &bytes);
    let heard = frames(&mut stream, |kind, id| kind == HEADERS && id == 1);
    let (_, _, head) = heard.last().expect("an answer");
    assert!(head.windows(3).any(|w| w == b"431") || head.first() == Some(&0x48), "{head:?}");
    assert_eq!(proxy.metric("evenkeel_limit_hits_total", "header_bytes"), 1.0);
    assert_eq!(backend.connections(), 0);
}

#[test]
fn who_never_opens_a_window_is_not_waited_for() {
    let body: &'static str = Box::leak("x".repeat(100_000).into_boxed_str());
    let large = server(move |peer, _| {
        loop {
            match peer.hear() {
                Heard::Fields(stream, ..) => {
                    peer.fields(stream, Part::Head, &[(":status", "200")], false);
                    peer.data(stream, body.as_bytes(), true);
                }
                Heard::Over => return,
                _ => {}
            }
        }
    });
    let proxy = Proxy::with(&[large.addr], |service| service.timeouts.stall = Duration::from_millis(200));
    let mut bytes = Vec::new();
    frame::put_settings(&mut bytes, &[(4, 0)]);
    put(&mut bytes, HEADERS, END_HEADERS | END_STREAM, 1, GET);
    assert_eq!(reset(&mut client(&proxy, &bytes), 1), Some(Code::CANCEL.0));
    eventually("nothing is under way", || proxy.service()["endpoints"][0]["turns_in_flight"] == 0);
}

#[test]
fn nothing_that_is_no_request_reaches_an_endpoint() {
    let backend = reluctant();
    let proxy = Proxy::start(&[backend.addr]);
    let mut other = Peer::client(proxy.addr);
    is_served(&mut other);
    let with = |fields: &[(&str, &str)]| {
        let more: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
        [GET, &more].concat()
    };
    let only = |fields: &[(&str, &str)]| fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
    let (method, scheme, path) = ((":method", "GET"), (":scheme", "http"), (":path", "/"));
    let blocks: [(&str, Vec<u8>); 32] = [
        ("a line end in a value", with(&[("a", "b\r\nhost: c")])),
        ("a NUL in a value", with(&[("a", "b\0c")])),
        ("a line end in a name", with(&[("a\r\nb", "c")])),
        ("a colon in a name", with(&[("a:b", "c")])),
        ("a blank in a name", with(&[("a b", "c")])),
        ("a capital in a name", with(&[("Host", "a")])),
        ("no name", with(&[("", "a")])),
        ("Connection", with(&[("connection", "close")])),
        ("Keep-Alive", with(&[("keep-alive", "1")])),
        ("Proxy-Connection", with(&[("proxy-connection", "close")])),
        ("Transfer-Encoding", with(&[("transfer-encoding", "chunked")])),
        ("Upgrade", with(&[("upgrade", "websocket")])),
        ("TE of more than trailers", with(&[("te", "trailers, gzip")])),
        ("another host", with(&[("host", "b")])),
        ("two lengths", with(&[("content-length", "0"), ("content-length", "1")])),
        ("a length that is none", with(&[("content-length", "+0")])),
        ("a length without a body", with(&[("content-length", "5")])),
        ("an unknown pseudo-field", with(&[(":x", "a")])),
        ("a pseudo-field behind others", with(&[("a", "b"), (":path", "/b")])),
        ("a status from a client", with(&[(":status", "200")])),
        ("two paths", with(&[(":path", "/b")])),
        ("no path", only(&[method, scheme, (":authority", "a")])),
        ("an empty path", only(&[method, scheme, (":path", ""), (":authority", "a")])),
        ("a path with a blank", only(&[method, scheme, (":path", "/ HTTP/1.1"), (":authority", "a")])),
        ("a path with a line end", only(&[method, scheme, (":path", "/\r\nx: y"), (":authority", "a")])),
        ("a path without a slash", only(&[method, scheme, (":path", "x"), (":authority", "a")])),
        ("no method", only(&[scheme, path, (":authority", "a")])),
        ("a method with a blank", only(&[(":method", "GET /x"), scheme, path, (":authority", "a")])),
        ("no scheme", only(&[method, path, (":authority", "a")])),
        ("an authority with a user", only(&[method, scheme, path, (":authority", "u@a")])),
        ("an authority with a path", only(&[method, scheme, path, (":authority", "a/b")])),
        ("an authority with a line end", only(&[method, scheme, path, (":authority", "a\r\nb")])),
    ];
    let served = 1 + blocks.len();
    for (what, block) in blocks {
        let mut bytes = Vec::new();
        put(&mut bytes, HEADERS, END_HEADERS | END_STREAM, 1, &block);
        let mut stream = client(&proxy, &bytes);
        assert_eq!(reset(&mut stream, 1), Some(Code::PROTOCOL_ERROR.0), "{what}");
        // The connection goes on.
        bytes.clear();
        put(&mut bytes, HEADERS, END_HEADERS | END_STREAM, 3, &[&GET[..2], b"\x04\x05/well\x41\x01a"].concat());
        stream.write_all(&bytes).expect("sent");
        let heard = frames(&mut stream, |kind, id| kind == 0 && id == 3);
        assert_eq!(heard.last().map(|(_, _, data)| &data[..]), Some(&b"well"[..]), "{what}");
    }
    assert_eq!(proxy.service()["endpoints"][0]["turns"], served, "and no other");
    // A body that is longer than announced, and one that is shorter.
    for sent in [b"123456".as_slice(), b"1234"] {
        let mut bytes = Vec::new();
        put(&mut bytes, HEADERS, END_HEADERS, 1, &with(&[("content-length", "5")]));
        put(&mut bytes, 0, END_STREAM, 1, sent);
        assert_eq!(reset(&mut client(&proxy, &bytes), 1), Some(Code::PROTOCOL_ERROR.0));
    }
    eventually("nothing is under way", || proxy.service()["endpoints"][0]["turns_in_flight"] == 0);
}
