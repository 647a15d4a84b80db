//! Directories, removals, renames and changed attributes.

use super::entries::{Found, Place, Written, visible};
use super::keys::Space;
use super::lock::{self, Live, LockRecord};
use super::record::{Record, RecordKind};
use super::small::{NO_VERSION, check_place};
use super::view::{View, kind_at};
use crate::store::entry::{Attributes, Time};
use crate::store::error::{ErrorKind, StoreError};
use crate::store::path::RemotePath;
use crate::store::staging::Bytes;
use crate::store::{Change, ExistingDirs, NewTime, Removal, RemoveScope};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// How often an entry is written that others write at the same moment.
const RACES: usize = 16;
/// Objects that are removed with one request.
const REMOVED: usize = 1000;
/// How often the content of a tree is removed while others add to it.
const ROUNDS: usize = 100;

/// The time of a new directory, and of what is touched.
fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time {
        secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos(),
    }
}

fn races(path: &RemotePath) -> StoreError {
    StoreError::because("others replace it all the time", path)
}

/// Makes a directory; the one above it must exist.
///
/// # Errors
/// [`ErrorKind::Exists`], [`ErrorKind::NotFound`], and the engine's.
pub async fn make_dir(view: &View, path: &RemotePath) -> Result<(), StoreError> {
    if path.is_root() {
        return Err(StoreError::new(ErrorKind::Exists, path));
    }
    let whole = view.target(path).await?;
    let attributes = Attributes {
        mtime: now(),
        mode: 0o755,
        ..Attributes::default()
    };
    let exists = || StoreError::new(ErrorKind::Exists, path);
    let mut place = None;
    for _ in 0..RACES {
        if visible(&place).is_some() {
            return Err(exists());
        }
        view.check_open(path)?;
        let record = view.new_record(RecordKind::Dir, &place, &attributes);
        match view
            .entries
            .write(&whole, record, None, &place)
            .await
            .map_err(|e| e.about(path))?
        {
            Written::Done(_) => return Ok(()),
            Written::Other(now) => place = now,
        }
    }
    Err(races(path))
}

/// Makes directories for a transfer, those of one depth at once. True for new ones.
pub async fn make_dirs(
    view: &View,
    dirs: Vec<(RemotePath, Attributes)>,
    existing: ExistingDirs,
) -> Vec<Result<bool, StoreError>> {
    let mut results: Vec<Option<Result<bool, StoreError>>> = dirs.iter().map(|_| None).collect();
    let mut by_depth: BTreeMap<usize, Vec<(usize, RemotePath, Attributes)>> = BTreeMap::new();
    for (index, (path, attributes)) in dirs.into_iter().enumerate() {
        let depth = path.components().count();
        by_depth.entry(depth).or_default().push((index, path, attributes));
    }
    for same in by_depth.into_values() {
        let make = |(index, path, attributes): (usize, RemotePath, Attributes)| async move {
            (index, ensure_dir(view, &path, &attributes, existing).await)
        };
        for (index, made) in view.each(same, make).await {
            if let Some(slot) = results.get_mut(index) {
                *slot = Some(made);
            }
        }
    }
    results.into_iter().map(|made| made.unwrap_or(Ok(false))).collect()
}

async fn ensure_dir(
    view: &View,
    path: &RemotePath,
    attributes: &Attributes,
    existing: ExistingDirs,
) -> Result<bool, StoreError> {
    if path.is_root() {
        return view.dir(path).await.map(|_| false);
    }
    let whole = view.target(path).await?;
    let mut place = view.entries.seen.get(&whole).unwrap_or_default();
    for _ in 0..RACES {
        match kind_at(&place) {
            Some(RecordKind::Dir) => return Ok(false),
            Some(_) if existing != ExistingDirs::Replace => {
                let now = view.entries.find(&whole).await.map_err(|e| e.about(path))?;
                if visible(&now).is_some() && kind_at(&now) != Some(RecordKind::Dir) {
                    return Err(StoreError::new(ErrorKind::NotADirectory, path));
                }
                place = now;
                continue;
            }
            Some(_) | None => {}
        }
        view.check_open(path)?;
        let record = view.new_record(RecordKind::Dir, &place, attributes);
        match view
            .entries
            .write(&whole, record, None, &place)
            .await
            .map_err(|e| e.about(path))?
        {
            Written::Done(found) => {
                if let Some((dir, name)) = whole.split() {
                    view.shared.indexes.note(&dir, &name, &found);
                }
                return Ok(true);
            }
            Written::Other(now) => place = now,
        }
    }
    Err(races(path))
}

/// True if a directory has entries that users see.
async fn has_entries(view: &View, whole: &RemotePath) -> Result<bool, StoreError> {
    let page = super::listing::page(view, whole, &[], 2).await?;
    Ok(!page.entries.is_empty())
}

/// Removes all objects with a prefix, until there are none.
async fn remove_all(view: &View, prefix: &str, path: &RemotePath) -> Result<(), StoreError> {
    for _ in 0..ROUNDS {
        let mut after: Option<String> = None;
        let mut removed = false;
        loop {
            view.check_open(path)?;
            let listed = view.entries.requests.list(prefix, after.as_deref(), REMOVED).await;
            let listed = listed.map_err(|failed| failed.about(path))?;
            let keys: Vec<String> = listed.objects.into_iter().map(|object| object.key).collect();
            after = keys.last().cloned();
            if !keys.is_empty() {
                removed = true;
                let deleted = view.entries.requests.delete_settled(keys).await;
                deleted.map_err(|failed| failed.about(path))?;
            }
            if !listed.more {
                break;
            }
        }
        if !removed {
            return Ok(());
        }
    }
    Err(StoreError::new(ErrorKind::NotEmpty, path))
}

/// Removes what an empty directory still has: fences, and indexes.
async fn remove_remains(view: &View, whole: &RemotePath) -> Result<(), StoreError> {
    for space in [Space::Entries, Space::Indexes] {
        let prefix = view.entries.keys.within(space, whole);
        remove_all(view, &prefix, whole).await?;
    }
    Ok(())
}

/// Removes an entry, or everything beneath it too.
///
/// # Errors
/// [`ErrorKind::NotEmpty`], [`ErrorKind::NotFound`], and the engine's.
pub async fn remove(view: &View, path: &RemotePath, scope: RemoveScope) -> Result<(), StoreError> {
    if path.is_root() {
        return Err(StoreError::new(ErrorKind::Denied, path));
    }
    view.check_open(path)?;
    let whole = view.target(path).await?;
    let about = |e: StoreError| e.about(path);
    let place = view.entries.find(&whole).await.map_err(about)?;
    match (kind_at(&place), scope) {
        (None, _) => return Err(StoreError::new(ErrorKind::NotFound, path)),
        (Some(RecordKind::Dir), RemoveScope::Entry) => {
            if has_entries(view, &whole).await.map_err(about)? {
                return Err(StoreError::new(ErrorKind::NotEmpty, path));
            }
            remove_remains(view, &whole).await.map_err(about)?;
        }
        (Some(RecordKind::Dir), RemoveScope::Tree) => {
            for space in [Space::Entries, Space::Indexes] {
                let prefix = view.entries.keys.beneath(space, &whole);
                remove_all(view, &prefix, path).await?;
            }
        }
        (Some(_), _) => {}
    }
    view.entries.delete(&whole).await.map_err(about)
}

/// Removes entries that are still what a listing said: those of one depth at once, inner ones
/// first.
pub async fn remove_many(view: &View, removals: Vec<Removal>) -> Vec<Result<(), StoreError>> {
    let mut results: Vec<Result<(), StoreError>> = removals.iter().map(|_| Ok(())).collect();
    let mut by_depth: BTreeMap<usize, Vec<(usize, Removal)>> = BTreeMap::new();
    for (index, removal) in removals.into_iter().enumerate() {
        let depth = removal.path.components().count();
        by_depth.entry(depth).or_default().push((index, removal));
    }
    for same in by_depth.into_values().rev() {
        let remove = |(index, removal): (usize, Removal)| async move {
            (index, remove_listed(view, &removal).await)
        };
        for (index, removed) in view.each(same, remove).await {
            if let Some(slot) = results.get_mut(index) {
                *slot = removed;
            }
        }
    }
    results
}

async fn remove_listed(view: &View, removal: &Removal) -> Result<(), StoreError> {
    let path = &removal.path;
    let found = match view.stat(path).await {
        Err(e) if e.kind == ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    removal.check(&found)?;
    match remove(view, path, RemoveScope::Entry).await {
        Err(e) if e.kind == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// What is in the way of a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InTheWay {
    /// It is replaced, as by rename(2).
    Replaced,
    /// It stays.
    Respected,
}

/// Renames an entry. For a moment it has both names.
///
/// # Errors
/// [`ErrorKind::NotEmpty`] for a directory with entries, [`ErrorKind::Exists`], and those of
/// rename(2).
pub async fn rename(
    view: &View,
    from: &RemotePath,
    to: &RemotePath,
    in_the_way: InTheWay,
) -> Result<(), StoreError> {
    if to.is_within(from) && to != from {
        return Err(StoreError::because("a directory cannot be moved into itself", to));
    }
    view.check_open(from)?;
    let (old, new) = (view.target(from).await?, view.target(to).await?);
    let read = view.entries.read(&old).await.map_err(|e| e.about(from))?;
    let missing = || StoreError::new(ErrorKind::NotFound, from);
    let (found, content) = read.ok_or_else(missing)?;
    let here = Some(found.clone());
    let kind = kind_at(&here).ok_or_else(missing)?;
    let place = view.entries.find(&new).await.map_err(|e| e.about(to))?;
    if visible(&place).is_some() && in_the_way == InTheWay::Respected {
        return Err(StoreError::new(ErrorKind::Exists, to));
    }
    if old == new {
        return Ok(());
    }
    if kind == RecordKind::Dir && has_entries(view, &old).await.map_err(|e| e.about(from))? {
        let why = "in an object store a directory with entries cannot be renamed: copy it with \
            haul cp -r, and remove it then";
        return Err(StoreError::because(why, from));
    }
    match (kind, kind_at(&place)) {
        (_, None) => {}
        (RecordKind::Dir, Some(RecordKind::Dir)) => {
            if has_entries(view, &new).await.map_err(|e| e.about(to))? {
                return Err(StoreError::new(ErrorKind::NotEmpty, to));
            }
        }
        (RecordKind::Dir, Some(_)) => return Err(StoreError::new(ErrorKind::NotADirectory, to)),
        (_, Some(RecordKind::Dir)) => return Err(StoreError::new(ErrorKind::IsADirectory, to)),
        (_, Some(_)) => {}
    }
    let holder = lock::live(view, &new.split().map(|(dir, _)| dir).unwrap_or_default()).await;
    let name = new.split().map(|(_, name)| super::keys::encoded(&name)).unwrap_or_default();
    if let Some(holder) = holder.map_err(|e| e.about(to))?.remove(&name) {
        return Err(StoreError::new(ErrorKind::Locked(holder), to));
    }
    let note = super::sweep::note_move(view, &found.record)
        .await
        .map_err(|e| e.about(from))?;
    note.check(from)?;
    place_renamed(view, (&found, content), (&new, to), (place, in_the_way)).await?;
    // what somebody has put under the old name meanwhile stays
    let now = view.entries.find(&old).await.map_err(|e| e.about(from))?;
    if now.as_ref().is_some_and(|now| now.tag == found.tag) {
        if kind == RecordKind::Dir {
            remove_remains(view, &old).await.map_err(|e| e.about(from))?;
        }
        view.entries.delete(&old).await.map_err(|e| e.about(from))?;
    }
    Ok(())
}

/// Writes an entry under its new name.
async fn place_renamed(
    view: &View,
    (found, content): (&Arc<Found>, Vec<u8>),
    (new, to): (&RemotePath, &RemotePath),
    (mut place, in_the_way): (Place, InTheWay),
) -> Result<(), StoreError> {
    let content = found.record.is_inline().then(|| Arc::new(content) as Bytes);
    let is_dir = found.record.kind == RecordKind::Dir;
    for _ in 0..RACES {
        if !is_dir {
            let if_version = (in_the_way == InTheWay::Respected).then_some(NO_VERSION);
            let checked = check_place(to, &place, if_version);
            checked.map_err(|e| match e.kind {
                ErrorKind::VersionChanged => StoreError::new(ErrorKind::Exists, to),
                _ => e,
            })?;
        }
        view.check_open(to)?;
        let mut record = found.record.clone();
        record.version = view.new_version();
        record.epoch = place.as_ref().map_or(0, |found| found.record.epoch);
        let written = view.entries.write(new, record, content.clone(), &place).await;
        match written.map_err(|e| e.about(to))? {
            Written::Done(_) => return Ok(()),
            Written::Other(now) if is_dir && visible(&now).is_some() => {
                return Err(StoreError::new(ErrorKind::Exists, to));
            }
            Written::Other(now) => place = now,
        }
    }
    Err(races(to))
}

/// Changes a record, with the content that it has.
async fn amend(
    view: &View,
    path: &RemotePath,
    change: impl Fn(&mut Record),
) -> Result<(), StoreError> {
    let about = |e: StoreError| e.about(path);
    let whole = view.target(path).await?;
    let mut place = view.entries.recall(&whole).await.map_err(about)?;
    if visible(&place).is_none() {
        place = view.entries.find(&whole).await.map_err(about)?;
    }
    for _ in 0..RACES {
        let record = visible(&place).ok_or_else(|| StoreError::new(ErrorKind::NotFound, path))?;
        let mut changed = record.clone();
        change(&mut changed);
        if changed == *record {
            return Ok(());
        }
        view.check_open(path)?;
        let mut content = None;
        if record.is_inline() {
            let read = view.entries.read(&whole).await.map_err(about)?;
            let (now, bytes) = read.ok_or_else(|| StoreError::new(ErrorKind::NotFound, path))?;
            if place.as_ref().is_none_or(|place| place.tag != now.tag) {
                place = Some(now);
                continue;
            }
            content = Some(Arc::new(bytes) as Bytes);
        }
        changed.version = view.new_version();
        let written = view.entries.write(&whole, changed, content, &place).await;
        match written.map_err(about)? {
            Written::Done(found) => {
                if let Some((dir, name)) = whole.split() {
                    view.shared.indexes.note(&dir, &name, &found);
                }
                return Ok(());
            }
            Written::Other(now) => place = now,
        }
    }
    Err(races(path))
}

/// Sets time, mode and metadata.
///
/// # Errors
/// [`ErrorKind::NotFound`], and the engine's.
pub async fn set_attributes(
    view: &View,
    path: &RemotePath,
    attributes: &Attributes,
) -> Result<(), StoreError> {
    if view.absolute(path)?.is_root() {
        // it has no object
        return Ok(());
    }
    amend(view, path, |record| record.set(attributes)).await
}

/// Changes mode or time, as chmod(1) and touch(1) do.
///
/// # Errors
/// As [`set_attributes`].
pub async fn change(view: &View, path: &RemotePath, change: Change) -> Result<(), StoreError> {
    if view.absolute(path)?.is_root() {
        let why = "the root of an object store has neither mode nor time";
        return Err(StoreError::because(why, path));
    }
    let now = now();
    let changed = amend(view, path, |record| {
        if let Some(mode) = change.mode {
            // bits that let a file act for its owner are taken away, never set
            record.mode = mode & (record.mode | !0o6000) & 0o7777;
            if record.kind == RecordKind::File {
                record.mode &= !0o1000;
            }
        }
        match change.mtime {
            Some(NewTime::Now) => record.mtime = (now.secs, now.nanos),
            Some(NewTime::At(at)) => record.mtime = (at.secs, at.nanos),
            None => {}
        }
    });
    match kind_at(&view.find(path).await?) {
        Some(RecordKind::Symlink) => Err(StoreError::new(ErrorKind::Symlink, path)),
        _ => changed.await,
    }
}

/// Removes the lock of a target, and what it has of the file; false if there is none.
///
/// # Errors
/// [`ErrorKind::Locked`] for a writer that lives, unless it is forced.
pub async fn unlock(view: &View, path: &RemotePath, live: Live) -> Result<bool, StoreError> {
    view.check_open(path)?;
    let whole = view.target(path).await?;
    let about = |e: StoreError| e.about(path);
    let Some((record, lives)) = lock::observe(view, &whole).await.map_err(about)? else {
        return Ok(false);
    };
    if lives && live == Live::Respected {
        return Err(StoreError::new(ErrorKind::Locked(record.holder()), path));
    }
    let fresh = |earlier: Option<&LockRecord>| {
        let who = earlier.map_or("", |earlier| earlier.who.as_str());
        LockRecord::new(who, None)
    };
    let acquired = lock::acquire(view, &whole, live, fresh).await.map_err(about)?;
    for upload in acquired.earlier.iter().flat_map(|earlier| &earlier.uploads) {
        super::upload::forget(&view.entries.requests, &view.entries.keys, upload).await;
    }
    acquired.lock.free().await;
    Ok(true)
}
