//! Which protocol does a client speak? Decided from its first bytes.

use crate::edge::{Found, begins};
use crate::http2::frame::PREFACE;
use memchr::memchr;

/// What the bytes seen so far say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// An HTTP/1 request line.
    Http1,
    /// The preface of HTTP/2 (RFC 9113, section 3.4).
    Http2,
    /// A PROXY header from somebody who is not trusted to send one: whoever believed it behind us would
    /// believe anybody.
    Proxy,
    /// Something that is passed on unread: TLS, the rest.
    Opaque,
    /// Could still become a request line, or a preface.
    Undecided,
}

/// Methods that start an HTTP/1 request: RFC 9110, RFC 5789 (PATCH) and RFC 4918 (WebDAV). A fixed
/// list, for a made-up method is more likely another line-based protocol.
const METHODS: [&[u8]; 17] = [
    b"GET",
    b"POST",
    b"PUT",
    b"HEAD",
    b"DELETE",
    b"OPTIONS",
    b"PATCH",
    b"CONNECT",
    b"TRACE",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"LOCK",
    b"UNLOCK",
    b"REPORT",
];

/// Are these the first bytes of a server that speaks HTTP/2? Its first frame is SETTINGS, and some servers send that before
/// they have heard of their client (RFC 9113, section 3.4).
pub fn opens_http2(bytes: &[u8]) -> bool {
    const SETTINGS: u8 = 4;
    match *bytes {
        [0, high, low, kind, flags, a, b, c, d, ..] => {
            u16::from_be_bytes([high, low]) % 6 == 0 && (kind, flags) == (SETTINGS, 0) && [a, b, c, d] == [0; 4]
        }
        _ => false,
    }
}

/// Looks at the first bytes of a client. Empty lines before a request line are tolerated, as RFC
/// 9112, section 2.2, asks of servers.
pub fn detect(bytes: &[u8]) -> Verdict {
    match begins(bytes) {
        Found::Whole(()) => return Verdict::Proxy,
        Found::Partial => return Verdict::Undecided,
        Found::Wrong => {}
    }
    if bytes.starts_with(PREFACE) {
        return Verdict::Http2;
    }
    if PREFACE.starts_with(bytes) {
        return Verdict::Undecided;
    }
    let mut bytes = bytes;
    while let Some(rest) = bytes.strip_prefix(b"\r\n") {
        bytes = rest;
    }
    if bytes.is_empty() || bytes == b"\r" {
        return Verdict::Undecided;
    }
    let Some(space) = memchr(b' ', &bytes[..bytes.len().min(10)]) else {
        return match METHODS.iter().any(|m| m.starts_with(bytes)) {
            true => Verdict::Undecided,
            false => Verdict::Opaque,
        };
    };
    let (method, target) = (&bytes[..space], &bytes[space + 1..]);
    if !METHODS.contains(&method) {
        return Verdict::Opaque;
    }
    if method == b"CONNECT" && !target.is_empty() {
        return Verdict::Http1;
    }
    // Origin form, asterisk form, absolute form (RFC 9112, section 3.2). The space after the asterisk
    // tells `OPTIONS * HTTP/1.1` from a command of another protocol.
    let forms: [&[u8]; 4] = [b"/", b"* ", b"http://", b"https://"];
    if forms.iter().any(|form| target.len() >= form.len() && target[..form.len()].eq_ignore_ascii_case(form)) {
        Verdict::Http1
    } else if forms.iter().any(|form| form.len() > target.len() && form[..target.len()].eq_ignore_ascii_case(target)) {
        Verdict::Undecided
    } else {
        Verdict::Opaque
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_http2_is_known_by_its_settings() {
        let mut settings = alloc::vec::Vec::new();
        crate::http2::frame::put_settings(&mut settings, &[(3, 100), (4, 65_535)]);
        assert!(opens_http2(&settings));
        assert!(opens_http2(b"\0\0\0\x04\0\0\0\0\0"), "with nothing to set");
        assert!(!opens_http2(&settings[..8]));
        assert!(!opens_http2(b"\0\0\0\x04\x01\0\0\0\0"), "an acknowledgement");
        assert!(!opens_http2(b"\0\0\x05\x04\0\0\0\0\0"), "no whole settings");
        assert!(!opens_http2(b"\x4a\0\0\0\x0a8.0.36\0"), "the greeting of MySQL");
        assert!(!opens_http2(b"SSH-2.0-OpenSSH_9.2\r\n"));
    }

    #[test]
    fn request_lines_are_http_and_the_rest_is_opaque() {
        for (bytes, verdict) in [
            (&b"GET / HTTP/1.1\r\n"[..], Verdict::Http1),
            (b"\r\nPOST http://a/ HTTP/1.1", Verdict::Http1),
            (b"OPTIONS * HTTP/1.1", Verdict::Http1),
            (b"CONNECT a:443 HTTP/1.1", Verdict::Http1),
            (b"GE", Verdict::Undecided),
            (b"GET htt", Verdict::Undecided),
            (b"GET ", Verdict::Undecided),
            (b"", Verdict::Undecided),
            (b"GET key\r\n", Verdict::Opaque),
            (b"*1\r\n$4\r\nPING\r\n", Verdict::Opaque),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Verdict::Http2),
            (b"PRI * HTTP/2.0\r\n\r\n", Verdict::Undecided),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Verdict::Opaque),
            (b"\x16\x03\x01\x02\x00", Verdict::Opaque),
            (b"\0", Verdict::Opaque),
            (b"SSH-2.0-x\r\n", Verdict::Opaque),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", Verdict::Proxy),
            (b"PROXY UNKNOWN\r\n", Verdict::Proxy),
            (b"\r\n\r\n\0\r\nQUIT\n!\x11", Verdict::Proxy),
            (b"\r\n\r\n\0\r\nQUIET", Verdict::Opaque),
            (b"PROXY", Verdict::Undecided),
            (b"PROXY me\r\n", Verdict::Opaque),
            (b"get / HTTP/1.1", Verdict::Opaque),
            (b"GETTING / HTTP/1.1", Verdict::Opaque),
        ] {
            assert_eq!(detect(bytes), verdict, "{:?}", core::str::from_utf8(bytes));
        }
    }

    #[test]
    fn more_bytes_never_change_a_decision() {
        for (line, verdict) in [
            (&b"\r\nPROPFIND https://a.example/x HTTP/1.1\r\n"[..], Verdict::Http1),
            (b"PROXY TCP6 ::1 ::1 1 2\r\n", Verdict::Proxy),
            (b"\r\n\r\n\0\r\nQUIT\n!!\0\x24", Verdict::Proxy),
            (b"PROXIES ARE HERE\r\n", Verdict::Opaque),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0", Verdict::Http2),
        ] {
            let mut decided = None;
            for end in 0..=line.len() {
                let verdict = detect(&line[..end]);
                if verdict != Verdict::Undecided {
                    assert_eq!(*decided.get_or_insert(verdict), verdict, "at {end}");
                }
            }
            assert_eq!(decided, Some(verdict));
        }
    }
}
