//! What the user of a tunnel hears of its program.

use std::net::SocketAddr;

/// Hears of what the program does.
pub trait Report: Send + Sync {
    /// The program printed this on standard error.
    fn said(&self, bytes: &[u8]);
    /// Something printed this on standard output before haul did, or in place of it.
    fn noise(&self, bytes: &[u8], is_failure: bool);
    /// The program is about to start, and may ask at the terminal.
    fn starting(&self);
    /// Neither haul nor anything else has answered for a while.
    fn waiting(&self);
    /// haul has answered over it, or it has ended: there is no haul, if that `is_missing`.
    fn started(&self, is_missing: bool);
    /// Data goes directly to this address, or through the program alone.
    fn direct(&self, address: Option<SocketAddr>);
}
