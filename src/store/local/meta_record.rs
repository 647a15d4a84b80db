//! What a store may not set, recorded in an extended attribute of the entry (`serve --fake-super`):
//! owner, full mode, device and ACLs. Reads find it there.
//!
//! The record is a line of words: `1 mode=MODE uid=UID gid=GID device=MAJOR:MINOR access=HEX
//! default=HEX`. The mode is octal, with the bits of the entry's kind; the last three are optional.
//! A record that makes no sense, or is of another kind than the entry may be, counts as none. A
//! FIFO, socket or device is recorded for an empty file. Symlinks cannot have a record.

use super::inode::{mtime, owner};
use super::sys::{Directory, Node};
use super::times::timestamps;
use super::tree::Tree;
use super::xattrs;
use crate::store::error::At;
use crate::store::metadata::{RECORD, is_acl};
use crate::store::{
    Attributes, Content, Kind, Metadata, NewEntry, Omissions, RemotePath, Rights, StoreError,
    Xattr, XattrSets,
};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::fmt::Write;
use std::sync::Arc;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
/// The bits that the owner of a store needs to read and write its files.
const OWN_FILE: u32 = 0o600;
const OWN_DIR: u32 = 0o700;

/// A record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MetaRecord {
    /// With the bits of the kind.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// As in [`crate::store::Entry::device`].
    pub(super) device: u64,
    pub(super) acls: Vec<Xattr>,
}

impl MetaRecord {
    /// Reads a record; `None` if it is none.
    fn parse(text: &[u8]) -> Option<MetaRecord> {
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        words.next().filter(|version| *version == "1")?;
        let (mut mode, mut uid, mut gid) = (None, None, None);
        let mut record = MetaRecord::default();
        for word in words {
            let (key, value) = word.split_once('=')?;
            match key {
                "mode" => mode = Some(u32::from_str_radix(value, 8).ok()?),
                "uid" => uid = value.parse().ok().filter(|id| *id != u32::MAX),
                "gid" => gid = value.parse().ok().filter(|id| *id != u32::MAX),
                "device" => {
                    let (major, minor) = value.split_once(':')?;
                    let [major, minor] = [major, minor].map(|part| part.parse::<u32>().ok());
                    record.device = u64::from(major?) << 32 | u64::from(minor?);
                }
                "access" | "default" => record.acls.push(Xattr {
                    name: if key == "access" { ACCESS } else { DEFAULT }.to_vec(),
                    value: from_hex(value)?,
                }),
                // of a later version
                _ => {}
            }
        }
        (record.mode, record.uid, record.gid) = (mode?, uid?, gid?);
        Some(record)
    }

    fn to_text(&self) -> Vec<u8> {
        let mut text = format!("1 mode={:o} uid={} gid={}", self.mode, self.uid, self.gid);
        if self.device != 0 {
            let _ = write!(text, " device={}:{}", self.device >> 32, self.device & 0xffff_ffff);
        }
        for Xattr { name, value } in &self.acls {
            let key = if name == ACCESS { "access" } else { "default" };
            let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            let _ = write!(text, " {key}={hex}");
        }
        text.into_bytes()
    }

    /// The record of an open entry, if it has one that fits its kind.
    pub(super) fn of(node: &impl Node, found: FileType) -> Option<MetaRecord> {
        let record = MetaRecord::parse(&node.xattr(RECORD).ok()?)?;
        let fits = match found {
            FileType::Directory => record.kind() == Some(Kind::Dir),
            FileType::RegularFile => {
                record.kind().is_some_and(|kind| kind == Kind::File || kind.is_special())
            }
            _ => false,
        };
        fits.then_some(record)
    }

    pub(super) fn kind(&self) -> Option<Kind> {
        match FileType::from_raw_mode(self.mode) {
            FileType::RegularFile => Some(Kind::File),
            FileType::Directory => Some(Kind::Dir),
            FileType::Fifo => Some(Kind::Fifo),
            FileType::Socket => Some(Kind::Socket),
            FileType::CharacterDevice => Some(Kind::CharDevice),
            FileType::BlockDevice => Some(Kind::BlockDevice),
            FileType::Symlink | FileType::Unknown => None,
        }
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    let byte = |pair: &[u32]| match pair {
        [high, low] => u8::try_from(high.wrapping_mul(16).wrapping_add(*low)).ok(),
        _ => None,
    };
    digits.chunks(2).map(byte).collect()
}

/// Sets what an open entry is to have, with the mode that `mode_while` makes of its real one, and
/// records the rest.
pub(super) fn set<D: Directory>(
    tree: &Tree<D>,
    node: &impl Node,
    found: &Stat,
    (attributes, mode_while): (&Attributes, impl Fn(u32) -> u32),
    path: &RemotePath,
) -> Result<(), StoreError> {
    let found_type = FileType::from_raw_mode(found.st_mode);
    let metadata = attributes.metadata.clone().unwrap_or_default();
    let mut omitted = Omissions::default();
    if found_type.is_symlink() {
        let now = owner(found);
        omitted.owners = u64::from(metadata.uid.is_some_and(|uid| uid != now.uid));
        omitted.groups = u64::from(metadata.gid.is_some_and(|gid| gid != now.gid));
        omitted.xattrs = u64::from(!metadata.xattrs.is_empty());
    } else {
        let of_users = Metadata {
            sets: XattrSets {
                acls: false,
                ..metadata.sets
            },
            xattrs: metadata.xattrs.iter().filter(|x| !is_acl(&x.name)).cloned().collect(),
            ..Metadata::default()
        };
        xattrs::set(&Rights::Recorded, node, &of_users, &mut omitted)
            .at("set the extended attributes", path)?;
        record(node, found, attributes).at("record the owner", path)?;
        let mode = mode_while(real_mode(found_type, attributes));
        if found.st_mode & 0o7777 != mode {
            node.fchmod(mode).at("set the mode", path)?;
        }
    }
    tree.omissions().count(&omitted);
    match mtime(found) == attributes.mtime {
        true => Ok(()),
        false => node.futimens(&timestamps(attributes.mtime)).at("set the time", path),
    }
}

/// The mode that an entry really has.
pub(super) fn real_mode(found: FileType, attributes: &Attributes) -> u32 {
    let own = match found {
        FileType::Directory => OWN_DIR,
        _ => OWN_FILE,
    };
    attributes.mode & 0o777 | own
}

/// Writes the record of an open entry, if it needs one, or has one that says something else.
fn record(node: &impl Node, found: &Stat, attributes: &Attributes) -> Result<(), Errno> {
    let found_type = FileType::from_raw_mode(found.st_mode);
    let before = MetaRecord::of(node, found_type);
    let Some(metadata) = attributes.metadata.as_deref() else {
        // the mode belongs to every transfer
        return match before {
            Some(before) => update(
                node,
                &before,
                &MetaRecord {
                    mode: before.mode & !0o777 | attributes.mode & 0o777,
                    ..before.clone()
                },
            ),
            None => Ok(()),
        };
    };
    let (now, is_new) = (owner(found), before.is_none());
    let before = before.unwrap_or_default();
    let known = |id: u32, real: u32| if is_new { real } else { id };
    // what is found unchanged remains of its kind
    let special = before.kind().filter(|kind| kind.is_special());
    let special = metadata.special.or_else(|| Some((special?, before.device)));
    let (kind, device) = special.unwrap_or((Kind::Other, 0));
    let acls = match metadata.sets.acls {
        true => metadata.xattrs.iter().filter(|x| is_acl(&x.name)).cloned().collect(),
        false => before.acls.clone(),
    };
    let wanted = MetaRecord {
        mode: kind_bits(kind, found_type) | attributes.mode & 0o7777,
        uid: metadata.uid.unwrap_or(known(before.uid, now.uid)),
        gid: metadata.gid.unwrap_or(known(before.gid, now.gid)),
        device,
        acls,
    };
    update(node, &before, &wanted)
}

fn update(node: &impl Node, before: &MetaRecord, wanted: &MetaRecord) -> Result<(), Errno> {
    match before == wanted {
        true => Ok(()),
        false => node.set_xattr(RECORD, &wanted.to_text()),
    }
}

/// The bits of a kind in a mode; of an entry that is no FIFO, socket or device those that it has.
fn kind_bits(kind: Kind, found: FileType) -> u32 {
    let kind = match kind {
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::File | Kind::Dir | Kind::Symlink | Kind::Other => found,
    };
    kind.as_raw_mode()
}

/// FIFOs, sockets and devices become empty files with a record, in a store that records.
pub(super) fn as_files<D: Directory>(tree: &Tree<D>, entries: &mut [NewEntry]) {
    if *tree.rights() != Rights::Recorded {
        return;
    }
    for entry in entries {
        if let Content::Special { kind, device } = entry.content {
            let metadata = entry.attributes.metadata.as_deref().cloned();
            entry.content = Content::File(Arc::new(Vec::new()));
            entry.attributes.metadata = Some(Arc::new(Metadata {
                special: Some((kind, device)),
                ..metadata.unwrap_or_default()
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written_and_nonsense_is_none() {
        let record = MetaRecord {
            mode: 0o020_640,
            uid: 7,
            gid: 1000,
            device: 5 << 32 | 260,
            acls: vec![Xattr {
                name: ACCESS.to_vec(),
                value: vec![2, 0, 255],
            }],
        };
        let text = record.to_text();
        assert_eq!(text, b"1 mode=20640 uid=7 gid=1000 device=5:260 access=0200ff");
        assert_eq!(MetaRecord::parse(&text), Some(record.clone()));
        assert_eq!(record.kind(), Some(Kind::CharDevice));
        for nonsense in [
            &b""[..],
            b"1",
            b"2 mode=100644 uid=0 gid=0",
            b"1 mode=100644 uid=0",
            b"1 mode=100648 uid=0 gid=0",
            b"1 mode=100644 uid=4294967295 gid=0",
            b"1 mode=100644 uid=-1 gid=0",
            b"1 mode=100644 uid=0 gid=0 device=5",
            b"1 mode=100644 uid=0 gid=0 access=020",
            b"1 mode=100644 uid=0 gid=0 access=0g",
            b"1 mode=100644 uid=0 gid=0 \xff",
            b"1  mode=100644 uid=0 gid=0",
        ] {
            let shown = String::from_utf8_lossy(nonsense);
            assert_eq!(MetaRecord::parse(nonsense), None, "{shown}");
        }
    }
}
