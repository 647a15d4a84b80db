//! What can go wrong between two machines.

use crate::auth::{FileError, Fingerprint};
use crate::net::wire::{Code, Malformed};
use crate::store::{ErrorKind, StoreError};
use std::io;

/// An error of a connection, a session or a transfer.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// No connection to a server could be made.
    #[error("cannot connect to {server}: {source}")]
    Connect {
        /// `host:port`.
        server: String,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("the encrypted connection could not be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The server's key is not the pinned one.
    #[error("the server's key is {found}, not the pinned {pinned}")]
    WrongKey {
        /// What was expected.
        pinned: Fingerprint,
        /// What the server presented.
        found: Fingerprint,
    },
    /// The connection ended, or nothing came for too long.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The connection was lost while a request was under way that changes something.
    #[error("the connection was lost before the answer came: {0}")]
    OutcomeUnknown(String),
    /// haul itself is at fault: a task panicked. What it said, and which task it was.
    #[error("internal error: {0}")]
    Internal(String),
    /// The peer broke the protocol.
    #[error("the other side broke the protocol: {0}")]
    Protocol(String),
    /// The other side answered with an error.
    #[error("{text}")]
    Refused {
        /// The status code.
        code: Code,
        /// What it said, as it came: make it safe before showing it.
        text: String,
    },
    /// The store on this side.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A file of keys or users on this side.
    #[error("{0}")]
    File(#[from] FileError),
    /// Anything else that the system refused.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl NetError {
    /// An error of the system's.
    pub fn io(doing: &'static str) -> impl FnOnce(io::Error) -> NetError {
        move |source| NetError::Io { doing, source }
    }

    /// The connection was lost, for this reason.
    pub fn lost(why: impl ToString) -> NetError {
        NetError::Lost(why.to_string())
    }

    /// The same error for another of those whom it concerns.
    #[must_use]
    pub fn duplicate(&self) -> NetError {
        match self {
            NetError::WrongKey { pinned, found } => NetError::WrongKey {
                pinned: *pinned,
                found: *found,
            },
            NetError::Refused { code, text } => NetError::Refused {
                code: *code,
                text: text.clone(),
            },
            NetError::Protocol(why) => NetError::Protocol(why.clone()),
            NetError::Internal(why) => NetError::Internal(why.clone()),
            NetError::Lost(why) => NetError::Lost(why.clone()),
            NetError::OutcomeUnknown(why) => NetError::OutcomeUnknown(why.clone()),
            other => NetError::Lost(other.to_string()),
        }
    }

    /// It may be another thing in a moment: another login may go on with what this ended.
    pub fn is_transient(&self) -> bool {
        match self {
            NetError::Connect { .. } | NetError::Lost(_) => true,
            NetError::Refused { code, .. } => matches!(*code, Code::UNAVAILABLE | Code::ABORTED | Code::NO_SESSION),
            _ => false,
        }
    }

    /// The code and the text that tell a peer about this error.
    pub fn to_wire(&self) -> (Code, String) {
        match self {
            NetError::Refused { code, text } => (*code, text.clone()),
            NetError::Store(e) => (code_of(&e.kind), e.to_string()),
            NetError::Protocol(why) => (Code::MALFORMED, why.clone()),
            NetError::Lost(why) => (Code::ABORTED, why.clone()),
            NetError::File(_) => (
                Code::LOCAL_ERROR,
                "a file of the server's state is not in order; see its log".into(),
            ),
            // a peer has no use for the rest
            NetError::Internal(_) => (
                Code::LOCAL_ERROR,
                "an internal error on the other side; its output says where".into(),
            ),
            other => (Code::LOCAL_ERROR, other.to_string()),
        }
    }
}

impl From<Malformed> for NetError {
    fn from(e: Malformed) -> NetError {
        NetError::Protocol(e.to_string())
    }
}

/// The status code for an error of the store.
pub fn code_of(kind: &ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NOT_FOUND,
        ErrorKind::Denied | ErrorKind::ReadOnly => Code::DENIED,
        ErrorKind::IsADirectory => Code::IS_DIRECTORY,
        ErrorKind::Exists
        | ErrorKind::NotADirectory
        | ErrorKind::NotEmpty
        | ErrorKind::Obstacle(_)
        | ErrorKind::SameName(_)
        | ErrorKind::Symlink => Code::CONFLICT,
        ErrorKind::Locked(_) => Code::LOCKED,
        ErrorKind::VersionChanged | ErrorKind::SourceChanged => Code::VERSION_CHANGED,
        ErrorKind::NoSpace => Code::NO_SPACE,
        ErrorKind::Quota => Code::QUOTA,
        ErrorKind::BadName(_) => Code::BAD_NAME,
        ErrorKind::BadKind => Code::BAD_KIND,
        ErrorKind::Other => Code::LOCAL_ERROR,
    }
}
