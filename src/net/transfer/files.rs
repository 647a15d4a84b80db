//! The wanted files of a receiver: small ones go into groups, larger ones are staged, reassembled and committed.
//!
//! A larger file goes through these states:
//!
//! ```text
//! Opening ──staged──▶ Idle ──part ready──▶ Busy ──written──▶ Idle … ──all there──▶ Busy (commit) ──▶ settled
//!    ▲                                      │
//!    └──────── restart: the source changed ─┘
//! ```

use super::Options;
use super::groups::{Grouped, Groups};
use super::target::{Candidate, Target};
use crate::chunk::CHUNK_SIZE;
use crate::chunk::digest::Digest;
use crate::chunk::reassembly::{Inserted, Mismatch, Reassembly};
use crate::net::error::{NetError, code_of};
use crate::net::link::Seat;
use crate::net::payload::Arrived;
use crate::net::wire::Code;
use crate::net::wire::frame::FrameKind;
use crate::store::{Attributes, Bytes, Checkpoint, Content, Kind, Left, RemotePath, Staging, StoreError, Time};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Larger files that are staged at once: each has a file open.
const STAGED: usize = 64;
/// Bytes after which a larger file is made durable as far as it is, when some time has gone by, too.
const KEEP_BYTES: u64 = 64 << 20;
/// That time.
const KEEP_PAUSE: Duration = Duration::from_secs(1);
/// Time after which it is made durable however little has come.
const KEEP_TIME: Duration = Duration::from_secs(5);
/// The same for a stream, whose reader may be slow.
const SUSPEND_STREAM: Duration = Duration::from_secs(3600);
/// Bytes that may be written, and told of as written, behind a chunk that is missing: what is lost when it never comes.
const AHEAD: u64 = 64 << 20;
/// How far behind a missing chunk one may come at all: with this much not told of and the largest window there is.
const FARTHEST: u64 = AHEAD + (128 << 20);
/// How long the end of a transfer waits for what is being written, and again for it to be made durable.
const SUSPEND: Duration = Duration::from_secs(5);

/// What became known of a file.
pub(super) enum FileEvent {
    /// Its staging file is open: its content may come, from where an earlier writer ended.
    Want {
        number: u64,
        from: Checkpoint,
        /// Bytes of another version of the source that were left, and are gone.
        discarded: u64,
    },
    /// A chunk is written.
    Written { number: u64, offset: u64, length: u64 },
    /// It is there.
    Committed {
        number: u64,
        hash: Option<Digest>,
        size: u64,
        version: String,
        /// It came in one piece, and no chunk was reported as written.
        grouped: bool,
    },
    /// It is given up.
    Failed { number: u64, code: Code, text: String },
}

/// A job of this module that has ended.
pub(super) enum Settled {
    /// Opened, or emptied, for this version of the source.
    Staged(
        u64,
        Option<String>,
        Result<Box<dyn Staging>, StoreError>,
        OwnedSemaphorePermit,
    ),
    Written(u64, Box<dyn Staging>, Vec<(u64, usize)>, Result<(), StoreError>),
    Kept(u64, Result<(), StoreError>),
    Committed(u64, u64, Digest, Result<String, StoreError>),
    Group(Vec<Grouped>, Vec<Result<String, StoreError>>),
    Retry(Grouped),
}

struct Small {
    path: RemotePath,
    attributes: Attributes,
    attempt: u8,
    size: u64,
}

struct Large {
    attributes: Attributes,
    attempt: u8,
    /// None: a stream.
    size: Option<u64>,
    /// The version of the source.
    source: Option<String>,
    /// Its hash, where it was offered with one.
    hash: Option<Digest>,
    reassembly: Reassembly<Bytes>,
    state: State,
    permit: Option<OwnedSemaphorePermit>,
    /// What is written, and as far as which it has been made durable, or is being.
    written: Checkpoint,
    kept: u64,
    kept_at: Instant,
    keeping: bool,
    /// Chunks that are written far ahead of one that is missing: not told of yet, so that the sender's window closes.
    ahead: Vec<(u64, usize)>,
}

enum State {
    /// The lock is being waited for, or the staging file emptied.
    Opening,
    Idle(Box<dyn Staging>),
    Busy,
    /// Busy with a part of an attempt that is out of date.
    Stale,
}

enum File {
    Small(Small),
    Large(Box<Large>),
}

/// All wanted files of one transfer.
pub(super) struct Files {
    target: Target,
    options: Options,
    files: HashMap<u64, File>,
    groups: Groups,
    opening: Arc<Semaphore>,
    /// What waits for a lock, or for its turn: ends with the transfer.
    openers: JoinSet<()>,
    jobs: mpsc::UnboundedSender<Settled>,
}

impl Files {
    pub(super) fn new(target: Target, options: Options) -> (Files, mpsc::UnboundedReceiver<Settled>) {
        let (jobs, settled) = mpsc::unbounded_channel();
        let files = Files {
            groups: Groups::new(target.clone(), options.clone(), jobs.clone()),
            target,
            options,
            files: HashMap::new(),
            opening: Arc::new(Semaphore::new(STAGED)),
            openers: JoinSet::new(),
            jobs,
        };
        (files, settled)
    }

    /// Takes a file on. True when its content may be asked for at once.
    pub(super) fn want(&mut self, candidate: Candidate) -> bool {
        let Candidate {
            number,
            path,
            kind,
            size,
            attributes,
            target,
            hash,
            version,
            content,
        } = candidate;
        if kind == Kind::Symlink {
            self.groups
                .gather(number, path, Content::Link(target), attributes, None);
            return false;
        }
        if let (Some((bytes, digest)), Target::Tree(_)) = (content, &self.target) {
            let file = Some((digest, bytes.len(), false));
            self.groups
                .gather(number, path, Content::File(Arc::new(bytes)), attributes, file);
            return false;
        }
        match (size, &self.target) {
            (Some(size), Target::Tree(_)) if size <= CHUNK_SIZE as u64 => {
                let small = Small {
                    path,
                    attributes,
                    attempt: 0,
                    size,
                };
                self.files.insert(number, File::Small(small));
                true
            }
            _ => {
                let large = Large::new(size, attributes, 0, version, hash);
                self.take_on_large(number, path, large);
                false
            }
        }
    }

    fn take_on_large(&mut self, number: u64, path: RemotePath, large: Large) {
        let (target, options, jobs) = (self.target.clone(), self.options.clone(), self.jobs.clone());
        let (opening, source) = (self.opening.clone(), large.source.clone());
        let deadline = self.options.wait.map(|wait| Instant::now() + wait);
        self.files.insert(number, File::Large(Box::new(large)));
        while self.openers.try_join_next().is_some() {}
        self.openers.spawn(async move {
            // fair: files are opened in the order in which they were offered, and that is how they will come
            let Ok(permit) = opening.acquire_owned().await else {
                return;
            };
            let staged = target.stage(&path, &options, source.clone(), deadline).await;
            let _ = jobs.send(Settled::Staged(number, source, staged, permit));
        });
    }

    /// True when [`Files::start_gathered`] would start something.
    pub(super) fn has_gathered(&self) -> bool {
        self.groups.is_ready()
    }

    /// Puts the small files that were gathered.
    pub(super) fn start_gathered(&mut self) {
        self.groups.start();
    }

    /// True when the next frames wait for the store. Making durable goes on beside that; very many files are not asked.
    pub(super) fn is_busy(&self) -> bool {
        let busy = |file: &File| matches!(file, File::Large(large) if matches!(large.state, State::Busy));
        self.groups.is_busy() || (self.files.len() < STAGED && self.files.values().any(busy))
    }

    /// True when anything is under way that the sender has to wait for: the same, however many files there are.
    pub(super) fn is_working(&self) -> bool {
        self.groups.is_busy() || self.files.values().any(File::is_worked_on)
    }

    /// True when content is missing that only the sender can give. Streams take as long as they take.
    pub(super) fn waits_for_sender(&self) -> bool {
        !self.groups.is_busy()
            && self.files.values().any(|file| match file {
                File::Small(_) => true,
                File::Large(large) => large.size.is_some() && matches!(large.state, State::Idle(_)),
            })
    }

    /// A frame arrived.
    pub(super) fn frame(&mut self, frame: Arrived, seat: &Seat) -> Result<Vec<FileEvent>, NetError> {
        let (header, payload) = (frame.header, frame.payload);
        let (number, length) = (header.number, payload.len());
        match self.files.get_mut(&number) {
            Some(File::Small(small)) if small.attempt == header.attempt => {
                let fits = header.kind == FrameKind::Whole && small.size == length as u64;
                if !frame.intact || !fits {
                    seat.done(length);
                    return Ok(self.damaged(number, seat));
                }
                let Some(File::Small(small)) = self.files.remove(&number) else {
                    return Ok(Vec::new());
                };
                let content = Content::File(Arc::new(payload));
                let file = Some((header.digest, length, true));
                self.groups.gather(number, small.path, content, small.attributes, file);
                Ok(Vec::new())
            }
            Some(File::Large(large)) if large.attempt == header.attempt => {
                if !frame.intact || matches!(large.state, State::Opening | State::Stale) {
                    seat.done(length);
                    return Ok(self.damaged(number, seat));
                }
                if header.kind == FrameKind::Chunk
                    && header.offset > large.reassembly.next_offset().saturating_add(FARTHEST)
                {
                    return Err(NetError::Protocol("it sends more than its window allows".into()));
                }
                let mut events = Vec::new();
                let bytes: Bytes = Arc::new(payload);
                let inserted = match header.kind {
                    FrameKind::Whole => large.reassembly.insert_whole(length as u64, header.digest, bytes),
                    FrameKind::Seal => large
                        .reassembly
                        .seal(header.offset, header.digest)
                        .map(|()| Inserted::New),
                    _ => large
                        .reassembly
                        .insert(header.offset, length as u64, header.digest, bytes),
                };
                match inserted {
                    // a seal and an empty file carry nothing that is written later
                    Ok(Inserted::New) if length == 0 => {
                        seat.done(0);
                        // acknowledged now: the commit may take longer than the sender waits for an ack
                        events.push(FileEvent::Written {
                            number,
                            offset: header.offset,
                            length: 0,
                        });
                    }
                    Ok(Inserted::New) => {}
                    Ok(Inserted::Duplicate) => seat.done(length),
                    Err(e) => {
                        seat.done(length);
                        return Ok(self.mismatch(number, e, seat));
                    }
                }
                events.extend(self.advance(number, seat));
                Ok(events)
            }
            // of a file that is settled, or of an attempt that is out of date
            _ => {
                seat.done(length);
                Ok(Vec::new())
            }
        }
    }

    fn damaged(&mut self, number: u64, seat: &Seat) -> Vec<FileEvent> {
        let text = "what arrived is not what its header says".into();
        self.fail(number, Code::MALFORMED, text, seat)
    }

    fn mismatch(&mut self, number: u64, why: Mismatch, seat: &Seat) -> Vec<FileEvent> {
        self.fail(number, Code::MALFORMED, why.to_string(), seat)
    }

    fn fail(&mut self, number: u64, code: Code, text: String, seat: &Seat) -> Vec<FileEvent> {
        self.give_up(number, seat);
        vec![FileEvent::Failed { number, code, text }]
    }

    fn fail_store(&mut self, number: u64, error: &StoreError, seat: &Seat) -> Vec<FileEvent> {
        self.fail(number, code_of(&error.kind), error.describe(), seat)
    }

    /// Nothing more of this file: what came is dropped, what was staged removed.
    pub(super) fn give_up(&mut self, number: u64, seat: &Seat) {
        if let Some(File::Large(large)) = self.files.remove(&number) {
            drop_waiting(large.reassembly, seat);
            if let State::Idle(staging) = large.state {
                tokio::spawn(staging.discard());
            }
        }
    }

    /// The source changed: the file starts anew. True when its content may be asked for at once.
    pub(super) fn restart(
        &mut self,
        number: u64,
        (attempt, size, attributes): (u8, u64, Attributes),
        version: Option<String>,
        seat: &Seat,
    ) -> bool {
        match self.files.get_mut(&number) {
            Some(File::Small(small)) if size <= CHUNK_SIZE as u64 => {
                (small.attempt, small.size, small.attributes) = (attempt, size, attributes);
                true
            }
            Some(File::Small(small)) => {
                let path = small.path.clone();
                let large = Large::new(Some(size), attributes, attempt, version, None);
                self.take_on_large(number, path, large);
                false
            }
            Some(File::Large(large)) => {
                let anew = Large::new(Some(size), attributes, attempt, version, None);
                let old = std::mem::replace(&mut **large, anew);
                (large.permit, large.keeping) = (old.permit, old.keeping);
                drop_waiting(old.reassembly, seat);
                match old.state {
                    State::Idle(staging) => self.empty(number, staging),
                    State::Opening => {}
                    State::Busy | State::Stale => large.state = State::Stale,
                }
                false
            }
            None => false,
        }
    }

    fn empty(&mut self, number: u64, mut staging: Box<dyn Staging>) {
        let Some(File::Large(large)) = self.files.get_mut(&number) else {
            return;
        };
        large.state = State::Opening;
        let (permit, source, jobs) = (large.permit.take(), large.source.clone(), self.jobs.clone());
        let Some(permit) = permit else { return };
        tokio::spawn(async move {
            let emptied = staging.restart(source.clone()).await;
            let _ = jobs.send(Settled::Staged(number, source, emptied.map(|()| staging), permit));
        });
    }

    /// Starts the next job of a larger file if one is due.
    fn advance(&mut self, number: u64, seat: &Seat) -> Vec<FileEvent> {
        let rules = self.target.part_rules();
        let Some(File::Large(large)) = self.files.get_mut(&number) else {
            return Vec::new();
        };
        let State::Idle(mut staging) = std::mem::replace(&mut large.state, State::Busy) else {
            return Vec::new();
        };
        let jobs = self.jobs.clone();
        let keeping = large.keeping;
        if let Some(part) = large.reassembly.take_part(&rules) {
            tokio::spawn(async move {
                let sizes = part
                    .chunks
                    .iter()
                    .map(|(offset, bytes)| (*offset, (**bytes).as_ref().len()))
                    .collect();
                let bytes = part.chunks.into_iter().map(|(_, bytes)| bytes).collect();
                let written = staging.write(part.offset, bytes).await;
                let _ = jobs.send(Settled::Written(number, staging, sizes, written));
            });
            return Vec::new();
        }
        match large.reassembly.complete() {
            // An fsync tells of an error once: it must not be the keeper's that hears of it, and the commit's that succeeds.
            Ok(Some(_)) if keeping => {
                large.state = State::Idle(staging);
                Vec::new()
            }
            Ok(Some((_, hash))) if large.hash.is_some_and(|offered| offered != hash) => {
                large.state = State::Idle(staging);
                self.mismatch(number, Mismatch::Hash, seat)
            }
            Ok(Some((size, hash))) if large.size.is_none_or(|offered| offered == size) => {
                let mut attributes = large.attributes;
                if large.size.is_none() {
                    attributes.mtime = now();
                }
                tokio::spawn(async move {
                    let committed = staging.commit(size, attributes).await;
                    let _ = jobs.send(Settled::Committed(number, size, hash, committed));
                });
                Vec::new()
            }
            Ok(None) => {
                large.state = State::Idle(staging);
                Vec::new()
            }
            Ok(Some(_)) => {
                large.state = State::Idle(staging);
                self.mismatch(number, Mismatch::Shape, seat)
            }
            Err(e) => {
                large.state = State::Idle(staging);
                self.mismatch(number, e, seat)
            }
        }
    }

    /// A job has ended.
    pub(super) fn ended(&mut self, job: Settled, seat: &Seat) -> Vec<FileEvent> {
        match job {
            Settled::Staged(number, source, staged, permit) => self.staged(number, source, staged, permit, seat),
            Settled::Written(number, staging, sizes, result) => self.written(number, staging, sizes, result, seat),
            Settled::Committed(number, size, hash, result) => match result {
                Ok(version) if self.files.remove(&number).is_some() => {
                    let hash = Some(hash);
                    vec![FileEvent::Committed {
                        number,
                        hash,
                        size,
                        version,
                        grouped: false,
                    }]
                }
                Ok(_) => Vec::new(),
                Err(e) => self.fail_store(number, &e, seat),
            },
            Settled::Kept(number, result) => {
                if let Some(File::Large(large)) = self.files.get_mut(&number) {
                    large.keeping = false;
                }
                match result {
                    Ok(()) => self.advance(number, seat),
                    // an fsync that failed once is not asked again
                    Err(e) => self.fail_store(number, &e, seat),
                }
            }
            Settled::Group(group, results) => self.groups.ended(group, results, seat),
            Settled::Retry(member) => {
                self.groups.retry(member);
                Vec::new()
            }
        }
    }

    fn staged(
        &mut self,
        number: u64,
        source: Option<String>,
        staged: Result<Box<dyn Staging>, StoreError>,
        permit: OwnedSemaphorePermit,
        seat: &Seat,
    ) -> Vec<FileEvent> {
        match (staged, self.files.get_mut(&number)) {
            (Ok(staging), Some(File::Large(large))) => {
                large.permit = Some(permit);
                if source != large.source {
                    // the source changed while this was opened
                    self.empty(number, staging);
                    return Vec::new();
                }
                let (from, discarded) = match large.take_over(staging.left()) {
                    Ok(found) => found,
                    // what is left makes no sense: it is emptied like that of another version
                    Err(()) => {
                        self.empty(number, staging);
                        return Vec::new();
                    }
                };
                large.state = State::Idle(staging);
                vec![FileEvent::Want {
                    number,
                    from,
                    discarded,
                }]
            }
            (Ok(staging), _) => {
                tokio::spawn(staging.discard());
                Vec::new()
            }
            (Err(e), Some(_)) => self.fail_store(number, &e, seat),
            (Err(_), None) => Vec::new(),
        }
    }

    fn written(
        &mut self,
        number: u64,
        staging: Box<dyn Staging>,
        sizes: Vec<(u64, usize)>,
        result: Result<(), StoreError>,
        seat: &Seat,
    ) -> Vec<FileEvent> {
        for (_, length) in &sizes {
            seat.done(*length);
        }
        let Some(File::Large(large)) = self.files.get_mut(&number) else {
            tokio::spawn(staging.discard());
            return Vec::new();
        };
        if matches!(large.state, State::Stale) {
            self.empty(number, staging);
            return Vec::new();
        }
        if result.is_ok() {
            let (offset, digests) = large.reassembly.taken();
            large.written = Checkpoint { offset, digests };
            if large.is_keep_due() {
                large.keep(number, &*staging, &self.jobs);
            }
        }
        large.state = State::Idle(staging);
        if let Err(e) = result {
            return self.fail_store(number, &e, seat);
        }
        large.ahead.extend(sizes);
        let most = large.written.offset.saturating_add(AHEAD);
        let told = large.ahead.extract_if(.., |(offset, _)| *offset <= most);
        let written = |(offset, length): (u64, usize)| FileEvent::Written {
            number,
            offset,
            length: length as u64,
        };
        let mut events: Vec<FileEvent> = told.map(written).collect();
        events.extend(self.advance(number, seat));
        events
    }
}

impl Files {
    /// The transfer ends before it is complete: what has been written of larger files is made durable, so that the next
    /// one goes on from there. Both waits are bounded.
    pub(super) async fn suspend(mut self, mut settled: mpsc::UnboundedReceiver<Settled>) {
        self.openers.abort_all();
        let mut groups = self.groups.running();
        let written = async {
            while self.files.values().any(File::is_worked_on) || groups > 0 {
                match settled.recv().await {
                    Some(Settled::Written(number, staging, _, Ok(()))) => {
                        if let Some(File::Large(large)) = self.files.get_mut(&number) {
                            let (offset, digests) = large.reassembly.taken();
                            (large.written, large.state) = (Checkpoint { offset, digests }, State::Idle(staging));
                        }
                    }
                    Some(Settled::Kept(number, Ok(()))) => {
                        if let Some(File::Large(large)) = self.files.get_mut(&number) {
                            large.keeping = false;
                        }
                    }
                    Some(
                        Settled::Committed(number, ..) | Settled::Written(number, ..) | Settled::Kept(number, _),
                    ) => drop(self.files.remove(&number)),
                    Some(Settled::Group(..)) => groups = groups.saturating_sub(1),
                    Some(_) => {}
                    None => return,
                }
            }
        };
        // what has begun to go out on a stream goes on, as slowly as it is read, and then counts
        let most = match self.target {
            Target::Tree(_) => SUSPEND,
            Target::Stream(_) => SUSPEND_STREAM,
        };
        let _ = tokio::time::timeout(most, written).await;
        let mut keeping = JoinSet::new();
        for (_, file) in self.files {
            let File::Large(large) = file else { continue };
            if let State::Idle(staging) = large.state
                && large.written.offset > large.kept
                && let Some(keeper) = staging.keeper()
            {
                let point = large.written;
                keeping.spawn(async move {
                    let _ = keeper.keep(point).await;
                    drop(staging);
                });
            }
        }
        let all = async { while keeping.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(SUSPEND, all).await;
        keeping.detach_all();
    }
}

impl File {
    /// True while a job writes it, or makes it durable.
    fn is_worked_on(&self) -> bool {
        match self {
            File::Large(large) => large.keeping || matches!(large.state, State::Busy | State::Stale),
            File::Small(_) => false,
        }
    }
}

impl Large {
    fn new(
        size: Option<u64>,
        attributes: Attributes,
        attempt: u8,
        source: Option<String>,
        hash: Option<Digest>,
    ) -> Large {
        Large {
            attributes,
            attempt,
            size,
            source,
            hash,
            reassembly: Reassembly::default(),
            state: State::Opening,
            permit: None,
            written: Checkpoint::default(),
            kept: 0,
            kept_at: Instant::now(),
            keeping: false,
            ahead: Vec::new(),
        }
    }

    /// Goes on where an earlier writer ended; says from where, and how many bytes of another version were left.
    fn take_over(&mut self, left: Left) -> Result<(Checkpoint, u64), ()> {
        self.kept_at = Instant::now();
        match left {
            Left::Part(point) => {
                let fits = self.size.is_some_and(|size| point.offset < size);
                let reassembly = Reassembly::resume(point.offset, point.digests.clone());
                self.reassembly = reassembly.filter(|_| fits).ok_or(())?;
                (self.written, self.kept) = (point.clone(), point.offset);
                Ok((point, 0))
            }
            Left::Other(bytes) => Ok((Checkpoint::default(), bytes)),
            Left::Nothing => Ok((Checkpoint::default(), 0)),
        }
    }

    /// What is complete is committed right after, which makes it durable too.
    fn is_keep_due(&self) -> bool {
        let new = self.written.offset.saturating_sub(self.kept);
        let since = self.kept_at.elapsed();
        let complete = self.size.is_none_or(|size| self.written.offset >= size);
        let due = since >= KEEP_TIME || (new >= KEEP_BYTES && since >= KEEP_PAUSE);
        !self.keeping && !complete && new > 0 && due
    }

    fn keep(&mut self, number: u64, staging: &dyn Staging, jobs: &mpsc::UnboundedSender<Settled>) {
        let Some(keeper) = staging.keeper() else { return };
        let (point, jobs) = (self.written.clone(), jobs.clone());
        (self.kept, self.kept_at, self.keeping) = (point.offset, Instant::now(), true);
        tokio::spawn(async move {
            let kept = keeper.keep(point).await;
            let _ = jobs.send(Settled::Kept(number, kept));
        });
    }
}

fn drop_waiting(reassembly: Reassembly<Bytes>, seat: &Seat) {
    for (_, bytes) in reassembly.into_waiting() {
        seat.done((*bytes).as_ref().len());
    }
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time {
        secs: i64::try_from(since.as_secs()).unwrap_or(0),
        nanos: since.subsec_nanos(),
    }
}
