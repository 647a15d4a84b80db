//! Ends sessions that the users file does not allow any more, with their transfers: at once when
//! the file changes, and when a key expires.
//!
//! inotify reports a change of the state directory. Where the kernel gives no watch, and for a
//! directory that another machine writes, the file is looked at every now and then; a request and
//! a new connection are checked against the file in any case.

use crate::auth::credential::Revoked;
use crate::auth::user::User;
use crate::auth::users;
use crate::net::error::NetError;
use crate::net::server::Server;
use crate::net::server::session::Session;
use crate::net::wire::Code;
use rustix::fs::inotify;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use tokio::net::unix::pipe::Receiver;

/// Time between two looks at a file whose changes are reported, and at one whose are not.
const LOOK: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(1)];

/// What a session is told that is ended. A login with less access is another one's right: its
/// client logs in again by itself, and what is still allowed is resumed.
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
        session.store.close();
        session.core.end(refusal(why));
    }
}

impl Server {
    /// Whether a connection from `address` may be part of `session`, by what the users file says.
    pub(super) fn allows(&self, session: &Session, address: IpAddr) -> Result<(), Revoked> {
        match self.config.users.current() {
            Ok(all) => session.grant.check_from(&all, users::now(), address).map(drop),
            // the task that watches the file says so in the log
            Err(_) => Ok(()),
        }
    }

    /// Ends a session that began with a grant which is gone by now; has its end watched for.
    pub(super) fn watch_over(&self, session: &Session) {
        match self.allows(session, session.grant.address) {
            Err(why) => revoke(session, why),
            Ok(()) => self.begun.notify_one(),
        }
    }

    /// Ends what `all` does not allow at `now`; gives when the next key expires.
    fn end_revoked(&self, all: &[User], now: u64) -> Option<u64> {
        let mut next: Option<u64> = None;
        for session in self.all_sessions() {
            match session.grant.check(all, now) {
                Err(why) => revoke(&session, why),
                Ok(_) => next = [next, session.grant.expires(all)].into_iter().flatten().min(),
            }
        }
        next
    }
}

/// Watches over all sessions until it is aborted.
pub(super) async fn watch(server: &Server) {
    let path = server.config.users.path();
    let changes = Changes::of(path.parent().unwrap_or(Path::new(".")));
    let mut legible = true;
    loop {
        let mut pause = changes.pause();
        match server.config.users.current() {
            Ok(all) => {
                let now = users::now();
                if let Some(end) = server.end_revoked(&all, now) {
                    pause = pause.min(Duration::from_secs(end.saturating_sub(now)));
                }
                legible = true;
            }
            Err(error) => {
                if std::mem::replace(&mut legible, false) {
                    tracing::error!(%error, "the users cannot be read: sessions go on as they are");
                }
            }
        }
        tokio::select! {
            () = changes.next() => {}
            () = server.begun.notified() => {}
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
            tracing::warn!(%error, "changes of the users are not reported: they are looked for every second");
        }
        Changes(watched.ok())
    }

    fn pause(&self) -> Duration {
        let [reported, looked_for] = LOOK;
        if self.0.is_some() { reported } else { looked_for }
    }

    /// Waits for one. What changed is not looked at: the file is.
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
