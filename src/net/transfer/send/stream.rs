//! The pump of a stream: what comes becomes frames, in order, and its size is known at its end. A
//! file whose size is not what its file system says is one, too.

use crate::chunk::CHUNK_SIZE;
use crate::chunk::digest::{Digest, RootHasher, chunk_digest, whole_digest};
use crate::chunk::window::cost;
use crate::net::data::body::FrameBody;
use crate::net::session::SessionCore;
use crate::net::transfer::STALL;
use crate::net::transfer::report::Counters;
use crate::net::wire::frame::{FrameHeader, FrameKind};
use crate::store::{ErrorKind, FileSource, RemotePath, Store, StoreError, Version};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Where the bytes of a stream come from.
pub(super) enum Input {
    /// They come once.
    Reader(Box<dyn AsyncRead + Send + Unpin>),
    /// A file, read from its beginning until nothing more comes.
    File {
        path: RemotePath,
        source: Arc<dyn FileSource>,
        version: Version,
        offset: u64,
    },
}

/// The file of a transfer that a stream becomes.
pub(super) struct Outlet {
    pub(super) core: Arc<SessionCore>,
    pub(super) transfer: u32,
    pub(super) number: u64,
    pub(super) attempt: u8,
}

impl Input {
    /// A file that is read as a stream.
    pub(super) async fn file(store: &dyn Store, path: &RemotePath) -> Result<Input, StoreError> {
        let source = store.open(path).await?;
        let version = source.stat().await?.version;
        Ok(Input::File {
            path: path.clone(),
            source,
            version,
            offset: 0,
        })
    }

    /// A full chunk, or less at the end.
    async fn chunk(&mut self, buffer: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        match self {
            Input::Reader(reader) => read_chunk(reader, buffer)
                .await
                .map_err(|e| StoreError::io("read the stream", &RemotePath::root(), &e)),
            Input::File {
                path, source, offset, ..
            } => {
                let read = source.read_at(*offset, buffer, Arc::new(()));
                let silent = |_| StoreError::because("nothing could be read for two minutes", path);
                let bytes = tokio::time::timeout(STALL, read).await.map_err(silent)??;
                *offset = offset.saturating_add(bytes.len() as u64);
                Ok(bytes)
            }
        }
    }

    /// All that was read is of one version.
    async fn check(&mut self) -> Result<(), StoreError> {
        match self {
            Input::File { source, version, .. } if source.stat().await?.version != *version => {
                Err(source.error(ErrorKind::SourceChanged))
            }
            _ => Ok(()),
        }
    }
}

impl Outlet {
    fn header(&self, kind: FrameKind, offset: u64, length: usize, digest: Digest) -> FrameHeader {
        FrameHeader {
            kind,
            attempt: self.attempt,
            transfer: self.transfer,
            number: self.number,
            offset,
            length: u32::try_from(length).unwrap_or(u32::MAX),
            digest,
        }
    }

    /// Queues a frame, once the window has room for it.
    async fn push(&self, header: FrameHeader, bytes: Vec<u8>) {
        let content = FrameBody::Bytes(self.core.pool().buffers().share(bytes));
        self.core.send_queue.reserve(self.transfer, cost(content.len())).await;
        self.core.send_queue.push(header, content);
    }
}

/// Sends a stream: chunk after chunk, as they come, never more than the window in memory. Returns
/// its hash and how many bytes it had.
///
/// # Errors
/// That of reading the stream; [`ErrorKind::SourceChanged`] where its file changed meanwhile.
pub(super) async fn send_stream(
    to: &Outlet,
    mut input: Input,
    counters: &Counters,
) -> Result<(Digest, u64), StoreError> {
    let pool = to.core.pool().buffers().clone();
    // One chunk is read ahead: whether the first is the only one decides what it travels as.
    let mut chunk = input.chunk(pool.take(CHUNK_SIZE)).await?;
    let mut next = match chunk.len() {
        CHUNK_SIZE => input.chunk(pool.take(CHUNK_SIZE)).await?,
        _ => Vec::new(),
    };
    if next.is_empty() {
        input.check().await?;
        let (hash, length) = (whole_digest(&chunk), chunk.len());
        Counters::add(&counters.bytes_found, length as u64);
        to.push(to.header(FrameKind::File, 0, length, hash), chunk).await;
        return Ok((hash, length as u64));
    }
    let (mut offset, mut root) = (0_u64, RootHasher::default());
    while !chunk.is_empty() {
        let (digest, length) = (chunk_digest(offset, &chunk), chunk.len());
        root.push(digest);
        Counters::add(&counters.bytes_found, length as u64);
        let header = to.header(FrameKind::Chunk, offset, length, digest);
        to.push(header, chunk).await;
        offset = offset.saturating_add(length as u64);
        chunk = next;
        next = match chunk.len() {
            CHUNK_SIZE => input.chunk(pool.take(CHUNK_SIZE)).await?,
            _ => Vec::new(),
        };
    }
    input.check().await?;
    let hash = root.root().unwrap_or([0; 32]);
    to.push(to.header(FrameKind::End, offset, 0, hash), Vec::new()).await;
    Ok((hash, offset))
}

/// A full chunk, or less at the end of the stream.
async fn read_chunk(stream: &mut (impl AsyncRead + Unpin), mut buffer: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match stream.read(room).await? {
            0 => break,
            n => filled = filled.saturating_add(n),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}
