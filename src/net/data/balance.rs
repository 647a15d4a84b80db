//! What the connections of a session know of each other: how many bytes to have under way, and
//! which connection is slow.

use crate::chunk::{CHUNK_SIZE, LEAST_CHUNK};
use crate::net::data::body::FrameBody;
use crate::net::data::rtt::Liveness;
use crate::net::data::send_queue::{ConnectionId, SendQueue};
use crate::net::wire::frame::FrameHeader;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A connection is slow when its round trip is this many times that of another.
const SLOWER: u32 = 4;
/// The least round trip that counts: below it, what differs is how busy the machines are.
const QUICK: Duration = Duration::from_millis(100);
/// Bytes that may be under way however short the link is: reads, encryption, hashing and writing
/// work on some each.
const LEAST_WINDOW: u64 = 16 << 20;
/// How long a chunk may take before anything is known of the rate.
const FIRST_SHARE: Duration = Duration::from_secs(1);
/// How long a chunk is to take at a fair share of the rate. The file ends with the slowest of its
/// last chunks, and other connections idle meanwhile.
const CHUNK_TIME: Duration = Duration::from_millis(250);
/// A session that moves so many bytes before its rate is known is fast.
const FAST: u64 = 8 << 20;

/// The connections of a session, and the queue that they share.
pub(super) struct Balance {
    pub(super) send_queue: Arc<SendQueue>,
    livenesses: Mutex<BTreeMap<ConnectionId, Arc<Liveness>>>,
}

impl Balance {
    pub(super) fn new(send_queue: Arc<SendQueue>) -> Balance {
        Balance {
            send_queue,
            livenesses: Mutex::default(),
        }
    }

    /// A connection begins at `now`.
    pub(super) fn join(&self, id: ConnectionId, now: Instant) -> Arc<Liveness> {
        let liveness = Arc::new(Liveness::new(now));
        self.livenesses.lock().insert(id, liveness.clone());
        self.send_queue.connected(id);
        liveness
    }

    /// A connection has ended: its unacknowledged frames go to the others. Returns how many frames
    /// those are.
    pub(super) fn leave(&self, id: ConnectionId, now: Instant) -> usize {
        self.livenesses.lock().remove(&id);
        self.send_queue.disconnected(id, now)
    }

    /// Connections that are up.
    pub(super) fn alive(&self) -> usize {
        self.livenesses.lock().len()
    }

    /// Bounds what is under way to what the link carries in two round trips, and two chunks for
    /// each connection. More would only lie in memory.
    pub(super) fn size_window(&self, now: Instant) {
        let (round_trip, connections) = {
            let all = self.livenesses.lock();
            let slowest = all.values().map(|liveness| liveness.round_trip(now)).max();
            (slowest.unwrap_or_default(), all.len() as u64)
        };
        let rate = self.send_queue.throughput().rate(now).unwrap_or_default();
        let carried = rate * round_trip.as_secs_f64() * 2.0;
        let chunks = connections.saturating_mul(2 * CHUNK_SIZE as u64);
        let window = LEAST_WINDOW.max(carried as u64).max(chunks);
        self.send_queue.credit().limit(window);
    }

    /// Most bytes that the next chunk is to have: more of them cost less, fewer are shared out more
    /// evenly among slow connections.
    pub(super) fn chunk_size(&self, now: Instant) -> u64 {
        let throughput = self.send_queue.throughput();
        match throughput.rate(now) {
            Some(rate) => {
                let share = rate * CHUNK_TIME.as_secs_f64() / self.alive().max(1) as f64;
                // rounded down to a power of two
                1 << (share as u64).max(1).ilog2()
            }
            None if throughput.moved() >= FAST => CHUNK_SIZE as u64,
            None => LEAST_CHUNK as u64,
        }
    }

    /// The round trip above which a connection is slow, if `best` is that of another. A ping waits
    /// behind a chunk: what a chunk takes at a fair share of the session's rate is no sign of
    /// slowness.
    fn limit(&self, best: Duration, now: Instant) -> Duration {
        let rate = self.send_queue.throughput().rate(now);
        let chunks = rate.map_or(0.0, |rate| rate / CHUNK_SIZE as f64);
        let share =
            Duration::try_from_secs_f64(self.alive() as f64 / chunks).unwrap_or(FIRST_SHARE);
        best.max(QUICK).max(share).saturating_mul(SLOWER)
    }

    /// True if this connection is several times slower than the fastest of the others.
    pub(super) fn is_slow(&self, id: ConnectionId, now: Instant) -> bool {
        let (own, best) = {
            let all = self.livenesses.lock();
            let own = all.get(&id).map(|liveness| liveness.round_trip(now));
            let others = all.iter().filter(|(other, _)| **other != id);
            (own, others.map(|(_, other)| other.round_trip(now)).min())
        };
        own.zip(best).is_some_and(|(own, best)| own > self.limit(best, now))
    }

    /// A frame that a connection several times slower than this one holds, to be sent over this one
    /// too; `None` while anything else can be sent.
    pub(super) fn duplicate(
        &self,
        id: ConnectionId,
        now: Instant,
    ) -> Option<(FrameHeader, Arc<FrameBody>)> {
        let own = self.livenesses.lock().get(&id)?.round_trip(now);
        let limit = self.limit(own, now);
        // a writer that is busy for long has sent no ping; before there is a rate to compare with,
        // the whole link may be as slow
        let has_rate = self.send_queue.throughput().rate(now).is_some();
        let is_late = |other: &Liveness| {
            other.round_trip(now) > limit || (has_rate && other.writing(now) > limit)
        };
        let slow: Vec<ConnectionId> = {
            let all = self.livenesses.lock();
            all.iter().filter(|(_, other)| is_late(other)).map(|(id, _)| *id).collect()
        };
        if slow.is_empty() {
            return None;
        }
        let is_slow = |on: ConnectionId, age| age > limit && slow.contains(&on);
        self.send_queue.duplicate_slow(id, now, is_slow)
    }
}
