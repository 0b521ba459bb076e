//! A list of operations on a session, in any order.
#![no_main]

use evenkeel_fuzz::{Event, World};
use evenkeel_core::end::Cause;
use evenkeel_wire::session::Protocol;

/// Pieces that make sense, so that the fuzzer gets past the first line.
const CLIENT: [&[u8]; 8] = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"hello",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"\x16\x03\x01",
];
const LINK: [&[u8]; 8] = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n",
    b"hello",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&protocol, mut data)) = data.split_first() else { return };
    let protocol = [Protocol::Auto, Protocol::Http1, Protocol::Tcp][usize::from(protocol) % 3];
    let mut world = World::new(protocol);
    while let [operation, argument, rest @ ..] = data {
        data = rest;
        let argument = usize::from(*argument);
        let event = match operation % 10 {
            0 => Event::Client(CLIENT[argument % CLIENT.len()]),
            1 => Event::Link(LINK[argument % LINK.len()]),
            2 | 3 => {
                let (bytes, after) = data.split_at(argument.min(data.len()));
                data = after;
                if operation % 10 == 2 { Event::Client(bytes) } else { Event::Link(bytes) }
            }
            4 => Event::Opened,
            5 => Event::Failed(Cause::ConnectFailed),
            6 => Event::LinkEof,
            7 => Event::ClientEof,
            8 => Event::Wait(1 << (argument % 24)),
            _ => Event::Drain,
        };
        world.happen(event);
    }
});
