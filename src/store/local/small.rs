//! Entries that fit into memory: staged, committed and synced in groups.

use super::commit::{back_up, committed_version, lost_lock, prepare, publish, settle, sync_names};
use super::inode::version;
use super::lock::{Lock, Purpose};
use super::new_entry::{make_beside, write_content};
use super::partial_dir::put;
use super::partial_dir::state::PartialDir;
use super::sys::Directory;
use super::target::LockedTarget;
use super::tree::Tree;
use crate::store::error::At;
use crate::store::{Content, Durability, NewEntry, RemotePath, StoreError};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// An entry of a group, by its index, staged and locked.
struct Member<D: Directory> {
    index: usize,
    target: LockedTarget<D>,
}

/// An entry, and the partial directory that it goes into, if it does.
type Placed<'a, D> = (Option<Arc<PartialDir<D>>>, &'a NewEntry);

/// The directories of committed entries, each with their indices.
type Parents<D> = BTreeMap<RemotePath, (Arc<D>, Vec<usize>)>;

/// Puts a group of small entries: in partial directories each under its own name, elsewhere by
/// partial files.
pub(super) fn put_whole<D: Directory>(
    tree: &Tree<D>,
    entries: &[NewEntry],
    who: &str,
    durability: Durability,
) -> Vec<Result<String, StoreError>> {
    let around = |entry: &NewEntry| tree.partial_dirs().around(&entry.path);
    let placed: Vec<Placed<'_, D>> = entries.iter().map(|e| (around(e), e)).collect();
    let together = |a: &Placed<'_, D>, b: &Placed<'_, D>| match (&a.0, &b.0) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    let mut results = Vec::with_capacity(entries.len());
    for run in placed.chunk_by(together) {
        let entries: Vec<&NewEntry> = run.iter().map(|(_, entry)| *entry).collect();
        let partial = run.first().and_then(|(partial, _)| partial.as_ref());
        let put = partial.and_then(|of| put::put(tree, of, &entries, durability));
        results.extend(put.unwrap_or_else(|| put_locked(tree, &entries, who, durability)));
    }
    results
}

/// Stages, syncs and renames a group of small entries; then syncs each of their directories once.
fn put_locked<D: Directory>(
    tree: &Tree<D>,
    entries: &[&NewEntry],
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
    back_up_all(tree, (entries, &members), durability, &mut synced);
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
        // the partial file of a committed file is gone; that of any other entry still exists
        if committed.is_err() || !matches!(entry.content, Content::File(_)) {
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
    entries: &[&NewEntry],
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

/// Moves aside what is in the place of the entries whose content is synced, all before the first is
/// renamed.
fn back_up_all<D: Directory>(
    tree: &Tree<D>,
    (entries, members): (&[&NewEntry], &[Member<D>]),
    durability: Durability,
    synced: &mut HashMap<usize, Result<(), StoreError>>,
) {
    let is_ready = |m: &&Member<D>| !matches!(synced.get(&m.index), Some(Err(_)));
    let ready: Vec<&Member<D>> = members.iter().filter(is_ready).collect();
    let targets = ready.iter().map(|m| {
        let if_version = entries.get(m.index).and_then(|e| e.if_version.as_deref());
        (&m.target, if_version)
    });
    let targets: Vec<_> = targets.collect();
    for (member, made) in ready.into_iter().zip(back_up(tree, &targets, durability)) {
        if made.is_err() {
            synced.insert(member.index, made);
        }
    }
}

/// Locks the target of an entry and writes its partial file.
fn stage_whole<D: Directory>(
    tree: &Tree<D>,
    entry: &NewEntry,
    who: &str,
) -> Result<LockedTarget<D>, StoreError> {
    let (dir, name) = tree.parent(&entry.path)?;
    let target = LockedTarget::acquire(dir, name, &entry.path, who, Purpose::New)?;
    let lock = &target.lock;
    let filled = match &entry.content {
        Content::File(bytes) => fill(tree, lock, (**bytes).as_ref(), entry),
        // once the lock is taken away, the record's name is another writer's
        _ if !lock.fence(&*target.dir) => Err(lost_lock(&entry.path)),
        _ => make_beside(tree, &*target.dir, &lock.names.record, entry),
    };
    match filled {
        Ok(()) => Ok(target),
        Err(e) => {
            target.discard();
            Err(e)
        }
    }
}

fn fill<D: Directory>(
    tree: &Tree<D>,
    lock: &Lock<D::File>,
    bytes: &[u8],
    entry: &NewEntry,
) -> Result<(), StoreError> {
    write_content(&lock.file, bytes, entry)?;
    prepare(tree, &lock.file, &entry.attributes, &entry.path)
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
        Content::Symlink(_) | Content::HardLink { .. } | Content::Special { .. } => {
            &lock.names.record
        }
    };
    publish(tree, target, staged, entry.if_version.as_deref(), || Ok(()))?;
    match entry.content {
        Content::File(_) => {
            settle(tree, &lock.file, &entry.attributes, durability, path)?;
            committed_version(&lock.file, path)
        }
        Content::Symlink(_) | Content::HardLink { .. } | Content::Special { .. } => {
            let placed = dir.stat_at(name.as_bytes()).at("stat", path)?;
            Ok(version(&placed).to_string())
        }
    }
}
