//! The reads of a sender, as jobs without state: a chunk of a larger file, some small files in one
//! go, a hole, and whether what was read is what was offered.

use crate::chunk::buffer::{Buffer, BufferPool};
use crate::chunk::digest::{Digest, Hashing, Reading, RootHasher, whole_digest};
use crate::chunk::hole::{self, ZeroChunk};
use crate::chunk::window::{Permit, cost};
use crate::chunk::{CHUNK_SIZE, Extent, chunk_length};
use crate::net::data::body::FileId;
use crate::store::{Allocation, ErrorKind, FileSource, RemotePath, Store, StoreError, Version};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// A file that the receiver wants.
#[derive(Clone)]
pub(super) struct WantedFile {
    /// Which attempt at which offer.
    pub(super) id: FileId,
    pub(super) store: Arc<dyn Store>,
    /// Where it is in there.
    pub(super) path: RemotePath,
    /// Bytes, as offered.
    pub(super) size: u64,
    /// The version that was offered.
    pub(super) version: Version,
    /// Whether it has holes.
    pub(super) allocation: Allocation,
    /// Bytes that the receiver has already, and their hash.
    pub(super) offset: u64,
    pub(super) root: RootHasher,
}

impl WantedFile {
    /// True of a file that travels as one frame.
    pub(super) fn is_small(&self) -> bool {
        self.size <= CHUNK_SIZE as u64
    }

    /// What a small file takes of the window.
    pub(super) fn cost(&self) -> u64 {
        cost(usize::try_from(self.size).unwrap_or(CHUNK_SIZE))
    }

    /// The chunk at `offset`, of at most `most` bytes.
    pub(super) fn chunk(&self, offset: u64, most: u64) -> Extent {
        let remaining = self.size.saturating_sub(offset);
        Extent {
            offset,
            length: chunk_length(offset, remaining, most),
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

/// A small file that was read: its bytes, their digest, and what they take of the window.
pub(super) struct SmallRead {
    pub(super) id: FileId,
    pub(super) permit: Permit,
    pub(super) result: Result<(Vec<u8>, Digest), StoreError>,
}

/// How a job ended.
pub(super) enum ReadDone {
    Small(Vec<SmallRead>),
    Chunk {
        id: FileId,
        extent: Extent,
        permit: Permit,
        result: Result<Chunk, StoreError>,
    },
    Hole {
        id: FileId,
        chunks: Vec<ZeroChunk>,
    },
    /// The file is open for the receiver to copy.
    Opened {
        id: FileId,
        result: Result<Arc<dyn FileSource>, StoreError>,
    },
    /// The file was looked at once more, when all of it had been read.
    Checked {
        id: FileId,
        hash: Option<Digest>,
        permit: Permit,
        result: Result<(), StoreError>,
    },
}

/// A chunk of a larger file.
pub(super) enum Chunk {
    Read(Buffer, Digest),
    /// To be read by the connection that sends it.
    Deferred(Arc<dyn FileSource>),
}

/// The file's source, opened if it is not.
pub(super) async fn opened(
    file: &WantedFile,
    cell: &OpenOnce,
) -> Result<Arc<dyn FileSource>, StoreError> {
    cell.get_or_try_init(|| file.store.open(&file.path)).await.cloned()
}

/// Reads a chunk, unless it can be read without waiting for a device.
pub(super) async fn read_chunk(
    file: WantedFile,
    source: OpenOnce,
    extent: Extent,
    permit: Permit,
    pool: BufferPool,
) -> ReadDone {
    let result = chunk_of(&file, &source, extent, &pool).await;
    ReadDone::Chunk {
        id: file.id,
        extent,
        permit,
        result,
    }
}

async fn chunk_of(
    file: &WantedFile,
    source: &OpenOnce,
    extent: Extent,
    pool: &BufferPool,
) -> Result<Chunk, StoreError> {
    let (offset, length) = (extent.offset, usize::try_from(extent.length).unwrap_or(CHUNK_SIZE));
    let source = opened(file, source).await?;
    if source.is_at_hand(offset, length) {
        return Ok(Chunk::Deferred(source));
    }
    let reading = Arc::new(Reading::new(Hashing::of_chunk(offset)));
    let bytes = source.read_at(offset, pool.take(length), reading.clone()).await?;
    if bytes.len() != length {
        return Err(StoreError::new(ErrorKind::SourceChanged, &file.path));
    }
    Ok(Chunk::Read(pool.share(bytes), reading.digest()))
}

/// Hashes a hole.
pub(super) async fn hash_hole(id: FileId, extent: Extent) -> ReadDone {
    let chunks = hole::chunks(extent.offset, extent.length).await;
    ReadDone::Hole { id, chunks }
}

/// Opens a file for the receiver to copy.
pub(super) async fn open_for_copy(file: WantedFile, source: OpenOnce) -> ReadDone {
    let open = async {
        let source = opened(&file, &source).await?;
        file.check(&source.stat().await?.version)?;
        Ok(source)
    };
    ReadDone::Opened {
        id: file.id,
        result: open.await,
    }
}

/// Checks that the file that was read is, still, the one that was offered, and that all of it was
/// read.
pub(super) async fn check_unchanged(
    file: WantedFile,
    source: OpenOnce,
    hash: Option<Digest>,
    permit: Permit,
) -> ReadDone {
    let check = async {
        let source = opened(&file, &source).await?;
        file.check(&source.stat().await?.version)?;
        // its size may be less than what it has
        match source.read_at(file.size, vec![0; 1], Arc::new(())).await?.is_empty() {
            true => Ok(()),
            false => Err(source.error(ErrorKind::SourceChanged)),
        }
    };
    ReadDone::Checked {
        id: file.id,
        hash,
        permit,
        result: check.await,
    }
}

/// Reads small files of one store; `permit` is for all of them together.
pub(super) async fn read_small(batch: Vec<WantedFile>, mut permit: Permit) -> ReadDone {
    let Some(first) = batch.first() else {
        return ReadDone::Small(Vec::new());
    };
    let paths = batch.iter().map(|file| file.path.clone()).collect();
    let read = first.store.read_whole(paths, CHUNK_SIZE).await;
    let results = batch.into_iter().zip(read).map(|(file, result)| {
        let permit = permit.split(file.cost());
        let result = result.and_then(|read| {
            file.check(&read.version)?;
            let digest = whole_digest(&read.bytes);
            Ok((read.bytes, digest))
        });
        SmallRead {
            id: file.id,
            permit,
            result,
        }
    });
    ReadDone::Small(results.collect())
}
