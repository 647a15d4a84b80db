//! What a session reserves: a place among the sessions, and memory. Each is a fair share of the
//! server's ([`Shares`]).
//!
//! A session's memory is reserved with its login, for the worst that its client can do: four
//! windows and a fixed part. Two windows are for frames that arrive (a frame that is resent after a
//! connection was lost may be there twice), one is for frames that go out, and one for offers,
//! messages and lists.

use crate::net::server::config::Limits;
use crate::net::session::SessionBounds;
use crate::store::shares::{Share, Shares};
use std::sync::Arc;

/// A session's window, in each direction, when there is memory enough.
const LARGEST_WINDOW: u64 = 32 << 20;
/// The smallest window of a session.
const SMALLEST_WINDOW: u64 = 1 << 20;
/// A window with which a session is fast enough: no other session is ended for a larger one.
pub(super) const GOOD_WINDOW: u64 = 4 << 20;
/// Windows in a session's memory.
const WINDOWS: u64 = 4;
/// The rest of a session's memory: a message while it is read and one while it is written, a
/// transfer's sources and rules, and the buffers of the first data connection.
const FIXED: u64 = 10 << 20;
/// A session takes at most one part in this many of its user's remaining memory.
const PART: u64 = 4;
/// Data connections have one part in this many of all memory.
const CONNECTIONS_PART: u64 = 8;
/// The buffers of a data connection.
const CONNECTION: u64 = 1 << 20;
/// Transfers of a session at once.
const TRANSFERS: usize = 4;

/// Windows in the memory of a copy within the server: one is for frames, which both of its sides
/// have in common, and one for offers and messages.
const COPY_WINDOWS: u64 = 2;
/// The rest of it: the walk, and the buffers of its tasks.
const COPY_FIXED: u64 = 4 << 20;

fn memory_of(window: u64) -> u64 {
    window.saturating_mul(WINDOWS).saturating_add(FIXED)
}

/// The places, the memory and the data connections that all sessions share.
pub(super) struct Pools {
    places: Arc<Shares>,
    memory: Arc<Shares>,
    connections: Arc<Shares>,
}

impl Pools {
    pub(super) fn new(limits: &Limits) -> Pools {
        let of_connections = limits.memory / CONNECTIONS_PART;
        Pools {
            places: Shares::new(limits.sessions as u64, 1),
            memory: Shares::new(
                limits.memory.saturating_sub(of_connections),
                memory_of(SMALLEST_WINDOW),
            ),
            connections: Shares::new(of_connections / CONNECTION, 1),
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

    /// A window, with the memory that it takes.
    pub(super) fn window(&self, user: &Arc<str>) -> Option<(u64, Share)> {
        let part = self.memory.room(user) / PART;
        let part = part.clamp(memory_of(SMALLEST_WINDOW), memory_of(LARGEST_WINDOW));
        let window = part.saturating_sub(FIXED) / WINDOWS;
        Some((window, self.memory.try_take(user, part)?))
    }

    /// A window of a copy within the server, with the memory that it takes besides that of its
    /// session.
    pub(super) fn copy(&self, user: &Arc<str>) -> Option<(u64, Share)> {
        let of = |window: u64| window.saturating_mul(COPY_WINDOWS).saturating_add(COPY_FIXED);
        let part = self.memory.room(user) / PART;
        let part = part.clamp(of(SMALLEST_WINDOW), of(LARGEST_WINDOW));
        let window = part.saturating_sub(COPY_FIXED) / COPY_WINDOWS;
        Some((window, self.memory.try_take(user, part)?))
    }
}

/// A session's reservation, which is returned when this is dropped.
pub(super) struct Reservation {
    window: u64,
    _memory: Share,
    _place: Share,
}

impl Reservation {
    /// A place, and the memory for a window.
    pub(super) fn new(place: Share, window: u64, memory: Share) -> Reservation {
        Reservation {
            window,
            _memory: memory,
            _place: place,
        }
    }

    /// Bytes of frames that each side may have outstanding.
    pub(super) fn window(&self) -> u64 {
        self.window
    }

    /// Bytes of messages to the client that may wait, and as many that may be unconfirmed.
    pub(super) fn most_outgoing(&self) -> usize {
        usize::try_from(self.window / 16).unwrap_or(0).max(256 << 10)
    }

    /// The bounds of a session whose client allows it `credit` bytes.
    pub(super) fn bounds(&self, credit: u64) -> SessionBounds {
        SessionBounds {
            credit,
            window: self.window,
            messages: usize::try_from(self.window / 4).unwrap_or(0).max(1 << 20),
            transfers: TRANSFERS,
        }
    }
}

/// Why there is no room for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// The user has all sessions they may have.
    Sessions,
    /// The user has all memory they may have.
    Memory,
}
