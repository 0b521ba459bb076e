//! Everything that is known of a service and its endpoints at one moment, for the admin API and metrics.

use crate::control::{Control, Controlled};
use crate::observe::sums::{EndpointSums, Sums};
use crate::recent::{Counts, Measure};
use evenkeel_core::address::Address;
use evenkeel_core::balancer::{EndpointView, Policy, RebalanceView, Standing};
use evenkeel_core::endpoint::EndpointId;
use evenkeel_core::skew::{Skew, skew};
use evenkeel_core::time::{Duration, Instant};
use evenkeel_upstream::pump::SourceStatus;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

/// Skew up to which work counts as even.
pub(crate) const UNEVEN: f64 = 1.10;

/// Everything that is known of one endpoint now.
#[derive(Clone, Debug)]
pub(crate) struct EndpointNow {
    pub(crate) view: EndpointView,
    pub(crate) address: String,
    pub(crate) sums: EndpointSums,
    /// Turns per second, of the last ten.
    pub(crate) rate: f64,
    /// Turns that it failed in these ten seconds.
    pub(crate) failed_lately: u64,
    /// Its part of the turns of the last ten seconds; of all turns, if there were none.
    pub(crate) share: f64,
    /// Its part of the sessions that are placed whole.
    pub(crate) session_share: f64,
}

impl EndpointNow {
    /// Sessions placed whole on it.
    pub(crate) fn sessions(&self) -> u64 {
        u64::from(self.view.endpoint.load.sessions.load(Relaxed))
    }

    /// Turns in flight.
    pub(crate) fn in_flight(&self) -> u64 {
        u64::from(self.view.endpoint.load.turns.load(Relaxed))
    }

    /// Its part of the service's work.
    pub(crate) fn share_of(&self, measure: Measure) -> f64 {
        match measure {
            Measure::Turns => self.share,
            Measure::Sessions => self.session_share,
        }
    }

    /// Share ÷ fair share; `None` if it has none.
    pub(crate) fn load(&self, measure: Measure) -> Option<f64> {
        let fair = self.view.fair_share;
        (fair > 0.0).then(|| self.share_of(measure) / fair)
    }
}

/// Everything that is known of one service now.
#[derive(Clone, Debug)]
pub(crate) struct ServiceNow {
    pub(crate) name: String,
    pub(crate) listening: Vec<String>,
    pub(crate) protocol: &'static str,
    pub(crate) turn_policy: Policy,
    pub(crate) session_policy: Policy,
    pub(crate) sums: Sums,
    /// Turns per second, of the last ten.
    pub(crate) rate: f64,
    /// Turns and failures in these ten seconds.
    pub(crate) lately: Counts,
    pub(crate) measure: Measure,
    pub(crate) endpoints: Vec<EndpointNow>,
    /// Counted for endpoints that are not known any more.
    pub(crate) departed: Vec<(String, EndpointSums)>,
    pub(crate) sources: Vec<SourceStatus>,
    pub(crate) rebalance: RebalanceView,
    /// When the first certificate ends, seconds since 1970; `None`: TLS does not end here.
    pub(crate) certificate_expires: Option<i64>,
    pub(crate) turn_skew: Option<Skew>,
    pub(crate) session_skew: Option<Skew>,
    /// Skew of its work in the last two minutes, second by second, oldest first.
    pub(crate) skews: Vec<Option<f64>>,
}

impl ServiceNow {
    /// How even its work is.
    pub(crate) fn skew(&self) -> Option<Skew> {
        match self.measure {
            Measure::Turns => self.turn_skew,
            Measure::Sessions => self.session_skew,
        }
    }

    /// Is it less even than it could be?
    pub(crate) fn is_uneven(&self) -> bool {
        let bound = match self.measure {
            // So few turns are as uneven by chance alone.
            Measure::Turns => self.turn_skew.map_or(f64::MAX, |s| s.chance),
            Measure::Sessions if self.rebalance.needed == 0 => f64::MAX,
            Measure::Sessions => 0.0,
        };
        self.usable() > 1 && self.skew().is_some_and(|s| s.skew > UNEVEN.max(bound))
    }

    /// The part of the turns of the last ten seconds that failed, if it is more than a tenth.
    pub(crate) fn failing(&self) -> Option<f64> {
        let part = self.lately.failures as f64 / self.lately.turns.max(1) as f64;
        (part > 0.1).then_some(part.min(1.0))
    }

    /// Endpoints that may be picked.
    pub(crate) fn usable(&self) -> usize {
        self.endpoints.iter().filter(|e| e.view.usable).count()
    }

    /// Turns in flight, or waiting for an endpoint: sessions that are placed whole are not among them.
    pub(crate) fn in_flight(&self) -> u64 {
        let loads = self.endpoints.iter().map(|e| &e.view.endpoint.load);
        let sessions = loads.map(|l| u64::from(l.sessions.load(Relaxed)) + u64::from(l.leaving.load(Relaxed)));
        self.sums.turns_active.saturating_sub(sessions.sum())
    }

    /// The endpoint with the highest share for its fair share.
    pub(crate) fn hottest(&self) -> Option<&EndpointNow> {
        let load = |e: &EndpointNow| e.load(self.measure).unwrap_or(0.0);
        self.endpoints.iter().filter(|e| e.view.usable).max_by(|a, b| load(a).total_cmp(&load(b)))
    }

    /// The endpoints that a reader should see first, when there is room for `limit`: those with something
    /// against them, then by load, the highest first. If there is room for all, all of them by address.
    pub(crate) fn first(&self, limit: usize) -> Vec<&EndpointNow> {
        let mut endpoints: Vec<&EndpointNow> = self.endpoints.iter().collect();
        if endpoints.len() <= limit {
            return endpoints;
        }
        let unfit = |e: &EndpointNow| !e.view.usable || e.view.standing != Standing::Well;
        let load = |e: &EndpointNow| e.load(self.measure).unwrap_or(0.0);
        endpoints.sort_by(|a, b| unfit(b).cmp(&unfit(a)).then(load(b).total_cmp(&load(a))));
        endpoints.truncate(limit);
        endpoints
    }

    /// How much it deserves attention. Coarse, so that a list in this order does not jump.
    fn urgency(&self) -> (bool, bool, bool) {
        let source_fails = self.sources.iter().any(|s| s.error.is_some());
        let unfit = self.endpoints.iter().any(|e| e.view.standing.is_against());
        (self.usable() == 0 || source_fails || self.failing().is_some(), unfit, self.is_uneven())
    }
}

/// The services that a reader should see first, when there is room for `limit`; if there is room for all,
/// all of them in order of configuration.
pub(crate) fn first(services: &[ServiceNow], limit: usize) -> Vec<&ServiceNow> {
    let mut services: Vec<&ServiceNow> = services.iter().collect();
    if services.len() > limit {
        services.sort_by_cached_key(|s| std::cmp::Reverse(s.urgency()));
        services.truncate(limit);
    }
    services
}

impl Controlled {
    pub(crate) async fn now(&self, at: Instant) -> ServiceNow {
        let explanation = self.pump.explain().await;
        let service = self.service();
        let mut sums: BTreeMap<String, EndpointSums> = service.entry.sums();
        let total = service.entry.total();
        let (oldest, skews) = {
            let recent = self.recent();
            (recent.oldest().cloned(), recent.skews())
        };
        let before = |address: &Address| {
            let counts = oldest.as_ref().and_then(|oldest| oldest.endpoints.get(address));
            counts.copied().unwrap_or_default()
        };
        let rate = |turns| oldest.as_ref().map_or(0.0, |oldest| oldest.rate(turns, at));
        let mut turns_lately = Vec::new();
        let mut endpoints = Vec::new();
        for view in explanation.endpoints {
            let address = view.endpoint.address.to_string();
            let sums = sums.remove(&address).unwrap_or_default();
            let Counts { turns, failures } = before(&view.endpoint.address);
            let lately = sums.turns.saturating_sub(turns);
            turns_lately.push(lately);
            endpoints.push(EndpointNow {
                rate: rate(lately),
                failed_lately: sums.failed().saturating_sub(failures),
                share: 0.0,
                session_share: 0.0,
                view,
                address,
                sums,
            });
        }
        if turns_lately.iter().all(|&turns| turns == 0) {
            turns_lately = endpoints.iter().map(|e| e.sums.turns).collect();
        }
        let sessions: Vec<u64> = endpoints.iter().map(EndpointNow::sessions).collect();
        let (turn_skew, session_skew) = (skew_of(&endpoints, &turns_lately), skew_of(&endpoints, &sessions));
        let placed = sessions.iter().sum();
        let (turn_shares, session_shares) = (shares(&endpoints, &turns_lately), shares(&endpoints, &sessions));
        for ((endpoint, share), session_share) in endpoints.iter_mut().zip(turn_shares).zip(session_shares) {
            (endpoint.share, endpoint.session_share) = (share, session_share);
        }
        let before = oldest.as_ref().map(|oldest| oldest.total).unwrap_or_default();
        let lately = Counts {
            turns: total.turns.saturating_sub(before.turns),
            failures: total.failed().saturating_sub(before.failures),
        };
        let config = &service.config;
        ServiceNow {
            name: config.name.clone(),
            listening: self.listening().iter().map(ToString::to_string).collect(),
            protocol: config.protocol.as_str(),
            turn_policy: config.balance.core.turn_policy,
            session_policy: config.balance.core.session_policy,
            rate: rate(lately.turns),
            lately,
            measure: Measure::of(total.sessions, placed),
            sums: total,
            endpoints,
            departed: sums.into_iter().collect(),
            sources: self.pump.sources(),
            rebalance: explanation.rebalance,
            certificate_expires: service.tls.as_ref().and_then(|tls| tls.expires()),
            turn_skew,
            session_skew,
            skews,
        }
    }
}

/// The part that each has. Those that may be picked share what they have together, so that their shares can
/// be compared with fair shares while others still finish what they have; of these it is the part of all.
fn shares(endpoints: &[EndpointNow], loads: &[u64]) -> Vec<f64> {
    let all: u64 = loads.iter().sum();
    let usable: u64 = endpoints.iter().zip(loads).filter(|(e, _)| e.view.usable).map(|(_, &load)| load).sum();
    let share =
        |(e, &load): (&EndpointNow, &u64)| load as f64 / (if e.view.usable { usable } else { all }).max(1) as f64;
    endpoints.iter().zip(loads).map(share).collect()
}

/// Figures over endpoints that may be picked.
fn skew_of(endpoints: &[EndpointNow], loads: &[u64]) -> Option<Skew> {
    let usable = endpoints.iter().zip(loads).filter(|(e, _)| e.view.usable && e.view.effective_weight > 0.0);
    skew(&usable.map(|(e, &load)| (load as f64, e.view.effective_weight)).collect::<Vec<_>>())
}

impl Control {
    /// All services now, in order of configuration.
    pub(crate) async fn now(&self) -> Vec<ServiceNow> {
        let mut services = Vec::new();
        for service in self.services() {
            services.push(service.now(self.clock.now()).await);
        }
        services
    }
}

/// How old some sessions are.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Ages {
    pub(crate) count: usize,
    pub(crate) youngest: Duration,
    pub(crate) median: Duration,
    pub(crate) oldest: Duration,
}

impl Ages {
    /// Of sessions that were opened at these times; `None` without any.
    fn of(mut opened: Vec<Instant>, now: Instant) -> Option<Self> {
        opened.sort_unstable();
        let age = |at: &Instant| now.since(*at);
        Some(Self {
            count: opened.len(),
            youngest: age(opened.last()?),
            median: age(&opened[opened.len() / 2]),
            oldest: age(opened.first()?),
        })
    }
}

/// How old the sessions of a service are: all, and those that are placed whole by their endpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionAges {
    pub(crate) all: Option<Ages>,
    pub(crate) placed: BTreeMap<EndpointId, Ages>,
}

impl SessionAges {
    /// From what each worker said.
    pub(crate) fn of(opened: impl IntoIterator<Item = Opened>, now: Instant) -> Self {
        let mut all = Vec::new();
        let mut placed: BTreeMap<EndpointId, Vec<Instant>> = BTreeMap::new();
        for (endpoint, times) in opened.into_iter().flatten() {
            all.extend_from_slice(&times);
            if let Some(endpoint) = endpoint {
                placed.entry(endpoint).or_default().extend(times);
            }
        }
        let ages = |(endpoint, times)| Some((endpoint, Ages::of(times, now)?));
        Self { all: Ages::of(all, now), placed: placed.into_iter().filter_map(ages).collect() }
    }
}

/// When the sessions of one worker and service were opened, by the endpoint on which they are placed whole.
pub(crate) type Opened = BTreeMap<Option<EndpointId>, Vec<Instant>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_over_all_workers() {
        let at = |seconds: u64| Instant::ZERO + Duration::from_secs(seconds);
        let endpoint = Some(EndpointId(7));
        let one = Opened::from([(None, vec![at(90)]), (endpoint, vec![at(10), at(40)])]);
        let two = Opened::from([(endpoint, vec![at(99), at(20)])]);
        let ages = SessionAges::of([one, two], at(100));
        let secs = Duration::from_secs;
        let all = Ages { count: 5, youngest: secs(1), median: secs(60), oldest: secs(90) };
        assert_eq!(ages.all, Some(all));
        let its = Ages { count: 4, youngest: secs(1), median: secs(60), oldest: secs(90) };
        assert_eq!(ages.placed, BTreeMap::from([(EndpointId(7), its)]));
        assert_eq!(SessionAges::of([Opened::new()], at(100)).all, None);
    }
}
