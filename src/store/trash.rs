//! The trash of a directory: what deletions have moved there instead of removing it.

use super::Removal;
use super::error::StoreError;
use super::kind::Kind;
use super::path::RemotePath;
use async_trait::async_trait;
use std::time::Duration;

/// Most entries of a page.
pub const MAX_TRASHED: usize = 512;

/// A run of deletions into the trash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrashRun {
    /// Its number, a random one.
    pub id: u32,
    /// How long the trash has them.
    pub lifetime: Duration,
}

/// An entry of a trash, as requests name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrashItem {
    /// The batch of a run in which it was moved; opaque.
    pub batch: String,
    /// Its number there.
    pub index: u32,
}

/// What an entry of a trash was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrashedEntry {
    /// Which it is.
    pub item: TrashItem,
    /// Where it was, from the directory that has the trash.
    pub path: RemotePath,
    /// Its kind.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// When it was deleted, in seconds since 1970.
    pub deleted: u64,
    /// When the trash gives it up, in seconds since 1970.
    pub expires: u64,
    /// The number of the run.
    pub run: u32,
}

/// Some entries of a trash, the last deletions first, and the way to those behind them.
#[derive(Debug, Default)]
pub struct TrashPage {
    /// At most [`MAX_TRASHED`].
    pub entries: Vec<TrashedEntry>,
    /// `None` after the last page.
    pub next: Option<Vec<u8>>,
}

/// How much [`Trash::empty`] removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmptyScope {
    /// What has expired.
    Expired,
    /// Everything.
    All,
}

/// What [`Trash::empty`] has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Emptied {
    /// Entries.
    pub removed: u64,
    /// There is more to remove: call it once more.
    pub more: bool,
}

/// The trash of the root of a store that follows no symlinks.
#[async_trait]
pub trait Trash: Send + Sync {
    /// Moves entries there one after another, if they still are what a listing said. What is gone
    /// already is no error. A directory must be empty. Durable after [`super::Store::sync`].
    ///
    /// # Errors
    /// As [`super::Store::remove_many`].
    async fn discard(&self, entries: Vec<Removal>, run: TrashRun) -> Vec<Result<(), StoreError>>;

    /// Returns a page of its entries, from `cookie` on (empty: from the start).
    async fn page(&self, cookie: &[u8]) -> Result<TrashPage, StoreError>;

    /// Moves entries back, durably; missing directories above them are made. A directory that
    /// exists is as good as a restored one.
    ///
    /// # Errors
    /// [`super::ErrorKind::Exists`] where something is: it stays.
    async fn restore(&self, items: Vec<TrashItem>) -> Vec<Result<(), StoreError>>;

    /// Removes entries for good.
    async fn empty(&self, scope: EmptyScope) -> Result<Emptied, StoreError>;
}
