//! Directories of a receiver that are not complete: entries find their place in them, and when
//! everything in one is settled its time and mode are set, bottom-up.

use crate::chunk::window::SharedPermit;
use crate::net::error::NetError;
use crate::net::jobs::Work;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::destination::Target;
use crate::net::transfer::report::shown;
use crate::store::{Attributes, BadPath, Durability, ErrorKind, Name, RemotePath, StoreError};
use std::collections::{BTreeMap, HashMap};

/// Where an entry of the transfer goes.
#[derive(Clone)]
pub(super) enum Place {
    /// There.
    At(RemotePath),
    /// It cannot go there, and neither can anything in it.
    Not {
        /// Its path beneath the target, for the user.
        shown: Vec<u8>,
        error: StoreError,
    },
}

impl Place {
    /// Its path beneath the target, for the user.
    pub(super) fn shown(&self) -> &[u8] {
        match self {
            Place::At(path) => path.as_bytes(),
            Place::Not { shown, .. } => shown,
        }
    }
}

/// A path that is longer than this is shown for what is beneath it, too.
const LONGEST_SHOWN: usize = 4096;

/// A directory whose contents are not all settled.
struct Dir {
    parent: u64,
    /// Which source it is of.
    source: u32,
    /// Only what is in it is sent.
    is_way: bool,
    place: Place,
    attributes: Attributes,
    /// This transfer made it.
    made: bool,
    /// Entries in it that are not settled, and itself while it is being made.
    pending: usize,
    /// The sender has offered everything in it.
    closed: bool,
    /// What it takes of the window's part for offers.
    _cost: SharedPermit,
}

/// How directories ended, by their numbers.
pub(super) type Completed = Vec<(u64, Result<(), StoreError>)>;

/// All of a transfer's, by the numbers of their offers.
#[derive(Default)]
pub(super) struct Dirs {
    /// Paths of what fails are wanted.
    shows: bool,
    dirs: HashMap<u64, Dir>,
    to_complete: Vec<u64>,
    completing: bool,
}

impl Dirs {
    /// With `shows` the paths of failures are stored, too.
    pub(super) fn new(shows: bool) -> Dirs {
        Dirs {
            shows,
            ..Dirs::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.dirs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.dirs.is_empty()
    }

    /// The place of one more entry of a directory, which has to be settled.
    ///
    /// # Errors
    /// [`NetError::Protocol`] for a name that no honest walk finds.
    pub(super) fn place(&mut self, parent: u64, name: &[u8]) -> Result<Place, NetError> {
        let dir = self.dirs.get_mut(&parent).filter(|d| !d.closed);
        let dir = dir
            .ok_or_else(|| NetError::Protocol("it offers an entry of no open directory".into()))?;
        dir.pending = dir.pending.saturating_add(1);
        let not = |error| {
            let shown = match dir.place.shown() {
                _ if !self.shows => Vec::new(),
                long if long.len() > LONGEST_SHOWN => long.to_vec(),
                above => shown(above, name.get(..LONGEST_SHOWN).unwrap_or(name)),
            };
            Place::Not { shown, error }
        };
        let parent = match &dir.place {
            Place::At(parent) => parent,
            Place::Not { error, .. } => return Ok(not(error.clone())),
        };
        let place = match Name::parse(name).and_then(|name| parent.join(&name)) {
            Ok(path) => Place::At(path),
            Err(e @ (BadPath::TooLong | BadPath::Reserved)) => {
                not(StoreError::new(ErrorKind::BadName(e), parent))
            }
            Err(e) => {
                return Err(NetError::Protocol(format!(
                    "a name that it offers is not allowed: {e}"
                )));
            }
        };
        Ok(place)
    }

    /// Why nothing can go into a directory, if that is so.
    pub(super) fn failure(&self, number: u64) -> Option<&StoreError> {
        match &self.dirs.get(&number)?.place {
            Place::At(_) => None,
            Place::Not { error, .. } => Some(error),
        }
    }

    /// Why nothing can go into the directory that this one is in, if that is so.
    pub(super) fn failure_above(&self, number: u64) -> Option<&StoreError> {
        self.failure(self.dirs.get(&number)?.parent)
    }

    /// A directory that was offered.
    pub(super) fn insert(
        &mut self,
        number: u64,
        (parent, source, is_way): (u64, u32, bool),
        place: Place,
        with: (Attributes, SharedPermit),
    ) {
        let (attributes, cost) = with;
        let dir = Dir {
            parent,
            source,
            is_way,
            place,
            attributes,
            made: false,
            pending: 0,
            closed: false,
            _cost: cost,
        };
        self.dirs.insert(number, dir);
    }

    /// The source that an entry of a directory is of.
    pub(super) fn source_of(&self, parent: u64) -> Option<u32> {
        self.dirs.get(&parent).map(|dir| dir.source)
    }

    /// It is going to be made: that has to be settled, too.
    pub(super) fn making(&mut self, number: u64) {
        if let Some(dir) = self.dirs.get_mut(&number) {
            dir.pending = dir.pending.saturating_add(1);
        }
    }

    /// It was not there before.
    pub(super) fn made(&mut self, number: u64) {
        if let Some(dir) = self.dirs.get_mut(&number) {
            dir.made = true;
        }
    }

    /// It cannot be there, and neither can anything in it. Returns its path, `None` where it is no
    /// directory.
    pub(super) fn fail(&mut self, number: u64, error: &StoreError) -> Option<Vec<u8>> {
        let dir = self.dirs.get_mut(&number)?;
        let shown = dir.place.shown().to_vec();
        dir.place = Place::Not {
            shown: shown.clone(),
            error: error.clone(),
        };
        Some(shown)
    }

    /// Everything in it has been offered.
    ///
    /// # Errors
    /// [`NetError::Protocol`] where it is not open.
    pub(super) fn close(&mut self, number: u64) -> Result<(), NetError> {
        let dir = self.dirs.get_mut(&number).filter(|d| !d.closed);
        let dir =
            dir.ok_or_else(|| NetError::Protocol("it closes a directory that is not open".into()))?;
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

    /// It is complete. Returns its parent, its place, and whether this transfer made it.
    pub(super) fn remove(&mut self, number: u64) -> Option<(u64, Place, bool)> {
        let dir = self.dirs.remove(&number)?;
        Some((dir.parent, dir.place, dir.made))
    }

    /// The work of setting time and mode of the directories that nothing will change any more: one
    /// at a time, for all that have become ready meanwhile. [`Dirs::completed`] is called when it
    /// has ended.
    pub(super) fn complete(
        &mut self,
        target: &Target,
        options: &Options,
    ) -> Option<Work<Completed>> {
        if self.completing || self.to_complete.is_empty() {
            return None;
        }
        let (mut numbers, mut set, mut results) = (Vec::new(), Vec::new(), BTreeMap::new());
        for number in std::mem::take(&mut self.to_complete) {
            match self.dirs.get(&number) {
                Some(Dir {
                    place: Place::At(path),
                    attributes,
                    made,
                    is_way,
                    ..
                }) => {
                    numbers.push(number);
                    // a sender that may not know what is there may not change it either
                    set.push((
                        path.clone(),
                        (*made || !(*is_way || target.is_write_only())).then(|| attributes.clone()),
                    ));
                }
                Some(Dir {
                    place: Place::Not { error, .. },
                    ..
                }) => drop(results.insert(number, Err(error.clone()))),
                None => {}
            }
        }
        self.completing = true;
        let (target, options) = (target.clone(), options.clone());
        Some(Work::new("directories", async move {
            let ends = target.complete_dirs(set, &options).await;
            let synced = match options.durability {
                Durability::Durable => target.sync().await,
                Durability::Volatile => Ok(()),
            };
            let ends = numbers.into_iter().zip(ends.into_iter().map(|end| end.and(synced.clone())));
            results.into_iter().chain(ends).collect()
        }))
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
