//! The recent past of a service, sampled once a second: what was counted, and how even it was.

use crate::registry::ServiceEntry;
use evenkeel_core::address::Address;
use evenkeel_core::picker::Picker;
use evenkeel_core::skew::{Skew, skew};
use evenkeel_core::time::{Duration, Instant};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;

/// Shares and rates are over so many samples.
const WINDOW: usize = 10;
/// Samples of skew that are remembered: two minutes.
pub(crate) const HISTORY: usize = 120;

/// What a service's work is counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Measure {
    /// Turns that were begun.
    Turns,
    /// Sessions that are placed whole: each is one turn, however long and busy.
    Sessions,
}

impl Measure {
    /// Of a service with so many sessions, of which so many are placed whole.
    pub(crate) fn of(sessions: u64, placed: u64) -> Self {
        if placed > 0 && placed * 2 >= sessions { Self::Sessions } else { Self::Turns }
    }

    /// Its name in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Turns => "turns",
            Self::Sessions => "sessions",
        }
    }

    /// In the words of users.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Turns => "requests",
            Self::Sessions => "sessions",
        }
    }
}

/// Turns and failures.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Counts {
    pub(crate) turns: u64,
    pub(crate) failures: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.turns += other.turns;
        self.failures += other.failures;
    }
}

/// Counters at one time.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    /// As clients saw it.
    pub(crate) total: Counts,
    pub(crate) endpoints: HashMap<Address, Counts>,
}

/// The samples of one service, oldest first.
#[derive(Default, Debug)]
pub(crate) struct Recent {
    samples: VecDeque<Sample>,
    skews: VecDeque<Option<f64>>,
}

impl Recent {
    /// Takes one more. `picker` has the endpoints that are picked, with their weights.
    pub(crate) fn sample(&mut self, entry: &ServiceEntry, picker: &Picker, now: Instant) {
        let total = entry.total();
        let counts = Counts { turns: total.turns, failures: total.failed() };
        let sample = Sample { at: now, total: counts, endpoints: entry.counts() };
        let skew = self.skew(&sample, picker, total.sessions);
        push(&mut self.skews, skew.map(|s| s.skew), HISTORY);
        push(&mut self.samples, sample, WINDOW);
    }

    fn skew(&self, sample: &Sample, picker: &Picker, sessions: u64) -> Option<Skew> {
        let placed = |endpoint: &evenkeel_core::endpoint::Endpoint| endpoint.load.sessions.load(Relaxed);
        let all_placed = picker.endpoints().map(|e| u64::from(placed(e))).sum();
        let loads: Vec<(f64, f64)> = match Measure::of(sessions, all_placed) {
            Measure::Sessions => picker.weights().map(|(e, weight)| (f64::from(placed(e)), weight)).collect(),
            Measure::Turns => {
                let counts = |sample: &Sample, address: &Address| sample.endpoints.get(address).map_or(0, |c| c.turns);
                let since = |address: &Address| {
                    let before = self.oldest().map_or(0, |oldest| counts(oldest, address));
                    counts(sample, address).saturating_sub(before)
                };
                picker.weights().map(|(e, weight)| (since(&e.address) as f64, weight)).collect()
            }
        };
        skew(&loads)
    }

    /// The sample that rates are counted from.
    pub(crate) fn oldest(&self) -> Option<&Sample> {
        self.samples.front()
    }

    /// Skew at each sample, oldest first; `None`: there was no load.
    pub(crate) fn skews(&self) -> Vec<Option<f64>> {
        self.skews.iter().copied().collect()
    }
}

impl Sample {
    /// Turns per second from this sample to now.
    pub(crate) fn rate(&self, turns: u64, now: Instant) -> f64 {
        // A moment after the first sample a single turn would look like thousands a second.
        let elapsed = now.since(self.at).max(Duration::from_secs(1));
        turns as f64 / elapsed.as_secs_f64()
    }
}

fn push<T>(queue: &mut VecDeque<T>, item: T, limit: usize) {
    if queue.len() == limit {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_in_what_there_is_most_of() {
        assert_eq!(Measure::of(0, 0), Measure::Turns);
        assert_eq!(Measure::of(100, 1), Measure::Turns, "one upgrade among keep-alive clients");
        assert_eq!(Measure::of(100, 50), Measure::Sessions);
    }

    #[test]
    fn rates_are_over_a_second_at_least() {
        let sample = Sample { at: Instant::ZERO, total: Counts::default(), endpoints: HashMap::new() };
        assert_eq!(sample.rate(5, Instant::from_nanos(1_000)), 5.0);
        assert_eq!(sample.rate(50, Instant::ZERO + Duration::from_secs(10)), 5.0);
    }
}
