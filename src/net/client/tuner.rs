//! The number of data connections of a session: a few at first, more where they carry less than the
//! link has shown that it can, and fewer again where that did not help.
//!
//! A loss makes TCP halve the rate of the connection that it happens to. Before its first loss each
//! connection shows what the link can carry, after it what one connection gets of that; on a lossy
//! link many carry what one cannot. On a full link the rate stays near the best that was seen, and
//! the tuner tries nothing. Nor does it with BBR, which does not take a loss for a full link: the
//! rate varies with its rounds, and a connection that joins a full link gets little of it.

use std::time::{Duration, Instant};

/// The shortest time between two observations; they are also this many round trips apart.
pub(super) const INTERVAL: Duration = Duration::from_millis(200);
const ROUND_TRIPS: u32 = 4;
/// On a shorter round trip losses are made up for at once, and one connection is as good as many.
pub(super) const NEAR: Duration = Duration::from_millis(5);
/// The longest round trip that counts.
pub(super) const MOST_ROUND_TRIP: Duration = Duration::from_secs(1);
/// A rate below this part of the best that was seen is low.
const LOW: f64 = 0.7;
/// Low rates, one after another, until more connections are tried.
const LOW_TURNS: u32 = 2;
/// More connections must carry this much more to stay.
const GAIN: f64 = 1.2;
/// So many times as many connections are tried: the more, the less of the link there was.
const LEAST_FACTOR: f64 = 4.0;
const MOST_FACTOR: f64 = 8.0;
/// Observations that pass while TCP gets up to speed on new connections, and those that judge them.
const SETTLING: u32 = 1;
const JUDGED: u32 = 2;
/// Observations until another attempt after one that did not help: the link may have changed.
/// Doubles up to the second.
const REST: u32 = 9;
const LONGEST_REST: u32 = 225;
/// The best rate is forgotten slowly: others may have come to the link.
const FORGET: f64 = 0.993;
/// Fewer bytes than this between two observations are no transfer.
const LEAST: u64 = 40 << 10;

/// What the tuner is finding out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum TunerState {
    /// Whether the rate is low: it was, in so many observations, and so many bytes a second in all
    /// of them.
    Watching { low: u32, sum: f64 },
    /// Whether more connections than before carry more.
    Trying(Trial),
    /// Nothing, for so many observations.
    Resting(u32),
}

/// An attempt with more connections.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Trial {
    /// Connections before it.
    before: u64,
    /// Bytes a second that those carried.
    base: f64,
    observations: u32,
    /// Bytes a second in the observations that judge it.
    sum: f64,
}

const WATCHING: TunerState = TunerState::Watching { low: 0, sum: 0.0 };

/// A session's data connections at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation {
    /// Bytes that came over all of them so far, and that went.
    pub(super) moved: [u64; 2],
    /// Whether BBR decides how fast those are sent.
    pub(super) has_bbr: [bool; 2],
    /// The shortest round trip that was seen; the longest of all before any.
    pub(super) round_trip: Duration,
    /// How many are wanted now.
    pub(super) connections: u64,
    /// How many there may be.
    pub(super) most: u64,
}

/// The search for the best number of connections. Time and what was carried are parameters.
#[derive(Debug)]
pub(super) struct ConnectionTuner {
    state: TunerState,
    /// Bytes a second: the best mean of two observations, one after another. What comes at once
    /// behind a loss, or fills a queue at first, makes a single one look better than the link.
    best: f64,
    /// The last observation.
    last: f64,
    rest: u32,
    /// When the rate was taken last, and the bytes that had been moved by then.
    since: Instant,
    moved: Option<[u64; 2]>,
}

impl ConnectionTuner {
    /// A tuner that begins at `now`.
    pub(super) fn new(now: Instant) -> ConnectionTuner {
        ConnectionTuner {
            state: WATCHING,
            best: 0.0,
            last: 0.0,
            rest: REST,
            since: now,
            moved: None,
        }
    }

    /// How long after one observation the next is due.
    pub(super) fn interval(round_trip: Duration) -> Duration {
        INTERVAL.max(round_trip.min(MOST_ROUND_TRIP).saturating_mul(ROUND_TRIPS))
    }

    /// The number of connections to have from `now` on.
    pub(super) fn observe(&mut self, now: Instant, observed: Observation) -> u64 {
        let [came, went] = observed.moved;
        let [came_before, went_before] = self.moved.unwrap_or(observed.moved);
        let (came, went) = (came.saturating_sub(came_before), went.saturating_sub(went_before));
        let bytes = came.saturating_add(went);
        let rate = bytes as f64 / now.saturating_duration_since(self.since).as_secs_f64();
        (self.since, self.moved) = (now, Some(observed.moved));
        let [peer_has_bbr, own_has_bbr] = observed.has_bbr;
        let is_bbr = if came > went { peer_has_bbr } else { own_has_bbr };
        if is_bbr {
            // an attempt that is under way ends without a judgement
            let settled = self.settled(observed.connections);
            (self.state, self.last) = (WATCHING, 0.0);
            return settled;
        }
        if observed.round_trip < NEAR || bytes < LEAST {
            self.last = 0.0;
            return observed.connections;
        }
        self.judge(rate, observed.connections, observed.most)
    }

    /// The number of connections that has proved good, where `wanted` are to be had now.
    pub(super) fn settled(&self, wanted: u64) -> u64 {
        match self.state {
            TunerState::Trying(trial) => trial.before,
            TunerState::Watching { .. } | TunerState::Resting(_) => wanted,
        }
    }

    /// The number of connections to have after `current` of them carried `rate` bytes a second.
    fn judge(&mut self, rate: f64, current: u64, most: u64) -> u64 {
        self.best = f64::midpoint(rate, self.last).max(self.best * FORGET);
        self.last = rate;
        let is_low = |rate, best| rate < best * LOW && current < most;
        let (state, wanted) = match self.state {
            TunerState::Watching { low, sum } if is_low(rate, self.best) => {
                let (low, sum) = (low.saturating_add(1), sum + rate);
                match low < LOW_TURNS {
                    true => (TunerState::Watching { low, sum }, current),
                    false => self.try_more(rate.min(sum / f64::from(low)), current, most),
                }
            }
            TunerState::Watching { .. } => (WATCHING, current),
            TunerState::Trying(trial) => self.judge_trial(trial, rate, current, most),
            TunerState::Resting(0) => (WATCHING, current),
            TunerState::Resting(observations) => {
                (TunerState::Resting(observations.saturating_sub(1)), current)
            }
        };
        self.state = state;
        wanted
    }

    /// Judges an attempt with more connections, once it had time to settle.
    fn judge_trial(
        &mut self,
        trial: Trial,
        rate: f64,
        current: u64,
        most: u64,
    ) -> (TunerState, u64) {
        let sum = match trial.observations < SETTLING {
            true => 0.0,
            false => trial.sum + rate,
        };
        let observations = trial.observations.saturating_add(1);
        if observations < SETTLING + JUDGED {
            let trial = Trial {
                observations,
                sum,
                ..trial
            };
            return (TunerState::Trying(trial), current);
        }
        let mean = sum / f64::from(JUDGED);
        if mean < trial.base * GAIN {
            let rest = self.rest;
            self.rest = rest.saturating_mul(2).min(LONGEST_REST);
            return (TunerState::Resting(rest), trial.before);
        }
        self.rest = REST;
        match mean < self.best * LOW && current < most {
            true => self.try_more(mean, current, most),
            false => (WATCHING, current),
        }
    }

    /// Tries more connections than `before`: the more, the less of the link these carry.
    fn try_more(&self, base: f64, before: u64, most: u64) -> (TunerState, u64) {
        let factor = (self.best / base.max(1.0)).clamp(LEAST_FACTOR, MOST_FACTOR) as u64;
        let trial = Trial {
            before,
            base,
            observations: 0,
            sum: 0.0,
        };
        (TunerState::Trying(trial), before.saturating_mul(factor).min(most))
    }
}

#[cfg(test)]
mod tests {
    use crate::net::client::tuner::*;

    const MIB: f64 = 1_048_576.0;

    /// So many bytes have gone over so many connections, on a link of 50 ms.
    fn observation(moved: u64, connections: u64) -> Observation {
        Observation {
            moved: [0, moved],
            has_bbr: [false; 2],
            round_trip: Duration::from_millis(50),
            connections,
            most: 32,
        }
    }

    /// The connections after each of so many observations, a second apart, of a link that carries
    /// so many MiB a second.
    fn tuned(observations: usize, carries: impl Fn(u64, usize) -> f64) -> Vec<u64> {
        let mut now = Instant::now();
        let (mut tuner, mut moved, mut connections) = (ConnectionTuner::new(now), 0, 4);
        let mut observe = |rate: f64, connections| {
            now += Duration::from_secs(1);
            moved += (rate * MIB) as u64;
            tuner.observe(now, observation(moved, connections))
        };
        // the first one has nothing to compare with
        assert_eq!(observe(0.0, connections), 4);
        let next = |number| {
            connections = observe(carries(connections, number), connections);
            connections
        };
        (0..observations).map(next).collect()
    }

    #[test]
    fn a_link_that_is_full_keeps_the_first_connections() {
        let full = |_, number| {
            [10.0, 18.0, 24.0]
                .get(number)
                .copied()
                .unwrap_or(25.0 - (number % 4) as f64)
        };
        assert!(tuned(100, full).iter().all(|n| *n == 4));
    }

    #[test]
    fn a_lossy_link_gets_as_many_as_help() {
        let lossy = |of_one: f64| {
            move |connections: u64, number| match number {
                0 | 1 => 25.0,
                _ => f64::min(25.0, of_one * connections as f64),
            }
        };
        assert_eq!(tuned(12, lossy(0.6)).last(), Some(&32));
        assert_eq!(tuned(12, lossy(1.5)).last(), Some(&16));
    }

    #[test]
    fn what_did_not_help_is_given_back_and_seldom_retried() {
        let shared = |_, number| if number == 0 { 25.0 } else { 10.0 };
        let seen = tuned(150, shared);
        assert_eq!(seen.iter().max(), Some(&16));
        let more = seen.iter().filter(|n| **n > 4).count();
        assert!((3..20).contains(&more), "{more}");
    }

    #[test]
    fn a_short_link_and_an_idle_one_stay_as_they_are() {
        let start = Instant::now();
        let mut tuner = ConnectionTuner::new(start);
        for (second, moved) in [(1, 0), (2, 100 << 20), (3, 101 << 20), (4, 102 << 20)] {
            let observed = Observation {
                round_trip: Duration::from_millis(1),
                ..observation(moved, 4)
            };
            assert_eq!(tuner.observe(start + Duration::from_secs(second), observed), 4);
        }
        assert!(
            tuned(20, |_, number| if number == 0 { 25.0 } else { 0.01 })
                .iter()
                .all(|n| *n == 4)
        );
    }

    #[test]
    fn with_bbr_on_the_side_that_sends_nothing_is_tried() {
        for (has_bbr, sends, most) in
            [([false, true], 1, 4), ([true, false], 0, 4), ([false, true], 0, 16)]
        {
            let (mut now, mut moved) = (Instant::now(), 0);
            let mut tuner = ConnectionTuner::new(now);
            let tried = [0.0, 25.0, 5.0, 5.0, 5.0].map(|rate| {
                now += Duration::from_secs(1);
                moved += (rate * MIB) as u64;
                let mut each_way = [0, 0];
                each_way[sends] = moved;
                tuner.observe(
                    now,
                    Observation {
                        moved: each_way,
                        has_bbr,
                        ..observation(0, 4)
                    },
                )
            });
            assert_eq!(tried.into_iter().max(), Some(most), "{has_bbr:?} {sends}");
        }
    }

    #[test]
    fn an_attempt_ends_when_the_side_that_sends_has_bbr() {
        let (mut now, mut moved) = (Instant::now(), [0, 0]);
        let (mut tuner, mut connections) = (ConnectionTuner::new(now), 4);
        // a put that needs more, and then a get from a side with BBR
        for (sends, rate) in [(1, 0.0), (1, 25.0), (1, 5.0), (1, 5.0), (0, 20.0), (0, 20.0)] {
            let tried = connections;
            now += Duration::from_secs(1);
            moved[sends] += (rate * MIB) as u64;
            let observed = Observation {
                moved,
                has_bbr: [true, false],
                ..observation(0, connections)
            };
            connections = tuner.observe(now, observed);
            assert!(sends == 1 || (tried, connections) != (16, 16), "{tried}");
        }
        assert_eq!(connections, 4);
    }

    #[test]
    fn observations_are_some_round_trips_apart() {
        let interval = |millis| ConnectionTuner::interval(Duration::from_millis(millis));
        assert_eq!(interval(1), INTERVAL);
        assert_eq!(interval(100), Duration::from_millis(400));
        assert_eq!(interval(100_000), Duration::from_secs(4));
    }
}
