//! The reads of the pump: a chunk of a larger file, or some small files in one go; and whether what was read is what was
//! offered.

use crate::chunk::CHUNK_SIZE;
use crate::chunk::buffer::{Buffer, BufferPool};
use crate::chunk::digest::{Digest, Hashing, Reading, RootHasher, whole_digest};
use crate::chunk::hole::ZeroChunk;
use crate::net::wire::frame::{FrameHeader, FrameKind};
use crate::store::{Allocation, ErrorKind, FileSource, RemotePath, Store, StoreError, Version};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// A file that the receiver wants.
#[derive(Clone)]
pub struct Wanted {
    /// Its offer's number.
    pub number: u64,
    /// Counts up each time that it is started anew.
    pub attempt: u8,
    /// Where it is.
    pub store: Arc<dyn Store>,
    /// Where it is in there.
    pub path: RemotePath,
    /// Bytes, as offered.
    pub size: u64,
    /// The version that was offered.
    pub version: Version,
    /// Whether it has holes.
    pub allocation: Allocation,
    /// Bytes that the receiver has already.
    pub offset: u64,
    /// The hash of those.
    pub root: RootHasher,
}

impl Wanted {
    pub(super) fn is_small(&self) -> bool {
        self.size <= CHUNK_SIZE as u64
    }

    pub(super) fn header(
        &self,
        kind: FrameKind,
        transfer: u32,
        offset: u64,
        length: usize,
        digest: Digest,
    ) -> FrameHeader {
        FrameHeader {
            kind,
            attempt: self.attempt,
            transfer,
            number: self.number,
            offset,
            length: u32::try_from(length).unwrap_or(u32::MAX),
            digest,
        }
    }

    /// What was read is the version that was offered: no digest would tell that a part of it, or
    /// the beginning that the receiver has, is of another one.
    fn check(&self, found: &Version) -> Result<(), StoreError> {
        match *found == self.version {
            true => Ok(()),
            false => Err(StoreError::new(ErrorKind::SourceChanged, &self.path)),
        }
    }
}

/// A file that is opened by whichever of its jobs comes first.
pub(super) type OpenOnce = Arc<OnceCell<Arc<dyn FileSource>>>;

/// Bytes and their digest.
pub(super) type ReadResult = Result<(Vec<u8>, Digest), StoreError>;

/// The results of one job.
pub(super) enum Job {
    Small(Vec<(Wanted, ReadResult)>),
    Chunk(Wanted, u64, Result<Chunk, StoreError>),
    Hole(Wanted, Vec<ZeroChunk>),
    Seal(Wanted, Digest, Result<(), StoreError>),
}

/// A chunk of a larger file.
pub(super) enum Chunk {
    Read(Buffer, Digest),
    /// To be read by the connection that sends it.
    AtHand(Arc<dyn FileSource>),
}

/// Bytes of the chunk at `offset`.
pub(super) fn chunk_length(wanted: &Wanted, offset: u64) -> usize {
    let left = wanted.size.saturating_sub(offset);
    usize::try_from(left).unwrap_or(CHUNK_SIZE).min(CHUNK_SIZE)
}

pub(super) async fn opened(
    wanted: &Wanted,
    cell: &OnceCell<Arc<dyn FileSource>>,
) -> Result<Arc<dyn FileSource>, StoreError> {
    cell.get_or_try_init(|| wanted.store.open(&wanted.path)).await.cloned()
}

/// The chunk at `offset`, read, unless that does not wait for a device.
pub(super) async fn chunk_of(
    wanted: &Wanted,
    source: &OpenOnce,
    offset: u64,
    pool: &BufferPool,
) -> Result<Chunk, StoreError> {
    let length = chunk_length(wanted, offset);
    let source = opened(wanted, source).await?;
    if source.is_at_hand(offset, length) {
        return Ok(Chunk::AtHand(source));
    }
    let reading = Arc::new(Reading::new(Hashing::of_chunk(offset)));
    let bytes = source.read_at(offset, pool.take(length), reading.clone()).await?;
    if bytes.len() != length {
        return Err(StoreError::new(ErrorKind::SourceChanged, &wanted.path));
    }
    Ok(Chunk::Read(pool.share(bytes), reading.digest()))
}

/// The file that was read is, still, the one that was offered, and all of it was read.
pub(super) async fn check_unchanged(wanted: &Wanted, source: &OpenOnce) -> Result<(), StoreError> {
    let source = opened(wanted, source).await?;
    wanted.check(&source.stat().await?.version)?;
    // its size may be less than what it has
    match source.read_at(wanted.size, vec![0; 1], Arc::new(())).await?.is_empty() {
        true => Ok(()),
        false => Err(source.error(ErrorKind::SourceChanged)),
    }
}

pub(super) async fn read_small(batch: Vec<Wanted>) -> Job {
    let Some(first) = batch.first() else {
        return Job::Small(Vec::new());
    };
    let paths = batch.iter().map(|w| w.path.clone()).collect();
    let read = first.store.read_whole(paths, CHUNK_SIZE).await;
    let results = batch.into_iter().zip(read).map(|(wanted, result)| {
        let result = result.and_then(|file| {
            wanted.check(&file.version)?;
            let digest = whole_digest(&file.bytes);
            Ok((file.bytes, digest))
        });
        (wanted, result)
    });
    Job::Small(results.collect())
}
