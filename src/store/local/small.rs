//! Entries that fit into memory: staged, committed and synced in groups.

use super::attributes::set_open;
use super::commit::{back_up, committed_version, lost_lock, prepare, publish, settle, sync_names};
use super::inode::{is_same_file, system_device, version};
use super::lock::Lock;
use super::sparse;
use super::sys::{Directory, Node, OpenFile, open_handle, remove_file};
use super::target::LockedTarget;
use super::tree::Tree;
use crate::store::error::At;
use crate::store::{
    Allocation, Content, Durability, ErrorKind, Kind, NewEntry, RemotePath, StoreError,
};
use rustix::fs::FileType;
use rustix::io::Errno;
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

/// Moves aside what is in the place of the entries whose content is synced, all before the first is
/// renamed.
fn back_up_all<D: Directory>(
    tree: &Tree<D>,
    (entries, members): (&[NewEntry], &[Member<D>]),
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
    let target = LockedTarget::acquire(dir, name, &entry.path, who, None)?;
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

/// Makes an entry that is no file, or a further name of one, under the name of the record that
/// files have: it cannot be locked, so it is staged beside its lock.
fn make_beside<D: Directory>(
    tree: &Tree<D>,
    dir: &D,
    staged: &[u8],
    entry: &NewEntry,
) -> Result<(), StoreError> {
    let path = &entry.path;
    remove_file(dir, staged).at("remove an abandoned partial file", path)?;
    let made = match &entry.content {
        Content::Symlink(pointee) => dir.symlink_at(pointee, staged),
        Content::HardLink { path: to, version } => {
            let (from, name) = tree.parent(to)?;
            from.link_into(name.as_bytes(), dir, staged).at("link", path)?;
            let linked = dir.stat_at(staged).at("stat", path)?;
            return match is_same_file(version, &linked) {
                true => Ok(()),
                false => Err(StoreError::new(ErrorKind::SourceChanged, path)),
            };
        }
        Content::Special { kind, .. } if !tree.rights().may_make(*kind) => Err(Errno::PERM),
        Content::Special { kind, device } => {
            let kind = special_type(*kind).at("create the entry", path)?;
            dir.mknod_at(staged, kind, 0o600, system_device(*device))
        }
        Content::File(_) => Err(Errno::INVAL),
    };
    made.at("create the entry", path)?;
    let handle = open_handle(dir, staged).at("open", path)?;
    let found = handle.fstat().at("stat", path)?;
    set_open(tree, &handle, &found, (&entry.attributes, |mode| mode), path)
}

/// The system's kind of a FIFO, socket or device.
fn special_type(kind: Kind) -> Result<FileType, Errno> {
    match kind {
        Kind::Fifo => Ok(FileType::Fifo),
        Kind::Socket => Ok(FileType::Socket),
        Kind::CharDevice => Ok(FileType::CharacterDevice),
        Kind::BlockDevice => Ok(FileType::BlockDevice),
        Kind::File | Kind::Dir | Kind::Symlink | Kind::Other => Err(Errno::INVAL),
    }
}

fn fill<D: Directory>(
    tree: &Tree<D>,
    lock: &Lock<D::File>,
    bytes: &[u8],
    entry: &NewEntry,
) -> Result<(), StoreError> {
    match entry.attributes.allocation {
        Allocation::Sparse => sparse::write(&lock.file, bytes, 0).at("write", &entry.path)?,
        Allocation::Dense if bytes.is_empty() => {}
        Allocation::Dense => lock.file.pwrite_all(bytes, 0).at("write", &entry.path)?,
    }
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
