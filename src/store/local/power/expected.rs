//! What a target may contain, given what was done.

use crate::store::Durability;

/// What may be found of a target.
#[derive(Default)]
pub(super) struct Expected {
    /// Versions that may be there, 0 for none, by what this process has done; and after a power loss.
    pub(super) now: Vec<usize>,
    pub(super) on_disk: Vec<usize>,
    /// It was written without fsync since it was last known durable: a power loss may leave anything.
    pub(super) unsynced: bool,
    /// That happened: nothing is known of it any more.
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
