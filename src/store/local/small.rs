//! Entries that fit into memory: staged, committed and synced in groups.

use super::commit::{
    Staged, committed_version, lost_lock, mode_before, publish, set_open, settle, sync_names, timestamps,
};
use super::lock::{Lock, STAGED_MODE};
use super::sparse;
use super::sys::{Directory, OpenFile};
use super::tree::{Tree, remove_file};
use crate::store::error::At;
use crate::store::local::stat::version;
use crate::store::{Allocation, Content, Durability, Name, NewEntry, RemotePath, StoreError};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// An entry of a group, staged and locked.
struct Member<D: Directory> {
    index: usize,
    dir: Arc<D>,
    name: Name,
    lock: Lock<D::File>,
}

/// What is renamed to the entry's name. A symlink cannot be locked: it is staged beside the lock, under the name of the
/// record that files have.
fn staged_name<'a, F>(entry: &NewEntry, lock: &'a Lock<F>) -> &'a [u8] {
    match entry.content {
        Content::File(_) => &lock.names.file,
        Content::Link(_) => &lock.names.record,
    }
}

/// Stages, syncs, renames a group of small entries; then syncs each of their directories once.
pub(super) fn put_whole<D: Directory>(
    tree: &Tree<D>,
    entries: &[NewEntry],
    who: &str,
    durability: Durability,
) -> Vec<Result<String, StoreError>> {
    let mut results: Vec<Result<String, StoreError>> = Vec::with_capacity(entries.len());
    let mut members = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        match stage_whole(tree, (index, entry), who) {
            Ok(member) => {
                members.push(member);
                results.push(Ok(String::new()));
            }
            Err(e) => results.push(Err(e)),
        }
    }
    let mut synced = sync_content(tree, entries, &members, durability);
    let mut parents: BTreeMap<RemotePath, (Arc<D>, Vec<usize>)> = BTreeMap::new();
    for member in members {
        let Some(entry) = entries.get(member.index) else {
            continue;
        };
        let content = synced.remove(&member.index).unwrap_or(Ok(()));
        let committed = content.and_then(|()| commit_whole(tree, entry, &member, durability));
        if let (true, Some((parent, _))) = (committed.is_ok(), entry.path.split()) {
            let touched = parents
                .entry(parent)
                .or_insert_with(|| (member.dir.clone(), Vec::new()));
            touched.1.push(member.index);
        }
        // of a committed file the name is gone; of a symlink, and of what failed, the lock is still there
        if committed.is_err() || matches!(entry.content, Content::Link(_)) {
            member.lock.discard(&*member.dir);
        }
        if let Some(slot) = results.get_mut(member.index) {
            *slot = committed;
        }
    }
    if durability.is_durable() {
        for (path, (dir, indices)) in parents {
            if let Err(e) = sync_names(tree, &*dir, &path) {
                for index in indices {
                    if let Some(slot) = results.get_mut(index) {
                        *slot = Err(e.clone());
                    }
                }
            }
        }
    }
    results
}

/// Makes the files' content durable, all before the first is renamed; results by index.
fn sync_content<D: Directory>(
    tree: &Tree<D>,
    entries: &[NewEntry],
    members: &[Member<D>],
    durability: Durability,
) -> HashMap<usize, Result<(), StoreError>> {
    let is_file = |m: &&Member<D>| matches!(entries.get(m.index), Some(e) if matches!(e.content, Content::File(_)));
    let files: Vec<&Member<D>> = members.iter().filter(is_file).collect();
    if files.is_empty() || !durability.is_durable() {
        return HashMap::new();
    }
    let synced = tree.flush().flush(
        &files
            .iter()
            .map(|m| (m.lock.device(), &m.lock.file))
            .collect::<Vec<_>>(),
    );
    let results = files.iter().zip(synced).filter_map(|(member, result)| {
        let path = &entries.get(member.index)?.path;
        Some((member.index, result.at("fsync", path)))
    });
    results.collect()
}

fn stage_whole<D: Directory>(
    tree: &Tree<D>,
    (index, entry): (usize, &NewEntry),
    who: &str,
) -> Result<Member<D>, StoreError> {
    let path = &entry.path;
    let (dir, name) = tree.parent(path)?;
    let lock = Lock::acquire(&*dir, &name, path, who, None)?;
    let filled = match &entry.content {
        Content::File(bytes) => fill(&lock, (**bytes).as_ref(), entry),
        // the record's name is another writer's from when the lock is taken away
        Content::Link(_) if !lock.fence(&*dir) => Err(lost_lock(path)),
        Content::Link(target) => link(&*dir, &lock.names.record, target, entry),
    };
    match filled {
        Ok(()) => Ok(Member { index, dir, name, lock }),
        Err(e) => {
            lock.discard(&*dir);
            Err(e)
        }
    }
}

fn link(dir: &impl Directory, staged: &[u8], target: &[u8], entry: &NewEntry) -> Result<(), StoreError> {
    let path = &entry.path;
    remove_file(dir, staged).at("remove a dead staging file", path)?;
    dir.symlink_at(target, staged).at("create the symlink", path)?;
    let time = timestamps(entry.attributes.mtime);
    dir.utimens_at(staged, &time).at("set the time", path)
}

fn fill(lock: &Lock<impl OpenFile>, bytes: &[u8], entry: &NewEntry) -> Result<(), StoreError> {
    match entry.attributes.allocation {
        Allocation::Sparse => sparse::write(&lock.file, bytes, 0).at("write", &entry.path)?,
        Allocation::Dense if bytes.is_empty() => {}
        Allocation::Dense => lock.file.pwrite_all(bytes, 0).at("write", &entry.path)?,
    }
    set_open(
        &lock.file,
        entry.attributes,
        (STAGED_MODE, mode_before(entry.attributes)),
        &entry.path,
    )
}

fn commit_whole<D: Directory>(
    tree: &Tree<D>,
    entry: &NewEntry,
    member: &Member<D>,
    durability: Durability,
) -> Result<String, StoreError> {
    let Member { dir, name, lock, .. } = member;
    let (path, from) = (&entry.path, staged_name(entry, lock));
    let staged = Staged {
        dir: &**dir,
        lock,
        from,
        name,
        path,
    };
    publish(tree, &staged, entry.if_version.as_deref(), || Ok(()))?;
    match entry.content {
        Content::File(_) => {
            settle(&lock.file, (entry.attributes, durability), path)?;
            committed_version(&lock.file, path)
        }
        Content::Link(_) => {
            let placed = dir.stat_at(name.as_bytes()).at("stat", path)?;
            Ok(version(&placed).to_string())
        }
    }
}
