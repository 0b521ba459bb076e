//! The client's half of HTTP/1.1: one request that came over HTTP/2, asked on a connection that nobody else uses
//! meanwhile, and its answer.
//!
//! In go fields and data as [`http2`](crate::http2) has them, out come bytes; the answer's bytes become fields and
//! data again ([`Answer`]). What HTTP/2 allows and HTTP/1.1 would read in two ways is found by [`check`] before
//! anything is written.

use super::MAX_INFORMATIONAL;
use super::body::{Body, Chunk, Encode, for_each_trailer, put_chunk, put_last_chunk};
use super::grammar::{Stop, is_target};
use super::head::{Flaw, Name, Scan, find_end, put_field, valid_host};
use super::request::put_length;
use super::response;
use crate::http2::connection::Part;
use crate::http2::forward::{Added, Amended, Put, Traced, authority, put_request};
use crate::http2::hpack::{Field, Fields, Form, Name as Known};
use crate::out::Out;
use crate::session::{Context, Settings};
use alloc::vec::Vec;

/// One request, and its answer.
#[derive(Debug)]
pub struct Exchange {
    upload: Upload,
    /// `HEAD`: the response has no body.
    head: bool,
    /// How far an incomplete head was searched.
    scan: Scan,
    informational: u8,
    /// What is left of the response, once its head was read.
    download: Option<Body>,
    /// The endpoint will not take another request on this connection, or should not.
    last: bool,
}

/// What is left of the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Upload {
    Done,
    Length(u64),
    Chunked,
}

/// What came of an endpoint's bytes.
#[derive(Debug)]
pub enum Answer<'f, 'i> {
    /// A part of the response, as HTTP/2 has it.
    Fields {
        /// What it is.
        part: Part,
        /// Zero in trailers.
        status: u16,
        /// The fields.
        fields: &'f Fields,
        /// The response is whole.
        end: bool,
    },
    /// A piece of the body.
    Data {
        /// The piece.
        data: &'i [u8],
        /// The response is whole.
        end: bool,
    },
    /// This is no response to the request.
    Flaw(Flaw),
}

/// Looks for what HTTP/1.1 does not have in a request that is a message of HTTP/2. `end`: it has no body.
///
/// # Errors
/// What an endpoint could read in another way than we do, or would be refused from a client of HTTP/1.1.
pub fn check(fields: &Fields, end: bool) -> Result<(), Flaw> {
    let method = fields.get(Known::METHOD).unwrap_or_default();
    let path = fields.get(Known::PATH).unwrap_or_default();
    if !(path.starts_with(b"/") || (path == b"*" && method == b"OPTIONS")) || !is_target(path) {
        return Err(Flaw::Target);
    }
    if !valid_host(authority(fields)) {
        return Err(Flaw::Host);
    }
    if method == b"TRACE" && !end {
        return Err(Flaw::Trace);
    }
    for field in fields.iter() {
        match Name::of(field.name()) {
            _ if field.is_flawed() => return Err(Flaw::Field),
            Name::Lookalike => return Err(Flaw::Underscore),
            Name::Expect if !field.value().eq_ignore_ascii_case(b"100-continue") => return Err(Flaw::Expect),
            _ => {}
        }
    }
    Ok(())
}

impl Exchange {
    /// Begins with a request that went through [`check`]: writes its head. `end`: it has no body.
    pub fn new(
        fields: &Fields,
        end: bool,
        (added, traced): (&Added, Option<&Traced>),
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) -> Self {
        let method = fields.get(Known::METHOD).unwrap_or_default();
        let upload = match fields.get(Known::CONTENT_LENGTH) {
            _ if end => Upload::Done,
            Some(length) => Upload::Length(decimal(length)),
            None => Upload::Chunked,
        };
        out.reserve(fields.size() + 256);
        out.extend_from_slice(method);
        out.push(b' ');
        out.extend_from_slice(fields.get(Known::PATH).unwrap_or_default());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        put_field(out, b"Host", authority(fields));
        let mut writer = Writer { out, body: !end, cookie: false, trailers: false };
        put_request(fields, added, traced, Amended::default(), &mut writer, context);
        let Writer { cookie, trailers, .. } = writer;
        if cookie {
            put_cookies(fields, out);
        }
        match upload {
            Upload::Length(n) => put_length(out, n),
            Upload::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            // A method that usually has content must say that it has none (RFC 9110, section 8.6).
            Upload::Done if matches!(method, b"POST" | b"PUT" | b"PATCH") => put_length(out, 0),
            Upload::Done => {}
        }
        if trailers {
            out.extend_from_slice(b"Connection: TE\r\nTE: trailers\r\n");
        }
        out.extend_from_slice(b"\r\n");
        let head = method == b"HEAD";
        Self { upload, head, scan: Scan::default(), informational: 0, download: None, last: false }
    }

    /// Writes a piece of the request's body. HTTP/2 saw to it that it has the length that was announced.
    pub fn data(&mut self, data: &[u8], out: &mut Vec<u8>) {
        match &mut self.upload {
            Upload::Done => {}
            Upload::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                out.extend_from_slice(&data[..take]);
                *left -= take as u64;
            }
            Upload::Chunked => put_chunk(data, out),
        }
    }

    /// Writes the end of the request, with what stands behind its body.
    pub fn finish(&mut self, trailers: Option<&Fields>, out: &mut Vec<u8>) {
        match (core::mem::replace(&mut self.upload, Upload::Done), trailers) {
            // It is not whole, and must not look so.
            (Upload::Length(1..), _) => self.last = true,
            (Upload::Chunked, trailers) => put_last_chunk(trailers, out),
            (Upload::Done | Upload::Length(0), _) => {}
        }
    }

    /// Reads what the endpoint sent, one thing at a time. What is not used is to be offered again with what follows.
    pub fn recv<'f, 'i>(
        &mut self,
        input: &mut &'i [u8],
        fields: &'f mut Fields,
        settings: &Settings,
    ) -> Option<Answer<'f, 'i>> {
        fields.clear();
        let Some(body) = &mut self.download else {
            return match self.read_head(input, fields, settings) {
                Ok((status, used)) => {
                    *input = &input[used..];
                    let part = if self.download.is_some() { Part::Head } else { Part::Informational };
                    Some(Answer::Fields { part, status, fields, end: self.is_done() })
                }
                Err(Stop::Incomplete) => None,
                Err(Stop::Flaw(flaw)) => Some(Answer::Flaw(flaw)),
            };
        };
        while !input.is_empty() && !body.is_done() {
            if let Body::Chunked(Chunk::Trailers(scan)) = body {
                return match find_end(input, scan, settings.header_bytes) {
                    Ok(None) => None,
                    Ok(Some(end)) => {
                        let section = &input[..end];
                        *input = &input[end..];
                        *body = Body::Done;
                        match for_each_trailer(section, |name, value| fields.push(name, value, Form::Indexed)) {
                            Ok(()) if fields.is_empty() => Some(Answer::Data { data: &[], end: true }),
                            Ok(()) => Some(Answer::Fields { part: Part::Trailers, status: 0, fields, end: true }),
                            Err(flaw) => Some(Answer::Flaw(flaw)),
                        }
                    }
                    Err(flaw) => Some(Answer::Flaw(flaw)),
                };
            }
            // One piece at a time, so nothing of it is copied.
            let mut nothing = Vec::new();
            let mut out = Out::new(&mut nothing);
            match body.relay(input, Encode::Pieces, &mut out, settings.header_bytes, &mut 0) {
                Ok(used) => *input = &input[used..],
                Err(flaw) => return Some(Answer::Flaw(flaw)),
            }
            let data = out.take_tail();
            if !data.is_empty() {
                return Some(Answer::Data { data, end: body.is_done() });
            }
        }
        None
    }

    /// Reads a response head, the final one or one before it.
    fn read_head(&mut self, input: &[u8], fields: &mut Fields, settings: &Settings) -> Result<(u16, usize), Stop> {
        // As with heads for clients of HTTP/1.1: nearly every one comes in one piece and is well.
        if self.scan.is_fresh()
            && let Ok(whole) = self.parse_head(input, fields, settings)
        {
            return Ok(whole);
        }
        fields.clear();
        let end = find_end(input, &mut self.scan, settings.header_bytes)?.ok_or(Stop::Incomplete)?;
        self.parse_head(&input[..end], fields, settings).map_err(Stop::at_its_end)
    }

    fn parse_head(&mut self, input: &[u8], fields: &mut Fields, settings: &Settings) -> Result<(u16, usize), Stop> {
        let whole = response::parse(input, settings, |parsed| {
            match parsed.status {
                // Nothing was offered (RFC 9110, section 15.2.2), and HTTP/2 has no switching.
                101 => return Err(Flaw::Informational),
                100..200 if self.informational >= MAX_INFORMATIONAL => return Err(Flaw::Informational),
                100..200 => {
                    self.informational += 1;
                    parsed.collect(None, fields, settings);
                }
                _ => {
                    let framing = parsed.framing(self.head);
                    parsed.collect(Some(framing), fields, settings);
                    self.download = Some(Body::new(framing));
                    // Who authenticates a connection cannot mean one that clients take turns on.
                    self.last |= parsed.ends_link(framing) || parsed.pins;
                }
            }
            Ok(parsed.status)
        })?;
        self.scan = Scan::default();
        Ok(whole)
    }

    /// The endpoint has closed its side of the connection. True: that is the end of the response.
    pub fn eof(&mut self) -> bool {
        let ends = matches!(self.download, Some(Body::Close));
        if ends {
            self.download = Some(Body::Done);
        }
        ends
    }

    /// The response is whole.
    pub fn is_done(&self) -> bool {
        self.download.is_some_and(|body| body.is_done())
    }

    /// Both messages are whole, and the connection may be used for others.
    pub fn leaves_clean(&self) -> bool {
        self.is_done() && self.upload == Upload::Done && !self.last
    }
}

/// Writes fields as lines.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// The request has a body.
    body: bool,
    /// There are cookies, which are joined.
    cookie: bool,
    /// The client takes trailers.
    trailers: bool,
}

impl Put for Writer<'_> {
    fn forward(&mut self, field: &Field<'_>) {
        if field.known().is_pseudo() {
            return;
        }
        match Name::of(field.name()) {
            // Framing is ours, and the host is where it belongs.
            Name::ContentLength | Name::TransferEncoding | Name::Host => {}
            Name::Connection | Name::HopByHop | Name::Upgrade => {}
            Name::Te => self.trailers = true,
            Name::Cookie => self.cookie = true,
            // Without a body there is nothing to wait for (RFC 9110, section 10.1.1).
            Name::Expect if !self.body => {}
            _ => put_field(self.out, field.name(), field.value()),
        }
    }

    fn put(&mut self, name: &str, value: &[u8], _form: Form) {
        put_field(self.out, name.as_bytes(), value);
    }
}

/// HTTP/2 may send cookies one by one (RFC 9113, section 8.2.3).
fn put_cookies(fields: &Fields, out: &mut Vec<u8>) {
    out.extend_from_slice(b"cookie: ");
    for (i, field) in fields.iter().filter(|field| field.known() == Known::COOKIE).enumerate() {
        if i > 0 {
            out.extend_from_slice(b"; ");
        }
        out.extend_from_slice(field.value());
    }
    out.extend_from_slice(b"\r\n");
}

/// A length that was checked: digits, and not too many.
fn decimal(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Peer;
    use alloc::string::String;
    use alloc::sync::Arc;
    use core::net::SocketAddr;
    use evenkeel_core::time::Instant;
    use proptest::prelude::*;

    const GET: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "http"), (":path", "/a?b"), (":authority", "shop.example")];

    /// Fields, with some more or others in their place.
    fn with(changes: &[(&str, &str)]) -> Fields {
        let mut list = GET.to_vec();
        for &(name, value) in changes {
            match list.iter_mut().find(|(known, _)| *known == name && name.starts_with(':')) {
                Some(field) => field.1 = value,
                None => list.push((name, value)),
            }
        }
        let mut fields = Fields::default();
        list.iter().for_each(|(name, value)| fields.push(name.as_bytes(), value.as_bytes(), Form::Indexed));
        fields
    }

    /// What is written for a request with this body.
    fn asked(fields: &Fields, body: Option<&[&str]>, trailers: Option<&Fields>) -> (String, Exchange) {
        let settings = Settings::default();
        let here: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let peer = Peer::plain(here, Arc::new(here));
        let mut out = Vec::new();
        let context = Context::new(&settings, &peer, Instant::ZERO);
        assert_eq!(check(fields, body.is_none()), Ok(()));
        let mut exchange = Exchange::new(fields, body.is_none(), (&Added::of(&context), None), &mut out, &context);
        if let Some(pieces) = body {
            pieces.iter().for_each(|piece| exchange.data(piece.as_bytes(), &mut out));
            exchange.finish(trailers, &mut out);
        }
        (String::from_utf8(out).unwrap(), exchange)
    }

    /// What an answer is, in pieces of this size: fields, body, and whether it is whole.
    fn answered(exchange: &mut Exchange, bytes: &[u8], step: usize) -> Result<(Vec<String>, Vec<u8>, usize), Flaw> {
        let (settings, mut fields) = (Settings::default(), Fields::default());
        let (mut heads, mut body, mut ends) = (Vec::new(), Vec::new(), 0);
        let (mut stash, mut at): (Vec<u8>, usize) = (Vec::new(), 0);
        while at < bytes.len() {
            let to = (at + step).min(bytes.len());
            stash.extend_from_slice(&bytes[at..to]);
            at = to;
            let mut input = &stash[..];
            while let Some(answer) = exchange.recv(&mut input, &mut fields, &settings) {
                match answer {
                    Answer::Fields { part, fields, end, .. } => {
                        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                        let lines = fields.iter().map(|f| text(f.name()) + "=" + &text(f.value()) + " ");
                        heads.push(alloc::format!("{part:?} {}", lines.collect::<String>()));
                        ends += usize::from(end);
                    }
                    Answer::Data { data, end } => {
                        body.extend_from_slice(data);
                        ends += usize::from(end);
                    }
                    Answer::Flaw(flaw) => return Err(flaw),
                }
            }
            let left = input.len();
            stash.drain(..stash.len() - left);
        }
        Ok((heads, body, ends))
    }

    #[test]
    fn a_request_is_written_as_http1_has_it() {
        let forwarded = "x-forwarded-for: 192.0.2.1\r\nx-forwarded-proto: http\r\n";
        let (bytes, _) =
            asked(&with(&[("cookie", "a=1"), ("x", "y"), ("te", "trailers"), ("cookie", "b=2")]), None, None);
        let expected = alloc::format!(
            "GET /a?b HTTP/1.1\r\nHost: shop.example\r\nx: y\r\n{forwarded}cookie: a=1; b=2\r\n\
             Connection: TE\r\nTE: trailers\r\n\r\n"
        );
        assert_eq!(bytes, expected);
        let post = [(":method", "POST"), (":path", "/")];
        let head =
            |framing: &str| alloc::format!("POST / HTTP/1.1\r\nHost: shop.example\r\n{forwarded}{framing}\r\n\r\n");
        assert_eq!(asked(&with(&post), None, None).0, head("Content-Length: 0"));
        let chunked = head("Transfer-Encoding: chunked");
        let trailers = {
            let mut fields = Fields::default();
            fields.push(b"x-sum", b"7", Form::Indexed);
            fields.push(b"authorization", b"no", Form::Indexed);
            fields
        };
        let (bytes, _) = asked(&with(&post), Some(&["abc", "", "0123456789"]), Some(&trailers));
        assert_eq!(bytes, chunked.clone() + "3\r\nabc\r\na\r\n0123456789\r\n0\r\nx-sum: 7\r\n\r\n");
        assert_eq!(asked(&with(&post), Some(&[]), None).0, chunked + "0\r\n\r\n");
        let long = with(&[post[0], post[1], ("content-length", "5")]);
        let (bytes, _) = asked(&long, Some(&["ab", "cde"]), None);
        assert_eq!(bytes, head("Content-Length: 5") + "abcde");
        // What is said of the body is not believed beyond its length.
        let (bytes, _) = asked(&long, Some(&["abcdeGET /evil HTTP/1.1\r\n\r\n"]), None);
        assert_eq!(bytes, head("Content-Length: 5") + "abcde");
    }

    #[test]
    fn what_http1_would_read_in_two_ways_is_not_written() {
        for (name, value, end, flaw) in [
            (":path", "/ HTTP/1.1\r\nx: y", true, Flaw::Target),
            (":path", "/a b", true, Flaw::Target),
            (":path", "/\u{e4}", true, Flaw::Target),
            (":path", "a", true, Flaw::Target),
            (":path", "*", true, Flaw::Target),
            (":path", "http://other/", true, Flaw::Target),
            (":authority", "a,b", true, Flaw::Host),
            (":authority", "a:b", true, Flaw::Host),
            (":authority", "a\r\nx: y", true, Flaw::Host),
            (":method", "TRACE", false, Flaw::Trace),
            ("content_length", "1", true, Flaw::Underscore),
            ("transfer_encoding", "chunked", true, Flaw::Underscore),
            ("expect", "something", false, Flaw::Expect),
            ("a:b", "c", true, Flaw::Field),
            ("a\r\nb", "c", true, Flaw::Field),
            ("a", "b\r\nc: d", true, Flaw::Field),
            ("a", "b\0", true, Flaw::Field),
        ] {
            assert_eq!(check(&with(&[(name, value)]), end), Err(flaw), "{name}: {value:?}");
        }
    }

    #[test]
    fn an_answer_is_read_as_http2_has_it() {
        let get = || asked(&with(&[]), None, None).1;
        let bytes = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nX-A: 1\r\nConnection: x-b\r\nx-b: 2\r\n\
                      Keep-Alive: 5\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Sum: 7\r\nHost: evil\r\n\r\n";
        for step in 1..=bytes.len() {
            let mut exchange = get();
            let (heads, body, ends) = answered(&mut exchange, bytes, step).unwrap();
            let expected = ["Informational :status=103 link=</a> ", "Head :status=200 x-a=1 ", "Trailers x-sum=7 "];
            assert_eq!(
                (heads, &body[..], ends),
                (expected.map(String::from).to_vec(), &b"abcde"[..], 1),
                "step {step}"
            );
            assert!(exchange.leaves_clean());
        }
        // Without a length the end of the connection is the end.
        let mut exchange = get();
        let (_, body, ends) = answered(&mut exchange, b"HTTP/1.1 200 OK\r\n\r\nabc", 100).unwrap();
        assert_eq!((&body[..], ends), (&b"abc"[..], 0));
        assert!(exchange.eof() && exchange.is_done() && !exchange.leaves_clean());
        let mut exchange = get();
        answered(&mut exchange, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", 100).unwrap();
        assert!(!exchange.eof());
    }

    #[test]
    fn answers_without_a_body_end_with_their_head() {
        for (method, answer, fields) in [
            ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", "Head :status=200 content-length=7 "),
            ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "Head :status=200 "),
            ("GET", "HTTP/1.1 204 No Content\r\n\r\n", "Head :status=204 "),
            ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", "Head :status=304 content-length=7 "),
            ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "Head :status=200 content-length=0 "),
        ] {
            let (_, mut exchange) = asked(&with(&[(":method", method)]), None, None);
            let (heads, body, ends) = answered(&mut exchange, answer.as_bytes(), 100).unwrap();
            assert_eq!((heads, body.len(), ends), (alloc::vec![fields.into()], 0, 1), "{answer}");
            assert!(exchange.leaves_clean());
        }
    }

    #[test]
    fn a_connection_is_not_used_again_if_anything_speaks_against_it() {
        for answer in [
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 401 No\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n",
        ] {
            let (_, mut exchange) = asked(&with(&[]), None, None);
            answered(&mut exchange, answer.as_bytes(), 100).unwrap();
            assert!(exchange.is_done() && !exchange.leaves_clean(), "{answer}");
        }
        // The answer came before the request was whole.
        let mut out = Vec::new();
        let (settings, here) = (Settings::default(), "192.0.2.1:1".parse().unwrap());
        let peer = Peer::plain(here, Arc::new(here));
        let context = Context::new(&settings, &peer, Instant::ZERO);
        let mut exchange =
            Exchange::new(&with(&[(":method", "POST")]), false, (&Added::of(&context), None), &mut out, &context);
        answered(&mut exchange, b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n", 100).unwrap();
        assert!(exchange.is_done() && !exchange.leaves_clean());
        exchange.finish(None, &mut out);
        assert!(exchange.leaves_clean());
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for answer in [
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nno trailer\r\n\r\n",
        ] {
            for step in [1, 7, 1000] {
                let (_, mut exchange) = asked(&with(&[]), None, None);
                assert!(answered(&mut exchange, answer.as_bytes(), step).is_err(), "{answer}");
            }
        }
        let (_, mut exchange) = asked(&with(&[]), None, None);
        let hints = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(usize::from(MAX_INFORMATIONAL) + 1);
        assert_eq!(answered(&mut exchange, hints.as_bytes(), 1000).err(), Some(Flaw::Informational));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_the_same_by_the_other_half(
            pieces in proptest::collection::vec("[a-z]{0,40}", 0..8),
            cookies in proptest::collection::vec("[a-z]{1,4}=[a-z]{0,4}", 0..4),
            known in any::<bool>(),
        ) {
            let body: String = pieces.concat();
            let length = alloc::format!("{}", body.len());
            let mut changes = alloc::vec![(":method", "POST")];
            changes.extend(cookies.iter().map(|cookie| ("cookie", cookie.as_str())));
            if known {
                changes.push(("content-length", &length));
            }
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (bytes, _) = asked(&with(&changes), Some(&pieces), None);
            let mut room = [httparse::EMPTY_HEADER; 16];
            let mut request = httparse::Request::new(&mut room);
            let httparse::Status::Complete(end) = request.parse(bytes.as_bytes()).unwrap() else { panic!("not whole") };
            let field = |name: &str| {
                request.headers.iter().find(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value.to_vec())
            };
            prop_assert_eq!(field("cookie"), (!cookies.is_empty()).then(|| cookies.join("; ").into_bytes()));
            prop_assert_eq!(field("content-length"), known.then(|| length.clone().into_bytes()));
            let content = if known { bytes[end..].into() } else { unchunked(&bytes[end..]) };
            prop_assert_eq!(content, body);
        }

        #[test]
        fn pieces_of_an_answer_do_not_matter(
            chunks in proptest::collection::vec("[a-z]{1,40}", 0..8),
            step in 1..200_usize,
            chunked in any::<bool>(),
        ) {
            let body: String = chunks.concat();
            let mut bytes = String::from("HTTP/1.1 200 OK\r\n");
            if chunked {
                bytes += "Transfer-Encoding: chunked\r\n\r\n";
                chunks.iter().for_each(|chunk| bytes += &alloc::format!("{:x}\r\n{chunk}\r\n", chunk.len()));
                bytes += "0\r\n\r\n";
            } else {
                bytes += &alloc::format!("Content-Length: {}\r\n\r\n{body}", body.len());
            }
            let (_, mut exchange) = asked(&with(&[]), None, None);
            let (_, read, ends) = answered(&mut exchange, bytes.as_bytes(), step).unwrap();
            prop_assert_eq!((String::from_utf8(read).unwrap(), ends), (body, 1));
            prop_assert!(exchange.leaves_clean());
        }
    }

    /// Content of a chunked body.
    fn unchunked(bytes: &str) -> String {
        let (mut rest, mut content) = (bytes, String::new());
        loop {
            let (size, after) = rest.split_once("\r\n").unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            if size == 0 {
                assert_eq!(after, "\r\n");
                return content;
            }
            content += &after[..size];
            rest = after[size..].strip_prefix("\r\n").unwrap();
        }
    }
}
