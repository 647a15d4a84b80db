//! Whether a data connection lives, and how fast it is: pings, their answers, and an adaptive time-out.
//!
//! The time-out is that of RFC 6298 over the round trip of pings, which wait in the same queues as data. A connection
//! whose ping is not answered within it is silent: it is ended, and another one takes over what it held.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Time between two pings of a connection that carries data.
const BUSY_PAUSE: Duration = Duration::from_millis(250);
/// Time between two pings of one that does not.
const IDLE_PAUSE: Duration = Duration::from_secs(5);
/// The time-out before the first answer.
const FIRST_TIMEOUT: Duration = Duration::from_secs(15);
/// Its bounds after that.
const LEAST_TIMEOUT: Duration = Duration::from_secs(5);
const MOST_TIMEOUT: Duration = Duration::from_secs(90);

/// The pings of one connection.
pub struct Liveness {
    state: Mutex<PingState>,
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
    /// Smoothed round trip, and its variation.
    srtt: Option<(Duration, Duration)>,
    /// The peer's last ping, which is to be answered.
    owed: Option<u64>,
}

impl Default for Liveness {
    fn default() -> Liveness {
        Liveness {
            state: Mutex::new(PingState {
                last: 0,
                sent: Instant::now(),
                answered: true,
                heard: Instant::now(),
                srtt: None,
                owed: None,
            }),
            owing: Notify::new(),
            retired: AtomicBool::new(false),
        }
    }
}

impl Liveness {
    fn state(&self) -> parking_lot::MutexGuard<'_, PingState> {
        self.state.lock()
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
        self.state().owed = Some(number);
        self.owing.notify_one();
    }

    /// Waits until a ping is to be answered. Cancel-safe.
    pub async fn owing(&self) {
        self.owing.notified().await;
    }

    /// The number of the ping that is to be answered now.
    pub fn take_owed(&self) -> Option<u64> {
        self.state().owed.take()
    }

    /// The number of a ping, if one is due now; `busy`: before data is sent.
    pub fn take_due(&self, busy: bool) -> Option<u64> {
        let mut state = self.state();
        let pause = if busy { BUSY_PAUSE } else { IDLE_PAUSE };
        if !state.answered || state.sent.elapsed() < pause {
            return None;
        }
        state.last = state.last.saturating_add(1);
        (state.sent, state.answered) = (Instant::now(), false);
        Some(state.last)
    }

    /// How long until an idle connection is to ping.
    pub fn until_due(&self) -> Duration {
        let state = self.state();
        match state.answered {
            true => IDLE_PAUSE.saturating_sub(state.sent.elapsed()),
            false => IDLE_PAUSE,
        }
    }

    /// The peer has answered.
    pub fn answered(&self, number: u64) {
        let mut state = self.state();
        if state.answered || number != state.last {
            return;
        }
        state.answered = true;
        let sample = state.sent.elapsed();
        // RFC 6298, section 2
        state.srtt = Some(match state.srtt {
            None => (sample, sample / 2),
            Some((srtt, var)) => {
                let var = (var * 3 + srtt.abs_diff(sample)) / 4;
                ((srtt * 7 + sample) / 8, var)
            }
        });
    }

    /// Something has come: on a slow link an answer may wait behind a long frame, of which bytes arrive all the time.
    pub fn heard(&self) {
        self.state().heard = Instant::now();
    }

    /// True when a ping has not been answered, and nothing else has come, for longer than the time-out.
    pub fn is_silent(&self) -> bool {
        let state = self.state();
        !state.answered && state.sent.max(state.heard).elapsed() > timeout(&state)
    }

    /// How long what is sent now takes to get there and be answered, as far as is known.
    pub fn round_trip(&self) -> Duration {
        let state = self.state();
        let smoothed = state.srtt.map_or(Duration::ZERO, |(srtt, _)| srtt);
        match state.answered {
            true => smoothed,
            false => smoothed.max(state.sent.elapsed()),
        }
    }
}

fn timeout(state: &PingState) -> Duration {
    match state.srtt {
        None => FIRST_TIMEOUT,
        Some((srtt, var)) => (srtt + var * 4).clamp(LEAST_TIMEOUT, MOST_TIMEOUT),
    }
}

#[cfg(test)]
mod tests {
    use crate::net::data::rtt::*;

    #[test]
    fn one_ping_at_a_time_and_only_its_answer_counts() {
        let liveness = Liveness::default();
        assert_eq!(liveness.take_due(true), None, "not yet");
        std::thread::sleep(BUSY_PAUSE);
        assert_eq!(liveness.take_due(false), None, "not when idle");
        assert_eq!(liveness.take_due(true), Some(1));
        assert_eq!(liveness.take_due(true), None);
        liveness.answered(7);
        assert!(liveness.state().srtt.is_none());
        liveness.answered(1);
        let first = liveness.state().srtt.unwrap();
        liveness.answered(1);
        assert_eq!(liveness.state().srtt.unwrap(), first, "an answer counts once");
        assert!(!liveness.is_silent());
    }

    #[test]
    fn the_time_out_follows_the_round_trip() {
        let mut state = PingState {
            last: 0,
            sent: Instant::now(),
            answered: true,
            heard: Instant::now(),
            srtt: None,
            owed: None,
        };
        assert_eq!(timeout(&state), FIRST_TIMEOUT);
        state.srtt = Some((Duration::from_millis(50), Duration::from_millis(5)));
        assert_eq!(timeout(&state), LEAST_TIMEOUT);
        state.srtt = Some((Duration::from_secs(8), Duration::from_secs(1)));
        assert_eq!(timeout(&state), Duration::from_secs(12));
        state.srtt = Some((Duration::from_secs(80), Duration::from_secs(40)));
        assert_eq!(timeout(&state), MOST_TIMEOUT);
    }
}
