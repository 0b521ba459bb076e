//! A request of HTTP/2, whatever it says: what is written of it for an endpoint of HTTP/1.1 is one request there, to the
//! same host and target, with the same body; and so is it read by our own half that takes requests.
#![no_main]

use evenkeel_core::time::Instant;
use evenkeel_fuzz::{Event, World};
use evenkeel_wire::http1::exchange::{Exchange, check};
use evenkeel_wire::http2::connection::{self, Connection, Part};
use evenkeel_wire::http2::forward::{Added, Asked};
use evenkeel_wire::http2::hpack::{Fields, Form, Name};
use evenkeel_wire::http2::settings::{Config, Role};
use evenkeel_wire::out::Out;
use evenkeel_wire::session::{Context, Peer, Protocol, Settings};

/// Between names, values and pieces of the body.
const BORDER: u8 = 0xFF;

/// What a server of HTTP/2 makes of a request: its head, whether that is all, and its body if it is whole.
fn received(fields: &[(String, &[u8])], body: &[&[u8]]) -> Option<(Fields, bool, Vec<Vec<u8>>)> {
    let (mut there, mut here) = (Vec::new(), Vec::new());
    let mut client = Connection::new(Role::Client, &Config::default(), &mut Out::new(&mut there), Instant::ZERO);
    let mut server = Connection::new(Role::Server, &Config::default(), &mut Out::new(&mut here), Instant::ZERO);
    let mut out = Out::new(&mut there);
    let stream = client.request(body.is_empty(), &mut out, |writer| {
        fields.iter().for_each(|(name, value)| writer.put(name, value, Form::Plain));
    })?;
    for (i, piece) in body.iter().enumerate() {
        client.data(stream, piece, i + 1 == body.len(), &mut out, Instant::ZERO);
    }
    out.spill();
    let (mut head, mut pieces, mut input) = (None, Vec::new(), &there[..]);
    let mut ended = false;
    while let Some(event) = server.recv(&mut input, &mut Out::new(&mut here), Instant::ZERO) {
        match event {
            connection::Event::Fields { part: Part::Head, fields, end, .. } => {
                let mut kept = Fields::default();
                kept.copy_from(fields);
                (head, ended) = (Some((kept, end)), end);
            }
            connection::Event::Data { data, end, .. } => {
                pieces.push(data.to_vec());
                ended = end;
            }
            connection::Event::Ready => {}
            _ => return None,
        }
    }
    let (head, bodiless) = head.filter(|_| ended)?;
    Some((head, bodiless, pieces))
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if data.len() > 4000 {
        return;
    }
    let mut parts = data.split(|&byte| byte == BORDER);
    let mut fields = Vec::new();
    // An empty name ends the head.
    while let Some(name) = parts.next().filter(|name| !name.is_empty()) {
        let Ok(name) = std::str::from_utf8(name) else { return };
        fields.push((name.to_owned(), parts.next().unwrap_or_default()));
    }
    let body: Vec<&[u8]> = parts.collect();
    let Some((head, bodiless, pieces)) = received(&fields, &body) else { return };

    let settings = Settings::default();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
    let peer = Peer::plain(address, address.into());
    let context = Context::new(&settings, &peer, Instant::ZERO);
    if Asked::of(&head, &context).is_err() || check(&head, bodiless).is_err() {
        return;
    }
    let mut bytes = Vec::new();
    let mut exchange = Exchange::new(&head, bodiless, (&Added::of(&context), None), &mut bytes, &context);
    pieces.iter().for_each(|piece| exchange.data(piece, &mut bytes));
    exchange.finish(None, &mut bytes);

    let mut world = World::new(Protocol::Http1);
    world.happen(Event::Client(&bytes));
    assert!(world.wanted, "{:?}", String::from_utf8_lossy(&bytes));
    world.happen(Event::Opened);
    world.happen(Event::Link(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    assert!(world.over.is_none() && world.reused == 1 && !world.wanted, "{:?}", String::from_utf8_lossy(&bytes));
    let [log] = &world.logs[..] else { panic!("one request, and no other") };
    let text = |name| String::from_utf8_lossy(head.get(name).unwrap_or_default());
    assert_eq!(log.target, text(Name::PATH));
    assert_eq!(log.host, if head.get(Name::AUTHORITY).is_some() { text(Name::AUTHORITY) } else { text(Name::HOST) });
    assert_eq!(log.received, pieces.iter().map(|piece| piece.len() as u64).sum::<u64>());
});
