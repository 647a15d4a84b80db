//! Entries that fit into memory: staged, committed and synced in groups.

use super::lock::{Found, Lock};
use super::look::stat;
use super::stage::{FILE_MODE, check_version, committed_version, lost_lock, rename, set_open, timestamps};
use super::tree::{Tree, remove_file, retry, sync_dir};
use crate::store::error::At;
use crate::store::{Content, Name, NewEntry, RemotePath, StoreError};
use cap_std::fs::Dir;
use rustix::fs::AtFlags;
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// An entry of a group, staged and locked.
struct Member {
    index: usize,
    dir: Arc<Dir>,
    name: Name,
    lock: Lock,
}

/// What is renamed to the entry's name. A symlink cannot be locked: it is staged beside the lock, under the name of the
/// record that files have.
fn staged_name<'a>(entry: &NewEntry, lock: &'a Lock) -> &'a [u8] {
    match entry.content {
        Content::File(_) => &lock.names.file,
        Content::Link(_) => &lock.names.record,
    }
}

/// Stages, syncs, renames a group of small entries; then syncs each of their directories once.
pub(super) fn put_whole(
    tree: &Tree,
    entries: &[NewEntry],
    who: &str,
    durable: bool,
) -> Vec<Result<String, StoreError>> {
    let mut results: Vec<Result<String, StoreError>> = Vec::with_capacity(entries.len());
    let mut members = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        match stage_whole(tree, entry, who) {
            Ok((dir, name, lock)) => {
                members.push(Member { index, dir, name, lock });
                results.push(Ok(String::new()));
            }
            Err(e) => results.push(Err(e)),
        }
    }
    let mut synced = sync_content(tree, entries, &members, durable);
    let mut parents: BTreeMap<RemotePath, (Arc<Dir>, Vec<usize>)> = BTreeMap::new();
    for member in members {
        let Some(entry) = entries.get(member.index) else {
            continue;
        };
        let content = synced.remove(&member.index).unwrap_or(Ok(()));
        let committed = content.and_then(|()| commit_whole(tree, entry, &member));
        if let (true, Some((parent, _))) = (committed.is_ok(), entry.path.split()) {
            let touched = parents
                .entry(parent)
                .or_insert_with(|| (member.dir.clone(), Vec::new()));
            touched.1.push(member.index);
        }
        // of a committed file the name is gone; of a symlink, and of what failed, the lock is still there
        if committed.is_err() || matches!(entry.content, Content::Link(_)) {
            member.lock.discard(&member.dir);
        }
        if let Some(slot) = results.get_mut(member.index) {
            *slot = committed;
        }
    }
    if durable {
        let made = tree.sync();
        for (path, (dir, indices)) in parents {
            if let Err(e) = made.clone().and_then(|()| sync_dir(&dir, &path)) {
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
fn sync_content(
    tree: &Tree,
    entries: &[NewEntry],
    members: &[Member],
    durable: bool,
) -> HashMap<usize, Result<(), StoreError>> {
    let is_file = |m: &&Member| matches!(entries.get(m.index), Some(e) if matches!(e.content, Content::File(_)));
    let files: Vec<&Member> = members.iter().filter(is_file).filter(|_| durable).collect();
    if files.is_empty() {
        return HashMap::new();
    }
    let synced = tree
        .flush()
        .flush(&files.iter().map(|m| &m.lock.file).collect::<Vec<_>>());
    let results = files.iter().zip(synced).filter_map(|(member, result)| {
        let path = &entries.get(member.index)?.path;
        Some((member.index, result.at("fsync", path)))
    });
    results.collect()
}

fn stage_whole(tree: &Tree, entry: &NewEntry, who: &str) -> Result<(Arc<Dir>, Name, Lock), StoreError> {
    let path = &entry.path;
    let (dir, name) = tree.parent(path)?;
    // with the mode that it is to have: one system call less for most files
    let mode = entry.attributes.mode & FILE_MODE;
    let lock = Lock::acquire(&dir, &name, path, who, Found::Emptied, mode)?;
    let filled = match &entry.content {
        Content::File(bytes) => fill(&lock, (**bytes).as_ref(), entry),
        Content::Link(target) => link(&dir, &lock.names.record, target, entry),
    };
    match filled {
        Ok(()) => Ok((dir, name, lock)),
        Err(e) => {
            lock.discard(&dir);
            Err(e)
        }
    }
}

fn link(dir: &Dir, staged: &[u8], target: &[u8], entry: &NewEntry) -> Result<(), StoreError> {
    let path = &entry.path;
    remove_file(dir, staged).at("remove a dead staging file", path)?;
    retry(|| rustix::fs::symlinkat(target, dir, staged)).at("create the symlink", path)?;
    let time = timestamps(entry.attributes.mtime);
    rustix::fs::utimensat(dir, staged, &time, AtFlags::SYMLINK_NOFOLLOW).at("set the time", path)
}

fn fill(lock: &Lock, bytes: &[u8], entry: &NewEntry) -> Result<(), StoreError> {
    if !bytes.is_empty() {
        lock.file.write_all_at(bytes, 0).at("write", &entry.path)?;
    }
    set_open(
        &lock.file,
        entry.attributes,
        (lock.mode, entry.attributes.mode & FILE_MODE),
        &entry.path,
    )
}

fn commit_whole(tree: &Tree, entry: &NewEntry, member: &Member) -> Result<String, StoreError> {
    let (path, lock) = (&entry.path, &member.lock);
    let is_file = matches!(entry.content, Content::File(_));
    check_version(tree, path, entry.if_version.as_deref())?;
    if !lock.still_held(&member.dir) {
        return Err(lost_lock(path));
    }
    rename(&member.dir, staged_name(entry, lock), &member.name, path)?;
    if is_file {
        committed_version(&lock.file, path)
    } else {
        Ok(stat(tree, path)?.version.to_string())
    }
}
