//! The streams of a connection: where they are kept, how they are found, and those that wait for a window.

use super::flow::{Receive, Window};
use alloc::vec::Vec;
use evenkeel_core::time::Instant;

/// A stream of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StreamKey {
    slot: u32,
    id: u32,
}

impl StreamKey {
    /// A small number that no other stream of the connection has at the same time; it is used again.
    pub fn slot(self) -> usize {
        self.slot as usize
    }

    /// What the peers call it.
    pub fn id(self) -> u32 {
        self.id
    }
}

/// How far one direction has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// A head is due.
    Head,
    /// Data or trailers may come.
    Body,
    /// Nothing comes any more.
    Ended,
}

/// What a stream waits for, having more to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    Nothing,
    /// Its own window.
    Stream,
    /// The connection's window, or its turn.
    Connection,
}

#[derive(Debug)]
pub(super) struct Stream {
    /// Zero: the slot is free.
    pub(super) id: u32,
    pub(super) receiving: Side,
    pub(super) sending: Side,
    pub(super) receive: Receive,
    pub(super) send: Window,
    /// Bytes that `content-length` promised and that have not come; `None`: it promised nothing.
    pub(super) promised: Option<u64>,
    /// The request is `HEAD`: its answer has no body, whatever it says of its length.
    pub(super) is_head: bool,
    /// The request is `CONNECT`: what follows is no message.
    pub(super) connect: bool,
    pub(super) wait: Wait,
    /// Since when it has not got on, if it waits.
    pub(super) since: Instant,
    previous: u32,
    next: u32,
    /// The next slot at the same place of the index.
    beside: u32,
}

/// End of a list, and no slot.
const NONE: u32 = u32::MAX;

/// Streams in the order in which they began to wait.
#[derive(Clone, Copy, Debug)]
struct Line {
    first: u32,
    last: u32,
}

#[derive(Debug)]
pub(super) struct Streams {
    slots: Vec<Stream>,
    /// Slots by identifier: at each place the first of a chain. Identifiers are consecutive, so they are their own
    /// hash, and chains longer than one are rare. (Not open addressing: what is open is mostly consecutive, too, so it
    /// would be one long run, all of which is looked at when one goes.)
    index: Vec<u32>,
    free: u32,
    open: u32,
    lines: [Line; 2],
}

impl Streams {
    pub(super) fn new() -> Self {
        let line = Line { first: NONE, last: NONE };
        Self { slots: Vec::new(), index: Vec::new(), free: NONE, open: 0, lines: [line; 2] }
    }

    /// How many there are.
    pub(super) fn len(&self) -> u32 {
        self.open
    }

    pub(super) fn footprint(&self) -> usize {
        self.slots.capacity() * size_of::<Stream>() + self.index.capacity() * 4
    }

    /// Gives back all memory, if there is no stream.
    pub(super) fn shrink(&mut self) {
        if self.open == 0 {
            *self = Self::new();
        }
    }

    pub(super) fn insert(&mut self, id: u32, receive: Receive, send: Window) -> StreamKey {
        let stream = Stream {
            id,
            receiving: Side::Head,
            sending: Side::Head,
            receive,
            send,
            promised: None,
            is_head: false,
            connect: false,
            wait: Wait::Nothing,
            since: Instant::ZERO,
            previous: NONE,
            next: NONE,
            beside: NONE,
        };
        self.open += 1;
        let slot = if self.free == NONE {
            self.slots.push(stream);
            self.slots.len() as u32 - 1
        } else {
            let slot = self.free;
            self.free = self.slots[slot as usize].next;
            self.slots[slot as usize] = stream;
            slot
        };
        if self.slots.len() > self.index.len() {
            self.grow();
        } else {
            self.enter(id, slot);
        }
        StreamKey { slot, id }
    }

    #[inline]
    pub(super) fn find(&self, id: u32) -> Option<StreamKey> {
        let mut slot = *self.index.get(self.place(id))?;
        loop {
            let stream = self.slots.get(slot as usize)?;
            if stream.id == id {
                return Some(StreamKey { slot, id });
            }
            slot = stream.beside;
        }
    }

    #[inline]
    pub(super) fn get(&self, key: StreamKey) -> Option<&Stream> {
        self.slots.get(key.slot()).filter(|stream| stream.id == key.id)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.slots.get_mut(key.slot()).filter(|stream| stream.id == key.id)
    }

    /// The first in this slot or behind it. To walk over all of them while they change, go on in the slot behind
    /// the one that was found.
    pub(super) fn next_from(&self, slot: usize) -> Option<StreamKey> {
        let mut slots = (slot as u32..).zip(self.slots.get(slot..)?);
        slots.find(|(_, stream)| stream.id != 0).map(|(slot, stream)| StreamKey { slot, id: stream.id })
    }

    pub(super) fn remove(&mut self, key: StreamKey) {
        self.wait(key, Wait::Nothing);
        if self.get(key).is_none() {
            return;
        }
        self.leave(key);
        let stream = &mut self.slots[key.slot()];
        (stream.id, stream.next) = (0, self.free);
        self.free = key.slot;
        self.open -= 1;
    }

    /// Puts a stream at the end of a line, or takes it out of the one that it is in.
    pub(super) fn wait(&mut self, key: StreamKey, wait: Wait) {
        let Some(stream) = self.get_mut(key) else { return };
        if stream.wait == wait {
            return;
        }
        let (was, previous, next) = (stream.wait, stream.previous, stream.next);
        (stream.wait, stream.previous, stream.next) = (wait, NONE, NONE);
        if let Some(line) = line(was) {
            match self.slots.get_mut(previous as usize) {
                Some(before) => before.next = next,
                None => self.lines[line].first = next,
            }
            match self.slots.get_mut(next as usize) {
                Some(after) => after.previous = previous,
                None => self.lines[line].last = previous,
            }
        }
        if let Some(line) = line(wait) {
            let last = core::mem::replace(&mut self.lines[line].last, key.slot);
            self.slots[key.slot()].previous = last;
            match self.slots.get_mut(last as usize) {
                Some(before) => before.next = key.slot,
                None => self.lines[line].first = key.slot,
            }
        }
    }

    /// The first that waits for this.
    #[inline]
    pub(super) fn first(&self, wait: Wait) -> Option<StreamKey> {
        let slot = self.lines[line(wait)?].first;
        Some(StreamKey { slot, id: self.slots.get(slot as usize)?.id })
    }

    /// The one that has not got on for longest, and since when; of those that have not got on for as long, any.
    pub(super) fn slowest(&self) -> Option<(StreamKey, Instant)> {
        let first = [Wait::Stream, Wait::Connection].into_iter().filter_map(|wait| self.first(wait));
        first.filter_map(|key| Some((key, self.get(key)?.since))).min_by_key(|&(_, since)| since)
    }

    fn place(&self, id: u32) -> usize {
        (id >> 1) as usize & self.index.len().wrapping_sub(1)
    }

    fn enter(&mut self, id: u32, slot: u32) {
        let place = self.place(id);
        self.slots[slot as usize].beside = core::mem::replace(&mut self.index[place], slot);
    }

    #[cold]
    fn grow(&mut self) {
        let places = (self.slots.len() * 2).next_power_of_two().max(8);
        self.index.clear();
        self.index.resize(places, NONE);
        for slot in 0..self.slots.len() as u32 {
            let id = self.slots[slot as usize].id;
            if id != 0 {
                self.enter(id, slot);
            }
        }
    }

    /// Takes a stream, which is there, out of the index.
    fn leave(&mut self, key: StreamKey) {
        let place = self.place(key.id);
        let beside = self.slots[key.slot()].beside;
        let mut at = self.index[place];
        if at == key.slot {
            self.index[place] = beside;
            return;
        }
        while let Some(stream) = self.slots.get_mut(at as usize) {
            at = stream.beside;
            if at == key.slot {
                stream.beside = beside;
                return;
            }
        }
    }
}

fn line(wait: Wait) -> Option<usize> {
    match wait {
        Wait::Nothing => None,
        Wait::Stream => Some(0),
        Wait::Connection => Some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use evenkeel_core::rng::Rng;

    fn insert(streams: &mut Streams, id: u32) -> StreamKey {
        streams.insert(id, Receive::new(1), Window::new(1))
    }

    #[test]
    fn streams_are_found_as_in_a_map() {
        let (mut streams, mut model, mut rng) = (Streams::new(), BTreeMap::new(), Rng::seeded(7));
        let (mut next, mut largest) = (1, 0);
        for round in 0..20_000 {
            if model.len() < 100 && rng.next_u64() % 2 == 0 {
                next += 2 * (1 + rng.next_u64() as u32 % 40);
                assert_eq!(model.insert(next, insert(&mut streams, next)), None);
            } else if let Some((&id, &key)) = model.range(rng.next_u64() as u32 % (next + 1)..).next() {
                model.remove(&id);
                streams.remove(key);
                assert!(streams.get(key).is_none());
            }
            assert_eq!(streams.len() as usize, model.len());
            if round % 1_000 == 0 {
                for id in 0..next + 2 {
                    assert_eq!(streams.find(id), model.get(&id).copied());
                }
            }
            if round == 5_000 {
                largest = streams.footprint();
            }
        }
        assert_eq!(streams.footprint(), largest);
    }

    #[test]
    fn lines_keep_their_order() {
        let mut streams = Streams::new();
        let keys: Vec<_> = (0..5).map(|n| insert(&mut streams, 2 * n + 1)).collect();
        keys.iter().for_each(|&key| streams.wait(key, Wait::Connection));
        streams.wait(keys[1], Wait::Stream);
        streams.wait(keys[4], Wait::Nothing);
        streams.remove(keys[0]);
        let mut order = Vec::new();
        while let Some(key) = streams.first(Wait::Connection) {
            order.push(key);
            streams.wait(key, Wait::Nothing);
        }
        assert_eq!(order, [keys[2], keys[3]]);
        assert_eq!(streams.first(Wait::Stream), Some(keys[1]));
        streams.wait(keys[1], Wait::Connection);
        assert_eq!((streams.first(Wait::Stream), streams.first(Wait::Connection)), (None, Some(keys[1])));
    }
}
