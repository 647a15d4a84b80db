//! Numbers a session's requests, and passes each reply to the task that waits for it.

use crate::net::error::NetError;
use crate::net::session::SessionCore;
use crate::net::wire::proto::{self, control_message, request};
use parking_lot::Mutex;
use std::collections::HashMap;
use tokio::sync::oneshot;

/// The number of a session's first request, its login.
pub(super) const LOGIN: u64 = 1;

/// The requests of a session that have no reply yet.
pub(super) struct ReplyRouter {
    next: tokio::sync::Mutex<u64>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<proto::Reply>>>,
}

impl ReplyRouter {
    /// A router for a new session.
    pub(super) fn new() -> ReplyRouter {
        ReplyRouter {
            next: tokio::sync::Mutex::new(LOGIN),
            waiting: Mutex::default(),
        }
    }

    /// Sends a request. Its reply comes through the receiver. Once this future is ready, the
    /// request precedes whatever is sent later.
    pub(super) async fn start(
        &self,
        core: &SessionCore,
        body: request::Body,
    ) -> Result<oneshot::Receiver<proto::Reply>, NetError> {
        let (send, receive) = oneshot::channel();
        // locked while the request is queued: the server takes a number out of order for a
        // repetition
        let mut next = self.next.lock().await;
        let number = *next;
        self.waiting.lock().insert(number, send);
        let message = proto::Request {
            number,
            body: Some(body),
        };
        core.send(control_message::Body::Request(message)).await?;
        *next = number.saturating_add(1);
        Ok(receive)
    }

    /// Passes a reply to the task that waits for it. A reply without such a task is dropped.
    pub(super) fn route(&self, reply: proto::Reply) {
        let waiting = self.waiting.lock().remove(&reply.number);
        if let Some(waiting) = waiting {
            let _ = waiting.send(reply);
        }
    }
}
