//! Consistent hashing on a ring: a change of the set moves only the keys of what changed.

use super::Entry;
use crate::hash::{combine, hash};
use alloc::string::ToString;
use alloc::vec::Vec;

/// Points of an endpoint of weight 1. Shares vary by 1/√512 = 4.4 % of their mean; the number does not
/// depend on how many endpoints there are, or every change of the set would move keys of all of them.
const POINTS: usize = 512;
/// Points in all, at most (4 MiB): beyond 512 endpoints they get fewer, and `maglev` is the better
/// choice.
const MAX_POINTS: usize = 1 << 18;

/// Points by hash; each means an entry of the picker.
#[derive(Debug, Default)]
pub(crate) struct Ring(Vec<(u64, u32)>);

fn points(n: usize) -> usize {
    POINTS.min(MAX_POINTS / n.max(1)).max(1)
}

/// What an endpoint is called on rings and in tables: its name, so that a Pod of a StatefulSet keeps
/// its place, else its address.
pub(crate) fn title(entry: &Entry) -> u64 {
    match &entry.endpoint.name {
        Some(name) => hash(name.as_bytes()),
        None => hash(entry.endpoint.address.to_string().as_bytes()),
    }
}

impl Ring {
    pub(crate) fn new(entries: &[Entry]) -> Self {
        let base = points(entries.len());
        let mut ring = Vec::with_capacity(base * entries.len());
        for (index, entry) in entries.iter().enumerate() {
            // Slow start does not move keys back and forth: the weight is the one discovery gave.
            let count = ((base as f64 * entry.weight) as usize).clamp(1, base * 10);
            let title = title(entry);
            ring.extend((0..count as u64).map(|i| (combine(title, i), index as u32)));
        }
        ring.sort_unstable();
        Self(ring)
    }

    /// The entry of a key, and those after it in order, each perhaps more than once.
    pub(crate) fn from(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = self.0.partition_point(|&(point, _)| point < key);
        self.0[start..].iter().chain(&self.0[..start]).map(|&(_, index)| index as usize)
    }
}
