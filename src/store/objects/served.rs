//! A store of objects as a server serves it.

use super::ObjectStore;
use super::sweep::sweep;
use super::view::{Links, kind_at};
use crate::store::backup::BackupPlan;
use crate::store::error::{ErrorKind, StoreError};
use crate::store::path::RemotePath;
use crate::store::served::{Served, Swept};
use crate::store::{FollowedLinks, Store};
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A store of objects that is served.
pub struct ServedObjects(pub ObjectStore);

#[async_trait]
impl Served for ServedObjects {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    async fn rooted_at(
        &self,
        path: &RemotePath,
        user: &str,
    ) -> Result<Arc<dyn Served>, StoreError> {
        let view = self.0.fresh();
        // a link to the root of a user would lead beneath that of another
        let links = Links::Refused;
        let whole = super::View {
            links,
            ..view.clone()
        }
        .dir(path)
        .await?;
        let mut view = view;
        view.base = whole;
        view.closed = Arc::default();
        view.entries.requests = view.entries.requests.of(user);
        Ok(Arc::new(ServedObjects(ObjectStore(view))))
    }

    fn close(&self) {
        self.0.0.closed.store(true, Ordering::Relaxed);
    }

    fn following(&self, _links: FollowedLinks) -> Result<Arc<dyn Store>, StoreError> {
        let why = "an object store cannot replace symlinks by what they lead to";
        Err(StoreError::because(why, &RemotePath::root()))
    }

    async fn backing_up(
        &self,
        path: &RemotePath,
        _plan: BackupPlan,
    ) -> Result<Arc<dyn Store>, StoreError> {
        let why = "an object store makes no backups";
        Err(StoreError::because(why, path))
    }

    async fn ancestors(&self, path: &RemotePath) -> Vec<String> {
        let view = self.0.fresh();
        let Ok(mut whole) = view.absolute(path) else {
            return Vec::new();
        };
        let mut versions = Vec::new();
        while let Some((parent, _)) = whole.split() {
            if let Ok(place) = view.entries.find(&whole).await
                && kind_at(&place).is_some()
            {
                versions.extend(place.map(|found| found.record.version.clone()));
            }
            whole = parent;
        }
        versions
    }

    async fn sweep(&self, age: Duration) -> Swept {
        match sweep(&self.0.fresh(), age).await {
            Ok(swept) => swept,
            // another server does it, or the next one will
            Err(e) if matches!(e.kind, ErrorKind::Locked(_)) => Swept::default(),
            Err(error) => {
                tracing::warn!(%error, "the object store was not swept");
                Swept::default()
            }
        }
    }
}
