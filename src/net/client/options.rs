//! What a client chooses for its sessions.

use crate::net::client::outage::Outage;
use crate::net::client::path::PathTraits;
use crate::net::data::pacer::RateLimit;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that a client usually allows a server to have outstanding.
pub const WINDOW: u64 = 32 << 20;

/// How a session reconnects, and over how many data connections it transfers.
#[derive(Clone)]
pub struct SessionOptions {
    /// Data connections of a transfer at first.
    pub connections: usize,
    /// What an earlier session has found out about the path: its transfer begins with that.
    pub path: Option<PathTraits>,
    /// The most data connections, used where more of them carry more.
    pub most_connections: usize,
    /// How long to retry without any progress after connections are lost.
    pub retry_for: Duration,
    /// Receives one sentence when the control connection is lost.
    pub notify: Notify,
    /// Since when the server has been unreachable.
    pub outage: Arc<Outage>,
    /// Bytes that the client allows the server to have outstanding: at least
    /// [`INITIAL_WINDOW`](crate::net::wire::INITIAL_WINDOW).
    pub window: u64,
    /// Bytes of frames that this side has outstanding at most, whatever the server grants.
    pub credit: u64,
    /// Limits of what this side sends, besides `rate`.
    pub limits: Vec<Arc<RateLimit>>,
    /// How fast the data of transfers goes, in either direction.
    pub rate: Arc<RateLimit>,
}

impl SessionOptions {
    /// So many data connections, whatever the path is like, no limits, and nothing for a user to
    /// read.
    pub fn fixed(connections: usize, retry_for: Duration) -> SessionOptions {
        SessionOptions {
            connections,
            path: None,
            most_connections: connections,
            retry_for,
            notify: Arc::new(|_| {}),
            outage: Arc::default(),
            window: WINDOW,
            credit: u64::MAX,
            limits: Vec::new(),
            rate: RateLimit::new(None),
        }
    }
}

/// Receives sentences for the user.
pub type Notify = Arc<dyn Fn(&str) + Send + Sync>;

/// This machine's name, for the server's log and for the holder of a lock.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
