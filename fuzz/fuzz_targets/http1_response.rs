//! An endpoint's bytes: the client gets one response, an error of ours, or a broken connection.
#![no_main]

use evenkeel_fuzz::{Event, World};
use evenkeel_wire::session::Protocol;

const REQUESTS: [&[u8]; 4] = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
];

fn run(request: &[u8], pieces: &[&[u8]]) -> World {
    let mut world = World::new(Protocol::Http1);
    world.happen(Event::Client(request));
    world.happen(Event::Opened);
    for piece in pieces {
        world.happen(Event::Link(piece));
    }
    world.happen(Event::LinkEof);
    world
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [request, at, data @ ..] = data else { return };
    let request = REQUESTS[usize::from(*request) % REQUESTS.len()];
    let whole = run(request, &[data]);
    let (head, tail) = data.split_at(usize::from(*at).min(data.len()));
    let cut = run(request, &[head, tail]);
    assert_eq!(whole.over, cut.over);
    assert_eq!(whole.reused, cut.reused);
    // Chunks of ours follow the pieces; everything else does not depend on them.
    if !data.windows(7).any(|w| w.eq_ignore_ascii_case(b"chunked")) && whole.reused == 1 {
        assert_eq!(whole.to_client, cut.to_client);
    }
});
