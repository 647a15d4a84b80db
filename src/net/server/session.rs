//! The state of a session: its user, its place in the tree, its transfers.

use crate::auth::credential::Grant;
use crate::auth::user::Access;
use crate::net::error::NetError;
use crate::net::lanes::socket::Socket;
use crate::net::server::loan::{Loan, credit_within};
use crate::net::server::only_put::OnlyPut;
use crate::net::server::proof::Proofs;
use crate::net::server::rates::SessionRates;
use crate::net::session::SessionCore;
use crate::net::wire::INITIAL_WINDOW;
use crate::net::wire::frame::{Attach, ROLE_DATA};
use crate::net::wire::proto::{self, control_message};
use crate::store::{RemotePath, Served, Store};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, watch};
use tokio_rustls::server::TlsStream;

/// The id that a client chose for its session.
pub(super) type SessionId = [u8; 16];

/// A control connection that resumes a session.
pub(super) struct Reattached {
    pub(super) tls: Box<TlsStream<Socket>>,
    /// Messages of the session that the client has received.
    pub(super) received: u64,
}

/// A session.
pub(super) struct Session {
    /// Who logged in, as they were then, and by what.
    pub(super) grant: Grant,
    /// `user@host`, for logs and locks.
    pub(super) who: String,
    /// The user's root and everything beneath it.
    pub(super) served: Arc<dyn Served>,
    /// The same, as requests see it.
    pub(super) store: Arc<dyn Store>,
    pub(super) core: Arc<SessionCore>,
    pub(super) working: Mutex<RemotePath>,
    /// The proofs of further connections.
    pub(super) proofs: Proofs,
    /// The session's own task takes the connections that resume it.
    pub(super) reattached: mpsc::Sender<Box<Reattached>>,
    /// Data connections that it may have.
    pub(super) most_connections: usize,
    pub(super) transfers: TransferCount,
    /// Bytes that the client allows the server to have outstanding.
    pub(super) credit: AtomicU64,
    /// What the server has lent it.
    pub(super) loan: Mutex<Option<Loan>>,
    /// True once it has that.
    pub(super) lent: watch::Sender<bool>,
    /// The number of the last window that the client has confirmed.
    pub(super) settled: watch::Sender<u64>,
    pub(super) rates: SessionRates,
    /// The only put that the session is for, if it began with a ticket.
    pub(super) only: Option<OnlyPut>,
}

impl Session {
    /// True for a user who may not learn the names and contents of the tree.
    pub(super) fn is_write_only(&self) -> bool {
        self.grant.access() == Access::WriteOnly
    }

    /// Checks a data connection's proof, and that there is room for the connection.
    ///
    /// # Errors
    /// As [`Proofs::check`].
    pub(super) fn admit(&self, attach: &Attach) -> Result<(), NetError> {
        self.proofs.check(ROLE_DATA, attach)?;
        if self.core.is_down() {
            return Err(NetError::Protocol("the session of a connection is over".into()));
        }
        if self.core.pool().alive() >= self.most_connections {
            return Err(NetError::Protocol("it has too many data connections".into()));
        }
        Ok(())
    }

    /// The user's name.
    pub(super) fn user(&self) -> Arc<str> {
        self.grant.name().as_str().into()
    }

    /// True once it has memory to move data.
    pub(super) fn is_lent(&self) -> bool {
        *self.lent.borrow()
    }

    /// Waits for that.
    pub(super) async fn until_lent(&self) {
        // the sender is this value's own
        let _ = self.lent.subscribe().wait_for(|lent| *lent).await;
    }

    /// Has memory to move data from now on; false if it has some, or is over.
    pub(super) fn lend(&self, loan: Loan) -> bool {
        {
            let mut taken = self.loan.lock();
            if taken.is_some() || self.core.is_down() {
                return false;
            }
            self.use_loan(&loan);
            *taken = Some(loan);
        }
        self.lent.send_replace(true);
        true
    }

    fn use_loan(&self, loan: &Loan) {
        self.core.lend(loan.bounds(self.credit.load(Ordering::Relaxed)));
        self.core.control.widen(loan.most_outgoing());
    }

    /// The window that it has memory for.
    pub(super) fn window(&self) -> u64 {
        self.loan.lock().as_ref().map_or(INITIAL_WINDOW, Loan::window)
    }

    /// The server has no more than so many bytes outstanding, of what it was allowed.
    pub(super) fn use_at_most(&self, window: u64) {
        let credit = self.credit.load(Ordering::Relaxed);
        self.core.grant(credit_within(credit, window));
    }

    /// Neither side has more outstanding than a smaller window: the rest goes back.
    pub(super) fn shrink(&self, window: u64) {
        if let Some(loan) = &mut *self.loan.lock() {
            loan.shrink(window);
            self.core.shrink(loan.window());
        }
    }

    /// Has memory for a larger window, if that is there.
    pub(super) fn widen(&self, window: u64) {
        if let Some(loan) = &mut *self.loan.lock()
            && loan.widen(window)
        {
            self.use_loan(loan);
        }
    }

    /// Tells the client how much it may have outstanding. It confirms a `number` other than zero
    /// once it has no more.
    ///
    /// # Errors
    /// Why the session is over.
    pub(super) async fn tell_window(&self, bytes: u64, number: u64) -> Result<(), NetError> {
        let window = proto::Window {
            bytes,
            number,
            ..proto::Window::default()
        };
        self.core.send(control_message::Body::Window(window)).await
    }

    /// A message of the client about windows.
    pub(super) fn window_came(&self, window: proto::Window) {
        if window.settled > 0 {
            self.settled.send_replace(window.settled);
        }
        if window.bytes > 0 {
            self.allowed(window.bytes);
        }
    }

    /// The client allows the server another size, for as much of it as the server has memory for.
    fn allowed(&self, bytes: u64) {
        let loan = self.loan.lock();
        self.credit.store(bytes, Ordering::Relaxed);
        if let Some(loan) = &*loan {
            self.core.grant(loan.bounds(bytes).credit);
        }
    }

    /// Tells the client that its transfer waits for memory, behind `ahead` others.
    ///
    /// # Errors
    /// Why the session is over.
    pub(super) async fn wait_in_line(&self, ahead: usize) -> Result<(), NetError> {
        let ahead = u32::try_from(ahead).unwrap_or(u32::MAX).saturating_add(1);
        let window = proto::Window {
            ahead,
            ..proto::Window::default()
        };
        self.core.send(control_message::Body::Window(window)).await
    }

    /// The session is over: what was lent goes back.
    pub(super) fn give_back(&self) {
        drop(self.loan.lock().take());
    }

    /// The working directory.
    pub(super) fn working(&self) -> RemotePath {
        self.working.lock().clone()
    }

    /// True while a transfer is under way.
    pub(super) fn is_transferring(&self) -> bool {
        self.transfers.count() > 0
    }

    /// True once no client waits for the session's transfers.
    pub(super) fn is_abandoned(&self) -> bool {
        self.core.is_down() || !self.core.is_attached()
    }
}

/// How many transfers are under way.
#[derive(Default)]
pub(super) struct TransferCount(watch::Sender<usize>);

/// Counts a transfer until it is dropped.
pub(super) struct Transferring(watch::Sender<usize>);

impl TransferCount {
    /// A transfer begins, and lasts as long as the value.
    pub(super) fn begin(&self) -> Transferring {
        self.0.send_modify(|count| *count = count.saturating_add(1));
        Transferring(self.0.clone())
    }

    /// Waits until no transfer is under way.
    pub(super) async fn none(&self) {
        // the sender is this value's own
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }

    fn count(&self) -> usize {
        *self.0.borrow()
    }
}

impl Drop for Transferring {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_last_transfer_wakes_who_waits_for_it() {
        let transfers = TransferCount::default();
        transfers.none().await;
        let (one, two) = (transfers.begin(), transfers.begin());
        let mut none = Box::pin(transfers.none());
        let pause = Duration::from_secs(60);
        assert!(timeout(pause, &mut none).await.is_err());
        drop(one);
        assert!(timeout(pause, &mut none).await.is_err());
        drop(two);
        none.await;
    }
}
