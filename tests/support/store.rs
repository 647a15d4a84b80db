//! A store that takes its time: what it does is done by another one, later.

use async_trait::async_trait;
use haul::store::{
    Attributes, DirPage, Entry, HeldPage, Kind, NewEntry, Page, RemotePath, Source, Space, StageRequest, Staging,
    Store, StoreError, Time, Version, WholeFile,
};
use std::sync::Arc;
use std::time::Duration;

/// How long calls wait before they are made.
#[derive(Clone, Copy, Default)]
pub struct Delays {
    pub sync: Duration,
    pub set_attributes: Duration,
    pub make_dirs: Duration,
    pub stage: Duration,
}

/// The inner store, with delays.
pub struct Slow {
    pub inner: Arc<dyn Store>,
    pub delays: Delays,
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
        Ok(Arc::new(Slow { inner, delays }))
    }

    async fn stat(&self, path: &RemotePath) -> Result<Entry, StoreError> {
        self.inner.stat(path).await
    }

    async fn stat_many(&self, paths: Vec<RemotePath>) -> Vec<Result<Entry, StoreError>> {
        self.inner.stat_many(paths).await
    }

    async fn list(&self, path: &RemotePath, cookie: &[u8], limit: usize) -> Result<Page, StoreError> {
        self.inner.list(path, cookie, limit).await
    }

    async fn list_whole(&self, paths: Vec<RemotePath>, limit: usize) -> Vec<Result<DirPage, StoreError>> {
        self.inner.list_whole(paths, limit).await
    }

    async fn make_dir(&self, path: &RemotePath, parents: bool) -> Result<(), StoreError> {
        self.inner.make_dir(path, parents).await
    }

    async fn make_dirs(&self, dirs: Vec<(RemotePath, Attributes)>, open_up: bool) -> Vec<Result<bool, StoreError>> {
        pause(self.delays.make_dirs).await;
        self.inner.make_dirs(dirs, open_up).await
    }

    async fn remove(&self, path: &RemotePath, recursive: bool) -> Result<(), StoreError> {
        self.inner.remove(path, recursive).await
    }

    async fn rename(&self, from: &RemotePath, to: &RemotePath) -> Result<(), StoreError> {
        self.inner.rename(from, to).await
    }

    async fn space(&self, path: &RemotePath) -> Result<Space, StoreError> {
        self.inner.space(path).await
    }

    async fn open(&self, path: &RemotePath) -> Result<Arc<dyn Source>, StoreError> {
        self.inner.open(path).await
    }

    async fn read_whole(&self, paths: Vec<RemotePath>, most: usize) -> Vec<Result<WholeFile, StoreError>> {
        self.inner.read_whole(paths, most).await
    }

    async fn put_whole(&self, entries: Vec<NewEntry>, who: &str, durable: bool) -> Vec<Result<String, StoreError>> {
        self.inner.put_whole(entries, who, durable).await
    }

    async fn stage(&self, path: &RemotePath, request: &StageRequest) -> Result<Box<dyn Staging>, StoreError> {
        pause(self.delays.stage).await;
        self.inner.stage(path, request).await
    }

    async fn set_attributes(&self, entries: Vec<(RemotePath, Attributes)>) -> Vec<Result<(), StoreError>> {
        pause(self.delays.set_attributes).await;
        self.inner.set_attributes(entries).await
    }

    async fn locks(&self, path: &RemotePath, cookie: &[u8], limit: usize) -> Result<HeldPage, StoreError> {
        self.inner.locks(path, cookie, limit).await
    }

    async fn unlock(&self, path: &RemotePath, force: bool) -> Result<bool, StoreError> {
        self.inner.unlock(path, force).await
    }

    async fn is_same_time(&self, path: &RemotePath, wanted: Time, found: Time) -> bool {
        self.inner.is_same_time(path, wanted, found).await
    }

    async fn note_unchanged(&self, found: Vec<(RemotePath, Kind, Version)>) -> Vec<Result<(), StoreError>> {
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
