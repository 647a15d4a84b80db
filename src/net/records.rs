//! TLS records of a data connection, through rustls' unbuffered API: decrypted in place, encrypted straight into what is sent.

use super::error::NetError;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

/// Room for outgoing records at first.
const SMALL: usize = 4 << 10;
/// Room from which on there is something wrong.
const MOST: usize = 2 << 20;

/// What the two unbuffered connections of rustls have in common.
trait Unbuffered: Send {
    type Data;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Unbuffered for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Unbuffered for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

/// What one look at the received bytes gave.
pub(super) struct Progress {
    /// Bytes that were used up.
    pub(super) used: usize,
    /// The handshake is complete.
    pub(super) ready: bool,
    /// The peer has said properly that nothing follows.
    pub(super) closed: bool,
}

/// TLS records in and out, whichever side of the connection this is.
pub(super) trait Records: Send {
    /// Works off received records; plaintext goes to `sink`, what must be sent in turn to `out`.
    fn receive(&mut self, incoming: &mut [u8], out: &mut Outgoing, sink: &mut Sink<'_>)
    -> Result<Progress, NetError>;
    /// Appends `plain`, encrypted, to `out`.
    fn send(&mut self, plain: &[u8], out: &mut Outgoing) -> Result<(), NetError>;
    /// Appends the alert that says that nothing follows.
    fn close(&mut self, out: &mut Outgoing) -> Result<(), NetError>;
}

/// What takes a record's plaintext.
pub(super) type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), NetError> + 'a;

/// A client's or a server's connection.
pub(super) struct Conn<T>(pub(super) T);

impl<T: Unbuffered> Records for Conn<T> {
    fn receive(
        &mut self,
        incoming: &mut [u8],
        out: &mut Outgoing,
        sink: &mut Sink<'_>,
    ) -> Result<Progress, NetError> {
        let mut progress = Progress {
            used: 0,
            ready: false,
            closed: false,
        };
        loop {
            let rest = incoming.get_mut(progress.used..).unwrap_or_default();
            let UnbufferedStatus { discard, state, .. } = self.0.process(rest);
            let mut used = discard;
            let more = match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        used = used.saturating_add(record.discard);
                        sink(record.payload)?;
                    }
                    true
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    out.append(|room| match data.encode(room) {
                        Ok(n) => Ok(Some(n)),
                        Err(EncodeError::InsufficientSize(_)) => Ok(None),
                        Err(e) => Err(NetError::Protocol(e.to_string())),
                    })?;
                    true
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    true
                }
                ConnectionState::WriteTraffic(_) => {
                    progress.ready = true;
                    false
                }
                ConnectionState::BlockedHandshake => false,
                ConnectionState::PeerClosed => {
                    progress.closed = true;
                    true
                }
                ConnectionState::Closed => {
                    progress.closed = true;
                    false
                }
                // early data is not offered, so rustls does not take any
                _ => return Err(NetError::Protocol("a state of TLS that has no place here".into())),
            };
            progress.used = progress.used.saturating_add(used);
            if !more {
                return Ok(progress);
            }
        }
    }

    fn send(&mut self, plain: &[u8], out: &mut Outgoing) -> Result<(), NetError> {
        self.receive(&mut [], out, &mut |_| Ok(()))?;
        match self.0.process(&mut []).state? {
            ConnectionState::WriteTraffic(mut traffic) => out.append(|room| encrypted(traffic.encrypt(plain, room))),
            _ => Err(NetError::lost("closed by the other side")),
        }
    }

    fn close(&mut self, out: &mut Outgoing) -> Result<(), NetError> {
        match self.0.process(&mut []).state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                out.append(|room| encrypted(traffic.queue_close_notify(room)))
            }
            _ => Ok(()),
        }
    }
}

fn encrypted(result: Result<usize, EncryptError>) -> Result<Option<usize>, NetError> {
    match result {
        Ok(n) => Ok(Some(n)),
        Err(EncryptError::InsufficientSize(_)) => Ok(None),
        Err(e) => Err(NetError::lost(e)),
    }
}

/// Encrypted bytes on their way out, in memory that is used again and again.
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    filled: usize,
}

impl Outgoing {
    /// With room for `capacity` bytes, and more where it turns out not to be enough.
    pub(super) fn new(capacity: usize) -> Outgoing {
        Outgoing {
            bytes: vec![0; capacity],
            filled: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Lets `write` fill room at the end, more of it when it says (with none) that it was not enough.
    fn append(
        &mut self,
        mut write: impl FnMut(&mut [u8]) -> Result<Option<usize>, NetError>,
    ) -> Result<(), NetError> {
        loop {
            let room = self.bytes.get_mut(self.filled..).unwrap_or_default();
            match write(room)? {
                Some(n) => {
                    self.filled = self.filled.saturating_add(n).min(self.bytes.len());
                    return Ok(());
                }
                None if self.bytes.len() > MOST => {
                    return Err(NetError::Protocol("a TLS record does not fit".into()));
                }
                None => self.bytes.resize(self.bytes.len().saturating_mul(2).max(SMALL), 0),
            }
        }
    }
}
