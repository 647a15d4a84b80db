//! How many files this process has open at once: a share of what the system allows it (getrlimit(2), RLIMIT_NOFILE), whoever
//! wants them. Whoever comes when there are none left waits.

use rustix::process::{Resource, getrlimit};
use std::sync::LazyLock;
use tokio::sync::Semaphore;

/// What is assumed where there is no limit.
const UNLIMITED: u64 = 65_536;

/// Most directory streams that one tree keeps open.
pub(super) const LISTINGS_OF_A_TREE: usize = 16;
/// Bytes of names that are in memory because there were no streams for them, of all trees together.
const NAMES: usize = 16 << 20;

/// What may be open, for each purpose.
pub(super) struct Handles {
    /// Directories that a tree keeps open.
    pub(super) dirs: usize,
    /// Streams of directories that are being listed.
    pub(super) listings: Semaphore,
    /// Room for the names of directories that have no stream, in bytes.
    pub(super) names: Semaphore,
    /// Small files of the groups that are being put: each is open until its group is committed.
    pub(super) grouped: Semaphore,
    pub(super) most_grouped: usize,
    /// Staging files of larger files. They wait for their content, so that nothing else may have to wait for them.
    pub(super) staged: Semaphore,
}

/// This process' handles, by the limit at the time of the first use.
pub(super) static HANDLES: LazyLock<Handles> =
    LazyLock::new(|| Handles::within(getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED)));

impl Handles {
    fn within(limit: u64) -> Handles {
        let limit = usize::try_from(limit.min(UNLIMITED)).unwrap_or(0);
        let most_grouped = (limit / 4).max(1);
        Handles {
            dirs: (limit / 16).clamp(1, 256),
            listings: Semaphore::new((limit / 16).max(1)),
            names: Semaphore::new(NAMES),
            grouped: Semaphore::new(most_grouped),
            most_grouped,
            // each has a record besides
            staged: Semaphore::new((limit / 8).max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_a_small_limit_is_left_for_everything_else() {
        for limit in [0, 64, 128, 1024, 4096, u64::MAX] {
            let handles = Handles::within(limit);
            let staged = handles.staged.available_permits();
            assert!(handles.dirs > 0 && handles.most_grouped > 0 && staged > 0);
            let listings = handles.listings.available_permits();
            let all = handles.dirs + listings + handles.most_grouped + 2 * staged;
            assert!(limit == 0 || all as u64 <= limit / 3 * 2, "{all} of {limit}");
        }
    }
}
