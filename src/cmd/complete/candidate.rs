//! A word that a completion offers.

use std::ffi::OsString;

/// A word that fits, with its description.
pub struct Candidate {
    /// The whole word.
    pub value: OsString,
    /// A few words about it, or an empty text.
    pub help: String,
}

impl Candidate {
    pub(super) fn new(value: impl Into<OsString>, help: impl Into<String>) -> Candidate {
        Candidate {
            value: value.into(),
            help: help.into(),
        }
    }
}
