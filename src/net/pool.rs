//! The pool of data connections of a session: each with a writer task, a reader task and an owner that ends both.

use super::data::{FrameReader, FrameWriter};
use super::error::NetError;
use super::outbox::{ConnectionId, Outbox};
use super::pulse::Pulse;
use super::wire::frame::{FrameHeader, FrameKind};
use crate::chunk::buffer::{Buffer, BufferPool};
use crate::chunk::digest::{chunk_digest, whole_digest};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Small frames are gathered up to this many bytes for one write.
const GATHER: usize = 256 << 10;

/// How often a connection looks whether it is silent, or another one slow.
const LOOK: Duration = Duration::from_millis(100);
/// A connection is slow when its round trip is this many times that of another.
const SLOWER: u32 = 4;
/// The least round trip that counts: below it, what differs is how busy the machines are.
const QUICK: Duration = Duration::from_millis(100);

/// A frame that arrived.
pub struct Arrived {
    /// Its header.
    pub header: FrameHeader,
    /// Its payload; back to its pool when dropped.
    pub payload: Buffer,
    /// Whether the payload has the digest that the header says. Seals and such have nothing to verify: true.
    pub intact: bool,
}

/// Where arriving frames go. It must not wait: a receiver never stops reading.
pub trait FrameSink: Send + Sync {
    /// Takes a frame.
    ///
    /// # Errors
    /// Any ends the session: the peer broke the protocol.
    fn accept(&self, frame: Arrived) -> Result<(), NetError>;
}

/// A session's data connections.
pub struct Pool {
    outbox: Arc<Outbox>,
    sink: Arc<dyn FrameSink>,
    buffers: BufferPool,
    next: AtomicU64,
    pulses: Mutex<HashMap<ConnectionId, Arc<Pulse>>>,
    /// Counts every loss, so that whoever dials can wait for the next one.
    lost: watch::Sender<u64>,
    closing: watch::Sender<bool>,
}

impl Pool {
    /// A pool without connections.
    pub fn new(outbox: Arc<Outbox>, sink: Arc<dyn FrameSink>, buffers: BufferPool) -> Arc<Pool> {
        Arc::new(Pool {
            outbox,
            sink,
            buffers,
            next: AtomicU64::new(1),
            pulses: Mutex::default(),
            lost: watch::Sender::new(0),
            closing: watch::Sender::new(false),
        })
    }

    /// Connections that are up.
    pub fn alive(&self) -> usize {
        self.pulses().len()
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

    /// Makes a connection part of the pool. The owner task goes on until the connection ends; it then gives what was
    /// not acknowledged to the others. Its error, if that was the reason, comes through the task's handle.
    pub fn add(
        self: &Arc<Pool>,
        reader: FrameReader,
        writer: FrameWriter,
    ) -> tokio::task::JoinHandle<Result<(), NetError>> {
        let pool = self.clone();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let pulse = Arc::new(Pulse::default());
        pool.pulses().insert(id, pulse.clone());
        tokio::spawn(async move {
            let mut closing = pool.closing.subscribe();
            let received = reader.received();
            let mut reading = tokio::spawn(read_frames(reader, pool.sink.clone(), pulse.clone()));
            let mut writing = tokio::spawn(write_frames(writer, pool.clone(), id, pulse.clone()));
            let ended = tokio::select! {
                read = &mut reading => flatten(read),
                written = &mut writing => flatten(written),
                () = silence(&pulse, &received) => Err(NetError::lost("a data connection is silent")),
                () = closed(&mut closing) => {
                    // the writer says goodbye properly, the reader has nothing to wait for
                    let _ = (&mut writing).await;
                    Ok(())
                }
            };
            reading.abort();
            writing.abort();
            pool.pulses().remove(&id);
            let requeued = pool.outbox.requeue(id);
            if !*pool.closing.borrow() {
                tracing::debug!(connection = id, requeued, error = ?ended, "data connection ended");
            }
            pool.lost.send_modify(|n| *n = n.wrapping_add(1));
            ended
        })
    }
}

fn flatten(joined: Result<Result<(), NetError>, tokio::task::JoinError>) -> Result<(), NetError> {
    joined.unwrap_or_else(|e| Err(NetError::lost(e)))
}

/// Waits until the pool is closed.
async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

/// Waits until the peer does not answer any more.
async fn silence(pulse: &Pulse, received: &AtomicU64) {
    let mut before = 0;
    while !pulse.is_silent() {
        tokio::time::sleep(LOOK).await;
        let now = received.load(Ordering::Relaxed);
        if now != before {
            pulse.heard();
        }
        before = now;
    }
}

/// The reader task: every frame is verified here, so that connections verify in parallel.
async fn read_frames(mut reader: FrameReader, sink: Arc<dyn FrameSink>, pulse: Arc<Pulse>) -> Result<(), NetError> {
    while let Some((header, payload)) = reader.next().await? {
        let intact = match header.kind {
            FrameKind::Whole => whole_digest(&payload) == header.digest,
            FrameKind::Chunk => chunk_digest(header.offset, &payload) == header.digest,
            FrameKind::Goodbye => return Ok(()),
            FrameKind::Ping => {
                pulse.pinged(header.number);
                continue;
            }
            FrameKind::Pong => {
                pulse.answered(header.number);
                continue;
            }
            FrameKind::Seal | FrameKind::Attached => true,
        };
        sink.accept(Arrived {
            header,
            payload,
            intact,
        })?;
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
            () = closed(&mut closing) => {
                writer.write(&FrameHeader::bare(FrameKind::Goodbye), &[]).await?;
                writer.flush().await?;
                writer.close().await;
                return Ok(());
            }
        }
        if let Some(number) = pulse.take_owed() {
            writer.write(&numbered(FrameKind::Pong, number), &[]).await?;
        }
        if let Some(number) = pulse.take_due(outbox.is_waiting_at_all()) {
            writer.write(&numbered(FrameKind::Ping, number), &[]).await?;
        }
        if pool.is_slow(id, &pulse) {
            // what this one would take would hold all back: the others are to have it
            writer.flush().await?;
            outbox.nudge();
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let mut gathered = 0_usize;
        while gathered < GATHER {
            let Some((header, payload)) = outbox.try_pop(id).or_else(|| pool.repeat(id, &pulse)) else {
                break;
            };
            gathered = gathered.saturating_add(payload.len());
            writer.write(&header, &payload).await?;
        }
        writer.flush().await?;
    }
}

fn numbered(kind: FrameKind, number: u64) -> FrameHeader {
    FrameHeader {
        number,
        ..FrameHeader::bare(kind)
    }
}

impl Pool {
    /// Whether this connection is several times slower than the fastest of the others.
    fn is_slow(&self, id: ConnectionId, pulse: &Pulse) -> bool {
        let pulses = self.pulses();
        let others = pulses.iter().filter(|(other, _)| **other != id);
        let best = others.map(|(_, other)| other.round_trip()).min();
        best.is_some_and(|best| pulse.round_trip() > best.max(QUICK).saturating_mul(SLOWER))
    }

    /// With nothing else to send: what a connection holds that is several times slower than this one.
    fn repeat(&self, id: ConnectionId, pulse: &Pulse) -> Option<(FrameHeader, Arc<Buffer>)> {
        let limit = pulse.round_trip().max(QUICK).saturating_mul(SLOWER);
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
