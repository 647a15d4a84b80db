//! What a session has reserved: a place among the sessions, and memory. Each is a fair share of what there
//! is for all users ([`Shares`]).
//!
//! A session's memory is reserved with its login, for the worst that its client can do: four windows
//! and a fixed part. Two windows are frames that came (those that are sent again after a connection was
//! lost are there twice), one is frames that go out, and one has offers, messages and lists.

use crate::net::error::{LossReason, NetError};
use crate::net::server::session::Session;
use crate::net::server::{LETTING_GO, Limits, Server};
use crate::net::session::SessionBounds;
use crate::store::shares::{Share, Shares};
use std::sync::Arc;
use tokio::time::timeout;

/// A session's window, in each direction, when there is memory enough.
const LARGEST_WINDOW: u64 = 32 << 20;
/// The least with which a session is worth having.
const SMALLEST_WINDOW: u64 = 1 << 20;
/// A window with which a session gets on well: nobody's session is ended for more.
const GOOD_WINDOW: u64 = 4 << 20;
/// Windows that a session's memory is made of.
const WINDOWS: u64 = 4;
/// What a session takes besides: a message while it is read and one while it is written, what a
/// transfer knows of its sources, and the buffers of its first data connection.
const FIXED: u64 = 10 << 20;
/// A session takes at most one part in this many of what its user may still have.
const PART: u64 = 4;
/// Of all memory, data connections have one part in this many.
const CONNECTIONS_PART: u64 = 8;
/// The buffers of a data connection.
const CONNECTION: u64 = 1 << 20;
/// Transfers of a session at once.
const TRANSFERS: usize = 4;

fn memory_of(window: u64) -> u64 {
    window.saturating_mul(WINDOWS).saturating_add(FIXED)
}

/// What all sessions share.
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
            memory: Shares::new(limits.memory.saturating_sub(of_connections), memory_of(SMALLEST_WINDOW)),
            connections: Shares::new(of_connections / CONNECTION, 1),
        }
    }

    /// A share for another data connection of a user.
    pub(super) fn connection(&self, user: &Arc<str>) -> Option<Share> {
        self.connections.try_take(user, 1)
    }

    /// Data connections that a session of this user may have as things are; one is always its own.
    pub(super) fn most_connections(&self, user: &str, limits: &Limits) -> usize {
        let room = usize::try_from(self.connections.room(user)).unwrap_or(usize::MAX);
        limits.connections.min(room.saturating_add(1))
    }

    /// A window, with the memory that it takes.
    fn window(&self, user: &Arc<str>) -> Option<(u64, Share)> {
        let part = self.memory.room(user) / PART;
        let part = part.clamp(memory_of(SMALLEST_WINDOW), memory_of(LARGEST_WINDOW));
        let window = part.saturating_sub(FIXED) / WINDOWS;
        Some((window, self.memory.try_take(user, part)?))
    }
}

/// What a session has; it goes back when this is dropped.
pub(super) struct Reservation {
    window: u64,
    _memory: Share,
    _place: Share,
}

impl Reservation {
    /// Bytes of frames that each side may have outstanding.
    pub(super) fn window(&self) -> u64 {
        self.window
    }

    /// Bytes of messages to the client that wait, and as many that it has not confirmed.
    pub(super) fn most_outgoing(&self) -> usize {
        usize::try_from(self.window / 16).unwrap_or(0).max(256 << 10)
    }

    /// What a session may keep whose client allows it `credit` bytes.
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
pub(super) enum NoRoom {
    Sessions,
    Memory,
}

impl Server {
    /// Reserves what another session of a user takes. When it gets short, sessions make room whose clients are gone.
    pub(super) async fn reserve(&self, user: &Arc<str>) -> Result<Reservation, NoRoom> {
        let place = loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(place) = self.pools.places.try_take(user, 1) {
                break place;
            }
            let ends = self.end_one_detached(user) || self.is_one_ending(user);
            if !ends || timeout(LETTING_GO, changed).await.is_err() {
                return Err(NoRoom::Sessions);
            }
        };
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let window = self.pools.window(user);
            let is_good = window.as_ref().is_some_and(|(window, _)| *window >= GOOD_WINDOW);
            let ends = !is_good && self.end_one_detached(user);
            let ends = ends || (window.is_none() && self.is_one_ending(user));
            match window {
                Some((window, memory)) if !ends => {
                    return Ok(Reservation {
                        window,
                        _memory: memory,
                        _place: place,
                    });
                }
                None if !ends => return Err(NoRoom::Memory),
                taken => drop(taken),
            }
            let _ = timeout(LETTING_GO, changed).await;
        }
    }

    /// A session of this user is over, and about to give back what it has.
    fn is_one_ending(&self, user: &str) -> bool {
        let sessions = self.all_sessions();
        sessions.iter().any(|s| s.core.is_down() && s.grant.name() == user)
    }

    /// Ends a session whose client is gone, for one whose client is there; one that moves nothing first. It is one of the
    /// same user, unless they have none.
    fn end_one_detached(&self, user: &str) -> bool {
        let sessions = self.all_sessions();
        let is_own = |s: &&Arc<Session>| s.grant.name() == user;
        let has_any = sessions.iter().any(|s| is_own(&s));
        let gone = sessions.iter().filter(|s| !s.core.is_attached() && !s.core.is_down());
        let gone = gone.filter(|s| is_own(s) || !has_any);
        let Some(gone) = gone.min_by_key(|s| (s.is_transferring(), std::cmp::Reverse(s.core.stalled()))) else {
            return false;
        };
        gone.core.shut_down(NetError::Lost(LossReason::Displaced));
        true
    }
}
