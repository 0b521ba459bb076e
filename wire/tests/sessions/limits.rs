//! Limits of size and time, and clients that there is no room for.

use crate::conversation::Step::{Client, ClientGets, Endpoint, Ends, LinkGets, NewLinkGets, Wait};
use crate::conversation::play;
use crate::world::{Event, World};
use evenkeel_core::end::{Cause, Limit};
use evenkeel_core::time::{Duration, Instant};
use evenkeel_wire::out::Out;
use evenkeel_wire::session::{Context, Io, Output, Peer, PeerTls, Protocol, Session, Settings};

fn plain() -> Settings {
    Settings { protocol: Protocol::Http1, x_forwarded: evenkeel_wire::session::Forwarding::Keep, ..Settings::default() }
}

const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n";

/// A world whose client has begun to send 5,000 bytes, with a link.
fn uploading(settings: Settings) -> World {
    let mut world = World::with(settings);
    world.happen(Event::Client(HEAD.as_bytes()));
    world.happen(Event::Opened);
    world
}

#[test]
fn a_body_that_is_announced_too_large_is_refused_before_anybody_is_asked() {
    let settings = Settings { body_bytes: Some(4), ..plain() };
    for (length, refused) in [(4, false), (5, true)] {
        let mut world = World::with(settings.clone());
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        world.happen(Event::Client(head.as_bytes()));
        assert_eq!((world.wanted, world.over.is_some()), (!refused, refused));
        assert_eq!(world.limit, refused.then_some(Limit::BodyBytes));
    }
}

#[test]
fn a_body_without_a_length_is_cut_where_it_becomes_too_large() {
    let settings = Settings { body_bytes: Some(4), ..plain() };
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = "HTTP/1.1 413 Content Too Large\r\nContent-Type: text/plain\r\nContent-Length: 42\r\n\
                  Evenkeel-Reason: client-limit; phase=request\r\nConnection: close\r\n\r\n\
                  the body is larger than limits.body_bytes\n";
    let mut world = World::with(settings);
    world.happen(Event::Client(head.as_bytes()));
    world.happen(Event::Opened);
    world.happen(Event::Client(b"4\r\nbody\r\n"));
    assert!(world.over.is_none(), "four are allowed");
    world.happen(Event::Client(b"1\r\nx"));
    let (end, abort) = world.over.expect("it is over");
    assert_eq!((end.cause, abort), (Cause::ClientLimit, false));
    let heard = String::from_utf8(world.to_client.clone()).expect("text");
    assert_eq!(heard, answer);
}

#[test]
fn a_body_keeps_its_pace_or_is_refused() {
    let settings = || Settings { body_rate: Some(100), ..plain() };
    // A hundred bytes a second, on the average of ten.
    let mut world = uploading(settings());
    for _ in 0..3 {
        world.happen(Event::Client(&[b'x'; 1000]));
        world.happen(Event::Wait(10_000));
        assert!(world.over.is_none());
    }
    world.happen(Event::Client(&[b'x'; 999]));
    world.happen(Event::Wait(9_999));
    assert!(world.over.is_none());
    world.happen(Event::Wait(1));
    let (end, abort) = world.over.expect("999 bytes in ten seconds");
    assert_eq!((end.cause, abort, world.limit), (Cause::ClientTimeout, false, Some(Limit::BodyRate)));
    assert!(world.to_client.starts_with(b"HTTP/1.1 408 "));
}

#[test]
fn a_slow_endpoint_is_not_the_clients_fault() {
    let mut world = uploading(Settings { body_rate: Some(100), ..plain() });
    world.link_backlog = true;
    for _ in 0..10 {
        world.happen(Event::Wait(10_000));
        assert!(world.over.is_none());
    }
    // Now it takes everything, and the client's time begins.
    world.link_backlog = false;
    world.happen(Event::Wait(9_999));
    assert!(world.over.is_none());
    world.happen(Event::Wait(1));
    assert!(world.over.is_some());
}

#[test]
fn a_client_that_asks_first_waits_for_the_endpoint() {
    let mut world = World::with(Settings { body_rate: Some(100), ..plain() });
    world.happen(Event::Client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n"));
    world.happen(Event::Opened);
    for _ in 0..10 {
        world.happen(Event::Wait(10_000));
        assert!(world.over.is_none());
    }
    world.happen(Event::Link(b"HTTP/1.1 100 Continue\r\n\r\n"));
    world.happen(Event::Wait(10_000));
    world.happen(Event::Wait(10_000));
    assert!(world.over.is_some(), "it was told to go on");
}

#[test]
fn an_answer_under_way_is_broken_off_when_the_body_does_not_come() {
    let mut world = uploading(Settings { body_rate: Some(100), ..plain() });
    world.happen(Event::Link(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart"));
    world.happen(Event::Wait(10_000));
    let (end, abort) = world.over.expect("it is over");
    assert_eq!((end.cause, abort), (Cause::ClientTimeout, true), "a part must not look whole");
}

#[test]
fn silence_is_allowed_for_long_before_the_first_byte_and_longer_after() {
    let seconds = Duration::from_secs;
    let settings = Settings { first_byte_timeout: seconds(60), idle_timeout: seconds(600), ..plain() };
    play(&settings, &[Wait(59_999), Wait(1), ClientGets(""), Ends(Cause::Idle)]);
    play(
        &settings,
        &[
            Wait(59_999),
            Client("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            NewLinkGets("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            Endpoint("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            ClientGets("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            Wait(599_999),
            Wait(1),
            Ends(Cause::Idle),
        ],
    );
    // `auto` looks at the server after a while; if that says nothing either, the same holds.
    let auto = Settings { protocol: Protocol::Auto, ..settings };
    play(&auto, &[Wait(5), NewLinkGets(""), Wait(59_995), ClientGets(""), Ends(Cause::Idle)]);
    play(
        &auto,
        &[
            Wait(5),
            NewLinkGets(""),
            Endpoint("hello"),
            ClientGets("hello"),
            Wait(60_000),
            LinkGets(""),
            Wait(540_000),
            Ends(Cause::Idle),
        ],
    );
}

#[test]
fn who_there_is_no_room_for_is_told_in_http_and_closed_otherwise() {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
    let peer = Peer::plain(address, address.into());
    let settings = Settings::default();
    let tcp = Settings { protocol: Protocol::Tcp, ..Settings::default() };
    let now = Instant::from_nanos(1_000_000_000);
    for (settings, says, later, told) in [
        (&settings, "GET / HTTP/1.1\r\nHo", 0, true),
        (&settings, "\x16\x03\x01", 0, false),
        (&settings, "GE", 1000, false),
        (&settings, "", 1000, false),
        (&tcp, "", 0, false),
    ] {
        let mut session = Session::refused(&Context::new(settings, &peer, now));
        let (mut client, mut link) = (Vec::new(), Vec::new());
        let mut io = Io { client: Out::new(&mut client), link: Out::new(&mut link) };
        session.client_data(says.as_bytes(), &mut io, &Context::new(settings, &peer, now));
        if later > 0 {
            assert_eq!(session.poll_output(), None, "{says:?}");
            let then = now + Duration::from_millis(later);
            session.handle_timeout(&mut io, &Context::new(settings, &peer, then));
        }
        let Some(Output::End { end, .. }) = session.poll_output() else { panic!("{says:?} goes on") };
        assert_eq!(end.cause, Cause::Overload);
        assert_eq!(client.starts_with(b"HTTP/1.1 503 ") && client.ends_with(b"\n"), told, "{says:?}");
        assert!(told || client.is_empty());
    }
}

#[test]
fn the_subject_of_a_certificate_is_told_by_us_alone() {
    let settings = Settings { client_subject: Some("X-Client-Subject".into()), ..plain() };
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Client-Subject: CN=admin\r\nx_client-subject: CN=root\r\n\r\n";
    for (subject, line) in [(None, ""), (Some("CN=ann"), "X-Client-Subject: CN=ann\r\n")] {
        let mut world = World::with(settings.clone());
        world.peer.tls = Some(Box::new(PeerTls { subject: subject.map(Into::into), ..PeerTls::default() }));
        world.happen(Event::Client(request.as_bytes()));
        world.happen(Event::Opened);
        let heard = String::from_utf8(world.links[0].clone()).expect("text");
        assert_eq!(heard, format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n"));
    }
}
