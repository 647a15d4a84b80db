//! Checks the key or the password of a login.

use crate::auth::credential::{Credential, Grant};
use crate::auth::password::Secret;
use crate::auth::user::User;
use crate::auth::users::Users;
use crate::auth::{PublicKey, password, users};
use crate::net::server::admission::{Admission, Try};
use crate::net::server::refusal::{INTERNAL, REFUSED, Rejection, TOO_MANY, no_users};
use crate::net::server::revocation;
use crate::net::wire::proto;
use std::net::SocketAddr;
use std::panic::{catch_unwind, resume_unwind};
use tokio::sync::OwnedSemaphorePermit;

/// Checks a login by password, or without one by the key of the handshake.
///
/// # Errors
/// Why it is rejected.
pub(super) async fn authenticate(
    users: &Users,
    admission: &Admission,
    peer: SocketAddr,
    key: Option<&PublicKey>,
    login: &proto::Login,
) -> Result<Grant, Rejection> {
    let attempt = match login.password {
        None => None,
        Some(_) => {
            let turn = admission.password_turn(peer, &login.user).await;
            Some(turn.ok_or_else(|| Rejection::new("too many failed logins", TOO_MANY))?)
        }
    };
    let find = || {
        let user = users.find(&login.user);
        user.map_err(|e| Rejection::new("no list of users", no_users(admission, &e)))
    };
    let before = find()?;
    let mut granted = check(admission, before.as_ref(), (peer, key), login).await;
    if granted.is_err() && users.is_shared() {
        // the user may have been changed a moment ago, through another server
        let read = revocation::reread(users).await;
        read.map_err(|e| Rejection::new("no list of users", no_users(admission, &e)))?;
        let user = find()?;
        if user != before {
            granted = check(admission, user.as_ref(), (peer, key), login).await;
        }
    }
    let grant = granted?;
    attempt.into_iter().for_each(Try::succeeded);
    Ok(grant)
}

/// Checks a login against the user as they are, if they exist. A password is hashed all the same.
///
/// # Errors
/// Why it is rejected.
async fn check(
    admission: &Admission,
    user: Option<&User>,
    (peer, key): (SocketAddr, Option<&PublicKey>),
    login: &proto::Login,
) -> Result<Grant, Rejection> {
    let credential = match &login.password {
        None => key.cloned().map(Credential::Key),
        Some(given) => {
            let hash = user.and_then(|u| u.password.clone());
            let turn = admission.hash_turn().await;
            let turn =
                turn.ok_or_else(|| Rejection::new("no turn to hash a password", INTERNAL))?;
            let right = verify(Secret::new(given.clone()), hash.clone(), turn).await;
            hash.filter(|_| right).map(Credential::Password)
        }
    };
    let (Some(user), Some(credential)) = (user, credential) else {
        let why = "unknown user, wrong password or key not listed";
        return Err(Rejection::new(why, REFUSED));
    };
    let address = peer.ip();
    let checked = credential.check(user, users::now(), address);
    checked.map_err(|revoked| Rejection::new(revoked.to_string(), REFUSED))?;
    Ok(Grant {
        user: user.clone(),
        credential,
        address,
    })
}

/// Checks a password on a thread of its own. The allocator keeps the memory of a hash with its
/// thread: threads for blocking work would each come to hold as much. The thread has the permit,
/// and keeps it when its caller is gone.
///
/// # Panics
/// If the check does.
async fn verify(given: Secret, hash: Option<String>, permit: OwnedSemaphorePermit) -> bool {
    let (done, right) = tokio::sync::oneshot::channel();
    let work = move || {
        let _permit = permit;
        let _ = done.send(catch_unwind(|| password::verify(&given, hash.as_deref())));
    };
    match std::thread::Builder::new().name("password".into()).spawn(work) {
        // a check that panicked does not say that the password is wrong
        Ok(_) => match right.await {
            Ok(right) => right.unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => false,
        },
        Err(e) => {
            tracing::error!(error = %e, "no thread for a password");
            false
        }
    }
}
