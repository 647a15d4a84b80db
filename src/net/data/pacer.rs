//! Rate limits of data connections: a limit that changes while transfers run, and a session's
//! share of all limits that it is under.
//!
//! A session waits for one piece at a time in each direction. So the sessions under one limit get
//! equal parts of it, however many connections they have.

use crate::net::data::bucket::{Bucket, Place};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep};

/// The lowest rate, in bytes a second. Below it a chunk takes longer than a peer waits for one.
pub const LEAST_RATE: u64 = 16 << 10;
/// Pieces that pass in a second at least, so that no connection is silent for long.
const PIECES: u64 = 4;
/// The bounds of a piece. Sessions take turns, piece by piece: nearly all limits have pieces of one
/// size, so that sessions with limits of their own get as much of a shared one as others.
const LEAST_PIECE: usize = 1 << 10;
const PIECE: usize = 16 << 10;
/// From this rate on, pieces are larger.
const HIGH_RATE: u64 = 16 << 20;
const LARGE_PIECE: usize = 64 << 10;
/// Turns of a session's connections. A connection takes several where the rate is low: then few
/// connections are within a chunk at once, and the others answer pings.
const TURNS: u32 = 64;
/// Bytes a second for each connection that is within a chunk.
const TURN_RATE: u64 = 256 << 10;

/// A rate that bytes must not exceed, shared by all who hold it.
#[derive(Debug)]
pub struct RateLimit {
    bucket: Mutex<Bucket>,
    /// Whether there is a limit at all; read for every piece.
    limits: AtomicBool,
    changes: watch::Sender<Option<u64>>,
}

impl RateLimit {
    /// A limit of `rate` bytes a second, at least [`LEAST_RATE`]; `None`: no limit.
    pub fn new(rate: Option<u64>) -> Arc<RateLimit> {
        let rate = bounded(rate);
        Arc::new(RateLimit {
            bucket: Mutex::new(Bucket::new(rate, Instant::now())),
            limits: AtomicBool::new(rate.is_some()),
            changes: watch::Sender::new(rate),
        })
    }

    /// The rate in bytes a second; `None`: no limit.
    pub fn rate(&self) -> Option<u64> {
        *self.changes.borrow()
    }

    /// Changes the rate, also for bytes that wait already.
    pub fn set(&self, rate: Option<u64>) {
        let rate = bounded(rate);
        self.bucket.lock().set_rate(rate, Instant::now());
        self.limits.store(rate.is_some(), Ordering::Relaxed);
        self.changes
            .send_if_modified(|before| std::mem::replace(before, rate) != rate);
    }

    /// Reports every later change of the rate.
    pub fn changes(&self) -> watch::Receiver<Option<u64>> {
        self.changes.subscribe()
    }

    fn is_limited(&self) -> bool {
        self.limits.load(Ordering::Relaxed)
    }

    /// Counts bytes that do not wait: later ones do.
    fn charge(&self, bytes: usize) {
        let mut bucket = self.bucket.lock();
        if bucket.rate().is_some() {
            bucket.take(bytes, Instant::now());
        }
    }

    /// Takes a place for so many bytes, if there is a limit.
    fn take(&self, bytes: usize) -> Option<Place> {
        self.is_limited().then(|| self.bucket.lock().take(bytes, Instant::now()))
    }

    /// Waits until the bytes of a place may go.
    async fn pass(&self, place: Place) {
        let mut changes = self.changes();
        loop {
            let wait = self.bucket.lock().wait(place, Instant::now());
            if wait.is_zero() {
                return;
            }
            tokio::select! {
                () = sleep(wait) => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }
}

fn bounded(rate: Option<u64>) -> Option<u64> {
    rate.map(|rate| rate.max(LEAST_RATE))
}

/// The limits of one direction of a session.
struct Lane {
    limits: Vec<Arc<RateLimit>>,
    /// One piece waits at a time.
    gate: Semaphore,
}

impl Lane {
    fn new(limits: Vec<Arc<RateLimit>>) -> Lane {
        Lane {
            limits,
            gate: Semaphore::new(1),
        }
    }

    /// The lowest rate.
    fn rate(&self) -> Option<u64> {
        self.limits.iter().filter_map(|limit| limit.rate()).min()
    }

    fn is_limited(&self) -> bool {
        self.limits.iter().any(|limit| limit.is_limited())
    }

    fn piece(&self) -> usize {
        match self.is_limited().then(|| self.rate()).flatten() {
            Some(HIGH_RATE..) => LARGE_PIECE,
            Some(rate) => {
                let piece = usize::try_from(rate / PIECES).unwrap_or(PIECE);
                piece.clamp(LEAST_PIECE, PIECE)
            }
            None => usize::MAX,
        }
    }

    async fn pass(&self, bytes: usize) {
        if self.is_limited() {
            // the semaphore is never closed
            let _gate = self.gate.acquire().await;
            // in all of them at once: what one makes wait is no time lost with the others
            let places: Vec<_> = self.limits.iter().map(|limit| limit.take(bytes)).collect();
            for (limit, place) in self.limits.iter().zip(places) {
                if let Some(place) = place {
                    limit.pass(place).await;
                }
            }
        }
    }
}

/// All limits that a session is under.
pub struct Pacer {
    outgoing: Lane,
    incoming: Lane,
    turns: Semaphore,
}

/// A connection's turn to send frames.
pub(super) type Turn<'a> = SemaphorePermit<'a>;

impl Pacer {
    /// A session under these limits.
    pub fn new(outgoing: Vec<Arc<RateLimit>>, incoming: Vec<Arc<RateLimit>>) -> Arc<Pacer> {
        Arc::new(Pacer {
            outgoing: Lane::new(outgoing),
            incoming: Lane::new(incoming),
            turns: Semaphore::new(TURNS as usize),
        })
    }

    /// A session without limits.
    pub fn unlimited() -> Arc<Pacer> {
        Pacer::new(Vec::new(), Vec::new())
    }

    /// True while outgoing bytes have a limit.
    pub(super) fn limits_outgoing(&self) -> bool {
        self.outgoing.is_limited()
    }

    /// True while incoming bytes have a limit.
    pub(super) fn limits_incoming(&self) -> bool {
        self.incoming.is_limited()
    }

    /// The lowest limit of outgoing bytes, in bytes a second.
    pub(super) fn outgoing_rate(&self) -> Option<u64> {
        self.outgoing.is_limited().then(|| self.outgoing.rate()).flatten()
    }

    /// The most bytes that are to go out at once.
    pub(super) fn outgoing_piece(&self) -> usize {
        self.outgoing.piece()
    }

    /// The most bytes that are to be received at once.
    pub(super) fn incoming_piece(&self) -> usize {
        self.incoming.piece()
    }

    /// Waits until so many bytes may go out.
    pub(super) async fn leave(&self, bytes: usize) {
        self.outgoing.pass(bytes).await;
    }

    /// Waits until so many bytes may come in.
    pub(super) async fn enter(&self, bytes: usize) {
        self.incoming.pass(bytes).await;
    }

    /// Counts bytes that went out without waiting.
    pub(super) fn charge_outgoing(&self, bytes: usize) {
        self.outgoing.limits.iter().for_each(|limit| limit.charge(bytes));
    }

    /// Waits for a turn to send frames. Cancel-safe.
    pub(super) async fn turn(&self) -> Option<Turn<'_>> {
        self.turns.acquire_many(self.weight()).await.ok()
    }

    /// A turn, if one is free.
    pub(super) fn try_turn(&self) -> Option<Turn<'_>> {
        self.turns.try_acquire_many(self.weight()).ok()
    }

    /// Turns that a connection takes at once.
    fn weight(&self) -> u32 {
        if !self.limits_outgoing() {
            return 1;
        }
        let connections = self.outgoing.rate().map_or(1, |rate| rate / TURN_RATE);
        let connections = u32::try_from(connections).unwrap_or(TURNS);
        TURNS / connections.clamp(1, TURNS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Bytes that each of the pacers gets through in ten seconds, over so many connections.
    async fn carried(pacers: &[(Arc<Pacer>, usize)]) -> Vec<usize> {
        let start = Instant::now();
        let mut tasks = Vec::new();
        for (pacer, connections) in pacers {
            let run = (0..*connections).map(|_| {
                let pacer = pacer.clone();
                tokio::spawn(async move {
                    let mut bytes = 0;
                    while start.elapsed() < Duration::from_secs(10) {
                        let piece = pacer.outgoing_piece();
                        pacer.leave(piece).await;
                        if start.elapsed() < Duration::from_secs(10) {
                            bytes += piece;
                        }
                    }
                    bytes
                })
            });
            tasks.push(run.collect::<Vec<_>>());
        }
        let mut sums = Vec::new();
        for connections in tasks {
            let mut sum = 0;
            for connection in connections {
                sum += connection.await.unwrap();
            }
            sums.push(sum);
        }
        sums
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_share_a_limit_equally_however_many_connections_they_have() {
        let server = RateLimit::new(Some(1 << 20));
        let pacers = [1, 8, 32]
            .map(|connections| (Pacer::new(vec![server.clone()], Vec::new()), connections));
        let sums = carried(&pacers).await;
        let all: usize = sums.iter().sum();
        assert!((all as f64 / 10_485_760.0 - 1.0).abs() < 0.05, "{sums:?}");
        assert!(sums.iter().all(|sum| (300..370).contains(&(sum * 1000 / all))), "{sums:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_lowest_limit_counts_and_the_rest_goes_to_others() {
        let server = RateLimit::new(Some(1 << 20));
        let own = RateLimit::new(Some(256 << 10));
        let pacers = [
            (Pacer::new(vec![own, server.clone()], Vec::new()), 4),
            (Pacer::new(vec![RateLimit::new(None), server], Vec::new()), 4),
        ];
        let sums = carried(&pacers).await;
        assert!((sums[0] as f64 / 2_621_440.0 - 1.0).abs() < 0.06, "{sums:?}");
        assert!((sums[1] as f64 / 7_864_320.0 - 1.0).abs() < 0.06, "{sums:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_changes_wakes_those_that_wait() {
        let limit = RateLimit::new(Some(LEAST_RATE));
        let pacer = Pacer::new(vec![limit.clone()], Vec::new());
        let start = Instant::now();
        pacer.leave(1 << 20).await;
        let waiting = tokio::spawn(async move {
            pacer.leave(1).await;
            start.elapsed()
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        limit.set(None);
        assert_eq!(waiting.await.unwrap().as_secs(), 1, "a minute before");
        assert_eq!(RateLimit::new(Some(1)).rate(), Some(LEAST_RATE));
    }

    #[tokio::test]
    async fn at_a_low_rate_one_connection_sends_at_a_time() {
        let limit = RateLimit::new(Some(LEAST_RATE));
        let pacer = Pacer::new(vec![limit.clone()], Vec::new());
        let turn = pacer.turn().await.unwrap();
        assert!(pacer.try_turn().is_none());
        drop(turn);
        limit.set(Some(1 << 20));
        let turns: Vec<_> = (0..4).filter_map(|_| pacer.try_turn()).collect();
        assert!(turns.len() == 4 && pacer.try_turn().is_none());
        drop(turns);
        limit.set(None);
        let turns: Vec<_> = (0..64).filter_map(|_| pacer.try_turn()).collect();
        assert_eq!(turns.len(), 64);
    }
}
