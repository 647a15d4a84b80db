//! Small files and symlinks of a receiver: put in groups, several at once, and tried again while a lock is waited for.

use crate::chunk::digest::Digest;
use crate::chunk::window::AllowancePermit;
use crate::net::error::code_of;
use crate::net::session::TransferChannel;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::destination::{Target, is_locked};
use crate::net::transfer::receive::files::{FileEvent, JobDone};
use crate::net::transfer::receive::staged::Jobs;
use crate::store::{Attributes, Content, NewEntry, RemotePath, StoreError};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Entries of a group.
const GROUP: usize = 64;
/// SmallFileBatches under way at once: while one waits for the disk, others are written.
const GROUPS: usize = 16;
/// Pause before an entry whose target is locked is tried again.
const LOCKED_PAUSE: Duration = Duration::from_millis(100);

/// A small entry on its way into a group.
pub(super) struct SmallFile {
    number: u64,
    entry: NewEntry,
    hash: Option<Digest>,
    size: usize,
    /// It came in a frame, which counts against the window.
    framed: bool,
    /// What the offer takes.
    _cost: AllowancePermit,
    deadline: Option<Instant>,
}

/// What is about to be put, and how much is.
pub(super) struct SmallFileBatches {
    target: Target,
    options: Options,
    gathered: VecDeque<SmallFile>,
    running: usize,
    jobs: Jobs,
}

impl SmallFileBatches {
    pub(super) fn new(target: Target, options: Options, jobs: Jobs) -> SmallFileBatches {
        SmallFileBatches {
            target,
            options,
            gathered: VecDeque::new(),
            running: 0,
            jobs,
        }
    }

    /// Takes an entry on. A file has its hash, how many bytes it has, and whether they came in a frame.
    pub(super) fn gather(
        &mut self,
        (number, cost): (u64, AllowancePermit),
        path: RemotePath,
        content: Content,
        attributes: Attributes,
        file: Option<(Digest, usize, bool)>,
    ) {
        let entry = NewEntry {
            path,
            content,
            attributes,
            if_version: self.options.if_version.clone(),
        };
        self.gathered.push_back(SmallFile {
            number,
            entry,
            hash: file.map(|(hash, ..)| hash),
            size: file.map_or(0, |(_, size, _)| size),
            framed: file.is_some_and(|(.., framed)| framed),
            _cost: cost,
            deadline: self.options.wait.map(|wait| Instant::now() + wait),
        });
        if self.gathered.len() >= GROUP {
            self.start();
        }
    }

    /// True when [`SmallFileBatches::start`] would start something.
    pub(super) fn is_ready(&self) -> bool {
        !self.gathered.is_empty() && self.running < GROUPS
    }

    /// SmallFileBatches that are being put.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// True when a group is being put.
    pub(super) fn is_busy(&self) -> bool {
        self.running > 0
    }

    /// Puts what was gathered, in as many groups as may be under way.
    pub(super) fn start(&mut self) {
        while self.is_ready() {
            let count = self.gathered.len().min(GROUP);
            let group: Vec<SmallFile> = self.gathered.drain(..count).collect();
            let entries = group.iter().map(|g| g.entry.clone()).collect();
            let (target, durability) = (self.target.clone(), self.options.durability);
            self.running = self.running.saturating_add(1);
            self.jobs.start("group", async move {
                let results = target.put_whole(entries, durability).await;
                JobDone::Group(group, results)
            });
        }
    }

    /// An entry whose target was locked is tried again.
    pub(super) fn retry(&mut self, member: SmallFile) {
        self.gathered.push_back(member);
    }

    /// A group has been put.
    pub(super) fn ended(
        &mut self,
        group: Vec<SmallFile>,
        results: Vec<Result<String, StoreError>>,
        channel: &TransferChannel,
    ) -> Vec<FileEvent> {
        self.running = self.running.saturating_sub(1);
        let pairs = group.into_iter().zip(results);
        pairs
            .filter_map(|(member, result)| self.member_ended(member, result, channel))
            .collect()
    }

    fn member_ended(
        &self,
        member: SmallFile,
        result: Result<String, StoreError>,
        channel: &TransferChannel,
    ) -> Option<FileEvent> {
        let number = member.number;
        let waits_on = result.as_ref().is_err_and(is_locked) && member.deadline.is_some_and(|d| Instant::now() < d);
        if !waits_on && member.framed {
            channel.done(member.size);
        }
        match result {
            Err(_) if waits_on => {
                self.jobs.start("retry", async move {
                    tokio::time::sleep(LOCKED_PAUSE).await;
                    JobDone::Retry(member)
                });
                None
            }
            Err(e) => Some(FileEvent::Failed {
                number,
                code: code_of(&e.kind),
                text: e.describe(),
            }),
            Ok(version) => Some(FileEvent::Committed {
                number,
                hash: member.hash,
                size: member.size as u64,
                version,
                grouped: true,
            }),
        }
    }
}
