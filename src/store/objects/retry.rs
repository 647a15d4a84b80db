//! The pauses between the attempts of a request.

use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a request is repeated in all.
const RETRY_FOR: Duration = Duration::from_secs(60);
/// The first pause before a second attempt, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The attempts of one request.
pub struct Retry {
    began: Instant,
    pause: Duration,
}

impl Retry {
    /// The first attempt is now.
    pub fn new() -> Retry {
        Retry {
            began: Instant::now(),
            pause: FIRST_PAUSE,
        }
    }

    /// Waits before the next attempt; false if there is none.
    pub async fn pause(&mut self, random: u64) -> bool {
        if self.began.elapsed() > RETRY_FOR {
            return false;
        }
        // half of it is fixed, so that it is never nothing
        let jitter = u32::try_from(random % 1000).unwrap_or(0);
        let half = self.pause / 2;
        sleep(half.saturating_add(half.saturating_mul(jitter) / 1000)).await;
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        true
    }
}
