//! A client's bytes, whole and cut in two: the endpoint gets the same, or nothing.
#![no_main]

use evenkeel_fuzz::{Event, World};
use evenkeel_wire::session::Protocol;

fn run(pieces: &[&[u8]]) -> World {
    let mut world = World::new(Protocol::Http1);
    for piece in pieces {
        world.happen(Event::Client(piece));
    }
    world.happen(Event::Opened);
    world
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&at, data)) = data.split_first() else { return };
    let whole = run(&[data]);
    let (head, tail) = data.split_at(usize::from(at).min(data.len()));
    let cut = run(&[head, tail]);
    // Chunks of ours follow the pieces; everything else does not depend on them.
    if !data.windows(7).any(|w| w.eq_ignore_ascii_case(b"chunked")) {
        assert_eq!(whole.links.first(), cut.links.first());
    }
    assert_eq!(whole.to_client, cut.to_client);
    assert_eq!(whole.over, cut.over);
    if let Some(sent) = whole.links.first() {
        // Whatever the client's line ends were, ours are CRLF: no request hides behind a bare LF.
        let head = sent.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head");
        assert!(sent[..head].iter().zip(&sent[1..]).all(|(a, b)| *b != b'\n' || *a == b'\r'));
    }
});
