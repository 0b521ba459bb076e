//! Opaque bytes, and finding out that they are.

use crate::conversation::Step::{
    Breaks, Client, ClientEnds, ClientGets, Drain, Endpoint, EndpointEnds, Ends, LinkFails, LinkGets, NewLinkGets,
    Reused, Wait,
};
use crate::conversation::play;
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
fn anything_else_is_relayed_as_it_is() {
    for first in ["\x16\x03\x01\x02\x00\x01", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x00\x00\x00\x08", "SSH-2.0-x\r\n"] {
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
