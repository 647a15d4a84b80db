//! Entries that a transfer finds unchanged are durable when it ends. An earlier transfer may have
//! been killed between its renames and their fsync, or may have run without any.
//!
//! Where one syncfs(2) makes a whole file system durable, it is called once, at the end. Elsewhere
//! each file is opened for an fsync when it is found.

use super::flush::syncs_whole;
use super::inode::device_of;
use super::sys::{Directory, Node, open_any};
use super::tree::Tree;
use crate::store::error::At;
use crate::store::{Kind, RemotePath, StoreError, Version};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// An entry that was found unchanged: where, what, and its version.
pub(super) type Entry = (RemotePath, Kind, Version);

/// The unchanged entries of a tree that are not durable yet.
pub(super) struct Unchanged<D: Directory> {
    tree: Arc<Tree<D>>,
    /// The devices of such entries, each with a directory of it; `None` if each file is synced by
    /// itself.
    devices: Mutex<HashMap<u64, Option<Arc<D>>>>,
}

impl<D: Directory> Unchanged<D> {
    pub(super) fn new(tree: &Arc<Tree<D>>) -> Unchanged<D> {
        Unchanged {
            tree: tree.clone(),
            devices: Mutex::default(),
        }
    }

    /// True if [`Unchanged::sync`] makes an entry durable in any case.
    pub(super) fn covers(&self, version: &Version) -> bool {
        let device = device_of(version);
        device.is_some_and(|device| matches!(self.devices.lock().get(&device), Some(Some(_))))
    }

    /// Makes an entry durable, or has [`Unchanged::sync`] do so.
    ///
    /// # Errors
    /// That of fsync, or of opening the entry for it.
    pub(super) fn note(&self, (path, kind, version): &Entry) -> Result<(), StoreError> {
        if self.covers(version) {
            return Ok(());
        }
        let (dir, name) = self.tree.parent(path)?;
        let on = dir.fstat().at("stat", path)?.st_dev;
        // an entry may be on another device than its directory: something is mounted over it
        if device_of(version) == Some(on) {
            let mut devices = self.devices.lock();
            let device =
                devices.entry(on).or_insert_with(|| syncs_whole(&*dir).then(|| dir.clone()));
            if device.is_some() {
                return Ok(());
            }
        }
        if let Some((parent, _)) = path.split() {
            self.tree.mark_unsynced(parent);
        }
        if *kind != Kind::File {
            return Ok(());
        }
        let file = open_any(&*dir, name.as_bytes());
        file.and_then(|file| file.fsync()).at("fsync", path)
    }

    /// Makes all noted entries durable, names and content.
    ///
    /// # Errors
    /// The first that occurred.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.tree.sync()?;
        let devices = std::mem::take(&mut *self.devices.lock());
        for dir in devices.into_values().flatten() {
            dir.syncfs().at("syncfs", &RemotePath::root())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::inode::version;
    use super::super::sys::model::{Device, World};
    use super::*;
    use crate::store::local::small::put_whole;

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
                    attributes: Attributes {
                        mode: 0o644,
                        ..Attributes::default()
                    },
                    if_version: None,
                };
                let entries: Vec<NewEntry> = names.iter().map(entry).collect();
                assert!(
                    put_whole(&tree, &entries, "t", Durability::Volatile)
                        .iter()
                        .all(Result::is_ok)
                );
                let tree = Arc::new(Tree::strict(Arc::new(world.root())));
                let unchanged = Unchanged::new(&tree);
                for entry in &entries {
                    let (dir, name) = tree.parent(&entry.path).unwrap();
                    let found = version(&dir.stat_at(name.as_bytes()).unwrap());
                    unchanged.note(&(entry.path.clone(), Kind::File, found)).unwrap();
                }
                unchanged.sync().unwrap();
                world.lose_power();
                for name in names {
                    assert_eq!(
                        world.content(name).as_deref(),
                        Some(&b"content of it"[..]),
                        "{name}"
                    );
                }
            }
        }
    }
}
