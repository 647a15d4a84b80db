//! The errors of a store: their kind, the path, and the system's message.

use super::path::{BadPath, RemotePath};
use rustix::io::Errno;
use std::io;
use std::time::Duration;

/// The holder of a lock, as far as it can be known.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Holder {
    /// The name to show: `user@host`, or a process.
    pub who: String,
    /// How long the holder has had the lock, if that is known.
    pub locked_for: Option<Duration>,
    /// Bytes written so far, if that is known.
    pub written: Option<u64>,
}

/// The kinds of errors that callers treat differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such entry.
    NotFound,
    /// The system's permissions forbid it.
    Denied,
    /// An entry of that name exists.
    Exists,
    /// Expected a directory.
    NotADirectory,
    /// Expected anything but a directory.
    IsADirectory,
    /// The directory is not empty.
    NotEmpty,
    /// Another writer holds the target.
    Locked(Holder),
    /// The target has another version than the expected one.
    VersionChanged,
    /// The source changed while it was read.
    SourceChanged,
    /// No space, or no inodes.
    NoSpace,
    /// The quota is used up.
    Quota,
    /// The file system is mounted read-only.
    ReadOnly,
    /// The name is not allowed, or too long.
    BadName(BadPath),
    /// Neither a file, a directory nor a symlink.
    BadKind,
    /// An entry with a name of haul's own that haul did not make.
    Obstacle(Vec<u8>),
    /// Another source of the same transfer, this one, has the same destination and came first.
    SameName(Vec<u8>),
    /// A symlink where a directory is needed, or one that leads outside the root.
    Symlink,
    /// The engine beneath the store does not answer.
    Unavailable,
    /// The engine beneath the store asks to be asked less.
    Throttled,
    /// Whether it happened is not known.
    UnknownOutcome,
    /// Any other error.
    Other,
}

/// An error of a store.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", self.describe())]
pub struct StoreError {
    /// The kind.
    pub kind: ErrorKind,
    /// The entry that it is about.
    pub path: RemotePath,
    detail: String,
}

impl StoreError {
    /// Makes an error of a kind that explains itself.
    pub fn new(kind: ErrorKind, path: &RemotePath) -> StoreError {
        StoreError {
            kind,
            path: path.clone(),
            detail: String::new(),
        }
    }

    /// Makes an error of no kind of its own from a sentence.
    pub fn because(why: &str, path: &RemotePath) -> StoreError {
        StoreError {
            detail: why.to_string(),
            ..StoreError::new(ErrorKind::Other, path)
        }
    }

    /// Makes an error from a system call's. `doing` names the call, for errors of no kind of their
    /// own.
    pub fn io(doing: &str, path: &RemotePath, error: &io::Error) -> StoreError {
        let kind = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) => ErrorKind::NotFound,
            Some(Errno::ACCESS | Errno::PERM) => ErrorKind::Denied,
            Some(Errno::EXIST) => ErrorKind::Exists,
            Some(Errno::NOTDIR) => ErrorKind::NotADirectory,
            Some(Errno::ISDIR) => ErrorKind::IsADirectory,
            Some(Errno::NOTEMPTY) => ErrorKind::NotEmpty,
            Some(Errno::NOSPC) => ErrorKind::NoSpace,
            Some(Errno::DQUOT) => ErrorKind::Quota,
            Some(Errno::ROFS) => ErrorKind::ReadOnly,
            Some(Errno::NAMETOOLONG) => ErrorKind::BadName(BadPath::TooLong),
            Some(Errno::LOOP | Errno::XDEV) => ErrorKind::Symlink,
            // cap-std reports an escape in this way where the kernel has no openat2
            None if error.kind() == io::ErrorKind::PermissionDenied => ErrorKind::Symlink,
            _ => ErrorKind::Other,
        };
        StoreError {
            kind,
            path: path.clone(),
            detail: format!("{doing}: {error}"),
        }
    }

    /// Makes an error from the answer of the engine beneath a store.
    pub(super) fn engine(kind: ErrorKind, path: &RemotePath, answer: String) -> StoreError {
        StoreError {
            detail: answer,
            ..StoreError::new(kind, path)
        }
    }

    /// Returns the same error about another path, the one that the caller asked for.
    #[must_use]
    pub fn about(self, path: &RemotePath) -> StoreError {
        StoreError {
            path: path.clone(),
            ..self
        }
    }

    /// Describes the error in one clause, without the path.
    pub fn describe(&self) -> String {
        match &self.kind {
            ErrorKind::NotFound => "no such file or directory".into(),
            ErrorKind::Denied => "permission denied".into(),
            ErrorKind::Exists => "it already exists".into(),
            ErrorKind::NotADirectory => "not a directory".into(),
            ErrorKind::IsADirectory => "it is a directory".into(),
            ErrorKind::NotEmpty => "the directory is not empty".into(),
            ErrorKind::Locked(holder) => holder.describe(),
            ErrorKind::VersionChanged => "it has another version than the expected one".into(),
            ErrorKind::SourceChanged => "it changed while it was read".into(),
            ErrorKind::NoSpace => "no space left on the device".into(),
            ErrorKind::Quota => "the disk quota is exceeded".into(),
            ErrorKind::ReadOnly => "the file system is read-only".into(),
            ErrorKind::BadName(why) => format!("the name is not allowed: {why}"),
            ErrorKind::BadKind => "not a file, a directory or a symlink".into(),
            ErrorKind::Obstacle(name) => format!(
                "{} is in the way and is not haul's: remove it",
                String::from_utf8_lossy(name)
            ),
            ErrorKind::SameName(first) => format!(
                "{} goes to the same name and came first: copy them one by one",
                String::from_utf8_lossy(first)
            ),
            ErrorKind::Symlink => "haul does not follow a symlink on the way".into(),
            ErrorKind::Unavailable => {
                format!("the object store does not answer: {}", self.detail)
            }
            ErrorKind::Throttled => format!("the object store is overloaded: {}", self.detail),
            ErrorKind::UnknownOutcome => format!(
                "outcome unknown: the object store did not answer: {}; check, then repeat it",
                self.detail
            ),
            ErrorKind::Other => self.detail.clone(),
        }
    }
}

impl Holder {
    /// A holder of whom nothing else is known.
    pub(super) fn of(who: &str) -> Holder {
        Holder {
            who: who.to_string(),
            ..Holder::default()
        }
    }

    fn describe(&self) -> String {
        let mut text = format!("being written by {}", self.who);
        if let Some(locked_for) = self.locked_for {
            text += &format!(", for {} s", locked_for.as_secs());
        }
        if let Some(written) = self.written {
            text += &format!(", {written} bytes so far");
        }
        text
    }
}

/// Turns a system call's error into a [`StoreError`], naming the call and the path.
pub(super) trait At<T> {
    fn at(self, doing: &str, path: &RemotePath) -> Result<T, StoreError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, doing: &str, path: &RemotePath) -> Result<T, StoreError> {
        self.map_err(|e| StoreError::io(doing, path, &e.into()))
    }
}
