//! A request of HTTP/1.1 on its way to an endpoint that speaks HTTP/2.
//!
//! Which endpoint a turn goes to is known only when its request has been read, and what that speaks perhaps only when
//! there is a connection. So a request waits as what it would be for HTTP/1.1, in our framing, and can be sent again
//! from there; on a stream it is read once more, by the same grammar, and its parts are fields and data.

use super::body::{Body, Chunk, Encode, for_each_trailer};
use super::grammar::{self, Room};
use super::head::{Framing, FramingFields, Name, find_end};
use crate::http2::FieldWriter;
use crate::http2::connection::{Connection, Part};
use crate::http2::hpack::{self as http2, Form};
use crate::http2::streams::StreamKey;
use crate::out::Out;
use alloc::string::String;
use alloc::vec::Vec;
use evenkeel_core::time::Instant;

/// What is left of a request whose head is a stream already.
#[derive(Debug)]
pub struct Upload {
    body: Body,
}

/// A stream that was opened.
#[derive(Debug)]
pub struct Opened {
    /// This one.
    pub stream: StreamKey,
    /// What is to follow on it.
    pub upload: Upload,
    /// Bytes of the head.
    pub length: usize,
}

impl Upload {
    /// Opens a stream with the request whose head stands at the beginning of `waiting`, all of it, as an engine wrote
    /// it. `secure`: the client came over TLS. `None`: there is no room for a stream, or that is no head.
    pub fn open(waiting: &[u8], secure: bool, connection: &mut Connection, out: &mut Out<'_, '_>) -> Option<Opened> {
        let (line, begin) = grammar::request_line(waiting).ok()?;
        let mut room = Room::new();
        let length = grammar::fields(waiting, begin, usize::MAX, &mut room).ok()?;
        let mut framing = FramingFields::default();
        let mut host = None;
        for field in room.fields() {
            match field.kind {
                Name::Host => host = Some(field.value),
                Name::ContentLength => framing.content_length(field.value).ok()?,
                Name::TransferEncoding => framing.transfer_encoding(field.value, 1).ok()?,
                _ => {}
            }
        }
        let framing = framing.request();
        let stream = connection.request(framing == Framing::None, out, |writer| {
            writer.put(":method", line.method, Form::Indexed);
            writer.put(":scheme", if secure { b"https" } else { b"http" }, Form::Indexed);
            writer.put(":path", line.target, Form::Plain);
            writer.put(":authority", host.unwrap_or_default(), Form::Indexed);
            let mut name = String::new();
            for field in room.fields() {
                // Framing is that of a stream, and nothing switches protocols there (RFC 9113, sections 8.2.2 and 8.6).
                let stays = matches!(
                    field.kind,
                    Name::Host | Name::Connection | Name::TransferEncoding | Name::Upgrade | Name::HopByHop
                );
                if !stays {
                    put(writer, &mut name, field.name, field.value);
                }
            }
        })?;
        Some(Opened { stream, upload: Self { body: Body::new(framing) }, length })
    }

    /// All of the request was passed on.
    pub fn is_done(&self) -> bool {
        self.body.is_done()
    }

    /// Passes on what is there of the body, which stands at the beginning of `waiting`, as far as the windows let it
    /// go; returns how many bytes are done with. The rest is to be offered again when
    /// [`Connection::writable`] says so, or with more behind it.
    pub fn relay<'i>(
        &mut self,
        waiting: &'i [u8],
        stream: StreamKey,
        connection: &mut Connection,
        out: &mut Out<'_, 'i>,
        now: Instant,
    ) -> usize {
        let mut at = 0;
        while let Some(rest) = waiting.get(at..).filter(|rest| !rest.is_empty()) {
            match &mut self.body {
                Body::Length(left) | Body::Chunked(Chunk::Data { left }) => {
                    let left = *left;
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let end = take as u64 == left && matches!(self.body, Body::Length(_));
                    let sent = connection.data(stream, &rest[..take], end, out, now);
                    self.body.pass(sent as u64);
                    at += sent;
                    if sent < take {
                        break;
                    }
                }
                Body::Chunked(Chunk::Trailers(scan)) => {
                    // An engine has seen to it that they are well, and few.
                    let Ok(Some(end)) = find_end(rest, scan, usize::MAX) else { break };
                    at += end;
                    self.body = Body::Done;
                    put_end(&rest[..end], stream, connection, out, now);
                }
                // A byte of framing.
                Body::Chunked(_) => {
                    let mut nothing = Vec::new();
                    let stepped = self.body.relay(&rest[..1], Encode::Pieces, &mut Out::new(&mut nothing), 0, &mut 0);
                    let Ok(1) = stepped else { break };
                    at += 1;
                }
                Body::Done | Body::Close => break,
            }
        }
        at
    }
}

/// Ends a stream behind a chunked body, with its trailers if there are any.
fn put_end(section: &[u8], stream: StreamKey, connection: &mut Connection, out: &mut Out<'_, '_>, now: Instant) {
    if section == b"\r\n" {
        connection.data(stream, &[], true, &mut Out::new(out.spill()), now);
        return;
    }
    connection.fields(stream, Part::Trailers, true, out, |writer| {
        let mut lower = String::new();
        // They were checked when they were written here.
        let _checked = for_each_trailer(section, |name, value| put(writer, &mut lower, name, value));
    });
}

/// Writes a field under its name in lower case, which is made in `lower`.
fn put(writer: &mut FieldWriter<'_>, lower: &mut String, name: &[u8], value: &[u8]) {
    lower.clear();
    lower.extend(name.iter().map(|&byte| char::from(byte.to_ascii_lowercase())));
    writer.put(lower, value, form(http2::Name::of(lower.as_bytes())));
}

/// How a field is written on a link that clients share: nobody's secrets go into its table, and only what many of them
/// say alike.
fn form(name: http2::Name) -> Form {
    match name {
        http2::Name::AUTHORIZATION | http2::Name::COOKIE => Form::Never,
        http2::Name::ACCEPT
        | http2::Name::ACCEPT_CHARSET
        | http2::Name::ACCEPT_ENCODING
        | http2::Name::ACCEPT_LANGUAGE
        | http2::Name::CACHE_CONTROL
        | http2::Name::CONTENT_TYPE
        | http2::Name::EXPECT
        | http2::Name::TE
        | http2::Name::USER_AGENT
        | http2::Name::VIA
        | http2::Name::X_FORWARDED_PROTO => Form::Indexed,
        _ => Form::Plain,
    }
}
