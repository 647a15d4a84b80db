//! Turns an invite into a listed key of its user.

use crate::auth::user::{AuthorizedKey, clean_label};
use crate::auth::users::Users;
use crate::auth::{FileError, PublicKey, UserName, invite, users};
use crate::net::server::admission::Admission;
use crate::net::server::refusal::{INTERNAL, Refusal, no_users};
use crate::net::server::revocation;
use crate::net::wire::{Code, proto};
use crate::store::blocking;
use std::net::SocketAddr;
use zeroize::Zeroizing;

/// Lists the key of the handshake for the invite's user. It makes no user: an invite is part of
/// one, and goes with them.
///
/// # Errors
/// The refusal for the client.
pub(super) async fn enroll(
    users: &Users,
    admission: &Admission,
    peer: SocketAddr,
    key: Option<&PublicKey>,
    mut enroll: proto::Enroll,
) -> Result<UserName, Refusal> {
    let code = Zeroizing::new(std::mem::take(&mut enroll.code));
    let Some(public) = key.cloned() else {
        return Err((Code::LOGIN_REFUSED, "no key was presented that could be listed"));
    };
    let now = users::now();
    let mut all = users.current().map_err(|e| no_users(admission, &e))?;
    if invite::find(&all, &code, now).is_none() && users.is_shared() {
        // it may have been made a moment ago
        revocation::reread(users).await.map_err(|e| no_users(admission, &e))?;
        all = users.current().map_err(|e| no_users(admission, &e))?;
    }
    let fingerprint = public.fingerprint();
    // guesses are refused without a lock, or a thread
    let redeemed = match invite::find(&all, &code, now) {
        None => Ok(None),
        Some(_) => {
            let key = AuthorizedKey {
                label: clean_label(&enroll.client),
                added: Some(now),
                ..AuthorizedKey::new(public)
            };
            redeem(users, admission, code, key).await?
        }
    };
    match redeemed {
        Ok(Some(name)) => {
            tracing::info!(%peer, user = %name, key = %fingerprint, "key listed by invite");
            Ok(name)
        }
        Ok(None) => {
            if let Some(omitted) = admission.log_line() {
                tracing::info!(%peer, omitted, "invite refused");
            }
            let text = "the invite is unknown, used or expired; ask for a new one";
            Err((Code::LOGIN_REFUSED, text))
        }
        Err(e) => Err(no_users(admission, &e)),
    }
}

/// Uses an invite up. Another program may have the lock of the users for long: one thread for
/// blocking work waits for it, however many invites there are.
async fn redeem(
    users: &Users,
    admission: &Admission,
    code: Zeroizing<Vec<u8>>,
    key: AuthorizedKey,
) -> Result<Result<Option<UserName>, FileError>, Refusal> {
    let turn = admission.enroll_turn().await.ok_or(INTERNAL)?;
    let Some(at) = users.at().cloned() else {
        return Ok(Ok(None));
    };
    let work = move || {
        let _turn = turn;
        invite::redeem(&at, &code, key, users::now())
    };
    let redeemed = blocking(work).await;
    // the login with the new key follows at once
    let noted = revocation::reread(users).await;
    Ok(redeemed.and_then(|name| noted.map(|()| name)))
}
