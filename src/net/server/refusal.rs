//! Why a login or an invite is refused, as its client may know it.

use crate::auth::FileError;
use crate::net::server::Server;
use crate::net::wire::Code;

/// Why a login was refused, in words that say no more than a stranger may know.
pub(super) type Refusal = (Code, &'static str);

pub(super) const REFUSED: Refusal = (
    Code::LOGIN_REFUSED,
    "login refused: unknown user, wrong password or key not listed",
);

pub(super) const TOO_MANY: Refusal = (
    Code::LOGIN_REFUSED,
    "too many failed logins with a password: wait a minute, or log in with a key",
);

/// The users cannot be read or changed: the log says why, and a stranger only that it does.
pub(super) fn no_users(server: &Server, error: &FileError) -> Refusal {
    if let Some(left_out) = server.strangers.line() {
        tracing::error!(%error, left_out, "the users cannot be read");
    }
    let why = "the server's list of users cannot be read; its log says why";
    (Code::LOCAL_ERROR, why)
}
