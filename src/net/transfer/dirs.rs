//! Directories of a receiver that are not complete: entries find their place in them, and when everything in one is settled
//! its time and mode are set, bottom-up.

use super::target::Target;
use crate::net::error::NetError;
use crate::store::{Attributes, BadPath, ErrorKind, Name, RemotePath, StoreError};
use std::collections::{BTreeMap, HashMap};
use tokio::sync::mpsc;

/// A directory whose contents are not all settled.
struct Dir {
    parent: u64,
    /// An error: it could not be made, and everything in it fails too.
    path: Result<RemotePath, StoreError>,
    attributes: Attributes,
    /// Entries in it that are not settled, and itself while it is being made.
    pending: usize,
    /// The sender has offered everything in it.
    closed: bool,
}

/// How directories ended, by their numbers.
pub(super) type Completed = Vec<(u64, Result<(), StoreError>)>;

/// All of a transfer's, by the numbers of their offers.
#[derive(Default)]
pub(super) struct Dirs {
    dirs: HashMap<u64, Dir>,
    to_complete: Vec<u64>,
    completing: bool,
}

impl Dirs {
    pub(super) fn len(&self) -> usize {
        self.dirs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.dirs.is_empty()
    }

    /// The path of one more entry of a directory, which has to be settled. The outer error breaks the protocol (no honest walk
    /// finds such a name), the inner one only fails the entry.
    pub(super) fn place(&mut self, parent: u64, name: &[u8]) -> Result<Result<RemotePath, StoreError>, NetError> {
        let dir = self.dirs.get_mut(&parent).filter(|d| !d.closed);
        let dir = dir.ok_or_else(|| NetError::Protocol("it offers an entry of no open directory".into()))?;
        dir.pending = dir.pending.saturating_add(1);
        let parent = match &dir.path {
            Ok(parent) => parent,
            Err(e) => return Ok(Err(e.clone())),
        };
        let name = match Name::parse(name) {
            Ok(name) => name,
            Err(e @ (BadPath::TooLong | BadPath::Reserved)) => {
                return Ok(Err(StoreError::new(ErrorKind::BadName(e), parent)));
            }
            Err(e) => return Err(NetError::Protocol(format!("a name that it offers is not allowed: {e}"))),
        };
        Ok(parent
            .join(&name)
            .map_err(|e| StoreError::new(ErrorKind::BadName(e), parent)))
    }

    /// A directory that was offered.
    pub(super) fn insert(
        &mut self,
        number: u64,
        parent: u64,
        path: Result<RemotePath, StoreError>,
        attributes: Attributes,
    ) {
        let dir = Dir {
            parent,
            path,
            attributes,
            pending: 0,
            closed: false,
        };
        self.dirs.insert(number, dir);
    }

    /// It is going to be made: that has to be settled, too.
    pub(super) fn making(&mut self, number: u64) {
        if let Some(dir) = self.dirs.get_mut(&number) {
            dir.pending = dir.pending.saturating_add(1);
        }
    }

    /// It cannot be there, and neither can anything in it. False when it is no directory.
    pub(super) fn fail(&mut self, number: u64, error: &StoreError) -> bool {
        let dir = self.dirs.get_mut(&number);
        let known = dir.is_some();
        if let Some(dir) = dir {
            dir.path = Err(error.clone());
        }
        known
    }

    /// Everything in it has been offered.
    ///
    /// # Errors
    /// [`NetError::Protocol`] where it is not open.
    pub(super) fn close(&mut self, number: u64) -> Result<(), NetError> {
        let dir = self.dirs.get_mut(&number).filter(|d| !d.closed);
        let dir = dir.ok_or_else(|| NetError::Protocol("it closes a directory that is not open".into()))?;
        dir.closed = true;
        if dir.pending == 0 {
            self.to_complete.push(number);
        }
        Ok(())
    }

    /// One entry less is pending in a directory.
    pub(super) fn settled(&mut self, parent: u64) {
        if let Some(dir) = self.dirs.get_mut(&parent) {
            dir.pending = dir.pending.saturating_sub(1);
            if dir.closed && dir.pending == 0 {
                self.to_complete.push(parent);
            }
        }
    }

    /// It is complete. Gives its parent, and whether it was there at all.
    pub(super) fn remove(&mut self, number: u64) -> Option<(u64, bool)> {
        self.dirs.remove(&number).map(|dir| (dir.parent, dir.path.is_ok()))
    }

    /// Sets time and mode of the directories that nothing will change any more: one job at a time, for all that have
    /// become ready meanwhile. `done` is told, and [`Dirs::completed`] has to be.
    pub(super) fn complete(&mut self, target: &Target, durable: bool, done: &mpsc::UnboundedSender<Completed>) {
        if self.completing || self.to_complete.is_empty() {
            return;
        }
        let (mut numbers, mut set, mut results) = (Vec::new(), Vec::new(), BTreeMap::new());
        for number in std::mem::take(&mut self.to_complete) {
            match self.dirs.get(&number) {
                Some(Dir {
                    path: Ok(path),
                    attributes,
                    ..
                }) => {
                    numbers.push(number);
                    set.push((path.clone(), *attributes));
                }
                Some(Dir { path: Err(e), .. }) => drop(results.insert(number, Err(e.clone()))),
                None => {}
            }
        }
        self.completing = true;
        let (target, done) = (target.clone(), done.clone());
        tokio::spawn(async move {
            let ends = target.set_attributes(set).await;
            let synced = if durable { target.sync().await } else { Ok(()) };
            let ends = numbers
                .into_iter()
                .zip(ends.into_iter().map(|end| end.and(synced.clone())));
            let _ = done.send(results.into_iter().chain(ends).collect());
        });
    }

    /// True while time and mode of directories are set, and their names made durable.
    pub(super) fn is_completing(&self) -> bool {
        self.completing
    }

    /// The job that [`Dirs::complete`] started has ended.
    pub(super) fn completed(&mut self) {
        self.completing = false;
    }
}
