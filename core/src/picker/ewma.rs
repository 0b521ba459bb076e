//! Peak-sensitive latency averages, kept so that comparing two endpoints needs no clock.
//!
//! An endpoint's average is v, in microseconds, stamped t. Its load at time `now` is
//! v·e^(−(now−t)/τ)·(p+1). Multiplied by e^(now/τ), which all endpoints share, and taken to
//! logarithms, that is (ln v + t/τ) + ln(p + 1). The bracket is one word, written when a turn ends.

use crate::endpoint::Load;
use crate::time::{Duration, Instant};
use core::sync::atomic::Ordering::Relaxed;

/// Time constant of the average: after this long, an old value counts e times less.
const TAU_SECONDS: f64 = 10.0;
/// Averages below this count as this: what differs there is as much the measuring process (its event
/// loop, the scheduler of a busy node) as the endpoint.
const FLOOR_MICROS: f64 = 5_000.0;
/// Averages that differ by less than a factor of two count as equal. Were any difference followed, the
/// slightly slower of equal endpoints would lose every comparison and get nothing for as long as its one
/// unlucky answer is remembered: shares of 2/3, 1/3 and 0 for three endpoints with one turn in flight.
const BAND: u64 = (core::f64::consts::LN_2 * ONE) as u64;
/// Fractional bits of the word.
const ONE: f64 = (1u64 << 32) as f64;
/// What a failure counts as, at least: failing fast must not attract.
const FAILURE: Duration = Duration::from_secs(5);
/// What an endpoint may ask for, at most, when it asks to be left alone.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);
/// Latency assumed of an endpoint before anything is known of any.
pub(crate) const UNKNOWN: Duration = Duration::from_millis(30);

/// `ln(p + 1)` in fixed point, for every p that matters.
const LN: [u64; 256] = ln_table();

const fn ln_table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut p = 1;
    while p < 256 {
        // ln x = 2·artanh((x−1)/(x+1)) for x in 1 … 2, and ln 2 for every halving.
        let (mut x, mut halvings) = ((p + 1) as f64, 0.0);
        while x > 2.0 {
            x /= 2.0;
            halvings += 1.0;
        }
        let (y, mut power, mut sum, mut k) = ((x - 1.0) / (x + 1.0), (x - 1.0) / (x + 1.0), 0.0, 1.0);
        while k < 60.0 {
            sum += power / k;
            power *= y * y;
            k += 2.0;
        }
        table[p] = ((2.0 * sum + halvings * core::f64::consts::LN_2) * ONE) as u64;
        p += 1;
    }
    table
}

fn tau(now: Instant) -> f64 {
    now.as_nanos() as f64 * (1.0 / (TAU_SECONDS * 1e9))
}

fn word(micros: f64, now: Instant) -> u64 {
    ((libm::log(micros.max(FLOOR_MICROS)) + tau(now)) * ONE) as u64
}

/// `word(FLOOR_MICROS, now)`.
fn floor(now: Instant) -> u64 {
    /// ln 5000.
    const LN_FLOOR: f64 = 4.0 * core::f64::consts::LN_10 - core::f64::consts::LN_2;
    ((LN_FLOOR + tau(now)) * ONE) as u64
}

/// The average that a word stands for, in microseconds, as it counts at `now`.
pub(crate) fn micros(word: u64, now: Instant) -> f64 {
    libm::exp(word as f64 / ONE - tau(now))
}

/// Does `a` promise an earlier answer than `b`? Latencies that count as equal leave it to the work in
/// flight.
#[inline]
pub(crate) fn better(a: &Load, b: &Load) -> bool {
    let (word_a, word_b) = (a.score.load(Relaxed), b.score.load(Relaxed));
    let (busy_a, busy_b) = (in_flight(a), in_flight(b));
    if word_a.abs_diff(word_b) <= BAND {
        busy_a < busy_b
    } else {
        word_a.saturating_add(ln(busy_a)) < word_b.saturating_add(ln(busy_b))
    }
}

fn in_flight(load: &Load) -> u32 {
    load.turns.load(Relaxed).saturating_add(load.sessions.load(Relaxed))
}

/// `ln(p + 1)` in fixed point.
fn ln(in_flight: u32) -> u64 {
    match LN.get(in_flight as usize) {
        Some(&ln) => ln,
        None => (libm::log(f64::from(in_flight) + 1.0) * ONE) as u64,
    }
}

/// Sets what is assumed of an endpoint of which nothing is known.
pub(crate) fn assume(load: &Load, latency: Duration, now: Instant) {
    load.score.store(word(latency.as_micros() as f64, now), Relaxed);
}

/// A turn was answered after `latency`.
pub(crate) fn observe(load: &Load, latency: Duration, last: Instant, now: Instant) {
    let sample = latency.as_micros().max(1) as f64;
    let old = load.score.load(Relaxed);
    let floor = floor(now);
    if sample <= FLOOR_MICROS && old <= floor {
        // A fast endpoint stays one: the usual case, and the same result without exp and ln.
        let _raced = load.score.compare_exchange(old, floor, Relaxed, Relaxed);
        return;
    }
    let decayed = micros(old, now);
    let keep = libm::exp(-(now.since(last).as_nanos() as f64) / (TAU_SECONDS * 1e9));
    // Peak-sensitive: up at once, down slowly.
    let v = sample.max(decayed * keep + sample * (1.0 - keep));
    // Who loses the race wrote something as true.
    let _raced = load.score.compare_exchange(old, word(v, now), Relaxed, Relaxed);
}

/// A turn failed after `took`.
pub(crate) fn penalise(load: &Load, took: Duration, leave_alone: Option<Duration>, last: Instant, now: Instant) {
    let penalty = leave_alone.unwrap_or(FAILURE).min(MAX_RETRY_AFTER);
    observe(load, took.max(penalty), last, now);
}

/// A turn was given up by its client after `took`: it would have taken at least that long.
pub(crate) fn cancel(load: &Load, took: Duration, last: Instant, now: Instant) {
    if took.as_micros() as f64 > micros(load.score.load(Relaxed), now) {
        observe(load, took, last, now);
    }
}

/// An endpoint with work in flight that has not answered since `silent_since`.
pub(crate) fn suspect_hung(load: &Load, silent_since: Instant, now: Instant) {
    let old = load.score.load(Relaxed);
    let silent = now.since(silent_since).as_micros() as f64;
    if silent > micros(old, now) {
        let _raced = load.score.compare_exchange(old, word(silent, now), Relaxed, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn the_table_is_the_logarithm() {
        for p in [1usize, 2, 3, 7, 100, 255] {
            let error = LN[p] as f64 / ONE - libm::log(p as f64 + 1.0);
            assert!(error.abs() < 1e-9, "{p}: {error}");
        }
    }

    #[test]
    fn up_at_once_and_down_with_time() {
        let load = Load::default();
        assume(&load, Duration::from_millis(10), at(0));
        observe(&load, Duration::from_millis(2_000), at(0), at(100));
        assert!((micros(load.score.load(Relaxed), at(100)) - 2_000_000.0).abs() < 1.0);
        // 2 s against 167 ms: a factor of two after τ·ln(1000/167) = 17.9 s, and equal from there on.
        let other = Load::default();
        assume(&other, Duration::from_millis(167), at(17_800));
        assert!(better(&other, &load));
        assume(&other, Duration::from_millis(167), at(18_200));
        assert!(!better(&other, &load) && !better(&load, &other));
        load.turns.store(1, Relaxed);
        assert!(better(&other, &load));
    }

    #[test]
    fn a_failure_repels_and_a_short_wait_says_nothing() {
        let load = Load::default();
        assume(&load, Duration::from_millis(10), at(0));
        cancel(&load, Duration::from_millis(1), at(0), at(1));
        assert!(micros(load.score.load(Relaxed), at(1)) < 10_001.0);
        penalise(&load, Duration::from_millis(1), None, at(0), at(1));
        assert!(micros(load.score.load(Relaxed), at(1)) > 4_999_000.0);
    }
}
