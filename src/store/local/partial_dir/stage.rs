//! A new directory is made as a partial one, or that of a dead writer is resumed.

use super::super::fd_budget::HANDLES;
use super::super::flush::syncs_whole;
use super::super::lock::Purpose;
use super::super::record;
use super::super::sys::{Call, Directory, Node, OpenFile, remove_file};
use super::super::target::LockedTarget;
use super::super::tree::Tree;
use super::state::{PartialDir, State};
use crate::store::{Durability, ErrorKind, MadeDir, RemotePath, Resume, StoreError};
use parking_lot::RwLock;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The mode of a file until it is complete: the sticky bit, and what its owner needs to set
/// extended attributes. No complete file has it.
pub(in super::super) const INCOMPLETE: u32 = 0o1600;
/// The mode of a partial directory. Where the sticky bit of a directory is stored, that of a file
/// is, too.
const PRIVATE: u32 = 0o1700;
/// Bits of a directory's mode that it has of the one that it was made in.
const SET_IDS: u32 = 0o6000;
/// Most partial directories of a tree at once. Further new directories are made in place.
const MOST: usize = 16;
/// How deep a partial directory is that is resumed or merged: each level has a directory open.
pub(super) const MAX_DEPTH: usize = 256;

/// Makes a directory that does not exist as a partial one, or resumes that of a dead writer. `None`
/// if the directory is to be made, or found, in its place.
///
/// # Errors
/// [`ErrorKind::Locked`]: another writer is making it, and this tree has no other in the making.
pub(in super::super) fn stage<D: Directory>(
    tree: &Tree<D>,
    path: &RemotePath,
    (who, durability): (&str, Durability),
) -> Result<Option<MadeDir>, StoreError> {
    let dirs = tree.partial_dirs();
    if let Some(found) = dirs.at(path) {
        found.uses.fetch_add(1, Ordering::Relaxed);
        return Ok(Some(MadeDir::Existing));
    }
    if !tree.is_strict() || dirs.dirs.read().len() >= MOST || dirs.around(path).is_some() {
        return Ok(None);
    }
    let Ok((dir, name)) = tree.parent(path) else {
        return Ok(None);
    };
    if !matches!(dir.stat_at(name.as_bytes()), Err(Errno::NOENT)) {
        return Ok(None);
    }
    // one call makes all of it durable before it gets its name
    if durability.is_durable() && !syncs_whole(&*dir) {
        return Ok(None);
    }
    let Some(open) = HANDLES.partial_dirs.try_take(tree.owner(), 1) else {
        return Ok(None);
    };
    let target = match LockedTarget::acquire(dir, name, path, who, Purpose::Dir) {
        // who waits has no other that somebody could wait for
        Err(e) if matches!(e.kind, ErrorKind::Locked(_)) && dirs.is_empty() => return Err(e),
        // what is in the way shows when it is made in place
        Err(_) => return Ok(None),
        Ok(target) => target,
    };
    let Ok((dir, made)) = make(&target) else {
        // what cannot be resumed stays with its lock, and is listed, unlocked and swept with it
        if matches!(target.dir.stat_at(&target.lock.names.dir), Err(Errno::NOENT)) {
            target.discard();
        }
        return Ok(None);
    };
    let partial = PartialDir {
        target,
        dir: Arc::new(dir),
        uses: AtomicUsize::new(1),
        state: RwLock::new(State::Private),
        _open: open,
    };
    dirs.dirs.write().insert(path.clone(), Arc::new(partial));
    Ok(Some(made))
}

/// Makes a partial directory, or opens the one whose writer has died.
fn make<D: Directory>(target: &LockedTarget<D>) -> Call<(D, MadeDir)> {
    let LockedTarget { dir, lock, .. } = target;
    let name = &lock.names.dir;
    let made = match dir.make_dir_at(name, PRIVATE) {
        Ok(()) => MadeDir::New,
        // without a lock its writer may live, which has lost that by force
        Err(Errno::EXIST) if lock.resume != Resume::Fresh => MadeDir::Resumed,
        Err(e) => return Err(e),
    };
    let opened = dir.open_dir_at(name)?;
    let found = opened.fstat()?;
    // root's may have its final owner; its lock has not
    let user = rustix::process::geteuid();
    let is_ours = user.is_root() || found.st_uid == user.as_raw();
    let has_lock = lock.file.fstat()?.st_uid == user.as_raw();
    if !is_ours || !has_lock || found.st_dev != lock.device() {
        return Err(Errno::PERM);
    }
    if made == MadeDir::Resumed {
        // the lock may have been a file's, which is resumed no more
        record::remove(&**dir, &lock.names.record)?;
        lock.file.ftruncate(0)?;
        // its writer may have set its final mode
        opened.fchmod(found.st_mode & SET_IDS | PRIVATE)?;
        remove_incomplete(&opened, 0)?;
    } else if found.st_mode & PRIVATE != PRIVATE {
        dir.remove_dir_at(name)?;
        return Err(Errno::OPNOTSUPP);
    }
    Ok((opened, made))
}

/// Removes the incomplete files in a directory whose writer has died.
fn remove_incomplete<D: Directory>(dir: &D, depth: usize) -> Call<()> {
    if depth > MAX_DEPTH {
        return Err(Errno::LOOP);
    }
    dir.each_name(&mut |name| {
        let found = match dir.stat_at(name) {
            Err(Errno::NOENT) => return Ok(()),
            found => found?,
        };
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile if is_incomplete(&found) => remove_file(dir, name),
            FileType::Directory => {
                let inner = dir.open_dir_at(name)?;
                opened_up(&inner, &found, || {
                    // a handle of a directory that could not be read cannot list it
                    remove_incomplete(&dir.open_dir_at(name)?, depth.saturating_add(1))
                })
            }
            _ => Ok(()),
        }
    })
}

/// True of a file that may lack some of its content.
pub(super) fn is_incomplete(found: &Stat) -> bool {
    found.st_mode & 0o7777 == INCOMPLETE
}

/// Works in a directory whose mode may keep its owner out.
pub(super) fn opened_up(
    dir: &impl Node,
    found: &Stat,
    work: impl FnOnce() -> Call<()>,
) -> Call<()> {
    let mode = found.st_mode & 0o7777;
    if mode & 0o700 == 0o700 {
        return work();
    }
    dir.fchmod(mode | 0o700)?;
    let done = work();
    dir.fchmod(mode)?;
    done
}
