//! From fields to a block.

use super::fields::{self, Field, Form, Literal};
use super::names::{self, Name};
use super::table::{OVERHEAD, Table};
use super::{DEFAULT_TABLE_BYTES, huffman, put_integer};
use alloc::vec::Vec;

/// One direction of a connection, as its sender knows it.
///
/// Entries with the same hash of name and value, or of the name alone, form a chain from the newest to the
/// oldest. Nothing is ever taken out of a chain: it ends where a number belongs to an entry that has left.
#[derive(Debug)]
pub struct Encoder {
    table: Table<Chained>,
    heads: Vec<Heads>,
    /// The largest table that we use, whatever the receiver allows.
    ceiling: u32,
    /// The smallest size that was asked for since the last block, to be said in the next one.
    smallest: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Chained {
    pair_hash: u32,
    older_pair: u32,
    older_name: u32,
}

#[derive(Clone, Copy, Debug)]
struct Heads {
    pair: u32,
    name: u32,
}

impl Encoder {
    /// A direction whose table has at most so many bytes, whatever the receiver allows.
    pub fn new(ceiling: u32) -> Self {
        let mut encoder =
            Self { table: Table::new(DEFAULT_TABLE_BYTES as usize), heads: Vec::new(), ceiling, smallest: None };
        if ceiling < DEFAULT_TABLE_BYTES {
            encoder.allow(ceiling);
        }
        encoder
    }

    /// The receiver allows a table of so many bytes; the next block says which size it gets.
    pub fn allow(&mut self, bytes: u32) {
        let bytes = bytes.min(self.ceiling);
        let now = self.table.max() as u32;
        if bytes != now || self.smallest.is_some() {
            self.smallest = Some(self.smallest.map_or(bytes, |smallest| smallest.min(bytes)));
            self.table.resize(bytes as usize);
            // Another number of heads suits another size. Entries that stay are not found any more, which costs
            // a few bytes; tables change their size before they have any.
            self.heads = Vec::new();
        }
    }

    /// Begins a block.
    #[inline]
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(smallest) = self.smallest.take() {
            let last = self.table.max();
            if (smallest as usize) < last {
                put_integer(out, 0x20, 5, smallest as usize);
            }
            put_integer(out, 0x20, 5, last);
        }
    }

    /// Passes on a field that a [`Decoder`](super::Decoder) read.
    #[inline]
    pub fn forward(&mut self, field: &Field<'_>, out: &mut Vec<u8>) {
        match field.form() {
            _ if field.fixed() > 0 => out.push(0x80 | field.fixed() as u8),
            Form::Indexed => {
                let pair = field.pair();
                match self.find_pair(field.hash(), field.name_len(), |ours| ours == pair) {
                    Some(place) => put_integer(out, 0x80, 7, names::LEN + 1 + place),
                    None => self.insert(&field.literal(), out),
                }
            }
            Form::Plain => self.literal(0x00, &field.literal(), out),
            Form::Never => self.literal(0x10, &field.literal(), out),
        }
    }

    /// Appends a field of our own.
    pub fn put(&mut self, name: &[u8], value: &[u8], form: Form, out: &mut Vec<u8>) {
        let known = Name::of(name);
        if form != Form::Never
            && let Some(index) = names::find(known, value)
        {
            out.push(0x80 | index as u8);
            return;
        }
        let name_hash = fields::hash_name(name);
        let hash = fields::hash_pair(name_hash, value);
        let literal = Literal { known, name, value, coded_name: &[], coded_value: &[], name_hash, hash, own: true };
        match form {
            Form::Indexed => {
                let same = |ours: &[u8]| ours.strip_prefix(name) == Some(value);
                match self.find_pair(hash, name.len() as u32, same) {
                    Some(place) => put_integer(out, 0x80, 7, names::LEN + 1 + place),
                    None => self.insert(&literal, out),
                }
            }
            Form::Plain => self.literal(0x00, &literal, out),
            Form::Never => self.literal(0x10, &literal, out),
        }
    }

    /// Bytes that are allocated.
    pub fn footprint(&self) -> usize {
        self.table.footprint() + self.heads.capacity() * size_of::<Heads>()
    }

    #[inline]
    fn find_pair(&self, hash: u32, name_len: u32, same: impl Fn(&[u8]) -> bool) -> Option<usize> {
        let mut number = self.heads.get(self.bucket(hash))?.pair;
        while let Some(place) = self.table.place(number) {
            let (entry, pair) = self.table.get(place)?;
            if entry.meta.pair_hash == hash && entry.name_len == name_len && same(pair) {
                return Some(place);
            }
            number = entry.meta.older_pair;
        }
        None
    }

    fn find_name(&self, field: &Literal<'_>) -> Option<usize> {
        if field.name_hash == 0 {
            return None;
        }
        let mut number = self.heads.get(self.bucket(field.name_hash))?.name;
        while let Some(place) = self.table.place(number) {
            let (entry, pair) = self.table.get(place)?;
            if pair[..entry.name_len as usize] == *field.name {
                return Some(place);
            }
            number = entry.meta.older_name;
        }
        None
    }

    /// What takes a large part of the table would drive out everything else, for one field.
    fn insert(&mut self, field: &Literal<'_>, out: &mut Vec<u8>) {
        let size = field.name.len() + field.value.len() + OVERHEAD;
        if size > self.table.max() / 2 {
            return self.literal(0x00, field, out);
        }
        self.literal(0x40, field, out);
        if self.heads.is_empty() {
            let nobody = self.table.nobody();
            let heads = (self.table.max() / (2 * OVERHEAD)).next_power_of_two();
            self.heads = alloc::vec![Heads { pair: nobody, name: nobody }; heads];
        }
        let (pair_bucket, name_bucket) = (self.bucket(field.hash), self.bucket(field.name_hash));
        let meta = Chained {
            pair_hash: field.hash,
            older_pair: self.heads[pair_bucket].pair,
            older_name: self.heads[name_bucket].name,
        };
        if let Some(number) = self.table.insert(field.name, field.value, meta) {
            self.heads[pair_bucket].pair = number;
            self.heads[name_bucket].name = number;
        }
    }

    fn literal(&self, first: u8, field: &Literal<'_>, out: &mut Vec<u8>) {
        let prefix = if first == 0x40 { 6 } else { 4 };
        let index = field.known.index().or_else(|| self.find_name(field).map(|place| names::LEN + 1 + place));
        put_integer(out, first, prefix, index.unwrap_or(0));
        if index.is_none() {
            put_string(out, field.name, field.coded_name, field.own);
        }
        put_string(out, field.value, field.coded_value, field.own);
    }

    fn bucket(&self, hash: u32) -> usize {
        hash as usize & self.heads.len().wrapping_sub(1)
    }
}

/// Appends a string in its code, if that is known. `choose`: or in the shorter of the two ways.
fn put_string(out: &mut Vec<u8>, string: &[u8], coded: &[u8], choose: bool) {
    if !coded.is_empty() {
        put_integer(out, 0x80, 7, coded.len());
        out.extend_from_slice(coded);
        return;
    }
    if choose {
        let coded = huffman::encoded_len(string);
        if coded < string.len() {
            put_integer(out, 0x80, 7, coded);
            return huffman::encode(string, out);
        }
    }
    put_integer(out, 0x00, 7, string.len());
    out.extend_from_slice(string);
}

#[cfg(test)]
mod tests {
    use super::super::{Capacity, Decoder, Fields, Flaw};
    use super::*;
    use alloc::vec;

    const ALL: Capacity = Capacity { bytes: usize::MAX, fields: usize::MAX };

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Fields {
        let mut fields = Fields::default();
        assert_eq!(decoder.decode(block, ALL, &mut fields), Ok(()));
        fields
    }

    fn block(encoder: &mut Encoder, fields: &[(&str, &str, Form)]) -> Vec<u8> {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        fields.iter().for_each(|(name, value, form)| encoder.put(name.as_bytes(), value.as_bytes(), *form, &mut out));
        out
    }

    #[test]
    fn what_came_before_is_one_byte() {
        let mut encoder = Encoder::new(4096);
        let fields = [
            (":method", "GET", Form::Indexed),
            ("x-a", "1", Form::Indexed),
            (":authority", "a.example", Form::Indexed),
        ];
        let first = block(&mut encoder, &fields);
        assert!(first.len() > 3);
        assert_eq!(block(&mut encoder, &fields), [0x82, 0x80 | 63, 0x80 | 62]);
        // The name alone is found too.
        assert_eq!(block(&mut encoder, &[("x-a", "2", Form::Plain)]), [0x0F, 63 - 15, 1, b'2']);
    }

    #[test]
    fn secrets_are_in_no_table_and_marked_on_every_hop() {
        let (mut encoder, mut decoder) = (Encoder::new(4096), Decoder::default());
        let secret = [("authorization", "secret", Form::Never), (":method", "GET", Form::Never)];
        let first = block(&mut encoder, &secret);
        assert_eq!(block(&mut encoder, &secret), first);
        let fields = decode(&mut decoder, &first);
        assert!(fields.iter().all(|field| field.form() == Form::Never));
        let (mut other, mut out) = (Encoder::new(4096), Vec::new());
        fields.iter().for_each(|field| other.forward(&field, &mut out));
        assert_eq!(out, first);
    }

    #[test]
    fn changes_of_size_are_said_in_the_next_block() {
        let (mut encoder, mut decoder) = (Encoder::new(4096), Decoder::default());
        let field = [("x-a", "1", Form::Indexed)];
        decode(&mut decoder, &block(&mut encoder, &field));
        encoder.allow(0);
        encoder.allow(1000);
        let changed = block(&mut encoder, &field);
        assert_eq!(changed[..4], [0x20, 0x3F, 0xC9, 0x07]);
        decoder.allow(1000);
        decode(&mut decoder, &changed);
        assert_eq!(decode(&mut decoder, &block(&mut encoder, &field)).get(Name::OTHER), Some(&b"1"[..]));
        // Larger than we want is not what we use.
        encoder.allow(1 << 20);
        assert_eq!(block(&mut encoder, &[])[..], [0x3F, 0xE1, 0x1F]);
        encoder.allow(0);
        assert_eq!(block(&mut encoder, &[]), [0x20]);
        assert_eq!(encoder.footprint(), 0);
        assert_eq!(block(&mut encoder, &field), block(&mut encoder, &field));
    }

    #[test]
    fn a_smaller_table_must_be_acknowledged_in_the_next_block() {
        let mut decoder = Decoder::default();
        decoder.allow(100);
        assert_eq!(decoder.decode(&[0x82], ALL, &mut Fields::default()), Err(Flaw::TableSize));
        decode(&mut decoder, &[0x3F, 69, 0x82]);
        for (wrong, flaw) in [
            (&[0x3F, 70, 0x82][..], Flaw::TableSize),
            (&[0x20, 0x20, 0x20], Flaw::TableSize),
            (&[0x82, 0x20], Flaw::TableSize),
            (&[0x80], Flaw::Index),
            (&[0x80 | 62], Flaw::Index),
            (&[0x7F, 0x00, 0x00], Flaw::Index),
            (&[0x40, 0x01], Flaw::Truncated),
            (&[0x40, 0x81, 0xFF, 0x00], Flaw::Huffman),
            (&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], Flaw::Integer),
        ] {
            assert_eq!(decoder.decode(wrong, ALL, &mut Fields::default()), Err(flaw), "{wrong:?}");
        }
    }

    #[test]
    fn too_much_is_counted_and_not_kept_but_remembered() {
        let mut decoder = Decoder::default();
        let mut bomb = vec![0x40, 1, b'x', 0x7F, 0xA1, 0x1E];
        bomb.extend([b'v'; 4000]);
        bomb.extend([0x80 | 62; 16_000]);
        let mut fields = Fields::default();
        let limit = Capacity { bytes: 10_000, fields: 100 };
        assert_eq!(decoder.decode(&bomb, limit, &mut fields), Ok(()));
        assert!(fields.is_excess());
        assert_eq!((fields.len(), fields.size()), (2, 16_001 * 4033));
        assert!(fields.footprint() < 64 * 1024, "{}", fields.footprint());
        fields.clear();
        assert_eq!(decoder.decode(&[0x80 | 62], limit, &mut fields), Ok(()));
        assert_eq!((fields.len(), fields.is_excess()), (1, false));
        fields.clear();
        assert_eq!(decoder.decode(&[0x82; 101], limit, &mut fields), Ok(()));
        assert_eq!((fields.len(), fields.is_excess()), (100, true));
    }

    #[test]
    fn flaws_are_found_once_and_stay_with_the_entry() {
        let mut decoder = Decoder::default();
        let fields = decode(&mut decoder, b"\x40\x01A\x01v\x40\x01b\x03a\r\n\x40\x01c\x01v");
        assert_eq!(fields.iter().map(|field| field.is_flawed()).collect::<Vec<_>>(), [true, true, false]);
        // The same entries again, and the names with other values.
        let fields = decode(&mut decoder, b"\xC0\xBF\xBE\x0F\x31\x01w\x0F\x30\x01w");
        assert_eq!(fields.iter().map(|field| field.is_flawed()).collect::<Vec<_>>(), [true, true, false, true, false]);
    }

    #[test]
    fn tables_that_were_never_used_take_no_memory() {
        assert_eq!(Encoder::new(4096).footprint() + Decoder::default().footprint(), 0);
    }
}
