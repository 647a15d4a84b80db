//! The sessions of a server, and what each of them may have.
//!
//! The registry owns the sessions, the shares that they take, and the state of the server: running
//! or stopping. It wakes the tasks that wait for a session, for room, or for the end.

use crate::net::control::queue::Meter;
use crate::net::error::{LossReason, NetError};
use crate::net::server::config::Limits;
use crate::net::server::fair_window::follow;
use crate::net::server::loan::{Borrower, Loan, Pools};
use crate::net::server::rates::Rates;
use crate::net::server::session::{Session, SessionId};
use crate::net::server::ticket_list::Tickets;
use crate::store::shares::Share;
use futures_util::FutureExt;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

/// How long a new session or transfer waits for those of a dead client to release their locks and
/// their room.
pub(super) const RELEASE: Duration = Duration::from_secs(12);

/// A window with which a session is fast enough: no other session is ended for a larger one.
const GOOD_WINDOW: u64 = 4 << 20;
/// How long a session waits for memory before its client hears of it, and then between two notices.
const FIRST_NOTICE: Duration = Duration::from_millis(100);
const NOTICE: Duration = Duration::from_secs(1);

/// The sessions of a server.
pub(super) struct Registry {
    limits: Limits,
    pools: Pools,
    rates: Rates,
    tickets: Tickets,
    sessions: Mutex<HashMap<SessionId, Arc<Session>>>,
    /// A session was added or removed.
    changed: Notify,
    /// A session began whose grant may expire first.
    begun: Notify,
    stopping: watch::Sender<bool>,
}

/// A session's entry in the registry, with its place. Dropping it removes the one and returns the
/// other, and what was lent.
pub(super) struct Registration {
    registry: Arc<Registry>,
    id: SessionId,
    place: Option<Share>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let session = self.registry.sessions.lock().remove(&self.id);
        session.into_iter().for_each(|session| session.give_back());
        drop(self.place.take());
        self.registry.changed.notify_waiters();
    }
}

impl Registry {
    pub(super) fn new(limits: Limits) -> Registry {
        Registry {
            pools: Pools::new(&limits),
            rates: Rates::new(limits.rate),
            tickets: Tickets::default(),
            limits,
            sessions: Mutex::default(),
            changed: Notify::new(),
            begun: Notify::new(),
            stopping: watch::Sender::new(false),
        }
    }

    /// Adds a session until the value is dropped.
    pub(super) fn add(
        self: &Arc<Registry>,
        id: SessionId,
        session: Arc<Session>,
        place: Share,
    ) -> Registration {
        self.sessions.lock().insert(id, session);
        self.changed.notify_waiters();
        Registration {
            registry: self.clone(),
            id,
            place: Some(place),
        }
    }

    /// The session with this id.
    pub(super) fn get(&self, id: &SessionId) -> Option<Arc<Session>> {
        self.sessions.lock().get(id).cloned()
    }

    /// Waits for the session with this id: a client dials its data connections while it logs in.
    pub(super) async fn wait_for(&self, id: &SessionId) -> Arc<Session> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(session) = self.get(id) {
                return session;
            }
            changed.await;
        }
    }

    /// How long a transfer waits for a lock that another process has for the same client.
    pub(super) fn own_lock_wait(&self) -> Duration {
        self.limits.own_lock_wait
    }

    /// How fast data may move.
    pub(super) fn rates(&self) -> &Rates {
        &self.rates
    }

    /// The tickets for puts of other machines.
    pub(super) fn tickets(&self) -> &Tickets {
        &self.tickets
    }

    /// All sessions.
    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        self.sessions.lock().values().cloned().collect()
    }

    /// Data connections that a session of this user may have.
    pub(super) fn most_connections(&self, user: &str) -> usize {
        self.pools.most_connections(user, &self.limits)
    }

    /// A share for another data connection of a session. Its first one needs none.
    ///
    /// # Errors
    /// [`NetError::Lost`] if its user has all they may have.
    pub(super) fn connection_share(&self, session: &Session) -> Result<Option<Share>, NetError> {
        if session.core.pool().alive() == 0 {
            return Ok(None);
        }
        let share = self.pools.connection(&session.grant.name().as_str().into());
        share.map(Some).ok_or(NetError::Lost(LossReason::DataConnectionsUsedUp))
    }

    /// The meters of a user's messages: that came, and that are to go.
    pub(super) fn meters(&self, user: &Arc<str>) -> (Meter, Meter) {
        self.pools.meters(user)
    }

    /// Waits until another answer of this session's user may be made.
    pub(super) async fn answer(&self, session: &Session) -> Share {
        self.pools.answer(&session.user()).await
    }

    /// Waits until the last session that had memory for transfers has had none for this long.
    pub(super) async fn rested(&self, most: Duration) {
        let mut lent = self.pools.lent();
        // the sender is this value's own
        let _ = lent.wait_for(|lent| *lent > 0).await;
        loop {
            let _ = lent.wait_for(|lent| *lent == 0).await;
            if timeout(most, lent.wait_for(|lent| *lent > 0)).await.is_err() {
                return;
            }
        }
    }

    /// Has a session memory to move data, for which it may have to wait in line.
    ///
    /// # Errors
    /// Why the session is over.
    pub(super) async fn lend(&self, session: &Arc<Session>) -> Result<(), NetError> {
        if !session.is_lent() {
            let loan = self.borrow(session, self.pools.session()).await?;
            self.begin(session, loan).await?;
        }
        Ok(())
    }

    /// Gives a session its loan, which follows what is fair from then on.
    async fn begin(&self, session: &Arc<Session>, loan: Loan) -> Result<(), NetError> {
        let window = loan.window();
        if session.lend(loan) {
            let fair = self.pools.fair_window();
            let follow =
                follow(session.clone(), fair, (self.pools.session(), self.limits.least_window));
            session.core.tasks().detach("window", follow);
            session.tell_window(window, 0).await?;
        }
        Ok(())
    }

    /// The same for a data connection, whose transfer is the one that waits.
    ///
    /// # Errors
    /// Why the session is over.
    pub(super) async fn lent(&self, session: &Arc<Session>) -> Result<(), NetError> {
        if !session.is_lent() {
            let line = self.pools.line_up(&session.user());
            let loan = self.pools.lend(&line, self.pools.session()).now_or_never();
            drop(line);
            match loan {
                Some(loan) => self.begin(session, loan).await?,
                None => session.until_lent().await,
            }
        }
        Ok(())
    }

    /// Borrows memory, in the line of the session's user. When it gets short, sessions end whose
    /// clients are gone.
    ///
    /// # Errors
    /// Why the session is over.
    pub(super) async fn borrow(
        &self,
        session: &Session,
        borrower: Borrower,
    ) -> Result<Loan, NetError> {
        let user = session.user();
        let line = self.pools.line_up(&user);
        let mut pause = FIRST_NOTICE;
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let loan = self.pools.lend(&line, borrower).now_or_never();
            let is_good = loan.as_ref().is_some_and(|loan| loan.window() >= GOOD_WINDOW);
            let ends = !is_good && self.end_one_detached(&user);
            match loan {
                Some(loan) if !ends => return Ok(loan),
                taken => drop(taken),
            }
            tokio::select! {
                () = changed, if ends => continue,
                loan = self.pools.lend(&line, borrower), if !ends => return Ok(loan),
                () = sleep(pause) => {}
                why = session.core.down() => return Err(why),
            }
            pause = NOTICE;
            session.wait_in_line(line.ahead()).await?;
        }
    }

    /// Has the watch over grants look at a session that has just begun.
    pub(super) fn note_begun(&self) {
        self.begun.notify_one();
    }

    /// Waits for [`Registry::note_begun`].
    pub(super) async fn begun(&self) {
        self.begun.notified().await;
    }

    /// A place for another session of a user; `None` if they have all they may have. When places
    /// get short, sessions end whose clients are gone.
    pub(super) async fn place(&self, user: &Arc<str>) -> Option<Share> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(place) = self.pools.place(user) {
                return Some(place);
            }
            let ends = self.end_one_detached(user) || self.is_one_ending(user);
            if !ends || timeout(RELEASE, changed).await.is_err() {
                return None;
            }
        }
    }

    /// True if a session of this user is over and about to return its place.
    fn is_one_ending(&self, user: &str) -> bool {
        let sessions = self.all();
        sessions.iter().any(|s| s.core.is_down() && s.grant.name() == user)
    }

    /// Ends a session whose client is gone, for one whose client is there; one without progress
    /// first. It is the same user's, unless they have none.
    fn end_one_detached(&self, user: &str) -> bool {
        let sessions = self.all();
        let is_own = |s: &&Arc<Session>| s.grant.name() == user;
        let has_any = sessions.iter().any(|s| is_own(&s));
        let gone = sessions.iter().filter(|s| !s.core.is_attached() && !s.core.is_down());
        let gone = gone.filter(|s| is_own(s) || !has_any);
        let Some(gone) = gone.min_by_key(|s| (s.is_transferring(), Reverse(s.core.stalled())))
        else {
            return false;
        };
        gone.core.shut_down(NetError::Lost(LossReason::Displaced));
        true
    }

    /// Ends other sessions of the same user and machine whose clients are gone, and waits until
    /// their transfers have released their locks. A client that starts a transfer again does not
    /// wait for its dead predecessor.
    pub(super) async fn end_predecessors(&self, session: &Arc<Session>) {
        let is_dead = |s: &Arc<Session>| {
            !Arc::ptr_eq(s, session)
                && s.who == session.who
                && s.is_abandoned()
                && s.is_transferring()
        };
        for dead in self.all().into_iter().filter(is_dead) {
            tracing::info!(
                who = %dead.who,
                "a session whose client is gone is ended for a new one"
            );
            dead.core.shut_down(NetError::Lost(LossReason::Displaced));
            let _ = timeout(RELEASE, dead.transfers.none()).await;
        }
    }

    /// From now on the server starts no session and no transfer.
    pub(super) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// True once the server is stopping.
    pub(super) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Waits until the server is stopping.
    pub(super) async fn stopped(&self) {
        // the sender is this value's own
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    /// Waits until no session has a transfer under way.
    pub(super) async fn idle(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let Some(busy) = self.all().into_iter().find(|s| s.is_transferring()) else {
                return;
            };
            tokio::select! {
                () = busy.transfers.none() => {}
                () = changed => {}
            }
        }
    }

    /// Waits until there is no session.
    pub(super) async fn empty(&self) {
        self.until(|sessions| sessions.is_empty()).await;
    }

    /// True if there is no session.
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.lock().is_empty()
    }

    /// Waits until there is a session.
    pub(super) async fn not_empty(&self) {
        self.until(|sessions| !sessions.is_empty()).await;
    }

    async fn until(&self, is: impl Fn(&HashMap<SessionId, Arc<Session>>) -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if is(&self.sessions.lock()) {
                return;
            }
            changed.await;
        }
    }
}
