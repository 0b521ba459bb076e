//! What makes a head or trailers a message of HTTP (RFC 9113, section 8). Whatever two readers could read in two
//! ways, or an HTTP/1.1 hop behind us in another way, is malformed.

use super::bytes;
use super::hpack::{Field, Fields, Name};

/// What is wrong with a message. Its stream is reset with `PROTOCOL_ERROR` (section 8.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// A name or value with bytes that HTTP does not allow.
    Field,
    /// A pseudo-header field behind others, twice, unknown, or where it may not be; or one is missing.
    Pseudo,
    /// A field about the connection (section 8.2.2), or `te` that is not `trailers`.
    ConnectionSpecific,
    /// `:method` is none.
    Method,
    /// `:scheme` is none.
    Scheme,
    /// `:path` is none.
    Path,
    /// No `:authority` or `host`, or two that differ, or one that names no host.
    Authority,
    /// `:status` is none, or one that HTTP/2 does not have.
    Status,
    /// `content-length` that is not one plain number, or not that of the body.
    ContentLength,
    /// CONNECT in a way that was not offered (RFC 8441).
    Connect,
    /// Trailers behind which more is to come, or an end where there may be none.
    End,
}

impl Flaw {
    /// One sentence for logs.
    pub fn explain(self) -> &'static str {
        match self {
            Self::Field => "a field has a name or value that HTTP does not allow",
            Self::Pseudo => "a pseudo-header field is missing, unknown or out of place",
            Self::ConnectionSpecific => "a field is about a connection of HTTP/1.1",
            Self::Method => "the method is malformed",
            Self::Scheme => "the scheme is malformed",
            Self::Path => "the path is malformed",
            Self::Authority => "exactly one valid authority is required",
            Self::Status => "the status is malformed",
            Self::ContentLength => "the content-length is malformed, or not that of the body",
            Self::Connect => "extended CONNECT was not offered",
            Self::End => "trailers must end a message, and informational responses must not",
        }
    }
}

/// What the engine wants to know of a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Head {
    /// Zero in requests.
    pub(super) status: u16,
    pub(super) length: Option<u64>,
    pub(super) connect: bool,
    pub(super) is_head: bool,
}

/// Pseudo-header fields that have been seen.
#[derive(Clone, Copy, Default)]
struct Pseudo<'a> {
    method: Option<&'a [u8]>,
    scheme: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    status: Option<&'a [u8]>,
    protocol: Option<&'a [u8]>,
}

/// Checks a request. `extended`: we said that CONNECT may name a protocol.
pub(super) fn request(fields: &Fields, extended: bool) -> Result<Head, Flaw> {
    let (pseudo, regular) = read(fields)?;
    if pseudo.status.is_some() {
        return Err(Flaw::Pseudo);
    }
    let method = pseudo.method.ok_or(Flaw::Pseudo)?;
    if !is_token(method) {
        return Err(Flaw::Method);
    }
    let connect = method == b"CONNECT";
    if pseudo.protocol.is_some() && !(connect && extended) {
        return Err(Flaw::Connect);
    }
    if connect && pseudo.protocol.is_none() {
        // Section 8.5.
        if pseudo.scheme.is_some() || pseudo.path.is_some() {
            return Err(Flaw::Pseudo);
        }
    } else {
        let (scheme, path) = (pseudo.scheme.ok_or(Flaw::Pseudo)?, pseudo.path.ok_or(Flaw::Pseudo)?);
        if scheme != b"http" && scheme != b"https" && !is_scheme(scheme) {
            return Err(Flaw::Scheme);
        }
        // Section 8.3.1: of origin form, or an asterisk for the server itself.
        let server = path == b"*" && method == b"OPTIONS";
        if !server && !is_path(path) {
            return Err(Flaw::Path);
        }
    }
    match (pseudo.authority, regular.host) {
        (Some(authority), None) if is_authority(authority) => {}
        (Some(authority), Some(host)) if is_authority(authority) && authority.eq_ignore_ascii_case(host) => {}
        (None, Some(host)) if is_authority(host) && !connect => {}
        _ => return Err(Flaw::Authority),
    }
    if let Some(protocol) = pseudo.protocol
        && !is_token(protocol)
    {
        return Err(Flaw::Connect);
    }
    Ok(Head { status: 0, length: regular.length, connect, is_head: method == b"HEAD" })
}

/// Checks a response.
pub(super) fn response(fields: &Fields) -> Result<Head, Flaw> {
    let (pseudo, regular) = read(fields)?;
    let Pseudo { method: None, scheme: None, path: None, authority: None, protocol: None, status } = pseudo else {
        return Err(Flaw::Pseudo);
    };
    let status = match *status.ok_or(Flaw::Pseudo)? {
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
            u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
        }
        _ => return Err(Flaw::Status),
    };
    // There is no switching of protocols (section 8.6).
    if status == 101 {
        return Err(Flaw::Status);
    }
    Ok(Head { status, length: regular.length, connect: false, is_head: false })
}

/// Checks trailers.
pub(super) fn trailers(fields: &Fields) -> Result<(), Flaw> {
    for field in fields.iter() {
        if field.is_flawed() {
            return Err(Flaw::Field);
        }
        if is_pseudo(&field) {
            return Err(Flaw::Pseudo);
        }
        match field.known() {
            // Nobody may learn from trailers how a message is framed (RFC 9110, section 6.5.1).
            Name::CONTENT_LENGTH => return Err(Flaw::ContentLength),
            Name::HOST => return Err(Flaw::Authority),
            _ => connection_specific(&field)?,
        }
    }
    Ok(())
}

struct Regular<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
}

fn read(fields: &Fields) -> Result<(Pseudo<'_>, Regular<'_>), Flaw> {
    let mut pseudo = Pseudo::default();
    let mut regular = Regular { host: None, length: None };
    let mut behind = false;
    for field in fields.iter() {
        if field.is_flawed() {
            return Err(Flaw::Field);
        }
        if is_pseudo(&field) {
            let place = match field.known() {
                Name::METHOD => &mut pseudo.method,
                Name::SCHEME => &mut pseudo.scheme,
                Name::PATH => &mut pseudo.path,
                Name::AUTHORITY => &mut pseudo.authority,
                Name::STATUS => &mut pseudo.status,
                Name::PROTOCOL => &mut pseudo.protocol,
                _ => return Err(Flaw::Pseudo),
            };
            if behind || place.replace(field.value()).is_some() {
                return Err(Flaw::Pseudo);
            }
            continue;
        }
        behind = true;
        match field.known() {
            Name::OTHER => {}
            Name::HOST if regular.host.replace(field.value()).is_some() => return Err(Flaw::Authority),
            Name::CONTENT_LENGTH if regular.length.is_some() => return Err(Flaw::ContentLength),
            Name::CONTENT_LENGTH => regular.length = Some(length(field.value())?),
            _ => connection_specific(&field)?,
        }
    }
    Ok((pseudo, regular))
}

#[inline]
fn is_pseudo(field: &Field<'_>) -> bool {
    field.known().is_pseudo() || (field.known() == Name::OTHER && field.name().first() == Some(&b':'))
}

fn connection_specific(field: &Field<'_>) -> Result<(), Flaw> {
    match field.known() {
        Name::CONNECTION | Name::KEEP_ALIVE | Name::PROXY_CONNECTION | Name::TRANSFER_ENCODING | Name::UPGRADE => {
            Err(Flaw::ConnectionSpecific)
        }
        Name::TE if !field.value().eq_ignore_ascii_case(b"trailers") => Err(Flaw::ConnectionSpecific),
        _ => Ok(()),
    }
}

/// One plain number that a signed integer can hold.
fn length(value: &[u8]) -> Result<u64, Flaw> {
    let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    let number = value.iter().fold(0_u64, |n, &digit| n.wrapping_mul(10).wrapping_add(u64::from(digit & 0xF)));
    if digits && number <= i64::MAX as u64 { Ok(number) } else { Err(Flaw::ContentLength) }
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && bytes::all(text, bytes::TOKEN)
}

fn is_scheme(text: &[u8]) -> bool {
    let rest = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    text.first().is_some_and(u8::is_ascii_alphabetic) && text.iter().all(rest)
}

/// Origin form.
fn is_path(path: &[u8]) -> bool {
    path.first() == Some(&b'/') && bytes::all(path, bytes::PATH)
}

fn is_authority(authority: &[u8]) -> bool {
    !authority.is_empty() && bytes::all(authority, bytes::AUTHORITY)
}

#[cfg(test)]
mod tests {
    use super::super::hpack::{Capacity, Decoder, Encoder, Form};
    use super::*;
    use alloc::vec::Vec;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let (mut out, mut fields) = (Vec::new(), Fields::default());
        let mut encoder = Encoder::new(0);
        encoder.allow(0);
        list.iter().for_each(|(name, value)| encoder.put(name.as_bytes(), value.as_bytes(), Form::Plain, &mut out));
        let all = Capacity { bytes: usize::MAX, fields: usize::MAX };
        assert_eq!(Decoder::default().decode(&out, all, &mut fields), Ok(()));
        fields
    }

    const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

    /// A request with some fields more, or instead of others.
    fn with(changes: &[(&str, &str)]) -> Result<Head, Flaw> {
        let mut list = GET.to_vec();
        for &(name, value) in changes {
            match list.iter_mut().find(|(known, _)| *known == name) {
                Some(field) => field.1 = value,
                None => list.push((name, value)),
            }
        }
        request(&fields(&list), false)
    }

    #[test]
    fn requests_are_well_formed() {
        let head = Head { status: 0, length: None, connect: false, is_head: false };
        assert_eq!(with(&[]), Ok(head));
        assert_eq!(with(&[("te", "trailers"), ("host", "A")]), Ok(head));
        assert_eq!(with(&[("content-length", "12")]), Ok(Head { length: Some(12), ..head }));
        assert_eq!(with(&[(":method", "HEAD")]), Ok(Head { is_head: true, ..head }));
        assert_eq!(with(&[(":method", "OPTIONS"), (":path", "*")]), Ok(head));
        let host = [GET[0], GET[1], GET[2], ("host", "[::1]:80")];
        assert_eq!(request(&fields(&host), false), Ok(head));
        let connect = [(":method", "CONNECT"), (":authority", "a:443")];
        assert_eq!(request(&fields(&connect), false), Ok(Head { connect: true, ..head }));
        let socket = [(":method", "CONNECT"), (":protocol", "websocket"), GET[1], GET[2], GET[3]];
        assert_eq!(request(&fields(&socket), true), Ok(Head { connect: true, ..head }));
        assert_eq!(request(&fields(&socket), false), Err(Flaw::Connect));
    }

    #[test]
    fn requests_that_are_not_have_a_flaw() {
        for (name, value, flaw) in [
            ("A", "", Flaw::Field),
            ("a", "b\r\nc: d", Flaw::Field),
            ("a b", "", Flaw::Field),
            ("a:b", "", Flaw::Field),
            (":other", "", Flaw::Pseudo),
            (":status", "200", Flaw::Pseudo),
            ("connection", "close", Flaw::ConnectionSpecific),
            ("keep-alive", "1", Flaw::ConnectionSpecific),
            ("proxy-connection", "close", Flaw::ConnectionSpecific),
            ("transfer-encoding", "chunked", Flaw::ConnectionSpecific),
            ("upgrade", "h2c", Flaw::ConnectionSpecific),
            ("te", "gzip", Flaw::ConnectionSpecific),
            ("te", "trailers, gzip", Flaw::ConnectionSpecific),
            ("host", "b", Flaw::Authority),
            ("content-length", "", Flaw::ContentLength),
            ("content-length", "+1", Flaw::ContentLength),
            ("content-length", "1, 1", Flaw::ContentLength),
            ("content-length", "9223372036854775808", Flaw::ContentLength),
            ("content-length", "99999999999999999999", Flaw::ContentLength),
            (":method", "", Flaw::Method),
            (":method", "GET /x", Flaw::Method),
            (":scheme", "", Flaw::Scheme),
            (":scheme", "ht tp", Flaw::Scheme),
            (":path", "", Flaw::Path),
            (":path", "x", Flaw::Path),
            (":path", "*", Flaw::Path),
            (":path", "/ HTTP/1.1", Flaw::Path),
            (":path", "/#", Flaw::Path),
            (":path", "http://a/", Flaw::Path),
            (":authority", "", Flaw::Authority),
            (":authority", "u@a", Flaw::Authority),
            (":authority", "a/b", Flaw::Authority),
            (":authority", "a b", Flaw::Authority),
            (":protocol", "websocket", Flaw::Connect),
        ] {
            assert_eq!(with(&[(name, value)]), Err(flaw), "{name}: {value:?}");
        }
    }

    #[test]
    fn pseudo_header_fields_come_first_and_once() {
        for wrong in [
            &GET[1..],
            &[GET[0], GET[2], GET[3]],
            &[GET[0], GET[1], GET[3]],
            &[GET[0], GET[0], GET[1], GET[2], GET[3]],
            &[GET[0], GET[1], ("a", "b"), GET[2], GET[3]],
            &[(":method", "CONNECT"), GET[2], GET[3]],
            &[(":method", "CONNECT"), GET[1], GET[3]],
        ] {
            assert_eq!(request(&fields(wrong), false), Err(Flaw::Pseudo), "{wrong:?}");
        }
        for wrong in [
            &GET[..3],
            &[(":method", "CONNECT"), ("host", "a")],
            &[GET[0], GET[1], GET[2], ("host", "a"), ("host", "a")],
        ] {
            assert_eq!(request(&fields(wrong), false), Err(Flaw::Authority), "{wrong:?}");
        }
        let twice = [GET[0], GET[1], GET[2], GET[3], ("content-length", "1"), ("content-length", "1")];
        assert_eq!(request(&fields(&twice), false), Err(Flaw::ContentLength));
    }

    #[test]
    fn responses_have_a_status_and_nothing_of_requests() {
        assert_eq!(response(&fields(&[(":status", "204")])).map(|head| head.status), Ok(204));
        for (wrong, flaw) in [
            (&[("a", "b")][..], Flaw::Pseudo),
            (&[(":status", "200"), (":status", "200")], Flaw::Pseudo),
            (&[(":status", "200"), (":path", "/")], Flaw::Pseudo),
            (&[("a", "b"), (":status", "200")], Flaw::Pseudo),
            (&[(":status", "20")], Flaw::Status),
            (&[(":status", "099")], Flaw::Status),
            (&[(":status", "2000")], Flaw::Status),
            (&[(":status", "101")], Flaw::Status),
            (&[(":status", "200"), ("connection", "close")], Flaw::ConnectionSpecific),
        ] {
            assert_eq!(response(&fields(wrong)), Err(flaw), "{wrong:?}");
        }
    }

    #[test]
    fn trailers_frame_and_route_nothing() {
        assert_eq!(trailers(&fields(&[("grpc-status", "0")])), Ok(()));
        for (name, value, flaw) in [
            (":status", "200", Flaw::Pseudo),
            (":x", "", Flaw::Pseudo),
            ("A", "", Flaw::Field),
            ("content-length", "1", Flaw::ContentLength),
            ("transfer-encoding", "chunked", Flaw::ConnectionSpecific),
            ("host", "a", Flaw::Authority),
        ] {
            assert_eq!(trailers(&fields(&[(name, value)])), Err(flaw), "{name}");
        }
    }
}
