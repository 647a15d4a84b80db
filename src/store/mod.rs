//! Where files live. [`Store`] is all that the rest of haul knows of a file system.
//!
//! [`local::LocalStore`] is a directory of this machine, behind open directory handles. The trait
//! also fits a store behind a network; its documentation lists what such a store has to provide.

pub mod accounts;
pub mod backup;
mod blocking;
mod change;
mod dirs;
mod durability;
pub mod entry;
pub mod error;
mod ext;
pub mod kind;
pub mod local;
mod locks;
pub mod metadata;
pub mod objects;
pub mod partial_names;
pub mod path;
mod removal;
pub mod reserved;
pub mod served;
pub mod shares;
mod source;
mod staging;
pub mod trash;

use async_trait::async_trait;
use std::sync::Arc;

pub use backup::{BackupPlan, Suffix};
pub use blocking::blocking;
pub use change::{Change, NewTime};
pub use dirs::{ExistingDirs, MadeDir};
pub use durability::Durability;
pub use entry::{Allocation, Attributes, Entry, Page, Space, Time, Version};
pub use error::{ErrorKind, Holder, StoreError};
pub use ext::StoreExt;
pub use kind::Kind;
pub use locks::{LockEntry, LockPage, UnlockMode};
pub use metadata::{Metadata, Omissions, Owner, Rights, Xattr, XattrSets};
pub use path::{BadPath, Name, RemotePath};
pub use removal::{Removal, RemoveScope};
pub use served::{Served, Swept};
pub use source::{Extent, FileSource, Watch, WholeFile};
pub use staging::{
    Bytes, Checkpoint, Checkpointer, CopyError, FileRange, PartRules, PartWrite, Resume,
    StageRequest, Staging, copy_through,
};
pub use trash::Trash;

/// Threads of a process that wait for its disks and the like.
pub const BLOCKING_THREADS: usize = 64;

/// The content of a new file or link.
#[derive(Clone)]
pub enum Content {
    /// A file with these bytes.
    File(Bytes),
    /// A symlink with this target.
    Symlink(Vec<u8>),
    /// Another name of this entry, if it still has this version.
    HardLink {
        /// Where it is.
        path: RemotePath,
        /// Its version.
        version: Version,
    },
    /// A FIFO, socket or device.
    Special {
        /// Which.
        kind: Kind,
        /// Its number, as in [`Entry::device`].
        device: u64,
    },
}

/// An entry that fits into memory, for [`Store::put_whole`].
#[derive(Clone)]
pub struct NewEntry {
    /// Its place.
    pub path: RemotePath,
    /// Its content.
    pub content: Content,
    /// Its time, mode and metadata. The store takes over set-uid and set-gid bits only with the
    /// owner.
    pub attributes: Attributes,
    /// The version that the target must have; `none` if the target must not exist.
    pub if_version: Option<String>,
}

/// Some entries of a directory, and the way to those behind them.
pub struct DirPage {
    /// The entries, in the store's order.
    pub entries: Vec<Entry>,
    /// False if the file system may report sizes that are not the files' true ones.
    pub sized: bool,
    /// `None` after the last page.
    pub rest: Option<Box<dyn DirStream>>,
}

/// The entries of a directory that are still to be listed.
#[async_trait]
pub trait DirStream: Send {
    /// Returns the next page, of at most `limit` entries.
    async fn next_page(self: Box<Self>, limit: usize) -> Result<DirPage, StoreError>;
}

/// Which symlinks of its sources a transfer replaces by what they lead to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FollowedLinks {
    /// None.
    #[default]
    None,
    /// Those that lead to directories.
    Dirs,
    /// All.
    All,
}

/// A place that holds a tree of files.
///
/// All paths are beneath the store's root, and stay there whatever symlinks are on the way. A
/// method that takes many entries returns one result for each, in order.
///
/// # A store behind a network
///
/// The trait asks for no open directories and no file system. A store that maps paths to object
/// keys provides:
///
/// - **Listings by cookie.** [`Store::list`] returns an opaque cookie, such as the last key of a
///   page. A stream of [`Store::list_whole`] may hold nothing but that cookie.
/// - **Part sizes.** [`Staging::part_rules`] tells the writer how large the parts of an upload may
///   be, and whether they have to come in order.
/// - **Locks.** The store decides how a lock is stored: [`Store::stage`] takes it, [`Store::locks`]
///   lists it. Dropping the [`Staging`] returns it, or lets it expire.
/// - **Commits by condition.** A commit replaces the target at once and completely, if the target
///   still has the version of `if_version`. A conditional write does that on the server's side.
/// - **Checkpoints.** An upload whose finished parts survive offers a [`Checkpointer`]; any other
///   returns `None`.
/// - **Versions.** [`Entry::version`] is any text that changes with the content, such as an entity
///   tag.
///
/// A store that acknowledges nothing before it is durable keeps the default of
/// [`Store::note_unchanged`], [`Store::sync_unchanged`] and [`Store::sync`]. One that keeps times
/// exactly keeps that of [`Store::is_same_time`]; one without owners and extended attributes keeps
/// those of [`Store::xattrs`], [`Store::rights`] and [`Store::omissions`]. Methods that follow from
/// these are in [`StoreExt`].
#[async_trait]
pub trait Store: Send + Sync {
    /// Returns the path without symlinks in it, following those that stay beneath the root.
    async fn resolve(&self, path: &RemotePath) -> Result<RemotePath, StoreError>;

    /// Returns the store beneath a directory. It follows no symlinks at all and may keep handles
    /// open: use it for one transfer and drop it.
    async fn subtree(&self, path: &RemotePath) -> Result<Arc<dyn Store>, StoreError>;

    /// Describes entries; a symlink at the end of a path is not followed.
    async fn stat_many(&self, paths: Vec<RemotePath>) -> Vec<Result<Entry, StoreError>>;

    /// Returns a page of at most `limit` entries of a directory, from `cookie` on (empty: from the
    /// start).
    ///
    /// # Errors
    /// [`ErrorKind::SourceChanged`] if the directory changed since the cookie was made, and the
    /// store cannot tell any more which entries follow it: list the directory again.
    async fn list(
        &self,
        path: &RemotePath,
        cookie: &[u8],
        limit: usize,
    ) -> Result<Page, StoreError>;

    /// Starts to list directories: returns their first pages, each of at most `limit` entries, and
    /// stops once the pages have `limit` entries together; the first is always returned. Every
    /// entry that exists from the first page to the last is in one of them, whatever else changes.
    async fn list_whole(
        &self,
        paths: Vec<RemotePath>,
        limit: usize,
    ) -> Vec<Result<DirPage, StoreError>>;

    /// Makes a directory; the one above it must exist.
    async fn make_dir(&self, path: &RemotePath) -> Result<(), StoreError>;

    /// Makes directories for a transfer, outer ones first; one that exists is used. Returns true
    /// for new ones.
    async fn make_dirs(
        &self,
        dirs: Vec<(RemotePath, Attributes)>,
        existing: ExistingDirs,
    ) -> Vec<Result<bool, StoreError>>;

    /// Makes directories for a transfer as [`Store::make_dirs`] does. This store may make a new one
    /// under another name: other users see it once [`Store::complete_dirs`] has been called for
    /// it, while this store takes its own path. `who` is its writer, shown to others.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] if another writer does so, and this store has none that is not
    /// complete: as the last of fewer results.
    async fn stage_dirs(
        &self,
        dirs: Vec<(RemotePath, Attributes)>,
        existing: ExistingDirs,
        (_who, _durability): (&str, Durability),
    ) -> Vec<Result<MadeDir, StoreError>> {
        let made = self.make_dirs(dirs, existing).await;
        made.into_iter().map(|made| made.map(MadeDir::in_place)).collect()
    }

    /// Sets time, mode and metadata of directories of [`Store::stage_dirs`], those that have any,
    /// which are complete, inner ones first. New ones get their names, durable after
    /// [`Store::sync`], with everything in them.
    async fn complete_dirs(
        &self,
        dirs: Vec<(RemotePath, Option<Attributes>)>,
        _durability: Durability,
    ) -> Vec<Result<(), StoreError>> {
        let set = dirs
            .iter()
            .filter_map(|(path, attributes)| Some((path.clone(), attributes.clone()?)));
        let mut ends = self.set_attributes(set.collect()).await.into_iter();
        let end = |attributes: &Option<Attributes>| {
            let end = attributes.as_ref().and_then(|_| ends.next());
            end.unwrap_or(Ok(()))
        };
        dirs.iter().map(|(_, attributes)| attributes).map(end).collect()
    }

    /// Returns this store for another transfer, if it has a state of each: what an earlier one has
    /// opened and made is not in it. Dropping a store gives up its directories of
    /// [`Store::stage_dirs`] that are not complete.
    fn renewed(&self) -> Option<Arc<dyn Store>> {
        None
    }

    /// Removes an entry, or everything beneath it too.
    async fn remove(&self, path: &RemotePath, scope: RemoveScope) -> Result<(), StoreError>;

    /// Removes entries one after another, if they still are what a listing said. What is gone
    /// already is no error. Durable after [`Store::sync`].
    ///
    /// # Errors
    /// [`ErrorKind::VersionChanged`] for an entry of another kind, size or time,
    /// [`ErrorKind::NotEmpty`] for a directory that is not empty.
    async fn remove_many(&self, entries: Vec<Removal>) -> Vec<Result<(), StoreError>> {
        let paths = entries.iter().map(|removal| removal.path.clone()).collect();
        let found = self.stat_many(paths).await;
        let mut results = Vec::with_capacity(entries.len());
        for (removal, found) in entries.iter().zip(found) {
            results.push(match found.and_then(|found| removal.check(&found)) {
                Ok(()) => self.remove(&removal.path, RemoveScope::Entry).await,
                Err(e) if e.kind == ErrorKind::NotFound => Ok(()),
                Err(e) => Err(e),
            });
        }
        results
    }

    /// Renames an entry; a file in its way is replaced, as by rename(2).
    async fn rename(&self, from: &RemotePath, to: &RemotePath) -> Result<(), StoreError>;

    /// Renames an entry to a name that nothing has.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] if something has it.
    async fn rename_new(&self, from: &RemotePath, to: &RemotePath) -> Result<(), StoreError>;

    /// Changes the mode or the time of a file or directory, durably. It follows no symlink.
    async fn change(&self, path: &RemotePath, change: Change) -> Result<(), StoreError>;

    /// Returns the sizes of the device that holds `path`; `None` if this store has none.
    async fn space(&self, path: &RemotePath) -> Result<Option<Space>, StoreError>;

    /// Opens a file for reading.
    async fn open(&self, path: &RemotePath) -> Result<Arc<dyn FileSource>, StoreError>;

    /// Reads files of at most `most` bytes each.
    ///
    /// # Errors
    /// [`ErrorKind::SourceChanged`] for a file that is larger, changes meanwhile, or has not as
    /// many bytes as its size.
    async fn read_whole(
        &self,
        paths: Vec<RemotePath>,
        most: usize,
    ) -> Vec<Result<WholeFile, StoreError>>;

    /// Locks, stages and commits entries that fit into memory. Durable ones are on disk, content
    /// and name, before this returns; in a directory of [`Store::stage_dirs`] the content is.
    async fn put_whole(
        &self,
        entries: Vec<NewEntry>,
        who: &str,
        durability: Durability,
    ) -> Vec<Result<String, StoreError>>;

    /// Locks a target and opens its partial file.
    async fn stage(
        &self,
        path: &RemotePath,
        request: &StageRequest,
    ) -> Result<Box<dyn Staging>, StoreError>;

    /// Returns the extended attributes of an entry that are in these sets, by name.
    ///
    /// # Errors
    /// Also for more than [`metadata::MAX_XATTRS`] or [`metadata::MAX_XATTR_BYTES`].
    async fn xattrs(&self, _path: &RemotePath, _sets: XattrSets) -> Result<Vec<Xattr>, StoreError> {
        Ok(Vec::new())
    }

    /// Returns what this store may set.
    fn rights(&self) -> Rights {
        Rights::default()
    }

    /// Returns the trash of the root, if this store can move entries there. It must follow no
    /// symlinks.
    fn trash(&self) -> Option<Arc<dyn Trash>> {
        None
    }

    /// Returns what could not be set so far. A store of [`Store::subtree`] counts by itself.
    fn omissions(&self) -> Omissions {
        Omissions::default()
    }

    /// Counts what a caller found that this store may not set.
    fn omit(&self, _omitted: &Omissions) {}

    /// Sets time, mode and metadata of entries.
    async fn set_attributes(
        &self,
        entries: Vec<(RemotePath, Attributes)>,
    ) -> Vec<Result<(), StoreError>>;

    /// Returns a page of the partial files and locks of a directory's entries.
    async fn locks(
        &self,
        path: &RemotePath,
        cookie: &[u8],
        limit: usize,
    ) -> Result<LockPage, StoreError>;

    /// Removes the lock and the partial file of a target; false if there is none. A writer that
    /// lives and loses its lock cannot commit any more.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] if the writer lives and `mode` does not allow for that.
    async fn unlock(&self, path: &RemotePath, mode: UnlockMode) -> Result<bool, StoreError>;

    /// True if this store turns the time `wanted` into `found`, the time of the entry at `path`:
    /// some stores keep whole seconds.
    async fn is_same_time(&self, _path: &RemotePath, wanted: Time, found: Time) -> bool {
        wanted == found
    }

    /// Makes unchanged entries durable, or has [`Store::sync_unchanged`] do so.
    async fn note_unchanged(
        &self,
        found: Vec<(RemotePath, Kind, Version)>,
    ) -> Vec<Result<(), StoreError>> {
        found.iter().map(|_| Ok(())).collect()
    }

    /// Makes durable, names and content, all entries that [`Store::note_unchanged`] was given.
    async fn sync_unchanged(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Makes every name durable that was made through this store and is not yet.
    async fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
