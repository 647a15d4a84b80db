//! How far a staged file is: what is written, what was reported to the sender, and when the next
//! checkpoint is due.

use crate::chunk::Extent;
use crate::store::Checkpoint;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes after which a checkpoint is due, once [`CHECKPOINT_PAUSE`] has gone by, too.
const CHECKPOINT_BYTES: u64 = 64 << 20;
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(1);
/// Time after which a checkpoint is due however little has come.
const CHECKPOINT_TIME: Duration = Duration::from_secs(5);
/// Bytes that may be written and acknowledged behind a chunk that is missing: what is lost when
/// that never comes.
pub(super) const AHEAD: u64 = 64 << 20;
/// Chunks that may be written and not acknowledged: more than the largest window has.
const MOST_UNACKNOWLEDGED: usize = 192;

/// The progress of one attempt at a file.
pub(super) struct Progress {
    /// What is written without a gap.
    written: Checkpoint,
    /// What was written the last time that a transfer could still resume there: before the end.
    resumable: Checkpoint,
    durable_offset: u64,
    checkpointed_at: Instant,
    /// Chunks that are written far ahead of a missing one: not acknowledged yet, so that the
    /// sender's window closes.
    unacknowledged: Vec<Extent>,
}

impl Progress {
    /// Nothing is written.
    pub(super) fn new(now: Instant) -> Progress {
        Progress {
            written: Checkpoint::default(),
            resumable: Checkpoint::default(),
            durable_offset: 0,
            checkpointed_at: now,
            unacknowledged: Vec::new(),
        }
    }

    /// The file is open, with what an earlier writer made durable of it.
    pub(super) fn opened(&mut self, found: Checkpoint, now: Instant) {
        self.checkpointed_at = now;
        self.durable_offset = found.offset;
        self.written = found;
    }

    /// Everything up to this point is written, of a file of `size` bytes if that is known.
    pub(super) fn reached(&mut self, point: Checkpoint, size: Option<u64>) {
        debug_assert!(point.offset >= self.written.offset, "it goes forward");
        if size.is_some_and(|size| point.offset < size) {
            self.resumable = point.clone();
        }
        self.written = point;
    }

    /// Adds extents that were written; returns those that may be reported to the sender now.
    pub(super) fn acknowledge(&mut self, extents: Vec<Extent>) -> Vec<Extent> {
        self.unacknowledged.extend(extents);
        let most = self.written.offset.saturating_add(AHEAD);
        let is_near = |extent: &mut Extent| extent.offset <= most;
        self.unacknowledged.extract_if(.., is_near).collect()
    }

    /// True if more is written and not acknowledged than a sender that obeys its window could have
    /// sent.
    pub(super) fn is_overrun(&self) -> bool {
        self.unacknowledged.len() > MOST_UNACKNOWLEDGED
    }

    /// The point up to which a checkpoint is due, of a file of `size` bytes. A complete file has
    /// none: its commit follows.
    pub(super) fn due(&mut self, size: Option<u64>, now: Instant) -> Option<Checkpoint> {
        let new = self.written.offset.saturating_sub(self.durable_offset);
        let since = now.saturating_duration_since(self.checkpointed_at);
        let is_complete = size.is_none_or(|size| self.written.offset >= size);
        let is_due =
            since >= CHECKPOINT_TIME || (new >= CHECKPOINT_BYTES && since >= CHECKPOINT_PAUSE);
        if is_complete || new == 0 || !is_due {
            return None;
        }
        (self.durable_offset, self.checkpointed_at) = (self.written.offset, now);
        Some(self.written.clone())
    }

    /// What the next transfer could resume and is not durable yet.
    pub(super) fn to_suspend(&self) -> Option<Checkpoint> {
        let is_new = self.resumable.offset > self.durable_offset;
        is_new.then(|| self.resumable.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Checkpoint {
        let digests = Vec::new();
        Checkpoint { offset, digests }
    }

    #[test]
    fn a_checkpoint_is_due_after_some_time_or_many_bytes_and_never_for_a_complete_file() {
        let start = Instant::now();
        let mut progress = Progress::new(start);
        let size = Some(1 << 30);
        assert_eq!(progress.due(size, start + CHECKPOINT_TIME), None, "nothing is written");
        progress.reached(at(5), size);
        assert_eq!(
            progress.due(size, start + CHECKPOINT_PAUSE),
            None,
            "too early for so little"
        );
        progress.reached(at(CHECKPOINT_BYTES), size);
        assert_eq!(progress.due(size, start), None, "too early");
        let first = start + CHECKPOINT_PAUSE;
        assert_eq!(progress.due(size, first), Some(at(CHECKPOINT_BYTES)));
        progress.reached(at(CHECKPOINT_BYTES + 1), size);
        assert_eq!(progress.due(size, first), None);
        assert_eq!(progress.due(None, first + CHECKPOINT_TIME), None, "a stream");
        assert_eq!(progress.due(size, first + CHECKPOINT_TIME), Some(at(CHECKPOINT_BYTES + 1)));
        progress.reached(at(1 << 30), size);
        assert_eq!(progress.due(size, first + 3 * CHECKPOINT_TIME), None);
        assert_eq!(progress.to_suspend(), None, "what could be resumed is durable");
    }

    #[test]
    fn far_behind_a_missing_chunk_nothing_is_acknowledged() {
        let mut progress = Progress::new(Instant::now());
        let extent = |offset| Extent { offset, length: 1 };
        assert_eq!(
            progress.acknowledge(vec![extent(AHEAD), extent(AHEAD + 1)]),
            [extent(AHEAD)]
        );
        progress.reached(at(1), None);
        assert_eq!(progress.acknowledge(vec![extent(0)]), [extent(AHEAD + 1), extent(0)]);
    }
}
