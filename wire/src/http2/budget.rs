//! What a peer may make us do without getting on with its own work.
//!
//! Each kind of trifle has an allowance for [`PERIOD`]; work that is really done earns some back, so that a peer
//! that has much to say may also say much about it.

use core::fmt;
use evenkeel_core::time::{Duration, Instant};

/// After so long, everything that was spent is forgiven.
pub const PERIOD: Duration = Duration::from_secs(10);

/// What a peer did too often; the connection ends with `ENHANCE_YOUR_CALM`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Flood {
    /// Streams that it reset, or made us reset, before they came to their end (CVE-2023-44487, CVE-2025-8671).
    /// Each stream that does come to its end earns one.
    Resets,
    /// SETTINGS (CVE-2019-9515), and GOAWAY: each makes us look at all streams.
    Settings,
    /// PING (CVE-2019-9512). Each frame that we send it earns one, for some measure their path with each.
    Pings,
    /// Frames that carry nothing: empty DATA or fragments of blocks (CVE-2019-9518), informational responses. Each
    /// request of ours earns two.
    Empty,
    /// WINDOW_UPDATE. Each frame of data that we send earns two, one for the stream and one for the connection.
    WindowUpdates,
    /// PRIORITY and frames of unknown types. Each stream earns two.
    Priorities,
    /// Fragments of one block: too many, too large or too slow (CVE-2024-27316).
    Continuations,
}

impl Flood {
    /// Every value, in order of declaration.
    pub const ALL: [Self; 7] = [
        Self::Resets,
        Self::Settings,
        Self::Pings,
        Self::Empty,
        Self::WindowUpdates,
        Self::Priorities,
        Self::Continuations,
    ];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::Settings => "settings",
            Self::Pings => "pings",
            Self::Empty => "empty-frames",
            Self::WindowUpdates => "window-updates",
            Self::Priorities => "priorities",
            Self::Continuations => "continuations",
        }
    }
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How often in each [`PERIOD`], beyond what was earned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// [`Flood::Resets`].
    pub resets: u16,
    /// [`Flood::Settings`].
    pub settings: u16,
    /// [`Flood::Pings`].
    pub pings: u16,
    /// [`Flood::Empty`].
    pub empty: u16,
    /// [`Flood::WindowUpdates`].
    pub window_updates: u16,
    /// [`Flood::Priorities`].
    pub priorities: u16,
    /// [`Flood::Continuations`] of one block, whenever.
    pub continuations: u16,
}

impl Default for Allowance {
    /// Ten a second of what browsers and libraries do once or twice in a connection. WINDOW_UPDATE has more:
    /// some send one for each piece that their application took.
    fn default() -> Self {
        let (resets, settings, pings, empty, window_updates, priorities) = (100, 100, 100, 100, 1000, 100);
        Self { resets, settings, pings, empty, window_updates, priorities, continuations: 8 }
    }
}

impl Allowance {
    fn of(&self, flood: Flood) -> u16 {
        match flood {
            Flood::Resets => self.resets,
            Flood::Settings => self.settings,
            Flood::Pings => self.pings,
            Flood::Empty => self.empty,
            Flood::WindowUpdates => self.window_updates,
            Flood::Priorities => self.priorities,
            Flood::Continuations => self.continuations,
        }
    }
}

/// What has been spent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    allowance: Allowance,
    spent: [u16; 6],
    since: Instant,
}

impl Budget {
    pub(super) fn new(allowance: Allowance, now: Instant) -> Self {
        Self { allowance, spent: [0; 6], since: now }
    }

    /// Spends one. `Err`: there was none left.
    pub(super) fn spend(&mut self, flood: Flood, now: Instant) -> Result<(), Flood> {
        if now.since(self.since) >= PERIOD {
            (self.spent, self.since) = ([0; 6], now);
        }
        let Some(spent) = self.spent.get_mut(flood as usize) else { return Ok(()) };
        if *spent >= self.allowance.of(flood) {
            return Err(flood);
        }
        *spent += 1;
        Ok(())
    }

    /// Gives some back.
    #[inline]
    pub(super) fn earn(&mut self, flood: Flood, count: u16) {
        if let Some(spent) = self.spent.get_mut(flood as usize) {
            *spent = spent.saturating_sub(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_earns_and_time_forgives() {
        let allowance = Allowance { pings: 2, ..Allowance::default() };
        let mut budget = Budget::new(allowance, Instant::ZERO);
        let spend = |budget: &mut Budget, at| budget.spend(Flood::Pings, Instant::ZERO + at);
        let soon = Duration::from_secs(9);
        assert_eq!([spend(&mut budget, soon), spend(&mut budget, soon)], [Ok(()); 2]);
        assert_eq!(spend(&mut budget, soon), Err(Flood::Pings));
        budget.earn(Flood::Pings, 1);
        assert_eq!(spend(&mut budget, soon), Ok(()));
        assert_eq!(spend(&mut budget, soon), Err(Flood::Pings));
        assert_eq!(spend(&mut budget, PERIOD), Ok(()));
    }
}
