//! The wanted files of a receiver: small ones go into batches, larger ones are staged each by
//! itself.

use crate::chunk::CHUNK_SIZE;
use crate::chunk::window::SharedPermit;
use crate::net::data::payload::ReceivedFrame;
use crate::net::error::NetError;
use crate::net::session::SessionCore;
use crate::net::session::handed::HandedFile;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::copied::marked;
use crate::net::transfer::receive::destination::{Candidate, Target};
use crate::net::transfer::receive::event::FileEvent;
use crate::net::transfer::receive::job::{JobDone, Jobs};
use crate::net::transfer::receive::small::{BatchDone, SmallFile, SmallFileBatches, retry_later};
use crate::net::transfer::receive::staged::Wanted;
use crate::net::transfer::receive::staged_files::StagedFiles;
use crate::net::transfer::receive::tree::is_locked;
use crate::net::wire::Code;
use crate::net::wire::frame::FrameKind;
use crate::store::{Attributes, Checkpoint, Content, Kind, Omissions, RemotePath};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long the end of a transfer waits for what is being written, and again for it to be made
/// durable.
const SUSPEND: Duration = Duration::from_secs(5);
/// The same for a stream, whose reader may be slow.
const SUSPEND_STREAM: Duration = Duration::from_secs(3600);

/// A file of at most a chunk whose content has not come.
struct AwaitedFile {
    path: RemotePath,
    attributes: Attributes,
    attempt: u8,
    size: u64,
    cost: SharedPermit,
}

/// What the wanted files of a transfer wait for.
#[derive(Clone, Copy)]
pub(super) struct Activity {
    /// Work is under way that the sender has to wait for.
    pub(super) is_working: bool,
    /// Content is missing that only the sender can deliver.
    pub(super) waits_for_sender: bool,
}

/// All wanted files of one transfer.
pub(super) struct Files {
    target: Target,
    options: Options,
    /// By the numbers of their offers.
    awaited: BTreeMap<u64, AwaitedFile>,
    batches: SmallFileBatches,
    staged: StagedFiles,
    /// The sender hands larger files over.
    copies: bool,
}

impl Files {
    /// With `copies`, the sender hands larger files over.
    pub(super) fn new(target: Target, options: Options, core: &SessionCore, copies: bool) -> Files {
        Files {
            copies: copies && matches!(target, Target::Tree(_)),
            batches: SmallFileBatches::new(target.clone(), options.clone()),
            staged: StagedFiles::new(target.clone(), options.clone(), core),
            target,
            options,
            awaited: BTreeMap::new(),
        }
    }

    /// Takes a file on. True when its content may be asked for at once.
    pub(super) fn want(&mut self, candidate: Candidate, jobs: &mut Jobs) -> bool {
        let is_tree = matches!(self.target, Target::Tree(_));
        let here = match (candidate.kind, candidate.content) {
            (Kind::Symlink, _) => Some((Content::Symlink(candidate.target), None)),
            (kind, _) if kind.is_special() => {
                let device = candidate.device;
                Some((Content::Special { kind, device }, None))
            }
            (_, Some((bytes, digest))) if is_tree => {
                let file = Some((digest, bytes.len() as u64));
                Some((Content::File(Arc::new(bytes)), file))
            }
            _ => None,
        };
        if let Some((content, file)) = here {
            let small = SmallFile {
                number: candidate.number,
                path: candidate.path,
                content,
                attributes: candidate.attributes,
                file,
                _cost: candidate.cost,
                began: Instant::now(),
                deadline: self.deadline(),
                instead: None,
            };
            self.gather(small, jobs);
            return false;
        }
        match candidate.size {
            Some(size) if is_tree && size <= CHUNK_SIZE as u64 => {
                let awaited = AwaitedFile {
                    path: candidate.path,
                    attributes: candidate.attributes,
                    attempt: 0,
                    size,
                    cost: candidate.cost,
                };
                self.awaited.insert(candidate.number, awaited);
                true
            }
            size => {
                let wanted = self.wanted(Wanted {
                    attempt: 0,
                    size,
                    attributes: candidate.attributes,
                    source_version: candidate.version,
                    hash: candidate.hash,
                    is_copied: false,
                });
                let of = (candidate.number, candidate.cost);
                self.staged.stage(of, candidate.path, wanted, jobs);
                false
            }
        }
    }

    /// What a larger file is to be, and whether it is copied.
    fn wanted(&self, wanted: Wanted) -> Wanted {
        let is_copied = self.copies && wanted.size.is_some_and(|size| size > CHUNK_SIZE as u64);
        match is_copied {
            true => Wanted {
                source_version: wanted.source_version.as_deref().map(marked),
                is_copied,
                ..wanted
            },
            false => wanted,
        }
    }

    /// Makes a file another name of one that is there; where that cannot be done, takes it on.
    pub(super) fn link(&mut self, candidate: Candidate, content: Content, jobs: &mut Jobs) {
        let small = SmallFile {
            number: candidate.number,
            path: candidate.path.clone(),
            content,
            attributes: candidate.attributes.clone(),
            file: None,
            _cost: candidate.cost.clone(),
            began: Instant::now(),
            deadline: self.deadline(),
            instead: Some(Box::new(candidate)),
        };
        self.gather(small, jobs);
    }

    /// A file could not become another name of one that is there.
    fn want_instead(&mut self, candidate: Candidate, jobs: &mut Jobs) -> Option<FileEvent> {
        let number = candidate.number;
        self.target.omit(&Omissions {
            links: 1,
            ..Omissions::default()
        });
        self.want(candidate, jobs).then(|| FileEvent::Want {
            number,
            from: Checkpoint::default(),
            discarded: 0,
        })
    }

    /// Until when a lock is waited for.
    fn deadline(&self) -> Option<Instant> {
        self.options.wait.map(|wait| Instant::now() + wait)
    }

    fn gather(&mut self, file: SmallFile, jobs: &mut Jobs) {
        if self.batches.gather(file) {
            self.start_gathered(jobs);
        }
    }

    /// True when [`Files::start_gathered`] would start something.
    pub(super) fn has_gathered(&self) -> bool {
        self.batches.is_ready()
    }

    /// Puts the small files that were gathered.
    pub(super) fn start_gathered(&mut self, jobs: &mut Jobs) {
        while let Some(batch) = self.batches.next() {
            jobs.start(batch, JobDone::Batch);
        }
    }

    /// True when the next frames wait for the store.
    pub(super) fn is_busy(&self) -> bool {
        self.batches.is_busy() || self.staged.is_busy()
    }

    /// What the files wait for.
    pub(super) fn activity(&self) -> Activity {
        let putting = self.batches.is_busy();
        let missing = !self.awaited.is_empty() || self.staged.waits_for_sender();
        Activity {
            is_working: putting || self.staged.is_working(),
            waits_for_sender: !putting && missing,
        }
    }

    /// A frame arrived. One of a file that is settled, or of an attempt that is out of date, is
    /// dropped.
    ///
    /// # Errors
    /// [`NetError::Protocol`] if it exceeds what the window allows.
    pub(super) fn frame(
        &mut self,
        frame: ReceivedFrame,
        jobs: &mut Jobs,
    ) -> Result<Vec<FileEvent>, NetError> {
        let header = frame.header;
        let Some(awaited) = self.awaited.get(&header.number) else {
            return self.staged.frame(frame, jobs);
        };
        if awaited.attempt != header.attempt {
            return Ok(Vec::new());
        }
        let size = frame.payload.len() as u64;
        let fits = frame.intact && header.kind == FrameKind::File && awaited.size == size;
        let Some(awaited) = self.awaited.remove(&header.number).filter(|_| fits) else {
            return Ok(vec![FileEvent::damaged(header.number)]);
        };
        let small = SmallFile {
            number: header.number,
            path: awaited.path,
            content: Content::File(frame.into_bytes()),
            attributes: awaited.attributes,
            file: Some((header.digest, size)),
            _cost: awaited.cost,
            began: Instant::now(),
            deadline: self.deadline(),
            instead: None,
        };
        self.gather(small, jobs);
        Ok(Vec::new())
    }

    /// The sender hands a file over.
    pub(super) fn hand(&mut self, file: HandedFile, jobs: &mut Jobs) -> Vec<FileEvent> {
        self.staged.hand(file, jobs)
    }

    /// The sender cannot deliver a file.
    pub(super) fn withdrawn(&mut self, number: u64, code: Code) {
        if self.awaited.remove(&number).is_none() {
            self.staged.withdrawn(number, code);
        }
    }

    /// The source changed: the file restarts. True when its content may be asked for at once.
    pub(super) fn restart(&mut self, number: u64, wanted: Wanted, jobs: &mut Jobs) -> bool {
        let wanted = self.wanted(wanted);
        let Some(awaited) = self.awaited.get_mut(&number) else {
            self.staged.restart(number, wanted, jobs);
            return false;
        };
        if let Some(size) = wanted.size.filter(|size| *size <= CHUNK_SIZE as u64) {
            (awaited.attempt, awaited.size, awaited.attributes) =
                (wanted.attempt, size, wanted.attributes);
            return true;
        }
        if let Some(AwaitedFile { path, cost, .. }) = self.awaited.remove(&number) {
            self.staged.stage((number, cost), path, wanted, jobs);
        }
        false
    }

    /// A batch was put: what is locked is tried again while there is time.
    fn batch_ended(&mut self, batch: BatchDone, jobs: &mut Jobs) -> Vec<FileEvent> {
        self.batches.ended();
        let mut events = Vec::with_capacity(batch.len());
        for (mut file, result) in batch {
            let number = file.number;
            match result {
                Ok(version) => events.push(FileEvent::Committed {
                    number,
                    hash: file.file.map(|(hash, _)| hash),
                    size: file.file.map_or(0, |(_, size)| size),
                    version,
                    batched: true,
                }),
                Err(error) if !is_locked(&error) && file.instead.is_some() => {
                    let instead = file.instead.take();
                    events.extend(instead.and_then(|c| self.want_instead(*c, jobs)));
                }
                Err(error) => match retry_later(file, &error, &self.target) {
                    Some(retry) => drop(jobs.start(retry, JobDone::RetryDue)),
                    None => {
                        let error = self.target.disclosed(error);
                        events.push(FileEvent::store_failed(number, &error));
                    }
                },
            }
        }
        events
    }

    /// A job has ended; one that is not of a file is none of ours.
    pub(super) fn ended(&mut self, job: JobDone, jobs: &mut Jobs) -> Vec<FileEvent> {
        match job {
            JobDone::Staged { number, done } => self.staged.ended(number, done, jobs),
            JobDone::Batch(batch) => self.batch_ended(batch, jobs),
            JobDone::RetryDue(file) => {
                self.batches.gather(file);
                Vec::new()
            }
            JobDone::Decided(_) | JobDone::Directories(_) | JobDone::Synced(_) => Vec::new(),
        }
    }

    /// The transfer ends before it is complete: what was written of larger files is made durable,
    /// so that the next one resumes there. Both waits are bounded.
    pub(super) async fn suspend(mut self, mut jobs: Jobs) {
        self.staged.close();
        // output on a stream that has begun continues, as slowly as it is read, and then counts
        let most = match self.target {
            Target::Tree(_) => SUSPEND,
            Target::Stream(_) => SUSPEND_STREAM,
        };
        let written = async {
            while self.staged.has_jobs() || self.batches.is_busy() {
                match jobs.next().await {
                    Some(Ok(job)) => drop(self.ended(job, &mut jobs)),
                    // the session knows of a panic
                    Some(Err(_)) => {}
                    None => return,
                }
            }
        };
        let _ = timeout(most, written).await;
        let mut suspending = self.staged.suspend();
        let all = async { while suspending.join_next().await.is_some() {} };
        let _ = timeout(SUSPEND, all).await;
        suspending.detach_all();
    }
}
