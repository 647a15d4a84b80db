//! Removes entries, trees, and locks.

use super::keys::Space;
use super::lock::{self, Live};
use super::lock_record::LockRecord;
use super::record::RecordKind;
use super::view::{DepthOrder, View, kind_at};
use crate::store::error::{ErrorKind, StoreError};
use crate::store::path::RemotePath;
use crate::store::{Removal, RemoveScope};

/// Objects that are removed with one request.
const REMOVED: usize = 1000;
/// How often the content of a tree is removed while others add to it.
const ROUNDS: usize = 100;

/// True if a directory has entries that users see.
///
/// # Errors
/// The engine's.
pub async fn has_entries(view: &View, whole: &RemotePath) -> Result<bool, StoreError> {
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
///
/// # Errors
/// The engine's.
pub async fn remove_remains(view: &View, whole: &RemotePath) -> Result<(), StoreError> {
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
    let remove = |removal: Removal| async move { remove_listed(view, &removal).await };
    view.each_by_depth(removals, DepthOrder::InnerFirst, |removal| &removal.path, remove)
        .await
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
