//! The messages of a control connection as bytes: a length and a message, read and written.

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

/// After this long without any message the connection counts as lost.
pub const SILENCE: Duration = Duration::from_secs(20);

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
                .ok_or_else(|| NetError::Lost(LossReason::ClosedByPeer));
        }
        let mut bytes = vec![0; length];
        reader.read_exact(&mut bytes).await.map_err(closed)?;
        let decoded_size = decoded_size(&bytes)?;
        Ok(Some(Encoded { bytes, decoded_size }))
    };
    match timeout(SILENCE, read).await {
        Ok(result) => result,
        Err(_) => Err(NetError::Lost(LossReason::ControlSilent)),
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
        std::io::ErrorKind::UnexpectedEof => NetError::Lost(LossReason::ClosedByPeer),
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

/// An error as the peer told it in a reply or a cancellation.
pub fn refused(code: u32, text: String) -> NetError {
    NetError::Refused {
        code: Code::from_wire(code),
        text,
    }
}
