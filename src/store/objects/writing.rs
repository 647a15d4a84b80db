//! What a writer of a larger file has written so far, for everything that describes it.

use super::entries::owned;
use super::lock::Lock;
use super::lock_record::LockRecord;
use super::outcome::Failed;
use super::record::Extent;
use super::upload::Upload;
use super::view::View;
use crate::store::error::StoreError;
use crate::store::path::RemotePath;
use crate::store::staging::{Bytes, Checkpoint};
use parking_lot::Mutex;
use std::mem;
use std::sync::Arc;

/// What a writer has written, for everything that describes it.
pub struct Writing {
    pub view: View,
    /// The path as the caller knows it, and in the whole store.
    pub path: RemotePath,
    pub whole: RemotePath,
    pub lock: Lock,
    pub state: Mutex<State>,
}

pub struct State {
    pub who: String,
    pub source: Option<String>,
    /// Counts restarts: a checkpoint of an earlier one says nothing.
    pub generation: u64,
    /// Where the next part begins.
    pub next: u64,
    /// No part may be added to the last upload.
    pub closed: bool,
    pub checkpoint: Checkpoint,
    /// Content of earlier writers.
    pub extents: Vec<Extent>,
    pub uploads: Vec<Arc<Upload>>,
}

impl State {
    pub fn pieces(&self) -> usize {
        self.extents.len().saturating_add(self.uploads.len())
    }
}

impl Writing {
    /// What the lock is to say.
    pub fn record(&self) -> LockRecord {
        let state = self.state.lock();
        let offset = state.checkpoint.offset;
        LockRecord {
            who: state.who.clone(),
            resting: false,
            age: self.lock.age(),
            written: state.next,
            source: state.source.clone(),
            offset,
            digests: state.checkpoint.digests.clone(),
            extents: state.extents.clone(),
            uploads: state.uploads.iter().map(|upload| upload.record(offset)).collect(),
            fencing: Vec::new(),
        }
    }

    pub fn failed(&self, failed: Failed) -> StoreError {
        failed.about(&self.path)
    }

    /// Uploads a part. The first one of an upload has the lock say which upload that is.
    pub async fn put(
        self: Arc<Writing>,
        upload: Arc<Upload>,
        number: usize,
        parts: Vec<Bytes>,
    ) -> Result<(), StoreError> {
        self.view.check_open(&self.path)?;
        if self.lock.is_lost() {
            return Err(self.lock.lost_error().about(&self.path));
        }
        if upload.begin().await.map_err(|e| self.failed(e))? {
            self.renew().await?;
        }
        let body = parts.into_iter().map(owned).collect();
        upload.put(number, body).await.map_err(|e| self.failed(e))
    }

    pub async fn renew(&self) -> Result<(), StoreError> {
        self.lock.renew(&self.record()).await.map_err(|e| e.about(&self.path))
    }

    /// Forgets all uploads.
    pub async fn abort(&self) {
        let uploads = mem::take(&mut self.state.lock().uploads);
        for upload in uploads {
            upload.abort().await;
        }
    }

    /// Lets go of what a dropped staging has: a later writer resumes what is durable.
    pub async fn let_go(self: Arc<Writing>) {
        let record = self.record();
        match record.offset {
            0 => {
                self.abort().await;
                self.lock.free().await;
            }
            _ => self.lock.rest(record).await,
        }
    }
}
