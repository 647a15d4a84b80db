//! How many files this process has open at once, and how many threads wait for its disks: a share of what the system allows
//! (getrlimit(2), RLIMIT_NOFILE), and of that a fair share for each user of a server ([`Shares`]). Whoever comes when there
//! are none left for them waits.

use crate::store::shares::Shares;
use rustix::process::{Resource, getrlimit};
use std::sync::{Arc, LazyLock};

/// What is assumed where there is no limit.
const UNLIMITED: u64 = 65_536;
/// Calls of one user's that are under way at once: half of the threads for blocking work, while they are alone.
const CALLS: u64 = crate::store::BLOCKING_THREADS as u64;

/// Most directory streams that one tree keeps open.
pub(super) const LISTINGS_OF_A_TREE: usize = 16;
/// Bytes of names that are in memory because there were no streams for them, of all trees together.
const NAMES: u64 = 16 << 20;

/// What may be open, for each purpose.
pub(super) struct Handles {
    /// Directories that one tree keeps open.
    pub(super) dirs: usize,
    /// Those of all trees. One that has no share left keeps none, and opens them again.
    pub(super) kept: Arc<Shares>,
    /// Streams of directories that are being listed.
    pub(super) listings: Arc<Shares>,
    /// Room for the names of directories that have no stream, in bytes.
    pub(super) names: Arc<Shares>,
    /// Small files of the groups that are being put: each is open until its group is committed.
    pub(super) grouped: Arc<Shares>,
    pub(super) most_grouped: usize,
    /// Files that are being read. One that has no share left is opened for each call.
    pub(super) sources: Arc<Shares>,
    /// Staging files of larger files. They wait for their content, so that nothing else may have to wait for them.
    pub(super) staged: Arc<Shares>,
    /// Blocking calls of users.
    pub(super) calls: Arc<Shares>,
}

/// This process' handles, by the limit at the time of the first use.
pub(super) static HANDLES: LazyLock<Handles> =
    LazyLock::new(|| Handles::within(getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED)));

impl Handles {
    fn within(limit: u64) -> Handles {
        let limit = limit.min(UNLIMITED);
        let grouped = (limit / 4).max(1);
        Handles {
            dirs: usize::try_from(limit / 16).unwrap_or(0).clamp(1, 256),
            kept: Shares::new((limit / 16).max(2), 1),
            listings: Shares::new((limit / 16).max(1), 1),
            names: Shares::new(NAMES, 1),
            // as many as one user alone may have
            most_grouped: usize::try_from(grouped.div_ceil(2)).unwrap_or(1),
            grouped: Shares::new(grouped, 1),
            sources: Shares::new((limit / 32).max(1), 1),
            // each has a record besides
            staged: Shares::new((limit / 8).max(1), 1),
            calls: Shares::new(CALLS, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::store::local::fd_budget::*;

    #[test]
    fn much_of_a_small_limit_is_left_for_everything_else() {
        for limit in [0, 64, 128, 1024, 4096, u64::MAX] {
            let handles = Handles::within(limit);
            // what all users together get, of whom each takes half of what is left
            let all = |shares: &Arc<Shares>| {
                let owners = (0..64).map(|n| Arc::from(n.to_string().as_str()));
                let taken: Vec<_> = owners
                    .flat_map(|owner| std::iter::from_fn(move || shares.try_take(&owner, 1)))
                    .collect();
                taken.len() as u64
            };
            let (kept, staged) = (all(&handles.kept), all(&handles.staged));
            let grouped = all(&handles.grouped);
            assert!(handles.dirs > 0 && handles.most_grouped > 0);
            assert!(kept > 0 && staged > 0 && grouped > 0);
            let (listings, sources) = (all(&handles.listings), all(&handles.sources));
            let open = kept + listings + sources + grouped + 2 * staged;
            assert!(limit == 0 || open <= limit / 3 * 2, "{open} of {limit}");
        }
    }
}
