//! Files that arrive in parts: the staging file, its record, and the commit.

use super::commit::{Staged, check_version, committed_version, mode_before, publish, set_open, settle, sync_names};
use super::direct::Direct;
use super::lock::{Lock, obstacle};
use super::record::{self, RecordFile};
use super::sparse;
use super::sys::{Directory, Node, OpenFile};
use super::tree::{Tree, sync_dir};
use crate::store::error::At;
use crate::store::local::fs_type::is_in_memory;
use crate::store::local::stat::mtime;
use crate::store::shares::Share;
use crate::store::{
    Allocation, Attributes, Bytes, Checkpoint, Checkpointer, ErrorKind, Name, PartRules, RemotePath, Resume,
    StageRequest, Staging, StoreError,
};
use async_trait::async_trait;
use cap_std::fs::Dir;
use parking_lot::Mutex;
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Chunks that wait for a missing one before they are written without it: file systems on disks like to be written in order, and
/// where the connections are alike the missing one comes soon. In memory each is written at once, while it is in a processor's cache.
const HELD: usize = 8;

/// Locks a target for a file that arrives in parts; takes over what an earlier writer of the same source left.
/// `open` is its share of what may be open.
pub(super) fn stage<D: Directory>(
    tree: &Arc<Tree<D>>,
    path: &RemotePath,
    request: &StageRequest,
    open: Option<Share>,
) -> Result<LocalStaging<D>, StoreError> {
    let (dir, name) = tree.parent(path)?;
    refuse_directory(&*dir, &name, path)?;
    let source = request.source.clone().filter(|_| request.durability.is_durable());
    let lock = Lock::acquire(&*dir, &name, path, &request.who, source.as_deref())?;
    let left = lock.left.clone();
    let kept = match &left {
        Resume::From(point) => point.offset,
        _ => 0,
    };
    if lock.size > kept {
        lock.file.ftruncate(kept).at("empty the staging file", path)?;
    }
    lock.progress.set(kept, kept);
    // where it cannot be written, on a full disk above all, the file can do without
    let record = match lock.record(&*dir, source) {
        Err(Errno::ISDIR | Errno::EXIST) => return Err(obstacle(&lock.names.record, path)),
        other => other.ok(),
    };
    let staged = PartialFile {
        path: path.clone(),
        in_memory: is_in_memory(&lock.file),
        direct: request.durability.is_durable().then(Direct::new),
        dir,
        name,
        lock,
        record: Mutex::new(record),
        generation: AtomicU64::new(0),
        named: AtomicBool::new(false),
        sync_failed: Mutex::new(false),
        _open: open,
    };
    check_version(tree, path, request.if_version.as_deref())?;
    Ok(LocalStaging {
        tree: tree.clone(),
        request: request.clone(),
        staged: Arc::new(staged),
        left,
        allocation: Allocation::default(),
    })
}

/// A directory in the way is known before any byte is written, not only when the rename fails.
fn refuse_directory(dir: &impl Directory, name: &Name, path: &RemotePath) -> Result<(), StoreError> {
    match dir.stat_at(name.as_bytes()) {
        Ok(found) if FileType::from_raw_mode(found.st_mode).is_dir() => {
            Err(StoreError::new(ErrorKind::IsADirectory, path))
        }
        _ => Ok(()),
    }
}

/// The staging file, with what its writer and its keepers share.
struct PartialFile<D: Directory> {
    path: RemotePath,
    dir: Arc<D>,
    name: Name,
    lock: Lock<D::File>,
    /// None where it does not have to reach the disk.
    direct: Option<Direct<D::File>>,
    /// See [`is_in_memory`].
    in_memory: bool,
    record: Mutex<Option<RecordFile<D::File>>>,
    /// Counts restarts: what was to be kept of the time before one is not.
    generation: AtomicU64,
    /// The names of staging file and record are durable.
    named: AtomicBool,
    /// An fsync has failed. Held during each: the system tells one caller of an error, and must not tell the other of success.
    sync_failed: Mutex<bool>,
    _open: Option<Share>,
}

impl<D: Directory> Drop for PartialFile<D> {
    /// What is durable stays for the next writer to take over; anything else is no use to anybody.
    fn drop(&mut self) {
        match self.lock.progress.kept.load(Ordering::Relaxed) {
            0 => self.remove(),
            // room for others; a file that was committed is not touched
            kept if self.lock.still_held(&*self.dir) => drop(self.lock.file.ftruncate(kept)),
            _ => {}
        }
    }
}

impl<D: Directory> PartialFile<D> {
    fn remove(&self) {
        self.lock.discard(&*self.dir);
    }

    /// fsync or fdatasync, unless one has failed before: what that was about is lost, whatever a later one says.
    fn sync(&self, call: impl FnOnce(&D::File) -> rustix::io::Result<()>) -> Result<(), StoreError> {
        let mut failed = self.sync_failed.lock();
        if *failed {
            return Err(StoreError::because("an fsync of it has failed before", &self.path));
        }
        let synced = call(&self.lock.file);
        *failed = synced.is_err();
        synced.at("fsync", &self.path)
    }

    /// Makes leading bytes durable, and then the record that says so; unless the file was begun anew since `generation`.
    fn keep(&self, point: &Checkpoint, generation: u64) -> Result<(), StoreError> {
        let path = &self.path;
        self.sync(OpenFile::fdatasync)?;
        let mut record = self.record.lock();
        if self.generation.load(Ordering::Relaxed) != generation {
            return Ok(());
        }
        let Some(open) = record.as_mut() else { return Ok(()) };
        // before the record says anything: beside a name that is not durable it could be found with another file
        if !self.named.swap(true, Ordering::Relaxed) {
            sync_dir(&*self.dir, path)?;
        }
        if open.keep(point).is_err() {
            // the data is safe, only the next writer will not know: no reason to fail the file
            *record = None;
            return Ok(());
        }
        self.lock.progress.kept.store(point.offset, Ordering::Relaxed);
        Ok(())
    }

    fn write(&self, offset: u64, parts: &[Bytes], allocation: Allocation) -> Result<(), StoreError> {
        match allocation {
            Allocation::Dense => self.write_dense(offset, parts),
            Allocation::Sparse => self.write_sparse(offset, parts),
        }
    }

    /// Writes parts, but for the blocks of zeros in them.
    fn write_sparse(&self, offset: u64, parts: &[Bytes]) -> Result<(), StoreError> {
        let mut at = offset;
        for part in parts {
            let bytes = (**part).as_ref();
            match sparse::has_zero_block(bytes) {
                false => self.write_dense(at, std::slice::from_ref(part))?,
                true => sparse::write(&self.lock.file, bytes, at).at("write", &self.path)?,
            }
            at = at.saturating_add(bytes.len() as u64);
        }
        self.lock.progress.written.fetch_max(at, Ordering::Relaxed);
        Ok(())
    }

    /// The file reaches to `end`, with a hole where nothing was written.
    fn extend(&self, end: u64) -> Result<(), StoreError> {
        sparse::extend(&self.lock.file, end).at("extend", &self.path)?;
        self.lock.progress.written.fetch_max(end, Ordering::Relaxed);
        Ok(())
    }

    /// Writes parts, past the page cache where that serves.
    fn write_dense(&self, offset: u64, parts: &[Bytes]) -> Result<(), StoreError> {
        let written = match &self.direct {
            Some(direct) if !self.in_memory => direct.write(&self.lock, &*self.dir, offset, parts),
            _ => Ok(0),
        };
        let written = written.and_then(|written| self.write_cached(written, offset, parts));
        written.at("write", &self.path)
    }

    /// Writes parts that belong at `offset`, without their first `written` bytes.
    fn write_cached(&self, mut written: usize, offset: u64, parts: &[Bytes]) -> rustix::io::Result<()> {
        let mut at = offset.saturating_add(written as u64);
        for part in parts {
            let bytes = (**part).as_ref();
            let here = written.min(bytes.len());
            written = written.saturating_sub(here);
            let rest = bytes.get(here..).unwrap_or_default();
            self.lock.file.pwrite_all(rest, at)?;
            at = at.saturating_add(rest.len() as u64);
        }
        self.lock.progress.written.fetch_max(at, Ordering::Relaxed);
        Ok(())
    }

    /// Another version of the source: nothing that was written counts any more.
    fn restart(&self, source: Option<String>) -> Result<(), StoreError> {
        let mut record = self.record.lock();
        self.generation.fetch_add(1, Ordering::Relaxed);
        // first the record: it must not speak of bytes that are gone
        let restarted = match record.as_mut() {
            Some(open) => open.restart(source),
            None => record::remove(&*self.dir, &self.lock.names.record),
        };
        restarted.at("write the record", &self.path)?;
        self.lock.progress.set(0, 0);
        self.lock.file.ftruncate(0).at("empty the staging file", &self.path)
    }
}

/// The staging of a [`super::LocalStore`].
pub(super) struct LocalStaging<D: Directory = Dir> {
    tree: Arc<Tree<D>>,
    request: StageRequest,
    staged: Arc<PartialFile<D>>,
    left: Resume,
    allocation: Allocation,
}

/// Keeps what a [`LocalStaging`] has written. It holds the lock as well.
struct LocalCheckpointer<D: Directory> {
    tree: Arc<Tree<D>>,
    staged: Arc<PartialFile<D>>,
    generation: u64,
}

#[async_trait]
impl<D: Directory> Checkpointer for LocalCheckpointer<D> {
    async fn checkpoint(&self, point: Checkpoint) -> Result<(), StoreError> {
        let (staged, generation) = (self.staged.clone(), self.generation);
        super::blocking_for(self.tree.owner(), move || staged.keep(&point, generation)).await
    }
}

#[cfg(test)]
impl<D: Directory> LocalStaging<D> {
    pub(super) fn path(&self) -> &RemotePath {
        &self.staged.path
    }

    pub(super) fn left_now(&self) -> Resume {
        self.left.clone()
    }

    pub(super) fn write_now(&self, offset: u64, parts: &[Bytes]) -> Result<(), StoreError> {
        self.staged.write(offset, parts, self.allocation)
    }

    pub(super) fn hole_now(&self, offset: u64, length: u64) -> Result<(), StoreError> {
        self.staged.extend(offset + length)
    }

    pub(super) fn keep_now(&self, point: &Checkpoint) -> Result<(), StoreError> {
        self.staged.keep(point, self.staged.generation.load(Ordering::Relaxed))
    }

    pub(super) fn restart_now(&mut self, source: Option<String>) -> Result<(), StoreError> {
        self.staged.restart(source)
    }
}

impl<D: Directory> LocalStaging<D> {
    pub(super) fn commit_now(&self, size: u64, attributes: Attributes) -> Result<String, StoreError> {
        let PartialFile {
            path, lock, dir, name, ..
        } = &*self.staged;
        let (file, durability) = (&lock.file, self.request.durability);
        let found = file.fstat().at("stat the staging file", path)?;
        if u64::try_from(found.st_size) != Ok(size) {
            return Err(StoreError::new(ErrorKind::SourceChanged, path));
        }
        let modes = (found.st_mode & 0o7777, mode_before(attributes));
        set_open(file, attributes, modes, path)?;
        if durability.is_durable() {
            self.staged.sync(Node::fsync)?;
        }
        let from = &lock.names.file;
        let staged = Staged {
            dir: &**dir,
            lock,
            from,
            name,
            path,
        };
        // the record goes before the rename: after it the name is free, and the record could be another writer's
        let remove_record = || {
            record::remove(&**dir, &lock.names.record)?;
            // without it nothing can be resumed
            lock.progress.kept.store(0, Ordering::Relaxed);
            Ok(())
        };
        publish(&self.tree, &staged, self.request.if_version.as_deref(), remove_record)?;
        settle(file, (attributes, durability), path)?;
        if durability.is_durable() {
            sync_names(&self.tree, &**dir, path)?;
        }
        committed_version(file, path)
    }
}

#[async_trait]
impl<D: Directory> Staging for LocalStaging<D> {
    fn part_rules(&self) -> PartRules {
        PartRules {
            least: 1,
            most: 4 << 20,
            skip_gap_after: Some(if self.staged.in_memory { 1 } else { HELD }),
        }
    }

    async fn write(&mut self, offset: u64, parts: Vec<Bytes>) -> Result<(), StoreError> {
        let allocation = self.allocation;
        if self.staged.in_memory {
            return self.staged.write(offset, &parts, allocation);
        }
        let staged = self.staged.clone();
        super::blocking_for(self.tree.owner(), move || staged.write(offset, &parts, allocation)).await
    }

    async fn hole(&mut self, offset: u64, length: u64) -> Result<(), StoreError> {
        let staged = self.staged.clone();
        super::blocking_for(self.tree.owner(), move || staged.extend(offset.saturating_add(length))).await
    }

    fn allocate(&mut self, allocation: Allocation) {
        self.allocation = allocation;
    }

    fn resume(&self) -> Resume {
        self.left.clone()
    }

    fn checkpointer(&self) -> Option<Arc<dyn Checkpointer>> {
        if self.request.source.is_none()
            || !self.request.durability.is_durable()
            || self.staged.record.lock().is_none()
        {
            return None;
        }
        Some(Arc::new(LocalCheckpointer {
            tree: self.tree.clone(),
            staged: self.staged.clone(),
            generation: self.staged.generation.load(Ordering::Relaxed),
        }))
    }

    async fn restart(&mut self, source: Option<String>) -> Result<(), StoreError> {
        self.request.source.clone_from(&source);
        self.left = Resume::Fresh;
        let staged = self.staged.clone();
        super::blocking_for(self.tree.owner(), move || staged.restart(source)).await
    }

    async fn commit(self: Box<Self>, size: u64, attributes: Attributes) -> Result<String, StoreError> {
        let owner = self.tree.owner().clone();
        super::blocking_for(&owner, move || {
            let committed = self.commit_now(size, attributes);
            committed.inspect_err(|e| {
                // what is durable of it is as good as before when there is room again
                if !matches!(e.kind, ErrorKind::NoSpace | ErrorKind::Quota) {
                    self.staged.remove();
                }
            })
        })
        .await
    }

    async fn discard(self: Box<Self>) {
        let owner = self.tree.owner().clone();
        super::blocking_for(&owner, move || self.staged.remove()).await;
    }
}

/// Time and mode of an existing file or directory. Set-uid and set-gid bits stay as the target has them. What is as it should
/// be is not touched: its change time stays, too.
pub(super) fn set_attributes<D: Directory>(
    tree: &Tree<D>,
    path: &RemotePath,
    attributes: Attributes,
) -> Result<(), StoreError> {
    let wanted = |found: &Stat| {
        let sticky = match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => 0o1000,
            _ => 0,
        };
        (found.st_mode & 0o6000) | (attributes.mode & (0o777 | sticky))
    };
    let is_right = |found: &Stat| mtime(found) == attributes.mtime && found.st_mode & 0o7777 == wanted(found);
    if path.is_root() {
        return set_where_wrong(tree.root(), attributes, (wanted, is_right), path);
    }
    let (dir, name) = tree.parent(path)?;
    let found = dir.stat_at(name.as_bytes()).at("stat", path)?;
    if !FileType::from_raw_mode(found.st_mode).is_symlink() && is_right(&found) {
        return Ok(());
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match dir.open_at(name.as_bytes(), flags | OFlags::RDONLY) {
        Err(Errno::ACCESS) => dir.open_at(name.as_bytes(), flags | OFlags::WRONLY),
        other => other,
    };
    set_where_wrong(&file.at("open", path)?, attributes, (wanted, is_right), path)
}

/// Sets time and mode of what is open, unless they are right.
fn set_where_wrong(
    node: &impl Node,
    attributes: Attributes,
    (wanted, is_right): (impl Fn(&Stat) -> u32, impl Fn(&Stat) -> bool),
    path: &RemotePath,
) -> Result<(), StoreError> {
    match node.fstat().at("stat", path)? {
        found if is_right(&found) => Ok(()),
        found => set_open(node, attributes, (found.st_mode & 0o7777, wanted(&found)), path),
    }
}
