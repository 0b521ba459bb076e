//! Buffers that sessions and links hold only while bytes wait in them.

use std::ops::{Deref, DerefMut};

/// Capacity of a fresh buffer: a request head with room to spare.
const FRESH_BYTES: usize = 1024;
/// A buffer that grew larger is given back to the allocator, or kept as a wide one.
const KEEP_BYTES: usize = 8 * 1024;
/// Spare buffers kept by a worker. Each may be all that is left on its page when many sessions have ended.
const SPARE: usize = 256;
/// The same of a wide one, which a connection has that many turns share.
const WIDE_BYTES: usize = 128 * 1024;
/// Spare wide buffers: as many connections have much to say in one turn of the loop.
const SPARE_WIDE: usize = 8;
/// Spare sets of them, without the bytes: as many as sessions are busy at once.
const SPARE_SETS: usize = 1024;

/// A worker's spare buffers.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    bytes: Vec<Vec<u8>>,
    wide: Vec<Vec<u8>>,
    #[expect(clippy::vec_box, reason = "they change hands as boxes")]
    buffers: Vec<Box<Buffers>>,
}

impl Pool {
    /// An empty buffer.
    #[inline]
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.bytes.pop().unwrap_or_else(|| Vec::with_capacity(FRESH_BYTES))
    }

    /// An empty buffer for much.
    pub(crate) fn take_wide(&mut self) -> Vec<u8> {
        self.wide.pop().unwrap_or_else(|| self.take())
    }

    /// Takes a buffer back.
    #[inline]
    pub(crate) fn give(&mut self, mut buffer: Vec<u8>) {
        let (spare, most) = match buffer.capacity() {
            0 => return,
            1..=KEEP_BYTES => (&mut self.bytes, SPARE),
            _ => (&mut self.wide, SPARE_WIDE),
        };
        if buffer.capacity() <= WIDE_BYTES && spare.len() < most {
            buffer.clear();
            spare.push(buffer);
        }
    }
}

/// What waits in a session.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// Bytes of the client that the engine could not use yet.
    pub(crate) input: Vec<u8>,
    /// Bytes of the endpoint that are not a whole head yet.
    pub(crate) answer: Vec<u8>,
    pub(crate) to_client: SendBuf,
    pub(crate) to_link: SendBuf,
}

/// The buffers of a session: it has them while it is driven, and as long as something waits in them. At all
/// other times it reads as if it had empty ones.
#[derive(Debug, Default)]
pub(crate) struct Held(Option<Box<Buffers>>);

static EMPTY: Buffers =
    Buffers { input: Vec::new(), answer: Vec::new(), to_client: SendBuf::new(), to_link: SendBuf::new() };

impl Deref for Held {
    type Target = Buffers;

    #[inline]
    fn deref(&self) -> &Buffers {
        self.0.as_deref().unwrap_or(&EMPTY)
    }
}

impl DerefMut for Held {
    #[inline]
    fn deref_mut(&mut self) -> &mut Buffers {
        self.0.get_or_insert_default()
    }
}

impl Held {
    /// Has buffers from here on.
    #[inline]
    pub(crate) fn lend(&mut self, pool: &mut Pool) -> &mut Buffers {
        self.0.get_or_insert_with(|| pool.buffers.pop().unwrap_or_default())
    }

    /// Gives back what holds nothing.
    #[inline]
    pub(crate) fn settle(&mut self, pool: &mut Pool) {
        let Some(buffers) = &mut self.0 else { return };
        let Buffers { input, answer, to_client, to_link } = &mut **buffers;
        let mut holds = false;
        for bytes in [input, answer, &mut to_client.bytes, &mut to_link.bytes] {
            if !bytes.is_empty() {
                holds = true;
            } else if bytes.capacity() != 0 {
                pool.give(std::mem::take(bytes));
            }
        }
        if !holds
            && let Some(mut buffers) = self.0.take()
            && pool.buffers.len() < SPARE_SETS
        {
            // There is nothing to keep.
            buffers.to_link.keep = false;
            pool.buffers.push(buffers);
        }
    }

    /// Gives back everything, with what is in it.
    pub(crate) fn clear(&mut self, pool: &mut Pool) {
        if let Some(buffers) = &mut self.0 {
            buffers.input.clear();
            buffers.answer.clear();
            buffers.to_client.clear();
            buffers.to_link.clear();
            self.settle(pool);
        }
    }
}

/// Bytes on their way to a socket. With `keep`, sent bytes stay for a replay on another link.
#[derive(Debug, Default)]
pub(crate) struct SendBuf {
    pub(crate) bytes: Vec<u8>,
    pub(crate) sent: usize,
    pub(crate) keep: bool,
}

impl SendBuf {
    const fn new() -> Self {
        Self { bytes: Vec::new(), sent: 0, keep: false }
    }

    /// What has not been sent.
    #[inline]
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Makes sure that writing into `bytes` does not allocate in the usual case.
    #[inline]
    pub(crate) fn lend(&mut self, pool: &mut Pool) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = pool.take();
        }
        &mut self.bytes
    }

    /// The same for a connection that many turns share.
    #[inline]
    pub(crate) fn lend_wide(&mut self, pool: &mut Pool) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = pool.take_wide();
        }
        &mut self.bytes
    }

    /// `n` more bytes are out. True: what was sent is not kept.
    #[inline]
    pub(crate) fn advance(&mut self, n: usize) -> bool {
        self.sent += n;
        let dropped = !self.keep && self.sent > 0;
        if !self.keep && self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        } else if !self.keep && self.sent >= 32 * 1024 && self.sent * 2 >= self.bytes.len() {
            // Moves at most as many bytes as were sent: amortised constant per byte.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        dropped
    }

    /// Sent bytes are not needed any more. True: there were some.
    #[inline]
    pub(crate) fn forget_sent(&mut self) -> bool {
        self.keep = false;
        self.advance(0)
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        (self.sent, self.keep) = (0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_bytes_can_be_sent_again() {
        let mut buf = SendBuf { bytes: b"request".to_vec(), sent: 0, keep: true };
        assert!(!buf.advance(7));
        assert_eq!(buf.unsent(), b"");
        buf.sent = 0;
        assert_eq!(buf.unsent(), b"request");
        buf.advance(7);
        assert!(buf.forget_sent());
        assert!(buf.bytes.is_empty());
    }

    #[test]
    fn memory_goes_back_to_the_pool_once_sent() {
        let (mut pool, mut held) = (Pool::default(), Held::default());
        held.lend(&mut pool).to_client.lend(&mut pool).extend_from_slice(b"x");
        held.settle(&mut pool);
        assert_eq!(held.to_client.unsent(), b"x");
        held.to_client.advance(1);
        held.settle(&mut pool);
        assert!(held.0.is_none() && held.to_client.unsent().is_empty());
        assert_eq!((pool.bytes.len(), pool.buffers.len()), (1, 1));
    }
}
