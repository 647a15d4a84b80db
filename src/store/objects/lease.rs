//! For how long a lock counts, and what is known of others' locks, by this process's monotonic
//! clock alone.

use super::engine::Object;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Locks that are observed at once.
const OBSERVED: usize = 4096;

/// For how long a lock counts, and what is known of others' locks.
pub struct Lease {
    length: Duration,
    observed: Mutex<HashMap<String, (String, Instant)>>,
}

impl Lease {
    /// Locks count for `length` after their last change.
    pub fn new(length: Duration) -> Lease {
        Lease {
            length,
            observed: Mutex::default(),
        }
    }

    /// Time between two renewals.
    pub fn renewal(&self) -> Duration {
        self.length / 6
    }

    /// How long a writer may believe in its lock after it has begun to renew it.
    pub fn trusted(&self) -> Duration {
        self.length / 2
    }

    /// True if a lock has been as it is for a lease. The first look never says so.
    pub fn has_expired(&self, object: &Object, now: Instant) -> bool {
        let mut observed = self.observed.lock();
        if observed.len() >= OBSERVED && !observed.contains_key(&object.key) {
            observed.retain(|_, (_, at)| now.duration_since(*at) < self.length * 2);
        }
        match observed.get(&object.key) {
            Some((tag, at)) if *tag == object.tag => now.duration_since(*at) >= self.length,
            _ if observed.len() >= OBSERVED => false,
            _ => {
                observed.insert(object.key.clone(), (object.tag.clone(), now));
                false
            }
        }
    }

    /// The lock has changed.
    pub fn forget(&self, key: &str) {
        self.observed.lock().remove(key);
    }
}
