//! One data connection: TLS through rustls' unbuffered API, and frames.
//!
//! The unbuffered API decrypts in place in a large buffer and encrypts straight into another, sixteen records a
//! system call; rustls' buffered connection reads at most 18 KiB at a time and copies twice.

use super::error::NetError;
use super::records::{Conn, Outgoing, Records};
use super::wire::frame::{FrameHeader, HEADER_LEN};
use crate::chunk::CHUNK_SIZE;
use crate::chunk::buffer::{Buffer, BufferPool};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
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
/// A socket that takes nothing for this long belongs to a dead connection. A slow one may take as long for what its buffer
/// holds: a chunk, at 20 KB/s.
const WRITE_STALL: Duration = Duration::from_secs(60);

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
            out: Outgoing::new(SMALL),
            sent: Arc::default(),
        };
        (reader, writer)
    }
}

async fn handshake(tcp: TcpStream, mut records: Box<dyn Records>) -> Result<DataConnection, NetError> {
    let mut received = Vec::with_capacity(SMALL);
    let (mut out, mut early) = (Outgoing::new(SMALL), Vec::new());
    loop {
        let result = records.receive(&mut received, &mut out, &mut |plain| {
            early.extend_from_slice(plain);
            Ok(())
        });
        // an alert is worth sending also when the handshake failed
        let sent = write_all(&tcp, out.bytes(), &AtomicU64::new(0)).await;
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

/// Writes all of it; `sent` counts what the socket has taken.
async fn write_all(tcp: &TcpStream, mut bytes: &[u8], sent: &AtomicU64) -> Result<(), NetError> {
    while !bytes.is_empty() {
        match tcp.try_write(bytes) {
            Ok(n) => {
                sent.fetch_add(n as u64, Ordering::Relaxed);
                bytes = bytes.get(n..).unwrap_or_default();
            }
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
        let mut answers = Outgoing::new(0);
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
    out: Outgoing,
    sent: Arc<AtomicU64>,
}

impl FrameWriter {
    /// Counts the bytes that the socket has taken.
    pub fn sent(&self) -> Arc<AtomicU64> {
        self.sent.clone()
    }

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
        // what was gathered, and the header, in one system call with the beginning of the payload
        self.encrypt_gathered()?;
        for piece in payload.chunks(ENCRYPT) {
            locked(&self.tls).send(piece, &mut self.out)?;
            self.send().await?;
        }
        Ok(())
    }

    /// Sends what was gathered.
    ///
    /// # Errors
    /// As [`FrameWriter::write`].
    pub async fn flush(&mut self) -> Result<(), NetError> {
        self.encrypt_gathered()?;
        self.send().await
    }

    fn encrypt_gathered(&mut self) -> Result<(), NetError> {
        if !self.plain.is_empty() {
            locked(&self.tls).send(&self.plain, &mut self.out)?;
            self.plain.clear();
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), NetError> {
        write_all(&self.tcp, self.out.bytes(), &self.sent).await?;
        self.out.clear();
        Ok(())
    }

    /// Says properly that nothing follows.
    pub async fn close(mut self) {
        self.out.clear();
        let closed = locked(&self.tls).close(&mut self.out);
        if closed.is_ok() {
            let _ = timeout(
                Duration::from_secs(1),
                write_all(&self.tcp, self.out.bytes(), &self.sent),
            )
            .await;
        }
    }
}
