//! A tree as the destination of a transfer, and what becomes of targets that another writer has.

use crate::store::{ErrorKind, Holder, RemotePath, Store, StoreError};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A directory that receives, and under which name each source goes there.
#[derive(Clone)]
pub struct Tree {
    /// A store that follows no symlinks.
    pub store: Arc<dyn Store>,
    /// For each source, in order; the root: its contents go into the directory itself.
    pub tops: Vec<RemotePath>,
    /// A directory that is made before anything goes into it.
    pub base: Option<RemotePath>,
    /// Nothing is written.
    pub dry_run: bool,
    /// Who writes, for others who want to.
    pub who: String,
    /// Asked, once for each target, when that is locked by the same `who`: an earlier life of
    /// theirs may let go of it.
    pub release: Option<Release>,
    /// How long to wait for a lock of this client's own, which another process has.
    pub own_lock_wait: Duration,
    /// The sender may not learn what is here: nothing is compared or resumed, and no other writer
    /// is named.
    pub write_only: bool,
}

/// Ends what holds locks for somebody who is gone, and waits until it does not.
pub type Release = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

impl Tree {
    /// True when a lock that `error` tells of may be had now.
    pub async fn released(&self, error: &StoreError) -> bool {
        match (&error.kind, &self.release) {
            (ErrorKind::Locked(holder), Some(release)) if holder.who == self.who => {
                release().await;
                true
            }
            _ => false,
        }
    }

    /// True if a lock is waited for: the transfer's options say so, or its writer may be a dead
    /// predecessor of this client.
    pub fn waits(&self, error: &StoreError, began: Instant, deadline: Option<Instant>) -> bool {
        let own = match &error.kind {
            ErrorKind::Locked(holder) if holder.who == self.who => self.own_lock_wait,
            _ => Duration::ZERO,
        };
        let now = Instant::now();
        deadline.is_some_and(|deadline| now < deadline) || now.duration_since(began) < own
    }

    /// An error as the sender may know it.
    pub fn disclosed(&self, error: StoreError) -> StoreError {
        match error.kind {
            ErrorKind::Locked(_) if self.write_only => {
                let who = "another writer".into();
                let kind = ErrorKind::Locked(Holder {
                    who,
                    ..Holder::default()
                });
                StoreError::new(kind, &error.path)
            }
            _ => error,
        }
    }
}

/// True where another writer has the lock.
pub fn is_locked(error: &StoreError) -> bool {
    matches!(error.kind, ErrorKind::Locked(_))
}
