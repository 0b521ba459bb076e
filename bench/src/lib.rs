//! What the benches share: balancers of a given size, in every policy.

use evenkeel_core::balancer::{Balancer, Config, Input, Output as Decision, Policy};
use evenkeel_core::endpoint::EndpointSpec;
use evenkeel_core::picker::Picker;
use evenkeel_core::time::{Duration, Instant};
use std::net::SocketAddr;
use std::sync::Arc;

/// So many endpoints, each at an address of its own.
pub fn specs(endpoints: u32) -> Vec<EndpointSpec> {
    let at = |n: u32| SocketAddr::from(([10, (n >> 16) as u8, (n >> 8) as u8, n as u8], 80));
    (1..=endpoints).map(|n| EndpointSpec::at(at(n))).collect()
}

/// A balancer that has had so many endpoints for a minute: slow starts are over, and tables that are built in
/// slices are whole.
pub fn balancer(policy: Policy, endpoints: u32) -> Balancer {
    let now = Instant::from_nanos(1_000_000_000);
    let config = Config { turn_policy: policy, session_policy: policy, ..Config::default() };
    let mut balancer = Balancer::new(config, 1, 1, now);
    balancer.handle(Input::Endpoints { source: 0, endpoints: specs(endpoints) }, now);
    for second in 0..60 {
        balancer.handle_timeout(now + Duration::from_secs(second));
    }
    balancer
}

/// What is picked from, as of the balancer's last decision.
pub fn published(balancer: &mut Balancer) -> Arc<Picker> {
    let mut picker = Arc::new(Picker::empty());
    while let Some(decision) = balancer.poll_output() {
        if let Decision::Publish(published) = decision {
            picker = published;
        }
    }
    picker
}
