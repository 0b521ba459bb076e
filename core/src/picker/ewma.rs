//! Peak-sensitive latency averages, kept so that comparing two endpoints needs no clock.
//!
//! An endpoint's average is v, in microseconds, stamped t. Its load at time `now` is
//! v·e^(−(now−t)/τ)·(p+1). Multiplied by e^(now/τ), which all endpoints share, and taken to
//! logarithms, that is (ln v + t/τ) + ln(p + 1). The bracket is one word, written when a turn ends.

use super::logarithm::{decayed, exp, ln, ln_1p, series_ln};
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
        table[p] = (series_ln((p + 1) as f64) * ONE) as u64;
        p += 1;
    }
    table
}

fn tau(now: Instant) -> f64 {
    now.as_nanos() as f64 * (1.0 / (TAU_SECONDS * 1e9))
}

fn word(micros: f64, now: Instant) -> u64 {
    ((ln(micros) + tau(now)) * ONE) as u64
}

/// `word(FLOOR_MICROS, now)`, the least that is stored.
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
        word_a.saturating_add(ln_busy(busy_a)) < word_b.saturating_add(ln_busy(busy_b))
    }
}

fn in_flight(load: &Load) -> u32 {
    load.turns.load(Relaxed).saturating_add(load.sessions.load(Relaxed))
}

/// `ln(p + 1)` in fixed point.
fn ln_busy(in_flight: u32) -> u64 {
    match LN.get(in_flight as usize) {
        Some(&ln) => ln,
        None => (ln(f64::from(in_flight) + 1.0) * ONE) as u64,
    }
}

/// Sets what is assumed of an endpoint of which nothing is known.
pub(crate) fn assume(load: &Load, latency: Duration, now: Instant) {
    load.score.store(word(whole_micros(latency), now).max(floor(now)), Relaxed);
}

/// The least that counts is a microsecond.
fn whole_micros(latency: Duration) -> f64 {
    // 128 bits would be converted by a call.
    (latency.as_micros() as u64).max(1) as f64
}

/// A turn was answered after `latency`.
#[inline]
pub(crate) fn observe(load: &Load, latency: Duration, last: Instant, now: Instant) {
    let sample = whole_micros(latency);
    let old = load.score.load(Relaxed);
    let floor = floor(now);
    // A fast endpoint stays one: the usual case, and the same result without any logarithm.
    let new = if sample <= FLOOR_MICROS && old <= floor { floor } else { average(old, sample, last, now).max(floor) };
    // Who loses the race wrote something as true.
    let _raced = load.score.compare_exchange(old, new, Relaxed, Relaxed);
}

/// Peak-sensitive, up at once and down slowly: max(r, v·a + r·(1−a)), where a = e^(−Δ/τ) since the last sample.
///
/// The word loses its part of v by itself, so v·a is what it stands for now, and what r adds to its logarithm is
/// ln(1 + r·(1−a)/(v·a)). Errors of the functions make that a millionth larger or smaller, which is a millionth of
/// τ: they cannot add up, however many samples there are.
fn average(old: u64, sample: f64, last: Instant, now: Instant) -> u64 {
    let peak = word(sample, now);
    let since = tau(Instant::from_nanos(now.as_nanos().saturating_sub(last.as_nanos())));
    if old.saturating_add((since * ONE) as u64) <= peak {
        return peak;
    }
    let ratio = exp(peak.wrapping_sub(old) as i64 as f64 / ONE);
    peak.max(old.saturating_add((ln_1p(ratio * decayed(since)) * ONE + 0.5) as u64))
}

/// A turn failed after `took`.
pub(crate) fn penalise(load: &Load, took: Duration, leave_alone: Option<Duration>, last: Instant, now: Instant) {
    let penalty = leave_alone.unwrap_or(FAILURE).min(MAX_RETRY_AFTER);
    observe(load, took.max(penalty), last, now);
}

/// A turn was given up by its client after `took`: it would have taken at least that long.
pub(crate) fn cancel(load: &Load, took: Duration, last: Instant, now: Instant) {
    if word(whole_micros(took), now) > load.score.load(Relaxed) {
        observe(load, took, last, now);
    }
}

/// An endpoint with work in flight that has not answered since `silent_since`.
pub(crate) fn suspect_hung(load: &Load, silent_since: Instant, now: Instant) {
    let old = load.score.load(Relaxed);
    let silent = word(whole_micros(now.since(silent_since)), now);
    if silent > old {
        let _raced = load.score.compare_exchange(old, silent.max(floor(now)), Relaxed, Relaxed);
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
    fn the_average_is_the_formula_however_often_it_is_asked() {
        for (latency, every, times) in [(8_000, 100, 100_000), (40_000, 7_000, 3_000), (6_000, 2_500_000, 20)] {
            let load = Load::default();
            assume(&load, Duration::from_secs(2), at(0));
            let (mut v, mut now) = (2_000_000.0f64, at(0));
            for i in 0..times {
                let last = now;
                now += Duration::from_micros(every);
                // Now and then one that is slower.
                let r = latency * if i % 1_000 == 999 { 2 } else { 1 };
                observe(&load, Duration::from_micros(r), last, now);
                let a = libm::exp(-(every as f64) / (TAU_SECONDS * 1e6));
                v = (r as f64).max(v * a + r as f64 * (1.0 - a));
                let error = micros(load.score.load(Relaxed), now) / v - 1.0;
                assert!(error.abs() < 1e-4, "{latency} after {i}: {error}");
            }
        }
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
