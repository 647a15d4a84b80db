//! The frames of a staged file: checked, and put in their place.

use super::StagedFile;
use crate::chunk::reassembly::{Inserted, Mismatch};
use crate::net::data::payload::ReceivedFrame;
use crate::net::error::NetError;
use crate::net::transfer::receive::progress::AHEAD;
use crate::net::wire::frame::{FrameHeader, FrameKind};

/// How far behind a missing chunk one of a stream may come at all: with this much not acknowledged
/// and the largest window there is. Holes take little of a window, so a file of known size is
/// bounded by that.
const FARTHEST: u64 = AHEAD + (128 << 20);

impl StagedFile {
    /// Takes an intact frame.
    ///
    /// # Errors
    /// The outer one breaks the protocol, the inner one only fails the file.
    pub(in super::super) fn frame(
        &mut self,
        frame: ReceivedFrame,
    ) -> Result<Result<Inserted, Mismatch>, NetError> {
        let (header, length) = (frame.header, frame.payload.len() as u64);
        if let Some((copied, size)) = &mut self.copied {
            return Ok(match copied.confirm(&header, *size) {
                true => Ok(Inserted::New),
                false => Err(Mismatch::Shape),
            });
        }
        if header.kind == FrameKind::Chunk && self.is_too_far(header.offset) {
            return Err(NetError::Protocol("it sends more than its window allows".into()));
        }
        if !self.is_within_size(&header) {
            return Ok(Err(Mismatch::Shape));
        }
        let reassembly = &mut self.reassembly;
        Ok(match header.kind {
            FrameKind::File => reassembly.insert_whole(length, header.digest, frame.into_bytes()),
            FrameKind::End => {
                reassembly.finish(header.offset, header.digest).map(|()| Inserted::New)
            }
            FrameKind::Hole => {
                reassembly.insert_hole(header.offset, header.hole(), frame.into_bytes())
            }
            _ => reassembly.insert(header.offset, length, header.digest, frame.into_bytes()),
        })
    }

    /// True for a chunk at `offset` that is more than a sender that obeys its window could have
    /// sent.
    fn is_too_far(&self, offset: u64) -> bool {
        let farthest = self.reassembly.next_offset().saturating_add(FARTHEST);
        (self.wanted.size.is_none() && offset > farthest) || self.progress.is_overrun()
    }

    /// True unless a chunk or a hole reaches beyond the size that was offered. A stream has no
    /// holes.
    fn is_within_size(&self, header: &FrameHeader) -> bool {
        let length = match header.kind {
            FrameKind::Chunk => u64::from(header.length),
            FrameKind::Hole => header.hole(),
            _ => return true,
        };
        match self.wanted.size {
            Some(size) => header.offset.saturating_add(length) <= size,
            None => header.kind == FrameKind::Chunk,
        }
    }
}
