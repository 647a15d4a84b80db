//! The files of the transfers, in their versions.

use crate::store::{Attributes, Checkpoint, RemotePath, Time};

/// Targets, with the sizes of their files: larger ones than this arrive in parts.
pub(super) const SMALL: usize = 24;
pub(super) const TARGETS: [(&str, usize); 19] = [
    ("a", 5),
    ("b", 8),
    ("sub/a", 16),
    ("sub/b", 17),
    ("mount/a", 9),
    ("mount/b", 20),
    ("mount/c", 3),
    ("mount/d", 3),
    ("c", 1),
    ("d", 23),
    ("e", 4),
    ("f", 2),
    ("g", 7),
    ("h", 12),
    ("sub/c", 6),
    ("sub/d", 21),
    ("large", 64),
    ("sub/large", 57),
    ("mount/large", 72),
];
/// Bytes of a part. Offsets of checkpoints are multiples of it.
pub(super) const PART: usize = 8;
/// Returns a version of a source, as a sender would offer it.
pub(super) fn content(target: &str, version: usize) -> Vec<u8> {
    let size = TARGETS.iter().find(|(name, _)| *name == target).unwrap().1;
    let hash = blake3::hash(format!("{target} {version}").as_bytes());
    let mut content: Vec<u8> = hash.as_bytes().iter().copied().cycle().take(size).collect();
    // a larger one has holes
    if let Some(hole) = content.get_mut(3 * PART..5 * PART) {
        hole.fill(0);
    }
    content
}

pub(super) fn attributes(version: usize) -> Attributes {
    let mtime = Time {
        secs: 1_000_000_001 + 3 * version as i64,
        nanos: 987_654_321,
    };
    Attributes {
        mtime,
        mode: 0o644,
        ..Attributes::default()
    }
}

pub(super) fn path(text: &str) -> RemotePath {
    RemotePath::parse(text.as_bytes()).unwrap()
}

pub(super) fn source(target: &str, version: usize) -> String {
    format!("source of {target} {version}")
}

pub(super) fn point(bytes: &[u8], at: usize) -> Checkpoint {
    Checkpoint {
        offset: at as u64,
        digests: vec![*blake3::hash(&bytes[..at]).as_bytes()],
    }
}
