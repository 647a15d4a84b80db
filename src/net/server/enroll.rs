//! Turns an invite into a key of its user.

use crate::auth::user::{AuthorizedKey, clean_label};
use crate::auth::{FileError, PublicKey, UserName, invite, users};
use crate::net::error::NetError;
use crate::net::server::Server;
use crate::net::server::refusal::{Refusal, no_users};
use crate::net::wire::{Code, proto};
use crate::store::blocking;
use std::net::SocketAddr;
use zeroize::Zeroizing;

/// Lists the key of the handshake for the user whom the invite is for. It makes no user: an invite
/// is part of one, and goes with them.
pub(super) async fn enrol(
    server: &Server,
    key: Option<&PublicKey>,
    mut enroll: proto::Enroll,
    peer: SocketAddr,
) -> Result<Result<UserName, Refusal>, NetError> {
    let code = Zeroizing::new(std::mem::take(&mut enroll.code));
    let Some(public) = key.cloned() else {
        return Ok(Err((Code::LOGIN_REFUSED, "no key was presented that could be listed")));
    };
    let now = users::now();
    let all = match server.config.users.current() {
        Ok(all) => all,
        Err(e) => return Ok(Err(no_users(server, &e))),
    };
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
            redeem(server, code, key).await?
        }
    };
    match redeemed {
        Ok(Some(name)) => {
            tracing::info!(%peer, user = %name, key = %fingerprint, "key listed by invite");
            Ok(Ok(name))
        }
        Ok(None) => {
            if let Some(left_out) = server.strangers.line() {
                tracing::info!(%peer, left_out, "invite refused");
            }
            let text = "the invite is unknown, used or expired; ask for a new one";
            Ok(Err((Code::LOGIN_REFUSED, text)))
        }
        Err(e) => Ok(Err(no_users(server, &e))),
    }
}

/// Uses an invite up. Waiting for the lock of the users may take as long as another program holds
/// it: that takes one thread for blocking work and no more, however many invites wait.
async fn redeem(
    server: &Server,
    code: Zeroizing<Vec<u8>>,
    key: AuthorizedKey,
) -> Result<Result<Option<UserName>, FileError>, NetError> {
    let turn = server.enrolling.clone().acquire_owned().await.map_err(NetError::lost)?;
    let path = server.config.users.path().to_path_buf();
    let work = move || {
        let _turn = turn;
        invite::redeem(&path, &code, key, users::now())
    };
    Ok(blocking(work).await)
}
