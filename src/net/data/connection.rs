//! One data connection: a direction that gives frames, and one that takes them.
//!
//! Both work in large pieces, many records a system call, and share nothing but the socket.

use crate::chunk::CHUNK_SIZE;
use crate::chunk::buffer::BufferPool;
use crate::chunk::window::Window;
use crate::net::data::body::{DeferredChunk, FrameBody};
use crate::net::data::carry::{ReadFrames, WRITE_STALL, WriteFrames};
use crate::net::data::decoder::FrameDecoder;
use crate::net::data::pacer::Pacer;
use crate::net::data::payload::ReceivedFrame;
use crate::net::error::{LossReason, NetError};
use crate::net::lanes::socket::Socket;
use crate::net::tls::handshake::{self, Shaken};
use crate::net::tls::record::Encryptor;
use crate::net::tls::socket::has_bbr;
use crate::net::wire::frame::FrameHeader;
use rustls::{ClientConfig, ServerConfig};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// Plaintext bytes encrypted at once: sixteen records.
const ENCRYPT: usize = 256 << 10;

/// A data connection after its handshake.
pub struct DataConnection(Shaken);

impl DataConnection {
    /// The client's handshake. The caller sets the deadline.
    ///
    /// # Errors
    /// [`NetError::Tls`], [`NetError::Lost`].
    pub async fn connect(
        socket: Socket,
        config: Arc<ClientConfig>,
    ) -> Result<DataConnection, NetError> {
        handshake::connect(socket, config).await.map(DataConnection)
    }

    /// The server's handshake. The caller sets the deadline.
    ///
    /// # Errors
    /// [`NetError::Tls`], [`NetError::Lost`].
    pub async fn accept(
        socket: Socket,
        config: Arc<ServerConfig>,
    ) -> Result<DataConnection, NetError> {
        handshake::accept(socket, config).await.map(DataConnection)
    }

    /// The two directions, each for a task of its own.
    pub fn split(self, pool: BufferPool) -> (FrameReader, FrameWriter) {
        let Shaken {
            socket,
            decryptor,
            encryptor,
            early,
            received,
        } = self.0;
        let socket = Arc::new(socket);
        let reader = FrameReader {
            socket: socket.clone(),
            decoder: FrameDecoder::new(decryptor, early, received, pool),
            received: Arc::default(),
            pacer: Pacer::unlimited(),
            unpaced: 0,
        };
        let writer = FrameWriter {
            socket,
            encryptor,
            plain: Vec::new(),
            piece: Vec::new(),
            out: Vec::new(),
            sent: Arc::default(),
            pacer: Pacer::unlimited(),
        };
        (reader, writer)
    }
}

/// Writes all of it; `sent` counts what the socket has taken.
async fn write_all(socket: &Socket, mut bytes: &[u8], sent: &AtomicU64) -> Result<(), NetError> {
    while !bytes.is_empty() {
        // a socket that always takes more would keep others from running
        tokio::task::consume_budget().await;
        match socket.try_write(bytes) {
            Ok(n) => {
                sent.fetch_add(n as u64, Ordering::Relaxed);
                bytes = bytes.get(n..).unwrap_or_default();
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                match timeout(WRITE_STALL, socket.writable()).await {
                    Ok(ready) => ready.map_err(NetError::lost)?,
                    Err(_) => return Err(NetError::Lost(LossReason::DataStalled)),
                }
            }
            Err(e) => return Err(NetError::lost(e)),
        }
    }
    Ok(())
}

/// The receiving direction.
pub struct FrameReader {
    socket: Arc<Socket>,
    decoder: FrameDecoder,
    received: Arc<AtomicU64>,
    pacer: Arc<Pacer>,
    /// Bytes that have come and not passed the limit yet.
    unpaced: usize,
}

impl FrameReader {
    /// From now on payloads come out of this pool: that of the session.
    pub fn use_pool(&mut self, pool: BufferPool) {
        self.decoder.use_pool(pool);
    }

    /// Exactly `n` bytes before the first frame.
    ///
    /// # Errors
    /// As [`FrameReader::next`].
    pub async fn preamble(&mut self, n: usize) -> Result<Vec<u8>, NetError> {
        self.decoder.expect_preamble(n);
        loop {
            if let Some(bytes) = self.decoder.take_preamble() {
                return Ok(bytes);
            }
            if self.decoder.is_closed() {
                return Err(NetError::Lost(LossReason::ClosedBeforeProof));
            }
            self.receive().await?;
        }
    }

    /// What came behind the handshake, and then the socket's next bytes.
    async fn receive(&mut self) -> Result<(), NetError> {
        if self.decoder.is_fresh() {
            return self.decoder.process();
        }
        // a socket that always has more would keep others from running, and deadlines from being
        // looked at
        tokio::task::consume_budget().await;
        self.pacer.enter(self.unpaced).await;
        self.unpaced = 0;
        let most = self.pacer.incoming_piece();
        loop {
            match self.socket.try_read_vectored(&mut self.decoder.room(most)) {
                Ok(0) => return Err(NetError::Lost(LossReason::CutByPeer)),
                Ok(n) => {
                    self.unpaced = n;
                    self.received.fetch_add(n as u64, Ordering::Relaxed);
                    return self.decoder.received(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.socket.readable().await.map_err(NetError::lost)?;
                }
                Err(e) => return Err(NetError::lost(e)),
            }
        }
    }
}

impl ReadFrames for FrameReader {
    async fn next(&mut self) -> Result<Option<ReceivedFrame>, NetError> {
        loop {
            if let Some(frame) = self.decoder.next() {
                return Ok(Some(frame));
            }
            if self.decoder.is_closed() {
                return match self.decoder.is_between_frames() {
                    true => Ok(None),
                    false => Err(NetError::Lost(LossReason::CutInFrame)),
                };
            }
            self.receive().await?;
        }
    }

    fn received(&self) -> Arc<AtomicU64> {
        self.received.clone()
    }

    fn charge_to(&mut self, window: Window) {
        self.decoder.charge_to(window);
    }

    fn limit_by(&mut self, pacer: Arc<Pacer>) {
        self.pacer = pacer;
    }
}

/// The sending direction.
pub struct FrameWriter {
    socket: Arc<Socket>,
    encryptor: Encryptor,
    plain: Vec<u8>,
    /// Of a chunk that is read as it is sent.
    piece: Vec<u8>,
    out: Vec<u8>,
    sent: Arc<AtomicU64>,
    pacer: Arc<Pacer>,
}

impl FrameWriter {
    /// Sends bytes that are no frame: the attach message.
    ///
    /// # Errors
    /// [`NetError::Lost`].
    pub async fn write_raw(&mut self, bytes: &[u8]) -> Result<(), NetError> {
        self.plain.extend_from_slice(bytes);
        self.flush().await
    }

    /// Takes a frame whose payload is read as it is sent; `header` has no digest yet. That the
    /// payload cannot be read is no error: the frame is void then.
    async fn write_deferred(
        &mut self,
        header: &FrameHeader,
        chunk: &DeferredChunk,
    ) -> Result<(), NetError> {
        self.plain.extend_from_slice(&header.encode());
        self.encrypt_gathered()?;
        let (mut reading, mut piece) = (chunk.read(), std::mem::take(&mut self.piece));
        while reading.next(&mut piece).await {
            self.encryptor.encrypt(&piece, &mut self.out)?;
            if reading.is_at_end() {
                self.encryptor.encrypt(&reading.digest(), &mut self.out)?;
            }
            self.send().await?;
        }
        self.piece = piece;
        Ok(())
    }

    fn encrypt_gathered(&mut self) -> Result<(), NetError> {
        if !self.plain.is_empty() {
            self.encryptor.encrypt(&self.plain, &mut self.out)?;
            self.plain.clear();
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), NetError> {
        let mut bytes = self.out.as_slice();
        while !bytes.is_empty() {
            let most = self.pacer.outgoing_piece();
            let (piece, rest) = bytes.split_at_checked(most).unwrap_or((bytes, &[]));
            self.pacer.leave(piece.len()).await;
            write_all(&self.socket, piece, &self.sent).await?;
            bytes = rest;
        }
        self.out.clear();
        Ok(())
    }
}

impl WriteFrames for FrameWriter {
    async fn writable(&self) -> Result<(), NetError> {
        self.socket.writable().await.map_err(NetError::lost)
    }

    async fn write(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), NetError> {
        self.plain.extend_from_slice(&header.encode());
        if payload.len() <= CHUNK_SIZE / 8 {
            self.plain.extend_from_slice(payload);
            self.plain.extend_from_slice(header.trailer());
            if self.plain.len() >= ENCRYPT {
                self.flush().await?;
            }
            return Ok(());
        }
        // What was gathered, and the header, in one system call with the beginning of the payload,
        // which has records of its own: the receiver then finds it in one piece.
        self.encrypt_gathered()?;
        let mut pieces = payload.chunks(ENCRYPT).peekable();
        while let Some(piece) = pieces.next() {
            self.encryptor.encrypt(piece, &mut self.out)?;
            if pieces.peek().is_none() {
                self.encryptor.encrypt(header.trailer(), &mut self.out)?;
            }
            self.send().await?;
        }
        Ok(())
    }

    async fn write_body(
        &mut self,
        header: &FrameHeader,
        body: &Arc<FrameBody>,
    ) -> Result<(), NetError> {
        match &**body {
            FrameBody::Bytes(bytes) => self.write(header, bytes).await,
            FrameBody::Deferred(chunk) => self.write_deferred(header, chunk).await,
        }
    }

    async fn flush(&mut self) -> Result<(), NetError> {
        self.encrypt_gathered()?;
        self.send().await
    }

    async fn flush_now(&mut self) -> Result<(), NetError> {
        self.encrypt_gathered()?;
        self.pacer.charge_outgoing(self.out.len());
        write_all(&self.socket, &self.out, &self.sent).await?;
        self.out.clear();
        Ok(())
    }

    fn limit_by(&mut self, pacer: Arc<Pacer>) {
        self.pacer = pacer;
    }

    fn has_bbr(&self) -> bool {
        has_bbr(&self.socket)
    }

    async fn close(mut self) {
        self.out.clear();
        let closed = self.encryptor.close(&mut self.out);
        if closed.is_ok() {
            let _ = timeout(Duration::from_secs(1), write_all(&self.socket, &self.out, &self.sent))
                .await;
        }
    }

    fn sent(&self) -> Arc<AtomicU64> {
        self.sent.clone()
    }
}
