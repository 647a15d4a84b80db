//! A store that delays calls, or panics, in front of another one.

use async_trait::async_trait;
use haul::store::{
    Attributes, Change, DirPage, Durability, Entry, ExistingDirs, FileSource, Kind, LockPage,
    NewEntry, Page, RemotePath, RemoveScope, Space, StageRequest, Staging, Store, StoreError, Time,
    UnlockMode, Version, WholeFile,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The delay before each kind of call.
#[derive(Clone, Copy, Default)]
pub struct Delays {
    pub sync: Duration,
    pub set_attributes: Duration,
    pub make_dirs: Duration,
    pub stage: Duration,
}

/// Where calls panic: on listing a directory whose path ends so, on reading such a file, or on its
/// second stat, which is the walk's. The default is nowhere.
#[derive(Default)]
pub struct Trap {
    pub at: Option<&'static str>,
    looks: AtomicUsize,
}

impl Trap {
    pub fn at(at: &'static str) -> Trap {
        Trap {
            at: Some(at),
            looks: AtomicUsize::new(0),
        }
    }

    fn look(&self, path: &RemotePath) {
        if self.is_at(path) && self.looks.fetch_add(1, Ordering::Relaxed) > 0 {
            self.step(path);
        }
    }

    fn step(&self, path: &RemotePath) {
        assert!(!self.is_at(path), "{path:?} is reached");
    }

    fn is_at(&self, path: &RemotePath) -> bool {
        self.at.is_some_and(|at| path.as_bytes().ends_with(at.as_bytes()))
    }
}

/// The inner store, with delays and a trap.
pub struct Slow {
    pub inner: Arc<dyn Store>,
    pub delays: Delays,
    pub trap: Trap,
}

async fn pause(delay: Duration) {
    tokio::time::sleep(delay).await;
}

#[async_trait]
impl Store for Slow {
    async fn resolve(&self, path: &RemotePath) -> Result<RemotePath, StoreError> {
        self.inner.resolve(path).await
    }

    async fn subtree(&self, path: &RemotePath) -> Result<Arc<dyn Store>, StoreError> {
        let (inner, delays) = (self.inner.subtree(path).await?, self.delays);
        let trap = Trap::default();
        Ok(Arc::new(Slow {
            inner,
            delays,
            trap,
        }))
    }

    async fn stat_many(&self, paths: Vec<RemotePath>) -> Vec<Result<Entry, StoreError>> {
        paths.iter().for_each(|path| self.trap.look(path));
        self.inner.stat_many(paths).await
    }

    async fn list(
        &self,
        path: &RemotePath,
        cookie: &[u8],
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.inner.list(path, cookie, limit).await
    }

    async fn list_whole(
        &self,
        paths: Vec<RemotePath>,
        limit: usize,
    ) -> Vec<Result<DirPage, StoreError>> {
        paths.iter().for_each(|path| self.trap.step(path));
        self.inner.list_whole(paths, limit).await
    }

    async fn make_dir(&self, path: &RemotePath) -> Result<(), StoreError> {
        self.inner.make_dir(path).await
    }

    async fn make_dirs(
        &self,
        dirs: Vec<(RemotePath, Attributes)>,
        existing: ExistingDirs,
    ) -> Vec<Result<bool, StoreError>> {
        pause(self.delays.make_dirs).await;
        self.inner.make_dirs(dirs, existing).await
    }

    async fn remove(&self, path: &RemotePath, scope: RemoveScope) -> Result<(), StoreError> {
        self.inner.remove(path, scope).await
    }

    async fn rename(&self, from: &RemotePath, to: &RemotePath) -> Result<(), StoreError> {
        self.inner.rename(from, to).await
    }

    async fn rename_new(&self, from: &RemotePath, to: &RemotePath) -> Result<(), StoreError> {
        self.inner.rename_new(from, to).await
    }

    async fn change(&self, path: &RemotePath, change: Change) -> Result<(), StoreError> {
        self.inner.change(path, change).await
    }

    async fn space(&self, path: &RemotePath) -> Result<Option<Space>, StoreError> {
        self.inner.space(path).await
    }

    async fn open(&self, path: &RemotePath) -> Result<Arc<dyn FileSource>, StoreError> {
        self.trap.step(path);
        self.inner.open(path).await
    }

    async fn read_whole(
        &self,
        paths: Vec<RemotePath>,
        most: usize,
    ) -> Vec<Result<WholeFile, StoreError>> {
        paths.iter().for_each(|path| self.trap.step(path));
        self.inner.read_whole(paths, most).await
    }

    async fn put_whole(
        &self,
        entries: Vec<NewEntry>,
        who: &str,
        durability: Durability,
    ) -> Vec<Result<String, StoreError>> {
        self.inner.put_whole(entries, who, durability).await
    }

    async fn stage(
        &self,
        path: &RemotePath,
        request: &StageRequest,
    ) -> Result<Box<dyn Staging>, StoreError> {
        pause(self.delays.stage).await;
        self.inner.stage(path, request).await
    }

    async fn set_attributes(
        &self,
        entries: Vec<(RemotePath, Attributes)>,
    ) -> Vec<Result<(), StoreError>> {
        pause(self.delays.set_attributes).await;
        self.inner.set_attributes(entries).await
    }

    async fn locks(
        &self,
        path: &RemotePath,
        cookie: &[u8],
        limit: usize,
    ) -> Result<LockPage, StoreError> {
        self.inner.locks(path, cookie, limit).await
    }

    async fn unlock(&self, path: &RemotePath, mode: UnlockMode) -> Result<bool, StoreError> {
        self.inner.unlock(path, mode).await
    }

    async fn is_same_time(&self, path: &RemotePath, wanted: Time, found: Time) -> bool {
        self.inner.is_same_time(path, wanted, found).await
    }

    async fn note_unchanged(
        &self,
        found: Vec<(RemotePath, Kind, Version)>,
    ) -> Vec<Result<(), StoreError>> {
        self.inner.note_unchanged(found).await
    }

    async fn sync_unchanged(&self) -> Result<(), StoreError> {
        pause(self.delays.sync).await;
        self.inner.sync_unchanged().await
    }

    async fn sync(&self) -> Result<(), StoreError> {
        pause(self.delays.sync).await;
        self.inner.sync().await
    }
}
