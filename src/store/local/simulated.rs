//! A store over the model file system, for the simulation of transfers: the code that puts, stages,
//! commits and syncs is the real one, and runs at once, on the calling thread. Its machine loses
//! power, is killed, or fails a call on demand.

use super::attributes::set_attributes;
use super::inode::entry;
use super::small::put_whole;
use super::stage::{LocalStaging, stage};
use super::sys::Directory;
pub(crate) use super::sys::model::Chance;
use super::sys::model::{Device, Handle, World};
use super::times::Times;
use super::tree::Tree;
use super::unchanged::Unchanged;
use crate::store::error::At;
use crate::store::{
    Allocation, Attributes, Bytes, Change, Checkpoint, Checkpointer, DirPage, Durability, Entry,
    ErrorKind, ExistingDirs, FileSource, Kind, LockPage, NewEntry, Page, PartRules, RemotePath,
    RemoveScope, Resume, Space, StageRequest, Staging, Store, StoreError, Time, UnlockMode,
    Version, WholeFile,
};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// ext4, whose syncfs(2) counts.
const EXT4: u64 = 0xEF53;

/// A machine with a disk.
#[derive(Clone)]
pub(crate) struct Machine(World);

impl Machine {
    pub(crate) fn new(seed: u64) -> Machine {
        let device = Device {
            fs_type: EXT4,
            syncfs_lies: false,
            granularity: 1,
            has_birth: true,
        };
        Machine(World::new(seed, vec![device.clone(), device]))
    }

    /// The store of one transfer, whose calls take `pause` each.
    pub(crate) fn store(&self, pause: Duration) -> Arc<dyn Store> {
        let tree = Arc::new(Tree::strict(Arc::new(self.0.root())));
        Arc::new(ModelStore {
            times: Times::new(&tree),
            unchanged: Unchanged::new(&tree),
            tree,
            pause,
        })
    }

    /// The content of a file.
    pub(crate) fn content(&self, path: &str) -> Option<Vec<u8>> {
        self.0.content(path)
    }

    /// The call that comes after so many more fails.
    pub(crate) fn fail_after(&self, calls: u64) {
        self.0.fail_after(calls);
    }

    /// No call fails any more.
    pub(crate) fn mend(&self) {
        self.0.calm();
    }

    /// All processes on it are killed.
    pub(crate) fn kill(&self) {
        self.0.kill();
    }

    /// Its power is lost, and it is started again.
    pub(crate) fn lose_power(&self) {
        self.0.lose_power();
    }
}

struct ModelStore {
    tree: Arc<Tree<Handle>>,
    times: Times<Handle>,
    unchanged: Unchanged<Handle>,
    pause: Duration,
}

impl ModelStore {
    async fn pause(&self) {
        tokio::time::sleep(self.pause).await;
    }

    fn stat(&self, path: &RemotePath) -> Result<Entry, StoreError> {
        let (dir, name) = self.tree.parent(path)?;
        let found = dir.stat_at(name.as_bytes()).at("stat", path)?;
        Ok(entry(Some(name), &found, None))
    }
}

/// What no receiver asks of a store.
fn unasked<T>(path: &RemotePath) -> Result<T, StoreError> {
    Err(StoreError::because("the model has no such call", path))
}

#[async_trait]
impl Store for ModelStore {
    async fn resolve(&self, path: &RemotePath) -> Result<RemotePath, StoreError> {
        Ok(path.clone())
    }

    async fn subtree(&self, path: &RemotePath) -> Result<Arc<dyn Store>, StoreError> {
        unasked(path)
    }

    async fn stat_many(&self, paths: Vec<RemotePath>) -> Vec<Result<Entry, StoreError>> {
        self.pause().await;
        paths.iter().map(|path| self.stat(path)).collect()
    }

    async fn list(&self, path: &RemotePath, _: &[u8], _: usize) -> Result<Page, StoreError> {
        unasked(path)
    }

    async fn list_whole(
        &self,
        paths: Vec<RemotePath>,
        _: usize,
    ) -> Vec<Result<DirPage, StoreError>> {
        paths.iter().map(unasked).collect()
    }

    async fn make_dir(&self, path: &RemotePath) -> Result<(), StoreError> {
        unasked(path)
    }

    /// The model has its directories from the beginning.
    async fn make_dirs(
        &self,
        dirs: Vec<(RemotePath, Attributes)>,
        _: ExistingDirs,
    ) -> Vec<Result<bool, StoreError>> {
        self.pause().await;
        let made = |(path, _): &(RemotePath, Attributes)| match path.is_root() {
            true => Ok(false),
            false => self.stat(path).map(|_| false),
        };
        dirs.iter().map(made).collect()
    }

    async fn remove(&self, path: &RemotePath, _: RemoveScope) -> Result<(), StoreError> {
        unasked(path)
    }

    async fn rename(&self, from: &RemotePath, _: &RemotePath) -> Result<(), StoreError> {
        unasked(from)
    }

    async fn rename_new(&self, from: &RemotePath, _: &RemotePath) -> Result<(), StoreError> {
        unasked(from)
    }

    async fn change(&self, path: &RemotePath, _: Change) -> Result<(), StoreError> {
        unasked(path)
    }

    async fn space(&self, path: &RemotePath) -> Result<Option<Space>, StoreError> {
        unasked(path)
    }

    async fn open(&self, path: &RemotePath) -> Result<Arc<dyn FileSource>, StoreError> {
        unasked(path)
    }

    async fn read_whole(
        &self,
        paths: Vec<RemotePath>,
        _: usize,
    ) -> Vec<Result<WholeFile, StoreError>> {
        paths.iter().map(unasked).collect()
    }

    async fn put_whole(
        &self,
        entries: Vec<NewEntry>,
        who: &str,
        durability: Durability,
    ) -> Vec<Result<String, StoreError>> {
        self.pause().await;
        put_whole(&self.tree, &entries, who, durability)
    }

    async fn stage(
        &self,
        path: &RemotePath,
        request: &StageRequest,
    ) -> Result<Box<dyn Staging>, StoreError> {
        self.pause().await;
        let staged = stage(&self.tree, path, request, None)?;
        Ok(Box::new(ModelStaging {
            inner: Arc::new(Mutex::new(Some(staged))),
            pause: self.pause,
        }))
    }

    async fn set_attributes(
        &self,
        entries: Vec<(RemotePath, Attributes)>,
    ) -> Vec<Result<(), StoreError>> {
        let set = entries
            .iter()
            .map(|(path, attributes)| set_attributes(&self.tree, path, attributes));
        set.collect()
    }

    async fn locks(&self, path: &RemotePath, _: &[u8], _: usize) -> Result<LockPage, StoreError> {
        unasked(path)
    }

    async fn unlock(&self, path: &RemotePath, _: UnlockMode) -> Result<bool, StoreError> {
        unasked(path)
    }

    async fn is_same_time(&self, path: &RemotePath, wanted: Time, found: Time) -> bool {
        self.times.is_same(path, wanted, found)
    }

    async fn note_unchanged(
        &self,
        found: Vec<(RemotePath, Kind, Version)>,
    ) -> Vec<Result<(), StoreError>> {
        found.iter().map(|entry| self.unchanged.note(entry)).collect()
    }

    async fn sync_unchanged(&self) -> Result<(), StoreError> {
        self.pause().await;
        self.unchanged.sync()
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.tree.sync()
    }
}

/// A staging of the model; `None` once it is committed or discarded.
struct ModelStaging {
    inner: Arc<Mutex<Option<LocalStaging<Handle>>>>,
    pause: Duration,
}

/// Makes checkpoints of a [`ModelStaging`].
struct ModelCheckpointer {
    staging: Arc<Mutex<Option<LocalStaging<Handle>>>>,
    generation: u64,
    pause: Duration,
}

impl ModelStaging {
    fn with<T>(
        &self,
        work: impl FnOnce(&mut LocalStaging<Handle>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &mut *self.inner.lock() {
            Some(staging) => work(staging),
            None => unasked(&RemotePath::root()),
        }
    }

    async fn pause(&self) {
        tokio::time::sleep(self.pause).await;
    }
}

#[async_trait]
impl Checkpointer for ModelCheckpointer {
    async fn checkpoint(&self, point: Checkpoint) -> Result<(), StoreError> {
        tokio::time::sleep(self.pause).await;
        match &*self.staging.lock() {
            Some(staging) => staging.checkpoint_of(&point, self.generation),
            // committed meanwhile, which the receiver does not do
            None => unasked(&RemotePath::root()),
        }
    }
}

#[async_trait]
impl Staging for ModelStaging {
    fn part_rules(&self) -> PartRules {
        let inner = self.inner.lock();
        inner.as_ref().map_or(
            PartRules {
                least: 1,
                most: 1,
                skip_gap_after: None,
            },
            Staging::part_rules,
        )
    }

    async fn write(&mut self, offset: u64, parts: Vec<Bytes>) -> Result<(), StoreError> {
        self.pause().await;
        self.with(|staging| staging.write_now(offset, &parts))
    }

    async fn hole(&mut self, offset: u64, length: u64) -> Result<(), StoreError> {
        self.pause().await;
        self.with(|staging| staging.hole_now(offset, length))
    }

    fn allocate(&mut self, allocation: Allocation) {
        let _ = self.with(|staging| {
            staging.allocate(allocation);
            Ok(())
        });
    }

    fn resume(&self) -> Resume {
        self.inner.lock().as_ref().map_or(Resume::Fresh, Staging::resume)
    }

    fn checkpointer(&self) -> Option<Arc<dyn Checkpointer>> {
        let generation = {
            let inner = self.inner.lock();
            inner.as_ref()?.checkpointer()?;
            inner.as_ref()?.generation_now()
        };
        Some(Arc::new(ModelCheckpointer {
            staging: self.inner.clone(),
            generation,
            pause: self.pause,
        }))
    }

    async fn restart(&mut self, source: Option<String>) -> Result<(), StoreError> {
        self.pause().await;
        self.with(|staging| staging.restart_now(source))
    }

    async fn commit(
        self: Box<Self>,
        size: u64,
        attributes: Attributes,
    ) -> Result<String, StoreError> {
        self.pause().await;
        let committed = self.with(|staging| staging.commit_now(size, &attributes));
        let staging = self.inner.lock().take();
        if let (Some(staging), Err(e)) = (staging, &committed)
            && !matches!(e.kind, ErrorKind::NoSpace | ErrorKind::Quota)
        {
            staging.discard_now();
        }
        committed
    }

    async fn discard(self: Box<Self>) {
        if let Some(staging) = self.inner.lock().take() {
            staging.discard_now();
        }
    }
}
