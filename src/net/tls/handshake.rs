//! The TLS handshake of a data connection, through rustls' unbuffered API, and the keys that it
//! results in.

use crate::net::error::{LossReason, NetError};
use crate::net::lanes::socket::Socket;
use crate::net::tls::config;
use crate::net::tls::record::{Decryptor, Encryptor, HEAD, directions};
use rustls::client::UnbufferedClientConnection;
use rustls::kernel::KernelConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, ExtractedSecrets, ServerConfig};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Most bytes of a handshake in either direction.
const MOST: usize = 32 << 10;

/// The interface that rustls' two unbuffered connections share.
trait Unbuffered: Send + Sized {
    type Data: Send + 'static;
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn into_secrets(
        self,
    ) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error>;
    /// True while the peer's bytes belong to the handshake.
    fn is_reading_handshake(&self) -> bool;
}

impl Unbuffered for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
    fn into_secrets(
        self,
    ) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error> {
        self.dangerous_into_kernel_connection()
    }
    fn is_reading_handshake(&self) -> bool {
        self.is_handshaking()
    }
}

impl Unbuffered for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
    fn into_secrets(
        self,
    ) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error> {
        self.dangerous_into_kernel_connection()
    }
    fn is_reading_handshake(&self) -> bool {
        self.is_handshaking()
    }
}

/// A connection whose handshake is complete.
pub(in crate::net) struct Shaken {
    pub(in crate::net) socket: Socket,
    pub(in crate::net) decryptor: Decryptor,
    pub(in crate::net) encryptor: Encryptor,
    /// Bytes behind the peer's last message of the handshake, already decrypted.
    ///
    /// `received` has the bytes behind them, still encrypted.
    pub(in crate::net) early: Vec<u8>,
    pub(in crate::net) received: Vec<u8>,
}

/// The client's side. The caller sets the deadline.
pub(in crate::net) async fn connect(
    socket: Socket,
    config: Arc<ClientConfig>,
) -> Result<Shaken, NetError> {
    let connection = UnbufferedClientConnection::new(config, config::server_name())?;
    shake(socket, connection).await
}

/// The server's side. The caller sets the deadline.
pub(in crate::net) async fn accept(
    socket: Socket,
    config: Arc<ServerConfig>,
) -> Result<Shaken, NetError> {
    shake(socket, UnbufferedServerConnection::new(config)?).await
}

async fn shake<T: Unbuffered>(mut socket: Socket, mut connection: T) -> Result<Shaken, NetError> {
    let mut received = Vec::with_capacity(MOST);
    let (mut out, mut early) = (Vec::new(), Vec::new());
    loop {
        let progress = process(&mut connection, &mut received, &mut out, &mut early);
        // an alert goes out even if the handshake failed
        let sent = socket.write_all(&out).await.map_err(NetError::lost);
        let (used, is_complete) = progress?;
        sent?;
        out.clear();
        received.drain(..used.min(received.len()));
        if is_complete {
            let (secrets, connection) = connection.into_secrets()?;
            let (decryptor, encryptor) = directions(&secrets, connection)?;
            return Ok(Shaken {
                socket,
                decryptor,
                encryptor,
                early,
                received,
            });
        }
        if received.len() > MOST {
            return Err(NetError::Protocol("the handshake is too long".into()));
        }
        match socket.read_buf(&mut received).await {
            Ok(0) => return Err(NetError::Lost(LossReason::ClosedInHandshake)),
            Ok(_) => {}
            Err(e) => return Err(NetError::lost(e)),
        }
    }
}

/// Processes received bytes. Returns how many were used, and whether the handshake is complete.
fn process<T: Unbuffered>(
    connection: &mut T,
    received: &mut [u8],
    out: &mut Vec<u8>,
    early: &mut Vec<u8>,
) -> Result<(usize, bool), NetError> {
    let mut total = 0_usize;
    // Record by record, and none behind the handshake: rustls would process a key update there, and
    // its answer would be lost with the rest of its state.
    let mut shown = 0_usize;
    loop {
        let rest = received.get_mut(total..).unwrap_or_default();
        let length = rest.len();
        if shown == 0 && connection.is_reading_handshake() {
            shown = end_of_record(rest, 0);
        }
        let next = end_of_record(rest, shown);
        let UnbufferedStatus { discard, state, .. } =
            connection.process(rest.get_mut(..shown).unwrap_or_default());
        let mut used = discard;
        let state = match state {
            Ok(state) => state,
            Err(e) => {
                // the alert that tells the peer why
                if let Ok(ConnectionState::EncodeTlsData(mut alert)) =
                    connection.process(&mut []).state
                {
                    encode(out, |room| alert.encode(room))?;
                }
                return Err(e.into());
            }
        };
        let ended = match state {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    used = used.saturating_add(record.discard);
                    early.extend_from_slice(record.payload);
                }
                None
            }
            ConnectionState::EncodeTlsData(mut data) => {
                encode(out, |room| data.encode(room))?;
                None
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                None
            }
            ConnectionState::WriteTraffic(_) => Some(true),
            ConnectionState::BlockedHandshake if shown < length => {
                // a message may continue in the next record
                if used == 0 {
                    shown = next;
                }
                None
            }
            ConnectionState::BlockedHandshake => Some(false),
            ConnectionState::PeerClosed | ConnectionState::Closed => {
                return Err(NetError::Lost(LossReason::ClosedInHandshake));
            }
            // early data is not offered, so rustls accepts none
            _ => return Err(NetError::Protocol("an unexpected state of TLS".into())),
        };
        total = total.saturating_add(used);
        shown = shown.saturating_sub(used);
        if let Some(is_complete) = ended {
            return Ok((total, is_complete));
        }
    }
}

/// The end of the TLS record that begins at `from`, or of `bytes` if the record is incomplete.
fn end_of_record(bytes: &[u8], from: usize) -> usize {
    let record = bytes.get(from..).unwrap_or_default();
    let [_, _, _, high, low, ..] = record else {
        return bytes.len();
    };
    let length = HEAD.saturating_add(usize::from(u16::from_be_bytes([*high, *low])));
    from.saturating_add(length).min(bytes.len())
}

/// Appends what `write` writes.
fn encode(
    out: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), NetError> {
    let filled = out.len();
    let mut room = 4 << 10;
    loop {
        out.resize(filled.saturating_add(room), 0);
        match write(out.get_mut(filled..).unwrap_or_default()) {
            Ok(n) => {
                out.truncate(filled.saturating_add(n));
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(e)) if e.required_size <= MOST => {
                room = e.required_size
            }
            Err(e) => return Err(NetError::Protocol(e.to_string())),
        }
    }
}
