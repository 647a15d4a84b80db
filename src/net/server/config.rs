//! A server's files and bounds.

use crate::auth::Identity;
use crate::auth::users::Users;
use crate::net::server::outbound::Outbound;
use crate::store::Served;
use std::sync::Arc;
use std::time::Duration;

/// The bounds of a server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Sessions at once.
    pub sessions: usize,
    /// Data connections of each session.
    pub connections: usize,
    /// Bytes for everything that sessions keep.
    pub memory: u64,
    /// How long a session waits for its client after its control connection was lost.
    pub grace: Duration,
    /// How long a transfer waits for a lock that another process has for the same client: that of
    /// a server for one user, whose client died.
    pub own_lock_wait: Duration,
    /// The smallest window in bytes that a transfer has use for, where memory allows it: the tree
    /// is in a store that takes so much at once.
    pub least_window: u64,
    /// How long to keep partial files for resuming.
    pub partial_max_age: Duration,
    /// Bytes a second of all data connections together, in each direction.
    pub rate: Option<u64>,
}

/// A server's files and bounds.
pub struct Config {
    /// The tree that it serves.
    pub store: Arc<dyn Served>,
    /// What the tree is in, and what cannot be done there, for people; empty for a directory.
    pub about: String,
    /// The tree is the whole machine, for a user of it.
    pub is_machine: bool,
    /// Its key.
    pub identity: Identity,
    /// Who may log in.
    pub users: Users,
    /// Its bounds.
    pub limits: Limits,
    /// Has the allocator return what is free; called when no session has memory for transfers any
    /// more.
    pub return_free_memory: fn(),
    /// What sends to the other servers that it may send to, if there are any.
    pub outbound: Option<Arc<dyn Outbound>>,
}
