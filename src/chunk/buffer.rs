//! Chunk-sized buffers that are used again and again, because a fresh MiB costs 256 page faults.

use super::CHUNK_SIZE;
use parking_lot::Mutex;
use std::ops::Deref;
use std::sync::Arc;

/// The alignment of what a payload begins with, in bytes: that of pages, which writes past the page cache ask for.
const ALIGN: usize = 4096;

/// Size of a buffer: a chunk that is aligned in it, and the byte that TLS puts behind its last record.
const SIZE: usize = CHUNK_SIZE + ALIGN;

/// A pool of buffers for a chunk each. Cheap to clone. It bounds what is kept, not what is handed out:
/// that is the window's work. What needs at most half a chunk gets memory of its own size, since the window counts
/// what is in a buffer and not what it could hold.
#[derive(Clone)]
pub struct BufferPool {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    keep: usize,
}

impl BufferPool {
    /// A pool that keeps at most `keep` unused buffers.
    pub fn new(keep: usize) -> BufferPool {
        BufferPool {
            free: Arc::default(),
            keep,
        }
    }

    /// The pool of a session with this window, in bytes: it keeps half of what can be under way, as more is seldom used.
    pub fn for_window(window: u64) -> BufferPool {
        BufferPool::new(usize::try_from(window).unwrap_or(0) / CHUNK_SIZE / 2)
    }

    /// A buffer of `length` bytes of unspecified content, at most [`CHUNK_SIZE`].
    pub fn take(&self, length: usize) -> Vec<u8> {
        if length <= CHUNK_SIZE / 2 {
            return vec![0; length];
        }
        let mut buffer = self.take_all();
        buffer.truncate(length);
        buffer
    }

    /// A buffer that has `length` bytes, at most [`CHUNK_SIZE`], and at least one more from where it says on: where they are
    /// aligned, when they are a whole chunk.
    pub fn take_aligned(&self, length: usize) -> (Vec<u8>, usize) {
        if length < CHUNK_SIZE {
            return (self.take(length.saturating_add(1)), 0);
        }
        let buffer = self.take_all();
        // usize::MAX where it cannot be told
        let start = Some(buffer.as_ptr().align_offset(ALIGN)).filter(|start| *start < ALIGN);
        (buffer, start.unwrap_or(0))
    }

    fn take_all(&self) -> Vec<u8> {
        let kept = self.free.lock().pop();
        let mut buffer = kept.unwrap_or_default();
        buffer.resize(SIZE, 0);
        buffer
    }

    /// Makes a buffer, filled and cut to its content, into shared bytes that come back here when they are dropped.
    pub fn share(&self, bytes: Vec<u8>) -> Buffer {
        self.share_from(bytes, 0)
    }

    /// The same where the content begins at `start`.
    pub fn share_from(&self, bytes: Vec<u8>, start: usize) -> Buffer {
        Buffer {
            bytes,
            start,
            pool: self.clone(),
        }
    }

    fn put_back(&self, bytes: Vec<u8>) {
        if bytes.capacity() < SIZE {
            return;
        }
        let mut free = self.free.lock();
        if free.len() < self.keep {
            free.push(bytes);
        }
    }
}

/// Bytes from a [`BufferPool`].
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    pool: BufferPool,
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.put_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_only_so_many_are_kept() {
        let pool = BufferPool::new(1);
        let (a, b) = (pool.take(CHUNK_SIZE), pool.take(CHUNK_SIZE - 1));
        let address = a.as_ptr();
        drop(pool.share(a));
        drop(pool.share(b));
        drop(pool.share(vec![1, 2, 3]));
        assert_eq!(pool.free.lock().len(), 1);
        let again = pool.take(CHUNK_SIZE);
        assert_eq!(again.as_ptr(), address);
    }

    #[test]
    fn a_chunk_is_aligned_and_has_room_behind_it() {
        let pool = BufferPool::new(4);
        for _ in 0..3 {
            let (bytes, start) = pool.take_aligned(CHUNK_SIZE);
            assert!(bytes.len() > start + CHUNK_SIZE);
            let mut bytes = bytes;
            bytes.truncate(start + CHUNK_SIZE);
            let shared = pool.share_from(bytes, start);
            assert_eq!((shared.len(), shared.as_ptr().align_offset(4096)), (CHUNK_SIZE, 0));
        }
        for length in [0, 1, CHUNK_SIZE / 2, CHUNK_SIZE - 1] {
            let (bytes, start) = pool.take_aligned(length);
            assert!(bytes.len() > start + length);
        }
    }
}
