//! Flow control (RFC 9113, section 5.2), one end of a stream or connection at a time.

/// The window of everybody who was told nothing else (section 6.9.2).
pub const DEFAULT_WINDOW: u32 = 65_535;
/// The largest window (section 6.9.1).
pub const MAX_WINDOW: u32 = (1 << 31) - 1;

/// A window became larger than [`MAX_WINDOW`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Overflow;

/// What we may send. It can be negative, when the peer made it smaller than what was on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Window(i32);

impl Window {
    pub(super) fn new(bytes: u32) -> Self {
        Self(bytes.min(MAX_WINDOW) as i32)
    }

    /// Bytes that may go.
    #[inline]
    pub(super) fn room(self) -> usize {
        self.0.max(0) as usize
    }

    #[inline]
    pub(super) fn take(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.room(), "what is taken was there");
        self.0 -= bytes as i32;
    }

    /// Changes it: an update, or another initial window (section 6.9.2).
    pub(super) fn add(&mut self, bytes: i64) -> Result<(), Overflow> {
        self.0 = i32::try_from(i64::from(self.0) + bytes).map_err(|_| Overflow)?;
        Ok(())
    }
}

/// What a peer may send to us. Its window, what is held here for somebody who has not taken it, and what was
/// taken but not yet said so, are always the whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Receive {
    window: i32,
    held: u32,
    owed: u32,
}

impl Receive {
    pub(super) fn new(window: u32) -> Self {
        Self { window: window.min(MAX_WINDOW) as i32, held: 0, owed: 0 }
    }

    /// Bytes came, and some more that nobody needs to take. False: more than allowed.
    #[inline]
    pub(super) fn came(&mut self, held: u32, padding: u32) -> bool {
        // A frame is far below 2^31.
        if (held + padding) as i32 > self.window {
            return false;
        }
        self.window -= (held + padding) as i32;
        self.held += held;
        self.owed += padding;
        true
    }

    /// Bytes that nobody has taken yet.
    pub(super) fn held(self) -> u32 {
        self.held
    }

    /// They were taken.
    #[inline]
    pub(super) fn taken(&mut self, bytes: u32) {
        debug_assert!(bytes <= self.held, "nobody takes what did not come");
        let bytes = bytes.min(self.held);
        self.held -= bytes;
        self.owed += bytes;
    }

    /// The increment that the peer is to be told now, if any: when it has used half of what it could have, but
    /// not for a trifle.
    #[inline]
    pub(super) fn update(&mut self, whole: u32) -> Option<u32> {
        if i64::from(self.owed) < i64::from(self.window) || self.owed < whole / 8 || self.owed == 0 {
            return None;
        }
        let owed = core::mem::take(&mut self.owed);
        self.window += owed as i32;
        Some(owed)
    }

    /// The peer has learned of another initial window.
    pub(super) fn resize(&mut self, from: u32, to: u32) {
        self.window += to as i32 - from as i32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_may_be_negative_and_has_a_limit() {
        let mut window = Window::new(DEFAULT_WINDOW);
        window.take(60_000);
        assert_eq!(window.add(-i64::from(DEFAULT_WINDOW)), Ok(()));
        assert_eq!(window.room(), 0);
        assert_eq!(window.add(60_001), Ok(()));
        assert_eq!(window.room(), 1);
        assert_eq!(window.add(i64::from(MAX_WINDOW) - 1), Ok(()));
        assert_eq!(window.add(1), Err(Overflow));
    }

    #[test]
    fn credit_follows_what_was_taken() {
        let mut receive = Receive::new(1000);
        assert!(receive.came(600, 0));
        assert_eq!(receive.update(1000), None);
        receive.taken(399);
        assert_eq!(receive.update(1000), None, "the peer has 400 left");
        receive.taken(1);
        assert_eq!(receive.update(1000), Some(400));
        assert!(receive.came(700, 100));
        assert!(!receive.came(1, 0), "the 200 that are held are part of the whole");
        receive.taken(10);
        assert_eq!(receive.update(1000), None, "a trifle");
        receive.taken(890);
        assert_eq!(receive.update(1000), Some(1000));
        assert_eq!(receive, Receive::new(1000));
    }
}
