//! Time and mode of entries.

use super::inode::mtime;
use super::sys::{Directory, Node, open_any};
use super::times::timestamps;
use super::tree::Tree;
use crate::store::error::At;
use crate::store::{Attributes, RemotePath, StoreError, Time};
use rustix::fs::{FileType, Stat};

/// The mode that an open file or directory has, and the one that it is to have.
#[derive(Clone, Copy)]
pub(super) struct ModeChange {
    pub(super) from: u32,
    pub(super) to: u32,
}

/// Sets time and mode of an open file or directory, in an order that preserves the time.
pub(super) fn set_open(
    node: &impl Node,
    mtime: Time,
    mode: ModeChange,
    path: &RemotePath,
) -> Result<(), StoreError> {
    if mode.from != mode.to {
        node.fchmod(mode.to).at("set the mode", path)?;
    }
    node.futimens(&timestamps(mtime)).at("set the time", path)
}

/// Sets time and mode of an existing file or directory. Set-uid and set-gid bits stay. An entry
/// that is as it should be is not touched, so that its change time stays too.
pub(super) fn set_attributes<D: Directory>(
    tree: &Tree<D>,
    path: &RemotePath,
    attributes: Attributes,
) -> Result<(), StoreError> {
    if path.is_root() {
        return set_where_wrong(tree.root(), attributes, path);
    }
    let (dir, name) = tree.parent(path)?;
    let found = dir.stat_at(name.as_bytes()).at("stat", path)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    if !kind.is_symlink() && has(&found, attributes) {
        return Ok(());
    }
    if kind.is_dir() {
        // its owner may not be allowed to read it
        let inner = dir.open_dir_at(name.as_bytes()).at("open", path)?;
        return set_where_wrong(&inner, attributes, path);
    }
    let file = open_any(&*dir, name.as_bytes()).at("open", path)?;
    set_where_wrong(&file, attributes, path)
}

/// Sets time and mode of an open file or directory, unless they are right.
fn set_where_wrong(
    node: &impl Node,
    attributes: Attributes,
    path: &RemotePath,
) -> Result<(), StoreError> {
    let found = node.fstat().at("stat", path)?;
    if has(&found, attributes) {
        return Ok(());
    }
    let mode = ModeChange {
        from: found.st_mode & 0o7777,
        to: mode_for(&found, attributes),
    };
    set_open(node, attributes.mtime, mode, path)
}

fn has(found: &Stat, attributes: Attributes) -> bool {
    mtime(found) == attributes.mtime && found.st_mode & 0o7777 == mode_for(found, attributes)
}

/// The mode for an entry that exists. A directory takes over the sticky bit, too.
fn mode_for(found: &Stat, attributes: Attributes) -> u32 {
    let sticky = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => 0o1000,
        _ => 0,
    };
    (found.st_mode & 0o6000) | (attributes.mode & (0o777 | sticky))
}
