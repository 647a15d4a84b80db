//! Entries as objects: found, read, and written under a condition.

use super::engine::{Condition, Object};
use super::keys::{Keys, Space};
use super::outcome::{Failed, Swapped, Write};
use super::record::{Record, RecordKind, divide, metadata};
use super::requests::Requests;
use crate::store::error::StoreError;
use crate::store::path::RemotePath;
use crate::store::staging::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

/// Entries of each generation of [`Seen`].
const GENERATION: usize = 8192;

/// An entry's object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its entity tag.
    pub tag: String,
    /// Its record.
    pub record: Record,
}

/// The object of a path: `None` where there is none.
pub type Place = Option<Arc<Found>>;

/// The condition that a place is still as it was.
pub fn unchanged(place: &Place) -> Condition {
    match place {
        Some(found) => Condition::Matches(found.tag.clone()),
        None => Condition::Absent,
    }
}

/// The record of the entry that users see at a place.
pub fn visible(place: &Place) -> Option<&Record> {
    let record = place.as_ref().map(|found| &found.record);
    record.filter(|record| record.kind != RecordKind::None)
}

/// How a write ended.
pub enum Written {
    /// It happened.
    Done(Arc<Found>),
    /// The place is another one than expected.
    Other(Place),
}

/// What a transfer has seen of places, so that it need not ask a second time. An old answer costs a
/// refused write, never a wrong one.
#[derive(Default)]
pub struct Seen(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<RemotePath, Place>,
    old: HashMap<RemotePath, Place>,
}

impl Seen {
    /// Remembers a place.
    pub fn note(&self, path: &RemotePath, place: Place) {
        let mut all = self.0.lock();
        if all.young.len() >= GENERATION {
            all.old = mem::take(&mut all.young);
        }
        all.young.insert(path.clone(), place);
    }

    /// A place as it was seen last.
    pub fn get(&self, path: &RemotePath) -> Option<Place> {
        let all = self.0.lock();
        all.young.get(path).or_else(|| all.old.get(path)).cloned()
    }

    /// Forgets a place.
    pub fn forget(&self, path: &RemotePath) {
        let mut all = self.0.lock();
        all.young.remove(path);
        all.old.remove(path);
    }
}

/// The entries of a store. Paths are those of the whole store. Cheap to clone.
#[derive(Clone)]
pub struct Entries {
    /// Sends the requests.
    pub requests: Requests,
    /// Makes the keys.
    pub keys: Keys,
    /// What was seen.
    pub seen: Arc<Seen>,
}

impl Entries {
    /// What is at a path now.
    ///
    /// # Errors
    /// The engine's, or that the object there is none of haul's.
    pub async fn find(&self, path: &RemotePath) -> Result<Place, StoreError> {
        let key = self.keys.of(Space::Entries, path)?;
        let about = |failed: Failed| failed.about(path);
        let place = match self.requests.head(&key).await.map_err(about)? {
            Some(object) => Some(Arc::new(self.described(path, object).await?)),
            None => None,
        };
        self.seen.note(path, place.clone());
        Ok(place)
    }

    /// What is at a path, or was when it was seen last.
    ///
    /// # Errors
    /// As [`Entries::find`].
    pub async fn recall(&self, path: &RemotePath) -> Result<Place, StoreError> {
        match self.seen.get(path) {
            Some(place) => Ok(place),
            None => self.find(path).await,
        }
    }

    /// The record of an object, from its metadata, or else from its bytes.
    async fn described(&self, path: &RemotePath, object: Object) -> Result<Found, StoreError> {
        if let Some(record) = object.record.as_deref().and_then(Record::parse) {
            let tag = object.tag;
            return Ok(Found { tag, record });
        }
        match self.read(path).await? {
            Some((found, _)) => Ok((*found).clone()),
            None => Err(foreign(path)),
        }
    }

    /// Reads what is at a path, with a small file's content.
    ///
    /// # Errors
    /// As [`Entries::find`].
    pub async fn read(
        &self,
        path: &RemotePath,
    ) -> Result<Option<(Arc<Found>, Vec<u8>)>, StoreError> {
        let key = self.keys.of(Space::Entries, path)?;
        let read = self.requests.get(&key, None).await;
        let Some(content) = read.map_err(|failed| failed.about(path))? else {
            self.seen.note(path, None);
            return Ok(None);
        };
        let divided = divide(content.bytes);
        let parsed = divided.and_then(|(line, rest)| Some((Record::parse(&line)?, rest)));
        let (record, rest) = parsed.ok_or_else(|| foreign(path))?;
        if record.is_inline() && record.size != rest.len() as u64 {
            return Err(foreign(path));
        }
        let hash = record.blake3.as_deref().filter(|_| record.is_inline());
        if hash.is_some_and(|hash| *hash != *blake3::hash(&rest).to_hex()) {
            let why = "its content is not what was written: the object store damaged it";
            return Err(StoreError::because(why, path));
        }
        let tag = content.object.tag;
        let found = Arc::new(Found { tag, record });
        self.seen.note(path, Some(found.clone()));
        Ok(Some((found, rest)))
    }

    /// Writes an entry if its place is still as `expected`.
    ///
    /// # Errors
    /// The engine's; the outcome may not be known.
    pub async fn write(
        &self,
        path: &RemotePath,
        record: Record,
        content: Option<Bytes>,
        expected: &Place,
    ) -> Result<Written, StoreError> {
        let nonce = self.requests.nonce();
        let line = record.line(&nonce);
        let mut body = vec![bytes::Bytes::from(format!("{line}\n"))];
        body.extend(content.map(owned));
        let write = Write {
            key: self.keys.of(Space::Entries, path)?,
            body,
            record: metadata(&line, &nonce),
            condition: unchanged(expected),
        };
        let swapped = self.requests.swap(write).await;
        match swapped.map_err(|failed| self.uncertain(path, failed))? {
            Swapped::Done(tag) => {
                let found = Arc::new(Found { tag, record });
                self.seen.note(path, Some(found.clone()));
                Ok(Written::Done(found))
            }
            Swapped::Other(Some(object)) => {
                let place = Some(Arc::new(self.described(path, object).await?));
                self.seen.note(path, place.clone());
                Ok(Written::Other(place))
            }
            Swapped::Other(None) => {
                self.seen.note(path, None);
                Ok(Written::Other(None))
            }
        }
    }

    /// Removes the object of a path.
    ///
    /// # Errors
    /// The engine's.
    pub async fn delete(&self, path: &RemotePath) -> Result<(), StoreError> {
        let key = self.keys.of(Space::Entries, path)?;
        let deleted = self.requests.delete_settled(vec![key]).await;
        deleted.map_err(|failed| self.uncertain(path, failed))?;
        self.seen.note(path, None);
        Ok(())
    }

    fn uncertain(&self, path: &RemotePath, failed: Failed) -> StoreError {
        self.seen.forget(path);
        failed.about(path)
    }
}

/// Bytes as a request has them, without a copy.
pub fn owned(content: Bytes) -> bytes::Bytes {
    struct Owner(Bytes);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            (*self.0).as_ref()
        }
    }
    bytes::Bytes::from_owner(Owner(content))
}

/// How often an entry is written that others write at the same moment.
pub const RACES: usize = 16;

/// The error of an entry that never stays as it was.
pub fn races(path: &RemotePath) -> StoreError {
    StoreError::because("others replace it all the time", path)
}

/// The error of an object that haul did not make.
fn foreign(path: &RemotePath) -> StoreError {
    let why = "the object there is none of haul's: another program wrote it";
    StoreError::because(why, path)
}
