//! The result of stat(2), in the terms of a store.

use crate::store::{Allocation, Attributes, Entry, Kind, Name, Time, Version};
use rustix::fs::{FileType, Stat};

/// Makes an entry from its stat.
pub(super) fn entry(name: Option<Name>, stat: &Stat, target: Option<Vec<u8>>) -> Entry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Other,
    };
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
    }
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
    }
}

pub(super) fn mtime(stat: &Stat) -> Time {
    Time {
        secs: stat.st_mtime,
        nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
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
