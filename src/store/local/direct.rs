//! Writing past the page cache: the later bytes of a large file go straight to the disk (open(2),
//! O_DIRECT).
//!
//! A durable file has to reach the disk before it is committed in any case. On the way through the
//! page cache it costs a copy, pages that evict those of other programs, and a second pass when
//! they are written back. The beginning of a file stays in the cache, and so do smaller files:
//! another program may well read them soon.

use super::fs_type::is_good_at_direct;
use super::sys::{Directory, Node, OpenFile, WARY};
use super::target::LockedTarget;
use crate::store::Bytes;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::io::IoSlice;

/// Where in a file it begins, in bytes.
const FROM: u64 = 64 << 20;
/// What offsets, lengths and memory have to be multiples of: no disk asks for more.
const ALIGN: usize = 4096;

/// How one partial file is written past the page cache.
pub(super) struct Direct<F>(Mutex<DirectState<F>>);

enum DirectState<F> {
    Untried,
    Open(F),
    /// The file system or the disk refuses it: all writes go through the page cache.
    Never,
}

impl<F: OpenFile> Direct<F> {
    /// Nothing has been written yet.
    pub(super) fn new() -> Direct<F> {
        Direct(Mutex::new(DirectState::Untried))
    }

    /// Writes the leading ones of `parts` that can be written so; returns the number of bytes.
    pub(super) fn write<D: Directory<File = F>>(
        &self,
        target: &LockedTarget<D>,
        offset: u64,
        parts: &[Bytes],
    ) -> rustix::io::Result<usize> {
        if offset < FROM || !offset.is_multiple_of(ALIGN as u64) {
            return Ok(0);
        }
        let fits = |bytes: &&[u8]| {
            bytes.len().is_multiple_of(ALIGN) && bytes.as_ptr().align_offset(ALIGN) == 0
        };
        let fitting = parts.iter().map(|part| (**part).as_ref()).take_while(fits);
        let slices: Vec<IoSlice<'_>> = fitting.map(IoSlice::new).collect();
        if slices.is_empty() {
            return Ok(0);
        }
        let mut state = self.0.lock();
        if matches!(*state, DirectState::Untried) {
            *state = open(target).map_or(DirectState::Never, DirectState::Open);
        }
        let DirectState::Open(file) = &*state else {
            return Ok(0);
        };
        match file.pwritev(&slices, offset) {
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                *state = DirectState::Never;
                Ok(0)
            }
            result => result,
        }
    }
}

/// Opens the partial file a second time, for direct writes.
fn open<D: Directory>(target: &LockedTarget<D>) -> Option<D::File> {
    let LockedTarget { dir, lock, .. } = target;
    if !is_good_at_direct(&lock.file) {
        return None;
    }
    let flags = WARY | OFlags::WRONLY | OFlags::DIRECT;
    let file = dir.open_at(&lock.names.file, flags).ok()?;
    lock.is_of(&file.fstat().ok()?).then_some(file)
}
