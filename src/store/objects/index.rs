//! Indexes: what a listing by the engine does not say of a directory's entries, for many entries in
//! one object.
//!
//! An engine lists keys and entity tags, not records. Without an index each entry would cost a HEAD
//! request. An index is a cache: a line counts only for the object with its entity tag, which no
//! other write ever has. So indexes are written without conditions, and a lost one costs time.

use super::entries::{Entries, Found};
use super::keys::{Space, encoded, name_of};
use super::record::Record;
use crate::store::error::StoreError;
use crate::store::path::{Name, RemotePath};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// Entries of an index.
const MOST: usize = 1000;
/// Fewer entries are not worth an index: HEAD requests are as good.
const LEAST: usize = 8;
/// Indexes of a directory beyond which they are merged.
const MERGED: usize = 24;
/// Lines in memory, of all directories.
const CACHED: usize = 100_000;
/// Directories with entries that wait for an index.
const MOST_WAITING: usize = 4096;
/// Indexes that are read at once.
const READS: usize = 16;

/// A line of an index.
#[derive(Clone, Serialize, Deserialize)]
struct Line {
    /// The entry's name, encoded as in its key.
    name: String,
    /// The entity tag of its object.
    tag: String,
    /// What that says.
    record: Record,
}

/// The indexes of a directory, by entity tag.
pub type Known = Arc<HashMap<String, Arc<Found>>>;

/// Indexes that were read, and entries that are to be written into some.
#[derive(Default)]
pub struct Indexes {
    cached: Mutex<HashMap<RemotePath, Cached>>,
    waiting: Mutex<HashMap<RemotePath, Vec<Line>>>,
}

struct Cached {
    keys: Vec<String>,
    known: Known,
}

impl Indexes {
    /// What the indexes of a directory say.
    ///
    /// # Errors
    /// None that matters: an index that cannot be read is as good as none. Only the engine's
    /// refusal to list is reported.
    pub async fn of(&self, entries: &Entries, dir: &RemotePath) -> Result<Known, StoreError> {
        let prefix = entries.keys.within(Space::Indexes, dir);
        let listed = entries.requests.list(&prefix, None, 1000).await;
        let mut objects = listed.map_err(|failed| failed.about(dir))?.objects;
        // later ones win
        objects.sort_by_key(|object| object.modified);
        let keys: Vec<_> = objects.into_iter().map(|object| object.key).collect();
        if let Some(cached) = self.cached.lock().get(dir)
            && cached.keys == keys
        {
            return Ok(cached.known.clone());
        }
        let read = |key: String| async move { read(entries, &key).await };
        let read = stream::iter(keys.iter().cloned().map(read)).buffered(READS);
        let lines: Vec<Line> = read.collect::<Vec<_>>().await.into_iter().flatten().collect();
        let keys = match keys.len() > MERGED {
            true => merge(entries, dir, &keys, &lines).await.unwrap_or(keys),
            false => keys,
        };
        let known = |line: Line| {
            let Line { tag, record, .. } = line;
            (tag.clone(), Arc::new(Found { tag, record }))
        };
        let known: Known = Arc::new(lines.into_iter().map(known).collect());
        let mut cached = self.cached.lock();
        let count: usize = cached.values().map(|cached| cached.known.len()).sum();
        if count.saturating_add(known.len()) > CACHED {
            cached.clear();
        }
        let found = known.clone();
        cached.insert(dir.clone(), Cached { keys, known });
        Ok(found)
    }

    /// An entry was written, or described at some cost: it will be in an index, if that is worth
    /// it.
    pub fn note(&self, dir: &RemotePath, name: &Name, found: &Found) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MOST_WAITING && !waiting.contains_key(dir) {
            waiting.clear();
        }
        let lines = waiting.entry(dir.clone()).or_default();
        if lines.len() < 2 * MOST {
            lines.push(Line {
                name: encoded(name),
                tag: found.tag.clone(),
                record: found.record.clone(),
            });
        }
    }

    /// True when an index is due for a directory.
    pub fn is_full(&self, dir: &RemotePath) -> bool {
        self.waiting.lock().get(dir).is_some_and(|lines| lines.len() >= MOST)
    }

    /// Writes what was noted of a directory, if that is worth it.
    pub async fn write(&self, entries: &Entries, dir: &RemotePath) {
        let lines = self.waiting.lock().remove(dir).unwrap_or_default();
        if lines.len() >= LEAST {
            // an index that is missing costs time, nothing else
            let _ = put(entries, dir, &lines).await;
        }
    }

    /// Writes what was noted of all directories beneath one.
    pub async fn write_all(&self, entries: &Entries, base: &RemotePath) {
        let within = |dir: &&RemotePath| dir.is_within(base);
        let dirs: Vec<_> = self.waiting.lock().keys().filter(within).cloned().collect();
        let write = |dir: RemotePath| async move { self.write(entries, &dir).await };
        let writes = stream::iter(dirs.into_iter().map(write));
        writes.buffer_unordered(READS).collect::<Vec<()>>().await;
    }
}

/// Reads an index; a damaged line is as good as none.
async fn read(entries: &Entries, key: &str) -> Vec<Line> {
    let Ok(Some(content)) = entries.requests.get(key, None).await else {
        return Vec::new();
    };
    let lines = content.bytes.split(|byte| *byte == b'\n');
    lines.filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// Writes an index; returns its key.
async fn put(entries: &Entries, dir: &RemotePath, lines: &[Line]) -> Option<String> {
    let prefix = entries.keys.within(Space::Indexes, dir);
    let key = format!("{prefix}{}", entries.requests.nonce());
    let mut text = String::new();
    for line in lines {
        text += &serde_json::to_string(line).ok()?;
        text.push('\n');
    }
    entries.requests.put_unique(&key, vec![text.into()]).await.ok()?;
    Some(key)
}

/// Replaces many indexes by few; returns the keys of those.
async fn merge(
    entries: &Entries,
    dir: &RemotePath,
    old: &[String],
    lines: &[Line],
) -> Option<Vec<String>> {
    let mut last: HashMap<&str, &Line> = HashMap::new();
    for line in lines {
        last.insert(&line.name, line);
    }
    let all: Vec<Line> = last.into_values().cloned().collect();
    let mut keys = Vec::new();
    for some in all.chunks(MOST) {
        keys.push(put(entries, dir, some).await?);
    }
    // a directory that other servers index at this moment has theirs under other keys
    if entries.requests.delete(old.to_vec()).await.is_err() {
        return None;
    }
    Some(keys)
}

/// The names of a listing's objects.
pub fn names<T>(objects: Vec<T>, key: impl Fn(&T) -> &str) -> Vec<(Name, T)> {
    let named = |object: T| Some((name_of(key(&object))?, object));
    objects.into_iter().filter_map(named).collect()
}
