//! What stands before the protocol on some connections: the PROXY header, and a TLS ClientHello of which
//! only the name is wanted.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, CRLF included (proxy-protocol.txt, section 2.1).
const V1_MAX: usize = 107;
/// The longest header of version 2 that is read: addresses, and TLVs that nobody here looks at.
const V2_MAX: usize = 4096;
/// What a header of version 2 begins with (section 2.2).
const V2_MAGIC: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest ClientHello that is looked into: its length is 24 bits, what clients send is under 4 KiB.
pub const HELLO_MAX: usize = 16 * 1024;

/// How much of what was looked for is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found<T> {
    /// It ends in bytes that have not arrived yet.
    Partial,
    /// It is there.
    Whole(T),
    /// It is something else.
    Wrong,
}

/// A PROXY header (HAProxy's proxy-protocol.txt, versions 1 and 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProxyHeader {
    /// Bytes that it takes.
    pub length: usize,
    /// The client and the address it connected to; `None`: a connection of the proxy's own (`LOCAL`,
    /// `UNKNOWN`), or one without IP addresses.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
}

/// Do these bytes begin a PROXY header, well formed or not?
pub(crate) fn begins(input: &[u8]) -> Found<()> {
    let marks: [&[u8]; 3] = [V2_MAGIC, b"PROXY TCP", b"PROXY UNKNOWN"];
    if marks.iter().any(|mark| input.starts_with(mark)) {
        Found::Whole(())
    } else if !input.is_empty() && marks.iter().any(|mark| mark.starts_with(input)) {
        Found::Partial
    } else {
        Found::Wrong
    }
}

/// Reads a PROXY header at the beginning of `input`.
pub fn proxy_header(input: &[u8]) -> Found<ProxyHeader> {
    let magic = input.len().min(V2_MAGIC.len());
    if input[..magic] == V2_MAGIC[..magic] && !input.is_empty() {
        return if magic < V2_MAGIC.len() { Found::Partial } else { version_2(input) };
    }
    let begin = b"PROXY ";
    let seen = input.len().min(begin.len());
    if input[..seen] != begin[..seen] {
        return Found::Wrong;
    }
    match input.iter().take(V1_MAX).position(|&b| b == b'\n') {
        Some(end) if end > 0 && input[end - 1] == b'\r' => match version_1(&input[..end - 1]) {
            Some(addresses) => Found::Whole(ProxyHeader { length: end + 1, addresses }),
            None => Found::Wrong,
        },
        Some(_) => Found::Wrong,
        None if input.len() < V1_MAX => Found::Partial,
        None => Found::Wrong,
    }
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443`, without CRLF.
fn version_1(line: &[u8]) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let line = core::str::from_utf8(line).ok()?;
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (from, to): (IpAddr, IpAddr) = match family {
        "TCP4" => (words.next()?.parse::<Ipv4Addr>().ok()?.into(), words.next()?.parse::<Ipv4Addr>().ok()?.into()),
        "TCP6" => (words.next()?.parse::<Ipv6Addr>().ok()?.into(), words.next()?.parse::<Ipv6Addr>().ok()?.into()),
        _ => return None,
    };
    let port = |word: Option<&str>| {
        let word = word?;
        let digits = word.bytes().all(|b| b.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
        word.parse::<u16>().ok().filter(|_| digits)
    };
    let ports = (port(words.next())?, port(words.next())?);
    words.next().is_none().then_some(Some((SocketAddr::new(from, ports.0), SocketAddr::new(to, ports.1))))
}

/// Magic, version and command, family, length, addresses, TLVs.
fn version_2(input: &[u8]) -> Found<ProxyHeader> {
    let Some(&[command, family, high, low]) = input.get(12..16).and_then(|b| b.first_chunk::<4>()) else {
        return Found::Partial;
    };
    let length = 16 + usize::from(u16::from_be_bytes([high, low]));
    if command >> 4 != 2 || command & 0xF > 1 || length > V2_MAX {
        return Found::Wrong;
    }
    let Some(body) = input.get(16..length) else { return Found::Partial };
    let port = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
    let v4 = |at: usize| Some(Ipv4Addr::from(*body.get(at..)?.first_chunk::<4>()?).into());
    let v6 = |at: usize| Some(Ipv6Addr::from(*body.get(at..)?.first_chunk::<16>()?).into());
    let pair = |from: Option<IpAddr>, to: Option<IpAddr>, ports: (Option<u16>, Option<u16>)| {
        Some((SocketAddr::new(from?, ports.0?), SocketAddr::new(to?, ports.1?)))
    };
    let addresses = match (command & 0xF, family) {
        (0, _) => None,
        (1, 0x11) => match pair(v4(0), v4(4), (port(8), port(10))) {
            None => return Found::Wrong,
            addresses => addresses,
        },
        (1, 0x21) => match pair(v6(0), v6(16), (port(32), port(34))) {
            None => return Found::Wrong,
            addresses => addresses,
        },
        // Datagrams, Unix sockets, unspecified: not for us to understand.
        _ => None,
    };
    Found::Whole(ProxyHeader { length, addresses })
}

/// Which version of the PROXY header is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Writes a PROXY header; without an address (Unix sockets) it says that there is none.
pub fn put_proxy_header(out: &mut Vec<u8>, version: ProxyVersion, addresses: Option<(SocketAddr, SocketAddr)>) {
    // Both must be of one family.
    let addresses = addresses.map(|(from, to)| match (from.ip(), to.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (IpAddr::V4(a), IpAddr::V4(b), from.port(), to.port()),
        (a, b) => {
            let v6 = |ip| match ip {
                IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
                ip => ip,
            };
            (v6(a), v6(b), from.port(), to.port())
        }
    });
    match (version, addresses) {
        (ProxyVersion::V1, None) => out.extend_from_slice(b"PROXY UNKNOWN\r\n"),
        (ProxyVersion::V1, Some((from, to, port, to_port))) => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let line = alloc::format!("PROXY {family} {from} {to} {port} {to_port}\r\n");
            out.extend_from_slice(line.as_bytes());
        }
        (ProxyVersion::V2, addresses) => {
            out.extend_from_slice(V2_MAGIC);
            let Some((from, to, port, to_port)) = addresses else {
                return out.extend_from_slice(&[0x20, 0, 0, 0]);
            };
            out.extend_from_slice(if from.is_ipv4() { &[0x21, 0x11, 0, 12] } else { &[0x21, 0x21, 0, 36] });
            for ip in [from, to] {
                match ip {
                    IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
                }
            }
            out.extend_from_slice(&port.to_be_bytes());
            out.extend_from_slice(&to_port.to_be_bytes());
        }
    }
}

/// What is looked at in a ClientHello.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientHello<'a> {
    /// The name that is asked for (SNI).
    pub name: Option<&'a str>,
    /// The protocols that are offered (ALPN), each after its length; empty: nothing is said of that.
    pub alpn: &'a [u8],
}

impl ClientHello<'_> {
    /// Is this protocol among those that are offered?
    pub fn offers(&self, protocol: &[u8]) -> bool {
        let mut rest = self.alpn;
        while let Some((offer, after)) = vector(rest, 1) {
            if offer == protocol {
                return true;
            }
            rest = after;
        }
        false
    }
}

/// Reads a ClientHello (RFC 8446, section 4.1.2) at the beginning of `input`. It may be in several records
/// (section 5.1); `room` is where it is put together then.
pub fn client_hello<'a>(input: &'a [u8], room: &'a mut Vec<u8>) -> Found<ClientHello<'a>> {
    room.clear();
    let mut rest = input;
    while rest.len() >= 5 {
        let &[kind, major, _, high, low, ref record @ ..] = rest else { break };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let declared = |message: &[u8]| match *message {
            [1, a, b, c, ..] => Some(usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)),
            _ => None,
        };
        if kind != 22 || major != 3 || length == 0 || length > HELLO_MAX {
            return Found::Wrong;
        }
        let whole = record.get(..length);
        let piece = whole.unwrap_or(record);
        if room.is_empty() && piece.first().is_some_and(|&kind| kind != 1) {
            return Found::Wrong;
        }
        // The usual case is one record: no copy.
        if room.is_empty()
            && let Some(message) = declared(piece)
            && let Some(body) = piece.get(4..4 + message)
        {
            return hello_in(body).map_or(Found::Wrong, Found::Whole);
        }
        room.extend_from_slice(piece);
        match declared(room) {
            Some(message) if message > HELLO_MAX => return Found::Wrong,
            Some(message) if room.len() >= 4 + message => {
                return hello_in(&room[4..4 + message]).map_or(Found::Wrong, Found::Whole);
            }
            _ => {}
        }
        if whole.is_none() {
            return Found::Partial;
        }
        rest = &record[length..];
    }
    match rest {
        [] | [22] | [22, 3, ..] => Found::Partial,
        _ => Found::Wrong,
    }
}

/// Walks a ClientHello's body; `None`: it is not one.
fn hello_in(body: &[u8]) -> Option<ClientHello<'_>> {
    let mut hello = ClientHello::default();
    // Version and random; then session, cipher suites, compression methods.
    let rest = body.get(34..)?;
    let rest = skip(skip(skip(rest, 1)?, 2)?, 1)?;
    if rest.is_empty() {
        return Some(hello);
    }
    let (mut extensions, _) = vector(rest, 2)?;
    while !extensions.is_empty() {
        let kind = u16::from_be_bytes(*extensions.first_chunk()?);
        let (data, after) = vector(&extensions[2..], 2)?;
        match kind {
            // RFC 6066, section 3: one name of type host_name is all that there ever is.
            0 if hello.name.is_none() => {
                let (list, _) = vector(data, 2)?;
                let (&kind, name) = list.split_first()?;
                let (name, _) = vector(name, 2)?;
                let valid = kind == 0 && !name.is_empty() && name.len() <= 255;
                let valid = valid && name.iter().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(b));
                hello.name = Some(core::str::from_utf8(name).ok().filter(|_| valid)?);
            }
            // Twice, two readers could see two.
            0 => return None,
            // RFC 7301, section 3.1.
            16 => hello.alpn = vector(data, 2)?.0,
            _ => {}
        }
        extensions = after;
    }
    Some(hello)
}

/// A vector with a length of `size` bytes before it, and what follows it.
fn vector(input: &[u8], size: usize) -> Option<(&[u8], &[u8])> {
    let length = input.get(..size)?.iter().fold(0, |n, &b| n << 8 | usize::from(b));
    input[size..].split_at_checked(length)
}

fn skip(input: &[u8], size: usize) -> Option<&[u8]> {
    vector(input, size).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn headers_of_both_versions_are_read_as_they_are_written() {
        let pairs = [
            None,
            Some((addr("192.0.2.1:56324"), addr("192.0.2.2:443"))),
            Some((addr("[2001:db8::1]:1"), addr("[2001:db8::2]:65535"))),
        ];
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            for addresses in pairs {
                let mut header = Vec::new();
                put_proxy_header(&mut header, version, addresses);
                for n in 1..header.len() {
                    assert_eq!(proxy_header(&header[..n]), Found::Partial, "{n} of {header:?}");
                }
                let length = header.len();
                header.extend_from_slice(b"GET /");
                assert_eq!(proxy_header(&header), Found::Whole(ProxyHeader { length, addresses }));
            }
        }
    }

    #[test]
    fn what_is_no_header_is_wrong() {
        for text in [
            "GET / HTTP/1.1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        ] {
            assert_eq!(proxy_header(text.as_bytes()), Found::Wrong, "{text}");
        }
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat();
        assert_eq!(proxy_header(&long), Found::Wrong);
        let magic = V2_MAGIC.as_slice();
        for tail in
            [&[0x11, 0x11, 0, 12][..], &[0x22, 0x11, 0, 12], &[0x21, 0x11, 0xFF, 0xFF], &[0x21, 0x11, 0, 4, 1, 2, 3, 4]]
        {
            assert_eq!(proxy_header(&[magic, tail].concat()), Found::Wrong, "{tail:?}");
        }
        // Known to be a connection, of a kind without IP addresses; and the proxy's own health check.
        for tail in [&[0x21, 0x31, 0, 2, 9, 9][..], &[0x20, 0, 0, 2, 9, 9]] {
            let header = [magic, tail].concat();
            assert_eq!(proxy_header(&header), Found::Whole(ProxyHeader { length: 18, addresses: None }));
        }
    }

    /// A ClientHello with these extensions.
    fn hello(extensions: &[u8]) -> Vec<u8> {
        let mut body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
        body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
        body.extend_from_slice(extensions);
        let mut message = alloc::vec![1, 0];
        message.extend_from_slice(&(body.len() as u16).to_be_bytes());
        message.extend_from_slice(&body);
        message
    }

    fn record(message: &[u8]) -> Vec<u8> {
        [&[22, 3, 1][..], &(message.len() as u16).to_be_bytes(), message].concat()
    }

    fn sni(name: &[u8]) -> Vec<u8> {
        let n = name.len() as u8;
        [&[0, 43, 0, 1, 9][..], &[0, 0, 0, n + 5, 0, n + 3, 0, 0, n], name].concat()
    }

    #[test]
    fn the_name_of_a_client_hello_is_found() {
        let read = |input: &[u8]| {
            let mut room = Vec::new();
            match client_hello(input, &mut room) {
                Found::Whole(hello) => Found::Whole(hello.name.map(alloc::string::String::from)),
                Found::Partial => Found::Partial,
                Found::Wrong => Found::Wrong,
            }
        };
        let found = || Found::Whole(Some("a.example".into()));
        let whole = record(&hello(&sni(b"a.example")));
        assert_eq!(read(&whole), found());
        for n in 0..whole.len() {
            assert_eq!(read(&whole[..n]), Found::Partial, "{n}");
        }
        let message = hello(&sni(b"a.example"));
        for cut in 1..message.len() {
            let two = [record(&message[..cut]), record(&message[cut..])].concat();
            assert_eq!(read(&two), found(), "{cut}");
            for n in 0..two.len() {
                assert_eq!(read(&two[..n]), Found::Partial, "{cut}: {n}");
            }
        }
        assert_eq!(read(&record(&hello(&[0, 43, 0, 1, 9]))), Found::Whole(None));
        for wrong in [
            &b"GET / HTTP/1.1"[..],
            &[22, 2, 1, 0, 1],
            &[22, 3, 1, 0, 0],
            &[23, 3, 3, 0, 1],
            b"\x16\x03\x01\x00\x04\x02\0\0\0",
        ] {
            assert_eq!(read(wrong), Found::Wrong, "{wrong:?}");
        }
        assert_eq!(read(&record(&hello(&sni(b"a b")))), Found::Wrong);
        assert_eq!(read(&record(&hello(&[0, 0, 0, 9, 1]))), Found::Wrong);
        assert_eq!(read(&record(&hello(&[sni(b"a"), sni(b"b")].concat()))), Found::Wrong);
    }

    #[test]
    fn offered_protocols_are_found() {
        let alpn = [&[0, 16, 0, 14, 0, 12][..], b"\x02h2\x08http/1.1"].concat();
        let (input, mut room) = (record(&hello(&alpn)), Vec::new());
        let Found::Whole(hello) = client_hello(&input, &mut room) else { panic!("a ClientHello") };
        assert!(hello.offers(b"h2") && hello.offers(b"http/1.1") && !hello.offers(b"http"));
        assert!(!ClientHello { alpn: b"\x09h2", ..hello }.offers(b"h2"));
    }
}
