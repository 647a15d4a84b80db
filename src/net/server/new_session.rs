//! Makes a session for a login that was granted.

use crate::auth::UserName;
use crate::auth::credential::Grant;
use crate::auth::user::User;
use crate::chunk::buffer::BufferPool;
use crate::net::control::queue::{ControlQueue, ControlSender};
use crate::net::printable;
use crate::net::server::config::Config;
use crate::net::server::loan::{OUTGOING_AT_REST, at_rest};
use crate::net::server::only_put::OnlyPut;
use crate::net::server::proof::Proofs;
use crate::net::server::refusal::{Refusal, Rejection};
use crate::net::server::registry::Registry;
use crate::net::server::session::{Reattached, Session, SessionId, TransferCount};
use crate::net::session::SessionCore;
use crate::net::wire::{Code, proto};
use crate::store::shares::Share;
use crate::store::{ErrorKind, Served, StoreError, StoreExt};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::sync::{mpsc, watch};

/// Longest name of a client's host that is logged, in characters.
const MAX_HOST: usize = 64;

/// A login that was granted.
pub(super) struct Granted<'a> {
    pub(super) id: SessionId,
    pub(super) grant: Grant,
    pub(super) login: &'a proto::Login,
    /// What a ticket is for.
    pub(super) only: Option<OnlyPut>,
    /// The key that the control connection's TLS exporter made.
    pub(super) exported: &'a [u8],
}

/// A new session, with its place and the ends of its channels.
pub(super) struct NewSession {
    pub(super) id: SessionId,
    pub(super) session: Arc<Session>,
    pub(super) place: Share,
    pub(super) queue: ControlQueue,
    /// The connections that resume the session.
    pub(super) reattached: mpsc::Receiver<Box<Reattached>>,
}

/// Makes a session, if there is room for it.
///
/// # Errors
/// Why it is rejected.
pub(super) async fn create(
    config: &Config,
    registry: &Registry,
    granted: Granted<'_>,
) -> Result<NewSession, Rejection> {
    let Granted {
        id,
        grant,
        login,
        only,
        exported,
    } = granted;
    if registry.is_stopping() {
        return Err(Rejection::new("the server is stopping", NO_PLACE));
    }
    if registry.get(&id).is_some() {
        let text = "the session id is taken";
        return Err(Rejection::new(text, (Code::BAD_PARAMETER, text)));
    }
    let served = open_root(config, &grant.user).await.map_err(|e| {
        tracing::error!(user = %grant.name(), error = %e, "the user's root cannot be opened");
        let text = "this user's root directory cannot be opened on the server";
        Rejection::new("no root", (Code::LOCAL_ERROR, text))
    })?;
    let user: Arc<str> = grant.name().as_str().into();
    let full = || Rejection::new("the user has all sessions they may have", NO_PLACE);
    let place = registry.place(&user).await.ok_or_else(full)?;
    let (incoming, outgoing) = registry.meters(&user);
    let (control, queue) = ControlSender::metered(OUTGOING_AT_REST, outgoing);
    let buffers = BufferPool::new(0);
    // a channel has room for 32 values from the start: what is large is boxed
    let (reattached_in, reattached) = mpsc::channel(1);
    let rates = registry.rates().of_session(grant.name(), grant.user.rate);
    let metered = (rates.pacer.clone(), Some(incoming));
    let session = Session {
        who: who(grant.name(), &login.client),
        grant,
        store: served.store(),
        served,
        core: SessionCore::metered(control, at_rest(), buffers, metered),
        working: Mutex::default(),
        proofs: Proofs::new(exported),
        reattached: reattached_in,
        most_connections: registry.most_connections(&user),
        transfers: TransferCount::default(),
        credit: AtomicU64::new(login.window),
        loan: Mutex::default(),
        lent: watch::Sender::new(false),
        settled: watch::Sender::new(0),
        rates,
        only,
    };
    session.core.peer_features(login.features);
    Ok(NewSession {
        id,
        session: Arc::new(session),
        place,
        queue,
        reattached,
    })
}

const NO_PLACE: Refusal = (Code::UNAVAILABLE, "the server has no room for another session");

/// `user@client`, for logs and locks. A user's name may have an `@`, a client's has none here. So
/// the user is everything before the last `@`, and no two users are confused.
fn who(user: &UserName, client: &str) -> String {
    let client: String = client.chars().take(MAX_HOST).collect();
    format!("{user}@{}", printable(&client).replace('@', "\\u{40}"))
}

/// The store that a user sees. Their root is made if it does not exist.
async fn open_root(config: &Config, user: &User) -> Result<Arc<dyn Served>, StoreError> {
    let served = &config.store;
    match served.rooted_at(&user.root, user.name.as_str()).await {
        Err(e) if e.kind == ErrorKind::NotFound => {
            served.store().make_dir_all(&user.root).await?;
            served.rooted_at(&user.root, user.name.as_str()).await
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_users_are_taken_for_each_other() {
        let who = |user: &str, client: &str| who(&UserName::parse(user).unwrap(), client);
        assert_eq!(who("kim", "laptop"), "kim@laptop");
        assert_ne!(who("kim", "a@b"), who("kim@a", "b"));
        assert_ne!(who("kim", "@"), who("kim@", ""));
        for (user, client) in [("kim", "a@b"), ("kim@a", "b"), ("kim", "\n@\u{202e}@")] {
            let who = who(user, client);
            assert_eq!(who.rsplit_once('@').unwrap().0, user, "{who}");
        }
    }
}
