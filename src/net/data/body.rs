//! What a frame carries: bytes in memory, or a chunk of a file that is read when a connection takes
//! it.

use crate::chunk::buffer::Buffer;
use crate::chunk::digest::{Digest, Hashing};
use crate::chunk::{CHUNK_SIZE, Extent};
use crate::net::wire::frame::VOID;
use crate::store::{ErrorKind, FileSource, StoreError};
use std::sync::{Arc, OnceLock};
use tokio::sync::mpsc;

/// Bytes that are read, hashed, encrypted and sent, one after another: few enough to stay in a
/// processor's cache.
const PIECE: usize = 128 << 10;

/// The payload of a frame that is to be sent, perhaps more than once.
pub enum FrameBody {
    /// It is in memory until it is acknowledged.
    Bytes(Buffer),
    /// It is not.
    Deferred(DeferredChunk),
}

impl FrameBody {
    /// Bytes.
    pub fn len(&self) -> usize {
        match self {
            FrameBody::Bytes(bytes) => bytes.len(),
            FrameBody::Deferred(unread) => unread.length,
        }
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes that are in memory.
    pub fn in_memory(&self) -> &[u8] {
        match self {
            FrameBody::Bytes(bytes) => bytes,
            FrameBody::Deferred(_) => &[],
        }
    }
}

/// An attempt at an offered file. A file that changes while it is read is resent, as the next
/// attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// The number of its offer.
    pub number: u64,
    /// Counts up from 0.
    pub attempt: u8,
}

/// A chunk that was read, or could not be.
pub struct ChunkRead {
    /// What it is of.
    pub id: FileId,
    /// Where in the file.
    pub extent: Extent,
    /// Its digest.
    pub digest: Result<Digest, StoreError>,
}

/// A chunk whose bytes are at hand ([`FileSource::is_at_hand`]). The connection that takes it reads
/// it piece by piece, and another one reads it again where that is lost: so no copy of it occupies
/// memory, and each piece goes through one processor's cache.
pub struct DeferredChunk {
    source: Arc<dyn FileSource>,
    id: FileId,
    offset: u64,
    length: usize,
    /// Once all of it has been read.
    digest: OnceLock<Digest>,
    read: mpsc::UnboundedSender<ChunkRead>,
}

impl DeferredChunk {
    /// An extent of `source`, as a chunk of this attempt at a file. `read` gets an event when it
    /// has been read for the first time, and whenever it cannot be.
    pub fn new(
        source: Arc<dyn FileSource>,
        id: FileId,
        extent: Extent,
        read: mpsc::UnboundedSender<ChunkRead>,
    ) -> DeferredChunk {
        DeferredChunk {
            source,
            id,
            offset: extent.offset,
            length: usize::try_from(extent.length).unwrap_or(CHUNK_SIZE).min(CHUNK_SIZE),
            digest: OnceLock::new(),
            read,
        }
    }

    /// Reads it once.
    pub(in crate::net) fn read(&self) -> Reading<'_> {
        Reading {
            chunk: self,
            done: 0,
            hashing: Hashing::of_chunk(self.offset),
            failed: false,
        }
    }

    /// Bytes of its middle, if they can be read without waiting.
    pub(super) fn sample(&self, most: usize) -> Option<Vec<u8>> {
        let mut sample = vec![0; most.min(self.length)];
        let before = self.length.saturating_sub(sample.len()) / 2;
        let offset = self.offset.saturating_add(before as u64);
        let read = self.source.read_now(offset, &mut sample)?.ok()?;
        sample.truncate(read);
        Some(sample)
    }

    fn tell(&self, digest: Result<Digest, StoreError>) {
        let _ = self.read.send(ChunkRead {
            id: self.id,
            extent: Extent {
                offset: self.offset,
                length: self.length as u64,
            },
            digest,
        });
    }
}

/// A chunk while it is read. Dropped before its end, it reports nothing.
pub(in crate::net) struct Reading<'a> {
    chunk: &'a DeferredChunk,
    done: usize,
    hashing: Hashing,
    failed: bool,
}

impl Reading<'_> {
    /// Puts the next piece into `piece`; false when there is none. What cannot be read is zeros: a
    /// frame that has begun must be ended, and its digest says that it is void.
    pub(in crate::net) async fn next(&mut self, piece: &mut Vec<u8>) -> bool {
        let length = PIECE.min(self.chunk.length.saturating_sub(self.done));
        piece.resize(length, 0);
        if length == 0 {
            return false;
        }
        if !self.failed {
            match self.fill(piece).await {
                Ok(()) => self.hashing.update(piece),
                Err(e) => {
                    self.failed = true;
                    self.chunk.tell(Err(e));
                    piece.clear();
                    piece.resize(length, 0);
                }
            }
        }
        self.done = self.done.saturating_add(length);
        true
    }

    /// Fills `piece` with what comes next.
    async fn fill(&self, piece: &mut Vec<u8>) -> Result<(), StoreError> {
        let (source, length) = (&self.chunk.source, piece.len());
        let offset = self.chunk.offset.saturating_add(self.done as u64);
        let read = match source.read_now(offset, piece) {
            Some(read) => read?,
            // it is not at hand any more
            None => {
                *piece = source.read_at(offset, std::mem::take(piece), Arc::new(())).await?;
                piece.len()
            }
        };
        match read == length {
            true => Ok(()),
            false => Err(source.error(ErrorKind::SourceChanged)),
        }
    }

    /// There is no further piece.
    pub(in crate::net) fn is_at_end(&self) -> bool {
        self.done >= self.chunk.length
    }

    /// What goes behind it, at its end.
    pub(in crate::net) fn digest(&self) -> Digest {
        if self.failed {
            return VOID;
        }
        let digest = self.hashing.digest();
        match self.chunk.digest.set(digest) {
            Ok(()) => self.chunk.tell(Ok(digest)),
            Err(_) if self.chunk.digest.get() == Some(&digest) => {}
            Err(_) => {
                self.chunk.tell(Err(self.chunk.source.error(ErrorKind::SourceChanged)));
                return VOID;
            }
        }
        digest
    }
}

#[cfg(test)]
mod tests {
    use crate::chunk::digest::chunk_digest;
    use crate::net::data::body::*;
    use crate::store::{self, Entry, RemotePath, Watch};
    use async_trait::async_trait;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Bytes, of which so many reads are at hand, and those after them are not.
    struct Fake(Vec<u8>, AtomicUsize);

    #[async_trait]
    impl FileSource for Fake {
        async fn stat(&self) -> Result<Entry, StoreError> {
            Err(self.error(ErrorKind::NotFound))
        }

        fn is_at_hand(&self, _: u64, _: usize) -> bool {
            true
        }

        fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Option<Result<usize, StoreError>> {
            let fewer = |n: usize| n.checked_sub(1);
            if self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_err() {
                buffer.fill(99);
                return None;
            }
            let from = usize::try_from(offset).unwrap().min(self.0.len());
            let n = buffer.len().min(self.0.len() - from);
            buffer[..n].copy_from_slice(&self.0[from..from + n]);
            Some(Ok(n))
        }

        async fn extent(&self, _: u64) -> Result<store::Extent, StoreError> {
            Ok(store::Extent::Data { end: u64::MAX })
        }

        fn error(&self, kind: ErrorKind) -> StoreError {
            StoreError::new(kind, &RemotePath::root())
        }

        async fn read_at(
            &self,
            offset: u64,
            buffer: Vec<u8>,
            _: Arc<dyn Watch>,
        ) -> Result<Vec<u8>, StoreError> {
            let from = usize::try_from(offset).unwrap().min(self.0.len());
            let to = self.0.len().min(from + buffer.len());
            Ok(self.0[from..to].to_vec())
        }
    }

    async fn all(chunk: &DeferredChunk) -> (Vec<u8>, Digest) {
        let (mut reading, mut piece, mut bytes) = (chunk.read(), Vec::new(), Vec::new());
        while reading.next(&mut piece).await {
            bytes.extend_from_slice(&piece);
        }
        assert!(reading.is_at_end());
        (bytes, reading.digest())
    }

    #[tokio::test]
    async fn what_is_not_at_hand_any_more_is_waited_for_and_what_is_gone_is_void() {
        let length = 5 * PIECE + 17;
        let bytes: Vec<u8> = (0..length).map(|i| (i / 100) as u8).collect();
        for at_hand in [0, 1, 3, 100] {
            for there in [length, length - 1, 2 * PIECE, 1, 0] {
                let source = Arc::new(Fake(bytes[..there].to_vec(), AtomicUsize::new(at_hand)));
                let (read, mut reports) = mpsc::unbounded_channel();
                let chunk = DeferredChunk::new(
                    source,
                    FileId {
                        number: 1,
                        attempt: 0,
                    },
                    Extent {
                        offset: 0,
                        length: length as u64,
                    },
                    read,
                );
                let (sent, digest) = all(&chunk).await;
                assert_eq!(sent.len(), length, "a frame that has begun has its length");
                let report = reports.try_recv().unwrap();
                assert_eq!(report.id.number, 1);
                assert_eq!(
                    report.extent,
                    Extent {
                        offset: 0,
                        length: length as u64
                    }
                );
                if there == length {
                    assert!(sent == bytes && digest == chunk_digest(0, &bytes));
                    assert_eq!(report.digest.unwrap(), digest);
                    assert_eq!(all(&chunk).await.1, digest, "again");
                } else {
                    assert_eq!(digest, VOID);
                    assert_eq!(report.digest.unwrap_err().kind, ErrorKind::SourceChanged);
                }
                assert!(reports.try_recv().is_err(), "reported once");
            }
        }
    }
}
