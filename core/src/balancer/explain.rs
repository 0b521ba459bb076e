//! Answers to "why does this endpoint get what it gets?".

use super::{Balancer, EndpointView, Policy};
use crate::time::Instant;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl Balancer {
    /// Every known endpoint, in order of address, and why it is or is not picked.
    pub fn explain(&self, now: Instant) -> Vec<EndpointView> {
        let choice = self.choose(now);
        let total: f64 = choice.entries.iter().map(|e| e.effective).sum();
        let chosen: BTreeMap<_, _> = choice.entries.iter().map(|e| (e.endpoint.id, e.effective)).collect();
        let mut views: Vec<EndpointView> = self
            .members
            .iter()
            .map(|(id, member)| {
                let effective = chosen.get(id).copied();
                let fair_share = effective.map_or(0.0, |weight| weight / total);
                EndpointView {
                    endpoint: member.endpoint.clone(),
                    readiness: member.spec.readiness,
                    usable: effective.is_some(),
                    weight: member.spec.weight,
                    effective_weight: effective.unwrap_or(0.0),
                    fair_share,
                    explanation: self.sentence(member, effective.is_some(), fair_share, choice.panic, now),
                }
            })
            .collect();
        views.sort_by(|a, b| a.endpoint.address.cmp(&b.endpoint.address));
        views
    }

    fn sentence(&self, member: &super::Member, usable: bool, fair_share: f64, panic: bool, now: Instant) -> String {
        use crate::endpoint::Readiness;
        let against = if self.drained.contains(&member.endpoint.id) {
            Some(String::from("an operator drains it"))
        } else if member.spec.readiness == Readiness::Terminating {
            Some(String::from("its Pod is terminating"))
        } else if member.spec.readiness == Readiness::NotReady {
            Some(String::from("discovery says it is not ready"))
        } else if member.spec.weight <= 0.0 {
            Some(String::from("its weight is 0"))
        } else if member.checked == Some(false) {
            Some(format!("its health check fails: {}", member.check_detail))
        } else if let Some(until) = member.ejection.until() {
            let left = until.since(now).as_secs();
            Some(format!("it is ejected for {left} s more: {}", member.ejection.reason))
        } else if member.ejection.is_out() {
            Some(format!("it was ejected ({}) and its next turn is a probe", member.ejection.reason))
        } else {
            None
        };
        let share = format!("{:.1} %", fair_share * 100.0);
        match (usable, against) {
            (true, None) => {
                let progress = member.progress(self.config.slow_start, now);
                if progress < 1.0 {
                    format!("picked; fair share {share}; in slow start, at {:.0} % of its weight", progress * 100.0)
                } else {
                    format!("picked; fair share {share}; {}", rule(self.config.turn_policy))
                }
            }
            (true, Some(against)) if panic => {
                format!("picked although {against}: too few endpoints are fit (panic); fair share {share}")
            }
            (true, Some(against)) => format!("picked although {against}: nothing better is left; fair share {share}"),
            (false, Some(against)) => format!("not picked: {against}"),
            (false, None) => String::from("not picked: others are ready"),
        }
    }
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
