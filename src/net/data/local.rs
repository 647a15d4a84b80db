//! A data connection within this process: frames pass from the queue of one side to the other side
//! as they are, without records and without a copy.

use crate::chunk::buffer::BufferPool;
use crate::chunk::window::Window;
use crate::net::data::body::{DeferredChunk, FrameBody};
use crate::net::data::carry::{ReadFrames, WriteFrames};
use crate::net::data::pacer::Pacer;
use crate::net::data::payload::{ReceivedBytes, ReceivedFrame};
use crate::net::error::{LossReason, NetError};
use crate::net::wire::frame::{FrameHeader, VOID};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Flushes of one direction that the other side has not taken; then the writer waits.
const UNDER_WAY: usize = 16;

/// The two directions at each end of a connection. A chunk that is read as it is sent takes its
/// buffer from `pool`.
pub fn connect(pool: &BufferPool) -> [(LocalReader, LocalWriter); 2] {
    let (a_in, a_out) = mpsc::channel(UNDER_WAY);
    let (b_in, b_out) = mpsc::channel(UNDER_WAY);
    let reader = |frames| LocalReader {
        frames,
        ready: Vec::new().into_iter(),
        received: Arc::default(),
    };
    let writer = |out| LocalWriter {
        out,
        pool: pool.clone(),
        gathered: Vec::new(),
        sent: Arc::default(),
        pacer: Pacer::unlimited(),
    };
    [(reader(a_out), writer(b_in)), (reader(b_out), writer(a_in))]
}

/// The receiving direction.
pub struct LocalReader {
    frames: mpsc::Receiver<Vec<ReceivedFrame>>,
    ready: std::vec::IntoIter<ReceivedFrame>,
    received: Arc<AtomicU64>,
}

impl ReadFrames for LocalReader {
    async fn next(&mut self) -> Result<Option<ReceivedFrame>, NetError> {
        loop {
            if let Some(frame) = self.ready.next() {
                let bytes = frame.payload.len() as u64;
                self.received.fetch_add(bytes.saturating_add(1), Ordering::Relaxed);
                return Ok(Some(frame));
            }
            match self.frames.recv().await {
                Some(frames) => self.ready = frames.into_iter(),
                None => return Ok(None),
            }
        }
    }

    fn received(&self) -> Arc<AtomicU64> {
        self.received.clone()
    }

    /// A frame arrives whole: its route charges it.
    fn charge_to(&mut self, _: Window) {}

    /// The sending direction is limited: what arrives has been.
    fn limit_by(&mut self, _: Arc<Pacer>) {}
}

/// The sending direction.
pub struct LocalWriter {
    out: mpsc::Sender<Vec<ReceivedFrame>>,
    pool: BufferPool,
    gathered: Vec<ReceivedFrame>,
    sent: Arc<AtomicU64>,
    pacer: Arc<Pacer>,
}

impl LocalWriter {
    /// The bytes need no check: they are the ones in the sender's memory, from which it has their
    /// digest.
    fn gather(&mut self, header: FrameHeader, payload: ReceivedBytes) {
        let bytes = payload.len() as u64;
        self.sent.fetch_add(bytes.saturating_add(1), Ordering::Relaxed);
        self.gathered.push(ReceivedFrame {
            header,
            payload,
            intact: true,
            charge: None,
        });
    }

    /// Reads a deferred chunk. One that cannot be read is not sent: the sender knows of it.
    async fn read(&mut self, header: &FrameHeader, chunk: &DeferredChunk) -> Result<(), NetError> {
        let (mut bytes, start) = self.pool.take_aligned(header.length as usize);
        bytes.truncate(start);
        let (mut reading, mut piece) = (chunk.read(), Vec::new());
        while reading.next(&mut piece).await {
            bytes.extend_from_slice(&piece);
        }
        let digest = reading.digest();
        if digest == VOID {
            return Ok(());
        }
        let payload = ReceivedBytes::Own(self.pool.share_from(bytes, start));
        self.gather(FrameHeader { digest, ..*header }, payload);
        self.flush().await
    }
}

impl WriteFrames for LocalWriter {
    async fn writable(&self) -> Result<(), NetError> {
        self.out.reserve().await.map(drop).map_err(|_| gone())
    }

    async fn write(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), NetError> {
        let payload = self.pool.share(payload.to_vec());
        self.gather(*header, ReceivedBytes::Own(payload));
        Ok(())
    }

    async fn write_body(
        &mut self,
        header: &FrameHeader,
        body: &Arc<FrameBody>,
    ) -> Result<(), NetError> {
        match &**body {
            FrameBody::Bytes(_) => self.gather(*header, ReceivedBytes::Shared(body.clone())),
            FrameBody::Deferred(chunk) => self.read(header, chunk).await?,
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), NetError> {
        let bytes = self.gathered.iter().map(|frame| frame.payload.len());
        self.pacer.leave(bytes.sum()).await;
        self.flush_now().await
    }

    fn limit_by(&mut self, pacer: Arc<Pacer>) {
        self.pacer = pacer;
    }

    async fn flush_now(&mut self) -> Result<(), NetError> {
        match std::mem::take(&mut self.gathered) {
            none if none.is_empty() => Ok(()),
            frames => self.out.send(frames).await.map_err(|_| gone()),
        }
    }

    async fn close(self) {}

    fn sent(&self) -> Arc<AtomicU64> {
        self.sent.clone()
    }
}

fn gone() -> NetError {
    NetError::Lost(LossReason::CutByPeer)
}
