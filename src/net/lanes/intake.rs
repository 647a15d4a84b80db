//! How many bytes of a data lane may be outstanding: what the peer takes in a second.
//!
//! ssh buffers as much as its own windows hold. On a slow link that would be a queue of minutes, in
//! which a control message has to wait, and a connection would be taken for dead.

use std::time::{Duration, Instant};

/// Bytes that are always allowed.
const LEAST: usize = 256 << 10;
/// The peer's bytes are counted in so many parts of a second.
const PARTS: usize = 4;
const PART: Duration = Duration::from_millis(250);

/// Counts what the peer has taken lately.
pub(super) struct Intake {
    /// The last second, the newest part first.
    taken: [usize; PARTS],
    /// When the newest part began.
    since: Instant,
}

impl Intake {
    /// Nothing has been taken yet.
    pub(super) fn new(now: Instant) -> Intake {
        Intake {
            taken: [0; PARTS],
            since: now,
        }
    }

    /// The peer has taken so many bytes.
    pub(super) fn took(&mut self, bytes: usize, now: Instant) {
        self.turn(now);
        if let Some(newest) = self.taken.first_mut() {
            *newest = newest.saturating_add(bytes);
        }
    }

    /// Bytes that may be outstanding at `now`, of at most `most`.
    pub(super) fn allowed(&mut self, most: usize, now: Instant) -> usize {
        self.turn(now);
        self.taken.iter().sum::<usize>().max(LEAST).min(most)
    }

    /// Begins new parts, as time has passed.
    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_millis() / PART.as_millis();
        let passed = usize::try_from(passed).unwrap_or(usize::MAX);
        if passed > 0 {
            let gone = passed.min(PARTS);
            self.taken.rotate_right(gone);
            self.taken.iter_mut().take(gone).for_each(|part| *part = 0);
            let elapsed = PART.saturating_mul(u32::try_from(passed).unwrap_or(u32::MAX));
            self.since = self.since.checked_add(elapsed).unwrap_or(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 4 << 20;

    /// What is allowed after a while on a link of this rate and delay, whose sender always uses all
    /// that it may.
    fn settled(bytes_a_second: usize, round_trip: Duration) -> usize {
        let (start, step) = (Instant::now(), Duration::from_millis(10));
        let mut intake = Intake::new(start);
        // bytes on the way, by the time at which they are credited
        let mut credits = std::collections::VecDeque::new();
        let (mut outstanding, mut link_free) = (0, start);
        for tick in 0..1000 {
            let now = start + step * tick;
            while credits.front().is_some_and(|(at, _)| *at <= now) {
                let (_, bytes) = credits.pop_front().unwrap();
                outstanding -= bytes;
                intake.took(bytes, now);
            }
            let more = intake.allowed(MOST, now).saturating_sub(outstanding);
            let spent = Duration::from_secs_f64(more as f64 / bytes_a_second as f64);
            link_free = link_free.max(now) + spent;
            credits.push_back((link_free + round_trip, more));
            outstanding += more;
        }
        intake.allowed(MOST, start + step * 1000)
    }

    #[test]
    fn a_slow_link_has_a_queue_of_about_a_second_and_a_fast_one_is_filled() {
        let millis = Duration::from_millis;
        assert_eq!(settled(10_000, millis(50)), LEAST);
        let slow = settled(1_000_000, millis(50));
        assert!((LEAST..2_000_000).contains(&slow), "{slow}");
        // the bytes that are on the way at once, and more
        assert!(settled(25_000_000, millis(50)) > 2_500_000);
        assert_eq!(settled(1_000_000_000, millis(1)), MOST);
    }

    #[test]
    fn what_was_taken_long_ago_does_not_count() {
        let start = Instant::now();
        let mut intake = Intake::new(start);
        intake.took(3 << 20, start);
        assert_eq!(intake.allowed(MOST, start + PART), 3 << 20);
        assert_eq!(intake.allowed(MOST, start + PART * 3), 3 << 20);
        assert_eq!(intake.allowed(MOST, start + PART * 4), LEAST);
        intake.took(1 << 20, start + PART * 100);
        assert_eq!(intake.allowed(MOST, start + PART * 100), 1 << 20);
        assert_eq!(intake.allowed(100, start), 100, "never more than the window");
    }
}
