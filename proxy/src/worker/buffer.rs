//! Buffers that sessions and links hold only while bytes wait in them.

/// Capacity of a fresh buffer: a request head with room to spare.
const FRESH_BYTES: usize = 1024;
/// A buffer that grew larger is given back to the allocator instead of being kept.
const KEEP_BYTES: usize = 8 * 1024;
/// Spare buffers kept by a worker.
const SPARE: usize = 256;

/// A worker's spare buffers.
#[derive(Debug, Default)]
pub(crate) struct Pool(Vec<Vec<u8>>);

impl Pool {
    /// An empty buffer.
    #[inline]
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_else(|| Vec::with_capacity(FRESH_BYTES))
    }

    /// Takes a buffer back.
    #[inline]
    pub(crate) fn give(&mut self, mut buffer: Vec<u8>) {
        if (1..=KEEP_BYTES).contains(&buffer.capacity()) && self.0.len() < SPARE {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}

/// Bytes on their way to a socket. With `keep`, sent bytes stay for a replay on another link.
#[derive(Debug, Default)]
pub(crate) struct SendBuf {
    pub(crate) bytes: Vec<u8>,
    pub(crate) sent: usize,
    pub(crate) keep: bool,
    /// Sent bytes were dropped since [`SendBuf::clear`]: no replay is possible.
    pub(crate) dropped: bool,
}

impl SendBuf {
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

    /// `n` more bytes are out.
    #[inline]
    pub(crate) fn advance(&mut self, n: usize) {
        self.sent += n;
        self.dropped |= !self.keep && self.sent > 0;
        if !self.keep && self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        } else if !self.keep && self.sent >= 32 * 1024 && self.sent * 2 >= self.bytes.len() {
            // Moves at most as many bytes as were sent: amortised constant per byte.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Sent bytes are not needed any more.
    #[inline]
    pub(crate) fn forget_sent(&mut self) {
        self.keep = false;
        self.advance(0);
    }

    /// Gives the memory back if nothing waits.
    #[inline]
    pub(crate) fn settle(&mut self, pool: &mut Pool) {
        if self.bytes.is_empty() && self.bytes.capacity() != 0 {
            pool.give(std::mem::take(&mut self.bytes));
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self, pool: &mut Pool) {
        self.bytes.clear();
        (self.sent, self.keep, self.dropped) = (0, false, false);
        self.settle(pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_bytes_can_be_sent_again() {
        let mut buf = SendBuf { bytes: b"request".to_vec(), sent: 0, keep: true, dropped: false };
        buf.advance(7);
        assert_eq!(buf.unsent(), b"");
        buf.sent = 0;
        assert_eq!(buf.unsent(), b"request");
        buf.advance(7);
        buf.forget_sent();
        assert!(buf.bytes.is_empty());
    }

    #[test]
    fn memory_goes_back_to_the_pool_once_sent() {
        let mut pool = Pool::default();
        let mut buf = SendBuf::default();
        buf.lend(&mut pool).extend_from_slice(b"x");
        buf.advance(1);
        buf.settle(&mut pool);
        assert_eq!((buf.bytes.capacity(), pool.0.len()), (0, 1));
    }
}
