//! Requests for shell patterns, modes, times, symlinks, and moves that replace nothing.

use crate::net::client::Client;
use crate::net::error::NetError;
use crate::net::transfer::filter::glob::{BadGlob, Glob};
use crate::net::wire::proto::{self, reply, request};
use crate::store::{Change, NewTime, RemotePath};

/// The most paths that a pattern may match.
pub const MAX_MATCHES: usize = 100_000;
/// The most answers to a pattern: most of them have paths.
const MAX_ANSWERS: usize = 10_000;

/// What a change does where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It fails.
    Refused,
    /// It makes an empty file.
    Made,
}

/// Why the paths that match a pattern cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GlobError {
    /// The text is no pattern.
    #[error(transparent)]
    Pattern(#[from] BadGlob),
    /// It matches more than [`MAX_MATCHES`] paths.
    #[error("it matches more than {MAX_MATCHES} paths")]
    TooMany,
    /// The server refused, or the session was lost.
    #[error(transparent)]
    Net(#[from] NetError),
}

impl Client {
    /// The paths that match a pattern, in order, each of them once: the pattern itself, where an
    /// entry has that name. The client checks every path that the server sends against the pattern.
    ///
    /// # Errors
    /// [`GlobError`]; a path that does not match is a breach of the protocol.
    pub async fn glob(&self, pattern: &RemotePath) -> Result<Vec<RemotePath>, GlobError> {
        let glob = Glob::parse(pattern.as_bytes());
        let mut found: Vec<RemotePath> = Vec::new();
        let mut cookie = Vec::new();
        for answer in 0..MAX_ANSWERS {
            let request = proto::Glob {
                pattern: pattern.as_bytes().to_vec(),
                cookie,
                limit: 0,
            };
            let reply = self.request(request::Body::Glob(request)).await?;
            let Some(reply::Body::Glob(page)) = reply.body else {
                return Err(breach("expected paths in the reply to glob, got none").into());
            };
            let is_literal = answer == 0 && page.cookie.is_empty() && page.paths.len() == 1;
            for path in page.paths {
                let path = RemotePath::parse(&path)
                    .map_err(|_| breach("a path that matches a pattern is no path"))?;
                if is_literal && path == *pattern {
                    return Ok(vec![path]);
                }
                if !glob.as_ref().map_err(|e| *e)?.matches(&path) {
                    return Err(breach("a path does not match the pattern").into());
                }
                if found.last().is_some_and(|last| !is_behind(&path, last)) {
                    return Err(breach("paths that match a pattern are not in order").into());
                }
                found.push(path);
            }
            if found.len() > MAX_MATCHES {
                return Err(GlobError::TooMany);
            }
            match page.cookie {
                next if next.is_empty() => return Ok(found),
                next => cookie = next,
            }
        }
        Err(GlobError::TooMany)
    }

    /// Changes mode and time of an entry; a symlink is refused.
    ///
    /// # Errors
    /// [`NetError`], here and below: refused, or lost on the way.
    pub async fn set_attributes(
        &self,
        path: &[u8],
        change: Change,
        missing: Missing,
    ) -> Result<(), NetError> {
        let at = match change.mtime {
            Some(NewTime::At(time)) => Some(time),
            Some(NewTime::Now) | None => None,
        };
        let request = proto::SetAttributes {
            path: path.to_vec(),
            mode: change.mode,
            mtime: at.map(|time| time.secs),
            mtime_nanos: at.map_or(0, |time| time.nanos),
            now: change.mtime == Some(NewTime::Now),
            make: missing == Missing::Made,
        };
        self.request(request::Body::SetAttributes(request)).await.map(drop)
    }

    /// Makes a symlink; with `replace` in the place of a file or symlink.
    pub async fn make_symlink(
        &self,
        path: &[u8],
        target: &[u8],
        replace: bool,
    ) -> Result<(), NetError> {
        let request = proto::MakeSymlink {
            path: path.to_vec(),
            target: target.to_vec(),
            replace,
        };
        self.request(request::Body::MakeSymlink(request)).await.map(drop)
    }

    /// As [`Client::rename`], where nothing has the new name.
    pub async fn move_new(&self, from: &[u8], to: &[u8], directory: bool) -> Result<(), NetError> {
        let request = proto::MoveNew {
            from: from.to_vec(),
            to: to.to_vec(),
            directory,
        };
        self.request(request::Body::MoveNew(request)).await.map(drop)
    }
}

fn breach(what: &str) -> NetError {
    NetError::Protocol(what.into())
}

/// True if a path comes behind another one, in the order of their components.
fn is_behind(path: &RemotePath, other: &RemotePath) -> bool {
    path.components().gt(other.components())
}
