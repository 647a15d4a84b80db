//! The pool of data connections of a session: each with a writer task, a reader task and an owner
//! that ends both.

use crate::chunk::buffer::BufferPool;
use crate::net::data::balance::Balance;
use crate::net::data::carry::{
    FrameRouter, Outgoing, ReadFrames, TICK, Unpacking, WriteFrames, closed, read_frames,
};
use crate::net::data::pacer::Pacer;
use crate::net::data::packer::Packer;
use crate::net::data::payload::ReceivedFrame;
use crate::net::data::rtt::Liveness;
use crate::net::data::send_queue::SendQueue;
use crate::net::error::{LossReason, NetError};
use crate::net::task::{Task, Tasks};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// How long a connection that one side needs no more may take to end.
const PARTING: Duration = Duration::from_secs(5);

/// A connection that is part of a pool.
pub struct Added {
    /// Ends when the connection does, with its error if that was the reason. The unacknowledged
    /// frames have then been given to the others.
    pub owner: Task<Result<(), NetError>>,
    /// Tells it to end when it carries nothing any more ([`Liveness::retire`]).
    pub liveness: Arc<Liveness>,
}

/// A session's data connections.
pub struct Pool {
    balance: Arc<Balance>,
    router: Arc<dyn FrameRouter>,
    buffers: BufferPool,
    tasks: Tasks,
    next: AtomicU64,
    /// Bytes that came and that went, over all connections.
    moved: [AtomicU64; 2],
    /// BBR decides how fast this side sends.
    has_bbr: AtomicBool,
    closing: watch::Sender<bool>,
    pacer: Arc<Pacer>,
    packer: Arc<Packer>,
}

impl Pool {
    /// A pool without connections. Those that come have their tasks among `tasks`, and are under
    /// the limits of `pacer`.
    pub fn new(
        send_queue: Arc<SendQueue>,
        router: Arc<dyn FrameRouter>,
        buffers: BufferPool,
        tasks: Tasks,
        pacer: Arc<Pacer>,
    ) -> Arc<Pool> {
        Arc::new(Pool {
            balance: Arc::new(Balance::new(send_queue)),
            router,
            buffers,
            tasks,
            next: AtomicU64::new(1),
            moved: Default::default(),
            has_bbr: AtomicBool::new(false),
            closing: watch::Sender::new(false),
            pacer,
            packer: Arc::new(Packer::new()),
        })
    }

    /// Connections that are up.
    pub fn alive(&self) -> usize {
        self.balance.alive()
    }

    /// Most bytes that the next chunk is to have.
    pub fn chunk_size(&self) -> u64 {
        self.balance.chunk_size(Instant::now())
    }

    /// Bytes that went either way so far.
    pub fn moved(&self) -> u64 {
        self.moved_each_way().iter().sum()
    }

    /// Bytes that came so far, and that went.
    pub fn moved_each_way(&self) -> [u64; 2] {
        self.moved.each_ref().map(|bytes| bytes.load(Ordering::Relaxed))
    }

    /// Whether BBR decides how fast this side sends.
    pub fn has_bbr(&self) -> bool {
        self.has_bbr.load(Ordering::Relaxed)
    }

    /// Takes a frame that came before its connection is part of the pool.
    ///
    /// # Errors
    /// Any ends the session: the peer broke the protocol.
    pub fn take(&self, frame: ReceivedFrame) -> Result<(), NetError> {
        self.router.route(frame)
    }

    /// The session's compression.
    pub fn packer(&self) -> &Packer {
        &self.packer
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
    pub fn add(self: &Arc<Pool>, mut reader: impl ReadFrames, writer: impl WriteFrames) -> Added {
        reader.charge_to(self.router.window().clone());
        reader.limit_by(self.pacer.clone());
        // lanes beside it have not, and carry little then
        self.has_bbr.fetch_or(writer.has_bbr(), Ordering::Relaxed);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let liveness = self.balance.join(id, Instant::now());
        let outgoing = Outgoing {
            id,
            balance: self.balance.clone(),
            liveness: liveness.clone(),
            closing: self.closing.subscribe(),
            pacer: self.pacer.clone(),
            packer: self.packer.clone(),
            reassured: Instant::now(),
        };
        let (pool, liveness_of) = (self.clone(), liveness.clone());
        let owner = self.tasks.spawn("connection", async move {
            let ended = pool.carry(reader, writer, outgoing, &liveness_of).await;
            let requeued = pool.balance.leave(id, Instant::now());
            if !*pool.closing.borrow() {
                tracing::debug!(connection = id, requeued, error = ?ended, "data connection ended");
            }
            ended
        });
        Added { owner, liveness }
    }

    /// Runs both directions of a connection until one ends, the peer is silent, or the pool is
    /// closed.
    async fn carry<R: ReadFrames, W: WriteFrames>(
        &self,
        reader: R,
        writer: W,
        outgoing: Outgoing,
        liveness: &Arc<Liveness>,
    ) -> Result<(), NetError> {
        let mut closing = self.closing.subscribe();
        let counted = [reader.received(), writer.sent()];
        let unpacking = Unpacking {
            packer: self.packer.clone(),
            buffers: self.buffers.clone(),
        };
        let read = read_frames(reader, self.router.clone(), liveness.clone(), unpacking);
        let mut reading = self.tasks.spawn("receive", read);
        let mut writing = self.tasks.spawn("transmit", outgoing.write_frames(writer));
        tokio::select! {
            biased;
            read = &mut reading => match read.flatten() {
                // the other side needs this connection no more: what it has carried is still waited
                // for
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
            () = self.silence(liveness, &counted) => Err(NetError::Lost(LossReason::DataSilent)),
            () = closed(&mut closing) => {
                // the writer says goodbye properly, the reader has nothing to wait for
                let _ = timeout(PARTING, &mut writing).await;
                Ok(())
            }
        }
    }

    /// Waits until the peer does not answer any more.
    async fn silence(&self, liveness: &Liveness, counted: &[Arc<AtomicU64>; 2]) {
        let mut before = [0; 2];
        while !liveness.is_silent(Instant::now()) {
            tokio::time::sleep(TICK).await;
            let [came, _] = self.count(counted, &mut before);
            if came > 0 {
                liveness.heard(Instant::now());
            }
            self.balance.size_window(Instant::now());
        }
    }

    /// Counts what a connection has moved since `before`, the bytes that came first.
    fn count(&self, counted: &[Arc<AtomicU64>; 2], before: &mut [u64; 2]) -> [u64; 2] {
        let now = counted.each_ref().map(|count| count.load(Ordering::Relaxed));
        let [came, went] = now;
        let [came_before, went_before] = std::mem::replace(before, now);
        let moved = [came.saturating_sub(came_before), went.saturating_sub(went_before)];
        for (all, bytes) in self.moved.iter().zip(moved) {
            all.fetch_add(bytes, Ordering::Relaxed);
        }
        moved
    }
}
