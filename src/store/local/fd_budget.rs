//! The limits for open files and for threads that wait for disks. The whole is a share of what the
//! system allows (getrlimit(2), RLIMIT_NOFILE); each user of a server has a fair share of that
//! ([`Shares`]), and waits once it is used up.

use crate::store::shares::Shares;
use rustix::process::{Resource, getrlimit};
use std::sync::{Arc, LazyLock};

/// Assumed if the system has no limit.
const UNLIMITED: u64 = 65_536;
/// Calls of users that are under way at once: one user alone gets half of the threads for blocking
/// work.
const CALLS: u64 = crate::store::BLOCKING_THREADS as u64;

/// Most directory streams that one tree keeps open.
pub(super) const LISTINGS_OF_A_TREE: usize = 16;
/// Bytes of names that are in memory because there were no streams for them, of all trees together.
const NAMES: u64 = 16 << 20;

/// The limit for each purpose.
pub(super) struct Handles {
    /// Directories that one tree keeps open.
    pub(super) dirs: usize,
    /// Directories that all trees keep open. A tree without a share keeps none, and opens them
    /// again.
    pub(super) cached_dirs: Arc<Shares>,
    /// Streams of directories that are being listed.
    pub(super) listings: Arc<Shares>,
    /// Room for the names of directories that have no stream, in bytes.
    pub(super) names: Arc<Shares>,
    /// Small files of the groups that are being put: each is open until its group is committed.
    pub(super) grouped: Arc<Shares>,
    pub(super) most_grouped: usize,
    /// Files that are being read. A file without a share is opened for each call.
    pub(super) sources: Arc<Shares>,
    /// Partial files of larger files. Nothing else may have to wait for them, since they wait for
    /// their content.
    pub(super) staged: Arc<Shares>,
    /// Partial directories: they wait for the files in them, and so have a share of their own. One
    /// that has none is made in place.
    pub(super) partial_dirs: Arc<Shares>,
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
            cached_dirs: Shares::new((limit / 16).max(2), 1),
            listings: Shares::new((limit / 16).max(1), 1),
            names: Shares::new(NAMES, 1),
            // as many as one user alone may have
            most_grouped: usize::try_from(grouped.div_ceil(2)).unwrap_or(1),
            grouped: Shares::new(grouped, 1),
            sources: Shares::new((limit / 32).max(1), 1),
            // each also has a record
            staged: Shares::new((limit / 8).saturating_sub(limit / 64).max(1), 1),
            // each has its lock open, too
            partial_dirs: Shares::new(limit / 64, 1),
            calls: Shares::new(CALLS, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::store::local::fd_budget::*;

    #[test]
    fn much_of_a_small_limit_is_free_for_everything_else() {
        for limit in [0, 64, 128, 1024, 4096, u64::MAX] {
            let handles = Handles::within(limit);
            // the shares of all users together, each taking half of the rest
            let all = |shares: &Arc<Shares>| {
                let owners = (0..64).map(|n| Arc::from(n.to_string().as_str()));
                let taken: Vec<_> = owners
                    .flat_map(|owner| std::iter::from_fn(move || shares.try_take(&owner, 1)))
                    .collect();
                taken.len() as u64
            };
            let (cached, staged) = (all(&handles.cached_dirs), all(&handles.staged));
            let grouped = all(&handles.grouped);
            assert!(handles.dirs > 0 && handles.most_grouped > 0);
            assert!(cached > 0 && staged > 0 && grouped > 0);
            let (listings, sources) = (all(&handles.listings), all(&handles.sources));
            let open = cached + listings + sources + grouped + 2 * staged;
            let open = open + 2 * all(&handles.partial_dirs);
            assert!(limit == 0 || open <= limit / 3 * 2, "{open} of {limit}");
        }
    }
}
