//! Makes directories.

use super::entries::{RACES, Written, races, visible};
use super::record::RecordKind;
use super::view::{View, kind_at};
use crate::store::ExistingDirs;
use crate::store::entry::{Attributes, Time};
use crate::store::error::{ErrorKind, StoreError};
use crate::store::path::RemotePath;
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// The time of a new directory, and of what is touched.
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time {
        secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos(),
    }
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
        let record = view.new_record(RecordKind::Dir, &place, &attributes);
        match view.write((path, &whole), record, None, &place).await? {
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
        let record = view.new_record(RecordKind::Dir, &place, attributes);
        match view.write((path, &whole), record, None, &place).await? {
            Written::Done(_) => return Ok(true),
            Written::Other(now) => place = now,
        }
    }
    Err(races(path))
}
