//! Turns of HTTP/1.1 on a stream of HTTP/2: what a client says becomes fields and data, and what comes back its answer.

use crate::world::{List, Said, Talk, owned};
use evenkeel_core::end::{Cause, End, Phase};
use evenkeel_core::time::Instant;
use evenkeel_wire::http1::{Opened, Upload};
use evenkeel_wire::http2::connection::Part;
use evenkeel_wire::http2::forward::Answer;
use evenkeel_wire::http2::hpack::{Fields, Form};
use evenkeel_wire::http2::settings::{Config, Role};
use evenkeel_wire::http2::streams::StreamKey;
use evenkeel_wire::out::Out;
use evenkeel_wire::session::{Context, Forwarding, Io, Output, Peer, Protocol, Session, Settings};
use proptest::prelude::*;

/// A worker in miniature: a session, and a link that its turns become streams of.
struct Guest {
    session: Session,
    settings: Settings,
    peer: Peer,
    may_retry: bool,
    link: Talk,
    upload: Option<(StreamKey, Upload)>,
    /// Bytes for the link that are not fields or data yet.
    waiting: Vec<u8>,
    input: Vec<u8>,
    to_client: Vec<u8>,
    /// What the link has said.
    said: Vec<Said>,
    outputs: Vec<Output>,
}

fn settings() -> Settings {
    Settings { protocol: Protocol::Http1, x_forwarded: Forwarding::Keep, reason: false, ..Settings::default() }
}

impl Guest {
    fn new(settings: Settings) -> Self {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
        let peer = Peer::plain(address, address.into());
        let session = Session::new(&Context::new(&settings, &peer, Instant::ZERO));
        Self {
            session,
            settings,
            peer,
            may_retry: false,
            link: Talk::open(Role::Client, &Config::default()),
            upload: None,
            waiting: Vec::new(),
            input: Vec::new(),
            to_client: Vec::new(),
            said: Vec::new(),
            outputs: Vec::new(),
        }
    }

    fn call<'i>(&mut self, call: impl FnOnce(&mut Session, &mut Io<'_, 'i>, &Context<'_>)) {
        let may_retry = self.may_retry;
        let context = Context { may_retry, ..Context::new(&self.settings, &self.peer, self.link.now) };
        let mut io = Io { client: Out::new(&mut self.to_client), link: Out::new(&mut self.waiting) };
        call(&mut self.session, &mut io, &context);
        io.client.spill();
        io.link.spill();
        while let Some(output) = self.session.poll_output() {
            if matches!(output, Output::Turn(_) | Output::Retry) {
                self.waiting.clear();
                self.upload = None;
            }
            self.outputs.push(output);
        }
        self.pass_on();
    }

    /// Opens a stream if there is a request, and passes on what waits.
    fn pass_on(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let mut at = 0;
        if self.upload.is_none() && !waiting.is_empty() {
            let opened = self.link.with(|engine, out, _| Upload::open(&waiting, false, engine, out));
            let Opened { stream, upload, length } = opened.expect("a request, and room for it");
            (self.upload, at) = (Some((stream, upload)), length);
        }
        if let Some((stream, upload)) = &mut self.upload {
            at += self.link.with(|engine, out, now| {
                let mut copied = Out::new(out.spill());
                let sent = upload.relay(&waiting[at..], *stream, engine, &mut copied, now);
                copied.spill();
                sent
            });
        }
        self.waiting = waiting[at..].to_vec();
        self.said.extend(self.link.said());
    }

    fn client(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let mut used = 0;
        self.call(|session, io, context| used = session.client_data(&input, io, context));
        self.input = input[used..].to_vec();
    }

    fn answer(&mut self, part: Part, fields: &[(&str, &str)], end: bool) {
        let mut list = Fields::default();
        fields.iter().for_each(|(name, value)| list.push(name.as_bytes(), value.as_bytes(), Form::Plain));
        let status =
            fields.iter().find(|(name, _)| *name == ":status").map_or(0, |(_, status)| status.parse().unwrap());
        self.call(|session, io, context| {
            session.stream_fields(&Answer { part, status, fields: &list, end }, io, context);
        });
    }

    fn data(&mut self, data: &[u8], end: bool) {
        self.call(|session, io, context| session.stream_data(data, end, io, context));
    }

    /// What the client got since the last time.
    fn got(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.to_client)).unwrap()
    }

    fn ended(&self) -> Option<End> {
        self.outputs.iter().find_map(|output| match output {
            Output::End { end, .. } => Some(*end),
            _ => None,
        })
    }
}

const OK: &[(&str, &str)] = &[(":status", "200")];

fn fields(said: &Said) -> &List {
    match said {
        Said::Fields(_, list, _) => list,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_head_becomes_fields_without_what_is_about_its_connection() {
    let mut guest = Guest::new(settings());
    guest.client(
        b"OPTIONS http://shop.example HTTP/1.1\r\nHost: a\r\nX-UPPER: Value\r\nAuthorization: Basic x\r\n\
          Upgrade: foo\r\nConnection: upgrade, x-gone\r\nX-Gone: 1\r\nTE: gzip, trailers\r\nTrailer: x-sum\r\n\r\n",
    );
    let expected = owned(&[
        (":method", "OPTIONS"),
        (":scheme", "http"),
        (":path", "*"),
        (":authority", "shop.example"),
        ("x-upper", "Value"),
        ("authorization", "Basic x"),
        ("trailer", "x-sum"),
    ]);
    assert_eq!(guest.said, [Said::Fields(1, expected, true)]);
}

#[test]
fn a_secret_is_in_nobody_s_table() {
    let mut guest = Guest::new(settings());
    for id in [1, 3] {
        guest.client(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=secret\r\nUser-Agent: test\r\n\r\n");
        let Some(Said::Fields(of, ..)) = guest.said.pop() else { panic!("a request") };
        assert_eq!(of, id);
        guest.answer(Part::Head, OK, true);
    }
    // The second time what came before is an index, but for the cookie, which is written out.
    let mut out = Vec::new();
    let waiting = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=secret\r\nUser-Agent: test\r\n\r\n";
    Upload::open(waiting, false, &mut guest.link.engine, &mut Out::new(&mut out)).expect("there is room");
    let has = |text: &[u8]| out.windows(text.len()).any(|window| window == text);
    assert!(!has(b"test") && out.len() < 9 + 5 + 3 + 10, "{out:?}");
    // Never indexed, with the name from the static table: 0001 and 32 in a prefix of four bits.
    assert!(out.windows(2).any(|two| two == [0x1F, 32 - 15]), "{out:?}");
}

#[test]
fn chunks_become_data_and_their_trailers_trailers() {
    let mut guest = Guest::new(settings());
    guest.client(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n1\r\nc\r\n");
    guest.client(b"0\r\nX-Sum: 3\r\nHost: evil\r\n\r\n");
    assert!(fields(&guest.said[0]).iter().all(|(name, _)| name != "transfer-encoding"));
    assert_eq!(
        guest.said[1..],
        [
            Said::Data(1, b"ab".to_vec(), false),
            Said::Data(1, b"c".to_vec(), false),
            Said::Fields(1, owned(&[("x-sum", "3")]), true),
        ]
    );
    guest.answer(Part::Head, OK, false);
    guest.data(b"hello", false);
    guest.answer(Part::Trailers, &[("x-sum", "5"), ("content-type", "evil")], true);
    assert_eq!(guest.got(), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n");
    guest.client(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(guest.said.last(), Some(&Said::Data(3, Vec::new(), true)));
}

#[test]
fn what_an_answer_says_of_its_length_is_what_the_client_is_told() {
    for (request, head, end, expected) in [
        ("GET / HTTP/1.1", &[(":status", "204")][..], true, "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET / HTTP/1.1", &[(":status", "200")], true, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (
            "HEAD / HTTP/1.1",
            &[(":status", "200"), ("content-length", "7")],
            true,
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
        ),
        ("HEAD / HTTP/1.1", &[(":status", "299")], true, "HTTP/1.1 299 \r\n\r\n"),
        (
            "GET / HTTP/1.1",
            &[(":status", "206"), ("content-length", "7"), ("te", "trailers"), ("http2-settings", "x")],
            false,
            "HTTP/1.1 206 Partial Content\r\nContent-Length: 7\r\n\r\n",
        ),
        (
            "GET / HTTP/1.0",
            &[(":status", "200"), ("content-length", "7")],
            false,
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\n",
        ),
        ("GET / HTTP/1.0", &[(":status", "200")], false, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"),
    ] {
        let mut guest = Guest::new(settings());
        guest.client(format!("{request}\r\nHost: a\r\n\r\n").as_bytes());
        guest.answer(Part::Head, head, end);
        assert_eq!(guest.got(), expected, "{request} {head:?}");
    }
}

#[test]
fn the_turn_ends_with_the_stream_and_not_before() {
    let mut guest = Guest::new(settings());
    guest.client(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    guest.answer(Part::Informational, &[(":status", "103")], false);
    guest.answer(Part::Head, &[(":status", "200"), ("content-length", "2")], false);
    guest.data(b"hi", false);
    // Trailers may still come: the client knows that it has everything, and the endpoint is not interrupted.
    assert!(!guest.outputs.iter().any(|output| matches!(output, Output::Turn(_))));
    guest.data(b"", true);
    assert_eq!(guest.got(), "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    guest.client(b"");
    assert!(matches!(guest.said.last(), Some(Said::Fields(3, ..))), "the next request");
}

#[test]
fn what_no_client_could_make_sense_of_is_the_endpoint_s_failure() {
    for (part, head) in [
        (Part::Head, &[(":status", "600")][..]),
        (Part::Trailers, &[("x-sum", "1")]),
        (Part::Head, &[(":status", "999")]),
    ] {
        let mut guest = Guest::new(settings());
        guest.client(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        guest.answer(part, head, part == Part::Trailers);
        assert!(guest.got().starts_with("HTTP/1.1 502 "), "{head:?}");
        assert_eq!(guest.ended(), Some(End { cause: Cause::EndpointProtocol, phase: Phase::Wait }));
    }
    // Informational responses without end.
    let mut guest = Guest::new(settings());
    guest.client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    (0..17).for_each(|_| guest.answer(Part::Informational, &[(":status", "103")], false));
    assert!(guest.got().contains("HTTP/1.1 502 "));
}

#[test]
fn an_endpoint_that_is_unavailable_may_be_left_for_another() {
    let mut guest = Guest::new(settings());
    guest.may_retry = true;
    guest.client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    guest.answer(Part::Head, &[(":status", "503")], true);
    assert_eq!(guest.got(), "");
    assert_eq!(guest.outputs.last(), Some(&Output::Retry));
}

#[test]
fn what_is_no_request_opens_no_stream() {
    let mut talk = Talk::client();
    for waiting in ["", "GET / HTTP/1.1\r\nHost: a\r\n", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"] {
        let opened = talk.with(|engine, out, _| Upload::open(waiting.as_bytes(), false, engine, out));
        assert!(opened.is_none(), "{waiting:?}");
    }
    assert_eq!(talk.said(), []);
}

/// All of a request's content, and the trailers behind it, of what was said on one stream.
fn content(said: &[Said]) -> (Vec<u8>, Option<List>, bool) {
    let (mut body, mut trailers, mut ended) = (Vec::new(), None, false);
    for said in said {
        assert!(!ended, "nothing stands behind the end");
        match said {
            Said::Fields(_, list, end) if list.first().is_some_and(|(name, _)| name == ":method") => ended = *end,
            Said::Fields(_, list, end) => (trailers, ended) = (Some(list.clone()), *end),
            Said::Data(_, data, end) => {
                body.extend_from_slice(data);
                ended = *end;
            }
            other => panic!("{other:?}"),
        }
    }
    (body, trailers, ended)
}

proptest! {
    /// The client's bytes come in any pieces, and the windows of the stream open by any steps.
    #[test]
    fn content_arrives_whole_whatever_the_pieces_and_windows(
        body in prop::collection::vec(any::<u8>(), 0..300),
        chunks in prop::option::of(prop::collection::vec(1usize..60, 1..6)),
        trailer in any::<bool>(),
        cuts in prop::collection::vec(1usize..80, 1..8),
        (window, steps) in (0u32..100, prop::collection::vec(1u32..50, 1..6)),
    ) {
        let mut bytes = b"POST /x HTTP/1.1\r\nHost: a\r\n".to_vec();
        match &chunks {
            None => {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                bytes.extend_from_slice(&body);
            }
            Some(sizes) => {
                bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                let (mut rest, mut sizes) = (&body[..], sizes.iter().cycle());
                while !rest.is_empty() {
                    let (chunk, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                    rest = after;
                }
                bytes.extend_from_slice(if trailer { b"0\r\nX-Sum: 1\r\n\r\n" } else { b"0\r\n\r\n" });
            }
        }
        let mut guest = Guest::new(settings());
        // INITIAL_WINDOW_SIZE.
        guest.link.hears(&crate::world::settings(&[(0x4, window)]));
        guest.link.said();
        let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            guest.client(piece);
            rest = after;
        }
        let mut steps = steps.iter().cycle();
        for _ in 0..400 {
            guest.link.hears(&crate::world::window_update(1, *steps.next().unwrap()));
            if guest.link.engine.writable().is_some() {
                guest.pass_on();
            }
        }
        let said: Vec<Said> = guest.said.into_iter().filter(|said| !matches!(said, Said::SettingsAck)).collect();
        let trailers = (trailer && chunks.is_some()).then(|| owned(&[("x-sum", "1")]));
        prop_assert_eq!(content(&said), (body, trailers, true));
        prop_assert!(guest.waiting.is_empty() && guest.input.is_empty());
        prop_assert!(guest.upload.is_some_and(|(_, upload)| upload.is_done()));
    }

    /// The answer's data come in any pieces.
    #[test]
    fn an_answer_is_the_same_whatever_the_pieces(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..8),
        (minor, with_length, trailers) in (0u8..2, any::<bool>(), any::<bool>()),
    ) {
        let body = pieces.concat();
        let mut guest = Guest::new(settings());
        guest.client(format!("GET / HTTP/1.{minor}\r\nHost: a\r\n\r\n").as_bytes());
        let length = body.len().to_string();
        let head = [(":status", "200"), ("content-length", &*length)];
        guest.answer(Part::Head, if with_length { &head } else { &head[..1] }, false);
        pieces.iter().for_each(|piece| guest.data(piece, false));
        if trailers {
            guest.answer(Part::Trailers, &[("x-sum", "1")], true);
        } else {
            guest.data(b"", true);
        }
        let end = guest.to_client.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head") + 4;
        let (head, got) = guest.to_client.split_at(end);
        let chunked = head.windows(7).any(|w| w == b"chunked");
        prop_assert_eq!(chunked, minor == 1 && !with_length);
        if chunked {
            let mut expected = Vec::new();
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                expected.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                expected.extend_from_slice(piece);
                expected.extend_from_slice(b"\r\n");
            }
            expected.extend_from_slice(if trailers { b"0\r\nx-sum: 1\r\n\r\n" } else { b"0\r\n\r\n" });
            prop_assert_eq!(got, expected);
        } else {
            prop_assert_eq!(got, body);
        }
        prop_assert!(guest.outputs.iter().any(|output| matches!(output, Output::Turn(_))));
        prop_assert_eq!(guest.ended().is_some(), minor == 0);
    }
}
