//! Well-behaved peers.

use crate::world::*;
use evenkeel_core::time::Duration;
use evenkeel_wire::http2::connection::{Fault, Part, Reason};
use evenkeel_wire::http2::error::Code;
use evenkeel_wire::http2::frame;
use evenkeel_wire::http2::settings::{Config, Role};

#[test]
fn a_request_and_its_response() {
    let mut talk = Talk::server();
    let post =
        [(":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", "a"), ("content-length", "5")];
    let headers = talk.headers(1, &post, false);
    let seen = talk.hears(&headers);
    let [Seen::Fields { stream, part: Part::Head, status: 0, fields, end: false }] = &seen[..] else {
        panic!("{seen:?}")
    };
    assert_eq!(*fields, owned(&post));
    let stream = *stream;
    assert_eq!(talk.hears(&data(1, b"he", false)), [Seen::Data { stream, data: b"he".to_vec(), end: false }]);
    let trailers = talk.headers(1, &[("checksum", "1")], true);
    let seen = talk.hears(&[data(1, b"llo", false), trailers].concat());
    assert_eq!(
        seen,
        [
            Seen::Data { stream, data: b"llo".to_vec(), end: false },
            Seen::Fields { stream, part: Part::Trailers, status: 0, fields: owned(&[("checksum", "1")]), end: true },
        ]
    );
    assert!(talk.answer(stream, Part::Informational, &[(":status", "103")], false));
    assert!(talk.answer(stream, Part::Head, OK, false));
    assert_eq!(talk.send(stream, b"answer", false), 6);
    assert!(talk.answer(stream, Part::Trailers, &[("grpc-status", "0")], true));
    assert_eq!(
        talk.said(),
        [
            Said::Fields(1, owned(&[(":status", "103")]), false),
            Said::Fields(1, owned(OK), false),
            Said::Data(1, b"answer".to_vec(), false),
            Said::Fields(1, owned(&[("grpc-status", "0")]), true),
        ]
    );
    assert_eq!(talk.engine.open_streams(), 0);
}

#[test]
fn a_client_asks_and_hears() {
    let mut talk = Talk::client();
    let first = talk.request(GET, true).unwrap();
    let second = talk.request(GET, false).unwrap();
    assert_eq!((first.id(), second.id()), (1, 3));
    assert_eq!(talk.said(), [Said::Fields(1, owned(GET), true), Said::Fields(3, owned(GET), false)]);
    let early = talk.headers(3, &[(":status", "100")], false);
    let answer = talk.headers(1, &[(":status", "204")], true);
    let seen = talk.hears(&[early, answer].concat());
    assert!(matches!(seen[0], Seen::Fields { part: Part::Informational, status: 100, .. }));
    assert!(matches!(seen[1], Seen::Fields { part: Part::Head, status: 204, end: true, .. }));
    // The server has said all it had to say; we have not.
    let answer = talk.headers(3, OK, true);
    assert_eq!(talk.hears(&answer).len(), 1);
    assert_eq!(talk.engine.open_streams(), 1);
    assert_eq!(talk.send(second, b"", true), 0);
    assert_eq!(talk.said(), [Said::Data(3, Vec::new(), true)]);
    assert_eq!(talk.engine.open_streams(), 0);
}

#[test]
fn frames_are_read_whatever_the_pieces() {
    let mut bytes = frame::PREFACE.to_vec();
    let mut writer = Talk::begin(Role::Server, &Config::default());
    bytes.extend(settings(&[(4, 100)]));
    bytes.extend(writer.headers(1, GET, false));
    bytes.extend(raw(0, 0x8, 1, b"\x03padded...\0\0\0"));
    bytes.extend(raw(6, 0, 0, b"12345678"));
    let block = writer.block(&[("a", "b"), ("c", "d")]);
    bytes.extend([raw(1, 0x1, 1, &block[..3]), raw(9, 0, 1, &block[3..5]), raw(9, 0x4, 1, &block[5..])].concat());
    bytes.extend(settings(&[]));
    let mut expected = None;
    for size in [usize::MAX, 1, 2, 7, 13] {
        let mut talk = Talk::begin(Role::Server, &Config::default());
        let seen: Vec<_> = bytes.chunks(size.min(bytes.len())).flat_map(|piece| talk.hears(piece)).collect();
        assert_eq!(seen.len(), 4);
        let result = (seen, talk.said());
        assert_eq!(*expected.get_or_insert_with(|| result.clone()), result, "pieces of {size}");
    }
}

#[test]
fn credit_is_given_as_somebody_takes() {
    let config = Config { stream_window: 70_000, connection_window: 140_000, ..Config::default() };
    let mut talk = Talk::open(Role::Server, &config);
    let stream = talk.asks(1, false);
    for _ in 0..4 {
        assert_eq!(talk.hears(&data(1, &[0; 16_000], false)).len(), 1);
    }
    assert_eq!(talk.said(), [], "nobody has taken anything");
    talk.with(|engine, out, _| engine.release(stream, 34_000, out));
    assert_eq!(talk.said(), [Said::WindowUpdate(1, 34_000)]);
    talk.with(|engine, out, _| engine.release(stream, 30_000, out));
    // The connection has used less than half of its own.
    assert_eq!(talk.said(), []);
    for _ in 0..2 {
        assert_eq!(talk.hears(&data(1, &[0; 16_000], false)).len(), 1);
    }
    talk.with(|engine, out, _| engine.release(stream, 32_000, out));
    assert_eq!(talk.said(), [Said::WindowUpdate(1, 62_000), Said::WindowUpdate(0, 96_000)]);
}

#[test]
fn what_nobody_will_take_is_credited_to_the_connection() {
    let config = Config { connection_window: 65_535, ..Config::default() };
    let mut talk = Talk::open(Role::Server, &config);
    let stream = talk.asks(1, false);
    for _ in 0..3 {
        talk.hears(&data(1, &[0; 16_000], false));
    }
    talk.with(|engine, out, _| engine.reset(stream, Code::CANCEL, out));
    assert_eq!(talk.said(), [Said::Reset(1, Code::CANCEL), Said::WindowUpdate(0, 48_000)]);
    // What was on its way is not heard of, and credited as well.
    for _ in 0..3 {
        assert_eq!(talk.hears(&data(1, &[0; 16_000], false)), []);
    }
    assert_eq!(talk.said(), [Said::WindowUpdate(0, 48_000)]);
    let trailers = talk.headers(1, &[("late", "1")], true);
    assert_eq!(talk.hears(&trailers), []);
    // What somebody releases for a stream that is gone was credited already.
    talk.with(|engine, out, _| engine.release(stream, 48_000, out));
    assert_eq!(talk.said(), []);
}

#[test]
fn windows_let_go_what_they_can() {
    let mut talk = Talk::client();
    assert_eq!(talk.hears(&settings(&[(4, 10)])), []);
    talk.said();
    let (first, second) = (talk.request(GET, false).unwrap(), talk.request(GET, false).unwrap());
    talk.said();
    assert_eq!(talk.send(first, b"0123456789abcdef", true), 10);
    assert_eq!(talk.said(), [Said::Data(1, b"0123456789".to_vec(), false)]);
    assert_eq!(talk.engine.writable(), None);
    talk.hears(&window_update(1, 2));
    assert_eq!(talk.engine.writable(), Some(first));
    assert_eq!(talk.engine.writable(), None);
    assert_eq!(talk.send(first, b"abcdef", true), 2);
    // A larger initial window opens all streams; a smaller one may make them negative (section 6.9.2).
    talk.hears(&settings(&[(4, 0)]));
    talk.hears(&settings(&[(4, 11)]));
    assert_eq!(talk.engine.writable(), Some(first));
    assert_eq!(talk.send(first, b"cdef", true), 1);
    talk.hears(&settings(&[(4, 5)]));
    talk.hears(&window_update(1, 6));
    assert_eq!(talk.engine.writable(), None, "five less and six more than none is one, minus one that was sent");
    talk.hears(&window_update(1, 100));
    assert_eq!(talk.engine.writable(), Some(first));
    assert_eq!(talk.send(first, b"def", true), 3);
    talk.said();
    assert_eq!(talk.send(second, b"12345", true), 5);
    assert_eq!(talk.said(), [Said::Data(3, b"12345".to_vec(), true)]);
}

#[test]
fn streams_that_wait_for_the_connection_take_turns() {
    let mut talk = Talk::client();
    talk.hears(&settings(&[(4, 1 << 20)]));
    let keys: Vec<_> = (0..3).map(|_| talk.request(GET, false).unwrap()).collect();
    let large = vec![0; 100_000];
    assert_eq!(talk.send(keys[0], &large, false), 65_535);
    assert_eq!(talk.send(keys[1], &large, false), 0);
    assert_eq!(talk.send(keys[2], &large, false), 0);
    talk.hears(&window_update(0, 1000));
    assert_eq!(talk.engine.writable(), Some(keys[0]));
    assert_eq!(talk.send(keys[0], &large, false), 1000);
    assert_eq!(talk.engine.writable(), None);
    talk.hears(&window_update(0, 1000));
    assert_eq!(talk.engine.writable(), Some(keys[1]));
    assert_eq!(talk.send(keys[1], &large, false), 1000);
    talk.hears(&window_update(0, 1000));
    assert_eq!(talk.engine.writable(), Some(keys[2]));
    // One that has no more to send lets the others go on.
    assert_eq!(talk.engine.writable(), Some(keys[0]));
}

#[test]
fn a_server_takes_leave_in_two_steps() {
    let mut talk = Talk::server();
    let first = talk.asks(1, true);
    talk.with(|engine, out, now| engine.leave(out, now));
    assert_eq!(talk.said(), [Said::Goaway(frame::MAX_STREAM, Code::NO_ERROR), Said::Ping(*b"farewell", false)]);
    // A request that crosses it is served.
    let third = talk.asks(3, true);
    talk.hears(&raw(6, 1, 0, b"farewell"));
    assert_eq!(talk.said(), [Said::Goaway(3, Code::NO_ERROR)]);
    // One behind it is not, and nobody is blamed: its client tries elsewhere.
    let late = [talk.headers(5, GET, false), data(5, b"x", false), window_update(5, 1), reset(5, Code::CANCEL)];
    assert_eq!(talk.hears(&late.concat()), []);
    assert!(!talk.engine.is_finished());
    assert!(talk.answer(first, Part::Head, OK, true) && talk.answer(third, Part::Head, OK, true));
    assert!(talk.engine.is_finished());
}

#[test]
fn a_farewell_does_not_wait_for_ever() {
    let mut talk = Talk::server();
    talk.with(|engine, out, now| engine.leave(out, now));
    talk.said();
    assert_eq!(
        talk.engine.poll_timeout().map(|(at, reason)| (at.since(talk.now), reason)),
        Some((Duration::from_secs(1), Reason::Farewell))
    );
    assert_eq!(talk.wait(Duration::from_secs(1)), []);
    assert_eq!(talk.said(), [Said::Goaway(0, Code::NO_ERROR)]);
    assert!(talk.engine.is_finished());
}

#[test]
fn a_client_that_takes_leave_is_served_until_it_goes() {
    let mut talk = Talk::server();
    assert_eq!(talk.hears(&goaway(0, Code::NO_ERROR)), [Seen::Goaway(Code::NO_ERROR)]);
    assert!(!talk.engine.is_finished());
    let stream = talk.asks(1, true);
    assert!(talk.answer(stream, Part::Head, OK, true));
}

#[test]
fn each_upload_may_be_told_to_go_on() {
    let mut talk = Talk::client();
    for n in 0..1000 {
        let stream = talk.request(GET, true).unwrap();
        let answer = [talk.headers(2 * n + 1, &[(":status", "100")], false), talk.headers(2 * n + 1, OK, true)];
        assert_eq!(talk.hears(&answer.concat()).len(), 2, "{stream:?}");
    }
}

#[test]
fn windows_are_no_larger_than_there_are() {
    let config = Config { stream_window: u32::MAX, connection_window: u32::MAX, ..Config::default() };
    let mut talk = Talk::begin(Role::Server, &config);
    assert_eq!(talk.said(), [Said::Settings, Said::WindowUpdate(0, (1 << 31) - 65_536)]);
    talk.hears(&[&frame::PREFACE[..], &settings(&[(4, (1 << 31) - 1)]), &raw(4, 1, 0, b"")].concat());
    let stream = talk.asks(1, false);
    assert_eq!(talk.hears(&data(1, &[0; 16_000], true)).len(), 1);
    talk.with(|engine, out, _| engine.release(stream, 16_000, out));
}

#[test]
fn streams_behind_a_goaway_can_be_tried_elsewhere() {
    let mut talk = Talk::client();
    let keys: Vec<_> = (0..4).map(|_| talk.request(GET, true).unwrap()).collect();
    assert_eq!(talk.hears(&goaway(frame::MAX_STREAM, Code::NO_ERROR)), [Seen::Goaway(Code::NO_ERROR)]);
    assert_eq!(talk.request(GET, true), None);
    let unprocessed = |stream| Seen::Reset { stream, code: Code::REFUSED_STREAM, fault: Fault::Unprocessed };
    assert_eq!(
        talk.hears(&goaway(3, Code::NO_ERROR)),
        [Seen::Goaway(Code::NO_ERROR), unprocessed(keys[2]), unprocessed(keys[3])]
    );
    // It cannot take that back, but lower it.
    assert_eq!(talk.hears(&goaway(7, Code::NO_ERROR)), [Seen::Goaway(Code::NO_ERROR)]);
    assert_eq!(talk.hears(&goaway(1, Code::NO_ERROR)), [Seen::Goaway(Code::NO_ERROR), unprocessed(keys[1])]);
    let answer = talk.headers(1, OK, true);
    assert_eq!(talk.hears(&answer).len(), 1);
    assert!(talk.engine.is_finished());
}

#[test]
fn a_refused_stream_can_be_tried_elsewhere_and_a_reset_one_cannot() {
    let mut talk = Talk::client();
    let keys: Vec<_> = (0..2).map(|_| talk.request(GET, true).unwrap()).collect();
    let resets = [reset(1, Code::REFUSED_STREAM), reset(3, Code::CANCEL)].concat();
    assert_eq!(
        talk.hears(&resets),
        [
            Seen::Reset { stream: keys[0], code: Code::REFUSED_STREAM, fault: Fault::Unprocessed },
            Seen::Reset { stream: keys[1], code: Code::CANCEL, fault: Fault::Peer },
        ]
    );
}

#[test]
fn a_client_opens_as_many_streams_as_the_server_takes() {
    let mut talk = Talk::client();
    talk.hears(&settings(&[(3, 2)]));
    assert_eq!(talk.engine.room(), 2);
    let first = talk.request(GET, true).unwrap();
    talk.request(GET, true).unwrap();
    assert_eq!(talk.request(GET, true), None);
    let answer = talk.headers(first.id(), OK, true);
    talk.hears(&answer);
    assert_eq!(talk.engine.room(), 1);
    talk.hears(&settings(&[(3, 0)]));
    assert_eq!(talk.engine.room(), 0);
}

#[test]
fn a_server_turns_away_what_is_too_many() {
    let mut talk = Talk::open(Role::Server, &Config { streams: 2, ..Config::default() });
    let first = talk.asks(1, true);
    talk.asks(3, true);
    let third = talk.headers(5, GET, true);
    assert_eq!(talk.hears(&third), [Seen::Refused(Fault::TooMany)]);
    assert_eq!(talk.said(), [Said::Reset(5, Code::REFUSED_STREAM)]);
    assert!(talk.answer(first, Part::Head, OK, true));
    talk.asks(7, true);
}

#[test]
fn connect_is_a_tunnel() {
    let mut talk = Talk::server();
    let websocket =
        [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    let headers = talk.headers(1, &websocket, false);
    let Seen::Fields { stream, .. } = talk.hears(&headers)[0] else { panic!() };
    assert!(talk.answer(stream, Part::Head, OK, false));
    assert_eq!(talk.hears(&data(1, b"frame", false)).len(), 1);
    assert_eq!(talk.send(stream, b"frame", true), 5);
    assert_eq!(talk.hears(&data(1, b"", true)).len(), 1);
    assert_eq!(talk.engine.open_streams(), 0);

    let mut talk = Talk::client();
    let stream = talk.request(&[(":method", "CONNECT"), (":authority", "a:1")], false).unwrap();
    // What it says of a length does not count (RFC 9110, section 9.3.6).
    let answer = talk.headers(1, &[(":status", "200"), ("content-length", "1")], false);
    assert_eq!(talk.hears(&[answer, data(1, b"more than one", false)].concat()).len(), 2);
    let trailers = talk.headers(1, &[("a", "b")], true);
    assert!(
        matches!(talk.hears(&trailers)[..], [Seen::Reset { stream: gone, code: Code::PROTOCOL_ERROR, .. }] if gone == stream)
    );
}

#[test]
fn an_answer_to_head_has_a_length_and_no_body() {
    let mut talk = Talk::client();
    let head: Vec<_> = [(":method", "HEAD")].into_iter().chain(GET[1..].iter().copied()).collect();
    talk.request(&head, true).unwrap();
    let answer = talk.headers(1, &[(":status", "200"), ("content-length", "100")], true);
    assert!(matches!(talk.hears(&answer)[..], [Seen::Fields { end: true, .. }]));
    talk.request(GET, true).unwrap();
    let answer = talk.headers(3, &[(":status", "304"), ("content-length", "100")], true);
    assert!(matches!(talk.hears(&answer)[..], [Seen::Fields { end: true, .. }]));
}

#[test]
fn a_ping_is_answered_or_the_connection_is_over() {
    let mut talk = Talk::client();
    talk.with(|engine, out, now| engine.ping(out, now));
    assert_eq!(talk.said(), [Said::Ping(*b"evenkeel", false)]);
    assert_eq!(talk.hears(&raw(6, 1, 0, b"evenkeel")), [Seen::Pong]);
    assert_eq!(talk.wait(Duration::from_secs(100)), []);
    talk.with(|engine, out, now| engine.ping(out, now));
    let seen = talk.wait(Duration::from_secs(10));
    assert!(matches!(seen[..], [Seen::Over(failure)] if failure.code == Code::NO_ERROR), "{seen:?}");
}

#[test]
fn a_window_that_shrinks_with_our_settings_shrinks_when_they_are_acknowledged() {
    let config = Config { stream_window: 1000, ..Config::default() };
    let mut talk = Talk::begin(Role::Server, &config);
    talk.hears(&[&frame::PREFACE[..], &settings(&[])].concat());
    let stream = talk.asks(1, false);
    // It has not heard of our SETTINGS.
    assert_eq!(talk.hears(&data(1, &[0; 2000], false)).len(), 1);
    talk.hears(&raw(4, 1, 0, b""));
    talk.said();
    let seen = talk.hears(&data(1, &[0; 1], false));
    assert_eq!(seen, [Seen::Reset { stream, code: Code::FLOW_CONTROL_ERROR, fault: Fault::Flow }]);
}

#[test]
fn an_idle_connection_is_small() {
    let mut talk = Talk::server();
    assert!(talk.engine.footprint() < 1024, "{}", talk.engine.footprint());
    for id in 0..1000 {
        let stream = talk.asks(2 * id + 1, true);
        assert!(talk.answer(stream, Part::Head, OK, true));
    }
    let warm = talk.engine.footprint();
    assert!(warm < 6 * 1024, "{warm}");
    for id in 1000..2000 {
        let stream = talk.asks(2 * id + 1, true);
        assert!(talk.answer(stream, Part::Head, OK, true));
    }
    assert_eq!(talk.engine.footprint(), warm, "memory stays flat");
    talk.engine.relax();
    assert!(talk.engine.footprint() < 2 * 1024, "{}", talk.engine.footprint());
}
