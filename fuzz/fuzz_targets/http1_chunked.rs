//! Chunked bodies of requests: what reaches the endpoint decodes to what the client meant, however the
//! bytes are cut, and a body that is refused never looks complete.
#![no_main]

use evenkeel_fuzz::{Event, World};
use evenkeel_wire::session::Protocol;

const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Decodes chunks of our own making; `None`: incomplete.
fn decode(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    loop {
        let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") else { return (content, false) };
        let text = std::str::from_utf8(&bytes[..end]).expect("our own chunk size");
        let size = usize::from_str_radix(text, 16).expect("our own chunk size");
        bytes = &bytes[end + 2..];
        if size == 0 {
            return (content, true);
        }
        content.extend_from_slice(&bytes[..size]);
        assert_eq!(&bytes[size..size + 2], b"\r\n");
        bytes = &bytes[size + 2..];
    }
}

fn run(pieces: &[&[u8]]) -> (Vec<u8>, bool, Option<bool>) {
    let mut world = World::new(Protocol::Http1);
    world.happen(Event::Client(HEAD));
    world.happen(Event::Opened);
    for piece in pieces {
        world.happen(Event::Client(piece));
    }
    let sent = &world.links[0];
    let head = sent.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head") + 4;
    let (content, complete) = decode(&sent[head..]);
    (content, complete, world.over.map(|(_, abort)| abort))
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&at, data)) = data.split_first() else { return };
    let whole = run(&[data]);
    let (head, tail) = data.split_at(usize::from(at).min(data.len()));
    let cut = run(&[head, tail]);
    assert_eq!(whole.1, cut.1, "complete or not");
    if whole.1 {
        assert_eq!(whole.0, cut.0);
    }
});
