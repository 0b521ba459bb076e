//! Passive health: ejection of endpoints for what their turns show, and the way back.
//!
//! Back leads through probation: when the time of an ejection is over, *one* real turn goes to the
//! endpoint. If it succeeds the endpoint returns with slow start, else it is out again, for longer.

use super::member::Member;
use super::{Grounds, OutlierConfig};
use crate::endpoint::EndpointId;
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

/// Length of a window over which failure rates are compared.
const WINDOW: Duration = Duration::from_secs(10);
/// Turns that an endpoint must have had in a window to be judged by its rate.
const MIN_TURNS: u64 = 100;
/// Endpoints that must have had them: a median of two says nothing.
const MIN_ENDPOINTS: usize = 3;
/// Makes the median absolute deviation of a normal distribution its standard deviation.
const MAD_SCALE: f64 = 1.4826;
/// The smallest scaled deviation that counts, so that one failure among perfect peers ejects nobody.
const MIN_DEVIATION: f64 = 0.01;

/// An endpoint's standing: `In`, `Out` until a time, `Probation` after it.
#[derive(Debug, Default)]
pub(super) struct Ejection {
    state: State,
    /// How often it was ejected lately: the next time is as much longer.
    count: u32,
    /// When its last ejection ended, or was last forgiven in part.
    since: Instant,
    /// When its last ejection began.
    pub(super) began: Instant,
    pub(super) grounds: Grounds,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    In,
    Out(Instant),
    Probation,
}

impl Ejection {
    /// Throws it out; returns for how long.
    pub(super) fn begin(&mut self, config: &OutlierConfig, grounds: Grounds, rng: &mut Rng, now: Instant) -> Duration {
        self.count += 1;
        let longest = (config.ejection * self.count).min(config.max_ejection);
        // Many evenkeels eject the same endpoint; they must not all come back at once.
        let duration = longest.mul_f64(0.8 + 0.4 * rng.unit());
        (self.state, self.grounds, self.began) = (State::Out(now + duration), grounds, now);
        duration
    }

    /// Its time may be over; true if that is news.
    pub(super) fn pass(&mut self, now: Instant) -> bool {
        let over = matches!(self.state, State::Out(until) if until <= now);
        if over {
            self.state = State::Probation;
        }
        over
    }

    /// It is back.
    pub(super) fn ends(&mut self, now: Instant) {
        (self.state, self.since) = (State::In, now);
    }

    /// Every healthy interval takes one ejection off its record.
    pub(super) fn forgive(&mut self, config: &OutlierConfig, now: Instant) {
        if self.count > 0 && matches!(self.state, State::In) && now.since(self.since) >= config.ejection {
            self.count -= 1;
            self.since = now;
        }
    }

    /// Not picked (but for a probe).
    pub(super) fn is_out(&self) -> bool {
        !matches!(self.state, State::In)
    }

    pub(super) fn on_probation(&self) -> bool {
        matches!(self.state, State::Probation)
    }

    /// When its time is over.
    pub(super) fn until(&self) -> Option<Instant> {
        match self.state {
            State::Out(until) => Some(until),
            State::In | State::Probation => None,
        }
    }
}

/// What the balancer remembers between two readings of the counters.
#[derive(Debug)]
pub(super) struct Health {
    activity: u64,
    window_began: Instant,
    at_window: BTreeMap<EndpointId, (u64, u64)>,
}

impl Health {
    pub(super) fn new(now: Instant) -> Self {
        Self { activity: 0, window_began: now, at_window: BTreeMap::new() }
    }

    /// Did anything happen since the last reading, or is anything happening?
    pub(super) fn note_activity(&mut self, members: &BTreeMap<EndpointId, Member>) -> bool {
        let loads = || members.values().map(|m| &m.endpoint.load);
        let ended = loads().map(|l| l.completions.load(Relaxed).wrapping_add(l.failures.load(Relaxed)));
        let ended = ended.fold(0, u64::wrapping_add);
        let under_way = loads().any(|l| l.turns.load(Relaxed) > 0);
        core::mem::replace(&mut self.activity, ended) != ended || under_way
    }

    /// At the end of a window: endpoints whose failure rate is `k` scaled deviations above the median.
    ///
    /// Median and median absolute deviation see outliers up to half of the set; mean and standard
    /// deviation are blinded by them (beyond 21.7 % for k = 1.9).
    pub(super) fn deviants(&mut self, members: &BTreeMap<EndpointId, Member>, k: f64, now: Instant) -> Vec<EndpointId> {
        if now.since(self.window_began) < WINDOW {
            return Vec::new();
        }
        self.window_began = now;
        let mut rates = Vec::new();
        for (&id, member) in members {
            let load = &member.endpoint.load;
            let (good, bad) = (load.completions.load(Relaxed), load.failures.load(Relaxed));
            let (good_before, bad_before) = self.at_window.insert(id, (good, bad)).unwrap_or_default();
            let (good, bad) = (good.saturating_sub(good_before), bad.saturating_sub(bad_before));
            if good + bad >= MIN_TURNS {
                rates.push((id, bad as f64 / (good + bad) as f64));
            }
        }
        self.at_window.retain(|id, _| members.contains_key(id));
        if rates.len() < MIN_ENDPOINTS {
            return Vec::new();
        }
        let middle = median(rates.iter().map(|&(_, rate)| rate));
        let deviation = median(rates.iter().map(|&(_, rate)| (rate - middle).abs())) * MAD_SCALE;
        let threshold = middle + k * deviation.max(MIN_DEVIATION);
        rates.into_iter().filter(|&(_, rate)| rate > threshold).map(|(id, _)| id).collect()
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}
