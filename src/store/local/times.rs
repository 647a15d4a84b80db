//! How a file system stores a time: some keep whole seconds, some every second one.
//!
//! haul does not guess: it sets the time of a file without a name, and reads what was stored.

use super::inode::mtime;
use super::sys::{Directory, Node, WARY};
use super::tree::Tree;
use crate::store::partial_names::PartialNames;
use crate::store::{Name, RemotePath, Time};
use parking_lot::Mutex;
use rustix::fs::{OFlags, Timespec, Timestamps};
use std::collections::HashMap;
use std::sync::Arc;

/// Seconds that the coarsest file system (FAT) rounds to: times that are farther apart are not the
/// same anywhere.
const COARSEST: u64 = 2;

/// Compares times as the file systems of a tree store them.
pub(super) struct Times<D: Directory> {
    tree: Arc<Tree<D>>,
    /// One file without a name per device; `None` if the device cannot have one.
    probes: Mutex<HashMap<u64, Option<D::File>>>,
}

impl<D: Directory> Times<D> {
    pub(super) fn new(tree: &Arc<Tree<D>>) -> Times<D> {
        Times {
            tree: tree.clone(),
            probes: Mutex::default(),
        }
    }

    /// True if the file system of the entry at `path` stores `wanted` as `found`.
    pub(super) fn is_same(&self, path: &RemotePath, wanted: Time, found: Time) -> bool {
        if wanted == found || !may_be_same(wanted, found) {
            return wanted == found;
        }
        let Ok((dir, _)) = self.tree.parent(path) else {
            return false;
        };
        let Ok(on) = dir.fstat() else { return false };
        let mut probes = self.probes.lock();
        let probe = probes.entry(on.st_dev).or_insert_with(|| make_probe(&*dir));
        let stored = probe.as_ref().and_then(|probe| {
            probe.futimens(&timestamps(wanted)).ok()?;
            Some(mtime(&probe.fstat().ok()?))
        });
        stored == Some(found)
    }
}

/// True if the times are so near that some file system stores both alike.
pub(super) fn may_be_same(wanted: Time, found: Time) -> bool {
    wanted.secs.abs_diff(found.secs) <= COARSEST
}

/// Returns the argument of utimensat(2) for a modification time; the access time stays.
pub(super) fn timestamps(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.secs,
            tv_nsec: i64::from(mtime.nanos),
        },
    }
}

/// Makes a file and removes its name.
fn make_probe<D: Directory>(dir: &D) -> Option<D::File> {
    let name = Name::parse(format!("haul-times-{}", std::process::id()).as_bytes()).ok()?;
    let names = PartialNames::of(&name);
    let file = dir.create_at(&names.file, WARY | OFlags::RDWR, 0o600).ok()?;
    dir.unlink_at(&names.file).ok()?;
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::super::sys::model::{Device, World};
    use super::*;

    #[test]
    fn times_are_compared_as_the_file_system_keeps_them() {
        let device = |granularity| Device {
            fs_type: 0xEF53,
            syncfs_lies: false,
            granularity,
            has_birth: false,
        };
        let world = World::new(1, vec![device(1), device(2_000_000_000)]);
        let times = Times::new(&Arc::new(Tree::strict(Arc::new(world.root()))));
        let same = |path: &str, wanted: (i64, u32), found: (i64, u32)| {
            let time = |(secs, nanos)| Time { secs, nanos };
            let path = RemotePath::parse(path.as_bytes()).unwrap();
            times.is_same(&path, time(wanted), time(found))
        };
        for path in ["fine", "mount/coarse"] {
            assert!(same(path, (1_000_001, 5), (1_000_001, 5)));
            assert!(!same(path, (1_000_001, 5), (1_000_004, 0)), "too far apart for any");
            assert!(!same(path, (1_000_001, 5), (1_000_002, 0)), "no file system adds");
        }
        assert!(same("mount/coarse", (1_000_001, 5), (1_000_000, 0)));
        assert!(same("mount/coarse", (1_000_000, 7), (1_000_000, 0)));
        assert!(!same("fine", (1_000_001, 5), (1_000_000, 0)));
        assert!(!same("fine", (1_000_000, 7), (1_000_000, 0)), "it was changed and set back");
    }
}
