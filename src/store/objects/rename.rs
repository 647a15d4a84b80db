//! Renames entries: a new one refers to the same content, and then the old one is removed.

use super::entries::{Found, Place, RACES, Written, races, visible};
use super::keys::encoded;
use super::lock;
use super::record::RecordKind;
use super::remove::{has_entries, remove_remains};
use super::small::{NO_VERSION, check_place};
use super::sweep::note_move;
use super::view::{View, kind_at};
use crate::store::error::{ErrorKind, StoreError};
use crate::store::path::RemotePath;
use crate::store::staging::Bytes;
use std::sync::Arc;

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
    let name = new.split().map(|(_, name)| encoded(&name)).unwrap_or_default();
    if let Some(holder) = holder.map_err(|e| e.about(to))?.remove(&name) {
        return Err(StoreError::new(ErrorKind::Locked(holder), to));
    }
    let note = note_move(view, &found.record).await.map_err(|e| e.about(from))?;
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
        let mut record = found.record.clone();
        record.version = view.new_version();
        record.epoch = place.as_ref().map_or(0, |found| found.record.epoch);
        match view.write((to, new), record, content.clone(), &place).await? {
            Written::Done(_) => return Ok(()),
            Written::Other(now) if is_dir && visible(&now).is_some() => {
                return Err(StoreError::new(ErrorKind::Exists, to));
            }
            Written::Other(now) => place = now,
        }
    }
    Err(races(to))
}
