//! What is removed, and how much.

use super::entry::{Entry, Time};
use super::error::{ErrorKind, StoreError};
use super::kind::Kind;
use super::path::RemotePath;

/// An entry to be removed, as a listing described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Its place.
    pub path: RemotePath,
    /// Its kind.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// When its content changed.
    pub mtime: Time,
}

impl Removal {
    /// Checks that an entry is still the one to be removed. Of a directory only the kind counts.
    ///
    /// # Errors
    /// [`ErrorKind::VersionChanged`].
    pub fn check(&self, found: &Entry) -> Result<(), StoreError> {
        let same = found.size == self.size && found.attributes.mtime == self.mtime;
        match found.kind == self.kind && (same || self.kind == Kind::Dir) {
            true => Ok(()),
            false => Err(StoreError::new(ErrorKind::VersionChanged, &self.path)),
        }
    }
}

/// How much [`super::Store::remove`] removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveScope {
    /// A file, a symlink or an empty directory.
    Entry,
    /// The entry and everything beneath it.
    Tree,
}
