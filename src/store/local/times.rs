//! What a file system makes of a time: some keep whole seconds, some every second one.
//!
//! It is not guessed: a file that nobody sees gets the time, and is looked at.

use super::commit::timestamps;
use super::sys::{Directory, Node};
use super::tree::Tree;
use crate::store::local::stat::mtime;
use crate::store::reserved::StagingNames;
use crate::store::{Name, RemotePath, Time};
use parking_lot::Mutex;
use rustix::fs::OFlags;
use std::collections::HashMap;

/// Seconds that the coarsest file system (FAT) rounds to: times that are farther apart are not the same anywhere.
const COARSEST: u64 = 2;

/// For each device of a tree a file without a name; `None` where none could be made.
pub(super) struct Probes<F>(Mutex<HashMap<u64, Option<F>>>);

impl<F> Default for Probes<F> {
    fn default() -> Probes<F> {
        Probes(Mutex::default())
    }
}

/// True where the times are so near that there is a file system for which they are the same.
pub(super) fn may_be_same(wanted: Time, found: Time) -> bool {
    wanted.secs.abs_diff(found.secs) <= COARSEST
}

/// True where `found`, of the entry at `path`, is what its file system makes of `wanted`.
pub(super) fn is_same<D: Directory>(tree: &Tree<D>, path: &RemotePath, wanted: Time, found: Time) -> bool {
    if wanted == found || !may_be_same(wanted, found) {
        return wanted == found;
    }
    let Ok((dir, _)) = tree.parent(path) else { return false };
    let Ok(on) = dir.fstat() else { return false };
    let mut probes = tree.probes().0.lock();
    let probe = probes.entry(on.st_dev).or_insert_with(|| make_probe(&*dir));
    let stored = probe.as_ref().and_then(|probe| {
        probe.futimens(&timestamps(wanted)).ok()?;
        Some(mtime(&probe.fstat().ok()?))
    });
    stored == Some(found)
}

/// A file that has no name any more.
fn make_probe<D: Directory>(dir: &D) -> Option<D::File> {
    let name = Name::parse(format!("haul-times-{}", std::process::id()).as_bytes()).ok()?;
    let names = StagingNames::of(&name);
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = dir.create_at(&names.file, flags, 0o600).ok()?;
    dir.unlink_at(&names.file).ok()?;
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::super::sys::model::{Device, World};
    use super::*;
    use std::sync::Arc;

    #[test]
    fn times_are_compared_as_the_file_system_keeps_them() {
        let device = |granularity| Device {
            fs_type: 0xEF53,
            syncfs_lies: false,
            granularity,
            has_birth: false,
        };
        let world = World::new(1, vec![device(1), device(2_000_000_000)]);
        let tree = Tree::strict(Arc::new(world.root()));
        let same = |path: &str, wanted: (i64, u32), found: (i64, u32)| {
            let time = |(secs, nanos)| Time { secs, nanos };
            let path = RemotePath::parse(path.as_bytes()).unwrap();
            is_same(&tree, &path, time(wanted), time(found))
        };
        for path in ["fine", "mount/coarse"] {
            assert!(same(path, (1_000_001, 5), (1_000_001, 5)));
            assert!(!same(path, (1_000_001, 5), (1_000_004, 0)), "too far apart for any");
            assert!(!same(path, (1_000_001, 5), (1_000_002, 0)), "no file system adds");
        }
        assert!(same("mount/coarse", (1_000_001, 5), (1_000_000, 0)));
        assert!(same("mount/coarse", (1_000_000, 7), (1_000_000, 0)));
        assert!(!same("fine", (1_000_001, 5), (1_000_000, 0)));
        assert!(
            !same("fine", (1_000_000, 7), (1_000_000, 0)),
            "it was changed and set back"
        );
    }
}
