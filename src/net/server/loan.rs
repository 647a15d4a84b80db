//! What a session has of the server: a place, and memory while it moves data. Each is a fair share
//! ([`Shares`]).
//!
//! A session at rest has next to no memory. Its first transfer, or its first data connection, has
//! the server lend it some, for the worst that its client can do: four windows and a fixed part.
//! Two windows are for frames that arrive (a frame that is resent after a connection was lost may
//! be there twice), one is for frames that go out, and one for offers, messages and lists. When all
//! is lent, sessions wait in line, each among those of its user. `fair_window` has loans shrink and
//! grow with the number of those that are lent some.
//!
//! Other messages than the smallest have meters: memory that they take as long as they exist.

use crate::net::control::queue::{Meter, WIDE};
use crate::net::server::config::Limits;
use crate::net::session::SessionBounds;
use crate::net::wire::INITIAL_WINDOW;
use crate::net::wire::measure::MAX_DECODED;
use crate::store::shares::{InLine, Share, Shares};
use std::sync::Arc;
use tokio::sync::watch;

/// A session's window, in each direction, when there is memory enough.
const LARGEST_WINDOW: u64 = 32 << 20;
/// The smallest window of a session.
const SMALLEST_WINDOW: u64 = INITIAL_WINDOW;
/// Windows in a session's memory.
const WINDOWS: u64 = 4;
/// The rest of a session's memory: messages that wait, a transfer's sources and rules, and the
/// buffers of the first data connection.
const FIXED: u64 = 4 << 20;
/// Each of those that are lent some has a part of what one user may have. There are more parts by
/// this many: one for who comes next, and one that stays free.
const SPARE_PARTS: u64 = 2;
/// Of a window that was larger once, messages may still take this part, of sixteen.
const MESSAGE_PARTS: u64 = 5;
/// Parts of all memory, of sixteen: for data connections, for messages that came, for those that
/// are to go, and for answers that are being made. Transfers have the rest.
const CONNECTION_PARTS: u64 = 2;
const INCOMING_PARTS: u64 = 2;
const OUTGOING_PARTS: u64 = 2;
const ANSWER_PARTS: u64 = 1;
/// The buffers of a data connection.
const CONNECTION: u64 = 1 << 20;
/// An answer while it is made: a page of a listing, decoded and encoded.
const ANSWER: u64 = 3 << 20;
/// Transfers of a session at once.
const TRANSFERS: usize = 4;
/// Messages of a session at rest, in bytes: that came, and that are to go.
const AT_REST: usize = 16 << 10;
pub(super) const OUTGOING_AT_REST: usize = 64 << 10;
/// The most of them that may be unconfirmed.
const MOST_UNCONFIRMED: usize = 2 << 20;

/// Windows in the memory of a copy within the server: one is for frames, which both of its sides
/// have in common, and one for offers and messages.
const COPY_WINDOWS: u64 = 2;
/// The rest of it: the walk, and the buffers of its tasks.
const COPY_FIXED: u64 = 4 << 20;

/// What all sessions share.
pub(super) struct Pools {
    places: Arc<Shares>,
    transfers: Arc<Shares>,
    /// How many have a loan.
    lent: watch::Sender<u64>,
    session: Borrower,
    connections: Arc<Shares>,
    incoming: Arc<Shares>,
    outgoing: Arc<Shares>,
    answers: Arc<Shares>,
}

/// How the memory of a session, or of a copy within the server, depends on its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Borrower {
    /// A session, which has use for a window of so many bytes at least.
    Session(u64),
    /// A copy.
    Copy,
}

impl Borrower {
    fn parts(self) -> (u64, u64) {
        match self {
            Borrower::Session(_) => (WINDOWS, FIXED),
            Borrower::Copy => (COPY_WINDOWS, COPY_FIXED),
        }
    }

    /// The memory for a window.
    fn memory(self, window: u64) -> u64 {
        let (windows, fixed) = self.parts();
        window.saturating_mul(windows).saturating_add(fixed)
    }

    /// The smallest window that is of use.
    fn least(self) -> u64 {
        match self {
            Borrower::Session(least) => least.max(SMALLEST_WINDOW),
            Borrower::Copy => SMALLEST_WINDOW,
        }
    }

    /// What it borrows of a part, or of the room that its user has if that is less.
    fn amount(self, part: u64, room: u64) -> u64 {
        part.min(room).clamp(self.memory(self.least()), self.memory(LARGEST_WINDOW))
    }

    /// The window that such memory is for.
    fn window(self, amount: u64) -> u64 {
        let (windows, fixed) = self.parts();
        (amount.saturating_sub(fixed) / windows).max(SMALLEST_WINDOW)
    }
}

/// Memory that was lent. It goes back when this is dropped.
pub(super) struct Loan {
    borrower: Borrower,
    window: u64,
    /// The largest window so far.
    widest: u64,
    memory: Share,
    lent: watch::Sender<u64>,
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.lent.send_modify(|lent| *lent = lent.saturating_sub(1));
    }
}

/// The window that is fair, whose size depends on how many have a loan.
pub(super) struct FairWindow {
    total: u64,
    lent: watch::Receiver<u64>,
}

impl FairWindow {
    /// The window that is fair to a borrower now.
    pub(super) fn now(&mut self, borrower: Borrower) -> u64 {
        let lent = *self.lent.borrow_and_update();
        borrower.window(borrower.amount(part(self.total, lent), u64::MAX))
    }

    /// Waits until it may be another one than [`FairWindow::now`] said last.
    pub(super) async fn changed(&mut self) {
        if self.lent.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// The part of all memory for transfers that each of `lent` may have.
fn part(total: u64, lent: u64) -> u64 {
    total / 2 / lent.saturating_add(SPARE_PARTS)
}

impl Pools {
    pub(super) fn new(limits: &Limits) -> Pools {
        let part = |parts: u64| (limits.memory / 16).saturating_mul(parts);
        let others = CONNECTION_PARTS + INCOMING_PARTS + OUTGOING_PARTS + ANSWER_PARTS;
        let lent = limits.memory.saturating_sub(part(others));
        let wanted = Borrower::Session(limits.least_window);
        let session = match wanted.memory(wanted.least()) <= lent / 2 {
            true => wanted,
            false => Borrower::Session(SMALLEST_WINDOW),
        };
        let metered = |parts: u64| Shares::new(part(parts), MAX_DECODED as u64);
        Pools {
            places: Shares::new(limits.sessions as u64, 1),
            transfers: Shares::new(lent, session.memory(session.least())),
            lent: watch::Sender::new(0),
            session,
            connections: Shares::new(part(CONNECTION_PARTS) / CONNECTION, 1),
            incoming: metered(INCOMING_PARTS),
            outgoing: metered(OUTGOING_PARTS),
            answers: Shares::new((part(ANSWER_PARTS) / ANSWER).max(1), 1),
        }
    }

    /// A place among the sessions.
    pub(super) fn place(&self, user: &Arc<str>) -> Option<Share> {
        self.places.try_take(user, 1)
    }

    /// A share for another data connection of a user.
    pub(super) fn connection(&self, user: &Arc<str>) -> Option<Share> {
        self.connections.try_take(user, 1)
    }

    /// Data connections that a session of this user may have now; one is always its own.
    pub(super) fn most_connections(&self, user: &str, limits: &Limits) -> usize {
        let room = usize::try_from(self.connections.room(user)).unwrap_or(usize::MAX);
        limits.connections.min(room.saturating_add(1))
    }

    /// The meters of a user's messages: that came, and that are to go.
    pub(super) fn meters(&self, user: &Arc<str>) -> (Meter, Meter) {
        let meter = |shares: &Arc<Shares>| Meter {
            shares: shares.clone(),
            owner: user.clone(),
        };
        (meter(&self.incoming), meter(&self.outgoing))
    }

    /// Waits until another answer of a user may be made.
    pub(super) async fn answer(&self, user: &Arc<str>) -> Share {
        self.answers.take(user, 1).await
    }

    /// How a session borrows.
    pub(super) fn session(&self) -> Borrower {
        self.session
    }

    /// Joins the line of those of a user who wait for memory.
    pub(super) fn line_up(&self, user: &Arc<str>) -> InLine {
        self.transfers.line_up(user)
    }

    /// Waits for memory in such a line. Cancel-safe.
    pub(super) async fn lend(&self, line: &InLine, borrower: Borrower) -> Loan {
        let total = self.transfers.total();
        let amount = |room| {
            let lent = self.lent.borrow().saturating_add(1);
            borrower.amount(part(total, lent), room)
        };
        let memory = line.take(amount).await;
        self.lent.send_modify(|lent| *lent = lent.saturating_add(1));
        let window = borrower.window(memory.amount());
        Loan {
            borrower,
            window,
            widest: window,
            memory,
            lent: self.lent.clone(),
        }
    }

    /// How many sessions have a loan.
    pub(super) fn lent(&self) -> watch::Receiver<u64> {
        self.lent.subscribe()
    }

    /// The window that is fair.
    pub(super) fn fair_window(&self) -> FairWindow {
        FairWindow {
            total: self.transfers.total(),
            lent: self.lent.subscribe(),
        }
    }
}

impl Loan {
    /// The memory for a window: messages may have what they had with a larger one.
    fn memory_for(&self, window: u64) -> u64 {
        let messages = self.widest.saturating_sub(window) / 16 * MESSAGE_PARTS;
        self.borrower.memory(window).saturating_add(messages)
    }

    /// Returns what a smaller window does not need. The client has no more than that outstanding.
    pub(super) fn shrink(&mut self, window: u64) {
        self.window = window.min(self.window);
        self.memory.reduce(self.memory_for(self.window));
    }

    /// Takes what a larger window needs; false if that is not there.
    pub(super) fn widen(&mut self, window: u64) -> bool {
        let is_wider = window > self.window && self.memory.extend(self.memory_for(window));
        if is_wider {
            self.window = window;
            self.widest = self.widest.max(window);
        }
        is_wider
    }

    /// Bytes of frames that each side may have outstanding.
    pub(super) fn window(&self) -> u64 {
        self.window
    }

    /// Bytes of messages to the client that may wait or be unconfirmed.
    pub(super) fn most_outgoing(&self) -> usize {
        usize::try_from(self.window / 16).unwrap_or(0).clamp(WIDE, MOST_UNCONFIRMED)
    }

    /// The bounds of a session whose client allows it `credit` bytes.
    pub(super) fn bounds(&self, credit: u64) -> SessionBounds {
        SessionBounds {
            credit: credit_within(credit, self.window),
            window: self.window,
            messages: usize::try_from(self.window / 4).unwrap_or(0).max(1 << 20),
            transfers: TRANSFERS,
        }
    }
}

/// What the server may have outstanding: as much as a client allows, within a window.
pub(super) fn credit_within(credit: u64, window: u64) -> u64 {
    credit.clamp(INITIAL_WINDOW, window.max(INITIAL_WINDOW))
}

/// The bounds of a session at rest.
pub(super) fn at_rest() -> SessionBounds {
    SessionBounds {
        credit: INITIAL_WINDOW,
        window: INITIAL_WINDOW,
        messages: AT_REST,
        transfers: TRANSFERS,
    }
}
