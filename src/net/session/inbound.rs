//! What arrives over a session's control connection: the counted messages, one after another.

use crate::net::control::codec::read_encoded;
use crate::net::control::replay::Replay;
use crate::net::error::NetError;
use crate::net::session::SessionCore;
use crate::net::session::router::MessageRoom;
use crate::net::wire::MAX_CONTROL;
use crate::net::wire::proto::control_message::Body;
use tokio::io::AsyncRead;

/// A message that counts, until it is processed and [`Replay::received`] is called with its length.
pub struct Inbound {
    /// The message; `None` for one that this version does not know.
    pub body: Option<Body>,
    /// The memory that it takes of its session.
    pub room: MessageRoom,
    /// Its bytes on the wire.
    pub length: usize,
}

/// Reads the next message that counts, once the session has room for it. Heartbeats before it
/// confirm messages of this side.
///
/// # Errors
/// [`NetError`] if the connection is lost, or the other side breaks the protocol.
pub async fn next_message(
    reader: &mut (impl AsyncRead + Unpin),
    replay: &Replay,
    core: &SessionCore,
) -> Result<Inbound, NetError> {
    loop {
        let encoded = read_encoded(reader, MAX_CONTROL).await?;
        // recognised before they wait for room: what gives room back may wait for their
        // confirmation
        if let Some(received) = encoded.heartbeat() {
            replay.confirmed(received)?;
            continue;
        }
        let length = encoded.length();
        let room = core.room_for(&encoded).await;
        match encoded.decode()?.body {
            Some(Body::Heartbeat(heartbeat)) => replay.confirmed(heartbeat.received)?,
            body => return Ok(Inbound { body, room, length }),
        }
    }
}
