//! A partial file under its lock: parts are written to it, checkpoints made of it.

use super::direct::Direct;
use super::record::{self, RecordFile};
use super::sparse;
use super::sys::{Directory, Node, OpenFile};
use super::target::LockedTarget;
use super::tree::sync_dir;
use crate::store::error::At;
use crate::store::shares::Share;
use crate::store::{Allocation, Bytes, Checkpoint, FileRange, RemotePath, StoreError};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A partial file, as its writer and its checkpointers share it.
pub(super) struct PartialFile<D: Directory> {
    pub(super) target: LockedTarget<D>,
    /// `None` if it does not have to reach the disk.
    pub(super) direct: Option<Direct<D::File>>,
    /// See [`super::fs_type::is_in_memory`].
    pub(super) in_memory: bool,
    pub(super) record: Mutex<Option<RecordFile<D::File>>>,
    /// Counts restarts: a checkpoint of the time before one is dropped.
    pub(super) generation: AtomicU64,
    /// The names of partial file and record are durable.
    pub(super) named: AtomicBool,
    /// An fsync has failed. Locked during each: the system reports an error to one caller, and must
    /// not report success to the other.
    pub(super) sync_failed: Mutex<bool>,
    pub(super) _open: Option<Share>,
}

impl<D: Directory> Drop for PartialFile<D> {
    /// The durable beginning stays for the next writer to resume; no writer has a use for the rest.
    fn drop(&mut self) {
        let LockedTarget { dir, lock, .. } = &self.target;
        match lock.progress.durable_offset.load(Ordering::Relaxed) {
            0 => self.target.discard(),
            // room for others; a file that was committed is not touched
            durable if lock.is_ours(&**dir) => drop(lock.file.ftruncate(durable)),
            _ => {}
        }
    }
}

impl<D: Directory> PartialFile<D> {
    pub(super) fn path(&self) -> &RemotePath {
        &self.target.path
    }

    pub(super) fn file(&self) -> &D::File {
        &self.target.lock.file
    }

    /// Everything up to `end` is written.
    fn wrote_to(&self, end: u64) {
        self.target.lock.progress.written.fetch_max(end, Ordering::Relaxed);
    }

    /// fsync or fdatasync, unless one has failed before: its data is lost, whatever a later one
    /// returns.
    pub(super) fn sync(
        &self,
        call: impl FnOnce(&D::File) -> rustix::io::Result<()>,
    ) -> Result<(), StoreError> {
        let mut failed = self.sync_failed.lock();
        if *failed {
            return Err(StoreError::because("an earlier fsync of this file failed", self.path()));
        }
        let synced = call(self.file());
        *failed = synced.is_err();
        synced.at("fsync", self.path())
    }

    /// Makes leading bytes durable, and then the record that says so; unless the file was restarted
    /// since `generation`.
    pub(super) fn checkpoint(&self, point: &Checkpoint, generation: u64) -> Result<(), StoreError> {
        self.sync(OpenFile::fdatasync)?;
        let mut record = self.record.lock();
        if self.generation.load(Ordering::Relaxed) != generation {
            return Ok(());
        }
        let Some(open) = record.as_mut() else {
            return Ok(());
        };
        // before the record says anything: beside a name that is not durable it could be found with
        // another file
        if !self.named.swap(true, Ordering::Relaxed) {
            sync_dir(&*self.target.dir, self.path())?;
        }
        if open.checkpoint(point).is_err() {
            // the data is safe, only the next writer will not know: no reason to fail the file
            *record = None;
            return Ok(());
        }
        let progress = &self.target.lock.progress;
        progress.durable_offset.store(point.offset, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn write(
        &self,
        offset: u64,
        parts: &[Bytes],
        allocation: Allocation,
    ) -> Result<(), StoreError> {
        match allocation {
            Allocation::Dense => self.write_dense(offset, parts),
            Allocation::Sparse => self.write_sparse(offset, parts),
        }
    }

    /// Writes parts without the blocks of zeros in them.
    fn write_sparse(&self, offset: u64, parts: &[Bytes]) -> Result<(), StoreError> {
        let mut at = offset;
        for part in parts {
            let bytes = (**part).as_ref();
            match sparse::has_zero_block(bytes) {
                false => self.write_dense(at, std::slice::from_ref(part))?,
                true => sparse::write(self.file(), bytes, at).at("write", self.path())?,
            }
            at = at.saturating_add(bytes.len() as u64);
        }
        self.wrote_to(at);
        Ok(())
    }

    /// Extends the file to `end`, with a hole where nothing was written.
    pub(super) fn extend(&self, end: u64) -> Result<(), StoreError> {
        sparse::extend(self.file(), end).at("extend", self.path())?;
        self.wrote_to(end);
        Ok(())
    }

    /// Writes parts, past the page cache if that serves.
    fn write_dense(&self, offset: u64, parts: &[Bytes]) -> Result<(), StoreError> {
        let written = match &self.direct {
            Some(direct) if !self.in_memory => direct.write(&self.target, offset, parts),
            _ => Ok(0),
        };
        let written = written.and_then(|written| self.write_cached(written, offset, parts));
        written.at("write", self.path())
    }

    /// Writes parts that belong at `offset`, without their first `written` bytes.
    fn write_cached(
        &self,
        mut written: usize,
        offset: u64,
        parts: &[Bytes],
    ) -> rustix::io::Result<()> {
        let mut at = offset.saturating_add(written as u64);
        for part in parts {
            let bytes = (**part).as_ref();
            let here = written.min(bytes.len());
            written = written.saturating_sub(here);
            let rest = bytes.get(here..).unwrap_or_default();
            self.file().pwrite_all(rest, at)?;
            at = at.saturating_add(rest.len() as u64);
        }
        self.wrote_to(at);
        Ok(())
    }

    /// Makes this file share the blocks of another one; false if that cannot be done.
    pub(super) fn share_blocks(&self, source: &File) -> bool {
        let shared = self.file().clone_of(source).is_ok();
        if shared && let Ok(found) = self.file().fstat() {
            self.wrote_to(u64::try_from(found.st_size).unwrap_or(0));
        }
        shared
    }

    /// Has the system copy from the same place in another file; returns where it stopped. It stops
    /// at an error that may be of either file, and at the end of the other one.
    ///
    /// # Errors
    /// That there is no room.
    pub(super) fn copy_range(&self, source: &File, range: FileRange) -> Result<u64, StoreError> {
        let mut offset = range.offset;
        while offset < range.end {
            let rest = range.end.saturating_sub(offset);
            let length = usize::try_from(rest).unwrap_or(usize::MAX);
            match self.file().copy_range(source, offset, length) {
                Ok(0) => break,
                Ok(copied) => offset = offset.saturating_add(copied as u64),
                Err(e @ (Errno::NOSPC | Errno::DQUOT)) => return Err(e).at("write", self.path()),
                Err(_) => break,
            }
            self.wrote_to(offset);
        }
        Ok(offset)
    }

    /// Forgets all that was written, for another version of the source.
    pub(super) fn restart(&self, source: Option<String>) -> Result<(), StoreError> {
        let lock = &self.target.lock;
        let mut record = self.record.lock();
        self.generation.fetch_add(1, Ordering::Relaxed);
        // first the record: it must not speak of bytes that are gone
        let restarted = match record.as_mut() {
            Some(open) => open.restart(source),
            None => record::remove(&*self.target.dir, &lock.names.record),
        };
        restarted.at("write the record", self.path())?;
        lock.progress.set(0, 0);
        lock.file.ftruncate(0).at("empty the partial file", self.path())
    }
}
