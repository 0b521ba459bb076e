//! A response head, from the endpoint's bytes or fields to our bytes; and the responses that are ours alone.

use super::body::{Encode, has_token};
use super::grammar::{self, Field, Room, StatusLine, Stop};
use super::head::{Connection, Flaw, Framing, FramingFields, Lines, MAX_FIELDS, Name, put_field};
use super::request::{Request, put_decimal, put_length};
use crate::answer::Own;
use crate::http2::forward::Answer;
use crate::http2::hpack::{self as http2, Fields, Form};
use crate::session::Settings;
use alloc::vec::Vec;
use core::fmt::Write;

/// What is remembered of a response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) framing: Framing,
    pub(super) encode: Encode,
    /// The endpoint will not take another request on this connection.
    pub(super) link_close: bool,
    /// We told the client that its connection ends with this response.
    pub(super) client_close: bool,
    /// The endpoint authenticates the connection, not the request.
    pub(super) pins: bool,
}

/// A head that was read; [`Parsed::put`] writes it for the client.
pub(super) struct Parsed<'h, 'b> {
    pub(super) status: u16,
    head: &'b [u8],
    minor: u8,
    reason: &'b [u8],
    fields: &'h [Field<'b>],
    connection: Connection<'b>,
    framing: FramingFields,
    upgrade: Option<&'b [u8]>,
    /// The endpoint authenticates the connection, not the request.
    pub(super) pins: bool,
}

/// Reads a head and calls `then` with it (its fields live on the stack); returns how long it was, too.
pub(super) fn parse<R>(
    input: &[u8],
    settings: &Settings,
    then: impl FnOnce(&Parsed<'_, '_>) -> Result<R, Flaw>,
) -> Result<(R, usize), Stop> {
    let (StatusLine { minor, status, reason }, begin) = grammar::status_line(input)?;
    let mut room = Room::new();
    let end = grammar::fields(input, begin, settings.header_fields.min(MAX_FIELDS), &mut room)?;
    if end > settings.header_bytes {
        return Err(Flaw::HeadTooLarge.into());
    }
    let mut parsed = Parsed {
        status,
        head: &input[..end],
        minor,
        reason,
        fields: room.fields(),
        connection: Connection::default(),
        framing: FramingFields::default(),
        upgrade: None,
        pins: false,
    };
    for field in parsed.fields {
        match field.kind {
            Name::ContentLength => parsed.framing.content_length(field.value)?,
            Name::TransferEncoding => parsed.framing.transfer_encoding(field.value, minor)?,
            Name::Connection => parsed.connection.add(field.value)?,
            Name::Upgrade => parsed.upgrade = Some(field.value),
            Name::WwwAuthenticate => {
                let scheme = field.value.split(|&b| b == b' ').next().unwrap_or_default();
                parsed.pins |= scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate");
            }
            _ => {}
        }
    }
    Ok((then(&parsed)?, end))
}

impl Parsed<'_, '_> {
    /// The protocol that the endpoint switches to, if it is one that the client offered (RFC 9110, section
    /// 7.8).
    pub(super) fn switched(&self, request: &Request) -> Option<&[u8]> {
        let (offer, protocol) = (request.upgrade.as_deref()?, self.upgrade?);
        (self.connection.upgrade && !protocol.is_empty() && has_token(offer, protocol)).then_some(protocol)
    }

    /// How long the body is (RFC 9112, section 6.3). `head`: it answers `HEAD`.
    pub(super) fn framing(&self, head: bool) -> Framing {
        let bodiless = head || self.status < 200 || matches!(self.status, 204 | 304);
        if bodiless { Framing::None } else { self.framing.response() }
    }

    /// The endpoint will not take another request on this connection.
    pub(super) fn ends_link(&self, framing: Framing) -> bool {
        // It must not announce any (RFC 9110, section 8.6; RFC 9112, section 6.1), so it may well send it.
        let announces = self.status == 204 && !matches!(self.framing.request(), Framing::None);
        self.connection.close
            || announces
            || (self.minor == 0 && !self.connection.keep_alive)
            || framing == Framing::Close
    }

    /// Appends the head as HTTP/2 has it; `framing`: of a final response.
    pub(super) fn collect(&self, framing: Option<Framing>, fields: &mut Fields, settings: &Settings) {
        let mut digits = Vec::with_capacity(20);
        put_decimal(&mut digits, u64::from(self.status));
        fields.push(b":status", &digits, Form::Indexed);
        for field in self.fields {
            if !is_about_connection(field.kind) && !self.connection.names(field) {
                fields.push(field.name, field.value, form(field.name));
            }
        }
        let length = match framing {
            Some(Framing::Length(n)) => Some(n),
            // What the length of a body would be: HEAD and 304 (RFC 9110, section 8.6).
            Some(Framing::None) if self.status != 204 => self.framing.length(),
            _ => None,
        };
        if let Some(n) = length {
            digits.clear();
            put_decimal(&mut digits, n);
            fields.push(b"content-length", &digits, Form::Plain);
        }
        if let Some(name) = &settings.via {
            fields.push(b"via", alloc::format!("1.{} {name}", self.minor).as_bytes(), Form::Indexed);
        }
    }

    /// How the response goes on, given the request that it answers. `ends`: the client's connection
    /// ends with it for reasons of ours.
    pub(super) fn decide(&self, request: &Request, ends: bool) -> Response {
        let framing = self.framing(request.head);
        // HTTP/1.1 clients get a body of unknown length in chunks, so that their connection goes on.
        let encode = match framing {
            Framing::Chunked | Framing::Close if request.minor == 1 => Encode::Chunked,
            _ => Encode::Plain,
        };
        let unknown_length = matches!(framing, Framing::Chunked | Framing::Close) && encode == Encode::Plain;
        Response {
            status: self.status,
            framing,
            encode,
            link_close: self.ends_link(framing),
            client_close: request.close || ends || unknown_length,
            pins: self.pins,
        }
    }

    /// Writes the head for the client.
    pub(super) fn put(&self, out: &mut Vec<u8>, request: &Request, response: Option<&Response>, settings: &Settings) {
        out.reserve(256 + 64 * self.fields.len());
        out.extend_from_slice(b"HTTP/1.1 ");
        put_decimal(out, u64::from(self.status));
        out.push(b' ');
        out.extend_from_slice(self.reason);
        out.extend_from_slice(b"\r\n");
        let mut lines = Lines::of(self.head);
        for field in self.fields {
            if !is_about_connection(field.kind) && !self.connection.names(field) {
                lines.put(out, field);
            }
        }
        lines.flush(out);
        if let Some(name) = &settings.via {
            out.extend_from_slice(if self.minor == 1 { b"Via: 1.1 " } else { b"Via: 1.0 " });
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        match response {
            None if self.status == 101 => {
                out.extend_from_slice(b"Connection: upgrade\r\n");
                put_field(out, b"Upgrade", self.upgrade.unwrap_or_default());
            }
            None => {}
            Some(response) => response.put_framing(self.framing.length(), request, out),
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Is the field about the connection with the endpoint, or about framing, which is ours?
fn is_about_connection(kind: Name) -> bool {
    matches!(
        kind,
        Name::Connection | Name::HopByHop | Name::Te | Name::Upgrade | Name::ContentLength | Name::TransferEncoding
    )
}

/// HTTP/1.1 does not say which fields will come again. These hardly do, and would drive others from the table.
fn form(name: &[u8]) -> Form {
    let once = ["age", "content-range", "etag", "expires", "last-modified", "location", "set-cookie"];
    let plain = once.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
    if plain { Form::Plain } else { Form::Indexed }
}

impl Response {
    /// How a response of HTTP/2 goes on, given the request that it answers; `length`: as it says of itself. Its end is
    /// told apart from its content, so `framing` is only for the client. `ends`: as with HTTP/1.1.
    pub(super) fn of_stream(answer: &Answer<'_>, length: Option<u64>, request: &Request, ends: bool) -> Self {
        let status = answer.status;
        let framing = match length {
            _ if request.head || matches!(status, 204 | 304) => Framing::None,
            _ if answer.end => Framing::Length(0),
            Some(length) => Framing::Length(length),
            None => Framing::Close,
        };
        let chunks = framing == Framing::Close && request.minor == 1;
        let client_close = request.close || ends || (framing == Framing::Close && !chunks);
        let encode = if chunks { Encode::Chunked } else { Encode::Plain };
        Self { status, framing, encode, link_close: false, client_close, pins: false }
    }

    /// Writes how the body is framed, and whether the connection goes on. `length`: as the endpoint announced it.
    fn put_framing(&self, length: Option<u64>, request: &Request, out: &mut Vec<u8>) {
        match (self.framing, self.encode, length) {
            (Framing::Length(n), ..) => put_length(out, n),
            (Framing::Chunked | Framing::Close, Encode::Chunked, _) => {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            }
            // What the length of a body would be: HEAD and 304 (RFC 9110, section 8.6).
            (Framing::None, _, Some(n)) if self.status != 204 => put_length(out, n),
            _ => {}
        }
        if self.client_close {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if request.minor == 0 {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
    }
}

/// The length that a message of HTTP/2 announces; its connection has seen to it that it is one.
pub(super) fn length_of(fields: &Fields) -> Option<u64> {
    core::str::from_utf8(fields.get(http2::Name::CONTENT_LENGTH)?).ok()?.parse().ok()
}

/// Writes a head of HTTP/2 for the client. `response`: how it goes on, if it is the final one, and the length that it
/// announced.
pub(super) fn put_fields(
    answer: &Answer<'_>,
    response: Option<(&Response, Option<u64>)>,
    request: &Request,
    out: &mut Vec<u8>,
    settings: &Settings,
) {
    out.reserve(256 + 64 * answer.fields.len());
    out.extend_from_slice(b"HTTP/1.1 ");
    put_decimal(out, u64::from(answer.status));
    out.push(b' ');
    out.extend_from_slice(reason_phrase(answer.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    for field in answer.fields.iter().filter(|field| !field.known().is_pseudo()) {
        if !is_about_connection(Name::of(field.name())) {
            put_field(out, field.name(), field.value());
        }
    }
    if let Some(name) = &settings.via {
        put_field(out, b"Via", alloc::format!("2 {name}").as_bytes());
    }
    if let Some((response, length)) = response {
        response.put_framing(length, request, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// The phrase of a status that came without one, or is ours. Nobody needs it, so those that are rare have none
/// (RFC 9112, section 4).
pub(super) fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// Writes a response of our own. `head`: without its body; `close`: the connection ends with it.
pub(super) fn put_own(out: &mut Vec<u8>, own: &Own<'_>, head: bool, close: bool, settings: &Settings) {
    let Own { status, end, sentence, retry_after, .. } = *own;
    // Writing into a vector cannot fail.
    let _infallible = write!(Text(out), "HTTP/1.1 {status} {}\r\nContent-Type: text/plain\r\n", reason_phrase(status));
    put_length(out, sentence.len() as u64 + 1);
    if settings.reason {
        let _infallible = write!(Text(out), "Evenkeel-Reason: {}; phase={}\r\n", end.cause, end.phase);
    }
    if status == 503 {
        let _infallible = write!(Text(out), "Retry-After: {retry_after}\r\n");
    }
    if close {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !head {
        out.extend_from_slice(sentence.as_bytes());
        out.push(b'\n');
    }
}

struct Text<'a>(&'a mut Vec<u8>);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
