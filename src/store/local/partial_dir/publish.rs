//! A partial directory gets its name.

use super::super::attributes::set_attributes;
use super::super::commit::lost_lock;
use super::super::inode::mtime;
use super::super::lock::Purpose;
use super::super::sys::{Call, Directory, Node, open_any, open_handle, remove_file};
use super::super::target::LockedTarget;
use super::super::times::timestamps;
use super::super::tree::Tree;
use super::stage::{MAX_DEPTH, opened_up};
use super::state::{PartialDir, State};
use crate::store::error::At;
use crate::store::reserved::is_reserved;
use crate::store::{Attributes, Durability, ErrorKind, Name, RemotePath, StoreError};
use rustix::fs::{FileType, RenameFlags, Stat};
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
    let mut synced = BTreeMap::new();
    let complete = |(path, attributes): &(RemotePath, Option<Attributes>)| {
        let set = || match attributes {
            Some(attributes) => set_attributes(tree, path, attributes),
            None => Ok(()),
        };
        let Some(partial) = tree.partial_dirs().at(path) else {
            return set();
        };
        if partial.uses.fetch_sub(1, Ordering::Relaxed) > 1 {
            return set();
        }
        if durability.is_durable() {
            let is_synced = *synced
                .entry(partial.target.lock.device())
                .or_insert_with(|| partial.dir.syncfs());
            // it tells of errors of the whole file system: each file's own fsync says whose it was
            let is_synced = is_synced.or_else(|_| sync_beneath(&*partial.dir, 0));
            is_synced.at("fsync", path)?;
        }
        // until now it was private
        let set = set();
        if durability.is_durable() {
            partial.dir.fsync().at("fsync", path)?;
        }
        publish(tree, &partial, durability)?;
        set
    };
    dirs.iter().map(complete).collect()
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
            let merge = Merge {
                tree,
                who: &lock.progress.who,
            };
            let existing = dir.open_dir_at(name.as_bytes()).at("open", path)?;
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
    /// Moves the entries of `from` into `to`, the directory at `path`, and gives that the
    /// attributes of the other. What cannot be moved stays, and the first error is returned.
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
        let attributes = from.fstat().at("stat", path)?;
        for open in [from, to] {
            let mode = open.fstat().at("stat", path)?.st_mode & 0o7777;
            if mode & 0o700 != 0o700 {
                // where that is not allowed, what needs it fails
                let _ = open.fchmod(mode | 0o700);
            }
        }
        loop {
            let names = first_names(from).at("read the partial directory", path)?;
            let count = names.len();
            let moved = names.iter().map(|name| self.any((from, to), name, path, depth));
            let failed: Vec<_> = moved.filter_map(Result::err).collect();
            let none_moved = failed.len() == count;
            match failed.into_iter().next() {
                None if count == 0 => break,
                Some(e) if none_moved => return Err(e),
                _ => {}
            }
        }
        copy_attributes(from, &attributes, &**to).at("set the attributes", path)
    }

    /// Moves what has this name, if anything may have it.
    fn any(
        &self,
        dirs: (&D, &Arc<D>),
        name: &[u8],
        path: &RemotePath,
        depth: usize,
    ) -> Result<(), StoreError> {
        // a partial file that this transfer has given up
        if is_reserved(name) {
            return remove_file(dirs.0, name).at("remove a partial file", path);
        }
        let bad = |e| StoreError::new(ErrorKind::BadName(e), path);
        let name = Name::parse(name).map_err(bad)?;
        let inner = path.join(&name).map_err(bad)?;
        self.one(dirs, &name, &inner, depth)
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
        let inner = from.open_dir_at(bytes).at("open", path)?;
        // its owner has to be able to write to it: it gets another parent
        let moved = opened_up(&inner, &found, || from.rename_into(bytes, to, bytes));
        match moved {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                let existing = to.open_dir_at(bytes).at("open", path)?;
                self.all(&inner, &Arc::new(existing), path, depth.saturating_add(1))?;
                from.remove_dir_at(bytes).at("remove the partial directory", path)
            }
            renamed => renamed.at("rename", path),
        }
    }
}

/// Gives a directory the attributes of another one, of which `found` is the stat, as far as that is
/// allowed.
fn copy_attributes<D: Directory>(from: &D, found: &Stat, to: &D) -> Call<()> {
    let now = to.fstat()?;
    if (now.st_uid, now.st_gid) != (found.st_uid, found.st_gid) {
        let _ = to.fchown(Some(found.st_uid), Some(found.st_gid));
    }
    for name in from.xattr_names().unwrap_or_default() {
        let _ = from.xattr(&name).and_then(|value| to.set_xattr(&name, &value));
    }
    to.fchmod(found.st_mode & 0o7777)?;
    to.futimens(&timestamps(mtime(found)))
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
