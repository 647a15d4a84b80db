//! Removes a directory with everything in it, until the store is closed.

use super::closed::Closed;
use super::sys::{Directory, remove_file};
use crate::store::error::At;
use crate::store::reserved::is_reserved;
use crate::store::{ErrorKind, Name, RemotePath, StoreError};
use rustix::io::Errno;

/// Removes everything in a directory, partial files too. Continues after a failure, and returns the
/// first.
pub(super) fn remove_beneath<D: Directory>(
    dir: &D,
    path: &RemotePath,
    closed: &Closed,
) -> Result<(), StoreError> {
    let (mut first, mut is_closed) = (Ok(()), Ok(()));
    let read = dir.each_name(&mut |name| {
        is_closed = closed.check(path);
        if is_closed.is_err() {
            return Err(Errno::CANCELED);
        }
        let removed = match dir.unlink_at(name) {
            Err(Errno::ISDIR | Errno::PERM) => remove_subdir(dir, name, path, closed),
            Err(Errno::NOENT) => Ok(()),
            other => other.at("remove", path),
        };
        if first.is_ok() {
            first = removed;
        }
        Ok(())
    });
    is_closed?;
    read.at("read directory", path)?;
    first
}

/// Removes a directory with everything in it.
pub(super) fn remove_subdir<D: Directory>(
    dir: &D,
    bytes: &[u8],
    path: &RemotePath,
    closed: &Closed,
) -> Result<(), StoreError> {
    let bad = |e| StoreError::new(ErrorKind::BadName(e), path);
    let inner_path = match is_reserved(bytes) {
        // a user knows it by what it is in
        true => path.clone(),
        false => path.join(&Name::parse(bytes).map_err(bad)?).map_err(bad)?,
    };
    let inner = dir.open_dir_at(bytes).at("open directory", &inner_path)?;
    remove_beneath(&inner, &inner_path, closed)?;
    dir.remove_dir_at(bytes).at("remove", &inner_path)
}

/// Removes what has the name of a replaced entry, on its way to its backup: that, or the directory
/// that was to take its place.
pub(super) fn remove_replaced<D: Directory>(dir: &D, name: &[u8]) -> rustix::io::Result<()> {
    match remove_file(dir, name) {
        Err(Errno::ISDIR | Errno::PERM) => dir.remove_dir_at(name),
        removed => removed,
    }
}
