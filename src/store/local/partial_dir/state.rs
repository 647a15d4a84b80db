//! The partial directories that a tree has in the making.

use super::super::sys::{Directory, Node};
use super::super::target::LockedTarget;
use crate::store::RemotePath;
use crate::store::shares::Share;
use parking_lot::RwLock;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The partial directories of a tree, by the paths that they will have.
pub(in super::super) struct PartialDirs<D: Directory> {
    pub(super) dirs: RwLock<BTreeMap<RemotePath, Arc<PartialDir<D>>>>,
}

impl<D: Directory> Default for PartialDirs<D> {
    fn default() -> PartialDirs<D> {
        PartialDirs {
            dirs: RwLock::default(),
        }
    }
}

/// A directory that has not got its name yet. Dropping it releases its lock, and leaves it to the
/// next writer unless it is empty.
pub(in super::super) struct PartialDir<D: Directory> {
    pub(super) target: LockedTarget<D>,
    pub(super) dir: Arc<D>,
    /// How many directories of the transfer are this one, and are not complete.
    pub(super) uses: AtomicUsize,
    pub(super) state: RwLock<State>,
    /// Its share of the open files.
    pub(super) _open: Share,
}

/// What may become of a partial directory.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum State {
    /// Entries are put there.
    Private,
    /// Something incomplete cannot be removed: it does not get its name.
    Spoiled,
    /// It has its name.
    Published,
}

impl<D: Directory> Drop for PartialDir<D> {
    fn drop(&mut self) {
        if *self.state.get_mut() == State::Published {
            return;
        }
        let LockedTarget { dir, lock, .. } = &self.target;
        if lock.is_ours(&**dir) && dir.remove_dir_at(&lock.names.dir).is_ok() {
            lock.discard(&**dir);
        }
    }
}

impl<D: Directory> PartialDirs<D> {
    /// The handle of the directory that will have this path.
    pub(in super::super) fn dir(&self, path: &[u8]) -> Option<Arc<D>> {
        self.dirs.read().get(path).map(|partial| partial.dir.clone())
    }

    /// The partial directory that an entry is in, at any depth.
    pub(in super::super) fn around(&self, path: &RemotePath) -> Option<Arc<PartialDir<D>>> {
        let dirs = self.dirs.read();
        let (_, around) = dirs.iter().find(|(top, _)| path != *top && path.is_within(top))?;
        Some(around.clone())
    }

    /// True if there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.dirs.read().is_empty()
    }

    pub(super) fn at(&self, path: &RemotePath) -> Option<Arc<PartialDir<D>>> {
        self.dirs.read().get(path).cloned()
    }
}

impl<D: Directory> PartialDir<D> {
    /// Tells others how much was written, and that the writer was here: an abandoned partial
    /// directory is as old as its lock.
    pub(in super::super) fn wrote(&self, bytes: u64) {
        let lock = &self.target.lock;
        lock.progress.written.fetch_add(bytes, Ordering::Relaxed);
        let now = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        // it is not worth an error
        let _ = lock.file.futimens(&Timestamps {
            last_access: now(UTIME_OMIT),
            last_modification: now(UTIME_NOW),
        });
    }

    /// Something incomplete in it could not be removed.
    pub(super) fn spoil(&self) {
        let mut state = self.state.write();
        if *state == State::Private {
            *state = State::Spoiled;
        }
    }
}
