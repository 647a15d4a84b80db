//! What a client waits for before anything moves, for the user who waits: its server, or its turn.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Shared by all sessions of one login.
#[derive(Default)]
pub struct Outage {
    since: Mutex<Option<Instant>>,
    line: AtomicU32,
}

/// The outage lasts until this guard is dropped.
pub struct Ongoing(Arc<Outage>);

impl Outage {
    /// The server has been unreachable since `since`.
    pub fn begin(self: &Arc<Outage>, since: Instant) -> Ongoing {
        *self.since.lock() = Some(since);
        Ongoing(self.clone())
    }

    /// How long the outage has lasted at `now`; `None` while the server is reachable.
    pub fn lasted(&self, now: Instant) -> Option<Duration> {
        let since = *self.since.lock();
        since.map(|since| now.saturating_duration_since(since))
    }

    /// The server has no memory for the transfer yet, which waits as this one in line; 0: it does
    /// not wait any more.
    pub fn wait_in_line(&self, turn: u32) {
        self.line.store(turn, Ordering::Relaxed);
    }

    /// The transfer's turn in the server's line, from 1 on; `None` if it does not wait.
    pub fn turn(&self) -> Option<u32> {
        Some(self.line.load(Ordering::Relaxed)).filter(|turn| *turn > 0)
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        *self.0.since.lock() = None;
    }
}
