//! Ends sessions that the users file does not allow any more, with their transfers: at once when
//! the file changes, and when a key expires.
//!
//! inotify reports changes of the state directory. The file is also read every few seconds, for
//! kernels without a watch and directories that another machine writes. Every request and every new
//! connection is checked against the file as well.

use crate::auth::FileError;
use crate::auth::credential::Revoked;
use crate::auth::state_file::{SharedText, StateFile};
use crate::auth::user::User;
use crate::auth::users::{self, Users};
use crate::net::error::NetError;
use crate::net::server::registry::Registry;
use crate::net::server::session::Session;
use crate::net::task::Tasks;
use crate::net::wire::Code;
use crate::store::blocking;
use rustix::fs::inotify;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::unix::pipe::Receiver;

/// Time between two reads of the users while inotify reports changes.
const READ_REPORTED: Duration = Duration::from_secs(5);
/// The same without inotify.
const READ_UNREPORTED: Duration = Duration::from_secs(1);

/// The reason that the client of a revoked session reads. After a loss of access the client may log
/// in again, and resume the transfers that it may still make.
pub(super) fn refusal(why: Revoked) -> NetError {
    let code = match why {
        Revoked::Access => Code::ABORTED,
        _ => Code::LOGIN_REFUSED,
    };
    NetError::Refused {
        code,
        text: format!("the server ended the session: {why}"),
    }
}

/// Ends a session for this reason.
pub(super) fn revoke(session: &Session, why: Revoked) {
    if !session.core.is_down() {
        tracing::info!(who = %session.who, %why, "a session is ended");
        session.served.close();
        session.core.end(refusal(why));
    }
}

/// Whether the users file allows a connection from `address` to be part of `session`.
///
/// # Errors
/// Why not.
pub(super) fn check(users: &Users, session: &Session, address: IpAddr) -> Result<(), Revoked> {
    match users.current() {
        Ok(all) => session.grant.check_from(&all, users::now(), address).map(drop),
        // the task that watches the file logs the error
        Err(_) => Ok(()),
    }
}

/// Ends a session that began with a grant that was revoked meanwhile, and has the others watched.
pub(super) fn watch_over(users: &Users, registry: &Registry, session: &Session) {
    match check(users, session, session.grant.address) {
        Err(why) => revoke(session, why),
        Ok(()) => registry.note_begun(),
    }
}

/// Ends the sessions that `all` does not allow at `now`, and sets the rates of the others. Returns
/// when the next key expires.
fn end_revoked(registry: &Registry, all: &[User], now: u64) -> Option<u64> {
    let mut next: Option<u64> = None;
    for session in registry.all() {
        match session.grant.check(all, now) {
            Err(why) => revoke(&session, why),
            Ok(user) => {
                session.rates.set_user(user.rate);
                next = [next, session.grant.expires(all)].into_iter().flatten().min();
            }
        }
    }
    next
}

/// Reads users that several servers share once more.
///
/// # Errors
/// [`FileError`]; the users stay what they are.
pub(super) async fn reread(users: &Users) -> Result<(), FileError> {
    let read = async |shared: Arc<dyn SharedText>| {
        let name = shared.name();
        let read = blocking(move || shared.read());
        // a panic has been reported where it happened
        let read = Tasks::new(|_| {}).guard("reread", Box::pin(read)).await;
        let panicked = |_| FileError::content(&name, "it could not be read");
        read.map_err(panicked)?.map(|(text, _)| text)
    };
    users.reread(read).await
}

/// Watches over all sessions until it is aborted.
pub(super) async fn watch(users: &Users, registry: &Registry) {
    let changes = match users.at() {
        // they stay what they are
        None => return std::future::pending().await,
        Some(StateFile::Local(path)) => Changes::of(path.parent().unwrap_or(Path::new("."))),
        Some(StateFile::Shared(_)) => Changes(None),
    };
    let mut legible = true;
    loop {
        let mut pause = changes.pause();
        match reread(users).await.and_then(|()| users.current()) {
            Ok(all) => {
                let now = users::now();
                if let Some(end) = end_revoked(registry, &all, now) {
                    pause = pause.min(Duration::from_secs(end.saturating_sub(now)));
                }
                legible = true;
            }
            Err(error) => {
                if std::mem::replace(&mut legible, false) {
                    tracing::error!(
                        %error,
                        "the users cannot be read: sessions continue as they are"
                    );
                }
            }
        }
        tokio::select! {
            () = changes.next() => {}
            () = registry.begun() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Changes of a directory.
struct Changes(Option<Receiver>);

impl Changes {
    fn of(dir: &Path) -> Changes {
        use inotify::{CreateFlags, WatchFlags};
        let flags = WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        let watch = || -> std::io::Result<_> {
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            inotify::add_watch(&fd, dir, flags)?;
            // its events are read as from a pipe
            Receiver::from_owned_fd_unchecked(fd)
        };
        let watched = watch();
        if let Err(error) = &watched {
            tracing::warn!(%error, "no inotify: the users are read every second");
        }
        Changes(watched.ok())
    }

    fn pause(&self) -> Duration {
        match self.0 {
            Some(_) => READ_REPORTED,
            None => READ_UNREPORTED,
        }
    }

    /// Waits for a change of any file in the directory.
    async fn next(&self) {
        let Some(events) = &self.0 else {
            return std::future::pending().await;
        };
        if events.readable().await.is_err() {
            return std::future::pending().await;
        }
        let mut some = [0; 4096];
        while events.try_read(&mut some).is_ok_and(|n| n > 0) {}
    }
}
