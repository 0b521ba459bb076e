//! Streams that are over, for as long as the peer may not have heard of it.

use alloc::vec::Vec;

/// How many are remembered. Who is told of more in one round trip gets an answer for those that came first as if
/// it should have known.
const CAPACITY: usize = 128;

/// Who ended a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EndedBy {
    /// We, with a reset: what the peer sent before it heard of that is not its fault.
    Us,
    /// The peer, with a reset or its last frame: it must send nothing any more.
    Peer,
}

/// Identifiers in the order in which their streams ended; the oldest makes room.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// The top bit says that it was us.
    ids: Vec<u32>,
    next: usize,
}

const BY_US: u32 = 1 << 31;

impl Recent {
    #[inline]
    pub(super) fn push(&mut self, id: u32, by: EndedBy) {
        let entry = if by == EndedBy::Us { id | BY_US } else { id };
        match self.ids.get_mut(self.next) {
            Some(oldest) => *oldest = entry,
            None => self.ids.push(entry),
        }
        self.next = (self.next + 1) % CAPACITY;
    }

    pub(super) fn find(&self, id: u32) -> Option<EndedBy> {
        let entry = self.ids.iter().find(|&&entry| entry & !BY_US == id)?;
        Some(if entry & BY_US != 0 { EndedBy::Us } else { EndedBy::Peer })
    }

    /// The peer has sent its last frame on a stream that we had ended.
    pub(super) fn ended(&mut self, id: u32) {
        if let Some(entry) = self.ids.iter_mut().find(|entry| **entry == id | BY_US) {
            *entry = id;
        }
    }

    pub(super) fn shrink(&mut self) {
        *self = Self::default();
    }

    pub(super) fn footprint(&self) -> usize {
        self.ids.capacity() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut recent = Recent::default();
        for id in 0..1000 {
            recent.push(id, if id % 2 == 0 { EndedBy::Us } else { EndedBy::Peer });
        }
        assert_eq!(recent.footprint(), CAPACITY * 4);
        assert_eq!(recent.find(999 - CAPACITY as u32), None);
        assert_eq!((recent.find(998), recent.find(999)), (Some(EndedBy::Us), Some(EndedBy::Peer)));
        recent.ended(998);
        assert_eq!(recent.find(998), Some(EndedBy::Peer));
    }
}
