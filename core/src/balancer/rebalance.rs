//! Moving sessions: which endpoints have more than their share, and how many sessions may be asked to
//! come back elsewhere now.
//!
//! Φ = Σ L²/w (L sessions on an endpoint of weight w) falls with every move from a fuller to an emptier
//! endpoint whose loads differ by two or more, so moves from above the ceiling of the fair share to below
//! its floor never oscillate and are as few as can be. What could spoil that is delay, and it is taken
//! out: a session that was asked to go counts as gone ([`Load::leaving`](crate::endpoint::Load)), and one
//! that is gone and not back counts as coming.

use super::Choice;
use super::member::Member;
use crate::endpoint::{Endpoint, EndpointId};
use crate::picker::Entry;
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use alloc::collections::{BTreeMap, BinaryHeap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How often skew is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often sessions are asked to go while there are some to move: the pace, in small helpings.
const PACE: Duration = Duration::from_millis(250);
/// Skew at which it is even enough.
const EVEN: f64 = 1.03;
/// A client that was not back after this will not come back.
const RETURN: Duration = Duration::from_secs(30);
/// So many clients must have had the time to come back before their number means something.
const JUDGED: u32 = 20;
/// How long nobody is moved after it was found that clients do not come back.
const PAUSE: Duration = Duration::from_secs(600);

/// When sessions move, and how fast.
#[derive(Clone, PartialEq, Debug)]
pub struct RebalanceConfig {
    /// False: sessions stay where they are for as long as their endpoint does.
    pub enabled: bool,
    /// Highest share ÷ fair share above which sessions move.
    pub skew: f64,
    /// How many.
    pub pace: Pace,
    /// A client that was moved is left alone for this long.
    pub cool_down: Duration,
    /// Sessions that one endpoint loses, per second, at most.
    pub per_endpoint: f64,
}

/// How many sessions move.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// This part of all, per second.
    Fraction(f64),
    /// So many per second.
    PerSecond(f64),
}

impl Default for RebalanceConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            skew: 1.10,
            pace: Pace::Fraction(0.05),
            cool_down: Duration::from_secs(60),
            per_endpoint: 50.0,
        }
    }
}

/// A wish that some sessions of an endpoint go. Whoever fulfils a part of it takes that from `quota`; the
/// rest of it is taken back with the next wish, so a wish that could not be fulfilled does not add up.
#[derive(Clone, Debug)]
pub struct Shed {
    /// Whose.
    pub endpoint: Arc<Endpoint>,
    /// How many are still wanted.
    pub quota: Arc<AtomicU32>,
    /// Sessions opened later have most likely been moved lately: they are left alone.
    pub opened_before: Instant,
}

impl Shed {
    /// Takes one session of the quota; false: there is none left.
    pub fn take(&self) -> bool {
        self.quota.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok()
    }

    /// Gives back what was taken in vain.
    pub fn give_back(&self) {
        self.quota.fetch_add(1, Relaxed);
    }
}

/// What rebalancing sees and does, for the admin API and `evenkeel why`.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct RebalanceView {
    /// May sessions move at all?
    pub enabled: bool,
    /// Are sessions being moved?
    pub active: bool,
    /// For how long nobody is moved, because clients that were asked to go did not come back.
    pub paused: Option<Duration>,
    /// Highest share ÷ fair share, with the moves under way made; 1 without sessions.
    pub skew: f64,
    /// Sessions move when it has been above this for a moment.
    pub limit: f64,
    /// Sessions that would have to move for the counts to be even.
    pub needed: u32,
    /// Sessions that were asked to go and are expected back.
    pub away: u32,
    /// Sessions asked to go, ever.
    pub moves: u64,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Turnout {
    Began { skew: f64, needed: u32 },
    Ended { moves: u32, took: Duration },
    Paused,
}

/// The part of the balancer that moves sessions.
#[derive(Debug)]
pub(super) struct Rebalancer {
    at: Instant,
    filled: Instant,
    tokens: f64,
    /// Ticks in a row with too much skew.
    above: u32,
    round: Option<Round>,
    /// Endpoints or weights have changed since the last tick.
    changed: bool,
    wishes: Vec<(Instant, Shed, u32)>,
    /// Sessions that were asked to go and are not back, oldest first.
    away: VecDeque<(Instant, u32)>,
    /// When sessions moved lately, oldest first.
    moved: VecDeque<Instant>,
    /// In order of identity: how many sessions each had opened at the last look.
    seen_opened: Vec<(EndpointId, u32)>,
    /// Of the last clients that had the time to come back: those that did not, and all.
    lost: (u32, u32),
    paused_until: Option<Instant>,
    moves: u64,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    began: Instant,
    moves: u32,
}

/// Sessions against fair shares.
struct Plan {
    skew: f64,
    needed: u32,
    total: u32,
    /// Endpoints that have too many, and how many; the largest excess first.
    excess: Vec<(Arc<Endpoint>, u32)>,
    /// What each would have if it were even.
    targets: Vec<u32>,
}

impl Rebalancer {
    pub(super) fn new(rng: &mut Rng, now: Instant) -> Self {
        Self {
            at: now + TICK,
            filled: now,
            // Evenkeels that start together do not move their first session together.
            tokens: -rng.unit(),
            above: 0,
            round: None,
            changed: false,
            wishes: Vec::new(),
            away: VecDeque::new(),
            moved: VecDeque::new(),
            seen_opened: Vec::new(),
            lost: (0, 0),
            paused_until: None,
            moves: 0,
        }
    }

    /// Endpoints or weights changed.
    pub(super) fn note_change(&mut self) {
        self.changed = true;
    }

    /// When it looks again, at the earliest.
    pub(super) fn due(&self) -> Instant {
        self.at
    }

    /// The same, if it must be woken for that: else the balancer's own tick is often enough.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.round.map(|_| self.at)
    }

    /// Looks at the counts; sessions that are to go now, and what is worth telling.
    pub(super) fn tick(
        &mut self,
        config: &RebalanceConfig,
        choice: &Choice,
        members: &BTreeMap<EndpointId, Member>,
        rng: &mut Rng,
        now: Instant,
    ) -> (Vec<Shed>, Option<Turnout>) {
        self.settle_wishes();
        let lost = self.note_returns(members, now);
        let plan = plan(&choice.entries, self.away_now());
        self.fill(config, plan.total, now);
        while self.moved.front().is_some_and(|&at| now.since(at) > config.cool_down) {
            self.moved.pop_front();
        }
        let mut told = None;
        if lost && self.paused_until.is_none() {
            self.paused_until = Some(now + PAUSE);
            told = Some(Turnout::Paused);
        }
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        let may = config.enabled && self.paused_until.is_none();
        told = told.or(self.arm(config, &plan, may, choice.ramping, now));
        let sheds = if self.round.is_some() { self.spend(config, &plan, rng, now) } else { Vec::new() };
        let pause = if self.round.is_some() { PACE } else { TICK };
        self.at = now + pause.mul_f64(0.9 + 0.2 * rng.unit());
        (sheds, told)
    }

    /// Books what became of the last wishes, and takes the rest of them back.
    fn settle_wishes(&mut self) {
        for (at, shed, wanted) in core::mem::take(&mut self.wishes) {
            let made = wanted.saturating_sub(shed.quota.swap(0, Relaxed));
            if made == 0 {
                // Nothing that can be moved is there: that may be tried again, but is not spent.
                self.tokens += f64::from(wanted);
                continue;
            }
            self.tokens += f64::from(wanted - made);
            self.moves += u64::from(made);
            self.away.push_back((at, made));
            self.moved.push_back(at);
            if let Some(round) = &mut self.round {
                round.moves += made;
            }
        }
    }

    /// Sessions opened since the last look are clients that are back. True: too many are not.
    fn note_returns(&mut self, members: &BTreeMap<EndpointId, Member>, now: Instant) -> bool {
        let mut before = core::mem::take(&mut self.seen_opened).into_iter().peekable();
        let mut opened: u32 = 0;
        for (&id, member) in members {
            let total = member.endpoint.load.opened.load(Relaxed);
            while before.next_if(|&(known, _)| known < id).is_some() {}
            let seen = before.next_if(|&(known, _)| known == id).map_or(total, |(_, seen)| seen);
            self.seen_opened.push((id, total));
            opened = opened.saturating_add(total.wrapping_sub(seen));
        }
        while let Some((_, n)) = self.away.front_mut() {
            let back = opened.min(*n);
            (*n, opened) = (*n - back, opened - back);
            self.lost.1 += back;
            if *n > 0 {
                break;
            }
            self.away.pop_front();
        }
        while let Some(&(at, n)) = self.away.front()
            && now.since(at) > RETURN
        {
            self.lost = (self.lost.0 + n, self.lost.1 + n);
            self.away.pop_front();
        }
        if self.lost.1 < JUDGED {
            return false;
        }
        let (lost, all) = core::mem::take(&mut self.lost);
        lost * 2 > all
    }

    fn away_now(&self) -> u32 {
        self.away.iter().map(|&(_, n)| n).sum()
    }

    fn fill(&mut self, config: &RebalanceConfig, total: u32, now: Instant) {
        let rate = config.pace.per_second(total);
        self.tokens += rate * now.since(self.filled).as_secs_f64();
        self.tokens = self.tokens.min(rate.max(1.0));
        self.filled = now;
    }

    /// Begins or ends a round of moves.
    fn arm(
        &mut self,
        config: &RebalanceConfig,
        plan: &Plan,
        may: bool,
        ramping: bool,
        now: Instant,
    ) -> Option<Turnout> {
        self.above = if plan.skew > config.skew && plan.needed > 0 { self.above + 1 } else { 0 };
        let changed = core::mem::take(&mut self.changed);
        match self.round {
            None if may && (self.above >= 2 || (changed && self.above >= 1)) => {
                self.round = Some(Round { began: now, moves: 0 });
                Some(Turnout::Began { skew: plan.skew, needed: plan.needed })
            }
            // While fair shares of new endpoints still grow it is only even for now.
            Some(round) if !may || (!ramping && (plan.skew <= EVEN || plan.needed == 0)) => {
                self.round = None;
                (round.moves > 0).then(|| Turnout::Ended { moves: round.moves, took: now.since(round.began) })
            }
            _ => None,
        }
    }

    /// As many moves as tokens allow, from the largest excess.
    fn spend(&mut self, config: &RebalanceConfig, plan: &Plan, rng: &mut Rng, now: Instant) -> Vec<Shed> {
        let helping = (self.tokens.max(0.0) as u32).min(plan.needed);
        let opened_before = self.moved.front().copied().unwrap_or(now);
        let most = config.per_endpoint * PACE.as_secs_f64();
        // A helping may be a fraction of a session: a whole one, that often.
        let most = most as u32 + u32::from(rng.unit() < most - libm::floor(most));
        let all: u32 = plan.excess.iter().map(|&(_, n)| n).sum();
        let mut left = helping;
        let mut sheds = Vec::new();
        for (endpoint, excess) in &plan.excess {
            // Each its part, so that the fullest fall together.
            let part = (u64::from(helping) * u64::from(*excess)).div_ceil(u64::from(all.max(1))) as u32;
            let n = part.min(*excess).min(most).min(left);
            if n == 0 {
                continue;
            }
            left -= n;
            self.tokens -= f64::from(n);
            let shed = Shed { endpoint: endpoint.clone(), quota: Arc::new(AtomicU32::new(n)), opened_before };
            self.wishes.push((now, shed.clone(), n));
            sheds.push(shed);
        }
        sheds
    }

    /// Sessions that each would have if their counts were even, those on their way included.
    pub(super) fn even(&self, entries: &[Entry]) -> Vec<u32> {
        plan(entries, self.away_now()).targets
    }

    pub(super) fn view(&self, config: &RebalanceConfig, entries: &[Entry], now: Instant) -> RebalanceView {
        let plan = plan(entries, self.away_now());
        RebalanceView {
            enabled: config.enabled,
            active: self.round.is_some(),
            paused: self.paused_until.map(|until| until.since(now)),
            skew: plan.skew,
            limit: config.skew,
            needed: plan.needed,
            away: self.away_now(),
            moves: self.moves,
        }
    }
}

impl Pace {
    /// Sessions per second when there are `total`.
    pub fn per_second(self, total: u32) -> f64 {
        match self {
            Self::Fraction(fraction) => fraction * f64::from(total),
            Self::PerSecond(rate) => rate,
        }
    }
}

/// Who has too many, when those that are away are back.
fn plan(entries: &[Entry], away: u32) -> Plan {
    let weights: f64 = entries.iter().map(|e| e.effective).sum();
    let counts: Vec<u32> = entries.iter().map(|e| e.endpoint.load.sessions.load(Relaxed)).collect();
    let total = counts.iter().sum::<u32>() + away;
    let fair: Vec<f64> = entries.iter().map(|e| f64::from(total) * e.effective / weights).collect();
    let shares = counts.iter().zip(&fair).filter(|&(_, &fair)| fair > 0.0);
    let skew = shares.map(|(&count, fair)| f64::from(count) / fair).fold(1.0, f64::max);
    let targets = targets(entries, &counts, &fair, total);
    let over = |(entry, (&count, target)): (&Entry, (&u32, u32))| {
        (count > target).then(|| (entry.endpoint.clone(), count - target))
    };
    let mut excess: Vec<_> = entries.iter().zip(counts.iter().zip(targets.iter().copied())).filter_map(over).collect();
    excess.sort_by_key(|&(_, n)| Reverse(n));
    Plan { skew, needed: excess.iter().map(|&(_, n)| n).sum(), total, excess, targets }
}

/// What each has if all come one by one and go where the picker sends them, to the smallest (L + 1)/w
/// (D'Hondt's method). It gives everybody the whole part of the fair share, so only the rest is dealt
/// out; where that is a tie, to those that have it.
fn targets(entries: &[Entry], counts: &[u32], fair: &[f64], total: u32) -> Vec<u32> {
    let mut targets: Vec<u32> = fair.iter().map(|&share| libm::floor(share + 1e-9) as u32).collect();
    let rest = total.saturating_sub(targets.iter().sum());
    let seat = |i: usize, taken: u32| {
        let quotient = (f64::from(taken) + 1.0) / entries[i].effective;
        // The bits of positive numbers are in the order of the numbers.
        Reverse((quotient.to_bits(), counts[i] <= taken, i))
    };
    let mut seats: BinaryHeap<_> = targets.iter().enumerate().map(|(i, &taken)| seat(i, taken)).collect();
    for _ in 0..rest {
        let Some(Reverse((_, _, i))) = seats.pop() else { break };
        targets[i] += 1;
        seats.push(seat(i, targets[i]));
    }
    targets
}
