//! The errors of connections, sessions and transfers.

use crate::auth::{FileError, Fingerprint};
use crate::net::wire::{Code, Malformed};
use crate::store::{ErrorKind, StoreError};
use std::io;
use std::sync::Arc;

/// An error of a connection, a session or a transfer. A clone is for another task that it concerns.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NetError {
    /// The client could not connect to the server.
    #[error("cannot connect to {server}: {source}")]
    Connect {
        /// `host:port`.
        server: String,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The client could not reach the server through another program, such as ssh.
    #[error("{0}")]
    Tunnel(TunnelError),
    /// The TLS handshake failed.
    #[error("the encrypted connection could not be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The server's key is not the pinned one.
    #[error("the server's key is {found}, not the pinned {pinned}")]
    WrongKey {
        /// The pinned key.
        pinned: Fingerprint,
        /// The key that the server presented.
        found: Fingerprint,
    },
    /// The connection or the session ended before its work was done.
    #[error("the connection was lost: {0}")]
    Lost(LossReason),
    /// The connection was lost before the reply to a request that must not be repeated blindly.
    #[error("the connection was lost before the answer came: {0}")]
    OutcomeUnknown(String),
    /// A fault in haul: a task panicked. The text has the task's name and the panic's message.
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
        /// The peer's text, unchanged: make it printable before showing it.
        text: String,
    },
    /// An error of the store on this side.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// An error of a file of keys or users on this side.
    #[error("{0}")]
    File(Arc<FileError>),
}

/// Why the program that reaches a server for haul did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// The program cannot be started.
    #[error("cannot start {program}: {why}")]
    Start {
        /// The program.
        program: String,
        /// The system's error.
        why: String,
    },
    /// The program ended before haul answered over it.
    #[error("{program} ended before haul answered: {status}")]
    Ended {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
    },
    /// There is no haul, or none that can be started.
    #[error("{0}")]
    NoHaul(NoHaul),
    /// Something else than haul answered.
    #[error("no haul answered, but {0} bytes of something else")]
    Noise(usize),
    /// The answer cannot be read.
    #[error("the answer of haul there cannot be read")]
    Malformed,
    /// haul there refuses.
    #[error("{0}")]
    Refused(String),
}

/// Why haul does not run on another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoHaul {
    /// There is no such program.
    #[error("haul is not installed there")]
    Missing,
    /// The program cannot be executed.
    #[error("haul cannot be executed there")]
    NotExecutable,
    /// It does not know `serve --stdio`.
    #[error("haul is too old there")]
    Old,
}

/// Why a connection or a session was lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LossReason {
    /// The client said goodbye.
    #[error("logged out")]
    LoggedOut,
    /// The session is over; another task knows why.
    #[error("the session is over")]
    SessionOver,
    /// The server ended the session to make room for another one.
    #[error("another session took its place")]
    Displaced,
    /// The server was asked to stop.
    #[error("the server is stopping")]
    ServerStopping,
    /// The server does not have the session any more.
    #[error("the server does not know the session any more")]
    SessionForgotten,
    /// No client resumed the session within the server's grace.
    #[error("the client did not come back")]
    ClientGone,
    /// The task was aborted.
    #[error("the task was ended")]
    TaskEnded,
    /// The client has no session.
    #[error("not logged in")]
    NotLoggedIn,
    /// The system returned no random bytes.
    #[error("no random numbers for a session id")]
    NoRandomness,

    /// The server did not complete the TLS handshake in time.
    #[error("the server did not complete the handshake within 10 s")]
    ServerHandshakeTimeout,
    /// No haul answered through another program, which could ask no user, in time.
    #[error("no haul answered within 60 s")]
    GreetingTimeout,
    /// The server did not answer a re-attachment in time.
    #[error("the server did not answer within 10 s")]
    ReattachTimeout,
    /// The server did not accept a data connection in time.
    #[error("a data connection was not accepted within 10 s")]
    AttachTimeout,
    /// The client did not complete the TLS handshake in time.
    #[error("it did not complete the handshake in time")]
    ClientHandshakeTimeout,
    /// The client did not log in in time.
    #[error("it did not log in in time")]
    LoginTimeout,
    /// The client's logins were refused too often.
    #[error("it failed to log in too often")]
    TooManyLogins,
    /// The oldest connection before its login made room for a newer one.
    #[error("too many connections were waiting, and this the longest")]
    TooManyWaiting,
    /// The proof of a data connection names a session that did not begin in time.
    #[error("its proof was for no login")]
    NoSuchLogin,
    /// The user's share of data connections is used up.
    #[error("its user has all data connections they may have")]
    DataConnectionsUsedUp,

    /// The peer closed the connection before its ClientHello.
    #[error("closed before its handshake")]
    ClosedBeforeHello,
    /// The peer closed the connection within its ClientHello.
    #[error("closed within its first message")]
    ClosedInHello,
    /// The peer closed the connection during the TLS handshake.
    #[error("closed during the handshake")]
    ClosedInHandshake,
    /// The bytes are not a record of TLS.
    #[error("not a TLS record")]
    NotTls,
    /// The peer sent an alert of TLS.
    #[error("TLS alert {0}")]
    TlsAlert(u8),

    /// This side closed the control connection.
    #[error("the control connection is closed")]
    ControlClosed,
    /// The peer closed the control connection.
    #[error("closed by the other side")]
    ClosedByPeer,
    /// The peer sent nothing on the control connection, not even a heartbeat.
    #[error("nothing came for 20 s")]
    ControlSilent,
    /// The peer read nothing from the control connection.
    #[error("the other side took nothing for 20 s")]
    NothingTaken,
    /// The peer confirmed no message.
    #[error("the other side confirmed nothing for 20 s")]
    NothingConfirmed,

    /// The data connection has ended.
    #[error("the connection is gone")]
    DataGone,
    /// The peer answered no ping on a data connection in time.
    #[error("a data connection is silent")]
    DataSilent,
    /// The peer read nothing from a data connection.
    #[error("a data connection took nothing for 60 s")]
    DataStalled,
    /// The peer closed a data connection before its proof.
    #[error("closed before it said what it is")]
    ClosedBeforeProof,
    /// The peer closed a data connection.
    #[error("cut by the other side")]
    CutByPeer,
    /// A data connection ended within a frame.
    #[error("cut within a frame")]
    CutInFrame,

    /// The byte stream that carries connections has ended.
    #[error("what carries it has ended")]
    CarrierEnded,
    /// No more connections can be numbered within one byte stream.
    #[error("it has carried too many connections")]
    LanesUsedUp,

    /// The sender of a transfer makes no progress.
    #[error("the sender has sent nothing for four minutes")]
    SenderStalled,
    /// The receiver of a transfer makes no progress.
    #[error("the receiver has answered nothing for two minutes")]
    ReceiverStalled,

    /// The text of an error of the system or of a library.
    #[error("{0}")]
    Foreign(String),
}

impl NetError {
    /// The connection was lost because of an error of the system or of a library.
    pub fn lost(why: impl ToString) -> NetError {
        NetError::Lost(LossReason::Foreign(why.to_string()))
    }

    /// The client could not connect to `server`.
    pub fn connect(server: impl Into<String>, source: io::Error) -> NetError {
        NetError::Connect {
            server: server.into(),
            source: Arc::new(source),
        }
    }

    /// The same as the reason why a session ended. Only the peer's word, a breach of the protocol
    /// and a fault in haul stay what they are: another login may resume after any other error.
    #[must_use]
    pub fn into_session_end(self) -> NetError {
        match self {
            NetError::WrongKey { .. }
            | NetError::Refused { .. }
            | NetError::Protocol(_)
            | NetError::Internal(_)
            | NetError::Lost(_)
            | NetError::OutcomeUnknown(_) => self,
            NetError::Connect { .. }
            | NetError::Tunnel(_)
            | NetError::Tls(_)
            | NetError::Store(_)
            | NetError::File(_) => NetError::lost(self),
        }
    }

    /// True if the server could not be reached, and may be later.
    pub fn is_unreachable(&self) -> bool {
        match self {
            NetError::Connect { .. } => true,
            NetError::Tunnel(why) => matches!(why, TunnelError::Ended { .. }),
            _ => false,
        }
    }

    /// True for a transient error: a new login may resume the work.
    pub fn is_transient(&self) -> bool {
        match self {
            NetError::Lost(_) => true,
            NetError::Refused { code, .. } => {
                matches!(*code, Code::UNAVAILABLE | Code::ABORTED | Code::NO_SESSION)
            }
            other => other.is_unreachable(),
        }
    }

    /// The code and the text that tell a peer about this error.
    pub fn to_wire(&self) -> (Code, String) {
        match self {
            NetError::Refused { code, text } => (*code, text.clone()),
            NetError::Store(e) => (code_of(&e.kind), e.to_string()),
            NetError::Protocol(why) => (Code::MALFORMED, why.clone()),
            NetError::Lost(why) => (Code::ABORTED, why.to_string()),
            NetError::File(_) => (
                Code::LOCAL_ERROR,
                "a file of the server's state cannot be used; see the server's log".into(),
            ),
            // a peer has no use for the panic's message
            NetError::Internal(_) => (
                Code::LOCAL_ERROR,
                "an internal error on the other side; its output says where".into(),
            ),
            other => (Code::LOCAL_ERROR, other.to_string()),
        }
    }
}

impl From<FileError> for NetError {
    fn from(e: FileError) -> NetError {
        NetError::File(Arc::new(e))
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
        ErrorKind::Unavailable
        | ErrorKind::Throttled
        | ErrorKind::UnknownOutcome
        | ErrorKind::Other => Code::LOCAL_ERROR,
    }
}
