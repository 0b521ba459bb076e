//! The fields of one block, decoded into memory that is used again for the next one.

use super::huffman;
use super::names::{self, Name};
use super::table::OVERHEAD;
use crate::http2::bytes;
use alloc::vec::Vec;
use evenkeel_core::hash::hash;

/// How a field was written, and is to be passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// In a table, or put there by this: the sender expects it to come again.
    Indexed,
    /// Not in the table: it will hardly come again.
    Plain,
    /// Not in any table, on no hop: a secret.
    Never,
}

/// Fields in the order in which they came.
#[derive(Debug, Default)]
pub struct Fields {
    bytes: Vec<u8>,
    items: Vec<Item>,
    size: usize,
    excess: bool,
}

/// What is remembered of a field along with its bytes, in a decoder's table too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) name: Name,
    pub(super) flawed: bool,
    /// Zero: the sender has the name in no table, so nobody needs to look for it in ours.
    pub(super) name_hash: u32,
    pub(super) hash: u32,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    /// Of name and value, one behind the other.
    start: u32,
    name_len: u32,
    value_len: u32,
    /// Bytes of the Huffman-coded value and name that follow them; zero: it came as it is, or not as a literal.
    coded_len: u32,
    coded_name_len: u32,
    form: Form,
    /// Its index in the static table, else zero. Then it has no bytes here.
    fixed: u8,
    known: Known,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    bytes: &'a [u8],
    item: &'a Item,
}

impl<'a> Field<'a> {
    /// What it is called.
    #[inline]
    pub fn name(&self) -> &'a [u8] {
        match names::entry(self.fixed()) {
            Some((name, _)) => name.as_bytes(),
            None => &self.pair()[..self.item.name_len as usize],
        }
    }

    /// Its value.
    #[inline]
    pub fn value(&self) -> &'a [u8] {
        match names::entry(self.fixed()) {
            Some((_, value)) => value.as_bytes(),
            None => &self.pair()[self.item.name_len as usize..],
        }
    }

    /// Its name, told apart.
    #[inline]
    pub fn known(&self) -> Name {
        self.item.known.name
    }

    /// How it was written.
    #[inline]
    pub fn form(&self) -> Form {
        self.item.form
    }

    /// Name or value have bytes that HTTP does not allow.
    #[inline]
    pub fn is_flawed(&self) -> bool {
        self.item.known.flawed
    }

    /// Its index in the static table, or zero.
    #[inline]
    pub(super) fn fixed(&self) -> usize {
        self.item.fixed.into()
    }

    /// Name and value next to each other, unless it is in the static table.
    #[inline]
    pub(super) fn pair(&self) -> &'a [u8] {
        &self.bytes[self.item.start as usize..][..(self.item.name_len + self.item.value_len) as usize]
    }

    #[inline]
    pub(super) fn name_len(&self) -> u32 {
        self.item.name_len
    }

    #[inline]
    pub(super) fn hash(&self) -> u32 {
        self.item.known.hash
    }

    /// For a table that does not have it.
    pub(super) fn literal(&self) -> Literal<'a> {
        let Item { start, name_len, value_len, coded_len, coded_name_len, known, .. } = *self.item;
        let rest = &self.bytes[(start + name_len + value_len) as usize..];
        let (coded_value, rest) = rest.split_at(coded_len as usize);
        Literal {
            known: known.name,
            name: self.name(),
            value: self.value(),
            coded_name: &rest[..coded_name_len as usize],
            coded_value,
            name_hash: known.name_hash,
            hash: known.hash,
            own: false,
        }
    }
}

/// A field that is written out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Literal<'a> {
    pub(super) known: Name,
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    /// In the code, if they came in it.
    pub(super) coded_name: &'a [u8],
    pub(super) coded_value: &'a [u8],
    pub(super) name_hash: u32,
    pub(super) hash: u32,
    /// It did not come from anywhere: we choose how its strings are written.
    pub(super) own: bool,
}

impl Fields {
    /// In order.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Field<'_>> + Clone {
        self.items.iter().map(|item| Field { bytes: &self.bytes, item })
    }

    /// The value of the first field of this name. Not for [`Name::OTHER`], which is many.
    pub fn get(&self, name: Name) -> Option<&[u8]> {
        self.iter().find(|field| field.known() == name).map(|field| field.value())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Their size, as RFC 9113, section 10.5.1, counts it.
    pub fn size(&self) -> usize {
        self.size
    }

    /// There were more than allowed, and they are not all here.
    pub fn is_excess(&self) -> bool {
        self.excess
    }

    /// Appends a field of our own that is to be passed on many times: what that takes is found out here, once. The
    /// name is to be in lower case.
    pub fn push_own(&mut self, name: &str, value: &[u8], form: Form) {
        let unlimited = Limit { bytes: usize::MAX, fields: usize::MAX };
        let (start, name) = (self.bytes.len(), name.as_bytes());
        let known = Name::of(name);
        if form != Form::Never
            && let Some(index) = names::find(known, value)
        {
            return self.push_static(index, &unlimited);
        }
        let name_hash = if form == Form::Indexed { hash_name(name) } else { 0 };
        let hash = if form == Form::Indexed { hash_pair(name_hash, value) } else { 0 };
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        let [coded_len, coded_name_len] = [value, name].map(|string| {
            let coded = huffman::encoded_len(string);
            if coded >= string.len() {
                return 0;
            }
            huffman::encode(string, &mut self.bytes);
            coded
        });
        let known = Known { name: known, flawed: false, name_hash, hash };
        let (name_len, value_len) = (name.len(), value.len());
        self.push_new(New { start, name_len, value_len, coded_len, coded_name_len, form, known }, &unlimited);
    }

    /// Becomes the same as others, in the memory that it has.
    pub fn copy_from(&mut self, others: &Self) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&others.bytes);
        self.items.clear();
        self.items.extend_from_slice(&others.items);
        (self.size, self.excess) = (others.size, others.excess);
    }

    /// Forgets them, for the next block.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.items.clear();
        (self.size, self.excess) = (0, false);
    }

    /// Bytes that are allocated.
    pub fn footprint(&self) -> usize {
        self.bytes.capacity() + self.items.capacity() * size_of::<Item>()
    }

    /// Appends a field that came over HTTP/1.1, whatever the case of its name.
    pub fn push(&mut self, name: &[u8], value: &[u8], form: Form) {
        const ALL: Limit = Limit { bytes: usize::MAX, fields: usize::MAX };
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.bytes[start..].make_ascii_lowercase();
        let known = Name::of(&self.bytes[start..]);
        if form != Form::Never
            && let Some(index) = names::find(known, value)
        {
            self.bytes.truncate(start);
            return self.push_static(index, &ALL);
        }
        self.bytes.extend_from_slice(value);
        let name = &self.bytes[start..start + name.len()];
        let flawed = !is_name(name) || !is_value(value);
        let name_hash = if form == Form::Indexed { hash_name(name) } else { 0 };
        let known = Known { name: known, flawed, name_hash, hash: hash_pair(name_hash, value) };
        let (name_len, value_len) = (name.len(), value.len());
        self.push_new(New { start, name_len, value_len, coded_len: 0, coded_name_len: 0, form, known }, &ALL);
    }

    /// A field counts towards the limits whether it is kept or not. False: it is not to be kept.
    #[inline]
    fn admit(&mut self, name_len: usize, value_len: usize, limit: &Limit) -> bool {
        self.size = self.size.saturating_add(name_len + value_len + OVERHEAD);
        self.excess |= self.size > limit.bytes || self.items.len() >= limit.fields;
        !self.excess
    }

    #[inline]
    pub(super) fn push_static(&mut self, index: usize, limit: &Limit) {
        let Some((name, value)) = names::entry(index) else { return };
        if self.admit(name.len(), value.len(), limit) {
            let known = Known { name: names::name(index), flawed: false, name_hash: 0, hash: 0 };
            let (form, fixed) = (Form::Indexed, index as u8);
            self.items.push(Item {
                start: 0,
                name_len: 0,
                value_len: 0,
                coded_len: 0,
                coded_name_len: 0,
                form,
                fixed,
                known,
            });
        }
    }

    #[inline]
    pub(super) fn push_pair(&mut self, pair: &[u8], name_len: u32, known: Known, limit: &Limit) {
        let value_len = pair.len() as u32 - name_len;
        if self.admit(name_len as usize, value_len as usize, limit) {
            let start = self.bytes.len() as u32;
            self.bytes.extend_from_slice(pair);
            let form = Form::Indexed;
            self.items.push(Item {
                start,
                name_len,
                value_len,
                coded_len: 0,
                coded_name_len: 0,
                form,
                fixed: 0,
                known,
            });
        }
    }

    /// The bytes, for a literal that is decoded behind those of the fields before it.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Makes a field of what was appended to the bytes since `start`; takes it away if it is too much.
    pub(super) fn push_new(&mut self, new: New, limit: &Limit) {
        let New { start, name_len, value_len, coded_len, coded_name_len, form, known } = new;
        if self.admit(name_len, value_len, limit) {
            let (name_len, value_len) = (name_len as u32, value_len as u32);
            let (start, coded_len, coded_name_len) = (start as u32, coded_len as u32, coded_name_len as u32);
            self.items.push(Item { start, name_len, value_len, coded_len, coded_name_len, form, fixed: 0, known });
        } else {
            self.bytes.truncate(start);
        }
    }
}

/// A field whose bytes are at the end of [`Fields::bytes`].
pub(super) struct New {
    pub(super) start: usize,
    pub(super) name_len: usize,
    pub(super) value_len: usize,
    pub(super) coded_len: usize,
    pub(super) coded_name_len: usize,
    pub(super) form: Form,
    pub(super) known: Known,
}

/// What a block may hold.
pub(super) struct Limit {
    pub(super) bytes: usize,
    pub(super) fields: usize,
}

pub(super) fn hash_name(name: &[u8]) -> u32 {
    hash(name) as u32 | 1
}

pub(super) fn hash_pair(name_hash: u32, value: &[u8]) -> u32 {
    // Another seed for each name, or the same value would be at the same place whatever its name.
    (hash(value) as u32 ^ name_hash).wrapping_mul(0x9E37_79B1)
}

/// Names are tokens in lower case (RFC 9113, section 8.2.1; RFC 9110, section 5.6.2): anything else means
/// something else behind a border to HTTP/1.1. A colon may begin the name of a pseudo-header field.
pub(super) fn is_name(name: &[u8]) -> bool {
    let rest = name.strip_prefix(b":").unwrap_or(name);
    !rest.is_empty() && bytes::all(rest, bytes::NAME)
}

/// Values have no control characters but tabs, and no white space around them (RFC 9113, section 8.2.1; RFC
/// 9110, section 5.5).
pub(super) fn is_value(value: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    !is_blank(value.first()) && !is_blank(value.last()) && bytes::all(value, bytes::VALUE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_what_http_allows() {
        for name in ["a", "x-y_z.1", ":path", "!#$%&'*+-.^_`|~"] {
            assert!(is_name(name.as_bytes()), "{name}");
        }
        for name in ["", ":", "A", "a b", "a:b", "a\r", "a\0", "::a", "\u{e9}", "a(", "a/"] {
            assert!(!is_name(name.as_bytes()), "{name}");
        }
        for value in ["", "a", "a b", "a\tb", "\u{e9}"] {
            assert!(is_value(value.as_bytes()), "{value}");
        }
        for value in [" a", "a ", "\ta", "a\r\nb", "a\0", "\x7f", " "] {
            assert!(!is_value(value.as_bytes()), "{value:?}");
        }
    }
}
