//! Which frames of a file have passed, in a transfer between two other machines.

use crate::net::wire::frame::{FrameHeader, FrameKind};
use std::collections::BTreeMap;

/// The frames of a file that have passed. The sender resends those that were under way over a lost
/// connection. The receiver acknowledges a frame once: a second one would wait for that in vain.
#[derive(Default)]
pub(super) struct Passed {
    /// Everything before this offset.
    up_to: u64,
    /// What is behind it: lengths, by offset.
    apart: BTreeMap<u64, u64>,
    end: bool,
}

impl Passed {
    /// Everything before `offset` is there.
    pub(super) fn from(offset: u64) -> Passed {
        Passed {
            up_to: offset,
            ..Passed::default()
        }
    }

    /// A frame passes. Returns false for one that has passed before.
    pub(super) fn first(&mut self, header: &FrameHeader) -> bool {
        let (offset, length) = match header.kind {
            FrameKind::End => return !std::mem::replace(&mut self.end, true),
            FrameKind::Hole => (header.offset, header.hole()),
            _ => (header.offset, u64::from(header.length)),
        };
        if offset < self.up_to || self.apart.contains_key(&offset) {
            return false;
        }
        self.apart.insert(offset, length);
        while let Some(length) = self.apart.remove(&self.up_to) {
            self.up_to = self.up_to.saturating_add(length);
            if length == 0 {
                break;
            }
        }
        true
    }
}
