//! Locks and partial files, as users see them.

use super::error::Holder;

/// The partial file of a target, with the lock of its writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockEntry {
    /// The target's name, cut if it is too long for the name of the partial file.
    pub target: Vec<u8>,
    /// Who writes, or wrote, and since when.
    pub holder: Holder,
    /// The writer lives, and has the lock.
    pub live: bool,
}

/// A page of [`super::Store::locks`].
#[derive(Clone, Debug, Default)]
pub struct LockPage {
    /// One entry per partial file.
    pub entries: Vec<LockEntry>,
    /// Where the next page starts; `None` after the last page.
    pub next: Option<Vec<u8>>,
}

/// Whose lock [`super::Store::unlock`] may remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnlockMode {
    /// That of a writer that died.
    Abandoned,
    /// Any, also that of a writer that lives.
    Force,
}
