//! From the plaintext of a data connection to frames, however it is cut.

use crate::chunk::buffer::BufferPool;
use crate::chunk::window::{Permit, Window, cost};
use crate::net::data::payload::{Payload, ReceivedFrame, fill};
use crate::net::error::NetError;
use crate::net::wire::frame::{FrameHeader, FrameKind, HEADER_LEN};
use std::collections::VecDeque;

/// The frames that are complete, and the one that has begun.
pub(super) struct FrameAssembler {
    pool: BufferPool,
    /// What frames count against, once they may come.
    window: Option<Window>,
    header: Vec<u8>,
    payload: Option<Payload>,
    frames: VecDeque<ReceivedFrame>,
}

impl FrameAssembler {
    /// Payloads are in buffers of `pool`.
    pub(super) fn new(pool: BufferPool) -> FrameAssembler {
        FrameAssembler {
            pool,
            window: None,
            header: Vec::with_capacity(HEADER_LEN),
            payload: None,
            frames: VecDeque::new(),
        }
    }

    /// From now on payloads come out of this pool.
    pub(super) fn use_pool(&mut self, pool: BufferPool) {
        self.pool = pool;
    }

    /// Charges frames to this window from now on, from their headers on.
    pub(super) fn charge_to(&mut self, window: Window) {
        self.window = Some(window);
    }

    /// The next frame that is complete.
    pub(super) fn next(&mut self) -> Option<ReceivedFrame> {
        self.frames.pop_front()
    }

    /// No frame has begun to come.
    pub(super) fn is_between_frames(&self) -> bool {
        self.payload.is_none() && self.header.is_empty()
    }

    /// The payload that has begun.
    pub(super) fn payload(&self) -> Option<&Payload> {
        self.payload.as_ref()
    }

    /// The payload that has begun, to receive into; [`FrameAssembler::finish`] follows.
    pub(super) fn payload_mut(&mut self) -> Option<&mut Payload> {
        self.payload.as_mut()
    }

    /// Takes plaintext, however it is cut.
    ///
    /// # Errors
    /// [`NetError::Protocol`] where it is no frame, or one that its window does not allow.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), NetError> {
        while !bytes.is_empty() {
            if let Some(payload) = &mut self.payload {
                bytes = payload.feed(bytes);
            } else {
                bytes = fill(&mut self.header, HEADER_LEN, bytes);
                if self.header.len() == HEADER_LEN {
                    let header = FrameHeader::decode(&self.header)?;
                    self.header.clear();
                    let charge = self.charge(&header)?;
                    self.payload = Some(Payload::new(header, &self.pool, charge));
                }
            }
            self.finish();
        }
        Ok(())
    }

    /// Takes a frame's cost from the window before there is memory for it. Pings and such cost
    /// nothing.
    fn charge(&self, header: &FrameHeader) -> Result<Option<Permit>, NetError> {
        let counts = matches!(header.kind, FrameKind::File | FrameKind::Chunk | FrameKind::End);
        let Some(window) = self.window.as_ref().filter(|_| counts) else {
            return Ok(None);
        };
        let charge = window.charge(cost(header.content_length()));
        charge.map(Some).map_err(|e| NetError::Protocol(e.to_string()))
    }

    /// A payload that is complete is a frame.
    pub(super) fn finish(&mut self) {
        if let Some(payload) = self.payload.take_if(|p| p.is_complete()) {
            self.frames.extend(payload.arrived(&self.pool));
        }
    }
}
