//! Stable small keys for the things a worker owns.

use std::num::NonZeroU32;

/// How many things have had an index, the present one included; 31 bits of that.
type Generation = NonZeroU32;

/// Of a generation, so that a key fits into an event token with a bit to spare.
const GENERATION_BITS: u32 = 0x7FFF_FFFF;

/// A key that never means a different thing than it did: index, and how often it was used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key {
    pub(crate) index: u32,
    generation: Generation,
}

impl Key {
    /// 31 bits of generation and 32 of index, for an event token; the top bit stays free.
    pub(crate) fn bits(self) -> u64 {
        u64::from(self.generation.get()) << 32 | u64::from(self.index)
    }

    /// Back from [`Key::bits`]; `None`: it is not from there.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        let generation = Generation::new((bits >> 32) as u32 & GENERATION_BITS)?;
        Some(Self { index: bits as u32, generation })
    }
}

/// The generation behind `generation`.
fn next(generation: Generation) -> Generation {
    Generation::new((generation.get() + 1) & GENERATION_BITS).unwrap_or(Generation::MIN)
}

/// Boxed values by index. An entry costs 16 bytes; a removed value's memory is given back, and that of the entries
/// when few are left.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<(Generation, Option<Box<T>>)>,
    free: Vec<u32>,
    len: usize,
    /// The generation of entries that are new.
    first: Generation,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), len: 0, first: Generation::MIN }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The key that the next [`Slab::insert`] will return.
    pub(crate) fn next_key(&self) -> Key {
        match self.free.last() {
            Some(&index) => Key { index, generation: self.entries[index as usize].0 },
            None => Key { index: self.entries.len() as u32, generation: self.first },
        }
    }

    pub(crate) fn insert(&mut self, value: T) -> Key {
        let key = self.next_key();
        match self.free.pop() {
            Some(index) => self.entries[index as usize].1 = Some(Box::new(value)),
            None => self.entries.push((self.first, Some(Box::new(value)))),
        }
        self.len += 1;
        key
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<Box<T>> {
        let entry = self.entries.get_mut(key.index as usize).filter(|e| e.0 == key.generation)?;
        let value = entry.1.take()?;
        entry.0 = next(entry.0);
        self.free.push(key.index);
        self.len -= 1;
        // Looked for as often as the number halves, so that all of it costs no more than the removals do.
        if self.len.count_ones() <= 1 {
            self.shrink();
        }
        Some(value)
    }

    /// Forgets the entries behind the last that is in use, if they are most.
    fn shrink(&mut self) {
        let used = self.entries.iter().rposition(|(_, value)| value.is_some()).map_or(0, |last| last + 1);
        if used > self.entries.len() / 2 {
            return;
        }
        for (generation, _) in self.entries.drain(used..) {
            // Who still has a key of one of them must not find its successor.
            self.first = self.first.max(generation);
        }
        self.free.retain(|&index| (index as usize) < used);
        self.entries.shrink_to_fit();
        self.free.shrink_to_fit();
    }

    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        self.entries.get(key.index as usize).filter(|e| e.0 == key.generation)?.1.as_deref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.entries.get_mut(key.index as usize).filter(|e| e.0 == key.generation)?.1.as_deref_mut()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter_map(|(_, value)| value.as_deref())
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        let live = |(index, entry): (usize, &(Generation, Option<Box<T>>))| {
            entry.1.as_ref().map(|_| Key { index: index as u32, generation: entry.0 })
        };
        self.entries.iter().enumerate().filter_map(live).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab = Slab::new();
        let a = slab.insert("a");
        assert_eq!(slab.remove(a).as_deref(), Some(&"a"));
        let b = slab.insert("b");
        assert_eq!(a.index, b.index);
        assert_eq!((slab.get(a), slab.get(b)), (None, Some(&"b")));
        assert!(slab.remove(a).is_none());
        assert_eq!((Key::from_bits(b.bits()), Key::from_bits(0)), (Some(b), None));
        assert_eq!((slab.len(), slab.keys()), (1, vec![b]));
    }

    #[test]
    fn what_was_large_is_small_again_and_stale_keys_find_nothing() {
        let mut slab = Slab::new();
        let keys: Vec<Key> = (0..1000).map(|n| slab.insert(n)).collect();
        for key in &keys[1..] {
            slab.remove(*key);
        }
        assert!(slab.entries.capacity() < 10 && slab.free.capacity() < 10);
        let again: Vec<Key> = (0..1000).map(|n| slab.insert(n)).collect();
        assert_eq!(slab.get(keys[0]), Some(&0));
        assert!(keys[1..].iter().all(|&key| slab.get(key).is_none()));
        assert!(again.iter().zip(0..1000).all(|(&key, n)| slab.get(key) == Some(&n)));
    }
}
