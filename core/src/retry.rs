//! A budget for trying again, so that retries cannot multiply an outage.

use crate::time::{Duration, Instant};

/// Seconds over which turns and retries are balanced.
const WINDOW_SECONDS: u64 = 10;
/// One turn's deposit is `ratio` tokens; amounts are in thousandths.
const MILLI: f64 = 1000.0;

/// Retries as a share of turns over the last ten seconds, and a few per second in any case.
///
/// A leaky bucket in ten slots: each holds what one second deposited, and expires as a whole. One
/// per worker and service; it needs no clock of its own.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    deposit: i64,
    reserve: i64,
    slots: [i64; WINDOW_SECONDS as usize],
    /// The second that `slots[second % 10]` belongs to.
    second: u64,
}

impl RetryBudget {
    /// `ratio`: retries per turn (0.2: one for five); `reserve`: retries per second without any turn.
    pub fn new(ratio: f64, reserve: f64, now: Instant) -> Self {
        Self {
            deposit: (ratio.max(0.0) * MILLI) as i64,
            reserve: (reserve.max(0.0) * MILLI * WINDOW_SECONDS as f64) as i64,
            slots: [0; WINDOW_SECONDS as usize],
            second: seconds(now),
        }
    }

    /// A turn began.
    #[inline]
    pub fn deposit(&mut self, now: Instant) {
        let deposit = self.deposit;
        *self.slot(now) += deposit;
    }

    /// Takes one retry, if there is one.
    pub fn try_withdraw(&mut self, now: Instant) -> bool {
        self.slot(now);
        if self.reserve + self.slots.iter().sum::<i64>() < MILLI as i64 {
            return false;
        }
        *self.slot(now) -= MILLI as i64;
        true
    }

    fn slot(&mut self, now: Instant) -> &mut i64 {
        let second = seconds(now);
        while self.second < second {
            if second - self.second > WINDOW_SECONDS {
                self.second = second - WINDOW_SECONDS;
            }
            self.second += 1;
            self.slots[(self.second % WINDOW_SECONDS) as usize] = 0;
        }
        &mut self.slots[(self.second % WINDOW_SECONDS) as usize]
    }
}

fn seconds(now: Instant) -> u64 {
    now.as_nanos() / Duration::from_secs(1).as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_fifth_of_the_turns_may_be_tried_again() {
        let mut budget = RetryBudget::new(0.2, 0.0, at(0));
        assert!(!budget.try_withdraw(at(0)));
        for i in 0..1_000 {
            budget.deposit(at(i));
        }
        let granted = (0..1_000).filter(|_| budget.try_withdraw(at(1_000))).count();
        assert_eq!(granted, 200);
    }

    #[test]
    fn the_reserve_allows_a_few_without_traffic_and_refills() {
        let mut budget = RetryBudget::new(0.2, 1.0, at(0));
        assert_eq!((0..100).filter(|_| budget.try_withdraw(at(0))).count(), 10);
        assert_eq!((0..100).filter(|_| budget.try_withdraw(at(5_000))).count(), 0);
        assert_eq!((0..100).filter(|_| budget.try_withdraw(at(10_000))).count(), 10);
    }

    #[test]
    fn deposits_expire() {
        let mut budget = RetryBudget::new(1.0, 0.0, at(0));
        budget.deposit(at(0));
        assert!(!budget.try_withdraw(at(100_000)));
        budget.deposit(at(100_000));
        assert!(budget.try_withdraw(at(109_999)));
    }
}
