//! The dynamic table (RFC 7541, section 2.3.2), the same for both directions: entries come in at one end and
//! leave at the other.
//!
//! Entries are numbered in the order in which they came, so that a number says whether its entry is still
//! there. Their bytes lie in one buffer, name and value next to each other; it grows with what is stored, and
//! what evicted entries leave behind is reclaimed in one go when it would have to grow.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// What an entry counts beyond its bytes (RFC 7541, section 4.1).
pub(super) const OVERHEAD: usize = 32;

/// Entries, and what a direction wants to remember of each.
#[derive(Debug)]
pub(super) struct Table<T> {
    entries: VecDeque<Entry<T>>,
    bytes: Vec<u8>,
    size: usize,
    max: usize,
    /// Number of the next entry.
    next: u32,
}

/// An entry that is in the table.
#[derive(Debug)]
pub(super) struct Entry<T> {
    start: u32,
    pub(super) name_len: u32,
    pub(super) value_len: u32,
    pub(super) meta: T,
}

impl<T> Entry<T> {
    fn len(&self) -> usize {
        (self.name_len + self.value_len) as usize
    }
}

impl<T> Table<T> {
    pub(super) fn new(max: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: Vec::new(), size: 0, max, next: 0 }
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Bytes that are allocated.
    pub(super) fn footprint(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry<T>>()
    }

    /// Changes the size, and evicts what does not fit any more.
    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        self.make_room(0);
        if self.entries.is_empty() {
            (self.entries, self.bytes) = (VecDeque::new(), Vec::new());
        }
    }

    /// Adds an entry; if it is larger than the table, that only empties it (section 4.4). Returns its number.
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8], meta: T) -> Option<u32> {
        let size = name.len() + value.len() + OVERHEAD;
        self.make_room(size);
        if size > self.max {
            return None;
        }
        if self.bytes.len() + name.len() + value.len() > self.bytes.capacity() {
            self.reclaim();
        }
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        let (name_len, value_len) = (name.len() as u32, value.len() as u32);
        self.entries.push_front(Entry { start, name_len, value_len, meta });
        self.size += size;
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        Some(number)
    }

    /// The entry at this place, the newest first; and its name and value, one behind the other.
    #[inline]
    pub(super) fn get(&self, place: usize) -> Option<(&Entry<T>, &[u8])> {
        let entry = self.entries.get(place)?;
        Some((entry, &self.bytes[entry.start as usize..][..entry.len()]))
    }

    /// The place of the entry with this number, if it is still there.
    #[inline]
    pub(super) fn place(&self, number: u32) -> Option<usize> {
        let place = self.next.wrapping_sub(1).wrapping_sub(number) as usize;
        (place < self.entries.len()).then_some(place)
    }

    /// A number that no entry has for a long time to come.
    pub(super) fn nobody(&self) -> u32 {
        self.next.wrapping_add(u32::MAX / 2)
    }

    fn make_room(&mut self, size: usize) {
        while self.size + size > self.max
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.len() + OVERHEAD;
        }
    }

    /// Moves what is in use to the beginning of the buffer.
    fn reclaim(&mut self) {
        let unused = self.entries.back().map_or(self.bytes.len(), |oldest| oldest.start as usize);
        // Else the buffer is to grow: moving a lot for a little would have to be done again soon.
        if unused >= self.bytes.len() / 2 {
            self.bytes.drain(..unused);
            self.entries.iter_mut().for_each(|entry| entry.start -= unused as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_numbers_and_leave_in_order() {
        let mut table = Table::new(3 * (OVERHEAD + 2));
        let numbers: Vec<_> = (0..5_u8).map(|n| table.insert(b"n", &[n], ()).unwrap()).collect();
        assert_eq!(
            numbers.iter().map(|&n| table.place(n)).collect::<Vec<_>>(),
            [None, None, Some(2), Some(1), Some(0)]
        );
        assert_eq!(table.get(2).unwrap().1, b"n\x02");
        assert!(table.get(3).is_none());
        table.resize(OVERHEAD + 2);
        assert_eq!(table.get(0).unwrap().1, b"n\x04");
        assert!(table.get(1).is_none());
    }

    #[test]
    fn what_is_larger_than_the_table_empties_it() {
        let mut table = Table::new(64);
        table.insert(b"name", b"value", ());
        assert_eq!(table.insert(b"name", &[b'x'; 64], ()), None);
        assert!(table.get(0).is_none());
    }

    #[test]
    fn memory_stays_flat_whatever_passes_through() {
        let mut table = Table::new(4096);
        let mut largest = 0;
        for n in 0..100_000_u32 {
            let value = alloc::vec![b'v'; (n * 7 % 900) as usize];
            table.insert(b"name", &value, ());
            if n == 1000 {
                largest = table.footprint();
            }
        }
        assert!(table.footprint() <= largest.max(3 * 4096), "{} {largest}", table.footprint());
        table.resize(0);
        assert_eq!(table.footprint(), 0);
    }
}
