//! Maglev hashing (Eisenbud et al., NSDI 2016): nearly equal shares, few keys moved, one load a pick.

use super::Entry;
use super::ring::title;
use crate::endpoint::EndpointId;
use crate::hash::combine;
use alloc::vec;
use alloc::vec::Vec;

/// Table sizes; prime, so that every step walks the whole table.
const SMALL: usize = 65_537;
const LARGE: usize = 655_373;
/// From here on the small table has too few slots for each.
const MANY: usize = 2_000;

/// A finished table: slots that name endpoints.
#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Vec<u32>,
    members: Vec<EndpointId>,
}

impl Table {
    /// The endpoint of a key, and those in the slots after it.
    pub(crate) fn from(&self, key: u64) -> impl Iterator<Item = EndpointId> {
        let size = self.slots.len().max(1);
        let start = (key % size as u64) as usize;
        let order =
            self.slots.get(start..).unwrap_or_default().iter().chain(&self.slots[..start.min(self.slots.len())]);
        order.map(|&member| self.members[member as usize])
    }
}

/// A table in the making: its work is done in slices, while the old table serves.
#[derive(Debug)]
pub(crate) struct Builder {
    slots: Vec<u32>,
    filled: usize,
    members: Vec<Member>,
    turn: usize,
}

#[derive(Debug)]
struct Member {
    id: EndpointId,
    offset: u64,
    skip: u64,
    next: u64,
    /// Share of a turn for each turn of the heaviest, and what is saved up of it.
    weight: f64,
    saved: f64,
}

impl Builder {
    /// Begins a table over `entries`; it is a function of their names and weights, not their order.
    pub(crate) fn new(entries: &[Entry]) -> Self {
        let size = if entries.len() > MANY { LARGE } else { SMALL };
        let heaviest = entries.iter().map(|e| e.weight).fold(f64::MIN_POSITIVE, f64::max);
        let mut members: Vec<(u64, Member)> = entries
            .iter()
            .map(|entry| {
                let title = title(entry);
                let offset = combine(title, 0) % size as u64;
                let skip = combine(title, 1) % (size as u64 - 1) + 1;
                let weight = (entry.weight / heaviest).max(0.001);
                (title, Member { id: entry.endpoint.id, offset, skip, next: 0, weight, saved: 0.0 })
            })
            .collect();
        members.sort_by_key(|(title, _)| *title);
        let members = members.into_iter().map(|(_, member)| member).collect();
        Self { slots: vec![u32::MAX; size], filled: 0, members, turn: 0 }
    }

    /// Looks at up to `steps` slots; `Some` when the table is finished.
    pub(crate) fn advance(&mut self, steps: usize) -> Option<Table> {
        if self.members.is_empty() {
            return Some(Table::default());
        }
        let size = self.slots.len() as u64;
        let mut left = steps;
        while self.filled < self.slots.len() {
            let index = self.turn % self.members.len();
            let member = &mut self.members[index];
            self.turn += 1;
            member.saved += member.weight;
            if member.saved < 1.0 {
                continue;
            }
            member.saved -= 1.0;
            loop {
                let slot = ((member.offset + member.next * member.skip) % size) as usize;
                member.next += 1;
                left = left.saturating_sub(1);
                if self.slots[slot] == u32::MAX {
                    self.slots[slot] = index as u32;
                    self.filled += 1;
                    break;
                }
            }
            if left == 0 && self.filled < self.slots.len() {
                return None;
            }
        }
        let members = self.members.iter().map(|m| m.id).collect();
        Some(Table { slots: core::mem::take(&mut self.slots), members })
    }
}
