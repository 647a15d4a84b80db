//! Entries as their records describe them, in a store that records what it may not set.

use super::blocking::blocking_for;
use super::follow;
use super::meta_record::MetaRecord;
use super::sys::{Directory, Node, open_handle};
use super::tree::Tree;
use super::xattrs;
use crate::store::error::At;
use crate::store::{
    DirPage, DirStream, Entry, Kind, Owner, RemotePath, Rights, StoreError, Xattr, XattrSets,
};
use async_trait::async_trait;
use cap_std::fs::Dir;
use rustix::fs::FileType;
use std::sync::Arc;

/// True of a store that records what it may not set.
pub(super) fn is_recording<D: Directory>(tree: &Tree<D>) -> bool {
    *tree.rights() == Rights::Recorded
}

/// Describes entries of a directory as their records do, where they have one.
pub(super) fn overlay_all(tree: &Tree, dir: &RemotePath, entries: &mut [Entry]) {
    follow::follow_all(tree, dir, entries);
    if !is_recording(tree) {
        return;
    }
    if let Ok(handle) = tree.dir(dir) {
        entries.iter_mut().for_each(|entry| overlay(tree, (dir, &*handle), entry));
    }
}

/// Describes an entry as its record does, if it has one.
pub(super) fn overlay_at(tree: &Tree, path: &RemotePath, entry: &mut Entry) {
    follow::follow(tree, path, entry);
    if !is_recording(tree) {
        return;
    }
    if path.is_root() {
        overlay_open(tree, tree.root(), entry);
    } else if let (Ok((handle, _)), Some((dir, _))) = (tree.parent(path), path.split()) {
        overlay(tree, (&dir, &*handle), entry);
    }
}

fn overlay(tree: &Tree, (path, dir): (&RemotePath, &Dir), entry: &mut Entry) {
    if !matches!(entry.kind, Kind::File | Kind::Dir) {
        return;
    }
    let Some(name) = &entry.name else {
        return;
    };
    let handle = match (tree.following(), path.join(name)) {
        (Some(_), Ok(path)) => follow::handle(tree, &path).ok(),
        _ => open_handle(dir, name.as_bytes()).ok(),
    };
    if let Some(handle) = handle {
        overlay_open(tree, &handle, entry);
    }
}

/// The same for an open entry.
pub(super) fn overlay_open<D: Directory>(tree: &Tree<D>, node: &impl Node, entry: &mut Entry) {
    let found = match entry.kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        _ => return,
    };
    if !is_recording(tree) {
        return;
    }
    let Some(record) = MetaRecord::of(node, found) else {
        return;
    };
    entry.attributes.mode = record.mode & 0o7777;
    entry.owner = Some(Owner {
        uid: record.uid,
        gid: record.gid,
    });
    if let Some(kind) = record.kind().filter(|kind| kind.is_special()) {
        (entry.kind, entry.size, entry.device) = (kind, 0, record.device);
    }
}

/// Pages of a directory whose entries are described as their records do.
pub(super) fn overlay_page(tree: &Arc<Tree>, dir: RemotePath, mut page: DirPage) -> DirPage {
    if !is_recording(tree) && tree.following().is_none() {
        return page;
    }
    overlay_all(tree, &dir, &mut page.entries);
    page.rest = page.rest.map(|rest| {
        let tree = tree.clone();
        let overlaid: Box<dyn DirStream> = Box::new(Overlaid { tree, dir, rest });
        overlaid
    });
    page
}

struct Overlaid {
    tree: Arc<Tree>,
    dir: RemotePath,
    rest: Box<dyn DirStream>,
}

#[async_trait]
impl DirStream for Overlaid {
    async fn next_page(self: Box<Self>, limit: usize) -> Result<DirPage, StoreError> {
        let Overlaid { tree, dir, rest } = *self;
        let page = rest.next_page(limit).await?;
        let owner = tree.owner().clone();
        Ok(blocking_for(&owner, move || overlay_page(&tree, dir, page)).await)
    }
}

/// Reads the extended attributes of an entry that are in these sets; ACLs from its record, in a
/// store that records.
///
/// # Errors
/// Those of [`xattrs::read`].
pub(super) fn read_xattrs(
    tree: &Tree,
    path: &RemotePath,
    sets: XattrSets,
) -> Result<Vec<Xattr>, StoreError> {
    if !is_recording(tree) {
        return xattrs::read(tree, path, sets);
    }
    let real = XattrSets {
        acls: false,
        ..sets
    };
    let mut found = xattrs::read(tree, path, real)?;
    if sets.acls && !path.is_root() {
        let handle = xattrs::handle(tree, path)?;
        let stat = handle.fstat().at("stat", path)?;
        let record = MetaRecord::of(&handle, FileType::from_raw_mode(stat.st_mode));
        found.extend(record.unwrap_or_default().acls);
        found.sort();
    }
    Ok(found)
}
