//! Maglev hashing (Eisenbud et al., NSDI 2016): nearly equal shares, few keys moved, one load a pick.

use super::{Entry, places};
use crate::endpoint::EndpointId;
use crate::hash::combine;
use alloc::vec;
use alloc::vec::Vec;

/// Up to so many endpoints, a table of so many slots: prime, so that every step walks the whole table. At least
/// 32 for each of 2,000 endpoints, so that shares differ by 3 % at most, and 16 for each of 10,000 (6 %): a table
/// twice as large would take twice as long to build, 8 ms of CPU for every change.
const SIZES: [(usize, u32); 3] = [(2_000, 65_537), (10_000, 163_841), (usize::MAX, 655_373)];
/// When only so many slots are free, the next of them is computed rather than found by walking past taken ones.
const SPARSE: usize = 256;
const FREE: u32 = u32::MAX;

/// A finished table: slots that name members.
#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Vec<u32>,
    /// In order of identity, with their weights.
    members: Vec<(EndpointId, f64)>,
}

impl Table {
    /// Was it made of these?
    pub(crate) fn fits(&self, entries: &[Entry]) -> bool {
        self.members.iter().copied().eq(entries.iter().map(Entry::key))
    }

    /// Is there nobody in it?
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// For each member, which entry it is now.
    pub(crate) fn places(&self, entries: &[Entry]) -> Vec<u32> {
        places(self.members.iter().map(|&(id, _)| id), entries)
    }

    /// The member of a key, and those in the slots after it.
    #[inline]
    pub(crate) fn from(&self, key: u64) -> impl Iterator<Item = usize> {
        // By a constant, so that nothing is divided.
        let start = match self.slots.len() as u32 {
            0 => 0,
            size if size == SIZES[0].1 => key % u64::from(SIZES[0].1),
            size if size == SIZES[1].1 => key % u64::from(SIZES[1].1),
            _ => key % u64::from(SIZES[2].1),
        };
        let (before, after) = self.slots.split_at(start as usize);
        after.iter().chain(before).map(|&member| member as usize)
    }
}

/// A table in the making: its work is done in slices, while the old table serves.
#[derive(Debug)]
pub(crate) struct Builder {
    slots: Vec<u32>,
    /// A bit for each slot: walks go past most slots, and all the bits fit into a near cache.
    taken: Vec<u64>,
    free: usize,
    members: Vec<(EndpointId, f64)>,
    walks: Vec<Walk>,
    turn: usize,
    /// The free slots, once there are few.
    rest: Vec<u32>,
}

/// One member's way through the table.
#[derive(Debug)]
struct Walk {
    /// The next slot that it looks at.
    at: u32,
    skip: u32,
    /// Share of a turn for each turn of the heaviest, and what is saved up of it.
    weight: f64,
    saved: f64,
}

impl Builder {
    /// Begins a table over `entries`, which are in order of identity: it is a function of their names and weights.
    pub(crate) fn new(entries: &[Entry]) -> Self {
        let size = SIZES.iter().find(|&&(most, _)| entries.len() <= most).map_or(SIZES[2].1, |&(_, size)| size);
        let heaviest = entries.iter().map(|e| e.weight).fold(f64::MIN_POSITIVE, f64::max);
        let walk = |entry: &Entry| Walk {
            at: (combine(entry.id.0, 0) % u64::from(size)) as u32,
            skip: (combine(entry.id.0, 1) % u64::from(size - 1)) as u32 + 1,
            weight: (entry.weight / heaviest).max(0.001),
            saved: 0.0,
        };
        Self {
            slots: vec![FREE; size as usize],
            taken: vec![0; size.div_ceil(64) as usize],
            free: size as usize,
            members: entries.iter().map(Entry::key).collect(),
            walks: entries.iter().map(walk).collect(),
            turn: 0,
            rest: Vec::new(),
        }
    }

    /// Is it of these?
    pub(crate) fn fits(&self, entries: &[Entry]) -> bool {
        self.members.iter().copied().eq(entries.iter().map(Entry::key))
    }

    /// Looks at about `steps` slots; `Some` when the table is finished.
    pub(crate) fn advance(&mut self, steps: usize) -> Option<Table> {
        if self.members.is_empty() {
            return Some(Table::default());
        }
        let mut left = steps;
        while self.free > 0 {
            if left == 0 {
                return None;
            }
            let member = self.turn;
            self.turn = if member + 1 < self.walks.len() { member + 1 } else { 0 };
            let walk = &mut self.walks[member];
            walk.saved += walk.weight;
            if walk.saved < 1.0 {
                left -= 1;
                continue;
            }
            walk.saved -= 1.0;
            let (slot, looked_at) = if self.free <= SPARSE { self.nearest(member) } else { self.walk(member) };
            left = left.saturating_sub(looked_at);
            self.slots[slot as usize] = member as u32;
            self.taken[slot as usize / 64] |= 1 << (slot % 64);
            self.free -= 1;
        }
        Some(Table { slots: core::mem::take(&mut self.slots), members: core::mem::take(&mut self.members) })
    }

    /// The next free slot on the member's way, and how many were looked at.
    fn walk(&mut self, member: usize) -> (u32, usize) {
        let (walk, size) = (&mut self.walks[member], self.slots.len() as u32);
        let (mut at, mut looked_at) = (walk.at, 0);
        loop {
            let slot = at;
            // Less the size if it is beyond the end; without a branch, which nobody could predict.
            at = u32::min(at + walk.skip, (at + walk.skip).wrapping_sub(size));
            looked_at += 1;
            if self.taken[slot as usize / 64] & 1 << (slot % 64) == 0 {
                walk.at = at;
                return (slot, looked_at);
            }
        }
    }

    /// The same when few are free: of all free slots, the one that is the fewest steps away.
    fn nearest(&mut self, member: usize) -> (u32, usize) {
        let (walk, size) = (&mut self.walks[member], self.slots.len() as u64);
        if self.rest.is_empty() {
            self.rest = (0..size as u32).filter(|&slot| self.slots[slot as usize] == FREE).collect();
        }
        let (at, skip) = (u64::from(walk.at), u64::from(walk.skip));
        let per_slot = inverse(skip, size);
        let steps = |slot: u32| (u64::from(slot) + size - at) * per_slot % size;
        let nearest = (0..self.rest.len()).min_by_key(|&i| steps(self.rest[i])).unwrap_or(0);
        let looked_at = self.rest.len();
        let slot = self.rest.swap_remove(nearest);
        walk.at = ((u64::from(slot) + skip) % size) as u32;
        (slot, looked_at)
    }
}

/// What makes 1 of `x` by multiplication modulo a prime: x to the power of the prime less two (Fermat).
fn inverse(x: u64, prime: u64) -> u64 {
    let (mut result, mut square, mut exponent) = (1, x, prime - 2);
    while exponent > 0 {
        if exponent % 2 == 1 {
            result = result * square % prime;
        }
        square = square * square % prime;
        exponent /= 2;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picker::tests::entries;

    #[test]
    fn sizes_are_prime() {
        for (_, size) in SIZES {
            assert!((2..1_000).all(|divisor| size % divisor != 0), "{size}");
        }
    }

    /// The paper's way: everybody walks, past whatever is taken.
    fn by_the_book(entries: &[Entry], size: u64) -> Vec<u32> {
        let heaviest = entries.iter().map(|e| e.weight).fold(0.0, f64::max);
        let mut walks: Vec<(u64, u64, f64)> = entries
            .iter()
            .map(|entry| (combine(entry.id.0, 0) % size, combine(entry.id.0, 1) % (size - 1) + 1, 0.0))
            .collect();
        let (mut slots, mut free) = (vec![FREE; size as usize], size);
        for member in (0..entries.len()).cycle() {
            let (at, skip, saved) = &mut walks[member];
            *saved += entries[member].weight / heaviest;
            if *saved >= 1.0 {
                *saved -= 1.0;
                while slots[*at as usize] != FREE {
                    *at = (*at + *skip) % size;
                }
                slots[*at as usize] = member as u32;
                free -= 1;
                if free == 0 {
                    break;
                }
            }
        }
        slots
    }

    #[test]
    fn slices_and_short_cuts_make_the_table_of_the_paper() {
        for (n, steps) in [(1, 10_000), (3, usize::MAX), (500, 777), (2_001, 50_000)] {
            let entries = entries(n, |i| if i % 4 == 1 { 0.5 } else { 1.0 });
            let mut builder = Builder::new(&entries);
            let table = loop {
                if let Some(table) = builder.advance(steps) {
                    break table;
                }
            };
            assert!(table.fits(&entries) && !table.fits(&entries[1..]));
            assert_eq!(table.slots, by_the_book(&entries, table.slots.len() as u64), "{n}");
        }
    }
}
