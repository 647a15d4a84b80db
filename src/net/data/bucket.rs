//! A token bucket, in bytes. The caller says what time it is.
//!
//! Each taker gets a place behind the bytes that were taken before it. It may go ahead once the
//! bucket has let that many bytes pass. So takers go in order, and a changed rate counts for those
//! that wait already. Libraries fix the rate of a bucket when it is made; this one changes.

use std::time::Duration;
use tokio::time::Instant;

/// What an idle bucket gathers: as many bytes as pass in this time. It makes up for late wake-ups.
const BURST: Duration = Duration::from_millis(50);

/// Lets bytes pass at a rate.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Bytes a second; `None`: all pass at once.
    rate: Option<u64>,
    /// Bytes that takers took, and those that may have passed by `at`.
    taken: f64,
    passed: f64,
    at: Instant,
}

/// A taker's place: the bytes that go before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place(f64);

impl Bucket {
    /// An idle bucket of `rate` bytes a second.
    pub(super) fn new(rate: Option<u64>, now: Instant) -> Bucket {
        Bucket {
            rate,
            taken: 0.0,
            passed: 0.0,
            at: now,
        }
    }

    /// The rate in bytes a second; `None`: no limit.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// From `now` on bytes pass at another rate.
    pub(super) fn set_rate(&mut self, rate: Option<u64>, now: Instant) {
        self.advance(now);
        self.rate = rate;
    }

    /// Takes `bytes`; the place says when they may go.
    pub(super) fn take(&mut self, bytes: usize, now: Instant) -> Place {
        self.advance(now);
        let place = Place(self.taken);
        self.taken += bytes as f64;
        place
    }

    /// How long from `now` until the bytes of this place may go, at the present rate; zero: now.
    pub(super) fn wait(&mut self, place: Place, now: Instant) -> Duration {
        self.advance(now);
        match self.rate {
            Some(rate) if place.0 > self.passed => {
                let seconds = (place.0 - self.passed) / rate.max(1) as f64;
                // never zero: a timer that is ready at once would spin
                Duration::from_secs_f64(seconds).max(Duration::from_millis(1))
            }
            _ => Duration::ZERO,
        }
    }

    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.passed = match self.rate {
            Some(rate) => {
                let most = self.taken + rate as f64 * BURST.as_secs_f64();
                (self.passed + rate as f64 * elapsed).min(most)
            }
            None => self.taken,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Bytes that one taker of pieces gets through in this time.
    fn carried(bucket: &mut Bucket, from: Instant, time: Duration, piece: usize) -> usize {
        let (mut now, mut bytes) = (from, 0);
        loop {
            let place = bucket.take(piece, now);
            now += bucket.wait(place, now);
            if now >= from + time {
                return bytes;
            }
            bytes += piece;
        }
    }

    #[test]
    fn bytes_pass_at_the_rate_whatever_the_size_of_the_pieces() {
        for (rate, piece) in [(16_384, 1024), (1_000_000, 62_500), (1_000_000, 100)] {
            let start = Instant::now();
            let mut bucket = Bucket::new(Some(rate), start);
            let bytes = carried(&mut bucket, start + 60 * SECOND, 10 * SECOND, piece) as f64;
            let expected = rate as f64 * 10.0;
            assert!((bytes / expected - 1.0).abs() < 0.02, "{bytes} of {expected}");
        }
    }

    #[test]
    fn takers_go_in_order_and_a_new_rate_counts_for_those_that_wait() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Some(1000), start);
        let places = [0; 3].map(|_| bucket.take(1000, start));
        let waits = |bucket: &mut Bucket, now| places.map(|p| bucket.wait(p, now).as_millis());
        assert_eq!(waits(&mut bucket, start), [0, 1000, 2000]);
        bucket.set_rate(Some(2000), start + SECOND / 2);
        assert_eq!(waits(&mut bucket, start + SECOND / 2), [0, 250, 750]);
        bucket.set_rate(None, start + SECOND / 2);
        assert_eq!(waits(&mut bucket, start + SECOND / 2), [0, 0, 0]);
    }

    #[test]
    fn an_idle_bucket_gathers_little_and_a_clock_that_goes_back_does_no_harm() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Some(1000), start);
        let late = start + 3600 * SECOND;
        assert_eq!(bucket.take(0, late), Place(0.0));
        let first = bucket.take(1050, late);
        let second = bucket.take(1, late);
        assert_eq!(bucket.wait(first, late), Duration::ZERO);
        assert_eq!(bucket.wait(second, late).as_millis(), 1000);
        assert_eq!(bucket.wait(second, start).as_millis(), 1000);
    }
}
