//! A store as a server serves it: what the server asks of it besides what every transfer does.

use super::backup::BackupPlan;
use super::error::StoreError;
use super::path::RemotePath;
use super::{FollowedLinks, Store};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

/// What a sweep has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Partial files.
    pub partial: usize,
    /// Entries of trashes that had expired.
    pub trashed: u64,
    /// Blobs of a store of objects that no entry refers to.
    pub blobs: u64,
}

/// A tree that a server serves.
#[async_trait]
pub trait Served: Send + Sync {
    /// The tree, as requests see it: symlinks that stay beneath the root are followed.
    fn store(&self) -> Arc<dyn Store>;

    /// Returns the tree beneath a directory, for a user with a root of their own. What is under way
    /// there is a share of that user.
    ///
    /// # Errors
    /// That of opening it; symlinks that lead outside are not followed.
    async fn rooted_at(&self, path: &RemotePath, user: &str)
    -> Result<Arc<dyn Served>, StoreError>;

    /// Closes this tree and its stores: they publish nothing and remove nothing any more, not even
    /// in calls under way. The user may not write any more.
    fn close(&self);

    /// Returns the tree, for one transfer that follows symlinks as far as requests do.
    ///
    /// # Errors
    /// Why that cannot be.
    fn following(&self, links: FollowedLinks) -> Result<Arc<dyn Store>, StoreError>;

    /// Returns the store beneath a directory, as [`Store::subtree`], which moves aside what it
    /// replaces or removes.
    ///
    /// # Errors
    /// Why that directory, or the one for the backups, cannot be used.
    async fn backing_up(
        &self,
        path: &RemotePath,
        plan: BackupPlan,
    ) -> Result<Arc<dyn Store>, StoreError>;

    /// Returns the versions of a directory and of all directories above it, also those above the
    /// root.
    async fn ancestors(&self, path: &RemotePath) -> Vec<String>;

    /// Removes partial files of writers that died more than `age` ago, and what has expired in a
    /// trash. It skips what it cannot read or remove: the next sweep comes.
    async fn sweep(&self, age: Duration) -> Swept;
}
