//! From a checked configuration to a running proxy.

use crate::config::Config;
use crate::registry::Registry;
use evenkeel_core::address::Address;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A running proxy; dropping it cuts everything.
#[derive(Debug)]
pub struct Running {
    /// Where each service listens (ports resolved), by service name.
    pub listening: BTreeMap<String, Vec<Address>>,
    /// Where the admin API listens.
    pub admin: Option<SocketAddr>,
    /// What is counted.
    pub registry: Arc<Registry>,
}

/// Binds everything, starts workers and control, and returns once clients can connect.
///
/// # Errors
/// A listener that cannot be bound, named.
pub fn start(_config: Config) -> io::Result<Running> {
    Err(io::Error::other("not built"))
}

impl Running {
    /// Begins the drain: readiness turns, listeners close, sessions finish.
    pub fn drain(&self) {}

    /// Waits until every session is over or `limit` has passed; true: all are over.
    pub fn wait(&self, _limit: Duration) -> bool {
        true
    }

    /// Ends every session now and stops all threads.
    pub fn cut(self) {}
}
