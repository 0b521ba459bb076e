//! Anything, said to a server and to a client behind their first words. It never matters in which pieces it comes,
//! and an engine that has nothing to hold holds little.
#![no_main]

use evenkeel_core::time::Instant;
use evenkeel_wire::http2::connection::{Connection, Event};
use evenkeel_wire::http2::frame;
use evenkeel_wire::http2::settings::{Config, Role};
use evenkeel_wire::out::Out;

/// What an engine says and what it makes of what it hears, in pieces of so many bytes.
fn play(role: Role, bytes: &[u8], size: usize) -> (Vec<u8>, Vec<String>) {
    let (mut said, mut events, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    let mut out = Out::new(&mut said);
    let now = Instant::from_nanos(1);
    let mut engine = Connection::new(role, &Config::default(), &mut out, now);
    if role == Role::Client {
        engine.request(false, &mut out, |writer| {
            writer.put(":method", b"GET", evenkeel_wire::http2::hpack::Form::Indexed);
        });
    }
    for piece in bytes.chunks(size) {
        kept.extend_from_slice(piece);
        let mut input = &kept[..];
        while let Some(event) = engine.recv(&mut input, &mut out, now) {
            if let Event::Data { stream, data, .. } = event {
                events.push(format!("{event:?}"));
                engine.release(stream, data.len(), &mut out);
            } else {
                events.push(format!("{event:?}"));
            }
        }
        let rest = input.len();
        kept.drain(..kept.len() - rest);
        assert!(kept.len() <= frame::HEADER_BYTES + frame::DEFAULT_PAYLOAD_BYTES);
    }
    assert!(engine.footprint() < 512 * 1024, "{}", engine.footprint());
    (said, events)
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for role in [Role::Server, Role::Client] {
        let mut bytes = if role == Role::Server { frame::PREFACE.to_vec() } else { Vec::new() };
        frame::put_settings(&mut bytes, &[]);
        frame::put_settings_ack(&mut bytes);
        bytes.extend_from_slice(data);
        assert_eq!(play(role, &bytes, usize::MAX), play(role, &bytes, 7));
    }
});
