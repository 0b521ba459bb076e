//! Stable small keys for the things a worker owns.

/// A key that never means a different thing than it did: index, and how often it was reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key {
    pub(crate) index: u32,
    generation: u32,
}

impl Key {
    /// 31 bits of generation and 32 of index, for an event token; the top bit stays free.
    pub(crate) fn bits(self) -> u64 {
        u64::from(self.generation & 0x7FFF_FFFF) << 32 | u64::from(self.index)
    }

    /// Back from [`Key::bits`].
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 & 0x7FFF_FFFF }
    }
}

/// Boxed values by index. An entry costs 16 bytes; a removed value's memory is given back.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<(u32, Option<Box<T>>)>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The key that the next [`Slab::insert`] will return.
    pub(crate) fn next_key(&self) -> Key {
        match self.free.last() {
            Some(&index) => Key { index, generation: self.entries[index as usize].0 },
            None => Key { index: self.entries.len() as u32, generation: 0 },
        }
    }

    pub(crate) fn insert(&mut self, value: T) -> Key {
        let key = self.next_key();
        match self.free.pop() {
            Some(index) => self.entries[index as usize].1 = Some(Box::new(value)),
            None => self.entries.push((0, Some(Box::new(value)))),
        }
        self.len += 1;
        key
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<Box<T>> {
        let entry = self.entries.get_mut(key.index as usize).filter(|e| e.0 == key.generation)?;
        let value = entry.1.take()?;
        entry.0 = entry.0.wrapping_add(1) & 0x7FFF_FFFF;
        self.free.push(key.index);
        self.len -= 1;
        Some(value)
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
        let live = |(index, entry): (usize, &(u32, Option<Box<T>>))| {
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
        assert_eq!(Key::from_bits(b.bits()), b);
        assert_eq!((slab.len(), slab.keys()), (1, vec![b]));
    }
}
