//! W3C Trace Context: which trace an endpoint is told that it is part of.

use crate::conversation::Step::{Client, ClientGets, Endpoint, NewLinkGets};
use crate::conversation::{Step, play, play_traced};
use crate::http1::plain;
use core::num::{NonZeroU64, NonZeroU128};
use evenkeel_wire::session::Settings;
use evenkeel_wire::trace::NewSpan;

const RECORDED: NewSpan =
    NewSpan { span_id: NonZeroU64::new(0xB0B0).unwrap(), trace_id: NonZeroU128::new(0xA11CE).unwrap(), sampled: true };
const UNRECORDED: NewSpan = NewSpan { sampled: false, ..RECORDED };

const ANSWER: Step<'_> = Endpoint("HTTP/1.1 204 No Content\r\n\r\n");
const ANSWERED: Step<'_> = ClientGets("HTTP/1.1 204 No Content\r\n\r\n");
const BEGUN: &str = "00-000000000000000000000000000a11ce-000000000000b0b0-03";

/// Plays one request with these fields, of which the endpoint is to get those; its log.
fn request(span: NewSpan, fields: &str, passed: &str) -> Option<evenkeel_wire::session::TurnLog> {
    let said = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let heard = format!("GET / HTTP/1.1\r\nHost: a\r\n{passed}\r\n");
    let steps = [Client(&said), NewLinkGets(&heard), ANSWER, ANSWERED];
    play_traced(&plain(), span, &steps).pop()
}

#[test]
fn a_trace_is_continued_with_our_span_as_the_parent() {
    let log = request(
        UNRECORDED,
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nX: y\r\n",
        "X: y\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-000000000000b0b0-01\r\n",
    )
    .expect("who began it wants it recorded");
    assert_eq!(log.traceparent, "00-0af7651916cd43dd8448eb211c80319c-000000000000b0b0-01");
    let trace = log.trace.expect("its place in the trace");
    assert_eq!(trace.trace_id.get(), 0x0AF7_6519_16CD_43DD_8448_EB21_1C80_319C);
    assert_eq!(trace.parent_id.map(NonZeroU64::get), Some(0xB7AD_6B71_6920_3331));
    assert_eq!((log.version, log.method.as_str()), ("1.1", "GET"));
}

#[test]
fn a_trace_that_is_not_recorded_stays_so_and_costs_nothing() {
    let log = request(
        RECORDED,
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-000000000000b0b0-00\r\n",
    );
    assert_eq!(log, None);
}

#[test]
fn a_trace_begins_where_there_is_none() {
    let log = request(RECORDED, "", &format!("traceparent: {BEGUN}\r\n")).expect("it is recorded");
    assert_eq!(log.trace.and_then(|trace| trace.parent_id), None);
    let unrecorded = "traceparent: 00-000000000000000000000000000a11ce-000000000000b0b0-02\r\n";
    assert_eq!(request(UNRECORDED, "", unrecorded), None);
}

#[test]
fn what_is_malformed_or_said_twice_is_not_continued_and_its_state_is_dropped() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for fields in [
        "traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01\r\ntracestate: a=1\r\n".to_owned(),
        format!("traceparent: {parent}\r\ntracestate: a=1\r\nTraceparent: {parent}\r\n"),
        format!("traceparent: {parent}, {parent}\r\ntracestate: a=1\r\n"),
        "tracestate: a=1\r\n".to_owned(),
    ] {
        request(RECORDED, &fields, &format!("traceparent: {BEGUN}\r\n"));
    }
}

#[test]
fn the_state_of_a_trace_that_goes_on_is_passed_on_in_order() {
    let parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n";
    let ours = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-000000000000b0b0-00\r\n";
    for (state, passed) in [
        ("tracestate: a=1,b=2 , c=3\r\n", "tracestate: a=1,b=2 , c=3\r\n"),
        ("TraceState: a=1\r\nX: y\r\ntracestate: b=2\r\n", "TraceState: a=1\r\nX: y\r\ntracestate: b=2\r\n"),
        ("tracestate:\r\ntracestate: a=1\r\n", "tracestate: a=1\r\n"),
        // Nobody could read it.
        ("tracestate: a=1\r\ntracestate: B=2\r\n", ""),
    ] {
        request(RECORDED, &format!("{parent}{state}"), &format!("{passed}{ours}"));
    }
}

#[test]
fn where_nothing_is_traced_everything_passes_untouched() {
    let request = concat!(
        "GET / HTTP/1.1\r\nHost: a\r\nTraceparent: whatever\r\ntraceparent: 00\r\ntracestate: ?\r\nTRACESTATE: a=1\r\n",
        "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1\r\n\r\n"
    );
    play(&plain(), &[Client(request), NewLinkGets(request), ANSWER, ANSWERED]);
}

#[test]
fn b3_passes_untouched_in_either_form() {
    let fields = concat!(
        "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1\r\n",
        "X-B3-TraceId: 80f198ee56343ba864fe8b2a57d3eff7\r\nX-B3-SpanId: e457b5a2e4d86bd1\r\nX-B3-Sampled: 1\r\n"
    );
    request(RECORDED, fields, &format!("{fields}traceparent: {BEGUN}\r\n"));
}

#[test]
fn a_handshake_is_logged_when_it_switches_and_nothing_after_it() {
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    let settings = Settings { log: true, ..plain() };
    let logs = play_traced(
        &settings,
        RECORDED,
        &[
            Client(&format!("GET /chat HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n")),
            NewLinkGets(&format!("GET /chat HTTP/1.1\r\nHost: a\r\ntraceparent: {BEGUN}\r\n{upgrade}\r\n")),
            Endpoint(&format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n")),
            ClientGets(&format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n")),
            Step::EndpointEnds,
        ],
    );
    assert_eq!(logs.iter().map(|log| log.target.as_str()).collect::<Vec<_>>(), ["/chat"]);
    assert!(logs[0].trace.is_some_and(|trace| trace.is_sampled()));
}
