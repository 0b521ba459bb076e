//! Open files: some are kept back, so that sessions can still reach endpoints, and people the admin API,
//! when clients have taken the rest.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Kept back at least: the admin API, discovery, checks, logs.
const LEAST_RESERVE: usize = 64;
/// Of the limit, this part is kept back for links to endpoints.
const RESERVE: usize = 20;

/// The sockets of all workers, against the limit of the process.
#[derive(Debug)]
pub(crate) struct Descriptors {
    open: AtomicUsize,
    limit: usize,
}

impl Descriptors {
    /// For a process that may have `limit` open files.
    pub(crate) fn new(limit: usize) -> Self {
        Self { open: AtomicUsize::new(0), limit }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Can another client be accepted?
    pub(super) fn has_room(&self) -> bool {
        let reserve = (self.limit / RESERVE).max(LEAST_RESERVE);
        self.open.load(Relaxed).saturating_add(reserve) < self.limit
    }

    pub(super) fn take(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    pub(super) fn give(&self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_back() {
        for (limit, clients) in [(1024, 960), (100, 36), (64, 0), (usize::MAX, 100_000)] {
            let descriptors = Descriptors::new(limit);
            let taken = (0..100_000).take_while(|_| {
                let room = descriptors.has_room();
                descriptors.take();
                room
            });
            assert_eq!(taken.count(), clients, "{limit}");
        }
    }
}
