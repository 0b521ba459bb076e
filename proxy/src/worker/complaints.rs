//! Log lines for turns and sessions that failed: few enough that an outage or an attack does not become
//! one of the disk, too. Metrics count all of them.

use evenkeel_core::address::Address;
use evenkeel_core::end::{Cause, End};
use evenkeel_core::time::{Duration, Instant};
use std::net::SocketAddr;
use tracing::{info, warn};

/// Lines in a window, for each worker.
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(1);

/// What was said of failures in the present window.
#[derive(Debug)]
pub(super) struct Complaints {
    ends: Instant,
    said: u32,
    unsaid: u64,
}

/// What failed.
pub(super) struct Subject<'a> {
    pub(super) service: &'a str,
    pub(super) client: SocketAddr,
    pub(super) endpoint: Option<&'a Address>,
    /// What else there is to say, if anything.
    pub(super) detail: Option<&'a str>,
}

impl Complaints {
    pub(super) fn new(now: Instant) -> Self {
        Self { ends: now, said: 0, unsaid: 0 }
    }

    /// Logs a failure, unless it is an everyday end or there were too many in this window.
    pub(super) fn hear(&mut self, end: End, subject: &Subject<'_>, now: Instant) {
        if !is_failure(end.cause) || !self.admit(now) {
            return;
        }
        let Subject { service, client, endpoint, detail } = subject;
        let endpoint = endpoint.map(tracing::field::display);
        let (cause, phase) = (end.cause.as_str(), end.phase.as_str());
        if is_clients(end.cause) {
            info!(service, %client, endpoint, cause, phase, detail, "refused");
        } else {
            warn!(service, %client, endpoint, cause, phase, detail, "failed");
        }
    }

    /// May another line be logged in this window?
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        if now >= self.ends {
            if self.unsaid > 0 {
                warn!(unsaid = self.unsaid, "more failures than are logged; metrics have them all");
            }
            *self = Self { ends: now + WINDOW, said: 0, unsaid: 0 };
        }
        if self.said < LINES {
            self.said += 1;
            return true;
        }
        self.unsaid += 1;
        false
    }
}

fn is_failure(cause: Cause) -> bool {
    !matches!(
        cause,
        Cause::Done | Cause::ClientClosed | Cause::Idle | Cause::Shutdown | Cause::EndpointDrained | Cause::Moved
    )
}

/// Is the client to blame?
pub(super) fn is_clients(cause: Cause) -> bool {
    matches!(cause, Cause::ClientProtocol | Cause::ClientTls | Cause::ClientLimit | Cause::ClientTimeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_lines_in_a_window() {
        let now = Instant::from_nanos(0);
        let mut complaints = Complaints::new(now);
        assert_eq!((0..100).filter(|_| complaints.admit(now)).count(), LINES as usize);
        assert_eq!(complaints.unsaid, 100 - u64::from(LINES));
        assert!(complaints.admit(now + WINDOW));
        assert_eq!(complaints.unsaid, 0);
    }
}
