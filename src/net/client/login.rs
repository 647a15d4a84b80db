//! A session's login: the server's answer, and what it grants.

use crate::net::client::options::WINDOW;
use crate::net::control::codec::refused;
use crate::net::error::{LossReason, NetError};
use crate::net::printable;
use crate::net::wire::Code;
use crate::net::wire::proto::{self, reply};
use std::sync::Arc;
use tokio::sync::watch;

/// What a login grants.
#[derive(Clone)]
pub(super) struct Granted {
    /// Bytes that the server allows this client to have outstanding.
    pub(super) window: u64,
    /// Data connections that the server allows.
    pub(super) connections: u64,
    /// Its features.
    pub(super) features: u64,
    /// The user may put files and not read them. The server decides; hints depend on it.
    pub(super) write_only: bool,
    /// The user may read and not write; as above.
    pub(super) read_only: bool,
    /// What the tree is in, for people; empty for a directory.
    pub(super) store: Arc<str>,
}

impl Granted {
    /// What a reply to a login grants, or why it refuses.
    ///
    /// # Errors
    /// [`NetError::Protocol`] for a reply that says neither.
    pub(super) fn from_reply(reply: &proto::Reply) -> Result<Result<Granted, NetError>, NetError> {
        match (&reply.body, Code::from_wire(reply.code)) {
            (Some(reply::Body::Login(granted)), code) if code.is_success() => Ok(Ok(Granted {
                window: granted.window.min(4 * WINDOW),
                connections: u64::from(granted.connections).max(1),
                write_only: granted.write_only,
                read_only: granted.read_only,
                features: granted.features,
                store: printable(&granted.store).into(),
            })),
            (_, code) if code.is_success() => Err(NetError::Protocol(
                "expected a session in the reply to a login, got none".into(),
            )),
            _ => Ok(Err(refused(reply.code, reply.text.clone()))),
        }
    }
}

/// How a login ended, once the server has answered it.
pub(super) struct Login(watch::Sender<Option<Result<Granted, NetError>>>);

impl Login {
    /// A login without an answer.
    pub(super) fn new() -> Login {
        Login(watch::Sender::new(None))
    }

    /// The server has answered.
    pub(super) fn set(&self, answer: Result<Granted, NetError>) {
        self.0.send_replace(Some(answer));
    }

    /// Waits for the answer. Cancel-safe.
    ///
    /// # Errors
    /// Why the login was refused.
    pub(super) async fn answered(&self) -> Result<(), NetError> {
        let mut answer = self.0.subscribe();
        match answer.wait_for(Option::is_some).await.ok().as_deref() {
            Some(Some(Err(e))) => Err(e.clone()),
            Some(Some(Ok(_))) => Ok(()),
            _ => Err(NetError::Lost(LossReason::SessionOver)),
        }
    }

    /// What was granted; `None` before the answer and after a refusal.
    pub(super) fn granted(&self) -> Option<Granted> {
        match &*self.0.borrow() {
            Some(Ok(granted)) => Some(granted.clone()),
            _ => None,
        }
    }

    /// The server has lent more: so many bytes may be outstanding.
    pub(super) fn lent(&self, bytes: u64) {
        self.0.send_modify(|answer| {
            if let Some(Ok(granted)) = answer {
                granted.window = bytes.min(4 * WINDOW);
            }
        });
    }

    /// Wakes when what is granted changes.
    pub(super) fn changes(&self) -> watch::Receiver<Option<Result<Granted, NetError>>> {
        self.0.subscribe()
    }

    /// Why the login was refused; `None` if it was not.
    pub(super) fn refusal(&self) -> Option<NetError> {
        match &*self.0.borrow() {
            Some(Err(e)) => Some(e.clone()),
            _ => None,
        }
    }
}
