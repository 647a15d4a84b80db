//! Since when a client's server has been unreachable, for the user who waits.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Shared by all sessions of one login.
#[derive(Default)]
pub struct Outage(Mutex<Option<Instant>>);

/// The outage lasts until this guard is dropped.
pub struct Ongoing(Arc<Outage>);

impl Outage {
    /// The server has been unreachable since `since`.
    pub fn begin(self: &Arc<Outage>, since: Instant) -> Ongoing {
        *self.0.lock() = Some(since);
        Ongoing(self.clone())
    }

    /// How long the outage has lasted at `now`; `None` while the server is reachable.
    pub fn lasted(&self, now: Instant) -> Option<Duration> {
        let since = *self.0.lock();
        since.map(|since| now.saturating_duration_since(since))
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        *self.0.0.lock() = None;
    }
}
