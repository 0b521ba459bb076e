//! What becomes of every kind of frame, valid or not: the cases of the Autobahn test suite that concern a
//! relay, by their numbers, in both directions and in pieces of several sizes; and where a Close of ours may
//! stand.

use crate::http1::plain;
use crate::websocket::{SWITCH, UPGRADE};
use crate::world::{Event, World};
use evenkeel_core::end::Cause;
use evenkeel_wire::session::Leave;

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;

const PIECES: [usize; 5] = [1, 2, 3, 7, usize::MAX];

/// A frame: its first byte and its payload.
#[derive(Clone, Debug)]
struct Frame(u8, Vec<u8>);

impl Frame {
    fn bytes(&self, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let length = self.1.len();
        let mut out = vec![self.0];
        match length {
            0..126 => out.push(mask | length as u8),
            126..65_536 => {
                out.push(mask | 126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                out.push(mask | 127);
                out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        let key = if masked { [0x11, 0x22, 0x33, 0x44] } else { [0; 4] };
        if masked {
            out.extend_from_slice(&key);
        }
        out.extend(self.1.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        out
    }
}

fn frame(first: u8, payload: impl AsRef<[u8]>) -> Frame {
    Frame(first, payload.as_ref().to_vec())
}

fn sized(first: u8, length: usize) -> Frame {
    frame(first, vec![b'*'; length])
}

fn close(code: u16, reason: &str) -> Frame {
    frame(FIN | CLOSE, [&code.to_be_bytes()[..], reason.as_bytes()].concat())
}

fn bytes(frames: &[Frame], masked: bool) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.bytes(masked)).collect()
}

/// A session behind its handshake.
struct Open {
    world: World,
    heard: usize,
    asked: usize,
}

impl Open {
    fn new() -> Self {
        let mut world = World::with(plain());
        world.happen(Event::Client(UPGRADE.as_bytes()));
        world.happen(Event::Opened);
        world.happen(Event::Link(SWITCH.as_bytes()));
        let (heard, asked) = (world.to_client.len(), world.links[0].len());
        Self { world, heard, asked }
    }

    fn feed(&mut self, bytes: &[u8], from_client: bool, size: usize) {
        for piece in bytes.chunks(size.min(bytes.len().max(1))) {
            self.world.happen(if from_client { Event::Client(piece) } else { Event::Link(piece) });
        }
    }

    /// What the client got since the handshake.
    fn to_client(&self) -> &[u8] {
        &self.world.to_client[self.heard..]
    }

    /// What the endpoint got since the handshake.
    fn to_link(&self) -> &[u8] {
        &self.world.links[0][self.asked..]
    }

    /// What the one got that did not send.
    fn other(&self, from_client: bool) -> &[u8] {
        if from_client { self.to_link() } else { self.to_client() }
    }
}

/// Case numbers, and frames that the other end gets as they are.
fn relayed() -> Vec<(String, Vec<Frame>)> {
    let mut cases: Vec<(String, Vec<Frame>)> = Vec::new();
    let mut case = |name: &str, frames: Vec<Frame>| cases.push((name.to_owned(), frames));
    for (i, length) in [0, 125, 126, 127, 128, 65_535, 65_536].into_iter().enumerate() {
        case(&format!("1.1.{} text", i + 1), vec![sized(FIN | TEXT, length)]);
        case(&format!("1.2.{} binary", i + 1), vec![sized(FIN | BINARY, length)]);
        case(&format!("12.1.{} compressed", i + 1), vec![sized(FIN | RSV1 | TEXT, length)]);
    }
    for (name, frames) in [
        ("2.1 ping of nothing", vec![frame(FIN | PING, "")]),
        ("2.2 ping of text", vec![frame(FIN | PING, "Hello, world!")]),
        ("2.3 ping of bytes", vec![frame(FIN | PING, [0x00, 0xFF, 0xFE, 0xFD, 0xFC, 0xFB, 0x00, 0xFF])]),
        ("2.4 ping of 125", vec![sized(FIN | PING, 125)]),
        ("2.5 ping of 126, too long", vec![sized(FIN | PING, 126)]),
        ("2.7 pong that nobody asked for", vec![frame(FIN | PONG, "")]),
        ("2.8 the same, with a payload", vec![frame(FIN | PONG, "unsolicited")]),
        ("2.9 pong, then ping", vec![frame(FIN | PONG, "x"), frame(FIN | PING, "y")]),
        ("2.10 ten pings", (0..10).map(|i| frame(FIN | PING, [i])).collect()),
        ("5.1 ping in two fragments", vec![frame(PING, "a"), frame(FIN, "b")]),
        ("5.2 pong in two fragments", vec![frame(PONG, "a"), frame(FIN, "b")]),
        ("5.3 text in two fragments", vec![frame(TEXT, "a"), frame(FIN, "b")]),
        ("5.6 a ping between them", vec![frame(TEXT, "a"), frame(FIN | PING, "p"), frame(FIN, "b")]),
        ("5.9 a last fragment of nothing", vec![frame(FIN, "a"), frame(FIN | TEXT, "b")]),
        ("5.12 a fragment of nothing", vec![frame(0, "a"), frame(FIN | TEXT, "b")]),
        (
            "5.15 a fragment behind the last",
            vec![frame(TEXT, "a"), frame(FIN, "b"), frame(0, "c"), frame(FIN | TEXT, "d")],
        ),
        ("5.18 a message inside a message", vec![frame(TEXT, "a"), frame(FIN | TEXT, "b")]),
        (
            "5.19 pings between five fragments",
            vec![
                frame(TEXT, "a"),
                frame(0, "b"),
                frame(FIN | PING, "p"),
                frame(0, "c"),
                frame(0, "d"),
                frame(FIN | PING, "q"),
                frame(FIN, "e"),
            ],
        ),
        ("6.1.2 fragments of nothing", vec![frame(TEXT, ""), frame(0, ""), frame(FIN, "")]),
        ("6.3.1 text that is no UTF-8", vec![frame(FIN | TEXT, b"\xce\xba\xed\xa0\x80edited")]),
        ("6.4.1 the same, in fragments", vec![frame(TEXT, b"\xce\xba\xf4"), frame(0, b"\x90\x80"), frame(FIN, "x")]),
        ("13.3.1 compressed, in fragments", vec![sized(RSV1 | TEXT, 300), sized(0, 200), sized(FIN, 100)]),
        ("13.3.2 a continuation that says it is compressed", vec![sized(TEXT, 3), sized(FIN | RSV1, 3)]),
        ("13.3.3 a ping that says it is compressed", vec![sized(FIN | RSV1 | PING, 3)]),
    ] {
        case(name, frames);
    }
    for rsv in 1..8u8 {
        let name = format!("3.{rsv} reserved bits {rsv}");
        case(&name, vec![frame(FIN | TEXT, "a"), frame(FIN | rsv << 4 | TEXT, "b"), frame(FIN | PING, "")]);
    }
    for opcode in (3..8).chain(11..16) {
        let name = format!("4.{}.{opcode} reserved opcode", if opcode < 8 { 1 } else { 2 });
        case(&name, vec![frame(FIN | TEXT, "a"), frame(FIN | opcode, "b"), frame(FIN | PING, "")]);
    }
    let fragments = |length: usize, of: usize| -> Vec<Frame> {
        let count = length.div_ceil(of);
        (0..count)
            .map(|i| {
                let first = if i == 0 { BINARY } else { 0 } | if i + 1 == count { FIN } else { 0 };
                sized(first, of.min(length - i * of))
            })
            .collect()
    };
    case("9.2.3 a megabyte", vec![sized(FIN | BINARY, 1 << 20)]);
    case("9.4.1 a quarter of a megabyte in fragments of 64", fragments(1 << 18, 64));
    case("9.7.1 a thousand messages", (0..1_000).map(|_| sized(FIN | TEXT, 16)).collect());
    case("10.1.1 fragments of 1,300", fragments(65_536, 1_300));
    cases
}

#[test]
fn frames_are_relayed_as_they_are_and_judged_by_the_other_end() {
    for (name, frames) in relayed() {
        for from_client in [true, false] {
            let sent = bytes(&frames, from_client);
            for size in PIECES {
                // Large ones in large pieces: what matters is where their frames begin.
                let size = if sent.len() > 100_000 { size.max(997) } else { size };
                let mut open = Open::new();
                open.feed(&sent, from_client, size);
                assert!(open.other(from_client) == sent, "{name}, from client: {from_client}, pieces of {size}");
                assert!(open.other(!from_client).is_empty() && open.world.over.is_none(), "{name}");
                // In step, both ways.
                for from_client in [true, false] {
                    let more = frame(FIN | TEXT, "more").bytes(from_client);
                    open.feed(&more, from_client, size);
                    assert!(open.other(from_client).ends_with(&more), "{name}: out of step");
                }
            }
        }
    }
}

#[test]
fn masks_that_are_missing_or_too_many_are_relayed() {
    // RFC 6455, section 5.1, has the receiver close; the boundary is the same with and without.
    for from_client in [true, false] {
        let sent = [frame(FIN | TEXT, "wrong").bytes(!from_client), frame(FIN | TEXT, "right").bytes(from_client)];
        for size in PIECES {
            let mut open = Open::new();
            open.feed(&sent.concat(), from_client, size);
            assert_eq!(open.other(from_client), sent.concat());
        }
    }
}

/// Closes, valid or not, each followed by what must not be heard any more.
fn closes() -> Vec<(String, Vec<Frame>, Frame, Vec<Frame>)> {
    let after = |frames: &[Frame]| frames.to_vec();
    let end = || close(1000, "");
    let mut cases = vec![
        ("7.1.1 a close".to_owned(), vec![frame(FIN | TEXT, "a")], end(), vec![]),
        ("7.1.2 two".into(), vec![], end(), after(&[end()])),
        ("7.1.3 a ping behind it".into(), vec![], end(), after(&[frame(FIN | PING, "")])),
        ("7.1.4 a message behind it".into(), vec![], end(), after(&[frame(FIN | TEXT, "a")])),
        ("7.1.5 inside a message".into(), vec![frame(TEXT, "a")], end(), after(&[frame(FIN, "b")])),
        ("7.3.1 without a code".into(), vec![], frame(FIN | CLOSE, ""), vec![]),
        ("7.3.2 with half a code".into(), vec![], frame(FIN | CLOSE, "x"), vec![]),
        ("7.3.4 with a reason".into(), vec![], close(1000, "Hello World!"), vec![]),
        ("7.3.5 with a reason of 123".into(), vec![], close(1000, &"*".repeat(123)), vec![]),
        ("7.3.6 with a reason of 124, too long".into(), vec![], close(1000, &"*".repeat(124)), vec![]),
        (
            "7.5.1 with a reason that is no UTF-8".into(),
            vec![],
            frame(FIN | CLOSE, b"\x03\xe8\xce\xba\xed\xa0"),
            vec![],
        ),
        ("not the last fragment".into(), vec![], frame(CLOSE, b"\x03\xe8"), after(&[frame(FIN, "x")])),
        ("with reserved bits".into(), vec![], frame(FIN | RSV1 | CLOSE, b"\x03\xe8"), vec![]),
    ];
    let valid = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    let invalid = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535];
    cases.extend(
        valid
            .into_iter()
            .chain(invalid)
            .map(|code| (format!("7.7, 7.9, 7.13 code {code}"), vec![], close(code, ""), vec![])),
    );
    cases
}

#[test]
fn closes_are_relayed_whatever_they_say_and_nothing_behind_them() {
    for (name, before, end, behind) in closes() {
        for from_client in [true, false] {
            let heard = [bytes(&before, from_client), end.bytes(from_client)].concat();
            let sent = [&heard[..], &bytes(&behind, from_client)].concat();
            for size in PIECES {
                let mut open = Open::new();
                open.feed(&sent, from_client, size);
                assert_eq!(open.other(from_client), heard, "{name}, from client: {from_client}, pieces of {size}");
                // The other direction goes on until its own Close.
                let answer =
                    [frame(FIN | TEXT, "last").bytes(!from_client), close(1000, "").bytes(!from_client)].concat();
                open.feed(&answer, !from_client, size);
                assert_eq!(open.other(!from_client), answer, "{name}");
                open.world.happen(Event::LinkEof);
                open.world.happen(Event::ClientEof);
                let (end, abort) = open.world.over.expect(&name);
                assert_eq!((end.cause, abort), (Cause::Done, false), "{name}");
            }
        }
    }
}

#[test]
fn lengths_that_have_two_readings_are_refused_and_both_ends_are_told() {
    let long = |length: u64| [&[127][..], &length.to_be_bytes()].concat();
    let short = |length: u16| [&[126][..], &length.to_be_bytes()].concat();
    for (name, length) in [
        ("125 in two bytes", short(125)),
        ("0 in two bytes", short(0)),
        ("65,535 in eight bytes", long(65_535)),
        ("0 in eight bytes", long(0)),
        ("2^63", long(1 << 63)),
        ("2^64 - 1", long(u64::MAX)),
    ] {
        for (first, fragment) in [(FIN | BINARY, false), (0, true), (FIN | PING, false), (FIN | CLOSE, false)] {
            for from_client in [true, false] {
                // What comes before it is passed on.
                let before = frame(if fragment { TEXT } else { FIN | TEXT }, "before").bytes(from_client);
                let mut header = [&[first][..], &length].concat();
                if from_client {
                    header[1] |= 0x80;
                }
                let sent = [&before[..], &header, b"\x88\x02\x03\xe8\x81\x04evil"].concat();
                for size in PIECES {
                    let place = format!("{name}, first byte {first:#x}, from client: {from_client}, pieces of {size}");
                    let mut open = Open::new();
                    open.feed(&sent, from_client, size);
                    let code = |close: &[u8]| u16::from_be_bytes([close[2], close[3]]);
                    if from_client {
                        let link = open.to_link();
                        assert!(link.starts_with(&before), "{place}");
                        assert_eq!(close_code(&link[before.len()..]), 1002, "{place}");
                        assert_eq!(code(open.to_client()), 1002, "{place}");
                        let (end, abort) = open.world.over.expect(&place);
                        assert_eq!((end.cause, abort), (Cause::ClientProtocol, false), "{place}");
                    } else {
                        let client = open.to_client().to_vec();
                        assert!(client.starts_with(&before), "{place}");
                        assert_eq!(code(&client[before.len()..]), 1011, "{place}");
                        open.feed(&close(1011, "").bytes(true), true, size);
                        let (end, abort) = open.world.over.expect(&place);
                        assert_eq!((end.cause, abort), (Cause::EndpointProtocol, false), "{place}");
                        assert_eq!(open.to_client(), client, "{place}: nothing behind a Close");
                    }
                }
            }
        }
    }
}

/// The code of one masked Close, which is all there is.
fn close_code(masked: &[u8]) -> u16 {
    let &[0x88, 0x82, a, b, _, _, high, low] = masked else { panic!("no Close: {masked:?}") };
    u16::from_be_bytes([high ^ a, low ^ b])
}

/// Where frames and messages of a direction begin and end, by another reader than the engine's.
struct Boundaries {
    /// Ends of frames, 0 included.
    frames: Vec<usize>,
    /// Ends of messages (a control frame between two messages is none, but nothing is under way behind it).
    messages: Vec<usize>,
    /// Lengths of headers, by where they begin.
    headers: Vec<(usize, usize)>,
}

impl Boundaries {
    fn of(frames: &[Frame]) -> Self {
        let mut found = Self { frames: vec![0], messages: vec![0], headers: Vec::new() };
        let (mut at, mut under_way) = (0, false);
        for frame in frames {
            let length = frame.bytes(false).len();
            found.headers.push((at, length - frame.1.len()));
            at += length;
            if frame.0 & 0xF < CLOSE {
                under_way = frame.0 & FIN == 0;
            }
            found.frames.push(at);
            if !under_way {
                found.messages.push(at);
            }
        }
        found
    }

    /// How much of the first `at` bytes is passed on: not the beginning of a header.
    fn passed(&self, at: usize) -> usize {
        let begun = self.headers.iter().find(|(begin, length)| (begin + 1..begin + length).contains(&at));
        begun.map_or(at, |(begin, _)| *begin)
    }

    fn next(ends: &[usize], at: usize) -> usize {
        *ends.iter().find(|end| **end >= at).expect("an end")
    }
}

/// A message, compressed and in fragments, with a Ping inside and a second one behind it.
fn conversation() -> Vec<Frame> {
    vec![
        sized(RSV1 | TEXT, 5),
        sized(FIN | PING, 3),
        sized(0, 130),
        sized(0, 0),
        sized(FIN, 4),
        sized(FIN | RSV1 | BINARY, 6),
        sized(FIN | PONG, 0),
        sized(FIN | TEXT, 2),
    ]
}

#[test]
fn our_close_stands_behind_a_whole_message_wherever_it_is_asked_for() {
    let frames = conversation();
    let (sent, ends) = (bytes(&frames, false), Boundaries::of(&frames));
    for at in 0..=sent.len() {
        for size in PIECES {
            let mut open = Open::new();
            open.feed(&sent[..at], false, size);
            open.world.happen(Event::Leave(Leave::Move));
            // What is left comes just in time.
            open.world.happen(Event::Wait(1_999));
            open.feed(&sent[at..], false, size);
            let end = Boundaries::next(&ends.messages, ends.passed(at));
            let expected = [&sent[..end], &farewell()].concat();
            assert_eq!(open.to_client(), expected, "asked for at {at}, pieces of {size}");
            // What the client says until it answers reaches the endpoint, and its answer ends it.
            let last = [frame(FIN | TEXT, "bye").bytes(true), close(1012, "").bytes(true)].concat();
            open.feed(&last, true, size);
            assert_eq!(open.to_link(), last);
            open.world.happen(Event::LinkEof);
            assert_eq!(open.world.over.map(|(end, abort)| (end.cause, abort)), Some((Cause::Moved, false)));
            assert_eq!(open.to_client(), expected, "nothing behind a Close");
        }
    }
}

#[test]
fn our_close_stands_behind_a_whole_frame_when_the_message_does_not_end_in_time() {
    let frames = conversation();
    let (sent, ends) = (bytes(&frames, false), Boundaries::of(&frames));
    for at in 0..=sent.len() {
        for size in PIECES {
            let mut open = Open::new();
            open.feed(&sent[..at], false, size);
            open.world.happen(Event::Leave(Leave::Move));
            open.world.happen(Event::Wait(2_000));
            open.feed(&sent[at..], false, size);
            let passed = ends.passed(at);
            let message = Boundaries::next(&ends.messages, passed);
            let end = if message == passed { passed } else { Boundaries::next(&ends.frames, passed) };
            let expected = [&sent[..end], &farewell()].concat();
            assert_eq!(open.to_client(), expected, "asked for at {at}, pieces of {size}");
        }
    }
}

#[test]
fn a_frame_that_does_not_end_in_time_is_cut_and_never_followed_by_a_close() {
    let frames = conversation();
    let (sent, ends) = (bytes(&frames, false), Boundaries::of(&frames));
    for at in (0..=sent.len()).filter(|at| !ends.frames.contains(&ends.passed(*at))) {
        let mut open = Open::new();
        open.feed(&sent[..at], false, usize::MAX);
        open.world.happen(Event::Leave(Leave::Move));
        open.world.happen(Event::Wait(2_000));
        open.world.happen(Event::Wait(5_000));
        assert_eq!(open.to_client(), &sent[..at], "asked for at {at}");
        assert_eq!(open.world.over.map(|(end, abort)| (end.cause, abort)), Some((Cause::Moved, true)), "{at}");
    }
}

/// Our Close of a move.
fn farewell() -> Vec<u8> {
    close(1012, "come back, to another endpoint").bytes(false)
}
