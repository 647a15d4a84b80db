//! A tree as the destination of a transfer, and what becomes of targets that another writer has.

use crate::net::transfer::options::Options;
use crate::store::{
    Attributes, ErrorKind, ExistingDirs, Holder, MadeDir, RemotePath, Store, StoreError,
};
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
    /// Makes directories, outer ones first.
    pub(super) async fn make_dirs(
        &self,
        dirs: Vec<(RemotePath, Attributes)>,
        options: &Options,
    ) -> Vec<Result<MadeDir, StoreError>> {
        if self.dry_run || options.existing {
            let planned = self.plan_dirs(dirs, options).await;
            return planned.into_iter().map(|made| made.map(MadeDir::in_place)).collect();
        }
        if let Some(base) = &self.base {
            // where it cannot be made, what goes into it fails
            let _ = self.store.make_dir(base).await;
        }
        let existing = match self.write_only {
            true => ExistingDirs::Untouched,
            false if options.replaces_files() => ExistingDirs::Replace,
            false => ExistingDirs::OpenUp,
        };
        match options.stages_dirs() && !self.write_only {
            true => self.stage_dirs(dirs, existing, options).await,
            false => self.make_in_place(dirs, existing).await,
        }
    }

    async fn make_in_place(
        &self,
        dirs: Vec<(RemotePath, Attributes)>,
        existing: ExistingDirs,
    ) -> Vec<Result<MadeDir, StoreError>> {
        let made = self.store.make_dirs(dirs, existing).await;
        made.into_iter().map(|made| made.map(MadeDir::in_place)).collect()
    }

    /// Makes new directories that get their names later. One that another writer makes in this way
    /// is waited for, as the options say, and then made in place: that of the other writer is
    /// merged with it.
    async fn stage_dirs(
        &self,
        mut dirs: Vec<(RemotePath, Attributes)>,
        existing: ExistingDirs,
        options: &Options,
    ) -> Vec<Result<MadeDir, StoreError>> {
        let mut results = Vec::with_capacity(dirs.len());
        let began = Instant::now();
        let deadline = options.wait.map(|wait| began + wait);
        let (mut pause, mut asked) = (Duration::from_millis(20), false);
        while !dirs.is_empty() {
            let with = (self.who.as_str(), options.durability);
            let mut made = self.store.stage_dirs(dirs.clone(), existing, with).await;
            let locked = match made.pop() {
                Some(Err(e)) if is_locked(&e) => Some(e),
                last => {
                    made.extend(last);
                    None
                }
            };
            debug_assert!(locked.is_some() || made.len() == dirs.len(), "one result for each");
            dirs.drain(..made.len().min(dirs.len()));
            results.extend(made);
            match locked {
                Some(e) if !asked && self.released(&e).await => asked = true,
                Some(e) if self.waits(&e, began, deadline) => {
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(Duration::from_secs(1));
                }
                _ => {
                    let next = dirs.drain(..dirs.len().min(1)).collect();
                    results.extend(self.make_in_place(next, existing).await);
                }
            }
        }
        results
    }

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
