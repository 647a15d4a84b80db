//! Moves entries into the trash.

use super::super::dir_ops::{Found, take_each};
use super::super::inode::{mtime, owner};
use super::super::sys::{Call, Directory, Node};
use super::super::times::timestamps;
use super::super::tree::Tree;
use super::batch::make_batch;
use super::{empty, log};
use crate::store::error::At;
use crate::store::trash::TrashRun;
use crate::store::{ErrorKind, Kind, RemotePath, Removal, StoreError};
use cap_std::fs::Dir;
use rustix::fs::AtFlags;
use rustix::io::Errno;

/// Moves entries into the trash of the root, each if it still is what a listing said.
pub(super) fn discard(
    tree: &Tree,
    removals: &[Removal],
    run: TrashRun,
) -> Vec<Result<(), StoreError>> {
    let mut results = Vec::with_capacity(removals.len());
    let mut rest = removals;
    while !rest.is_empty() {
        let mut bytes = 0_usize;
        let fits = rest.iter().take_while(|removal| {
            bytes = bytes.saturating_add(log::size_of(&removal.path));
            bytes <= log::MOST
        });
        let (batch, others) = rest.split_at(fits.count().max(1));
        results.extend(discard_batch(tree, batch, run));
        rest = others;
    }
    results
}

fn discard_batch(tree: &Tree, removals: &[Removal], run: TrashRun) -> Vec<Result<(), StoreError>> {
    let root = RemotePath::root();
    let begun = tree.closed().check(&root).and_then(|()| {
        let batch = make_batch(tree.root(), run).at("make the trash", &root)?;
        let logged = log::write(&batch.dir, removals.iter().map(|removal| &removal.path));
        // all of it leads somewhere before the first entry moves
        logged
            .and_then(|()| batch.dir.fsync())
            .and_then(|()| batch.trash.fsync())
            .at("write the log of the trash", &root)?;
        Ok(batch)
    });
    let batch = match begun {
        Ok(batch) => batch,
        Err(e) => {
            return removals.iter().map(|r| Err(e.clone().about(&r.path))).collect();
        }
    };
    let moved = take_each(tree, removals, |found| move_to(&batch.dir, found));
    let synced = batch.dir.fsync().at("fsync of the trash", &root);
    empty::drop_if_spent(tree.root(), &batch);
    moved.into_iter().map(|moved| moved.and(synced.clone())).collect()
}

/// Moves one entry to its number in the batch.
fn move_to(batch: &Dir, found: &Found<'_>) -> Result<(), StoreError> {
    let path = &found.removal.path;
    let number = found.index.to_string();
    let moved = match found.removal.kind {
        Kind::Dir => move_dir(batch, number.as_bytes(), found),
        _ => found.dir.rename_into(found.name.as_bytes(), batch, number.as_bytes()),
    };
    match moved {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::XDEV) => {
            let why = "it is on another file system than the trash of the destination";
            Err(StoreError::because(why, path))
        }
        moved => moved.at("move it to the trash", path),
    }
}

/// Makes an empty directory like one that is removed: a rename would take what has got into it
/// meanwhile, too.
fn move_dir(batch: &Dir, number: &[u8], found: &Found<'_>) -> Call<()> {
    let name = found.name.as_bytes();
    let old = found.dir.open_dir_at(name)?;
    batch.make_dir_at(number, 0o700)?;
    copy_attributes(&old, &batch.open_dir_at(number)?, found)?;
    let removed = rustix::fs::unlinkat(&**found.dir, name, AtFlags::REMOVEDIR);
    if removed.is_err() {
        let _ = rustix::fs::unlinkat(batch, number, AtFlags::REMOVEDIR);
    }
    removed
}

/// Gives a directory the attributes of another one, as far as this process may.
fn copy_attributes(old: &Dir, new: &Dir, found: &Found<'_>) -> Call<()> {
    let owner = owner(found.stat);
    let _ = new.fchown(Some(owner.uid), Some(owner.gid));
    for name in old.xattr_names().unwrap_or_default() {
        if let Ok(value) = old.xattr(&name) {
            let _ = new.set_xattr(&name, &value);
        }
    }
    new.fchmod(found.stat.st_mode & 0o7777)?;
    new.futimens(&timestamps(found.time_before.unwrap_or(mtime(found.stat))))
}

/// The error of an entry of the trash that is not there.
pub(super) fn missing() -> StoreError {
    StoreError::new(ErrorKind::NotFound, &RemotePath::root())
}
