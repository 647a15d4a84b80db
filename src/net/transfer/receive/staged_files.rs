//! The staged files of a receiver: opened in turn, written as their chunks come, and suspended when
//! the transfer ends early.

use crate::chunk::Extent;
use crate::chunk::reassembly::Inserted;
use crate::chunk::window::SharedPermit;
use crate::net::data::payload::ReceivedFrame;
use crate::net::error::NetError;
use crate::net::jobs::Work;
use crate::net::session::SessionCore;
use crate::net::session::handed::HandedFile;
use crate::net::task::Tasks;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::destination::{SourceFacts, Target};
use crate::net::transfer::receive::event::FileEvent;
use crate::net::transfer::receive::in_flight::FlyingPart;
use crate::net::transfer::receive::job::{JobDone, Jobs};
use crate::net::transfer::receive::staged::{StagedFile, Wanted};
use crate::net::transfer::receive::staged_jobs::{Opened, Salvage, StagedDone, Written};
use crate::net::wire::Code;
use crate::net::wire::frame::FrameKind;
use crate::store::{ErrorKind, RemotePath, Staging, StoreError};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// Larger files that are staged at once: each has a file open.
const STAGED: usize = 64;

/// The staged files of one transfer, by the numbers of their offers.
pub(super) struct StagedFiles {
    target: Target,
    options: Options,
    /// Bytes that the sender may have outstanding.
    window: u64,
    tasks: Tasks,
    files: BTreeMap<u64, StagedFile>,
    /// What becomes of partial files that jobs still have, of files that were given up.
    given_up: BTreeMap<u64, Salvage>,
    turns: Arc<Semaphore>,
    /// The jobs that wait for a lock, or for their turn.
    openings: BTreeMap<u64, AbortHandle>,
    /// The transfer has ended early: jobs end, and none begins.
    is_closing: bool,
}

impl StagedFiles {
    pub(super) fn new(target: Target, options: Options, core: &SessionCore) -> StagedFiles {
        let of_sender = Some(options.sender_window).filter(|window| *window > 0);
        StagedFiles {
            target,
            options,
            window: core.window().min(of_sender.unwrap_or(u64::MAX)),
            tasks: core.tasks().clone(),
            files: BTreeMap::new(),
            given_up: BTreeMap::new(),
            turns: Arc::new(Semaphore::new(STAGED)),
            openings: BTreeMap::new(),
            is_closing: false,
        }
    }

    /// Takes a file on, and opens its partial file.
    pub(super) fn stage(
        &mut self,
        (number, cost): (u64, SharedPermit),
        path: RemotePath,
        wanted: Wanted,
        jobs: &mut Jobs,
    ) {
        let (target, options, turns) =
            (self.target.clone(), self.options.clone(), self.turns.clone());
        let (source_version, size, window) =
            (wanted.source_version.clone(), wanted.size, self.window);
        let now = Instant::now();
        let deadline = self.options.wait.map(|wait| now + wait);
        self.files.insert(number, StagedFile::new(wanted, now));
        let open = Work::new("open", async move {
            let _cost = cost;
            // fair: files are opened in the order in which they were offered, and that is how they
            // will come
            let Ok(turn) = turns.acquire_owned().await else {
                return std::future::pending().await;
            };
            let facts = SourceFacts {
                version: source_version.clone(),
                size,
                window,
            };
            let staged = target.stage(&path, &options, facts, deadline).await;
            StagedDone::Opened(staged.map(|staging| Opened {
                source_version,
                staging,
                turn,
            }))
        });
        let handle = start(number, open, jobs);
        self.openings.insert(number, handle);
    }

    /// True when the next frames wait for the store. Checkpoints are made beside that; very many
    /// files are not asked.
    pub(super) fn is_busy(&self) -> bool {
        self.files.len() < STAGED && self.files.values().any(StagedFile::is_busy)
    }

    /// True when work is under way that the sender has to wait for: the same, however many files
    /// there are.
    pub(super) fn is_working(&self) -> bool {
        let working = |file: &StagedFile| file.has_job() || file.is_opening();
        self.files.values().any(working)
    }

    /// True when content is missing that only the sender can deliver. Streams take as long as they
    /// take.
    pub(super) fn waits_for_sender(&self) -> bool {
        self.files.values().any(StagedFile::waits_for_sender)
    }

    /// A frame arrived. One of another attempt is dropped.
    ///
    /// # Errors
    /// [`NetError::Protocol`] if it exceeds what the window allows.
    pub(super) fn frame(
        &mut self,
        frame: ReceivedFrame,
        jobs: &mut Jobs,
    ) -> Result<Vec<FileEvent>, NetError> {
        let header = frame.header;
        let Some(file) = self.files.get_mut(&header.number) else {
            return Ok(Vec::new());
        };
        if file.attempt() != header.attempt {
            return Ok(Vec::new());
        }
        if !frame.intact || !file.is_open() {
            return Ok(self.fail(
                FileEvent::damaged(header.number),
                header.number,
                Salvage::Nothing,
            ));
        }
        let carries_nothing = frame.payload.is_empty() && header.kind != FrameKind::Hole;
        match file.frame(frame)? {
            Ok(inserted) => {
                // acknowledged now: the commit may take longer than the sender waits for an ack
                let is_taken = carries_nothing && inserted == Inserted::New;
                let written = is_taken.then_some(FileEvent::Written {
                    number: header.number,
                    offset: header.offset,
                    length: 0,
                });
                Ok(written.into_iter().chain(self.advance(header.number, jobs)).collect())
            }
            Err(why) => Ok(self.fail(
                FileEvent::mismatch(header.number, why),
                header.number,
                Salvage::Nothing,
            )),
        }
    }

    /// The sender hands a file over. One of another attempt is dropped.
    pub(super) fn hand(&mut self, file: HandedFile, jobs: &mut Jobs) -> Vec<FileEvent> {
        let number = file.id.number;
        match self.files.get_mut(&number) {
            Some(staged) if staged.attempt() == file.id.attempt => staged.hand(file),
            _ => return Vec::new(),
        }
        self.advance(number, jobs)
    }

    /// The source changed: the file restarts.
    pub(super) fn restart(&mut self, number: u64, wanted: Wanted, jobs: &mut Jobs) {
        if let Some(file) = self.files.get_mut(&number)
            && let Some(empty) = file.restart(wanted, Instant::now())
        {
            start(number, empty, jobs);
        }
    }

    /// The sender cannot deliver a file. The partial file stays, unless its source is gone or is
    /// another one now.
    pub(super) fn withdrawn(&mut self, number: u64, code: Code) {
        let salvage = match code {
            Code::NOT_FOUND | Code::VERSION_CHANGED | Code::MALFORMED => Salvage::Nothing,
            _ => Salvage::Written,
        };
        self.give_up(number, salvage);
    }

    fn fail(&mut self, event: FileEvent, number: u64, salvage: Salvage) -> Vec<FileEvent> {
        self.give_up(number, salvage);
        vec![event]
    }

    fn fail_store(&mut self, number: u64, error: &StoreError) -> Vec<FileEvent> {
        let salvage = match error.kind {
            // there may be room again when the next transfer comes
            ErrorKind::NoSpace | ErrorKind::Quota => Salvage::Durable,
            _ => Salvage::Nothing,
        };
        self.fail(FileEvent::store_failed(number, error), number, salvage)
    }

    /// Nothing more of this file: what came is dropped.
    fn give_up(&mut self, number: u64, salvage: Salvage) {
        if let Some(file) = self.files.remove(&number) {
            if file.is_away() {
                self.given_up.insert(number, salvage);
            }
            // runs to its own end, also beyond the transfer's
            file.give_up(salvage).into_iter().for_each(|work| work.detach(&self.tasks));
        }
    }

    /// The job of a file that was given up has ended, and its partial file comes back.
    fn let_go(&mut self, number: u64, staging: Box<dyn Staging>) {
        match self.given_up.remove(&number) {
            Some(Salvage::Durable | Salvage::Written) => drop(staging),
            Some(Salvage::Nothing) | None => {
                Work::new("discard", staging.discard()).detach(&self.tasks)
            }
        }
    }

    /// Starts the jobs of a file that are due.
    fn advance(&mut self, number: u64, jobs: &mut Jobs) -> Vec<FileEvent> {
        if self.is_closing {
            return Vec::new();
        }
        loop {
            match self.files.get_mut(&number).map(StagedFile::advance) {
                Some(Ok(Some(work))) => drop(start(number, work, jobs)),
                Some(Err(why)) => {
                    return self.fail(FileEvent::mismatch(number, why), number, Salvage::Nothing);
                }
                Some(Ok(None)) | None => return Vec::new(),
            }
        }
    }

    /// A job has ended.
    pub(super) fn ended(
        &mut self,
        number: u64,
        done: StagedDone,
        jobs: &mut Jobs,
    ) -> Vec<FileEvent> {
        match done {
            StagedDone::Opened(opened) => self.opened(number, opened, jobs),
            StagedDone::Written(written) => self.written(number, written, jobs),
            StagedDone::Committed { size, hash, result } => match result {
                Ok(version) if self.files.remove(&number).is_some() => vec![FileEvent::Committed {
                    number,
                    hash,
                    size,
                    version,
                    batched: false,
                }],
                Ok(_) => {
                    self.given_up.remove(&number);
                    Vec::new()
                }
                Err(e) => self.fail_store(number, &e),
            },
            StagedDone::Flown {
                attempt,
                part,
                result,
            } => self.flown((number, attempt), part, result, jobs),
            StagedDone::Checkpointed(result) => {
                if let Some(file) = self.files.get_mut(&number) {
                    file.checkpointed();
                }
                match result {
                    Ok(()) => self.advance(number, jobs),
                    // an fsync that failed once is not asked again
                    Err(e) => self.fail_store(number, &e),
                }
            }
        }
    }

    /// A part was written beside others. One of another attempt counts for nothing.
    fn flown(
        &mut self,
        (number, attempt): (u64, u8),
        part: FlyingPart,
        result: Result<(), StoreError>,
        jobs: &mut Jobs,
    ) -> Vec<FileEvent> {
        let Some(file) = self.files.get_mut(&number).filter(|file| file.attempt() == attempt)
        else {
            return Vec::new();
        };
        if let Err(e) = result {
            return self.fail_store(number, &e);
        }
        let extents = file.flown(part);
        if !self.is_closing
            && let Some(checkpoint) = file.checkpoint_if_due(Instant::now())
        {
            start(number, checkpoint, jobs);
        }
        written_events(number, extents).chain(self.advance(number, jobs)).collect()
    }

    fn opened(
        &mut self,
        number: u64,
        opened: Result<Opened, StoreError>,
        jobs: &mut Jobs,
    ) -> Vec<FileEvent> {
        self.openings.remove(&number);
        match (opened, self.files.get_mut(&number)) {
            (Ok(opened), Some(file)) => match file.opened(opened, Instant::now()) {
                Ok((from, discarded)) => vec![FileEvent::Want {
                    number,
                    from,
                    discarded,
                }],
                Err(empty) => {
                    if !self.is_closing {
                        start(number, empty, jobs);
                    }
                    Vec::new()
                }
            },
            (Ok(opened), None) => {
                self.let_go(number, opened.staging);
                Vec::new()
            }
            (Err(e), Some(_)) => self.fail_store(number, &e),
            (Err(_), None) => {
                self.given_up.remove(&number);
                Vec::new()
            }
        }
    }

    fn written(&mut self, number: u64, written: Written, jobs: &mut Jobs) -> Vec<FileEvent> {
        let Some(file) = self.files.get_mut(&number) else {
            self.let_go(number, written.staging);
            return Vec::new();
        };
        let (extents, empty) = match file.written(written) {
            Ok(written) => written,
            Err(e) => return self.fail_store(number, &e),
        };
        if !self.is_closing {
            let checkpoint = file.checkpoint_if_due(Instant::now());
            for work in empty.into_iter().chain(checkpoint) {
                start(number, work, jobs);
            }
        }
        written_events(number, extents).chain(self.advance(number, jobs)).collect()
    }

    /// The transfer ends early: no job begins any more, and what waits for a lock is ended.
    pub(super) fn close(&mut self) {
        self.is_closing = true;
        self.openings.values().for_each(AbortHandle::abort);
        self.openings.clear();
    }

    /// True while a job writes a file, or makes a checkpoint.
    pub(super) fn has_jobs(&self) -> bool {
        self.files.values().any(StagedFile::has_job)
    }

    /// Makes durable what was written of each file, so that the next transfer resumes there.
    pub(super) fn suspend(self) -> JoinSet<()> {
        let mut suspending = JoinSet::new();
        for file in self.files.into_values() {
            if let Some(suspend) = file.give_up(Salvage::Written) {
                let tasks = self.tasks.clone();
                // a panic has been reported by the guard within
                suspending.spawn(async move { drop(suspend.guard(&tasks).await) });
            }
        }
        suspending
    }
}

/// The events of extents that the sender learns of.
fn written_events(number: u64, extents: Vec<Extent>) -> impl Iterator<Item = FileEvent> {
    extents.into_iter().map(move |extent| FileEvent::Written {
        number,
        offset: extent.offset,
        length: extent.length,
    })
}

/// Starts a job of a staged file.
fn start(number: u64, work: Work<StagedDone>, jobs: &mut Jobs) -> AbortHandle {
    jobs.start(work, move |done| JobDone::Staged { number, done })
}
