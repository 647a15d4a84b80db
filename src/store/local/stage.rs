//! Files that arrive in parts: the staging file, its record, and the commit.

use super::direct::Direct;
use super::lock::{Found, Lock};
use super::look::{mtime, stat, version};
use super::record::{self, RecordFile};
use super::system::is_in_memory;
use super::tree::{Tree, lock, remove_file, retry, sync_dir};
use crate::store::error::At;
use crate::store::{
    Attributes, Bytes, Checkpoint, ErrorKind, Keeper, Left, Name, PartRules, RemotePath, StageRequest, Staging,
    StoreError, Time,
};
use async_trait::async_trait;
use cap_std::fs::Dir;
use rustix::fs::{AtFlags, Mode, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::SemaphorePermit;

/// The bits of a mode that a file takes over.
pub(super) const FILE_MODE: u32 = 0o777;

/// Chunks that wait for a missing one before they are written without it: file systems on disks like to be written in order, and
/// where the connections are alike the missing one comes soon. In memory each is written at once, while it is in a processor's cache.
const HELD: usize = 8;

/// The mode of a staging file whose content arrives in parts: nobody else's to read before it is complete.
const STAGED_MODE: u32 = 0o600;

/// Refuses when the target is not the version that the writer named; `none` names its absence.
pub(super) fn check_version(tree: &Tree, path: &RemotePath, wanted: Option<&str>) -> Result<(), StoreError> {
    let Some(wanted) = wanted else { return Ok(()) };
    let found = match stat(tree, path) {
        Ok(entry) => entry.version.to_string(),
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

/// Time and mode of an open file that has mode `has`, in an order that keeps the time.
pub(super) fn set_open(
    file: &impl AsFd,
    attributes: Attributes,
    (has, mode): (u32, u32),
    path: &RemotePath,
) -> Result<(), StoreError> {
    if has != mode {
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).at("set the mode", path)?;
    }
    rustix::fs::futimens(file, &timestamps(attributes.mtime)).at("set the time", path)
}

/// Locks a target for a file that arrives in parts; takes over what an earlier writer of the same source left.
/// `open` is its share of what may be open.
pub(super) fn stage(
    tree: &Arc<Tree>,
    path: &RemotePath,
    request: &StageRequest,
    open: Option<SemaphorePermit<'static>>,
) -> Result<LocalStaging, StoreError> {
    let (dir, name) = tree.parent(path)?;
    refuse_directory(&dir, &name, path)?;
    let held = Lock::acquire(&dir, &name, path, &request.who, Found::Kept, STAGED_MODE)?;
    let source = request.source.clone().filter(|_| request.durable);
    let found = match held.left {
        0 => None,
        _ => record::read(&dir, &held.names.record),
    };
    let left = match (&source, &found) {
        (Some(source), Some(found)) if found.offset > 0 && found.offset <= held.left => {
            match (found.source.as_ref() == Some(source), found.checkpoint()) {
                (true, Some(point)) => Left::Part(point),
                (true, None) => Left::Nothing,
                (false, _) => Left::Other(found.offset),
            }
        }
        _ => Left::Nothing,
    };
    let kept = match &left {
        Left::Part(point) => point.offset,
        _ => 0,
    };
    if held.left > kept {
        rustix::fs::ftruncate(&held.file, kept).at("empty the staging file", path)?;
    }
    held.progress.set(kept, kept);
    // where it cannot be written, on a full disk above all, the file can do without
    let record = held.record(&dir, source, found.filter(|_| kept > 0)).ok();
    let staging = LocalStaging {
        tree: tree.clone(),
        path: path.clone(),
        request: request.clone(),
        dir,
        name,
        in_memory: is_in_memory(&held.file),
        lock: Arc::new(held),
        direct: request.durable.then(Arc::default),
        left,
        record: Arc::new(Mutex::new(record)),
        generation: Arc::default(),
        named: Arc::default(),
        _open: open,
    };
    check_version(tree, path, request.if_version.as_deref())?;
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
    /// None where it does not have to reach the disk.
    direct: Option<Arc<Direct>>,
    /// See [`is_in_memory`].
    in_memory: bool,
    left: Left,
    record: Arc<Mutex<Option<RecordFile>>>,
    /// Counts restarts: what was to be kept of the time before one is not.
    generation: Arc<AtomicU64>,
    /// The names of staging file and record are durable.
    named: Arc<AtomicBool>,
    _open: Option<SemaphorePermit<'static>>,
}

impl Drop for LocalStaging {
    /// What is durable stays for the next writer to take over; anything else is no use to anybody.
    fn drop(&mut self) {
        // whoever else has the lock is a keeper at work
        let keeping = Arc::strong_count(&self.lock) > 1;
        if !keeping && self.lock.progress.kept.load(Ordering::Relaxed) == 0 {
            self.remove();
        }
    }
}

/// Keeps what a [`LocalStaging`] has written. It holds the lock as well.
struct LocalKeeper {
    path: RemotePath,
    dir: Arc<Dir>,
    lock: Arc<Lock>,
    record: Arc<Mutex<Option<RecordFile>>>,
    generation: Arc<AtomicU64>,
    of: u64,
    named: Arc<AtomicBool>,
}

impl LocalKeeper {
    fn keep_now(&self, point: &Checkpoint) -> Result<(), StoreError> {
        let path = &self.path;
        rustix::fs::fdatasync(&self.lock.file).at("fsync", path)?;
        let mut record = lock(&self.record);
        if self.generation.load(Ordering::Relaxed) != self.of {
            return Ok(());
        }
        let Some(open) = record.as_mut() else { return Ok(()) };
        if open.keep(point).is_err() {
            // the data is safe, only the next writer will not know: no reason to fail the file
            *record = None;
            return Ok(());
        }
        if !self.named.swap(true, Ordering::Relaxed) {
            sync_dir(&self.dir, path)?;
        }
        self.lock.progress.kept.store(point.offset, Ordering::Relaxed);
        Ok(())
    }
}

#[async_trait]
impl Keeper for LocalKeeper {
    async fn keep(&self, point: Checkpoint) -> Result<(), StoreError> {
        let keeper = LocalKeeper {
            path: self.path.clone(),
            dir: self.dir.clone(),
            lock: self.lock.clone(),
            record: self.record.clone(),
            generation: self.generation.clone(),
            of: self.of,
            named: self.named.clone(),
        };
        super::blocking(move || keeper.keep_now(&point)).await
    }
}

/// Writes parts that belong at `offset`, without their first `written` bytes.
fn write(held: &Lock, mut written: usize, offset: u64, parts: &[Bytes]) -> std::io::Result<()> {
    let mut at = offset.saturating_add(written as u64);
    for part in parts {
        let bytes = (**part).as_ref();
        let here = written.min(bytes.len());
        written = written.saturating_sub(here);
        let rest = bytes.get(here..).unwrap_or_default();
        held.file.write_all_at(rest, at)?;
        at = at.saturating_add(rest.len() as u64);
    }
    held.progress.written.fetch_max(at, Ordering::Relaxed);
    Ok(())
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
        set_open(
            file,
            attributes,
            (staged.st_mode & 0o7777, attributes.mode & FILE_MODE),
            path,
        )?;
        if self.request.durable {
            rustix::fs::fsync(file).at("fsync", path)?;
        }
        check_version(&self.tree, path, self.request.if_version.as_deref())?;
        if !self.lock.still_held(&self.dir) {
            return Err(lost_lock(path));
        }
        // before the rename: after it the name is free, and the record could be another writer's
        let _ = remove_file(&self.dir, &self.lock.names.record);
        rename(&self.dir, &self.lock.names.file, &self.name, path)?;
        if self.request.durable {
            sync_dir(&self.dir, path)?;
            self.tree.sync()?;
        }
        committed_version(file, path)
    }
}

pub(super) fn lost_lock(path: &RemotePath) -> StoreError {
    StoreError::new(
        ErrorKind::Locked(crate::store::Holder {
            who: "another writer, who took the lock over".into(),
            ..Default::default()
        }),
        path,
    )
}

pub(super) fn rename(dir: &Dir, staged: &[u8], name: &Name, path: &RemotePath) -> Result<(), StoreError> {
    retry(|| rustix::fs::renameat(dir, staged, dir, name.as_bytes())).at("rename the staging file", path)
}

pub(super) fn committed_version(file: &File, path: &RemotePath) -> Result<String, StoreError> {
    Ok(version(&rustix::fs::fstat(file).at("stat", path)?).to_string())
}

#[async_trait]
impl Staging for LocalStaging {
    fn part_rules(&self) -> PartRules {
        PartRules {
            least: 1,
            most: 4 << 20,
            held: Some(if self.in_memory { 1 } else { HELD }),
        }
    }

    async fn write(&mut self, offset: u64, parts: Vec<Bytes>) -> Result<(), StoreError> {
        let (lock, path) = (self.lock.clone(), self.path.clone());
        if self.in_memory {
            return write(&lock, 0, offset, &parts).at("write", &path);
        }
        let (direct, dir) = (self.direct.clone(), self.dir.clone());
        super::blocking(move || {
            let written = match direct {
                Some(direct) => direct.write(&lock, &dir, offset, &parts),
                None => Ok(0),
            };
            let written = written.at("write", &path)?;
            write(&lock, written, offset, &parts).at("write", &path)
        })
        .await
    }

    fn left(&self) -> Left {
        self.left.clone()
    }

    fn keeper(&self) -> Option<Arc<dyn Keeper>> {
        if self.request.source.is_none() || !self.request.durable || lock(&self.record).is_none() {
            return None;
        }
        Some(Arc::new(LocalKeeper {
            path: self.path.clone(),
            dir: self.dir.clone(),
            lock: self.lock.clone(),
            record: self.record.clone(),
            generation: self.generation.clone(),
            of: self.generation.load(Ordering::Relaxed),
            named: self.named.clone(),
        }))
    }

    async fn restart(&mut self, source: Option<String>) -> Result<(), StoreError> {
        let (held, record, generation) = (self.lock.clone(), self.record.clone(), self.generation.clone());
        let path = self.path.clone();
        self.request.source = source.clone();
        self.left = Left::Nothing;
        super::blocking(move || {
            let mut record = lock(&record);
            generation.fetch_add(1, Ordering::Relaxed);
            // first the record: it must not speak of bytes that are gone
            if record.as_mut().is_some_and(|open| open.restart(source).is_err()) {
                *record = None;
            }
            held.progress.set(0, 0);
            held.file.set_len(0).at("empty the staging file", &path)
        })
        .await
    }

    async fn commit(self: Box<Self>, size: u64, attributes: Attributes) -> Result<String, StoreError> {
        super::blocking(move || self.commit_now(size, attributes).inspect_err(|_| self.remove())).await
    }

    async fn discard(self: Box<Self>) {
        super::blocking(move || self.remove()).await;
    }
}

/// Time and mode of an existing file or directory. Set-uid and set-gid bits stay as the target has them. What is as it should
/// be is not touched: its change time stays, too.
pub(super) fn set_attributes(tree: &Tree, path: &RemotePath, attributes: Attributes) -> Result<(), StoreError> {
    use rustix::fs::{FileType, OFlags};
    let wanted = |found: &Stat| {
        let sticky = match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => 0o1000,
            _ => 0,
        };
        (found.st_mode & 0o6000) | (attributes.mode & (FILE_MODE | sticky))
    };
    let is_right = |found: &Stat| mtime(found) == attributes.mtime && found.st_mode & 0o7777 == wanted(found);
    let set = |fd: BorrowedFd<'_>| match rustix::fs::fstat(fd).at("stat", path)? {
        found if is_right(&found) => Ok(()),
        found => set_open(&fd, attributes, (found.st_mode & 0o7777, wanted(&found)), path),
    };
    if path.is_root() {
        return set(tree.root().as_fd());
    }
    let (dir, name) = tree.parent(path)?;
    let found = rustix::fs::statat(&dir, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW).at("stat", path)?;
    if !FileType::from_raw_mode(found.st_mode).is_symlink() && is_right(&found) {
        return Ok(());
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match super::tree::open_in(&dir, name.as_bytes(), flags | OFlags::RDONLY) {
        Err(Errno::ACCESS) => super::tree::open_in(&dir, name.as_bytes(), flags | OFlags::WRONLY),
        other => other,
    };
    set(fd.at("open", path)?.as_fd())
}
