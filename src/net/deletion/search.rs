//! The search: lists the destination, and asks the source for the same names.
//!
//! A name is only extra if the source says that nothing is there: a source that cannot be read
//! ends the search. What the rules of the filter exclude is protected, with the directories above
//! it.

use crate::net::deletion::pair::{Pair, Rules, sent_at_all, unlisted};
use crate::net::deletion::place::Place;
use crate::net::deletion::plan::Plan;
use crate::net::error::NetError;
use crate::net::transfer::filter::{Filter, Verdict};
use crate::net::transfer::report::shown;
use crate::net::transfer::view::{Seen, View};
use crate::net::wire::{Code, MAX_DIRS, MAX_PATHS};
use crate::store::{BadPath, Entry, ErrorKind, Kind, Page, RemotePath, Removal, StoreError};
use std::sync::Arc;

/// Directories of one request while many wait: few, so that they do not become more and more.
const FEW_DIRS: usize = 8;
/// As many waiting directories are many.
const MANY: usize = 16 << 10;
/// Directories that wait at most: a destination that invents them without end must end the search.
const MOST_WAITING: usize = 1 << 20;
/// Entries of a destination at most.
const MOST_FOUND: u64 = 100_000_000;
/// Bytes of the paths of a request.
const REQUEST_BYTES: usize = 256 << 10;

/// A directory of the destination that is still to be listed.
struct Pending {
    /// Its path at the destination.
    path: RemotePath,
    /// From here on; empty: from the start.
    cookie: Vec<u8>,
    /// The source has it too.
    exists: bool,
    /// The rule that excludes it, if one does.
    within: Option<usize>,
    /// The rule that leaves it out of what is sent, if one does.
    unsent: Option<usize>,
}

/// Finds what the destination has beneath the directory of a pair and its source has not.
///
/// # Errors
/// Why the search could not be completed: nothing may be deleted then.
pub async fn search(
    pair: &Pair,
    destination: &Place,
    rules: Rules<'_>,
    plan: &mut Plan,
) -> Result<(), NetError> {
    let Some((within, unsent)) = sent_at_all(pair, rules).await? else {
        return Ok(());
    };
    let root = Pending {
        path: pair.top.clone(),
        cookie: Vec::new(),
        exists: true,
        within,
        unsent,
    };
    let mut search = MirrorSearch {
        pair,
        destination,
        rules,
        plan,
        waiting: vec![root],
    };
    search.run().await
}

/// An entry of a page.
struct Listed {
    path: RemotePath,
    entry: Entry,
    verdict: Verdict,
    /// Whether it is sent.
    sent: Verdict,
    /// The source has the directory that it is in.
    beneath_existing: bool,
}

impl Listed {
    /// True where the source is to say whether it has it: its ignore files may exclude it even
    /// where it is not there.
    fn is_asked(&self, rules: &Rules<'_>) -> bool {
        let may_be_there = self.beneath_existing || !rules.view.ignore_files.is_empty();
        may_be_there
            && !matches!(self.verdict, Verdict::Skip(_))
            && !(rules.deletes_excluded && matches!(self.sent, Verdict::Skip(_)))
    }

    /// True where a rule includes it, whatever ignore files say.
    fn is_included(&self) -> bool {
        matches!(self.sent, Verdict::Take(Some(_)))
    }
}

struct MirrorSearch<'a> {
    pair: &'a Pair,
    destination: &'a Place,
    rules: Rules<'a>,
    plan: &'a mut Plan,
    /// The last ones are next: a search goes depth first.
    waiting: Vec<Pending>,
}

impl MirrorSearch<'_> {
    async fn run(&mut self) -> Result<(), NetError> {
        while !self.waiting.is_empty() {
            let mut dirs = self.take_batch();
            let asked: Vec<_> =
                dirs.iter().map(|dir| (dir.path.clone(), dir.cookie.clone())).collect();
            let pages = match self.destination.list(&asked, self.rules.view).await {
                // the whole destination: a dry run does not make it
                Err(e) if is_gone(&e) => return Ok(()),
                pages => pages?,
            };
            // the rest of them is listed next
            self.waiting.extend(dirs.drain(pages.len().min(dirs.len())..));
            let mut found = Vec::new();
            for (dir, page) in dirs.into_iter().zip(pages) {
                match page {
                    Ok(page) => self.page(dir, page, &mut found)?,
                    Err(e) if is_gone(&e) => {}
                    Err(e) if e.is_transient() => return Err(e),
                    Err(e) => self.plan.unlisted(&dir.path, e),
                }
            }
            self.found(found).await?;
            if self.waiting.len() > MOST_WAITING || self.plan.found > MOST_FOUND {
                let why = "the destination has more entries than can be compared";
                return Err(StoreError::because(why, &self.pair.top).into());
            }
        }
        Ok(())
    }

    /// The next directories to list.
    fn take_batch(&mut self) -> Vec<Pending> {
        let most = if self.waiting.len() > MANY { FEW_DIRS } else { MAX_DIRS };
        let (mut batch, mut bytes) = (Vec::new(), 0_usize);
        while batch.len() < most && bytes < REQUEST_BYTES {
            let Some(next) = self.waiting.pop() else {
                break;
            };
            bytes = bytes.saturating_add(next.path.as_bytes().len());
            batch.push(next);
        }
        batch
    }

    fn page(&mut self, dir: Pending, page: Page, found: &mut Vec<Listed>) -> Result<(), NetError> {
        let is_empty = page.entries.is_empty();
        for entry in page.entries {
            let Some(name) = &entry.name else {
                return Err(NetError::Protocol("it listed an entry without a name".into()));
            };
            let path = dir.path.join(name).map_err(|e| too_long(e, &dir.path))?;
            let place = self.place_of(&path);
            let judge = |filter: &Filter, within| match filter.is_empty() {
                true => Verdict::Take(None),
                false => filter.judge(&place, entry.kind == Kind::Dir, within),
            };
            let verdict = judge(self.rules.protected, dir.within);
            let sent = judge(self.rules.sent, dir.unsent);
            found.push(Listed {
                sent,
                beneath_existing: dir.exists,
                path,
                entry,
                verdict,
            });
        }
        if let Some(cookie) = page.next {
            if cookie == dir.cookie || is_empty {
                return Err(NetError::Protocol("a listing of it does not advance".into()));
            }
            self.waiting.push(Pending { cookie, ..dir });
        }
        Ok(())
    }

    /// The path of an entry from the transfer's root.
    fn place_of(&self, path: &RemotePath) -> Vec<u8> {
        let beneath = path.beneath(&self.pair.top).unwrap_or_default();
        shown(&self.pair.place, beneath.as_bytes())
    }

    /// Plans the deletion of what the source has not, and goes on into directories.
    async fn found(&mut self, found: Vec<Listed>) -> Result<(), NetError> {
        // a rule that includes an entry decides before the ignore files
        let everything = View {
            ignore_files: Arc::default(),
            ..self.rules.view.clone()
        };
        let included = self.see(&everything, found.iter().filter(|l| l.is_included())).await?;
        let others = self.see(self.rules.view, found.iter().filter(|l| !l.is_included())).await?;
        let (mut included, mut others) = (included.into_iter(), others.into_iter());
        for listed in found {
            let at_source = match (listed.is_asked(&self.rules), listed.is_included()) {
                (false, _) => Seen::Nothing,
                (true, true) => included.next().ok_or_else(unlisted)?,
                (true, false) => others.next().ok_or_else(unlisted)?,
            };
            self.judge(listed, at_source)?;
        }
        Ok(())
    }

    /// What the source has in the place of each of these that is asked for.
    async fn see(
        &self,
        view: &View,
        listed: impl Iterator<Item = &Listed>,
    ) -> Result<Vec<Seen>, NetError> {
        let asked = listed.filter(|listed| listed.is_asked(&self.rules));
        let asked: Vec<RemotePath> =
            asked.map(|listed| self.at_source(&listed.path)).collect::<Result<_, _>>()?;
        see_at_source(self.pair, view, &asked).await
    }

    fn at_source(&self, path: &RemotePath) -> Result<RemotePath, NetError> {
        let beneath = path.beneath(&self.pair.top).unwrap_or_default();
        self.pair.source_top.append(&beneath).map_err(|e| too_long(e, path))
    }

    fn judge(&mut self, listed: Listed, at_source: Seen) -> Result<(), NetError> {
        let Listed {
            path,
            entry,
            verdict,
            sent,
            beneath_existing,
            ..
        } = listed;
        // what is excluded is not there for a deletion that includes it
        let is_ignored = at_source == Seen::Ignored && !self.rules.deletes_excluded;
        self.plan.found = self.plan.found.saturating_add(1);
        if !beneath_existing && (is_ignored || !matches!(verdict, Verdict::Take(_))) {
            self.plan.protect(&path.split().map(|(dir, _)| dir).unwrap_or_default());
        }
        let within = match verdict {
            Verdict::Take(_) => None,
            Verdict::Descend(rule) => Some(rule),
            Verdict::Skip(_) => return Ok(()),
        };
        if is_ignored {
            return Ok(());
        }
        let is_in_the_way = entry.kind == Kind::Dir
            && within.is_none()
            && matches!(at_source, Seen::Kind(kind) if self.rules.replaced.has(kind));
        if is_in_the_way {
            self.plan.in_the_way(self.place_of(&path));
        }
        let is_extra = is_in_the_way || matches!(at_source, Seen::Nothing | Seen::Ignored);
        if is_extra && within.is_none() {
            self.plan.add(&Removal {
                path: path.clone(),
                kind: entry.kind,
                size: entry.size,
                mtime: entry.attributes.mtime,
            })?;
        }
        let exists = at_source == Seen::Kind(Kind::Dir);
        // what is no directory at the source has nothing in it, and was not replaced
        if entry.kind == Kind::Dir && (exists || is_extra) {
            self.waiting.push(Pending {
                path,
                cookie: Vec::new(),
                exists,
                within,
                unsent: match sent {
                    Verdict::Descend(rule) => Some(rule),
                    Verdict::Take(_) | Verdict::Skip(_) => None,
                },
            });
        }
        Ok(())
    }
}

/// Which of these paths of the destination a source has an entry for.
///
/// # Errors
/// That of asking it.
pub async fn are_at_source(pairs: &[Pair], paths: &[RemotePath]) -> Result<Vec<bool>, NetError> {
    let mut are_there = vec![false; paths.len()];
    for pair in pairs {
        let (mut indices, mut asked) = (Vec::new(), Vec::new());
        for (index, path) in paths.iter().enumerate() {
            let beneath = path.beneath(&pair.top).filter(|_| path.is_within(&pair.top));
            if let Some(Ok(path)) = beneath.map(|path| pair.source_top.append(&path)) {
                indices.push(index);
                asked.push(path);
            }
        }
        let seen = see_at_source(pair, &View::default(), &asked).await?;
        for (index, seen) in indices.into_iter().zip(seen) {
            if let Some(is_there) = are_there.get_mut(index) {
                *is_there |= seen != Seen::Nothing;
            }
        }
    }
    Ok(are_there)
}

/// What the source has in the place of each of these of its paths.
async fn see_at_source(
    pair: &Pair,
    view: &View,
    asked: &[RemotePath],
) -> Result<Vec<Seen>, NetError> {
    let places = (&pair.source_root, &pair.source_top);
    let mut seen = Vec::with_capacity(asked.len());
    for paths in requests(asked) {
        seen.extend(pair.source.see(view, places, paths).await?);
    }
    Ok(seen)
}

/// True of a directory that was removed meanwhile.
fn is_gone(error: &NetError) -> bool {
    match error {
        NetError::Refused { code, .. } => *code == Code::NOT_FOUND,
        NetError::Store(e) => e.kind == ErrorKind::NotFound,
        _ => false,
    }
}

fn too_long(why: BadPath, path: &RemotePath) -> NetError {
    StoreError::new(ErrorKind::BadName(why), path).into()
}

/// Cuts paths into requests.
fn requests(mut paths: &[RemotePath]) -> Vec<&[RemotePath]> {
    let mut requests = Vec::new();
    while !paths.is_empty() {
        let (mut count, mut bytes) = (0_usize, 0_usize);
        for path in paths.iter().take(MAX_PATHS) {
            count = count.saturating_add(1);
            bytes = bytes.saturating_add(path.as_bytes().len());
            if bytes > REQUEST_BYTES {
                break;
            }
        }
        let (request, rest) = paths.split_at_checked(count).unwrap_or((paths, &[]));
        requests.push(request);
        paths = rest;
    }
    requests
}
