//! HTTP/1.1 (RFC 9110, RFC 9112), both sides of it.

use crate::conversation::Step::{
    Breaks, Client, ClientEnds, ClientGets, Drain, Endpoint, EndpointEnds, Ends, LinkFails, LinkGets, NewLinkGets,
    Reused, Wait,
};
use crate::conversation::{Step, play, play_with_retry};
use evenkeel_core::end::Cause;
use evenkeel_wire::session::{Forwarding, Protocol, Settings};

/// Nothing is added to what is passed on.
pub fn plain() -> Settings {
    Settings { protocol: Protocol::Http1, x_forwarded: Forwarding::Keep, reason: false, ..Settings::default() }
}

const GET: Step<'_> = Client("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
const GOT: Step<'_> = NewLinkGets("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn requests_on_one_connection_follow_each_other() {
    play(
        &plain(),
        &[
            GET,
            GOT,
            Endpoint(HELLO),
            ClientGets(HELLO),
            Reused(1),
            Client("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
            NewLinkGets("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
            Endpoint("HTTP/1.1 404 Nope\r\nX: y\r\nContent-Length: 0\r\n\r\n"),
            ClientGets("HTTP/1.1 404 Nope\r\nX: y\r\nContent-Length: 0\r\n\r\n"),
            Reused(2),
            ClientEnds,
            Ends(Cause::Done),
        ],
    );
}

#[test]
fn pipelined_requests_are_answered_in_order_and_one_at_a_time() {
    play(
        &plain(),
        &[
            Client("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"),
            NewLinkGets("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"),
            Endpoint(HELLO),
            ClientGets(HELLO),
            NewLinkGets("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n"),
            Endpoint(HELLO),
            ClientGets(HELLO),
            Reused(2),
        ],
    );
}

#[test]
fn chunked_bodies_pass_both_ways_with_their_trailers() {
    play(
        &plain(),
        &[
            Client("POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Client("3;ext=1\r\nabc\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n"),
            NewLinkGets(concat!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: TE\r\nTE: trailers\r\n\r\n",
                "3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
            )),
            Endpoint("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 2\r\n\r\n"),
            ClientGets("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 2\r\n\r\n"),
            Reused(1),
        ],
    );
}

#[test]
fn a_body_of_unknown_length_reaches_a_client_in_chunks_and_its_connection_goes_on() {
    play(
        &plain(),
        &[
            GET,
            GOT,
            Endpoint("HTTP/1.1 200 OK\r\n\r\nhello"),
            EndpointEnds,
            ClientGets("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            Reused(0),
            GET,
            GOT,
            Endpoint(HELLO),
            ClientGets(HELLO),
            Reused(1),
        ],
    );
}

#[test]
fn a_client_of_1_0_gets_what_it_understands() {
    // No chunks, no connection that stays open unless asked for, no informational responses.
    play(
        &plain(),
        &[
            Client("GET / HTTP/1.0\r\n\r\n"),
            NewLinkGets("GET / HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n"),
            Endpoint("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
            Endpoint("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"),
            ClientGets("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"),
            Reused(1),
            Ends(Cause::Done),
        ],
    );
    play(
        &plain(),
        &[
            Client("GET / HTTP/1.0\r\nHost: b\r\nConnection: keep-alive\r\n\r\n"),
            NewLinkGets("GET / HTTP/1.1\r\nHost: b\r\n\r\n"),
            Endpoint(HELLO),
            ClientGets("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello"),
            GET,
            GOT,
            Endpoint(HELLO),
            ClientGets(HELLO),
        ],
    );
}

#[test]
fn an_endpoint_of_1_0_is_not_used_twice_unless_it_says_so() {
    play(
        &plain(),
        &[
            GET,
            GOT,
            Endpoint("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
            ClientGets(HELLO),
            Reused(0),
            GET,
            GOT,
            Endpoint("HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello"),
            ClientGets(HELLO),
            Reused(1),
        ],
    );
}

#[test]
fn who_says_close_closes() {
    play(
        &plain(),
        &[
            Client("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
            // The link is not the client's connection.
            GOT,
            Endpoint(HELLO),
            ClientGets("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"),
            Reused(1),
            Ends(Cause::Done),
        ],
    );
    play(
        &plain(),
        &[
            GET,
            GOT,
            Endpoint("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"),
            // The client's connection is not the link.
            ClientGets(HELLO),
            Reused(0),
            GET,
            GOT,
            Endpoint(HELLO),
            ClientGets(HELLO),
        ],
    );
}

#[test]
fn answers_without_a_body_have_none_whatever_their_fields_say() {
    for (method, response, heard) in [
        ("HEAD", "200 OK\r\nContent-Length: 7", "200 OK\r\nContent-Length: 7"),
        ("HEAD", "200 OK\r\nTransfer-Encoding: chunked", "200 OK"),
        ("HEAD", "200 OK", "200 OK"),
        ("GET", "304 Not Modified\r\nContent-Length: 7", "304 Not Modified\r\nContent-Length: 7"),
        ("GET", "204 No Content", "204 No Content"),
    ] {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        play(
            &plain(),
            &[
                Client(&request),
                NewLinkGets(&request),
                Endpoint(&format!("HTTP/1.1 {response}\r\n\r\n")),
                ClientGets(&format!("HTTP/1.1 {heard}\r\n\r\n")),
                Reused(1),
                GET,
                GOT,
                Endpoint(HELLO),
                ClientGets(HELLO),
            ],
        );
    }
}

#[test]
fn a_204_that_announces_content_may_have_it_so_its_link_is_not_used_again() {
    for field in ["Content-Length: 7", "Transfer-Encoding: chunked"] {
        play(
            &plain(),
            &[
                GET,
                GOT,
                Endpoint(&format!("HTTP/1.1 204 No Content\r\n{field}\r\n\r\n")),
                ClientGets("HTTP/1.1 204 No Content\r\n\r\n"),
                Reused(0),
            ],
        );
    }
}

#[test]
fn an_expectation_with_nothing_to_expect_ends_here() {
    // Some servers would wait for a body.
    play(
        &plain(),
        &[
            Client("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n"),
            GOT,
            Endpoint(HELLO),
            ClientGets(HELLO),
            Client("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n"),
            NewLinkGets("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"),
            Endpoint(HELLO),
            ClientGets(HELLO),
        ],
    );
}

#[test]
fn a_client_that_waits_for_100_gets_it_from_the_endpoint() {
    play(
        &plain(),
        &[
            Client("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"),
            NewLinkGets("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"),
            Endpoint("HTTP/1.1 100 Continue\r\n\r\n"),
            ClientGets("HTTP/1.1 100 Continue\r\n\r\n"),
            Client("abc"),
            LinkGets("abc"),
            Endpoint("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"),
            ClientGets("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"),
            Reused(1),
        ],
    );
}

#[test]
fn an_answer_before_the_upload_is_over_ends_both_connections() {
    // What is left of the upload would look like a request to whoever reads on.
    play(
        &plain(),
        &[
            Client("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc"),
            NewLinkGets("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc"),
            Endpoint("HTTP/1.1 413 Too Much\r\nContent-Length: 0\r\n\r\n"),
            ClientGets("HTTP/1.1 413 Too Much\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
            Reused(0),
            Ends(Cause::Done),
        ],
    );
}

#[test]
fn hop_by_hop_fields_end_here() {
    play(
        &plain(),
        &[
            Client(concat!(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Mine, close\r\nX-Mine: 1\r\nKeep-Alive: 5\r\n",
                "Proxy-Connection: x\r\nProxy-Authorization: x\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nX-Other: 2\r\n",
                "TE: gzip\r\n\r\n",
            )),
            NewLinkGets("GET / HTTP/1.1\r\nHost: a\r\nX-Other: 2\r\n\r\n"),
            Endpoint(concat!(
                "HTTP/1.1 200 OK\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n",
                "Proxy-Authenticate: Basic\r\nX-Other: 2\r\nContent-Length: 0\r\n\r\n",
            )),
            ClientGets("HTTP/1.1 200 OK\r\nX-Other: 2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        ],
    );
}

#[test]
fn connection_cannot_take_away_what_frames_routes_or_vouches() {
    play(
        &Settings { protocol: Protocol::Http1, ..Settings::default() },
        &[
            Client(concat!(
                "POST / HTTP/1.1\r\nHost: a\r\nConnection: Host, Content-Length, X-Forwarded-For\r\n",
                "X-Forwarded-For: 9.9.9.9\r\nContent-Length: 1\r\n\r\nx",
            )),
            NewLinkGets(concat!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nX-Forwarded-For: 9.9.9.9, 127.0.0.1\r\n",
                "X-Forwarded-Proto: http\r\n\r\nx",
            )),
            Endpoint(HELLO),
            ClientGets(HELLO),
        ],
    );
}

#[test]
fn forwarding_fields_do_as_they_are_told() {
    let came = concat!(
        "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 8.8.8.8\r\nX-Forwarded-Proto: https\r\n",
        "X-Forwarded-Host: b\r\nForwarded: for=9.9.9.9\r\n",
    );
    let hop = "for=127.0.0.1;proto=http;host=\"a\"";
    for (what, passed) in [
        (Forwarding::Keep, came.to_string()),
        (Forwarding::Remove, String::new()),
        (
            Forwarding::Append,
            format!(
                "X-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\nX-Forwarded-For: 9.9.9.9, 8.8.8.8, 127.0.0.1\r\n\
                 Forwarded: for=9.9.9.9, {hop}\r\n"
            ),
        ),
        (Forwarding::Replace, format!("X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nForwarded: {hop}\r\n")),
    ] {
        let settings = Settings { x_forwarded: what, forwarded: what, ..plain() };
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{came}\r\n");
        let sent = format!("GET / HTTP/1.1\r\nHost: a\r\n{passed}\r\n");
        play(&settings, &[Client(&request), NewLinkGets(&sent), Endpoint(HELLO), ClientGets(HELLO)]);
    }
}

#[test]
fn via_names_the_hop_both_ways() {
    let settings = Settings { via: Some("keel".into()), ..plain() };
    play(
        &settings,
        &[
            Client("GET / HTTP/1.0\r\nHost: a\r\nVia: 1.1 x\r\n\r\n"),
            NewLinkGets("GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 x, 1.0 keel\r\n\r\n"),
            Endpoint("HTTP/1.1 200 OK\r\nVia: 1.1 y\r\nContent-Length: 0\r\n\r\n"),
            ClientGets(
                "HTTP/1.1 200 OK\r\nVia: 1.1 y\r\nVia: 1.1 keel\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            ),
        ],
    );
}

#[test]
fn targets_reach_the_endpoint_in_origin_form() {
    for (line, sent, host) in [
        ("GET /a?b=c", "GET /a?b=c", "h"),
        ("GET http://x/a?b", "GET /a?b", "x"),
        ("GET HTTP://x:8080", "GET /", "x:8080"),
        ("GET http://x?q", "GET /?q", "x"),
        ("GET https://[::1]:8/a", "GET /a", "[::1]:8"),
        ("OPTIONS *", "OPTIONS *", "h"),
        ("OPTIONS http://x", "OPTIONS *", "x"),
        ("BREW /pot", "BREW /pot", "h"),
    ] {
        play(
            &plain(),
            &[
                Client(&format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n")),
                NewLinkGets(&format!("{sent} HTTP/1.1\r\nHost: {host}\r\n\r\n")),
                Endpoint(HELLO),
                ClientGets(HELLO),
            ],
        );
    }
}

#[test]
fn an_upgrade_becomes_a_tunnel() {
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: tunnel/1\r\n\r\n";
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tunnel/1\r\n\r\n";
    play(
        &plain(),
        &[
            Client(request),
            NewLinkGets(request),
            Endpoint(switch),
            ClientGets(switch),
            Client("\x01\x02"),
            LinkGets("\x01\x02"),
            Endpoint("GET / no HTTP\n"),
            ClientGets("GET / no HTTP\n"),
            ClientEnds,
            Endpoint("bye"),
            EndpointEnds,
            ClientGets("bye"),
            Ends(Cause::Done),
            Reused(0),
        ],
    );
}

#[test]
fn an_endpoint_may_only_switch_to_what_was_offered() {
    let bad = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nContent-Length: 41\r\n\r\n\
               the endpoint's answer was not valid HTTP\n";
    for (offer, switch, agreed) in [
        ("websocket", "WebSocket", true),
        ("tunnel/2, tunnel/1", "tunnel/1", true),
        ("websocket", "h2c", false),
        ("websocket", "websocket, tunnel/1", false),
        ("tunnel/1", "tunnel", false),
        ("tunnel/1,", "", false),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {offer}\r\n\r\n");
        let switch = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {switch}\r\n\r\n");
        let heard = if agreed { &*switch } else { bad };
        play(&plain(), &[Client(&request), NewLinkGets(&request), Endpoint(&switch), ClientGets(heard)]);
    }
}

#[test]
fn an_upgrade_that_is_declined_is_a_request() {
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    play(
        &plain(),
        &[
            Client(request),
            NewLinkGets(request),
            Endpoint(HELLO),
            ClientGets(HELLO),
            Reused(1),
            GET,
            GOT,
            Endpoint(HELLO),
            ClientGets(HELLO),
        ],
    );
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    play(
        &plain(),
        &[
            GET,
            ClientEnds,
            GOT,
            Endpoint(HELLO),
            ClientGets("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"),
            Ends(Cause::Done),
        ],
    );
}

#[test]
fn an_upload_that_ends_early_never_looks_whole() {
    play(
        &plain(),
        &[
            Client("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
            NewLinkGets("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
            ClientEnds,
            LinkGets(""),
            Breaks(Cause::ClientClosed),
            Reused(0),
        ],
    );
}

#[test]
fn a_response_that_ends_early_never_looks_whole() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        for event in [EndpointEnds, LinkFails(Cause::EndpointClosed)] {
            play(
                &plain(),
                &[GET, GOT, Endpoint(response), event, ClientGets(response), Breaks(Cause::EndpointClosed), Reused(0)],
            );
        }
    }
}

#[test]
fn an_endpoint_that_closes_before_it_answers_is_a_502_and_the_client_goes_on() {
    let bad = concat!(
        "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nContent-Length: 57\r\n\r\n",
        "the endpoint closed its connection before it answered\n",
    );
    let bad = bad.replace("57", "54");
    play(
        &plain(),
        &[GET, GOT, EndpointEnds, ClientGets(&bad), Reused(0), GET, GOT, Endpoint(HELLO), ClientGets(HELLO)],
    );
}

#[test]
fn the_reason_is_in_a_field_if_wanted() {
    let settings = Settings { reason: true, ..plain() };
    play(
        &settings,
        &[
            GET,
            LinkFails(Cause::ConnectFailed),
            ClientGets(
                concat!(
                    "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nContent-Length: 35\r\n",
                    "Evenkeel-Reason: connect-failed; phase=connect\r\n\r\nno endpoint could be connected to\n",
                )
                .replace("35", "34")
                .as_str(),
            ),
        ],
    );
}

#[test]
fn an_endpoint_that_says_nothing_is_a_504() {
    play(
        &plain(),
        &[
            GET,
            GOT,
            Wait(14_999),
            ClientGets(""),
            Wait(1),
            ClientGets(
                "HTTP/1.1 504 Gateway Timeout\r\nContent-Type: text/plain\r\nContent-Length: 36\r\n\r\n\
                 the endpoint did not answer in time\n",
            ),
            Reused(0),
            GET,
            GOT,
            Endpoint(HELLO),
            ClientGets(HELLO),
        ],
    );
}

#[test]
fn a_head_that_takes_too_long_is_a_408() {
    play(
        &plain(),
        &[
            Client("GET / HT"),
            Wait(9_999),
            Client("T"),
            Wait(1),
            ClientGets(
                "HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain\r\nContent-Length: 36\r\n\
                 Connection: close\r\n\r\nthe request took too long to arrive\n",
            ),
            Ends(Cause::ClientTimeout),
        ],
    );
}

#[test]
fn an_idle_connection_ends_without_a_word() {
    play(&plain(), &[GET, GOT, Endpoint(HELLO), ClientGets(HELLO), Wait(3_599_999), Wait(1), Ends(Cause::Idle)]);
}

#[test]
fn a_turn_that_an_endpoint_refuses_runs_elsewhere() {
    play_with_retry(
        &plain(),
        &[
            GET,
            GOT,
            Endpoint("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"),
            ClientGets(""),
            GOT,
            Endpoint(HELLO),
            ClientGets(HELLO),
            Reused(1),
        ],
    );
}

#[test]
fn leaving_finishes_the_turn_under_way_and_says_close() {
    play(
        &plain(),
        &[
            GET,
            GOT,
            Drain,
            Endpoint(HELLO),
            ClientGets("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"),
            Ends(Cause::Shutdown),
            Reused(1),
        ],
    );
    play(&plain(), &[GET, GOT, Endpoint(HELLO), ClientGets(HELLO), Drain, Ends(Cause::Shutdown)]);
}

#[test]
fn a_client_that_could_not_be_told_to_close_may_ask_once_more() {
    let begins = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe";
    let told = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    // The head is out when the process begins to leave: it cannot say that this answer is the last.
    let drained = [GET, GOT, Endpoint(begins), Drain, Endpoint("llo"), ClientGets(HELLO), Reused(1)];
    let asks = [GET, GOT, Endpoint(HELLO), ClientGets(told), Ends(Cause::Shutdown), Reused(2)];
    play(&plain(), &[&drained[..], &[Wait(1_999)], &asks].concat());
    // The next question may be there already.
    let early = [GET, GOT, Endpoint(begins), Drain, GET, Endpoint("llo"), ClientGets(HELLO), Reused(1)];
    play(&plain(), &[&early[..], &asks[1..]].concat());
    // Who has nothing to ask is not waited for.
    play(&plain(), &[&drained[..], &[Wait(2_000), Ends(Cause::Shutdown)]].concat());
    // One who has begun to ask is.
    let slowly = [Client("GET / HTT"), Wait(5_000), Client("P/1.1\r\nHost: a\r\n\r\n")];
    play(&plain(), &[&drained[..], &slowly, &asks[1..]].concat());
}

#[test]
fn many_informational_answers_pass_and_too_many_do_not() {
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let hints = hint.repeat(16);
    play(&plain(), &[GET, GOT, Endpoint(&hints), ClientGets(&hints), Endpoint(HELLO), ClientGets(HELLO)]);
    let bad = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nContent-Length: 41\r\n\r\n\
               the endpoint's answer was not valid HTTP\n";
    play(&plain(), &[GET, GOT, Endpoint(&hint.repeat(17)), ClientGets(&format!("{hints}{bad}")), Reused(0)]);
}

#[test]
fn blank_lines_before_a_request_are_skipped() {
    play(&plain(), &[Client("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), GOT, Endpoint(HELLO), ClientGets(HELLO)]);
}

#[test]
fn a_link_stays_with_a_session_that_it_authenticates() {
    play(
        &plain(),
        &[
            GET,
            GOT,
            Endpoint("HTTP/1.1 401 No\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n"),
            ClientGets("HTTP/1.1 401 No\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n"),
            Reused(0),
            ClientEnds,
            Ends(Cause::Done),
        ],
    );
}

#[test]
fn trace_context_passes_untouched() {
    let request = "GET / HTTP/1.1\r\nHost: a\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
                   tracestate: a=b\r\nBaggage: c=d\r\n\r\n";
    play(&plain(), &[Client(request), NewLinkGets(request), Endpoint(HELLO), ClientGets(HELLO)]);
}
