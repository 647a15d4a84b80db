//! Entries that fit into memory: staged, committed and synced in groups.

use super::commit::{committed_version, lost_lock, prepare, publish, settle, sync_names};
use super::inode::version;
use super::lock::{Lock, PARTIAL_MODE};
use super::sparse;
use super::sys::{Directory, OpenFile, remove_file};
use super::target::LockedTarget;
use super::times::timestamps;
use super::tree::Tree;
use crate::store::error::At;
use crate::store::{Allocation, Content, Durability, NewEntry, RemotePath, StoreError};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// An entry of a group, by its index, staged and locked.
struct Member<D: Directory> {
    index: usize,
    target: LockedTarget<D>,
}

/// The directories of committed entries, each with their indices.
type Parents<D> = BTreeMap<RemotePath, (Arc<D>, Vec<usize>)>;

/// Stages, syncs and renames a group of small entries; then syncs each of their directories once.
pub(super) fn put_whole<D: Directory>(
    tree: &Tree<D>,
    entries: &[NewEntry],
    who: &str,
    durability: Durability,
) -> Vec<Result<String, StoreError>> {
    let mut results: Vec<Result<String, StoreError>> = Vec::with_capacity(entries.len());
    let mut members = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        match stage_whole(tree, entry, who) {
            Ok(target) => {
                members.push(Member { index, target });
                results.push(Ok(String::new()));
            }
            Err(e) => results.push(Err(e)),
        }
    }
    let mut synced = sync_content(tree, entries, &members, durability);
    let mut parents = Parents::new();
    for Member { index, target } in members {
        let Some(entry) = entries.get(index) else {
            continue;
        };
        let content = synced.remove(&index).unwrap_or(Ok(()));
        let committed = content.and_then(|()| commit_whole(tree, entry, &target, durability));
        if let (true, Some((parent, _))) = (committed.is_ok(), entry.path.split()) {
            let touched = parents.entry(parent).or_insert_with(|| (target.dir.clone(), Vec::new()));
            touched.1.push(index);
        }
        // the partial file of a committed file is gone; that of a symlink, or of a failed entry,
        // still exists
        if committed.is_err() || matches!(entry.content, Content::Symlink(_)) {
            target.discard();
        }
        if let Some(slot) = results.get_mut(index) {
            *slot = committed;
        }
    }
    if durability.is_durable() {
        sync_parents(tree, parents, &mut results);
    }
    results
}

/// Makes the names of committed entries durable; `results` are by index.
fn sync_parents<D: Directory>(
    tree: &Tree<D>,
    parents: Parents<D>,
    results: &mut [Result<String, StoreError>],
) {
    for (path, (dir, indices)) in parents {
        let Err(e) = sync_names(tree, &*dir, &path) else {
            continue;
        };
        for index in indices {
            if let Some(slot) = results.get_mut(index) {
                *slot = Err(e.clone());
            }
        }
    }
}

/// Makes the files' content durable, all before the first is renamed; results by index.
fn sync_content<D: Directory>(
    tree: &Tree<D>,
    entries: &[NewEntry],
    members: &[Member<D>],
    durability: Durability,
) -> HashMap<usize, Result<(), StoreError>> {
    let is_file = |m: &&Member<D>| {
        let entry = entries.get(m.index);
        entry.is_some_and(|e| matches!(e.content, Content::File(_)))
    };
    let files: Vec<&Member<D>> = members.iter().filter(is_file).collect();
    if files.is_empty() || !durability.is_durable() {
        return HashMap::new();
    }
    let open: Vec<_> = files
        .iter()
        .map(|m| (m.target.lock.device(), &m.target.lock.file))
        .collect();
    let synced = tree.flush().flush(&open);
    let results = files
        .iter()
        .zip(synced)
        .map(|(member, result)| (member.index, result.at("fsync", &member.target.path)));
    results.collect()
}

/// Locks the target of an entry and writes its partial file.
fn stage_whole<D: Directory>(
    tree: &Tree<D>,
    entry: &NewEntry,
    who: &str,
) -> Result<LockedTarget<D>, StoreError> {
    let (dir, name) = tree.parent(&entry.path)?;
    let target = LockedTarget::acquire(dir, name, &entry.path, who, None)?;
    let lock = &target.lock;
    let filled = match &entry.content {
        Content::File(bytes) => fill(lock, (**bytes).as_ref(), entry),
        // once the lock is taken away, the record's name is another writer's
        Content::Symlink(_) if !lock.fence(&*target.dir) => Err(lost_lock(&entry.path)),
        Content::Symlink(pointee) => link(&*target.dir, &lock.names.record, pointee, entry),
    };
    match filled {
        Ok(()) => Ok(target),
        Err(e) => {
            target.discard();
            Err(e)
        }
    }
}

/// Makes a symlink under the name of the record that files have: a symlink cannot be locked, so it
/// is staged beside its lock.
fn link(
    dir: &impl Directory,
    staged: &[u8],
    pointee: &[u8],
    entry: &NewEntry,
) -> Result<(), StoreError> {
    let path = &entry.path;
    remove_file(dir, staged).at("remove an abandoned partial file", path)?;
    dir.symlink_at(pointee, staged).at("create the symlink", path)?;
    let time = timestamps(entry.attributes.mtime);
    dir.utimens_at(staged, &time).at("set the time", path)
}

fn fill(lock: &Lock<impl OpenFile>, bytes: &[u8], entry: &NewEntry) -> Result<(), StoreError> {
    match entry.attributes.allocation {
        Allocation::Sparse => sparse::write(&lock.file, bytes, 0).at("write", &entry.path)?,
        Allocation::Dense if bytes.is_empty() => {}
        Allocation::Dense => lock.file.pwrite_all(bytes, 0).at("write", &entry.path)?,
    }
    prepare(&lock.file, entry.attributes, PARTIAL_MODE, &entry.path)
}

/// Gives a staged entry its target's name; returns its version.
fn commit_whole<D: Directory>(
    tree: &Tree<D>,
    entry: &NewEntry,
    target: &LockedTarget<D>,
    durability: Durability,
) -> Result<String, StoreError> {
    let LockedTarget {
        path,
        dir,
        name,
        lock,
    } = target;
    let staged = match entry.content {
        Content::File(_) => &lock.names.file,
        Content::Symlink(_) => &lock.names.record,
    };
    publish(tree, target, staged, entry.if_version.as_deref(), || Ok(()))?;
    match entry.content {
        Content::File(_) => {
            settle(&lock.file, entry.attributes, durability, path)?;
            committed_version(&lock.file, path)
        }
        Content::Symlink(_) => {
            let placed = dir.stat_at(name.as_bytes()).at("stat", path)?;
            Ok(version(&placed).to_string())
        }
    }
}
