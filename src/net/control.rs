//! The control connection's frames: a length, a message; reading and writing them.

use super::error::NetError;
use super::replay::Replay;
use super::wire::measure::decoded_size;
use super::wire::proto::{ControlMessage, SessionEnd, control_message::Body, request};
use super::wire::{Code, MAX_CONTROL};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};
use zeroize::Zeroize;

/// After this long without another message a heartbeat is sent.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// After this long without any message the connection counts as lost.
pub const SILENCE: Duration = Duration::from_secs(20);
/// Messages that may wait for the writer; whoever has more waits.
const QUEUE: usize = 256;
/// Bytes of messages that wait for the writer, or for the other side's confirmation, of a client.
pub const MOST_OUTGOING: usize = 4 << 20;
/// Bytes that are written with one call at the most, as far as whole messages go.
const BATCH: usize = 256 << 10;

/// A message that came, not decoded yet: what it takes decoded is known, and can be charged first.
pub struct Encoded {
    bytes: Vec<u8>,
    decoded_size: usize,
}

impl Encoded {
    /// Its bytes on the wire.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// About how many bytes it takes in memory.
    pub fn decoded_size(&self) -> usize {
        self.decoded_size
    }

    /// True where it begins as a request does, which is all that is decoded before a login.
    pub fn is_request(&self) -> bool {
        const REQUEST: u8 = 0x0a;
        self.bytes.first() == Some(&REQUEST)
    }

    /// What it confirms, if it is a heartbeat and nothing else: that never has to wait for room.
    pub fn heartbeat(&self) -> Option<u64> {
        /// The tag of the field, and bytes that no heartbeat needs.
        const HEARTBEAT: (u8, usize) = (0x22, 16);
        let (tag, most) = HEARTBEAT;
        if self.bytes.first() != Some(&tag) || self.bytes.len() > most {
            return None;
        }
        match ControlMessage::decode(&self.bytes[..]).ok()?.body {
            Some(Body::Heartbeat(heartbeat)) => Some(heartbeat.received),
            _ => None,
        }
    }

    /// The message.
    ///
    /// # Errors
    /// [`NetError::Protocol`] where it is none.
    pub fn decode(self) -> Result<ControlMessage, NetError> {
        let message = ControlMessage::decode(&self.bytes[..]);
        message.map_err(|_| NetError::Protocol("not a control message".into()))
    }

    /// The message, whose bytes may be a secret and are wiped.
    ///
    /// # Errors
    /// As [`Encoded::decode`].
    pub fn decode_secret(mut self) -> Result<ControlMessage, NetError> {
        let message = ControlMessage::decode(&self.bytes[..]);
        self.bytes.zeroize();
        message.map_err(|_| NetError::Protocol("not a control message".into()))
    }
}

/// Reads one message. Not cancel-safe: a message that was begun is lost with the connection.
///
/// # Errors
/// [`NetError::Lost`] at the end of the stream or after [`SILENCE`]; [`NetError::Protocol`] for more than
/// `most` bytes, bytes that are no message, or more than [`super::wire::measure`] allows.
pub async fn read_encoded(reader: &mut (impl AsyncRead + Unpin), most: usize) -> Result<Encoded, NetError> {
    let long = || NetError::Protocol(format!("a control message is longer than {most} bytes"));
    read_within(reader, most, most).await?.ok_or_else(long)
}

/// Reads one message, or skips it where it has more than `most` bytes: they are not kept.
///
/// # Errors
/// As [`read_encoded`].
pub async fn read_or_skip(reader: &mut (impl AsyncRead + Unpin), most: usize) -> Result<Option<Encoded>, NetError> {
    read_within(reader, most, MAX_CONTROL).await
}

/// Reads one message of at most `kept` bytes; one of at most `borne` is skipped.
async fn read_within(
    reader: &mut (impl AsyncRead + Unpin),
    kept: usize,
    borne: usize,
) -> Result<Option<Encoded>, NetError> {
    let read = async {
        let length = reader.read_u32().await.map_err(closed)? as usize;
        if length > borne {
            return Err(NetError::Protocol(format!(
                "expected a control message of at most {borne} bytes, got {length}"
            )));
        }
        if length > kept {
            let mut rest = (&mut *reader).take(length as u64);
            let skipped = tokio::io::copy(&mut rest, &mut tokio::io::sink())
                .await
                .map_err(closed)?;
            let is_whole = skipped == length as u64;
            return is_whole
                .then_some(None)
                .ok_or_else(|| NetError::lost("closed by the other side"));
        }
        let mut bytes = vec![0; length];
        reader.read_exact(&mut bytes).await.map_err(closed)?;
        let decoded_size = decoded_size(&bytes)?;
        Ok(Some(Encoded { bytes, decoded_size }))
    };
    match timeout(SILENCE, read).await {
        Ok(result) => result,
        Err(_) => Err(NetError::lost("nothing came for 20 s")),
    }
}

/// Reads one message and decodes it; gives its length too.
///
/// # Errors
/// As [`read_encoded`].
pub async fn read_message(reader: &mut (impl AsyncRead + Unpin)) -> Result<(ControlMessage, usize), NetError> {
    let encoded = read_encoded(reader, MAX_CONTROL).await?;
    let length = encoded.length();
    Ok((encoded.decode()?, length))
}

fn closed(e: std::io::Error) -> NetError {
    match e.kind() {
        std::io::ErrorKind::UnexpectedEof => NetError::lost("closed by the other side"),
        _ => NetError::lost(e),
    }
}

/// Wipes the secret of a message; true where it may have one.
pub fn wipe(message: &mut ControlMessage) -> bool {
    let Some(Body::Request(request)) = &mut message.body else {
        return false;
    };
    match &mut request.body {
        Some(request::Body::Login(login)) => login.password.zeroize(),
        Some(request::Body::Enroll(enroll)) => enroll.code.zeroize(),
        _ => return false,
    }
    true
}

/// A message as it will be sent, with its length. One that may have a secret is wiped when it is dropped.
#[derive(Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    is_secret: bool,
}

impl Outgoing {
    /// Encodes a message, and wipes it where it has a secret.
    ///
    /// # Errors
    /// Those of [`encode`].
    pub fn of(body: Body) -> Result<Outgoing, NetError> {
        let mut message = ControlMessage { body: Some(body) };
        let mut bytes = Vec::new();
        encode(&message, &mut bytes)?;
        let is_secret = wipe(&mut message);
        Ok(Outgoing { bytes, is_secret })
    }

    /// Its bytes, with its length in front.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// True where it may have a secret.
    pub fn is_secret(&self) -> bool {
        self.is_secret
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if self.is_secret {
            self.bytes.zeroize();
        }
    }
}

/// Appends a message with its length.
///
/// # Errors
/// [`NetError::Protocol`] where it is longer than [`MAX_CONTROL`].
pub fn encode(message: &ControlMessage, out: &mut Vec<u8>) -> Result<(), NetError> {
    let length = message.encoded_len();
    match u32::try_from(length) {
        Ok(n) if length <= MAX_CONTROL => {
            out.reserve(length.saturating_add(4));
            out.extend_from_slice(&n.to_be_bytes());
            message
                .encode(out)
                .map_err(|_| NetError::Protocol("a message could not be encoded".into()))
        }
        _ => Err(NetError::Protocol(
            "a control message would be longer than 1 MiB".into(),
        )),
    }
}

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
        let lost = || NetError::lost("the control connection is closed");
        let bytes = u32::try_from(message.bytes.len().min(self.most)).unwrap_or(u32::MAX);
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
            return Err(NetError::lost("the other side confirmed nothing for 20 s"));
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
            Err(_) => return Err(NetError::lost("the other side took nothing for 20 s")),
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

/// An error as the peer told it in a reply or a cancellation.
pub fn refused(code: u32, text: String) -> NetError {
    NetError::Refused {
        code: Code::from_wire(code),
        text,
    }
}
