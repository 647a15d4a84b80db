//! Answers which paths match a shell pattern.
//!
//! The answer is in the order of the paths' components. So the last path of a page is all that the
//! next one needs, and the server keeps no state between the two. One walk serves all alternatives
//! of a pattern. It lists a directory only where a wildcard needs that, and remembers of each no
//! more than its first candidates.

use crate::net::error::NetError;
use crate::net::transfer::filter::glob::{Glob, States};
use crate::store::{Entry, ErrorKind, Kind, Name, RemotePath, Store, StoreError, StoreExt};
use std::collections::{BTreeMap, btree_map};

/// Entries of a page of a listing.
const PAGE: usize = 512;
/// Names that are matched before other tasks get their turn.
const TURN: usize = 64;
/// Names after which an answer ends with the next directory.
const VISITS: usize = 200_000;
/// Most candidates of one directory, and of all directories of a walk.
const CANDIDATES: usize = 4096;
const ALL_CANDIDATES: usize = 65_536;
/// Positions of a candidate that take as much memory as its name.
const POSITIONS: usize = 8;
/// Least candidates of a directory.
const FEW: usize = 16;
/// How often a listing restarts because the directory changed meanwhile.
const RESTARTS: usize = 8;

/// The most that an answer has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    pub(super) paths: usize,
    pub(super) bytes: usize,
}

/// Paths that match.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Matches {
    pub(super) paths: Vec<RemotePath>,
    /// Where the next answer begins; `None` after the last one.
    pub(super) next: Option<Vec<u8>>,
}

/// The place where an answer begins: behind this path, or behind all that is beneath it, too.
#[derive(Clone, Debug)]
struct Resume {
    path: RemotePath,
    names: Vec<Name>,
    is_done: bool,
}

/// A name that matches, or leads to names that do.
struct Candidate {
    matched: bool,
    beneath: States,
    /// It is on the way to the place where this answer begins.
    on_the_way: bool,
}

/// A directory of the walk.
struct Level {
    dir: RemotePath,
    candidates: btree_map::IntoIter<Name, Candidate>,
    /// It has more candidates than these.
    has_more: bool,
    last: Option<Name>,
    states: States,
    on_the_way: bool,
}

/// A walk over the paths that match.
pub(super) struct Walk<'a, S: Store + ?Sized> {
    store: &'a S,
    base: &'a RemotePath,
    glob: &'a Glob,
    resume: Option<Resume>,
    levels: Vec<Level>,
    visits: usize,
    /// A directory was searched that no earlier answer has searched.
    progressed: bool,
}

impl<'a, S: Store + ?Sized> Walk<'a, S> {
    /// A walk beneath `base` from `cookie` on; empty: from the start.
    ///
    /// # Errors
    /// A cookie that is none.
    pub(super) fn new(
        store: &'a S,
        base: &'a RemotePath,
        glob: &'a Glob,
        cookie: &[u8],
    ) -> Result<Walk<'a, S>, NetError> {
        Ok(Walk {
            store,
            base,
            glob,
            resume: Resume::parse(cookie)?,
            levels: Vec::new(),
            visits: 0,
            progressed: false,
        })
    }

    /// Returns the next paths, relative to the base.
    pub(super) async fn run(mut self, most: Most) -> Result<Matches, NetError> {
        let (mut paths, mut bytes) = (Vec::new(), 0_usize);
        let on_the_way = self.resume.is_some();
        self.descend(RemotePath::root(), self.glob.start(), on_the_way).await?;
        while let Some(level) = self.levels.last_mut() {
            let Some((name, candidate)) = level.candidates.next() else {
                if let (true, Some(last)) = (level.has_more, level.last.take()) {
                    let done = join(&level.dir, &last)?;
                    let next = Some(Resume::to_cookie(&done, true));
                    return Ok(Matches { paths, next });
                }
                self.levels.pop();
                continue;
            };
            let path = join(&level.dir, &name)?;
            level.last = Some(name);
            let leads_on = !candidate.beneath.is_empty();
            if candidate.matched {
                bytes = bytes.saturating_add(path.as_bytes().len());
                paths.push(path.clone());
            }
            let is_full = candidate.matched && (paths.len() >= most.paths || bytes >= most.bytes);
            if is_full || (leads_on && self.progressed && self.visits >= VISITS) {
                let next = Some(Resume::to_cookie(&path, !leads_on));
                return Ok(Matches { paths, next });
            }
            if leads_on {
                self.descend(path, candidate.beneath, candidate.on_the_way).await?;
            }
        }
        let next = None;
        Ok(Matches { paths, next })
    }

    /// Finds the candidates of a directory.
    async fn descend(
        &mut self,
        dir: RemotePath,
        states: States,
        on_the_way: bool,
    ) -> Result<(), NetError> {
        let others = self.levels.iter().map(|level| level.candidates.len()).sum::<usize>();
        // a candidate remembers its positions in the pattern
        let weight = self.glob.parts().saturating_div(POSITIONS).saturating_add(1);
        let most = ALL_CANDIDATES.saturating_div(weight).saturating_sub(others);
        let most = most.clamp(FEW, CANDIDATES.saturating_div(weight).max(FEW));
        let mut level = Level {
            dir,
            candidates: BTreeMap::new().into_iter(),
            has_more: false,
            last: None,
            states,
            on_the_way,
        };
        let real = self.base.append(&level.dir).map_err(|e| bad_name(&level.dir, e))?;
        let mut found = BTreeMap::new();
        let searched = match self.glob.names(&level.states) {
            Some(names) => self.find_named(&real, names, &level, &mut found).await,
            None => {
                let listed = self.list(&real, &level, most, &mut found).await;
                listed.map(|has_more| level.has_more = has_more)
            }
        };
        match searched {
            Ok(()) => {}
            Err(e) if is_passed(&e.kind) => {}
            Err(e) => return Err(e.into()),
        }
        level.candidates = found.into_iter();
        self.progressed |= !on_the_way;
        self.levels.push(level);
        Ok(())
    }

    /// Finds the names that the pattern has itself.
    async fn find_named(
        &mut self,
        real: &RemotePath,
        names: impl IntoIterator<Item = Name>,
        level: &Level,
        found: &mut BTreeMap<Name, Candidate>,
    ) -> Result<(), StoreError> {
        for name in names {
            let path = join(real, &name)?;
            match self.store.stat(&path).await {
                Ok(entry) => self.consider(&entry, level, found),
                Err(e) if is_passed(&e.kind) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Lists a directory, and remembers its first candidates. Returns true if there are more.
    async fn list(
        &mut self,
        real: &RemotePath,
        level: &Level,
        most: usize,
        found: &mut BTreeMap<Name, Candidate>,
    ) -> Result<bool, StoreError> {
        let (mut cookie, mut restarts, mut has_more) = (Vec::new(), 0, false);
        loop {
            let page = match self.store.list(real, &cookie, PAGE).await {
                Err(e) if e.kind == ErrorKind::SourceChanged && restarts < RESTARTS => {
                    restarts += 1;
                    cookie.clear();
                    continue;
                }
                page => page?,
            };
            for entries in page.entries.chunks(TURN) {
                for entry in entries {
                    self.consider(entry, level, found);
                    if found.len() > most {
                        found.pop_last();
                        has_more = true;
                    }
                }
                tokio::task::yield_now().await;
            }
            match page.next {
                Some(next) => cookie = next,
                None => return Ok(has_more),
            }
        }
    }

    /// Remembers an entry if it is a candidate behind the place where this answer begins.
    fn consider(&mut self, entry: &Entry, level: &Level, found: &mut BTreeMap<Name, Candidate>) {
        self.visits = self.visits.saturating_add(level.states.len());
        let Some(name) = &entry.name else { return };
        let step = self.glob.step(&level.states, name);
        let beneath = match entry.kind {
            Kind::Dir => step.beneath,
            Kind::Symlink => step.through_links,
            _ => States::new(),
        };
        let mut candidate = Candidate {
            matched: step.matched,
            beneath,
            on_the_way: false,
        };
        if let (true, Some(resume)) = (level.on_the_way, &self.resume) {
            match resume.place_of(&level.dir, name) {
                Place::Before => return,
                Place::OnTheWay => (candidate.matched, candidate.on_the_way) = (false, true),
                Place::There => candidate.matched = false,
                Place::Behind => {}
            }
        }
        if candidate.matched || !candidate.beneath.is_empty() {
            found.insert(name.clone(), candidate);
        }
    }
}

/// Where a name stands to the beginning of an answer.
enum Place {
    Before,
    OnTheWay,
    There,
    Behind,
}

impl Resume {
    /// A cookie is a byte that says whether all beneath the path is done, and the path.
    fn parse(cookie: &[u8]) -> Result<Option<Resume>, NetError> {
        let Some((first, path)) = cookie.split_first() else {
            return Ok(None);
        };
        let path = RemotePath::parse(path).ok().filter(|path| !path.is_root() && *first < 2);
        let path =
            path.ok_or_else(|| super::transfers::bad("the cookie is none of this server"))?;
        Ok(Some(Resume {
            names: path.components().collect(),
            path,
            is_done: *first == 1,
        }))
    }

    fn to_cookie(path: &RemotePath, is_done: bool) -> Vec<u8> {
        [&[u8::from(is_done)][..], path.as_bytes()].concat()
    }

    /// The place of a name in a directory on the way.
    fn place_of(&self, dir: &RemotePath, name: &Name) -> Place {
        let depth = dir.components().count();
        let Some(on_the_way) = self.names.get(depth).filter(|_| self.path.is_within(dir)) else {
            return Place::Behind;
        };
        let is_there = depth.saturating_add(1) == self.names.len();
        match name.cmp(on_the_way) {
            std::cmp::Ordering::Less => Place::Before,
            std::cmp::Ordering::Greater => Place::Behind,
            std::cmp::Ordering::Equal if !is_there => Place::OnTheWay,
            std::cmp::Ordering::Equal if self.is_done => Place::Before,
            std::cmp::Ordering::Equal => Place::There,
        }
    }
}

fn join(dir: &RemotePath, name: &Name) -> Result<RemotePath, StoreError> {
    dir.join(name).map_err(|e| bad_name(dir, e))
}

fn bad_name(path: &RemotePath, why: crate::store::BadPath) -> StoreError {
    StoreError::new(ErrorKind::BadName(why), path)
}

/// True of a directory or name that the walk passes by, as a shell does.
fn is_passed(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::Denied
            | ErrorKind::Symlink
            | ErrorKind::BadName(_)
    )
}

#[cfg(test)]
mod tests;
