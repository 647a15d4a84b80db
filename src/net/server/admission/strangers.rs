//! Limits the log lines that a stranger can cause: a few at once, then one from time to time.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Lines that may come at once.
const BURST: u32 = 20;
/// Time until there may be another one.
const REFILL: Duration = Duration::from_secs(10);

/// Decides which of these lines are logged.
pub struct StrangerLines(Mutex<Bucket>);

struct Bucket {
    lines: u32,
    /// When the last line was added.
    at: Instant,
    omitted: u64,
}

impl StrangerLines {
    pub fn new() -> StrangerLines {
        StrangerLines(Mutex::new(Bucket {
            lines: BURST,
            at: Instant::now(),
            omitted: 0,
        }))
    }

    /// Whether a line may be logged now. The value is the count of lines that were omitted since
    /// the last one.
    pub fn line(&self) -> Option<u64> {
        let mut bucket = self.0.lock();
        bucket.line(Instant::now())
    }
}

impl Bucket {
    fn line(&mut self, now: Instant) -> Option<u64> {
        let intervals = now.saturating_duration_since(self.at).as_secs() / REFILL.as_secs();
        if intervals > 0 {
            let more = u32::try_from(intervals).unwrap_or(u32::MAX);
            self.lines = self.lines.saturating_add(more).min(BURST);
            self.at = now;
        }
        match self.lines.checked_sub(1) {
            Some(lines) => {
                self.lines = lines;
                Some(std::mem::take(&mut self.omitted))
            }
            None => {
                self.omitted = self.omitted.saturating_add(1);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cause_a_few_lines_and_then_one_now_and_then() {
        let at = Instant::now();
        let mut bucket = Bucket {
            lines: BURST,
            at,
            omitted: 0,
        };
        let logged = (0..1000).filter_map(|_| bucket.line(at)).count();
        assert_eq!(logged, BURST as usize);
        assert_eq!(bucket.line(at + REFILL), Some(1000 - u64::from(BURST)));
        assert_eq!(bucket.line(at + REFILL), None);
        let later = at + REFILL * 1000;
        let logged = (0..1000).filter_map(|_| bucket.line(later)).count();
        assert_eq!(logged, BURST as usize);
    }
}
