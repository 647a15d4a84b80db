//! The two tasks of a data connection: one receives frames and routes them, one sends what the
//! queue has for it.

use crate::chunk::buffer::BufferPool;
use crate::chunk::window::Window;
use crate::net::data::balance::Balance;
use crate::net::data::body::FrameBody;
use crate::net::data::pacer::{Pacer, Turn};
use crate::net::data::packer::{Packed, Packer, Prepared};
use crate::net::data::packing::LinkState;
use crate::net::data::payload::ReceivedFrame;
use crate::net::data::rtt::Liveness;
use crate::net::data::send_queue::{ConnectionId, SendQueue};
use crate::net::error::{LossReason, NetError};
use crate::net::wire::frame::{FrameHeader, FrameKind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

/// A socket that takes nothing for this long belongs to a dead connection. A slow one may take as
/// long for what its buffer holds: a chunk, at 20 KB/s.
pub(super) const WRITE_STALL: Duration = Duration::from_secs(60);

/// Small frames are gathered up to this many bytes for one write.
const GATHER: usize = 256 << 10;
/// How often a connection looks whether it is silent, or another one slow.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// How often a peer hears of a side that takes its bytes slowly.
const REASSURANCE: Duration = Duration::from_secs(2);
/// The number of a pong that answers no ping.
const NO_PING: u64 = u64::MAX;

/// The receiving direction of a data connection.
pub trait ReadFrames: Send + 'static {
    /// The next frame; `None` once the peer has closed properly between two frames. Cancel-safe.
    ///
    /// # Errors
    /// [`NetError::Lost`] if the connection was cut, [`NetError::Protocol`] if it carries no
    /// frames.
    fn next(&mut self) -> impl Future<Output = Result<Option<ReceivedFrame>, NetError>> + Send;

    /// The bytes received so far.
    fn received(&self) -> Arc<AtomicU64>;

    /// Charges frames to this window from now on, from their headers on.
    fn charge_to(&mut self, window: Window);

    /// Receives no faster than this allows, from now on.
    fn limit_by(&mut self, pacer: Arc<Pacer>);
}

/// The sending direction of a data connection.
pub trait WriteFrames: Send + 'static {
    /// Waits until the connection would take more.
    ///
    /// # Errors
    /// [`NetError::Lost`].
    fn writable(&self) -> impl Future<Output = Result<(), NetError>> + Send;

    /// Takes a frame; small ones are gathered until [`WriteFrames::flush`].
    ///
    /// # Errors
    /// [`NetError::Lost`], also if the peer takes nothing for too long.
    fn write(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
    ) -> impl Future<Output = Result<(), NetError>> + Send;

    /// Takes a frame that may have to be sent again.
    ///
    /// # Errors
    /// As [`WriteFrames::write`].
    fn write_body(
        &mut self,
        header: &FrameHeader,
        body: &Arc<FrameBody>,
    ) -> impl Future<Output = Result<(), NetError>> + Send;

    /// Sends what was gathered.
    ///
    /// # Errors
    /// As [`WriteFrames::write`].
    fn flush(&mut self) -> impl Future<Output = Result<(), NetError>> + Send;

    /// Sends what was gathered, whatever limit there is: a few bytes that must not wait.
    ///
    /// # Errors
    /// As [`WriteFrames::write`].
    fn flush_now(&mut self) -> impl Future<Output = Result<(), NetError>> + Send;

    /// Sends no faster than this allows, from now on.
    fn limit_by(&mut self, pacer: Arc<Pacer>);

    /// Whether BBR decides how fast it sends: losses do not slow it down.
    fn has_bbr(&self) -> bool {
        false
    }

    /// Says properly that nothing follows.
    fn close(self) -> impl Future<Output = ()> + Send;

    /// The bytes that the connection has taken so far.
    fn sent(&self) -> Arc<AtomicU64>;
}

/// Where arriving frames go. It must not wait: a receiver never stops reading.
pub trait FrameRouter: Send + Sync {
    /// Takes a frame.
    ///
    /// # Errors
    /// Any ends the session: the peer broke the protocol.
    fn route(&self, frame: ReceivedFrame) -> Result<(), NetError>;

    /// The window that frames are charged to from their headers on.
    fn window(&self) -> &Window;
}

/// Waits until the pool is closed.
pub(super) async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

/// The reader task: it decrypts and verifies every frame, so that connections do that in parallel.
pub(super) async fn read_frames(
    mut reader: impl ReadFrames,
    router: Arc<dyn FrameRouter>,
    liveness: Arc<Liveness>,
    unpacking: Unpacking,
) -> Result<(), NetError> {
    while let Some(frame) = reader.next().await? {
        match frame.header.kind {
            FrameKind::Goodbye => return Ok(()),
            FrameKind::Ping => liveness.pinged(frame.header.number),
            FrameKind::Pong => liveness.answered(frame.header.number, Instant::now()),
            FrameKind::File
            | FrameKind::Chunk
            | FrameKind::Hole
            | FrameKind::End
            | FrameKind::Attached => {
                let is_chunk = frame.header.kind == FrameKind::Chunk;
                router.route(unpacking.packer.unpack(frame, &unpacking.buffers).await?)?;
                if is_chunk {
                    // the task that writes it comes next, while the chunk is in this processor's
                    // cache
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    Ok(())
}

/// What decompresses the frames that come.
pub(super) struct Unpacking {
    pub(super) packer: Arc<Packer>,
    pub(super) buffers: BufferPool,
}

/// One connection, as its writer task knows it.
pub(super) struct Outgoing {
    pub(super) id: ConnectionId,
    pub(super) balance: Arc<Balance>,
    pub(super) liveness: Arc<Liveness>,
    pub(super) closing: watch::Receiver<bool>,
    pub(super) pacer: Arc<Pacer>,
    pub(super) packer: Arc<Packer>,
    /// When the peer is next to hear that this side lives, while its bytes are slowed down.
    pub(super) reassured: Instant,
}

impl Outgoing {
    /// The writer task: a frame is bound to this connection only when its socket would take it.
    pub(super) async fn write_frames<W: WriteFrames>(
        mut self,
        mut writer: W,
    ) -> Result<(), NetError> {
        let balance = self.balance.clone();
        let send_queue = &balance.send_queue;
        let pacer = self.pacer.clone();
        writer.limit_by(pacer.clone());
        loop {
            // first this, so that a connection that is stuck does not swallow the wake-up for a
            // frame that another could take
            let (since, is_queued) = (Instant::now(), send_queue.is_queued());
            tokio::select! {
                biased;
                ready = timeout(WRITE_STALL, writer.writable()) => match ready {
                    Ok(ready) => ready?,
                    // no ping could be sent that would tell
                    Err(_) if self.liveness.was_heard(since) => continue,
                    Err(_) => return Err(NetError::Lost(LossReason::DataStalled)),
                },
                () = closed(&mut self.closing) => {}
            }
            if is_queued {
                self.packer.sent(0, since.elapsed());
            }
            let turn = tokio::select! {
                biased;
                () = closed(&mut self.closing) => return goodbye(writer).await,
                turn = next_turn(send_queue, &pacer) => turn,
                () = self.liveness.owing() => None,
                () = tokio::time::sleep(self.liveness.until_due(Instant::now())) => None,
                () = tokio::time::sleep(TICK), if send_queue.is_waiting_at_all() => None,
                () = sleep_until(self.reassured), if pacer.limits_incoming() => None,
            };
            if !send_queue.is_connected(self.id) {
                // its owner has given it up: what it was woken for is another's
                send_queue.wake_next();
                return Err(NetError::Lost(LossReason::DataGone));
            }
            self.ping(&mut writer).await?;
            let is_retired = self.liveness.is_retired();
            if is_retired || balance.is_slow(self.id, Instant::now()) {
                // what a slow connection would take would hold all back: the others take it
                writer.flush().await?;
                if is_retired && !send_queue.has_frames_of(self.id) {
                    return goodbye(writer).await;
                }
                send_queue.wake_next();
                tokio::time::sleep(TICK).await;
                continue;
            }
            if let Some(_turn) = turn.or_else(|| pacer.try_turn()) {
                self.send_queued(&mut writer).await?;
            }
        }
    }

    /// Answers the peer's ping, and pings where that is due.
    async fn ping<W: WriteFrames>(&mut self, writer: &mut W) -> Result<(), NetError> {
        let now = Instant::now();
        if self.pacer.limits_incoming() && now >= self.reassured {
            // its ping may wait for long behind what this side does not take yet
            self.reassured = now + REASSURANCE;
            writer.write(&numbered(FrameKind::Pong, NO_PING), &[]).await?;
        }
        if let Some(number) = self.liveness.take_owed() {
            writer.write(&numbered(FrameKind::Pong, number), &[]).await?;
        }
        let is_busy = self.balance.send_queue.is_waiting_at_all();
        if let Some(number) = self.liveness.take_due(is_busy, now) {
            writer.write(&numbered(FrameKind::Ping, number), &[]).await?;
        }
        // the next frame may have to wait
        match self.pacer.limits_outgoing() || self.pacer.limits_incoming() {
            true => writer.flush_now().await,
            false => Ok(()),
        }
    }

    /// Sends frames while there are any, up to [`GATHER`] bytes.
    async fn send_queued<W: WriteFrames>(&self, writer: &mut W) -> Result<(), NetError> {
        let mut gathered = 0_usize;
        let mut writing = None;
        while gathered < GATHER {
            let now = Instant::now();
            let next = self.balance.send_queue.try_pop(self.id, now);
            let Some((header, body)) = next.or_else(|| self.balance.duplicate(self.id, now)) else {
                break;
            };
            writing.get_or_insert_with(|| self.liveness.write(now));
            gathered = gathered.saturating_add(body.len());
            let packing = self.balance.send_queue.packing(header.transfer);
            let link = LinkState {
                connections: self.balance.alive(),
                limit: self.pacer.outgoing_rate(),
            };
            let prepared = self.packer.prepare(&header, &body, packing, link).await;
            let since = Instant::now();
            let length = match &prepared {
                Prepared::Packed(Packed { header, payload }) => {
                    writer.write(header, payload).await?;
                    payload.len()
                }
                Prepared::Plain => {
                    writer.write_body(&header, &body).await?;
                    body.len()
                }
                Prepared::Void => 0,
            };
            self.packer.sent(length, since.elapsed());
        }
        let since = Instant::now();
        writer.flush().await?;
        self.packer.sent(0, since.elapsed());
        Ok(())
    }
}

/// Waits until a frame is queued and this connection may send it.
async fn next_turn<'a>(send_queue: &SendQueue, pacer: &'a Pacer) -> Option<Turn<'a>> {
    send_queue.filled().await;
    pacer.turn().await
}

/// Says properly that nothing follows.
async fn goodbye<W: WriteFrames>(mut writer: W) -> Result<(), NetError> {
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
