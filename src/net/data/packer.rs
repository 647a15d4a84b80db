//! Compresses the frames of a session that go out, and decompresses those that come.
//!
//! Digests are of the plain content. A frame says how long its content is, at most a chunk; so the
//! decoder writes into memory of that size and nowhere else.

use crate::chunk::CHUNK_SIZE;
use crate::chunk::buffer::BufferPool;
use crate::chunk::digest::{Hashing, chunk_digest};
use crate::net::data::body::{DeferredChunk, FrameBody};
use crate::net::data::packing::{LinkState, Packing, PackingJudge, is_gain};
use crate::net::data::payload::{ReceivedBytes, ReceivedFrame};
use crate::net::error::NetError;
use crate::net::wire::frame::{FrameHeader, FrameKind, VOID};
use crate::store::blocking;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use zstd::bulk::Compressor;

/// Encoders at once, and decoders.
const AT_ONCE: usize = 2;
/// Payloads up to this size are compressed and decompressed on the spot.
const SHORT: usize = 64 << 10;
/// Shorter payloads travel as they are.
const LEAST: usize = 256;
/// Bytes of a longer payload that tell whether the rest is worth it.
const SAMPLE: usize = 16 << 10;

/// The compression of a session.
pub struct Packer {
    /// The peer decompresses.
    accepted: AtomicBool,
    judge: Mutex<PackingJudge>,
    encoders: Semaphore,
    decoders: Semaphore,
    /// Contexts of encoders that are not at work: a fresh one costs more than a small file.
    contexts: Contexts,
    plain: AtomicU64,
    carried: AtomicU64,
}

/// A frame that was prepared for its way: its payload, which may have got smaller.
pub(super) struct Packed {
    pub(super) header: FrameHeader,
    pub(super) payload: Vec<u8>,
}

/// What is to be done with a frame.
pub(super) enum Prepared {
    /// It is sent in this form.
    Packed(Packed),
    /// It is sent as it is.
    Plain,
    /// It is not sent: its content cannot be read, which its owner knows.
    Void,
}

impl Packer {
    /// A session whose peer is not known to decompress.
    pub(super) fn new() -> Packer {
        Packer {
            accepted: AtomicBool::new(false),
            judge: Mutex::new(PackingJudge::new(AT_ONCE)),
            encoders: Semaphore::new(AT_ONCE),
            decoders: Semaphore::new(AT_ONCE),
            contexts: Contexts::default(),
            plain: AtomicU64::new(0),
            carried: AtomicU64::new(0),
        }
    }

    /// The peer decompresses.
    pub fn accept(&self) {
        self.accepted.store(true, Ordering::Relaxed);
    }

    /// Bytes that compression has saved so far, in both directions.
    pub fn saved(&self) -> u64 {
        let plain = self.plain.load(Ordering::Relaxed);
        plain.saturating_sub(self.carried.load(Ordering::Relaxed))
    }

    fn count(&self, plain: usize, carried: usize) {
        self.plain.fetch_add(plain as u64, Ordering::Relaxed);
        self.carried.fetch_add(carried as u64, Ordering::Relaxed);
    }

    /// A connection took so long for bytes of frames.
    pub(super) fn sent(&self, bytes: usize, took: Duration) {
        self.judge.lock().sent(bytes, took);
    }

    /// Prepares a frame that is to be sent.
    pub(super) async fn prepare(
        &self,
        header: &FrameHeader,
        body: &Arc<FrameBody>,
        packing: Packing,
        link: LinkState,
    ) -> Prepared {
        let has_content = matches!(header.kind, FrameKind::File | FrameKind::Chunk);
        let is_possible = has_content && self.accepted.load(Ordering::Relaxed);
        if !is_possible || body.len() < LEAST {
            return Prepared::Plain;
        }
        let Some(level) = self.judge.lock().level(packing, link) else {
            return Prepared::Plain;
        };
        // the semaphore is never closed
        let _permit = self.encoders.acquire().await;
        let prepared = self.encode(header, body, i32::from(level)).await;
        if let Prepared::Packed(Packed { header, payload }) = &prepared
            && header.unpacked > 0
        {
            self.count(header.unpacked as usize, payload.len());
        }
        prepared
    }

    async fn encode(&self, header: &FrameHeader, body: &Arc<FrameBody>, level: i32) -> Prepared {
        let sample = match &**body {
            FrameBody::Bytes(bytes) => middle(bytes).to_vec(),
            FrameBody::Deferred(chunk) => match chunk.sample(SAMPLE) {
                Some(sample) => sample,
                None => return Prepared::Plain,
            },
        };
        if body.len() > SHORT && !self.contexts.shrinks(&sample) {
            self.judge.lock().missed();
            return Prepared::Plain;
        }
        let raw = match &**body {
            FrameBody::Bytes(_) => None,
            FrameBody::Deferred(chunk) => match read_all(chunk).await {
                (_, VOID) => return Prepared::Void,
                read => Some(read),
            },
        };
        let (body, contexts, started) = (body.clone(), self.contexts.clone(), Instant::now());
        let (length, mut header) = (body.len(), *header);
        if let Some((_, digest)) = &raw {
            header.digest = *digest;
        }
        let work = move || {
            let bytes = match (&raw, &*body) {
                (Some((bytes, _)), _) => bytes.as_slice(),
                (None, FrameBody::Bytes(bytes)) => bytes,
                (None, FrameBody::Deferred(_)) => &[],
            };
            let packed = contexts.compress(bytes, level);
            (packed, raw.map(|(bytes, _)| bytes))
        };
        let (packed, raw) = match length <= SHORT {
            true => work(),
            false => blocking(work).await,
        };
        let packed_length = packed.as_ref().map_or(length, Vec::len);
        self.judge.lock().encoded(length, packed_length, started.elapsed());
        match (packed.filter(|packed| is_gain(length, packed.len())), raw) {
            (Some(payload), _) => {
                header.unpacked = header.length;
                header.length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                Prepared::Packed(Packed { header, payload })
            }
            // it has been read already
            (None, Some(payload)) => Prepared::Packed(Packed { header, payload }),
            (None, None) => Prepared::Plain,
        }
    }

    /// Decompresses a frame that came, and verifies it.
    ///
    /// # Errors
    /// [`NetError::Protocol`] if its payload is not the content that its header announces.
    pub(super) async fn unpack(
        &self,
        frame: ReceivedFrame,
        buffers: &BufferPool,
    ) -> Result<ReceivedFrame, NetError> {
        let length = frame.header.unpacked as usize;
        if length == 0 {
            return Ok(frame);
        }
        self.count(length, frame.payload.len());
        let _permit = self.decoders.acquire().await;
        let buffers = buffers.clone();
        let work = move || decode(frame, &buffers);
        match length <= SHORT {
            true => work(),
            false => blocking(work).await,
        }
    }
}

/// Some bytes of the middle.
fn middle(bytes: &[u8]) -> &[u8] {
    let start = bytes.len().saturating_sub(SAMPLE) / 2;
    let rest = bytes.get(start..).unwrap_or_default();
    rest.get(..SAMPLE).unwrap_or(rest)
}

/// Encoders that are reused. Cheap to clone.
#[derive(Clone, Default)]
struct Contexts(Arc<Mutex<Vec<Compressor<'static>>>>);

impl Contexts {
    /// Compresses at a level of zstd; `None` if there is no memory.
    fn compress(&self, bytes: &[u8], level: i32) -> Option<Vec<u8>> {
        let idle = self.0.lock().pop();
        let mut encoder = idle.map_or_else(|| Compressor::new(level), Ok).ok()?;
        encoder.set_compression_level(level).ok()?;
        let packed = encoder.compress(bytes).ok();
        let mut idle = self.0.lock();
        if idle.len() < AT_ONCE {
            idle.push(encoder);
        }
        packed
    }

    /// True if a sample gets smaller.
    fn shrinks(&self, sample: &[u8]) -> bool {
        let packed = self.compress(sample, 1);
        packed.is_some_and(|packed| is_gain(sample.len(), packed.len()))
    }
}

/// A chunk's bytes, and its digest.
async fn read_all(chunk: &DeferredChunk) -> (Vec<u8>, [u8; 32]) {
    let (mut reading, mut piece) = (chunk.read(), Vec::new());
    let mut bytes = Vec::with_capacity(CHUNK_SIZE);
    while reading.next(&mut piece).await {
        bytes.extend_from_slice(&piece);
    }
    let digest = reading.digest();
    (bytes, digest)
}

/// Decompresses a frame whose header announces content, into a buffer of `buffers`, and verifies
/// it.
///
/// # Errors
/// [`NetError::Protocol`] if its payload is not that content.
pub fn decode(frame: ReceivedFrame, buffers: &BufferPool) -> Result<ReceivedFrame, NetError> {
    let mut header = frame.header;
    let length = header.unpacked as usize;
    let (mut bytes, start) = buffers.take_aligned(length);
    let end = start.saturating_add(length);
    let content = bytes.get_mut(start..end).unwrap_or_default();
    // it writes at most as many bytes as there is room for
    let decoded = zstd::bulk::decompress_to_buffer(&frame.payload, content);
    if decoded.ok() != Some(length) {
        return Err(NetError::Protocol("a compressed frame is not what its header says".into()));
    }
    let digest = match header.kind {
        FrameKind::Chunk => chunk_digest(header.offset, content),
        _ => {
            let mut hashing = Hashing::of_whole();
            hashing.update(content);
            hashing.digest()
        }
    };
    (header.length, header.unpacked) = (header.unpacked, 0);
    bytes.truncate(end);
    Ok(ReceivedFrame {
        header,
        payload: ReceivedBytes::Own(buffers.share_from(bytes, start)),
        intact: digest == header.digest,
        charge: frame.charge,
    })
}
