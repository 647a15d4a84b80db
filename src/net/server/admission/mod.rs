//! Admission: who may wait for a login, how often a password may be tried, and how much of that
//! reaches the log.

mod strangers;
mod throttle;
mod waiting;

pub(super) use throttle::Try;
pub(super) use waiting::Turn;

use std::net::SocketAddr;
use std::sync::Arc;
use strangers::StrangerLines;
use throttle::Throttle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use waiting::Waiting;

/// Passwords that are hashed at once: each costs 19 MiB.
const HASHES: usize = 2;

/// Bounds everything that a client can cause before its login.
pub(super) struct Admission {
    waiting: Waiting,
    throttle: Throttle,
    lines: StrangerLines,
    hashes: Arc<Semaphore>,
    enrolling: Arc<Semaphore>,
}

impl Admission {
    pub(super) fn new() -> Admission {
        Admission {
            waiting: Waiting::default(),
            throttle: Throttle::default(),
            lines: StrangerLines::new(),
            hashes: Arc::new(Semaphore::new(HASHES)),
            enrolling: Arc::new(Semaphore::new(1)),
        }
    }

    /// A place for a new connection. The second value is ready, with an error, when the connection
    /// has to go.
    pub(super) fn enter(&self, peer: SocketAddr) -> (Turn, oneshot::Receiver<()>) {
        self.waiting.enter(peer)
    }

    /// Waits until a password for `user` may be tried; `None` if that would take too long.
    pub(super) async fn password_turn(&self, peer: SocketAddr, user: &str) -> Option<Try> {
        self.throttle.turn(peer, user).await
    }

    /// Waits for the turn to hash a password. `None` never comes: the turns last as long as the
    /// server.
    pub(super) async fn hash_turn(&self) -> Option<OwnedSemaphorePermit> {
        self.hashes.clone().acquire_owned().await.ok()
    }

    /// Waits for the turn to change the users, as [`Admission::hash_turn`].
    pub(super) async fn enroll_turn(&self) -> Option<OwnedSemaphorePermit> {
        self.enrolling.clone().acquire_owned().await.ok()
    }

    /// Whether a line that a stranger caused may be logged now. The value is the count of lines
    /// that were omitted.
    pub(super) fn log_line(&self) -> Option<u64> {
        self.lines.line()
    }
}
