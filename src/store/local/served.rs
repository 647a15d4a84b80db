//! A directory of this machine as a server serves it.

use super::{LocalStore, inode, partial};
use crate::store::backup::BackupPlan;
use crate::store::served::{Served, Swept};
use crate::store::{FollowedLinks, RemotePath, Store, StoreError, blocking};
use async_trait::async_trait;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A directory that is served.
pub struct ServedDir {
    store: LocalStore,
    path: PathBuf,
}

impl ServedDir {
    /// Serves a store, whose root is at `path`.
    pub fn new(store: LocalStore, path: PathBuf) -> ServedDir {
        ServedDir { store, path }
    }
}

#[async_trait]
impl Served for ServedDir {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn rooted_at(
        &self,
        path: &RemotePath,
        user: &str,
    ) -> Result<Arc<dyn Served>, StoreError> {
        Ok(Arc::new(ServedDir {
            store: self.store.rooted_at(path, user)?,
            path: self.path.join(path.as_path()),
        }))
    }

    fn close(&self) {
        self.store.close();
    }

    fn following(&self, links: FollowedLinks) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(self.store.following(links)?))
    }

    async fn backing_up(
        &self,
        path: &RemotePath,
        plan: BackupPlan,
    ) -> Result<Arc<dyn Store>, StoreError> {
        self.store.backing_up(path, plan).await
    }

    async fn ancestors(&self, path: &RemotePath) -> Vec<String> {
        let path = self.path.join(path.as_path());
        blocking(move || inode::ancestors(&path)).await
    }

    async fn sweep(&self, age: Duration) -> Swept {
        self.store.run(move |tree| partial::sweep(tree, age)).await
    }
}
