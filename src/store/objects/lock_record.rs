//! What a lock says: who writes, and what a later writer may resume.

use super::record::Extent;
use crate::store::error::Holder;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// An upload in parts that a later writer may complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRecord {
    /// The place of its content in the file.
    pub at: u64,
    /// The blob's id.
    pub blob: String,
    /// The engine's id; `None` before there is one.
    pub upload: Option<String>,
    /// The parts that the checkpoint covers: entity tags and bytes.
    pub parts: Vec<(String, u64)>,
}

/// What a lock says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    /// The writer.
    pub who: String,
    /// The writer has let go.
    pub resting: bool,
    /// Seconds since the writer has the lock.
    pub age: u64,
    /// Bytes written so far.
    pub written: u64,
    /// The version of the source.
    pub source: Option<String>,
    /// The offset up to which a later writer may resume.
    pub offset: u64,
    /// The BLAKE3 values that cover these bytes.
    pub digests: Vec<[u8; 32]>,
    /// Content that is complete.
    pub extents: Vec<Extent>,
    /// Content that is not.
    pub uploads: Vec<UploadRecord>,
    /// Blobs of an earlier writer, which may publish them until the entry is fenced.
    pub fencing: Vec<String>,
}

impl LockRecord {
    /// The lock of a writer that has written nothing.
    pub fn new(who: &str, source: Option<String>) -> LockRecord {
        LockRecord {
            who: who.to_string(),
            resting: false,
            age: 0,
            written: 0,
            source,
            offset: 0,
            digests: Vec::new(),
            extents: Vec::new(),
            uploads: Vec::new(),
            fencing: Vec::new(),
        }
    }

    /// The blobs that a commit may refer to.
    pub fn blobs(&self) -> impl Iterator<Item = &String> {
        let of_extents = self.extents.iter().map(|extent| &extent.blob);
        let of_uploads = self.uploads.iter().map(|upload| &upload.blob);
        of_extents.chain(of_uploads).chain(&self.fencing)
    }

    /// The writer, as others see it.
    pub fn holder(&self) -> Holder {
        Holder {
            who: self.who.clone(),
            locked_for: (!self.resting).then(|| Duration::from_secs(self.age)),
            written: Some(self.written),
        }
    }
}
