//! How fast bytes move, over the last second or so.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The shortest time over which a rate is taken.
const SAMPLE: Duration = Duration::from_millis(250);

/// Counts bytes, and knows their rate while any move.
pub struct Throughput {
    moved: AtomicU64,
    state: Mutex<RateSample>,
}

struct RateSample {
    since: Instant,
    before: u64,
    rate: f64,
}

impl Default for Throughput {
    fn default() -> Throughput {
        Throughput {
            moved: AtomicU64::new(0),
            state: Mutex::new(RateSample {
                since: Instant::now(),
                before: 0,
                rate: 0.0,
            }),
        }
    }
}

impl Throughput {
    /// So many have moved.
    pub fn add(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that have moved so far.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Bytes a second; none before anything has moved. While nothing moves it stays what it was:
    /// that a transfer waits for one connection does not make that one fast.
    pub fn rate(&self, now: Instant) -> Option<f64> {
        let mut state = self.state.lock();
        let (moved, elapsed) = (
            self.moved.load(Ordering::Relaxed),
            now.saturating_duration_since(state.since),
        );
        if elapsed >= SAMPLE {
            let new = moved.saturating_sub(state.before) as f64 / elapsed.as_secs_f64();
            if moved > state.before {
                state.rate = if state.rate > 0.0 {
                    f64::midpoint(state.rate, new)
                } else {
                    new
                };
            }
            (state.since, state.before) = (now, moved);
        }
        Some(state.rate).filter(|rate| *rate > 0.0)
    }
}
