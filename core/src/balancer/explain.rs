//! Answers to "why does this endpoint get what it gets?".

use super::{Balancer, EndpointView, Grounds, Member, Policy};
use crate::endpoint::Readiness;
use crate::time::{Duration, Instant};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

/// What decides whether an endpoint is picked: the first of these that is true of it, from the bottom up.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Standing {
    /// Nothing is known against it.
    Well,
    /// Its weight grows: how far it has come (0 to 1), and for how long it goes on.
    SlowStart {
        /// The part of its weight that it has.
        progress: f64,
        /// Until it has all of it.
        left: Duration,
    },
    /// Its ejection is over; one turn will tell whether it is well again.
    Probation {
        /// Why it was ejected.
        grounds: Grounds,
    },
    /// It is not picked, for what its turns showed.
    Ejected {
        /// Why.
        grounds: Grounds,
        /// For so long.
        left: Duration,
    },
    /// Its active check fails.
    Unhealthy,
    /// Discovery gives it no weight.
    Weightless,
    /// Discovery says that it is not ready.
    NotReady,
    /// Discovery says that it leaves.
    Terminating,
    /// An operator drains it.
    Drained,
}

impl Standing {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::SlowStart { .. } => "slow-start",
            Self::Probation { .. } => "probation",
            Self::Ejected { .. } => "ejected",
            Self::Unhealthy => "unhealthy",
            Self::Weightless => "weight-0",
            Self::NotReady => "not-ready",
            Self::Terminating => "terminating",
            Self::Drained => "drained",
        }
    }

    /// Is this a reason not to be picked?
    pub fn is_against(self) -> bool {
        !matches!(self, Self::Well | Self::SlowStart { .. })
    }
}

impl Balancer {
    /// Every known endpoint, in order of address, and why it is or is not picked.
    pub fn explain(&self, now: Instant) -> Vec<EndpointView> {
        let choice = self.choose(now);
        let total: f64 = choice.entries.iter().map(|e| e.effective).sum();
        let even = self.rebalancer.even(&choice.entries);
        let rule = rule(self.policy_at_work());
        let chosen: BTreeMap<_, _> =
            choice.entries.iter().zip(even).map(|(e, even)| (e.endpoint.id, (e.effective, even))).collect();
        let mut views: Vec<EndpointView> = self
            .members
            .iter()
            .map(|(id, member)| {
                let picked = chosen.get(id).copied();
                let effective = picked.map(|(effective, _)| effective);
                let fair_share = effective.map_or(0.0, |weight| weight / total);
                let (standing, since) = self.standing(member, choice.ramping, now);
                let mut view = EndpointView {
                    endpoint: member.endpoint.clone(),
                    readiness: member.spec.readiness,
                    usable: effective.is_some(),
                    weight: member.spec.weight,
                    effective_weight: effective.unwrap_or(0.0),
                    fair_share,
                    fair_sessions: picked.map(|(_, even)| even),
                    explanation: String::new(),
                    standing,
                    since,
                };
                view.explanation = sentence(&view, &member.check_detail, choice.panic, rule);
                view
            })
            .collect();
        views.sort_by(|a, b| a.endpoint.address.cmp(&b.endpoint.address));
        views
    }

    /// How it stands, and for how long it has.
    fn standing(&self, member: &Member, ramping: bool, now: Instant) -> (Standing, Option<Duration>) {
        let since = |at: Instant| Some(now.since(at));
        let (ejection, told) = (&member.ejection, since(member.told_since));
        if let Some(&at) = self.drained.get(&member.endpoint.id) {
            (Standing::Drained, since(at))
        } else if member.spec.readiness == Readiness::Terminating {
            (Standing::Terminating, told)
        } else if member.spec.readiness == Readiness::NotReady {
            (Standing::NotReady, told)
        } else if member.spec.weight <= 0.0 {
            (Standing::Weightless, told)
        } else if member.checked == Some(false) {
            (Standing::Unhealthy, since(member.checked_since))
        } else if let Some(until) = ejection.until() {
            (Standing::Ejected { grounds: ejection.grounds, left: until.since(now) }, since(ejection.began))
        } else if ejection.is_out() {
            (Standing::Probation { grounds: ejection.grounds }, since(ejection.began))
        } else {
            let (window, started) = (self.config.slow_start, member.started.filter(|_| ramping));
            let progress = member.progress(window, now);
            match started {
                Some(at) if progress < 1.0 => {
                    (Standing::SlowStart { progress, left: (at + window).since(now) }, since(at))
                }
                _ => (Standing::Well, None),
            }
        }
    }

    /// The policy that decides most now: that of sessions if they are most of what there is.
    fn policy_at_work(&self) -> Policy {
        let loads = || self.members.values().map(|member| &member.endpoint.load);
        let turns: u64 = loads().map(|load| u64::from(load.turns.load(Relaxed))).sum();
        let sessions: u64 = loads().map(|load| u64::from(load.sessions.load(Relaxed))).sum();
        if sessions > turns { self.config.session_policy } else { self.config.turn_policy }
    }
}

/// Why it is or is not picked. `rule` decides between those that are.
fn sentence(view: &EndpointView, check_detail: &str, panic: bool, rule: &str) -> String {
    let time = brief(view.since.unwrap_or_default());
    let against = match view.standing {
        Standing::Drained => format!("an operator has been draining it for {time}"),
        Standing::Terminating => format!("its Pod has been terminating for {time}"),
        Standing::NotReady => format!("discovery has called it not ready for {time}"),
        Standing::Weightless => format!("its weight has been 0 for {time}"),
        Standing::Unhealthy => format!("its health check has failed for {time}: {check_detail}"),
        Standing::Ejected { grounds, left } => {
            format!("it was ejected {time} ago, for {} more: {grounds}", brief(left))
        }
        Standing::Probation { grounds } => {
            format!("it was ejected {time} ago ({grounds}), and its next turn is a probe")
        }
        Standing::Well | Standing::SlowStart { .. } => String::new(),
    };
    let share = format!("{:.1} %", view.fair_share * 100.0);
    match (view.usable, view.standing) {
        (true, Standing::SlowStart { progress, left }) => format!(
            "picked; fair share {share}; in slow start, at {:.0} % of its weight, for {} more",
            progress * 100.0,
            brief(left)
        ),
        (true, Standing::Well) => format!("picked; fair share {share}; {rule}"),
        (true, _) if panic => {
            format!("picked although {against}: too few endpoints are fit (panic); fair share {share}")
        }
        (true, _) => format!("picked although {against}: nothing better is left; fair share {share}"),
        (false, standing) if standing.is_against() => format!("not picked: {against}"),
        (false, _) => String::from("not picked: others are ready"),
    }
}

/// A time in the unit that a reader would choose: `7 s`, `12 min`, `5 h`, `3 days`.
pub fn brief(time: Duration) -> impl fmt::Display {
    let seconds = time.as_secs();
    let (n, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7_200 => (seconds / 60, "min"),
        7_200..172_800 => (seconds / 3_600, "h"),
        _ => (seconds / 86_400, "days"),
    };
    fmt::from_fn(move |f| write!(f, "{n} {unit}"))
}

/// What decides between endpoints, in words.
fn rule(policy: Policy) -> &'static str {
    match policy {
        Policy::Random => "one uniform draw per session, for life",
        Policy::RoundRobin => "in turn",
        Policy::Weighted => "in turn, in proportion to weights",
        Policy::LeastRequest => "in weighted turn, unless another has less in flight",
        Policy::PeakEwma => "the better of two draws, by latency and work in flight",
        Policy::LeastSession => "where sessions are fewest for the weight",
        Policy::RingHash | Policy::Maglev => "by the hash of the affinity key",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn times_are_brief() {
        let said = |seconds| brief(Duration::from_secs(seconds)).to_string();
        assert_eq!([0, 119, 120, 7_199, 7_200, 172_799].map(said), ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h"]);
        assert_eq!(said(172_800), "2 days");
    }
}
