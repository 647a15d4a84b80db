//! What a transfer reports: counters that it bumps, and an event for whatever became of an entry.

use crate::net::error::code_of;
use crate::net::wire::proto::Difference;
use crate::store::{Omissions, StoreError};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

mod event;
pub mod remote;

pub use event::Event;

/// How far a transfer is. The transfer bumps them, and progress displays read them.
#[derive(Default)]
pub struct Counters {
    /// Files and symlinks found so far.
    pub files_found: AtomicU64,
    /// Their bytes.
    pub bytes_found: AtomicU64,
    /// Nothing more will be found.
    pub walked: AtomicBool,
    /// Files and symlinks that were committed.
    pub files_done: AtomicU64,
    /// Bytes written at the receiver, of files that are there or on their way.
    pub bytes_done: AtomicU64,
    /// All bytes written at the receiver, those of files that failed or began again too: it only
    /// grows.
    pub bytes_moved: AtomicU64,
    /// Bytes of the files that were committed, without the part of an earlier run.
    pub bytes_committed: AtomicU64,
    /// Files that were there already.
    pub unchanged: AtomicU64,
    /// Files that were skipped because of others in their places.
    pub skipped: AtomicU64,
    /// Files that were not sent because directories are in their places, which a deletion may
    /// remove.
    pub deferred: AtomicU64,
    /// The bytes of all three.
    pub bytes_unchanged: AtomicU64,
    /// Files that a dry run would have sent.
    pub planned: AtomicU64,
    /// Their bytes.
    pub bytes_planned: AtomicU64,
    /// Bytes that compression saved on the way.
    pub bytes_saved: AtomicU64,
    /// Bytes of files that were there in part.
    pub bytes_resumed: AtomicU64,
    /// Entries of the destination that were deleted.
    pub deleted: AtomicU64,
    /// Those that a dry run would have deleted.
    pub deletions_planned: AtomicU64,
    /// Directories that were to be deleted and are not empty.
    pub dirs_not_empty: AtomicU64,
    /// Directories that were made or completed.
    pub dirs_done: AtomicU64,
    /// Those of them that were not there before.
    pub dirs_made: AtomicU64,
    /// Entries that failed.
    pub failed: AtomicU64,
    /// Bytes of those that will not come any more.
    pub bytes_failed: AtomicU64,
    /// Files that were committed before the transfer was begun again.
    pub files_before: AtomicU64,
    /// The most that [`Counters::progress`] has returned.
    farthest: AtomicU64,
    /// The sources have no known end: one is a stream.
    pub endless: AtomicBool,
    /// Nanoseconds that this side waited, by [`Waiting`].
    pub waited: [AtomicU64; 3],
    /// What the receiver could not set.
    omissions: Mutex<Omissions>,
    current: Mutex<Vec<String>>,
    /// Larger files that are not complete: where this run, which may take several transfers, began
    /// with each.
    begun: Mutex<HashMap<Vec<u8>, u64>>,
}

/// What one side of a transfer waits for; the index into [`Counters::waited`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// For reads.
    Source = 0,
    /// For the connections to take what is queued; at the receiver, for what the sender sends.
    Network = 1,
    /// For the receiver to acknowledge what was sent; at the receiver itself, for its disk.
    Receiver = 2,
}

impl Counters {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Reads a counter.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// A directory is there, with everything in it; `made`: it was not there before.
    pub(super) fn directory_done(&self, made: bool) {
        Counters::add(&self.dirs_done, 1);
        Counters::add(&self.dirs_made, u64::from(made));
    }

    /// Time spent waiting for something.
    pub fn waited(&self, what: Waiting, time: Duration) {
        if let Some(counter) = self.waited.get(what as usize) {
            Counters::add(counter, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// The transfer begins again: what is there already will be found there.
    fn begin_retry(&self) {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        Counters::add(&self.files_before, take(&self.files_done));
        self.walked.store(false, Ordering::Relaxed);
        let others = [
            &self.files_found,
            &self.bytes_found,
            &self.bytes_done,
            &self.unchanged,
            &self.skipped,
            &self.deferred,
            &self.planned,
            &self.bytes_planned,
            &self.bytes_unchanged,
            &self.bytes_resumed,
            &self.deletions_planned,
            &self.dirs_done,
            &self.dirs_made,
            &self.dirs_not_empty,
            &self.failed,
            &self.bytes_failed,
        ];
        others.into_iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
    }

    /// How far the best of all tries has come, in files and bytes that are there: what is sent once
    /// more is no progress.
    pub fn progress(&self) -> u64 {
        let there = [
            &self.files_done,
            &self.unchanged,
            &self.skipped,
            &self.planned,
            &self.bytes_done,
            &self.bytes_unchanged,
            &self.dirs_done,
            &self.deleted,
        ];
        let now = there.into_iter().map(Counters::get).fold(0, u64::saturating_add);
        self.farthest.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// Bytes were written at the receiver.
    pub(super) fn written(&self, bytes: u64) {
        Counters::add(&self.bytes_done, bytes);
        Counters::add(&self.bytes_moved, bytes);
    }

    /// What was written of a file, and what of it was there before, does not count any more, nor
    /// does the rest of its `size`.
    pub(super) fn gave_up(&self, size: u64, resumed: u64, written: u64) {
        self.bytes_done.fetch_sub(written, Ordering::Relaxed);
        Counters::add(&self.bytes_failed, size.saturating_sub(resumed));
    }

    /// A larger file begins, or resumes, at this offset.
    fn begins(&self, path: &[u8], offset: u64) {
        let mut begun = self.begun.lock();
        match begun.get_mut(path) {
            // what this run has sent is no less its own when it is found there by the next transfer
            Some(first) => *first = offset.min(*first),
            None => drop(begun.insert(path.to_vec(), offset)),
        }
    }

    /// A file has ended. Returns where this run began with it.
    fn ends(&self, path: &[u8]) -> u64 {
        let mut begun = self.begun.lock();
        begun.remove(path).unwrap_or(0)
    }

    /// The receiver could not set all that was to be preserved.
    pub(super) fn omitted(&self, omissions: &Omissions) {
        *self.omissions.lock() = omissions.clone();
    }

    /// What the receiver could not set, in the transfer that ended last.
    pub fn omissions(&self) -> Omissions {
        self.omissions.lock().clone()
    }

    /// A file has been started: shown while it is among the last few.
    pub fn started(&self, path: &[u8]) {
        let mut current = self.current.lock();
        if current.len() >= 3 {
            current.remove(0);
        }
        current.push(String::from_utf8_lossy(path).into_owned());
    }

    /// The files started last.
    pub fn current(&self) -> Vec<String> {
        self.current.lock().clone()
    }
}

/// Where a transfer reports to. Cheap to clone.
#[derive(Clone, Default)]
pub struct Reporter {
    /// How far it is.
    pub counters: Arc<Counters>,
    events: Option<mpsc::Sender<Event>>,
    /// Also what became of every file that did not fail.
    each: bool,
}

impl Reporter {
    /// Reports to counters only: the server's side.
    pub fn silent() -> Reporter {
        Reporter::default()
    }

    /// Reports to counters and to `events`; [`Event::Committed`] and [`Event::Unchanged`] are
    /// skipped unless `each` is wanted.
    pub fn new(events: mpsc::Sender<Event>, each: bool) -> Reporter {
        Reporter {
            counters: Arc::default(),
            events: Some(events),
            each,
        }
    }

    /// True where nothing is reported, so that no work need be done for that.
    pub fn is_silent(&self) -> bool {
        self.events.is_none()
    }

    /// True where what becomes of each file is reported.
    pub fn is_of_each(&self) -> bool {
        self.each
    }

    /// A file or symlink of `size` bytes was there already, as `event` tells a reporter of each.
    pub async fn unchanged(&self, size: u64, event: impl FnOnce() -> Event) {
        Counters::add(&self.counters.unchanged, 1);
        Counters::add(&self.counters.bytes_unchanged, size);
        self.tell_each(event).await;
    }

    /// A file or symlink of `size` bytes was skipped, as `event` tells a reporter of each.
    pub async fn skipped(&self, size: u64, event: impl FnOnce() -> Event) {
        Counters::add(&self.counters.skipped, 1);
        Counters::add(&self.counters.bytes_unchanged, size);
        self.tell_each(event).await;
    }

    /// A file or symlink of `size` bytes has a directory in its place, which a deletion may remove.
    pub fn deferred(&self, size: u64) {
        Counters::add(&self.counters.deferred, 1);
        Counters::add(&self.counters.bytes_unchanged, size);
    }

    /// A file or symlink would have been sent.
    pub async fn planned(&self, path: Vec<u8>, size: u64, difference: Difference) {
        Counters::add(&self.counters.planned, 1);
        Counters::add(&self.counters.bytes_planned, size);
        self.report(Event::Planned {
            path,
            size,
            difference,
        })
        .await;
    }

    /// An entry of the destination was deleted, as `event` tells a reporter of each.
    pub async fn deleted(&self, event: impl FnOnce() -> Event) {
        Counters::add(&self.counters.deleted, 1);
        self.tell_each(event).await;
    }

    /// A larger file begins, or resumes, at this offset.
    pub fn begins(&self, path: &[u8], offset: u64) {
        if !self.is_silent() {
            self.counters.begins(path, offset);
        }
    }

    /// A file or symlink of `size` bytes is there now, as `event` tells a reporter of each; `path`
    /// is that of a larger file, which was given to [`Reporter::begins`].
    pub async fn committed(&self, size: u64, path: Option<&[u8]>, event: impl FnOnce() -> Event) {
        let from = path.map_or(0, |path| self.counters.ends(path));
        Counters::add(&self.counters.bytes_committed, size.saturating_sub(from));
        Counters::add(&self.counters.files_done, 1);
        self.tell_each(event).await;
    }

    async fn tell_each(&self, event: impl FnOnce() -> Event) {
        if let Some(events) = self.events.as_ref().filter(|_| self.each) {
            let event = event();
            let _ = events.send(event).await;
        }
    }

    /// Whatever else happens.
    pub async fn report(&self, event: Event) {
        let c = &self.counters;
        match &event {
            Event::Failed { path, .. } => {
                c.ends(path);
                Counters::add(&c.failed, 1);
            }
            Event::Resumed { offset, .. } => {
                Counters::add(&c.bytes_unchanged, *offset);
                Counters::add(&c.bytes_resumed, *offset);
            }
            Event::Retrying => c.begin_retry(),
            // most have methods of their own, which count them
            Event::Committed { .. }
            | Event::Unchanged { .. }
            | Event::Skipped { .. }
            | Event::Planned { .. }
            | Event::Deleted { .. }
            | Event::NotDeleted { .. }
            | Event::Restarted { .. } => {}
            Event::Excluded { .. } => {}
            Event::DeletionPlanned { .. } => Counters::add(&c.deletions_planned, 1),
        }
        if let Some(events) = &self.events {
            let _ = events.send(event).await;
        }
    }

    /// Passes an event on that the other side has counted.
    pub(super) async fn pass_on(&self, event: Event) {
        if let Some(events) = &self.events {
            let _ = events.send(event).await;
        }
    }

    /// A failure of the store on this side.
    pub async fn failed(&self, path: Vec<u8>, error: &StoreError) {
        let code = code_of(&error.kind);
        let text = error.describe();
        self.report(Event::Failed { path, code, text }).await;
    }
}

/// `label/path`, as the user knows an entry.
pub fn shown(label: &[u8], path: &[u8]) -> Vec<u8> {
    match (label, path) {
        (_, []) => label.to_vec(),
        ([], _) => path.to_vec(),
        _ if label.ends_with(b"/") => [label, path].concat(),
        _ => [label, b"/", path].concat(),
    }
}

#[cfg(test)]
mod tests;
