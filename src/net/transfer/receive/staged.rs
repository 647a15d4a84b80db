//! One larger file of a receiver: its chunks are put back in order, written part by part,
//! checkpointed now and then, and committed.
//!
//! ```text
//! Opening ──opened──▶ Idle ──part ready──▶ Busy ──written──▶ Idle … ──all──▶ Busy ──▶ settled
//!    ▲                  │                    │
//!    │      restart: the source changed   restart
//!    │                  ▼                    ▼
//!    └──────────────────┴────written────── Stale
//! ```
//!
//! It starts nothing itself: it returns the [`Work`] that is due, and receives how that ended.

use crate::chunk::Extent;
use crate::chunk::digest::Digest;
use crate::chunk::reassembly::{Mismatch, Part, Reassembly};
use crate::net::jobs::Work;
use crate::net::session::handed::HandedFile;
use crate::net::transfer::receive::copied::CopiedFile;
use crate::net::transfer::receive::in_flight::{FlyingPart, InFlight};
use crate::net::transfer::receive::progress::Progress;
use crate::net::transfer::receive::staged_jobs::{
    Opened, Salvage, StagedDone, Written, Wrote, extents_of, fly, leave_hole, time_of_day, write,
};
use crate::store::{Attributes, Bytes, Checkpoint, Resume, Staging, StoreError, Time};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// What a file is to be.
#[derive(Clone)]
pub(super) struct Wanted {
    /// Which attempt at it.
    pub(super) attempt: u8,
    /// `None`: a stream.
    pub(super) size: Option<u64>,
    pub(super) attributes: Attributes,
    pub(super) source_version: Option<String>,
    /// Its hash, if it was offered with one.
    pub(super) hash: Option<Digest>,
    /// The sender hands it over instead of sending its chunks.
    pub(super) is_copied: bool,
}

enum StagingState {
    /// The lock is being waited for, or the partial file emptied.
    Opening,
    Idle(Box<dyn Staging>),
    Busy,
    /// Busy with a part of an attempt that is out of date.
    Stale,
}

/// A file of more than a chunk, or a stream, that is being received.
pub(super) struct StagedFile {
    wanted: Wanted,
    reassembly: Reassembly<Bytes>,
    /// In place of the reassembly, with the file's size.
    copied: Option<(CopiedFile, u64)>,
    state: StagingState,
    turn: Option<OwnedSemaphorePermit>,
    progress: Progress,
    in_flight: InFlight,
    is_checkpointing: bool,
}

impl StagedFile {
    pub(super) fn new(wanted: Wanted, now: Instant) -> StagedFile {
        let size = wanted.size.filter(|_| wanted.is_copied);
        StagedFile {
            copied: size.map(|size| (CopiedFile::new(), size)),
            wanted,
            reassembly: Reassembly::default(),
            state: StagingState::Opening,
            turn: None,
            progress: Progress::new(now),
            in_flight: InFlight::default(),
            is_checkpointing: false,
        }
    }

    /// Which attempt's frames it takes.
    pub(super) fn attempt(&self) -> u8 {
        self.wanted.attempt
    }

    /// True when frames may come for it.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, StagingState::Idle(_) | StagingState::Busy)
    }

    /// True while its partial file is being opened, or emptied.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.state, StagingState::Opening)
    }

    /// True while it is written, or committed.
    pub(super) fn is_busy(&self) -> bool {
        match &self.state {
            StagingState::Busy => true,
            StagingState::Idle(staging) => {
                !self.in_flight.is_empty() && self.in_flight.count() >= staging.writes_at_once()
            }
            StagingState::Opening | StagingState::Stale => false,
        }
    }

    /// True while a job writes it, or makes a checkpoint.
    pub(super) fn has_job(&self) -> bool {
        let is_away = matches!(self.state, StagingState::Busy | StagingState::Stale);
        self.is_checkpointing || !self.in_flight.is_empty() || is_away
    }

    /// True while a job has its partial file.
    pub(super) fn is_away(&self) -> bool {
        !matches!(self.state, StagingState::Idle(_))
    }

    /// True when content is missing that only the sender can deliver. A stream takes as long as it
    /// takes.
    pub(super) fn waits_for_sender(&self) -> bool {
        let is_idle = matches!(self.state, StagingState::Idle(_)) && self.in_flight.is_empty();
        self.wanted.size.is_some() && is_idle
    }

    /// The partial file is open, or empty. Returns from where the content is wanted, and how many
    /// bytes of another version were discarded; or the work of emptying it first.
    pub(super) fn opened(
        &mut self,
        opened: Opened,
        now: Instant,
    ) -> Result<(Checkpoint, u64), Work<StagedDone>> {
        let (mut staging, is_current) =
            (opened.staging, opened.source_version == self.wanted.source_version);
        self.turn = Some(opened.turn);
        if is_current && let Some((point, discarded)) = self.take_over(staging.resume()) {
            self.progress.opened(point.clone(), now);
            staging.allocate(self.wanted.attributes.allocation);
            self.state = StagingState::Idle(staging);
            return Ok((point, discarded));
        }
        // the source changed while this was opened, or the record makes no sense
        Err(self.empty(staging))
    }

    /// Resumes where an earlier writer ended; returns from where, and how many bytes of another
    /// version there were.
    fn take_over(&mut self, found: Resume) -> Option<(Checkpoint, u64)> {
        if let Some((copied, size)) = &mut self.copied {
            return copied.resume(found, *size);
        }
        match found {
            Resume::From(point) => {
                let fits = self.wanted.size.is_some_and(|size| point.offset < size);
                let reassembly = Reassembly::resume(point.offset, point.digests.clone());
                self.reassembly = reassembly.filter(|_| fits)?;
                Some((point, 0))
            }
            Resume::Discarded(bytes) => Some((Checkpoint::default(), bytes)),
            Resume::Fresh => Some((Checkpoint::default(), 0)),
        }
    }

    fn empty(&mut self, mut staging: Box<dyn Staging>) -> Work<StagedDone> {
        self.state = StagingState::Opening;
        let (turn, source_version) = (self.turn.take(), self.wanted.source_version.clone());
        debug_assert!(turn.is_some(), "a file that is open has its turn");
        Work::new("empty", async move {
            let Some(turn) = turn else {
                return std::future::pending().await;
            };
            let emptied = staging.restart(source_version.clone()).await;
            StagedDone::Opened(emptied.map(|()| Opened {
                source_version,
                staging,
                turn,
            }))
        })
    }

    /// The sender hands the file over.
    pub(super) fn hand(&mut self, file: HandedFile) {
        if let Some((copied, _)) = &mut self.copied {
            copied.take(file);
        }
    }

    /// The next work, if any is due.
    ///
    /// # Errors
    /// [`Mismatch`] if all of the file is there and is not what was offered.
    pub(super) fn advance(&mut self) -> Result<Option<Work<StagedDone>>, Mismatch> {
        if let StagingState::Idle(staging) = &mut self.state
            && staging.writes_at_once() > 1
        {
            if self.in_flight.count() >= staging.writes_at_once() {
                return Ok(None);
            }
            let part = match self.reassembly.next_hole() {
                Some(_) => None,
                None => self.reassembly.take_part(&staging.part_rules()),
            };
            if let Some(part) = part {
                return Ok(self.begin_write(part));
            }
            if !self.in_flight.is_empty() {
                // a hole, and the commit, wait for all parts before them
                return Ok(None);
            }
        }
        let staging = match std::mem::replace(&mut self.state, StagingState::Busy) {
            StagingState::Idle(staging) => staging,
            other => {
                self.state = other;
                return Ok(None);
            }
        };
        if let Some((copied, size)) = &mut self.copied
            && copied.is_due(*size)
        {
            return Ok(Some(copied.copy(staging, *size, self.wanted.attributes.allocation)));
        }
        if let Some((offset, length)) = self.reassembly.next_hole() {
            return Ok(Some(leave_hole(staging, Extent { offset, length })));
        }
        if let Some(part) = self.reassembly.take_part(&staging.part_rules()) {
            return Ok(Some(write(staging, part)));
        }
        match self.complete() {
            Ok(Some((size, hash))) => Ok(Some(self.commit(staging, size, hash))),
            other => {
                self.state = StagingState::Idle(staging);
                other.map(|_| None)
            }
        }
    }

    /// Begins to write a part beside those that are on their way.
    fn begin_write(&mut self, part: Part<Bytes>) -> Option<Work<StagedDone>> {
        let StagingState::Idle(staging) = &mut self.state else {
            return None;
        };
        let (offset, digests) = self.reassembly.taken();
        let flying = self.in_flight.begin(Checkpoint { offset, digests }, extents_of(&part));
        let bytes = part.chunks.into_iter().map(|(_, bytes)| bytes).collect();
        let write = staging.begin_write(part.offset, bytes);
        debug_assert!(write.is_some(), "a store that writes several at once begins them");
        Some(fly(self.wanted.attempt, flying, write?))
    }

    /// A part was written beside others. Returns the extents that may be reported to the sender.
    pub(super) fn flown(&mut self, part: FlyingPart) -> Vec<Extent> {
        if let Some(point) = self.in_flight.ended(part.number) {
            self.progress.reached(point, self.wanted.size);
        }
        self.progress.acknowledge(part.extents)
    }

    /// Size and hash, once all of it is written and it may be committed.
    fn complete(&self) -> Result<Option<(u64, Option<Digest>)>, Mismatch> {
        let complete = match &self.copied {
            Some((copied, size)) => copied.is_confirmed().then_some((*size, None)),
            None => self.reassembly.complete()?.map(|(size, hash)| (size, Some(hash))),
        };
        match complete {
            // The system tells one fsync of an error: not the checkpoint's, while the commit's
            // succeeds.
            Some(_) if self.is_checkpointing => Ok(None),
            Some((_, Some(hash))) if self.wanted.hash.is_some_and(|offered| offered != hash) => {
                Err(Mismatch::Hash)
            }
            Some((size, _)) if self.wanted.size.is_some_and(|offered| offered != size) => {
                Err(Mismatch::Shape)
            }
            complete => Ok(complete),
        }
    }

    fn commit(
        &self,
        mut staging: Box<dyn Staging>,
        size: u64,
        hash: Option<Digest>,
    ) -> Work<StagedDone> {
        let mut attributes = self.wanted.attributes.clone();
        if attributes.mtime == Time::default() && self.wanted.size.is_none() {
            attributes.mtime = time_of_day();
        }
        if let Some(hash) = hash {
            staging.set_hash(hash);
        }
        Work::new("commit", async move {
            let result = staging.commit(size, attributes).await;
            StagedDone::Committed { size, hash, result }
        })
    }

    /// A part was written, or could not be. Returns the extents that may be reported to the sender;
    /// for an attempt that is out of date, the work of emptying the partial file.
    ///
    /// # Errors
    /// That of writing.
    pub(super) fn written(
        &mut self,
        Written {
            staging,
            wrote,
            result,
        }: Written,
    ) -> Result<(Vec<Extent>, Option<Work<StagedDone>>), StoreError> {
        if matches!(self.state, StagingState::Stale) {
            return Ok((Vec::new(), Some(self.empty(staging))));
        }
        debug_assert!(self.is_busy(), "it was being written");
        self.state = StagingState::Idle(staging);
        result?;
        let (offset, digests) = match (&wrote, &mut self.copied) {
            (Wrote::Copied(part), Some((copied, _))) => {
                copied.copied(*part);
                (copied.offset(), Vec::new())
            }
            (Wrote::Hole(chunks), _) => {
                self.reassembly.take_hole(chunks);
                self.reassembly.taken()
            }
            _ => self.reassembly.taken(),
        };
        self.progress.reached(Checkpoint { offset, digests }, self.wanted.size);
        Ok((self.progress.acknowledge(wrote.extents()), None))
    }

    /// The work of a checkpoint, if one is due. What is complete is committed instead, which makes
    /// it durable, too.
    pub(super) fn checkpoint_if_due(&mut self, now: Instant) -> Option<Work<StagedDone>> {
        let StagingState::Idle(staging) = &self.state else {
            return None;
        };
        if self.is_checkpointing {
            return None;
        }
        let checkpointer = staging.checkpointer()?;
        let point = self.progress.due(self.wanted.size, now)?;
        self.is_checkpointing = true;
        Some(Work::new("checkpoint", async move {
            StagedDone::Checkpointed(checkpointer.checkpoint(point).await)
        }))
    }

    /// A checkpoint was made, or failed.
    pub(super) fn checkpointed(&mut self) {
        self.is_checkpointing = false;
    }

    /// The source changed: the file restarts. Returns the work of emptying the partial file, if
    /// that can be done now.
    pub(super) fn restart(&mut self, wanted: Wanted, now: Instant) -> Option<Work<StagedDone>> {
        let old = std::mem::replace(self, StagedFile::new(wanted, now));
        (self.turn, self.is_checkpointing) = (old.turn, old.is_checkpointing);
        match old.state {
            StagingState::Idle(staging) => return Some(self.empty(staging)),
            StagingState::Opening => {}
            StagingState::Busy | StagingState::Stale => self.state = StagingState::Stale,
        }
        None
    }

    /// The file is given up. Returns what is to be done with its partial file, unless a job has
    /// that.
    pub(super) fn give_up(self, salvage: Salvage) -> Option<Work<()>> {
        let StagingState::Idle(staging) = self.state else {
            return None;
        };
        match salvage {
            Salvage::Nothing => Some(Work::new("discard", staging.discard())),
            // a partial file of which nothing is durable goes with its writer
            Salvage::Durable => None,
            Salvage::Written => {
                let checkpointer = staging.checkpointer()?;
                let point = self.progress.to_suspend()?;
                Some(Work::new("suspend", async move {
                    let _ = checkpointer.checkpoint(point).await;
                    drop(staging);
                }))
            }
        }
    }
}

mod frames;
#[cfg(test)]
mod tests;
