//! Removes a directory with everything in it, until the store is closed.

use super::closed::Closed;
use super::sys::remove_file;
use super::tree::{open_subdir, read_dir};
use crate::store::error::At;
use crate::store::{ErrorKind, Name, RemotePath, StoreError};
use cap_std::fs::Dir;
use rustix::fs::AtFlags;
use rustix::io::Errno;

/// Removes everything in a directory, partial files too. Continues after a failure, and returns the
/// first.
pub(super) fn remove_beneath(
    dir: &Dir,
    path: &RemotePath,
    closed: &Closed,
) -> Result<(), StoreError> {
    let mut first = Ok(());
    let stream = read_dir(dir, path)?;
    for next in stream {
        closed.check(path)?;
        let next = next.at("read directory", path)?;
        let bytes = next.file_name().to_bytes();
        if matches!(bytes, b"." | b"..") {
            continue;
        }
        let removed = match rustix::fs::unlinkat(dir, bytes, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => remove_subdir(dir, bytes, path, closed),
            Err(Errno::NOENT) => Ok(()),
            other => other.at("remove", path),
        };
        first = first.and(removed);
    }
    first
}

/// Removes a directory with everything in it.
pub(super) fn remove_subdir(
    dir: &Dir,
    bytes: &[u8],
    path: &RemotePath,
    closed: &Closed,
) -> Result<(), StoreError> {
    let bad = |e| StoreError::new(ErrorKind::BadName(e), path);
    let name = Name::parse(bytes).map_err(bad)?;
    let inner_path = path.join(&name).map_err(bad)?;
    let inner = open_subdir(dir, &name, &inner_path)?;
    remove_beneath(&inner, &inner_path, closed)?;
    rustix::fs::unlinkat(dir, bytes, AtFlags::REMOVEDIR).at("remove", &inner_path)
}

/// Removes what has the name of a replaced entry, on its way to its backup: that, or the directory
/// that was to take its place.
pub(super) fn remove_replaced(dir: &Dir, name: &[u8]) -> rustix::io::Result<()> {
    match remove_file(dir, name) {
        Err(Errno::ISDIR | Errno::PERM) => rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR),
        removed => removed,
    }
}
