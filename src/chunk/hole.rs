//! Holes: chunks of zeros that are neither read, sent nor written. In a file's hash they count as
//! zeros.
//!
//! A chunk's digest depends on its offset, so a hole costs the processor as much as its bytes
//! would, and several threads hash it.

use super::ahead::Ahead;
use super::digest::{Digest, Hashing};
use super::{CHUNK_SIZE, Extent, chunk_length};
use crate::store::blocking;
use std::sync::LazyLock;
use tokio::sync::Semaphore;

/// Most bytes of a hole that travels as one frame; a longer hole is several. Hashing it takes a
/// moment.
pub const MAX_HOLE: u64 = 256 << 20;
/// Bytes that a thread hashes before other holes get their turn.
const TURN: u64 = 16 << 20;
/// Most threads of the process that hash holes at once.
const MAX_THREADS: usize = 8;
/// Bytes that are hashed at once: few enough to stay in a processor's cache.
const PIECE: usize = 64 << 10;

static ZEROS: [u8; PIECE] = [0; PIECE];
/// One permit per thread that may hash holes. All files of all sessions take turns.
static THREADS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(threads()));

/// A chunk within a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeroChunk {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes: [`CHUNK_SIZE`], or less at the ends of a hole.
    pub length: u64,
    /// Its digest.
    pub digest: Digest,
}

impl ZeroChunk {
    /// Where it is.
    pub fn extent(&self) -> Extent {
        Extent {
            offset: self.offset,
            length: self.length,
        }
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS))
}

/// Returns the chunks of a hole of `length` bytes at `offset`, where a chunk may begin. It ends
/// where one of 1 MiB does, or the file.
pub async fn chunks(offset: u64, length: u64) -> Vec<ZeroChunk> {
    let end = offset.saturating_add(length);
    let (mut at, mut found) = (offset, Vec::new());
    let mut turns = Ahead::new(threads());
    loop {
        while at < end && !turns.is_full() {
            let next = at.saturating_sub(at % CHUNK_SIZE as u64).saturating_add(TURN);
            let until = next.min(end);
            turns.start(turn(at, until));
            at = until;
        }
        match turns.next().await {
            Some(chunks) => found.extend(chunks),
            None => return found,
        }
    }
}

/// Returns the chunks from `offset` to `end`.
async fn turn(offset: u64, end: u64) -> Vec<ZeroChunk> {
    // never closed
    let _permit = THREADS.acquire().await;
    blocking(move || hash(offset, end)).await
}

fn hash(offset: u64, end: u64) -> Vec<ZeroChunk> {
    let mut chunks = Vec::new();
    let mut at = offset;
    while at < end {
        let length = chunk_length(at, end.saturating_sub(at), CHUNK_SIZE as u64);
        let digest = zeros(at, usize::try_from(length).unwrap_or(CHUNK_SIZE));
        chunks.push(ZeroChunk {
            offset: at,
            length,
            digest,
        });
        at = at.saturating_add(length);
    }
    chunks
}

/// Returns the digest of a chunk of zeros.
fn zeros(offset: u64, length: usize) -> Digest {
    let (mut hashing, mut remaining) = (Hashing::of_chunk(offset), length);
    while remaining > 0 {
        let piece = ZEROS.get(..remaining).unwrap_or(&ZEROS);
        hashing.update(piece);
        remaining = remaining.saturating_sub(piece.len());
    }
    hashing.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::LEAST_CHUNK;
    use crate::chunk::digest::RootHasher;

    #[tokio::test]
    async fn the_chunks_of_a_hole_are_those_of_zeros() {
        let chunk = CHUNK_SIZE as u64;
        let least = LEAST_CHUNK as u64;
        for (before, length) in [
            (0, 40 * chunk),
            (3 * chunk, 17 * chunk + 5),
            (chunk, 16 * chunk),
            (chunk, 1),
            (chunk + least, 20 * chunk + least * 3),
            (least * 3, least),
        ] {
            let mut root = RootHasher::default();
            for at in 0..before / least {
                root.push(zeros(at * least, LEAST_CHUNK), least);
            }
            let mut at = before;
            for found in chunks(at, length).await {
                assert_eq!(found.offset, at);
                at += found.length;
                root.push(found.digest, found.length);
            }
            assert_eq!(at, before + length);
            assert_eq!(root.root(), Some(*blake3::hash(&vec![0; at as usize]).as_bytes()));
        }
    }
}
