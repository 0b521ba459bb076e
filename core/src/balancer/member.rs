//! One endpoint as the balancer keeps it.

use super::health::Ejection;
use crate::endpoint::{Endpoint, EndpointId, EndpointSpec, Readiness};
use crate::time::{Duration, Instant};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;

/// The share of its weight with which a new endpoint begins.
const FLOOR: f64 = 0.1;

#[derive(Debug)]
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) spec: EndpointSpec,
    /// Since when discovery wants it to serve, or not to.
    pub(super) told_since: Instant,
    /// Slow start counts from here; `None`: it was there from the beginning.
    pub(super) started: Option<Instant>,
    /// The last verdict of the active check, if there is one.
    pub(super) checked: Option<bool>,
    pub(super) checked_since: Instant,
    pub(super) check_detail: Box<str>,
    pub(super) ejection: Ejection,
    /// Its sessions were told to go.
    pub(super) told_to_leave: bool,
}

impl Member {
    /// `back`: it was here before, with these counters, and its sessions were (not) told to go. `late`:
    /// others were there before it, so it starts slowly.
    pub(super) fn new(spec: &EndpointSpec, back: Option<(Arc<Endpoint>, bool)>, late: bool, now: Instant) -> Self {
        let (endpoint, told_to_leave) = back.unwrap_or_else(|| (Arc::new(Endpoint::new(spec)), false));
        Self {
            endpoint,
            told_to_leave,
            spec: spec.clone(),
            told_since: now,
            started: late.then_some(now),
            checked: None,
            checked_since: now,
            check_detail: Box::default(),
            ejection: Ejection::default(),
        }
    }

    /// Discovery says this of it; false: nothing new.
    pub(super) fn update(&mut self, spec: &EndpointSpec, now: Instant) -> bool {
        if *spec == self.spec {
            return false;
        }
        let serves = |spec: &EndpointSpec| spec.readiness == Readiness::Ready && spec.weight > 0.0;
        if serves(spec) && !serves(&self.spec) {
            self.starts(now);
        }
        let told = |spec: &EndpointSpec| (spec.readiness, spec.weight > 0.0);
        if told(spec) != told(&self.spec) {
            self.told_since = now;
        }
        self.spec = spec.clone();
        true
    }

    /// It begins to serve (again): slowly.
    pub(super) fn starts(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// Discovery and operator want it to serve.
    pub(super) fn is_candidate(&self, drained: &BTreeMap<EndpointId, Instant>) -> bool {
        self.spec.readiness == Readiness::Ready && self.spec.weight > 0.0 && !drained.contains_key(&self.endpoint.id)
    }

    /// Discovery or operator want it to go.
    pub(super) fn leaves(&self, drained: &BTreeMap<EndpointId, Instant>) -> bool {
        let id = &self.endpoint.id;
        self.spec.readiness == Readiness::Terminating || self.spec.weight <= 0.0 || drained.contains_key(id)
    }

    /// Nothing is known against it.
    pub(super) fn is_fit(&self) -> bool {
        self.checked != Some(false) && !self.ejection.is_out()
    }

    /// A weight that can be drawn by.
    pub(super) fn weight(&self) -> f64 {
        if self.spec.weight.is_finite() && self.spec.weight > 0.0 { self.spec.weight } else { 1.0 }
    }

    /// How far slow start has come: 0.1 to 1.
    pub(super) fn progress(&self, window: Duration, now: Instant) -> f64 {
        match self.started {
            Some(started) if now.since(started) < window => {
                (now.since(started).as_secs_f64() / window.as_secs_f64()).max(FLOOR)
            }
            _ => 1.0,
        }
    }
}
