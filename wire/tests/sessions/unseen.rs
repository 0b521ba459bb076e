//! Payload that does not come through the session: it says what may pass, and nobody can tell afterwards
//! what did.

use crate::world::{Event, World};
use evenkeel_core::end::{Cause, Limit};
use evenkeel_wire::session::{Leave, Protocol, Settings};
use proptest::prelude::*;

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A head, and the size of a chunk.
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n";

/// What passes of what comes behind the head of an answer, when a client that speaks HTTP/1.`minor` has asked.
fn passed_of(minor: u8, head: &[u8], body: &[u8]) -> u64 {
    let mut world = World::new(Protocol::Http1);
    world.unseen = vec![u64::MAX];
    world.happen(Event::Client(format!("GET / HTTP/1.{minor}\r\nHost: a\r\n\r\n").as_bytes()));
    world.happen(Event::Opened);
    world.happen(Event::Link(head));
    world.happen(Event::Link(body));
    world.happen(Event::LinkEof);
    assert!(world.over.is_none_or(|(end, _)| end.cause == Cause::Done), "{:?}", world.over);
    world.passed
}

#[test]
fn content_that_is_sent_on_as_it_came_may_pass() {
    assert_eq!(passed_of(1, b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", b"content"), 7);
    // The end of the connection is its end, for a client that knows no chunks.
    assert_eq!(passed_of(0, b"HTTP/1.1 200 OK\r\n\r\n", b"content"), 7);
    // Such a client gets what is in the chunks.
    assert_eq!(passed_of(0, CHUNKED, b"content\r\n0\r\n\r\n"), 7);
}

#[test]
fn what_gets_other_framing_must_be_seen() {
    assert_eq!(passed_of(1, b"HTTP/1.1 200 OK\r\n\r\n", b"content"), 0);
    assert_eq!(passed_of(1, CHUNKED, b"content\r\n0\r\n\r\n"), 0);
}

#[test]
fn the_next_request_is_seen() {
    let mut world = World::new(Protocol::Http1);
    world.unseen = vec![u64::MAX];
    world.happen(Event::Client(b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\n"));
    world.happen(Event::Opened);
    world.happen(Event::Client(b"contentGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(world.passed, 7);
    world.happen(Event::Link(b"HTTP/1.1 204 No Content\r\n\r\n"));
    assert!(world.wanted, "a link for the second request");
    world.happen(Event::Opened);
    assert!(world.links[1].starts_with(b"GET /2 HTTP/1.1\r\n"));
}

#[test]
fn a_body_that_became_too_large_unseen_is_refused() {
    let mut world = World::with(Settings { protocol: Protocol::Http1, body_bytes: Some(10), ..Settings::default() });
    world.unseen = vec![4];
    world.happen(Event::Client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"));
    world.happen(Event::Opened);
    world.happen(Event::Client(b"1234"));
    // The limit was lowered meanwhile.
    world.change(|settings| settings.body_bytes = Some(6));
    world.happen(Event::Client(b"5678"));
    assert_eq!(world.limit, Some(Limit::BodyBytes));
    assert!(world.to_client.starts_with(b"HTTP/1.1 413 "));
}

#[test]
fn payload_of_frames_passes_and_their_headers_do_not() {
    let mut world = World::new(Protocol::Auto);
    world.unseen = vec![u64::MAX];
    world.happen(Event::Client(UPGRADE));
    world.happen(Event::Opened);
    world.happen(Event::Link(SWITCHED));
    world.happen(Event::Link(b"\x82\x05hel"));
    assert_eq!(world.passed, 0, "it came with its header");
    world.happen(Event::Link(b"lo\x82\x03you"));
    assert_eq!(world.passed, 2);
    // Between two frames is room for a Close; that which follows a frame of which a part passed.
    world.happen(Event::Link(b"\x82\x05hel"));
    world.happen(Event::Leave(Leave::Move));
    world.happen(Event::Link(b"lo"));
    let end = &world.to_client[world.to_client.len() - 4 - "come back, to another endpoint".len()..];
    assert_eq!(&end[..4], b"\x88\x20\x03\xF4");
}

/// Pieces that bring a session to where something may pass, and beyond.
const CLIENT: [&[u8]; 8] = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345GET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1E\r\n",
    UPGRADE,
    b"\x82\xFE\x00\x80kkkk1234",
    b"\x88\x82kkkk12",
];
const LINK: [&[u8]; 8] = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1E\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n12345",
    SWITCHED,
    b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
    b"\x82\x7E\x00\x80",
    b"\x88\x02\x03\xE8",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nobody_can_tell_what_passed(
        events in prop::collection::vec((0u8..14, 0usize..8, prop::collection::vec(any::<u8>(), 0..60)), 0..30),
        unseen in prop::collection::vec(prop_oneof![Just(0), 1u64..40, Just(u64::MAX)], 1..5),
        protocol in 0u8..3,
        (body_bytes, body_rate) in (prop::option::of(40u64..60), prop::option::of(1u64..10)),
    ) {
        let protocol = [Protocol::Auto, Protocol::Http1, Protocol::Tcp][usize::from(protocol)];
        let settings = Settings { protocol, body_bytes, body_rate, log: true, ..Settings::default() };
        let mut seeing = World::with(settings.clone());
        let mut other = World::with(settings);
        other.unseen = unseen;
        for (kind, choice, bytes) in &events {
            let event = match kind {
                0..3 => Event::Client(CLIENT[*choice]),
                3..6 => Event::Link(LINK[*choice]),
                6 => Event::Client(bytes),
                7 | 8 => Event::Link(bytes),
                9 | 10 => Event::Opened,
                11 => Event::Wait(bytes.len() as u64 * 500),
                _ => match choice {
                    0 => Event::ClientEof,
                    1 | 2 => Event::LinkEof,
                    3 => Event::Failed(Cause::EndpointClosed),
                    4 => Event::Drain,
                    5 => Event::Leave(Leave::Move),
                    _ => Event::Client(bytes),
                },
            };
            seeing.happen(event.clone());
            other.happen(event);
            prop_assert_eq!(seeing.books(), other.books());
        }
    }
}
