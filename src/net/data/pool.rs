//! The pool of data connections of a session: each with a writer task, a reader task and an owner that ends both.

use crate::chunk::CHUNK_SIZE;
use crate::chunk::buffer::BufferPool;
use crate::chunk::window::Account;
use crate::net::data::body::FrameBody;
use crate::net::data::connection::{FrameReader, FrameWriter};
use crate::net::data::payload::ReceivedFrame;
use crate::net::data::rtt::Liveness;
use crate::net::data::send_queue::{ConnectionId, SendQueue};
use crate::net::error::NetError;
use crate::net::task::{Task, Tasks};
use crate::net::wire::frame::{FrameHeader, FrameKind};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Small frames are gathered up to this many bytes for one write.
const GATHER: usize = 256 << 10;

/// How often a connection looks whether it is silent, or another one slow.
const LOOK: Duration = Duration::from_millis(100);
/// A connection is slow when its round trip is this many times that of another.
const SLOWER: u32 = 4;
/// The least round trip that counts: below it, what differs is how busy the machines are.
const QUICK: Duration = Duration::from_millis(100);

/// Bytes that may be under way however short the link is: reads, encryption, hashing and writing work on some each.
const LEAST_WINDOW: u64 = 16 << 20;
/// What a chunk may take before anything is known of the rate.
const FIRST_SHARE: Duration = Duration::from_secs(1);

/// How long a connection that one side needs no more may take to end.
const PARTING: Duration = Duration::from_secs(5);

/// Where arriving frames go. It must not wait: a receiver never stops reading.
pub trait FrameSink: Send + Sync {
    /// Takes a frame.
    ///
    /// # Errors
    /// Any ends the session: the peer broke the protocol.
    fn accept(&self, frame: ReceivedFrame) -> Result<(), NetError>;

    /// What frames count against from their headers on.
    fn account(&self) -> Arc<Account>;
}

/// A connection that is part of a pool.
pub struct Added {
    /// Ends when the connection does, with its error if that was the reason. What was not acknowledged has then been given
    /// to the others.
    pub owner: Task<Result<(), NetError>>,
    /// Tells it to end when it carries nothing any more ([`Liveness::retire`]).
    pub liveness: Arc<Liveness>,
}

/// A session's data connections.
pub struct Pool {
    send_queue: Arc<SendQueue>,
    sink: Arc<dyn FrameSink>,
    buffers: BufferPool,
    tasks: Tasks,
    next: AtomicU64,
    livenesses: Mutex<HashMap<ConnectionId, Arc<Liveness>>>,
    /// Bytes that came and went, over all connections.
    moved: AtomicU64,
    /// Counts every loss, so that whoever dials can wait for the next one.
    lost: watch::Sender<u64>,
    closing: watch::Sender<bool>,
}

impl Pool {
    /// A pool without connections. Those that come have their tasks among `tasks`.
    pub fn new(send_queue: Arc<SendQueue>, sink: Arc<dyn FrameSink>, buffers: BufferPool, tasks: Tasks) -> Arc<Pool> {
        Arc::new(Pool {
            send_queue,
            sink,
            buffers,
            tasks,
            next: AtomicU64::new(1),
            livenesses: Mutex::default(),
            moved: AtomicU64::new(0),
            lost: watch::Sender::new(0),
            closing: watch::Sender::new(false),
        })
    }

    /// Connections that are up.
    pub fn alive(&self) -> usize {
        self.livenesses().len()
    }

    /// Bytes that went either way so far.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    fn livenesses(&self) -> parking_lot::MutexGuard<'_, HashMap<ConnectionId, Arc<Liveness>>> {
        self.livenesses.lock()
    }

    /// Changes whenever a connection is lost.
    pub fn losses(&self) -> watch::Receiver<u64> {
        self.lost.subscribe()
    }

    /// The session's buffers.
    pub fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    /// Ends all connections, now and later ones.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Makes a connection part of the pool.
    pub fn add(self: &Arc<Pool>, mut reader: FrameReader, writer: FrameWriter) -> Added {
        let pool = self.clone();
        reader.charge_to(self.sink.account());
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let liveness = Arc::new(Liveness::default());
        pool.livenesses().insert(id, liveness.clone());
        pool.send_queue.connected(id);
        let of = liveness.clone();
        let owner = self.tasks.spawn("connection", async move {
            let mut closing = pool.closing.subscribe();
            let counted = [reader.received(), writer.sent()];
            let (read, write) = (
                read_frames(reader, pool.sink.clone(), liveness.clone()),
                write_frames(writer, pool.clone(), id, liveness.clone()),
            );
            let mut reading = pool.tasks.spawn("receive", read);
            let mut writing = pool.tasks.spawn("transmit", write);
            let ended = tokio::select! {
                read = &mut reading => match read.flatten() {
                    // the other side needs this connection no more: what it has carried is still waited for
                    Ok(()) => {
                        liveness.retire();
                        let _ = timeout(PARTING, &mut writing).await;
                        Ok(())
                    }
                    lost => lost,
                },
                written = &mut writing => {
                    let said_goodbye = written.flatten();
                    if said_goodbye.is_ok() && !*closing.borrow() {
                        let _ = timeout(PARTING, &mut reading).await;
                    }
                    said_goodbye
                }
                () = pool.silence(&liveness, &counted) => Err(NetError::lost("a data connection is silent")),
                () = closed(&mut closing) => {
                    // the writer says goodbye properly, the reader has nothing to wait for
                    let _ = timeout(PARTING, &mut writing).await;
                    Ok(())
                }
            };
            drop((reading, writing));
            pool.livenesses().remove(&id);
            let requeued = pool.send_queue.disconnected(id);
            if !*pool.closing.borrow() {
                tracing::debug!(connection = id, requeued, error = ?ended, "data connection ended");
            }
            pool.lost.send_modify(|n| *n = n.wrapping_add(1));
            ended
        });
        Added { owner, liveness: of }
    }
}

/// Waits until the pool is closed.
async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

/// The reader task: it decrypts and verifies every frame, so that connections do that in parallel.
async fn read_frames(
    mut reader: FrameReader,
    sink: Arc<dyn FrameSink>,
    liveness: Arc<Liveness>,
) -> Result<(), NetError> {
    while let Some(frame) = reader.next().await? {
        match frame.header.kind {
            FrameKind::Goodbye => return Ok(()),
            FrameKind::Ping => liveness.pinged(frame.header.number),
            FrameKind::Pong => liveness.answered(frame.header.number),
            FrameKind::File | FrameKind::Chunk | FrameKind::Hole | FrameKind::End | FrameKind::Attached => {
                let is_chunk = frame.header.kind == FrameKind::Chunk;
                sink.accept(frame)?;
                if is_chunk {
                    // whoever writes it comes next, while it is in this processor's cache
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    Ok(())
}

/// The writer task: a frame is bound to this connection only when its socket would take it.
async fn write_frames(
    mut writer: FrameWriter,
    pool: Arc<Pool>,
    id: ConnectionId,
    liveness: Arc<Liveness>,
) -> Result<(), NetError> {
    let send_queue = &pool.send_queue;
    let mut closing = pool.closing.subscribe();
    loop {
        // first this, so that a connection that is stuck does not swallow the wake-up for a frame that another could take
        tokio::select! {
            ready = writer.writable() => ready?,
            () = closed(&mut closing) => {}
        }
        tokio::select! {
            () = send_queue.filled() => {}
            () = liveness.owing() => {}
            () = tokio::time::sleep(liveness.until_due()) => {}
            () = tokio::time::sleep(LOOK), if send_queue.is_waiting_at_all() => {}
            () = closed(&mut closing) => return goodbye(writer).await,
        }
        if !send_queue.is_connected(id) {
            // its owner has given it up: what it was woken for is another's
            send_queue.wake_next();
            return Err(NetError::lost("the connection is gone"));
        }
        if let Some(number) = liveness.take_owed() {
            writer.write(&numbered(FrameKind::Pong, number), &[]).await?;
        }
        if let Some(number) = liveness.take_due(send_queue.is_waiting_at_all()) {
            writer.write(&numbered(FrameKind::Ping, number), &[]).await?;
        }
        let retired = liveness.is_retired();
        if retired || pool.is_slow(id, &liveness) {
            // what a slow one would take would hold all back: the others are to have it
            writer.flush().await?;
            if retired && !send_queue.is_held_by(id) {
                return goodbye(writer).await;
            }
            send_queue.wake_next();
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let mut gathered = 0_usize;
        while gathered < GATHER {
            let Some((header, content)) = send_queue.try_pop(id).or_else(|| pool.repeat(id, &liveness)) else {
                break;
            };
            gathered = gathered.saturating_add(content.len());
            writer.write_content(&header, &content).await?;
        }
        writer.flush().await?;
    }
}

/// Says properly that nothing follows.
async fn goodbye(mut writer: FrameWriter) -> Result<(), NetError> {
    writer.write(&FrameHeader::bare(FrameKind::Goodbye), &[]).await?;
    writer.flush().await?;
    writer.close().await;
    Ok(())
}

fn numbered(kind: FrameKind, number: u64) -> FrameHeader {
    FrameHeader {
        number,
        ..FrameHeader::bare(kind)
    }
}

impl Pool {
    /// Waits until the peer does not answer any more; counts what comes and goes meanwhile.
    async fn silence(&self, liveness: &Liveness, [received, sent]: &[Arc<AtomicU64>; 2]) {
        let (mut received_before, mut sent_before) = (0_u64, 0_u64);
        while !liveness.is_silent() {
            tokio::time::sleep(LOOK).await;
            let (came, went) = (received.load(Ordering::Relaxed), sent.load(Ordering::Relaxed));
            if came != received_before {
                liveness.heard();
            }
            let new = came
                .saturating_sub(received_before)
                .saturating_add(went.saturating_sub(sent_before));
            self.moved.fetch_add(new, Ordering::Relaxed);
            (received_before, sent_before) = (came, went);
            self.send_queue.credit().limit(self.window());
        }
    }

    /// How much to have under way, within what is granted: what the link carries in two round trips, and two chunks for
    /// each connection. More would only lie in memory.
    fn window(&self) -> u64 {
        let livenesses = self.livenesses();
        let round_trip = livenesses
            .values()
            .map(|liveness| liveness.round_trip())
            .max()
            .unwrap_or_default();
        let carried = self.send_queue.throughput().rate().unwrap_or_default() * round_trip.as_secs_f64() * 2.0;
        let chunks = (livenesses.len() as u64).saturating_mul(2 * CHUNK_SIZE as u64);
        LEAST_WINDOW.max(carried as u64).max(chunks)
    }

    /// The round trip above which a connection is slow, where `best` is that of another. A ping waits behind a chunk, so that
    /// what a chunk takes at a fair share of the session's rate is no sign of slowness.
    fn limit(&self, best: Duration) -> Duration {
        let chunks = self
            .send_queue
            .throughput()
            .rate()
            .map_or(0.0, |rate| rate / CHUNK_SIZE as f64);
        let share = Duration::try_from_secs_f64(self.alive() as f64 / chunks).unwrap_or(FIRST_SHARE);
        best.max(QUICK).max(share).saturating_mul(SLOWER)
    }

    /// Whether this connection is several times slower than the fastest of the others.
    fn is_slow(&self, id: ConnectionId, liveness: &Liveness) -> bool {
        let best = {
            let livenesses = self.livenesses();
            let others = livenesses.iter().filter(|(other, _)| **other != id);
            others.map(|(_, other)| other.round_trip()).min()
        };
        best.is_some_and(|best| liveness.round_trip() > self.limit(best))
    }

    /// With nothing else to send: what a connection holds that is several times slower than this one.
    fn repeat(&self, id: ConnectionId, liveness: &Liveness) -> Option<(FrameHeader, Arc<FrameBody>)> {
        let limit = self.limit(liveness.round_trip());
        let slow: Vec<ConnectionId> = {
            let livenesses = self.livenesses();
            let slow = livenesses.iter().filter(|(_, other)| other.round_trip() > limit);
            slow.map(|(id, _)| *id).collect()
        };
        if slow.is_empty() {
            return None;
        }
        self.send_queue
            .duplicate_slow(id, |on, age| age > limit && slow.contains(&on))
    }
}
