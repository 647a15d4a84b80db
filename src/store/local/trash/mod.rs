//! The trash of a directory: `.trash~HASH.haul-trash` in it, which no path leads to.
//!
//! Each call of [`discard::discard`] makes a directory there, a batch. Its name says when the
//! entries were deleted, when they expire, and by which run. Its file `log` has the paths of the
//! entries, and is on disk before the first of them moves: entry number N of the log becomes the
//! batch's entry `N`, with all that it has. So nothing has to be remembered elsewhere, runs cannot
//! collide, and an entry that is not there has not been moved, or was restored.

mod batch;
mod discard;
pub(super) mod empty;
mod list;
mod log;
mod restore;

use super::blocking::blocking_for;
use super::sys::Node;
use super::tree::Tree;
use crate::store::error::At;
use crate::store::trash::{Emptied, EmptyScope, Trash, TrashItem, TrashPage, TrashRun};
use crate::store::{RemotePath, Removal, StoreError};
use async_trait::async_trait;
use std::sync::Arc;

/// Batches that one call of [`Trash::empty`] removes.
const BATCHES_AT_ONCE: usize = 32;

/// The trash of the root of a tree.
pub(super) struct LocalTrash(pub(super) Arc<Tree>);

impl LocalTrash {
    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Tree) -> T + Send + 'static) -> T {
        let tree = self.0.clone();
        blocking_for(self.0.owner(), move || work(&tree)).await
    }
}

#[async_trait]
impl Trash for LocalTrash {
    async fn discard(&self, entries: Vec<Removal>, run: TrashRun) -> Vec<Result<(), StoreError>> {
        self.run(move |tree| discard::discard(tree, &entries, run)).await
    }

    async fn page(&self, cookie: &[u8]) -> Result<TrashPage, StoreError> {
        let cookie = cookie.to_vec();
        self.run(move |tree| list::page(tree, &cookie)).await
    }

    async fn restore(&self, items: Vec<TrashItem>) -> Vec<Result<(), StoreError>> {
        self.run(move |tree| restore::restore(tree, &items)).await
    }

    async fn empty(&self, scope: EmptyScope) -> Result<Emptied, StoreError> {
        self.run(move |tree| {
            let emptied = empty::empty(tree.root(), tree.closed(), scope, BATCHES_AT_ONCE)?;
            tree.root().fsync().at("fsync of the directory", &RemotePath::root())?;
            Ok(emptied)
        })
        .await
    }
}
