//! Whether a data connection lives, and how fast it is: pings, their answers, and an adaptive
//! time-out.
//!
//! The time-out is that of RFC 6298 over the round trip of pings, which wait in the same queues as
//! data. A connection whose ping is not answered within it is silent: it is ended, and another one
//! takes over its frames. The caller says what time it is.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Time between two pings of a connection that carries data.
const BUSY_PAUSE: Duration = Duration::from_millis(250);
/// Time between two pings of one that does not.
const IDLE_PAUSE: Duration = Duration::from_secs(5);
/// The time-out before the first answer.
const FIRST_TIMEOUT: Duration = Duration::from_secs(15);
/// Its bounds after that.
const LEAST_TIMEOUT: Duration = Duration::from_secs(5);
const MOST_TIMEOUT: Duration = Duration::from_secs(90);

/// The round trip of a connection, smoothed, and its variation (RFC 6298, section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RttEstimator {
    smoothed: Option<(Duration, Duration)>,
}

impl RttEstimator {
    /// Takes a sample in.
    pub fn sample(&mut self, sample: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => (sample, sample / 2),
            Some((srtt, variation)) => {
                let variation = (variation * 3 + srtt.abs_diff(sample)) / 4;
                ((srtt * 7 + sample) / 8, variation)
            }
        });
    }

    /// The smoothed round trip; zero before the first sample.
    pub fn round_trip(&self) -> Duration {
        self.smoothed.map_or(Duration::ZERO, |(srtt, _)| srtt)
    }

    /// How long an answer may take.
    pub fn timeout(&self) -> Duration {
        match self.smoothed {
            None => FIRST_TIMEOUT,
            Some((srtt, variation)) => (srtt + variation * 4).clamp(LEAST_TIMEOUT, MOST_TIMEOUT),
        }
    }
}

/// The pings of one connection.
pub struct Liveness {
    pings: Mutex<PingState>,
    owing: Notify,
    retired: AtomicBool,
}

struct PingState {
    last: u64,
    /// When the last ping was sent, and whether it has been answered.
    sent: Instant,
    answered: bool,
    /// When anything last came.
    heard: Instant,
    rtt: RttEstimator,
    /// The peer's last ping, which is to be answered.
    owed: Option<u64>,
    /// Since when the writer passes frames to the socket; `None` while it has none.
    writing: Option<Instant>,
}

impl Liveness {
    /// The pings of a connection that begins at `now`.
    pub fn new(now: Instant) -> Liveness {
        Liveness {
            pings: Mutex::new(PingState {
                last: 0,
                sent: now,
                answered: true,
                heard: now,
                rtt: RttEstimator::default(),
                owed: None,
                writing: None,
            }),
            owing: Notify::new(),
            retired: AtomicBool::new(false),
        }
    }

    /// The connection is to end as soon as it carries nothing any more.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.owing.notify_one();
    }

    /// True from then on.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// The peer has sent a ping.
    pub fn pinged(&self, number: u64) {
        self.pings.lock().owed = Some(number);
        self.owing.notify_one();
    }

    /// Waits until a ping is to be answered. Cancel-safe.
    pub async fn owing(&self) {
        self.owing.notified().await;
    }

    /// The number of the ping that is to be answered now.
    pub fn take_owed(&self) -> Option<u64> {
        self.pings.lock().owed.take()
    }

    /// The number of a ping, if one is due at `now`; `is_busy`: before data is sent.
    pub fn take_due(&self, is_busy: bool, now: Instant) -> Option<u64> {
        let mut pings = self.pings.lock();
        let pause = if is_busy { BUSY_PAUSE } else { IDLE_PAUSE };
        if !pings.answered || now.saturating_duration_since(pings.sent) < pause {
            return None;
        }
        pings.last = pings.last.saturating_add(1);
        (pings.sent, pings.answered) = (now, false);
        Some(pings.last)
    }

    /// How long from `now` until an idle connection is to ping.
    pub fn until_due(&self, now: Instant) -> Duration {
        let pings = self.pings.lock();
        match pings.answered {
            true => IDLE_PAUSE.saturating_sub(now.saturating_duration_since(pings.sent)),
            false => IDLE_PAUSE,
        }
    }

    /// The peer's answer came at `now`.
    pub fn answered(&self, number: u64, now: Instant) {
        let mut pings = self.pings.lock();
        if pings.answered || number != pings.last {
            return;
        }
        pings.answered = true;
        let sample = now.saturating_duration_since(pings.sent);
        pings.rtt.sample(sample);
    }

    /// Something came at `now`: on a slow link an answer may wait behind a long frame, of which
    /// bytes arrive all the time.
    pub fn heard(&self, now: Instant) {
        self.pings.lock().heard = now;
    }

    /// True if at `now` a ping has not been answered, and nothing else has come, for longer than
    /// the time-out.
    pub fn is_silent(&self, now: Instant) -> bool {
        let pings = self.pings.lock();
        let since = pings.sent.max(pings.heard);
        !pings.answered && now.saturating_duration_since(since) > pings.rtt.timeout()
    }

    /// True if anything has come from the peer since then.
    pub fn was_heard(&self, since: Instant) -> bool {
        self.pings.lock().heard > since
    }

    /// The writer passes frames to the socket from `now` on, until the guard is dropped.
    pub fn write(&self, now: Instant) -> Writing<'_> {
        self.pings.lock().writing = Some(now);
        Writing(self)
    }

    /// How long the writer has been passing frames to the socket at `now`. No ping goes out
    /// meanwhile that would tell of a slow connection.
    pub fn writing(&self, now: Instant) -> Duration {
        let writing = self.pings.lock().writing;
        writing.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// How long a frame that is sent at `now` takes to get there and be answered, as far as is
    /// known.
    pub fn round_trip(&self, now: Instant) -> Duration {
        let pings = self.pings.lock();
        let smoothed = pings.rtt.round_trip();
        match pings.answered {
            true => smoothed,
            false => smoothed.max(now.saturating_duration_since(pings.sent)),
        }
    }
}

/// While a writer passes frames to its socket.
pub struct Writing<'a>(&'a Liveness);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.pings.lock().writing = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ping_at_a_time_and_only_its_answer_counts() {
        let start = Instant::now();
        let liveness = Liveness::new(start);
        assert_eq!(liveness.take_due(true, start), None, "not yet");
        let later = start + BUSY_PAUSE;
        assert_eq!(liveness.take_due(false, later), None, "not when idle");
        assert_eq!(liveness.take_due(true, later), Some(1));
        assert_eq!(liveness.take_due(true, later + IDLE_PAUSE), None);
        let rtt = || liveness.pings.lock().rtt;
        liveness.answered(7, later);
        assert_eq!(rtt(), RttEstimator::default());
        let round_trip = Duration::from_millis(30);
        assert!(liveness.round_trip(later + 2 * round_trip) == 2 * round_trip, "at least");
        liveness.answered(1, later + round_trip);
        assert_eq!(rtt().round_trip(), round_trip);
        liveness.answered(1, later + 5 * round_trip);
        assert_eq!(rtt().round_trip(), round_trip, "an answer counts once");
        assert!(!liveness.is_silent(later + MOST_TIMEOUT));
    }

    #[test]
    fn a_connection_is_silent_when_neither_an_answer_nor_anything_else_comes_in_time() {
        let start = Instant::now();
        let liveness = Liveness::new(start);
        assert_eq!(liveness.take_due(false, start + IDLE_PAUSE), Some(1));
        let sent = start + IDLE_PAUSE;
        assert!(!liveness.is_silent(sent + FIRST_TIMEOUT));
        let late = sent + FIRST_TIMEOUT + Duration::from_millis(1);
        assert!(liveness.is_silent(late));
        liveness.heard(late);
        assert!(!liveness.is_silent(late + FIRST_TIMEOUT));
        assert!(liveness.is_silent(late + 2 * FIRST_TIMEOUT));
    }

    #[test]
    fn a_connection_writes_until_its_frames_are_with_the_socket() {
        let start = Instant::now();
        let liveness = Liveness::new(start);
        let writing = liveness.write(start);
        assert_eq!(liveness.writing(start + IDLE_PAUSE), IDLE_PAUSE);
        assert_eq!(liveness.round_trip(start + IDLE_PAUSE), Duration::ZERO, "no ping is out");
        drop(writing);
        assert_eq!(liveness.writing(start + IDLE_PAUSE), Duration::ZERO);
    }

    #[test]
    fn the_time_out_follows_the_round_trip() {
        let of = |srtt, variation| RttEstimator {
            smoothed: Some((Duration::from_millis(srtt), Duration::from_millis(variation))),
        };
        assert_eq!(RttEstimator::default().timeout(), FIRST_TIMEOUT);
        assert_eq!(of(50, 5).timeout(), LEAST_TIMEOUT);
        assert_eq!(of(8000, 1000).timeout(), Duration::from_secs(12));
        assert_eq!(of(80_000, 40_000).timeout(), MOST_TIMEOUT);
    }
}
