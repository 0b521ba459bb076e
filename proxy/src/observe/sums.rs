//! Sums over workers, and over endpoints that left.

use crate::registry::{EndpointTally, LATENCY_BOUNDS_US, ServiceEntry, ServiceTally};
use evenkeel_core::end::{Cause, Limit};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Endpoints that left whose counts are kept apart; the counts of further ones go to [`OTHER`].
const MAX_DEPARTED: usize = 1000;
/// What endpoints beyond the limit are called.
pub(crate) const OTHER: &str = "other";

/// What all workers counted for one endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EndpointSums {
    pub(crate) turns: u64,
    pub(crate) status: [u64; 6],
    pub(crate) failures: [u64; Cause::ALL.len()],
    pub(crate) latency: [u64; LATENCY_BOUNDS_US.len() + 1],
    pub(crate) latency_sum_us: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) connects: u64,
    pub(crate) links: u64,
    pub(crate) idle_links: u64,
    pub(crate) retried: u64,
}

impl EndpointSums {
    fn add(&mut self, tally: &EndpointTally) {
        self.turns += tally.turns.get();
        self.latency_sum_us += tally.latency_sum_us.get();
        self.bytes_sent += tally.bytes_sent.get();
        self.bytes_received += tally.bytes_received.get();
        self.connects += tally.connects.get();
        self.links += tally.links.get();
        self.idle_links += tally.idle_links.get();
        self.retried += tally.retried.get();
        add_all(&mut self.status, &tally.status);
        add_all(&mut self.failures, &tally.failures);
        add_all(&mut self.latency, &tally.latency);
    }

    fn add_sums(&mut self, other: &Self) {
        self.turns += other.turns;
        self.latency_sum_us += other.latency_sum_us;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.connects += other.connects;
        self.links += other.links;
        self.idle_links += other.idle_links;
        self.retried += other.retried;
        let pairs = |a: &mut [u64], b: &[u64]| a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        pairs(&mut self.status, &other.status);
        pairs(&mut self.failures, &other.failures);
        pairs(&mut self.latency, &other.latency);
    }

    /// Turns that it failed, for whatever cause.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// The time to first byte below which `quantile` of the turns were, in milliseconds: the upper
    /// bound of its bucket, so never an understatement. `None` without turns.
    pub(crate) fn latency_ms(&self, quantile: f64) -> Option<f64> {
        let total: u64 = self.latency.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = (total as f64 * quantile).ceil().max(1.0) as u64;
        let mut below = 0;
        for (i, count) in self.latency.iter().enumerate() {
            below += count;
            if below >= rank {
                let bound = LATENCY_BOUNDS_US.get(i).or(LATENCY_BOUNDS_US.last())?;
                return Some(*bound as f64 / 1000.0);
            }
        }
        None
    }
}

fn add_all(sums: &mut [u64], counters: &[crate::registry::Counter]) {
    for (sum, counter) in sums.iter_mut().zip(counters) {
        *sum += counter.get();
    }
}

/// What all workers counted for one service, apart from its endpoints.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sums {
    pub(crate) accepted: u64,
    pub(crate) sessions: u64,
    pub(crate) turns: u64,
    pub(crate) turns_active: u64,
    pub(crate) failures: [u64; Cause::ALL.len()],
    pub(crate) ends: [u64; Cause::ALL.len()],
    /// By `Limit`.
    pub(crate) limits: [u64; Limit::ALL.len()],
    pub(crate) handshakes: u64,
    /// By `Leave`.
    pub(crate) asked: [u64; 3],
    pub(crate) retries: u64,
    pub(crate) retries_refused: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_spliced: u64,
}

impl Sums {
    /// Turns that failed, for whatever cause.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.iter().sum()
    }

    fn add(&mut self, tally: &ServiceTally) {
        self.accepted += tally.accepted.get();
        self.sessions += tally.sessions.get();
        self.turns += tally.turns.get();
        self.turns_active += tally.turns_active.get();
        self.retries += tally.retries.get();
        self.retries_refused += tally.retries_refused.get();
        self.bytes_received += tally.bytes_received.get();
        self.bytes_sent += tally.bytes_sent.get();
        self.bytes_spliced += tally.bytes_spliced.get();
        add_all(&mut self.failures, &tally.failures);
        add_all(&mut self.ends, &tally.ends);
        add_all(&mut self.asked, &tally.asked);
        add_all(&mut self.limits, &tally.limits);
        self.handshakes += tally.handshakes.get();
    }
}

impl ServiceEntry {
    /// What was counted for the service.
    pub(crate) fn total(&self) -> Sums {
        let mut sums = Sums::default();
        self.workers.iter().for_each(|tally| sums.add(tally));
        sums
    }

    /// What was counted for each endpoint, by address. Tallies that no worker writes to any more are
    /// folded into one per address, so that endpoints that come and go do not pile up.
    pub(crate) fn sums(&self) -> BTreeMap<String, EndpointSums> {
        let (Ok(mut tallies), Ok(mut departed)) = (self.endpoints.lock(), self.departed.lock()) else {
            return BTreeMap::new();
        };
        tallies.retain(|(endpoint, tally)| {
            let abandoned = Arc::strong_count(tally) == 1;
            if abandoned {
                let address = endpoint.address.to_string();
                let known = departed.len() < MAX_DEPARTED || departed.contains_key(&address);
                departed.entry(if known { address } else { OTHER.into() }).or_default().add(tally);
            }
            !abandoned
        });
        let mut sums = departed.clone();
        for (endpoint, tally) in &*tallies {
            sums.entry(endpoint.address.to_string()).or_default().add(tally);
        }
        sums
    }
}

/// Merges sums, for labels that collapse.
pub(crate) fn merged<'a>(sums: impl Iterator<Item = &'a EndpointSums>) -> EndpointSums {
    sums.fold(EndpointSums::default(), |mut all, one| {
        all.add_sums(one);
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_upper_bounds() {
        let tally = EndpointTally::default();
        for us in [50, 90, 200, 200, 900, 4_000, 9_999, 10_000, 20_000, 70_000_000] {
            tally.observe_latency(us);
        }
        let mut sums = EndpointSums::default();
        sums.add(&tally);
        assert_eq!(sums.latency_ms(0.5), Some(1.0));
        assert_eq!(sums.latency_ms(0.8), Some(10.0));
        assert_eq!(sums.latency_ms(1.0), Some(60_000.0));
        assert_eq!(EndpointSums::default().latency_ms(0.5), None);
    }
}
