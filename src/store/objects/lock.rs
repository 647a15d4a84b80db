//! Locks: an object for each target that a writer has, renewed while the writer lives.
//!
//! ```text
//! none ──create──▶ active ──renew──▶ active … ──delete──▶ none
//!                    │ ▲                │
//!               rest │ │ take over      │ not renewed for a lease
//!                    ▼ │                ▼
//!                  resting           expired ──take over, fence──▶ active
//! ```
//!
//! A lock says who writes, and what a later writer may resume. It is no fence: a writer that was
//! stopped for long may believe that it has its lock. The fence is the entry itself. Who takes over
//! from a writer that did not let go rewrites the entry ("bumps" it), so that the other one's
//! commit fails. The rule behind it: look at the entry, then prove the lock, then write the entry
//! under the condition that it is as it was.
//!
//! Whether a writer lives is judged by the observer's monotonic clock alone: its lock has not
//! changed for as long as a lease.

use super::engine::{Condition, Object};
use super::entries::{Place, RACES, Written, races};
use super::keys::{Space, encoded};
use super::lock_record::LockRecord;
use super::outcome::{Swapped, Write};
use super::record::{Record, RecordKind, metadata};
use super::requests::Requests;
use super::view::View;
use crate::store::error::{ErrorKind, Holder, StoreError};
use crate::store::path::RemotePath;
use crate::store::staging::Bytes;
use futures_util::{StreamExt, stream};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Most locks of a directory that a group of small files looks at.
const LISTED: usize = 1000;

/// A lock that this process has. Dropping it does not let go: [`Lock::free`] and [`Lock::rest`] do.
pub struct Lock {
    key: String,
    path: RemotePath,
    requests: Requests,
    trusted: Duration,
    /// The entity tag, and when the last renewal began.
    state: tokio::sync::Mutex<(String, Instant)>,
    lost: AtomicBool,
    began: Instant,
}

/// A lock, with what an earlier writer has written.
pub struct Acquired {
    /// The lock.
    pub lock: Lock,
    /// What it says.
    pub record: LockRecord,
    /// The earlier writer's.
    pub earlier: Option<LockRecord>,
    /// The entry was rewritten.
    pub fenced: bool,
}

impl Lock {
    /// True once another writer has taken over.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Seconds since it was taken.
    pub fn age(&self) -> u64 {
        self.began.elapsed().as_secs()
    }

    /// The error of a writer whose lock was taken over.
    pub fn lost_error(&self) -> StoreError {
        let kind = ErrorKind::Locked(Holder::of("another writer, which took over"));
        StoreError::new(kind, &self.path)
    }

    /// Proves that it still is this writer's, unless that was proved a moment ago.
    ///
    /// # Errors
    /// As [`Lock::renew`].
    pub async fn prove(&self, record: &LockRecord) -> Result<(), StoreError> {
        let since = self.state.lock().await.1.elapsed();
        match since < self.trusted && !self.is_lost() {
            true => Ok(()),
            false => self.renew(record).await,
        }
    }

    /// Proves that it still is this writer's, and replaces what it says.
    ///
    /// # Errors
    /// [`Lock::lost_error`], and the engine's.
    pub async fn renew(&self, record: &LockRecord) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        if self.is_lost() {
            return Err(self.lost_error());
        }
        let began = Instant::now();
        let condition = Condition::Matches(state.0.clone());
        let swapped = self
            .requests
            .swap(write(&self.requests, &self.key, record, condition))
            .await;
        match swapped.map_err(|failed| failed.about(&self.path))? {
            Swapped::Done(tag) => {
                *state = (tag, began);
                Ok(())
            }
            Swapped::Other(_) => {
                self.lost.store(true, Ordering::Relaxed);
                Err(self.lost_error())
            }
        }
    }

    /// Lets go, and leaves what it says for a later writer.
    pub async fn rest(&self, mut record: LockRecord) {
        record.resting = true;
        // if it fails, the lock expires
        let _ = self.renew(&record).await;
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Lets go, and removes it. One that may have expired stays: it could be another writer's. If
    /// the answer is lost, it is not tried once more: the next writer's lock could be there by
    /// then. It expires instead, after all that could still be carried out.
    pub async fn free(&self) {
        let state = self.state.lock().await;
        if !self.is_lost() && state.1.elapsed() < self.trusted {
            let _ = self.requests.delete_once(&self.key).await;
        }
        self.lost.store(true, Ordering::Relaxed);
    }
}

fn write(requests: &Requests, key: &str, record: &LockRecord, condition: Condition) -> Write {
    let nonce = requests.nonce();
    let json = serde_json::to_string(record).unwrap_or_default();
    let line = format!("{nonce} {json}");
    // names of users need not be ASCII
    let about = match line.is_ascii() {
        true => metadata(&line, &nonce),
        false => nonce,
    };
    Write {
        key: key.to_string(),
        body: vec![line.into()],
        record: about,
        condition,
    }
}

fn parse(text: &str) -> Option<LockRecord> {
    serde_json::from_str(text.split_once(' ')?.1).ok()
}

/// What a lock says now, with its object; `None` if there is none.
async fn read(
    view: &View,
    key: &str,
    path: &RemotePath,
) -> Result<Option<(Object, LockRecord)>, StoreError> {
    let found = view.entries.requests.get(key, None).await;
    let Some(content) = found.map_err(|failed| failed.about(path))? else {
        return Ok(None);
    };
    let record = std::str::from_utf8(&content.bytes).ok().and_then(parse);
    // one that is not haul's has nothing to resume, and expires
    let damaged = || LockRecord::new("another program", None);
    Ok(Some((content.object, record.unwrap_or_else(damaged))))
}

/// What to do about a writer that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// It stays.
    Respected,
    /// It loses its lock.
    Forced,
}

/// Takes the lock of a target. After taking over from a writer that did not let go, the entry is
/// fenced.
///
/// # Errors
/// [`ErrorKind::Locked`] if a writer has it that may live.
pub async fn acquire(
    view: &View,
    whole: &RemotePath,
    live: Live,
    record: impl Fn(Option<&LockRecord>) -> LockRecord,
) -> Result<Acquired, StoreError> {
    let (requests, lease) = (&view.entries.requests, &view.shared.lease);
    let key = view.entries.keys.of(Space::Locks, whole)?;
    for _ in 0..RACES {
        let found = read(view, &key, whole).await?;
        let (condition, fenced) = match &found {
            None => (Condition::Absent, false),
            Some((object, earlier)) if earlier.resting => {
                (Condition::Matches(object.tag.clone()), false)
            }
            Some((object, earlier)) => {
                let expired = lease.has_expired(object, Instant::now());
                if !expired && live == Live::Respected {
                    return Err(StoreError::new(ErrorKind::Locked(earlier.holder()), whole));
                }
                (Condition::Matches(object.tag.clone()), true)
            }
        };
        let (began, earlier) = (Instant::now(), found.map(|(_, earlier)| earlier));
        let mut record = record(earlier.as_ref());
        if let Some(earlier) = earlier.as_ref().filter(|_| fenced) {
            record.fencing = earlier.blobs().cloned().collect();
        }
        let swapped = requests.swap(write(requests, &key, &record, condition)).await;
        let Swapped::Done(tag) = swapped.map_err(|failed| failed.about(whole))? else {
            continue;
        };
        lease.forget(&key);
        let lock = Lock {
            key,
            path: whole.clone(),
            requests: requests.clone(),
            trusted: lease.trusted(),
            state: tokio::sync::Mutex::new((tag, began)),
            lost: AtomicBool::new(false),
            began,
        };
        if fenced {
            fence(view, whole, &lock, &record).await?;
            record.fencing.clear();
        }
        return Ok(Acquired {
            lock,
            record,
            earlier,
            fenced,
        });
    }
    let kind = ErrorKind::Locked(Holder::of("other writers, which take turns"));
    Err(StoreError::new(kind, whole))
}

/// Rewrites an entry, so that a writer that had the lock before cannot commit. Where there is none,
/// a record without an entry is the fence.
async fn fence(
    view: &View,
    whole: &RemotePath,
    lock: &Lock,
    record: &LockRecord,
) -> Result<(), StoreError> {
    for _ in 0..RACES {
        let found = view.entries.read(whole).await?;
        lock.renew(record).await?;
        let (place, bumped, content): (Place, Record, Option<Bytes>) = match found {
            Some((found, content)) => {
                let mut bumped = found.record.clone();
                bumped.epoch = bumped.epoch.saturating_add(1);
                let content = bumped.is_inline().then(|| Arc::new(content) as Bytes);
                (Some(found), bumped, content)
            }
            None => {
                let mut bumped = Record::new(RecordKind::None, view.new_version());
                bumped.epoch = 1;
                (None, bumped, None)
            }
        };
        if let Written::Done(_) = view.entries.write(whole, bumped, content, &place).await? {
            return Ok(());
        }
    }
    Err(races(whole))
}

/// The live locks of a directory, by encoded names.
///
/// # Errors
/// The engine's.
pub async fn live(view: &View, dir: &RemotePath) -> Result<HashMap<String, Holder>, StoreError> {
    let (shown, _) = list(view, dir, None, LISTED).await?;
    let live = shown.into_iter().filter(|shown| shown.live);
    Ok(live.map(|shown| (encoded(&shown.name), shown.record.holder())).collect())
}

/// True if the writer that a lock names may live.
fn is_live(view: &View, object: &Object, record: &LockRecord) -> bool {
    !record.resting && !view.shared.lease.has_expired(object, Instant::now())
}

/// A lock as a listing shows it.
pub struct Shown {
    /// The target's name.
    pub name: crate::store::path::Name,
    /// What the lock says.
    pub record: LockRecord,
    /// Its writer may live.
    pub live: bool,
}

/// A page of the locks of a directory, and whether more follow.
///
/// # Errors
/// The engine's.
pub async fn list(
    view: &View,
    dir: &RemotePath,
    after: Option<&crate::store::path::Name>,
    limit: usize,
) -> Result<(Vec<Shown>, bool), StoreError> {
    let prefix = view.entries.keys.within(Space::Locks, dir);
    let after = after.map(|name| format!("{prefix}{}", encoded(name)));
    let listed = view.entries.requests.list(&prefix, after.as_deref(), limit).await;
    let listed = listed.map_err(|failed| failed.about(dir))?;
    let shown = |object: Object| async move {
        let name = super::keys::name_of(&object.key)?;
        let (object, record) = read(view, &object.key, dir).await.ok()??;
        let live = is_live(view, &object, &record);
        Some(Shown { name, record, live })
    };
    let all = stream::iter(listed.objects.into_iter().map(shown)).buffered(16);
    Ok((all.collect::<Vec<_>>().await.into_iter().flatten().collect(), listed.more))
}

/// Looks at the lock of a target once, so that a second look a lease later can tell whether its
/// writer lives.
///
/// # Errors
/// The engine's.
pub async fn observe(
    view: &View,
    whole: &RemotePath,
) -> Result<Option<(LockRecord, bool)>, StoreError> {
    let key = view.entries.keys.of(Space::Locks, whole)?;
    let Some((object, record)) = read(view, &key, whole).await? else {
        return Ok(None);
    };
    let live = is_live(view, &object, &record);
    Ok(Some((record, live)))
}
