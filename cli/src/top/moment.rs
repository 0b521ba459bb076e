//! A moment as `/api/v1/live` tells it.

use serde::Deserialize;
use std::collections::BTreeMap;

/// Everything at one time.
#[derive(Clone, Deserialize, Debug)]
pub(super) struct Moment {
    pub(super) unix_ms: u64,
    pub(super) name: String,
    pub(super) version: String,
    /// Why it is not ready.
    pub(super) unready: Option<String>,
    pub(super) config: Config,
    pub(super) services: Vec<Service>,
}

/// The configuration that runs.
#[derive(Clone, Deserialize, Debug)]
pub(super) struct Config {
    pub(super) generation: u64,
    /// Why the last reload failed.
    pub(super) error: Option<String>,
}

/// One service.
#[derive(Clone, Deserialize, Debug)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) sessions: u64,
    pub(super) turns_per_second: f64,
    pub(super) turns_in_flight: u64,
    pub(super) endpoints_known: u64,
    pub(super) endpoints_usable: u64,
    measure: Measure,
    skew: Skews,
    moves: Moves,
    failures: BTreeMap<String, u64>,
    pub(super) headline: String,
    #[serde(default)]
    pub(super) endpoints: Vec<Endpoint>,
    #[serde(default)]
    pub(super) endpoints_more: u64,
    #[serde(default)]
    pub(super) skew_history: Vec<Option<f64>>,
    /// Sentences, the headline first.
    #[serde(default)]
    pub(super) why: Vec<String>,
}

/// What work is counted in.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
enum Measure {
    Turns,
    Sessions,
}

#[derive(Clone, Deserialize, Debug)]
struct Skews {
    turns: Option<Skew>,
    sessions: Option<Skew>,
}

#[derive(Clone, Copy, Deserialize, Debug)]
struct Skew {
    skew: f64,
}

#[derive(Clone, Deserialize, Debug)]
struct Moves {
    asked: BTreeMap<String, u64>,
}

/// One endpoint.
#[derive(Clone, Deserialize, Debug)]
pub(super) struct Endpoint {
    pub(super) address: String,
    pub(super) name: Option<String>,
    pub(super) usable: bool,
    pub(super) state: String,
    share: f64,
    session_share: f64,
    pub(super) fair_share: f64,
    pub(super) sessions: u64,
    pub(super) turns_per_second: f64,
    pub(super) turns_in_flight: u64,
    failures: BTreeMap<String, u64>,
    pub(super) first_byte_ms: Times,
    pub(super) why: String,
}

/// Upper bounds, in milliseconds.
#[derive(Clone, Copy, Deserialize, Debug)]
pub(super) struct Times {
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

impl Service {
    /// Skew of its work.
    pub(super) fn skew(&self) -> Option<f64> {
        let skew = if self.measure == Measure::Turns { self.skew.turns } else { self.skew.sessions };
        skew.map(|s| s.skew)
    }

    /// Sessions asked to go, for whatever reason.
    pub(super) fn moves(&self) -> u64 {
        self.moves.asked.values().sum()
    }

    /// Turns that failed.
    pub(super) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// An endpoint's part of the service's work.
    pub(super) fn share(&self, endpoint: &Endpoint) -> f64 {
        if self.measure == Measure::Turns { endpoint.share } else { endpoint.session_share }
    }

    /// Its share ÷ its fair share, if it has one.
    pub(super) fn load(&self, endpoint: &Endpoint) -> Option<f64> {
        (endpoint.fair_share > 0.0).then(|| self.share(endpoint) / endpoint.fair_share)
    }
}

impl Endpoint {
    /// Something is against picking it.
    pub(super) fn is_out(&self) -> bool {
        !matches!(self.state.as_str(), "well" | "slow-start")
    }

    /// Turns that it failed.
    pub(super) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}
