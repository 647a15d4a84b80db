//! How a tunnel is made, and how long its carriers may take.

use crate::net::client::tunnel::report::Report;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

/// How a tunnel is made.
pub struct TunnelOptions {
    /// The server, as the user reads it.
    pub server: String,
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// The same for carriers that follow the first one: they should not wait for long.
    pub later: Vec<OsString>,
    /// The host that the program connects to, if that is known.
    pub hostname: Option<String>,
    /// Programs that carry data at once: 1 to 4.
    pub lanes: usize,
    /// Whether direct data connections are wanted, and on which ports (0: any).
    pub direct: Option<(u16, u16)>,
    /// Whether the program may ask the user, who may take their time.
    pub asks: bool,
    /// Hears of what the program does.
    pub report: Arc<dyn Report>,
}

/// How long a first carrier may take where the program can ask no user.
pub(super) const UNASKED: Duration = Duration::from_secs(60);
/// After how long the user hears that nothing has answered.
pub(super) const WAITING: Duration = Duration::from_secs(20);
/// How long a later one may take where it can, and where it cannot.
const JOINING_ASKED: Duration = Duration::from_secs(120);
const JOINING: Duration = Duration::from_secs(30);

impl TunnelOptions {
    /// How long a carrier to a server that runs may take.
    pub(super) fn joining(&self) -> Duration {
        match self.asks {
            true => JOINING_ASKED,
            false => JOINING,
        }
    }
}
