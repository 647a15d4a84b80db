//! Removes from the trash, for good.

use super::super::closed::Closed;
use super::super::remove_tree::remove_subdir;
use super::super::sys::{Directory, Node};
use super::super::tree::read_dir;
use super::batch::{Batch, BatchName, for_each_batch, now, open_trash, restore_time};
use super::log::LOG;
use crate::store::error::At;
use crate::store::path::RemotePath;
use crate::store::reserved::trash_name;
use crate::store::trash::{Emptied, EmptyScope};
use crate::store::{ErrorKind, StoreError};
use cap_std::fs::Dir;
use rustix::fs::AtFlags;
use rustix::io::Errno;

/// Removes batches from the trash of a directory, at most so many, and the trash if nothing remains
/// in it.
pub(in crate::store::local) fn empty(
    dir: &Dir,
    closed: &Closed,
    scope: EmptyScope,
    most: usize,
) -> Result<Emptied, StoreError> {
    let root = RemotePath::root();
    let trash = match open_trash(dir) {
        Err(Errno::NOENT) => return Ok(Emptied::default()),
        opened => opened.at("open the trash", &root)?,
    };
    let (now, mut batches, mut emptied) = (now().0, Vec::new(), Emptied::default());
    for_each_batch(&trash, |batch| {
        let goes = scope == EmptyScope::All || batch.expires <= now;
        match goes && batches.len() < most {
            true => batches.push(batch),
            false => emptied.more |= goes,
        }
    })?;
    for batch in batches {
        closed.check(&root)?;
        let removed = remove_batch(&trash, batch, closed)?;
        emptied.removed = emptied.removed.saturating_add(removed);
    }
    trash.fsync().at("fsync of the trash", &root)?;
    if !emptied.more {
        remove_empty(dir);
    }
    Ok(emptied)
}

/// Removes a batch; returns how many entries it had.
fn remove_batch(trash: &Dir, batch: BatchName, closed: &Closed) -> Result<u64, StoreError> {
    let (root, name) = (RemotePath::root(), batch.text());
    let dir = match trash.open_dir_at(name.as_bytes()) {
        // another run empties it
        Err(Errno::NOENT) => return Ok(0),
        opened => opened.at("open the trash", &root)?,
    };
    let count = entries_of(&dir)?;
    drop(dir);
    match remove_subdir(trash, name.as_bytes(), &root, closed) {
        Err(e) if e.kind == ErrorKind::NotFound => Ok(0),
        removed => removed.map(|()| count),
    }
}

/// The number of entries of a batch.
fn entries_of(batch: &Dir) -> Result<u64, StoreError> {
    let names = read_dir(batch, &RemotePath::root())?.flatten();
    let entries = names.filter(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".." | LOG));
    Ok(u64::try_from(entries.count()).unwrap_or(u64::MAX))
}

/// Removes the trash of a directory if nothing is in it.
fn remove_empty(dir: &Dir) {
    if let Ok(before) = dir.fstat()
        && rustix::fs::unlinkat(dir, trash_name(), AtFlags::REMOVEDIR).is_ok()
    {
        restore_time(dir, &before);
    }
}

/// Removes a batch that has no entries any more, and the trash of `dir` if it was the last.
pub(super) fn drop_if_spent(dir: &Dir, batch: &Batch) {
    if matches!(entries_of(&batch.dir), Ok(0)) {
        let _ = batch.dir.unlink_at(LOG);
        let _ = rustix::fs::unlinkat(&batch.trash, batch.name.text(), AtFlags::REMOVEDIR);
        remove_empty(dir);
    }
}
