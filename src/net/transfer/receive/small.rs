//! Small files and symlinks of a receiver: put in batches, several at once, and tried again while a
//! lock is waited for.

use crate::chunk::digest::Digest;
use crate::chunk::window::SharedPermit;
use crate::net::jobs::Work;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::destination::{Candidate, Target};
use crate::store::{Attributes, Content, NewEntry, RemotePath, StoreError};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Entries of a batch.
const BATCH: usize = 64;
/// Batches under way at once: while one waits for the disk, others are written.
const BATCHES: usize = 16;
/// Pause before an entry whose target is locked is tried again.
const LOCKED_PAUSE: Duration = Duration::from_millis(100);

/// A small entry on its way into a batch. Its content holds what a frame takes of the window.
pub(super) struct SmallFile {
    pub(super) number: u64,
    pub(super) path: RemotePath,
    pub(super) content: Content,
    pub(super) attributes: Attributes,
    /// Hash and bytes of a file; `None` for a symlink.
    pub(super) file: Option<(Digest, u64)>,
    /// What the offer takes.
    pub(super) _cost: SharedPermit,
    /// Since when a lock is waited for, and until when.
    pub(super) began: Instant,
    pub(super) deadline: Option<Instant>,
    /// Of another name of a file: what is wanted if it cannot be that.
    pub(super) instead: Option<Box<Candidate>>,
}

/// How a batch ended: for each entry the version of what was committed, or why it failed.
pub(super) type BatchDone = Vec<(SmallFile, Result<String, StoreError>)>;

/// The entries that are about to be put, and how many batches are under way.
pub(super) struct SmallFileBatches {
    target: Target,
    options: Options,
    gathered: VecDeque<SmallFile>,
    running: usize,
}

impl SmallFileBatches {
    pub(super) fn new(target: Target, options: Options) -> SmallFileBatches {
        SmallFileBatches {
            target,
            options,
            gathered: VecDeque::new(),
            running: 0,
        }
    }

    /// Adds an entry. True when there are enough for a batch.
    pub(super) fn gather(&mut self, file: SmallFile) -> bool {
        self.gathered.push_back(file);
        self.gathered.len() >= BATCH
    }

    /// True when [`SmallFileBatches::next`] returns a batch.
    pub(super) fn is_ready(&self) -> bool {
        !self.gathered.is_empty() && self.running < BATCHES
    }

    /// True while a batch is being put.
    pub(super) fn is_busy(&self) -> bool {
        self.running > 0
    }

    /// The work of putting a batch, if there is one and it may be under way.
    pub(super) fn next(&mut self) -> Option<Work<BatchDone>> {
        if !self.is_ready() {
            return None;
        }
        let count = self.gathered.len().min(BATCH);
        let batch: Vec<SmallFile> = self.gathered.drain(..count).collect();
        let entry = |file: &SmallFile| NewEntry {
            path: file.path.clone(),
            content: file.content.clone(),
            attributes: file.attributes.clone(),
            if_version: self.options.if_version.clone(),
        };
        let entries = batch.iter().map(entry).collect();
        let (target, durability) = (self.target.clone(), self.options.durability);
        self.running = self.running.saturating_add(1);
        Some(Work::new("group", async move {
            let results = target.put_whole(entries, durability).await;
            batch.into_iter().zip(results).collect()
        }))
    }

    /// A batch has ended.
    pub(super) fn ended(&mut self) {
        debug_assert!(self.running > 0, "it was started");
        self.running = self.running.saturating_sub(1);
    }
}

/// The work of waiting before an entry is tried again; `None` unless `error` says that its target
/// is locked and there is time.
pub(super) fn retry_later(
    file: SmallFile,
    error: &StoreError,
    target: &Target,
) -> Option<Work<SmallFile>> {
    if !target.waits(error, file.began, file.deadline) {
        return None;
    }
    Some(Work::new("retry", async move {
        tokio::time::sleep(LOCKED_PAUSE).await;
        file
    }))
}
