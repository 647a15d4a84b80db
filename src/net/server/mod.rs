//! The server: listens, tells control and data connections apart, and bounds all of them.
//!
//! Imports run down this list, and never back:
//!
//! ```text
//! tunnel                    a server for one user, behind carriers
//! listener                  accepts connections, and tells their kinds apart
//! attach                    a data connection joins its session
//! lifetime                  a session from its login to its end
//! control_loop              the messages of a session
//! requests, operations      answer a session's requests
//! copies, copy_report       copies within the server, and what the client reads of them
//! tickets                   make one-time logins for puts of other machines
//! transfers, transfer_log   find the places of a put or a get, and log its end
//! login                     the messages before a session
//! authenticate, enroll      check a login, or an invite
//! new_session               makes a session for a granted login
//! revocation, last_used     end what the users file does not allow any more; record logins
//! registry                  the sessions, and what each may have
//! session                   the state of a session (proof, rates, reply_cache)
//! fair_window               loans that shrink and grow with the number of sessions
//! loan                      the memory that is lent to sessions
//! refusal, reply            the answers to clients
//! admission                 who may wait for a login, how often a password may be tried
//! ticket_list, only_put     the tickets, and what each is for
//! config, outbound          files and bounds; what sends to other servers
//! ```

mod admission;
mod attach;
mod authenticate;
mod backup;
mod beneath;
mod changes;
mod config;
mod control_loop;
mod copies;
mod copy_report;
mod enroll;
mod fair_window;
mod glob;
mod last_used;
mod lifetime;
mod listener;
mod loan;
mod login;
mod new_session;
mod only_put;
mod operations;
pub mod outbound;
mod proof;
mod rates;
mod refusal;
mod registry;
mod reply;
mod reply_cache;
mod requests;

mod revocation;
mod session;
mod sources;
mod ticket_list;
mod tickets;
mod transfer_log;
mod transfers;
mod trash;
pub mod tunnel;

pub use config::{Config, Limits};

use crate::net::error::{LossReason, NetError};
use crate::net::task::{Tasks, supervise};
use crate::store::blocking;
use last_used::Uses;
use listener::Listener;
use registry::{RELEASE, Registry};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::timeout;

/// How long transfers may continue after the server was asked to stop.
const GRACE: Duration = Duration::from_secs(10);
/// Time between two sweeps for abandoned partial files.
const SWEEP_PAUSE: Duration = Duration::from_secs(3600);
/// How long no session has memory for transfers until the allocator is to return what is free.
const REST: Duration = Duration::from_secs(3);
/// Pause after the watch over the users has panicked.
const WATCH_PAUSE: Duration = Duration::from_millis(100);

/// Serves on `listeners` until `stop` is ready. Then running transfers may continue for a grace
/// time.
///
/// # Errors
/// [`NetError::Tls`] if the server's key cannot be used.
pub async fn run(
    config: Config,
    listeners: Vec<TcpListener>,
    stop: impl Future<Output = ()>,
) -> Result<(), NetError> {
    let registry = Arc::new(Registry::new(config.limits.clone()));
    let config = Arc::new(config);
    let (uses, used) = Uses::channel();
    // a panic outside of any session ends no more than its own task
    let tasks = Tasks::new(|_| {});
    let listener = Listener::new(config.clone(), registry.clone(), uses, tasks.clone())?;
    let listener = Arc::new(listener);
    let mut running = Vec::new();
    for socket in listeners {
        running.push(tasks.spawn("listener", listener.clone().run(socket)));
    }
    let swept = config.clone();
    running.push(tasks.spawn("sweeper", async move {
        supervise("sweep", SWEEP_PAUSE, || sweep(&swept)).await;
    }));
    let (users_of, watched) = (config.clone(), registry.clone());
    let watching = tasks.spawn("watcher", async move {
        let watch = || revocation::watch(&users_of.users, &watched);
        supervise("watch", WATCH_PAUSE, watch).await;
    });
    let (give_back, rests) = (config.return_free_memory, registry.clone());
    running.push(tasks.spawn("trimmer", async move {
        loop {
            rests.rested(REST).await;
            // it looks at all that is free
            blocking(give_back).await;
        }
    }));
    let noting = tasks.spawn("uses", last_used::note(config, registry.clone(), used));
    stop.await;
    drop(running);
    registry.stop();
    tracing::info!("stopping");
    let _ = timeout(GRACE, registry.idle()).await;
    for session in registry.all() {
        session.core.shut_down(NetError::Lost(LossReason::ServerStopping));
    }
    // the goodbyes are on their way; a peer that does not take them does not hold this up
    let _ = timeout(RELEASE, registry.empty()).await;
    drop(watching);
    let _ = timeout(RELEASE, noting).await;
    Ok(())
}

/// Removes abandoned partial files, and what has expired in a trash, from time to time.
async fn sweep(config: &Config) {
    loop {
        let swept = config.store.sweep(config.limits.partial_max_age).await;
        if swept.partial > 0 {
            tracing::info!(files = swept.partial, "abandoned partial files were removed");
        }
        if swept.blobs > 0 {
            tracing::info!(blobs = swept.blobs, "content that no entry refers to was removed");
        }
        if swept.trashed > 0 {
            tracing::info!(entries = swept.trashed, "expired entries of the trash were removed");
        }
        tokio::time::sleep(SWEEP_PAUSE).await;
    }
}
