//! Hostile peers: each finds a bound, and the error that RFC 9113 has for it.

use crate::world::*;
use evenkeel_core::time::Duration;
use evenkeel_wire::http2::budget::{Allowance, Flood, PERIOD};
use evenkeel_wire::http2::connection::{Fault, Part};
use evenkeel_wire::http2::error::Code;
use evenkeel_wire::http2::frame;
use evenkeel_wire::http2::message::Flaw;
use evenkeel_wire::http2::settings::{Config, Role};

/// Says it again and again until the connection is over; returns how often it was borne.
fn until_over(talk: &mut Talk, flood: Flood, mut bytes: impl FnMut(&mut Talk, u32) -> Vec<u8>) -> u32 {
    for count in 0..100_000 {
        let bytes = bytes(talk, count);
        if let Some(Seen::Over(failure)) = talk.hears(&bytes).last() {
            assert_eq!((failure.code, failure.flood), (Code::ENHANCE_YOUR_CALM, Some(flood)));
            return count;
        }
        // What one flood makes us say is read away here, as its victim's socket would.
        talk.said();
    }
    panic!("it is borne for ever");
}

#[test]
fn rapid_reset() {
    let mut talk = Talk::server();
    let borne = until_over(&mut talk, Flood::Resets, |talk, n| {
        [talk.headers(2 * n + 1, GET, true), reset(2 * n + 1, Code::CANCEL)].concat()
    });
    assert_eq!(borne, 100);
    assert_eq!(talk.engine.open_streams(), 0);
}

#[test]
fn resets_among_much_that_is_done_are_borne() {
    let mut talk = Talk::server();
    for n in 0..1000 {
        let stream = talk.asks(4 * n + 1, true);
        assert!(talk.answer(stream, Part::Head, OK, true));
        let key = talk.asks(4 * n + 3, true);
        assert_eq!(
            talk.hears(&reset(4 * n + 3, Code::CANCEL)),
            [Seen::Reset { stream: key, code: Code::CANCEL, fault: Fault::Peer }]
        );
    }
}

#[test]
fn resets_are_forgiven_in_time() {
    let mut talk = Talk::server();
    for n in 0..1000 {
        talk.asks(2 * n + 1, true);
        talk.hears(&reset(2 * n + 1, Code::CANCEL));
        talk.wait(PERIOD / 100);
    }
}

/// CVE-2025-8671: the server is made to do the resetting.
#[test]
fn made_you_reset() {
    let provocations: [fn(u32) -> Vec<u8>; 3] =
        [|id| window_update(id, 0), |id| window_update(id, (1 << 31) - 1), |id| data(id, b"behind the end", false)];
    for provoke in provocations {
        let mut talk = Talk::server();
        let borne = until_over(&mut talk, Flood::Resets, |talk, n| {
            [talk.headers(2 * n + 1, GET, true), provoke(2 * n + 1)].concat()
        });
        assert_eq!(borne, 100);
    }
    let mut talk = Talk::server();
    let borne = until_over(&mut talk, Flood::Resets, |talk, n| talk.headers(2 * n + 1, &GET[1..], true));
    assert_eq!(borne, 100);
}

#[test]
fn more_streams_than_allowed_again_and_again() {
    let mut talk = Talk::open(Role::Server, &Config { streams: 1, ..Config::default() });
    talk.asks(1, true);
    let borne = until_over(&mut talk, Flood::Resets, |talk, n| talk.headers(2 * n + 3, GET, true));
    assert_eq!(borne, 100);
}

#[test]
fn continuations_without_end() {
    let mut talk = Talk::server();
    talk.hears(&raw(1, 0, 1, b"\x82"));
    assert_eq!(until_over(&mut talk, Flood::Continuations, |_, _| raw(9, 0, 1, b"\x82")), 8);
    // Or large ones.
    let mut talk = Talk::server();
    talk.hears(&raw(1, 0, 1, &[0x82; 16_384]));
    assert_eq!(until_over(&mut talk, Flood::Continuations, |_, _| raw(9, 0, 1, &[0x82; 16_384])), 3);
    assert!(talk.engine.footprint() < 200 * 1024);
}

#[test]
fn a_block_that_does_not_end_in_time() {
    let mut talk = Talk::server();
    talk.hears(&raw(1, 0, 1, b"\x82"));
    let seen = talk.wait(Duration::from_secs(5));
    assert!(matches!(seen[..], [Seen::Over(failure)] if failure.flood == Some(Flood::Continuations)), "{seen:?}");
}

#[test]
fn settings_pings_and_priorities() {
    let mut talk = Talk::server();
    assert_eq!(until_over(&mut talk, Flood::Settings, |_, _| settings(&[])), 100);
    let mut talk = Talk::client();
    assert_eq!(until_over(&mut talk, Flood::Settings, |_, _| goaway(1, Code::NO_ERROR)), 100);
    let mut talk = Talk::server();
    assert_eq!(until_over(&mut talk, Flood::Pings, |_, _| raw(6, 0, 0, b"12345678")), 100);
    let mut talk = Talk::server();
    assert_eq!(until_over(&mut talk, Flood::Priorities, |_, n| raw(2, 0, 2 * n + 1, b"\0\0\0\0\x10")), 100);
    let mut talk = Talk::server();
    assert_eq!(until_over(&mut talk, Flood::Priorities, |_, _| raw(0xEE, 0, 0, b"")), 100);
}

#[test]
fn a_ping_for_each_frame_of_ours_is_borne() {
    let mut talk = Talk::server();
    let stream = talk.asks(1, true);
    assert!(talk.answer(stream, Part::Head, OK, false));
    for _ in 0..1000 {
        assert_eq!(talk.send(stream, b"x", false), 1);
        assert_eq!(talk.hears(&[window_update(0, 1), window_update(1, 1), raw(6, 0, 0, b"12345678")].concat()), []);
    }
}

#[test]
fn frames_with_nothing_in_them() {
    let mut talk = Talk::server();
    talk.asks(1, false);
    assert_eq!(until_over(&mut talk, Flood::Empty, |_, _| data(1, b"", false)), 100);
    let mut talk = Talk::server();
    talk.asks(1, false);
    // Padding is nothing too.
    assert_eq!(until_over(&mut talk, Flood::Empty, |_, _| raw(0, 8, 1, b"\x03\0\0\0")), 100);
    let mut talk = Talk::server();
    assert_eq!(
        until_over(&mut talk, Flood::Empty, |talk, n| {
            let block = talk.block(GET);
            [raw(1, 1, 2 * n + 1, b""), raw(9, 4, 2 * n + 1, &block), reset(2 * n + 1, Code::CANCEL)].concat()
        }),
        100
    );
    let mut talk = Talk::client();
    talk.request(GET, true);
    assert_eq!(until_over(&mut talk, Flood::Empty, |talk, _| talk.headers(1, &[(":status", "100")], false)), 100);
}

#[test]
fn windows_opened_a_byte_at_a_time() {
    let mut talk = Talk::server();
    assert_eq!(until_over(&mut talk, Flood::WindowUpdates, |_, _| window_update(0, 1)), 1000);
}

#[test]
fn windows_beyond_all_bounds() {
    let mut talk = Talk::server();
    let failure = talk.breaks(&window_update(0, (1 << 31) - 65_535));
    assert_eq!(failure.code, Code::FLOW_CONTROL_ERROR);
    let mut talk = Talk::server();
    let stream = talk.asks(1, true);
    let seen = talk.hears(&window_update(1, (1 << 31) - 65_535));
    assert_eq!(seen, [Seen::Reset { stream, code: Code::FLOW_CONTROL_ERROR, fault: Fault::Flow }]);
    // By way of SETTINGS (section 6.9.2).
    let mut talk = Talk::server();
    talk.asks(1, true);
    let failure = talk.breaks(&[window_update(1, 1), settings(&[(4, (1 << 31) - 1)])].concat());
    assert_eq!(failure.code, Code::FLOW_CONTROL_ERROR);
}

#[test]
fn more_data_than_the_windows() {
    let config = Config { stream_window: 20_000, connection_window: 65_535, ..Config::default() };
    let mut talk = Talk::open(Role::Server, &config);
    let stream = talk.asks(1, false);
    talk.hears(&data(1, &[0; 16_000], false));
    let seen = talk.hears(&data(1, &[0; 4_001], false));
    assert_eq!(seen, [Seen::Reset { stream, code: Code::FLOW_CONTROL_ERROR, fault: Fault::Flow }]);
    let mut talk = Talk::open(Role::Server, &Config { connection_window: 65_535, ..Config::default() });
    for n in 0..5 {
        talk.asks(2 * n + 1, false);
    }
    let all: Vec<u8> = (0..5).flat_map(|n| data(2 * n + 1, &[0; 14_000], false)).collect();
    assert_eq!(talk.breaks(&all).code, Code::FLOW_CONTROL_ERROR);
}

#[test]
fn a_window_that_stays_closed() {
    let mut talk = Talk::server();
    talk.hears(&settings(&[(4, 0)]));
    let stream = talk.asks(1, true);
    assert!(talk.answer(stream, Part::Head, OK, false));
    assert_eq!(talk.send(stream, b"never", true), 0);
    // A byte now and then is no progress.
    for _ in 0..5 {
        assert_eq!(talk.wait(Duration::from_secs(10)), []);
        talk.hears(&window_update(1, 1));
        assert_eq!(talk.engine.writable(), Some(stream));
        assert_eq!(talk.send(stream, b"never", true), 1);
    }
    talk.said();
    let seen = talk.wait(Duration::from_secs(10));
    assert_eq!(seen, [Seen::Reset { stream, code: Code::CANCEL, fault: Fault::Stalled }]);
    assert_eq!(talk.said(), [Said::Reset(1, Code::CANCEL)]);
    assert_eq!(talk.engine.poll_timeout(), None);
}

#[test]
fn a_connection_window_that_stays_closed() {
    let mut talk = Talk::server();
    talk.hears(&settings(&[(4, 1 << 20)]));
    let (first, second) = (talk.asks(1, true), talk.asks(3, true));
    for stream in [first, second] {
        assert!(talk.answer(stream, Part::Head, OK, false));
        talk.send(stream, &[0; 100_000], true);
    }
    let seen = talk.wait(Duration::from_secs(60));
    let stalled = |stream| Seen::Reset { stream, code: Code::CANCEL, fault: Fault::Stalled };
    assert_eq!(seen, [stalled(first), stalled(second)]);
}

#[test]
fn settings_that_are_not_sent_or_not_acknowledged() {
    let mut talk = Talk::begin(Role::Server, &Config::default());
    talk.hears(frame::PREFACE);
    let seen = talk.wait(Duration::from_secs(10));
    assert!(matches!(seen[..], [Seen::Over(failure)] if failure.code == Code::SETTINGS_TIMEOUT));
    let mut talk = Talk::begin(Role::Client, &Config::default());
    talk.hears(&settings(&[]));
    let seen = talk.wait(Duration::from_secs(10));
    assert!(matches!(seen[..], [Seen::Over(failure)] if failure.code == Code::SETTINGS_TIMEOUT));
}

#[test]
fn games_with_settings() {
    for (parameter, code) in [
        ((2, 2), Code::PROTOCOL_ERROR),
        ((4, 1 << 31), Code::FLOW_CONTROL_ERROR),
        ((5, 100), Code::PROTOCOL_ERROR),
        ((5, 1 << 24), Code::PROTOCOL_ERROR),
    ] {
        assert_eq!(Talk::server().breaks(&settings(&[parameter])).code, code, "{parameter:?}");
    }
    assert_eq!(Talk::server().breaks(&raw(4, 1, 0, b"")).code, Code::PROTOCOL_ERROR);
    // A huge table is not used, and none at all costs compression only.
    let mut talk = Talk::server();
    for size in [u32::MAX, 0, 4096, 0] {
        talk.hears(&settings(&[(1, size)]));
    }
    let stream = talk.asks(1, true);
    assert!(talk.answer(stream, Part::Head, OK, true));
    talk.said();
    assert!(talk.engine.footprint() < 4 * 1024);
}

#[test]
fn header_bombs() {
    let config = Config { header_bytes: 10_000, header_fields: 20, ..Config::default() };
    // An entry that is named a thousand times.
    let mut talk = Talk::open(Role::Server, &config);
    let mut block = vec![0x40, 1, b'x', 0x7F, 0xA1, 0x1E];
    block.extend([b'v'; 4000]);
    block.extend([0x80 | 62; 10_000]);
    let seen = talk.hears(&raw(1, 5, 1, &block));
    let [Seen::TooLarge { stream, end: true }] = seen[..] else { panic!("{seen:?}") };
    assert!(talk.engine.footprint() < 32 * 1024, "{}", talk.engine.footprint());
    // It can be told so.
    assert!(talk.answer(stream, Part::Head, &[(":status", "431")], true));
    // Many small ones.
    let seen = talk.hears(&raw(1, 5, 3, &[0x82; 21]));
    assert!(matches!(seen[..], [Seen::TooLarge { .. }]), "{seen:?}");
    // The tables still agree.
    talk.asks(5, true);
    // In trailers and responses there is nobody to tell.
    let stream = talk.asks(7, false);
    let seen = talk.hears(&raw(1, 5, 7, &[0x80 | 62; 9_999]));
    assert_eq!(seen, [Seen::Reset { stream, code: Code::ENHANCE_YOUR_CALM, fault: Fault::TooLarge }]);
}

#[test]
fn blocks_that_cannot_be_decoded() {
    for block in [&b"\x80"[..], b"\xFF", b"\x40\x81\xFF\x00", b"\x82\x3F\xE1\x1F", b"\x3F\xE2\x1F"] {
        assert_eq!(Talk::server().breaks(&raw(1, 5, 1, block)).code, Code::COMPRESSION_ERROR, "{block:?}");
    }
}

#[test]
fn connections_that_do_not_begin_like_one() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"\0"] {
        let mut talk = Talk::begin(Role::Server, &Config::default());
        assert_eq!(talk.breaks(bytes).code, Code::PROTOCOL_ERROR);
    }
    for first in
        [raw(6, 0, 0, b"12345678"), raw(4, 1, 0, b""), window_update(0, 1), window_update(1, 0), raw(0xEE, 0, 0, b"")]
    {
        let mut talk = Talk::begin(Role::Server, &Config::default());
        assert_eq!(talk.breaks(&[frame::PREFACE, &first[..]].concat()).code, Code::PROTOCOL_ERROR);
        let mut talk = Talk::begin(Role::Client, &Config::default());
        assert_eq!(talk.breaks(&first).code, Code::PROTOCOL_ERROR);
    }
}

#[test]
fn frames_out_of_place() {
    let server = |frames: &dyn Fn(&mut Talk) -> Vec<u8>| {
        let mut talk = Talk::server();
        let bytes = frames(&mut talk);
        talk.breaks(&bytes).code
    };
    // On idle streams (section 5.1).
    assert_eq!(server(&|_| data(1, b"x", false)), Code::PROTOCOL_ERROR);
    assert_eq!(server(&|_| reset(1, Code::CANCEL)), Code::PROTOCOL_ERROR);
    assert_eq!(server(&|_| window_update(1, 1)), Code::PROTOCOL_ERROR);
    assert_eq!(server(&|_| window_update(1, 0)), Code::PROTOCOL_ERROR);
    // Streams that are not the client's to open, or not any more (section 5.1.1).
    assert_eq!(server(&|talk| talk.headers(2, GET, true)), Code::PROTOCOL_ERROR);
    assert_eq!(server(&|talk| [talk.headers(5, GET, true), talk.headers(3, GET, true)].concat()), Code::PROTOCOL_ERROR);
    // Between the fragments of a block (section 6.10), and behind one.
    let begun = |next: Vec<u8>| [raw(1, 0, 1, b"\x82"), next].concat();
    assert_eq!(server(&|_| begun(raw(6, 0, 0, b"12345678"))), Code::PROTOCOL_ERROR);
    assert_eq!(server(&|_| begun(raw(0xEE, 0, 0, b""))), Code::PROTOCOL_ERROR);
    assert_eq!(server(&|_| begun(raw(9, 4, 3, b"\x84"))), Code::PROTOCOL_ERROR);
    assert_eq!(server(&|_| begun(window_update(1, 0))), Code::PROTOCOL_ERROR);
    assert_eq!(server(&|_| raw(9, 4, 1, b"\x82")), Code::PROTOCOL_ERROR);
    // Nobody may push to us (section 8.4).
    assert_eq!(server(&|_| raw(5, 4, 1, b"\0\0\0\x02\x82")), Code::PROTOCOL_ERROR);
    let mut talk = Talk::client();
    talk.request(GET, true);
    assert_eq!(talk.breaks(&raw(5, 4, 1, b"\0\0\0\x02\x82")).code, Code::PROTOCOL_ERROR);
    let mut talk = Talk::client();
    let unasked = talk.headers(2, OK, true);
    assert_eq!(talk.breaks(&unasked).code, Code::PROTOCOL_ERROR);
    assert_eq!(server(&|_| raw(0, 0, 1, &[0; 16_385])), Code::FRAME_SIZE_ERROR);
}

#[test]
fn frames_behind_the_end_of_a_stream() {
    // The client has ended its side (section 5.1, half-closed).
    let mut talk = Talk::server();
    let stream = talk.asks(1, true);
    let closed = |stream| Seen::Reset { stream, code: Code::STREAM_CLOSED, fault: Fault::Ended };
    assert_eq!(talk.hears(&data(1, b"x", false)), [closed(stream)]);
    let stream = talk.asks(3, true);
    let again = talk.headers(3, GET, true);
    assert_eq!(talk.hears(&again), [closed(stream)]);
    // Both have.
    let stream = talk.asks(5, true);
    assert!(talk.answer(stream, Part::Head, OK, true));
    talk.said();
    assert_eq!(talk.hears(&[window_update(5, 1), reset(5, Code::CANCEL), data(5, b"x", false)].concat()), []);
    assert_eq!(talk.said(), [Said::Reset(5, Code::STREAM_CLOSED)]);
    let again = talk.headers(5, GET, true);
    assert_eq!(talk.breaks(&again).code, Code::STREAM_CLOSED);
    // The client has reset it.
    let mut talk = Talk::server();
    talk.asks(1, false);
    talk.hears(&reset(1, Code::CANCEL));
    talk.hears(&data(1, b"x", false));
    assert_eq!(talk.said(), [Said::Reset(1, Code::STREAM_CLOSED)]);
    // We have: whatever comes until its end is not its fault, and what comes behind it is.
    let mut talk = Talk::server();
    let stream = talk.asks(1, false);
    talk.with(|engine, out, _| engine.reset(stream, Code::CANCEL, out));
    talk.said();
    let late = [data(1, b"x", false), window_update(1, 1), data(1, b"x", true)].concat();
    assert_eq!((talk.hears(&late), talk.said()), (vec![], vec![]));
    talk.hears(&data(1, b"x", false));
    assert_eq!(talk.said(), [Said::Reset(1, Code::STREAM_CLOSED)]);
}

#[test]
fn messages_that_are_none() {
    let malformed = |flaw| (Code::PROTOCOL_ERROR, Fault::Malformed(flaw));
    // Requests never become a stream.
    let with_length = [GET, &[("content-length", "5")]].concat();
    for (fields, end, flaw) in [
        (&GET[1..], true, Flaw::Pseudo),
        (&[GET, &[("connection", "close")]].concat(), true, Flaw::ConnectionSpecific),
        (&[GET, &[("a", "b\r\nc: d")]].concat(), true, Flaw::Field),
        (&with_length, true, Flaw::ContentLength),
    ] {
        let mut talk = Talk::server();
        let headers = talk.headers(1, fields, end);
        assert_eq!(talk.hears(&headers), [Seen::Refused(Fault::Malformed(flaw))]);
        assert_eq!(talk.said(), [Said::Reset(1, Code::PROTOCOL_ERROR)]);
        assert_eq!(talk.engine.open_streams(), 0);
    }
    // Bodies that are not as long as promised.
    let trailers = |talk: &mut Talk| talk.headers(1, &[("a", "b")], true);
    for bodies in [
        &(|_: &mut Talk| vec![data(1, b"123456", false)]) as &dyn Fn(&mut Talk) -> Vec<Vec<u8>>,
        &|_| vec![data(1, b"1234", true)],
        &|_| vec![data(1, b"12345", false), data(1, b"6", true)],
        &|talk| vec![data(1, b"1234", false), trailers(talk)],
    ] {
        let mut talk = Talk::server();
        let headers = talk.headers(1, &with_length, false);
        talk.hears(&headers);
        let bodies = bodies(&mut talk).concat();
        let seen = talk.hears(&bodies);
        let Some(Seen::Reset { code, fault, .. }) = seen.last() else { panic!("{seen:?}") };
        assert_eq!((*code, *fault), malformed(Flaw::ContentLength));
    }
    // Trailers that are none.
    for (fields, end, flaw) in [
        (&[("a", "b")], false, Flaw::End),
        (&[(":path", "/")], true, Flaw::Pseudo),
        (&[("content-length", "1")], true, Flaw::ContentLength),
    ] {
        let mut talk = Talk::server();
        let stream = talk.asks(1, false);
        let headers = talk.headers(1, fields, end);
        let (code, fault) = malformed(flaw);
        assert_eq!(talk.hears(&headers), [Seen::Reset { stream, code, fault }]);
    }
    // Responses that are none.
    for (fields, end, flaw) in [
        (&[(":status", "101")][..], false, Flaw::Status),
        (&[(":status", "100")], true, Flaw::End),
        (&[(":path", "/")], true, Flaw::Pseudo),
        (&[(":status", "200"), ("content-length", "1")], true, Flaw::ContentLength),
    ] {
        let mut talk = Talk::client();
        let stream = talk.request(GET, true).unwrap();
        let headers = talk.headers(1, fields, end);
        let (code, fault) = malformed(flaw);
        assert_eq!(talk.hears(&headers), [Seen::Reset { stream, code, fault }]);
    }
    // A body without a head, or where there can be none.
    let mut talk = Talk::client();
    talk.request(GET, true);
    assert!(matches!(talk.hears(&data(1, b"x", false))[..], [Seen::Reset { code: Code::PROTOCOL_ERROR, .. }]));
    talk.request(GET, true);
    let answer = talk.headers(3, &[(":status", "204")], false);
    let seen = talk.hears(&[answer, data(3, b"x", true)].concat());
    assert!(matches!(seen[..], [_, Seen::Reset { code: Code::PROTOCOL_ERROR, .. }]), "{seen:?}");
}

#[test]
fn what_is_held_for_an_aborted_stream_is_not_lost_for_the_others() {
    let config = Config { connection_window: 65_535, ..Config::default() };
    let mut talk = Talk::open(Role::Server, &config);
    let length = [GET, &[("content-length", "40000")]].concat();
    for n in 0..20 {
        let headers = talk.headers(2 * n + 1, &length, false);
        talk.hears(&headers);
        for _ in 0..2 {
            talk.hears(&data(2 * n + 1, &[0; 16_000], false));
        }
        // Too long by one.
        let seen = talk.hears(&data(2 * n + 1, &[0; 8_001], false));
        assert!(matches!(seen[..], [Seen::Reset { code: Code::PROTOCOL_ERROR, .. }]), "{seen:?}");
    }
}

#[test]
fn an_allowance_is_the_operators() {
    let allowance = Allowance { pings: 3, ..Allowance::default() };
    let mut talk = Talk::open(Role::Server, &Config { allowance, ..Config::default() });
    assert_eq!(until_over(&mut talk, Flood::Pings, |_, _| raw(6, 0, 0, b"12345678")), 3);
}
