//! What a transfer finds as it should be is durable when it ends: a transfer before may have been killed between its renames
//! and their fsync, or have run without any.
//!
//! Where one syncfs(2) does that for everything of a file system, it is called once, at the end. Elsewhere each file is opened
//! for an fsync when it is found.

use super::flush::syncs_whole;
use super::sys::{Directory, Node};
use super::tree::{Tree, sync_dir};
use crate::store::error::At;
use crate::store::local::stat::device_of;
use crate::store::{Kind, RemotePath, StoreError, Version};
use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::Arc;

/// The devices of a tree on which something was found unchanged, each with a directory of it; `None` where every file is
/// synced by itself.
pub(super) struct Found<D>(Mutex<HashMap<u64, Option<Arc<D>>>>);

impl<D> Default for Found<D> {
    fn default() -> Found<D> {
        Found(Mutex::default())
    }
}

/// An entry that was found unchanged: where, what, and its version.
pub(super) type Entry = (RemotePath, Kind, Version);

impl<D: Directory> Found<D> {
    /// True where nothing has to be done for an entry before the end.
    pub(super) fn covers(&self, version: &Version) -> bool {
        let device = device_of(version);
        device.is_some_and(|device| matches!(self.0.lock().get(&device), Some(Some(_))))
    }
}

/// Makes an entry durable, or has [`sync`] do so.
///
/// # Errors
/// That of fsync, or of opening what must be open for it.
pub(super) fn note<D: Directory>(tree: &Tree<D>, (path, kind, version): &Entry) -> Result<(), StoreError> {
    let found = tree.unchanged();
    if found.covers(version) {
        return Ok(());
    }
    let (dir, name) = tree.parent(path)?;
    let on = dir.fstat().at("stat", path)?.st_dev;
    // an entry may be on another device than its directory: something is mounted over it
    if device_of(version) == Some(on) {
        let mut devices = found.0.lock();
        let device = devices
            .entry(on)
            .or_insert_with(|| syncs_whole(&*dir).then(|| dir.clone()));
        if device.is_some() {
            return Ok(());
        }
    }
    if let Some((parent, _)) = path.split() {
        tree.mark_unsynced(parent);
    }
    if *kind != Kind::File {
        return Ok(());
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match dir.open_at(name.as_bytes(), flags | OFlags::RDONLY) {
        Err(Errno::ACCESS) => dir.open_at(name.as_bytes(), flags | OFlags::WRONLY),
        other => other,
    };
    file.and_then(|file| file.fsync()).at("fsync", path)
}

/// Makes durable whatever was found unchanged, names and content.
///
/// # Errors
/// The first that there was.
pub(super) fn sync<D: Directory>(tree: &Tree<D>) -> Result<(), StoreError> {
    tree.sync()?;
    let devices = std::mem::take(&mut *tree.unchanged().0.lock());
    for dir in devices.into_values().flatten() {
        // an O_PATH handle cannot be used for it
        match dir.syncfs() {
            Err(Errno::BADF) => sync_dir(&*dir, &RemotePath::root())?,
            other => other.at("syncfs", &RemotePath::root())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::sys::model::{Device, World};
    use super::*;
    use crate::store::local::small::put_whole;
    use crate::store::local::stat::version;
    use crate::store::{Attributes, Content, Durability, NewEntry};

    /// A run with --no-fsync, and one that finds all of it there: the power may go after that.
    #[test]
    fn what_was_found_unchanged_is_synced() {
        for seed in 0..50 {
            for (fs_type, syncfs_lies) in [(0xEF53, false), (0x6573_5546, true)] {
                let device = Device {
                    fs_type,
                    syncfs_lies,
                    granularity: 1,
                    has_birth: true,
                };
                let world = World::new(seed, vec![device.clone(), device]);
                let tree = Tree::strict(Arc::new(world.root()));
                let names = ["a", "sub/b", "mount/c"];
                let entry = |name: &&str| NewEntry {
                    path: RemotePath::parse(name.as_bytes()).unwrap(),
                    content: Content::File(Arc::new(b"content of it".to_vec())),
                    attributes: Attributes::default(),
                    if_version: None,
                };
                let entries: Vec<NewEntry> = names.iter().map(entry).collect();
                assert!(
                    put_whole(&tree, &entries, "t", Durability::Volatile)
                        .iter()
                        .all(Result::is_ok)
                );
                let tree = Tree::strict(Arc::new(world.root()));
                for entry in &entries {
                    let (dir, name) = tree.parent(&entry.path).unwrap();
                    let found = version(&dir.stat_at(name.as_bytes()).unwrap());
                    note(&tree, &(entry.path.clone(), Kind::File, found)).unwrap();
                }
                sync(&tree).unwrap();
                world.lose_power();
                for name in names {
                    assert_eq!(world.content(name).as_deref(), Some(&b"content of it"[..]), "{name}");
                }
            }
        }
    }
}
