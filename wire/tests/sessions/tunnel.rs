//! Opaque bytes, and finding out that they are.

use crate::conversation::Step::{
    Breaks, Client, ClientEnds, ClientGets, Drain, Endpoint, EndpointEnds, Ends, LinkFails, LinkGets, NewLinkGets,
    Reused, Wait,
};
use crate::conversation::play;
use crate::world::{Event, World};
use evenkeel_core::end::Cause;
use evenkeel_wire::session::{Forwarding, Protocol, Settings};

fn tcp() -> Settings {
    Settings { protocol: Protocol::Tcp, ..Settings::default() }
}

fn auto() -> Settings {
    Settings { protocol: Protocol::Auto, x_forwarded: Forwarding::Keep, ..Settings::default() }
}

#[test]
fn bytes_pass_both_ways_and_each_way_ends_on_its_own() {
    play(
        &tcp(),
        &[
            NewLinkGets(""),
            Client("ping"),
            LinkGets("ping"),
            Endpoint("pong"),
            ClientGets("pong"),
            ClientEnds,
            Endpoint("and more"),
            ClientGets("and more"),
            EndpointEnds,
            Ends(Cause::Done),
        ],
    );
}

#[test]
fn what_the_client_said_while_the_link_opened_is_not_lost() {
    play(&tcp(), &[Client("early"), NewLinkGets("early"), Endpoint("x"), ClientGets("x")]);
}

#[test]
fn a_broken_link_is_a_broken_connection() {
    play(&tcp(), &[LinkFails(Cause::ConnectFailed), Breaks(Cause::ConnectFailed)]);
    play(
        &tcp(),
        &[
            NewLinkGets(""),
            Endpoint("x"),
            ClientGets("x"),
            LinkFails(Cause::EndpointClosed),
            Breaks(Cause::EndpointClosed),
        ],
    );
}

#[test]
fn a_silent_relay_ends_after_the_idle_timeout() {
    play(&tcp(), &[NewLinkGets(""), Wait(3_599_999), Client("x"), LinkGets("x"), Wait(3_600_000), Ends(Cause::Idle)]);
}

#[test]
fn a_request_line_is_http_whatever_comes_before_the_wait_is_over() {
    play(
        &auto(),
        &[
            Client("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            NewLinkGets("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            Endpoint("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            ClientGets("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            Reused(1),
        ],
    );
}

#[test]
fn a_preface_is_http2_and_what_belongs_to_it_is_left_for_that() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (protocol, http2) in
        [(Protocol::Auto, true), (Protocol::Http, true), (Protocol::Http1, false), (Protocol::Tcp, false)]
    {
        for cut in 0..preface.len() {
            let mut world = World::new(protocol);
            world.happen(Event::Client(&preface[..cut]));
            // The end of its head is enough to tell: the rest is for HTTP/2 to check.
            assert!(cut >= 18 || !world.http2);
            world.happen(Event::Client(&preface[cut..]));
            assert_eq!(world.http2, http2, "{protocol:?} in two pieces, the first of {cut}");
        }
    }
    assert!(World::new(Protocol::Http2).http2);
    let mut late = World::new(Protocol::Http);
    late.happen(Event::Client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    late.happen(Event::Opened);
    late.happen(Event::Link(b"HTTP/1.1 204 No Content\r\n\r\n"));
    late.happen(Event::Client(preface));
    assert!(!late.http2, "behind a request it is none");
}

#[test]
fn anything_else_is_relayed_as_it_is() {
    for first in ["\x16\x03\x01\x02\x00\x01", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "\x00\x00\x00\x08", "SSH-2.0-x\r\n"] {
        play(&auto(), &[Client(first), NewLinkGets(first), Endpoint("x"), ClientGets("x")]);
    }
}

#[test]
fn a_server_that_speaks_first_waits_for_the_detect_timeout_only() {
    play(
        &auto(),
        &[
            Wait(5),
            NewLinkGets(""),
            Endpoint("220 hello\r\n"),
            ClientGets("220 hello\r\n"),
            Client("HELO x\r\n"),
            LinkGets("HELO x\r\n"),
        ],
    );
}

#[test]
fn a_server_that_is_known_to_wait_for_a_request_is_not_looked_at() {
    let settings = Settings { detect_timeout: None, ..auto() };
    let hello = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    play(&settings, &[Wait(1_000), Client(get), NewLinkGets(get), Endpoint(hello), ClientGets(hello), Reused(1)]);
    play(&settings, &[Wait(299_000), Wait(1_000), Ends(Cause::Idle)]);
    play(&settings, &[Client("\0"), NewLinkGets("\0"), Endpoint("x"), ClientGets("x")]);
}

#[test]
fn a_slow_http_client_is_still_http_and_the_link_opened_in_vain_goes_back() {
    play(
        &auto(),
        &[
            Wait(5),
            NewLinkGets(""),
            Client("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            Reused(1),
            NewLinkGets("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            Endpoint("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            ClientGets("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            Reused(2),
        ],
    );
}

#[test]
fn half_a_request_line_times_out() {
    play(&auto(), &[Client("GE"), Wait(10_000), Ends(Cause::ClientTimeout)]);
}

#[test]
fn leaving_lets_a_relay_be_and_ends_who_has_not_begun() {
    play(&tcp(), &[NewLinkGets(""), Drain, Client("x"), LinkGets("x"), Endpoint("y"), ClientGets("y")]);
    play(&auto(), &[Drain, Ends(Cause::Shutdown)]);
}
