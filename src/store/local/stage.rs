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
use std::os::fd::{AsFd, BorrowedFd};
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

impl Drop for LocalStaging {
    /// What arrived stays for the next writer to take over; a staging file into which nothing came is no use to anybody.
    fn drop(&mut self) {
        if self.lock.progress.written.load(Ordering::Relaxed) == 0 {
            self.remove();
        }
    }
}

impl LocalStaging {
    fn remove(&self) {
        self.lock.discard(&self.dir);
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

/// An entry of a group, staged and locked.
struct Member {
    index: usize,
    dir: Arc<Dir>,
    name: Name,
    lock: Lock,
}

/// What is renamed to the entry's name. A symlink cannot be locked: it is staged beside the lock, under the name of the
/// record that files have.
fn staged_name<'a>(entry: &NewEntry, lock: &'a Lock) -> &'a [u8] {
    match entry.content {
        Content::File(_) => &lock.names.file,
        Content::Link(_) => &lock.names.record,
    }
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
            Ok((dir, name, lock)) => {
                members.push(Member { index, dir, name, lock });
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
        if let (true, Some((parent, _))) = (committed.is_ok(), entry.path.split()) {
            let touched = parents
                .entry(parent)
                .or_insert_with(|| (member.dir.clone(), Vec::new()));
            touched.1.push(member.index);
        }
        // of a committed file the name is gone; of a symlink, and of what failed, the lock is still there
        if committed.is_err() || matches!(entry.content, Content::Link(_)) {
            member.lock.discard(&member.dir);
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

fn stage_whole(tree: &Tree, entry: &NewEntry, who: &str) -> Result<(Arc<Dir>, Name, Lock), StoreError> {
    let path = &entry.path;
    let (dir, name) = tree.parent(path)?;
    let lock = Lock::acquire(&dir, &name, path, who)?;
    let filled = match &entry.content {
        Content::File(bytes) => fill(&lock, (**bytes).as_ref(), entry),
        Content::Link(target) => link(&dir, &lock.names.record, target, entry),
    };
    match filled {
        Ok(()) => Ok((dir, name, lock)),
        Err(e) => {
            lock.discard(&dir);
            Err(e)
        }
    }
}

fn link(dir: &Dir, staged: &[u8], target: &[u8], entry: &NewEntry) -> Result<(), StoreError> {
    let path = &entry.path;
    remove(dir, staged).at("remove a dead staging file", path)?;
    retry(|| rustix::fs::symlinkat(target, dir, staged)).at("create the symlink", path)?;
    let time = timestamps(entry.attributes.mtime);
    rustix::fs::utimensat(dir, staged, &time, AtFlags::SYMLINK_NOFOLLOW).at("set the time", path)
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
    let (path, lock) = (&entry.path, &member.lock);
    let is_file = matches!(entry.content, Content::File(_));
    if durable && is_file {
        rustix::fs::fsync(&lock.file).at("fsync", path)?;
    }
    check_version(tree, path, entry.if_version.as_deref())?;
    if !lock.still_held(&member.dir) {
        return Err(lost_lock(path));
    }
    rename(&member.dir, staged_name(entry, lock), &member.name, path)?;
    if is_file {
        committed_version(&lock.file, path)
    } else {
        Ok(stat(tree, path)?.version)
    }
}

/// Time and mode of an existing file or directory. Set-uid and set-gid bits stay as the target has them.
pub(super) fn set_attributes(tree: &Tree, path: &RemotePath, attributes: Attributes) -> Result<(), StoreError> {
    use rustix::fs::OFlags;
    let set = |fd: BorrowedFd<'_>| -> Result<(), StoreError> {
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
        return set(tree.root().as_fd());
    }
    let (dir, name) = tree.parent(path)?;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match super::tree::open_in(&dir, name.as_bytes(), flags | OFlags::RDONLY) {
        Err(Errno::ACCESS) => super::tree::open_in(&dir, name.as_bytes(), flags | OFlags::WRONLY),
        other => other,
    };
    set(fd.at("open", path)?.as_fd())
}
