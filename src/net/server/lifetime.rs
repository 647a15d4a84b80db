//! A session from its login to its end.

use crate::net::error::{LossReason, NetError};
use crate::net::printable;
use crate::net::server::config::Config;
use crate::net::server::control_loop;
use crate::net::server::last_used::Uses;
use crate::net::server::login::Accepted;
use crate::net::server::registry::{RELEASE, Registry};
use crate::net::server::revocation::watch_over;
use crate::net::server::session::Session;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a session that a panic ended is remembered for a client that does not know.
const REMEMBER_PANIC: Duration = Duration::from_secs(10);

/// Registers a session, and runs it to its end.
///
/// # Errors
/// Why it ended, unless the client said goodbye.
pub(super) async fn run(
    config: &Arc<Config>,
    registry: &Arc<Registry>,
    uses: &Uses,
    accepted: Accepted,
) -> Result<(), NetError> {
    let (id, session) = (accepted.new.id, accepted.new.session.clone());
    let (control_loop, place) = control_loop::begin(config, registry, accepted);
    let registration = registry.add(id, session.clone(), place);
    watch_over(&config.users, registry, &session);
    uses.add(&session.grant);
    let conversation = Box::pin(control_loop.run());
    let ended = session.core.tasks().guard("session", conversation).await.flatten();
    log_end(&session, &ended);
    // data that has arrived is being made durable, and keeps its locks until then
    let _ = timeout(RELEASE, session.transfers.none()).await;
    if let Err(NetError::Internal(_)) = ended {
        // a client whose connection ended with the panic comes back, and gets the reason
        let _ = timeout(REMEMBER_PANIC, registry.stopped()).await;
    }
    drop(registration);
    let why = match &ended {
        Ok(()) => NetError::Lost(LossReason::LoggedOut),
        Err(e) => e.clone(),
    };
    session.core.shut_down(why);
    ended
}

fn log_end(session: &Session, ended: &Result<(), NetError>) {
    let (who, from) = (&session.who, session.grant.address());
    match ended {
        Ok(()) => tracing::info!(%who, %from, "logout"),
        Err(e @ NetError::Internal(_)) => {
            tracing::error!(%who, %from, error = %e, "a session is ended")
        }
        Err(e) => tracing::info!(%who, %from, error = %printable(&e.to_string()), "session over"),
    }
}
