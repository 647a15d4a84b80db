//! Files that arrive in parts: the partial file, its record, and the commit.

use super::blocking::blocking_for;
use super::commit::{
    back_up, check_version, committed_version, prepare, publish, settle, sync_names,
};
use super::direct::Direct;
use super::fs_type::is_in_memory;
use super::lock::{Purpose, obstacle};
use super::partial_file::PartialFile;
use super::record;
use super::sys::{Directory, Node, OpenFile};
use super::target::LockedTarget;
use super::tree::Tree;
use crate::store::error::At;
use crate::store::shares::Share;
use crate::store::{
    Allocation, Attributes, Bytes, Checkpoint, Checkpointer, CopyError, ErrorKind, FileRange,
    FileSource, Name, PartRules, RemotePath, Resume, StageRequest, Staging, StoreError,
    copy_through,
};
use async_trait::async_trait;
use cap_std::fs::Dir;
use parking_lot::Mutex;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// As many chunks wait for a missing one before they are written without it. File systems on disks
/// like to be written in order, and with equally fast connections the missing one comes soon. In
/// memory each chunk is written at once, while it is in a processor's cache.
const SKIP_GAP_AFTER: usize = 8;

/// Locks a target for a file that arrives in parts, and resumes the partial file of an earlier
/// writer of the same source. `open` is its share of what may be open.
pub(super) fn stage<D: Directory>(
    tree: &Arc<Tree<D>>,
    path: &RemotePath,
    request: &StageRequest,
    open: Option<Share>,
) -> Result<LocalStaging<D>, StoreError> {
    let (dir, name) = tree.parent(path)?;
    refuse_directory(&*dir, &name, path)?;
    let durable = request.durability.is_durable();
    let source = request.source.clone().filter(|_| durable);
    let purpose = source.as_deref().map_or(Purpose::New, Purpose::Version);
    let target = LockedTarget::acquire(dir, name, path, &request.who, purpose)?;
    let lock = &target.lock;
    let resume = lock.resume.clone();
    let start = match &resume {
        Resume::From(point) => point.offset,
        _ => 0,
    };
    if lock.size > start {
        lock.file.ftruncate(start).at("empty the partial file", path)?;
    }
    lock.progress.set(start, start);
    // where it cannot be written, on a full disk above all, the file can do without
    let record = match lock.record(&*target.dir, source) {
        Err(Errno::ISDIR | Errno::EXIST) => return Err(obstacle(&lock.names.record, path)),
        other => other.ok(),
    };
    let partial = PartialFile {
        in_memory: is_in_memory(&lock.file),
        direct: durable.then(Direct::new),
        record: Mutex::new(record),
        target,
        generation: AtomicU64::new(0),
        named: AtomicBool::new(false),
        sync_failed: Mutex::new(false),
        _open: open,
    };
    check_version(tree, path, request.if_version.as_deref())?;
    Ok(LocalStaging {
        tree: tree.clone(),
        request: request.clone(),
        partial: Arc::new(partial),
        resume,
        allocation: Allocation::default(),
    })
}

/// Refuses a target that is a directory before any byte is written, and not only when the rename
/// fails.
fn refuse_directory(
    dir: &impl Directory,
    name: &Name,
    path: &RemotePath,
) -> Result<(), StoreError> {
    match dir.stat_at(name.as_bytes()) {
        Ok(found) if FileType::from_raw_mode(found.st_mode).is_dir() => {
            Err(StoreError::new(ErrorKind::IsADirectory, path))
        }
        _ => Ok(()),
    }
}

/// The [`Staging`] of a [`super::LocalStore`].
pub(super) struct LocalStaging<D: Directory = Dir> {
    tree: Arc<Tree<D>>,
    request: StageRequest,
    partial: Arc<PartialFile<D>>,
    resume: Resume,
    allocation: Allocation,
}

/// Checkpoints the partial file of a [`LocalStaging`]. It holds the lock as well.
struct LocalCheckpointer<D: Directory> {
    tree: Arc<Tree<D>>,
    partial: Arc<PartialFile<D>>,
    generation: u64,
}

#[async_trait]
impl<D: Directory> Checkpointer for LocalCheckpointer<D> {
    async fn checkpoint(&self, point: Checkpoint) -> Result<(), StoreError> {
        let (partial, generation) = (self.partial.clone(), self.generation);
        let around = self.tree.partial_dirs().around(partial.path());
        blocking_for(self.tree.owner(), move || {
            around.into_iter().for_each(|around| around.wrote(0));
            partial.checkpoint(&point, generation)
        })
        .await
    }
}

#[cfg(test)]
impl<D: Directory> LocalStaging<D> {
    pub(super) fn path(&self) -> &RemotePath {
        self.partial.path()
    }

    pub(super) fn write_now(&self, offset: u64, parts: &[Bytes]) -> Result<(), StoreError> {
        self.partial.write(offset, parts, self.allocation)
    }

    pub(super) fn hole_now(&self, offset: u64, length: u64) -> Result<(), StoreError> {
        self.partial.extend(offset + length)
    }

    pub(super) fn checkpoint_now(&self, point: &Checkpoint) -> Result<(), StoreError> {
        self.partial
            .checkpoint(point, self.partial.generation.load(Ordering::Relaxed))
    }

    /// Which beginning of the file a checkpoint is of.
    pub(super) fn generation_now(&self) -> u64 {
        self.partial.generation.load(Ordering::Relaxed)
    }

    pub(super) fn checkpoint_of(
        &self,
        point: &Checkpoint,
        generation: u64,
    ) -> Result<(), StoreError> {
        self.partial.checkpoint(point, generation)
    }

    pub(super) fn restart_now(&mut self, source: Option<String>) -> Result<(), StoreError> {
        self.request.source.clone_from(&source);
        self.resume = Resume::Fresh;
        self.partial.restart(source)
    }

    pub(super) fn discard_now(&self) {
        self.partial.target.discard();
    }
}

impl<D: Directory> LocalStaging<D> {
    /// The commit, on a thread that may wait.
    pub(super) fn commit_now(
        &self,
        size: u64,
        attributes: &Attributes,
    ) -> Result<String, StoreError> {
        let target = &self.partial.target;
        let LockedTarget {
            path, dir, lock, ..
        } = target;
        let (file, durability) = (&lock.file, self.request.durability);
        let found = file.fstat().at("stat the partial file", path)?;
        if u64::try_from(found.st_size) != Ok(size) {
            return Err(StoreError::new(ErrorKind::SourceChanged, path));
        }
        prepare(&self.tree, file, attributes, path)?;
        if durability.is_durable() {
            self.partial.sync(Node::fsync)?;
        }
        // the record goes before the rename: after it the name is free, and the record could be
        // another writer's
        let remove_record = || {
            record::remove(&**dir, &lock.names.record)?;
            // without it nothing can be resumed
            lock.progress.durable_offset.store(0, Ordering::Relaxed);
            Ok(())
        };
        let if_version = self.request.if_version.as_deref();
        back_up(&self.tree, &[(target, if_version)], durability)
            .into_iter()
            .collect::<Result<(), _>>()?;
        publish(&self.tree, target, &lock.names.file, if_version, remove_record)?;
        settle(&self.tree, file, attributes, durability, path)?;
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
            skip_gap_after: Some(if self.partial.in_memory { 1 } else { SKIP_GAP_AFTER }),
        }
    }

    async fn write(&mut self, offset: u64, parts: Vec<Bytes>) -> Result<(), StoreError> {
        let allocation = self.allocation;
        if self.partial.in_memory {
            return self.partial.write(offset, &parts, allocation);
        }
        let partial = self.partial.clone();
        blocking_for(self.tree.owner(), move || partial.write(offset, &parts, allocation)).await
    }

    async fn hole(&mut self, offset: u64, length: u64) -> Result<(), StoreError> {
        let partial = self.partial.clone();
        blocking_for(self.tree.owner(), move || partial.extend(offset.saturating_add(length))).await
    }

    async fn share_blocks(&mut self, source: &Arc<dyn FileSource>) -> bool {
        let (partial, source) = (self.partial.clone(), source.clone());
        blocking_for(self.tree.owner(), move || {
            source.as_file().is_some_and(|file| partial.share_blocks(file))
        })
        .await
    }

    async fn copy(
        &mut self,
        source: &Arc<dyn FileSource>,
        range: FileRange,
    ) -> Result<(), CopyError> {
        let (partial, from) = (self.partial.clone(), source.clone());
        let copied = blocking_for(self.tree.owner(), move || match from.as_file() {
            Some(file) => partial.copy_range(file, range),
            None => Ok(range.offset),
        })
        .await;
        let offset = copied.map_err(CopyError::Target)?;
        copy_through(self, source, FileRange { offset, ..range }).await
    }

    fn allocate(&mut self, allocation: Allocation) {
        self.allocation = allocation;
    }

    fn resume(&self) -> Resume {
        self.resume.clone()
    }

    fn checkpointer(&self) -> Option<Arc<dyn Checkpointer>> {
        let resumable = self.request.source.is_some() && self.request.durability.is_durable();
        if !resumable || self.partial.record.lock().is_none() {
            return None;
        }
        Some(Arc::new(LocalCheckpointer {
            tree: self.tree.clone(),
            partial: self.partial.clone(),
            generation: self.partial.generation.load(Ordering::Relaxed),
        }))
    }

    async fn restart(&mut self, source: Option<String>) -> Result<(), StoreError> {
        self.request.source.clone_from(&source);
        self.resume = Resume::Fresh;
        let partial = self.partial.clone();
        blocking_for(self.tree.owner(), move || partial.restart(source)).await
    }

    async fn commit(
        self: Box<Self>,
        size: u64,
        attributes: Attributes,
    ) -> Result<String, StoreError> {
        let owner = self.tree.owner().clone();
        blocking_for(&owner, move || {
            let committed = self.commit_now(size, &attributes);
            committed.inspect_err(|e| {
                // its checkpoint is as good as before once there is room again
                if !matches!(e.kind, ErrorKind::NoSpace | ErrorKind::Quota) {
                    self.partial.target.discard();
                }
            })
        })
        .await
    }

    async fn discard(self: Box<Self>) {
        let owner = self.tree.owner().clone();
        blocking_for(&owner, move || self.partial.target.discard()).await;
    }
}
