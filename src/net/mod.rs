//! The protocol between two machines; `docs/PROTOCOL.md` has every message and byte.
//!
//! **One port, two kinds of connection.** A client opens a *control connection* (TLS 1.3 with raw
//! public keys, ALPN `haul/1`), logs in, and has a *session*. Its *data connections* (ALPN
//! `haul-data/1`) come to the same port and join the session by proof: an HMAC keyed by the control
//! connection's TLS exporter. The server never dials out, except to the
//! servers that its operator has named ([`outbound`]).
//!
//! ```text
//! client                                    server
//!   │── TCP, TLS (haul/1) ────────────────────▶│
//!   │── Login(user, session, window) ─────────▶│   accept ▶ login ▶ session
//!   │◀───────────── 230 window, connections ───│
//!   │══ TCP, TLS (haul-data/1), Attach ═══════▶│   as many as the pool has
//!   │◀═════════════════════════ Attached ══════│
//!   │── Put(transfer, destination) ───────────▶│
//!   │── Offers ───────────────────────────────▶│   in batches, while the walk still runs
//!   │◀──────────────────── 150, Wants ─────────│
//!   │══ File, Chunk, End frames ═════════════▶│   over any connection, in any order
//!   │◀──────────────── Acks, Results ──────────│   chunks written; files committed
//!   │── End ──────────────────────────────────▶│
//!   │◀──────────────────────── Finished ───────│
//! ```
//!
//! A get is the same with the sides of the transfer exchanged: [`transfer`] is written once, for
//! both.
//!
//! **Who may do what.** [`client`] and [`server`] never import each other. Both hold a
//! [`session`]: the [`control`] sender, the queue of frames, the pool of [`data`] connections, and
//! the channel of each transfer.
//!
//! **Bounds.** A control message has at most 1 MiB, and the memory that it takes decoded is
//! computed before it is decoded. A frame has at most one chunk. Unacknowledged frames of a sender
//! and frames that a receiver holds fit into the window that the receiver granted; unsettled offers
//! into [`transfer::MAX_UNSETTLED`]. Every byte before the login is under a deadline, and silence
//! after it is too.

pub mod client;
pub mod control;
pub mod data;
pub mod deletion;
pub mod error;
pub mod jobs;
pub mod lanes;
pub mod local;
pub mod outbound;
pub mod server;
pub mod session;
#[cfg(test)]
mod simulation;
pub mod task;
pub mod tls;
pub mod transfer;
pub mod wire;

pub use error::NetError;

/// Text from a peer or a file system with everything made visible that a terminal or a log would
/// act on: control characters, escape sequences, and marks that change the direction of writing.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden = c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{061c}');
        if hidden {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::net::printable;

    #[test]
    fn what_a_terminal_would_act_on_is_made_visible() {
        assert_eq!(
            printable("a\x1b[31mb\r\n\u{202e}c\u{9b}d"),
            "a\\u{1b}[31mb\\r\\n\\u{202e}c\\u{9b}d"
        );
        assert_eq!(printable("gr\u{fc}n \u{6587}"), "gr\u{fc}n \u{6587}");
    }
}
