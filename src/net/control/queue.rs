//! The way out of a control connection: a bounded queue of messages, and what writes it.

use crate::net::control::codec::{Outgoing, SILENCE, encode};
use crate::net::control::replay::Replay;
use crate::net::error::{LossReason, NetError};
use crate::net::wire::proto::control_message::Body;
use crate::net::wire::proto::{ControlMessage, SessionEnd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};
use zeroize::Zeroize;

/// After this long without another message a heartbeat is sent.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// Messages that may wait for the writer; whoever has more waits.
const QUEUE: usize = 256;
/// Bytes of messages that wait for the writer, or for the other side's confirmation, of a client.
pub const MOST_OUTGOING: usize = 4 << 20;
/// Bytes that are written with one call at the most, as far as whole messages go.
const BATCH: usize = 256 << 10;

/// Where the messages for the other side go in. Cheap to clone.
#[derive(Clone)]
pub struct ControlSender {
    queue: mpsc::Sender<Option<Queued>>,
    room: Arc<Semaphore>,
    most: usize,
    last: watch::Sender<Option<Vec<u8>>>,
}

/// A message with its length, as it will be sent, and its room in the queue.
type Queued = (Outgoing, OwnedSemaphorePermit);

/// Where [`write_messages`] takes from.
pub struct ControlQueue {
    /// `None` stands for the end.
    messages: mpsc::Receiver<Option<Queued>>,
    /// The last message of all, which goes past those that wait.
    last: watch::Receiver<Option<Vec<u8>>>,
}

impl ControlQueue {
    /// The next message as it would be sent; `None` at the end.
    pub async fn recv(&mut self) -> Option<Outgoing> {
        let (message, _) = self.messages.recv().await.flatten()?;
        Some(message)
    }

    fn has_last(&self) -> bool {
        self.last.borrow().is_some()
    }

    /// Appends the last message, if there is one.
    fn last(&self, out: &mut Vec<u8>) {
        out.extend(self.last.borrow().iter().flatten());
    }
}

impl ControlSender {
    /// A sender and where [`write_messages`] takes from; `most` bytes may wait in between.
    pub fn channel(most: usize) -> (ControlSender, ControlQueue) {
        let (queue, messages) = mpsc::channel(QUEUE);
        let room = Arc::new(Semaphore::new(most));
        let (last, last_out) = watch::channel(None);
        let receive = ControlQueue {
            messages,
            last: last_out,
        };
        let sender = ControlSender {
            queue,
            room,
            most,
            last,
        };
        (sender, receive)
    }

    /// Queues a message; waits where too many are queued.
    ///
    /// # Errors
    /// [`NetError::Lost`] once the connection is gone, and those of [`encode`].
    pub async fn send(&self, body: Body) -> Result<(), NetError> {
        let message = Outgoing::of(body)?;
        let lost = || NetError::Lost(LossReason::ControlClosed);
        let bytes = u32::try_from(message.bytes().len().min(self.most)).unwrap_or(u32::MAX);
        let room = tokio::select! {
            room = self.room.clone().acquire_many_owned(bytes) => room.map_err(|_| lost())?,
            () = self.queue.closed() => return Err(lost()),
        };
        self.queue.send(Some((message, room))).await.map_err(|_| lost())
    }

    /// What is queued goes out, then the connection is closed. A queue that is full belongs to a peer that takes
    /// nothing: it gets no proper end.
    pub fn close(&self) {
        let _ = self.queue.try_send(None);
    }

    /// This goes out as soon as the writer can, past all that is queued, and then the connection is closed.
    pub fn close_with(&self, end: SessionEnd) {
        let mut message = Vec::new();
        let body = Some(Body::End(end));
        if encode(&ControlMessage { body }, &mut message).is_ok() {
            self.last.send_replace(Some(message));
        }
    }
}

/// Waits until there is a last message. Cancel-safe.
async fn ended(last: &mut watch::Receiver<Option<Vec<u8>>>) {
    if last.wait_for(Option::is_some).await.is_err() {
        std::future::pending().await
    }
}

/// Writes `first`, then what is queued, with confirmations when they are due and heartbeats when nothing is queued, until
/// the sender is closed; then closes properly. What was taken from the queue is kept in `replay`.
///
/// # Errors
/// [`NetError::Lost`], also where the other side takes or confirms nothing for [`SILENCE`].
pub async fn write_messages(
    writer: &mut (impl AsyncWrite + Unpin),
    first: Vec<u8>,
    queue: &mut ControlQueue,
    replay: &Replay,
) -> Result<(), NetError> {
    let mut out = first;
    let mut full_since: Option<Instant> = None;
    let mut written_at = Instant::now();
    loop {
        let (mut closing, mut idle, mut is_secret) = (queue.has_last(), false, false);
        if out.is_empty() && !closing {
            tokio::select! {
                next = queue.messages.recv(), if !replay.is_full() => match next.flatten() {
                    Some((message, _)) => is_secret = replay.send(message, &mut out),
                    None => closing = true,
                },
                () = replay.changed() => {}
                () = ended(&mut queue.last) => closing = true,
                () = tokio::time::sleep_until(written_at + HEARTBEAT) => idle = true,
            }
        }
        // nothing behind a secret: a buffer that grows leaves a copy
        while !closing && !is_secret && out.len() < BATCH && !replay.is_full() {
            match queue.messages.try_recv() {
                Ok(Some((message, _))) => is_secret = replay.send(message, &mut out),
                Ok(None) => closing = true,
                Err(_) => break,
            }
        }
        if closing {
            queue.last(&mut out);
        }
        full_since = full_since
            .filter(|_| replay.is_full())
            .or(replay.is_full().then(Instant::now));
        if full_since.is_some_and(|since| since.elapsed() > SILENCE) {
            return Err(NetError::Lost(LossReason::NothingConfirmed));
        }
        replay.confirm(idle, &mut out)?;
        if out.is_empty() && !closing {
            continue;
        }
        written_at = Instant::now();
        let written = timeout(SILENCE, async {
            writer.write_all(&out).await?;
            writer.flush().await
        });
        match written.await {
            Ok(result) => result.map_err(NetError::lost)?,
            Err(_) => return Err(NetError::Lost(LossReason::NothingTaken)),
        }
        if is_secret {
            out.zeroize();
        }
        out.clear();
        if closing {
            let _ = timeout(HEARTBEAT, writer.shutdown()).await;
            return Ok(());
        }
    }
}
