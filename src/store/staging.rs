//! Files that arrive in parts.

use super::durability::Durability;
use super::entry::{Allocation, Attributes};
use super::error::{ErrorKind, StoreError};
use super::source::FileSource;
use async_trait::async_trait;
use std::pin::Pin;
use std::sync::Arc;

/// Bytes that are shared without being copied: a buffer that returns to its pool when its last user
/// drops it.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A part on its way into a file.
pub type PartWrite = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// The sizes and the order in which a store wants the content of a larger file.
///
/// Every part but the last has at least `least` bytes; none has more than `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartRules {
    /// Least bytes of a part that is neither the last nor in front of a hole.
    pub least: usize,
    /// Most bytes of a part.
    pub most: usize,
    /// As many chunks wait for a missing one before they are written without it. `None` if they
    /// always wait: each part starts where the one before has ended.
    pub skip_gap_after: Option<usize>,
}

/// The parameters of [`super::Store::stage`].
#[derive(Clone, Debug)]
pub struct StageRequest {
    /// The writer, shown to others that want to write the target.
    pub who: String,
    /// As in [`super::NewEntry`].
    pub if_version: Option<String>,
    /// What the commit survives once it is acknowledged.
    pub durability: Durability,
    /// Bytes of the file, if that is known.
    pub size: Option<u64>,
    /// Bytes that the sender may have outstanding: a part that is larger would never be complete.
    pub window: u64,
    /// The version of the source, in the words of the store that it comes from. A writer resumes
    /// the partial file of the same version; without a version it never resumes.
    pub source: Option<String>,
}

/// The leading bytes of a file that are durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The number of bytes.
    pub offset: u64,
    /// The BLAKE3 values that cover them: for the component that hashes the file, not for the
    /// store.
    pub digests: Vec<[u8; 32]>,
}

/// Where a writer starts, given the partial file of an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At the beginning: there was no usable partial file.
    Fresh,
    /// At a checkpoint of the same version of the source.
    From(Checkpoint),
    /// At the beginning: there was a partial file that is not resumed. Of it this many bytes were
    /// durable, and were removed.
    Discarded(u64),
}

/// Bytes that are read and written at once where the system does not copy.
const COPIED: usize = 1 << 20;

/// The bytes of a file from one offset to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRange {
    /// The first byte.
    pub offset: u64,
    /// The first byte behind it.
    pub end: u64,
}

/// The file that a copy failed on.
#[derive(Debug)]
pub enum CopyError {
    /// It cannot be read, or has changed.
    Source(StoreError),
    /// It cannot be written.
    Target(StoreError),
}

/// A file that is being written, invisible under its name until it is committed. It holds the
/// target's lock; dropping it releases the lock, and the next writer takes over.
#[async_trait]
pub trait Staging: Send {
    /// Returns how large parts may be, and in which order they may come.
    fn part_rules(&self) -> PartRules;

    /// Writes one part. Parts obey the [`PartRules`].
    async fn write(&mut self, offset: u64, parts: Vec<Bytes>) -> Result<(), StoreError>;

    /// How many parts may be written at once, by [`Staging::begin_write`].
    fn writes_at_once(&self) -> usize {
        1
    }

    /// Begins to write one part; `None` if this store writes one at a time. Parts begin in order,
    /// and may end in any. A hole, a restart or the commit waits for them.
    fn begin_write(&mut self, _offset: u64, _parts: Vec<Bytes>) -> Option<PartWrite> {
        None
    }

    /// Leaves a hole of `length` bytes at `offset`, and extends the file to its end. The hole reads
    /// as zeros, and takes no room if the store can do that.
    async fn hole(&mut self, offset: u64, length: u64) -> Result<(), StoreError>;

    /// Makes the file share all blocks of `source`, whose content it then has. False if the file
    /// systems cannot do that; what was written so far is then unchanged.
    async fn share_blocks(&mut self, _source: &Arc<dyn FileSource>) -> bool {
        false
    }

    /// Copies bytes from the same place in `source`: within the system, if the store can do that.
    ///
    /// # Errors
    /// Which of the two files failed, and why.
    async fn copy(
        &mut self,
        source: &Arc<dyn FileSource>,
        range: FileRange,
    ) -> Result<(), CopyError> {
        copy_through(self, source, range).await
    }

    /// Sets how blocks of zeros within later parts are stored; the default is
    /// [`Allocation::Dense`].
    fn allocate(&mut self, allocation: Allocation);

    /// Returns where this writer starts. With [`Resume::From`] the next part has that offset,
    /// unless [`Staging::restart`] comes first.
    fn resume(&self) -> Resume;

    /// Returns the handle that makes leading bytes durable beside the writing; `None` if this
    /// store, or this file, has no use for it.
    fn checkpointer(&self) -> Option<Arc<dyn Checkpointer>>;

    /// Forgets all that was written; the next part has offset 0 and is of this version of the
    /// source.
    async fn restart(&mut self, source: Option<String>) -> Result<(), StoreError>;

    /// Tells the BLAKE3 hash of the file that is going to be committed, if it is known.
    fn set_hash(&mut self, _hash: [u8; 32]) {}

    /// Publishes the file under its name, complete and, if it is to be durable, on disk; returns
    /// its version.
    ///
    /// # Errors
    /// Any; the target is then unchanged, unless the error says otherwise.
    async fn commit(
        self: Box<Self>,
        size: u64,
        attributes: Attributes,
    ) -> Result<String, StoreError>;

    /// Removes the partial file.
    async fn discard(self: Box<Self>);
}

/// Makes the beginning of a partial file survive a crash of its writer, or of the machine.
#[async_trait]
pub trait Checkpointer: Send + Sync {
    /// Makes the leading bytes durable, which have been written, and then the record that says so.
    ///
    /// # Errors
    /// Any; the file must fail then. Data that an fsync has failed on is lost, whatever a later
    /// fsync returns.
    async fn checkpoint(&self, point: Checkpoint) -> Result<(), StoreError>;
}

/// Copies bytes from the same place in `source`, through this process.
///
/// # Errors
/// As [`Staging::copy`].
pub async fn copy_through<S: Staging + ?Sized>(
    staging: &mut S,
    source: &Arc<dyn FileSource>,
    range: FileRange,
) -> Result<(), CopyError> {
    let mut offset = range.offset;
    while offset < range.end {
        let rest = range.end.saturating_sub(offset);
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(COPIED);
        let read = source.read_at(offset, vec![0; length], Arc::new(())).await;
        let bytes = read.map_err(CopyError::Source)?;
        if bytes.len() != length {
            return Err(CopyError::Source(source.error(ErrorKind::SourceChanged)));
        }
        staging
            .write(offset, vec![Arc::new(bytes)])
            .await
            .map_err(CopyError::Target)?;
        offset = offset.saturating_add(length as u64);
    }
    Ok(())
}
