//! The two tasks of a data connection: one receives frames and routes them, one sends what the
//! queue has for it.

use crate::chunk::window::Window;
use crate::net::data::balance::Balance;
use crate::net::data::body::FrameBody;
use crate::net::data::payload::ReceivedFrame;
use crate::net::data::rtt::Liveness;
use crate::net::data::send_queue::ConnectionId;
use crate::net::error::{LossReason, NetError};
use crate::net::wire::frame::{FrameHeader, FrameKind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Small frames are gathered up to this many bytes for one write.
const GATHER: usize = 256 << 10;
/// How often a connection looks whether it is silent, or another one slow.
pub(super) const TICK: Duration = Duration::from_millis(100);

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
                router.route(frame)?;
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

/// One connection, as its writer task knows it.
pub(super) struct Outgoing {
    pub(super) id: ConnectionId,
    pub(super) balance: Arc<Balance>,
    pub(super) liveness: Arc<Liveness>,
    pub(super) closing: watch::Receiver<bool>,
}

impl Outgoing {
    /// The writer task: a frame is bound to this connection only when its socket would take it.
    pub(super) async fn write_frames<W: WriteFrames>(
        mut self,
        mut writer: W,
    ) -> Result<(), NetError> {
        let balance = self.balance.clone();
        let send_queue = &balance.send_queue;
        loop {
            // first this, so that a connection that is stuck does not swallow the wake-up for a
            // frame that another could take
            tokio::select! {
                biased;
                ready = writer.writable() => ready?,
                () = closed(&mut self.closing) => {}
            }
            tokio::select! {
                biased;
                () = closed(&mut self.closing) => return goodbye(writer).await,
                () = send_queue.filled() => {}
                () = self.liveness.owing() => {}
                () = tokio::time::sleep(self.liveness.until_due(Instant::now())) => {}
                () = tokio::time::sleep(TICK), if send_queue.is_waiting_at_all() => {}
            }
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
            self.send_queued(&mut writer).await?;
        }
    }

    /// Answers the peer's ping, and pings where that is due.
    async fn ping<W: WriteFrames>(&self, writer: &mut W) -> Result<(), NetError> {
        if let Some(number) = self.liveness.take_owed() {
            writer.write(&numbered(FrameKind::Pong, number), &[]).await?;
        }
        let is_busy = self.balance.send_queue.is_waiting_at_all();
        if let Some(number) = self.liveness.take_due(is_busy, Instant::now()) {
            writer.write(&numbered(FrameKind::Ping, number), &[]).await?;
        }
        Ok(())
    }

    /// Sends frames while there are any, up to [`GATHER`] bytes.
    async fn send_queued<W: WriteFrames>(&self, writer: &mut W) -> Result<(), NetError> {
        let mut gathered = 0_usize;
        while gathered < GATHER {
            let now = Instant::now();
            let next = self.balance.send_queue.try_pop(self.id, now);
            let Some((header, body)) = next.or_else(|| self.balance.duplicate(self.id, now)) else {
                break;
            };
            gathered = gathered.saturating_add(body.len());
            writer.write_body(&header, &body).await?;
        }
        writer.flush().await
    }
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
