//! The pause before another attempt to connect.

use ring::rand::{SecureRandom, SystemRandom};
use std::time::Duration;

/// The pause after the first failure.
const FIRST: Duration = Duration::from_millis(200);
/// Failures after which the pause stops doubling.
const DOUBLINGS: u32 = 6;

/// The pause after this many failures. It doubles with each of them, and `chance` moves it by up to
/// half in either direction, so that many clients do not return at the same moment.
pub(super) fn pause(failures: u32, chance: u8) -> Duration {
    let base = FIRST.saturating_mul(1 << failures.min(DOUBLINGS));
    base.saturating_mul(128 + u32::from(chance)) / 256
}

/// The chance for [`pause`]: a random byte of the system.
pub(super) fn chance() -> u8 {
    let mut byte = [0];
    // without randomness the pauses are merely less spread out
    let _ = SystemRandom::new().fill(&mut byte);
    let [byte] = byte;
    byte
}

#[cfg(test)]
mod tests {
    use crate::net::client::backoff::*;

    #[test]
    fn a_pause_doubles_up_to_a_bound_and_chance_moves_it_by_half() {
        let middle = |failures| pause(failures, 128);
        assert_eq!(middle(1), Duration::from_millis(400));
        assert_eq!(middle(2), Duration::from_millis(800));
        assert_eq!(middle(6), middle(1000));
        assert_eq!(pause(1, 0), Duration::from_millis(200));
        assert!(pause(1, 255) < Duration::from_millis(600));
    }
}
