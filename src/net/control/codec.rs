//! Reads and writes the messages of a control connection: a length, and the message.

use crate::net::error::{LossReason, NetError};
use crate::net::wire::measure::decoded_size;
use crate::net::wire::proto::control_message::Body;
use crate::net::wire::proto::{ControlMessage, request};
use crate::net::wire::{Code, MAX_CONTROL};
use prost::Message;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;
use zeroize::Zeroize;

/// A connection without any message for this long is lost.
pub const SILENCE: Duration = Duration::from_secs(20);

/// A message that is not decoded yet. Its decoded size is known, and is charged first.
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

    /// True if it begins like a request: before a login, only requests are decoded.
    pub fn is_request(&self) -> bool {
        const REQUEST: u8 = 0x0a;
        self.bytes.first() == Some(&REQUEST)
    }

    /// The confirmed count of a heartbeat. Heartbeats never wait for room.
    pub fn heartbeat(&self) -> Option<u64> {
        /// The tag of the field, and the most bytes of a heartbeat.
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
    /// [`NetError::Protocol`] if it is not a message.
    pub fn decode(self) -> Result<ControlMessage, NetError> {
        let message = ControlMessage::decode(&self.bytes[..]);
        message.map_err(|_| NetError::Protocol("not a control message".into()))
    }

    /// The message. Its bytes may have a secret, and are wiped.
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
/// [`NetError::Lost`] at the end of the stream or after [`SILENCE`]; [`NetError::Protocol`] for
/// more than `most` bytes, bytes that are not a message, or more than [`crate::net::wire::measure`]
/// allows.
pub async fn read_encoded(
    reader: &mut (impl AsyncRead + Unpin),
    most: usize,
) -> Result<Encoded, NetError> {
    let long = || NetError::Protocol(format!("a control message is longer than {most} bytes"));
    read_within(reader, most, most).await?.ok_or_else(long)
}

/// Reads one message; `None` if it had more than `most` bytes, which are skipped.
///
/// # Errors
/// As [`read_encoded`].
pub async fn read_or_skip(
    reader: &mut (impl AsyncRead + Unpin),
    most: usize,
) -> Result<Option<Encoded>, NetError> {
    read_within(reader, most, MAX_CONTROL).await
}

/// Reads one message of at most `retained` bytes, or skips one of at most `borne`.
async fn read_within(
    reader: &mut (impl AsyncRead + Unpin),
    retained: usize,
    borne: usize,
) -> Result<Option<Encoded>, NetError> {
    let read = async {
        let length = reader.read_u32().await.map_err(closed)? as usize;
        if length > borne {
            return Err(NetError::Protocol(format!(
                "expected a control message of at most {borne} bytes, got {length}"
            )));
        }
        if length > retained {
            let mut rest = (&mut *reader).take(length as u64);
            let skipped =
                tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map_err(closed)?;
            let is_whole = skipped == length as u64;
            return is_whole
                .then_some(None)
                .ok_or_else(|| NetError::Lost(LossReason::ClosedByPeer));
        }
        let mut bytes = vec![0; length];
        reader.read_exact(&mut bytes).await.map_err(closed)?;
        let decoded_size = decoded_size(&bytes)?;
        Ok(Some(Encoded {
            bytes,
            decoded_size,
        }))
    };
    match timeout(SILENCE, read).await {
        Ok(result) => result,
        Err(_) => Err(NetError::Lost(LossReason::ControlSilent)),
    }
}

/// Reads one message and decodes it. Returns its length too.
///
/// # Errors
/// As [`read_encoded`].
pub async fn read_message(
    reader: &mut (impl AsyncRead + Unpin),
) -> Result<(ControlMessage, usize), NetError> {
    let encoded = read_encoded(reader, MAX_CONTROL).await?;
    let length = encoded.length();
    Ok((encoded.decode()?, length))
}

fn closed(e: std::io::Error) -> NetError {
    match e.kind() {
        std::io::ErrorKind::UnexpectedEof => NetError::Lost(LossReason::ClosedByPeer),
        _ => NetError::lost(e),
    }
}

/// Wipes the secret of a message. Returns true if it may have one.
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

/// An encoded message with its length. A message that may have a secret is wiped on drop.
#[derive(Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    is_secret: bool,
    /// What it takes of some memory, until it is dropped.
    room: Option<Room>,
}

/// A guard of the memory that a message takes.
pub type Room = Box<dyn std::any::Any + Send + Sync>;

impl Outgoing {
    /// Encodes a message, and wipes its secret.
    ///
    /// # Errors
    /// Those of [`encode`].
    pub fn of(body: Body) -> Result<Outgoing, NetError> {
        let mut message = ControlMessage { body: Some(body) };
        let mut bytes = Vec::new();
        encode(&message, &mut bytes)?;
        let is_secret = wipe(&mut message);
        Ok(Outgoing {
            bytes,
            is_secret,
            room: None,
        })
    }

    /// True if it holds its own room.
    pub fn is_metered(&self) -> bool {
        self.room.is_some()
    }

    /// The same, which holds its room until it is dropped.
    #[must_use]
    pub fn within(mut self, room: Room) -> Outgoing {
        self.room = Some(room);
        self
    }

    /// Its length and its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// True if it may have a secret.
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

/// Appends a message and its length.
///
/// # Errors
/// [`NetError::Protocol`] if it is longer than [`MAX_CONTROL`].
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
        _ => Err(NetError::Protocol("a control message would be longer than 1 MiB".into())),
    }
}

/// The peer's error, from a reply or a cancellation.
pub fn refused(code: u32, text: String) -> NetError {
    NetError::Refused {
        code: Code::from_wire(code),
        text,
    }
}
