//! Whether a client is without its server, and since when: for the user, who waits.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Shared by all sessions of one login.
#[derive(Default)]
pub struct Outage(Mutex<Option<Instant>>);

/// There is an outage until this is dropped.
pub struct Ongoing(Arc<Outage>);

impl Outage {
    /// The server cannot be reached since then.
    pub fn begin(self: &Arc<Outage>, since: Instant) -> Ongoing {
        *self.0.lock() = Some(since);
        Ongoing(self.clone())
    }

    /// How long it has lasted at this moment; `None` while the server is there.
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
