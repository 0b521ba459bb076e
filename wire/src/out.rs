//! Where an engine writes: a buffer, and at most one piece of the input passed on uncopied.

use alloc::vec::Vec;

/// Bytes for one side: what must be kept, in order, then a slice of the input that follows it.
///
/// The worker writes both with one call and copies what the socket did not take. So a payload that
/// fits the socket crosses evenkeel without being copied in user space.
#[derive(Debug)]
pub struct Out<'buf, 'input> {
    buf: &'buf mut Vec<u8>,
    tail: &'input [u8],
}

impl<'buf, 'input> Out<'buf, 'input> {
    /// Appends to `buf`.
    pub fn new(buf: &'buf mut Vec<u8>) -> Self {
        Self { buf, tail: &[] }
    }

    /// Appends bytes by copying.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        self.spill().extend_from_slice(bytes);
    }

    /// Appends a piece of the input, uncopied while it stays last.
    #[inline]
    pub fn payload(&mut self, bytes: &'input [u8]) {
        if !bytes.is_empty() {
            self.spill();
            self.tail = bytes;
        }
    }

    /// The buffer with everything in it, for writing several small pieces.
    #[inline]
    pub fn spill(&mut self) -> &mut Vec<u8> {
        if !self.tail.is_empty() {
            self.buf.extend_from_slice(self.tail);
            self.tail = &[];
        }
        self.buf
    }

    /// Bytes waiting, tail included.
    pub fn len(&self) -> usize {
        self.buf.len() + self.tail.len()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the uncopied tail: the caller now sees to it that it is written after the buffer.
    pub fn take_tail(&mut self) -> &'input [u8] {
        core::mem::take(&mut self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_whether_copied_or_not() {
        let mut buf = Vec::new();
        let mut out = Out::new(&mut buf);
        out.push(b"head ");
        out.payload(b"body ");
        out.payload(b"more ");
        out.push(b"end");
        out.payload(b"!");
        assert_eq!(out.len(), 19);
        assert_eq!(out.take_tail(), b"!");
        assert_eq!(buf, b"head body more end");
    }
}
