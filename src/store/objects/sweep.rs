//! Removes what nothing refers to: locks of dead writers, their uploads, and content.
//!
//! Content is removed when it is a day old and neither a lock nor an entry refers to it. Locks are
//! read before entries, because a commit moves a reference from a lock to an entry. A rename moves
//! one between entries, perhaps from a part that was not read yet to one that was: it makes a note
//! first, and notes are read last. Content of a writer that is slower than all that stays
//! unpublished: its lock was removed only after its entry had been fenced.

use super::engine::{Condition, Object};
use super::keys::Space;
use super::lock::{self, Live};
use super::lock_record::LockRecord;
use super::outcome::{Failed, Swapped, Write};
use super::record::Record;
use super::view::View;
use crate::store::error::{ErrorKind, Holder, StoreError};
use crate::store::path::RemotePath;
use crate::store::served::Swept;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How old content is before it may be removed, and how long notes of renames count.
const GRACE: Duration = Duration::from_secs(24 * 3600);
/// Time between two sweeps of the content, which reads all entries.
const PAUSE: Duration = Duration::from_secs(20 * 3600);
/// How long a rename may take after its note.
const RENAME: Duration = Duration::from_secs(3600);
/// How long listings may lack what has happened: waited for between the parts of a sweep.
const SETTLED: Duration = Duration::from_secs(60);
/// Objects of a page.
const PAGE: usize = 1000;
/// Blobs that one sweep removes at most: they are in memory meanwhile.
const MOST: usize = 200_000;

/// The name of the object that says when the content was swept.
const SWEPT: &str = "swept";
/// The prefix of notes of renames.
const MOVES: &str = "moves/";

/// A rename that was noted.
pub struct NotedMove(Option<Instant>);

impl NotedMove {
    /// Checks that the note still counts.
    ///
    /// # Errors
    /// If this process was stopped for long in the middle of the rename.
    pub fn check(&self, path: &RemotePath) -> Result<(), StoreError> {
        match self.0 {
            Some(noted) if noted.elapsed() > RENAME => {
                Err(StoreError::because("the rename took too long: try it once more", path))
            }
            _ => Ok(()),
        }
    }
}

/// Notes that the content of an entry is about to be referred to from elsewhere.
///
/// # Errors
/// The engine's.
pub async fn note_move(view: &View, record: &Record) -> Result<NotedMove, StoreError> {
    if record.extents.is_empty() {
        return Ok(NotedMove(None));
    }
    let noted = Instant::now();
    let (requests, keys) = (&view.entries.requests, &view.entries.keys);
    let key = keys.own(&format!("{MOVES}{}", requests.nonce()));
    let blobs: Vec<&str> = record.extents.iter().map(|extent| extent.blob.as_str()).collect();
    let put = requests.put_unique(&key, vec![blobs.join("\n").into()]).await;
    put.map_err(|failed| failed.about(&RemotePath::root()))?;
    Ok(NotedMove(Some(noted)))
}

/// All objects with a prefix, page by page.
struct Pages<'a> {
    view: &'a View,
    prefix: String,
    after: Option<String>,
    over: bool,
}

impl Pages<'_> {
    fn new(view: &View, prefix: String) -> Pages<'_> {
        Pages {
            view,
            prefix,
            after: None,
            over: false,
        }
    }

    async fn next(&mut self) -> Result<Option<Vec<Object>>, StoreError> {
        if self.over {
            return Ok(None);
        }
        let requests = &self.view.entries.requests;
        let listed = requests.list(&self.prefix, self.after.as_deref(), PAGE).await;
        let listed = listed.map_err(|failed| failed.about(&RemotePath::root()))?;
        self.after = listed.objects.last().map(|object| object.key.clone());
        self.over = !listed.more || self.after.is_none();
        Ok(Some(listed.objects))
    }
}

/// Removes locks of writers that died more than `age` ago, and content that nothing refers to.
///
/// # Errors
/// [`ErrorKind::Locked`] while another server does, and the engine's.
pub async fn sweep(view: &View, age: Duration) -> Result<Swept, StoreError> {
    let (now, last) = begin(view).await?;
    let mut swept = Swept {
        partial: sweep_locks(view, now.saturating_sub(age)).await?,
        ..Swept::default()
    };
    if last.is_none_or(|last| now.saturating_sub(last) >= PAUSE) {
        swept.blobs = sweep_blobs(view, now.saturating_sub(GRACE)).await?;
        let key = view.entries.keys.own(SWEPT);
        let done = view.entries.requests.put_unique(&key, vec![]).await;
        done.map_err(|failed| failed.about(&RemotePath::root()))?;
    }
    Ok(swept)
}

/// Claims the sweep for a lease, and returns the engine's time and that of the last sweep of the
/// content.
async fn begin(view: &View) -> Result<(Duration, Option<Duration>), StoreError> {
    let (requests, keys) = (&view.entries.requests, &view.entries.keys);
    let about = |failed: Failed| failed.about(&RemotePath::root());
    let key = keys.own("sweeper");
    let found = requests.head(&key).await.map_err(about)?;
    // an entity tag may be a hash of the bytes: without a nonce every claim would have the same one
    let nonce = requests.nonce();
    let write = Write {
        key: key.clone(),
        body: vec![nonce.clone().into()],
        record: nonce,
        condition: match &found {
            Some(object) => Condition::Matches(object.tag.clone()),
            None => Condition::Absent,
        },
    };
    let Swapped::Done(_) = requests.swap(write).await.map_err(about)? else {
        let kind = ErrorKind::Locked(Holder::of("another server"));
        return Err(StoreError::new(kind, &RemotePath::root()));
    };
    let here = requests.head(&key).await.map_err(about)?;
    let now = here.map(|object| object.modified).unwrap_or_default();
    let last = requests.head(&keys.own(SWEPT)).await.map_err(about)?;
    Ok((now, last.map(|object| object.modified)))
}

/// Removes the locks that have not changed since `before`, the engine's time.
async fn sweep_locks(view: &View, before: Duration) -> Result<usize, StoreError> {
    let mut removed = 0_usize;
    let mut pages = Pages::new(view, view.entries.keys.all(Space::Locks));
    while let Some(objects) = pages.next().await? {
        for object in objects.into_iter().filter(|object| object.modified < before) {
            let Some(whole) = view.entries.keys.path_of(Space::Locks, &object.key) else {
                continue;
            };
            // the listing may be old, and the lock another one by now
            let here = view.entries.requests.head(&object.key).await;
            if !here.is_ok_and(|here| here.is_some_and(|here| here.modified < before)) {
                continue;
            }
            // so old, it has expired by any clock
            let fresh = |_: Option<&LockRecord>| LockRecord::new("the sweeper", None);
            let Ok(acquired) = lock::acquire(view, &whole, Live::Forced, fresh).await else {
                continue;
            };
            for upload in acquired.earlier.iter().flat_map(|earlier| &earlier.uploads) {
                super::upload::forget(&view.entries.requests, &view.entries.keys, upload).await;
            }
            acquired.lock.free().await;
            removed = removed.saturating_add(1);
        }
    }
    Ok(removed)
}

/// Removes blobs older than `before` that nothing refers to.
async fn sweep_blobs(view: &View, before: Duration) -> Result<u64, StoreError> {
    let keys = &view.entries.keys;
    let mut old = HashSet::new();
    let mut pages = Pages::new(view, keys.blobs());
    while let Some(objects) = pages.next().await? {
        let aged = objects.into_iter().filter(|object| object.modified < before);
        old.extend(aged.filter_map(|o| Some(o.key.rsplit_once('/')?.1.to_string())));
        if old.len() >= MOST {
            break;
        }
    }
    if !old.is_empty() {
        spare_locked(view, &mut old).await?;
        sleep(SETTLED).await;
        spare_referred(view, &mut old).await?;
        sleep(SETTLED).await;
    }
    spare_moved(view, &mut old, before).await?;
    let count = old.len() as u64;
    let old: Vec<String> = old.iter().map(|blob| keys.blob(blob)).collect();
    for some in old.chunks(PAGE) {
        let deleted = view.entries.requests.delete(some.to_vec()).await;
        deleted.map_err(|failed| failed.about(&RemotePath::root()))?;
    }
    Ok(count)
}

/// Spares what locks refer to.
async fn spare_locked(view: &View, old: &mut HashSet<String>) -> Result<(), StoreError> {
    let mut pages = Pages::new(view, view.entries.keys.all(Space::Locks));
    while let Some(objects) = pages.next().await? {
        let paths = objects
            .iter()
            .filter_map(|object| view.entries.keys.path_of(Space::Locks, &object.key));
        let read = |whole: RemotePath| async move { lock::observe(view, &whole).await };
        for found in view.each(paths.collect(), read).await {
            let Some((record, _)) = found? else { continue };
            for blob in record.blobs() {
                old.remove(blob);
            }
        }
    }
    Ok(())
}

/// Spares what entries refer to.
async fn spare_referred(view: &View, old: &mut HashSet<String>) -> Result<(), StoreError> {
    let mut pages = Pages::new(view, view.entries.keys.all(Space::Entries));
    while let Some(objects) = pages.next().await? {
        let keys = objects.into_iter().map(|object| object.key).collect();
        // one that cannot be read may refer to anything: then nothing is removed
        let read = |key: String| async move {
            let foreign = || {
                let why = format!("{key} is none of haul's objects: remove it");
                StoreError::because(&why, &RemotePath::root())
            };
            let path = view.entries.keys.path_of(Space::Entries, &key).ok_or_else(foreign)?;
            view.entries.find(&path).await
        };
        for place in view.each(keys, read).await {
            for extent in place?.iter().flat_map(|found| &found.record.extents) {
                old.remove(&extent.blob);
            }
        }
        if old.is_empty() {
            break;
        }
    }
    Ok(())
}

/// Spares what renames have moved; removes their notes when they are old.
async fn spare_moved(
    view: &View,
    old: &mut HashSet<String>,
    before: Duration,
) -> Result<(), StoreError> {
    let about = |failed: Failed| failed.about(&RemotePath::root());
    let mut aged = Vec::new();
    let mut pages = Pages::new(view, view.entries.keys.own(MOVES));
    while let Some(objects) = pages.next().await? {
        for object in objects {
            if let Some(content) =
                view.entries.requests.get(&object.key, None).await.map_err(about)?
            {
                for blob in String::from_utf8_lossy(&content.bytes).lines() {
                    old.remove(blob);
                }
            }
            if object.modified < before {
                aged.push(object.key);
            }
        }
    }
    for some in aged.chunks(PAGE) {
        view.entries.requests.delete(some.to_vec()).await.map_err(about)?;
    }
    Ok(())
}
