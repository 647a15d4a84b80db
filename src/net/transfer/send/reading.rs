//! A larger file while it is read by the sender, or copied by a receiver in this process: what is
//! due next of it.

use crate::chunk::Extent;
use crate::chunk::digest::Digest;
use crate::chunk::merge::Merge;
use crate::net::task::Tasks;
use crate::net::transfer::send::layout::{Layout, Next};
use crate::net::transfer::send::reads::{OpenOnce, WantedFile};
use crate::store::StoreError;

/// A read that is due.
pub(super) enum Plan {
    Small(Vec<WantedFile>),
    Chunk(WantedFile, OpenOnce, Extent),
    Hole(WantedFile, Extent),
    /// Open the file for the receiver, which copies it.
    HandOver(WantedFile, OpenOnce),
    /// Look at the file once more: all of it was read, with this hash, or copied.
    Check(WantedFile, OpenOnce, Option<Digest>),
}

/// A larger file that is being read.
pub(super) struct ReadingFile {
    file: WantedFile,
    source: OpenOnce,
    layout: Layout,
    /// Up to where reads are planned.
    planned: u64,
    merge: Merge,
    /// All of it was read, and it is looked at once more.
    is_checking: bool,
}

/// A larger file that the receiver copies.
pub(super) struct CopyingFile {
    file: WantedFile,
    source: OpenOnce,
    /// Bytes that are there, those of an earlier run too.
    copied: u64,
}

/// What comes next of a larger file.
pub(super) enum Step {
    Due(Plan),
    /// It is not known yet.
    Unknown,
    AllPlanned,
    Failed(StoreError),
}

impl ReadingFile {
    /// Begins where the receiver wants it. What looks for holes runs among `tasks`.
    pub(super) fn new(file: WantedFile, tasks: &Tasks) -> ReadingFile {
        let source = OpenOnce::default();
        ReadingFile {
            layout: Layout::of(&file, &source, tasks),
            source,
            planned: file.offset,
            merge: Merge::resume(file.offset, file.root.clone()),
            is_checking: false,
            file,
        }
    }

    /// Waits until more is known of its layout. Cancel-safe.
    pub(super) async fn layout_found(&mut self) {
        self.layout.found().await;
    }

    /// The digest of a chunk is known. Returns the file's hash, once, when it has all of them.
    pub(super) fn hashed(&mut self, extent: Extent, digest: Digest) -> Option<Digest> {
        self.merge.insert(extent.offset, extent.length, digest);
        if self.is_checking || self.merge.covered() < self.file.size {
            return None;
        }
        let hash = self.merge.root().clone().root();
        self.is_checking = hash.is_some();
        hash
    }

    /// The check of a file all of which was read.
    pub(super) fn check(&self, hash: Option<Digest>) -> Plan {
        Plan::Check(self.file.clone(), self.source.clone(), hash)
    }

    /// The next read; a chunk has at most `most` bytes.
    pub(super) fn plan(&mut self, most: u64) -> Step {
        let offset = self.planned;
        if offset >= self.file.size {
            return Step::AllPlanned;
        }
        let file = self.file.clone();
        let (plan, length) = match self.layout.next(offset) {
            Next::Chunk => {
                let chunk = file.chunk(offset, most);
                (Plan::Chunk(file, self.source.clone(), chunk), chunk.length)
            }
            Next::Hole(length) => (Plan::Hole(file, Extent { offset, length }), length),
            Next::Unknown => return Step::Unknown,
            Next::Failed(e) => return Step::Failed(e),
        };
        self.planned = offset.saturating_add(length);
        Step::Due(plan)
    }
}

impl CopyingFile {
    /// It is to be handed over to the receiver, which wants it from an offset on.
    pub(super) fn new(file: WantedFile) -> CopyingFile {
        CopyingFile {
            source: OpenOnce::default(),
            copied: file.offset,
            file,
        }
    }

    /// The hand-over.
    pub(super) fn hand_over(&self) -> Plan {
        Plan::HandOver(self.file.clone(), self.source.clone())
    }

    /// Parts are copied in order. True when this was the last.
    pub(super) fn copied(&mut self, part: Extent) -> bool {
        let was_complete = self.is_complete();
        self.copied = part.offset.saturating_add(part.length).max(self.copied);
        self.is_complete() && !was_complete
    }

    /// All of it was copied.
    pub(super) fn is_complete(&self) -> bool {
        self.copied >= self.file.size
    }

    /// The check of a file all of which was copied.
    pub(super) fn check(&self) -> Plan {
        Plan::Check(self.file.clone(), self.source.clone(), None)
    }
}
