//! The present, for those who follow it: looked at once a second for all of them together, and only while
//! there are any.

use crate::control::{Control, Reloads};
use crate::now::ServiceNow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How often followers are told.
pub(crate) const PERIOD: Duration = Duration::from_secs(1);
/// How old a look may be that others took: a little less than a period, for timers are not exact.
const FRESH: Duration = Duration::from_millis(900);
/// With so many endpoints that a look takes longer than this part of a period, looks become rarer.
const LARGEST_PART: u32 = 10;
/// Followers at the same time.
const FOLLOWERS: usize = 64;

/// One look at everything.
#[derive(Debug)]
pub(crate) struct Moment {
    /// Counts up from 1.
    pub(crate) number: u64,
    pub(crate) services: Vec<ServiceNow>,
    pub(crate) reloads: Reloads,
    /// Why the process is not ready; `None`: it is.
    pub(crate) unready: Option<String>,
}

impl Moment {
    pub(crate) async fn now(control: &Control, number: u64) -> Self {
        Self {
            number,
            services: control.now().await,
            reloads: control.reloads.lock().map(|r| r.clone()).unwrap_or_default(),
            unready: control.unready(),
        }
    }
}

/// What followers share.
#[derive(Debug)]
pub(crate) struct Live {
    latest: Mutex<Option<Look>>,
    followers: Arc<Semaphore>,
}

#[derive(Debug)]
struct Look {
    at: Instant,
    /// For how long it is good enough.
    keeps: Duration,
    moment: Arc<Moment>,
}

impl Default for Live {
    fn default() -> Self {
        Self { latest: Mutex::default(), followers: Arc::new(Semaphore::new(FOLLOWERS)) }
    }
}

impl Live {
    /// A place among the followers, until it is dropped; `None`: there are too many.
    pub(crate) fn follow(&self) -> Option<OwnedSemaphorePermit> {
        self.followers.clone().try_acquire_owned().ok()
    }

    /// The present, or what somebody else saw less than a period ago.
    pub(crate) async fn latest(&self, control: &Control) -> Arc<Moment> {
        let mut latest = self.latest.lock().await;
        let began = Instant::now();
        if let Some(look) = &*latest
            && began - look.at < look.keeps
        {
            return look.moment.clone();
        }
        let number = latest.as_ref().map_or(1, |look| look.moment.number + 1);
        let moment = Arc::new(Moment::now(control, number).await);
        let keeps = FRESH.max(began.elapsed() * LARGEST_PART);
        *latest = Some(Look { at: began, keeps, moment: moment.clone() });
        moment
    }
}
