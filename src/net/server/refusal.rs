//! Refusals of logins and invites, as the client may know them.

use crate::auth::FileError;
use crate::net::error::NetError;
use crate::net::printable;
use crate::net::server::admission::Admission;
use crate::net::wire::Code;
use std::borrow::Cow;
use std::net::SocketAddr;

/// The code and the text of a refusal, which say no more than a stranger may know.
pub(super) type Refusal = (Code, &'static str);

pub(super) const REFUSED: Refusal = (
    Code::LOGIN_REFUSED,
    "login refused: unknown user, wrong password or key not listed",
);

pub(super) const TOO_MANY: Refusal = (
    Code::LOGIN_REFUSED,
    "too many failed logins with a password: wait a minute, or log in with a key",
);

pub(super) const INTERNAL: Refusal =
    (Code::LOCAL_ERROR, "the server had an internal error; its log says where");

/// Why a login does not become a session.
pub(super) enum Denied {
    /// The client reads the refusal, and may try again.
    Refused(Refusal),
    /// The connection ends.
    Failed(NetError),
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Denied {
        Denied::Refused(refusal)
    }
}

impl From<NetError> for Denied {
    fn from(error: NetError) -> Denied {
        Denied::Failed(error)
    }
}

/// A refused login: the reason for the log, and the refusal for the client.
pub(super) struct Rejection {
    why: Cow<'static, str>,
    refusal: Refusal,
}

impl Rejection {
    pub(super) fn new(why: impl Into<Cow<'static, str>>, refusal: Refusal) -> Rejection {
        let why = why.into();
        Rejection { why, refusal }
    }

    /// Logs the rejection, as one of the lines that strangers cause, and returns the refusal.
    pub(super) fn logged(
        self,
        admission: &Admission,
        peer: SocketAddr,
        user: Option<&str>,
    ) -> Refusal {
        if let Some(omitted) = admission.log_line() {
            let user = user.map(printable);
            tracing::info!(%peer, user, why = &*self.why, omitted, "login refused");
        }
        self.refusal
    }
}

/// Logs that the users cannot be read or changed. The client learns nothing of the reason.
pub(super) fn no_users(admission: &Admission, error: &FileError) -> Refusal {
    if let Some(omitted) = admission.log_line() {
        tracing::error!(%error, omitted, "the users cannot be read");
    }
    let why = "the server's list of users cannot be read; its log says why";
    (Code::LOCAL_ERROR, why)
}
