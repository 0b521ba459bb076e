//! Bodies: how many bytes are still to come, and chunked transfer coding (RFC 9112, section 7.1).

use super::grammar::{self, Room, Stop};
use super::head::{Flaw, Framing, Name, Scan, find_end, put_field};
use crate::http2::hpack::Fields;
use crate::out::Out;
use alloc::vec::Vec;

/// Bytes of extensions that one chunk may have; they mean nothing to anybody and are dropped.
const MAX_EXTENSION: u16 = 256;

/// Trailer fields that one message may have.
const MAX_TRAILERS: usize = 64;

/// What is left of a body that is being received.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body {
    Done,
    Length(u64),
    Chunked(Chunk),
    /// To the end of the connection.
    Close,
}

/// Where in a chunked body we are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Chunk {
    /// In a size line, after so many digits.
    Size { size: u64, digits: u8 },
    /// In an extension, after so many bytes.
    Extension { size: u64, seen: u16 },
    /// Before the LF of a size line.
    SizeLf { size: u64 },
    /// In data, with so many bytes to come.
    Data { left: u64 },
    /// Before the CR behind data.
    DataCr,
    /// Before the LF behind data.
    DataLf,
    /// In the trailer section.
    Trailers(Scan),
}

/// How a body is sent on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Encode {
    /// As it is: its length was announced, or the connection ends with it.
    Plain,
    /// In chunks of ours.
    Chunked,
    /// As it is, one piece at a time; whoever takes them reads the trailers too.
    Pieces,
}

impl Body {
    pub(super) fn new(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Done,
            Framing::Length(n) => Self::Length(n),
            Framing::Chunked => Self::Chunked(Chunk::Size { size: 0, digits: 0 }),
            Framing::Close => Self::Close,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// How many of the next bytes are content that is sent on as it is.
    pub(super) fn passes(&self, encode: Encode) -> u64 {
        match (self, encode) {
            (_, Encode::Chunked) | (Self::Done, _) => 0,
            (Self::Length(left) | Self::Chunked(Chunk::Data { left }), _) => *left,
            (Self::Chunked(_), _) => 0,
            (Self::Close, _) => u64::MAX,
        }
    }

    /// So many of them have been sent on.
    pub(super) fn pass(&mut self, n: u64) {
        match self {
            Self::Length(left) => {
                *left = left.saturating_sub(n);
                if *left == 0 {
                    *self = Self::Done;
                }
            }
            Self::Chunked(chunk) => {
                if let Chunk::Data { left } = *chunk {
                    *chunk = if n >= left { Chunk::DataCr } else { Chunk::Data { left: left - n } };
                }
            }
            Self::Done | Self::Close => {}
        }
    }

    /// Passes on what `input` has of the body; returns how much was used. How much of it was content is added to
    /// `content`, also if what follows that is no body.
    pub(super) fn relay<'i>(
        &mut self,
        input: &'i [u8],
        encode: Encode,
        out: &mut Out<'_, 'i>,
        trailer_limit: usize,
        content: &mut u64,
    ) -> Result<usize, Flaw> {
        let take = match self {
            Self::Done => 0,
            Self::Close => input.len(),
            Self::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX).min(input.len()),
            Self::Chunked(_) => return self.relay_chunked(input, encode, out, trailer_limit, content),
        };
        put_data(&input[..take], encode, out);
        self.pass(take as u64);
        *content += take as u64;
        Ok(take)
    }

    fn relay_chunked<'i>(
        &mut self,
        input: &'i [u8],
        encode: Encode,
        out: &mut Out<'_, 'i>,
        trailer_limit: usize,
        content: &mut u64,
    ) -> Result<usize, Flaw> {
        let mut at = 0;
        while let (Self::Chunked(chunk), Some(&byte)) = (&mut *self, input.get(at)) {
            match *chunk {
                Chunk::Size { size, digits } => {
                    at += 1;
                    *chunk = match (byte, digits) {
                        (b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F', 0..16) => {
                            let digit = (byte as char).to_digit(16).ok_or(Flaw::Chunk)?;
                            Chunk::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
                        }
                        (b'\r', 1..) => Chunk::SizeLf { size },
                        (b';', 1..) => Chunk::Extension { size, seen: 0 },
                        _ => return Err(Flaw::Chunk),
                    };
                }
                Chunk::Extension { size, seen } => {
                    at += 1;
                    *chunk = match byte {
                        b'\r' => Chunk::SizeLf { size },
                        b'\t' | 0x20..=0x7E | 0x80.. if seen < MAX_EXTENSION => {
                            Chunk::Extension { size, seen: seen + 1 }
                        }
                        _ => return Err(Flaw::ChunkExtension),
                    };
                }
                Chunk::SizeLf { size } => {
                    at += 1;
                    *chunk = match (byte, size) {
                        (b'\n', 0) => Chunk::Trailers(Scan::default()),
                        (b'\n', left) => Chunk::Data { left },
                        _ => return Err(Flaw::Chunk),
                    };
                }
                Chunk::Data { left } => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                    put_data(&input[at..at + take], encode, out);
                    at += take;
                    *content += take as u64;
                    *chunk = if take as u64 == left { Chunk::DataCr } else { Chunk::Data { left: left - take as u64 } };
                    if encode == Encode::Pieces {
                        break;
                    }
                }
                Chunk::DataCr => {
                    at += 1;
                    if byte != b'\r' {
                        return Err(Flaw::Chunk);
                    }
                    *chunk = Chunk::DataLf;
                }
                Chunk::DataLf => {
                    at += 1;
                    if byte != b'\n' {
                        return Err(Flaw::Chunk);
                    }
                    *chunk = Chunk::Size { size: 0, digits: 0 };
                }
                Chunk::Trailers(_) if encode == Encode::Pieces => break,
                Chunk::Trailers(ref mut scan) => {
                    let Some(end) = find_end(&input[at..], scan, trailer_limit)? else { break };
                    if encode == Encode::Chunked {
                        put_end(&input[at..at + end], out.spill())?;
                    } else {
                        check_trailers(&input[at..at + end])?;
                    }
                    at += end;
                    *self = Self::Done;
                }
            }
        }
        Ok(at)
    }
}

/// Content, in the framing of the other side.
fn put_data<'i>(data: &'i [u8], encode: Encode, out: &mut Out<'_, 'i>) {
    if data.is_empty() {
        return;
    }
    match encode {
        Encode::Plain | Encode::Pieces => out.payload(data),
        Encode::Chunked => put_chunk(data, out.spill()),
    }
}

/// A chunk; none for nothing, which would be the last one.
pub(super) fn put_chunk(data: &[u8], buf: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    buf.reserve(data.len() + 20);
    put_hex(buf, data.len() as u64);
    buf.extend_from_slice(b"\r\n");
    buf.extend_from_slice(data);
    buf.extend_from_slice(b"\r\n");
}

/// The last chunk, and the trailers that may be passed on.
fn put_end(section: &[u8], out: &mut Vec<u8>) -> Result<(), Flaw> {
    let begin = out.len();
    out.extend_from_slice(b"0\r\n");
    if let Err(flaw) = for_each_trailer(section, |name, value| put_field(out, name, value)) {
        // A lenient reader could take the last chunk alone for the end.
        out.truncate(begin);
        return Err(flaw);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// The last chunk, and those of these trailers that may be passed on.
pub(super) fn put_last_chunk(trailers: Option<&Fields>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    let fields = trailers.into_iter().flat_map(Fields::iter);
    for field in fields.filter(|field| is_trailer(field.name(), Name::of(field.name()))) {
        put_field(out, field.name(), field.value());
    }
    out.extend_from_slice(b"\r\n");
}

fn check_trailers(section: &[u8]) -> Result<(), Flaw> {
    for_each_trailer(section, |_, _| {})
}

/// Calls `each` for every trailer that may be one: not those that frame, route or authenticate a
/// message (RFC 9110, section 6.5.1), which must be known before its body.
pub(super) fn for_each_trailer(section: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<(), Flaw> {
    if section == b"\r\n" {
        return Ok(());
    }
    let mut room = Room::new();
    match grammar::fields(section, 0, MAX_TRAILERS, &mut room) {
        Ok(end) if end == section.len() => {}
        Err(Stop::Flaw(flaw)) => return Err(flaw),
        // The section is complete, so anything but a complete one is an error.
        Ok(_) | Err(Stop::Incomplete) => return Err(Flaw::Field),
    }
    for field in room.fields() {
        if is_trailer(field.name, field.kind) {
            each(field.name, field.value);
        }
    }
    Ok(())
}

/// May a field of this name stand behind a body?
fn is_trailer(name: &[u8], kind: Name) -> bool {
    kind == Name::Other
        && ["authorization", "set-cookie", "content-encoding", "content-type", "content-range", "cache-control"]
            .iter()
            .all(|forbidden| !name.eq_ignore_ascii_case(forbidden.as_bytes()))
}

/// A number in hexadecimal digits.
fn put_hex(out: &mut Vec<u8>, n: u64) {
    let digits = (64 - n.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(n >> (4 * digit)) as usize & 15]);
    }
}

/// Does a field value, a comma-separated list, have this token?
pub(super) fn has_token(value: &[u8], token: &[u8]) -> bool {
    value.split(|&b| b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(input: &[u8], encode: Encode, step: usize) -> Result<(Vec<u8>, usize, bool), Flaw> {
        let mut body = Body::new(Framing::Chunked);
        let (mut bytes, mut used, mut end) = (Vec::new(), 0, 0);
        while end < input.len() && !body.is_done() {
            end = (end + step).min(input.len());
            let mut out = Out::new(&mut bytes);
            used += body.relay(&input[used..end], encode, &mut out, 1000, &mut 0)?;
            out.spill();
        }
        Ok((bytes, used, body.is_done()))
    }

    #[test]
    fn chunks_arrive_whole_whatever_the_pieces() {
        let input = b"4;x=y\r\nwiki\r\n5\r\npedia\r\n0\r\nExpires: now\r\nHost: evil\r\n\r\nNEXT";
        for step in 1..=input.len() {
            let (bytes, used, done) = relay(input, Encode::Plain, step).unwrap();
            assert_eq!((&bytes[..], used, done), (&b"wikipedia"[..], input.len() - 4, true), "step {step}");
        }
        let (bytes, ..) = relay(input, Encode::Chunked, input.len()).unwrap();
        assert_eq!(bytes, b"4\r\nwiki\r\n5\r\npedia\r\n0\r\nExpires: now\r\n\r\n");
    }

    #[test]
    fn anything_ambiguous_is_refused() {
        for input in [
            &b"\r\n"[..],
            b"0x5\r\nhello\r\n",
            b"+5\r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"5 \r\nhello\r\n",
            b"5\nhello\r\n",
            b"5\r\nhello0\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"11111111111111111\r\n",
            b"-1\r\n",
            b"5;a\x00b\r\nhello\r\n",
            b"5;a\nb\r\nhello\r\n",
            b"0\r\nbad trailer\r\n\r\n",
            b"0\r\na: b\nc: d\r\n\r\n",
            b"0\r\n folded: x\r\n\r\n",
            b";\r\n",
        ] {
            assert!(relay(input, Encode::Plain, input.len()).is_err(), "{:?}", core::str::from_utf8(input));
        }
        let long = [b"5;".to_vec(), alloc::vec![b'a'; 257], b"\r\nhello\r\n0\r\n\r\n".to_vec()].concat();
        assert_eq!(relay(&long, Encode::Plain, 64).map(|_| ()), Err(Flaw::ChunkExtension));
    }

    #[test]
    fn a_declared_size_allocates_nothing() {
        let (bytes, _, done) = relay(b"ffffffffffffffff\r\nabc", Encode::Plain, 7).unwrap();
        assert_eq!((&bytes[..], done), (&b"abc"[..], false));
    }

    #[test]
    fn hexadecimal() {
        for (n, text) in [(0u64, "0"), (9, "9"), (16, "10"), (65_535, "ffff"), (u64::MAX, "ffffffffffffffff")] {
            let mut out = Vec::new();
            put_hex(&mut out, n);
            assert_eq!(out, text.as_bytes());
        }
    }
}
