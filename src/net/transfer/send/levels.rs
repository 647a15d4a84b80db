//! The way down of a walk: the directories that it is in, and what of them is still to be walked,
//! in bounded memory.
//!
//! It reads nothing itself: [`Levels::next`] says what is to be done, and receives the outcome.

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

/// A directory on the way down.
struct Level {
    number: u64,
    path: RemotePath,
    /// Directories of the current page that are still to be walked.
    subdirs: VecDeque<Subdir>,
    /// The current page, until its entries are offered.
    page: Option<Listed>,
    /// The entries behind the current page.
    rest: Option<Box<dyn DirStream>>,
}

/// A directory that will be walked. Its path is made when it is needed: there may be many, and
/// paths are long where they are.
struct Subdir {
    entry: Entry,
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
    /// Offer this directory, and [`Levels::enter`] it.
    Enter {
        /// The number of the directory that it is in.
        parent: u64,
        /// Where it is.
        path: Result<RemotePath, StoreError>,
        /// What it is.
        entry: Entry,
        /// Its first page.
        page: Listed,
    },
    /// Offer these entries of this directory; those that are directories go to [`Levels::add`].
    Offer(u64, RemotePath, Listed),
    /// Read the next page, of [`Levels::limit`], and tell [`Levels::next_page`].
    Read(Box<dyn DirStream>),
    /// Everything in this directory has been walked.
    Close(u64),
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
        Levels::within(ROOM)
    }
}

impl Levels {
    fn within(room: usize) -> Levels {
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
    pub(super) fn enter(&mut self, number: u64, path: RemotePath, page: Listed) {
        self.levels.push(Level {
            number,
            path,
            subdirs: VecDeque::new(),
            page: None,
            rest: None,
        });
        self.next_page(page);
    }

    /// Takes in the next page of the innermost directory.
    pub(super) fn next_page(&mut self, page: Listed) {
        let size = size_of_page(&page);
        if let Some(level) = self.levels.last_mut() {
            level.page = Some(page);
            self.waiting = self.waiting.saturating_add(size);
        }
    }

    /// A directory in the innermost one, to be walked later.
    pub(super) fn add(&mut self, entry: Entry) {
        if let Some(level) = self.levels.last_mut() {
            self.waiting = self.waiting.saturating_add(size_of(&entry));
            level.subdirs.push_back(Subdir { entry, page: None });
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
            return Some(Step::Offer(level.number, level.path.clone(), page));
        }
        if level.subdirs.front().is_some_and(|subdir| subdir.page.is_none()) {
            let paths = level.subdirs.iter().take(together);
            let paths = paths.map_while(|dir| join(&level.path, dir.entry.name.as_ref()).ok());
            return Some(Step::List(paths.collect()));
        }
        if let Some(Subdir {
            entry,
            page: Some(page),
        }) = level.subdirs.pop_front()
        {
            let freed = size_of(&entry).saturating_add(size_of_page(&page));
            self.waiting = self.waiting.saturating_sub(freed);
            return Some(Step::Enter {
                parent: level.number,
                path: join(&level.path, entry.name.as_ref()),
                entry,
                page,
            });
        }
        if let Some(rest) = level.rest.take() {
            return Some(Step::Read(rest));
        }
        let number = level.number;
        self.levels.pop();
        debug_assert!(!self.levels.is_empty() || self.waiting == 0, "what waits is counted");
        Some(Step::Close(number))
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
mod tests {
    use crate::net::transfer::send::levels::*;
    use crate::store::{Attributes, Kind, Version};
    use async_trait::async_trait;
    use std::collections::HashSet;

    /// A tree in which each directory down to `depth` has `width` directories: the first leads
    /// further down, the others are empty.
    #[derive(Clone, Copy)]
    struct Comb {
        width: usize,
        depth: usize,
        name: usize,
    }

    /// The rest of a directory of it.
    struct Rest(Comb, usize);

    #[async_trait]
    impl DirStream for Rest {
        async fn next_page(self: Box<Self>, limit: usize) -> Listed {
            Ok(self.0.page_from(self.1, limit))
        }
    }

    impl Comb {
        fn page_from(self, at: usize, limit: usize) -> DirPage {
            let end = self.width.min(at + limit);
            let names = (at..end).map(|n| match n {
                0 => b"d".to_vec(),
                n => format!("{n:0>width$}", width = self.name).into_bytes(),
            });
            let entries = names.map(|name| Entry {
                name: Some(Name::parse(&name).unwrap()),
                kind: Kind::Dir,
                size: 0,
                attributes: Attributes::default(),
                target: None,
                version: Version::Facts([0; 7]),
            });
            let entries = entries.collect();
            let rest = (end < self.width).then(|| Box::new(Rest(self, end)) as Box<dyn DirStream>);
            DirPage {
                entries,
                sized: true,
                rest,
            }
        }

        fn list(self, path: &RemotePath, limit: usize) -> Listed {
            let is_down = path.as_bytes().split(|b| *b == b'/').all(|name| name == b"d");
            let wide = (path.is_root() || is_down) && path.as_bytes().len() < 2 * self.depth;
            let width = if wide { self.width } else { 0 };
            Ok(Comb { width, ..self }.page_from(0, limit))
        }

        /// Walks all of it.
        async fn walk(self, mut levels: Levels) -> Walked {
            let (mut seen, mut most, mut together) = (HashSet::new(), 0, 0);
            let first = self.list(&RemotePath::root(), levels.limit());
            levels.enter(0, RemotePath::root(), first);
            while let Some(step) = levels.next() {
                match step {
                    Step::List(paths) => {
                        together = together.max(paths.len());
                        let (limit, mut found) = (levels.limit(), 0);
                        let mut pages = Vec::new();
                        for path in paths {
                            let page = self.list(&path, limit);
                            found += page.as_ref().map_or(0, |page| page.entries.len());
                            pages.push(page);
                            if found >= limit {
                                break;
                            }
                        }
                        levels.listed(pages);
                    }
                    Step::Enter { path, page, .. } => {
                        let path = path.unwrap();
                        assert!(seen.insert(path.clone()), "once");
                        levels.enter(0, path, page);
                    }
                    Step::Offer(_, _, page) => {
                        page.unwrap().entries.into_iter().for_each(|e| levels.add(e))
                    }
                    Step::Read(rest) => {
                        let page = rest.next_page(levels.limit()).await;
                        levels.next_page(page);
                    }
                    Step::Close(_) => {}
                }
                most = most.max(levels.waiting);
            }
            Walked {
                directories: seen.len(),
                most,
                together,
            }
        }
    }

    /// How a walk went.
    struct Walked {
        directories: usize,
        /// The most bytes that waited.
        most: usize,
        /// The most directories that one step listed.
        together: usize,
    }

    #[tokio::test]
    async fn what_waits_has_a_bound_however_deep_and_wide_a_tree_is() {
        let (width, depth, name) = (1024, 2047, 255);
        let comb = Comb { width, depth, name };
        let (_, most) = comb.walk_down(Levels::default()).await;
        // the least pages of all levels come on top
        let least = depth * SMALLEST_PAGE * (ENTRY + name);
        assert!(most < ROOM + least, "{most}");
    }

    #[tokio::test]
    async fn everything_is_walked_once_with_little_room() {
        let (width, depth, name) = (40, 60, 100);
        let comb = Comb { width, depth, name };
        for room in [0, 100_000, ROOM] {
            let walked = comb.walk(Levels::within(room)).await;
            assert_eq!(walked.directories, width * (depth + 1));
            let most = walked.most;
            assert!(
                most < room
                    + depth * (SMALLEST_PAGE + 1) * (ENTRY + name)
                    + (ENTRY + name) * PAGE / PART
            );
            // pages that are listed ahead would take the room of deeper ones
            assert_eq!(walked.together == 1, room == 0, "{room}: {}", walked.together);
        }
    }

    impl Comb {
        /// Only the way down: everything else waits.
        async fn walk_down(self, mut levels: Levels) -> (usize, usize) {
            let mut most = 0;
            let first = self.list(&RemotePath::root(), levels.limit());
            levels.enter(0, RemotePath::root(), first);
            for depth in 1.. {
                loop {
                    most = most.max(levels.waiting);
                    match levels.next() {
                        Some(Step::List(paths)) => {
                            let limit = levels.limit();
                            levels.listed(
                                paths.iter().take(1).map(|path| self.list(path, limit)).collect(),
                            );
                        }
                        Some(Step::Offer(_, _, page)) => {
                            page.unwrap().entries.into_iter().for_each(|e| levels.add(e));
                        }
                        Some(Step::Enter { path, page, .. }) => {
                            levels.enter(0, path.unwrap(), page);
                            break;
                        }
                        _ => return (depth, most),
                    }
                }
            }
            (0, most)
        }
    }
}
