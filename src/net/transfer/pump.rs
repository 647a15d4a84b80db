//! The pump: wanted files become frames. Reads run in parallel, in the window's bounds, and leave in file order.

use super::reads::{Job, OpenOnce, Wanted, check_unchanged, chunk_length, read_chunk_of, read_small};
use super::{Counters, Waiting};
use crate::chunk::CHUNK_SIZE;
use crate::chunk::ahead::Ahead;
use crate::chunk::buffer::Buffer;
use crate::chunk::digest::{Digest, RootHasher, chunk_digest, whole_digest};
use crate::chunk::window::cost;
use crate::net::link::Link;
use crate::net::wire::frame::{FrameHeader, FrameKind};
use crate::store::{ErrorKind, StoreError};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

/// Jobs (a chunk, or a batch of small files) that are read at once.
const PARALLEL: usize = 6;
/// Small files in one job.
const BATCH_FILES: usize = 32;
/// Their bytes.
const BATCH_BYTES: u64 = CHUNK_SIZE as u64;

/// What the sender needs to know.
pub enum Pumped {
    /// All of a file is on its way; this is its hash.
    Read(u64, Digest),
    /// It is not any more what was offered.
    Changed(u64),
    /// It cannot be read.
    Failed(u64, StoreError),
}

/// A job that has been planned and waits for room in the window.
enum Plan {
    Small(Vec<Wanted>),
    Chunk(Wanted, OpenOnce, u64),
    Seal(Wanted, OpenOnce),
}

/// A larger file that is being read.
struct Large {
    wanted: Wanted,
    source: OpenOnce,
    offset: u64,
}

/// Reads what is wanted until its sender is dropped.
pub struct Pump {
    link: Arc<Link>,
    transfer: u32,
    counters: Arc<Counters>,
    wanted: mpsc::UnboundedReceiver<Wanted>,
    out: mpsc::UnboundedSender<Pumped>,
    /// Files that the receiver has given up or settled: no more reads for them.
    stopped: Stopped,
    queue: VecDeque<Wanted>,
    large: Option<Large>,
    /// By offer, of the attempt that is being read.
    roots: HashMap<u64, (u8, RootHasher)>,
}

/// Numbers of files that need no more reading, set by the sender.
#[derive(Clone, Default)]
pub struct Stopped(Arc<Mutex<HashSet<u64>>>);

impl Stopped {
    fn set(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No more reads for this file.
    pub fn insert(&self, number: u64) {
        self.set().insert(number);
    }

    fn contains(&self, number: u64) -> bool {
        self.set().contains(&number)
    }
}

impl Pump {
    /// A pump for a transfer of `link`.
    pub fn new(
        link: Arc<Link>,
        transfer: u32,
        counters: Arc<Counters>,
        wanted: mpsc::UnboundedReceiver<Wanted>,
        out: mpsc::UnboundedSender<Pumped>,
        stopped: Stopped,
    ) -> Pump {
        Pump {
            link,
            transfer,
            counters,
            wanted,
            out,
            stopped,
            queue: VecDeque::new(),
            large: None,
            roots: HashMap::new(),
        }
    }

    /// Runs until nothing more can be wanted and everything has been read.
    pub async fn run(mut self) {
        let mut ahead: Ahead<Job> = Ahead::new(PARALLEL);
        let mut planned: Option<(Plan, u64)> = None;
        let mut open = true;
        let outbox = self.link.outbox.clone();
        loop {
            while let Ok(wanted) = self.wanted.try_recv() {
                self.queue.push_back(wanted);
            }
            if planned.is_none() && !ahead.is_full() {
                planned = self.plan();
            }
            if planned.is_none() && ahead.is_empty() && !open {
                return;
            }
            let needed = planned.as_ref().map_or(0, |(_, cost)| *cost);
            let since = Instant::now();
            let waiting = match (self.link.outbox.is_queued(), &planned) {
                (true, _) => Waiting::Network,
                (false, Some(_)) if ahead.is_empty() => Waiting::Receiver,
                _ => Waiting::Source,
            };
            let idle = planned.is_none() && ahead.is_empty();
            tokio::select! {
                biased;
                job = ahead.next(), if !ahead.is_empty() => if let Some(job) = job {
                    self.finish(job);
                },
                () = outbox.reserve(self.transfer, needed), if planned.is_some() && !ahead.is_full() => {
                    if let Some((plan, _)) = planned.take() {
                        self.start(plan, &mut ahead);
                    }
                }
                wanted = self.wanted.recv(), if open => match wanted {
                    Some(wanted) => self.queue.push_back(wanted),
                    None => open = false,
                },
            }
            if !idle {
                self.counters.waited(waiting, since.elapsed());
            }
        }
    }

    /// The next job and its cost.
    fn plan(&mut self) -> Option<(Plan, u64)> {
        loop {
            if let Some(large) = &mut self.large {
                let (wanted, source, offset) = (large.wanted.clone(), large.source.clone(), large.offset);
                if self.stopped.contains(wanted.number) {
                    self.roots.remove(&wanted.number);
                    self.large = None;
                } else if offset < wanted.size {
                    let length = chunk_length(&wanted, offset);
                    large.offset = offset.saturating_add(length as u64);
                    return Some((Plan::Chunk(wanted, source, offset), cost(length)));
                } else {
                    self.large = None;
                    return Some((Plan::Seal(wanted, source), cost(0)));
                }
            }
            let next = self.queue.pop_front()?;
            if self.stopped.contains(next.number) {
                continue;
            }
            self.counters.started(next.path.as_bytes());
            if next.is_small() {
                return Some(self.plan_small(next));
            }
            self.roots.insert(next.number, (next.attempt, next.root.clone()));
            self.large = Some(Large {
                source: OpenOnce::default(),
                offset: next.offset,
                wanted: next,
            });
        }
    }

    fn plan_small(&mut self, first: Wanted) -> (Plan, u64) {
        let mut bytes = first.size;
        let mut batch = vec![first];
        while batch.len() < BATCH_FILES {
            let fits = |w: &Wanted| {
                w.is_small()
                    && bytes.saturating_add(w.size) <= BATCH_BYTES
                    && batch.first().is_some_and(|f| Arc::ptr_eq(&f.store, &w.store))
            };
            match self.queue.pop_front() {
                Some(next) if fits(&next) => {
                    bytes = bytes.saturating_add(next.size);
                    batch.push(next);
                }
                Some(next) => {
                    self.queue.push_front(next);
                    break;
                }
                None => break,
            }
        }
        let cost = batch.iter().map(small_cost).fold(0, u64::saturating_add);
        (Plan::Small(batch), cost)
    }

    fn start(&self, plan: Plan, ahead: &mut Ahead<Job>) {
        match plan {
            Plan::Small(batch) => ahead.start(read_small(batch)),
            Plan::Chunk(wanted, source, offset) => {
                let pool = self.link.pool().buffers().clone();
                ahead.start(async move {
                    let result = read_chunk_of(&wanted, &source, offset, &pool).await;
                    Job::Chunk(wanted, offset, result)
                });
            }
            Plan::Seal(wanted, source) => ahead.start(async move {
                let result = check_unchanged(&wanted, &source).await;
                Job::Seal(wanted, result)
            }),
        }
    }

    fn finish(&mut self, job: Job) {
        match job {
            Job::Small(batch) => {
                for (wanted, result) in batch {
                    let cost = small_cost(&wanted);
                    let read = result.map(|(bytes, digest)| {
                        let header = wanted.header(FrameKind::Whole, self.transfer, 0, bytes.len(), digest);
                        (header, self.link.pool().buffers().share(bytes))
                    });
                    self.push(&wanted, read, cost);
                }
            }
            Job::Chunk(wanted, offset, result) => {
                let cost = cost(chunk_length(&wanted, offset));
                let Some((_, root)) = self
                    .roots
                    .get_mut(&wanted.number)
                    .filter(|(attempt, _)| *attempt == wanted.attempt)
                else {
                    // given up, or begun anew, after this read was started
                    return self.link.outbox.release(self.transfer, cost);
                };
                let read = result.map(|(buffer, digest)| {
                    root.push(digest);
                    (
                        wanted.header(FrameKind::Chunk, self.transfer, offset, buffer.len(), digest),
                        buffer,
                    )
                });
                self.push(&wanted, read, cost);
            }
            Job::Seal(wanted, result) => {
                let current = self
                    .roots
                    .get(&wanted.number)
                    .is_some_and(|(attempt, _)| *attempt == wanted.attempt);
                let root = if current {
                    self.roots.remove(&wanted.number)
                } else {
                    None
                };
                let Some(hash) = root.and_then(|(_, root)| root.root()) else {
                    return self.link.outbox.release(self.transfer, cost(0));
                };
                let read = result.map(|()| {
                    let header = wanted.header(FrameKind::Seal, self.transfer, wanted.size, 0, hash);
                    (header, self.link.pool().buffers().share(Vec::new()))
                });
                self.push(&wanted, read, cost(0));
            }
        }
    }

    /// Queues a frame, or gives its cost back.
    fn push(&mut self, wanted: &Wanted, read: Result<(FrameHeader, Buffer), StoreError>, cost: u64) {
        let outbox = &self.link.outbox;
        match read {
            Ok((header, payload)) if !self.stopped.contains(wanted.number) => {
                outbox.push(header, payload);
                // The receiver may have settled the file between the look and the push.
                if self.stopped.contains(wanted.number) {
                    outbox.forget_file(self.transfer, wanted.number);
                } else if header.kind != FrameKind::Chunk {
                    let _ = self.out.send(Pumped::Read(wanted.number, header.digest));
                }
            }
            Ok(_) => outbox.release(self.transfer, cost),
            Err(e) => {
                outbox.release(self.transfer, cost);
                self.gave_up(wanted, e);
            }
        }
    }

    /// The file is not read further; the sender decides what becomes of it.
    fn gave_up(&mut self, wanted: &Wanted, error: StoreError) {
        self.roots.remove(&wanted.number);
        if self.large.as_ref().is_some_and(|l| l.wanted.number == wanted.number) {
            self.large = None;
        }
        let _ = self.out.send(match error.kind {
            ErrorKind::SourceChanged => Pumped::Changed(wanted.number),
            _ => Pumped::Failed(wanted.number, error),
        });
    }
}

fn small_cost(wanted: &Wanted) -> u64 {
    cost(usize::try_from(wanted.size).unwrap_or(CHUNK_SIZE))
}

/// Sends a stream as file `number`: chunk after chunk, as they come, never more than the window in memory.
///
/// # Errors
/// That of reading the stream.
pub async fn pump_stream(
    link: &Arc<Link>,
    transfer: u32,
    number: u64,
    mut stream: Box<dyn AsyncRead + Send + Unpin>,
    counters: &Counters,
) -> Result<Digest, std::io::Error> {
    let pool = link.pool().buffers().clone();
    let header = |kind, offset, length: usize, digest| FrameHeader {
        kind,
        attempt: 0,
        transfer,
        number,
        offset,
        length: u32::try_from(length).unwrap_or(u32::MAX),
        digest,
    };
    // One chunk is read ahead: whether the first is the only one decides what it travels as.
    let mut chunk = read_chunk(&mut stream, pool.take(CHUNK_SIZE)).await?;
    let mut next = match chunk.len() {
        CHUNK_SIZE => read_chunk(&mut stream, pool.take(CHUNK_SIZE)).await?,
        _ => Vec::new(),
    };
    if next.is_empty() {
        let hash = whole_digest(&chunk);
        link.outbox.reserve(transfer, cost(chunk.len())).await;
        Counters::add(&counters.bytes_found, chunk.len() as u64);
        link.outbox
            .push(header(FrameKind::Whole, 0, chunk.len(), hash), pool.share(chunk));
        return Ok(hash);
    }
    let (mut offset, mut root) = (0_u64, RootHasher::default());
    while !chunk.is_empty() {
        let digest = chunk_digest(offset, &chunk);
        root.push(digest);
        let length = chunk.len();
        link.outbox.reserve(transfer, cost(length)).await;
        Counters::add(&counters.bytes_found, length as u64);
        link.outbox
            .push(header(FrameKind::Chunk, offset, length, digest), pool.share(chunk));
        offset = offset.saturating_add(length as u64);
        chunk = next;
        next = match chunk.len() {
            CHUNK_SIZE => read_chunk(&mut stream, pool.take(CHUNK_SIZE)).await?,
            _ => Vec::new(),
        };
    }
    let hash = root.root().unwrap_or([0; 32]);
    link.outbox.reserve(transfer, cost(0)).await;
    link.outbox
        .push(header(FrameKind::Seal, offset, 0, hash), pool.share(Vec::new()));
    Ok(hash)
}

/// A full chunk, or less at the end of the stream.
async fn read_chunk(stream: &mut (impl AsyncRead + Unpin), mut buffer: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match stream.read(room).await? {
            0 => break,
            n => filled = filled.saturating_add(n),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}
