//! Entries that fit into memory: one conditional request each, after one look at their directory's
//! locks.

use super::entries::{Place, RACES, Written, races, visible};
use super::lock;
use super::record::{Record, RecordKind};
use super::view::View;
use crate::store::error::{ErrorKind, Holder, StoreError};
use crate::store::path::RemotePath;
use crate::store::staging::Bytes;
use crate::store::{Content, NewEntry};
use std::collections::{HashMap, HashSet};

/// The version that stands for no entry.
pub const NO_VERSION: &str = "none";

/// Checks that an entry may replace what is at its place.
///
/// # Errors
/// [`ErrorKind::IsADirectory`], [`ErrorKind::VersionChanged`].
pub fn check_place(
    path: &RemotePath,
    place: &Place,
    if_version: Option<&str>,
) -> Result<(), StoreError> {
    let record = visible(place);
    let fits = match if_version {
        None => true,
        Some(NO_VERSION) => record.is_none(),
        Some(version) => record.is_some_and(|record| record.version == version),
    };
    match record.map(|record| record.kind) {
        _ if !fits => Err(StoreError::new(ErrorKind::VersionChanged, path)),
        Some(RecordKind::Dir) => Err(StoreError::new(ErrorKind::IsADirectory, path)),
        _ => Ok(()),
    }
}

/// Writes entries, several at once; returns their versions.
pub async fn put_whole(view: &View, entries: Vec<NewEntry>) -> Vec<Result<String, StoreError>> {
    let target = |entry: NewEntry| async move {
        let whole = view.target(&entry.path).await;
        (entry, whole)
    };
    let targets = view.each(entries, target).await;
    let wholes = targets.iter().filter_map(|(_, whole)| whole.as_ref().ok());
    let parents: HashSet<_> = wholes.filter_map(|whole| Some(whole.split()?.0)).collect();
    let live = |dir: RemotePath| async move {
        // one that cannot be listed has its writes refused, too
        let live = lock::live(view, &dir).await.unwrap_or_default();
        (dir, live)
    };
    let locks = view.each(parents.iter().cloned().collect(), live).await;
    let locks: HashMap<RemotePath, HashMap<String, Holder>> = locks.into_iter().collect();
    let write = |(entry, whole): (NewEntry, Result<RemotePath, StoreError>)| {
        let locked =
            whole.as_ref().ok().and_then(RemotePath::split).and_then(|(dir, name)| {
                locks.get(&dir)?.get(&super::keys::encoded(&name)).cloned()
            });
        async move {
            if let Some(holder) = locked {
                return Err(StoreError::new(ErrorKind::Locked(holder), &entry.path));
            }
            put(view, &entry, &whole?).await
        }
    };
    let results = view.each(targets, write).await;
    let indexes = &view.shared.indexes;
    let due = parents.into_iter().filter(|dir| indexes.is_full(dir)).collect();
    let index = |dir: RemotePath| async move { indexes.write(&view.entries, &dir).await };
    view.each(due, index).await;
    results
}

/// Writes one entry at `whole`, a path of the whole store.
async fn put(view: &View, entry: &NewEntry, whole: &RemotePath) -> Result<String, StoreError> {
    let path = &entry.path;
    let known = view.entries.seen.get(whole);
    let mut place = match (known, entry.if_version.as_deref()) {
        (Some(place), _) => place,
        // what the engine answers tells whether it is new
        (None, None | Some(NO_VERSION)) => None,
        (None, Some(_)) => view.entries.find(whole).await.map_err(|e| e.about(path))?,
    };
    let mut is_fresh = false;
    for _ in 0..RACES {
        if let Err(e) = check_place(path, &place, entry.if_version.as_deref()) {
            if is_fresh {
                return Err(e);
            }
            // it was remembered
            place = view.entries.find(whole).await.map_err(|e| e.about(path))?;
            is_fresh = true;
            continue;
        }
        let (record, content) = described(view, entry, &place)?;
        match view.write((path, whole), record, content, &place).await? {
            Written::Done(found) => {
                return Ok(found.record.version.clone());
            }
            Written::Other(now) => (place, is_fresh) = (now, true),
        }
    }
    Err(races(path))
}

/// The record and the bytes of a new entry.
fn described(
    view: &View,
    entry: &NewEntry,
    place: &Place,
) -> Result<(Record, Option<Bytes>), StoreError> {
    let of = |kind| view.new_record(kind, place, &entry.attributes);
    Ok(match &entry.content {
        Content::File(bytes) => {
            let mut record = of(RecordKind::File);
            let content = (**bytes).as_ref();
            record.size = content.len() as u64;
            record.blake3 = Some(blake3::hash(content).to_hex().to_string());
            (record, Some(bytes.clone()))
        }
        Content::Symlink(target) => {
            let mut record = of(RecordKind::Symlink);
            record.set_target(target);
            (record, None)
        }
        Content::Special { kind, device } => {
            let kind = RecordKind::of(*kind).filter(|_| kind.is_special());
            let kind = kind.ok_or_else(|| StoreError::new(ErrorKind::BadKind, &entry.path))?;
            let mut record = of(kind);
            record.device = *device;
            (record, None)
        }
        Content::HardLink { .. } => {
            let why = "an object store has no hard links";
            return Err(StoreError::because(why, &entry.path));
        }
    })
}
