//! Entries, as a store describes them without reading them.

use super::kind::Kind;
use super::metadata::{Metadata, Owner};
use super::path::Name;
use std::fmt;
use std::sync::Arc;

/// A point in time as file systems keep it: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since 1970-01-01 00:00 UTC, negative before.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// How a file's blocks of zeros are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Allocation {
    /// As data.
    #[default]
    Dense,
    /// As holes, which take no room.
    Sparse,
}

/// The properties of an entry that are transferred with its content.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Time of the last change of the content.
    pub mtime: Time,
    /// Permission bits, 0o7777.
    pub mode: u32,
    /// Sparse if a file takes less room than its size.
    pub allocation: Allocation,
    /// Owner and extended attributes, if a transfer preserves them. A store that describes an entry
    /// has them elsewhere.
    pub metadata: Option<Arc<Metadata>>,
}

impl Attributes {
    /// True if an entry that is `found` has another user or group than these.
    pub fn has_other_owner(&self, found: &Entry) -> bool {
        let (Some(metadata), Some(now)) = (&self.metadata, found.owner) else {
            return false;
        };
        let user = metadata.uid.is_none_or(|uid| uid == now.uid);
        !user || metadata.gid.is_some_and(|gid| gid != now.gid)
    }

    /// True if an entry that is `found` may lack something of these besides time and permission
    /// bits.
    pub fn may_lack(&self, found: &Entry) -> bool {
        let Some(metadata) = &self.metadata else {
            return false;
        };
        let has_bits = found.kind == Kind::Symlink
            || metadata.uid.is_none()
            || (found.attributes.mode ^ self.mode) & 0o7000 == 0;
        self.has_other_owner(found) || !has_bits || metadata.sets.is_any()
    }
}

/// An entry, as stat and listings describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in its directory; `None` for the store's root.
    pub name: Option<Name>,
    /// Its kind.
    pub kind: Kind,
    /// Bytes; 0 for anything but a file.
    pub size: u64,
    /// Time and mode.
    pub attributes: Attributes,
    /// The target of a symlink.
    pub target: Option<Vec<u8>>,
    /// Differs whenever the file was replaced or changed.
    pub version: Version,
    /// Its user and group; `None` if the store has none, or does not say.
    pub owner: Option<Owner>,
    /// The number of a device: the major one in the upper half.
    pub device: u64,
    /// How many names the file has; 0 if the store does not say.
    pub links: u64,
}

impl Entry {
    /// The device of the file system that it is in; `None` if the store does not say.
    pub fn file_system(&self) -> Option<u64> {
        match &self.version {
            Version::Facts([device, ..]) => Some(*device),
            Version::Text(_) => None,
        }
    }

    /// Its device and inode; `None` if the store does not say.
    pub fn inode(&self) -> Option<(u64, u64)> {
        match &self.version {
            Version::Facts([device, inode, ..]) => Some((*device, *inode)),
            Version::Text(_) => None,
        }
    }

    /// The file that this is a name of, if it has others: equal for all of them.
    pub fn linked_file(&self) -> Option<(u64, u64)> {
        self.inode().filter(|_| self.kind != Kind::Dir && self.links > 1)
    }
}

/// Distinguishes one state of an entry from all others. It is opaque, and users and peers see it as
/// text. Most versions are never shown, so the text is made on demand.
#[derive(Clone, Debug)]
pub enum Version {
    /// The text itself.
    Text(String),
    /// The numbers that the text is made of.
    Facts([u64; 7]),
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Text(text) => f.write_str(text),
            Version::Facts(facts) => {
                let mut bytes = [0; 7 * 8];
                for (to, fact) in bytes.chunks_exact_mut(8).zip(facts) {
                    to.copy_from_slice(&fact.to_be_bytes());
                }
                let [a, b, c, d, e, f0, g, h, ..] = *blake3::hash(&bytes).as_bytes();
                write!(f, "{:016x}", u64::from_be_bytes([a, b, c, d, e, f0, g, h]))
            }
        }
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Version) -> bool {
        match (self, other) {
            (Version::Facts(a), Version::Facts(b)) => a == b,
            (a, b) => a.to_string() == b.to_string(),
        }
    }
}

impl Eq for Version {}

/// One page of a listing.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The entries, in the store's order.
    pub entries: Vec<Entry>,
    /// Where the next page starts, opaque to all but the store; `None` after the last page.
    pub next: Option<Vec<u8>>,
}

/// Sizes of a store, in bytes and files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that a user may still write.
    pub free: u64,
    /// Bytes in use. The system reserves those that are neither free nor used.
    pub used: u64,
    /// Inodes in all; 0 if the store has no such limit.
    pub files: u64,
    /// Inodes free.
    pub files_free: u64,
}
