//! What an entry's object says of the entry, apart from its content.
//!
//! An object begins with one line, `NONCE JSON`, and a small file's content follows. The same text
//! is the object's metadata, so that a HEAD request suffices; where it is too long for that, the
//! metadata is the nonce alone. `docs/STORE.md` specifies the fields.

use super::keys::{decode, encode};
use crate::store::entry::{Allocation, Attributes, Entry, Time, Version};
use crate::store::kind::Kind;
use crate::store::metadata::{Owner, Xattr};
use crate::store::path::Name;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Longest text that is also the object's metadata: S3 allows 2 KB for all of it.
const MAX_METADATA: usize = 1800;
/// Most bytes of a record's line: one with the most extents, and all extended attributes.
pub const MAX_LINE: usize = 1 << 20;
/// Most pieces of content of a file.
pub const MAX_EXTENTS: usize = 8192;

/// The kind of an entry, as a record has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symlink.
    Symlink,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// No entry: a fence for writers whose lock was taken over.
    None,
}

/// A piece of a file's content. What no piece has reads as zeros.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Its place in the file, in bytes.
    pub at: u64,
    /// Its bytes: the first ones of the blob.
    pub size: u64,
    /// The blob's id.
    pub blob: String,
}

/// What a record says of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its kind.
    pub kind: RecordKind,
    /// Differs whenever the entry was replaced or changed.
    pub version: String,
    /// How often a lock of the entry was taken over.
    #[serde(default, skip_serializing_if = "is_default")]
    pub epoch: u64,
    /// Bytes of a file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub size: u64,
    /// Seconds since 1970 and nanoseconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mtime: (i64, u32),
    /// Permission bits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: u32,
    /// The numbers of user and group.
    #[serde(default, skip_serializing_if = "is_default")]
    pub owner: Option<(u32, u32)>,
    /// The BLAKE3 hash of a file's content, in hexadecimal.
    #[serde(default, skip_serializing_if = "is_default")]
    pub blake3: Option<String>,
    /// The target of a symlink, encoded as keys are.
    #[serde(default, skip_serializing_if = "is_default")]
    pub target: Option<String>,
    /// The number of a device.
    #[serde(default, skip_serializing_if = "is_default")]
    pub device: u64,
    /// The content of a file that is not in the object itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub extents: Vec<Extent>,
    /// Extended attributes: encoded names, and values in base64.
    #[serde(default, skip_serializing_if = "is_default")]
    pub xattrs: Vec<(String, String)>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl RecordKind {
    /// The kind that users see; `None` for no entry.
    pub fn kind(self) -> Option<Kind> {
        Some(match self {
            RecordKind::File => Kind::File,
            RecordKind::Dir => Kind::Dir,
            RecordKind::Symlink => Kind::Symlink,
            RecordKind::Fifo => Kind::Fifo,
            RecordKind::Socket => Kind::Socket,
            RecordKind::Char => Kind::CharDevice,
            RecordKind::Block => Kind::BlockDevice,
            RecordKind::None => return None,
        })
    }

    /// The kind of an entry that users see; `None` for one that is never made.
    pub fn of(kind: Kind) -> Option<RecordKind> {
        Some(match kind {
            Kind::File => RecordKind::File,
            Kind::Dir => RecordKind::Dir,
            Kind::Symlink => RecordKind::Symlink,
            Kind::Fifo => RecordKind::Fifo,
            Kind::Socket => RecordKind::Socket,
            Kind::CharDevice => RecordKind::Char,
            Kind::BlockDevice => RecordKind::Block,
            Kind::Other => return None,
        })
    }
}

impl Record {
    /// A record of a new entry.
    pub fn new(kind: RecordKind, version: String) -> Record {
        Record {
            kind,
            version,
            epoch: 0,
            size: 0,
            mtime: (0, 0),
            mode: 0,
            owner: None,
            blake3: None,
            target: None,
            device: 0,
            extents: Vec::new(),
            xattrs: Vec::new(),
        }
    }

    /// True if the content of a file follows the record.
    pub fn is_inline(&self) -> bool {
        self.kind == RecordKind::File && self.extents.is_empty()
    }

    /// The record's line, without its end.
    pub fn line(&self, nonce: &str) -> String {
        // what the serialiser writes has only these types, and never fails
        let json = serde_json::to_string(self).unwrap_or_default();
        let mut line = format!("{nonce} ");
        for c in json.chars() {
            match c {
                ' '..='~' => line.push(c),
                _ => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        let _ = write!(line, "\\u{unit:04x}");
                    }
                }
            }
        }
        line
    }

    /// The record in a line; `None` if the line has none.
    pub fn parse(line: &str) -> Option<Record> {
        let (_, json) = line.split_once(' ')?;
        serde_json::from_str(json).ok()
    }

    /// Takes over time, mode, owner and extended attributes. A part that a transfer does not
    /// preserve stays as it is.
    pub fn set(&mut self, attributes: &Attributes) {
        self.mtime = (attributes.mtime.secs, attributes.mtime.nanos);
        let with_owner = attributes.metadata.as_ref().is_some_and(|m| m.uid.is_some());
        self.mode = attributes.mode & if with_owner { 0o7777 } else { 0o1777 };
        let Some(metadata) = &attributes.metadata else {
            return;
        };
        if metadata.uid.is_some() || metadata.gid.is_some() {
            let (uid, gid) = self.owner.unwrap_or_default();
            self.owner = Some((metadata.uid.unwrap_or(uid), metadata.gid.unwrap_or(gid)));
        }
        if metadata.sets.is_any() {
            let mut xattrs = self.xattrs();
            xattrs.retain(|xattr| !metadata.sets.contains(&xattr.name, true));
            xattrs.extend(metadata.xattrs.iter().cloned());
            xattrs.sort();
            let text = |xattr: &Xattr| (encoded(&xattr.name), STANDARD.encode(&xattr.value));
            self.xattrs = xattrs.iter().map(text).collect();
        }
    }

    /// The extended attributes.
    pub fn xattrs(&self) -> Vec<Xattr> {
        let one = |(name, value): &(String, String)| {
            let (name, value) = (decode(name)?, STANDARD.decode(value).ok()?);
            Some(Xattr { name, value })
        };
        self.xattrs.iter().filter_map(one).collect()
    }

    /// The target of a symlink.
    pub fn symlink_target(&self) -> Option<Vec<u8>> {
        self.target.as_deref().and_then(decode)
    }

    /// Sets the target of a symlink.
    pub fn set_target(&mut self, target: &[u8]) {
        self.target = Some(encoded(target));
    }

    /// The time.
    pub fn time(&self) -> Time {
        Time {
            secs: self.mtime.0,
            nanos: self.mtime.1.min(999_999_999),
        }
    }

    /// The entry as the store describes it; `None` if there is no entry.
    pub fn entry(&self, name: Option<Name>) -> Option<Entry> {
        let kind = self.kind.kind()?;
        let stored: u64 = self.extents.iter().map(|e| e.size).fold(0, u64::saturating_add);
        let sparse = !self.extents.is_empty() && stored < self.size;
        let owner = self.owner.map(|(uid, gid)| Owner { uid, gid });
        Some(Entry {
            name,
            kind,
            size: self.size,
            attributes: Attributes {
                mtime: self.time(),
                mode: self.mode,
                allocation: match sparse {
                    true => Allocation::Sparse,
                    false => Allocation::Dense,
                },
                metadata: None,
            },
            target: self.symlink_target(),
            version: Version::Text(self.version.clone()),
            owner,
            device: self.device,
            links: 1,
        })
    }
}

/// The text that is an object's metadata.
pub fn metadata(line: &str, nonce: &str) -> String {
    match line.len() {
        0..=MAX_METADATA => line.to_string(),
        _ => nonce.to_string(),
    }
}

/// Divides an object into its record's line and the content; `None` if it has no line.
pub fn divide(bytes: Vec<u8>) -> Option<(String, Vec<u8>)> {
    let end = bytes.iter().take(MAX_LINE).position(|byte| *byte == b'\n')?;
    let (line, rest) = bytes.split_at_checked(end)?;
    let line = std::str::from_utf8(line).ok()?.to_string();
    Some((line, rest.get(1..).unwrap_or_default().to_vec()))
}

fn encoded(bytes: &[u8]) -> String {
    let mut text = String::new();
    encode(bytes, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_ascii_and_comes_back() {
        let mut record = Record::new(RecordKind::Symlink, "v1".into());
        record.set_target("ä\u{1f600}\n\"\\".as_bytes());
        record.mtime = (-5, 999);
        record.owner = Some((1, 2));
        let xattr = Xattr {
            name: b"user.\xff".to_vec(),
            value: vec![0, 255],
        };
        let attributes = Attributes {
            metadata: Some(std::sync::Arc::new(crate::store::Metadata {
                sets: crate::store::XattrSets {
                    attributes: true,
                    acls: false,
                },
                xattrs: vec![xattr.clone()],
                ..Default::default()
            })),
            ..Attributes::default()
        };
        record.set(&attributes);
        let line = record.line("0123456789abcdef");
        assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line}");
        let found = Record::parse(&line).unwrap();
        assert_eq!(found, record);
        assert_eq!(found.symlink_target().unwrap(), "ä\u{1f600}\n\"\\".as_bytes());
        assert_eq!(found.xattrs(), [xattr]);
        assert_eq!(metadata(&line, "n"), line);
        let (text, content) = divide([line.as_bytes(), b"\nab\ncd"].concat()).unwrap();
        assert_eq!((text, content), (line, b"ab\ncd".to_vec()));
        assert_eq!(divide(b"no line".to_vec()), None);
    }
}
