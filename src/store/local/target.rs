//! A target that is being written: its directory, its name, and its lock.

use super::lock::{Lock, Purpose};
use super::sys::Directory;
use crate::store::{Name, RemotePath, StoreError};
use std::sync::Arc;

/// A locked target.
pub(super) struct LockedTarget<D: Directory> {
    pub(super) path: RemotePath,
    pub(super) dir: Arc<D>,
    pub(super) name: Name,
    pub(super) lock: Lock<D::File>,
}

impl<D: Directory> LockedTarget<D> {
    /// Locks `name` in `dir`.
    ///
    /// # Errors
    /// Those of [`Lock::acquire`].
    pub(super) fn acquire(
        dir: Arc<D>,
        name: Name,
        path: &RemotePath,
        who: &str,
        purpose: Purpose<'_>,
    ) -> Result<LockedTarget<D>, StoreError> {
        let lock = Lock::acquire(&*dir, &name, path, who, purpose)?;
        Ok(LockedTarget {
            path: path.clone(),
            dir,
            name,
            lock,
        })
    }

    /// Removes the partial file and its record. Dropping the target releases the lock.
    pub(super) fn discard(&self) {
        self.lock.discard(&*self.dir);
    }
}
