//! chmod and touch of an existing entry, and a rename that replaces nothing.

use super::inode::mtime;
use super::meta_overlay::is_recording;
use super::meta_record;
use super::sys::{Directory, Node, WARY, open_any, retry};
use super::times::timestamps;
use super::tree::{Tree, sync_dir};
use crate::store::error::At;
use crate::store::{Attributes, Change, ErrorKind, NewTime, RemotePath, StoreError, Time};
use cap_std::fs::Dir;
use rustix::fs::{FileType, OFlags, RenameFlags, Stat, UTIME_NOW};
use rustix::io::Errno;

/// Changes mode and time of an existing file or directory.
pub(super) fn change<D: Directory>(
    tree: &Tree<D>,
    path: &RemotePath,
    change: Change,
) -> Result<(), StoreError> {
    if path.is_root() {
        return Err(StoreError::new(ErrorKind::Denied, path));
    }
    let (dir, name) = tree.parent(path)?;
    let found = dir.stat_at(name.as_bytes()).at("stat", path)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => {
            let inner = dir.open_dir_at(name.as_bytes()).at("open", path)?;
            change_open(tree, &inner, change, path)
        }
        FileType::RegularFile => {
            let file = match open_any(&*dir, name.as_bytes()) {
                // its mode may be what keeps its owner out
                Err(Errno::ACCESS) => dir.open_at(name.as_bytes(), WARY | OFlags::PATH),
                other => other,
            };
            change_open(tree, &file.at("open", path)?, change, path)
        }
        FileType::Symlink => Err(StoreError::new(ErrorKind::Symlink, path)),
        _ => Err(StoreError::new(ErrorKind::BadKind, path)),
    }
}

/// Changes an open entry. What is open decides: its name may have got to something else meanwhile.
fn change_open<D: Directory>(
    tree: &Tree<D>,
    node: &impl Node,
    change: Change,
    path: &RemotePath,
) -> Result<(), StoreError> {
    let stat = node.fstat().at("stat", path)?;
    let found = stat.st_mode;
    let settable = match FileType::from_raw_mode(found) {
        FileType::Directory => 0o1777,
        FileType::RegularFile => 0o777,
        FileType::Symlink => return Err(StoreError::new(ErrorKind::Symlink, path)),
        _ => return Err(StoreError::new(ErrorKind::BadKind, path)),
    };
    if let Some(mode) = change.mode {
        let mode = mode & (settable | (found & 0o6000));
        if is_recording(tree) {
            let attributes = Attributes {
                mode,
                mtime: mtime(&stat),
                ..Attributes::default()
            };
            meta_record::set(tree, node, &stat, (&attributes, |real| real), path)?;
        } else if mode != found & 0o7777 {
            node.fchmod(mode).at("set the mode", path)?;
        }
    }
    if let Some(new) = change.mtime {
        let mut times = timestamps(match new {
            NewTime::At(time) => time,
            NewTime::Now => Time::default(),
        });
        if new == NewTime::Now {
            times.last_modification.tv_nsec = UTIME_NOW;
        }
        node.futimens(&times).at("set the time", path)?;
    }
    node.fsync().at("fsync", path)
}

/// rename(2) to a name that nothing has, with both directories synced.
pub(super) fn rename_new(
    tree: &Tree,
    from: &RemotePath,
    to: &RemotePath,
) -> Result<(), StoreError> {
    if to.is_within(from) && to != from {
        return Err(StoreError::because("a directory cannot be moved into itself", to));
    }
    let (from_dir, from_name) = tree.parent(from)?;
    let (to_dir, to_name) = tree.parent(to)?;
    rename_entry(&from_dir, from_name.as_bytes(), &to_dir, to_name.as_bytes())
        .at("rename", from)?;
    sync_dir(&*to_dir, to)?;
    sync_dir(&*from_dir, from)
}

/// renameat2(2) that replaces nothing.
pub(super) fn rename_entry(from: &Dir, old: &[u8], to: &Dir, new: &[u8]) -> rustix::io::Result<()> {
    let flags = RenameFlags::NOREPLACE;
    match retry(|| rustix::fs::renameat_with(from, old, to, new, flags)) {
        // a file system without it: a second link replaces nothing either
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            from.link_into(old, to, new)?;
            let (before, after) = (from.stat_at(old), to.stat_at(new));
            let is_same = |a: &Stat, b: &Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
            // a writer may have put another file there meanwhile, which stays
            if matches!((before, after), (Ok(a), Ok(b)) if is_same(&a, &b)) {
                from.unlink_at(old)?;
            }
            Ok(())
        }
        other => other,
    }
}
