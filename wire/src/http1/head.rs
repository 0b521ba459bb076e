//! What request heads and response heads have in common: where they end, their fields, their
//! framing. RFC 9112, sections 2 to 6; strict wherever two readers could disagree.

use super::grammar::{Class, Field, class};
use alloc::vec::Vec;
use core::ops::Range;
use evenkeel_core::end::Limit;
use memchr::{memchr, memchr_iter};

/// Fields that a head can hold at all; `limits.header_fields` may ask for fewer.
pub const MAX_FIELDS: usize = 256;

/// How far a head that is still arriving was searched, so that bytes that come one by one are not
/// searched again and again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scan {
    searched: u32,
    line: u32,
}

impl Scan {
    /// Nothing of the head has been searched.
    pub(super) fn is_fresh(self) -> bool {
        self.searched == 0
    }
}

/// What is wrong with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// A line that ends in LF without CR (RFC 9112, section 2.2).
    BareLf,
    /// The start line is none.
    StartLine,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    Version,
    /// A field line that is none: no colon, a space before it, a control character, a folded line.
    Field,
    /// A field whose name, were its underscores hyphens, would frame a message or say who asked.
    Underscore,
    /// More bytes than `limits.header_bytes`.
    HeadTooLarge,
    /// More fields than `limits.header_fields`.
    TooManyFields,
    /// A target longer than `limits.uri_bytes`.
    TargetTooLong,
    /// A target in none of the forms of RFC 9112, section 3.2, or with bytes that no URI has.
    Target,
    /// A body of more than `limits.body_bytes`.
    BodyTooLarge,
    /// `CONNECT`: evenkeel is not a forward proxy.
    Connect,
    /// No `Host`, more than one, or one that names no host.
    Host,
    /// `Content-Length` that is not one plain number.
    ContentLength,
    /// `Transfer-Encoding` that is not exactly `chunked`, or where it may not be.
    TransferEncoding,
    /// Both `Transfer-Encoding` and `Content-Length`.
    BothLengths,
    /// `TRACE` with content (RFC 9110, section 9.3.8).
    Trace,
    /// A chunk-size line, or the end of a chunk, that is none.
    Chunk,
    /// Chunk extensions beyond 256 bytes, or with control characters.
    ChunkExtension,
    /// A `Connection` field with too many options.
    Connection,
    /// An `Expect` other than `100-continue`.
    Expect,
    /// An informational response too many, or one that fits nothing.
    Informational,
}

impl Flaw {
    /// The status that answers a request with this flaw.
    pub fn status(self) -> u16 {
        match self {
            Self::Version => 505,
            Self::HeadTooLarge | Self::TooManyFields => 431,
            Self::TargetTooLong => 414,
            Self::BodyTooLarge => 413,
            Self::Connect => 501,
            Self::Expect => 417,
            _ => 400,
        }
    }

    /// The limit that it is about, if it is about one.
    pub fn limit(self) -> Option<Limit> {
        match self {
            Self::HeadTooLarge => Some(Limit::HeaderBytes),
            Self::TooManyFields => Some(Limit::HeaderFields),
            Self::TargetTooLong => Some(Limit::UriBytes),
            Self::BodyTooLarge => Some(Limit::BodyBytes),
            _ => None,
        }
    }

    /// One sentence for the client.
    pub fn explain(self) -> &'static str {
        match self {
            Self::BareLf => "a line ends in LF without CR",
            Self::StartLine => "the start line is malformed",
            Self::Version => "only HTTP/1.0 and HTTP/1.1 are understood here",
            Self::Field => "a header field is malformed",
            Self::Underscore => "a field name has underscores where a field that matters has hyphens",
            Self::HeadTooLarge => "the head is larger than limits.header_bytes",
            Self::TooManyFields => "the head has more fields than limits.header_fields",
            Self::TargetTooLong => "the request target is longer than limits.uri_bytes",
            Self::Target => "the request target is malformed",
            Self::BodyTooLarge => "the body is larger than limits.body_bytes",
            Self::Connect => "CONNECT is not supported: this is not a forward proxy",
            Self::Host => "exactly one valid Host field is required",
            Self::ContentLength => "Content-Length must be one plain number",
            Self::TransferEncoding => "Transfer-Encoding must be exactly chunked",
            Self::BothLengths => "Content-Length and Transfer-Encoding exclude each other",
            Self::Trace => "TRACE must not have content",
            Self::Chunk => "the chunked body is malformed",
            Self::ChunkExtension => "a chunk extension is too long or malformed",
            Self::Connection => "the Connection field has too many options",
            Self::Expect => "the expectation cannot be met",
            Self::Informational => "an informational response was out of place",
        }
    }
}

/// Looks for the empty line that ends a head. `Ok(Some(n))`: the head is `input[..n]`.
pub(super) fn find_end(input: &[u8], scan: &mut Scan, limit: usize) -> Result<Option<usize>, Flaw> {
    let from = scan.searched as usize;
    for at in memchr_iter(b'\n', input.get(from..).unwrap_or_default()) {
        let at = from + at;
        let line = &input[scan.line as usize..at];
        if line.last() != Some(&b'\r') {
            return Err(Flaw::BareLf);
        }
        scan.line = at as u32 + 1;
        if line.len() == 1 {
            return if at < limit { Ok(Some(at + 1)) } else { Err(Flaw::HeadTooLarge) };
        }
    }
    scan.searched = input.len() as u32;
    if input.len() > limit { Err(Flaw::HeadTooLarge) } else { Ok(None) }
}

/// Could somebody take one field name for the other? CGI and its heirs write `-` as `_`.
pub(crate) fn alike(a: &[u8], b: &[u8]) -> bool {
    let plain = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    a.len() == b.len() && a.iter().map(plain).eq(b.iter().map(plain))
}

/// Fields that the engine acts on. Everything else is passed on untouched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Name {
    Connection,
    ContentLength,
    Cookie,
    Expect,
    Forwarded,
    Host,
    /// Hop-by-hop and never passed on: `Keep-Alive`, `Proxy-Connection`, `Proxy-Authenticate`,
    /// `Proxy-Authorization`, `Proxy-Authentication-Info`, `HTTP2-Settings`.
    HopByHop,
    /// Not one of these, but it would be with hyphens for its underscores. Gateways that make variables
    /// of names (RFC 3875, section 4.1.18) write both alike.
    Lookalike,
    Te,
    Traceparent,
    Tracestate,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    WwwAuthenticate,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    Other,
}

impl Name {
    #[inline]
    pub(super) fn of(name: &[u8]) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let like = |known: &str| alike(name, known.as_bytes());
        // Length and first letter tell almost every field apart without comparing.
        match (name.len(), name.first().map_or(0, u8::to_ascii_lowercase)) {
            (2, b't') if is("te") => Self::Te,
            (3, b'v') if is("via") => Self::Via,
            (4, b'h') if is("host") => Self::Host,
            (6, b'c') if is("cookie") => Self::Cookie,
            (6, b'e') if is("expect") => Self::Expect,
            (7, b'u') if is("upgrade") => Self::Upgrade,
            (7, b't') if is("trailer") => Self::Trailer,
            (9, b'f') if is("forwarded") => Self::Forwarded,
            (10, b'c') if is("connection") => Self::Connection,
            (10, b't') if is("tracestate") => Self::Tracestate,
            (11, b't') if is("traceparent") => Self::Traceparent,
            (10, b'k') if is("keep-alive") => Self::HopByHop,
            (14, b'c') if is("content-length") => Self::ContentLength,
            (14, b'h') if is("http2-settings") => Self::HopByHop,
            (15, b'x') if is("x-forwarded-for") => Self::XForwardedFor,
            (16, b'x') if is("x-forwarded-host") => Self::XForwardedHost,
            (16, b'w') if is("www-authenticate") => Self::WwwAuthenticate,
            (16, b'p') if is("proxy-connection") => Self::HopByHop,
            (17, b'x') if is("x-forwarded-proto") => Self::XForwardedProto,
            (17, b't') if is("transfer-encoding") => Self::TransferEncoding,
            (18, b'p') if is("proxy-authenticate") => Self::HopByHop,
            (19, b'p') if is("proxy-authorization") => Self::HopByHop,
            (25, b'p') if is("proxy-authentication-info") => Self::HopByHop,
            (14, b'c') if like("content-length") => Self::Lookalike,
            (17, b't') if like("transfer-encoding") => Self::Lookalike,
            (15, b'x') if like("x-forwarded-for") => Self::Lookalike,
            (16, b'x') if like("x-forwarded-host") => Self::Lookalike,
            (17, b'x') if like("x-forwarded-proto") => Self::Lookalike,
            _ => Self::Other,
        }
    }
}

/// The options of `Connection` (RFC 9110, section 7.6.1).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Connection<'a> {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    named: [&'a [u8]; 8],
    count: usize,
}

impl<'a> Connection<'a> {
    pub(super) fn add(&mut self, value: &'a [u8]) -> Result<(), Flaw> {
        for option in value.split(|&b| b == b',') {
            let option = option.trim_ascii();
            match option.len() {
                0 => {}
                5 if option.eq_ignore_ascii_case(b"close") => self.close = true,
                10 if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                7 if option.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
                // Known hop-by-hop fields go anyway.
                2 if option.eq_ignore_ascii_case(b"te") => {}
                _ => {
                    *self.named.get_mut(self.count).ok_or(Flaw::Connection)? = option;
                    self.count += 1;
                }
            }
        }
        Ok(())
    }

    /// Does the sender want the field to go no further? Fields that frame or route a message, and
    /// those that evenkeel vouches for, cannot be taken away like this.
    #[inline]
    pub(super) fn names(&self, field: &Field<'_>) -> bool {
        self.count > 0
            && matches!(
                field.kind,
                Name::Other
                    | Name::Cookie
                    | Name::Expect
                    | Name::Traceparent
                    | Name::Tracestate
                    | Name::Trailer
                    | Name::WwwAuthenticate
            )
            && self.named[..self.count].iter().any(|named| named.eq_ignore_ascii_case(field.name))
    }
}

/// How long a body is, as its head says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
    /// To the end of the connection; responses only.
    Close,
}

/// Collects what a head says about framing, and refuses whatever two readers could read in two ways.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FramingFields {
    length: Option<u64>,
    chunked: bool,
}

impl FramingFields {
    /// One plain number, in one field: lists and repetitions are how requests are smuggled.
    pub(super) fn content_length(&mut self, value: &[u8]) -> Result<(), Flaw> {
        let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
        if !digits || self.length.is_some() {
            return Err(Flaw::ContentLength);
        }
        let length = value.iter().fold(0, |n, &digit| n * 10 + u64::from(digit - b'0'));
        // A reader with a signed number would see a negative one.
        if length > i64::MAX as u64 {
            return Err(Flaw::ContentLength);
        }
        self.length = Some(length);
        if self.chunked { Err(Flaw::BothLengths) } else { Ok(()) }
    }

    pub(super) fn transfer_encoding(&mut self, value: &[u8], version: u8) -> Result<(), Flaw> {
        if self.chunked || version == 0 || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Flaw::TransferEncoding);
        }
        self.chunked = true;
        if self.length.is_some() { Err(Flaw::BothLengths) } else { Ok(()) }
    }

    pub(super) fn request(self) -> Framing {
        match (self.chunked, self.length) {
            (true, _) => Framing::Chunked,
            (false, None | Some(0)) => Framing::None,
            (false, Some(n)) => Framing::Length(n),
        }
    }

    pub(super) fn response(self) -> Framing {
        match (self.chunked, self.length) {
            (true, _) => Framing::Chunked,
            (false, Some(n)) => Framing::Length(n),
            (false, None) => Framing::Close,
        }
    }

    pub(super) fn length(self) -> Option<u64> {
        self.length
    }
}

/// Appends `name: value`, in our framing whatever it came in.
#[inline]
pub(super) fn put_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Fields passed on as they are: lines that already are in our framing and follow each other are copied
/// with one call.
pub(super) struct Lines<'h> {
    head: &'h [u8],
    /// Where the lines in hand begin and end.
    run: Range<usize>,
}

impl<'h> Lines<'h> {
    pub(super) fn of(head: &'h [u8]) -> Self {
        Self { head, run: 0..0 }
    }

    /// Appends a field of this head.
    #[inline]
    pub(super) fn put(&mut self, out: &mut Vec<u8>, field: &Field<'_>) {
        if !field.canonical {
            self.flush(out);
            put_field(out, field.name, field.value);
        } else if self.run.end == field.begin {
            self.run.end = field.end;
        } else {
            self.flush(out);
            self.run = field.begin..field.end;
        }
    }

    /// Appends what is in hand; to be called before anything else is appended.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head[core::mem::take(&mut self.run)]);
    }
}

/// Could this be the value of `Host`? An authority without user information (RFC 9110, section 7.2), that
/// is a name or an address in brackets, and a port. A comma may be part of a name (RFC 3986, section
/// 3.2.2), but to many it would be a list of two.
pub(super) fn valid_host(value: &[u8]) -> bool {
    let literal = value.first() == Some(&b'[');
    let end = match (literal, memchr(if literal { b']' } else { b':' }, value)) {
        (true, None) => return false,
        (true, Some(bracket)) => bracket + 1,
        (false, colon) => colon.unwrap_or(value.len()),
    };
    let (host, port) = value.split_at(end);
    let host_is_valid = match host {
        [b'[', address @ .., b']'] => {
            !address.is_empty() && address.iter().all(|&b| b.is_ascii_alphanumeric() || b == b':' || b == b'.')
        }
        name => {
            let plain = |b: &u8| HOST[usize::from(*b)];
            name.iter().all(plain) || valid_escapes(name) && name.iter().all(|b| plain(b) || *b == b'%')
        }
    };
    host_is_valid && (port.is_empty() || port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit))
}

/// What a name is made of (RFC 3986, section 3.2.2: unreserved characters and most sub-delimiters).
static HOST: Class = class(&[
    (b'-', b'.'),
    (b'0', b'9'),
    (b'A', b'Z'),
    (b'a', b'z'),
    (b'_', b'_'),
    (b'~', b'~'),
    (b'!', b'!'),
    (b'$', b'$'),
    (b'&', b'+'),
    (b';', b';'),
    (b'=', b'='),
]);

/// Do two hexadecimal digits follow every percent sign (RFC 3986, section 2.1)?
fn valid_escapes(name: &[u8]) -> bool {
    memchr_iter(b'%', name).all(|at| name.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)))
}

#[cfg(test)]
mod tests {
    use super::super::grammar::{Room, fields};
    use super::*;

    #[test]
    fn the_end_of_a_head_is_found_whatever_the_pieces() {
        let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\nrest";
        let mut scan = Scan::default();
        for end in 0..27 {
            assert_eq!(find_end(&head[..end], &mut scan, 100), Ok(None), "at {end}");
        }
        assert_eq!(find_end(&head[..27], &mut scan, 100), Ok(Some(27)));
        assert_eq!(find_end(head, &mut Scan::default(), 26), Err(Flaw::HeadTooLarge));
        assert_eq!(find_end(b"GET /\nx", &mut Scan::default(), 100), Err(Flaw::BareLf));
    }

    #[test]
    fn lengths_are_one_plain_number_or_refused() {
        for (value, length) in [
            (&b"0"[..], Ok(Framing::None)),
            (b"7", Ok(Framing::Length(7))),
            (b"9223372036854775807", Ok(Framing::Length(9_223_372_036_854_775_807))),
            (b"9223372036854775808", Err(Flaw::ContentLength)),
            (b"", Err(Flaw::ContentLength)),
            (b"+1", Err(Flaw::ContentLength)),
            (b"-1", Err(Flaw::ContentLength)),
            (b"1,1", Err(Flaw::ContentLength)),
            (b"0x10", Err(Flaw::ContentLength)),
            (b"1 2", Err(Flaw::ContentLength)),
            (b"99999999999999999999", Err(Flaw::ContentLength)),
        ] {
            let mut fields = FramingFields::default();
            assert_eq!(fields.content_length(value).map(|()| fields.request()), length, "{value:?}");
        }
        let mut fields = FramingFields::default();
        assert_eq!(fields.content_length(b"1"), Ok(()));
        assert_eq!(fields.content_length(b"1"), Err(Flaw::ContentLength));
        assert_eq!(fields.transfer_encoding(b"chunked", 1), Err(Flaw::BothLengths));
        for value in [&b"gzip, chunked"[..], b"chunked, chunked", b"identity", b"xchunked", b"", b"chunked\x0b"] {
            assert_eq!(FramingFields::default().transfer_encoding(value, 1), Err(Flaw::TransferEncoding), "{value:?}");
        }
    }

    #[test]
    fn names_that_differ_from_one_that_matters_in_underscores_only_are_noticed() {
        for name in ["Content_Length", "transfer_ENCODING", "X_Forwarded_For", "x-forwarded_host", "X_Forwarded-Proto"]
        {
            assert_eq!(Name::of(name.as_bytes()), Name::Lookalike, "{name}");
        }
        for name in ["Content.Length", "Content_Type", "X_Forwarded_By", "x-forwarded-four"] {
            assert_eq!(Name::of(name.as_bytes()), Name::Other, "{name}");
        }
    }

    #[test]
    fn hosts_are_a_name_or_an_address_and_a_port() {
        for host in ["", "a", "a.example:80", "a:", "a_b", "127.0.0.1:8080", "[::1]", "[::1]:80", "%c3%a4.example:1"] {
            assert!(valid_host(host.as_bytes()), "{host}");
        }
        for host in
            ["a:b", "a:80:81", "[::1", "[::1]a", "[]", "::1", "a%2", "a%zz", "a,b", "a b", "a@b", "a/b", "]", "["]
        {
            assert!(!valid_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn connection_cannot_take_away_what_frames_or_routes() {
        let mut connection = Connection::default();
        connection.add(b"close, X-Secret ,host,content-length, x-forwarded-for").unwrap();
        assert!(connection.close);
        for (field, gone) in [
            ("x-secret", true),
            ("Host", false),
            ("Content-Length", false),
            ("X-Forwarded-For", false),
            ("accept", false),
        ] {
            let line = alloc::format!("{field}: x\r\n\r\n");
            let mut room = Room::new();
            fields(line.as_bytes(), 0, 1, &mut room).expect("a field");
            assert_eq!(connection.names(&room.fields()[0]), gone, "{field}");
        }
        assert_eq!(Connection::default().add(b"a,b,c,d,e,f,g,h,i"), Err(Flaw::Connection));
    }
}
