//! The bounded queue of a control connection's outgoing messages, and its writer.

use crate::net::control::codec::{Outgoing, SILENCE, encode};
use crate::net::control::replay::Replay;
use crate::net::error::{LossReason, NetError};
use crate::net::wire::proto::control_message::Body;
use crate::net::wire::proto::{ControlMessage, SessionEnd};
use crate::store::shares::Shares;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};
use zeroize::Zeroize;

/// The writer sends a heartbeat after this long without another message.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// Messages that may wait for the writer; then senders wait too.
const QUEUE: usize = 256;
/// Bytes of a client's messages that may wait for the writer, and as many that may be unconfirmed.
pub const MOST_OUTGOING: usize = 4 << 20;
/// How long the peer may owe a confirmation, over a slow network.
const OWED: Duration = Duration::from_secs(60);
/// Messages of at most so many bytes need no meter: a confirmation is due before many are there.
pub const SMALL: usize = 1 << 10;
/// With so much room a session needs no meter.
pub const WIDE: usize = 256 << 10;
/// A write takes no further message once it has this many bytes.
const BATCH: usize = 256 << 10;

/// Queues messages for the other side. Cheap to clone.
#[derive(Clone)]
pub struct ControlSender {
    way: Way,
}

#[derive(Clone)]
enum Way {
    /// Over a connection.
    Queue(QueueSender),
    /// Within this process.
    Here(Deliver),
}

/// Takes a message to the other side, which is in this process; false once that is gone.
pub type Deliver = Arc<dyn Fn(Body) -> bool + Send + Sync>;

#[derive(Clone)]
struct QueueSender {
    queue: mpsc::Sender<Option<Queued>>,
    room: Arc<Semaphore>,
    most: Arc<AtomicUsize>,
    /// Where larger messages find room while there is little.
    meter: Option<Meter>,
    last: watch::Sender<Option<Vec<u8>>>,
}

/// A message, and its room in the queue, unless a meter gave it that.
type Queued = (Outgoing, Option<OwnedSemaphorePermit>);

/// Memory that several sessions share, and whose session this is.
#[derive(Clone)]
pub struct Meter {
    /// The memory, in bytes.
    pub shares: Arc<Shares>,
    /// The user.
    pub owner: Arc<str>,
}

/// The queue that [`write_messages`] writes.
pub struct ControlQueue {
    /// `None` stands for the end.
    messages: mpsc::Receiver<Option<Queued>>,
    most: Arc<AtomicUsize>,
    /// The last message of all, which overtakes the queue.
    last: watch::Receiver<Option<Vec<u8>>>,
}

impl ControlQueue {
    /// The next message; `None` at the end.
    pub async fn recv(&mut self) -> Option<Outgoing> {
        let (message, _) = self.messages.recv().await.flatten()?;
        Some(message)
    }

    /// Bytes that may be unconfirmed, of messages without a meter. The peer confirms at the latest
    /// after 32 messages, or 256 KiB: more than these must fit.
    fn most_unconfirmed(&self) -> usize {
        match self.most.load(Ordering::Relaxed) {
            most if most < WIDE => most,
            most => most.max(4 * WIDE),
        }
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
    /// A sender, and the queue for [`write_messages`]. At most `most` bytes may wait in it, and as
    /// many may be unconfirmed.
    pub fn channel(most: usize) -> (ControlSender, ControlQueue) {
        ControlSender::with(most, None)
    }

    /// The same for a session that has little memory of its own until it has
    /// [more](ControlSender::widen): messages of more than [`SMALL`] bytes take theirs from a
    /// meter.
    pub fn metered(most: usize, meter: Meter) -> (ControlSender, ControlQueue) {
        ControlSender::with(most, Some(meter))
    }

    fn with(most: usize, meter: Option<Meter>) -> (ControlSender, ControlQueue) {
        let (queue, messages) = mpsc::channel(QUEUE);
        let room = Arc::new(Semaphore::new(most));
        let (last, last_out) = watch::channel(None);
        let most = Arc::new(AtomicUsize::new(most));
        let receive = ControlQueue {
            messages,
            most: most.clone(),
            last: last_out,
        };
        let way = Way::Queue(QueueSender {
            queue,
            room,
            most,
            meter,
            last,
        });
        (ControlSender { way }, receive)
    }

    /// A sender to another side in this process: messages pass as they are, and wait at their
    /// destination. What a transfer may have unsettled bounds how many there are.
    pub fn here(deliver: Deliver) -> ControlSender {
        let way = Way::Here(deliver);
        ControlSender { way }
    }

    /// From now on so many bytes may wait or be unconfirmed, if that is more than before.
    pub fn widen(&self, most: usize) {
        if let Way::Queue(queue) = &self.way {
            let before = queue.most.fetch_max(most, Ordering::Relaxed);
            queue.room.add_permits(most.saturating_sub(before));
        }
    }

    /// Queues a message; waits while the queue is full.
    ///
    /// # Errors
    /// [`NetError::Lost`] once the connection is gone, and those of [`encode`].
    pub async fn send(&self, body: Body) -> Result<(), NetError> {
        let lost = || NetError::Lost(LossReason::ControlClosed);
        match &self.way {
            Way::Queue(queue) => queue.send(body).await,
            Way::Here(deliver) => deliver(body).then_some(()).ok_or_else(lost),
        }
    }

    /// Closes the connection behind the queued messages. A full queue belongs to a peer that reads
    /// nothing: it gets no proper end.
    pub fn close(&self) {
        if let Way::Queue(queue) = &self.way {
            let _ = queue.queue.try_send(None);
        }
    }

    /// Sends `end` past all queued messages, and then closes the connection. Within a process, the
    /// other side ends with this one.
    pub fn close_with(&self, end: SessionEnd) {
        let Way::Queue(queue) = &self.way else { return };
        let mut message = Vec::new();
        let body = Some(Body::End(end));
        if encode(&ControlMessage { body }, &mut message).is_ok() {
            queue.last.send_replace(Some(message));
        }
    }
}

impl QueueSender {
    async fn send(&self, body: Body) -> Result<(), NetError> {
        let message = Outgoing::of(body)?;
        let lost = || NetError::Lost(LossReason::ControlClosed);
        let length = message.bytes().len();
        let most = self.most.load(Ordering::Relaxed);
        let queued = async {
            if let Some(meter) = self.meter.as_ref().filter(|_| length > SMALL && most < WIDE) {
                let share = meter.shares.take(&meter.owner, length as u64).await;
                return Some((message.within(Box::new(share)), None));
            }
            // one that is larger than all room takes all of it
            let bytes = u32::try_from(length.min(most)).unwrap_or(u32::MAX);
            let permit = self.room.clone().acquire_many_owned(bytes).await.ok()?;
            Some((message, Some(permit)))
        };
        let queued = tokio::select! {
            queued = queued => queued.ok_or_else(lost)?,
            () = self.queue.closed() => return Err(lost()),
        };
        self.queue.send(Some(queued)).await.map_err(|_| lost())
    }
}

/// Waits until there is a last message. Cancel-safe.
async fn ended(last: &mut watch::Receiver<Option<Vec<u8>>>) {
    if last.wait_for(Option::is_some).await.is_err() {
        std::future::pending().await
    }
}

/// Writes `first` and then the queue, until the sender is closed; then closes properly. It adds
/// confirmations when they are due, and heartbeats while the queue is empty. `replay` keeps each
/// message.
///
/// Nothing follows a secret in the buffer: a buffer that grows leaves a copy.
///
/// # Errors
/// [`NetError::Lost`], also if the other side reads or confirms nothing for [`SILENCE`].
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
        let most = queue.most_unconfirmed();
        if out.is_empty() && !closing {
            tokio::select! {
                // one order, so that a simulation with one seed is one run
                biased;
                next = queue.messages.recv(), if !replay.is_full(most) => match next.flatten() {
                    Some((message, _)) => is_secret = replay.send(message, &mut out),
                    None => closing = true,
                },
                () = replay.changed() => {}
                () = ended(&mut queue.last) => closing = true,
                () = tokio::time::sleep_until(written_at + HEARTBEAT) => idle = true,
            }
        }
        while !closing && !is_secret && out.len() < BATCH && !replay.is_full(most) {
            match queue.messages.try_recv() {
                Ok(Some((message, _))) => is_secret = replay.send(message, &mut out),
                Ok(None) => closing = true,
                Err(_) => break,
            }
        }
        if closing {
            queue.last(&mut out);
        }
        let is_full = replay.is_full(most);
        full_since = full_since.filter(|_| is_full).or(is_full.then(Instant::now));
        let is_stuck = full_since.is_some_and(|since| since.elapsed() > SILENCE);
        if is_stuck || replay.owed_for() > OWED {
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
