//! One data connection: TLS through rustls' unbuffered API, and frames.
//!
//! The unbuffered API decrypts in place in a large buffer and encrypts straight into another, sixteen records a
//! system call; rustls' buffered connection reads at most 18 KiB at a time and copies twice.

use super::error::NetError;
use super::wire::frame::{FrameHeader, HEADER_LEN};
use crate::chunk::CHUNK_SIZE;
use crate::chunk::buffer::{Buffer, BufferPool};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, ServerConfig};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Most bytes that are read from, or written to, the socket at once.
const LARGE: usize = 512 << 10;
/// Size of the receive buffer of a connection that has not carried much yet.
const SMALL: usize = 32 << 10;
/// Plaintext bytes encrypted at once: sixteen records.
const ENCRYPT: usize = 256 << 10;
/// Room for the headers and tags of those records, and for a message of TLS' own.
const OVERHEAD: usize = 4 << 10;
/// A socket that takes nothing for this long belongs to a dead connection. A slow one may take as long for what its buffer
/// holds: a chunk, at 20 KB/s.
const WRITE_STALL: Duration = Duration::from_secs(60);

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
struct Progress {
    /// Bytes that were used up.
    used: usize,
    /// The handshake is complete.
    ready: bool,
    /// The peer has said properly that nothing follows.
    closed: bool,
}

/// TLS records in and out, whichever side of the connection this is.
trait Records: Send {
    /// Works off received records; plaintext goes to `sink`, what must be sent in turn to `out`.
    fn receive(&mut self, incoming: &mut [u8], out: &mut Vec<u8>, sink: &mut Sink<'_>) -> Result<Progress, NetError>;
    /// Appends `plain`, encrypted, to `out`.
    fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), NetError>;
    /// Appends the alert that says that nothing follows.
    fn close(&mut self, out: &mut Vec<u8>) -> Result<(), NetError>;
}

type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), NetError> + 'a;

/// A client's or a server's connection.
struct Conn<T>(T);

impl<T: Unbuffered> Records for Conn<T> {
    fn receive(&mut self, incoming: &mut [u8], out: &mut Vec<u8>, sink: &mut Sink<'_>) -> Result<Progress, NetError> {
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
                    append(out, |room| match data.encode(room) {
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

    fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), NetError> {
        self.receive(&mut [], out, &mut |_| Ok(()))?;
        match self.0.process(&mut []).state? {
            ConnectionState::WriteTraffic(mut traffic) => append(out, |room| encrypted(traffic.encrypt(plain, room))),
            _ => Err(NetError::lost("closed by the other side")),
        }
    }

    fn close(&mut self, out: &mut Vec<u8>) -> Result<(), NetError> {
        match self.0.process(&mut []).state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                append(out, |room| encrypted(traffic.queue_close_notify(room)))
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

/// Lets `write` fill room at the end of `out`, more of it when it says (with none) that it was not enough.
fn append(
    out: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<Option<usize>, NetError>,
) -> Result<(), NetError> {
    let start = out.len();
    let mut room = out.capacity().saturating_sub(start).max(OVERHEAD);
    loop {
        out.resize(start.saturating_add(room), 0);
        match write(out.get_mut(start..).unwrap_or_default())? {
            Some(n) => {
                out.truncate(start.saturating_add(n));
                return Ok(());
            }
            None if room > 4 * LARGE => return Err(NetError::Protocol("a TLS record does not fit".into())),
            None => room = room.saturating_mul(2),
        }
    }
}

/// A data connection after its handshake.
pub struct DataConnection {
    tcp: Arc<TcpStream>,
    tls: Shared,
    received: Vec<u8>,
    /// What the peer sent right behind its last message of the handshake, decrypted.
    early: Vec<u8>,
}

type Shared = Arc<Mutex<Box<dyn Records>>>;

fn locked(tls: &Shared) -> std::sync::MutexGuard<'_, Box<dyn Records>> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DataConnection {
    /// The client's handshake. The caller sets the deadline.
    ///
    /// # Errors
    /// [`NetError::Tls`], [`NetError::Lost`].
    pub async fn connect(tcp: TcpStream, config: Arc<ClientConfig>) -> Result<DataConnection, NetError> {
        let connection = UnbufferedClientConnection::new(config, super::tls::server_name())?;
        handshake(tcp, Box::new(Conn(connection))).await
    }

    /// The server's handshake. The caller sets the deadline.
    ///
    /// # Errors
    /// [`NetError::Tls`], [`NetError::Lost`].
    pub async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> Result<DataConnection, NetError> {
        handshake(tcp, Box::new(Conn(UnbufferedServerConnection::new(config)?))).await
    }

    /// The two directions, each for a task of its own.
    pub fn split(self, pool: BufferPool) -> (FrameReader, FrameWriter) {
        let mut incoming = self.received;
        let filled = incoming.len();
        incoming.resize(filled.saturating_add(SMALL), 0);
        let reader = FrameReader {
            tcp: self.tcp.clone(),
            tls: self.tls.clone(),
            incoming,
            filled,
            early: self.early,
            assembler: Assembler::new(pool),
            closed: false,
            received: Arc::default(),
        };
        let writer = FrameWriter {
            tcp: self.tcp,
            tls: self.tls,
            plain: Vec::new(),
            out: Vec::with_capacity(ENCRYPT + OVERHEAD),
        };
        (reader, writer)
    }
}

async fn handshake(tcp: TcpStream, mut records: Box<dyn Records>) -> Result<DataConnection, NetError> {
    let mut received = Vec::with_capacity(SMALL);
    let (mut out, mut early) = (Vec::new(), Vec::new());
    loop {
        let result = records.receive(&mut received, &mut out, &mut |plain| {
            early.extend_from_slice(plain);
            Ok(())
        });
        // an alert is worth sending also when the handshake failed
        let sent = write_all(&tcp, &out).await;
        let progress = result?;
        sent?;
        out.clear();
        received.drain(..progress.used.min(received.len()));
        if progress.closed {
            return Err(NetError::lost("closed during the handshake"));
        }
        if progress.ready {
            return Ok(DataConnection {
                tcp: Arc::new(tcp),
                tls: Arc::new(Mutex::new(records)),
                received,
                early,
            });
        }
        if received.len() > SMALL {
            return Err(NetError::Protocol("the handshake is too long".into()));
        }
        tcp.readable().await.map_err(NetError::lost)?;
        match tcp.try_read_buf(&mut received) {
            Ok(0) => return Err(NetError::lost("closed during the handshake")),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(NetError::lost(e)),
        }
    }
}

async fn write_all(tcp: &TcpStream, mut bytes: &[u8]) -> Result<(), NetError> {
    while !bytes.is_empty() {
        match tcp.try_write(bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => match timeout(WRITE_STALL, tcp.writable()).await {
                Ok(ready) => ready.map_err(NetError::lost)?,
                Err(_) => return Err(NetError::lost("a data connection took nothing for 60 s")),
            },
            Err(e) => return Err(NetError::lost(e)),
        }
    }
    Ok(())
}

/// Turns plaintext, however it is cut, into frames.
struct Assembler {
    pool: BufferPool,
    /// Bytes before the first frame: the attach message on the server's side.
    preamble: Option<(usize, Vec<u8>)>,
    header: Vec<u8>,
    current: Option<(FrameHeader, Vec<u8>)>,
    frames: VecDeque<(FrameHeader, Buffer)>,
}

impl Assembler {
    fn new(pool: BufferPool) -> Assembler {
        Assembler {
            pool,
            preamble: None,
            header: Vec::with_capacity(HEADER_LEN),
            current: None,
            frames: VecDeque::new(),
        }
    }

    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), NetError> {
        if let Some((wanted, got)) = &mut self.preamble {
            bytes = fill(got, *wanted, bytes);
        }
        loop {
            if let Some((header, mut payload)) = self.current.take() {
                bytes = fill(&mut payload, header.length as usize, bytes);
                if payload.len() < header.length as usize {
                    self.current = Some((header, payload));
                    return Ok(());
                }
                self.frames.push_back((header, self.pool.share(payload)));
            }
            if bytes.is_empty() {
                return Ok(());
            }
            bytes = fill(&mut self.header, HEADER_LEN, bytes);
            if self.header.len() == HEADER_LEN {
                let header = FrameHeader::decode(&self.header)?;
                self.header.clear();
                let payload = self.pool.take_empty(header.length as usize);
                self.current = Some((header, payload));
            }
        }
    }
}

/// Moves bytes into `into` until it has `wanted`; gives what is left.
fn fill<'a>(into: &mut Vec<u8>, wanted: usize, bytes: &'a [u8]) -> &'a [u8] {
    let missing = wanted.saturating_sub(into.len()).min(bytes.len());
    let (head, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
    into.extend_from_slice(head);
    rest
}

/// The receiving direction.
pub struct FrameReader {
    tcp: Arc<TcpStream>,
    tls: Shared,
    incoming: Vec<u8>,
    filled: usize,
    early: Vec<u8>,
    assembler: Assembler,
    closed: bool,
    received: Arc<AtomicU64>,
}

impl FrameReader {
    /// The next frame; none when the peer has closed properly between two frames. Cancel-safe.
    ///
    /// # Errors
    /// [`NetError::Lost`] where the connection was cut, [`NetError::Protocol`] where it carries no frames.
    pub async fn next(&mut self) -> Result<Option<(FrameHeader, Buffer)>, NetError> {
        if !self.early.is_empty() {
            self.decrypt()?;
        }
        loop {
            if let Some(frame) = self.assembler.frames.pop_front() {
                return Ok(Some(frame));
            }
            if self.closed {
                let whole = self.assembler.current.is_none() && self.assembler.header.is_empty();
                return if whole {
                    Ok(None)
                } else {
                    Err(NetError::lost("cut within a frame"))
                };
            }
            self.receive().await?;
        }
    }

    /// Counts the bytes that came, for whoever wants to know whether any do.
    pub fn received(&self) -> Arc<AtomicU64> {
        self.received.clone()
    }

    /// From now on payloads come out of this pool: that of the session.
    pub fn use_pool(&mut self, pool: BufferPool) {
        self.assembler.pool = pool;
    }

    /// Exactly `n` bytes before the first frame.
    ///
    /// # Errors
    /// As [`FrameReader::next`].
    pub async fn preamble(&mut self, n: usize) -> Result<Vec<u8>, NetError> {
        self.assembler.preamble = Some((n, Vec::with_capacity(n)));
        loop {
            self.decrypt()?;
            match self.assembler.preamble.take() {
                Some((_, got)) if got.len() == n => return Ok(got),
                waiting => self.assembler.preamble = waiting,
            }
            if self.closed {
                return Err(NetError::lost("closed before it said what it is"));
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> Result<(), NetError> {
        loop {
            let room = self.incoming.get_mut(self.filled..).unwrap_or_default();
            match self.tcp.try_read(room) {
                Ok(0) => return Err(NetError::lost("cut by the other side")),
                Ok(n) => {
                    self.filled = self.filled.saturating_add(n);
                    self.received.fetch_add(n as u64, Ordering::Relaxed);
                    break;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.tcp.readable().await.map_err(NetError::lost)?;
                }
                Err(e) => return Err(NetError::lost(e)),
            }
        }
        let was_full = self.filled == self.incoming.len();
        self.decrypt()?;
        if was_full && self.incoming.len() < LARGE {
            self.incoming.resize(LARGE, 0);
        }
        Ok(())
    }

    fn decrypt(&mut self) -> Result<(), NetError> {
        let assembler = &mut self.assembler;
        assembler.feed(&std::mem::take(&mut self.early))?;
        if self.filled == 0 {
            return Ok(());
        }
        let bytes = self.incoming.get_mut(..self.filled).unwrap_or_default();
        // Answers of TLS' own (to a key update) wait in rustls until the writer sends next.
        let mut answers = Vec::new();
        let progress = locked(&self.tls).receive(bytes, &mut answers, &mut |plain| assembler.feed(plain))?;
        if !answers.is_empty() {
            return Err(NetError::Protocol("an unexpected message of TLS".into()));
        }
        self.closed |= progress.closed;
        let used = progress.used.min(self.filled);
        self.incoming.copy_within(used..self.filled, 0);
        self.filled = self.filled.saturating_sub(used);
        Ok(())
    }
}

/// The sending direction.
pub struct FrameWriter {
    tcp: Arc<TcpStream>,
    tls: Shared,
    plain: Vec<u8>,
    out: Vec<u8>,
}

impl FrameWriter {
    /// Waits until the socket would take more.
    ///
    /// # Errors
    /// [`NetError::Lost`].
    pub async fn writable(&self) -> Result<(), NetError> {
        self.tcp.writable().await.map_err(NetError::lost)
    }

    /// Sends bytes that are no frame: the attach message.
    ///
    /// # Errors
    /// [`NetError::Lost`].
    pub async fn write_raw(&mut self, bytes: &[u8]) -> Result<(), NetError> {
        self.plain.extend_from_slice(bytes);
        self.flush().await
    }

    /// Takes a frame; small ones are gathered until [`FrameWriter::flush`].
    ///
    /// # Errors
    /// [`NetError::Lost`], also where the peer takes nothing for too long.
    pub async fn write(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), NetError> {
        self.plain.extend_from_slice(&header.encode());
        if payload.len() <= CHUNK_SIZE / 8 {
            self.plain.extend_from_slice(payload);
            if self.plain.len() >= ENCRYPT {
                self.flush().await?;
            }
            return Ok(());
        }
        self.flush().await?;
        for piece in payload.chunks(ENCRYPT) {
            self.encrypt_and_write(piece).await?;
        }
        Ok(())
    }

    /// Sends what was gathered.
    ///
    /// # Errors
    /// As [`FrameWriter::write`].
    pub async fn flush(&mut self) -> Result<(), NetError> {
        let plain = std::mem::take(&mut self.plain);
        for piece in plain.chunks(ENCRYPT) {
            self.encrypt_and_write(piece).await?;
        }
        self.plain = plain;
        self.plain.clear();
        Ok(())
    }

    async fn encrypt_and_write(&mut self, piece: &[u8]) -> Result<(), NetError> {
        self.out.clear();
        locked(&self.tls).send(piece, &mut self.out)?;
        write_all(&self.tcp, &self.out).await
    }

    /// Says properly that nothing follows.
    pub async fn close(mut self) {
        self.out.clear();
        let closed = locked(&self.tls).close(&mut self.out);
        if closed.is_ok() {
            let _ = timeout(Duration::from_secs(1), write_all(&self.tcp, &self.out)).await;
        }
    }
}
