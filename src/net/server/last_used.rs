//! Notes which key logged in last when, apart from the logins: none of them waits for a disk.

use crate::auth::FileError;
use crate::auth::credential::{Credential, Grant};
use crate::auth::last_used::{self, Use};
use crate::auth::users;
use crate::net::server::Server;
use crate::net::task::Tasks;
use crate::store::blocking;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Logins that wait to be noted; more than these are not.
const WAITING: usize = 1024;
/// Time between two writes of the file.
const PAUSE: Duration = Duration::from_secs(5);

/// Where logins are told of.
pub(super) struct Uses(mpsc::Sender<Use>);

impl Uses {
    /// With where [`note`] takes them from.
    pub(super) fn channel() -> (Uses, mpsc::Receiver<Use>) {
        let (send, receive) = mpsc::channel(WAITING);
        (Uses(send), receive)
    }

    /// Somebody has logged in.
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

/// Writes down what comes in, until the server stops.
pub(super) async fn note(server: Arc<Server>, mut uses: mpsc::Receiver<Use>) {
    let mut stopping = server.stopping.subscribe();
    loop {
        let mut some = Vec::new();
        let over = tokio::select! {
            _ = uses.recv_many(&mut some, WAITING) => false,
            _ = stopping.wait_for(|stopping| *stopping) => true,
        };
        while let Ok(one) = uses.try_recv() {
            some.push(one);
        }
        if !some.is_empty()
            && let Err(error) = write(&server, some).await
        {
            tracing::warn!(%error, "the last use of a key is not noted");
        }
        if over || timeout(PAUSE, stopping.wait_for(|stopping| *stopping)).await.is_ok() && uses.is_empty() {
            return;
        }
    }
}

async fn write(server: &Server, uses: Vec<Use>) -> Result<(), FileError> {
    let all = server.config.users.current()?;
    let path = server.config.users.path().with_file_name(last_used::FILE);
    let write = blocking(move || last_used::record(&path, &uses, &all));
    // a panic has been reported where it happened, and the next uses are noted
    Tasks::new(|_| {})
        .guard("note", Box::pin(write))
        .await
        .unwrap_or(Ok(()))
}
