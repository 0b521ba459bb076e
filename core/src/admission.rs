//! Letting sessions in no faster than endpoints can take them: after a restart everybody comes back at once.

use crate::rng::Rng;
use crate::time::{Duration, Instant};

/// What was not used stays usable for this long.
const BURST: Duration = Duration::from_millis(100);

/// What becomes of one who asks to be let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Come in.
    Now,
    /// Your turn is then; it is yours whether you come or not.
    At(Instant),
    /// The wait would be too long: go, and try again after so many seconds.
    Later(u32),
}

/// A schedule of admissions, `1 / rate` apart (the generic cell rate algorithm: one number is the whole
/// state, however many wait).
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// The next admission that is not given away yet.
    next: Instant,
}

impl Gate {
    /// A gate through which nobody went yet.
    pub fn new(now: Instant) -> Self {
        Self { next: now }
    }

    /// Lets one in, now or within `patience`, if `rate` (per second, more than 0) allows.
    ///
    /// Those who are sent away come back spread over twice the wait that there is, so that they do not
    /// come together again.
    pub fn ask(&mut self, rate: f64, patience: Duration, rng: &mut Rng, now: Instant) -> Admission {
        let at = self.next.max(now.before(BURST));
        let wait = at.since(now);
        if wait > patience {
            let seconds = wait.as_secs_f64() * (1.0 + rng.unit());
            // Rounds up: `as` alone would let them come early.
            return Admission::Later((seconds as u32).saturating_add(1));
        }
        self.next = at + Duration::from_secs_f64(1.0 / rate.max(1e-3));
        if wait.is_zero() { Admission::Now } else { Admission::At(at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// A thousand ask in the same moment.
    fn storm(rate: f64, patience: Duration) -> (usize, Vec<Instant>, Vec<u32>) {
        let (mut gate, mut rng) = (Gate::new(at(0)), Rng::seeded(1));
        let (mut now, mut then, mut later) = (0, Vec::new(), Vec::new());
        for _ in 0..1000 {
            match gate.ask(rate, patience, &mut rng, at(10_000)) {
                Admission::Now => now += 1,
                Admission::At(at) => then.push(at),
                Admission::Later(seconds) => later.push(seconds),
            }
        }
        (now, then, later)
    }

    #[test]
    fn a_storm_comes_in_at_the_rate() {
        let (now, then, later) = storm(100.0, SECOND * 5);
        // A tenth of a second's worth was left over, and one is always let in.
        assert_eq!((now, then.len(), later.len()), (11, 500, 489));
        assert!(then.windows(2).all(|pair| pair[1].since(pair[0]) == Duration::from_millis(10)));
        assert!(then.iter().all(|&t| t <= at(15_000)));
    }

    #[test]
    fn those_sent_away_are_spread() {
        let (.., later) = storm(100.0, SECOND * 5);
        let (least, most) = (later.iter().min().unwrap(), later.iter().max().unwrap());
        assert!((*least, *most) >= (6, 10) && *most <= 11, "{least} to {most}");
    }

    #[test]
    fn without_patience_there_is_no_queue() {
        let (now, then, later) = storm(100.0, Duration::ZERO);
        assert_eq!((now, then.len(), later.len()), (11, 0, 989));
    }

    #[test]
    fn at_the_rate_nobody_waits() {
        let (mut gate, mut rng) = (Gate::new(at(0)), Rng::seeded(1));
        for i in 0..1000 {
            assert_eq!(gate.ask(100.0, SECOND, &mut rng, at(10 * i)), Admission::Now, "{i}");
        }
    }
}
