//! A change of an entry's attributes, as chmod(1) and touch(1) make it.

use super::entry::Time;

/// The attributes that are to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The new permission bits, 0o7777. Set-uid and set-gid bits are only taken away, never set; a
    /// file has no sticky bit.
    pub mode: Option<u32>,
    /// The new time of the last modification.
    pub mtime: Option<NewTime>,
}

/// A new time of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTime {
    /// The present one, as the store's machine knows it.
    Now,
    /// This one.
    At(Time),
}
