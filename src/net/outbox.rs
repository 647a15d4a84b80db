//! The one queue of a session's outgoing frames, and the memory of those that are not acknowledged yet.

use super::wire::frame::FrameHeader;
use crate::chunk::buffer::Buffer;
use crate::chunk::window::{Credit, cost};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Number of a data connection in its session.
pub type ConnectionId = u64;

/// What a frame is known by: transfer, offer, offset. A file's seal has the file's size as its offset, which no
/// chunk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    transfer: u32,
    number: u64,
    offset: u64,
}

struct Frame {
    header: FrameHeader,
    payload: Arc<Buffer>,
    on: Option<ConnectionId>,
}

/// Frames from the moment that they were read until the receiver has them.
///
/// It is bounded by the window: whoever puts a frame in has taken its cost from [`Outbox::credit`] before, and gets
/// it back when the frame is acknowledged or forgotten.
pub struct Outbox {
    state: Mutex<State>,
    filled: Notify,
    credit: Credit,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Key>,
    live: BTreeMap<Key, Frame>,
}

impl Outbox {
    /// An empty one, with the window that the receiver has granted.
    pub fn new(window: u64) -> Outbox {
        Outbox {
            state: Mutex::default(),
            filled: Notify::new(),
            credit: Credit::new(window),
        }
    }

    /// The window.
    pub fn credit(&self) -> &Credit {
        &self.credit
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a frame whose cost has been taken from the window.
    pub fn push(&self, header: FrameHeader, payload: Buffer) {
        let key = Key {
            transfer: header.transfer,
            number: header.number,
            offset: header.offset,
        };
        let frame = Frame {
            header,
            payload: Arc::new(payload),
            on: None,
        };
        {
            let mut state = self.state();
            if let Some(old) = state.live.insert(key, frame) {
                self.credit.give_back(cost(old.payload.len()));
            }
            state.queue.push_back(key);
        }
        self.filled.notify_one();
    }

    /// The next frame, which from now on is `connection`'s. None when nothing is queued.
    pub fn try_pop(&self, connection: ConnectionId) -> Option<(FrameHeader, Arc<Buffer>)> {
        let mut state = self.state();
        while let Some(key) = state.queue.pop_front() {
            // acknowledged or forgotten meanwhile: nothing to send
            if let Some(frame) = state.live.get_mut(&key) {
                frame.on = Some(connection);
                let popped = (frame.header, frame.payload.clone());
                if !state.queue.is_empty() {
                    self.filled.notify_one();
                }
                return Some(popped);
            }
        }
        None
    }

    /// Waits until something is queued. Another connection may be faster: try again then.
    pub async fn filled(&self) {
        let filled = self.filled.notified();
        if self.state().queue.is_empty() {
            filled.await;
        }
    }

    /// The receiver has written this frame.
    pub fn acknowledge(&self, transfer: u32, number: u64, offset: u64) {
        let key = Key {
            transfer,
            number,
            offset,
        };
        let frame = self.state().live.remove(&key);
        if let Some(frame) = frame {
            self.credit.give_back(cost(frame.payload.len()));
        }
    }

    /// Nothing more of this file is to be sent: it is there, or given up.
    pub fn forget_file(&self, transfer: u32, number: u64) {
        self.forget(transfer, number, number);
    }

    /// Nothing more of this transfer is to be sent.
    pub fn forget_transfer(&self, transfer: u32) {
        self.forget(transfer, 0, u64::MAX);
    }

    fn forget(&self, transfer: u32, first: u64, last: u64) {
        let from = Key {
            transfer,
            number: first,
            offset: 0,
        };
        let to = Key {
            transfer,
            number: last,
            offset: u64::MAX,
        };
        let mut state = self.state();
        let keys: Vec<Key> = state.live.range(from..=to).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(frame) = state.live.remove(&key) {
                self.credit.give_back(cost(frame.payload.len()));
            }
        }
    }

    /// A connection is gone: what it had not had acknowledged goes out on the others, first of all. Returns how many
    /// frames that are.
    pub fn requeue(&self, connection: ConnectionId) -> usize {
        let mut state = self.state();
        let mut keys = Vec::new();
        for (key, frame) in &mut state.live {
            if frame.on == Some(connection) {
                frame.on = None;
                keys.push(*key);
            }
        }
        for key in keys.iter().rev() {
            state.queue.push_front(*key);
        }
        drop(state);
        self.filled.notify_one();
        keys.len()
    }

    /// True when frames wait for a connection.
    pub fn is_queued(&self) -> bool {
        !self.state().queue.is_empty()
    }

    /// True when frames wait for their acknowledgement.
    pub fn is_waiting(&self) -> bool {
        !self.state().live.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::buffer::BufferPool;
    use crate::net::wire::frame::FrameKind;

    fn push(outbox: &Outbox, number: u64, offset: u64) {
        let header = FrameHeader {
            kind: FrameKind::Chunk,
            transfer: 1,
            number,
            offset,
            length: 3,
            ..FrameHeader::bare(FrameKind::Chunk)
        };
        outbox.push(header, BufferPool::new(0).share(vec![1, 2, 3]));
    }

    fn pop(outbox: &Outbox, connection: ConnectionId) -> Option<(u64, u64)> {
        outbox.try_pop(connection).map(|(h, _)| (h.number, h.offset))
    }

    #[tokio::test]
    async fn a_dead_connections_frames_go_first_and_acknowledged_ones_not_at_all() {
        let outbox = Outbox::new(1 << 20);
        outbox.credit().take(4 * cost(3)).await;
        for number in 1..=4 {
            push(&outbox, number, 0);
        }
        assert_eq!(pop(&outbox, 7), Some((1, 0)));
        assert_eq!(pop(&outbox, 8), Some((2, 0)));
        assert_eq!(pop(&outbox, 7), Some((3, 0)));
        outbox.acknowledge(1, 1, 0);
        assert_eq!(outbox.requeue(7), 1);
        assert_eq!(pop(&outbox, 8), Some((3, 0)));
        assert_eq!(pop(&outbox, 8), Some((4, 0)));
        assert_eq!(pop(&outbox, 8), None);
        outbox.acknowledge(1, 1, 0);
        outbox.forget_file(1, 3);
        outbox.forget_transfer(1);
        assert!(!outbox.is_waiting());
        assert_eq!(outbox.credit().outstanding(), 0);
    }
}
