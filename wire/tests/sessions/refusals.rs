//! Whatever two readers could understand in two ways is refused: requests with a status and the end of the
//! connection, responses with 502 and the end of the link. Nothing of either is passed on.

use crate::http1::plain;
use crate::world::{Event, World};
use evenkeel_core::end::Cause;

/// Request heads that no endpoint may see, and the status that answers them.
fn heads() -> Vec<(&'static str, u16, String)> {
    let mut table: Vec<(&'static str, u16, String)> = Vec::new();
    // Start lines.
    for (name, status, line) in [
        ("no target", 400, "GET HTTP/1.1"),
        ("no version", 400, "GET /"),
        ("two spaces before the target", 400, "GET  / HTTP/1.1"),
        ("two spaces before the version", 400, "GET /  HTTP/1.1"),
        ("tab for a space", 400, "GET\t/ HTTP/1.1"),
        ("space before the method", 400, " GET / HTTP/1.1"),
        ("space behind the version", 400, "GET / HTTP/1.1 "),
        ("method with a separator", 400, "GE(T / HTTP/1.1"),
        ("method with a control character", 400, "G\x01T / HTTP/1.1"),
        ("method with a byte of no token", 400, "G\u{e9}T / HTTP/1.1"),
        ("no method", 400, "/ HTTP/1.1"),
        ("target with a space", 400, "GET /a b HTTP/1.1"),
        ("target with a control character", 400, "GET /\x01 HTTP/1.1"),
        ("target with NUL", 400, "GET /\0 HTTP/1.1"),
        ("target with DEL", 400, "GET /\x7f HTTP/1.1"),
        ("target beyond ASCII", 400, "GET /\u{e9} HTTP/1.1"),
        ("target with a fragment", 400, "GET /#a HTTP/1.1"),
        ("target without a slash", 400, "GET a HTTP/1.1"),
        ("asterisk for GET", 400, "GET * HTTP/1.1"),
        ("authority form for GET", 400, "GET a:80 HTTP/1.1"),
        ("unknown scheme", 400, "GET ftp://a/ HTTP/1.1"),
        ("absolute form without authority", 400, "GET http:///a HTTP/1.1"),
        ("absolute form with user information", 400, "GET http://u:p@a/ HTTP/1.1"),
        ("absolute form with a backslash", 400, "GET http://a\\b/ HTTP/1.1"),
        ("CONNECT", 501, "CONNECT a:80 HTTP/1.1"),
        ("CONNECT with a path", 501, "CONNECT / HTTP/1.1"),
        ("HTTP/0.9 in full", 505, "GET / HTTP/0.9"),
        ("HTTP/1.2", 505, "GET / HTTP/1.2"),
        ("HTTP/1.10", 400, "GET / HTTP/1.10"),
        ("HTTP/2.0", 505, "GET / HTTP/2.0"),
        ("HTTP/11", 400, "GET / HTTP/11"),
        ("lower-case version", 400, "GET / http/1.1"),
        ("version without a minor", 400, "GET / HTTP/1"),
        ("another protocol", 400, "GET / ICY/1.1"),
        ("a response", 400, "HTTP/1.1 200 OK"),
    ] {
        table.push((name, status, format!("{line}\r\nHost: a\r\n\r\n")));
    }
    // Fields, in a request that is right but for them.
    for (name, status, fields) in [
        ("space before the colon", 400, "X : y"),
        ("tab before the colon", 400, "X\t: y"),
        ("no colon", 400, "X"),
        ("no name", 400, ": y"),
        ("folded line", 400, "X: y\r\n z"),
        ("folded line, tab", 400, "X: y\r\n\tz"),
        ("folded first line", 400, " X: y"),
        ("name with a separator", 400, "X(: y"),
        ("name with a control character", 400, "X\x01: y"),
        ("name beyond ASCII", 400, "X\u{e9}: y"),
        ("name in quotes", 400, "\"X\": y"),
        ("value with NUL", 400, "X: a\0b"),
        ("value with a control character", 400, "X: a\x01b"),
        ("value with DEL", 400, "X: a\x7fb"),
        ("CR inside a value", 400, "X: a\rb"),
        ("CR at the end of a value", 400, "X: a\r"),
        ("CR for a line end", 400, "X: a\rY: b"),
        ("LF for a line end", 400, "X: a\nY: b"),
        ("second Host", 400, "Host: a"),
        ("second Host, another", 400, "Host: b"),
        ("second Host, other case", 400, "hOST: b"),
        ("unmet expectation", 417, "Expect: 200-ok"),
        ("expectation with a list", 417, "Expect: 100-continue, x"),
        ("length with a plus", 400, "Content-Length: +1"),
        ("length with a minus", 400, "Content-Length: -1"),
        ("length in hexadecimal", 400, "Content-Length: 0x1"),
        ("length with a fraction", 400, "Content-Length: 1.0"),
        ("length with an exponent", 400, "Content-Length: 1e1"),
        ("length with an underscore", 400, "Content-Length: 1_0"),
        ("length with a space inside", 400, "Content-Length: 1 0"),
        ("length with a list", 400, "Content-Length: 1, 1"),
        ("length with a list of one", 400, "Content-Length: 1,"),
        ("length with a semicolon", 400, "Content-Length: 1;"),
        ("length in quotes", 400, "Content-Length: \"1\""),
        ("length in other digits", 400, "Content-Length: \u{661}"),
        ("no length in the field", 400, "Content-Length:"),
        ("length beyond 64 bits", 400, "Content-Length: 18446744073709551616"),
        ("length of very many digits", 400, "Content-Length: 00000000000000000000000001"),
        ("two lengths that differ", 400, "Content-Length: 1\r\nContent-Length: 2"),
        ("two lengths that agree", 400, "Content-Length: 1\r\nContent-Length: 1"),
        ("two lengths, one hidden by case", 400, "Content-Length: 1\r\ncONTENT-lENGTH: 2"),
        ("length and coding", 400, "Content-Length: 1\r\nTransfer-Encoding: chunked"),
        ("coding and length", 400, "Transfer-Encoding: chunked\r\nContent-Length: 1"),
        ("coding and length 0", 400, "Transfer-Encoding: chunked\r\nContent-Length: 0"),
        ("two codings", 400, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("coding twice in a list", 400, "Transfer-Encoding: chunked, chunked"),
        ("coding with a comma", 400, "Transfer-Encoding: chunked,"),
        ("comma before the coding", 400, "Transfer-Encoding: ,chunked"),
        ("coding of identity", 400, "Transfer-Encoding: identity"),
        ("coding of gzip", 400, "Transfer-Encoding: gzip"),
        ("gzip before chunked", 400, "Transfer-Encoding: gzip, chunked"),
        ("chunked before gzip", 400, "Transfer-Encoding: chunked, gzip"),
        ("chunked before identity", 400, "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        ("coding with a parameter", 400, "Transfer-Encoding: chunked;q=1"),
        ("coding in quotes", 400, "Transfer-Encoding: \"chunked\""),
        ("coding with a prefix", 400, "Transfer-Encoding: xchunked"),
        ("coding with a suffix", 400, "Transfer-Encoding: chunkedx"),
        ("coding with a vertical tab", 400, "Transfer-Encoding: \x0bchunked"),
        ("coding behind NUL", 400, "Transfer-Encoding: \0chunked"),
        ("no coding in the field", 400, "Transfer-Encoding:"),
        ("space before the colon of the coding", 400, "Transfer-Encoding : chunked"),
        ("space before the colon of the length", 400, "Content-Length : 1"),
        ("coding on a folded line", 400, "Transfer-Encoding:\r\n chunked"),
        ("coding behind a bare CR", 400, "X: y\rTransfer-Encoding: chunked"),
        ("coding behind a bare LF", 400, "X: y\nTransfer-Encoding: chunked"),
        ("length with an underscore", 400, "Content_Length: 1"),
        ("length beyond 63 bits", 400, "Content-Length: 9223372036854775808"),
        ("coding with an underscore", 400, "Transfer_Encoding: chunked"),
        ("client address with an underscore", 400, "X-Forwarded_For: 10.0.0.1"),
        ("more connection options than anybody has", 400, "Connection: a,b,c,d,e,f,g,h,i"),
    ] {
        table.push((name, status, format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")));
    }
    // What concerns the whole head.
    for (name, status, head) in [
        ("no Host", 400, "GET / HTTP/1.1\r\n\r\n".to_string()),
        ("no Host, but absolute form", 400, "GET http://a/ HTTP/1.1\r\n\r\n".into()),
        ("Host with user information", 400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n".into()),
        ("Host with a path", 400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into()),
        ("Host with a space", 400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into()),
        ("Host with a list", 400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".into()),
        ("Host with quotes", 400, "GET / HTTP/1.1\r\nHost: \"a\"\r\n\r\n".into()),
        ("Host with two ports", 400, "GET / HTTP/1.1\r\nHost: a:80:81\r\n\r\n".into()),
        ("Host with a port that is no number", 400, "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n".into()),
        ("Host with an open bracket", 400, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n".into()),
        ("TRACE with content", 400, "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n".into()),
        ("Host with a backslash", 400, "GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n".into()),
        ("coding in HTTP/1.0", 400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into()),
        ("LF for every line end", 400, "GET / HTTP/1.1\nHost: a\n\n".into()),
        ("LF for the last line end", 400, "GET / HTTP/1.1\r\nHost: a\r\n\n".into()),
        ("LF before the request", 400, "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("very many empty lines", 400, "\r\n".repeat(5) + "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("NUL before the request", 400, "\0GET / HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("a byte order mark", 400, "\u{feff}GET / HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("TLS", 400, "\x16\x03\x01\x02\0\x01\n\r\n\r\n".into()),
        ("a long target", 414, format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(8 * 1024))),
        ("an endless target", 414, format!("GET /{}", "a".repeat(9 * 1024))),
        ("a long field", 431, format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(64 * 1024))),
        ("an endless field", 431, format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(65 * 1024))),
        ("many fields", 431, format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100))),
    ] {
        table.push((name, status, head));
    }
    table
}

#[test]
fn ambiguous_requests_are_refused_and_reach_nobody() {
    let table = heads();
    assert!(table.len() > 110, "{}", table.len());
    for (name, status, head) in table {
        for size in [usize::MAX, 1, 7] {
            let mut world = World::with(plain());
            // What follows must not be taken for a request either.
            let next = if head.ends_with('\n') { "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n" } else { "" };
            let input = [head.as_bytes(), next.as_bytes()].concat();
            for piece in input.chunks(size.min(input.len())) {
                world.happen(Event::Client(piece));
            }
            let heard = String::from_utf8_lossy(&world.to_client);
            assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {heard:?}");
            assert_eq!(heard.matches("Content-Length: ").count(), 1, "{name}: {heard:?}");
            assert!(heard.contains("\r\nConnection: close\r\n"), "{name}: {heard:?}");
            assert!(!world.wanted && world.links.is_empty(), "{name}: an endpoint was asked");
            let (end, abort) = world.over.expect(name);
            assert!(matches!(end.cause, Cause::ClientProtocol | Cause::ClientLimit) && !abort, "{name}: {end:?}");
        }
    }
}

/// Bodies that are malformed behind a head that is not.
const BODIES: &[(&str, &str)] = &[
    ("no size", "\r\nhello\r\n0\r\n\r\n"),
    ("size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("size with a plus", "+5\r\nhello\r\n0\r\n\r\n"),
    ("size with a minus", "-5\r\nhello\r\n0\r\n\r\n"),
    ("size with an underscore", "1_0\r\nhello\r\n0\r\n\r\n"),
    ("space before the size", " 5\r\nhello\r\n0\r\n\r\n"),
    ("space behind the size", "5 \r\nhello\r\n0\r\n\r\n"),
    ("tab behind the size", "5\t\r\nhello\r\n0\r\n\r\n"),
    ("size beyond 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("size of very many digits", "00000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("LF behind the size", "5\nhello\r\n0\r\n\r\n"),
    ("CR alone behind the size", "5\rhello\r\n0\r\n\r\n"),
    ("two CRs behind the size", "5\r\r\nhello\r\n0\r\n\r\n"),
    ("LF behind data", "5\r\nhello\n0\r\n\r\n"),
    ("nothing behind data", "5\r\nhello0\r\n\r\n"),
    ("data too long", "5\r\nhello!\r\n0\r\n\r\n"),
    ("data too short", "5\r\nhell\r\n0\r\n\r\n"),
    ("LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
    ("CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
    ("NUL in an extension", "5;a\0\r\nhello\r\n0\r\n\r\n"),
    ("extension before the size", ";a\r\nhello\r\n0\r\n\r\n"),
    ("comma behind the size", "5,5\r\nhello\r\n0\r\n\r\n"),
    ("LF behind the last chunk", "5\r\nhello\r\n0\n\r\n"),
    ("LF for the end", "5\r\nhello\r\n0\r\n\n"),
    ("trailer without a colon", "5\r\nhello\r\n0\r\nX\r\n\r\n"),
    ("folded trailer", "5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n"),
    ("space before the colon of a trailer", "5\r\nhello\r\n0\r\nX : y\r\n\r\n"),
    ("NUL in a trailer", "5\r\nhello\r\n0\r\nX: \0\r\n\r\n"),
    ("a request where trailers may be", "5\r\nhello\r\n0\r\nGET / HTTP/1.1\r\n\r\n"),
];

#[test]
fn malformed_chunks_break_the_request_off() {
    for (name, body) in BODIES {
        for size in [usize::MAX, 1] {
            let mut world = World::with(plain());
            world.happen(Event::Client(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"));
            world.happen(Event::Opened);
            for piece in body.as_bytes().chunks(size.min(body.len())) {
                world.happen(Event::Client(piece));
            }
            let heard = String::from_utf8_lossy(&world.to_client);
            assert!(heard.starts_with("HTTP/1.1 400 "), "{name}: {heard:?}");
            assert!(heard.contains("\r\nConnection: close\r\n"), "{name}: {heard:?}");
            assert!(world.over.is_some() && world.reused == 0, "{name}");
            let sent = String::from_utf8_lossy(world.links.last().expect(name));
            assert!(!sent.contains("\r\n0\r\n"), "{name}: the endpoint could take it for whole: {sent:?}");
        }
    }
}

#[test]
fn malformed_chunks_break_the_response_off() {
    for (name, body) in BODIES {
        for size in [usize::MAX, 1] {
            let mut world = World::with(plain());
            world.happen(Event::Client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
            world.happen(Event::Opened);
            world.happen(Event::Link(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"));
            for piece in body.as_bytes().chunks(size.min(body.len())) {
                world.happen(Event::Link(piece));
            }
            let (end, abort) = world.over.expect(name);
            assert!(end.cause == Cause::EndpointProtocol && abort && world.reused == 0, "{name}: {end:?}");
            let heard = String::from_utf8_lossy(&world.to_client);
            assert!(!heard.ends_with("\r\n0\r\n\r\n"), "{name}: the client could take it for whole: {heard:?}");
        }
    }
}

/// Response heads that are none.
const RESPONSES: &[(&str, &str)] = &[
    ("no status", "HTTP/1.1\r\n\r\n"),
    ("status of two digits", "HTTP/1.1 20 OK\r\n\r\n"),
    ("status of four digits", "HTTP/1.1 2000 OK\r\n\r\n"),
    ("status of letters", "HTTP/1.1 abc OK\r\n\r\n"),
    ("status below 100", "HTTP/1.1 099 OK\r\n\r\n"),
    ("status above 599", "HTTP/1.1 600 OK\r\n\r\n"),
    ("negative status", "HTTP/1.1 -20 OK\r\n\r\n"),
    ("two spaces before the status", "HTTP/1.1  200 OK\r\n\r\n"),
    ("NUL in the phrase", "HTTP/1.1 200 O\0K\r\n\r\n"),
    ("CR in the phrase", "HTTP/1.1 200 O\rK\r\n\r\n"),
    ("HTTP/1.2", "HTTP/1.2 200 OK\r\n\r\n"),
    ("HTTP/2.0", "HTTP/2.0 200 OK\r\n\r\n"),
    ("another protocol", "ICY 200 OK\r\n\r\n"),
    ("no status line", "<html>\r\n\r\n"),
    ("a request", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("LF for line ends", "HTTP/1.1 200 OK\nX: y\n\n"),
    ("LF in the middle", "HTTP/1.1 200 OK\r\nX: y\nZ: w\r\n\r\n"),
    ("space before the colon", "HTTP/1.1 200 OK\r\nX : y\r\n\r\n"),
    ("no colon", "HTTP/1.1 200 OK\r\nX\r\n\r\n"),
    ("no name", "HTTP/1.1 200 OK\r\n: y\r\n\r\n"),
    ("folded line", "HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n"),
    ("NUL in a value", "HTTP/1.1 200 OK\r\nX: \0\r\n\r\n"),
    ("CR in a value", "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n"),
    ("length of letters", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
    ("length with a plus", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello"),
    ("length with a minus", "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello"),
    ("length with a list", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello"),
    ("length beyond 64 bits", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551621\r\n\r\nhello"),
    ("two lengths that differ", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    ("two lengths that agree", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    ("length and coding", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("coding and length", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    ("unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"),
    ("coding of identity", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n"),
    ("coding twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    ("coding in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a switch that nobody asked for", "HTTP/1.1 101 Switch\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"),
];

#[test]
fn broken_responses_are_502_and_their_link_is_not_used_again() {
    for (name, response) in RESPONSES {
        for size in [usize::MAX, 1] {
            let mut world = World::with(plain());
            world.happen(Event::Client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
            world.happen(Event::Opened);
            for piece in response.as_bytes().chunks(size.min(response.len())) {
                world.happen(Event::Link(piece));
            }
            let heard = String::from_utf8_lossy(&world.to_client);
            assert!(heard.starts_with("HTTP/1.1 502 "), "{name}: {heard:?}");
            assert_eq!(world.reused, 0, "{name}");
            // It was not the client's fault: its connection goes on.
            assert_eq!(world.over, None, "{name}");
            world.happen(Event::Client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert!(world.wanted, "{name}");
        }
    }
}

#[test]
fn heads_of_responses_are_limited_too() {
    for response in [
        format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(65 * 1024)),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(101)),
    ] {
        let mut world = World::with(plain());
        world.happen(Event::Client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        world.happen(Event::Opened);
        world.happen(Event::Link(response.as_bytes()));
        assert!(world.to_client.starts_with(b"HTTP/1.1 502 "));
    }
}

#[test]
fn what_an_endpoint_says_behind_its_answer_is_nobodys_answer() {
    // The next request must not get it, so the link is not used again: that is the worker's part.
    let mut world = World::with(plain());
    world.happen(Event::Client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    world.happen(Event::Opened);
    world.happen(Event::Link(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n"));
    assert!(world.to_client.ends_with(b"\r\n\r\nok"));
}
