//! Directories that a transfer makes.

/// How [`super::Store::make_dirs`] treats a directory that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExistingDirs {
    /// It keeps its mode.
    Untouched,
    /// A mode that keeps its owner out is replaced by one that does not, for a transfer that sets
    /// the mode in the end.
    OpenUp,
    /// The same, and an entry that is no directory is replaced by one.
    Replace,
}

/// What [`super::Store::stage_dirs`] did for a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadeDir {
    /// It is new, and empty.
    New,
    /// It is new, with what an earlier writer put there.
    Resumed,
    /// It was there.
    Existing,
}

impl MadeDir {
    /// What [`super::Store::make_dirs`] says, which is true for new ones.
    pub fn in_place(is_new: bool) -> MadeDir {
        match is_new {
            true => MadeDir::New,
            false => MadeDir::Existing,
        }
    }
}
