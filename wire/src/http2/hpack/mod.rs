//! HPACK (RFC 7541), made for a proxy.
//!
//! A [`Decoder`] puts the fields of one block into [`Fields`], a scratch that is used again for the next
//! block. An [`Encoder`] of another connection takes them from there, one by one. What was found out when a
//! field came for the first time stays with its entry in the decoder's table and travels with the field from
//! then on:
//!
//! * which [`Name`] it has, so that nobody compares names again;
//! * whether its name and value are ones that HTTP allows, so that nobody reads them again;
//! * a hash, by which an encoder finds the entry in its own table with one look and one comparison.
//!
//! A string that is in no table goes on in the form that it came in: if that was Huffman-coded in the same code, for
//! each string has only one.
//!
//! What the sender thought of a field (does it come again, must it never be in a table) is kept. So a
//! never-indexed field stays one (section 7.1.3), and a field that changes each time fills nobody's table.

mod decoder;
mod encoder;
mod fields;
mod huffman;
mod names;
mod table;

pub use decoder::{Capacity, Decoder};
pub use encoder::Encoder;
pub use fields::{Field, Fields, Form};
pub use names::Name;

use alloc::vec::Vec;

/// What is wrong with a block. All of these are connection errors (RFC 9113, section 4.3), for the two
/// tables do not agree any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// It ends within a field.
    Truncated,
    /// An integer beyond 32 bits, or longer than it need be (section 5.1).
    Integer,
    /// Padding that is not the beginning of EOS, or EOS itself (section 5.2).
    Huffman,
    /// An index of nothing (section 2.3.3).
    Index,
    /// A table larger than allowed, a change of its size behind a field, or none where one is due (section 4.2).
    TableSize,
}

/// The table that both sides have before anybody says otherwise (RFC 9113, section 6.5.2).
pub const DEFAULT_TABLE_BYTES: u32 = 4096;

/// Reads an integer whose first bits are in the first byte (section 5.1).
#[inline]
fn take_integer(input: &mut &[u8], prefix: u32) -> Result<usize, Flaw> {
    let (&first, rest) = input.split_first().ok_or(Flaw::Truncated)?;
    *input = rest;
    let mask = (1_u32 << prefix) - 1;
    let value = u32::from(first) & mask;
    if value < mask { Ok(value as usize) } else { take_long_integer(input, mask) }
}

fn take_long_integer(input: &mut &[u8], mask: u32) -> Result<usize, Flaw> {
    let mut value = u64::from(mask);
    for shift in (0..).step_by(7) {
        let (&byte, rest) = input.split_first().ok_or(Flaw::Truncated)?;
        *input = rest;
        value += u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).map(|value| value as usize).map_err(|_| Flaw::Integer);
        }
        // Five bytes are enough for 32 bits; leading zeros make no integer larger, but longer.
        if shift == 28 {
            return Err(Flaw::Integer);
        }
    }
    Err(Flaw::Integer)
}

/// Appends an integer; `first` has what stands before it in its first byte.
#[inline]
fn put_integer(out: &mut Vec<u8>, first: u8, prefix: u32, value: usize) {
    let mask = (1_usize << prefix) - 1;
    if value < mask {
        out.push(first | value as u8);
        return;
    }
    out.push(first | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_section_c_1() {
        let mut out = Vec::new();
        put_integer(&mut out, 0, 5, 10);
        put_integer(&mut out, 0, 5, 1337);
        put_integer(&mut out, 0, 8, 42);
        assert_eq!(out, [0b01010, 0b11111, 0b1001_1010, 0b1010, 42]);
        let mut input = &out[..];
        let read = [5, 5, 8].map(|prefix| take_integer(&mut input, prefix));
        assert_eq!(read, [Ok(10), Ok(1337), Ok(42)]);
    }

    #[test]
    fn integers_have_a_limit() {
        for prefix in 1..=8 {
            for value in [0, 1, 30, 31, 126, 127, 128, 254, 255, 256, 65_535, u32::MAX as usize] {
                let mut out = Vec::new();
                put_integer(&mut out, 0, prefix, value);
                assert_eq!(take_integer(&mut &out[..], prefix), Ok(value));
                for end in 0..out.len() {
                    assert_eq!(take_integer(&mut &out[..end], prefix), Err(Flaw::Truncated));
                }
            }
        }
        for long in [
            &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F][..],
            &[0xFF, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
            &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
        ] {
            assert_eq!(take_integer(&mut &long[..], 8), Err(Flaw::Integer), "{long:?}");
        }
    }
}
