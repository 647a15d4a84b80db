//! stat: describes entries without opening them.

use super::inode::entry;
use super::tree::Tree;
use crate::store::error::At;
use crate::store::{Entry, ErrorKind, Name, RemotePath, Space, StoreError};
use cap_std::fs::Dir;
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType, Stat, StatVfs};
use std::sync::Arc;

/// lstat of a path.
pub(super) fn stat(tree: &Tree, path: &RemotePath) -> Result<Entry, StoreError> {
    if path.is_root() {
        let stat = rustix::fs::fstat(tree.root()).at("stat", path)?;
        return Ok(entry(None, &stat, None));
    }
    let (dir, name) = tree.parent(path)?;
    entry_of(&*dir, name).at("stat", path)
}

/// [`stat`] of many; most often the directory of one is that of the next.
pub(super) fn stat_many(tree: &Tree, paths: &[RemotePath]) -> Vec<Result<Entry, StoreError>> {
    let mut last: Option<(&[u8], Arc<Dir>)> = None;
    let mut stat_next = |path| {
        let Some((parent, name)) = RemotePath::halves(path) else {
            return stat(tree, path);
        };
        let dir = match last.take() {
            Some((same, dir)) if same == parent => dir,
            _ => tree.parent(path)?.0,
        };
        let (_, dir) = last.insert((parent, dir));
        entry_of(&**dir, name).at("stat", path)
    };
    paths.iter().map(&mut stat_next).collect()
}

/// Describes a name in an open directory.
fn entry_of(dir: &impl AsFd, name: Name) -> rustix::io::Result<Entry> {
    let (stat, target) = facts_of(dir, &name)?;
    Ok(entry(Some(name), &stat, target))
}

/// Returns the arguments of [`entry`] for a name in an open directory: its stat, and the target of
/// a symlink.
pub(super) fn facts_of(
    dir: &impl AsFd,
    name: &Name,
) -> rustix::io::Result<(Stat, Option<Vec<u8>>)> {
    let stat = rustix::fs::statat(dir, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW)?;
    let target = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            Some(rustix::fs::readlinkat(dir, name.as_bytes(), Vec::new())?.into_bytes())
        }
        _ => None,
    };
    Ok((stat, target))
}

/// statvfs.
pub(super) fn space(tree: &Tree, path: &RemotePath) -> Result<Space, StoreError> {
    let dir = match tree.dir(path) {
        Err(e) if e.kind == ErrorKind::NotADirectory => tree.parent(path)?.0,
        other => other?,
    };
    let stat = rustix::fs::fstatvfs(&*dir).at("statvfs", path)?;
    Ok(sizes(&stat))
}

fn sizes(stat: &StatVfs) -> Space {
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Space {
        total: bytes(stat.f_blocks),
        free: bytes(stat.f_bavail),
        // f_bfree counts reserved blocks, f_bavail does not
        used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
        files: stat.f_files,
        files_free: stat.f_favail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_blocks_are_neither_free_nor_used() {
        let stat = StatVfs {
            f_bsize: 4096,
            f_frsize: 1024,
            f_blocks: 100,
            f_bfree: 30,
            f_bavail: 10,
            f_files: 5,
            f_ffree: 4,
            f_favail: 3,
            f_fsid: 0,
            f_flag: rustix::fs::StatVfsMountFlags::empty(),
            f_namemax: 255,
        };
        let space = sizes(&stat);
        assert_eq!((space.total, space.used, space.free), (102_400, 71_680, 10_240));
        assert_eq!((space.files, space.files_free), (5, 3));
    }
}
