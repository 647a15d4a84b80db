//! The way down of a walk: the directories that it is in, and what of them is still to be walked,
//! in bounded memory.
//!
//! It reads nothing itself: [`Levels::next`] says what is to be done, and receives the outcome.

use crate::net::transfer::filter::ignore_files::Ignored;
use crate::store::{DirPage, DirStream, Entry, ErrorKind, Name, RemotePath, StoreError};
use std::collections::VecDeque;

/// Most entries of a page.
const PAGE: usize = 512;
/// Fewest entries of a page, however little room there is.
const SMALLEST_PAGE: usize = 8;
/// Directories that are listed together, as long as all of them have no more entries than a page.
const TOGETHER: usize = 32;
/// Bytes of entries that may wait on all levels together before pages get smaller.
const ROOM: usize = 8 << 20;
/// One page takes at most this part of the free room, so that deeper ones find some, too.
const PART: usize = 16;
/// About what an entry takes in memory, in bytes, besides its name and target.
const ENTRY: usize = 256;

/// A page, or why there is none.
pub(super) type Listed = Result<DirPage, StoreError>;

/// Those of no directory.
static NONE_IGNORED: Ignored = Ignored::none();

/// A directory on the way down.
struct Level {
    state: DirState,
    path: RemotePath,
    /// Its device and inode, where they are known.
    inode: Option<(u64, u64)>,
    /// The file system that the walk does not leave in it.
    device: Option<u64>,
    /// The ignore files of it, and of those above.
    ignored: Ignored,
    /// The rule that excludes it, if one does.
    within: Option<usize>,
    /// Directories of the current page that are still to be walked.
    subdirs: VecDeque<Subdir>,
    /// The current page, until its entries are offered.
    page: Option<Listed>,
    /// The entries behind the current page.
    rest: Option<Box<dyn DirStream>>,
}

/// How far a directory on the way down is.
pub(super) enum DirState {
    /// It was offered, under this number.
    Offered(u64),
    /// It is offered when something in it is.
    Pending(Box<Entry>),
}

/// A directory to go down into.
pub(super) struct Entered {
    pub(super) state: DirState,
    pub(super) path: RemotePath,
    /// Its device and inode, where they are known.
    pub(super) inode: Option<(u64, u64)>,
    /// The file system that the walk does not leave in it.
    pub(super) device: Option<u64>,
    /// The ignore files of it, and of those above.
    pub(super) ignored: Ignored,
    /// The rule that excludes it, if one does.
    pub(super) within: Option<usize>,
    /// Its first page.
    pub(super) page: Listed,
}

/// A directory that is to be offered before anything in it.
pub(super) struct PendingDir {
    index: usize,
    pub(super) parent: u64,
    pub(super) path: RemotePath,
    pub(super) entry: Entry,
}

/// A directory that will be walked. Its path is made when it is needed: there may be many, and
/// paths are long where they are.
struct Subdir {
    entry: Entry,
    within: Option<usize>,
    /// Its first page, once it has been listed.
    page: Option<Listed>,
}

/// What a walk has to do next.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is taken apart at once"
)]
pub(super) enum Step {
    /// List these directories, in pages of [`Levels::limit`], and tell [`Levels::listed`].
    List(Vec<RemotePath>),
    /// Offer this directory of the innermost one, and [`Levels::enter`] it.
    Enter {
        /// Where it is.
        path: Result<RemotePath, StoreError>,
        /// What it is.
        entry: Entry,
        /// The rule that excludes it, if one does.
        within: Option<usize>,
        /// Its first page.
        page: Listed,
    },
    /// Offer these entries of the innermost directory, which has this path; those that are
    /// directories go to [`Levels::add`].
    Offer(RemotePath, Listed),
    /// Read the next page, of [`Levels::limit`], and tell [`Levels::next_page`].
    Read(Box<dyn DirStream>),
    /// Everything in a directory has been walked.
    Close(Closed),
}

/// A directory in which everything has been walked.
pub(super) enum Closed {
    /// It was offered, under this number.
    Offered(u64),
    /// It was not; its path, and the rule that excludes it, if one does.
    Pending(RemotePath, Option<usize>),
}

/// All directories that a walk is in, the innermost last.
pub(super) struct Levels {
    levels: Vec<Level>,
    room: usize,
    /// Bytes of entries that wait: of directories to be walked, and of their first pages.
    waiting: usize,
}

impl Default for Levels {
    fn default() -> Levels {
        Levels::with_room(ROOM)
    }
}

impl Levels {
    fn with_room(room: usize) -> Levels {
        Levels {
            levels: Vec::new(),
            room,
            waiting: 0,
        }
    }

    /// How many entries the next page may have.
    pub(super) fn limit(&self) -> usize {
        let free = self.room.saturating_sub(self.waiting);
        (free / PART / (2 * ENTRY)).clamp(SMALLEST_PAGE, PAGE)
    }

    /// The walk goes down into a directory.
    pub(super) fn enter(&mut self, entered: Entered) {
        let Entered {
            state,
            path,
            inode,
            device,
            ignored,
            within,
            page,
        } = entered;
        self.levels.push(Level {
            state,
            path,
            inode,
            device,
            ignored,
            within,
            subdirs: VecDeque::new(),
            page: None,
            rest: None,
        });
        self.next_page(page);
    }

    /// True where the walk is in this directory: a symlink that leads upward was followed.
    pub(super) fn contains(&self, entry: &Entry) -> bool {
        let inode = entry.inode();
        inode.is_some() && self.levels.iter().any(|level| level.inode == inode)
    }

    /// The number of the innermost directory; `None` if it has not been offered.
    pub(super) fn number(&self) -> Option<u64> {
        match self.levels.last()?.state {
            DirState::Offered(number) => Some(number),
            DirState::Pending(_) => None,
        }
    }

    /// The file system that the walk does not leave in the innermost directory.
    pub(super) fn device(&self) -> Option<u64> {
        self.levels.last().and_then(|level| level.device)
    }

    /// The ignore files of the innermost directory, and of those above it.
    pub(super) fn ignored(&self) -> &Ignored {
        self.levels.last().map_or(&NONE_IGNORED, |level| &level.ignored)
    }

    /// The rule that excludes the innermost directory, if one does.
    pub(super) fn within(&self) -> Option<usize> {
        self.levels.last().and_then(|level| level.within)
    }

    /// The outermost directory that has not been offered.
    pub(super) fn pending(&self) -> Option<PendingDir> {
        // the innermost one is the last to be offered
        self.levels
            .last()
            .filter(|level| matches!(level.state, DirState::Pending(_)))?;
        let mut parent = 0;
        for (index, level) in self.levels.iter().enumerate() {
            match &level.state {
                DirState::Offered(number) => parent = *number,
                DirState::Pending(entry) => {
                    let (path, entry) = (level.path.clone(), (**entry).clone());
                    return Some(PendingDir {
                        index,
                        parent,
                        path,
                        entry,
                    });
                }
            }
        }
        None
    }

    /// It has been offered, under this number.
    pub(super) fn offered(&mut self, dir: &PendingDir, number: u64) {
        if let Some(level) = self.levels.get_mut(dir.index) {
            level.state = DirState::Offered(number);
        }
    }

    /// Takes in the next page of the innermost directory.
    pub(super) fn next_page(&mut self, page: Listed) {
        let size = size_of_page(&page);
        if let Some(level) = self.levels.last_mut() {
            level.page = Some(page);
            self.waiting = self.waiting.saturating_add(size);
        }
    }

    /// A directory in the innermost one, to be walked later. `within` is the rule that excludes it,
    /// if one does.
    pub(super) fn add(&mut self, entry: Entry, within: Option<usize>) {
        if let Some(level) = self.levels.last_mut() {
            self.waiting = self.waiting.saturating_add(size_of(&entry));
            level.subdirs.push_back(Subdir {
                entry,
                within,
                page: None,
            });
        }
    }

    /// Takes in the first pages of as many of the directories that [`Step::List`] named.
    pub(super) fn listed(&mut self, pages: Vec<Listed>) {
        let Some(level) = self.levels.last_mut() else {
            return;
        };
        if pages.is_empty()
            && let Some(first) = level.subdirs.front_mut()
        {
            first.page = Some(Err(StoreError::because("it was not listed", &level.path)));
        }
        for (subdir, page) in level.subdirs.iter_mut().zip(pages) {
            self.waiting = self.waiting.saturating_add(size_of_page(&page));
            subdir.page = Some(page);
        }
    }

    /// What is to be done next; `None` once everything has been walked.
    pub(super) fn next(&mut self) -> Option<Step> {
        let together = match self.waiting.saturating_mul(2) > self.room {
            // pages that are listed ahead wait longest
            true => 1,
            false => TOGETHER,
        };
        let level = self.levels.last_mut()?;
        if let Some(page) = level.page.take() {
            self.waiting = self.waiting.saturating_sub(size_of_page(&page));
            let page = page.map(|mut page| {
                level.rest = page.rest.take();
                page
            });
            return Some(Step::Offer(level.path.clone(), page));
        }
        if level.subdirs.front().is_some_and(|subdir| subdir.page.is_none()) {
            let paths = level.subdirs.iter().take(together);
            let paths = paths.map_while(|dir| join(&level.path, dir.entry.name.as_ref()).ok());
            return Some(Step::List(paths.collect()));
        }
        if let Some(Subdir {
            entry,
            within,
            page: Some(page),
        }) = level.subdirs.pop_front()
        {
            let freed = size_of(&entry).saturating_add(size_of_page(&page));
            self.waiting = self.waiting.saturating_sub(freed);
            return Some(Step::Enter {
                path: join(&level.path, entry.name.as_ref()),
                entry,
                within,
                page,
            });
        }
        if let Some(rest) = level.rest.take() {
            return Some(Step::Read(rest));
        }
        let level = self.levels.pop()?;
        debug_assert!(!self.levels.is_empty() || self.waiting == 0, "what waits is counted");
        Some(Step::Close(match level.state {
            DirState::Offered(number) => Closed::Offered(number),
            DirState::Pending(_) => Closed::Pending(level.path, level.within),
        }))
    }
}

fn size_of(entry: &Entry) -> usize {
    let name = entry.name.as_ref().map_or(0, |name| name.as_bytes().len());
    let target = entry.target.as_ref().map_or(0, Vec::len);
    ENTRY.saturating_add(name).saturating_add(target)
}

fn size_of_page(page: &Listed) -> usize {
    let entries = page.as_ref().map_or(&[][..], |page| &page.entries);
    entries.iter().map(size_of).fold(0, usize::saturating_add)
}

/// The path of an entry of a directory.
pub(super) fn join(dir: &RemotePath, name: Option<&Name>) -> Result<RemotePath, StoreError> {
    let Some(name) = name else {
        return Ok(dir.clone());
    };
    dir.join(name).map_err(|e| StoreError::new(ErrorKind::BadName(e), dir))
}

#[cfg(test)]
mod tests;
