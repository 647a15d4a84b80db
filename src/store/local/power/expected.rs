//! The versions that a target may have after the calls so far.

use crate::store::Durability;

/// The versions that a target may have.
#[derive(Default)]
pub(super) struct Expected {
    /// Versions that the target may have, 0 for none: while this process lives, and after a power
    /// loss.
    pub(super) now: Vec<usize>,
    pub(super) on_disk: Vec<usize>,
    /// It was written without fsync since it was last known durable: a power loss may leave
    /// anything.
    pub(super) unsynced: bool,
    /// A power loss has happened then: any content is possible.
    pub(super) lost: bool,
}

impl Expected {
    pub(super) fn attempted(&mut self, version: usize, durability: Durability) {
        self.unsynced |= !durability.is_durable();
        self.now.push(version);
        self.on_disk.push(version);
    }

    pub(super) fn reported(&mut self, version: usize, durability: Durability) {
        self.now = vec![version];
        self.unsynced |= !durability.is_durable();
        if durability.is_durable() {
            (self.on_disk, self.unsynced) = (vec![version], false);
        } else {
            self.on_disk.push(version);
        }
    }
}
