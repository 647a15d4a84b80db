//! Records the last use of each key, in a task of its own: no login waits for a disk.

use crate::auth::FileError;
use crate::auth::credential::{Credential, Grant};
use crate::auth::last_used::{self, Use};
use crate::auth::users::{self, Users};
use crate::net::server::config::Config;
use crate::net::server::registry::Registry;
use crate::net::task::Tasks;
use crate::store::blocking;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Logins that may wait to be recorded; further ones are dropped.
const WAITING: usize = 1024;
/// Time between two writes of the file.
const PAUSE: Duration = Duration::from_secs(5);

/// Takes the logins that are to be recorded.
pub(super) struct Uses(mpsc::Sender<Use>);

impl Uses {
    /// A sender, and the receiver for [`note`].
    pub(super) fn channel() -> (Uses, mpsc::Receiver<Use>) {
        let (send, receive) = mpsc::channel(WAITING);
        (Uses(send), receive)
    }

    /// Records a login.
    pub(super) fn add(&self, grant: &Grant) {
        if let Credential::Key(key) = &grant.credential {
            let _ = self.0.try_send(Use {
                user: grant.name().clone(),
                key: key.fingerprint(),
                at: users::now(),
            });
        }
    }
}

/// Writes the logins to the file, until the server stops.
pub(super) async fn note(
    config: Arc<Config>,
    registry: Arc<Registry>,
    mut uses: mpsc::Receiver<Use>,
) {
    loop {
        let mut some = Vec::new();
        let over = tokio::select! {
            _ = uses.recv_many(&mut some, WAITING) => false,
            () = registry.stopped() => true,
        };
        while let Ok(one) = uses.try_recv() {
            some.push(one);
        }
        if !some.is_empty()
            && let Err(error) = write(&config.users, some).await
        {
            tracing::warn!(%error, "the last use of a key was not recorded");
        }
        if over || timeout(PAUSE, registry.stopped()).await.is_ok() && uses.is_empty() {
            return;
        }
    }
}

async fn write(users: &Users, uses: Vec<Use>) -> Result<(), FileError> {
    let all = users.current()?;
    let Some(at) = users.at().map(|at| at.beside(last_used::FILE)) else {
        return Ok(());
    };
    let write = blocking(move || last_used::record(&at, &uses, &all));
    // a panic has been reported where it happened, and the next uses are recorded
    Tasks::new(|_| {}).guard("note", Box::pin(write)).await.unwrap_or(Ok(()))
}
