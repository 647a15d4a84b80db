//! A partial directory gets its name.

use super::super::attributes::set_attributes;
use super::super::commit::lost_lock;
use super::super::lock::Purpose;
use super::super::sys::{Call, Directory, Node, open_any, open_handle, remove_file};
use super::super::target::LockedTarget;
use super::super::tree::Tree;
use super::stage::MAX_DEPTH;
use super::state::{PartialDir, State};
use crate::store::error::At;
use crate::store::reserved::is_reserved;
use crate::store::{Attributes, Durability, ErrorKind, Name, RemotePath, StoreError};
use rustix::fs::{FileType, RenameFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Names of a directory that are moved in one go.
const MOVED: usize = 1024;

/// Sets time, mode and metadata of complete directories, those that have any, and gives partial
/// ones their names, when everything in them is durable if it is to be. The names themselves are
/// durable after [`Tree::sync`].
pub(in super::super) fn complete<D: Directory>(
    tree: &Tree<D>,
    dirs: &[(RemotePath, Option<Attributes>)],
    durability: Durability,
) -> Vec<Result<(), StoreError>> {
    let set = |(path, attributes): &(RemotePath, Option<Attributes>)| match attributes {
        Some(attributes) => set_attributes(tree, path, attributes),
        None => Ok(()),
    };
    let mut results: Vec<_> = dirs.iter().map(set).collect();
    let mut synced = BTreeMap::new();
    for ((path, _), result) in dirs.iter().zip(&mut results) {
        let Some(partial) = tree.partial_dirs().at(path) else {
            continue;
        };
        if partial.uses.fetch_sub(1, Ordering::Relaxed) > 1 {
            continue;
        }
        // its attributes, and those of the others, are set already
        let is_synced = match durability {
            Durability::Volatile => Ok(()),
            Durability::Durable => *synced
                .entry(partial.target.lock.device())
                .or_insert_with(|| partial.dir.syncfs()),
        };
        // it tells of errors of the whole file system: each file's own fsync says whose it was
        let is_synced = is_synced.or_else(|_| sync_beneath(&*partial.dir, 0));
        let published = is_synced.at("fsync", path);
        let published = published.and_then(|()| publish(tree, &partial, durability));
        if published.is_err() {
            *result = published;
        }
    }
    results
}

/// fsync(2) of a directory and of everything in it.
fn sync_beneath<D: Directory>(dir: &D, depth: usize) -> Call<()> {
    if depth > MAX_DEPTH {
        return Err(Errno::LOOP);
    }
    dir.each_name(&mut |name| {
        let found = dir.stat_at(name)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => sync_beneath(&dir.open_dir_at(name)?, depth.saturating_add(1)),
            FileType::RegularFile => {
                let opened = open_any(dir, name).or_else(|_| open_handle(dir, name));
                opened?.fsync()
            }
            _ => Ok(()),
        }
    })?;
    dir.fsync()
}

/// Renames a partial directory to its name. Where a directory has that by now, it moves there what
/// is in the partial one.
fn publish<D: Directory>(
    tree: &Tree<D>,
    partial: &PartialDir<D>,
    durability: Durability,
) -> Result<(), StoreError> {
    let LockedTarget {
        path,
        dir,
        name,
        lock,
    } = &partial.target;
    let mut state = partial.state.write();
    if *state != State::Private {
        let why = "an incomplete file in it cannot be removed, so it does not get its name";
        return Err(StoreError::because(why, path));
    }
    tree.closed().check(path)?;
    if !lock.fence(&**dir) {
        return Err(lost_lock(path));
    }
    match dir.rename_at(&lock.names.dir, name.as_bytes(), RenameFlags::empty()) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {
            let existing = dir.open_dir_at(name.as_bytes()).at("open", path)?;
            let merge = Merge {
                tree,
                who: &lock.progress.who,
            };
            merge.all(&*partial.dir, &Arc::new(existing), path, 0)?;
            dir.remove_dir_at(&lock.names.dir)
                .at("remove the partial directory", path)?;
            // those of directories that were merged are gone
            tree.forget_dirs();
            if durability.is_durable() {
                dir.syncfs().at("syncfs", path)?;
            }
        }
        Err(Errno::NOTDIR) => {
            let why = "a file has that name by now: move it away, and run this again";
            return Err(StoreError::because(why, path));
        }
        renamed => renamed.at("rename the partial directory", path)?,
    }
    *state = State::Published;
    if let Some((parent, _)) = path.split() {
        tree.mark_unsynced(parent);
    }
    tree.partial_dirs().dirs.write().remove(path);
    partial.target.discard();
    Ok(())
}

/// Moves what is in a partial directory into one that has got its name meanwhile.
struct Merge<'a, D: Directory> {
    tree: &'a Tree<D>,
    who: &'a str,
}

impl<D: Directory> Merge<'_, D> {
    /// Moves the entries of `from` into `to`, the directory at `path`, until there are none.
    fn all(
        &self,
        from: &D,
        to: &Arc<D>,
        path: &RemotePath,
        depth: usize,
    ) -> Result<(), StoreError> {
        if depth > MAX_DEPTH {
            return Err(Errno::LOOP).at("merge directories", path);
        }
        loop {
            let names = first_names(from).at("read the partial directory", path)?;
            if names.is_empty() {
                return Ok(());
            }
            for name in names {
                match Name::parse(&name).map(|name| (path.join(&name), name)) {
                    Ok((Ok(inner), name)) => self.one((from, to), &name, &inner, depth)?,
                    // a partial file that this transfer has given up
                    _ if is_reserved(&name) => {
                        remove_file(from, &name).at("remove a partial file", path)?;
                    }
                    Ok((Err(e), _)) | Err(e) => {
                        return Err(StoreError::new(ErrorKind::BadName(e), path));
                    }
                }
            }
        }
    }

    fn lock(
        &self,
        to: &Arc<D>,
        name: &Name,
        path: &RemotePath,
    ) -> Result<LockedTarget<D>, StoreError> {
        LockedTarget::acquire(to.clone(), name.clone(), path, self.who, Purpose::New)
    }

    fn one(
        &self,
        (from, to): (&D, &Arc<D>),
        name: &Name,
        path: &RemotePath,
        depth: usize,
    ) -> Result<(), StoreError> {
        self.tree.closed().check(path)?;
        let bytes = name.as_bytes();
        let found = from.stat_at(bytes).at("stat", path)?;
        if !FileType::from_raw_mode(found.st_mode).is_dir() {
            // another writer may be at it
            let target = self.lock(to, name, path)?;
            if !target.lock.fence(&**to) {
                return Err(lost_lock(path));
            }
            let moved = from.rename_into(bytes, to, bytes).at("rename", path);
            target.discard();
            return moved;
        }
        match from.rename_into(bytes, to, bytes) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                let inner = from.open_dir_at(bytes).at("open", path)?;
                let existing = to.open_dir_at(bytes).at("open", path)?;
                self.all(&inner, &Arc::new(existing), path, depth.saturating_add(1))?;
                from.remove_dir_at(bytes).at("remove the partial directory", path)
            }
            renamed => renamed.at("rename", path),
        }
    }
}

/// Some names of a directory, all if there are few.
fn first_names(dir: &impl Directory) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let listed = dir.each_name(&mut |name| {
        names.push(name.to_vec());
        match names.len() {
            MOVED.. => Err(Errno::CANCELED),
            _ => Ok(()),
        }
    });
    match listed {
        Err(Errno::CANCELED) => Ok(names),
        listed => listed.map(|()| names),
    }
}
