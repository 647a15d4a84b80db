//! The pool of data connections of a session: each with a writer task, a reader task and an owner that ends both.

use crate::chunk::CHUNK_SIZE;
use crate::chunk::buffer::BufferPool;
use crate::chunk::window::Account;
use crate::net::data::body::Content;
use crate::net::data::connection::{FrameReader, FrameWriter};
use crate::net::data::payload::Arrived;
use crate::net::data::rtt::Pulse;
use crate::net::data::send_queue::{ConnectionId, Outbox};
use crate::net::error::NetError;
use crate::net::task::{Task, Tasks};
use crate::net::wire::frame::{FrameHeader, FrameKind};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
    fn accept(&self, frame: Arrived) -> Result<(), NetError>;

    /// What frames count against from their headers on.
    fn account(&self) -> Arc<Account>;
}

/// A connection that is part of a pool.
pub struct Added {
    /// Ends when the connection does, with its error if that was the reason. What was not acknowledged has then been given
    /// to the others.
    pub owner: Task<Result<(), NetError>>,
    /// Tells it to end when it carries nothing any more ([`Pulse::retire`]).
    pub pulse: Arc<Pulse>,
}

/// A session's data connections.
pub struct Pool {
    outbox: Arc<Outbox>,
    sink: Arc<dyn FrameSink>,
    buffers: BufferPool,
    tasks: Tasks,
    next: AtomicU64,
    pulses: Mutex<HashMap<ConnectionId, Arc<Pulse>>>,
    /// Bytes that came and went, over all connections.
    moved: AtomicU64,
    /// Counts every loss, so that whoever dials can wait for the next one.
    lost: watch::Sender<u64>,
    closing: watch::Sender<bool>,
}

impl Pool {
    /// A pool without connections. Those that come have their tasks among `tasks`.
    pub fn new(outbox: Arc<Outbox>, sink: Arc<dyn FrameSink>, buffers: BufferPool, tasks: Tasks) -> Arc<Pool> {
        Arc::new(Pool {
            outbox,
            sink,
            buffers,
            tasks,
            next: AtomicU64::new(1),
            pulses: Mutex::default(),
            moved: AtomicU64::new(0),
            lost: watch::Sender::new(0),
            closing: watch::Sender::new(false),
        })
    }

    /// Connections that are up.
    pub fn alive(&self) -> usize {
        self.pulses().len()
    }

    /// Bytes that went either way so far.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    fn pulses(&self) -> std::sync::MutexGuard<'_, HashMap<ConnectionId, Arc<Pulse>>> {
        self.pulses.lock().unwrap_or_else(PoisonError::into_inner)
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
        let pulse = Arc::new(Pulse::default());
        pool.pulses().insert(id, pulse.clone());
        pool.outbox.connected(id);
        let of = pulse.clone();
        let owner = self.tasks.spawn("connection", async move {
            let mut closing = pool.closing.subscribe();
            let counted = [reader.received(), writer.sent()];
            let (read, write) = (
                read_frames(reader, pool.sink.clone(), pulse.clone()),
                write_frames(writer, pool.clone(), id, pulse.clone()),
            );
            let mut reading = pool.tasks.spawn("receive", read);
            let mut writing = pool.tasks.spawn("transmit", write);
            let ended = tokio::select! {
                read = &mut reading => match read.flatten() {
                    // the other side needs this connection no more: what it has carried is still waited for
                    Ok(()) => {
                        pulse.retire();
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
                () = pool.silence(&pulse, &counted) => Err(NetError::lost("a data connection is silent")),
                () = closed(&mut closing) => {
                    // the writer says goodbye properly, the reader has nothing to wait for
                    let _ = timeout(PARTING, &mut writing).await;
                    Ok(())
                }
            };
            drop((reading, writing));
            pool.pulses().remove(&id);
            let requeued = pool.outbox.disconnected(id);
            if !*pool.closing.borrow() {
                tracing::debug!(connection = id, requeued, error = ?ended, "data connection ended");
            }
            pool.lost.send_modify(|n| *n = n.wrapping_add(1));
            ended
        });
        Added { owner, pulse: of }
    }
}

/// Waits until the pool is closed.
async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

/// The reader task: it decrypts and verifies every frame, so that connections do that in parallel.
async fn read_frames(mut reader: FrameReader, sink: Arc<dyn FrameSink>, pulse: Arc<Pulse>) -> Result<(), NetError> {
    while let Some(frame) = reader.next().await? {
        match frame.header.kind {
            FrameKind::Goodbye => return Ok(()),
            FrameKind::Ping => pulse.pinged(frame.header.number),
            FrameKind::Pong => pulse.answered(frame.header.number),
            FrameKind::Whole | FrameKind::Chunk | FrameKind::Hole | FrameKind::Seal | FrameKind::Attached => {
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
    pulse: Arc<Pulse>,
) -> Result<(), NetError> {
    let outbox = &pool.outbox;
    let mut closing = pool.closing.subscribe();
    loop {
        // first this, so that a connection that is stuck does not swallow the wake-up for a frame that another could take
        tokio::select! {
            ready = writer.writable() => ready?,
            () = closed(&mut closing) => {}
        }
        tokio::select! {
            () = outbox.filled() => {}
            () = pulse.owing() => {}
            () = tokio::time::sleep(pulse.until_due()) => {}
            () = tokio::time::sleep(LOOK), if outbox.is_waiting_at_all() => {}
            () = closed(&mut closing) => return goodbye(writer).await,
        }
        if !outbox.is_connected(id) {
            // its owner has given it up: what it was woken for is another's
            outbox.nudge();
            return Err(NetError::lost("the connection is gone"));
        }
        if let Some(number) = pulse.take_owed() {
            writer.write(&numbered(FrameKind::Pong, number), &[]).await?;
        }
        if let Some(number) = pulse.take_due(outbox.is_waiting_at_all()) {
            writer.write(&numbered(FrameKind::Ping, number), &[]).await?;
        }
        let retired = pulse.is_retired();
        if retired || pool.is_slow(id, &pulse) {
            // what a slow one would take would hold all back: the others are to have it
            writer.flush().await?;
            if retired && !outbox.is_held_by(id) {
                return goodbye(writer).await;
            }
            outbox.nudge();
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let mut gathered = 0_usize;
        while gathered < GATHER {
            let Some((header, content)) = outbox.try_pop(id).or_else(|| pool.repeat(id, &pulse)) else {
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
    async fn silence(&self, pulse: &Pulse, [received, sent]: &[Arc<AtomicU64>; 2]) {
        let (mut received_before, mut sent_before) = (0_u64, 0_u64);
        while !pulse.is_silent() {
            tokio::time::sleep(LOOK).await;
            let (came, went) = (received.load(Ordering::Relaxed), sent.load(Ordering::Relaxed));
            if came != received_before {
                pulse.heard();
            }
            let new = came
                .saturating_sub(received_before)
                .saturating_add(went.saturating_sub(sent_before));
            self.moved.fetch_add(new, Ordering::Relaxed);
            (received_before, sent_before) = (came, went);
            self.outbox.credit().limit(self.window());
        }
    }

    /// How much to have under way, within what is granted: what the link carries in two round trips, and two chunks for
    /// each connection. More would only lie in memory.
    fn window(&self) -> u64 {
        let pulses = self.pulses();
        let round_trip = pulses
            .values()
            .map(|pulse| pulse.round_trip())
            .max()
            .unwrap_or_default();
        let carried = self.outbox.pace().rate().unwrap_or_default() * round_trip.as_secs_f64() * 2.0;
        let chunks = (pulses.len() as u64).saturating_mul(2 * CHUNK_SIZE as u64);
        LEAST_WINDOW.max(carried as u64).max(chunks)
    }

    /// The round trip above which a connection is slow, where `best` is that of another. A ping waits behind a chunk, so that
    /// what a chunk takes at a fair share of the session's rate is no sign of slowness.
    fn limit(&self, best: Duration) -> Duration {
        let chunks = self.outbox.pace().rate().map_or(0.0, |rate| rate / CHUNK_SIZE as f64);
        let share = Duration::try_from_secs_f64(self.alive() as f64 / chunks).unwrap_or(FIRST_SHARE);
        best.max(QUICK).max(share).saturating_mul(SLOWER)
    }

    /// Whether this connection is several times slower than the fastest of the others.
    fn is_slow(&self, id: ConnectionId, pulse: &Pulse) -> bool {
        let best = {
            let pulses = self.pulses();
            let others = pulses.iter().filter(|(other, _)| **other != id);
            others.map(|(_, other)| other.round_trip()).min()
        };
        best.is_some_and(|best| pulse.round_trip() > self.limit(best))
    }

    /// With nothing else to send: what a connection holds that is several times slower than this one.
    fn repeat(&self, id: ConnectionId, pulse: &Pulse) -> Option<(FrameHeader, Arc<Content>)> {
        let limit = self.limit(pulse.round_trip());
        let slow: Vec<ConnectionId> = {
            let pulses = self.pulses();
            let slow = pulses.iter().filter(|(_, other)| other.round_trip() > limit);
            slow.map(|(id, _)| *id).collect()
        };
        if slow.is_empty() {
            return None;
        }
        self.outbox.try_repeat(id, |on, age| age > limit && slow.contains(&on))
    }
}
