//! The wanted files of a receiver: small ones go into groups, larger ones are received each by itself ([`StagedFile`]).

use crate::chunk::CHUNK_SIZE;
use crate::chunk::digest::Digest;
use crate::chunk::reassembly::{Inserted, Mismatch};
use crate::chunk::window::AllowancePermit;
use crate::net::data::payload::ReceivedFrame;
use crate::net::error::{NetError, code_of};
use crate::net::session::TransferChannel;
use crate::net::task::Tasks;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::destination::{Candidate, Target};
use crate::net::transfer::receive::small::{SmallFile, SmallFileBatches};
use crate::net::transfer::receive::staged::{Jobs, Keep, StagedFile, Wrote};
use crate::net::wire::Code;
use crate::net::wire::frame::FrameKind;
use crate::store::{Attributes, Checkpoint, Content, ErrorKind, Kind, RemotePath, Staging, StoreError};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Larger files that are staged at once: each has a file open.
const STAGED: usize = 64;
/// How long the end of a transfer waits for what is being written, and again for it to be made durable.
const SUSPEND: Duration = Duration::from_secs(5);
/// The same for a stream, whose reader may be slow.
const SUSPEND_STREAM: Duration = Duration::from_secs(3600);

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
pub(super) enum JobDone {
    /// Opened, or emptied, for this version of the source.
    Staged(
        u64,
        Option<String>,
        Result<Box<dyn Staging>, StoreError>,
        OwnedSemaphorePermit,
    ),
    Written(u64, Box<dyn Staging>, Wrote, Result<(), StoreError>),
    AllowancePermit(u64, Result<(), StoreError>),
    Committed(u64, u64, Digest, Result<String, StoreError>),
    Group(Vec<SmallFile>, Vec<Result<String, StoreError>>),
    Retry(SmallFile),
}

struct Small {
    path: RemotePath,
    attributes: Attributes,
    attempt: u8,
    size: u64,
    /// What the offer takes.
    cost: AllowancePermit,
}

enum File {
    Small(Small),
    StagedFile(Box<StagedFile>),
}

/// All wanted files of one transfer.
pub(super) struct Files {
    target: Target,
    options: Options,
    files: HashMap<u64, File>,
    /// What becomes of staging files that jobs still have, of files that have failed.
    given_up: HashMap<u64, Keep>,
    groups: SmallFileBatches,
    opening: Arc<Semaphore>,
    /// What waits for a lock, or for its turn: ends with the transfer.
    openers: JoinSet<Result<(), NetError>>,
    jobs: Jobs,
}

impl Files {
    pub(super) fn new(target: Target, options: Options, tasks: Tasks) -> (Files, mpsc::UnboundedReceiver<JobDone>) {
        let (jobs, settled) = Jobs::new(tasks);
        let files = Files {
            groups: SmallFileBatches::new(target.clone(), options.clone(), jobs.clone()),
            target,
            options,
            files: HashMap::new(),
            given_up: HashMap::new(),
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
            cost,
            parent: _,
        } = candidate;
        if kind == Kind::Symlink {
            self.groups
                .gather((number, cost), path, Content::Link(target), attributes, None);
            return false;
        }
        if let (Some((bytes, digest)), Target::Tree(_)) = (content, &self.target) {
            let file = Some((digest, bytes.len(), false));
            self.groups
                .gather((number, cost), path, Content::File(Arc::new(bytes)), attributes, file);
            return false;
        }
        match (size, &self.target) {
            (Some(size), Target::Tree(_)) if size <= CHUNK_SIZE as u64 => {
                let small = Small {
                    path,
                    attributes,
                    attempt: 0,
                    size,
                    cost,
                };
                self.files.insert(number, File::Small(small));
                true
            }
            _ => {
                let large = StagedFile::new(size, attributes, 0, version, hash);
                self.take_on_large((number, cost), path, large);
                false
            }
        }
    }

    fn take_on_large(&mut self, (number, cost): (u64, AllowancePermit), path: RemotePath, large: StagedFile) {
        let (target, options) = (self.target.clone(), self.options.clone());
        let (opening, source) = (self.opening.clone(), large.source());
        let deadline = self.options.wait.map(|wait| Instant::now() + wait);
        self.files.insert(number, File::StagedFile(Box::new(large)));
        while self.openers.try_join_next().is_some() {}
        let staging = Box::pin(self.jobs.run(async move {
            let _cost = cost;
            // fair: files are opened in the order in which they were offered, and that is how they will come
            let Ok(permit) = opening.acquire_owned().await else {
                return std::future::pending().await;
            };
            let staged = target.stage(&path, &options, source.clone(), deadline).await;
            JobDone::Staged(number, source, staged, permit)
        }));
        let tasks = self.jobs.tasks().clone();
        self.openers.spawn(async move { tasks.guard("open", staging).await });
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
        let busy = |file: &File| matches!(file, File::StagedFile(large) if large.is_busy());
        self.groups.is_busy() || (self.files.len() < STAGED && self.files.values().any(busy))
    }

    /// True when anything is under way that the sender has to wait for: the same, however many files there are.
    pub(super) fn is_working(&self) -> bool {
        self.groups.is_busy() || self.files.values().any(|file| file.is_worked_on() || file.is_opening())
    }

    /// True when content is missing that only the sender can give. Streams take as long as they take.
    pub(super) fn waits_for_sender(&self) -> bool {
        !self.groups.is_busy()
            && self.files.values().any(|file| match file {
                File::Small(_) => true,
                File::StagedFile(large) => large.waits_for_sender(),
            })
    }

    /// A frame arrived.
    pub(super) fn frame(
        &mut self,
        frame: ReceivedFrame,
        channel: &TransferChannel,
    ) -> Result<Vec<FileEvent>, NetError> {
        let (header, length) = (frame.header, frame.payload.len());
        let number = header.number;
        match self.files.get_mut(&number) {
            Some(File::Small(small)) if small.attempt == header.attempt => {
                let fits = header.kind == FrameKind::File && small.size == length as u64;
                if !frame.intact || !fits {
                    channel.done(length);
                    return Ok(self.damaged(number, channel));
                }
                let Some(File::Small(small)) = self.files.remove(&number) else {
                    return Ok(Vec::new());
                };
                let content = Content::File(Arc::new(frame.payload));
                let file = Some((header.digest, length, true));
                self.groups
                    .gather((number, small.cost), small.path, content, small.attributes, file);
                Ok(Vec::new())
            }
            Some(File::StagedFile(large)) if large.attempt() == header.attempt => {
                if !frame.intact || !large.is_open() {
                    channel.done(length);
                    return Ok(self.damaged(number, channel));
                }
                match large.frame(frame, channel)? {
                    Ok(inserted) => {
                        // acknowledged now: the commit may take longer than the sender waits for an ack
                        let is_taken = length == 0 && header.kind != FrameKind::Hole;
                        let written = (is_taken && inserted == Inserted::New).then_some(FileEvent::Written {
                            number,
                            offset: header.offset,
                            length: 0,
                        });
                        Ok(written.into_iter().chain(self.advance(number, channel)).collect())
                    }
                    Err(why) => Ok(self.mismatch(number, why, channel)),
                }
            }
            // of a file that is settled, or of an attempt that is out of date
            _ => {
                channel.done(length);
                Ok(Vec::new())
            }
        }
    }

    fn damaged(&mut self, number: u64, channel: &TransferChannel) -> Vec<FileEvent> {
        let text = "what arrived is not what its header says".into();
        self.fail(number, Code::MALFORMED, text, channel)
    }

    fn mismatch(&mut self, number: u64, why: Mismatch, channel: &TransferChannel) -> Vec<FileEvent> {
        self.fail(number, Code::MALFORMED, why.to_string(), channel)
    }

    fn fail(&mut self, number: u64, code: Code, text: String, channel: &TransferChannel) -> Vec<FileEvent> {
        self.give_up(number, Keep::Nothing, channel);
        vec![FileEvent::Failed { number, code, text }]
    }

    fn fail_store(&mut self, number: u64, error: &StoreError, channel: &TransferChannel) -> Vec<FileEvent> {
        let keep = match error.kind {
            // there may be room again when the next transfer comes
            ErrorKind::NoSpace | ErrorKind::Quota => Keep::Durable,
            _ => Keep::Nothing,
        };
        self.give_up(number, keep, channel);
        let (code, text) = (code_of(&error.kind), error.describe());
        vec![FileEvent::Failed { number, code, text }]
    }

    /// The sender cannot deliver a file. What came of it is kept, unless its source is gone or is another one now.
    pub(super) fn withdrawn(&mut self, number: u64, code: Code, channel: &TransferChannel) {
        let keep = match code {
            Code::NOT_FOUND | Code::VERSION_CHANGED | Code::MALFORMED => Keep::Nothing,
            _ => Keep::Written,
        };
        self.give_up(number, keep, channel);
    }

    /// Nothing more of this file: what came is dropped.
    fn give_up(&mut self, number: u64, keep: Keep, channel: &TransferChannel) {
        if let Some(File::StagedFile(large)) = self.files.remove(&number) {
            if large.is_worked_on() || large.is_opening() {
                self.given_up.insert(number, keep);
            }
            large.give_up(keep, channel, &self.jobs);
        }
    }

    /// The job of a file that was given up has ended, and the staging file comes back.
    fn let_go(&mut self, number: u64, staging: Box<dyn Staging>) {
        match self.given_up.remove(&number) {
            Some(Keep::Durable | Keep::Written) => drop(staging),
            Some(Keep::Nothing) | None => self.jobs.tasks().detach("discard", staging.discard()),
        }
    }

    /// The source changed: the file starts anew. True when its content may be asked for at once.
    pub(super) fn restart(
        &mut self,
        number: u64,
        (attempt, size, attributes): (u8, Option<u64>, Attributes),
        version: Option<String>,
        channel: &TransferChannel,
    ) -> bool {
        match (self.files.get_mut(&number), size) {
            (Some(File::Small(small)), Some(size)) if size <= CHUNK_SIZE as u64 => {
                (small.attempt, small.size, small.attributes) = (attempt, size, attributes);
                true
            }
            (Some(File::Small(small)), _) => {
                let (path, cost) = (small.path.clone(), small.cost.clone());
                let large = StagedFile::new(size, attributes, attempt, version, None);
                self.take_on_large((number, cost), path, large);
                false
            }
            (Some(File::StagedFile(large)), _) => {
                let anew = StagedFile::new(size, attributes, attempt, version, None);
                large.restart(number, anew, channel, &self.jobs);
                false
            }
            (None, _) => false,
        }
    }

    /// Starts the next job of a larger file, if one is due.
    fn advance(&mut self, number: u64, channel: &TransferChannel) -> Vec<FileEvent> {
        let Some(File::StagedFile(large)) = self.files.get_mut(&number) else {
            return Vec::new();
        };
        match large.advance(number, &self.jobs) {
            Ok(()) => Vec::new(),
            Err(why) => self.mismatch(number, why, channel),
        }
    }

    /// A job has ended.
    pub(super) fn ended(&mut self, job: JobDone, channel: &TransferChannel) -> Vec<FileEvent> {
        match job {
            JobDone::Staged(number, source, staged, permit) => self.staged(number, source, staged, permit, channel),
            JobDone::Written(number, staging, wrote, result) => self.written(number, staging, wrote, result, channel),
            JobDone::Committed(number, size, hash, result) => match result {
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
                Err(e) => self.fail_store(number, &e, channel),
            },
            JobDone::AllowancePermit(number, result) => {
                if let Some(File::StagedFile(large)) = self.files.get_mut(&number) {
                    large.kept();
                }
                match result {
                    Ok(()) => self.advance(number, channel),
                    // an fsync that failed once is not asked again
                    Err(e) => self.fail_store(number, &e, channel),
                }
            }
            JobDone::Group(group, results) => self.groups.ended(group, results, channel),
            JobDone::Retry(member) => {
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
        channel: &TransferChannel,
    ) -> Vec<FileEvent> {
        match (staged, self.files.get_mut(&number)) {
            (Ok(staging), Some(File::StagedFile(large))) => {
                let wanted = large.staged(number, (staging, permit), source, &self.jobs);
                let want = |(from, discarded)| FileEvent::Want {
                    number,
                    from,
                    discarded,
                };
                wanted.map(want).into_iter().collect()
            }
            (Ok(staging), _) => {
                self.let_go(number, staging);
                Vec::new()
            }
            (Err(e), Some(_)) => self.fail_store(number, &e, channel),
            (Err(_), None) => {
                self.given_up.remove(&number);
                Vec::new()
            }
        }
    }

    fn written(
        &mut self,
        number: u64,
        staging: Box<dyn Staging>,
        wrote: Wrote,
        result: Result<(), StoreError>,
        channel: &TransferChannel,
    ) -> Vec<FileEvent> {
        wrote.is_done(channel);
        let Some(File::StagedFile(large)) = self.files.get_mut(&number) else {
            self.let_go(number, staging);
            return Vec::new();
        };
        match large.written(number, staging, wrote, result, &self.jobs) {
            Ok(told) => {
                let written = |(offset, length)| FileEvent::Written {
                    number,
                    offset,
                    length: length as u64,
                };
                let told: Vec<FileEvent> = told.into_iter().map(written).collect();
                told.into_iter().chain(self.advance(number, channel)).collect()
            }
            Err(e) => self.fail_store(number, &e, channel),
        }
    }
}

impl Files {
    /// The transfer ends before it is complete: what has been written of larger files is made durable, so that the next
    /// one goes on from there. Both waits are bounded.
    pub(super) async fn suspend(mut self, mut settled: mpsc::UnboundedReceiver<JobDone>) {
        self.openers.abort_all();
        let mut groups = self.groups.running();
        let written = async {
            while self.files.values().any(File::is_worked_on) || groups > 0 {
                match settled.recv().await {
                    Some(JobDone::Written(number, staging, wrote, Ok(()))) => {
                        if let Some(File::StagedFile(large)) = self.files.get_mut(&number) {
                            large.take_back(staging, &wrote);
                        }
                    }
                    Some(JobDone::AllowancePermit(number, Ok(()))) => {
                        if let Some(File::StagedFile(large)) = self.files.get_mut(&number) {
                            large.kept();
                        }
                    }
                    Some(
                        JobDone::Committed(number, ..)
                        | JobDone::Written(number, ..)
                        | JobDone::AllowancePermit(number, _),
                    ) => drop(self.files.remove(&number)),
                    Some(JobDone::Group(..)) => groups = groups.saturating_sub(1),
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
        let (mut keeping, tasks) = (JoinSet::new(), self.jobs.tasks());
        for (_, file) in self.files {
            let File::StagedFile(large) = file else { continue };
            if let Some(suspended) = large.suspend() {
                let tasks = tasks.clone();
                keeping.spawn(async move { tasks.guard("suspend", Box::pin(suspended)).await });
            }
        }
        let all = async { while keeping.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(SUSPEND, all).await;
        keeping.detach_all();
    }
}

impl File {
    /// True while its staging file is being opened, or emptied.
    fn is_opening(&self) -> bool {
        matches!(self, File::StagedFile(large) if large.is_opening())
    }

    /// True while a job writes it, or makes it durable.
    fn is_worked_on(&self) -> bool {
        matches!(self, File::StagedFile(large) if large.is_worked_on())
    }
}
