//! A request head, from the client's bytes to ours.

use super::body::has_token;
use super::grammar::{self, Field, RequestLine, Room, Stop};
use super::head::{Connection, Flaw, Framing, FramingFields, Lines, MAX_FIELDS, Name};
use super::head::{alike, put_field, valid_host};
use crate::engine::source_key;
use crate::session::{Affinity, Context, Forwarding, TurnLog};
use crate::trace::{NewSpan, Trace, is_state};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use evenkeel_core::hash::hash;

/// What is remembered of a request while its turn lasts.
#[derive(Debug)]
pub(super) struct Request {
    /// `HEAD`: the response has no body.
    pub(super) head: bool,
    /// May be run twice (RFC 9110, section 9.2.2).
    pub(super) idempotent: bool,
    /// HTTP/1.`minor`.
    pub(super) minor: u8,
    /// The client does not expect the connection to go on.
    pub(super) close: bool,
    /// The protocols that the client offered to switch to.
    pub(super) upgrade: Option<Box<[u8]>>,
    /// The client waits for 100 before it sends the body.
    pub(super) expects: bool,
    pub(super) log: Option<Box<TurnLog>>,
}

/// A request whose head was read, with what is needed of it when its turn begins, and never again.
pub(super) struct Whole {
    pub(super) request: Request,
    pub(super) framing: Framing,
    pub(super) key: Option<u64>,
    /// Of the head.
    pub(super) length: usize,
}

/// Reads a head and writes it for the endpoint: our framing of start line and fields, without those that concern
/// only the client's connection, with those that say who asked.
pub(super) fn forward(input: &[u8], out: &mut Vec<u8>, context: &Context<'_>) -> Result<Whole, Stop> {
    let settings = context.settings;
    let (RequestLine { method, target, minor }, begin) = grammar::request_line(input)?;
    if target.len() > settings.uri_bytes {
        return Err(Flaw::TargetTooLong.into());
    }
    let mut room = Room::new();
    let end = grammar::fields(input, begin, settings.header_fields.min(MAX_FIELDS), &mut room)?;
    if end > settings.header_bytes {
        return Err(Flaw::HeadTooLarge.into());
    }
    Ok(forward_parsed(&input[..end], (method, target, minor), room.fields(), out, context)?)
}

fn forward_parsed(
    head: &[u8],
    (method, target, minor): (&[u8], &[u8], u8),
    fields: &[Field<'_>],
    out: &mut Vec<u8>,
    context: &Context<'_>,
) -> Result<Whole, Flaw> {
    let settings = context.settings;
    let path = target;
    let target = Target::parse(method, target)?;

    let mut connection = Connection::default();
    let mut framing = FramingFields::default();
    let (mut host, mut expect, mut upgrade, mut trailers) = (None, false, None, false);
    for field in fields {
        match field.kind {
            Name::Host if host.is_some() || !valid_host(field.value) => return Err(Flaw::Host),
            Name::Host => host = Some(field.value),
            Name::ContentLength => framing.content_length(field.value)?,
            Name::TransferEncoding => framing.transfer_encoding(field.value, minor)?,
            Name::Connection => connection.add(field.value)?,
            Name::Upgrade => upgrade = Some(field.value),
            Name::Te => trailers |= has_token(field.value, b"trailers"),
            Name::Expect if field.value.eq_ignore_ascii_case(b"100-continue") => expect = minor == 1,
            Name::Expect => return Err(Flaw::Expect),
            Name::Lookalike => return Err(Flaw::Underscore),
            _ => {}
        }
    }
    if host.is_none() && minor == 1 {
        return Err(Flaw::Host);
    }
    let framing = framing.request();
    if let (Framing::Length(n), Some(most)) = (framing, settings.body_bytes)
        && n > most
    {
        return Err(Flaw::BodyTooLarge);
    }
    if method == b"TRACE" && framing != Framing::None {
        return Err(Flaw::Trace);
    }
    // Nothing to wait for (RFC 9110, section 10.1.1): a server that waits all the same would for ever.
    expect &= framing != Framing::None;
    let host = target.authority.or(host);
    // A tunnel that begins behind a body is more trouble than any client needs; `h2c` would make
    // every later request invisible to us.
    let upgrade = upgrade.filter(|protocol| {
        connection.upgrade && minor == 1 && framing == Framing::None && !has_token(protocol, b"h2c")
    });

    let traced = context.span.as_ref().map(|span| Traced::of(fields, span));

    let begin = out.len();
    out.reserve(head.len() + 256);
    out.extend_from_slice(method);
    out.push(b' ');
    if !matches!(target.path.first(), Some(b'/' | b'*')) {
        // `http://host` and `http://host?query` have an empty path.
        out.push(b'/');
    }
    out.extend_from_slice(target.path);
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    match host {
        Some(host) => out.extend_from_slice(host),
        // HTTP/1.0 clients need not say it; it is the address that they connected to.
        None => out.extend_from_slice(alloc::format!("{}", context.peer.local).as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
    let host = host.unwrap_or_default();
    let forwarding = Forwarded::of(settings.x_forwarded, settings.forwarded);
    let (mut via, mut forwarded) = (false, Seen::default());
    let mut lines = Lines::of(head);
    for field in fields {
        let pass = match field.kind {
            Name::Host | Name::Connection | Name::HopByHop | Name::Te | Name::Upgrade => false,
            // Framing is ours.
            Name::ContentLength | Name::TransferEncoding => false,
            Name::Expect => expect,
            Name::Via => {
                via = true;
                settings.via.is_none()
            }
            name @ (Name::XForwardedFor | Name::XForwardedProto | Name::XForwardedHost | Name::Forwarded) => {
                forwarded.note(name);
                forwarding.passes(name)
            }
            Name::Traceparent => traced.is_none(),
            Name::Tracestate => traced.is_none_or(|traced| traced.state && !field.value.is_empty()),
            _ => true,
        };
        let ours = settings.client_subject.as_ref().is_some_and(|ours| alike(field.name, ours.as_bytes()));
        if pass && !ours && !connection.names(field) {
            lines.put(out, field);
        }
    }
    lines.flush(out);
    let subject = context.peer.tls.as_ref().and_then(|tls| tls.subject.as_ref());
    if let (Some(name), Some(subject)) = (&settings.client_subject, subject) {
        put_field(out, name.as_bytes(), subject.as_bytes());
    }
    if let Some(Traced { trace, .. }) = traced {
        put_field(out, b"traceparent", &trace.traceparent());
    }
    match framing {
        Framing::Length(n) => put_length(out, n),
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        // A method that usually has content must say that it has none (RFC 9110, section 8.6).
        _ if matches!(method, b"POST" | b"PUT" | b"PATCH") => put_length(out, 0),
        _ => {}
    }
    if let Some(protocol) = upgrade {
        out.extend_from_slice(b"Connection: upgrade\r\n");
        put_field(out, b"Upgrade", protocol);
    } else if trailers {
        out.extend_from_slice(b"Connection: TE\r\nTE: trailers\r\n");
    }
    if let Some(name) = &settings.via {
        put_list(out, "Via", fields, if via { Some(Name::Via) } else { None }, |out| {
            out.extend_from_slice(if minor == 1 { b"1.1 " } else { b"1.0 " });
            out.extend_from_slice(name.as_bytes());
        });
    }
    forwarding.put(out, fields, forwarded, host, context);
    out.extend_from_slice(b"\r\n");
    debug_assert!(out.len() > begin);

    let request = Request {
        head: method == b"HEAD",
        idempotent: matches!(method, b"GET" | b"HEAD" | b"PUT" | b"DELETE" | b"OPTIONS" | b"TRACE")
            && upgrade.is_none(),
        minor,
        close: connection.close || (minor == 0 && !connection.keep_alive),
        upgrade: upgrade.map(Box::from),
        expects: expect,
        log: (settings.log || traced.is_some_and(|traced| traced.trace.is_sampled()))
            .then(|| log((method, path, minor), host, fields, traced.map(|traced| traced.trace))),
    };
    Ok(Whole { request, framing, key: affinity_key(fields, context), length: head.len() })
}

/// A request's part in a trace.
#[derive(Clone, Copy)]
struct Traced {
    trace: Trace,
    /// What it says of the trace in `tracestate` is passed on: the trace is continued, and it makes sense.
    state: bool,
}

impl Traced {
    fn of(fields: &[Field<'_>], span: &NewSpan) -> Self {
        let named = |name| fields.iter().filter(move |field| field.kind == name).map(|field| field.value);
        let trace = Trace::of(named(Name::Traceparent), span);
        Self { trace, state: trace.parent_id.is_some() && is_state(named(Name::Tracestate)) }
    }
}

/// A request target (RFC 9112, section 3.2), split as far as forwarding needs.
struct Target<'a> {
    /// Of an absolute-form target; it replaces `Host`.
    authority: Option<&'a [u8]>,
    path: &'a [u8],
}

impl<'a> Target<'a> {
    fn parse(method: &[u8], target: &'a [u8]) -> Result<Self, Flaw> {
        if method == b"CONNECT" {
            return Err(Flaw::Connect);
        }
        if target.starts_with(b"/") || (target == b"*" && method == b"OPTIONS") {
            return Ok(Self { authority: None, path: target });
        }
        let scheme = [&b"http://"[..], b"https://"]
            .into_iter()
            .find(|scheme| target.get(..scheme.len()).is_some_and(|t| t.eq_ignore_ascii_case(scheme)))
            .ok_or(Flaw::Target)?;
        let rest = &target[scheme.len()..];
        let (authority, path) = rest.split_at(rest.iter().position(|b| b"/?".contains(b)).unwrap_or(rest.len()));
        // User information in a target is obsolete and a way to mislead whoever reads it.
        if authority.is_empty() || !valid_host(authority) {
            return Err(Flaw::Target);
        }
        let path = if path.is_empty() && method == b"OPTIONS" { b"*" } else { path };
        Ok(Self { authority: Some(authority), path })
    }
}

/// Which forwarding fields came with the request.
#[derive(Clone, Copy, Default)]
struct Seen {
    client: bool,
    proto: bool,
    forwarded: bool,
}

impl Seen {
    fn note(&mut self, name: Name) {
        match name {
            Name::XForwardedFor => self.client = true,
            Name::XForwardedProto => self.proto = true,
            Name::Forwarded => self.forwarded = true,
            // `Host` is passed on as it came, so there is nothing to add to it.
            _ => {}
        }
    }
}

/// What happens to the fields that say who asked.
#[derive(Clone, Copy)]
struct Forwarded {
    x: Forwarding,
    standard: Forwarding,
}

impl Forwarded {
    fn of(x: Forwarding, standard: Forwarding) -> Self {
        Self { x, standard }
    }

    /// Is what came passed on as it is? (Lists that get an element are written as one field.)
    fn passes(self, name: Name) -> bool {
        match name {
            Name::XForwardedFor => self.x == Forwarding::Keep,
            Name::XForwardedProto | Name::XForwardedHost => matches!(self.x, Forwarding::Keep | Forwarding::Append),
            _ => self.standard == Forwarding::Keep,
        }
    }

    fn put(self, out: &mut Vec<u8>, fields: &[Field<'_>], seen: Seen, host: &[u8], context: &Context<'_>) {
        let proto: &[u8] = if context.peer.tls.is_some() { b"https" } else { b"http" };
        if matches!(self.x, Forwarding::Append | Forwarding::Replace) {
            let append = self.x == Forwarding::Append;
            let client = context.peer.client.ip();
            put_list(out, "X-Forwarded-For", fields, (append && seen.client).then_some(Name::XForwardedFor), |out| {
                put_ip(out, client);
            });
            if !append || !seen.proto {
                put_field(out, b"X-Forwarded-Proto", proto);
            }
        }
        if matches!(self.standard, Forwarding::Append | Forwarding::Replace) {
            let append = self.standard == Forwarding::Append && seen.forwarded;
            put_list(out, "Forwarded", fields, append.then_some(Name::Forwarded), |out| {
                // RFC 7239, section 6: an IPv6 address is quoted and in brackets.
                out.extend_from_slice(b"for=");
                match context.peer.client.ip() {
                    ip @ IpAddr::V4(_) => put_ip(out, ip),
                    ip @ IpAddr::V6(_) => {
                        out.extend_from_slice(b"\"[");
                        put_ip(out, ip);
                        out.extend_from_slice(b"]\"");
                    }
                }
                out.extend_from_slice(b";proto=");
                out.extend_from_slice(proto);
                if !host.is_empty() {
                    out.extend_from_slice(b";host=\"");
                    out.extend_from_slice(host);
                    out.push(b'"');
                }
            });
        }
    }
}

/// Writes a list field: what came under `name`, if anything, and one more element.
fn put_list(
    out: &mut Vec<u8>,
    title: &str,
    fields: &[Field<'_>],
    name: Option<Name>,
    element: impl FnOnce(&mut Vec<u8>),
) {
    out.extend_from_slice(title.as_bytes());
    out.extend_from_slice(b": ");
    if let Some(name) = name {
        for field in fields.iter().filter(|f| f.kind == name && !f.value.is_empty()) {
            out.extend_from_slice(field.value);
            out.extend_from_slice(b", ");
        }
    }
    element(out);
    out.extend_from_slice(b"\r\n");
}

/// An address in text. IPv4, the usual case, without the formatting machinery.
fn put_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            for (i, octet) in ip.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                put_decimal(out, u64::from(octet));
            }
        }
        IpAddr::V6(ip) => out.extend_from_slice(alloc::format!("{ip}").as_bytes()),
    }
}

pub(super) fn put_length(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(b"Content-Length: ");
    put_decimal(out, n);
    out.extend_from_slice(b"\r\n");
}

/// A number in decimal digits.
pub(super) fn put_decimal(out: &mut Vec<u8>, mut n: u64) {
    if n < 10 {
        return out.push(b'0' + n as u8);
    }
    let (mut digits, mut at) = ([0; 20], 20);
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

fn affinity_key(fields: &[Field<'_>], context: &Context<'_>) -> Option<u64> {
    let found = match &context.settings.affinity {
        Affinity::None => return None,
        Affinity::Source => None,
        Affinity::Header(name) => fields.iter().find(|f| f.name.eq_ignore_ascii_case(name.as_bytes())).map(|f| f.value),
        Affinity::Cookie(name) => {
            let cookies = fields.iter().filter(|f| f.kind == Name::Cookie);
            cookies.flat_map(|f| f.value.split(|&b| b == b';')).find_map(|pair| {
                let (key, value) = pair.split_at(pair.iter().position(|&b| b == b'=')?);
                (key.trim_ascii() == name.as_bytes()).then(|| value[1..].trim_ascii())
            })
        }
    };
    Some(found.map_or_else(|| source_key(context), hash))
}

fn log(
    (method, target, minor): (&[u8], &[u8], u8),
    host: &[u8],
    fields: &[Field<'_>],
    trace: Option<Trace>,
) -> Box<TurnLog> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let field = |name: &str| {
        let field = fields.iter().find(|f| f.name.eq_ignore_ascii_case(name.as_bytes()));
        field.map(|f| text(f.value)).unwrap_or_default()
    };
    Box::new(TurnLog {
        method: text(method),
        target: text(target),
        host: text(host),
        user_agent: field("user-agent"),
        version: if minor == 1 { "1.1" } else { "1.0" },
        traceparent: trace.map_or_else(|| field("traceparent"), |trace| text(&trace.traceparent())),
        trace,
        grpc_status: None,
        received: 0,
        sent: 0,
    })
}
