//! The one queue of a session's outgoing frames, and the memory of those that are not acknowledged
//! yet.

use crate::chunk::CHUNK_SIZE;
use crate::chunk::window::{Credit, Permit};
use crate::net::data::body::FrameBody;
use crate::net::data::packing::Packing;
use crate::net::data::throughput::Throughput;
use crate::net::wire::frame::FrameHeader;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Number of a data connection in its session.
pub type ConnectionId = u64;

/// One part in this many of all bytes may be sent a second time because a connection is slow.
const REPEATED_SHARE: u64 = 20;

/// What a frame is known by: transfer, offer, offset. A file's `End` has the file's size as its
/// offset, which no chunk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    transfer: u32,
    number: u64,
    offset: u64,
}

impl Key {
    /// Every frame of the offers from `first` to `last`.
    fn range(transfer: u32, first: u64, last: u64) -> std::ops::RangeInclusive<Key> {
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
        from..=to
    }
}

struct Frame {
    header: FrameHeader,
    body: Arc<FrameBody>,
    /// The connection that it was given to, and when.
    on: Option<(ConnectionId, Instant)>,
    /// The one that it was given to as well, because the first is slow.
    also: Option<ConnectionId>,
    /// What it takes of the window.
    _permit: Permit,
}

/// Frames from the moment that they were read until the receiver has them.
///
/// It is bounded by the window: each frame holds a permit of [`SendQueue::credit`] until it is
/// acknowledged or forgotten.
pub struct SendQueue {
    state: Mutex<QueueState>,
    filled: Notify,
    credit: Credit,
    throughput: Throughput,
}

#[derive(Default)]
struct QueueState {
    queue: VecDeque<Key>,
    live: BTreeMap<Key, Frame>,
    /// Connections that may be given frames. The writer of one that is lost may still ask for a
    /// moment.
    connected: HashSet<ConnectionId>,
    /// The transfers under way, and when they compress.
    transfers: HashMap<u32, Packing>,
    /// Bytes given to connections, and those of them that were given a second time.
    given: u64,
    repeated: u64,
}

impl SendQueue {
    /// An empty one, with the window that the receiver has granted.
    pub fn new(window: u64) -> SendQueue {
        SendQueue {
            state: Mutex::default(),
            filled: Notify::new(),
            credit: Credit::new(window),
            throughput: Throughput::default(),
        }
    }

    /// The window.
    pub fn credit(&self) -> &Credit {
        &self.credit
    }

    /// How fast the receiver gets done with frames.
    pub fn throughput(&self) -> &Throughput {
        &self.throughput
    }

    fn state(&self) -> parking_lot::MutexGuard<'_, QueueState> {
        self.state.lock()
    }

    /// A transfer begins: until [`SendQueue::end`] its frames are taken.
    pub fn begin(&self, transfer: u32) {
        self.state().transfers.insert(transfer, Packing::Never);
    }

    /// From now on a transfer compresses its frames at such times.
    pub fn set_packing(&self, transfer: u32, packing: Packing) {
        if let Some(current) = self.state().transfers.get_mut(&transfer) {
            *current = packing;
        }
    }

    /// When a transfer compresses its frames.
    pub(super) fn packing(&self, transfer: u32) -> Packing {
        self.state().transfers.get(&transfer).copied().unwrap_or(Packing::Never)
    }

    /// A transfer ends: nothing more of it is sent.
    pub fn end(&self, transfer: u32) {
        let mut state = self.state();
        state.transfers.remove(&transfer);
        state.live.retain(|key, _| key.transfer != transfer);
    }

    /// Queues a frame, with what it takes of the window until the receiver has it. One of a
    /// transfer that has ended is dropped.
    pub fn push(&self, header: FrameHeader, body: FrameBody, permit: Permit) {
        let key = Key {
            transfer: header.transfer,
            number: header.number,
            offset: header.offset,
        };
        let frame = Frame {
            header,
            body: Arc::new(body),
            on: None,
            also: None,
            _permit: permit,
        };
        {
            let mut state = self.state();
            if !state.transfers.contains_key(&key.transfer) {
                return;
            }
            state.live.insert(key, frame);
            state.queue.push_back(key);
        }
        self.filled.notify_one();
    }

    /// A connection may be given frames, until [`SendQueue::disconnected`].
    pub fn connected(&self, connection: ConnectionId) {
        self.state().connected.insert(connection);
    }

    /// Whether it still may.
    pub fn is_connected(&self, connection: ConnectionId) -> bool {
        self.state().connected.contains(&connection)
    }

    /// The next frame, which from now on is `connection`'s. None when nothing is queued, or the
    /// connection is gone.
    pub fn try_pop(
        &self,
        connection: ConnectionId,
        now: Instant,
    ) -> Option<(FrameHeader, Arc<FrameBody>)> {
        let mut state = self.state();
        if !state.connected.contains(&connection) {
            return None;
        }
        while let Some(key) = state.queue.pop_front() {
            // acknowledged or forgotten meanwhile: nothing to send
            if let Some(frame) = state.live.get_mut(&key) {
                frame.on = Some((connection, now));
                let popped = (frame.header, frame.body.clone());
                state.given = state.given.saturating_add(popped.1.len() as u64);
                if !state.queue.is_empty() {
                    self.filled.notify_one();
                }
                return Some(popped);
            }
        }
        None
    }

    /// A frame that another connection was given, to be sent over this one as well: the first in
    /// file order that was given to one that is slow, by what `is_slow` says of it and of how long
    /// ago that was. Nothing while frames are queued, and never more than a twentieth of all bytes,
    /// or one chunk.
    pub fn duplicate_slow(
        &self,
        connection: ConnectionId,
        now: Instant,
        is_slow: impl Fn(ConnectionId, Duration) -> bool,
    ) -> Option<(FrameHeader, Arc<FrameBody>)> {
        let mut state = self.state();
        if !state.queue.is_empty() || !state.connected.contains(&connection) {
            return None;
        }
        let most = (state.given / REPEATED_SHARE)
            .max(CHUNK_SIZE as u64)
            .saturating_sub(state.repeated);
        let slow = state.live.values_mut().find(|frame| {
            frame.also.is_none()
                && frame.body.len() as u64 <= most
                && frame.on.is_some_and(|(on, since)| {
                    on != connection && is_slow(on, now.saturating_duration_since(since))
                })
        })?;
        slow.also = Some(connection);
        let repeated = (slow.header, slow.body.clone());
        state.repeated = state.repeated.saturating_add(repeated.1.len() as u64);
        Some(repeated)
    }

    /// Waits until something is queued. Another connection may be faster: try again then.
    pub async fn filled(&self) {
        let filled = self.filled.notified();
        if self.state().queue.is_empty() {
            filled.await;
        }
    }

    /// Passes an unused wake-up to the next writer.
    pub fn wake_next(&self) {
        if self.is_queued() {
            self.filled.notify_one();
        }
    }

    /// The receiver has written this frame.
    pub fn acknowledge(&self, transfer: u32, number: u64, offset: u64) {
        let key = Key {
            transfer,
            number,
            offset,
        };
        let mut state = self.state();
        if let Some(frame) = state.live.remove(&key) {
            self.throughput.add(frame.body.len() as u64);
        }
    }

    /// Nothing more of this file is to be sent: it is there, or given up.
    pub fn forget_file(&self, transfer: u32, number: u64) {
        let mut state = self.state();
        let range = Key::range(transfer, number, number);
        let keys: Vec<Key> = state.live.range(range).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(frame) = state.live.remove(&key) {
                self.throughput.add(frame.body.len() as u64);
            }
        }
    }

    /// A connection is gone, and given nothing any more: what it had not had acknowledged goes out
    /// on the others, first of all. Returns how many frames that are.
    pub fn disconnected(&self, connection: ConnectionId, now: Instant) -> usize {
        let mut state = self.state();
        state.connected.remove(&connection);
        let mut keys = Vec::new();
        for (key, frame) in &mut state.live {
            if frame.also == Some(connection) {
                frame.also = None;
            }
            if frame.on.is_some_and(|(on, _)| on == connection) {
                frame.on = frame.also.take().map(|also| (also, now));
                if frame.on.is_none() {
                    keys.push(*key);
                }
            }
        }
        for key in keys.iter().rev() {
            state.queue.push_front(*key);
        }
        drop(state);
        self.filled.notify_one();
        keys.len()
    }

    /// True when frames that this connection was given wait for their acknowledgement.
    pub fn has_frames_of(&self, connection: ConnectionId) -> bool {
        let by = |frame: &Frame| {
            frame.on.is_some_and(|(on, _)| on == connection) || frame.also == Some(connection)
        };
        self.state().live.values().any(by)
    }

    /// True when frames wait for a connection.
    pub fn is_queued(&self) -> bool {
        !self.state().queue.is_empty()
    }

    /// True when frames wait for their acknowledgement.
    pub fn is_waiting_at_all(&self) -> bool {
        !self.state().live.is_empty()
    }

    /// True when frames of this transfer wait for their acknowledgement.
    pub fn is_waiting(&self, transfer: u32) -> bool {
        self.state().live.range(Key::range(transfer, 0, u64::MAX)).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::buffer::BufferPool;
    use crate::chunk::window::cost;
    use crate::net::wire::frame::FrameKind;

    async fn push(send_queue: &SendQueue, number: u64, offset: u64) {
        let header = FrameHeader {
            kind: FrameKind::Chunk,
            transfer: 1,
            number,
            offset,
            length: 3,
            ..FrameHeader::bare(FrameKind::Chunk)
        };
        let permit = send_queue.credit().acquire(cost(3)).await;
        send_queue.push(header, FrameBody::Bytes(BufferPool::new(0).share(vec![1, 2, 3])), permit);
    }

    fn pop(send_queue: &SendQueue, connection: ConnectionId) -> Option<(u64, u64)> {
        send_queue
            .try_pop(connection, Instant::now())
            .map(|(h, _)| (h.number, h.offset))
    }

    #[tokio::test]
    async fn a_dead_connections_frames_go_first_and_acknowledged_ones_not_at_all() {
        let send_queue = SendQueue::new(1 << 20);
        send_queue.begin(1);
        for connection in [7, 8] {
            send_queue.connected(connection);
        }
        for number in 1..=4 {
            push(&send_queue, number, 0).await;
        }
        assert_eq!(pop(&send_queue, 7), Some((1, 0)));
        assert_eq!(pop(&send_queue, 8), Some((2, 0)));
        assert_eq!(pop(&send_queue, 7), Some((3, 0)));
        send_queue.acknowledge(1, 1, 0);
        assert_eq!(send_queue.disconnected(7, Instant::now()), 1);
        assert_eq!(pop(&send_queue, 7), None, "its writer may ask once more before it ends");
        assert_eq!(pop(&send_queue, 8), Some((3, 0)));
        assert_eq!(pop(&send_queue, 8), Some((4, 0)));
        assert_eq!(pop(&send_queue, 8), None);
        send_queue.acknowledge(1, 1, 0);
        send_queue.forget_file(1, 3);
        assert!(send_queue.is_waiting(1));
        send_queue.end(1);
        assert!(!send_queue.is_waiting(1));
        assert_eq!(send_queue.credit().outstanding(), 0);
        push(&send_queue, 5, 0).await;
        assert_eq!(pop(&send_queue, 8), None, "the transfer has ended");
        assert_eq!(send_queue.credit().outstanding(), 0);
    }

    #[tokio::test]
    async fn what_a_slow_connection_holds_goes_out_once_more_elsewhere() {
        let send_queue = SendQueue::new(1 << 20);
        send_queue.begin(1);
        for connection in [7, 8] {
            send_queue.connected(connection);
        }
        for number in 1..=3 {
            push(&send_queue, number, 0).await;
        }
        let now = Instant::now();
        let repeat = |to, slow| {
            send_queue
                .duplicate_slow(to, now, |on, _| on == slow)
                .map(|(h, _)| h.number)
        };
        assert_eq!(pop(&send_queue, 7), Some((1, 0)));
        assert_eq!(repeat(8, 7), None, "there is something else to send");
        assert_eq!(pop(&send_queue, 8), Some((2, 0)));
        assert_eq!(pop(&send_queue, 8), Some((3, 0)));
        assert_eq!(repeat(7, 7), None, "not over itself");
        assert_eq!(repeat(8, 7), Some(1));
        assert_eq!(repeat(8, 7), None, "only once");
        // the slow one dies: the other has it already
        assert_eq!(send_queue.disconnected(7, now), 0);
        assert_eq!(send_queue.disconnected(8, now), 3);
        send_queue.end(1);
        assert_eq!(send_queue.credit().outstanding(), 0);
    }
}
