//! Lets a session outlive its control connection: both sides count messages, and keep their own
//! until the other side has confirmed them.
//!
//! A message's number is how many were sent before it, from the first of the session's first
//! control connection on; heartbeats do not count, they carry the confirmation. After a
//! re-attachment each side sends again what the other one has not received. So every message
//! arrives once and in order.

use crate::net::control::codec::{Outgoing, encode};
use crate::net::error::NetError;
use crate::net::wire::proto::control_message::Body;
use crate::net::wire::proto::{ControlMessage, Heartbeat};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A confirmation is due after so many messages.
const CONFIRM_MESSAGES: u64 = 32;
/// A confirmation is due after so many bytes.
const CONFIRM_BYTES: usize = 256 << 10;
/// Stops sending once this many messages are unconfirmed.
const MOST_MESSAGES: usize = 4096;

/// The counts and the unconfirmed messages of one session, on one side.
pub struct Replay {
    state: Mutex<ReplayState>,
    changed: Notify,
}

#[derive(Default)]
struct ReplayState {
    /// Messages sent so far.
    sent: u64,
    /// Those that are unconfirmed, encoded.
    outgoing: VecDeque<Outgoing>,
    outgoing_bytes: usize,
    /// Of these, bytes of messages that have room of their own.
    metered_bytes: usize,
    /// When the other side confirmed last, or owed nothing.
    progress: Option<Instant>,
    /// Messages received so far.
    received: u64,
    /// Messages that were confirmed.
    confirmed: u64,
    /// Bytes received since the last confirmation.
    unconfirmed_bytes: usize,
}

impl ReplayState {
    fn is_due(&self) -> bool {
        self.received.saturating_sub(self.confirmed) >= CONFIRM_MESSAGES
            || self.unconfirmed_bytes >= CONFIRM_BYTES
    }

    /// True if the other side has to confirm, once it has all that was sent.
    fn is_owed(&self) -> bool {
        self.outgoing.len() as u64 >= CONFIRM_MESSAGES || self.outgoing_bytes >= CONFIRM_BYTES
    }
}

impl Replay {
    /// The counts begin with the messages before the login.
    pub fn new(sent: u64, received: u64) -> Replay {
        let state = ReplayState {
            sent,
            received,
            confirmed: received,
            ..ReplayState::default()
        };
        Replay {
            state: Mutex::new(state),
            changed: Notify::new(),
        }
    }

    fn state(&self) -> parking_lot::MutexGuard<'_, ReplayState> {
        self.state.lock()
    }

    /// Appends a message to `out`, and keeps it. Returns true if it may have a secret.
    pub fn send(&self, message: Outgoing, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(message.bytes());
        let is_secret = message.is_secret();
        let mut state = self.state();
        state.sent = state.sent.saturating_add(1);
        let length = message.bytes().len();
        state.outgoing_bytes = state.outgoing_bytes.saturating_add(length);
        if message.is_metered() {
            state.metered_bytes = state.metered_bytes.saturating_add(length);
        }
        if !state.is_owed() {
            state.progress = Some(Instant::now());
        }
        state.outgoing.push_back(message);
        is_secret
    }

    /// True while too much is unconfirmed to send more: `most` bytes, besides those of messages
    /// that have room of their own.
    pub fn is_full(&self, most: usize) -> bool {
        let state = self.state();
        let bytes = state.outgoing_bytes.saturating_sub(state.metered_bytes);
        bytes >= most || state.outgoing.len() >= MOST_MESSAGES
    }

    /// For how long the other side has owed a confirmation.
    pub fn owed_for(&self) -> Duration {
        let state = self.state();
        let since = state.progress.filter(|_| state.is_owed());
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// A message of `bytes` was received and processed.
    pub fn received(&self, bytes: usize) {
        let mut state = self.state();
        state.received = state.received.saturating_add(1);
        state.unconfirmed_bytes = state.unconfirmed_bytes.saturating_add(bytes);
        if state.is_due() {
            drop(state);
            self.changed.notify_one();
        }
    }

    /// The other side has received this many.
    ///
    /// # Errors
    /// [`NetError::Protocol`] if that is more than were sent, or fewer than it confirmed before.
    pub fn confirmed(&self, received: u64) -> Result<(), NetError> {
        let mut state = self.state();
        let unconfirmed = state.sent.checked_sub(received).and_then(|n| usize::try_from(n).ok());
        let Some(unconfirmed) = unconfirmed.filter(|n| *n <= state.outgoing.len()) else {
            return Err(NetError::Protocol("it confirms what it cannot have received".into()));
        };
        while state.outgoing.len() > unconfirmed {
            let Some(message) = state.outgoing.pop_front() else {
                break;
            };
            let length = message.bytes().len();
            state.outgoing_bytes = state.outgoing_bytes.saturating_sub(length);
            if message.is_metered() {
                state.metered_bytes = state.metered_bytes.saturating_sub(length);
            }
            state.progress = Some(Instant::now());
        }
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits until a confirmation is due, or has arrived. Cancel-safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Appends a confirmation to `out`, if one is due or with `always`.
    ///
    /// # Errors
    /// None in practice: the message is short.
    pub fn confirm(&self, always: bool, out: &mut Vec<u8>) -> Result<(), NetError> {
        let mut state = self.state();
        if !always && !state.is_due() {
            return Ok(());
        }
        state.confirmed = state.received;
        state.unconfirmed_bytes = 0;
        let received = state.received;
        drop(state);
        let body = Some(Body::Heartbeat(Heartbeat { received }));
        encode(&ControlMessage { body }, out)
    }

    /// Messages received so far.
    pub fn count(&self) -> u64 {
        self.state().received
    }

    /// On a new control connection, appends to `out` the messages that the other side has not
    /// received.
    ///
    /// # Errors
    /// As [`Replay::confirmed`].
    pub fn resend(&self, received: u64, out: &mut Vec<u8>) -> Result<(), NetError> {
        self.confirmed(received)?;
        let mut state = self.state();
        // what was lost with the connection was not owed
        state.progress = Some(Instant::now());
        state
            .outgoing
            .iter()
            .for_each(|message| out.extend_from_slice(message.bytes()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::net::control::replay::*;
    use crate::net::wire::proto::Request;

    fn message(number: u64) -> Outgoing {
        Outgoing::of(Body::Request(Request { number, body: None })).unwrap()
    }

    #[test]
    fn what_was_not_confirmed_is_resent_and_nothing_else() {
        let replay = Replay::new(1, 0);
        let mut out = Vec::new();
        for number in 2..=4 {
            replay.send(message(number), &mut out);
        }
        replay.confirmed(2).unwrap();
        let mut resent = Vec::new();
        replay.resend(3, &mut resent).unwrap();
        assert_eq!(resent, message(4).bytes());
        assert!(replay.confirmed(2).is_err(), "it said 3 before");
        assert!(replay.confirmed(5).is_err(), "only 4 were sent");
        replay.confirmed(4).unwrap();
    }

    #[test]
    fn it_is_bounded_and_confirms_in_time() {
        let replay = Replay::new(0, 0);
        let mut out = Vec::new();
        for number in 0..MOST_MESSAGES as u64 {
            assert!(!replay.is_full(4 << 20));
            replay.send(message(number), &mut out);
        }
        assert!(replay.is_full(4 << 20));
        out.clear();
        for _ in 1..CONFIRM_MESSAGES {
            replay.received(10);
            replay.confirm(false, &mut out).unwrap();
        }
        assert!(out.is_empty());
        replay.received(10);
        replay.confirm(false, &mut out).unwrap();
        assert!(!out.is_empty());
    }
}
