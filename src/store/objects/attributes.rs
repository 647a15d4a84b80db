//! Changes the records of entries: time, mode, owner, extended attributes.

use super::clock::now;
use super::entries::{RACES, Written, races, visible};
use super::record::{Record, RecordKind};
use super::view::{View, kind_at};
use crate::store::entry::Attributes;
use crate::store::error::{ErrorKind, StoreError};
use crate::store::path::RemotePath;
use crate::store::staging::Bytes;
use crate::store::{Change, NewTime};
use std::sync::Arc;

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
        match view.write((path, &whole), changed, content, &place).await? {
            Written::Done(_) => return Ok(()),
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
