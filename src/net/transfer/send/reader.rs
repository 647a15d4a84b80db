//! The pump: wanted files become frames. Reads run in parallel, in the window's bounds, and leave in file order.

use crate::chunk::CHUNK_SIZE;
use crate::chunk::ahead::Ahead;
use crate::chunk::digest::Digest;
use crate::chunk::hole;
use crate::chunk::merge::Merge;
use crate::chunk::window::cost;
use crate::net::data::body::{ChunkRead, DeferredChunk, FrameBody};
use crate::net::session::SessionCore;
use crate::net::transfer::report::{Counters, Waiting};
use crate::net::transfer::send::layout::{Layout, Next};
use crate::net::transfer::send::reads::{
    Chunk, Job, OpenOnce, Wanted, check_unchanged, chunk_length, chunk_of, read_small,
};
use crate::net::wire::frame::{FrameHeader, FrameKind, VOID};
use crate::store::{ErrorKind, StoreError};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Jobs (a chunk, or a batch of small files) that are read at once.
const PARALLEL: usize = 6;
/// Small files in one job.
const BATCH_FILES: usize = 32;
/// Their bytes.
const BATCH_BYTES: u64 = CHUNK_SIZE as u64;

/// What the sender needs to know.
pub enum ReadEvent {
    /// All of this attempt at a file is on its way.
    Read {
        /// Its offer's number.
        number: u64,
        /// Which attempt.
        attempt: u8,
        /// Its hash, and how many bytes it has.
        read: (Digest, u64),
    },
    /// This attempt at it is not any more what was offered.
    Changed(u64, u8),
    /// It cannot be read, in this attempt.
    Failed(u64, u8, StoreError),
}

impl ReadEvent {
    /// Why this attempt at a file was not read to its end.
    pub(super) fn of_error(number: u64, attempt: u8, error: StoreError) -> ReadEvent {
        match error.kind {
            ErrorKind::SourceChanged => ReadEvent::Changed(number, attempt),
            _ => ReadEvent::Failed(number, attempt, error),
        }
    }
}

/// A job that has been planned and waits for room in the window.
enum Plan {
    Small(Vec<Wanted>),
    Chunk(Wanted, OpenOnce, u64),
    /// Offset and length.
    Hole(Wanted, u64, u64),
    Seal(Wanted, OpenOnce, Digest),
}

/// A larger file that is being read.
struct LargeFile {
    wanted: Wanted,
    source: OpenOnce,
    layout: Layout,
    offset: u64,
}

impl LargeFile {
    /// Its next job and the cost; `None` while nothing is known of what comes next.
    fn plan(&mut self) -> Result<Option<(Plan, u64)>, StoreError> {
        let (wanted, offset) = (self.wanted.clone(), self.offset);
        let (plan, length, cost) = match self.layout.next(offset) {
            Next::Chunk => {
                let length = chunk_length(&wanted, offset);
                let plan = Plan::Chunk(wanted, self.source.clone(), offset);
                (plan, length as u64, cost(length))
            }
            Next::Hole(length) => (Plan::Hole(wanted, offset, length), length, cost(0)),
            Next::Unknown => return Ok(None),
            Next::Failed(e) => return Err(e),
        };
        self.offset = offset.saturating_add(length);
        Ok(Some((plan, cost)))
    }
}

/// Waits until more is known of the layout of the file that is being read.
async fn layout_found(large: &mut Option<LargeFile>) {
    match large {
        Some(large) => large.layout.found().await,
        None => std::future::pending().await,
    }
}

/// A larger file whose hash is not known yet, of the attempt that is being read.
struct Hashed {
    wanted: Wanted,
    source: OpenOnce,
    merge: Merge,
}

/// Reads what is wanted until its sender is dropped.
pub struct FileReader {
    core: Arc<SessionCore>,
    transfer: u32,
    counters: Arc<Counters>,
    wanted: mpsc::UnboundedReceiver<Wanted>,
    out: mpsc::UnboundedSender<ReadEvent>,
    /// Files that the receiver has given up or settled: no more reads for them.
    stopped: Cancelled,
    queue: VecDeque<Wanted>,
    large: Option<LargeFile>,
    /// By offer.
    hashing: HashMap<u64, Hashed>,
    /// Files of which everything has been read.
    complete: VecDeque<Hashed>,
    /// Attempts at files of which everything has been read, and that are looked at once more.
    sealing: HashMap<u64, u8>,
    /// Connections tell of the chunks that they have read.
    read: mpsc::UnboundedReceiver<ChunkRead>,
    read_in: mpsc::UnboundedSender<ChunkRead>,
}

/// Numbers of files that need no more reading, set by the sender.
#[derive(Clone, Default)]
pub struct Cancelled(Arc<Mutex<HashSet<u64>>>);

impl Cancelled {
    fn set(&self) -> parking_lot::MutexGuard<'_, HashSet<u64>> {
        self.0.lock()
    }

    /// No more reads for this file.
    pub fn insert(&self, number: u64) {
        self.set().insert(number);
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.set().contains(&number)
    }
}

impl FileReader {
    /// A pump for a transfer of `link`.
    pub fn new(
        core: Arc<SessionCore>,
        transfer: u32,
        counters: Arc<Counters>,
        wanted: mpsc::UnboundedReceiver<Wanted>,
        out: mpsc::UnboundedSender<ReadEvent>,
        stopped: Cancelled,
    ) -> FileReader {
        let (read_in, read) = mpsc::unbounded_channel();
        FileReader {
            core,
            transfer,
            counters,
            wanted,
            out,
            stopped,
            queue: VecDeque::new(),
            large: None,
            hashing: HashMap::new(),
            complete: VecDeque::new(),
            sealing: HashMap::new(),
            read,
            read_in,
        }
    }

    /// Runs until nothing more can be wanted and everything has been read.
    pub async fn run(mut self) {
        let mut ahead: Ahead<Job> = Ahead::new(PARALLEL);
        let mut planned: Option<(Plan, u64)> = None;
        let mut open = true;
        let send_queue = self.core.send_queue.clone();
        loop {
            while let Ok(wanted) = self.wanted.try_recv() {
                self.queue.push_back(wanted);
            }
            if planned.is_none() && !ahead.is_full() {
                planned = self.plan();
            }
            if planned.is_none() && ahead.is_empty() && !open && self.hashing.is_empty() {
                return;
            }
            let needed = planned.as_ref().map_or(0, |(_, cost)| *cost);
            let since = Instant::now();
            let waiting = match (self.core.send_queue.is_queued(), &planned) {
                (true, _) => Waiting::Network,
                (false, Some(_)) if ahead.is_empty() => Waiting::Receiver,
                _ => Waiting::TransferSource,
            };
            let idle = planned.is_none() && ahead.is_empty();
            tokio::select! {
                biased;
                job = ahead.next(), if !ahead.is_empty() => if let Some(job) = job {
                    self.finish(job);
                },
                Some(read) = self.read.recv() => self.chunk_read(read),
                () = send_queue.reserve(self.transfer, needed), if planned.is_some() && !ahead.is_full() => {
                    if let Some((plan, _)) = planned.take() {
                        self.start(plan, &mut ahead);
                    }
                }
                () = layout_found(&mut self.large), if planned.is_none() && !ahead.is_full() => {}
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
        self.hashing.retain(|number, _| !self.stopped.contains(*number));
        while let Some(file) = self.complete.pop_front() {
            if let Some(hash) = file.merge.root().clone().root()
                && !self.stopped.contains(file.wanted.number)
            {
                self.sealing.insert(file.wanted.number, file.wanted.attempt);
                return Some((Plan::Seal(file.wanted, file.source, hash), cost(0)));
            }
        }
        loop {
            if let Some(large) = &mut self.large {
                if large.offset < large.wanted.size && !self.stopped.contains(large.wanted.number) {
                    match large.plan() {
                        Ok(plan) => return plan,
                        Err(e) => {
                            let of = (large.wanted.number, large.wanted.attempt);
                            self.gave_up(of, e);
                        }
                    }
                }
                self.large = None;
            }
            let next = self.queue.pop_front()?;
            if self.stopped.contains(next.number) {
                continue;
            }
            self.counters.started(next.path.as_bytes());
            if next.is_small() {
                return Some(self.plan_small(next));
            }
            let source = OpenOnce::default();
            let hashed = Hashed {
                wanted: next.clone(),
                source: source.clone(),
                merge: Merge::resume(next.offset, next.root.clone()),
            };
            self.hashing.insert(next.number, hashed);
            self.large = Some(LargeFile {
                layout: Layout::of(&next, &source, self.core.tasks()),
                source,
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

    fn start(&mut self, plan: Plan, ahead: &mut Ahead<Job>) {
        match plan {
            Plan::Small(batch) => ahead.start(read_small(batch)),
            Plan::Chunk(wanted, source, offset) => {
                let pool = self.core.pool().buffers().clone();
                ahead.start(async move {
                    let result = chunk_of(&wanted, &source, offset, &pool).await;
                    Job::Chunk(wanted, offset, result)
                });
            }
            Plan::Hole(wanted, offset, length) => {
                self.hole(&wanted, offset, length);
                ahead.start(async move { Job::Hole(wanted, hole::chunks(offset, length).await) });
            }
            Plan::Seal(wanted, source, hash) => ahead.start(async move {
                let result = check_unchanged(&wanted, &source).await;
                Job::Seal(wanted, hash, result)
            }),
        }
    }

    fn finish(&mut self, job: Job) {
        match job {
            Job::Small(batch) => {
                for (wanted, result) in batch {
                    let cost = small_cost(&wanted);
                    let read = result.map(|(bytes, digest)| {
                        let header = wanted.header(FrameKind::File, self.transfer, 0, bytes.len(), digest);
                        (header, self.share(bytes))
                    });
                    self.push(&wanted, read, cost);
                }
            }
            Job::Chunk(wanted, offset, result) => self.chunk(&wanted, offset, result),
            Job::Hole(wanted, chunks) => {
                for chunk in chunks {
                    let of = (wanted.number, wanted.attempt);
                    self.hashed(of, (chunk.offset, chunk.length), chunk.digest);
                }
            }
            Job::Seal(wanted, hash, result) => {
                if self.sealing.get(&wanted.number) != Some(&wanted.attempt) {
                    // given up, or begun anew, after this look was started
                    return self.core.send_queue.release(self.transfer, cost(0));
                }
                self.sealing.remove(&wanted.number);
                let read = result.map(|()| {
                    let header = wanted.header(FrameKind::End, self.transfer, wanted.size, 0, hash);
                    (header, self.share(Vec::new()))
                });
                self.push(&wanted, read, cost(0));
            }
        }
    }

    fn share(&self, bytes: Vec<u8>) -> FrameBody {
        FrameBody::Bytes(self.core.pool().buffers().share(bytes))
    }

    fn chunk(&mut self, wanted: &Wanted, offset: u64, result: Result<Chunk, StoreError>) {
        let length = chunk_length(wanted, offset);
        if !self.is_current(wanted.number, wanted.attempt) {
            // given up, or begun anew, after this read was started
            return self.core.send_queue.release(self.transfer, cost(length));
        }
        let header = |digest| wanted.header(FrameKind::Chunk, self.transfer, offset, length, digest);
        let read = match result {
            Ok(Chunk::Read(buffer, digest)) => {
                let frame = (header(digest), FrameBody::Bytes(buffer));
                self.hashed((wanted.number, wanted.attempt), (offset, length as u64), digest);
                Ok(frame)
            }
            Ok(Chunk::AtHand(source)) => {
                let (of, at) = ((wanted.number, wanted.attempt), (offset, length));
                let unread = DeferredChunk::new(source, of, at, self.read_in.clone());
                Ok((header(VOID), FrameBody::Deferred(unread)))
            }
            Err(e) => Err(e),
        };
        self.push(wanted, read, cost(length));
    }

    /// Queues a hole: the receiver hashes it meanwhile.
    fn hole(&mut self, wanted: &Wanted, offset: u64, length: u64) {
        if !self.is_current(wanted.number, wanted.attempt) {
            return self.core.send_queue.release(self.transfer, cost(0));
        }
        let header = wanted.header(FrameKind::Hole, self.transfer, offset, 0, VOID);
        let frame = (FrameHeader::of_hole(header, length), self.share(Vec::new()));
        self.push(wanted, Ok(frame), cost(0));
    }

    /// This attempt at a larger file is the one that is being read.
    fn is_current(&self, number: u64, attempt: u8) -> bool {
        let current = self.hashing.get(&number);
        current.is_some_and(|file| file.wanted.attempt == attempt)
    }

    /// A connection has read a chunk, or could not.
    fn chunk_read(&mut self, read: ChunkRead) {
        let of = (read.number, read.attempt);
        match read.digest {
            Ok(digest) => self.hashed(of, (read.offset, read.length as u64), digest),
            Err(e) => self.gave_up(of, e),
        }
    }

    fn hashed(&mut self, (number, attempt): (u64, u8), (offset, length): (u64, u64), digest: Digest) {
        let current = self.hashing.get_mut(&number);
        let Some(file) = current.filter(|file| file.wanted.attempt == attempt) else {
            return;
        };
        file.merge.insert(offset, length, digest);
        if file.merge.covered() >= file.wanted.size {
            self.complete.extend(self.hashing.remove(&number));
        }
    }

    /// Queues a frame, or gives its cost back.
    fn push(&mut self, wanted: &Wanted, read: Result<(FrameHeader, FrameBody), StoreError>, cost: u64) {
        let send_queue = &self.core.send_queue;
        match read {
            Ok((header, content)) if !self.stopped.contains(wanted.number) => {
                send_queue.push(header, content);
                // The receiver may have settled the file between the look and the push.
                if self.stopped.contains(wanted.number) {
                    send_queue.forget_file(self.transfer, wanted.number);
                } else if matches!(header.kind, FrameKind::File | FrameKind::End) {
                    let _ = self.out.send(ReadEvent::Read {
                        number: wanted.number,
                        attempt: wanted.attempt,
                        read: (header.digest, wanted.size),
                    });
                }
            }
            Ok(_) => send_queue.release(self.transfer, cost),
            Err(e) => {
                send_queue.release(self.transfer, cost);
                self.gave_up((wanted.number, wanted.attempt), e);
            }
        }
    }

    /// The file is not read further; the sender decides what becomes of it.
    fn gave_up(&mut self, (number, attempt): (u64, u8), error: StoreError) {
        let is_it = |wanted: &Wanted| wanted.number == number && wanted.attempt == attempt;
        self.hashing.retain(|_, file| !is_it(&file.wanted));
        self.complete.retain(|file| !is_it(&file.wanted));
        self.large.take_if(|large| is_it(&large.wanted));
        self.sealing.retain(|sealing, of| (*sealing, *of) != (number, attempt));
        let _ = self.out.send(ReadEvent::of_error(number, attempt, error));
    }
}

fn small_cost(wanted: &Wanted) -> u64 {
    cost(usize::try_from(wanted.size).unwrap_or(CHUNK_SIZE))
}

#[cfg(test)]
mod tests {
    use crate::chunk::buffer::BufferPool;
    use crate::chunk::digest::RootHasher;
    use crate::net::control::queue::ControlSender;
    use crate::net::session::SessionBounds;
    use crate::net::transfer::send::reader::*;
    use crate::store::local::LocalStore;
    use crate::store::{Allocation, RemotePath, Version};

    /// A connection may find that a chunk is another one when it reads it once more, while the file
    /// is looked at for the last time: then no seal is sent, and the file is not reported as read.
    #[tokio::test]
    async fn an_attempt_that_was_given_up_is_not_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let (control, _queue) = ControlSender::channel(1 << 20);
        let core = SessionCore::new(control, SessionBounds::of_client(1 << 20, 1 << 20), BufferPool::new(1));
        let channel = core.join(1).unwrap();
        let (_wanted, wanted) = mpsc::unbounded_channel();
        let (out, mut told) = mpsc::unbounded_channel();
        let mut reader = FileReader::new(core.clone(), 1, Arc::default(), wanted, out, Cancelled::default());
        let wanted = |attempt| Wanted {
            number: 7,
            attempt,
            store: Arc::new(LocalStore::open(dir.path()).unwrap()),
            path: RemotePath::parse(b"f").unwrap(),
            size: 1,
            allocation: Allocation::Dense,
            version: Version::Text(String::new()),
            offset: 0,
            root: RootHasher::default(),
        };
        let read = |attempt| {
            let mut merge = Merge::resume(0, RootHasher::default());
            merge.insert(0, 1, [1; 32]);
            merge.insert(1, 1, [2; 32]);
            Hashed {
                wanted: wanted(attempt),
                source: OpenOnce::default(),
                merge,
            }
        };
        let seal = |reader: &mut FileReader, attempt| match reader.plan() {
            Some((Plan::Seal(wanted, _, hash), _)) if wanted.attempt == attempt => (wanted, hash),
            _ => panic!("a seal was due"),
        };
        reader.complete.push_back(read(0));
        let (old, hash) = seal(&mut reader, 0);
        reader.gave_up((7, 0), StoreError::new(ErrorKind::SourceChanged, &old.path));
        assert!(matches!(told.try_recv(), Ok(ReadEvent::Changed(7, 0))));
        reader.complete.push_back(read(1));
        let (new, new_hash) = seal(&mut reader, 1);
        reader.finish(Job::Seal(old, hash, Ok(())));
        assert!(told.try_recv().is_err() && !core.send_queue.is_queued(), "given up");
        reader.finish(Job::Seal(new, new_hash, Ok(())));
        assert!(matches!(told.try_recv(), Ok(ReadEvent::Read { attempt: 1, .. })));
        assert!(core.send_queue.is_queued());
        drop(channel);
    }
}
