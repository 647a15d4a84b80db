//! The wanted files of a receiver: small ones are put in groups, larger ones are staged, reassembled and committed.
//!
//! A larger file goes through these states:
//!
//! ```text
//! Opening ──staged──▶ Idle ──part ready──▶ Busy ──written──▶ Idle … ──all there──▶ Busy (commit) ──▶ settled
//!    ▲                                      │
//!    └──────── restart: the source changed ─┘
//! ```

use super::Options;
use super::target::{Candidate, Target, is_locked};
use crate::chunk::CHUNK_SIZE;
use crate::chunk::digest::Digest;
use crate::chunk::reassembly::{Inserted, Mismatch, Reassembly};
use crate::net::error::{NetError, code_of};
use crate::net::link::Seat;
use crate::net::pool::Arrived;
use crate::net::wire::Code;
use crate::net::wire::frame::FrameKind;
use crate::store::{Attributes, Bytes, Content, Kind, NewEntry, RemotePath, Staging, StoreError, Time};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Larger files that are staged at once: each has a file open.
const STAGED: usize = 64;
/// Entries of a group.
const GROUP: usize = 32;
/// Groups under way at once: while one waits for the disk, others are written.
const GROUPS: usize = 16;

/// What became known of a file.
pub(super) enum FileEvent {
    /// Its staging file is open: its content may come.
    Want(u64),
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
    Staged(u64, Result<Box<dyn Staging>, StoreError>, OwnedSemaphorePermit),
    Written(u64, Box<dyn Staging>, Vec<(u64, usize)>, Result<(), StoreError>),
    Committed(u64, u64, Digest, Result<String, StoreError>),
    Group(Vec<Grouped>, Vec<Result<String, StoreError>>),
    Retry(Grouped),
}

/// A small entry on its way into a group.
pub(super) struct Grouped {
    number: u64,
    entry: NewEntry,
    hash: Option<Digest>,
    /// Bytes that came for it in a frame; none for a symlink, which has no frame.
    payload: Option<usize>,
    deadline: Option<Instant>,
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
    reassembly: Reassembly<Bytes>,
    state: State,
    permit: Option<OwnedSemaphorePermit>,
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
    gathered: VecDeque<Grouped>,
    groups: usize,
    opening: Arc<Semaphore>,
    /// What waits for a lock, or for its turn: ends with the transfer.
    openers: JoinSet<()>,
    jobs: mpsc::UnboundedSender<Settled>,
}

impl Files {
    pub(super) fn new(target: Target, options: Options) -> (Files, mpsc::UnboundedReceiver<Settled>) {
        let (jobs, settled) = mpsc::unbounded_channel();
        let files = Files {
            target,
            options,
            files: HashMap::new(),
            gathered: VecDeque::new(),
            groups: 0,
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
            ..
        } = candidate;
        if kind == Kind::Symlink {
            let content = Content::Link(target);
            self.gather(number, path, content, attributes, None, None);
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
                self.take_on_large(number, path, size, attributes, 0);
                false
            }
        }
    }

    fn take_on_large(
        &mut self,
        number: u64,
        path: RemotePath,
        size: Option<u64>,
        attributes: Attributes,
        attempt: u8,
    ) {
        let (target, options, jobs) = (self.target.clone(), self.options.clone(), self.jobs.clone());
        let opening = self.opening.clone();
        let deadline = self.deadline();
        let large = Large {
            attributes,
            attempt,
            size,
            reassembly: Reassembly::default(),
            state: State::Opening,
            permit: None,
        };
        self.files.insert(number, File::Large(Box::new(large)));
        while self.openers.try_join_next().is_some() {}
        self.openers.spawn(async move {
            // fair: files are opened in the order in which they were offered, and that is how they will come
            let Ok(permit) = opening.acquire_owned().await else {
                return;
            };
            let staged = target.stage(&path, &options, deadline).await;
            let _ = jobs.send(Settled::Staged(number, staged, permit));
        });
    }

    fn deadline(&self) -> Option<Instant> {
        self.options.wait.map(|wait| Instant::now() + wait)
    }

    fn gather(
        &mut self,
        number: u64,
        path: RemotePath,
        content: Content,
        attributes: Attributes,
        hash: Option<Digest>,
        payload: Option<usize>,
    ) {
        let entry = NewEntry {
            path,
            content,
            attributes,
            if_version: self.options.if_version.clone(),
        };
        let deadline = self.deadline();
        self.gathered.push_back(Grouped {
            number,
            entry,
            hash,
            payload,
            deadline,
        });
        if self.gathered.len() >= GROUP {
            self.start_gathered();
        }
    }

    /// True when [`Files::start_gathered`] would start something.
    pub(super) fn has_gathered(&self) -> bool {
        !self.gathered.is_empty() && self.groups < GROUPS
    }

    /// Puts what was gathered, in as many groups as may be under way.
    pub(super) fn start_gathered(&mut self) {
        while self.has_gathered() {
            let count = self.gathered.len().min(GROUP);
            let group: Vec<Grouped> = self.gathered.drain(..count).collect();
            let entries = group.iter().map(|g| g.entry.clone()).collect();
            let (target, jobs, durable) = (self.target.clone(), self.jobs.clone(), !self.options.no_fsync);
            self.groups = self.groups.saturating_add(1);
            tokio::spawn(async move {
                let results = target.put_whole(entries, durable).await;
                let _ = jobs.send(Settled::Group(group, results));
            });
        }
    }

    /// True when a job is under way that touches the store.
    pub(super) fn is_busy(&self) -> bool {
        let busy = |file: &File| matches!(file, File::Large(large) if matches!(large.state, State::Busy));
        self.groups > 0 || (self.files.len() < STAGED && self.files.values().any(busy))
    }

    /// True when content is missing that only the sender can give. Streams take as long as they take.
    pub(super) fn waits_for_sender(&self) -> bool {
        self.groups == 0
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
                self.gather(
                    number,
                    small.path,
                    content,
                    small.attributes,
                    Some(header.digest),
                    Some(length),
                );
                Ok(Vec::new())
            }
            Some(File::Large(large)) if large.attempt == header.attempt => {
                if !frame.intact || matches!(large.state, State::Opening | State::Stale) {
                    seat.done(length);
                    return Ok(self.damaged(number, seat));
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
        attempt: u8,
        size: u64,
        attributes: Attributes,
        seat: &Seat,
    ) -> bool {
        match self.files.get_mut(&number) {
            Some(File::Small(small)) if size <= CHUNK_SIZE as u64 => {
                (small.attempt, small.size, small.attributes) = (attempt, size, attributes);
                true
            }
            Some(File::Small(small)) => {
                let path = small.path.clone();
                self.take_on_large(number, path, Some(size), attributes, attempt);
                false
            }
            Some(File::Large(large)) => {
                (large.attempt, large.size, large.attributes) = (attempt, Some(size), attributes);
                drop_waiting(std::mem::take(&mut large.reassembly), seat);
                match std::mem::replace(&mut large.state, State::Stale) {
                    State::Idle(staging) => {
                        large.state = State::Opening;
                        self.empty(number, staging);
                    }
                    State::Opening => large.state = State::Opening,
                    State::Busy | State::Stale => {}
                }
                false
            }
            None => false,
        }
    }

    fn empty(&mut self, number: u64, mut staging: Box<dyn Staging>) {
        let permit = match self.files.get_mut(&number) {
            Some(File::Large(large)) => large.permit.take(),
            _ => None,
        };
        let Some(permit) = permit else { return };
        let jobs = self.jobs.clone();
        tokio::spawn(async move {
            let emptied = staging.restart().await;
            let _ = jobs.send(Settled::Staged(number, emptied.map(|()| staging), permit));
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
        if let Some(part) = large.reassembly.take_part(rules.least, rules.most) {
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
            Settled::Staged(number, staged, permit) => self.staged(number, staged, permit, seat),
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
            Settled::Group(group, results) => {
                self.groups = self.groups.saturating_sub(1);
                let pairs = group.into_iter().zip(results);
                pairs
                    .filter_map(|(member, result)| self.group_ended(member, result, seat))
                    .collect()
            }
            Settled::Retry(member) => {
                self.gathered.push_back(member);
                Vec::new()
            }
        }
    }

    fn staged(
        &mut self,
        number: u64,
        staged: Result<Box<dyn Staging>, StoreError>,
        permit: OwnedSemaphorePermit,
        seat: &Seat,
    ) -> Vec<FileEvent> {
        match (staged, self.files.get_mut(&number)) {
            (Ok(staging), Some(File::Large(large))) => {
                large.state = State::Idle(staging);
                large.permit = Some(permit);
                vec![FileEvent::Want(number)]
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
            large.state = State::Opening;
            self.empty(number, staging);
            return Vec::new();
        }
        large.state = State::Idle(staging);
        if let Err(e) = result {
            return self.fail_store(number, &e, seat);
        }
        let written = |(offset, length): (u64, usize)| FileEvent::Written {
            number,
            offset,
            length: length as u64,
        };
        let mut events: Vec<FileEvent> = sizes.into_iter().map(written).collect();
        events.extend(self.advance(number, seat));
        events
    }

    fn group_ended(&mut self, member: Grouped, result: Result<String, StoreError>, seat: &Seat) -> Option<FileEvent> {
        let number = member.number;
        let again = result.as_ref().is_err_and(is_locked) && member.deadline.is_some_and(|d| Instant::now() < d);
        if let (false, Some(payload)) = (again, member.payload) {
            seat.done(payload);
        }
        match result {
            Err(_) if again => {
                let jobs = self.jobs.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let _ = jobs.send(Settled::Retry(member));
                });
                None
            }
            Err(e) => Some(FileEvent::Failed {
                number,
                code: code_of(&e.kind),
                text: e.describe(),
            }),
            Ok(version) => {
                let (hash, size) = (member.hash, member.payload.unwrap_or(0) as u64);
                Some(FileEvent::Committed {
                    number,
                    hash,
                    size,
                    version,
                    grouped: true,
                })
            }
        }
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
