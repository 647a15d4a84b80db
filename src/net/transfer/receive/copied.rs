//! A larger file that a sender in this process has handed over: it is copied part by part, or it
//! shares its blocks with the source.

use crate::chunk::Extent;
use crate::net::jobs::Work;
use crate::net::session::handed::HandedFile;
use crate::net::transfer::receive::staged_jobs::{StagedDone, Written, Wrote};
use crate::net::wire::frame::{FrameHeader, FrameKind};
use crate::store::{
    self, Allocation, Checkpoint, CopyError, FileRange, Resume, Staging, StoreError,
};
use std::sync::Arc;

/// Bytes that are copied in one go: few enough for a signal to be heard soon, and for progress to
/// be seen.
const PART: u64 = 16 << 20;

/// Which sources' partial files are resumed: of those that were copied no hash is known, so that a
/// transfer of chunks cannot resume them.
const MARK: &str = "copied ";

/// The version of a source as the record of a copied file has it.
pub(super) fn marked(version: &str) -> String {
    format!("{MARK}{version}")
}

/// How far the copy of a file is.
pub(super) struct CopiedFile {
    file: Option<Arc<HandedFile>>,
    /// Where the next part begins.
    offset: u64,
    /// Whether to try to share the source's blocks first.
    may_share: bool,
    /// The sender has found the source unchanged after the last part.
    is_confirmed: bool,
}

impl CopiedFile {
    pub(super) fn new() -> CopiedFile {
        CopiedFile {
            file: None,
            offset: 0,
            may_share: true,
            is_confirmed: false,
        }
    }

    /// Everything up to here is copied.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Continues where an earlier writer of a file of `size` bytes ended; returns from where, and
    /// how many bytes of another version there were. `None` if that makes no sense.
    pub(super) fn resume(&mut self, found: Resume, size: u64) -> Option<(Checkpoint, u64)> {
        let (point, discarded) = match found {
            Resume::From(point) => (point, 0),
            Resume::Discarded(bytes) => (Checkpoint::default(), bytes),
            Resume::Fresh => (Checkpoint::default(), 0),
        };
        self.offset = point.offset;
        (point.offset < size).then_some((point, discarded))
    }

    /// The sender hands the file over.
    pub(super) fn take(&mut self, file: HandedFile) {
        self.file = Some(Arc::new(file));
    }

    /// Takes a frame: the sender's word that the source is unchanged. False for any other.
    pub(super) fn confirm(&mut self, header: &FrameHeader, size: u64) -> bool {
        let is_complete = header.offset == size && self.offset >= size;
        self.is_confirmed = header.kind == FrameKind::End && is_complete;
        self.is_confirmed
    }

    /// True when all of it is copied and may be committed.
    pub(super) fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }

    /// True when [`CopiedFile::copy`] would copy something of a file of `size` bytes.
    pub(super) fn is_due(&self, size: u64) -> bool {
        self.file.is_some() && self.offset < size
    }

    /// A part is copied, or the source failed: then the sender decides what becomes of the file.
    pub(super) fn copied(&mut self, part: Extent) {
        match part.length {
            0 => self.file = None,
            length => {
                self.offset = part.offset.saturating_add(length);
                // not before: the sender's answer to the last part must find it here
                report(&self.file, Ok(part));
            }
        }
    }

    /// The work of copying the next part, of a file of `size` bytes. [`CopiedFile::copied`] is
    /// called when it has ended.
    pub(super) fn copy(
        &mut self,
        mut staging: Box<dyn Staging>,
        size: u64,
        allocation: Allocation,
    ) -> Work<StagedDone> {
        let may_share = std::mem::replace(&mut self.may_share, false);
        let (file, offset) = (self.file.clone(), self.offset);
        Work::new("copy", async move {
            let copied = match &file {
                Some(file) if may_share && staging.share_blocks(&file.source).await => {
                    Ok(size.saturating_sub(offset))
                }
                Some(file) => copy_part(&mut *staging, file, (offset, size), allocation).await,
                None => Ok(0),
            };
            let (length, result) = match copied {
                Ok(length) => (length, Ok(())),
                Err(CopyError::Target(e)) => (0, Err(e)),
                Err(CopyError::Source(e)) => {
                    report(&file, Err(e));
                    (0, Ok(()))
                }
            };
            let part = Extent { offset, length };
            StagedDone::Written(Written {
                staging,
                wrote: Wrote::Copied(part),
                result,
            })
        })
    }
}

fn report(file: &Option<Arc<HandedFile>>, part: Result<Extent, StoreError>) {
    if let Some(file) = file {
        file.report(part);
    }
}

/// Copies what begins at `offset`, of a file of `size` bytes: data, or a hole. Returns its length.
async fn copy_part(
    staging: &mut dyn Staging,
    file: &HandedFile,
    (offset, size): (u64, u64),
    allocation: Allocation,
) -> Result<u64, CopyError> {
    let extent = match allocation {
        Allocation::Dense => store::Extent::Data { end: size },
        Allocation::Sparse => file.source.extent(offset).await.map_err(CopyError::Source)?,
    };
    let length_to = |end: u64| end.min(size).saturating_sub(offset);
    match extent {
        store::Extent::Hole { end } if length_to(end) > 0 => {
            let length = length_to(end);
            staging.hole(offset, length).await.map_err(CopyError::Target)?;
            Ok(length)
        }
        store::Extent::Hole { end } | store::Extent::Data { end } => {
            // forward, whatever a store says
            let length = length_to(end.max(offset.saturating_add(1))).min(PART);
            let end = offset.saturating_add(length);
            staging.copy(&file.source, FileRange { offset, end }).await?;
            Ok(length)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::data::body::FileId;
    use crate::net::task::Tasks;
    use crate::store::local::LocalStore;
    use crate::store::{Durability, RemotePath, StageRequest, Store};
    use tokio::sync::mpsc;

    /// The sender answers the last part with its word that the source is unchanged. That must not
    /// arrive before the receiver knows of the part.
    #[tokio::test]
    async fn the_sender_learns_of_a_part_when_the_receiver_has_counted_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("from"), vec![7; 3 << 20]).unwrap();
        let store = LocalStore::open(dir.path()).unwrap();
        let store = store.subtree(&RemotePath::root()).await.unwrap();
        let path = |name: &[u8]| RemotePath::parse(name).unwrap();
        let source = store.open(&path(b"from")).await.unwrap();
        let request = StageRequest {
            who: "test".into(),
            if_version: None,
            durability: Durability::Volatile,
            size: None,
            window: 32 << 20,
            source: None,
        };
        let staging = store.stage(&path(b"to"), &request).await.unwrap();
        let (reports, mut reported) = mpsc::unbounded_channel();
        let id = FileId {
            number: 1,
            attempt: 0,
        };
        let mut copied = CopiedFile::new();
        copied.take(HandedFile::new(id, source, reports));
        let work = copied.copy(staging, 3 << 20, Allocation::Dense);
        let done = work.guard(&Tasks::new(|_| {})).await;
        assert!(reported.try_recv().is_err(), "the part is not counted yet");
        let Ok(StagedDone::Written(Written {
            wrote: Wrote::Copied(part),
            ..
        })) = done
        else {
            panic!("it was not copied");
        };
        copied.copied(part);
        assert_eq!((copied.offset(), reported.try_recv().is_ok()), (3 << 20, true));
    }
}
