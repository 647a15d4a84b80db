//! Chunk-sized buffers that are reused, because a fresh MiB costs 256 page faults.

use super::CHUNK_SIZE;
use parking_lot::Mutex;
use std::ops::Deref;
use std::sync::Arc;

/// The alignment of a payload, in bytes: that of pages, as writes past the page cache need it.
const ALIGN: usize = 4096;

/// Size of a buffer: an aligned chunk, and the byte that TLS puts behind its last record.
const SIZE: usize = CHUNK_SIZE + ALIGN;

/// A pool of buffers of a chunk each. Cheap to clone. It bounds the number of unused buffers; the
/// window bounds those in use. A payload of at most half a chunk gets memory of its own size, since
/// the window counts the bytes in a buffer and not its capacity.
#[derive(Clone)]
pub struct BufferPool {
    free: Arc<Mutex<Free>>,
}

#[derive(Default)]
struct Free {
    buffers: Vec<Vec<u8>>,
    most: usize,
}

impl BufferPool {
    /// Makes a pool that keeps at most `max_free` unused buffers.
    pub fn new(max_free: usize) -> BufferPool {
        let free = Free {
            most: max_free,
            ..Free::default()
        };
        BufferPool {
            free: Arc::new(Mutex::new(free)),
        }
    }

    /// Makes the pool of a session with this window, in bytes. It keeps half of the window, as more
    /// is seldom in use.
    pub fn for_window(window: u64) -> BufferPool {
        let pool = BufferPool::new(0);
        pool.set_window(window);
        pool
    }

    /// The session has another window from now on.
    pub fn set_window(&self, window: u64) {
        let mut free = self.free.lock();
        free.most = usize::try_from(window).unwrap_or(0) / CHUNK_SIZE / 2;
        let most = free.most;
        free.buffers.truncate(most);
    }

    /// Returns a buffer of `length` bytes of unspecified content, at most [`CHUNK_SIZE`].
    pub fn take(&self, length: usize) -> Vec<u8> {
        if length <= CHUNK_SIZE / 2 {
            return vec![0; length];
        }
        let mut buffer = self.take_all();
        buffer.truncate(length);
        buffer
    }

    /// Returns a buffer and a start in it, with room for `length` bytes, at most [`CHUNK_SIZE`],
    /// and at least one more. The start is aligned if `length` is a whole chunk.
    pub fn take_aligned(&self, length: usize) -> (Vec<u8>, usize) {
        if length < CHUNK_SIZE {
            return (self.take(length.saturating_add(1)), 0);
        }
        let buffer = self.take_all();
        // usize::MAX if the alignment is unknown
        let start = Some(buffer.as_ptr().align_offset(ALIGN)).filter(|start| *start < ALIGN);
        (buffer, start.unwrap_or(0))
    }

    fn take_all(&self) -> Vec<u8> {
        let free_buffer = self.free.lock().buffers.pop();
        let mut buffer = free_buffer.unwrap_or_default();
        buffer.resize(SIZE, 0);
        buffer
    }

    /// Makes shared bytes of a buffer that is cut to its content. Dropping them returns the buffer
    /// to this pool.
    pub fn share(&self, bytes: Vec<u8>) -> Buffer {
        self.share_from(bytes, 0)
    }

    /// As [`BufferPool::share`], for content that begins at `start`.
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
        if free.buffers.len() < free.most {
            free.buffers.push(bytes);
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
    fn buffers_come_back_and_only_so_many_stay() {
        let pool = BufferPool::new(1);
        let (a, b) = (pool.take(CHUNK_SIZE), pool.take(CHUNK_SIZE - 1));
        let address = a.as_ptr();
        drop(pool.share(a));
        drop(pool.share(b));
        drop(pool.share(vec![1, 2, 3]));
        assert_eq!(pool.free.lock().buffers.len(), 1);
        let reused = pool.take(CHUNK_SIZE);
        assert_eq!(reused.as_ptr(), address);
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
