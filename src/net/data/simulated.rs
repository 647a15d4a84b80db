//! A data connection of the simulation: the bytes of real frames over a line that delays them,
//! carries so many a second, and may be cut or fall silent. Only the records layer is missing.

use crate::chunk::buffer::BufferPool;
use crate::chunk::window::Window;
use crate::net::data::assembler::FrameAssembler;
use crate::net::data::body::FrameBody;
use crate::net::data::carry::{ReadFrames, WRITE_STALL, WriteFrames};
use crate::net::data::pacer::Pacer;
use crate::net::data::payload::ReceivedFrame;
use crate::net::error::{LossReason, NetError};
use crate::net::wire::frame::FrameHeader;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// Messages that are on the line at once.
const ON_THE_LINE: usize = 16;

/// What a line is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineOptions {
    pub(crate) delay: Duration,
    pub(crate) bytes_per_second: u64,
}

/// What has happened to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineFault {
    None,
    /// It takes bytes and delivers none.
    Silent,
    /// Both sides see that it is gone.
    Cut,
}

/// A line between two sides; dropping it cuts it.
pub(crate) struct Line {
    fault: watch::Sender<LineFault>,
}

impl Line {
    /// A line, and the two directions at each end of it.
    pub(crate) fn new(options: LineOptions) -> (Line, [(SimulatedReader, SimulatedWriter); 2]) {
        let (fault, seen) = watch::channel(LineFault::None);
        let (a_in, a_out) = mpsc::channel(ON_THE_LINE);
        let (b_in, b_out) = mpsc::channel(ON_THE_LINE);
        let writer = |out| SimulatedWriter {
            options,
            out,
            fault: seen.clone(),
            gathered: Vec::new(),
            free_at: Instant::now(),
            sent: Arc::default(),
            pacer: Pacer::unlimited(),
        };
        let reader = |line| SimulatedReader {
            line,
            fault: seen.clone(),
            frames: FrameAssembler::new(BufferPool::new(2)),
            received: Arc::default(),
            pacer: Pacer::unlimited(),
        };
        let ends = [(reader(a_out), writer(b_in)), (reader(b_out), writer(a_in))];
        (Line { fault }, ends)
    }

    pub(crate) fn set(&self, fault: LineFault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.set(LineFault::Cut);
    }
}

async fn cut(fault: &mut watch::Receiver<LineFault>) -> NetError {
    let _ = fault.wait_for(|fault| *fault == LineFault::Cut).await;
    NetError::lost("cut by the simulation")
}

/// Bytes on the line, and when they arrive; none for the proper end.
type OnTheLine = (Instant, Option<Vec<u8>>);

/// The receiving direction.
pub(crate) struct SimulatedReader {
    line: mpsc::Receiver<OnTheLine>,
    fault: watch::Receiver<LineFault>,
    frames: FrameAssembler,
    received: Arc<AtomicU64>,
    pacer: Arc<Pacer>,
}

impl ReadFrames for SimulatedReader {
    async fn next(&mut self) -> Result<Option<ReceivedFrame>, NetError> {
        loop {
            if let Some(frame) = self.frames.next() {
                return Ok(Some(frame));
            }
            let arrives = async {
                let Some((at, bytes)) = self.line.recv().await else {
                    return Err(NetError::Lost(LossReason::CutByPeer));
                };
                sleep_until(at).await;
                // what is on a line that fell silent never arrives
                let mut heard = self.fault.clone();
                let _ = heard.wait_for(|fault| *fault != LineFault::Silent).await;
                Ok(bytes)
            };
            let mut fault = self.fault.clone();
            let bytes = tokio::select! {
                biased;
                lost = cut(&mut fault) => return Err(lost),
                bytes = arrives => bytes?,
            };
            let Some(bytes) = bytes else { return Ok(None) };
            self.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.pacer.enter(bytes.len()).await;
            self.frames.feed(&bytes)?;
        }
    }

    fn received(&self) -> Arc<AtomicU64> {
        self.received.clone()
    }

    fn charge_to(&mut self, window: Window) {
        self.frames.charge_to(window);
    }

    fn limit_by(&mut self, pacer: Arc<Pacer>) {
        self.pacer = pacer;
    }
}

/// The sending direction.
pub(crate) struct SimulatedWriter {
    options: LineOptions,
    out: mpsc::Sender<OnTheLine>,
    fault: watch::Receiver<LineFault>,
    gathered: Vec<u8>,
    /// When the line has carried everything that was sent.
    free_at: Instant,
    sent: Arc<AtomicU64>,
    pacer: Arc<Pacer>,
}

impl SimulatedWriter {
    async fn send(&mut self, bytes: Option<Vec<u8>>) -> Result<(), NetError> {
        let length = bytes.as_ref().map_or(0, Vec::len) as u64;
        let takes =
            Duration::from_micros(length.saturating_mul(1_000_000) / self.options.bytes_per_second);
        self.free_at = self.free_at.max(Instant::now()) + takes;
        let message = (self.free_at + self.options.delay, bytes);
        let mut fault = self.fault.clone();
        tokio::select! {
            biased;
            lost = cut(&mut fault) => return Err(lost),
            sent = timeout(WRITE_STALL, self.out.send(message)) => match sent {
                Ok(sent) => sent.map_err(|_| NetError::Lost(LossReason::CutByPeer))?,
                Err(_) => return Err(NetError::Lost(LossReason::DataStalled)),
            },
        }
        self.sent.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }
}

impl WriteFrames for SimulatedWriter {
    async fn writable(&self) -> Result<(), NetError> {
        let mut fault = self.fault.clone();
        tokio::select! {
            biased;
            lost = cut(&mut fault) => Err(lost),
            room = self.out.reserve() => match room {
                Ok(_) => Ok(()),
                Err(_) => Err(NetError::Lost(LossReason::CutByPeer)),
            },
        }
    }

    async fn write(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), NetError> {
        self.gathered.extend_from_slice(&header.encode());
        self.gathered.extend_from_slice(payload);
        self.gathered.extend_from_slice(header.trailer());
        Ok(())
    }

    async fn write_body(
        &mut self,
        header: &FrameHeader,
        body: &Arc<FrameBody>,
    ) -> Result<(), NetError> {
        let chunk = match &**body {
            FrameBody::Bytes(bytes) => return self.write(header, bytes).await,
            FrameBody::Deferred(chunk) => chunk,
        };
        self.gathered.extend_from_slice(&header.encode());
        let (mut reading, mut piece) = (chunk.read(), Vec::new());
        while reading.next(&mut piece).await {
            self.gathered.extend_from_slice(&piece);
        }
        self.gathered.extend_from_slice(&reading.digest());
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), NetError> {
        self.pacer.leave(self.gathered.len()).await;
        self.flush_now().await
    }

    async fn flush_now(&mut self) -> Result<(), NetError> {
        match std::mem::take(&mut self.gathered) {
            none if none.is_empty() => Ok(()),
            bytes => self.send(Some(bytes)).await,
        }
    }

    fn limit_by(&mut self, pacer: Arc<Pacer>) {
        self.pacer = pacer;
    }

    async fn close(mut self) {
        let _ = timeout(Duration::from_secs(1), self.send(None)).await;
    }

    fn sent(&self) -> Arc<AtomicU64> {
        self.sent.clone()
    }
}
