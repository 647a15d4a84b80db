//! What follows from the methods of [`Store`], for every store alike.

use super::Store;
use super::entry::{Entry, Page};
use super::error::{ErrorKind, StoreError};
use super::kind::Kind;
use super::path::RemotePath;
use async_trait::async_trait;

/// What follows from the methods of [`Store`].
#[async_trait]
pub trait StoreExt: Store {
    /// Describes an entry; a symlink at the end of the path is not followed.
    async fn stat(&self, path: &RemotePath) -> Result<Entry, StoreError> {
        let found = self.stat_many(vec![path.clone()]).await.pop();
        found.unwrap_or_else(|| Err(StoreError::new(ErrorKind::NotFound, path)))
    }

    /// Makes a directory and those above it; one that exists is no error.
    async fn make_dir_all(&self, path: &RemotePath) -> Result<(), StoreError> {
        let mut missing = Vec::new();
        let mut outermost = path.clone();
        loop {
            match (self.make_dir(&outermost).await, outermost.split()) {
                (Err(e), Some((parent, _))) if e.kind == ErrorKind::NotFound => {
                    missing.push(std::mem::replace(&mut outermost, parent));
                }
                (made, _) => break made_or_exists(self, &outermost, made).await?,
            }
        }
        for dir in missing.iter().rev() {
            let made = self.make_dir(dir).await;
            made_or_exists(self, dir, made).await?;
        }
        Ok(())
    }

    /// Returns pages of directories, each from its cookie on, until they have `limit` entries
    /// together; at least one page.
    async fn list_many(
        &self,
        dirs: &[(RemotePath, Vec<u8>)],
        limit: usize,
    ) -> Vec<Result<Page, StoreError>> {
        let (mut pages, mut found) = (Vec::with_capacity(dirs.len()), 0_usize);
        for (path, cookie) in dirs {
            let page = self.list(path, cookie, limit.saturating_sub(found).max(1)).await;
            found = found.saturating_add(page.as_ref().map_or(0, |page| page.entries.len()));
            pages.push(page);
            if found >= limit {
                break;
            }
        }
        pages
    }
}

impl<S: Store + ?Sized> StoreExt for S {}

/// A directory that exists already is as good as a new one; anything else of its name is not.
async fn made_or_exists<S: Store + ?Sized>(
    store: &S,
    path: &RemotePath,
    made: Result<(), StoreError>,
) -> Result<(), StoreError> {
    match made {
        Err(e) if e.kind == ErrorKind::Exists => {
            let real = store.resolve(path).await?;
            match store.stat(&real).await?.kind {
                Kind::Dir => Ok(()),
                _ => Err(StoreError::new(ErrorKind::NotADirectory, path)),
            }
        }
        made => made,
    }
}
