//! Reads a stream: what comes becomes frames, in order, and its size is known at its end. A file
//! whose size is not what its file system says is one, too.

use crate::chunk::CHUNK_SIZE;
use crate::chunk::buffer::BufferPool;
use crate::chunk::digest::{Digest, RootHasher, chunk_digest, whole_digest};
use crate::chunk::window::{Credit, Permit, cost};
use crate::net::data::body::FileId;
use crate::net::transfer::STALL;
use crate::net::transfer::report::Counters;
use crate::net::wire::frame::FrameKind;
use crate::store::{ErrorKind, FileSource, RemotePath, Store, StoreError, Version};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

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
                path,
                source,
                offset,
                ..
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
            Input::File {
                source, version, ..
            } if source.stat().await?.version != *version => {
                Err(source.error(ErrorKind::SourceChanged))
            }
            _ => Ok(()),
        }
    }
}

/// A frame of a stream.
pub(super) struct StreamFrame {
    pub(super) id: FileId,
    pub(super) kind: FrameKind,
    pub(super) offset: u64,
    pub(super) digest: Digest,
    pub(super) bytes: Vec<u8>,
    pub(super) permit: Permit,
    /// With the last one: hash and bytes of the whole.
    pub(super) whole: Option<(Digest, u64)>,
}

/// What the reader of a stream tells the sender, in order.
pub(super) enum StreamEvent {
    /// The next frame of it.
    Frame(StreamFrame),
    /// It cannot be read to its end.
    Failed(FileId, StoreError),
}

/// Reads one stream.
pub(super) struct StreamReader {
    pub(super) id: FileId,
    pub(super) credit: Credit,
    pub(super) pool: BufferPool,
    pub(super) counters: Arc<Counters>,
    pub(super) out: mpsc::UnboundedSender<StreamEvent>,
}

impl StreamReader {
    /// Reads chunk after chunk, as they come, never more than the window in memory.
    pub(super) async fn run(self, open: impl Future<Output = Result<Input, StoreError>>) {
        let read = async { self.read(open.await?).await };
        if let Err(e) = read.await {
            let _ = self.out.send(StreamEvent::Failed(self.id, e));
        }
    }

    async fn read(&self, mut input: Input) -> Result<(), StoreError> {
        // One chunk is read ahead: whether the first is the only one decides what it travels as.
        let mut chunk = input.chunk(self.pool.take(CHUNK_SIZE)).await?;
        let mut next = self.after(&chunk, &mut input).await?;
        if next.is_empty() {
            input.check().await?;
            let (hash, length) = (whole_digest(&chunk), chunk.len() as u64);
            self.frame((FrameKind::File, 0), hash, chunk, Some((hash, length))).await;
            return Ok(());
        }
        let (mut offset, mut root) = (0_u64, RootHasher::default());
        while !chunk.is_empty() {
            let (digest, length) = (chunk_digest(offset, &chunk), chunk.len() as u64);
            root.push(digest, length);
            self.frame((FrameKind::Chunk, offset), digest, chunk, None).await;
            offset = offset.saturating_add(length);
            chunk = next;
            next = self.after(&chunk, &mut input).await?;
        }
        input.check().await?;
        let hash = root.root().unwrap_or([0; 32]);
        let end = (FrameKind::End, offset);
        self.frame(end, hash, Vec::new(), Some((hash, offset))).await;
        Ok(())
    }

    /// The chunk after this one; empty at the end.
    async fn after(&self, chunk: &[u8], input: &mut Input) -> Result<Vec<u8>, StoreError> {
        match chunk.len() {
            CHUNK_SIZE => input.chunk(self.pool.take(CHUNK_SIZE)).await,
            _ => Ok(Vec::new()),
        }
    }

    /// Passes a frame on, once the window has room for it.
    async fn frame(
        &self,
        (kind, offset): (FrameKind, u64),
        digest: Digest,
        bytes: Vec<u8>,
        whole: Option<(Digest, u64)>,
    ) {
        Counters::add(&self.counters.bytes_found, bytes.len() as u64);
        let permit = self.credit.acquire(cost(bytes.len())).await;
        let _ = self.out.send(StreamEvent::Frame(StreamFrame {
            id: self.id,
            kind,
            offset,
            digest,
            bytes,
            permit,
            whole,
        }));
    }
}

/// A full chunk, or less at the end of the stream.
async fn read_chunk(
    stream: &mut (impl AsyncRead + Unpin),
    mut buffer: Vec<u8>,
) -> std::io::Result<Vec<u8>> {
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
