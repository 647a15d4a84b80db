//! Makes directories.

use super::clock::now;
use super::entries::{RACES, Written, races, visible};
use super::record::RecordKind;
use super::view::{DepthOrder, View, kind_at};
use crate::store::ExistingDirs;
use crate::store::entry::Attributes;
use crate::store::error::{ErrorKind, StoreError};
use crate::store::path::RemotePath;

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
    let make = |(path, attributes): (RemotePath, Attributes)| async move {
        ensure_dir(view, &path, &attributes, existing).await
    };
    view.each_by_depth(dirs, DepthOrder::OuterFirst, |(path, _)| path, make)
        .await
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
