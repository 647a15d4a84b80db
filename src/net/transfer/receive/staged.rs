//! One larger file of a receiver: its chunks are put back in order, written part by part, made durable now and then, and
//! committed.
//!
//! ```text
//! Opening ──staged──▶ Idle ──part ready──▶ Busy ──written──▶ Idle … ──all there──▶ Busy (commit) ──▶ settled
//!    ▲                  │                    │
//!    │      restart: the source changed   restart
//!    │                  ▼                    ▼
//!    └──────────────────┴────written────── Stale
//! ```

use crate::chunk::digest::Digest;
use crate::chunk::hole::{self, ZeroChunk};
use crate::chunk::reassembly::{Inserted, Mismatch, Reassembly};
use crate::net::data::payload::ReceivedFrame;
use crate::net::error::NetError;
use crate::net::session::TransferChannel;
use crate::net::transfer::receive::files::JobDone;
use crate::net::wire::frame::{FrameHeader, FrameKind};
use crate::store::{Attributes, Bytes, Checkpoint, Resume, Staging, StoreError, Time};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// Bytes after which what is written is made durable, when some time has gone by, too.
const KEEP_BYTES: u64 = 64 << 20;
/// That time.
const KEEP_PAUSE: Duration = Duration::from_secs(1);
/// Time after which it is made durable however little has come.
const KEEP_TIME: Duration = Duration::from_secs(5);
/// Bytes that may be written, and told of as written, behind a chunk that is missing: what is lost when it never comes.
const AHEAD: u64 = 64 << 20;
/// How far behind a missing chunk one of a stream may come at all: with this much not told of and the largest window there
/// is. Holes take nothing of a window, so a file of known size is bounded by that.
const FARTHEST: u64 = AHEAD + (128 << 20);
/// Chunks that may be written and not told of: more than the largest window has.
const MOST_AHEAD: usize = 192;

/// The jobs of a receiver's files.
pub(super) type Jobs = crate::net::task::Jobs<JobDone>;

/// Offset and length of a chunk, or of a hole.
pub(super) type Extent = (u64, usize);

/// What a job has written.
pub(super) enum Wrote {
    Chunks(Vec<Extent>),
    /// The chunks of a hole.
    Hole(Vec<ZeroChunk>),
}

impl Wrote {
    /// Its frames are done with.
    pub(super) fn is_done(&self, channel: &TransferChannel) {
        match self {
            Wrote::Chunks(extents) => extents.iter().for_each(|(_, length)| channel.done(*length)),
            Wrote::Hole(_) => channel.done(0),
        }
    }

    /// What the sender is told of.
    fn extents(self) -> Vec<Extent> {
        match self {
            Wrote::Chunks(extents) => extents,
            Wrote::Hole(chunks) => {
                let length = chunks.iter().map(|chunk| chunk.length).fold(0, u64::saturating_add);
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                chunks.first().map(|first| (first.offset, length)).into_iter().collect()
            }
        }
    }
}

/// What becomes of the staging file of a file that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Its content is wrong, or of no source any more.
    Nothing,
    /// The next transfer resumes what is durable of it.
    Durable,
    /// What was written is made durable for that, too.
    Written,
}

enum StagingState {
    /// The lock is being waited for, or the staging file emptied.
    Opening,
    Idle(Box<dyn Staging>),
    Busy,
    /// Busy with a part of an attempt that is out of date.
    Stale,
}

/// A file of more than a chunk, or a stream, that is being received.
pub(super) struct StagedFile {
    attributes: Attributes,
    attempt: u8,
    /// None: a stream.
    size: Option<u64>,
    /// The version of the source.
    source: Option<String>,
    /// Its hash, where it was offered with one.
    hash: Option<Digest>,
    reassembly: Reassembly<Bytes>,
    state: StagingState,
    permit: Option<OwnedSemaphorePermit>,
    /// What is written, and as far as which it has been made durable, or is being.
    written: Checkpoint,
    /// What was written the last time that a transfer could still go on from there: before the end.
    resumable: Checkpoint,
    kept: u64,
    kept_at: Instant,
    keeping: bool,
    /// Chunks that are written far ahead of one that is missing: not told of yet, so that the sender's window closes.
    ahead: Vec<Extent>,
}

impl StagedFile {
    pub(super) fn new(
        size: Option<u64>,
        attributes: Attributes,
        attempt: u8,
        source: Option<String>,
        hash: Option<Digest>,
    ) -> StagedFile {
        StagedFile {
            attributes,
            attempt,
            size,
            source,
            hash,
            reassembly: Reassembly::default(),
            state: StagingState::Opening,
            permit: None,
            written: Checkpoint::default(),
            resumable: Checkpoint::default(),
            kept: 0,
            kept_at: Instant::now(),
            keeping: false,
            ahead: Vec::new(),
        }
    }

    /// Which attempt's frames it takes.
    pub(super) fn attempt(&self) -> u8 {
        self.attempt
    }

    /// The version of the source that it is to be.
    pub(super) fn source(&self) -> Option<String> {
        self.source.clone()
    }

    /// True when frames may come for it.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, StagingState::Idle(_) | StagingState::Busy)
    }

    /// True while its staging file is being opened, or emptied.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.state, StagingState::Opening)
    }

    /// True while it is written, or committed.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.state, StagingState::Busy)
    }

    /// True while a job writes it, or makes it durable.
    pub(super) fn is_worked_on(&self) -> bool {
        self.keeping || matches!(self.state, StagingState::Busy | StagingState::Stale)
    }

    /// True when content is missing that only the sender can give. A stream takes as long as it takes.
    pub(super) fn waits_for_sender(&self) -> bool {
        self.size.is_some() && matches!(self.state, StagingState::Idle(_))
    }

    /// The staging file is open, or empty, for the version `source` of the source. Gives from where its content is wanted, and
    /// how many bytes of another version are gone; nothing where it has to be emptied first.
    pub(super) fn staged(
        &mut self,
        number: u64,
        (mut staging, permit): (Box<dyn Staging>, OwnedSemaphorePermit),
        source: Option<String>,
        jobs: &Jobs,
    ) -> Option<(Checkpoint, u64)> {
        self.permit = Some(permit);
        if source == self.source
            && let Some(found) = self.take_over(staging.resume())
        {
            staging.allocate(self.attributes.allocation);
            self.state = StagingState::Idle(staging);
            return Some(found);
        }
        // the source changed while this was opened, or what is left makes no sense
        self.empty(number, staging, jobs);
        None
    }

    /// Goes on where an earlier writer ended; says from where, and how many bytes of another version were left.
    fn take_over(&mut self, left: Resume) -> Option<(Checkpoint, u64)> {
        self.kept_at = Instant::now();
        match left {
            Resume::From(point) => {
                let fits = self.size.is_some_and(|size| point.offset < size);
                let reassembly = Reassembly::resume(point.offset, point.digests.clone());
                self.reassembly = reassembly.filter(|_| fits)?;
                (self.written, self.kept) = (point.clone(), point.offset);
                Some((point, 0))
            }
            Resume::Discarded(bytes) => Some((Checkpoint::default(), bytes)),
            Resume::Fresh => Some((Checkpoint::default(), 0)),
        }
    }

    fn empty(&mut self, number: u64, mut staging: Box<dyn Staging>, jobs: &Jobs) {
        self.state = StagingState::Opening;
        let (permit, source) = (self.permit.take(), self.source.clone());
        let Some(permit) = permit else { return };
        jobs.start("empty", async move {
            let emptied = staging.restart(source.clone()).await;
            JobDone::Staged(number, source, emptied.map(|()| staging), permit)
        });
    }

    /// Takes an intact frame. Its payload is counted in `seat` until it is written, or known not to be.
    ///
    /// # Errors
    /// The outer one breaks the protocol, the inner one only fails the file.
    pub(super) fn frame(
        &mut self,
        frame: ReceivedFrame,
        channel: &TransferChannel,
    ) -> Result<Result<Inserted, Mismatch>, NetError> {
        let (header, length) = (frame.header, frame.payload.len());
        if header.kind == FrameKind::Chunk && self.is_too_far(header.offset) {
            return Err(NetError::Protocol("it sends more than its window allows".into()));
        }
        if !self.is_within_size(&header) {
            channel.done(length);
            return Ok(Err(Mismatch::Shape));
        }
        let bytes: Bytes = Arc::new(frame.payload);
        let reassembly = &mut self.reassembly;
        let inserted = match header.kind {
            FrameKind::File => reassembly.insert_whole(length as u64, header.digest, bytes),
            FrameKind::End => reassembly.seal(header.offset, header.digest).map(|()| Inserted::New),
            FrameKind::Hole => reassembly.insert_hole(header.offset, header.hole()),
            _ => reassembly.insert(header.offset, length as u64, header.digest, bytes),
        };
        // a seal and an empty file carry nothing that is written later
        let is_taken = length == 0 && header.kind != FrameKind::Hole;
        if is_taken || inserted != Ok(Inserted::New) {
            channel.done(length);
        }
        Ok(inserted)
    }

    /// True where a chunk at `offset` is more than a sender that obeys its window could have sent.
    fn is_too_far(&self, offset: u64) -> bool {
        let farthest = self.reassembly.next_offset().saturating_add(FARTHEST);
        (self.size.is_none() && offset > farthest) || self.ahead.len() > MOST_AHEAD
    }

    /// True unless a chunk or a hole reaches beyond the size that was offered. A stream has no holes.
    fn is_within_size(&self, header: &FrameHeader) -> bool {
        let length = match header.kind {
            FrameKind::Chunk => u64::from(header.length),
            FrameKind::Hole => header.hole(),
            _ => return true,
        };
        match self.size {
            Some(size) => header.offset.saturating_add(length) <= size,
            None => header.kind == FrameKind::Chunk,
        }
    }

    /// Starts the next job, if one is due.
    ///
    /// # Errors
    /// [`Mismatch`] where all is there and is not what was offered.
    pub(super) fn advance(&mut self, number: u64, jobs: &Jobs) -> Result<(), Mismatch> {
        let mut staging = match std::mem::replace(&mut self.state, StagingState::Busy) {
            StagingState::Idle(staging) => staging,
            other => {
                self.state = other;
                return Ok(());
            }
        };
        if let Some((offset, length)) = self.reassembly.next_hole() {
            jobs.start("hole", async move {
                let chunks = hole::chunks(offset, length).await;
                let left = staging.hole(offset, length).await;
                JobDone::Written(number, staging, Wrote::Hole(chunks), left)
            });
            return Ok(());
        }
        if let Some(part) = self.reassembly.take_part(&staging.part_rules()) {
            jobs.start("write", async move {
                let extent = |(offset, bytes): &(u64, Bytes)| (*offset, (**bytes).as_ref().len());
                let extents = Wrote::Chunks(part.chunks.iter().map(extent).collect());
                let bytes = part.chunks.into_iter().map(|(_, bytes)| bytes).collect();
                let written = staging.write(part.offset, bytes).await;
                JobDone::Written(number, staging, extents, written)
            });
            return Ok(());
        }
        let complete = self.complete();
        if let Ok(Some((size, hash))) = complete {
            let mut attributes = self.attributes;
            if attributes.mtime == Time::default() && self.size.is_none() {
                attributes.mtime = now();
            }
            jobs.start("commit", async move {
                let committed = staging.commit(size, attributes).await;
                JobDone::Committed(number, size, hash, committed)
            });
        } else {
            self.state = StagingState::Idle(staging);
        }
        complete.map(drop)
    }

    /// Size and hash, when all of it is written and it may be committed.
    fn complete(&self) -> Result<Option<(u64, Digest)>, Mismatch> {
        match self.reassembly.complete()? {
            // An fsync tells of an error once: it must not be the keeper's that hears of it, and the commit's that succeeds.
            Some(_) if self.keeping => Ok(None),
            Some((_, hash)) if self.hash.is_some_and(|offered| offered != hash) => Err(Mismatch::Hash),
            Some((size, _)) if self.size.is_some_and(|offered| offered != size) => Err(Mismatch::Shape),
            complete => Ok(complete),
        }
    }

    /// A part was written, or could not be. Gives the chunks that the sender may be told of.
    ///
    /// # Errors
    /// That of writing.
    pub(super) fn written(
        &mut self,
        number: u64,
        staging: Box<dyn Staging>,
        wrote: Wrote,
        result: Result<(), StoreError>,
        jobs: &Jobs,
    ) -> Result<Vec<Extent>, StoreError> {
        if matches!(self.state, StagingState::Stale) {
            self.empty(number, staging, jobs);
            return Ok(Vec::new());
        }
        if let Err(e) = result {
            self.state = StagingState::Idle(staging);
            return Err(e);
        }
        self.take_back(staging, &wrote);
        self.keep_if_due(number, jobs);
        self.ahead.extend(wrote.extents());
        let most = self.written.offset.saturating_add(AHEAD);
        Ok(self.ahead.extract_if(.., |(offset, _)| *offset <= most).collect())
    }

    /// A part was written: nothing is being written any more.
    pub(super) fn take_back(&mut self, staging: Box<dyn Staging>, wrote: &Wrote) {
        if let Wrote::Hole(chunks) = wrote {
            self.reassembly.take_hole(chunks);
        }
        let (offset, digests) = self.reassembly.taken();
        self.written = Checkpoint { offset, digests };
        if self.size.is_some_and(|size| offset < size) {
            self.resumable = self.written.clone();
        }
        self.state = StagingState::Idle(staging);
    }

    /// Makes durable what is written, beside the writing. What is complete is committed right after, which does that too.
    fn keep_if_due(&mut self, number: u64, jobs: &Jobs) {
        let new = self.written.offset.saturating_sub(self.kept);
        let since = self.kept_at.elapsed();
        let complete = self.size.is_none_or(|size| self.written.offset >= size);
        let due = since >= KEEP_TIME || (new >= KEEP_BYTES && since >= KEEP_PAUSE);
        let StagingState::Idle(staging) = &self.state else {
            return;
        };
        if self.keeping || complete || new == 0 || !due {
            return;
        }
        let Some(keeper) = staging.checkpointer() else { return };
        let point = self.written.clone();
        (self.kept, self.kept_at, self.keeping) = (point.offset, Instant::now(), true);
        jobs.start("keep", async move {
            JobDone::AllowancePermit(number, keeper.checkpoint(point).await)
        });
    }

    /// That has ended.
    pub(super) fn kept(&mut self) {
        self.keeping = false;
    }

    /// The source changed: it begins anew, as `anew`.
    pub(super) fn restart(&mut self, number: u64, anew: StagedFile, channel: &TransferChannel, jobs: &Jobs) {
        let old = std::mem::replace(self, anew);
        (self.permit, self.keeping) = (old.permit, old.keeping);
        drop_waiting(old.reassembly, channel);
        match old.state {
            StagingState::Idle(staging) => self.empty(number, staging, jobs),
            StagingState::Opening => {}
            StagingState::Busy | StagingState::Stale => self.state = StagingState::Stale,
        }
    }

    /// It fails: what came is dropped, and what was written is kept or removed.
    pub(super) fn give_up(self, keep: Keep, channel: &TransferChannel, jobs: &Jobs) {
        let StagedFile {
            reassembly,
            state,
            resumable,
            kept,
            ..
        } = self;
        drop_waiting(reassembly, channel);
        let StagingState::Idle(staging) = state else { return };
        match keep {
            Keep::Nothing => jobs.tasks().detach("discard", staging.discard()),
            // a staging file of which nothing is durable goes with its writer
            Keep::Durable => drop(staging),
            Keep::Written => {
                if let Some(keeping) = keep_written(staging, resumable, kept) {
                    jobs.tasks().detach("suspend", keeping);
                }
            }
        }
    }

    /// What makes durable what has been written, where it is not yet.
    pub(super) fn suspend(self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let StagingState::Idle(staging) = self.state else {
            return None;
        };
        keep_written(staging, self.resumable, self.kept)
    }
}

/// Makes durable what has been written, where more has been than is durable, and lets the file go.
fn keep_written(
    staging: Box<dyn Staging>,
    resumable: Checkpoint,
    kept: u64,
) -> Option<impl Future<Output = ()> + Send + 'static> {
    let keeper = staging.checkpointer().filter(|_| resumable.offset > kept)?;
    Some(async move {
        let _ = keeper.checkpoint(resumable).await;
        drop(staging);
    })
}

fn drop_waiting(reassembly: Reassembly<Bytes>, channel: &TransferChannel) {
    for _ in 0..reassembly.waiting_holes() {
        channel.done(0);
    }
    for (_, bytes) in reassembly.into_waiting() {
        channel.done((*bytes).as_ref().len());
    }
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time {
        secs: i64::try_from(since.as_secs()).unwrap_or(0),
        nanos: since.subsec_nanos(),
    }
}

#[cfg(test)]
mod tests {
    use crate::net::task::Tasks;
    use crate::net::transfer::receive::staged::*;

    /// What was made durable tells so while a part of the attempt before is still being written: its staging file has to be
    /// emptied when that ends, and is not to be taken for one that is being written anew.
    #[test]
    fn an_attempt_that_is_out_of_date_stays_so_until_its_part_is_written() {
        let (jobs, _ended) = Jobs::new(Tasks::new(|_| {}));
        let mut large = StagedFile::new(Some(2 << 20), Attributes::default(), 1, None, None);
        for state in [StagingState::Opening, StagingState::Busy, StagingState::Stale] {
            let before = std::mem::discriminant(&state);
            large.state = state;
            large.kept();
            large.advance(1, &jobs).unwrap();
            assert_eq!(std::mem::discriminant(&large.state), before);
        }
    }
}
