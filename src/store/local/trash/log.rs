//! The log of a batch: the paths of its entries, behind the BLAKE3 hash of all of them.

use super::super::sys::{Call, Directory, Node, OpenFile, WARY};
use crate::store::RemotePath;
use cap_std::fs::Dir;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

/// Its name in the batch; entries are numbers.
pub(super) const LOG: &[u8] = b"log";
/// Most bytes of a log.
pub(super) const MOST: usize = 2 << 20;
/// Bytes of a path's length, and of the hash.
const LENGTH: usize = 2;
const HASH: usize = 32;

/// Bytes that a path takes.
pub(super) fn size_of(path: &RemotePath) -> usize {
    path.as_bytes().len().saturating_add(LENGTH)
}

/// Writes the log of a batch, durably.
pub(super) fn write<'a>(batch: &Dir, paths: impl Iterator<Item = &'a RemotePath>) -> Call<()> {
    let mut text = Vec::new();
    for path in paths {
        let bytes = path.as_bytes();
        let length = u16::try_from(bytes.len()).map_err(|_| Errno::NAMETOOLONG)?;
        text.extend_from_slice(&length.to_be_bytes());
        text.extend_from_slice(bytes);
    }
    let log = batch.create_at(LOG, WARY | OFlags::RDWR, 0o600)?;
    log.pwrite_all(&[&blake3::hash(&text).as_bytes()[..], &text].concat(), 0)?;
    log.fsync()
}

/// The paths of a batch's entries, by their numbers.
///
/// # Errors
/// ILSEQ for a log that is none.
pub(super) fn read(batch: &Dir) -> Call<Vec<RemotePath>> {
    let log = batch.open_at(LOG, WARY | OFlags::RDONLY)?;
    let found = log.fstat()?;
    let is_file = FileType::from_raw_mode(found.st_mode).is_file();
    let size = usize::try_from(found.st_size)
        .ok()
        .filter(|size| is_file && *size <= MOST + HASH);
    let mut bytes = vec![0; size.ok_or(Errno::ILSEQ)?];
    let mut at = 0_usize;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match log.pread(rest, at as u64)? {
            0 => return Err(Errno::ILSEQ),
            n => at = at.saturating_add(n),
        }
    }
    paths_of(&bytes).ok_or(Errno::ILSEQ)
}

fn paths_of(bytes: &[u8]) -> Option<Vec<RemotePath>> {
    let (hash, mut text) = bytes.split_at_checked(HASH)?;
    if blake3::hash(text).as_bytes() != hash {
        return None;
    }
    let mut paths = Vec::new();
    while !text.is_empty() {
        let (length, rest) = text.split_first_chunk::<LENGTH>()?;
        let (path, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        paths.push(RemotePath::parse(path).ok()?);
        text = rest;
    }
    Some(paths)
}
