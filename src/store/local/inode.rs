//! The result of stat(2), in the terms of a store.

use crate::store::{Allocation, Attributes, Entry, Kind, Name, Owner, Time, Version};
use rustix::fs::{FileType, Stat};
use std::path::Path;

/// Makes an entry from its stat.
pub(super) fn entry(name: Option<Name>, stat: &Stat, target: Option<Vec<u8>>) -> Entry {
    let kind = kind(stat);
    Entry {
        name,
        kind,
        size: match kind {
            Kind::File => u64::try_from(stat.st_size).unwrap_or(0),
            _ => 0,
        },
        attributes: attributes(stat),
        target,
        version: version(stat),
        owner: Some(owner(stat)),
        device: match kind {
            Kind::CharDevice | Kind::BlockDevice => device_number(stat.st_rdev),
            _ => 0,
        },
        links: links(stat),
    }
}

pub(super) fn kind(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Unknown => Kind::Other,
    }
}

/// How many names an inode has.
// the number has 32 bits on some architectures
#[allow(clippy::useless_conversion)]
pub(super) fn links(stat: &Stat) -> u64 {
    u64::from(stat.st_nlink)
}

pub(super) fn owner(stat: &Stat) -> Owner {
    Owner {
        uid: stat.st_uid,
        gid: stat.st_gid,
    }
}

/// The number of a device, as it travels.
fn device_number(device: u64) -> u64 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    u64::from(major) << 32 | u64::from(minor)
}

/// The system's number of a device.
pub(super) fn system_device(device: u64) -> u64 {
    let halves = [device >> 32, device & u64::from(u32::MAX)];
    let [major, minor] = halves.map(|half| u32::try_from(half).unwrap_or_default());
    rustix::fs::makedev(major, minor)
}

pub(super) fn attributes(stat: &Stat) -> Attributes {
    // st_blocks counts units of 512 bytes, whatever the file system's are
    let stored = stat.st_blocks.saturating_mul(512);
    let sparse = FileType::from_raw_mode(stat.st_mode).is_file() && stored < stat.st_size;
    Attributes {
        mtime: mtime(stat),
        mode: stat.st_mode & 0o7777,
        allocation: match sparse {
            true => Allocation::Sparse,
            false => Allocation::Dense,
        },
        metadata: None,
    }
}

pub(super) fn mtime(stat: &Stat) -> Time {
    Time {
        secs: stat.st_mtime,
        nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
    }
}

/// True if an inode is the one that had this version, with the same content: further names have
/// changed only its change time.
pub(super) fn is_same_file(before: &Version, stat: &Stat) -> bool {
    match (before, version(stat)) {
        (Version::Facts([b @ .., _, _]), Version::Facts([n @ .., _, _])) => *b == n,
        _ => false,
    }
}

/// Returns the device of an entry of this store.
pub(super) fn device_of(version: &Version) -> Option<u64> {
    match version {
        Version::Facts([device, ..]) => Some(*device),
        Version::Text(_) => None,
    }
}

/// Returns the version of an inode: every change of its content changes it.
pub(super) fn version(stat: &Stat) -> Version {
    Version::Facts([
        stat.st_dev,
        stat.st_ino,
        stat.st_size.cast_unsigned(),
        stat.st_mtime.cast_unsigned(),
        stat.st_mtime_nsec,
        stat.st_ctime.cast_unsigned(),
        stat.st_ctime_nsec,
    ])
}
/// The versions of a directory and of all directories above it.
pub(super) fn ancestors(path: &Path) -> Vec<String> {
    let real = path.canonicalize().unwrap_or_default();
    let stats = real.ancestors().filter_map(|dir| rustix::fs::stat(dir).ok());
    stats.map(|stat| version(&stat).to_string()).collect()
}
