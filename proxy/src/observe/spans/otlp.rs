//! Spans in the words of OpenTelemetry: the JSON encoding of OTLP (`ExportTraceServiceRequest`), with the
//! semantic conventions for HTTP servers.
//!
//! JSON, for it is the encoding that needs nothing but serde: every collector that takes OTLP over HTTP reads
//! both. Ids are hexadecimal, 64-bit numbers are decimal strings, enumerations are numbers.

use super::Span;
use evenkeel_core::end::Cause;
use serde::Serialize;
use std::borrow::Cow;
use std::time::{Duration, SystemTime};

/// `SPAN_KIND_SERVER`.
const SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;
/// It is known whether the parent is another process's (`SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`).
const KNOWN: u32 = 0x100;
/// It is (`SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`).
const REMOTE: u32 = 0x200;

/// Methods that are written as they came; all others are `_OTHER`, so that nobody can invent names of spans.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Who speaks.
#[derive(Debug, Serialize)]
pub(super) struct Resource {
    attributes: Vec<Attribute<'static>>,
}

impl Resource {
    /// `instance`: unique among all processes.
    pub(super) fn new(service: String, instance: String) -> Self {
        let attributes = vec![
            text("service.name", service),
            text("service.instance.id", instance),
            text("service.version", env!("CARGO_PKG_VERSION")),
        ];
        Self { attributes }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Export<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: &'a Resource,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: Vec<Encoded<'a>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Encoded<'a> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    flags: u32,
    name: &'a str,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Attribute<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Serialize)]
struct Status {
    code: u8,
}

#[derive(Debug, Serialize)]
struct Attribute<'a> {
    key: &'static str,
    value: Value<'a>,
}

#[derive(Debug, Serialize)]
enum Value<'a> {
    #[serde(rename = "stringValue")]
    Text(Cow<'a, str>),
    #[serde(rename = "intValue")]
    Whole(String),
    #[serde(rename = "doubleValue")]
    Real(f64),
}

fn text<'a>(key: &'static str, value: impl Into<Cow<'a, str>>) -> Attribute<'a> {
    Attribute { key, value: Value::Text(value.into()) }
}

fn number(key: &'static str, value: impl Into<u64>) -> Attribute<'static> {
    Attribute { key, value: Value::Whole(value.into().to_string()) }
}

fn millis(key: &'static str, value: Duration) -> Attribute<'static> {
    Attribute { key, value: Value::Real(value.as_secs_f64() * 1e3) }
}

/// The body of a request that exports these spans.
pub(super) fn encode(resource: &Resource, spans: &[Span]) -> Vec<u8> {
    let scope = Scope { name: "evenkeel", version: env!("CARGO_PKG_VERSION") };
    let scope_spans = [ScopeSpans { scope, spans: spans.iter().map(encoded).collect() }];
    let export = Export { resource_spans: [ResourceSpans { resource, scope_spans }] };
    // Strings and numbers always have a JSON form.
    serde_json::to_vec(&export).unwrap_or_default()
}

fn encoded(span: &Span) -> Encoded<'_> {
    let method = METHODS.iter().find(|known| **known == span.method).copied();
    let parent = span.trace.parent_id;
    let error = error(span);
    Encoded {
        trace_id: format!("{:032x}", span.trace.trace_id),
        span_id: format!("{:016x}", span.trace.span_id),
        parent_span_id: parent.map(|id| format!("{id:016x}")),
        flags: u32::from(span.trace.flags) | KNOWN | if parent.is_some() { REMOTE } else { 0 },
        // evenkeel knows of no routes, and a path in the name would make as many names as there are paths.
        name: method.unwrap_or("HTTP"),
        kind: SERVER,
        start_time_unix_nano: nanos(span.began),
        end_time_unix_nano: nanos(span.ended),
        attributes: attributes(span, method, error.as_deref()),
        status: error.is_some().then_some(Status { code: ERROR }),
    }
}

fn nanos(time: SystemTime) -> String {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

/// What went wrong, if something did: our word for it, or the status. A 4xx is the client's own affair
/// (conventions for spans of HTTP servers, "Status").
fn error(span: &Span) -> Option<String> {
    match (span.status, span.end) {
        (Some(400..=499), _) => None,
        (_, Some(end)) => Some(end.cause.as_str().into()),
        (Some(status @ 500..), None) => Some(status.to_string()),
        _ => None,
    }
}

fn attributes<'a>(span: &'a Span, method: Option<&'static str>, error: Option<&str>) -> Vec<Attribute<'a>> {
    let mut attributes = vec![
        text("http.request.method", method.unwrap_or("_OTHER")),
        text("url.scheme", if span.tls { "https" } else { "http" }),
        text("url.path", &*span.path),
        text("network.protocol.name", "http"),
        text("network.protocol.version", span.version),
        text("evenkeel.service", &*span.service),
        text("evenkeel.cause", span.end.map_or(Cause::Done, |end| end.cause).as_str()),
        number("evenkeel.tries", span.tries),
    ];
    let mut say = |attribute: Option<Attribute<'a>>| attributes.extend(attribute);
    say(method.is_none().then(|| text("http.request.method_original", &*span.method)));
    say(span.status.map(|status| number("http.response.status_code", status)));
    say(error.map(|error| text("error.type", error.to_owned())));
    if let Some((name, port)) = host(&span.host) {
        say(Some(text("server.address", name)));
        say(port.map(|port| number("server.port", port)));
    }
    if let Some(client) = span.client {
        say(Some(text("client.address", client.ip().to_canonical().to_string())));
        say(Some(number("client.port", client.port())));
    }
    say((!span.user_agent.is_empty()).then(|| text("user_agent.original", &*span.user_agent)));
    say((span.tries > 1).then(|| number("http.request.resend_count", span.tries - 1)));
    say(span.endpoint.as_deref().map(|endpoint| text("evenkeel.endpoint", endpoint)));
    say(span.end.map(|end| text("evenkeel.phase", end.phase.as_str())));
    say(span.waited.map(|waited| millis("evenkeel.wait_ms", waited)));
    say(span.first_byte.map(|first| millis("evenkeel.first_byte_ms", first)));
    attributes
}

/// Name and port of a `Host`.
fn host(host: &str) -> Option<(&str, Option<u16>)> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
        _ => (host, None),
    };
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    (!name.is_empty()).then_some((name, port))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{traced, turn};
    use super::super::{Span, TurnRecord};
    use super::*;
    use evenkeel_core::end::{End, Phase};
    use evenkeel_wire::session::TurnLog;
    use serde_json::{Value as Json, json};

    fn json(turn: &TurnRecord) -> Json {
        let resource = Resource::new("edge".into(), "i".into());
        let bytes = encode(&resource, &[Span::of(turn.log.trace.unwrap(), turn)]);
        let export: Json = serde_json::from_slice(&bytes).expect("JSON");
        export["resourceSpans"][0]["scopeSpans"][0]["spans"][0].clone()
    }

    fn attribute(span: &Json, key: &str) -> Json {
        let attributes = span["attributes"].as_array().expect("a list");
        let found: Vec<&Json> = attributes.iter().filter(|attribute| attribute["key"] == key).collect();
        assert!(found.len() <= 1, "{key} is there twice");
        let value = found.first().and_then(|attribute| attribute["value"].as_object()?.values().next().cloned());
        value.unwrap_or(Json::Null)
    }

    #[test]
    fn a_span_has_its_place_and_its_time() {
        let span = json(&turn(traced(3)));
        assert_eq!(span["traceId"], "0000000000000000000000000000000a");
        assert_eq!((&span["spanId"], &span["parentSpanId"]), (&json!("000000000000000b"), &json!("000000000000000c")));
        assert_eq!((&span["flags"], &span["kind"], &span["name"]), (&json!(0x303), &json!(2), &json!("GET")));
        assert_eq!(span["startTimeUnixNano"], "999995000000");
        assert_eq!(span["endTimeUnixNano"], "1000000000000");
        assert_eq!(attribute(&span, "evenkeel.wait_ms"), 1.5);
        let mut root = turn(traced(1));
        root.log.trace = root.log.trace.map(|trace| evenkeel_wire::trace::Trace { parent_id: None, ..trace });
        let root = json(&root);
        assert_eq!((root.get("parentSpanId"), &root["flags"]), (None, &json!(0x101)));
    }

    #[test]
    fn errors_are_what_the_conventions_call_so() {
        let end = |cause, phase| Some(End { cause, phase });
        for (status, end, error, failed) in [
            (Some(200), None, Json::Null, false),
            (Some(101), None, Json::Null, false),
            (Some(404), None, Json::Null, false),
            (Some(413), end(Cause::ClientLimit, Phase::Request), Json::Null, false),
            (Some(500), None, json!("500"), true),
            (Some(502), end(Cause::EndpointClosed, Phase::Wait), json!("endpoint-closed"), true),
            (Some(200), end(Cause::EndpointClosed, Phase::Response), json!("endpoint-closed"), true),
            (None, end(Cause::ClientClosed, Phase::Wait), json!("client-closed"), true),
        ] {
            let span = json(&TurnRecord { status, end, ..turn(traced(1)) });
            assert_eq!(attribute(&span, "error.type"), error, "{status:?} {end:?}");
            assert_eq!(span["status"]["code"] == 2, failed, "{status:?} {end:?}");
            let cause = end.map_or("done", |end| end.cause.as_str());
            assert_eq!(attribute(&span, "evenkeel.cause"), cause);
        }
    }

    #[test]
    fn nobody_invents_names_of_spans() {
        let span = json(&turn(TurnLog { method: "BREW".into(), ..traced(1) }));
        assert_eq!(span["name"], "HTTP");
        assert_eq!(attribute(&span, "http.request.method"), "_OTHER");
        assert_eq!(attribute(&span, "http.request.method_original"), "BREW");
    }

    #[test]
    fn hosts_have_names_and_ports() {
        for (text, expected) in [
            ("a.example", Some(("a.example", None))),
            ("a.example:8080", Some(("a.example", Some(8080)))),
            ("[::1]:80", Some(("::1", Some(80)))),
            ("[::1]", Some(("::1", None))),
            ("", None),
            (":80", None),
        ] {
            assert_eq!(host(text), expected, "{text}");
        }
    }
}
