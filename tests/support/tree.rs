//! Trees to move, and their comparison with code that is not haul's.

use haul::store::Name;
use haul::store::partial_names::PartialNames;
use rustix::fs::{XattrFlags, setxattr};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// What matters of an entry: kind, mode, time, content or target.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Entry {
    File {
        mode: u32,
        mtime: (i64, i64),
        size: u64,
        hash: String,
    },
    Dir {
        mode: u32,
        mtime: (i64, i64),
    },
    Symlink {
        mtime: (i64, i64),
        target: PathBuf,
    },
    Other,
}

/// Everything beneath a directory, the directory itself as the empty path.
pub fn snapshot(top: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut all = BTreeMap::new();
    for entry in walkdir::WalkDir::new(top) {
        let entry = entry.unwrap();
        let meta = std::fs::symlink_metadata(entry.path()).unwrap();
        let mtime = (meta.mtime(), meta.mtime_nsec());
        let mode = meta.mode() & 0o7777;
        let kind = meta.file_type();
        let value = if kind.is_file() {
            let hash = blake3::hash(&std::fs::read(entry.path()).unwrap()).to_hex().to_string();
            Entry::File {
                mode,
                mtime,
                size: meta.len(),
                hash,
            }
        } else if kind.is_dir() {
            Entry::Dir { mode, mtime }
        } else if kind.is_symlink() {
            Entry::Symlink {
                mtime,
                target: std::fs::read_link(entry.path()).unwrap(),
            }
        } else {
            Entry::Other
        };
        all.insert(entry.path().strip_prefix(top).unwrap().to_path_buf(), value);
    }
    all
}

/// Bytes that do not repeat within a chunk.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

pub fn write(path: &Path, content: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Bytes; 0 where nothing is.
pub fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

pub fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A time with nanoseconds, some years back.
pub fn set_mtime(path: &Path, nanos: u64) {
    let file = std::fs::File::open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_nanos(1_234_567_890_000_000_000 + nanos))
        .unwrap();
}

/// A tree with everything that a transfer must keep: sizes around a chunk, modes, times, links,
/// empty directories.
pub fn sample(top: &Path) {
    const MIB: usize = 1 << 20;
    let sizes = [0, 1, 4095, 70_000, MIB - 1, MIB, MIB + 1, 2 * MIB, 5 * MIB + 333];
    for (i, size) in sizes.into_iter().enumerate() {
        write(&top.join(format!("sizes/{size}")), &bytes(i as u64 + 1, size));
    }
    for i in 0..300 {
        write(
            &top.join(format!("many/{}/{i}", i % 7)),
            &bytes(i, (i as usize * 37) % 5000),
        );
    }
    std::fs::create_dir_all(top.join("empty/deeper")).unwrap();
    write(&top.join("modes/script"), b"#!/bin/sh\n");
    set_mode(&top.join("modes/script"), 0o751);
    write(&top.join("modes/secret"), b"x");
    set_mode(&top.join("modes/secret"), 0o600);
    symlink("../modes/script", top.join("modes/link")).unwrap();
    symlink("nowhere", top.join("modes/dangling")).unwrap();
    symlink("/etc/passwd", top.join("modes/absolute")).unwrap();
    symlink("..", top.join("modes/up")).unwrap();
    set_mode(&top.join("empty"), 0o1755);
    set_mtime(&top.join("modes/script"), 123_456_789);
    set_mtime(&top.join("sizes"), 7);
    set_mtime(&top.join("empty/deeper"), 8);
}

/// The same, with a large file of two names and an extended attribute, and with odd names.
pub fn rich_sample(top: &Path) {
    sample(top);
    write(&top.join("large"), &bytes(3, (20 << 20) + 7));
    for name in [&b"new\nline"[..], b"latin-\xe9", b"-dash", b"a'b\"c", b"star*"] {
        write(&top.join(OsStr::from_bytes(name)), name);
    }
    std::fs::hard_link(top.join("large"), top.join("other name")).unwrap();
    setxattr(top.join("large"), "user.note", b"seen", XattrFlags::empty()).unwrap();
}

/// The partial file of a target.
pub fn staged(target: &Path) -> PathBuf {
    target.with_file_name(OsStr::from_bytes(&partial_names(target).file))
}

/// The partial directory of a target.
pub fn partial_dir(target: &Path) -> PathBuf {
    target.with_file_name(OsStr::from_bytes(&partial_names(target).dir))
}

/// The record beside it.
pub fn record_of(target: &Path) -> PathBuf {
    target.with_file_name(OsStr::from_bytes(&partial_names(target).record))
}

fn partial_names(target: &Path) -> PartialNames {
    PartialNames::of(&Name::parse(target.file_name().unwrap().as_bytes()).unwrap())
}
