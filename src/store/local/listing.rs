//! Listings: the entries of a directory, page by page.
//!
//! A transfer lists a directory through one open stream ([`first_pages`], [`OpenListing`]). The
//! system then shows every name that exists from the beginning to the end, whatever else changes
//! meanwhile. Streams are few ([`HANDLES`]); without one, all names are read at once. A request has
//! only its cookie ([`page_from`]).

use super::blocking::blocking_for;
use super::fd_budget::HANDLES;
use super::fs_type::{has_stable_positions, tells_sizes};
use super::inode::{entry, version};
use super::stat::facts_of;
use super::tree::{Tree, read_dir, seek};
use crate::store::error::At;
use crate::store::reserved::is_reserved;
use crate::store::shares::{Share, Shares};
use crate::store::{DirPage, DirStream, Entry, ErrorKind, Name, Page, RemotePath, StoreError};
use async_trait::async_trait;
use rustix::fd::AsFd;
use rustix::fs::Dir;
use rustix::io::Errno;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// Bytes of names for which room is taken at once: few, since a deep tree holds the rest of a small
/// page on each level.
const BLOCK: usize = 1 << 10;
/// How often the stat of an entry is retried that was replaced between two calls.
const TRIES: usize = 16;

/// A directory of which some pages are still to come.
struct OpenListing {
    tree: Arc<Tree>,
    path: RemotePath,
    sized: bool,
    names: Names,
}

/// The names of a listing that are still to come.
enum Names {
    /// They come through the stream of the first page.
    Streamed {
        stream: Box<Dir>,
        _of_all: Share,
        _of_tree: OwnedSemaphorePermit,
    },
    /// They are in memory, each followed by a zero, from `at` on.
    Read {
        packed: Vec<u8>,
        at: usize,
        _room: Vec<Share>,
    },
}

/// Returns the first pages of directories, until they have `limit` entries together; at least one
/// page.
pub(super) fn first_pages(
    tree: &Arc<Tree>,
    paths: Vec<RemotePath>,
    limit: usize,
) -> Vec<Result<DirPage, StoreError>> {
    let mut pages = Vec::with_capacity(paths.len());
    let mut found = 0_usize;
    for path in paths {
        let page = first_page(tree, path, limit);
        found = found.saturating_add(page.as_ref().map_or(0, |page| page.entries.len()));
        pages.push(page);
        if found >= limit {
            break;
        }
    }
    pages
}

fn first_page(tree: &Arc<Tree>, path: RemotePath, limit: usize) -> Result<DirPage, StoreError> {
    let mut stream = read_dir(&*tree.dir(&path)?, &path)?;
    let entries = stream_entries(&mut stream, &path, limit)?;
    let sized = tells_sizes(fs_type(&stream, &path)?);
    if entries.len() < limit {
        let rest = None;
        return Ok(DirPage {
            entries,
            sized,
            rest,
        });
    }
    let names = Names::rest_of(tree, stream, &path)?;
    let tree = tree.clone();
    let rest = OpenListing {
        tree,
        path,
        sized,
        names,
    };
    Ok(DirPage {
        entries,
        sized,
        rest: Some(Box::new(rest)),
    })
}

/// Returns the next entries of an open stream; fewer than `limit` only at its end.
fn stream_entries(
    stream: &mut Dir,
    path: &RemotePath,
    limit: usize,
) -> Result<Vec<Entry>, StoreError> {
    let mut entries = Vec::new();
    while entries.len() < limit {
        let Some(name) = next_name(stream, path)? else {
            break;
        };
        entries.extend(present_entry(stream.fd().at("read directory", path)?, name.0, path)?);
    }
    Ok(entries)
}

/// Returns the next name that may be shown, and the position behind it.
fn next_name(stream: &mut Dir, path: &RemotePath) -> Result<Option<(Name, i64)>, StoreError> {
    while let Some(next) = stream.read() {
        let next = next.at("read directory", path)?;
        let bytes = next.file_name().to_bytes();
        if !matches!(bytes, b"." | b"..") && !is_reserved(bytes) {
            return Ok(Some((name_of(bytes, path)?, next.offset())));
        }
    }
    Ok(None)
}

fn name_of(bytes: &[u8], dir: &RemotePath) -> Result<Name, StoreError> {
    Name::parse(bytes).map_err(|e| StoreError::new(ErrorKind::BadName(e), dir))
}

/// Describes an entry; `None` once it is gone.
fn present_entry(
    dir: impl AsFd,
    name: Name,
    path: &RemotePath,
) -> Result<Option<Entry>, StoreError> {
    let mut tries = 1;
    loop {
        match facts_of(&dir, &name) {
            Ok((stat, target)) => return Ok(Some(entry(Some(name), &stat, target))),
            Err(Errno::NOENT) => return Ok(None),
            // a symlink that something else has replaced before its target was read
            Err(Errno::INVAL) if tries < TRIES => tries += 1,
            Err(e) => return Err(e).at("stat", path),
        }
    }
}

impl Names {
    /// Keeps the stream open, or reads the remaining names if too many streams are open.
    fn rest_of(tree: &Tree, stream: Dir, path: &RemotePath) -> Result<Names, StoreError> {
        let of_tree = tree.listings().clone().try_acquire_owned();
        match (of_tree, HANDLES.listings.try_take(tree.owner(), 1)) {
            (Ok(_of_tree), Some(_of_all)) => Ok(Names::Streamed {
                stream: Box::new(stream),
                _of_all,
                _of_tree,
            }),
            _ => Names::read_all(stream, path, &HANDLES.names, tree.owner()),
        }
    }

    fn read_all(
        mut stream: Dir,
        path: &RemotePath,
        names: &Arc<Shares>,
        owner: &Arc<str>,
    ) -> Result<Names, StoreError> {
        let no_room = || {
            let why = "too many large directories are being listed: retry later, or copy fewer \
            trees at once";
            StoreError::because(why, path)
        };
        let (mut packed, mut room) = (Vec::new(), Vec::new());
        while let Some((name, _)) = next_name(&mut stream, path)? {
            let length = packed.len().saturating_add(name.as_bytes().len()).saturating_add(1);
            while length > room.len().saturating_mul(BLOCK) {
                room.push(names.try_take(owner, BLOCK as u64).ok_or_else(no_room)?);
            }
            packed.extend_from_slice(name.as_bytes());
            packed.push(0);
        }
        Ok(Names::Read {
            packed,
            at: 0,
            _room: room,
        })
    }
}

impl OpenListing {
    fn entries(&mut self, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let (packed, at) = match &mut self.names {
            Names::Streamed { stream, .. } => return stream_entries(stream, &self.path, limit),
            Names::Read { packed, at, .. } => (packed, at),
        };
        let (dir, mut entries) = (self.tree.dir(&self.path)?, Vec::new());
        while entries.len() < limit {
            let rest = packed.get(*at..).unwrap_or_default();
            let Some(length) = rest.iter().position(|byte| *byte == 0) else {
                break;
            };
            let name = name_of(rest.get(..length).unwrap_or_default(), &self.path)?;
            *at = at.saturating_add(length).saturating_add(1);
            entries.extend(present_entry(&*dir, name, &self.path)?);
        }
        Ok(entries)
    }
}

#[async_trait]
impl DirStream for OpenListing {
    async fn next_page(mut self: Box<Self>, limit: usize) -> Result<DirPage, StoreError> {
        let owner = self.tree.owner().clone();
        blocking_for(&owner, move || {
            let (entries, sized) = (self.entries(limit)?, self.sized);
            let rest = (entries.len() >= limit).then_some(self as Box<dyn DirStream>);
            Ok(DirPage {
                entries,
                sized,
                rest,
            })
        })
        .await
    }
}

/// Returns a page of a directory from `cookie` on. A cookie has the position of the file system
/// behind the page before, and the directory's version then, 8 bytes each.
pub(super) fn page_from(
    tree: &Tree,
    path: &RemotePath,
    cookie: &[u8],
    limit: usize,
) -> Result<Page, StoreError> {
    let mut stream = read_dir(&*tree.dir(path)?, path)?;
    let now = directory_version(&stream, path)?;
    if !cookie.is_empty() {
        let whole = cookie.split_first_chunk::<8>().filter(|(_, version)| version.len() == 8);
        let (position, then) = whole.ok_or(Errno::INVAL).at("continue the listing", path)?;
        stream = seek(stream, position, path)?;
        if then != now && !has_stable_positions(fs_type(&stream, path)?) {
            return Err(StoreError::new(ErrorKind::SourceChanged, path));
        }
    }
    let mut page = Page::default();
    while let Some((name, position)) = next_name(&mut stream, path)? {
        let fd = stream.fd().at("read directory", path)?;
        page.entries.extend(present_entry(fd, name, path)?);
        if page.entries.len() >= limit {
            page.next = Some([position.to_be_bytes(), now].concat());
            break;
        }
    }
    Ok(page)
}

/// Returns the type of its file system (statfs(2)).
fn fs_type(stream: &Dir, path: &RemotePath) -> Result<u64, StoreError> {
    let found = stream.statfs().at("statfs", path)?;
    Ok(u64::try_from(found.f_type).unwrap_or_default())
}

fn directory_version(stream: &Dir, path: &RemotePath) -> Result<[u8; 8], StoreError> {
    let stat = stream.stat().at("stat", path)?;
    let text = version(&stat).to_string();
    Ok(u64::from_str_radix(&text, 16).unwrap_or_default().to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cap_std::ambient_authority;

    const FILES: usize = 1000;
    const LIMIT: usize = 300;

    fn tree(dir: &std::path::Path) -> Arc<Tree> {
        for n in 0..FILES {
            std::fs::write(dir.join(format!("file {n}")), b"").unwrap();
        }
        let root = cap_std::fs::Dir::open_ambient_dir(dir, ambient_authority()).unwrap();
        Arc::new(Tree::strict(Arc::new(super::super::sys::readable(root))))
    }

    #[tokio::test]
    async fn listings_have_a_bound_of_streams_and_are_complete_beyond_it() {
        let dir = tempfile::tempdir().unwrap();
        let tree = tree(dir.path());
        let roots = |_| first_pages(&tree, vec![RemotePath::root()], LIMIT).remove(0).unwrap();
        let pages: Vec<DirPage> = (0..40).map(roots).collect();
        assert_eq!(tree.listings().available_permits(), 0);
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let opened = open.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
        assert!(opened.filter(|path| path == dir.path()).count() < 25, "streams are bounded");
        for mut page in pages {
            let mut names = Vec::new();
            loop {
                names.extend(page.entries.into_iter().map(|e| e.name.unwrap()));
                match page.rest {
                    Some(rest) => page = rest.next_page(LIMIT).await.unwrap(),
                    None => break,
                }
            }
            names.sort();
            names.dedup();
            assert_eq!(names.len(), FILES);
        }
        assert_ne!(tree.listings().available_permits(), 0, "given back");
    }

    #[test]
    fn names_without_a_stream_have_a_bound_and_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let tree = tree(dir.path());
        let path = RemotePath::root();
        let read = |room: usize| {
            let names = Shares::new(room as u64, 1);
            let stream = read_dir(tree.root(), &path).unwrap();
            let before = names.room("");
            let read = Names::read_all(stream, &path, &names, tree.owner()).map(drop);
            assert_eq!(names.room(""), before, "given back");
            read
        };
        assert!(read(32 * BLOCK).is_ok());
        for short in [0, BLOCK / 2] {
            let refused = read(short);
            assert!(refused.unwrap_err().describe().contains("too many large directories"));
        }
    }
}
