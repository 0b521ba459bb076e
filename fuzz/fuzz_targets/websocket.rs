//! A WebSocket that is asked to leave at any time: its client gets what the endpoint sent, up to the end of a
//! frame, then at most one Close of ours and nothing else; likewise its endpoint. It never matters in which
//! pieces bytes arrive.
#![no_main]

use evenkeel_core::end::Cause;
use evenkeel_fuzz::{Event, World};
use evenkeel_wire::session::{Leave, Protocol};

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Frames and parts of some, so that the fuzzer gets past the first header.
const PIECES: [&[u8]; 16] = [
    b"\x81\x05hello",
    b"\x81\x85KEYShello",
    b"\x41\x02he",
    b"\x00\x02ll",
    b"\x80\x01o",
    b"\x89\x00",
    b"\x8A\x80KEYS",
    b"\x88\x02\x03\xE8",
    b"\x88\x82KEYS\x03\xE8",
    b"\x82\x7E\x00\x80",
    b"\x82\xFE\x00\x80KEYS",
    b"\x82\x7F\x00\x00\x00\x00\x00\x01\x00\x00",
    b"\x82\x7E\x00\x05",
    b"\x82\xFF\x80\x00\x00\x00\x00\x00\x00\x00",
    &[0; 128],
    b"\x82",
];

/// A session behind its handshake, and what its two ends said.
struct Session {
    world: World,
    by_client: Vec<u8>,
    by_endpoint: Vec<u8>,
}

impl Session {
    fn open() -> Self {
        let mut world = World::new(Protocol::Http1);
        world.happen(Event::Client(UPGRADE));
        world.happen(Event::Opened);
        world.happen(Event::Link(SWITCH));
        let mut session = Self { world, by_client: Vec::new(), by_endpoint: Vec::new() };
        // What was said until here is not looked at.
        session.world.to_client.clear();
        session.world.links[0].clear();
        session
    }

    /// Plays a list of operations; `size`: in pieces of so many bytes.
    fn play(mut self, mut data: &[u8], size: usize) -> Self {
        while let [operation, argument, rest @ ..] = data {
            data = rest;
            let argument = usize::from(*argument);
            let mut bytes = PIECES[argument % PIECES.len()];
            if operation % 8 > 5 {
                (bytes, data) = data.split_at(argument.min(data.len()));
            }
            match operation % 8 {
                0 | 6 => {
                    self.by_client.extend_from_slice(bytes);
                    bytes.chunks(size).for_each(|piece| self.world.happen(Event::Client(piece)));
                }
                1 | 7 => {
                    self.by_endpoint.extend_from_slice(bytes);
                    bytes.chunks(size).for_each(|piece| self.world.happen(Event::Link(piece)));
                }
                2 => self.world.happen(Event::Leave(Leave::ALL[argument % Leave::ALL.len()])),
                3 => self.world.happen(Event::Wait(1 << (argument % 24))),
                4 => self.world.happen(if argument % 2 == 0 { Event::ClientEof } else { Event::LinkEof }),
                _ => self.world.happen(Event::Failed(Cause::EndpointClosed)),
            }
        }
        self
    }
}

/// Where the first frame of these bytes ends; `None`: further on, or nowhere.
fn frame(bytes: &[u8]) -> Option<usize> {
    let [_, second, ..] = *bytes else { return None };
    let (extended, short) = match second & 0x7F {
        126 => (2, 0),
        127 => (8, 0),
        length => (0, u64::from(length)),
    };
    let payload = bytes.get(2..2 + extended)?.iter().fold(short, |n, &byte| n << 8 | u64::from(byte));
    let header = 2 + extended + if second & 0x80 != 0 { 4 } else { 0 };
    let end = usize::try_from(payload).ok()?.checked_add(header)?;
    (end <= bytes.len()).then_some(end)
}

/// Is this one Close of ours, and nothing else?
fn is_close(bytes: &[u8], masked: bool) -> bool {
    let mask = if masked { 0x80 } else { 0 };
    let (&[0x88, length, ..], true) = (bytes, frame(bytes) == Some(bytes.len())) else { return false };
    let key = if masked { [bytes[2], bytes[3], bytes[4], bytes[5]] } else { [0; 4] };
    let payload = &bytes[if masked { 6 } else { 2 }..];
    let payload: Vec<u8> = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    let [high, low, reason @ ..] = &payload[..] else { return false };
    let code = u16::from_be_bytes([*high, *low]);
    length & 0x80 == mask
        && length & 0x7F <= 125
        && matches!(code, 1001 | 1002 | 1011 | 1012)
        && std::str::from_utf8(reason).is_ok()
}

/// Is it what was said, or that up to the end of a frame and one Close?
fn is_honest(heard: &[u8], said: &[u8], masked: bool) -> bool {
    if said.starts_with(heard) {
        return true;
    }
    let mut boundary = 0;
    loop {
        if heard.get(..boundary) != Some(&said[..boundary]) {
            return false;
        }
        if is_close(&heard[boundary..], masked) {
            return true;
        }
        match frame(&said[boundary..]) {
            Some(length) => boundary += length,
            None => return false,
        }
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let whole = Session::open().play(data, usize::MAX);
    assert!(is_honest(&whole.world.to_client, &whole.by_endpoint, false), "to the client: {:?}", whole.world.to_client);
    let to_link = &whole.world.links[0];
    assert!(is_honest(to_link, &whole.by_client, true), "to the endpoint: {to_link:?}");
    let pieces = Session::open().play(data, 1);
    assert_eq!(whole.world.to_client, pieces.world.to_client);
    assert_eq!(whole.world.links[0], pieces.world.links[0]);
    assert_eq!(whole.world.over, pieces.world.over);
});
