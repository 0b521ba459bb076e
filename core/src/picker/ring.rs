//! Consistent hashing on a ring: a change of the set moves only the keys of what changed.

use super::{Entry, GONE, places};
use crate::endpoint::EndpointId;
use crate::hash::combine;
use alloc::vec;
use alloc::vec::Vec;

/// Points of an endpoint of weight 1. Shares vary by 1/√512 = 4.4 % of their mean; the number does not
/// depend on how many endpoints there are, or every change of the set would move keys of all of them.
const POINTS: usize = 512;
/// Points in all, at most (4 MiB): beyond 1,024 endpoints each gets half, beyond 2,048 a quarter, and so on: a
/// change of the set moves keys of all of them only where it crosses such a number.
const MAX_POINTS: usize = 1 << 19;
/// Points of a bucket, about: what is looked through for a key lies in one line of the cache, most often.
const BUCKET: usize = 4;

/// Points in order, in buckets by their leading bits: the bucket of a key is found at once, and its point after
/// a few steps. A bucket implies the leading bits of its points, so the index of the entry takes their place.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    /// Points of an endpoint of weight 1.
    base: usize,
    /// The number of leading bits that choose the bucket.
    bits: u32,
    /// Where each bucket begins, and the end of the last.
    starts: Vec<u32>,
    points: Vec<u64>,
    /// Whose the points are, and their weights.
    members: Vec<(EndpointId, f64)>,
}

fn points(n: usize) -> usize {
    POINTS.min(MAX_POINTS / n.max(1).next_power_of_two()).max(1)
}

/// Slow start does not move keys back and forth: the weight is the one discovery gave.
fn count(base: usize, weight: f64) -> usize {
    ((base as f64 * weight) as usize).clamp(1, base.saturating_mul(10))
}

impl Ring {
    /// Was it made of these?
    pub(crate) fn fits(&self, entries: &[Entry]) -> bool {
        self.members.iter().copied().eq(entries.iter().map(Entry::key))
    }

    /// The ring of `entries`, which takes over what the ring before it has of their points.
    pub(crate) fn new(entries: &[Entry], before: &Self) -> Self {
        let base = points(entries.len());
        let total = entries.iter().map(|entry| count(base, entry.weight)).sum();
        // An index takes no more bits than a bucket implies.
        let buckets = usize::max(total / BUCKET, entries.len()).max(2).next_power_of_two();
        let bits = buckets.ilog2();

        let mut stays = places(before.members.iter().map(|&(id, _)| id), entries);
        let mut is_new = vec![true; entries.len()];
        let alike = (before.base, before.bits) == (base, bits);
        for (stays, &(_, weight)) in stays.iter_mut().zip(&before.members) {
            match entries.get(*stays as usize) {
                Some(entry) if alike && entry.weight == weight => is_new[*stays as usize] = false,
                _ => *stays = GONE,
            }
        }
        let mut added: Vec<(u64, u64)> = Vec::new();
        for (entry, index) in entries.iter().zip(0..).filter(|&(_, index)| is_new[index as usize]) {
            // An endpoint is called on the ring by its name, so that a Pod of a StatefulSet keeps its place, else by
            // its address: by its identity.
            let points = (0..count(base, entry.weight) as u64).map(|i| combine(entry.id.0, i));
            added.extend(points.map(|point| (point, index)));
        }
        added.sort_unstable();

        let (mut starts, mut points) = (Vec::with_capacity(buckets + 1), Vec::with_capacity(total));
        let mut added = added.into_iter().peekable();
        for bucket in 0..buckets {
            let start = points.len();
            starts.push(start as u32);
            for word in if alike { before.bucket(bucket) } else { &[] } {
                let owner = stays[(word & before.owner_mask()) as usize];
                if owner != GONE {
                    points.push(word & !before.owner_mask() | u64::from(owner));
                }
            }
            let is_here = |&(point, _): &(u64, u64)| (point >> (64 - bits)) as usize == bucket;
            if added.peek().is_some_and(is_here) {
                while let Some((point, owner)) = added.next_if(is_here) {
                    points.push(point << bits | owner);
                }
                points[start..].sort_unstable();
            }
        }
        starts.push(points.len() as u32);
        Self { base, bits, starts, points, members: entries.iter().map(Entry::key).collect() }
    }

    fn owner_mask(&self) -> u64 {
        (1 << self.bits) - 1
    }

    fn bucket(&self, bucket: usize) -> &[u64] {
        &self.points[self.starts[bucket] as usize..self.starts[bucket + 1] as usize]
    }

    /// The entry of a key, and those after it in order, each perhaps more than once.
    #[inline]
    pub(crate) fn from(&self, key: u64) -> impl Iterator<Item = usize> {
        let owner = self.owner_mask();
        let mut start = 0;
        if !self.points.is_empty() {
            let bucket = (key >> (64 - self.bits)) as usize;
            // The least word that a point at the key could have.
            let least = key << self.bits;
            let before = self.bucket(bucket).iter().take_while(|&&word| word < least).count();
            start = self.starts[bucket] as usize + before;
        }
        self.points[start..].iter().chain(&self.points[..start]).map(move |word| (word & owner) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picker::tests::entries;
    use crate::rng::Rng;

    /// All points in order, to be searched.
    fn by_the_book(entries: &[Entry]) -> Vec<(u64, usize)> {
        let base = points(entries.len());
        let of = |(index, entry): (usize, &Entry)| {
            let id = entry.id.0;
            (0..count(base, entry.weight) as u64).map(move |i| (combine(id, i), index)).collect::<Vec<_>>()
        };
        let mut all: Vec<(u64, usize)> = entries.iter().enumerate().flat_map(of).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn a_ring_made_of_the_one_before_is_the_ring_made_anew() {
        let mut rng = Rng::seeded(3);
        let mut ring = Ring::default();
        for n in [1, 2, 3, 40, 39, 41, 20, 1_030, 1_028, 1_020, 2, 1, 7] {
            let mut now = entries(n, |i| if i % 5 == 4 { 0.5 + (n % 3) as f64 } else { 1.0 });
            if n > 2 {
                now.remove(n / 2);
            }
            ring = Ring::new(&now, &ring);
            assert!(ring.fits(&now) && !ring.fits(&now[1..]));
            let anew = Ring::new(&now, &Ring::default());
            assert_eq!((&ring.points, &ring.starts), (&anew.points, &anew.starts), "{n}");
            let book = by_the_book(&now);
            for key in (0..1_000).map(|_| rng.next_u64()).chain([0, u64::MAX, combine(now[0].id.0, 0)]) {
                let at = book.partition_point(|&(point, _)| point < key);
                let (_, owner) = book.get(at).unwrap_or(&book[0]);
                assert_eq!(ring.from(key).next(), Some(*owner), "{key} among {n}");
            }
            assert_eq!(ring.from(rng.next_u64()).count(), ring.points.len());
        }
        assert_eq!(Ring::new(&[], &ring).from(1).next(), None);
    }
}
