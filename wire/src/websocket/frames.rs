//! Following frames (RFC 6455, section 5.2) without touching them.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-------+-+-------------+-------------------------------+
//! |F|R|R|R| opcode|M| Payload len |    Extended payload length    |
//! |I|S|S|S|  (4)  |A|     (7)     |             (16/64)           |
//! |N|V|V|V|       |S|             |   (if payload len==126/127)   |
//! | |1|2|3|       |K|             |                               |
//! +-+-+-+-+-------+-+-------------+ - - - - - - - - - - - - - - - +
//! |     Extended payload length continued, if payload len == 127  |
//! + - - - - - - - - - - - - - - - +-------------------------------+
//! |                               |Masking-key, if MASK set to 1  |
//! +-------------------------------+-------------------------------+
//! | Masking-key (continued)       |          Payload Data         |
//! +-------------------------------- - - - - - - - - - - - - - - - +
//! ```
//!
//! Only what says where a frame ends is looked at. Reserved bits and opcodes, masking, fragments in
//! the wrong order, the text of a Close: all that is between the two ends.

use alloc::vec::Vec;

/// A header has this many bytes at most.
pub(super) const MAX_HEADER: usize = 14;

const CLOSE: u8 = 0x8;

/// A header that two readers could understand in two ways (section 5.2): a length of 2^63 and more, or
/// one that is not in the shortest form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BadLength;

/// Where one direction is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frames {
    /// Payload bytes that are still to come.
    left: u64,
    /// A message has begun and its last fragment has not.
    fragmented: bool,
    /// A Close frame has begun.
    closed: bool,
}

/// Where [`Frames::follow`] stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Until {
    /// At the end of the input.
    Input,
    /// Before that if a frame ends.
    Frame,
    /// Before that if a message ends.
    Message,
}

impl Frames {
    /// Follows the input; returns how much of it may be passed on. A header that is not complete is not
    /// part of that: nobody knows yet whether it is one.
    pub(super) fn follow(&mut self, input: &[u8], until: Until) -> (usize, Result<(), BadLength>) {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
            self.left -= take as u64;
            at += take;
            let stop = match until {
                Until::Input => false,
                Until::Frame => self.between_frames(),
                Until::Message => self.between_messages(),
            };
            if at == input.len() || (stop && at > 0) || self.closed {
                return (at, Ok(()));
            }
            let header = match Header::parse(&input[at..]) {
                Ok(Some(header)) => header,
                Ok(None) => return (at, Ok(())),
                Err(flaw) => return (at, Err(flaw)),
            };
            at += header.length;
            self.left = header.payload;
            // Control frames may stand between fragments (section 5.4).
            if header.opcode < CLOSE {
                self.fragmented = !header.fin;
            }
            self.closed |= header.opcode == CLOSE;
        }
    }

    /// How many of the next bytes are payload of the frame under way.
    pub(super) fn passes(&self) -> u64 {
        self.left
    }

    /// So many of them have passed.
    pub(super) fn pass(&mut self, n: u64) {
        self.left = self.left.saturating_sub(n);
    }

    /// The last byte was the last of a frame (or there was none): a frame of ours may follow.
    pub(super) fn between_frames(&self) -> bool {
        self.left == 0
    }

    /// The same for messages.
    pub(super) fn between_messages(&self) -> bool {
        self.left == 0 && !self.fragmented
    }

    /// A whole Close frame has passed: this direction is over.
    pub(super) fn is_closed(&self) -> bool {
        self.closed && self.left == 0
    }
}

/// What a header says of its frame.
struct Header {
    fin: bool,
    opcode: u8,
    /// Of the header itself.
    length: usize,
    payload: u64,
}

impl Header {
    /// `None`: not all of it is there.
    fn parse(input: &[u8]) -> Result<Option<Self>, BadLength> {
        let [first, second, ..] = *input else { return Ok(None) };
        let masked = second & 0x80 != 0;
        let (extended, payload) = match second & 0x7F {
            126 => match input.get(2..4) {
                Some(&[a, b]) => (2, u64::from(u16::from_be_bytes([a, b]))),
                _ => return Ok(None),
            },
            127 => match input.get(2..10).and_then(|bytes| bytes.try_into().ok()) {
                Some(bytes) => (8, u64::from_be_bytes(bytes)),
                None => return Ok(None),
            },
            short => (0, u64::from(short)),
        };
        let least = match extended {
            2 => 126,
            8 => 1 << 16,
            _ => 0,
        };
        if payload < least || payload >= 1 << 63 {
            return Err(BadLength);
        }
        let length = 2 + extended + if masked { 4 } else { 0 };
        if input.len() < length {
            return Ok(None);
        }
        Ok(Some(Self { fin: first & 0x80 != 0, opcode: first & 0x0F, length, payload }))
    }
}

/// Appends a Close frame (section 5.5.1). `mask` is the masking key of a frame to an endpoint; `reason`
/// has at most 123 bytes.
pub(super) fn put_close(out: &mut Vec<u8>, code: u16, reason: &str, mask: Option<[u8; 4]>) {
    debug_assert!(reason.len() <= 123);
    let masked = if mask.is_some() { 0x80 } else { 0 };
    out.extend_from_slice(&[0x80 | CLOSE, masked | (reason.len() + 2) as u8]);
    let key = mask.unwrap_or_default();
    if mask.is_some() {
        out.extend_from_slice(&key);
    }
    let payload = code.to_be_bytes().into_iter().chain(reason.bytes());
    out.extend(payload.zip(key.into_iter().cycle()).map(|(byte, key)| byte ^ key));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An unmasked frame.
    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let mut out = alloc::vec![first];
        match payload {
            0..126 => out.push(payload as u8),
            126..65_536 => {
                out.push(126);
                out.extend_from_slice(&(payload as u16).to_be_bytes());
            }
            _ => {
                out.push(127);
                out.extend_from_slice(&(payload as u64).to_be_bytes());
            }
        }
        out.resize(out.len() + payload, b'x');
        out
    }

    #[test]
    fn boundaries_are_found_whatever_the_pieces() {
        let message = [frame(0x01, 5), frame(0x89, 3), frame(0x00, 126), frame(0x80, 70_000)].concat();
        let input = [message.clone(), frame(0xC2, 0), frame(0x88, 2)].concat();
        for size in [1, 2, 3, 7, 100, input.len()] {
            let (mut frames, mut waiting, mut passed) = (Frames::default(), Vec::new(), 0);
            for piece in input.chunks(size) {
                waiting.extend_from_slice(piece);
                let (n, result) = frames.follow(&waiting, Until::Input);
                assert_eq!(result, Ok(()));
                passed += n;
                waiting.drain(..n);
                assert!(waiting.len() < MAX_HEADER);
                assert_eq!(frames.is_closed(), passed == input.len());
                if passed > 5 && passed < message.len() {
                    assert!(!frames.between_messages(), "{passed}");
                }
            }
            assert_eq!(passed, input.len(), "pieces of {size}");
        }
    }

    #[test]
    fn it_stops_where_a_message_ends() {
        let first = [frame(0x01, 5), frame(0x8A, 0), frame(0x80, 2)].concat();
        let input = [first.clone(), frame(0x82, 1)].concat();
        let mut frames = Frames::default();
        assert_eq!(frames.follow(&input, Until::Message), (first.len(), Ok(())));
        assert!(frames.between_messages());
    }

    #[test]
    fn nothing_passes_behind_a_close() {
        let input = [frame(0x88, 2), frame(0x82, 1)].concat();
        let mut frames = Frames::default();
        assert_eq!(frames.follow(&input, Until::Input), (4, Ok(())));
        assert!(frames.is_closed());
    }

    #[test]
    fn lengths_have_one_form_and_a_limit() {
        for (header, result) in [
            (&[0x82, 126, 0, 125][..], Err(BadLength)),
            (&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], Err(BadLength)),
            (&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], Err(BadLength)),
            (&[0x82, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], Ok(())),
            (&[0x82, 126, 0, 126], Ok(())),
        ] {
            let mut frames = Frames::default();
            assert_eq!(frames.follow(header, Until::Input).1, result, "{header:?}");
        }
    }

    #[test]
    fn a_close_of_ours_is_one() {
        let mut out = Vec::new();
        put_close(&mut out, 1012, "move", None);
        assert_eq!(out, b"\x88\x06\x03\xF4move");
        out.clear();
        put_close(&mut out, 1001, "", Some([1, 2, 3, 4]));
        assert_eq!(out, [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xE9 ^ 2]);
        let mut frames = Frames::default();
        assert_eq!(frames.follow(&out, Until::Input), (out.len(), Ok(())));
        assert!(frames.is_closed());
    }
}
