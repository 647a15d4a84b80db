//! The pump of a stream: what comes becomes frames, in order, and nothing of it can be read again.

use super::Counters;
use crate::chunk::CHUNK_SIZE;
use crate::chunk::digest::{Digest, RootHasher, chunk_digest, whole_digest};
use crate::chunk::window::cost;
use crate::net::content::Content;
use crate::net::link::Link;
use crate::net::wire::frame::{FrameHeader, FrameKind};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Sends a stream as file `number`: chunk after chunk, as they come, never more than the window in memory.
///
/// # Errors
/// That of reading the stream.
pub async fn pump_stream(
    link: &Arc<Link>,
    transfer: u32,
    number: u64,
    mut stream: Box<dyn AsyncRead + Send + Unpin>,
    counters: &Counters,
) -> Result<Digest, std::io::Error> {
    let pool = link.pool().buffers().clone();
    let share = |bytes| Content::Bytes(pool.share(bytes));
    let header = |kind, offset, length: usize, digest| FrameHeader {
        kind,
        attempt: 0,
        transfer,
        number,
        offset,
        length: u32::try_from(length).unwrap_or(u32::MAX),
        digest,
    };
    // One chunk is read ahead: whether the first is the only one decides what it travels as.
    let mut chunk = read_chunk(&mut stream, pool.take(CHUNK_SIZE)).await?;
    let mut next = match chunk.len() {
        CHUNK_SIZE => read_chunk(&mut stream, pool.take(CHUNK_SIZE)).await?,
        _ => Vec::new(),
    };
    if next.is_empty() {
        let hash = whole_digest(&chunk);
        link.outbox.reserve(transfer, cost(chunk.len())).await;
        Counters::add(&counters.bytes_found, chunk.len() as u64);
        link.outbox
            .push(header(FrameKind::Whole, 0, chunk.len(), hash), share(chunk));
        return Ok(hash);
    }
    let (mut offset, mut root) = (0_u64, RootHasher::default());
    while !chunk.is_empty() {
        let digest = chunk_digest(offset, &chunk);
        root.push(digest);
        let length = chunk.len();
        link.outbox.reserve(transfer, cost(length)).await;
        Counters::add(&counters.bytes_found, length as u64);
        link.outbox
            .push(header(FrameKind::Chunk, offset, length, digest), share(chunk));
        offset = offset.saturating_add(length as u64);
        chunk = next;
        next = match chunk.len() {
            CHUNK_SIZE => read_chunk(&mut stream, pool.take(CHUNK_SIZE)).await?,
            _ => Vec::new(),
        };
    }
    let hash = root.root().unwrap_or([0; 32]);
    link.outbox.reserve(transfer, cost(0)).await;
    link.outbox
        .push(header(FrameKind::Seal, offset, 0, hash), share(Vec::new()));
    Ok(hash)
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
