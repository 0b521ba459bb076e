//! From one HTTP/2 connection to another: which fields are passed on, which are added, and answers of our own.
//!
//! Fields go from table to table without becoming anything else between; what is needed to know of a request is read
//! once ([`Asked::of`]). HTTP/1.1 follows the same rules (`http1/request.rs`), in the words of its own.

use super::connection::{Connection, Part};
use super::error::Code;
use super::hpack::{Field, Fields, Form, Name};
use super::send::FieldWriter;
use super::streams::StreamKey;
use crate::answer::Own;
use crate::engine::source_key;
use crate::grpc;
use crate::out::Out;
use crate::session::{Affinity, Context, Forwarding, Settings, TurnLog, Want};
use crate::trace::{Trace, is_state};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::net::IpAddr;
use core::str::FromStr;
use evenkeel_core::end::{Cause, End, Limit, Phase};
use evenkeel_core::hash::hash;
use evenkeel_core::picker::Scope;
use evenkeel_core::time::{Duration, Instant};

/// What is to be known of a request while its turn lasts.
#[derive(Debug)]
pub struct Asked {
    /// What its turn wants.
    pub want: Want,
    /// `HEAD`: an answer of ours has no body.
    pub head: bool,
    /// gRPC: an answer of ours is a status of it.
    pub grpc: bool,
    /// The time that its client gives a call of gRPC.
    pub timeout: Option<Duration>,
    /// Its part in a trace.
    pub traced: Option<Traced>,
    /// For access log and trace, if one of them wants it.
    pub log: Option<Box<TurnLog>>,
}

/// A request's part in a trace.
#[derive(Clone, Copy, Debug)]
pub struct Traced {
    trace: Trace,
    /// What it says of the trace in `tracestate` is passed on: the trace is continued, and it makes sense.
    state: bool,
}

/// A part of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Which one.
    pub part: Part,
    /// Its status; zero in trailers.
    pub status: u16,
    /// Its fields.
    pub fields: &'a Fields,
    /// Nothing comes behind it.
    pub end: bool,
}

/// A request that is answered here.
#[derive(Debug)]
pub struct Turned {
    /// With this.
    pub own: Own<'static>,
    /// Because it is beyond this.
    pub limit: Option<Limit>,
}

impl Turned {
    /// The head is larger than allowed.
    pub fn too_large() -> Self {
        Self { own: Own::limit(431, "the request head is too large"), limit: Some(Limit::HeaderBytes) }
    }

    /// The body is larger than allowed.
    pub fn body_too_large() -> Self {
        Self { own: Own::limit(413, "the request body is too large"), limit: Some(Limit::BodyBytes) }
    }
}

/// What is said of a call of gRPC otherwise than its client did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Amended {
    /// What is left of its time, if some of that is gone.
    pub timeout: Option<Duration>,
    /// How often it was tried, and answered, before.
    pub attempts: u32,
}

/// Is this a message of gRPC?
pub fn is_grpc(fields: &Fields) -> bool {
    fields.get(Name::CONTENT_TYPE).is_some_and(grpc::is_content_type)
}

impl Asked {
    /// Reads a request head, which is a message as HTTP wants it.
    ///
    /// # Errors
    /// It is beyond a limit, or asks for what evenkeel does not do.
    pub fn of(fields: &Fields, context: &Context<'_>) -> Result<Self, Turned> {
        let settings = context.settings;
        let method = fields.get(Name::METHOD).unwrap_or_default();
        let path = fields.get(Name::PATH).unwrap_or_default();
        if path.len() > settings.uri_bytes {
            let own = Own::limit(414, "the request target is too long");
            return Err(Turned { own, limit: Some(Limit::UriBytes) });
        }
        if method == b"CONNECT" {
            let end = End { cause: Cause::ClientProtocol, phase: Phase::Request };
            let own = Own { status: 501, end, sentence: "CONNECT is not supported", retry_after: 1, pushback: None };
            return Err(Turned { own, limit: None });
        }
        if let (Some(most), Some(length)) = (settings.body_bytes, fields.get(Name::CONTENT_LENGTH))
            && core::str::from_utf8(length).ok().and_then(|length| length.parse().ok()).is_none_or(|n: u64| n > most)
        {
            return Err(Turned::body_too_large());
        }
        let idempotent = matches!(method, b"GET" | b"HEAD" | b"PUT" | b"DELETE" | b"OPTIONS" | b"TRACE");
        let named = |name| fields.iter().filter(move |field| field.known() == name).map(|field| field.value());
        let traced = context.span.as_ref().map(|span| {
            let trace = Trace::of(named(Name::TRACEPARENT), span);
            Traced { trace, state: trace.parent_id.is_some() && is_state(named(Name::TRACESTATE)) }
        });
        let grpc = is_grpc(fields);
        let timeouts = || named(Name::GRPC_TIMEOUT).filter_map(grpc::timeout);
        let wanted = settings.log || traced.is_some_and(|traced| traced.trace.is_sampled());
        Ok(Self {
            want: Want {
                scope: Scope::Turn,
                key: affinity_key(fields, context),
                idempotent,
                upgrade: false,
                fresh: false,
                listens: false,
            },
            head: method == b"HEAD",
            grpc,
            // What is none is the endpoint's to judge; of several it may take any.
            timeout: if grpc { timeouts().min() } else { None },
            traced,
            log: wanted.then(|| log(fields, traced.map(|traced| traced.trace))),
        })
    }
}

fn affinity_key(fields: &Fields, context: &Context<'_>) -> Option<u64> {
    let found = match &context.settings.affinity {
        Affinity::None => return None,
        Affinity::Source => None,
        Affinity::Header(name) => fields.iter().find(|f| f.name() == name.as_bytes()).map(|f| f.value()),
        Affinity::Cookie(name) => {
            let cookies = fields.iter().filter(|f| f.known() == Name::COOKIE);
            cookies.flat_map(|f| f.value().split(|&b| b == b';')).find_map(|pair| {
                let (key, value) = pair.split_at(pair.iter().position(|&b| b == b'=')?);
                (key.trim_ascii() == name.as_bytes()).then(|| value[1..].trim_ascii())
            })
        }
    };
    Some(found.map_or_else(|| source_key(context), hash))
}

fn log(fields: &Fields, trace: Option<Trace>) -> Box<TurnLog> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let field = |name| fields.get(name).map(text).unwrap_or_default();
    Box::new(TurnLog {
        method: field(Name::METHOD),
        target: field(Name::PATH),
        host: text(authority(fields)),
        user_agent: field(Name::USER_AGENT),
        version: "2",
        traceparent: trace.map_or_else(|| field(Name::TRACEPARENT), |trace| text(&trace.traceparent())),
        trace,
        grpc_status: None,
        received: 0,
        sent: 0,
    })
}

/// The host that a request is for, with its port if that is said.
pub(crate) fn authority(fields: &Fields) -> &[u8] {
    fields.get(Name::AUTHORITY).or_else(|| fields.get(Name::HOST)).unwrap_or_default()
}

/// Where the fields of a message are written.
pub trait Put {
    /// Passes on a field of another connection.
    fn forward(&mut self, field: &Field<'_>);
    /// Writes a field of our own. The name is to be in lower case.
    fn put(&mut self, name: &str, value: &[u8], form: Form);
}

impl Put for FieldWriter<'_> {
    #[inline]
    fn forward(&mut self, field: &Field<'_>) {
        FieldWriter::forward(self, field);
    }

    fn put(&mut self, name: &str, value: &[u8], form: Form) {
        FieldWriter::put(self, name, value, form);
    }
}

/// What every request of a client gets of `X-Forwarded-For` and `X-Forwarded-Proto`, ready to be passed on.
#[derive(Debug)]
pub struct Added {
    mode: Forwarding,
    fields: Fields,
}

impl Added {
    /// For the client of this context.
    pub fn of(context: &Context<'_>) -> Self {
        let mut added = Self { mode: context.settings.x_forwarded, fields: Fields::default() };
        if matches!(added.mode, Forwarding::Append | Forwarding::Replace) {
            let ip = format!("{}", context.peer.client.ip());
            // Another value for each client: it would drive others from the table of a link that clients share.
            added.fields.push_own("x-forwarded-for", ip.as_bytes(), Form::Plain);
            added.fields.push_own("x-forwarded-proto", scheme(context).as_bytes(), Form::Indexed);
        }
        added
    }

    /// It is what is wanted by a service that may have changed since.
    pub fn suits(&self, settings: &Settings) -> bool {
        self.mode == settings.x_forwarded
    }
}

fn scheme(context: &Context<'_>) -> &'static str {
    if context.peer.tls.is_some() { "https" } else { "http" }
}

/// Writes a request for its endpoint: what came, but what concerns only the client's connection, and with what says
/// who asked.
pub fn put_request(
    fields: &Fields,
    added: &Added,
    traced: Option<&Traced>,
    amended: Amended,
    writer: &mut impl Put,
    context: &Context<'_>,
) {
    let settings = context.settings;
    let (x, standard) = (added.mode, settings.forwarded);
    let (mut listed, mut proto) = (false, false);
    for field in fields.iter() {
        let pass = match field.known() {
            Name::VIA => settings.via.is_none(),
            Name::X_FORWARDED_FOR => {
                listed |= x == Forwarding::Append;
                x == Forwarding::Keep
            }
            Name::X_FORWARDED_PROTO => {
                proto = true;
                matches!(x, Forwarding::Keep | Forwarding::Append)
            }
            Name::X_FORWARDED_HOST => matches!(x, Forwarding::Keep | Forwarding::Append),
            Name::FORWARDED => standard == Forwarding::Keep,
            Name::GRPC_TIMEOUT => amended.timeout.is_none(),
            Name::GRPC_PREVIOUS_ATTEMPTS => amended.attempts == 0,
            Name::TRACEPARENT => traced.is_none(),
            Name::TRACESTATE => traced.is_none_or(|traced| traced.state && !field.value().is_empty()),
            Name::OTHER => !is_subject(&field, settings),
            _ => true,
        };
        if pass {
            writer.forward(&field);
        }
    }
    let tls = context.peer.tls.as_ref();
    if let (Some(name), Some(subject)) = (&settings.client_subject, tls.and_then(|tls| tls.subject.as_ref())) {
        writer.put(&name.to_ascii_lowercase(), subject.as_bytes(), Form::Plain);
    }
    if let Some(Traced { trace, .. }) = traced {
        writer.put("traceparent", &trace.traceparent(), Form::Plain);
    }
    if let Some(timeout) = amended.timeout {
        writer.put("grpc-timeout", grpc::timeout_value(timeout).as_bytes(), Form::Plain);
    }
    if amended.attempts > 0 {
        let before = fields.get(Name::GRPC_PREVIOUS_ATTEMPTS).and_then(number).unwrap_or(0);
        let attempts = amended.attempts.saturating_add(before);
        writer.put("grpc-previous-rpc-attempts", format!("{attempts}").as_bytes(), Form::Indexed);
    }
    if let Some(name) = &settings.via {
        writer.put("via", format!("{}2 {name}", before(fields, Name::VIA)).as_bytes(), Form::Indexed);
    }
    let ip = context.peer.client.ip();
    for field in added.fields.iter() {
        if listed && field.known() == Name::X_FORWARDED_FOR {
            let value = format!("{}{ip}", before(fields, Name::X_FORWARDED_FOR));
            writer.put("x-forwarded-for", value.as_bytes(), Form::Plain);
        } else if !(proto && x == Forwarding::Append && field.known() == Name::X_FORWARDED_PROTO) {
            writer.forward(&field);
        }
    }
    if matches!(standard, Forwarding::Append | Forwarding::Replace) {
        let mut value = if standard == Forwarding::Append { before(fields, Name::FORWARDED) } else { String::new() };
        // RFC 7239, section 6: an IPv6 address is quoted and in brackets. Writing into a string cannot fail.
        let _infallible = match ip {
            IpAddr::V4(ip) => write!(value, "for={ip}"),
            IpAddr::V6(ip) => write!(value, "for=\"[{ip}]\""),
        };
        let (scheme, host) = (scheme(context), String::from_utf8_lossy(authority(fields)));
        let _infallible = write!(value, ";proto={scheme};host=\"{host}\"");
        writer.put("forwarded", value.as_bytes(), Form::Plain);
    }
}

/// The field in which endpoints are told who the client is, and which is not the client's to write.
fn is_subject(field: &Field<'_>, settings: &Settings) -> bool {
    settings.client_subject.as_ref().is_some_and(|ours| crate::http1::head::alike(field.name(), ours.as_bytes()))
}

/// What a list has so far, to go on behind it.
fn before(fields: &Fields, name: Name) -> String {
    let values = fields.iter().filter(|field| field.known() == name && !field.value().is_empty());
    values.fold(String::new(), |list, field| list + &String::from_utf8_lossy(field.value()) + ", ")
}

/// Writes a response for its client. `noted`: it says already which way it took.
pub fn put_response(fields: &Fields, noted: bool, writer: &mut FieldWriter<'_>, settings: &Settings) {
    fields.iter().for_each(|field| writer.forward(&field));
    if let Some(name) = settings.via.as_ref().filter(|_| !noted) {
        writer.put("via", format!("2 {name}").as_bytes(), Form::Indexed);
    }
}

/// How a call of gRPC went, if these fields say so.
pub fn grpc_status(fields: &Fields) -> Option<u8> {
    number(fields.get(Name::GRPC_STATUS)?)
}

fn number<T: FromStr>(value: &[u8]) -> Option<T> {
    core::str::from_utf8(value).ok()?.parse().ok()
}

/// The head of an answer of our own to a call.
pub fn put_call_head(writer: &mut FieldWriter<'_>) {
    writer.put(":status", b"200", Form::Indexed);
    writer.put("content-type", b"application/grpc", Form::Indexed);
}

/// The trailers of a call that went well.
pub fn well() -> Box<Fields> {
    let mut fields = Box::<Fields>::default();
    fields.push_own("grpc-status", b"0", Form::Indexed);
    fields
}

/// Writes trailers, of either side.
pub fn put_trailers(fields: &Fields, writer: &mut FieldWriter<'_>) {
    fields.iter().for_each(|field| writer.forward(&field));
}

fn put_status(own: &Own<'_>, writer: &mut FieldWriter<'_>) {
    writer.put("grpc-status", format!("{}", own.grpc_status()).as_bytes(), Form::Indexed);
    writer.put("grpc-message", format!("evenkeel: {}", own.sentence).as_bytes(), Form::Indexed);
    if let Some(pushback) = own.pushback {
        writer.put("grpc-retry-pushback-ms", format!("{pushback}").as_bytes(), Form::Plain);
    }
}

fn put_reason(end: End, writer: &mut FieldWriter<'_>, settings: &Settings) {
    if settings.reason {
        let reason = format!("{}; phase={}", end.cause, end.phase);
        writer.put("evenkeel-reason", reason.as_bytes(), Form::Indexed);
    }
}

/// Ends a call of gRPC whose answer has begun with a status of our own.
pub fn end_call(
    connection: &mut Connection,
    stream: StreamKey,
    own: &Own<'_>,
    out: &mut Out<'_, '_>,
    settings: &Settings,
) {
    connection.fields(stream, Part::Trailers, true, out, |writer| {
        put_status(own, writer);
        put_reason(own.end, writer, settings);
    });
    // The rest of the request, if there is any, is of no use to anybody.
    connection.reset(stream, Code::NO_ERROR, out);
}

/// Answers a request, of whose response nothing was passed on, in words of our own.
pub fn answer(
    connection: &mut Connection,
    stream: StreamKey,
    own: &Own<'_>,
    (head, grpc): (bool, bool),
    out: &mut Out<'_, '_>,
    (settings, now): (&Settings, Instant),
) {
    let Own { status, end, sentence, retry_after, .. } = *own;
    let mut body = Vec::new();
    if !head && !grpc {
        body.extend_from_slice(sentence.as_bytes());
        body.push(b'\n');
    }
    connection.fields(stream, Part::Head, body.is_empty(), out, |writer| {
        if grpc {
            // "Trailers-Only", section "Responses" of the protocol of gRPC over HTTP/2.
            put_call_head(writer);
            put_status(own, writer);
        } else {
            writer.put(":status", format!("{status}").as_bytes(), Form::Indexed);
            writer.put("content-type", b"text/plain", Form::Indexed);
            writer.put("content-length", format!("{}", sentence.len() + 1).as_bytes(), Form::Indexed);
            if status == 503 {
                writer.put("retry-after", format!("{retry_after}").as_bytes(), Form::Indexed);
            }
        }
        put_reason(end, writer, settings);
    });
    if !body.is_empty() {
        let mut copied = Out::new(out.spill());
        let sent = connection.data(stream, &body, true, &mut copied, now);
        copied.spill();
        if sent < body.len() {
            // The client did not even leave room for a sentence.
            return connection.reset(stream, Code::CANCEL, out);
        }
    }
    // The rest of the request, if there is any, is of no use to anybody (RFC 9113, section 8.1).
    connection.reset(stream, Code::NO_ERROR, out);
}
