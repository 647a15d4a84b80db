//! Writing past the page cache: what is far into a large file goes straight to the disk (open(2), O_DIRECT).
//!
//! A durable file has to reach the disk before it is committed in any case. On the way through the page cache it costs a copy, pages
//! that have to be found by throwing others out, and a second pass when they are written back; and what was thrown out is missed by
//! everybody else. The beginning of a file stays in the cache, and so do smaller ones: those may well be read soon.

use super::lock::Lock;
use super::sys::{Directory, Node, OpenFile};
use crate::store::Bytes;
use crate::store::local::fs_type::is_good_at_direct;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::io::IoSlice;

/// Where in a file it begins, in bytes.
const FROM: u64 = 64 << 20;
/// What offsets, lengths and memory have to be multiples of: no disk asks for more.
const ALIGN: usize = 4096;

/// How one staging file is written past the page cache.
pub(super) struct Direct<F>(Mutex<DirectState<F>>);

enum DirectState<F> {
    Untried,
    Open(F),
    /// It cannot be, and goes through the page cache.
    Never,
}

impl<F: OpenFile> Direct<F> {
    /// Nothing has been written yet.
    pub(super) fn new() -> Direct<F> {
        Direct(Mutex::new(DirectState::Untried))
    }

    /// Writes what it can of `parts`, from the first on; gives how many bytes that were.
    pub(super) fn write(
        &self,
        held: &Lock<F>,
        dir: &impl Directory<File = F>,
        offset: u64,
        parts: &[Bytes],
    ) -> rustix::io::Result<usize> {
        if offset < FROM || !offset.is_multiple_of(ALIGN as u64) {
            return Ok(0);
        }
        let fits = |bytes: &&[u8]| bytes.len().is_multiple_of(ALIGN) && bytes.as_ptr().align_offset(ALIGN) == 0;
        let fitting = parts.iter().map(|part| (**part).as_ref()).take_while(fits);
        let slices: Vec<IoSlice<'_>> = fitting.map(IoSlice::new).collect();
        if slices.is_empty() {
            return Ok(0);
        }
        let mut state = self.0.lock();
        if matches!(*state, DirectState::Untried) {
            *state = open(held, dir).map_or(DirectState::Never, DirectState::Open);
        }
        let DirectState::Open(file) = &*state else { return Ok(0) };
        match file.pwritev(&slices, offset) {
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                *state = DirectState::Never;
                Ok(0)
            }
            result => result,
        }
    }
}

/// The staging file once more, for direct writes.
fn open<D: Directory>(held: &Lock<D::File>, dir: &D) -> Option<D::File> {
    if !is_good_at_direct(&held.file) {
        return None;
    }
    let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = dir.open_at(&held.names.file, flags).ok()?;
    held.is_of(&file.fstat().ok()?).then_some(file)
}
