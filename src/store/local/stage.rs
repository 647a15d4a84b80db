//! Writing: staging files, whole small files in groups, and the commit of both.

use super::lock::{Lock, remove};
use super::look::{stat, version};
use super::tree::{Tree, retry, sync_dir};
use crate::store::error::At;
use crate::store::{
    Attributes, Bytes, Content, ErrorKind, Name, NewEntry, RemotePath, StageRequest, Staging, StoreError, Time,
};
use async_trait::async_trait;
use cap_std::fs::Dir;
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The bits of a mode that a file takes over.
const FILE_MODE: u32 = 0o777;

/// Refuses when the target is not the version that the writer named; `none` names its absence.
fn check_version(tree: &Tree, path: &RemotePath, wanted: Option<&str>) -> Result<(), StoreError> {
    let Some(wanted) = wanted else { return Ok(()) };
    let found = match stat(tree, path) {
        Ok(entry) => entry.version,
        Err(e) if e.kind == ErrorKind::NotFound => "none".into(),
        Err(e) => return Err(e),
    };
    if found == wanted {
        Ok(())
    } else {
        Err(StoreError::new(ErrorKind::VersionChanged, path))
    }
}

/// utimensat's argument for a modification time; the access time stays.
pub(super) fn timestamps(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.secs,
            tv_nsec: i64::from(mtime.nanos),
        },
    }
}

/// Time and mode of an open file, in an order that keeps the time.
fn set_open(file: &impl AsFd, attributes: Attributes, mode: u32, path: &RemotePath) -> Result<(), StoreError> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).at("set the mode", path)?;
    rustix::fs::futimens(file, &timestamps(attributes.mtime)).at("set the time", path)
}

/// Locks a target for a file that arrives in parts.
pub(super) fn stage(tree: &Arc<Tree>, path: &RemotePath, request: &StageRequest) -> Result<LocalStaging, StoreError> {
    let (dir, name) = tree.parent(path)?;
    refuse_directory(&dir, &name, path)?;
    let lock = Lock::acquire(&dir, &name, path, &request.who)?;
    lock.describe(&dir);
    let staging = LocalStaging {
        tree: tree.clone(),
        path: path.clone(),
        request: request.clone(),
        dir,
        name,
        lock: Arc::new(lock),
    };
    check_version(tree, path, request.if_version.as_deref()).inspect_err(|_| staging.remove())?;
    Ok(staging)
}

/// A directory in the way is known before any byte is written, not only when the rename fails.
fn refuse_directory(dir: &Dir, name: &Name, path: &RemotePath) -> Result<(), StoreError> {
    match rustix::fs::statat(dir, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir() => {
            Err(StoreError::new(ErrorKind::IsADirectory, path))
        }
        _ => Ok(()),
    }
}

/// The staging file of a [`super::LocalStore`].
pub(super) struct LocalStaging {
    tree: Arc<Tree>,
    path: RemotePath,
    request: StageRequest,
    dir: Arc<Dir>,
    name: Name,
    lock: Arc<Lock>,
}

impl LocalStaging {
    fn remove(&self) {
        if self.lock.still_held(&self.dir) {
            let _ = remove(&self.dir, &self.lock.names.record);
            let _ = remove(&self.dir, &self.lock.names.file);
        }
    }

    fn commit_now(&self, size: u64, attributes: Attributes) -> Result<String, StoreError> {
        let path = &self.path;
        let file = &self.lock.file;
        let staged = rustix::fs::fstat(file).at("stat the staging file", path)?;
        if u64::try_from(staged.st_size) != Ok(size) {
            return Err(StoreError::new(ErrorKind::SourceChanged, path));
        }
        set_open(file, attributes, attributes.mode & FILE_MODE, path)?;
        if self.request.durable {
            rustix::fs::fsync(file).at("fsync", path)?;
        }
        check_version(&self.tree, path, self.request.if_version.as_deref())?;
        if !self.lock.still_held(&self.dir) {
            return Err(lost_lock(path));
        }
        rename(&self.dir, &self.lock.names.file, &self.name, path)?;
        let _ = remove(&self.dir, &self.lock.names.record);
        if self.request.durable {
            sync_dir(&self.dir, path)?;
            self.tree.sync()?;
        }
        committed_version(file, path)
    }
}

fn lost_lock(path: &RemotePath) -> StoreError {
    StoreError::new(
        ErrorKind::Locked(crate::store::Holder {
            who: "another writer, who took the lock over".into(),
            ..Default::default()
        }),
        path,
    )
}

fn rename(dir: &Dir, staged: &[u8], name: &Name, path: &RemotePath) -> Result<(), StoreError> {
    retry(|| rustix::fs::renameat(dir, staged, dir, name.as_bytes())).at("rename the staging file", path)
}

fn committed_version(file: &File, path: &RemotePath) -> Result<String, StoreError> {
    Ok(version(&rustix::fs::fstat(file).at("stat", path)?))
}

#[async_trait]
impl Staging for LocalStaging {
    async fn write(&mut self, offset: u64, parts: Vec<Bytes>) -> Result<(), StoreError> {
        let (lock, path) = (self.lock.clone(), self.path.clone());
        super::blocking(move || {
            let mut at = offset;
            for part in &parts {
                let bytes = (**part).as_ref();
                lock.file.write_all_at(bytes, at).at("write", &path)?;
                at = at.saturating_add(bytes.len() as u64);
            }
            lock.progress.written.store(at, Ordering::Relaxed);
            Ok(())
        })
        .await
    }

    async fn restart(&mut self) -> Result<(), StoreError> {
        self.lock.progress.written.store(0, Ordering::Relaxed);
        self.lock.file.set_len(0).at("empty the staging file", &self.path)
    }

    async fn commit(self: Box<Self>, size: u64, attributes: Attributes) -> Result<String, StoreError> {
        super::blocking(move || self.commit_now(size, attributes).inspect_err(|_| self.remove())).await
    }

    async fn discard(self: Box<Self>) {
        super::blocking(move || self.remove()).await;
    }
}

/// An entry of a group, as far as it has come.
enum Staged {
    File(Lock),
    Link(Vec<u8>),
}

struct Member {
    index: usize,
    dir: Arc<Dir>,
    name: Name,
    staged: Staged,
}

/// Stages, syncs, renames a group of small entries; then syncs each of their directories once.
pub(super) fn put_whole(
    tree: &Tree,
    entries: &[NewEntry],
    who: &str,
    durable: bool,
) -> Vec<Result<String, StoreError>> {
    let mut results: Vec<Result<String, StoreError>> = Vec::with_capacity(entries.len());
    let mut members = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        match stage_whole(tree, entry, who) {
            Ok((dir, name, staged)) => {
                members.push(Member {
                    index,
                    dir,
                    name,
                    staged,
                });
                results.push(Ok(String::new()));
            }
            Err(e) => results.push(Err(e)),
        }
    }
    let mut parents: BTreeMap<RemotePath, (Arc<Dir>, Vec<usize>)> = BTreeMap::new();
    for member in members {
        let Some(entry) = entries.get(member.index) else {
            continue;
        };
        let committed = commit_whole(tree, entry, &member, durable);
        if committed.is_err() {
            match member.staged {
                Staged::File(lock) => lock.discard(&member.dir),
                Staged::Link(staged) => drop(remove(&member.dir, &staged)),
            }
        } else if let Some((parent, _)) = entry.path.split() {
            let touched = parents
                .entry(parent)
                .or_insert_with(|| (member.dir.clone(), Vec::new()));
            touched.1.push(member.index);
        }
        if let Some(slot) = results.get_mut(member.index) {
            *slot = committed;
        }
    }
    if durable {
        let made = tree.sync();
        for (path, (dir, indices)) in parents {
            if let Err(e) = made.clone().and_then(|()| sync_dir(&dir, &path)) {
                for index in indices {
                    if let Some(slot) = results.get_mut(index) {
                        *slot = Err(e.clone());
                    }
                }
            }
        }
    }
    results
}

fn stage_whole(tree: &Tree, entry: &NewEntry, who: &str) -> Result<(Arc<Dir>, Name, Staged), StoreError> {
    let path = &entry.path;
    let (dir, name) = tree.parent(path)?;
    let lock = Lock::acquire(&dir, &name, path, who)?;
    let filled = match &entry.content {
        Content::File(bytes) => fill(&lock, (**bytes).as_ref(), entry),
        Content::Link(_) => Ok(()),
    };
    if let Err(e) = filled {
        lock.discard(&dir);
        return Err(e);
    }
    let Content::Link(target) = &entry.content else {
        return Ok((dir, name, Staged::File(lock)));
    };
    // A symlink cannot be locked. The lock was taken as for a file, so no live writer is at work; from here on
    // the symlink under the staging name keeps others from making theirs.
    let staged = lock.names.file.clone();
    lock.discard(&dir);
    retry(|| rustix::fs::symlinkat(&target[..], &*dir, &staged[..])).at("create the symlink", path)?;
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let timed = rustix::fs::utimensat(&*dir, &staged[..], &timestamps(entry.attributes.mtime), flags);
    if let Err(e) = timed.at("set the time", path) {
        let _ = remove(&dir, &staged);
        return Err(e);
    }
    Ok((dir, name, Staged::Link(staged)))
}

fn fill(lock: &Lock, bytes: &[u8], entry: &NewEntry) -> Result<(), StoreError> {
    if !bytes.is_empty() {
        lock.file.write_all_at(bytes, 0).at("write", &entry.path)?;
    }
    set_open(
        &lock.file,
        entry.attributes,
        entry.attributes.mode & FILE_MODE,
        &entry.path,
    )
}

fn commit_whole(tree: &Tree, entry: &NewEntry, member: &Member, durable: bool) -> Result<String, StoreError> {
    let path = &entry.path;
    let staged = match &member.staged {
        Staged::File(lock) => {
            if durable {
                rustix::fs::fsync(&lock.file).at("fsync", path)?;
            }
            if !lock.still_held(&member.dir) {
                return Err(lost_lock(path));
            }
            &lock.names.file
        }
        Staged::Link(staged) => staged,
    };
    check_version(tree, path, entry.if_version.as_deref())?;
    rename(&member.dir, staged, &member.name, path)?;
    match &member.staged {
        Staged::File(lock) => committed_version(&lock.file, path),
        Staged::Link(_) => Ok(stat(tree, path)?.version),
    }
}

/// Time and mode of an existing file or directory. Set-uid and set-gid bits stay as the target has them.
pub(super) fn set_attributes(tree: &Tree, path: &RemotePath, attributes: Attributes) -> Result<(), StoreError> {
    use rustix::fs::OFlags;
    let set = |fd: &dyn AsFdDyn| -> Result<(), StoreError> {
        let fd = fd.fd();
        let found = rustix::fs::fstat(fd).at("stat", path)?;
        let kept = found.st_mode & 0o6000;
        let sticky = if rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir() {
            0o1000
        } else {
            0
        };
        set_open(&fd, attributes, kept | (attributes.mode & (FILE_MODE | sticky)), path)
    };
    if path.is_root() {
        return set(tree.root());
    }
    let (dir, name) = tree.parent(path)?;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match super::tree::open_in(&dir, name.as_bytes(), flags | OFlags::RDONLY) {
        Err(Errno::ACCESS) => super::tree::open_in(&dir, name.as_bytes(), flags | OFlags::WRONLY),
        other => other,
    };
    set(&fd.at("open", path)?)
}

/// `AsFd` as an object, so that one closure serves a directory handle and a descriptor.
trait AsFdDyn {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: AsFd> AsFdDyn for T {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}
