//! From a block to fields.

use super::fields::{self, Fields, Form, Known, Limit, New};
use super::names::{self, Name};
use super::table::Table;
use super::{DEFAULT_TABLE_BYTES, Flaw, huffman, take_integer};

/// What one block may hold before [`Fields::is_excess`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// Bytes, names and values and 32 for each field.
    pub bytes: usize,
    /// Fields.
    pub fields: usize,
}

/// One direction of a connection, as its receiver knows it.
#[derive(Debug)]
pub struct Decoder {
    table: Table<Known>,
    /// The largest table that the sender may use.
    allowed: u32,
    /// The sender has agreed to a smaller table, and must say so before anything else.
    update_due: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        let table = Table::new(DEFAULT_TABLE_BYTES as usize);
        Self { table, allowed: DEFAULT_TABLE_BYTES, update_due: false }
    }
}

impl Decoder {
    /// The sender has acknowledged that its table may have so many bytes (RFC 9113, section 6.5.2).
    pub fn allow(&mut self, bytes: u32) {
        self.allowed = bytes;
        self.update_due = self.table.max() > bytes as usize;
    }

    /// Decodes a whole block; what it holds is added to `fields`.
    ///
    /// A block that holds too much is decoded to its end, for its fields may be needed later, but what is
    /// too much is not kept.
    pub fn decode(&mut self, mut block: &[u8], capacity: Capacity, fields: &mut Fields) -> Result<(), Flaw> {
        let limit = Limit { bytes: capacity.bytes, fields: capacity.fields };
        // Changes of size come first (RFC 7541, section 4.2): the smallest and the last, so two at most.
        let mut updates = 0;
        while let Some(&first) = block.first()
            && first & 0xE0 == 0x20
        {
            let size = take_integer(&mut block, 5)?;
            updates += 1;
            if updates > 2 || size > self.allowed as usize {
                return Err(Flaw::TableSize);
            }
            self.table.resize(size);
            self.update_due = false;
        }
        if self.update_due && !block.is_empty() {
            return Err(Flaw::TableSize);
        }
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = take_integer(&mut block, 7)?;
                if let Some(place) = index.checked_sub(names::LEN + 1) {
                    let (entry, pair) = self.table.get(place).ok_or(Flaw::Index)?;
                    fields.push_pair(pair, entry.name_len, entry.meta, &limit);
                } else if index > 0 {
                    fields.push_static(index, &limit);
                } else {
                    return Err(Flaw::Index);
                }
            } else {
                let (prefix, form) = match first >> 4 {
                    4..=7 => (6, Form::Indexed),
                    2 | 3 => return Err(Flaw::TableSize),
                    1 => (4, Form::Never),
                    _ => (4, Form::Plain),
                };
                self.literal(&mut block, prefix, form, fields, &limit)?;
            }
        }
        Ok(())
    }

    /// Bytes that are allocated.
    pub fn footprint(&self) -> usize {
        self.table.footprint()
    }

    fn literal(
        &mut self,
        block: &mut &[u8],
        prefix: u32,
        form: Form,
        fields: &mut Fields,
        limit: &Limit,
    ) -> Result<(), Flaw> {
        let index = take_integer(block, prefix)?;
        let bytes = fields.bytes();
        let start = bytes.len();
        let mut coded_name: &[u8] = &[];
        let mut known = if index == 0 {
            coded_name = take_string(block, bytes)?;
            let name = &bytes[start..];
            Known { name: Name::of(name), flawed: !fields::is_name(name), name_hash: 0, hash: 0 }
        } else if let Some(place) = index.checked_sub(names::LEN + 1) {
            let (entry, pair) = self.table.get(place).ok_or(Flaw::Index)?;
            let name = &pair[..entry.name_len as usize];
            bytes.extend_from_slice(name);
            // The flaw of the entry may be that of its value.
            Known { flawed: entry.meta.flawed && !fields::is_name(name), ..entry.meta }
        } else {
            let (name, _) = names::entry(index).ok_or(Flaw::Index)?;
            bytes.extend_from_slice(name.as_bytes());
            Known { name: names::name(index), flawed: false, name_hash: 0, hash: 0 }
        };
        let name_len = bytes.len() - start;
        let coded = take_string(block, bytes)?;
        let value_len = bytes.len() - start - name_len;
        let (name, value) = bytes[start..].split_at(name_len);
        known.flawed |= !fields::is_value(value);
        if form == Form::Indexed {
            if known.name_hash == 0 {
                known.name_hash = fields::hash_name(name);
            }
            known.hash = fields::hash_pair(known.name_hash, value);
            self.table.insert(name, value, known);
        }
        let (coded_len, coded_name_len) = (coded.len(), coded_name.len());
        bytes.extend_from_slice(coded);
        bytes.extend_from_slice(coded_name);
        fields.push_new(New { start, name_len, value_len, coded_len, coded_name_len, form, known }, limit);
        Ok(())
    }
}

/// Appends a string, and returns the code that it came in, if it came in one.
fn take_string<'a>(block: &mut &'a [u8], out: &mut alloc::vec::Vec<u8>) -> Result<&'a [u8], Flaw> {
    let coded = block.first().ok_or(Flaw::Truncated)? & 0x80 != 0;
    let length = take_integer(block, 7)?;
    let (string, rest) = block.split_at_checked(length).ok_or(Flaw::Truncated)?;
    *block = rest;
    if coded {
        huffman::decode(string, out)?;
        Ok(string)
    } else {
        out.extend_from_slice(string);
        Ok(&[])
    }
}
