//! Transfers: the sender and the receiver, the same whichever of client and server plays them.
//!
//! The sender ([`send::sender`]) walks its sources ([`send::walk`]) and *offers* what it finds, in
//! batches. The receiver ([`receive::receiver`]) answers with what it *wants* and settles the rest
//! as unchanged. Wanted files are read ahead in parallel and go out as frames over the pool;
//! written chunks come back as *acks*, settled entries as *results*, one for every offer. When all
//! is settled the receiver has *finished*.

pub mod backup;
mod cost;
pub mod exclusion;
pub mod filter;
pub mod ids;
pub mod metadata;
pub mod mode;
pub mod observer;
pub mod options;
mod passed;
pub mod receive;
pub mod report;
pub mod send;
pub mod view;

use crate::net::session::SessionCore;
use crate::net::transfer::options::Options;
use std::time::Duration;

/// Most offers of a transfer that may be unsettled. The sender stops walking there; a receiver that
/// gets more ends the transfer.
pub const MAX_UNSETTLED: usize = 16 << 10;
/// Most offers in one message.
pub const MAX_BATCH: usize = 256;
/// Most bytes of a file whose content may travel with its offer.
pub const MAX_INLINE: usize = 16 << 10;
/// Bytes of content that a transfer sends with its first offers: what is small is there a round
/// trip earlier, and what the receiver has already is sent for nothing.
pub(super) const INLINE_BUDGET: usize = 48 << 10;
/// A transfer in which nothing at all moves for this long is given up.
pub const STALL: Duration = Duration::from_secs(120);

/// True where a receiver in this process copies larger files itself. With `checksum` their bytes
/// are to be hashed, and come as chunks.
fn hands_over(core: &SessionCore, options: &Options) -> bool {
    core.hands_over() && !options.checksum
}
