//! Symlinks that a transfer follows: an entry is described, opened and read as what it leads to.

use super::inode::entry;
use super::sys::{open_in, retry};
use super::tree::{Reach, Tree};
use crate::store::error::At;
use crate::store::{Entry, ErrorKind, FollowedLinks, Kind, RemotePath, StoreError};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// openat(2), or openat2(2), of what a path leads to.
pub(super) fn open(tree: &Tree, path: &RemotePath, flags: OFlags) -> Result<OwnedFd, StoreError> {
    if leads_to_reserved(tree, path) {
        return Err(StoreError::new(ErrorKind::NotFound, path));
    }
    let flags = flags | OFlags::CLOEXEC;
    let opened = match tree.following().map(|following| following.reach) {
        Some(Reach::Anywhere) => open_in(tree.root(), path.as_bytes(), flags),
        Some(Reach::Beneath) => {
            let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            let root = tree.root();
            retry(|| rustix::fs::openat2(root, path.as_bytes(), flags, Mode::empty(), within))
        }
        None => Err(Errno::LOOP),
    };
    opened.at("open", path)
}

/// A handle of what a path leads to, for its attributes.
pub(super) fn handle(tree: &Tree, path: &RemotePath) -> Result<File, StoreError> {
    Ok(open(tree, path, OFlags::PATH)?.into())
}

/// Describes an entry as what it leads to. One that leads nowhere, or where the tree does not
/// follow it, is still a symlink.
pub(super) fn follow(tree: &Tree, path: &RemotePath, found: &mut Entry) {
    let Some(following) = tree.following().filter(|_| found.kind == Kind::Symlink) else {
        return;
    };
    if leads_to_reserved(tree, path) {
        return;
    }
    let Ok(Ok(stat)) = handle(tree, path).map(rustix::fs::fstat) else {
        return;
    };
    let target = entry(found.name.clone(), &stat, None);
    if following.links == FollowedLinks::All || target.kind == Kind::Dir {
        *found = target;
    }
}

/// A path without symlinks, which stay beneath the root.
///
/// # Errors
/// Also for one that leads to a name of haul's own.
pub(super) fn canonical(tree: &Tree, path: &RemotePath) -> Result<RemotePath, StoreError> {
    if path.is_root() {
        return Ok(RemotePath::root());
    }
    let real = match tree.reach() {
        Reach::Beneath => tree.root().canonicalize(path.as_path()),
        // its root is that of the machine
        Reach::Anywhere => std::fs::canonicalize(Path::new("/").join(path.as_path())),
    };
    let real = real.at("resolve", path)?;
    let bytes = match real.as_os_str().as_bytes() {
        b"." => b"",
        other => other.strip_prefix(b"/").unwrap_or(other),
    };
    RemotePath::parse(bytes).map_err(|e| StoreError::new(ErrorKind::BadName(e), path))
}

/// True of a path that leads a server's user to a name of haul's own, such as a partial file of
/// another writer, or out of the root.
fn leads_to_reserved(tree: &Tree, path: &RemotePath) -> bool {
    let is_of_server = tree.following().is_some_and(|f| f.reach == Reach::Beneath);
    is_of_server && !path.is_root() && canonical(tree, path).is_err()
}

/// The same for the entries of a directory.
pub(super) fn follow_all(tree: &Tree, dir: &RemotePath, entries: &mut [Entry]) {
    if tree.following().is_none() {
        return;
    }
    for entry in entries.iter_mut().filter(|entry| entry.kind == Kind::Symlink) {
        let path = entry.name.as_ref().and_then(|name| dir.join(name).ok());
        path.into_iter().for_each(|path| follow(tree, &path, entry));
    }
}
