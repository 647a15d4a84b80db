//! Partial files: listed, unlocked, and removed once their writers are long dead.

use super::lock::{
    PARTIAL_MODE, exclude_commit, holder_of, leads_to, open_existing, remove_partial,
};
use super::record;
use super::remove_tree::{remove_replaced, remove_subdir};
use super::sys::{Directory, Node, OpenFile, WARY};
use super::trash::empty::empty;
use super::tree::{Tree, open_subdir, read_dir, seek};
use crate::store::error::At;
use crate::store::partial_names::PartialNames;
use crate::store::reserved::is_trash;
use crate::store::trash::EmptyScope;
use crate::store::{
    ErrorKind, Holder, LockEntry, LockPage, Name, RemotePath, StoreError, Swept, UnlockMode,
};
use cap_std::fs::Dir;
use rustix::fs::{FileType, FlockOperation, OFlags};
use rustix::io::Errno;
use std::time::{Duration, UNIX_EPOCH};

/// Most abandoned files that are removed with an otherwise empty directory; each stays open
/// meanwhile.
const MAX_DEAD: usize = 256;
/// Batches of a trash that a sweep removes; the next one goes on.
const BATCHES: usize = 1024;
/// How often a partial directory is removed to which a writer still adds.
const TRIES: usize = 256;
/// How deep the sweep goes: each level has a directory open.
const MAX_DEPTH: usize = 256;

/// Returns a page of the partial files in a directory. The cookie is the position of the file
/// system, as 8 bytes.
pub(super) fn locks(
    tree: &Tree,
    path: &RemotePath,
    cookie: &[u8],
    limit: usize,
) -> Result<LockPage, StoreError> {
    let dir = tree.dir(path)?;
    let mut stream = seek(read_dir(&dir, path)?, cookie, path)?;
    let mut page = LockPage::default();
    while let Some(next) = stream.read() {
        let next = next.at("read directory", path)?;
        let name = next.file_name().to_bytes();
        if let Some((target, names)) = PartialNames::of_file(name) {
            page.entries.extend(describe(&*dir, target.to_vec(), &names));
        } else if let Some((target, names)) = PartialNames::of_dir(name) {
            page.entries.extend(describe_unlocked(&*dir, target.to_vec(), &names));
        }
        if page.entries.len() >= limit {
            page.next = Some(next.offset().to_be_bytes().to_vec());
            break;
        }
    }
    Ok(page)
}

/// Describes a partial file; `None` if it has gone meanwhile.
fn describe(dir: &impl Directory, target: Vec<u8>, names: &PartialNames) -> Option<LockEntry> {
    match open_if_dead(dir, &names.file) {
        Ok(fd) => {
            let age = age_of(&fd.fstat().ok()?);
            let holder = holder_of(dir, names, &fd);
            let locked_for = holder.locked_for.or(age);
            let holder = Holder {
                locked_for,
                ..holder
            };
            Some(LockEntry {
                target,
                holder,
                live: false,
            })
        }
        Err(Errno::NOENT) => None,
        Err(_) => {
            // it is locked, or cannot be opened for reading: then only the record tells its writer
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = dir.open_at(&names.file, flags).ok()?;
            let holder = holder_of(dir, names, &fd);
            Some(LockEntry {
                target,
                holder,
                live: true,
            })
        }
    }
}

/// Describes a partial directory that has lost its lock; `None` if it has not.
fn describe_unlocked(
    dir: &impl Directory,
    target: Vec<u8>,
    names: &PartialNames,
) -> Option<LockEntry> {
    if !matches!(dir.stat_at(&names.file), Err(Errno::NOENT)) {
        return None;
    }
    let holder = Holder {
        locked_for: age_of(&dir.stat_at(&names.dir).ok()?),
        ..Holder::of("another process")
    };
    Some(LockEntry {
        target,
        holder,
        live: false,
    })
}

/// Returns how long ago a file was written to, by the system's clock.
fn age_of(stat: &rustix::fs::Stat) -> Option<Duration> {
    let since = u64::try_from(stat.st_mtime).ok()?;
    (UNIX_EPOCH + Duration::from_secs(since)).elapsed().ok()
}

/// Removes the partial file of a target; false if there is none.
pub(super) fn unlock<D: Directory>(
    tree: &Tree<D>,
    path: &RemotePath,
    mode: UnlockMode,
) -> Result<bool, StoreError> {
    let (dir, name) = tree.parent(path)?;
    let names = PartialNames::of(&name);
    let locked = match open_if_dead(&*dir, &names.file) {
        // its writer lives, or that cannot be known; it is not taken away in the middle of its
        // commit
        Err(Errno::WOULDBLOCK | Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS)
            if mode == UnlockMode::Force =>
        {
            open_to_break(&*dir, &names.file)
        }
        other => other,
    };
    let partial = match locked {
        Ok(file) => file,
        // a partial directory may have lost its lock
        Err(Errno::NOENT) => {
            return remove_partial_dir(tree, &*dir, (name.as_bytes(), &names), path);
        }
        Err(Errno::WOULDBLOCK) => {
            let target = name.as_bytes().to_vec();
            let holder = describe(&*dir, target, &names)
                .map(|entry| entry.holder)
                .unwrap_or_default();
            return Err(StoreError::new(ErrorKind::Locked(holder), path));
        }
        Err(e) => return Err(e).at("open the partial file", path),
    };
    match remove_partial(&*dir, &names, &partial) {
        Err(Errno::AGAIN) => Err(StoreError::new(ErrorKind::Locked(Holder::default()), path)),
        removed => removed.at("remove the partial file", path),
    }?;
    // a writer that lives can put nothing into what was removed; the next one starts from nothing
    remove_partial_dir(tree, &*dir, (name.as_bytes(), &names), path)?;
    Ok(true)
}

/// Removes a partial directory without a lock, which no writer resumes any more. It takes the lock
/// meanwhile: who finds the rest of it, after a crash, may resume that. False if there is none, or
/// another writer has come.
fn remove_partial_dir<D: Directory>(
    tree: &Tree<D>,
    dir: &D,
    (target, names): (&[u8], &PartialNames),
    path: &RemotePath,
) -> Result<bool, StoreError> {
    let found = match dir.stat_at(&names.dir) {
        Err(Errno::NOENT) => return Ok(false),
        found => found.at("stat the partial directory", path)?,
    };
    // after a power loss both names may be there, where the file system has no journal
    match leads_to(dir, target, &found) {
        Ok(false) => {}
        is_published => return is_published.at("stat", path).map(|_| false),
    }
    let lock = match dir.create_at(&names.file, WARY | OFlags::RDWR, PARTIAL_MODE) {
        Err(Errno::EXIST) => return Ok(false),
        made => made.at("lock the partial directory", path)?,
    };
    // without flock(2) its name is all of the lock
    let _ = lock.flock(FlockOperation::NonBlockingLockExclusive);
    let remove = || remove_subdir(dir, &names.dir, path, tree.closed());
    // a writer that has lost its lock by force goes on until its directories are gone
    let is_done = |removed: &Result<(), StoreError>| match removed {
        Err(e) => e.kind != ErrorKind::NotEmpty,
        Ok(()) => true,
    };
    let removed = (0..TRIES).map(|_| remove()).find(is_done).unwrap_or_else(remove);
    remove_partial(dir, names, &lock).at("remove the partial file", path)?;
    removed.map(|()| true)
}

/// Opens and locks a partial file to remove it or to see whether its writer lives: the returned
/// file holds the lock.
///
/// # Errors
/// WOULDBLOCK: its writer lives. NOENT: it is gone, or is no partial file.
fn open_if_dead<D: Directory>(dir: &D, name: &[u8]) -> rustix::io::Result<D::File> {
    let (file, _) = open_existing(dir, name)?;
    file.flock(FlockOperation::NonBlockingLockExclusive)?;
    still_partial(dir, name, file)
}

/// Opens a partial file to take it away from a writer that lives, unless that is committing it.
///
/// # Errors
/// AGAIN: it is being committed. NOENT: it is gone, or is no partial file.
fn open_to_break<D: Directory>(dir: &D, name: &[u8]) -> rustix::io::Result<D::File> {
    let (file, _) = open_existing(dir, name)?;
    exclude_commit(&file)?;
    still_partial(dir, name, file)
}

/// Returns a file that was locked, if the name still leads to it.
fn still_partial<D: Directory>(dir: &D, name: &[u8], file: D::File) -> rustix::io::Result<D::File> {
    let found = file.fstat()?;
    let is_file = FileType::from_raw_mode(found.st_mode).is_file();
    match is_file && leads_to(dir, name, &found)? {
        true => Ok(file),
        false => Err(Errno::NOENT),
    }
}

/// Removes the files of dead writers in a directory that has no others, so that it can be removed.
///
/// # Errors
/// [`ErrorKind::NotEmpty`] if the directory has other entries, or a writer lives; then nothing is
/// removed.
pub(super) fn remove_dead(tree: &Tree, path: &RemotePath) -> Result<(), StoreError> {
    let dir = tree.dir(path)?;
    let not_empty = || StoreError::new(ErrorKind::NotEmpty, path);
    let (mut partials, mut records) = (Vec::new(), Vec::new());
    let (mut replaced, mut dirs) = (Vec::new(), Vec::new());
    for next in read_dir(&dir, path)? {
        let next = next.at("read directory", path)?;
        let name = next.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let count = partials.len().saturating_add(records.len()).saturating_add(dirs.len());
        if count.saturating_add(replaced.len()) >= MAX_DEAD {
            return Err(not_empty());
        } else if let Some((target, names)) = PartialNames::of_dir(name) {
            dirs.push((target.to_vec(), names));
        } else if let Some((_, names)) = PartialNames::of_file(name) {
            partials.push((open_if_dead(&*dir, name).map_err(|_| not_empty())?, names));
        } else if let Some(names) = PartialNames::of_replaced(name) {
            replaced.push(names.replaced);
        } else {
            records.push(PartialNames::of_record(name).ok_or_else(not_empty)?.record);
        }
    }
    for (file, names) in partials {
        remove_partial(&*dir, &names, &file).at("remove an abandoned partial file", path)?;
    }
    for (target, names) in dirs {
        remove_partial_dir(tree, &*dir, (&target, &names), path)?;
    }
    for name in records {
        record::remove(&*dir, &name).at("remove an abandoned record", path)?;
    }
    for name in replaced {
        remove_replaced(&*dir, &name).at("remove an abandoned backup", path)?;
    }
    Ok(())
}
/// Removes, in the whole tree, partial files of writers that died more than `age` ago, and what has
/// expired in a trash. It skips what it cannot read or remove: the next sweep comes.
pub(super) fn sweep(tree: &Tree, age: Duration) -> Swept {
    let mut swept = Swept::default();
    sweep_dir(tree, tree.root(), (age, 0), &mut swept);
    swept
}

fn count(swept: &mut Swept, removed: bool) {
    swept.partial = swept.partial.saturating_add(usize::from(removed));
}

fn sweep_dir(tree: &Tree, dir: &Dir, (age, depth): (Duration, usize), swept: &mut Swept) {
    let root = RemotePath::root();
    let Ok(stream) = read_dir(dir, &root) else {
        return;
    };
    for entry in stream.flatten() {
        let bytes = entry.file_name().to_bytes();
        if let Some(names) = PartialNames::of_record(bytes) {
            count(swept, sweep_record(dir, &names, age));
        } else if let Some(names) = PartialNames::of_replaced(bytes) {
            count(swept, sweep_replaced(dir, &names));
        } else if let Some((_, names)) = PartialNames::of_file(bytes) {
            count(swept, sweep_file(dir, &names, age));
        } else if let Some((target, names)) = PartialNames::of_dir(bytes) {
            count(swept, sweep_partial_dir(tree, dir, (target, &names), age));
        } else if is_trash(bytes) {
            let emptied = empty(dir, tree.closed(), EmptyScope::Expired, BATCHES);
            let removed = emptied.map_or(0, |emptied| emptied.removed);
            swept.trashed = swept.trashed.saturating_add(removed);
        } else if matches!(entry.file_type(), FileType::Directory | FileType::Unknown)
            && depth < MAX_DEPTH
            && let Ok(name) = Name::parse(bytes)
            && let Ok(inner) = open_subdir(dir, &name, &root)
        {
            sweep_dir(tree, &inner, (age, depth.saturating_add(1)), swept);
        }
    }
}

fn sweep_file(dir: &Dir, names: &PartialNames, age: Duration) -> bool {
    let Ok(fd) = open_if_dead(dir, &names.file) else {
        return false;
    };
    let old = fd.fstat().ok().and_then(|stat| age_of(&stat)).is_some_and(|a| a >= age);
    old && remove_partial(dir, names, &fd).is_ok()
}

/// Removes a record without its partial file: its writer died between the commit and the removal.
fn sweep_record(dir: &Dir, names: &PartialNames, age: Duration) -> bool {
    is_alone(dir, names, &names.record, age) && record::remove(dir, &names.record).is_ok()
}

/// Removes a partial directory without its lock, which was swept or taken away.
fn sweep_partial_dir(
    tree: &Tree,
    dir: &Dir,
    (target, names): (&[u8], &PartialNames),
    age: Duration,
) -> bool {
    let removed = || remove_partial_dir(tree, dir, (target, names), &RemotePath::root());
    is_alone(dir, names, &names.dir, age) && removed().unwrap_or(false)
}

/// True of what is beside a target, is old, and has no partial file.
fn is_alone(dir: &Dir, names: &PartialNames, name: &[u8], age: Duration) -> bool {
    let is_old = |stat: rustix::fs::Stat| age_of(&stat).is_some_and(|a| a >= age);
    dir.stat_at(name).is_ok_and(is_old) && matches!(dir.stat_at(&names.file), Err(Errno::NOENT))
}

/// Removes the second name of a replaced file, whose writer died before that became its backup.
fn sweep_replaced(dir: &Dir, names: &PartialNames) -> bool {
    let alone = matches!(dir.stat_at(&names.file), Err(Errno::NOENT));
    alone && remove_replaced(dir, &names.replaced).is_ok()
}
