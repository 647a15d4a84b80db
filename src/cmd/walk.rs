//! Walks a tree on a server, depth first, in bounded memory: by listing requests, those of several
//! directories at a time.

use super::connect::RemoteSession;
use super::failure::Failure;
use super::listing::{Page, Reader};
use super::remote::Remote;
use crate::net::client::Client;
use crate::store::{Entry, Kind, RemotePath};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// Entries up to which a directory is read before its first entry is visited.
const WHOLE: usize = 20_000;
/// Entries of all open directories from which on directories are read page by page.
const MANY: usize = 100_000;
/// Directories that are listed at a time.
const AHEAD: usize = 16;

/// A step of a walk.
pub enum Step<'a> {
    /// An entry, with its path and its depth; 0 is the top.
    Entry {
        /// Its path.
        path: &'a RemotePath,
        /// Its attributes.
        entry: &'a Entry,
        /// How many directories of the walk it is in.
        depth: usize,
    },
    /// A directory of which all has been visited.
    Leave {
        /// Its path.
        path: &'a RemotePath,
        /// How many directories of the walk it is in.
        depth: usize,
    },
}

/// What a walk does with a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descend {
    /// It visits what is in it.
    Yes,
    /// It passes it by; [`Step::Leave`] does not come.
    No,
}

/// A directory that is being visited.
struct Level {
    path: RemotePath,
    reader: Reader,
    entries: VecDeque<Entry>,
    /// First pages of directories in it.
    ahead: HashMap<RemotePath, Page>,
}

/// Visits an entry and all that is beneath it. A directory that cannot be listed is reported, and
/// the walk goes on.
///
/// # Errors
/// That the top does not exist, and what `visit` returns. `Ok(false)`: a directory could not be
/// listed.
pub async fn walk(
    session: &mut RemoteSession,
    top: &Remote,
    mut visit: impl AsyncFnMut(&mut RemoteSession, Step<'_>) -> Result<Descend, Failure>,
) -> Result<bool, Failure> {
    let path = top.path.as_bytes();
    let asked = session.ask(async |client| client.stat(path, false).await).await;
    let mut entry = asked.map_err(|e| Failure::about(&top.shown, e))?.0;
    if top.directory && entry.kind == Kind::Symlink {
        entry.kind = Kind::Dir;
    }
    let step = Step::Entry {
        path: &top.path,
        entry: &entry,
        depth: 0,
    };
    let mut levels = Vec::new();
    if visit(session, step).await? == Descend::Yes && entry.kind == Kind::Dir {
        levels.push(Level::new(top.path.clone(), None));
    }
    let mut complete = true;
    while let Some(depth) = levels.len().checked_sub(1) {
        let most = match count(&levels) {
            MANY.. => 0,
            _ => WHOLE,
        };
        let Some(level) = levels.last_mut() else {
            break;
        };
        let Some(entry) = level.entries.pop_front() else {
            match level.reader.next(session, most).await {
                Ok(Some(part)) => level.entries.extend(part.entries),
                Ok(None) => leave(session, &mut levels, &mut visit).await?,
                Err(e) => {
                    Failure::about(top.at(level.path.clone()).shown, e).report();
                    complete = false;
                    leave(session, &mut levels, &mut visit).await?;
                }
            }
            continue;
        };
        let Some(path) = entry.name.as_ref().and_then(|name| level.path.join(name).ok()) else {
            continue;
        };
        let depth = depth.saturating_add(1);
        let step = Step::Entry {
            path: &path,
            entry: &entry,
            depth,
        };
        if visit(session, step).await? == Descend::Yes && entry.kind == Kind::Dir {
            if !level.ahead.contains_key(&path) && most > 0 {
                level.list_ahead(&session.client(), &path).await;
            }
            let first = level.ahead.remove(&path);
            levels.push(Level::new(path, first));
        }
    }
    Ok(complete)
}

async fn leave(
    session: &mut RemoteSession,
    levels: &mut Vec<Level>,
    visit: &mut impl AsyncFnMut(&mut RemoteSession, Step<'_>) -> Result<Descend, Failure>,
) -> Result<(), Failure> {
    if let Some(level) = levels.pop() {
        let step = Step::Leave {
            path: &level.path,
            depth: levels.len(),
        };
        visit(session, step).await?;
    }
    Ok(())
}

/// Entries that are in memory.
fn count(levels: &[Level]) -> usize {
    let pages = |level: &Level| level.ahead.values().map(|page| page.0.len()).sum::<usize>();
    levels
        .iter()
        .map(|level| level.entries.len().saturating_add(pages(level)))
        .sum()
}

impl Level {
    fn new(path: RemotePath, first: Option<Page>) -> Level {
        Level {
            reader: Reader::new(path.as_bytes(), first),
            path,
            entries: VecDeque::new(),
            ahead: HashMap::new(),
        }
    }

    /// Lists the first pages of a directory and of those that follow it. One that cannot be listed
    /// is listed once more in its turn, and fails then.
    async fn list_ahead(&mut self, client: &Client, next: &RemotePath) {
        let dirs = self.entries.iter().filter(|entry| entry.kind == Kind::Dir);
        let names = dirs.filter_map(|entry| entry.name.as_ref());
        let others = names.filter_map(|name| self.path.join(name).ok());
        let others = others.filter(|path| !self.ahead.contains_key(path));
        let paths: Vec<RemotePath> = others.take(AHEAD.saturating_sub(1)).collect();
        let paths = std::iter::once(next.clone()).chain(paths);
        let list = async |path: RemotePath| {
            let page = client.list(path.as_bytes(), Vec::new()).await;
            page.ok().map(|page| (path, page))
        };
        let pages = all(paths.map(list)).await;
        self.ahead.extend(pages.into_iter().flatten());
    }
}

/// Waits for several futures at a time; returns their results in order.
pub async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<Pin<Box<F>>> = futures.map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (future, result) in waiting.iter_mut().zip(&mut done) {
            if result.is_none()
                && let Poll::Ready(output) = future.as_mut().poll(context)
            {
                *result = Some(output);
            }
        }
        match done.iter().all(Option::is_some) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    done.into_iter().flatten().collect()
}
