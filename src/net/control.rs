//! The control connection's frames: a length, a message; and the two tasks that move them.

use super::error::NetError;
use super::wire::proto::{ControlMessage, Heartbeat, control_message::Body};
use super::wire::{Code, MAX_CONTROL};
use prost::Message;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// After this long without another message a heartbeat is sent.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// After this long without any message the connection counts as lost.
pub const SILENCE: Duration = Duration::from_secs(45);
/// Messages that may wait for the writer; whoever has more waits.
const QUEUE: usize = 256;
/// Bytes that are written with one call at the most, as far as whole messages go.
const BATCH: usize = 256 << 10;

/// Reads one message. Not cancel-safe: a task that does nothing else calls it.
///
/// # Errors
/// [`NetError::Lost`] at the end of the stream or after [`SILENCE`]; [`NetError::Protocol`] for a length over
/// [`MAX_CONTROL`] or bytes that are no message.
pub async fn read_message(reader: &mut (impl AsyncRead + Unpin)) -> Result<ControlMessage, NetError> {
    let read = async {
        let length = reader.read_u32().await.map_err(closed)? as usize;
        if length > MAX_CONTROL {
            return Err(NetError::Protocol("a control message is longer than 1 MiB".into()));
        }
        let mut bytes = vec![0; length];
        reader.read_exact(&mut bytes).await.map_err(closed)?;
        ControlMessage::decode(&bytes[..]).map_err(|_| NetError::Protocol("not a control message".into()))
    };
    match timeout(SILENCE, read).await {
        Ok(result) => result,
        Err(_) => Err(NetError::lost("nothing came for 45 s")),
    }
}

fn closed(e: std::io::Error) -> NetError {
    match e.kind() {
        std::io::ErrorKind::UnexpectedEof => NetError::lost("closed by the other side"),
        _ => NetError::lost(e),
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
pub struct ControlSender(mpsc::Sender<Option<ControlMessage>>);

/// Where [`write_messages`] takes from; `None` stands for the end.
pub type ControlQueue = mpsc::Receiver<Option<ControlMessage>>;

impl ControlSender {
    /// A sender and where [`write_messages`] takes from.
    pub fn channel() -> (ControlSender, ControlQueue) {
        let (send, receive) = mpsc::channel(QUEUE);
        (ControlSender(send), receive)
    }

    /// Queues a message; waits where too many are queued.
    ///
    /// # Errors
    /// [`NetError::Lost`] once the connection is gone.
    pub async fn send(&self, body: Body) -> Result<(), NetError> {
        let message = ControlMessage { body: Some(body) };
        let sent = self.0.send(Some(message)).await;
        sent.map_err(|_| NetError::lost("the control connection is closed"))
    }

    /// What is queued goes out, then the connection is closed. A queue that is full belongs to a peer that takes
    /// nothing: it gets no proper end.
    pub fn close(&self) {
        let _ = self.0.try_send(None);
    }
}

/// Writes what is queued, and heartbeats when nothing is, until the sender is closed; then closes properly.
///
/// # Errors
/// [`NetError::Lost`], also where the other side takes nothing for [`SILENCE`].
pub async fn write_messages(
    writer: &mut (impl AsyncWrite + Unpin),
    queue: &mut ControlQueue,
) -> Result<(), NetError> {
    let mut out = Vec::new();
    loop {
        out.clear();
        let mut next = match timeout(HEARTBEAT, queue.recv()).await {
            Ok(next) => next.flatten(),
            Err(_) => Some(ControlMessage {
                body: Some(Body::Heartbeat(Heartbeat {})),
            }),
        };
        let mut closing = next.is_none();
        while let Some(message) = next.take() {
            encode(&message, &mut out)?;
            if out.len() < BATCH {
                match queue.try_recv() {
                    Ok(Some(more)) => next = Some(more),
                    Ok(None) => closing = true,
                    Err(_) => {}
                }
            }
        }
        let written = timeout(SILENCE, async {
            writer.write_all(&out).await?;
            writer.flush().await
        });
        match written.await {
            Ok(result) => result.map_err(NetError::lost)?,
            Err(_) => return Err(NetError::lost("the other side took nothing for 45 s")),
        }
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
