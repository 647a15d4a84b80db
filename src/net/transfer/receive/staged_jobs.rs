//! The jobs of one larger file of a receiver, and how they end.

use crate::chunk::Extent;
use crate::chunk::digest::Digest;
use crate::chunk::hole::{self, ZeroChunk};
use crate::chunk::reassembly::Part;
use crate::net::jobs::Work;
use crate::net::transfer::receive::in_flight::FlyingPart;
use crate::store::{Bytes, PartWrite, Staging, StoreError, Time};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::OwnedSemaphorePermit;

/// An open partial file, and the turn of a file that has one open.
pub(super) struct Opened {
    /// The version of the source that it was opened for.
    pub(super) source_version: Option<String>,
    pub(super) staging: Box<dyn Staging>,
    pub(super) turn: OwnedSemaphorePermit,
}

/// How a job of a staged file ended.
pub(super) enum StagedDone {
    /// The partial file is open, or emptied.
    Opened(Result<Opened, StoreError>),
    /// A part was written.
    Written(Written),
    /// A part was written beside others, or could not be. Of which attempt it is.
    Flown {
        attempt: u8,
        part: FlyingPart,
        result: Result<(), StoreError>,
    },
    /// A checkpoint was made.
    Checkpointed(Result<(), StoreError>),
    /// All of it was committed; the result is its version.
    Committed {
        size: u64,
        /// Unless it was copied.
        hash: Option<Digest>,
        result: Result<String, StoreError>,
    },
}

/// A part that was written, or could not be.
pub(super) struct Written {
    pub(super) staging: Box<dyn Staging>,
    pub(super) wrote: Wrote,
    pub(super) result: Result<(), StoreError>,
}

/// What a job has written.
pub(super) enum Wrote {
    Chunks(Vec<Extent>),
    /// The chunks of a hole.
    Hole(Vec<ZeroChunk>),
    /// A part of a file that was handed over; an empty one where the source failed.
    Copied(Extent),
}

impl Wrote {
    /// What the sender learns of.
    pub(super) fn extents(self) -> Vec<Extent> {
        match self {
            Wrote::Chunks(extents) => extents,
            Wrote::Copied(part) if part.length == 0 => Vec::new(),
            Wrote::Copied(part) => vec![part],
            Wrote::Hole(chunks) => {
                let length = chunks.iter().map(|chunk| chunk.length).fold(0, u64::saturating_add);
                let first = chunks.first().map(|first| first.offset);
                first.map(|offset| Extent { offset, length }).into_iter().collect()
            }
        }
    }
}

/// What becomes of the partial file of a file that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Salvage {
    /// Nothing of it stays: its content is wrong, or of no source any more.
    Nothing,
    /// The next transfer resumes what is durable of it.
    Durable,
    /// What was written is made durable for that, too.
    Written,
}

/// Leaves a hole.
pub(super) fn leave_hole(mut staging: Box<dyn Staging>, hole: Extent) -> Work<StagedDone> {
    Work::new("hole", async move {
        let chunks = hole::chunks(hole.offset, hole.length).await;
        let result = staging.hole(hole.offset, hole.length).await;
        let wrote = Wrote::Hole(chunks);
        StagedDone::Written(Written {
            staging,
            wrote,
            result,
        })
    })
}

/// The chunks of a part.
pub(super) fn extents_of(part: &Part<Bytes>) -> Vec<Extent> {
    let extent = |(offset, bytes): &(u64, Bytes)| Extent {
        offset: *offset,
        length: (**bytes).as_ref().len() as u64,
    };
    part.chunks.iter().map(extent).collect()
}

/// Writes a part beside others.
pub(super) fn fly(attempt: u8, part: FlyingPart, write: PartWrite) -> Work<StagedDone> {
    Work::new("write", async move {
        let result = write.await;
        StagedDone::Flown {
            attempt,
            part,
            result,
        }
    })
}

/// Writes a part.
pub(super) fn write(mut staging: Box<dyn Staging>, part: Part<Bytes>) -> Work<StagedDone> {
    Work::new("write", async move {
        let wrote = Wrote::Chunks(extents_of(&part));
        let bytes = part.chunks.into_iter().map(|(_, bytes)| bytes).collect();
        let result = staging.write(part.offset, bytes).await;
        StagedDone::Written(Written {
            staging,
            wrote,
            result,
        })
    })
}

/// The mtime of a stream, which has none of its own.
pub(super) fn time_of_day() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time {
        secs: i64::try_from(since.as_secs()).unwrap_or(0),
        nanos: since.subsec_nanos(),
    }
}
