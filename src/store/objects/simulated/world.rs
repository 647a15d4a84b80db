//! The objects of the model of an engine, and what requests change of them.

use crate::store::local::simulated::Chance;
use crate::store::objects::engine::{Condition, EngineError, Fault};
use crate::store::objects::record::Record;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long after it was completed an upload that is aborted takes its object along.
const RACE: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Stored {
    pub bytes: Vec<u8>,
    pub record: Option<String>,
    pub tag: String,
    pub modified: Duration,
}

pub struct Upload {
    pub key: String,
    pub parts: BTreeMap<usize, (String, Vec<u8>)>,
    pub completed: Option<Instant>,
}

pub struct World {
    pub chance: Chance,
    pub start: Instant,
    pub objects: BTreeMap<String, Stored>,
    /// The objects some time ago, for listings.
    pub old: BTreeMap<String, Stored>,
    pub old_since: Instant,
    pub uploads: BTreeMap<String, Upload>,
    pub tags: u64,
    /// When each version of an entry was written first.
    pub written: BTreeMap<String, Instant>,
}

/// A change that a request makes.
#[derive(Clone)]
pub enum Order {
    Put(String, Vec<u8>, Option<String>, Condition),
    Delete(Vec<String>),
    Begin(String),
    Part(String, usize, Vec<u8>),
    Complete(String, Vec<String>),
    Abort(String),
}

pub fn error(fault: Fault) -> EngineError {
    EngineError::new(fault, "the model says so")
}

impl World {
    pub fn apply(&mut self, order: Order) -> Result<String, EngineError> {
        self.tags += 1;
        let (tag, modified) = (format!("{:08x}", self.tags), self.start.elapsed());
        match order {
            Order::Put(key, bytes, record, condition) => {
                let found = self.objects.get(&key).map(|stored| stored.tag.clone());
                let holds = match (&condition, &found) {
                    (Condition::Always, _) | (Condition::Absent, None) => true,
                    (Condition::Matches(wanted), Some(found)) => wanted == found,
                    _ => false,
                };
                if !holds {
                    return Err(error(Fault::Condition));
                }
                if let Some(record) = record.as_deref().and_then(Record::parse) {
                    self.written.entry(record.version).or_insert_with(Instant::now);
                }
                let stored = Stored {
                    bytes,
                    record,
                    tag: tag.clone(),
                    modified,
                };
                self.objects.insert(key, stored);
            }
            Order::Delete(keys) => keys.iter().for_each(|key| drop(self.objects.remove(key))),
            Order::Begin(key) => {
                let upload = Upload {
                    key,
                    parts: BTreeMap::new(),
                    completed: None,
                };
                self.uploads.insert(tag.clone(), upload);
            }
            Order::Part(id, number, bytes) => {
                let upload = self.uploads.get_mut(&id).filter(|u| u.completed.is_none());
                let upload = upload.ok_or_else(|| error(Fault::NotFound))?;
                // as MD5: the same bytes have the same tag
                let tag = blake3::hash(&bytes).to_hex().to_string();
                upload.parts.insert(number, (tag.clone(), bytes));
                return Ok(tag);
            }
            Order::Complete(id, tags) => self.complete(&id, &tags, &tag)?,
            Order::Abort(id) => match self.uploads.get(&id) {
                Some(Upload {
                    key,
                    completed: Some(at),
                    ..
                }) if at.elapsed() < RACE => {
                    let key = key.clone();
                    self.objects.remove(&key);
                }
                Some(Upload {
                    completed: None, ..
                }) => drop(self.uploads.remove(&id)),
                _ => return Err(error(Fault::NotFound)),
            },
        }
        Ok(tag)
    }

    /// Makes an object of the parts with these entity tags.
    fn complete(&mut self, id: &str, tags: &[String], tag: &str) -> Result<(), EngineError> {
        let upload = self.uploads.get_mut(id).filter(|u| u.completed.is_none());
        let upload = upload.ok_or_else(|| error(Fault::NotFound))?;
        let mut bytes = Vec::new();
        for (number, tag) in tags.iter().enumerate() {
            match upload.parts.get(&number) {
                Some((found, part)) if found == tag => bytes.extend_from_slice(part),
                _ => return Err(error(Fault::Refused)),
            }
        }
        upload.completed = Some(Instant::now());
        let key = upload.key.clone();
        let stored = Stored {
            bytes,
            record: None,
            tag: tag.to_string(),
            modified: self.start.elapsed(),
        };
        self.objects.insert(key, stored);
        Ok(())
    }
}
