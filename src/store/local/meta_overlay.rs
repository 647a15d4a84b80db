//! Entries as their records describe them, in a store that records what it may not set.

use super::blocking::blocking_for;
use super::meta_record::MetaRecord;
use super::sys::{Directory, Node, open_handle};
use super::tree::Tree;
use super::xattrs;
use crate::store::error::At;
use crate::store::{
    DirPage, DirStream, Entry, Kind, Owner, RemotePath, Rights, StoreError, Xattr, XattrSets,
};
use async_trait::async_trait;
use rustix::fs::FileType;
use std::sync::Arc;

/// True of a store that records what it may not set.
pub(super) fn is_recording<D: Directory>(tree: &Tree<D>) -> bool {
    *tree.rights() == Rights::Recorded
}

/// Describes entries of a directory as their records do, where they have one.
pub(super) fn overlay_all(tree: &Tree, dir: &RemotePath, entries: &mut [Entry]) {
    if !is_recording(tree) {
        return;
    }
    if let Ok(dir) = tree.dir(dir) {
        entries.iter_mut().for_each(|entry| overlay(tree, &*dir, entry));
    }
}

/// Describes an entry as its record does, if it has one.
pub(super) fn overlay_at(tree: &Tree, path: &RemotePath, entry: &mut Entry) {
    if !is_recording(tree) {
        return;
    }
    if path.is_root() {
        overlay_open(tree, tree.root(), entry);
    } else if let Ok((dir, _)) = tree.parent(path) {
        overlay(tree, &*dir, entry);
    }
}

fn overlay<D: Directory>(tree: &Tree<D>, dir: &D, entry: &mut Entry) {
    if !matches!(entry.kind, Kind::File | Kind::Dir) {
        return;
    }
    let handle = entry.name.as_ref().map(|name| open_handle(dir, name.as_bytes()));
    if let Some(Ok(handle)) = handle {
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
    if !is_recording(tree) {
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
        let (dir, name) = tree.parent(path)?;
        let handle = open_handle(&*dir, name.as_bytes()).at("open", path)?;
        let stat = handle.fstat().at("stat", path)?;
        let record = MetaRecord::of(&handle, FileType::from_raw_mode(stat.st_mode));
        found.extend(record.unwrap_or_default().acls);
        found.sort();
    }
    Ok(found)
}
