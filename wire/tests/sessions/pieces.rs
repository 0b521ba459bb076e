//! It never matters in which pieces bytes arrive, and random bytes harm nobody.

use crate::world::{Event, World};
use evenkeel_core::end::Cause;
use evenkeel_wire::session::{Leave, Protocol};
use proptest::prelude::*;

/// A request and what is left of it after the engine: method, target, body.
#[derive(Clone, Debug)]
struct Message {
    head: String,
    body: Vec<u8>,
    /// Sizes of the chunks that the body is sent in; none: its length is announced.
    chunks: Option<Vec<usize>>,
}

impl Message {
    fn bytes(&self) -> Vec<u8> {
        let mut out = self.head.clone().into_bytes();
        match &self.chunks {
            None => {
                out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", self.body.len()).as_bytes());
                out.extend_from_slice(&self.body);
            }
            Some(sizes) => {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                let mut rest = &self.body[..];
                for &size in sizes {
                    let (chunk, after) = rest.split_at(size.min(rest.len()));
                    put_chunk(&mut out, chunk);
                    rest = after;
                }
                put_chunk(&mut out, rest);
                out.extend_from_slice(b"0\r\n\r\n");
            }
        }
        out
    }
}

fn put_chunk(out: &mut Vec<u8>, chunk: &[u8]) {
    if !chunk.is_empty() {
        out.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
}

fn message(start: &'static str) -> impl Strategy<Value = Message> {
    let fields = prop::collection::vec(("[A-Za-z]{1,8}", "[ -~]{0,20}"), 0..5);
    let chunks = prop::option::of(prop::collection::vec(1usize..40, 0..4));
    (fields, prop::collection::vec(any::<u8>(), 0..100), chunks).prop_map(move |(fields, body, chunks)| {
        let mut head = start.to_string();
        for (name, value) in fields {
            head.push_str(&format!("X-{name}: {value}\r\n"));
        }
        Message { head, body, chunks }
    })
}

/// Plays one exchange with both sides cut into pieces; what the endpoint and the client got of content.
fn exchange(request: &Message, response: &Message, cuts: &[usize]) -> (Vec<u8>, Vec<u8>, usize) {
    let mut world = World::new(Protocol::Auto);
    let mut cut = cuts.iter().cycle();
    let mut feed = |world: &mut World, mut rest: &[u8], from_client: bool| {
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cut.next().expect("endless")).min(rest.len()));
            world.happen(if from_client { Event::Client(piece) } else { Event::Link(piece) });
            if world.wanted {
                world.happen(Event::Opened);
            }
            rest = after;
        }
    };
    feed(&mut world, &request.bytes(), true);
    feed(&mut world, &response.bytes(), false);
    assert_eq!(world.over, None);
    let sent = world.links.last().expect("a link");
    (content(sent), content(&world.to_client), world.reused)
}

/// The content of one message in our framing.
fn content(message: &[u8]) -> Vec<u8> {
    let end = message.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head") + 4;
    let (head, mut body) = message.split_at(end);
    if !head.windows(7).any(|w| w == b"chunked") {
        return body.to_vec();
    }
    let mut out = Vec::new();
    loop {
        let line = body.windows(2).position(|w| w == b"\r\n").expect("a size line");
        let size = std::str::from_utf8(&body[..line]).expect("digits");
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            assert_eq!(&body[line..], b"\r\n\r\n");
            return out;
        }
        out.extend_from_slice(&body[line + 2..line + 2 + size]);
        body = &body[line + 2 + size + 2..];
    }
}

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

proptest! {
    #[test]
    fn content_arrives_whole_whatever_the_pieces(
        request in message("POST /x HTTP/1.1\r\nHost: a\r\n"),
        response in message("HTTP/1.1 200 OK\r\n"),
        cuts in prop::collection::vec(1usize..60, 1..8),
    ) {
        let (sent, heard, reused) = exchange(&request, &response, &cuts);
        prop_assert_eq!(sent, request.body);
        prop_assert_eq!(heard, response.body);
        prop_assert_eq!(reused, 1);
    }

    #[test]
    fn random_events_harm_nobody(
        events in prop::collection::vec((0u8..10, prop::collection::vec(any::<u8>(), 0..40)), 0..40),
        protocol in 0u8..3,
    ) {
        let protocol = [Protocol::Auto, Protocol::Http1, Protocol::Tcp][usize::from(protocol)];
        let mut world = World::new(protocol);
        for (kind, bytes) in &events {
            world.happen(match kind {
                0 | 1 => Event::Client(bytes),
                2 | 3 => Event::Link(bytes),
                4 => Event::Opened,
                5 => Event::Wait(bytes.len() as u64 * 200),
                6 if bytes.len() > 30 => Event::ClientEof,
                6 if bytes.len() > 20 => Event::LinkEof,
                6 => Event::Failed(Cause::ConnectFailed),
                7 if bytes.len() > 35 => Event::Drain,
                7 if bytes.len() > 30 => Event::Leave(Leave::Move),
                8 => Event::Client(UPGRADE),
                9 => Event::Link(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
                _ => Event::Client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            });
        }
    }
}
