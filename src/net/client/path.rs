//! What a session finds out about the path to its server, for the next session to begin with.

use crate::net::client::tuner::NEAR;
use std::time::Duration;

/// A path to a server: what its length is, and what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathTraits {
    /// Data connections that carried the most.
    pub connections: usize,
    /// The shortest round trip that was seen.
    pub round_trip: Duration,
}

impl PathTraits {
    /// True of a path with this round trip: it may be the same one.
    pub(super) fn has_length(&self, round_trip: Duration) -> bool {
        let (least, most) = (self.round_trip / 2, self.round_trip.saturating_mul(2));
        (least..=most).contains(&round_trip) || self.round_trip.abs_diff(round_trip) <= NEAR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_another_length_is_another_path() {
        let of = |millis| PathTraits {
            connections: 32,
            round_trip: Duration::from_millis(millis),
        };
        let has = |millis, other| of(millis).has_length(Duration::from_millis(other));
        assert!(has(50, 26) && has(50, 99) && has(1, 5) && has(7, 12));
        assert!(!has(50, 24) && !has(50, 101) && !has(50, 0) && !has(10, 21));
    }
}
