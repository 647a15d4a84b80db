//! Files that are read.

use super::entry::{Entry, Version};
use super::error::{ErrorKind, StoreError};
use async_trait::async_trait;
use std::sync::Arc;

/// A file that was read completely.
pub struct WholeFile {
    /// Its version before and after the reading: it did not change in between.
    pub version: Version,
    /// All its bytes.
    pub bytes: Vec<u8>,
}

/// Sees bytes as they are read, piece by piece and in order. It runs on the thread that reads,
/// while the bytes are in the processor's cache.
pub trait Watch: Send + Sync {
    /// Takes the next piece.
    fn see(&self, bytes: &[u8]);
}

/// Ignores the bytes.
impl Watch for () {
    fn see(&self, _: &[u8]) {}
}

/// The data or the hole at an offset of a file. An `end` beyond the file's means the file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Bytes that have to be read.
    Data {
        /// Where a hole may begin.
        end: u64,
    },
    /// A hole, which reads as zeros.
    Hole {
        /// Where data may begin.
        end: u64,
    },
}

/// A file that is open for reading.
#[async_trait]
pub trait FileSource: Send + Sync {
    /// Describes the open file. A second call after the reading tells whether the file changed.
    async fn stat(&self) -> Result<Entry, StoreError>;

    /// True if [`FileSource::read_now`] can probably read these bytes.
    fn is_at_hand(&self, offset: u64, length: usize) -> bool;

    /// Reads from `offset` on until `buffer` is full or the file ends, without waiting for any
    /// device: for threads that must not wait. Returns the number of bytes; `None` if it would have
    /// to wait, and then the content of `buffer` is unspecified.
    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Option<Result<usize, StoreError>>;

    /// Returns the data or the hole at `offset`. A store that cannot tell returns data.
    async fn extent(&self, offset: u64) -> Result<Extent, StoreError>;

    /// The open file, if it is one of this machine: for a copy that the system makes.
    fn as_file(&self) -> Option<&std::fs::File> {
        None
    }

    /// Makes an error about this file.
    fn error(&self, kind: ErrorKind) -> StoreError;

    /// Reads from `offset` on into `buffer`, up to its length, and shows `watch` the bytes. Returns
    /// the buffer, cut to the bytes that were read; they are fewer only at the end of the file.
    async fn read_at(
        &self,
        offset: u64,
        buffer: Vec<u8>,
        watch: Arc<dyn Watch>,
    ) -> Result<Vec<u8>, StoreError>;
}
