//! Moves entries from the trash back to where they were.

use super::super::backup::make_path;
use super::super::change::rename_entry;
use super::super::inode::mtime;
use super::super::sys::{Directory, Node};
use super::super::times::timestamps;
use super::super::tree::Tree;
use super::batch::{Batch, BatchName, open_trash};
use super::discard::missing;
use super::{empty, log};
use crate::store::error::At;
use crate::store::trash::TrashItem;
use crate::store::{ErrorKind, RemotePath, StoreError, Time};
use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use std::collections::HashMap;

/// Moves entries back, durably. The directories that they were in get the times back that they had.
pub(super) fn restore(tree: &Tree, items: &[TrashItem]) -> Vec<Result<(), StoreError>> {
    let mut times = HashMap::new();
    let mut results: Vec<_> = items
        .chunk_by(|a, b| a.batch == b.batch)
        .flat_map(|items| restore_batch(tree, items, &mut times))
        .collect();
    for (parent, time) in times {
        if let Ok(dir) = tree.dir(&parent) {
            let _ = dir.futimens(&timestamps(time));
        }
    }
    if let Err(e) = tree.sync() {
        results.iter_mut().for_each(|result| *result = Err(e.clone()));
    }
    results
}

/// Moves entries of one batch back.
fn restore_batch(
    tree: &Tree,
    items: &[TrashItem],
    times: &mut HashMap<RemotePath, Time>,
) -> Vec<Result<(), StoreError>> {
    let opened = open_trash(tree.root()).map_err(|_| missing()).and_then(|trash| {
        let name = items.first().and_then(|item| BatchName::parse(item.batch.as_bytes()));
        let name = name.ok_or_else(missing)?;
        let dir = trash.open_dir_at(name.text().as_bytes()).map_err(|_| missing())?;
        let paths = log::read(&dir).at("read the log of the trash", &RemotePath::root())?;
        Ok((Batch { trash, dir, name }, paths))
    });
    let (batch, paths) = match opened {
        Ok(opened) => opened,
        Err(e) => return items.iter().map(|_| Err(e.clone())).collect(),
    };
    let restored = items.iter().map(|item| {
        let path = usize::try_from(item.index).ok().and_then(|index| paths.get(index));
        restore_one(tree, &batch.dir, (item.index, path.ok_or_else(missing)?), times)
    });
    let mut restored: Vec<_> = restored.collect();
    if let Err(e) = batch.dir.fsync().at("fsync of the trash", &RemotePath::root()) {
        restored.iter_mut().for_each(|result| *result = Err(e.clone()));
    }
    empty::drop_if_spent(tree.root(), &batch);
    restored
}

fn restore_one(
    tree: &Tree,
    batch: &Dir,
    (number, path): (u32, &RemotePath),
    times: &mut HashMap<RemotePath, Time>,
) -> Result<(), StoreError> {
    tree.closed().check(path)?;
    let (above, name) = path.split().ok_or_else(missing)?;
    let number = number.to_string();
    let found = batch.stat_at(number.as_bytes()).at("restore", path)?;
    let dir = make_path(tree, &above).map_err(|e| e.about(path))?;
    let before = mtime(&dir.fstat().at("stat", path)?);
    match rename_entry(batch, number.as_bytes(), &dir, name.as_bytes()) {
        Err(Errno::EXIST) if is_dir_at(&dir, name.as_bytes()) && is_dir(found.st_mode) => {
            let spent = rustix::fs::unlinkat(batch, number.as_bytes(), AtFlags::REMOVEDIR);
            return spent.at("restore", path);
        }
        Err(Errno::EXIST) => return Err(StoreError::new(ErrorKind::Exists, path)),
        renamed => renamed.at("restore", path)?,
    }
    times.entry(above.clone()).or_insert(before);
    tree.mark_unsynced(above);
    Ok(())
}

fn is_dir(mode: u32) -> bool {
    FileType::from_raw_mode(mode).is_dir()
}

fn is_dir_at(dir: &Dir, name: &[u8]) -> bool {
    dir.stat_at(name).is_ok_and(|found| is_dir(found.st_mode))
}
