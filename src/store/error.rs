//! The errors of a store: what kind, at which path, and what the system said.

use super::path::{BadPath, RemotePath};
use rustix::io::Errno;
use std::io;
use std::time::Duration;

/// Who holds a lock, as far as can be known.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Holder {
    /// For people: `user@host`, or a process.
    pub who: String,
    /// How long it has been held; none when that is not known.
    pub held_for: Option<Duration>,
    /// Bytes written so far; none when that is not known.
    pub written: Option<u64>,
}

/// What went wrong, in the kinds that callers treat differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such entry.
    NotFound,
    /// The system's permissions forbid it.
    Denied,
    /// Something of that name is there already.
    Exists,
    /// A directory was needed.
    NotADirectory,
    /// Anything but a directory was needed.
    IsADirectory,
    /// The directory is not empty.
    NotEmpty,
    /// Another writer holds the target.
    Locked(Holder),
    /// The target's version is not the one that was named.
    VersionChanged,
    /// The source changed while it was read.
    SourceChanged,
    /// No space or no inodes left.
    NoSpace,
    /// The quota is used up.
    Quota,
    /// The file system is mounted read-only.
    ReadOnly,
    /// The name is not allowed, or too long.
    BadName(BadPath),
    /// Neither a file, a directory nor a symlink.
    BadKind,
    /// Something under a name of haul's own, which haul did not make.
    Obstacle(Vec<u8>),
    /// Another source of the same transfer, this one, goes to the same name, and came first.
    SameName(Vec<u8>),
    /// A symlink stands where a directory was needed, or leads outside the root.
    Symlink,
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
    /// An error of a kind that explains itself.
    pub fn new(kind: ErrorKind, path: &RemotePath) -> StoreError {
        StoreError {
            kind,
            path: path.clone(),
            detail: String::new(),
        }
    }

    /// An error of no kind of its own, in a sentence.
    pub fn because(why: &str, path: &RemotePath) -> StoreError {
        StoreError {
            detail: why.to_string(),
            ..StoreError::new(ErrorKind::Other, path)
        }
    }

    /// A system call's error; `doing` is the call, for errors that have no kind of their own.
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

    /// The same error, about another path: that which the caller asked for.
    #[must_use]
    pub fn about(self, path: &RemotePath) -> StoreError {
        StoreError {
            path: path.clone(),
            ..self
        }
    }

    /// One clause for people, without the path.
    pub fn describe(&self) -> String {
        match &self.kind {
            ErrorKind::NotFound => "no such file or directory".into(),
            ErrorKind::Denied => "permission denied".into(),
            ErrorKind::Exists => "it exists already".into(),
            ErrorKind::NotADirectory => "not a directory".into(),
            ErrorKind::IsADirectory => "it is a directory".into(),
            ErrorKind::NotEmpty => "the directory is not empty".into(),
            ErrorKind::Locked(holder) => holder.describe(),
            ErrorKind::VersionChanged => "it is not the version that was named".into(),
            ErrorKind::SourceChanged => "it changed while it was read".into(),
            ErrorKind::NoSpace => "no space left on the device".into(),
            ErrorKind::Quota => "the disk quota is used up".into(),
            ErrorKind::ReadOnly => "the file system is read-only".into(),
            ErrorKind::BadName(why) => format!("the name is not allowed: {why}"),
            ErrorKind::BadKind => "not a file, directory or symlink".into(),
            ErrorKind::Obstacle(name) => format!(
                "{} is in the way, and no file of haul's: remove it",
                String::from_utf8_lossy(name)
            ),
            ErrorKind::SameName(first) => format!(
                "{} goes to the same name and came first: copy them one by one",
                String::from_utf8_lossy(first)
            ),
            ErrorKind::Symlink => "a symlink on the way is not followed".into(),
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
        if let Some(held) = self.held_for {
            text += &format!(", for {} s", held.as_secs());
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
