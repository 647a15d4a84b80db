//! Directory handles beneath a root: only here a path becomes something open.
//!
//! Every later system call names a single component relative to one of these handles and does not
//! follow it, so what another process does to the tree meanwhile cannot lead outside the root.

use super::closed::Closed;
use super::flush::Flush;
use super::partial_dir::state::PartialDirs;
use super::sys::Directory;
use super::sys::open_in;
use crate::store::backup::Suffix;
use crate::store::error::At;
use crate::store::local::fd_budget::{HANDLES, LISTINGS_OF_A_TREE};
use crate::store::metadata::OmissionCounter;
use crate::store::shares::Share;
use crate::store::{ErrorKind, FollowedLinks, Name, RemotePath, Rights, StoreError};
use cap_std::fs::Dir;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::hash::RandomState;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How symlinks on the way to a directory are treated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    /// Followed, but not where they are what a path names.
    OnTheWay,
    /// Never followed.
    Refused,
    /// Followed, also where they are what a path names.
    Followed(Following),
}

/// Which symlinks a tree follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Following {
    /// What they lead to.
    pub(super) links: FollowedLinks,
    /// Where that may be.
    pub(super) reach: Reach,
}

/// How far a symlink may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Anywhere on this machine, for a user's own files.
    Anywhere,
    /// Beneath the root, for the user of a server.
    Beneath,
}

/// A root and the directories beneath it.
pub(super) struct Tree<D: Directory = Dir> {
    root: Arc<D>,
    links: Links,
    /// How far symlinks on the way may lead.
    reach: Reach,
    /// The user of the tree, who has a share of open files; empty if there is only one user.
    owner: Arc<str>,
    /// Handles that stay open. A full cache is cleared.
    cache: Mutex<HashMap<RemotePath, (Arc<D>, Share)>>,
    unsynced: Mutex<HashSet<RemotePath>>,
    /// Locked while directories are synced: a second caller must wait until they are. A failed
    /// fsync is not repeated, so all later callers get its error.
    syncing: Mutex<Result<(), StoreError>>,
    flush: Flush,
    partial_dirs: PartialDirs<D>,
    /// One permit per directory stream that is open.
    listings: Arc<Semaphore>,
    closed: Closed,
    rights: Rights,
    omissions: OmissionCounter,
    backup: Option<Arc<Backup<D>>>,
}

/// Where a tree moves aside what it replaces or removes.
pub(super) struct Backup<D: Directory> {
    pub(super) suffix: Suffix,
    /// `None`: beside the entry itself.
    pub(super) dir: Option<BackupDir<D>>,
    /// Targets so far whose names are those of backups, by the hashes of their paths: no backup
    /// takes their places.
    pub(super) claimed: Mutex<HashSet<u64>>,
    pub(super) hasher: RandomState,
}

/// A directory with backups.
pub(super) struct BackupDir<D: Directory> {
    pub(super) tree: Box<Tree<D>>,
    /// The directory in that tree; it need not exist.
    pub(super) path: RemotePath,
    /// Where it is in the tree that is backed up, if it is there.
    pub(super) inside: Option<RemotePath>,
}

impl<D: Directory> Tree<D> {
    /// Makes a tree for single requests. It follows symlinks that stay beneath the root, and keeps
    /// no handle open.
    pub(super) fn new(root: D) -> Tree<D> {
        Tree::with(Arc::new(root), Links::OnTheWay)
    }

    /// Makes a tree for one transfer. It follows no symlink, and keeps handles open.
    pub(super) fn strict(root: Arc<D>) -> Tree<D> {
        Tree::with(root, Links::Refused)
    }

    /// Which symlinks are followed where they are what a path names.
    pub(super) fn following(&self) -> Option<Following> {
        match self.links {
            Links::Followed(following) => Some(following),
            Links::OnTheWay | Links::Refused => None,
        }
    }

    fn with(root: Arc<D>, links: Links) -> Tree<D> {
        Tree {
            root,
            links,
            reach: Reach::Beneath,
            owner: Arc::from(""),
            cache: Mutex::default(),
            unsynced: Mutex::default(),
            syncing: Mutex::new(Ok(())),
            flush: Flush::default(),
            partial_dirs: PartialDirs::default(),
            listings: Arc::new(Semaphore::new(LISTINGS_OF_A_TREE)),
            closed: Closed::default(),
            rights: Rights::default(),
            omissions: OmissionCounter::default(),
            backup: None,
        }
    }

    /// Makes a tree for one transfer of a directory of this one.
    pub(super) fn beneath(&self, dir: Arc<D>) -> Tree<D> {
        Tree {
            owner: self.owner.clone(),
            closed: self.closed.clone(),
            rights: self.rights.clone(),
            reach: self.reach,
            ..Tree::strict(dir)
        }
    }

    /// Returns the same tree, which follows symlinks.
    #[must_use]
    pub(super) fn with_links(self, following: Following) -> Tree<D> {
        let links = Links::Followed(following);
        Tree { links, ..self }
    }

    /// Returns the same tree, whose symlinks may lead this far.
    #[must_use]
    pub(super) fn with_reach(self, reach: Reach) -> Tree<D> {
        Tree { reach, ..self }
    }

    /// How far symlinks on the way may lead.
    pub(super) fn reach(&self) -> Reach {
        self.reach
    }

    /// Returns the same tree, which moves aside what it replaces or removes.
    #[must_use]
    pub(super) fn with_backup(self, backup: Backup<D>) -> Tree<D> {
        let backup = Some(Arc::new(backup));
        Tree { backup, ..self }
    }

    /// Where what is replaced or removed goes; `None`: nowhere.
    pub(super) fn backup(&self) -> Option<&Backup<D>> {
        self.backup.as_deref()
    }

    /// Returns the same tree with the right to set more, or less.
    #[must_use]
    pub(super) fn with_rights(self, rights: Rights) -> Tree<D> {
        Tree { rights, ..self }
    }

    /// What may be set.
    pub(super) fn rights(&self) -> &Rights {
        &self.rights
    }

    /// Counts what could not be set.
    pub(super) fn omissions(&self) -> &OmissionCounter {
        &self.omissions
    }

    /// Returns the same tree for one user of several.
    #[must_use]
    pub(super) fn of(self, owner: &Arc<str>) -> Tree<D> {
        let owner = owner.clone();
        Tree { owner, ..self }
    }

    /// The user whose share of open files this tree takes from.
    pub(super) fn owner(&self) -> &Arc<str> {
        &self.owner
    }

    /// Tells whether the tree may still be written.
    pub(super) fn closed(&self) -> &Closed {
        &self.closed
    }

    /// The root's handle.
    pub(super) fn root(&self) -> &D {
        &self.root
    }

    /// Opens a directory.
    pub(super) fn dir(&self, path: &RemotePath) -> Result<Arc<D>, StoreError> {
        if path.is_root() {
            return Ok(self.root.clone());
        }
        if self.links == Links::OnTheWay {
            return self.open_within(self.reach, path);
        }
        if let Some(dir) = self.known(path.as_bytes()) {
            return Ok(dir);
        }
        if let Some(following) = self.following() {
            let dir = self.open_within(following.reach, path)?;
            self.cache_dir(path.clone(), &dir);
            return Ok(dir);
        }
        let mut walked = RemotePath::root();
        let mut dir = self.root.clone();
        for name in path.components() {
            walked = walked
                .join(&name)
                .map_err(|e| StoreError::new(ErrorKind::BadName(e), path))?;
            dir = match self.known(walked.as_bytes()) {
                Some(known) => known,
                None => {
                    let opened = Arc::new(open_subdir(&*dir, &name, &walked)?);
                    self.cache_dir(walked.clone(), &opened);
                    opened
                }
            };
        }
        Ok(dir)
    }

    fn open_within(&self, reach: Reach, path: &RemotePath) -> Result<Arc<D>, StoreError> {
        let dir = match reach {
            Reach::Beneath => self.root.open_beneath(path.as_path()),
            Reach::Anywhere => self.root.open_anywhere(path.as_path()).map_err(Into::into),
        };
        Ok(Arc::new(dir.at("open directory", path)?))
    }

    /// Caches a directory, if its owner's share allows it.
    fn cache_dir(&self, path: RemotePath, dir: &Arc<D>) {
        let mut cache = self.cache.lock();
        if cache.len() >= HANDLES.dirs {
            cache.clear();
        }
        let mut share = HANDLES.cached_dirs.try_take(&self.owner, 1);
        if share.is_none() && !cache.is_empty() {
            cache.clear();
            share = HANDLES.cached_dirs.try_take(&self.owner, 1);
        }
        cache.extend(share.map(|share| (path, (dir.clone(), share))));
    }

    /// Opens the directory that holds `path`; returns the name there too. The root has none: an
    /// error.
    pub(super) fn parent(&self, path: &RemotePath) -> Result<(Arc<D>, Name), StoreError> {
        let is_root = || StoreError::new(ErrorKind::IsADirectory, path);
        let (above, name) = path.halves().ok_or_else(is_root)?;
        // most often it is cached, and its path need not be made
        if let Some(dir) = self.known(above) {
            return Ok((dir, name));
        }
        let (parent, name) = path.split().ok_or_else(is_root)?;
        let dir = self.dir(&parent).map_err(|e| e.about(path))?;
        Ok((dir, name))
    }

    /// Returns the directory at this path, if it is cached or has not got that name yet.
    fn known(&self, path: &[u8]) -> Option<Arc<D>> {
        let cached = self.cache.lock().get(path).map(|(dir, _)| dir.clone());
        cached.or_else(|| self.partial_dirs.dir(path))
    }

    /// The same tree for another transfer: nothing of what an earlier one opened or began is in it,
    /// whose calls may still be under way.
    pub(super) fn renewed(&self) -> Tree<D> {
        Tree {
            links: self.links,
            omissions: self.omissions.clone(),
            backup: self.backup.clone(),
            ..self.beneath(self.root.clone())
        }
    }

    /// Closes all handles that are cached.
    pub(super) fn forget_dirs(&self) {
        self.cache.lock().clear();
    }

    /// The directories that have not got their names yet.
    pub(super) fn partial_dirs(&self) -> &PartialDirs<D> {
        &self.partial_dirs
    }

    /// True if it follows no symlink.
    pub(super) fn is_strict(&self) -> bool {
        self.links == Links::Refused
    }

    /// One permit per directory stream that the tree may have open.
    pub(super) fn listings(&self) -> &Arc<Semaphore> {
        &self.listings
    }

    /// Makes small files durable.
    pub(super) fn flush(&self) -> &Flush {
        &self.flush
    }

    /// Marks a directory in which a name was made that is not on disk yet.
    pub(super) fn mark_unsynced(&self, dir: RemotePath) {
        self.unsynced.lock().insert(dir);
    }

    /// fsyncs every marked directory.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.syncing.lock();
        state.clone()?;
        // Taken out before they are synced: a name that is made meanwhile marks its directory
        // again.
        let mut marked: Vec<RemotePath> = self.unsynced.lock().drain().collect();
        while let Some(path) = marked.pop() {
            let synced = self.dir(&path).and_then(|dir| sync_dir(&*dir, &path));
            if let Err(e) = synced {
                // a directory that was removed meanwhile has no names to keep
                if e.kind != ErrorKind::NotFound {
                    *state = Err(e.clone());
                    return Err(e);
                }
            }
        }
        Ok(())
    }
}

/// Opens a directory's entries for reading, from the start.
pub(super) fn read_dir(dir: &Dir, path: &RemotePath) -> Result<rustix::fs::Dir, StoreError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open_in(dir, b".", flags)
        .and_then(rustix::fs::Dir::new)
        .at("read directory", path)
}

/// Moves a stream to the position that a cookie names.
pub(super) fn seek(
    mut stream: rustix::fs::Dir,
    cookie: &[u8],
    path: &RemotePath,
) -> Result<rustix::fs::Dir, StoreError> {
    if !cookie.is_empty() {
        let position = <[u8; 8]>::try_from(cookie)
            .map(i64::from_be_bytes)
            .map_err(|_| Errno::INVAL)
            .at("continue the listing", path)?;
        stream.seek(position).at("continue the listing", path)?;
    }
    Ok(stream)
}

/// Opens a subdirectory without following a symlink.
pub(super) fn open_subdir<D: Directory>(
    dir: &D,
    name: &Name,
    path: &RemotePath,
) -> Result<D, StoreError> {
    match dir.open_dir_at(name.as_bytes()) {
        Ok(dir) => Ok(dir),
        Err(error) => {
            let found = dir.stat_at(name.as_bytes());
            if found.is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_symlink()) {
                return Err(StoreError::new(ErrorKind::Symlink, path));
            }
            Err(error).at("open directory", path)
        }
    }
}

/// fsync of a directory.
pub(super) fn sync_dir(dir: &impl Directory, path: &RemotePath) -> Result<(), StoreError> {
    dir.fsync().at("fsync of the directory", path)
}
