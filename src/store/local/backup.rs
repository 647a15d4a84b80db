//! Backups: what a commit replaces, or a deletion removes, is moved aside first.
//!
//! A target gets its backup's name as a second one before the new file is renamed over it, so that
//! it never vanishes; a backup that exists is replaced by a rename. Where the file system has no
//! hard links, the target is renamed. The backup is durable before the target is replaced.

use super::dir_ops::resolve;
use super::sys::{Directory, Node, remove_file};
use super::target::LockedTarget;
use super::tree::{Backup, BackupDir, Tree};
use crate::store::backup::{BackupPlan, Suffix};
use crate::store::error::At;
use crate::store::{Durability, ErrorKind, Name, RemotePath, StoreError};
use cap_std::fs::Dir;
use parking_lot::Mutex;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Most targets of a run whose names are those of backups.
const MOST_CLAIMED: usize = 1 << 18;
/// How often a suffix is added until no target has the name.
const MOST_SUFFIXES: usize = 16;
/// The mode of directories that are made, of which the umask takes its part.
const NEW_DIR: u32 = 0o777;

impl Backup<Dir> {
    /// The backups of the directory at `root`, as planned. A backup directory is on its file
    /// system.
    ///
    /// # Errors
    /// Why the backup directory cannot be used.
    pub(super) fn new(
        base: &Tree,
        (root, root_dir): (&RemotePath, &Dir),
        plan: BackupPlan,
    ) -> Result<Backup<Dir>, StoreError> {
        let BackupPlan { dir, suffix } = plan;
        let Some(wanted) = dir else {
            return Backup::beside(suffix, root);
        };
        let unusable = |why: &str| {
            let shown = String::from_utf8_lossy(wanted.as_bytes());
            StoreError::because(&format!("the backup directory /{shown}: {why}"), &wanted)
        };
        let failed = |e: StoreError| unusable(&e.describe());
        let (existing, missing) = existing_part(base, &wanted).map_err(failed)?;
        let real = existing.append(&missing);
        let real = real.map_err(|e| failed(StoreError::new(ErrorKind::BadName(e), &wanted)))?;
        if real == *root {
            return Backup::beside(suffix, root);
        }
        let inside = real.beneath(root);
        let handle = base.dir(&existing).map_err(failed)?;
        let on = handle.fstat().at("stat", &existing)?.st_dev;
        if on != root_dir.fstat().at("stat", root)?.st_dev {
            return Err(unusable("it is on another file system than the destination"));
        }
        Ok(Backup::within(suffix, (base.beneath(handle), missing), inside))
    }
}

/// Divides a path into the part that exists, with its symlinks followed, and the rest.
fn existing_part(tree: &Tree, path: &RemotePath) -> Result<(RemotePath, RemotePath), StoreError> {
    let mut at = path.clone();
    loop {
        match (resolve(tree, &at), at.split()) {
            (Ok(real), _) => return Ok((real, path.beneath(&at).unwrap_or_default())),
            (Err(e), Some((parent, _))) if e.kind == ErrorKind::NotFound => at = parent,
            (Err(e), _) => return Err(e),
        }
    }
}

impl<D: Directory> Backup<D> {
    /// Backups beside their entries.
    ///
    /// # Errors
    /// For an empty suffix: an entry cannot be its own backup.
    pub(super) fn beside(suffix: Suffix, root: &RemotePath) -> Result<Backup<D>, StoreError> {
        match suffix.as_bytes() {
            [] => Err(StoreError::because("a backup beside its file needs a suffix", root)),
            _ => Ok(Backup {
                suffix,
                dir: None,
                claimed: Mutex::default(),
                hasher: RandomState::new(),
            }),
        }
    }

    /// Backups in a directory of a tree, which is at `inside` in the tree that is backed up.
    pub(super) fn within(
        suffix: Suffix,
        (tree, path): (Tree<D>, RemotePath),
        inside: Option<RemotePath>,
    ) -> Backup<D> {
        let tree = Box::new(tree);
        let dir = Some(BackupDir { tree, path, inside });
        Backup {
            suffix,
            dir,
            claimed: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    /// Makes durable the backups so far of entries of `tree`.
    pub(super) fn sync(&self, tree: &Tree<D>) -> Result<(), StoreError> {
        match &self.dir {
            Some(dir) => dir.tree.sync(),
            None => tree.sync(),
        }
    }

    /// Makes the backup of a locked target that exists and is no directory. No later backup takes
    /// the target's own place.
    fn preserve(&self, tree: &Tree<D>, target: &LockedTarget<D>) -> Result<(), StoreError> {
        // until the backup has its place, so that no other takes it
        let mut claimed = self.claimed.lock();
        self.claim(&mut claimed, &target.path, &target.name)?;
        let (entry, names) = ((&target.dir, &target.name), &target.lock.names);
        self.preserve_beside(&claimed, (tree, &target.path), entry, &names.replaced)
    }

    /// Where the backup of an entry would be in the tree that is backed up, if it is there.
    fn place_in_tree(&self, path: &RemotePath, name: &Name) -> Option<RemotePath> {
        let above = path.split().map(|(parent, _)| parent).unwrap_or_default();
        let above = match &self.dir {
            Some(dir) => dir.inside.as_ref()?.append(&above).ok()?,
            None => above,
        };
        above.join(name).ok()
    }

    /// True where a path is in the backup directory.
    fn has(&self, path: &RemotePath) -> bool {
        let inside = self.dir.as_ref().and_then(|dir| dir.inside.as_ref());
        inside.is_some_and(|inside| path.is_within(inside))
    }

    /// Remembers a target that has the place of a backup.
    fn claim(
        &self,
        claimed: &mut HashSet<u64>,
        path: &RemotePath,
        name: &Name,
    ) -> Result<(), StoreError> {
        let is_like_backup = match &self.dir {
            Some(_) => self.has(path),
            None => self.suffix.is_of(name),
        };
        if !is_like_backup {
            return Ok(());
        }
        claimed.insert(self.hasher.hash_one(path.as_bytes()));
        match claimed.len() > MOST_CLAIMED {
            true => Err(failed_because(path, &StoreError::because("too many are like it", path))),
            false => Ok(()),
        }
    }

    /// The name of an entry's backup: one that no target of this run has.
    fn free_name(
        &self,
        claimed: &HashSet<u64>,
        path: &RemotePath,
        name: &Name,
    ) -> Result<Name, StoreError> {
        let bad = |e| failed_because(path, &StoreError::new(ErrorKind::BadName(e), path));
        let mut backup = self.suffix.name_of(name).map_err(bad)?;
        for _ in 0..MOST_SUFFIXES {
            let place = self.place_in_tree(path, &backup);
            let hash = place.map(|place| self.hasher.hash_one(place.as_bytes()));
            if !hash.is_some_and(|hash| claimed.contains(&hash)) {
                return Ok(backup);
            }
            backup = self.suffix.or_usual().name_of(&backup).map_err(bad)?;
        }
        Err(failed_because(
            path,
            &StoreError::because("all of its names are taken", path),
        ))
    }

    /// Makes the backup of an entry that exists and is no directory. `between` is a name of haul's
    /// beside it.
    pub(super) fn preserve_at(
        &self,
        tree: &Tree<D>,
        path: &RemotePath,
        entry: (&Arc<D>, &Name),
        between: &[u8],
    ) -> Result<(), StoreError> {
        self.preserve_beside(&self.claimed.lock(), (tree, path), entry, between)
    }

    fn preserve_beside(
        &self,
        claimed: &HashSet<u64>,
        (tree, path): (&Tree<D>, &RemotePath),
        (dir, name): (&Arc<D>, &Name),
        between: &[u8],
    ) -> Result<(), StoreError> {
        let found = match dir.stat_at(name.as_bytes()) {
            Err(Errno::NOENT) => return Ok(()),
            found => found.at("stat", path)?,
        };
        // a directory is not replaced
        if FileType::from_raw_mode(found.st_mode).is_dir() {
            return Ok(());
        }
        let place = self.place_of(claimed, path, (dir, name))?;
        let (from, to) = (name.as_bytes(), place.name.as_bytes());
        let made = match dir.link_into(from, &place.dir, to) {
            // a writer that died may have made it
            Err(Errno::EXIST) if place.is_same(&found) => Ok(()),
            Err(Errno::EXIST) => replace(&**dir, from, between, &place),
            made => made,
        };
        match made {
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                dir.rename_into(from, &place.dir, to)
            }
            made => made,
        }
        .map_err(|e| failed(path, e))?;
        self.mark_unsynced(tree, place);
        Ok(())
    }

    /// Moves an entry that is to be removed to its backup. False if it has to be removed all the
    /// same: it is a backup itself, or has a second name there.
    pub(super) fn take(
        &self,
        tree: &Tree<D>,
        (path, found): (&RemotePath, &Stat),
        (dir, name): (&Arc<D>, &Name),
    ) -> Result<bool, StoreError> {
        if self.has(path) {
            return Err(StoreError::because("it is in the backup directory", path));
        }
        if self.dir.is_none() && self.suffix.is_of(name) {
            return Ok(false);
        }
        let claimed = self.claimed.lock();
        let place = self.place_of(&claimed, path, (dir, name))?;
        if place.is_same(found) {
            return Ok(false);
        }
        let moved = dir.rename_into(name.as_bytes(), &place.dir, place.name.as_bytes());
        moved.map_err(|e| failed(path, e))?;
        self.mark_unsynced(tree, place);
        Ok(true)
    }

    fn mark_unsynced(&self, tree: &Tree<D>, place: BackupName<D>) {
        match &self.dir {
            Some(dir) => dir.tree.mark_unsynced(place.above),
            None => tree.mark_unsynced(place.above),
        }
    }

    /// The place of an entry's backup; its directory is made.
    fn place_of(
        &self,
        claimed: &HashSet<u64>,
        path: &RemotePath,
        (dir, name): (&Arc<D>, &Name),
    ) -> Result<BackupName<D>, StoreError> {
        let bad = |e| failed_because(path, &StoreError::new(ErrorKind::BadName(e), path));
        let name = self.free_name(claimed, path, name)?;
        let above = path.split().map(|(parent, _)| parent).unwrap_or_default();
        let Some(backups) = &self.dir else {
            let dir = dir.clone();
            return Ok(BackupName { dir, name, above });
        };
        let above = backups.path.append(&above).map_err(bad)?;
        let dir = make_path(&backups.tree, &above).map_err(|e| failed_because(path, &e))?;
        Ok(BackupName { dir, name, above })
    }
}

/// The place of a backup.
struct BackupName<D: Directory> {
    dir: Arc<D>,
    name: Name,
    /// The directory's path in its tree.
    above: RemotePath,
}

impl<D: Directory> BackupName<D> {
    /// True if the entry there is the one that was found.
    fn is_same(&self, found: &Stat) -> bool {
        let there = self.dir.stat_at(self.name.as_bytes());
        there.is_ok_and(|there| (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino))
    }
}

/// Puts a second name of `from` in the place of a backup that exists.
fn replace<D: Directory>(
    dir: &D,
    from: &[u8],
    between: &[u8],
    place: &BackupName<D>,
) -> rustix::io::Result<()> {
    remove_file(dir, between)?;
    dir.link_at(from, between)?;
    let renamed = dir.rename_into(between, &place.dir, place.name.as_bytes());
    if renamed.is_err() {
        let _ = remove_file(dir, between);
    }
    renamed
}

/// Opens a directory, which is made if it does not exist, with those above it.
pub(super) fn make_path<D: Directory>(
    tree: &Tree<D>,
    path: &RemotePath,
) -> Result<Arc<D>, StoreError> {
    match tree.dir(path) {
        Err(e) if e.kind == ErrorKind::NotFound => {}
        opened => return opened,
    }
    let mut at = RemotePath::root();
    for name in path.components() {
        match tree.dir(&at)?.make_dir_at(name.as_bytes(), NEW_DIR) {
            // its maker may not have synced its name
            Ok(()) | Err(Errno::EXIST) => tree.mark_unsynced(at.clone()),
            Err(e) => return Err(e).at("make directory", path),
        }
        at = at.join(&name).map_err(|e| StoreError::new(ErrorKind::BadName(e), path))?;
    }
    tree.dir(path)
}

fn failed(path: &RemotePath, error: Errno) -> StoreError {
    let error = match error {
        Errno::XDEV => StoreError::because("it would be on another file system", path),
        error => StoreError::io("rename", path, &error.into()),
    };
    failed_because(path, &error)
}

/// The error of an entry whose backup fails. Lack of room stays what it is.
fn failed_because(path: &RemotePath, error: &StoreError) -> StoreError {
    match error.kind {
        ErrorKind::NoSpace | ErrorKind::Quota | ErrorKind::ReadOnly => error.clone().about(path),
        _ => StoreError::because(&format!("its backup cannot be made: {}", error.describe()), path),
    }
}

/// Makes the backups of targets that are about to be replaced, and durable if they are to be; one
/// result for each. Each target must be locked, and fenced.
pub(super) fn preserve_all<D: Directory>(
    tree: &Tree<D>,
    backup: &Backup<D>,
    targets: &[&LockedTarget<D>],
    durability: Durability,
) -> Vec<Result<(), StoreError>> {
    let made: Vec<_> = targets.iter().map(|target| backup.preserve(tree, target)).collect();
    let synced = match durability {
        Durability::Durable => backup.sync(tree),
        Durability::Volatile => Ok(()),
    };
    made.into_iter().map(|made| made.and(synced.clone())).collect()
}

/// Makes durable the names that were made and removed in a tree, and its backups before them.
pub(super) fn sync_all<D: Directory>(tree: &Tree<D>) -> Result<(), StoreError> {
    tree.backup().map_or(Ok(()), |backup| backup.sync(tree))?;
    tree.sync()
}
