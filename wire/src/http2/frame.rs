//! Frames (RFC 9113, sections 4 and 6): read without copying, written into the buffer of the connection.
//!
//! ```text
//! +-----------------------------------------------+
//! |                 Length (24)                   |
//! +---------------+---------------+---------------+
//! |   Type (8)    |   Flags (8)   |
//! +-+-------------+---------------+-------------------------------+
//! |R|                 Stream Identifier (31)                      |
//! +=+=============================================================+
//! |                   Frame Payload (0...)                      ...
//! +---------------------------------------------------------------+
//! ```
//!
//! Everything that can be said about a frame without knowing its stream is checked here.

use super::error::{Code, Error};
use alloc::vec::Vec;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 9;
/// The payload that everybody takes (section 4.2), and all that we take.
pub const DEFAULT_PAYLOAD_BYTES: usize = 16_384;
/// The largest payload that anybody may take.
pub const MAX_PAYLOAD_BYTES: usize = (1 << 24) - 1;
/// The highest stream identifier.
pub const MAX_STREAM: u32 = (1 << 31) - 1;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const PRIORITY: u8 = 0x2;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PUSH_PROMISE: u8 = 0x5;
const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;

const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITISED: u8 = 0x20;

/// A whole frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame<'i> {
    /// Section 6.1.
    Data {
        /// Of this stream.
        stream: u32,
        /// Without padding.
        data: &'i [u8],
        /// What counts towards windows beyond `data`.
        padding: u32,
        /// The sender's last.
        end: bool,
    },
    /// Section 6.2. What it says of priority is not looked at.
    Headers {
        /// Of this stream.
        stream: u32,
        /// Of a block.
        fragment: &'i [u8],
        /// The sender's last, but for what may continue the block.
        end: bool,
        /// The block is complete.
        whole: bool,
    },
    /// Section 6.3. What it says is not looked at (section 5.3.2).
    Priority,
    /// Section 6.4.
    Reset {
        /// This stream.
        stream: u32,
        /// Why.
        code: Code,
    },
    /// Section 6.5.
    Settings(Parameters<'i>),
    /// Section 6.5.3.
    SettingsAck,
    /// Section 6.6. We never ask for one.
    PushPromise,
    /// Section 6.7.
    Ping {
        /// Anything.
        data: [u8; 8],
        /// It answers one.
        ack: bool,
    },
    /// Section 6.8.
    Goaway {
        /// The last stream that was, or will be, looked at.
        last: u32,
        /// Why.
        code: Code,
    },
    /// Section 6.9.
    WindowUpdate {
        /// This stream, or zero for the connection.
        stream: u32,
        /// By so much; never zero.
        increment: u32,
    },
    /// Section 6.10.
    Continuation {
        /// Of this stream.
        stream: u32,
        /// Of the block.
        fragment: &'i [u8],
        /// The block is complete.
        whole: bool,
    },
    /// Of a type that is not known here (section 5.5).
    Unknown,
}

/// The parameters of a SETTINGS frame, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parameters<'i>(&'i [[u8; 6]]);

impl Parameters<'_> {
    /// Identifier and value of each.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u16, u32)> {
        self.0.iter().map(|&[a, b, c, d, e, f]| (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f])))
    }
}

/// What stands before a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// A frame, and where it ends.
pub type Parsed<'i> = (Result<Frame<'i>, Error>, usize);

/// Reads the first frame. `Ok(None)`: not all of it is there. A frame that breaks a rule has an end all the same, if
/// only its stream is lost.
///
/// # Errors
///
/// It is longer than `max` bytes.
#[inline]
pub fn parse(input: &[u8], max: usize) -> Result<Option<Parsed<'_>>, Error> {
    let Some((&[a, b, c, kind, flags, d, e, f, g], rest)) = input.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    let stream = u32::from_be_bytes([d, e, f, g]) & MAX_STREAM;
    if length > max {
        // Section 4.2 lets a frame that changes no state of the connection cost its stream only. Who sends one
        // of these knows nothing of our limits, though, and would make us read it first.
        return Err(Error::connection(Code::FRAME_SIZE_ERROR));
    }
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    Ok(Some((Header { length, kind, flags, stream }.frame(payload), HEADER_BYTES + length)))
}

impl Header {
    #[inline]
    fn frame<'i>(&self, payload: &'i [u8]) -> Result<Frame<'i>, Error> {
        let Self { stream, .. } = *self;
        let frame = match self.kind {
            DATA => {
                self.on_a_stream()?;
                let data = self.unpadded(payload)?;
                let padding = (payload.len() - data.len()) as u32;
                Frame::Data { stream, data, padding, end: self.has(END_STREAM) }
            }
            HEADERS => {
                self.on_a_stream()?;
                let mut fragment = self.unpadded(payload)?;
                if self.has(PRIORITISED) {
                    let (&[a, b, c, d, _], rest) =
                        fragment.split_first_chunk().ok_or(Error::connection(Code::FRAME_SIZE_ERROR))?;
                    self.not_on_itself([a, b, c, d])?;
                    fragment = rest;
                }
                Frame::Headers { stream, fragment, end: self.has(END_STREAM), whole: self.has(END_HEADERS) }
            }
            PRIORITY => {
                self.on_a_stream()?;
                let [a, b, c, d, _] = exactly(payload)?;
                self.not_on_itself([a, b, c, d])?;
                Frame::Priority
            }
            RST_STREAM => {
                self.on_a_stream()?;
                Frame::Reset { stream, code: Code(u32::from_be_bytes(exactly(payload)?)) }
            }
            SETTINGS => {
                self.on_the_connection()?;
                match (payload.as_chunks::<6>(), self.has(ACK)) {
                    ((&[], &[]), true) => Frame::SettingsAck,
                    ((parameters, &[]), false) => Frame::Settings(Parameters(parameters)),
                    _ => return Err(Error::connection(Code::FRAME_SIZE_ERROR)),
                }
            }
            PUSH_PROMISE => {
                self.on_a_stream()?;
                Frame::PushPromise
            }
            PING => {
                self.on_the_connection()?;
                Frame::Ping { data: exactly(payload)?, ack: self.has(ACK) }
            }
            GOAWAY => {
                self.on_the_connection()?;
                let (&[a, b, c, d, e, f, g, h], _) =
                    payload.split_first_chunk().ok_or(Error::connection(Code::FRAME_SIZE_ERROR))?;
                let last = u32::from_be_bytes([a, b, c, d]) & MAX_STREAM;
                Frame::Goaway { last, code: Code(u32::from_be_bytes([e, f, g, h])) }
            }
            WINDOW_UPDATE => {
                let increment = u32::from_be_bytes(exactly(payload)?) & MAX_STREAM;
                match (increment, stream) {
                    (0, 0) => return Err(Error::connection(Code::PROTOCOL_ERROR)),
                    (0, _) => return Err(Error::stream(stream, Code::PROTOCOL_ERROR)),
                    _ => Frame::WindowUpdate { stream, increment },
                }
            }
            CONTINUATION => {
                self.on_a_stream()?;
                Frame::Continuation { stream, fragment: payload, whole: self.has(END_HEADERS) }
            }
            _ => Frame::Unknown,
        };
        Ok(frame)
    }

    #[inline]
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    #[inline]
    fn on_a_stream(&self) -> Result<(), Error> {
        if self.stream == 0 { Err(Error::connection(Code::PROTOCOL_ERROR)) } else { Ok(()) }
    }

    fn on_the_connection(&self) -> Result<(), Error> {
        if self.stream != 0 { Err(Error::connection(Code::PROTOCOL_ERROR)) } else { Ok(()) }
    }

    /// Streams that depend on themselves have been forbidden from the start (RFC 7540, section 5.3.1). Priorities mean
    /// nothing any more, but this cannot be a mistake of somebody who means well. (That it costs the connection:
    /// the block behind it would have to be decoded for nothing, and PRIORITY may be about a stream that is idle.)
    fn not_on_itself(&self, dependency: [u8; 4]) -> Result<(), Error> {
        if u32::from_be_bytes(dependency) & MAX_STREAM == self.stream {
            return Err(Error::connection(Code::PROTOCOL_ERROR));
        }
        Ok(())
    }

    /// Padding is as long as the payload at most (section 6.1).
    #[inline]
    fn unpadded<'i>(&self, payload: &'i [u8]) -> Result<&'i [u8], Error> {
        if !self.has(PADDED) {
            return Ok(payload);
        }
        let (&padding, rest) = payload.split_first().ok_or(Error::connection(Code::FRAME_SIZE_ERROR))?;
        let length = rest.len().checked_sub(padding.into()).ok_or(Error::connection(Code::PROTOCOL_ERROR))?;
        Ok(&rest[..length])
    }
}

fn exactly<const N: usize>(payload: &[u8]) -> Result<[u8; N], Error> {
    payload.try_into().map_err(|_| Error::connection(Code::FRAME_SIZE_ERROR))
}

/// Where a client's connection begins (section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[inline]
fn header(length: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEADER_BYTES] {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    [a, b, c, kind, flags, d, e, f, g]
}

#[inline]
fn put_header(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    out.extend_from_slice(&header(length, kind, flags, stream));
}

/// Appends the header of a DATA frame; its payload follows.
#[inline]
pub fn put_data(out: &mut Vec<u8>, stream: u32, length: usize, end: bool) {
    put_header(out, length, DATA, if end { END_STREAM } else { 0 }, stream);
}

/// Makes HEADERS, and CONTINUATION where one frame does not hold it, of a block that was appended at `start`, behind
/// [`HEADER_BYTES`] that were left free for this.
pub fn finish_headers(out: &mut Vec<u8>, start: usize, stream: u32, end: bool, max: usize) {
    let block = out.len() - start - HEADER_BYTES;
    let end = if end { END_STREAM } else { 0 };
    let whole = |last: bool| if last { END_HEADERS } else { 0 };
    let header = header(block.min(max), HEADERS, end | whole(block <= max), stream);
    out[start..start + HEADER_BYTES].copy_from_slice(&header);
    if block > max {
        let rest = out.split_off(start + HEADER_BYTES + max);
        let mut pieces = rest.chunks(max).peekable();
        while let Some(piece) = pieces.next() {
            put_header(out, piece.len(), CONTINUATION, whole(pieces.peek().is_none()), stream);
            out.extend_from_slice(piece);
        }
    }
}

/// Appends RST_STREAM.
pub fn put_reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    put_header(out, 4, RST_STREAM, 0, stream);
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Appends SETTINGS.
pub fn put_settings(out: &mut Vec<u8>, parameters: &[(u16, u32)]) {
    put_header(out, 6 * parameters.len(), SETTINGS, 0, 0);
    for (identifier, value) in parameters {
        out.extend_from_slice(&identifier.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends the acknowledgement of a SETTINGS frame.
pub fn put_settings_ack(out: &mut Vec<u8>) {
    put_header(out, 0, SETTINGS, ACK, 0);
}

/// Appends PING, or the answer to one.
pub fn put_ping(out: &mut Vec<u8>, data: [u8; 8], ack: bool) {
    put_header(out, 8, PING, if ack { ACK } else { 0 }, 0);
    out.extend_from_slice(&data);
}

/// Appends GOAWAY.
pub fn put_goaway(out: &mut Vec<u8>, last: u32, code: Code, debug: &str) {
    put_header(out, 8 + debug.len(), GOAWAY, 0, 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(debug.as_bytes());
}

/// Appends WINDOW_UPDATE.
pub fn put_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    put_header(out, 4, WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&increment.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_header(&mut out, payload.len(), kind, flags, stream);
        out.extend_from_slice(payload);
        out
    }

    fn parsed(bytes: &[u8]) -> Result<Frame<'_>, Error> {
        let (frame, end) = parse(bytes, DEFAULT_PAYLOAD_BYTES)?.expect("a whole frame");
        assert_eq!(end, bytes.len());
        frame
    }

    #[test]
    fn frames_come_back_as_they_were_written() {
        let mut out = Vec::new();
        put_data(&mut out, 3, 2, true);
        out.extend_from_slice(b"hi");
        put_reset(&mut out, 5, Code::CANCEL);
        put_settings(&mut out, &[(4, 65_535), (0x99, u32::MAX)]);
        put_settings_ack(&mut out);
        put_ping(&mut out, *b"12345678", true);
        put_goaway(&mut out, 7, Code::NO_ERROR, "bye");
        put_window_update(&mut out, 0, 100);
        let expected = [
            Frame::Data { stream: 3, data: b"hi", padding: 0, end: true },
            Frame::Reset { stream: 5, code: Code::CANCEL },
            Frame::Settings(Parameters(&[[0, 4, 0, 0, 0xFF, 0xFF], [0, 0x99, 0xFF, 0xFF, 0xFF, 0xFF]])),
            Frame::SettingsAck,
            Frame::Ping { data: *b"12345678", ack: true },
            Frame::Goaway { last: 7, code: Code::NO_ERROR },
            Frame::WindowUpdate { stream: 0, increment: 100 },
        ];
        let mut rest = &out[..];
        for frame in expected {
            let (read, end) = parse(rest, DEFAULT_PAYLOAD_BYTES).unwrap().unwrap();
            assert_eq!(read, Ok(frame));
            // Not a byte less than the whole frame is one.
            assert_eq!(parse(&rest[..end - 1], DEFAULT_PAYLOAD_BYTES), Ok(None));
            rest = &rest[end..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn blocks_are_split_where_a_frame_is_full() {
        for (length, frames) in [(0, 1), (1, 1), (100, 1), (101, 2), (200, 2), (201, 3)] {
            let block: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut out = b"before".to_vec();
            let start = out.len();
            out.extend_from_slice(&[0; HEADER_BYTES]);
            out.extend_from_slice(&block);
            finish_headers(&mut out, start, 9, true, 100);
            let (mut rest, mut assembled, mut count) = (&out[start..], Vec::new(), 0);
            let mut complete = false;
            while let Some((read, end)) = parse(rest, DEFAULT_PAYLOAD_BYTES).unwrap() {
                assert!(!complete);
                match read.unwrap() {
                    Frame::Headers { stream: 9, fragment, end: true, whole } if count == 0 => {
                        assembled.extend_from_slice(fragment);
                        complete = whole;
                    }
                    Frame::Continuation { stream: 9, fragment, whole } if count > 0 => {
                        assembled.extend_from_slice(fragment);
                        complete = whole;
                    }
                    other => panic!("{other:?}"),
                }
                count += 1;
                rest = &rest[end..];
            }
            assert_eq!((assembled, count, complete), (block, frames, true));
        }
    }

    #[test]
    fn padding_and_priority_are_taken_off() {
        assert_eq!(
            parsed(&frame(DATA, PADDED, 1, b"\x02hi..")),
            Ok(Frame::Data { stream: 1, data: b"hi", padding: 3, end: false })
        );
        assert_eq!(
            parsed(&frame(DATA, PADDED, 1, b"\x00")),
            Ok(Frame::Data { stream: 1, data: b"", padding: 1, end: false })
        );
        assert_eq!(
            parsed(&frame(HEADERS, PADDED | PRIORITISED | END_HEADERS, 1, b"\x01\x80\0\0\x03\x10\x82.")),
            Ok(Frame::Headers { stream: 1, fragment: b"\x82", end: false, whole: true })
        );
        assert_eq!(parsed(&frame(PRIORITY, 0xFF, 1, b"\0\0\0\x03\x10")), Ok(Frame::Priority));
        assert_eq!(parsed(&frame(0xAB, 0xFF, 0, b"anything")), Ok(Frame::Unknown));
        // The reserved bit means nothing (section 4.1).
        let reserved = frame(DATA, 0, 1 << 31 | 1, b"");
        assert_eq!(parsed(&reserved), Ok(Frame::Data { stream: 1, data: b"", padding: 0, end: false }));
    }

    #[test]
    fn each_rule_of_section_6_has_its_error() {
        let connection = |code| Err(Error::connection(code));
        let stream = |code| Err(Error::stream(1, code));
        for (kind, flags, id, payload, error) in [
            (DATA, 0, 0, &b""[..], connection(Code::PROTOCOL_ERROR)),
            (DATA, PADDED, 1, b"", connection(Code::FRAME_SIZE_ERROR)),
            (DATA, PADDED, 1, b"\x02.", connection(Code::PROTOCOL_ERROR)),
            (HEADERS, 0, 0, b"", connection(Code::PROTOCOL_ERROR)),
            (HEADERS, PADDED, 1, b"\x01", connection(Code::PROTOCOL_ERROR)),
            (HEADERS, PRIORITISED, 1, b"1234", connection(Code::FRAME_SIZE_ERROR)),
            (HEADERS, PADDED | PRIORITISED, 1, b"\x01\0\0\0\x03.", connection(Code::FRAME_SIZE_ERROR)),
            (HEADERS, PRIORITISED, 1, b"\0\0\0\x01\x10", connection(Code::PROTOCOL_ERROR)),
            (PRIORITY, 0, 0, b"\0\0\0\x03\x10", connection(Code::PROTOCOL_ERROR)),
            (PRIORITY, 0, 1, b"\0\0\0\x03", connection(Code::FRAME_SIZE_ERROR)),
            (PRIORITY, 0, 1, b"\x80\0\0\x01\x10", connection(Code::PROTOCOL_ERROR)),
            (RST_STREAM, 0, 0, b"1234", connection(Code::PROTOCOL_ERROR)),
            (RST_STREAM, 0, 1, b"12345", connection(Code::FRAME_SIZE_ERROR)),
            (SETTINGS, 0, 1, b"", connection(Code::PROTOCOL_ERROR)),
            (SETTINGS, 0, 0, b"12345", connection(Code::FRAME_SIZE_ERROR)),
            (SETTINGS, ACK, 0, b"123456", connection(Code::FRAME_SIZE_ERROR)),
            (PUSH_PROMISE, 0, 0, b"1234", connection(Code::PROTOCOL_ERROR)),
            (PING, 0, 1, b"12345678", connection(Code::PROTOCOL_ERROR)),
            (PING, 0, 0, b"1234567", connection(Code::FRAME_SIZE_ERROR)),
            (GOAWAY, 0, 1, b"12345678", connection(Code::PROTOCOL_ERROR)),
            (GOAWAY, 0, 0, b"1234567", connection(Code::FRAME_SIZE_ERROR)),
            (WINDOW_UPDATE, 0, 0, b"\0\0\0\0", connection(Code::PROTOCOL_ERROR)),
            (WINDOW_UPDATE, 0, 1, b"\x80\0\0\0", stream(Code::PROTOCOL_ERROR)),
            (WINDOW_UPDATE, 0, 1, b"\0\0\0", connection(Code::FRAME_SIZE_ERROR)),
            (CONTINUATION, 0, 0, b"", connection(Code::PROTOCOL_ERROR)),
        ] {
            assert_eq!(parsed(&frame(kind, flags, id, payload)), error, "{kind} {flags} {id} {payload:?}");
        }
        // The length alone is enough.
        let large = frame(0xAB, 0, 0, &[0; DEFAULT_PAYLOAD_BYTES + 1]);
        assert_eq!(parse(&large[..9], DEFAULT_PAYLOAD_BYTES), Err(Error::connection(Code::FRAME_SIZE_ERROR)));
    }
}
