//! The proofs with which further connections join a session.

use crate::net::error::NetError;
use crate::net::wire::frame::{Attach, ROLE_CONTROL};
use parking_lot::Mutex;
use ring::hmac;
use std::collections::BTreeSet;

/// Numbers of proofs that are remembered. An honest client's come nearly in order: an older one was
/// used, or is not needed.
const PROOFS: usize = 1024;

/// Checks the proofs of a session's connections.
pub(super) struct Proofs {
    key: hmac::Key,
    used: Mutex<UsedProofs>,
}

/// The numbers of the proofs that were used.
#[derive(Default)]
struct UsedProofs {
    numbers: BTreeSet<u32>,
    /// The last one of a control connection: an older one that arrives late must not displace a
    /// newer connection.
    control: u32,
    /// All numbers up to this one count as used.
    floor: u32,
}

impl UsedProofs {
    fn is_new(&mut self, n: u32) -> bool {
        let new = n > self.floor && self.numbers.insert(n);
        if self.numbers.len() > PROOFS
            && let Some(least) = self.numbers.pop_first()
        {
            self.floor = least;
        }
        new
    }
}

impl Proofs {
    /// Proofs under the key that the control connection's TLS exporter made.
    pub(super) fn new(exported: &[u8]) -> Proofs {
        Proofs {
            key: hmac::Key::new(hmac::HMAC_SHA256, exported),
            used: Mutex::default(),
        }
    }

    /// Checks a proof, in constant time, and that its number is new.
    ///
    /// # Errors
    /// [`NetError::Protocol`]. It tells a stranger nothing more, and the session lives on.
    pub(super) fn check(&self, role: u8, attach: &Attach) -> Result<(), NetError> {
        let signed = Attach::signed(role, &attach.session, attach.n);
        if hmac::verify(&self.key, &signed, &attach.proof).is_err() {
            return Err(NetError::Protocol("the proof of a connection is wrong".into()));
        }
        let mut used = self.used.lock();
        let late = role == ROLE_CONTROL && attach.n <= used.control;
        if late || !used.is_new(attach.n) {
            let text = "the proof of a connection came a second time";
            return Err(NetError::Protocol(text.into()));
        }
        if role == ROLE_CONTROL {
            used.control = attach.n;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_good_once_however_many_there_were() {
        let mut used = UsedProofs::default();
        assert!(!used.is_new(0));
        for n in 1..=5000 {
            assert!(used.is_new(n), "{n}");
        }
        for n in [1, 2, 3000, 4999, 5000] {
            assert!(!used.is_new(n), "{n}");
        }
        assert!(used.numbers.len() <= PROOFS);
    }
}
