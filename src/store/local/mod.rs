//! The store that is a directory of this machine.
//!
//! `tree` opens directories beneath the root, within the limits of `fd_budget`. `stat` describes
//! entries, `listing` lists them, `read` reads. `lock`, `record`, `stage`, `small` and `commit`
//! write files, and `partial_dir` new directories; `partial` finds what other writers abandoned;
//! `dir_ops` makes, removes and renames. All of these are system calls in blocking functions, which
//! this file moves off the async threads.

mod attributes;
mod backup;
mod blocking;
mod change;
mod closed;
mod commit;
mod dir_ops;
mod direct;
mod fd_budget;
mod flush;
mod follow;
mod fs_type;
mod inode;
mod listing;
mod lock;
mod meta_overlay;
mod meta_record;
mod new_entry;
mod open;
mod partial;
mod partial_dir;
mod partial_file;
mod read;
pub mod record;
mod remove_tree;
mod served;
#[cfg(test)]
pub(crate) mod simulated;
mod small;
mod sparse;
mod stage;
mod stat;
mod sys;
mod target;
mod times;
mod trash;
mod tree;
mod unchanged;
mod xattrs;

use super::trash::Trash;
use super::{
    Attributes, Change, DirPage, Durability, Entry, ExistingDirs, FileSource, Kind, LockPage,
    MadeDir, NewEntry, Omissions, Page, RemotePath, Removal, RemoveScope, Rights, Space,
    StageRequest, Staging, Store, StoreError, Time, UnlockMode, Version, WholeFile, Xattr,
    XattrSets,
};
use async_trait::async_trait;
use blocking::blocking_for;
use cap_std::fs::Dir;
use fd_budget::HANDLES;
use meta_overlay::{overlay_all, overlay_at, overlay_page, read_xattrs};
pub use served::ServedDir;
use std::sync::Arc;
use times::Times;
use trash::LocalTrash;
use tree::Tree;
use unchanged::Unchanged;

/// A directory of this machine as a [`Store`]. Cheap to clone.
#[derive(Clone)]
pub struct LocalStore {
    tree: Arc<Tree>,
    unchanged: Arc<Unchanged<Dir>>,
    times: Arc<Times<Dir>>,
}

impl LocalStore {
    /// Closes this store and its subtrees: they publish nothing and remove nothing any more, not
    /// even in calls under way. The user may not write any more.
    pub fn close(&self) {
        self.tree.closed().set();
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Tree>) -> T + Send + 'static,
    ) -> T {
        let tree = self.tree.clone();
        blocking_for(self.tree.owner(), move || work(&tree)).await
    }

    async fn run_on<T: Send + 'static>(
        &self,
        path: &RemotePath,
        work: impl FnOnce(&Tree, &RemotePath) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let path = path.clone();
        self.run(move |tree| work(tree, &path)).await
    }
}

#[async_trait]
impl Store for LocalStore {
    async fn resolve(&self, path: &RemotePath) -> Result<RemotePath, StoreError> {
        self.run_on(path, dir_ops::resolve).await
    }

    async fn subtree(&self, path: &RemotePath) -> Result<Arc<dyn Store>, StoreError> {
        let dir = self.run_on(path, Tree::dir).await?;
        Ok(Arc::new(LocalStore::over(self.tree.beneath(dir))))
    }

    async fn stat_many(&self, paths: Vec<RemotePath>) -> Vec<Result<Entry, StoreError>> {
        self.run(move |tree| {
            let mut found = stat::stat_many(tree, &paths);
            for (path, found) in paths.iter().zip(&mut found) {
                let _ = found.as_mut().map(|entry| overlay_at(tree, path, entry));
            }
            found
        })
        .await
    }

    async fn list(
        &self,
        path: &RemotePath,
        cookie: &[u8],
        limit: usize,
    ) -> Result<Page, StoreError> {
        let cookie = cookie.to_vec();
        self.run_on(path, move |tree, path| {
            let mut page = listing::page_from(tree, path, &cookie, limit)?;
            overlay_all(tree, path, &mut page.entries);
            Ok(page)
        })
        .await
    }

    async fn list_whole(
        &self,
        paths: Vec<RemotePath>,
        limit: usize,
    ) -> Vec<Result<DirPage, StoreError>> {
        self.run(move |tree| {
            let pages = listing::first_pages(tree, paths.clone(), limit).into_iter();
            let overlaid = |(page, dir): (Result<DirPage, _>, _)| {
                page.map(|page| overlay_page(tree, dir, page))
            };
            pages.zip(paths).map(overlaid).collect()
        })
        .await
    }

    async fn make_dir(&self, path: &RemotePath) -> Result<(), StoreError> {
        self.run_on(path, dir_ops::make_dir).await
    }

    async fn make_dirs(
        &self,
        dirs: Vec<(RemotePath, Attributes)>,
        existing: ExistingDirs,
    ) -> Vec<Result<bool, StoreError>> {
        self.run(move |tree| {
            dirs.iter()
                .map(|(path, a)| dir_ops::ensure_dir(tree, path, a.mode, existing))
                .map(|made| made.map(|made| made != MadeDir::Existing))
                .collect()
        })
        .await
    }

    async fn stage_dirs(
        &self,
        dirs: Vec<(RemotePath, Attributes)>,
        existing: ExistingDirs,
        (who, durability): (&str, Durability),
    ) -> Vec<Result<MadeDir, StoreError>> {
        let who = who.to_string();
        self.run(move |tree| {
            let mut made = Vec::with_capacity(dirs.len());
            for (path, attributes) in &dirs {
                let staged = partial_dir::stage::stage(tree, path, (&who, durability));
                let is_locked = staged.is_err();
                made.push(match staged.transpose() {
                    None => dir_ops::ensure_dir(tree, path, attributes.mode, existing),
                    Some(staged) => staged,
                });
                if is_locked {
                    break;
                }
            }
            made
        })
        .await
    }

    async fn complete_dirs(
        &self,
        dirs: Vec<(RemotePath, Option<Attributes>)>,
        durability: Durability,
    ) -> Vec<Result<(), StoreError>> {
        self.run(move |tree| partial_dir::publish::complete(tree, &dirs, durability))
            .await
    }

    fn renewed(&self) -> Option<Arc<dyn Store>> {
        Some(Arc::new(LocalStore::over(self.tree.renewed())))
    }

    async fn remove(&self, path: &RemotePath, scope: RemoveScope) -> Result<(), StoreError> {
        self.run_on(path, move |tree, path| dir_ops::remove(tree, path, scope))
            .await
    }

    async fn remove_many(&self, entries: Vec<Removal>) -> Vec<Result<(), StoreError>> {
        self.run(move |tree| dir_ops::remove_many(tree, &entries)).await
    }

    async fn rename(&self, from: &RemotePath, to: &RemotePath) -> Result<(), StoreError> {
        let to = to.clone();
        self.run_on(from, move |tree, from| dir_ops::rename(tree, from, &to)).await
    }

    async fn rename_new(&self, from: &RemotePath, to: &RemotePath) -> Result<(), StoreError> {
        let to = to.clone();
        self.run_on(from, move |tree, from| change::rename_new(tree, from, &to))
            .await
    }

    async fn change(&self, path: &RemotePath, change: Change) -> Result<(), StoreError> {
        self.run_on(path, move |tree, path| change::change(tree, path, change))
            .await
    }

    async fn space(&self, path: &RemotePath) -> Result<Option<Space>, StoreError> {
        self.run_on(path, stat::space).await.map(Some)
    }

    async fn open(&self, path: &RemotePath) -> Result<Arc<dyn FileSource>, StoreError> {
        let path = path.clone();
        Ok(Arc::new(self.run(move |tree| read::open(tree, &path)).await?))
    }

    async fn read_whole(
        &self,
        paths: Vec<RemotePath>,
        most: usize,
    ) -> Vec<Result<WholeFile, StoreError>> {
        self.run(move |tree| paths.iter().map(|p| read::read_whole(tree, p, most)).collect())
            .await
    }

    async fn put_whole(
        &self,
        entries: Vec<NewEntry>,
        who: &str,
        durability: Durability,
    ) -> Vec<Result<String, StoreError>> {
        let mut results = Vec::with_capacity(entries.len());
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let mut group: Vec<NewEntry> = entries.by_ref().take(HANDLES.most_grouped).collect();
            let _open = HANDLES.grouped.take(self.tree.owner(), group.len() as u64).await;
            let who = who.to_string();
            results.extend(
                self.run(move |tree| {
                    meta_record::as_files(tree, &mut group);
                    small::put_whole(tree, &group, &who, durability)
                })
                .await,
            );
        }
        results
    }

    async fn stage(
        &self,
        path: &RemotePath,
        request: &StageRequest,
    ) -> Result<Box<dyn Staging>, StoreError> {
        let (path, request) = (path.clone(), request.clone());
        let open = HANDLES.staged.take(self.tree.owner(), 1).await;
        let staged = self.run(move |tree| stage::stage(tree, &path, &request, Some(open))).await;
        Ok(Box::new(staged?))
    }

    async fn xattrs(&self, path: &RemotePath, sets: XattrSets) -> Result<Vec<Xattr>, StoreError> {
        self.run_on(path, move |tree, path| read_xattrs(tree, path, sets)).await
    }

    fn rights(&self) -> Rights {
        self.tree.rights().clone()
    }

    fn omissions(&self) -> Omissions {
        self.tree.omissions().get()
    }

    fn omit(&self, omitted: &Omissions) {
        let omitted = attributes::because(self.tree.rights(), omitted.clone());
        self.tree.omissions().count(&omitted);
    }

    async fn set_attributes(
        &self,
        entries: Vec<(RemotePath, Attributes)>,
    ) -> Vec<Result<(), StoreError>> {
        self.run(move |tree| {
            entries
                .iter()
                .map(|(p, a)| attributes::set_attributes(tree, p, a))
                .collect()
        })
        .await
    }

    async fn locks(
        &self,
        path: &RemotePath,
        cookie: &[u8],
        limit: usize,
    ) -> Result<LockPage, StoreError> {
        let cookie = cookie.to_vec();
        self.run_on(path, move |tree, path| partial::locks(tree, path, &cookie, limit))
            .await
    }

    async fn unlock(&self, path: &RemotePath, mode: UnlockMode) -> Result<bool, StoreError> {
        self.run_on(path, move |tree, path| partial::unlock(tree, path, mode)).await
    }

    async fn is_same_time(&self, path: &RemotePath, wanted: Time, found: Time) -> bool {
        if wanted == found || !times::may_be_same(wanted, found) {
            return wanted == found;
        }
        let (path, times) = (path.clone(), self.times.clone());
        self.run(move |_| times.is_same(&path, wanted, found)).await
    }

    async fn note_unchanged(
        &self,
        found: Vec<(RemotePath, Kind, Version)>,
    ) -> Vec<Result<(), StoreError>> {
        if found.iter().all(|(_, _, version)| self.unchanged.covers(version)) {
            return found.iter().map(|_| Ok(())).collect();
        }
        let unchanged = self.unchanged.clone();
        self.run(move |_| found.iter().map(|entry| unchanged.note(entry)).collect())
            .await
    }

    async fn sync_unchanged(&self) -> Result<(), StoreError> {
        let unchanged = self.unchanged.clone();
        self.run(move |_| unchanged.sync()).await
    }

    fn trash(&self) -> Option<Arc<dyn Trash>> {
        Some(Arc::new(LocalTrash(self.tree.clone())))
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.run(|tree| backup::sync_all(tree)).await
    }
}

#[cfg(test)]
mod power;
#[cfg(test)]
mod tests;
