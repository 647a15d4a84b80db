//! Where files live. [`Store`] is all that the rest of haul knows of a file system.
//!
//! [`local::LocalStore`] is a directory of this machine, behind open directory handles. The trait is narrow
//! enough for an object store: listing pages have opaque cookies, part sizes are asked of the store, and lock,
//! staging and commit are the store's own business.

mod blocking;
mod durability;
pub mod entry;
pub mod error;
pub mod local;
pub mod path;
pub mod reserved;
pub mod shares;

use async_trait::async_trait;
use std::sync::Arc;

pub use blocking::blocking;
pub use durability::Durability;
pub use entry::{Allocation, Attributes, Entry, Kind, Page, Space, Time, Version};
pub use error::{ErrorKind, Holder, StoreError};
pub use path::{BadPath, Name, RemotePath};

/// Threads of a process that wait for its disks and the like.
pub const BLOCKING_THREADS: usize = 64;

/// Bytes that are shared without being copied: a buffer that goes back to its pool when the last user drops it.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The sizes and the order in which a store wants the content of a larger file.
///
/// Every part but the last has at least `least` bytes; none has more than `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartRules {
    /// Least bytes of a part that is neither the last nor in front of a hole.
    pub least: usize,
    /// Most bytes of a part.
    pub most: usize,
    /// Chunks that wait for a missing one before they are written without it. None: never, each part starts where the one
    /// before has ended.
    pub held: Option<usize>,
}

/// What a new file or link is to be.
#[derive(Clone)]
pub enum Content {
    /// A file with these bytes.
    File(Bytes),
    /// A symlink that points there.
    Link(Vec<u8>),
}

/// An entry that fits into memory, to be put in one go.
#[derive(Clone)]
pub struct NewEntry {
    /// Where.
    pub path: RemotePath,
    /// What.
    pub content: Content,
    /// Its time and mode. Set-uid and set-gid bits are never taken over.
    pub attributes: Attributes,
    /// Refuse unless the target has this version; `none`: unless there is no target.
    pub if_version: Option<String>,
}

/// What [`Store::stage`] needs to know.
#[derive(Clone, Debug)]
pub struct StageRequest {
    /// Who writes, shown to others who want to.
    pub who: String,
    /// As in [`NewEntry`].
    pub if_version: Option<String>,
    /// What the commit survives once it is acknowledged.
    pub durability: Durability,
    /// The version of the source, in the words of the store that it comes from. What an earlier writer of the same
    /// version left may be gone on with; none: it never is.
    pub source: Option<String>,
}

/// The leading bytes of a file that are durable, and what is known of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// How many bytes.
    pub offset: u64,
    /// The BLAKE3 values that cover them; for whoever hashes the file, not for the store.
    pub digests: Vec<[u8; 32]>,
}

/// What [`Store::stage`] found of an earlier writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Nothing that is of any use.
    Fresh,
    /// The beginning of this version of the source.
    From(Checkpoint),
    /// The beginning of another version, this many bytes; it is gone.
    Discarded(u64),
}

/// A staging file that somebody has left, or is writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockEntry {
    /// Of the staging file, without what makes it a staging file; cut where the name is too long for that.
    pub target: Vec<u8>,
    /// Who writes, or wrote, and since when.
    pub holder: Holder,
    /// The writer lives: the lock is held.
    pub live: bool,
}

/// A page of [`Store::locks`].
#[derive(Clone, Debug, Default)]
pub struct LockPage {
    /// Staging files.
    pub held: Vec<LockEntry>,
    /// Where the next page starts; none: that was all.
    pub next: Option<Vec<u8>>,
}

/// Some entries of a directory, and the way to those behind them.
pub struct DirPage {
    /// The entries, in the store's order.
    pub entries: Vec<Entry>,
    /// False where the file system is not known to tell the true sizes of files.
    pub sized: bool,
    /// `None` after the last page.
    pub rest: Option<Box<dyn DirStream>>,
}

/// The entries of a directory that are still to be listed.
#[async_trait]
pub trait DirStream: Send {
    /// The next page, of at most `limit` entries.
    async fn next_page(self: Box<Self>, limit: usize) -> Result<DirPage, StoreError>;
}

/// A file as it was when it was read.
pub struct WholeFile {
    /// Its version before and after it was read: it did not change in between.
    pub version: Version,
    /// All its bytes.
    pub bytes: Vec<u8>,
}

/// Sees bytes as they are read, piece by piece and in order, on the thread that reads them: there they are in the
/// processor's cache.
pub trait Watch: Send + Sync {
    /// The next piece.
    fn see(&self, bytes: &[u8]);
}

/// Nobody looks.
impl Watch for () {
    fn see(&self, _: &[u8]) {}
}

/// What a file has from an offset on, up to `end`. An end beyond the file's means: up to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Bytes that have to be read.
    Data {
        /// Where a hole may begin.
        end: u64,
    },
    /// Nothing: it reads as zeros.
    Hole {
        /// Where data may begin.
        end: u64,
    },
}

/// A file that is open for reading.
#[async_trait]
pub trait FileSource: Send + Sync {
    /// What the open file is now; asked again after reading it tells whether the file changed.
    async fn stat(&self) -> Result<Entry, StoreError>;

    /// True when these bytes can, as far as that can be told, be read with [`FileSource::read_now`].
    fn is_at_hand(&self, offset: u64, length: usize) -> bool;

    /// Reads from `offset` on until `buffer` is full or the file ends, without waiting for any device: for threads that must not
    /// wait. Gives how many bytes there were; none where it would have to wait, and then what is in `buffer` means nothing.
    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Option<Result<usize, StoreError>>;

    /// Whether there is data or a hole at `offset`, and where that ends. A store that cannot tell says data.
    async fn extent(&self, offset: u64) -> Result<Extent, StoreError>;

    /// An error about this file.
    fn error(&self, kind: ErrorKind) -> StoreError;

    /// Reads from `offset` on into `buffer`, up to its length, and shows `watch` what it reads; returns the buffer cut to
    /// what there was, which is less only at the end of the file.
    async fn read_at(&self, offset: u64, buffer: Vec<u8>, watch: Arc<dyn Watch>) -> Result<Vec<u8>, StoreError>;
}

/// A file that is being written, invisible under its name until it is committed. Holding it is holding the
/// target's lock; dropping it lets the lock go, and the next writer takes over.
#[async_trait]
pub trait Staging: Send {
    /// How large parts may be, and in which order they may come.
    fn part_rules(&self) -> PartRules;

    /// Writes one part. Parts obey the [`PartRules`].
    async fn write(&mut self, offset: u64, parts: Vec<Bytes>) -> Result<(), StoreError>;

    /// Leaves a hole of `length` bytes at `offset`: it takes no room where the store can do that, and reads as zeros. The
    /// file reaches at least to its end then.
    async fn hole(&mut self, offset: u64, length: u64) -> Result<(), StoreError>;

    /// How blocks of zeros within parts are stored from now on: densely, unless told otherwise.
    fn allocate(&mut self, allocation: Allocation);

    /// What an earlier writer left. With [`Resume::From`] the next part has its offset, or [`Staging::restart`] comes
    /// first.
    fn left(&self) -> Resume;

    /// What makes leading bytes durable, beside the writing; none where this store, or this file, has no use for it.
    fn checkpointer(&self) -> Option<Arc<dyn Checkpointer>>;

    /// Forgets what was written; the next part has offset 0 and is of this version of the source.
    async fn restart(&mut self, source: Option<String>) -> Result<(), StoreError>;

    /// Makes the file appear under its name, whole and (when durable) on disk; returns its version.
    ///
    /// # Errors
    /// Any, and then the target is what it was.
    async fn commit(self: Box<Self>, size: u64, attributes: Attributes) -> Result<String, StoreError>;

    /// Removes what was staged.
    async fn discard(self: Box<Self>);
}

/// Makes what was staged survive its writer: a crash of the process, or of the machine.
#[async_trait]
pub trait Checkpointer: Send + Sync {
    /// Makes the leading bytes durable, then the record that says so. They have been written.
    ///
    /// # Errors
    /// Any, and then the file must fail: what an fsync has failed on once is lost, whatever a later one says.
    async fn keep(&self, point: Checkpoint) -> Result<(), StoreError>;
}

/// A place that holds a tree of files.
///
/// All paths are beneath the store's root, and stay there whatever symlinks are on the way. Where a method takes
/// many entries, it returns one result for each, in order.
#[async_trait]
pub trait Store: Send + Sync {
    /// The path without symlinks in it, following those that stay beneath the root.
    async fn resolve(&self, path: &RemotePath) -> Result<RemotePath, StoreError>;

    /// The store beneath a directory. It follows no symlinks at all, and may keep handles open: use it for one
    /// transfer and drop it.
    async fn subtree(&self, path: &RemotePath) -> Result<Arc<dyn Store>, StoreError>;

    /// What an entry is; a symlink at the end is not followed.
    async fn stat(&self, path: &RemotePath) -> Result<Entry, StoreError>;

    /// [`Store::stat`] of many.
    async fn stat_many(&self, paths: Vec<RemotePath>) -> Vec<Result<Entry, StoreError>>;

    /// A page of at most `limit` entries of a directory, from `cookie` on (empty: from the start).
    ///
    /// # Errors
    /// [`ErrorKind::SourceChanged`] where the directory changed since the cookie was given, and the
    /// store cannot tell any more which entries were behind it: list the directory again.
    async fn list(&self, path: &RemotePath, cookie: &[u8], limit: usize) -> Result<Page, StoreError>;

    /// Starts to list directories: their first pages, each of at most `limit` entries. Once they
    /// have as many together the rest is left out; one is always there. Every entry that is there
    /// from the first page to the last is in one of them, whatever changes beside it.
    async fn list_whole(&self, paths: Vec<RemotePath>, limit: usize) -> Vec<Result<DirPage, StoreError>>;

    /// Makes a directory; with `parents` also those above it, and then it is no error that it exists.
    async fn make_dir(&self, path: &RemotePath, parents: bool) -> Result<(), StoreError>;

    /// Makes directories for a transfer, outer ones first: one that exists is used. True for those that were made. With
    /// `open_up` those whose mode keeps their owner out get one that does not: for a transfer that sets their mode in the end.
    async fn make_dirs(&self, dirs: Vec<(RemotePath, Attributes)>, open_up: bool) -> Vec<Result<bool, StoreError>>;

    /// Removes a file, a symlink or an empty directory, or with `recursive` everything beneath.
    async fn remove(&self, path: &RemotePath, recursive: bool) -> Result<(), StoreError>;

    /// Renames; a file that is in the way is replaced, as by rename(2).
    async fn rename(&self, from: &RemotePath, to: &RemotePath) -> Result<(), StoreError>;

    /// Sizes of what holds `path`.
    async fn space(&self, path: &RemotePath) -> Result<Space, StoreError>;

    /// Opens a file for reading.
    async fn open(&self, path: &RemotePath) -> Result<Arc<dyn FileSource>, StoreError>;

    /// Reads files of at most `most` bytes each. One that is larger, changes meanwhile or has not as
    /// many bytes as its size fails with [`ErrorKind::SourceChanged`].
    async fn read_whole(&self, paths: Vec<RemotePath>, most: usize) -> Vec<Result<WholeFile, StoreError>>;

    /// Locks, stages and commits entries that fit into memory. Durable ones are on disk, content and name, before
    /// this returns.
    async fn put_whole(
        &self,
        entries: Vec<NewEntry>,
        who: &str,
        durability: Durability,
    ) -> Vec<Result<String, StoreError>>;

    /// Locks a target and opens its staging file.
    async fn stage(&self, path: &RemotePath, request: &StageRequest) -> Result<Box<dyn Staging>, StoreError>;

    /// Sets time and mode of directories (their content is complete) and files.
    async fn set_attributes(&self, entries: Vec<(RemotePath, Attributes)>) -> Vec<Result<(), StoreError>>;

    /// A page of the staging files of the entries of a directory.
    async fn locks(&self, path: &RemotePath, cookie: &[u8], limit: usize) -> Result<LockPage, StoreError>;

    /// Removes the staging file of a target; with `force` also that of a writer who lives, who cannot commit then.
    /// False: there was none.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] where the writer lives.
    async fn unlock(&self, path: &RemotePath, force: bool) -> Result<bool, StoreError>;

    /// True where `found`, the time of the entry at `path`, is what this store makes of `wanted`: some keep whole seconds.
    async fn is_same_time(&self, path: &RemotePath, wanted: Time, found: Time) -> bool;

    /// Makes entries durable that were found as they should be, or has [`Store::sync_unchanged`] do so.
    async fn note_unchanged(&self, found: Vec<(RemotePath, Kind, Version)>) -> Vec<Result<(), StoreError>>;

    /// Makes durable, names and content, whatever [`Store::note_unchanged`] has been told of.
    async fn sync_unchanged(&self) -> Result<(), StoreError>;

    /// Makes every name durable that was made through this store and is not yet.
    async fn sync(&self) -> Result<(), StoreError>;
}
