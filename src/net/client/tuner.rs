//! How many data connections a session gets: a few at first, more where they carry less than the link has shown that it
//! can, and fewer again where that did not help.
//!
//! A loss makes TCP halve the rate of the connection that it happens to. Before its first loss each connection shows what
//! the link can carry, after it what one connection gets of that; on a lossy link many carry what one cannot. On a link that
//! is full, or with BBR, the rate stays near the best that was seen, and nothing is tried.

use crate::net::client::Client;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long the rate is taken over, at least; and at least so many round trips.
const INTERVAL: Duration = Duration::from_millis(300);
const ROUND_TRIPS: u32 = 6;
/// A round trip below which losses are made up for at once, and one connection is as good as many.
const NEAR: Duration = Duration::from_millis(5);
/// A longer one is taken for this.
const MOST_ROUND_TRIP: Duration = Duration::from_secs(1);
/// A rate below this part of the best that was seen is low.
const LOW: f64 = 0.7;
/// Low looks, one after another, until more connections are tried.
const PATIENCE: u32 = 2;
/// More connections must carry this much more to stay.
const GAIN: f64 = 1.2;
/// Looks that go by while TCP gets up to speed on new connections, and those that they are judged by.
const SETTLING: u32 = 1;
const JUDGED: u32 = 2;
/// Looks until it is tried again after it did not help: the link may have changed. Doubles up to the second.
const REST: u32 = 6;
const LONGEST_REST: u32 = 150;
/// The best rate is forgotten slowly: others may have come to the link.
const FORGET: f64 = 0.99;
/// Fewer bytes than this in a look, many times in a row, are no transfer.
const LEAST: u64 = 64 << 10;

/// What is being found out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum TunerState {
    /// Whether the rate is low: it was, for so many looks, and so many bytes a second in all of them.
    Watching { low: u32, sum: f64 },
    /// Whether more connections than `before` carry more than `base` bytes a second.
    Trying {
        before: u64,
        base: f64,
        observations: u32,
        sum: f64,
    },
    /// Nothing, for so many looks.
    Resting(u32),
}

const WATCHING: TunerState = TunerState::Watching { low: 0, sum: 0.0 };

/// The search; pure, so that it can be tested.
#[derive(Debug)]
struct ConnectionTuner {
    state: TunerState,
    best: f64,
    rest: u32,
}

impl ConnectionTuner {
    fn new() -> ConnectionTuner {
        ConnectionTuner {
            state: WATCHING,
            best: 0.0,
            rest: REST,
        }
    }

    /// How many connections there are to be, after a look at `rate` bytes a second with `now` of them.
    fn observe(&mut self, rate: f64, now: u64, most: u64) -> u64 {
        self.best = rate.max(self.best * FORGET);
        let (state, wanted) = match self.state {
            TunerState::Watching { low, sum } if rate < self.best * LOW && now < most => {
                let (low, sum) = (low.saturating_add(1), sum + rate);
                if low < PATIENCE {
                    (TunerState::Watching { low, sum }, now)
                } else {
                    self.try_more(rate.min(sum / f64::from(low)), now, most)
                }
            }
            TunerState::Watching { .. } => (WATCHING, now),
            TunerState::Trying {
                before,
                base,
                observations,
                sum,
            } => {
                let sum = if observations < SETTLING { 0.0 } else { sum + rate };
                let observations = observations.saturating_add(1);
                if observations < SETTLING + JUDGED {
                    (
                        TunerState::Trying {
                            before,
                            base,
                            observations,
                            sum,
                        },
                        now,
                    )
                } else if sum / f64::from(JUDGED) >= base * GAIN {
                    self.rest = REST;
                    let mean = sum / f64::from(JUDGED);
                    if mean < self.best * LOW && now < most {
                        self.try_more(mean, now, most)
                    } else {
                        (WATCHING, now)
                    }
                } else {
                    let rest = self.rest;
                    self.rest = rest.saturating_mul(2).min(LONGEST_REST);
                    (TunerState::Resting(rest), before)
                }
            }
            TunerState::Resting(0) => (WATCHING, now),
            TunerState::Resting(observations) => (TunerState::Resting(observations.saturating_sub(1)), now),
        };
        self.state = state;
        wanted
    }

    /// The less they carry of what they could, the more are added.
    fn try_more(&self, base: f64, before: u64, most: u64) -> (TunerState, u64) {
        let factor = (self.best / base.max(1.0)).clamp(3.0, 4.0) as u64;
        let trying = TunerState::Trying {
            before,
            base,
            observations: 0,
            sum: 0.0,
        };
        (trying, before.saturating_mul(factor).min(most))
    }
}

/// Adapts the connections until the session ends.
pub(super) async fn tune(client: Weak<Client>) {
    let mut tuner = ConnectionTuner::new();
    let (mut since, mut before) = (Instant::now(), None);
    let mut observe = INTERVAL;
    loop {
        tokio::time::sleep(observe).await;
        let Some(client) = client.upgrade().filter(|c| !c.core.is_down()) else {
            return;
        };
        let moved = client.core.pool().moved();
        let bytes = moved.saturating_sub(before.unwrap_or(moved));
        let rate = bytes as f64 / since.elapsed().as_secs_f64();
        (since, before) = (Instant::now(), Some(moved));
        let round_trip = Duration::from_micros(client.round_trip.load(Ordering::Relaxed)).min(MOST_ROUND_TRIP);
        observe = INTERVAL.max(round_trip.saturating_mul(ROUND_TRIPS));
        if round_trip < NEAR || bytes < LEAST {
            continue;
        }
        let now = *client.connections.borrow();
        let wanted = tuner.observe(rate, now, client.most_connections.load(Ordering::Relaxed));
        if wanted != now {
            tracing::debug!(now, wanted, rate = rate as u64, "data connections");
            client.connections.send_replace(wanted);
            client.dial();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::net::client::tuner::*;

    /// Connections after each of so many looks at a link.
    fn tuner(observations: usize, carries: impl Fn(u64, usize) -> f64) -> Vec<u64> {
        let (mut tuner, mut now) = (ConnectionTuner::new(), 4);
        let observe = |observe| {
            now = tuner.observe(carries(now, observe), now, 32);
            now
        };
        (0..observations).map(observe).collect()
    }

    #[test]
    fn a_link_that_is_full_keeps_the_first_connections() {
        let full = |_, observe| {
            [10.0, 18.0, 24.0]
                .get(observe)
                .copied()
                .unwrap_or(25.0 - (observe % 4) as f64)
        };
        assert!(tuner(100, full).iter().all(|n| *n == 4));
    }

    #[test]
    fn a_lossy_link_gets_as_many_as_help() {
        let lossy = |connections, observe| {
            if observe == 0 {
                25.0
            } else {
                f64::min(25.0, 0.6 * connections as f64)
            }
        };
        assert_eq!(tuner(12, lossy).last(), Some(&32));
        let less = |connections, observe| {
            if observe == 0 {
                25.0
            } else {
                f64::min(25.0, 1.5 * connections as f64)
            }
        };
        assert_eq!(tuner(12, less).last(), Some(&16));
    }

    #[test]
    fn what_did_not_help_is_given_back_and_seldom_tried_again() {
        let shared = |_, observe| if observe == 0 { 25.0 } else { 10.0 };
        let seen = tuner(150, shared);
        assert_eq!(seen.iter().max(), Some(&12));
        let more = seen.iter().filter(|n| **n > 4).count();
        assert!((3..20).contains(&more), "{more}");
    }
}
