//! The clock of this machine.

use crate::store::entry::Time;
use std::time::{SystemTime, UNIX_EPOCH};

/// The time of a new directory, and of what is touched.
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time {
        secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos(),
    }
}
