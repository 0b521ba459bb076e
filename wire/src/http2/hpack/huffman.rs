//! The Huffman code of HPACK (RFC 7541, section 5.2 and appendix B).
//!
//! The code is canonical: the lengths of the codes, in the order of the symbols, say all of it. Every
//! table here is computed from them.

use super::Flaw;
use alloc::vec::Vec;

/// Bits of each symbol's code; the last one is EOS, which no string may contain.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const LONGEST: usize = 30;
const EOS: usize = 256;
/// Codes of up to so many bits are found with one look: all letters and digits, in one KiB.
const FAST_BITS: u32 = 9;

struct Code {
    /// Each symbol's code, in the low bits.
    codes: [u32; 257],
    /// All symbols by code.
    sorted: [u16; 257],
    /// For each length, the first code longer than that, as the top of 32 bits; and what to add to a code of
    /// that length for its place in `sorted`.
    ends: [u64; LONGEST + 1],
    offsets: [i32; LONGEST + 1],
    /// Length << 8 | symbol for the next bits, zero if its code is longer.
    fast: [u16; 1 << FAST_BITS],
}

static CODE: Code = Code::build();

impl Code {
    const fn build() -> Self {
        let mut code = Self {
            codes: [0; 257],
            sorted: [0; 257],
            ends: [0; LONGEST + 1],
            offsets: [0; LONGEST + 1],
            fast: [0; 1 << FAST_BITS],
        };
        let (mut next, mut place, mut length) = (0_u32, 0, 1);
        while length <= LONGEST {
            next <<= 1;
            code.offsets[length] = place as i32 - next as i32;
            let mut symbol = 0;
            while symbol < 257 {
                if LENGTHS[symbol] as usize == length {
                    code.codes[symbol] = next;
                    code.sorted[place] = symbol as u16;
                    if length <= FAST_BITS as usize {
                        let spare = FAST_BITS as usize - length;
                        let mut tail = 0;
                        while tail < 1 << spare {
                            code.fast[(next as usize) << spare | tail] = (length << 8 | symbol) as u16;
                            tail += 1;
                        }
                    }
                    next += 1;
                    place += 1;
                }
                symbol += 1;
            }
            code.ends[length] = (next as u64) << (32 - length);
            length += 1;
        }
        code
    }
}

/// The symbol at the top of the window and the length of its code.
#[inline]
fn symbol(window: u64) -> (u16, u32) {
    let fast = CODE.fast[(window >> (64 - FAST_BITS)) as usize];
    if fast != 0 { (fast & 0xFF, u32::from(fast >> 8)) } else { long_symbol(window) }
}

#[cold]
fn long_symbol(window: u64) -> (u16, u32) {
    let top = window >> 32;
    let mut length = FAST_BITS as usize + 1;
    // The code is complete: all windows are below the last end.
    while length < LONGEST && top >= CODE.ends[length] {
        length += 1;
    }
    let place = (top >> (32 - length)) as i32 + CODE.offsets[length];
    (CODE.sorted[(place as usize).min(EOS)], length as u32)
}

/// Appends the decoded string.
pub(super) fn decode(mut input: &[u8], out: &mut Vec<u8>) -> Result<(), Flaw> {
    // The shortest code has five bits.
    out.reserve(input.len() * 8 / 5);
    let (mut window, mut bits) = (0_u64, 0);
    while let Some((word, rest)) = input.split_first_chunk::<4>() {
        window |= u64::from(u32::from_be_bytes(*word)) << (32 - bits);
        bits += 32;
        input = rest;
        while bits > 32 {
            let (symbol, length) = symbol(window);
            if usize::from(symbol) == EOS {
                return Err(Flaw::Huffman);
            }
            out.push(symbol as u8);
            window <<= length;
            bits -= length;
        }
    }
    for &byte in input {
        window |= u64::from(byte) << (56 - bits);
        bits += 8;
    }
    // What is left must be the beginning of EOS, and less than a byte.
    while bits >= 8 || window >> (64 - bits.max(1)) != (1 << bits) - 1 {
        let (symbol, length) = symbol(window);
        if length > bits || usize::from(symbol) == EOS {
            return Err(Flaw::Huffman);
        }
        out.push(symbol as u8);
        window <<= length;
        bits -= length;
    }
    Ok(())
}

/// Bytes of the encoded string.
pub(super) fn encoded_len(input: &[u8]) -> usize {
    let bits: usize = input.iter().map(|&byte| usize::from(LENGTHS[usize::from(byte)])).sum();
    bits.div_ceil(8)
}

/// Appends the encoded string.
pub(super) fn encode(input: &[u8], out: &mut Vec<u8>) {
    let (mut window, mut bits) = (0_u64, 0);
    for &byte in input {
        let length = u32::from(LENGTHS[usize::from(byte)]);
        window = window << length | u64::from(CODE.codes[usize::from(byte)]);
        bits += length;
        if bits >= 32 {
            bits -= 32;
            out.extend_from_slice(&((window >> bits) as u32).to_be_bytes());
        }
    }
    while bits >= 8 {
        bits -= 8;
        out.push((window >> bits) as u8);
    }
    if bits > 0 {
        out.push((window << (8 - bits)) as u8 | 0xFF >> bits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(input: &[u8]) -> Result<Vec<u8>, Flaw> {
        let mut out = Vec::new();
        decode(input, &mut out).map(|()| out)
    }

    #[test]
    fn codes_are_those_of_the_appendix() {
        for (symbol, code) in
            [(0, 0x1ff8), (b'0', 0x0), (b'a', 0x3), (b'z', 0x7b), (b'\\', 0x7fff0), (b'\n', 0x3fff_fffc)]
        {
            assert_eq!(CODE.codes[usize::from(symbol)], code, "{symbol}");
        }
        assert_eq!(CODE.codes[EOS], 0x3fff_ffff);
    }

    #[test]
    fn every_symbol_survives_in_every_place() {
        for symbol in 0..=255_u8 {
            for before in 0..9 {
                let text = [alloc::vec![b'0'; before], alloc::vec![symbol], b"tail".to_vec()].concat();
                let mut coded = Vec::new();
                encode(&text, &mut coded);
                assert_eq!(coded.len(), encoded_len(&text));
                assert_eq!(decoded(&coded).as_ref(), Ok(&text));
            }
        }
    }

    #[test]
    fn padding_is_the_beginning_of_eos_and_short() {
        // "0" is five zero bits.
        assert_eq!(decoded(&[0b0000_0111]), Ok(b"0".to_vec()));
        for wrong in [&[0b0000_0110][..], &[0b0000_0111, 0xFF], &[0xFF], &[0xFF, 0xFF, 0xFF, 0xFF], &[0b1111_1110]] {
            assert_eq!(decoded(wrong), Err(Flaw::Huffman), "{wrong:?}");
        }
        // EOS itself, at the beginning and behind something.
        assert_eq!(decoded(&[0xFF; 5]), Err(Flaw::Huffman));
        assert_eq!(decoded(&[0x07, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]), Err(Flaw::Huffman));
        assert_eq!(decoded(&[]), Ok(Vec::new()));
    }
}
