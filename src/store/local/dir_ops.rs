//! Making, removing and renaming entries.

use super::follow::canonical;
use super::inode::{entry, mtime};
use super::meta_overlay::overlay_at;
use super::partial::remove_dead;
use super::remove_tree::{remove_beneath, remove_replaced};
use super::stat::stat;
use super::sys::retry;
use super::sys::{Directory, Node, remove_file};
use super::times::timestamps;
use super::tree::{Tree, open_subdir, sync_dir};
use crate::store::error::At;
use crate::store::partial_names::PartialNames;
use crate::store::{
    ErrorKind, ExistingDirs, Kind, MadeDir, Name, RemotePath, Removal, RemoveScope, StoreError,
    Time,
};
use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FileType, Mode, RenameFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::Arc;

/// Returns the path with all symlinks followed; one that leads outside the root is an error.
pub(super) fn resolve(tree: &Tree, path: &RemotePath) -> Result<RemotePath, StoreError> {
    let Some((parent, name)) = path.split() else {
        return Ok(RemotePath::root());
    };
    // only a symlink is opened to learn its real name: of a file that is being replaced by a
    // rename, /proc does not know it any more
    let is_link = stat(tree, path)?.kind == Kind::Symlink;
    let parent = canonical(tree, &parent)?;
    let real = parent.join(&name).map_err(|e| StoreError::new(ErrorKind::BadName(e), path));
    if is_link { canonical(tree, path) } else { real }
}

/// mkdir(2), with the name durable.
pub(super) fn make_dir(tree: &Tree, path: &RemotePath) -> Result<(), StoreError> {
    if path.is_root() {
        return Err(StoreError::new(ErrorKind::Exists, path));
    }
    let (dir, name) = tree.parent(path)?;
    rustix::fs::mkdirat(&*dir, name.as_bytes(), Mode::from_raw_mode(0o777))
        .at("make directory", path)?;
    sync_dir(&*dir, path)
}

/// Makes the directory of a transfer if it does not exist, and marks its parent for a later fsync,
/// unless that is within a partial directory, which is synced as a whole. An existing one that
/// keeps its owner out is opened up if the transfer sets its mode in the end.
pub(super) fn ensure_dir(
    tree: &Tree,
    path: &RemotePath,
    mode: u32,
    existing: ExistingDirs,
) -> Result<MadeDir, StoreError> {
    let open_up = existing != ExistingDirs::Untouched;
    let Some((parent, _)) = path.split() else {
        if open_up {
            open_up_dir(tree.root());
        }
        return Ok(MadeDir::Existing);
    };
    let (dir, name) = tree.parent(path)?;
    let is_within = tree.partial_dirs().around(path).is_some();
    let mark_unsynced = || {
        if !is_within {
            tree.mark_unsynced(parent);
        }
    };
    // writable for this process until it is complete; its own mode is set then
    let mode = Mode::from_raw_mode((mode & 0o777) | 0o700);
    match rustix::fs::mkdirat(&*dir, name.as_bytes(), mode) {
        Ok(()) => {
            mark_unsynced();
            Ok(MadeDir::New)
        }
        Err(Errno::EXIST) => {
            let found = rustix::fs::statat(&*dir, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW)
                .at("stat", path)?;
            match FileType::from_raw_mode(found.st_mode) {
                // its maker may not have synced its name: a transfer that was killed, or another
                // one
                FileType::Directory => {
                    mark_unsynced();
                    if open_up && keeps_owner_out(&found) {
                        dir.open_dir_at(name.as_bytes()).iter().for_each(open_up_dir);
                    }
                    Ok(match is_within {
                        true => MadeDir::Resumed,
                        false => MadeDir::Existing,
                    })
                }
                _ if existing == ExistingDirs::Replace => {
                    replace_by_dir(tree, path, (&dir, &name), mode)?;
                    mark_unsynced();
                    Ok(MadeDir::New)
                }
                FileType::Symlink => Err(StoreError::new(ErrorKind::Symlink, path)),
                _ => Err(StoreError::new(ErrorKind::NotADirectory, path)),
            }
        }
        Err(e) => Err(e).at("make directory", path),
    }
}

/// Puts a new directory in the place of an entry that is none, which becomes its backup or goes.
/// The name always leads to one of them, where the file system can exchange two names.
fn replace_by_dir(
    tree: &Tree,
    path: &RemotePath,
    (dir, name): (&Arc<Dir>, &Name),
    mode: Mode,
) -> Result<(), StoreError> {
    tree.closed().check(path)?;
    let names = PartialNames::of(name);
    if let Some(backup) = tree.backup() {
        backup.preserve_at(tree, path, (dir, name), &names.replaced)?;
        backup.sync(tree)?;
    }
    // what a writer that died has staged there
    remove_replaced(&**dir, &names.replaced).at("remove an abandoned backup", path)?;
    let (new, old) = (names.replaced.as_slice(), name.as_bytes());
    rustix::fs::mkdirat(&**dir, new, mode).at("make directory", path)?;
    let exchange = || rustix::fs::renameat_with(&**dir, new, &**dir, old, RenameFlags::EXCHANGE);
    match exchange() {
        // what cannot be removed, a directory that has just got there above all, gets its name back
        Ok(()) => dir.unlink_at(new).inspect_err(|_| {
            let _ = exchange();
        }),
        // no exchange on this file system, or nothing is there any more
        Err(_) => {
            remove_file(&**dir, old).and_then(|()| rustix::fs::renameat(&**dir, new, &**dir, old))
        }
    }
    .at("replace it by a directory", path)
}

/// True if this process owns a directory whose mode does not let it make anything there.
fn keeps_owner_out(found: &Stat) -> bool {
    let owner = rustix::process::geteuid();
    !owner.is_root() && found.st_uid == owner.as_raw() && found.st_mode & 0o300 != 0o300
}

/// Sets a mode that lets its owner in. If that fails, the entries to be made there fail and say
/// why.
fn open_up_dir(dir: &Dir) {
    if let Ok(found) = dir.fstat()
        && keeps_owner_out(&found)
    {
        let _ = dir.fchmod(found.st_mode & 0o7777 | 0o700);
    }
}

/// rm, rmdir, or rm -r of a tree, until the store is closed.
pub(super) fn remove(tree: &Tree, path: &RemotePath, scope: RemoveScope) -> Result<(), StoreError> {
    if path.is_root() {
        return Err(StoreError::new(ErrorKind::Denied, path));
    }
    let (dir, name) = tree.parent(path)?;
    let found =
        rustix::fs::statat(&*dir, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW).at("remove", path)?;
    if !FileType::from_raw_mode(found.st_mode).is_dir() {
        rustix::fs::unlinkat(&*dir, name.as_bytes(), AtFlags::empty()).at("remove", path)?;
        return sync_dir(&*dir, path);
    }
    if scope == RemoveScope::Tree {
        let inner = open_subdir(&*dir, &name, path)?;
        remove_beneath(&inner, path, tree.closed())?;
    }
    match rustix::fs::unlinkat(&*dir, name.as_bytes(), AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY) => {
            // listings do not show abandoned partial files, so they must not be in the way either
            remove_dead(tree, path)?;
            rustix::fs::unlinkat(&*dir, name.as_bytes(), AtFlags::REMOVEDIR).at("remove", path)?;
        }
        other => other.at("remove", path)?,
    }
    sync_dir(&*dir, path)
}

/// Removes entries that are still what a listing said, or moves them to their backups.
pub(super) fn remove_many(tree: &Tree, removals: &[Removal]) -> Vec<Result<(), StoreError>> {
    take_each(tree, removals, |found| remove_found(tree, found))
}

/// An entry that is to be removed and still is what a listing said.
pub(super) struct Found<'a> {
    pub(super) index: usize,
    pub(super) removal: &'a Removal,
    pub(super) stat: &'a Stat,
    pub(super) dir: &'a Arc<Dir>,
    pub(super) name: &'a Name,
    /// Of a directory: the time that it had before the first entry in it was taken.
    pub(super) time_before: Option<Time>,
}

/// Has `take` remove entries that are still what a listing said, in its own way. The directories
/// that they were in keep their times: what is removed from a mirror was never in its source.
pub(super) fn take_each(
    tree: &Tree,
    removals: &[Removal],
    mut take: impl FnMut(&Found<'_>) -> Result<(), StoreError>,
) -> Vec<Result<(), StoreError>> {
    let mut times = HashMap::new();
    let taken = removals
        .iter()
        .enumerate()
        .map(|each| take_listed(tree, each, &mut times, &mut take))
        .collect();
    for (parent, mtime) in times {
        // it may be gone by now, and then has no time
        if let Ok(dir) = tree.dir(&parent) {
            let _ = dir.futimens(&timestamps(mtime));
        }
    }
    taken
}

/// Takes an entry that is still what a listing said; marks its directory for a later fsync, and
/// notes the time that it had. The partial files of other writers are not taken, so their directory
/// stays.
fn take_listed(
    tree: &Tree,
    (index, removal): (usize, &Removal),
    times: &mut HashMap<RemotePath, Time>,
    take: &mut impl FnMut(&Found<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let path = &removal.path;
    tree.closed().check(path)?;
    let (dir, name) = match tree.parent(path) {
        Err(e) if e.kind == ErrorKind::NotFound => return Ok(()),
        parent => parent?,
    };
    let found = match rustix::fs::statat(&*dir, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        found => found.at("remove", path)?,
    };
    let mut listed = entry(Some(name.clone()), &found, None);
    overlay_at(tree, path, &mut listed);
    removal.check(&listed)?;
    let parent = path.split().map(|(parent, _)| parent).unwrap_or_default();
    let above = dir.fstat().at("stat", path)?;
    times.entry(parent.clone()).or_insert_with(|| mtime(&above));
    // a mirror sets the modes of its directories, also those that keep their owner out
    let is_shut = keeps_owner_out(&above);
    if is_shut {
        open_up_dir(&dir);
    }
    let taken = take(&Found {
        index,
        removal,
        stat: &found,
        dir: &dir,
        name: &name,
        time_before: times.get(path).copied(),
    });
    if is_shut {
        let _ = dir.fchmod(above.st_mode & 0o7777);
    }
    taken?;
    tree.mark_unsynced(parent);
    Ok(())
}

/// Moves an entry to its backup, if it gets one, and removes it otherwise.
fn remove_found(tree: &Tree, found: &Found<'_>) -> Result<(), StoreError> {
    let (path, name) = (&found.removal.path, found.name);
    let flags = match found.removal.kind {
        Kind::Dir => AtFlags::REMOVEDIR,
        _ => AtFlags::empty(),
    };
    if found.removal.kind != Kind::Dir
        && let Some(backup) = tree.backup()
        && backup.take(tree, (path, found.stat), (found.dir, name))?
    {
        return Ok(());
    }
    match rustix::fs::unlinkat(&**found.dir, name.as_bytes(), flags) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed.at("remove", path),
    }
}

/// rename(2), with both directories synced.
pub(super) fn rename(tree: &Tree, from: &RemotePath, to: &RemotePath) -> Result<(), StoreError> {
    if to.is_within(from) && to != from {
        return Err(StoreError::because("a directory cannot be moved into itself", to));
    }
    let (from_dir, from_name) = tree.parent(from)?;
    let (to_dir, to_name) = tree.parent(to)?;
    retry(|| rustix::fs::renameat(&*from_dir, from_name.as_bytes(), &*to_dir, to_name.as_bytes()))
        .at("rename", from)?;
    sync_dir(&*to_dir, to)?;
    sync_dir(&*from_dir, from)
}
