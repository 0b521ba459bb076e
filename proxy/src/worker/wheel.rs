//! A hierarchical timer wheel (Varghese and Lauck): arming is O(1), nothing is ever cancelled.
//!
//! A timer that no longer matters fires and is ignored by its owner; one that moved to a later time
//! is armed again when it fires. So a session that is busy touches the wheel once per timeout, not
//! once per request.

use evenkeel_core::time::{Duration, Instant};

/// One tick: the finest timeout (protocol detection) is a few milliseconds.
const TICK_NANOS: u64 = 1_000_000;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// 64^5 ms: twelve days; later deadlines wait in the last level and are placed again.
const LEVELS: usize = 5;

#[derive(Debug)]
pub(crate) struct Wheel<T> {
    /// The tick up to which everything has fired.
    now: u64,
    levels: [[Vec<(u64, T)>; SLOTS]; LEVELS],
    /// One bit per slot that is not empty.
    occupied: [u64; LEVELS],
}

impl<T> Wheel<T> {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            now: now.as_nanos() / TICK_NANOS,
            levels: core::array::from_fn(|_| core::array::from_fn(|_| Vec::new())),
            occupied: [0; LEVELS],
        }
    }

    /// Arms a timer: `value` comes back from [`Wheel::fire`] not before `deadline`.
    pub(crate) fn arm(&mut self, deadline: Instant, value: T) {
        self.place(deadline.as_nanos().div_ceil(TICK_NANOS), value);
    }

    fn place(&mut self, due: u64, value: T) {
        let due = due.max(self.now + 1);
        let distance = due ^ self.now;
        let level = ((63 - distance.leading_zeros()) / SLOT_BITS).min(LEVELS as u32 - 1);
        let slot = if (63 - distance.leading_zeros()) / SLOT_BITS >= LEVELS as u32 {
            // Beyond the horizon: the slot of the last level that is reached last.
            ((self.now >> (SLOT_BITS * level)) as usize + SLOTS - 1) % SLOTS
        } else {
            (due >> (SLOT_BITS * level)) as usize % SLOTS
        };
        self.levels[level as usize][slot].push((due, value));
        self.occupied[level as usize] |= 1 << slot;
    }

    /// Time until something may be due; `None`: nothing is armed. May be early, never late.
    pub(crate) fn next(&self, now: Instant) -> Option<Duration> {
        let tick = (0..LEVELS).find_map(|level| {
            let shift = SLOT_BITS * level as u32;
            let here = (self.now >> shift) % SLOTS as u64;
            // Slots of a level are visited in order from the one after the present one.
            let ahead = self.occupied[level].rotate_right(((here + 1) % SLOTS as u64) as u32);
            (ahead != 0).then(|| ((self.now >> shift) + 1 + u64::from(ahead.trailing_zeros())) << shift)
        })?;
        Some(Duration::from_nanos((tick * TICK_NANOS).saturating_sub(now.as_nanos())))
    }

    /// Moves everything that is due by `now` into `due`.
    pub(crate) fn fire(&mut self, now: Instant, due: &mut Vec<T>) {
        let target = now.as_nanos() / TICK_NANOS;
        while self.now < target {
            if self.occupied.iter().all(|&bits| bits == 0) {
                self.now = target;
                return;
            }
            // Jump over slots of the finest level that hold nothing, up to its next turn.
            let here = self.now % SLOTS as u64;
            let ahead = self.occupied[0] >> here >> 1;
            let step = if ahead == 0 { SLOTS as u64 - here } else { 1 + u64::from(ahead.trailing_zeros()) };
            self.now = (self.now + step).min(target);
            for level in (1..LEVELS).rev() {
                if self.now.is_multiple_of(1 << (SLOT_BITS * level as u32)) {
                    self.cascade(level);
                }
            }
            let slot = (self.now % SLOTS as u64) as usize;
            self.occupied[0] &= !(1 << slot);
            due.extend(self.levels[0][slot].drain(..).map(|(_, value)| value));
            if self.levels[0][slot].capacity() > 1024 {
                self.levels[0][slot] = Vec::new();
            }
        }
    }

    fn cascade(&mut self, level: usize) {
        let slot = (self.now >> (SLOT_BITS * level as u32)) as usize % SLOTS;
        if self.occupied[level] & (1 << slot) == 0 {
            return;
        }
        self.occupied[level] &= !(1 << slot);
        for (due, value) in std::mem::take(&mut self.levels[level][slot]) {
            // Due exactly now: into the slot that is about to fire.
            if due <= self.now {
                let slot = (self.now % SLOTS as u64) as usize;
                self.levels[0][slot].push((due, value));
                self.occupied[0] |= 1 << slot;
            } else {
                self.place(due, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::rng::Rng;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * TICK_NANOS)
    }

    #[test]
    fn every_timer_fires_once_not_early_and_at_its_tick() {
        let mut rng = Rng::seeded(3);
        let mut wheel = Wheel::new(at(12_345));
        let mut expected: Vec<u64> = Vec::new();
        for _ in 0..5_000 {
            let magnitude = 1 + rng.below(26);
            let due = 12_345 + 1 + rng.below(1 << magnitude);
            wheel.arm(at(due), due);
            expected.push(due);
        }
        expected.sort_unstable();
        let (mut now, mut fired) = (12_345, Vec::new());
        while fired.len() < expected.len() {
            let wait = wheel.next(at(now)).expect("timers are left");
            now += (wait.as_nanos() as u64 / TICK_NANOS).max(1);
            let mut due = Vec::new();
            wheel.fire(at(now), &mut due);
            assert!(due.iter().all(|&d| d == now), "at {now}: {due:?}");
            fired.extend(due);
        }
        assert_eq!(fired, expected);
        assert_eq!(wheel.next(at(now)), None);
    }

    #[test]
    fn a_late_loop_gets_everything_that_is_due() {
        let mut wheel = Wheel::new(at(0));
        for due in [1, 5, 64, 65, 4_096, 300_000, 20_000_000_000] {
            wheel.arm(at(due), due);
        }
        let mut due = Vec::new();
        wheel.fire(at(300_000), &mut due);
        due.sort_unstable();
        assert_eq!(due, [1, 5, 64, 65, 4_096, 300_000]);
        assert!(wheel.next(at(300_000)).is_some());
    }

    #[test]
    fn a_deadline_in_the_past_fires_on_the_next_tick() {
        let mut wheel = Wheel::new(at(100));
        wheel.arm(at(50), ());
        let mut due = Vec::new();
        wheel.fire(at(101), &mut due);
        assert_eq!(due.len(), 1);
    }
}
