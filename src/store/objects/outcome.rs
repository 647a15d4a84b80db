//! How requests to the engine end.

use super::engine::{Body, Condition, EngineError, Fault, Object};
use crate::store::error::{ErrorKind, StoreError};
use crate::store::path::RemotePath;

/// A request that failed in the end.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The key that it was about.
    pub key: String,
    /// The last answer.
    pub error: EngineError,
    /// The write may have happened.
    pub unknown: bool,
}

impl Failed {
    /// As an error of the store about `path`.
    pub fn about(self, path: &RemotePath) -> StoreError {
        let kind = match self.error.fault {
            _ if self.unknown => ErrorKind::UnknownOutcome,
            Fault::NotFound => ErrorKind::NotFound,
            Fault::Condition => ErrorKind::VersionChanged,
            Fault::Throttled => ErrorKind::Throttled,
            Fault::Unavailable => ErrorKind::Unavailable,
            Fault::Full => ErrorKind::NoSpace,
            // it is this server that it refuses, not a user
            Fault::Denied | Fault::Refused => ErrorKind::Other,
        };
        let (answer, key) = (self.error.answer, self.key);
        let text = match kind {
            ErrorKind::Other => format!("the object store refuses this: {answer} ({key})"),
            _ => format!("{answer} ({key})"),
        };
        StoreError::engine(kind, path, text)
    }
}

/// How a write with a condition ended.
#[derive(Debug)]
pub enum Swapped {
    /// It happened; the object's entity tag.
    Done(String),
    /// The condition does not hold: this is there.
    Other(Option<Object>),
}

/// A write of an object with a record.
pub struct Write {
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub body: Body,
    /// The text beside its bytes; it begins with the nonce, which no other write has.
    pub record: String,
    /// What must hold.
    pub condition: Condition,
}
