//! What a session has of the server: a place, and memory while it moves data. Each is a fair share
//! ([`Shares`]).
//!
//! A session at rest has next to no memory. Its first transfer, or its first data connection, has
//! the server lend it some, for the worst that its client can do: four windows and a fixed part.
//! Two windows are for frames that arrive (a frame that is resent after a connection was lost may
//! be there twice), one is for frames that go out, and one for offers, messages and lists. When all
//! is lent, sessions wait in line, each among those of its user.
//!
//! Other messages than the smallest have meters: memory that they take as long as they exist.

use crate::net::control::queue::{Meter, WIDE};
use crate::net::server::config::Limits;
use crate::net::session::SessionBounds;
use crate::net::wire::INITIAL_WINDOW;
use crate::net::wire::measure::MAX_DECODED;
use crate::store::shares::{InLine, Room, Share, Shares};
use std::sync::Arc;

/// A session's window, in each direction, when there is memory enough.
const LARGEST_WINDOW: u64 = 32 << 20;
/// The smallest window of a session.
const SMALLEST_WINDOW: u64 = INITIAL_WINDOW;
/// Windows in a session's memory.
const WINDOWS: u64 = 4;
/// The rest of a session's memory: messages that wait, a transfer's sources and rules, and the
/// buffers of the first data connection.
const FIXED: u64 = 4 << 20;
/// A session is lent at most one part in this many of its user's remaining memory: the only one,
/// and one of several.
const PART_ALONE: u64 = 3;
const PART: u64 = 10;
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

    /// What it borrows where its user has this much room.
    fn amount(self, room: Room) -> u64 {
        let part = if room.is_whole { PART_ALONE } else { PART };
        (room.amount / part).clamp(self.memory(self.least()), self.memory(LARGEST_WINDOW))
    }

    /// The window that such memory is for.
    fn window(self, amount: u64) -> u64 {
        let (windows, fixed) = self.parts();
        (amount.saturating_sub(fixed) / windows).max(SMALLEST_WINDOW)
    }
}

/// Memory that was lent. It goes back when this is dropped.
pub(super) struct Loan {
    window: u64,
    _memory: Share,
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
}

impl Loan {
    /// Waits for memory in a line of [`Pools::line_up`]. Cancel-safe.
    pub(super) async fn of(line: &InLine, borrower: Borrower) -> Loan {
        let memory = line.take(|room| borrower.amount(room)).await;
        Loan {
            window: borrower.window(memory.amount()),
            _memory: memory,
        }
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
            credit: credit.clamp(INITIAL_WINDOW, self.window.max(INITIAL_WINDOW)),
            window: self.window,
            messages: usize::try_from(self.window / 4).unwrap_or(0).max(1 << 20),
            transfers: TRANSFERS,
        }
    }
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
