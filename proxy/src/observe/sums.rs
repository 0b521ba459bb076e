//! Sums over workers, and over endpoints that left.

use crate::recent::Counts;
use crate::registry::{EndpointTally, LATENCY_BOUNDS_US, ServiceEntry, ServiceTally, Tallied};
use evenkeel_core::address::Address;
use evenkeel_core::end::{Cause, Limit};
use evenkeel_wire::grpc::status;
use evenkeel_wire::http2::budget::Flood;
use std::collections::{BTreeMap, HashMap};
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
    /// By `Flood`: of clients, then of endpoints.
    pub(crate) floods: [[u64; Flood::ALL.len()]; 2],
    pub(crate) handshakes: u64,
    /// By `Leave`.
    pub(crate) asked: [u64; 3],
    pub(crate) retries: u64,
    pub(crate) retries_refused: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_spliced: u64,
    /// By status of gRPC.
    pub(crate) calls: [u64; status::COUNT + 1],
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
        self.floods.iter_mut().zip(&tally.floods).for_each(|(sums, counters)| add_all(sums, counters));
        add_all(&mut self.calls, &tally.calls);
        self.handshakes += tally.handshakes.get();
    }
}

impl EndpointTally {
    fn counts(&self) -> Counts {
        Counts { turns: self.turns.get(), failures: self.failures.iter().map(crate::registry::Counter::get).sum() }
    }
}

/// Counts of tallies that no worker writes to any more.
#[derive(Default, Debug)]
pub struct Departed {
    by_address: HashMap<Address, EndpointSums>,
    /// Those of all further addresses.
    others: Option<Box<EndpointSums>>,
}

impl Departed {
    fn add(&mut self, address: &Address, tally: &EndpointTally) {
        let known = self.by_address.len() < MAX_DEPARTED || self.by_address.contains_key(address);
        let sums = match known {
            true => self.by_address.entry(address.clone()).or_default(),
            false => self.others.get_or_insert_default(),
        };
        sums.add(tally);
    }
}

impl ServiceEntry {
    /// What was counted for the service.
    pub(crate) fn total(&self) -> Sums {
        let mut sums = Sums::default();
        self.workers.iter().for_each(|tally| sums.add(tally));
        sums
    }

    /// What was counted for each endpoint, by address.
    pub(crate) fn sums(&self) -> BTreeMap<String, EndpointSums> {
        self.settled(|tallies, departed| {
            let mut sums: BTreeMap<_, _> =
                departed.by_address.iter().map(|(address, sums)| (address.to_string(), sums.clone())).collect();
            sums.extend(departed.others.iter().map(|others| (OTHER.to_owned(), (**others).clone())));
            for (endpoint, tally) in tallies {
                sums.entry(endpoint.address.to_string()).or_default().add(tally);
            }
            sums
        })
    }

    /// The turns and failures among that, for those who ask every second.
    pub(crate) fn counts(&self) -> HashMap<Address, Counts> {
        self.settled(|tallies, departed| {
            let mut counts = HashMap::with_capacity(tallies.len() + departed.by_address.len());
            let mut add = |address: &Address, more: Counts| match counts.get_mut(address) {
                Some(counts) => *counts += more,
                None => drop(counts.insert(address.clone(), more)),
            };
            for (address, sums) in &departed.by_address {
                add(address, Counts { turns: sums.turns, failures: sums.failed() });
            }
            for (endpoint, tally) in tallies {
                add(&endpoint.address, tally.counts());
            }
            counts
        })
    }

    /// Looks at the tallies after those that no worker writes to any more were folded into one per
    /// address, so that endpoints that come and go do not pile up.
    fn settled<T: Default>(&self, look: impl FnOnce(&[Tallied], &Departed) -> T) -> T {
        let (Ok(mut tallies), Ok(mut departed)) = (self.endpoints.lock(), self.departed.lock()) else {
            return T::default();
        };
        tallies.retain(|(endpoint, tally)| {
            let abandoned = Arc::strong_count(tally) == 1;
            if abandoned {
                departed.add(&endpoint.address, tally);
            }
            !abandoned
        });
        look(&tallies, &departed)
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
    use evenkeel_core::endpoint::{Endpoint, EndpointSpec};

    #[test]
    fn an_address_keeps_its_counts_when_its_endpoint_leaves_and_comes_back() {
        let entry = ServiceEntry {
            name: "a".into(),
            workers: Vec::new(),
            endpoints: std::sync::Mutex::default(),
            departed: std::sync::Mutex::default(),
        };
        let meet = |address: &str, turns: u64| {
            let spec = EndpointSpec::at(address.parse::<Address>().expect("an address"));
            let tally = Arc::new(EndpointTally::default());
            tally.turns.add(turns);
            tally.failures[0].add(1);
            entry.endpoints.lock().expect("tallies").push((Arc::new(Endpoint::new(&spec)), tally.clone()));
            tally
        };
        let seen = |address: &str| {
            let (sums, counts) = (entry.sums(), entry.counts());
            let counts = counts[&address.parse::<Address>().expect("an address")];
            assert_eq!(counts, Counts { turns: sums[address].turns, failures: sums[address].failed() });
            counts
        };
        let first = meet("10.0.0.1:80", 3);
        assert_eq!(seen("10.0.0.1:80"), Counts { turns: 3, failures: 1 });
        drop(first);
        assert_eq!(seen("10.0.0.1:80"), Counts { turns: 3, failures: 1 });
        assert!(entry.endpoints.lock().expect("tallies").is_empty());
        let _again = meet("10.0.0.1:80", 4);
        assert_eq!(seen("10.0.0.1:80"), Counts { turns: 7, failures: 2 });
        for n in 0..MAX_DEPARTED {
            drop(meet(&format!("10.1.{}.{}:80", n / 250, n % 250), 1));
        }
        assert_eq!(entry.sums()[OTHER].turns, 1);
        assert_eq!(entry.counts().len(), MAX_DEPARTED, "and the one that is back is among them");
    }

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
