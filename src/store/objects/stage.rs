//! Files that arrive in parts: uploaded under names of their own, and published by one conditional
//! write of the entry.

use super::background::{Running, detach};
use super::entries::{Place, RACES, Written, races};
use super::lock::{self, Acquired, Live, Lock};
use super::lock_record::LockRecord;
use super::record::{Extent, MAX_EXTENTS, RecordKind};
use super::small::check_place;
use super::upload::{self, LEAST_PART, PARTS_AT_ONCE, Upload, part_for};
use super::view::View;
use super::writing::{State, Writing};
use crate::store::entry::{Allocation, Attributes};
use crate::store::error::{ErrorKind, StoreError};
use crate::store::path::RemotePath;
use crate::store::staging::{
    Bytes, Checkpoint, Checkpointer, PartRules, PartWrite, Resume, StageRequest, Staging,
};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::sync::Arc;

/// A file that is being written to a store of objects.
pub struct ObjectStaging {
    writing: Arc<Writing>,
    if_version: Option<String>,
    size: Option<u64>,
    /// Bytes of a part.
    part: usize,
    /// The entry as it was before the lock.
    place: Place,
    resume: Resume,
    hash: Option<[u8; 32]>,
    renewals: Option<Running>,
    ended: bool,
}

/// Locks a target, and adopts what an earlier writer of the same source has written.
///
/// # Errors
/// [`ErrorKind::Locked`], those of [`check_place`], and the engine's.
pub async fn stage(
    view: &View,
    path: &RemotePath,
    request: &StageRequest,
) -> Result<ObjectStaging, StoreError> {
    let whole = view.target(path).await?;
    let about = |e: StoreError| e.about(path);
    view.check_open(path)?;
    // before the lock: see there
    let mut place = view.entries.find(&whole).await.map_err(about)?;
    check_place(path, &place, request.if_version.as_deref())?;
    let record = |earlier: Option<&LockRecord>| {
        let fresh = LockRecord::new(&request.who, request.source.clone());
        match earlier.filter(|e| e.source.is_some() && e.source == request.source) {
            Some(earlier) => LockRecord {
                who: fresh.who,
                resting: false,
                age: 0,
                ..earlier.clone()
            },
            None => fresh,
        }
    };
    let acquired = lock::acquire(view, &whole, Live::Respected, record).await.map_err(about)?;
    if acquired.fenced {
        place = view.entries.recall(&whole).await.map_err(about)?;
    }
    let (lock, state, resume) = take_over(view, acquired).await;
    let writing = Arc::new(Writing {
        view: view.clone(),
        path: path.clone(),
        whole,
        lock,
        state: Mutex::new(state),
    });
    let (renewed, pause) = (writing.clone(), view.shared.lease.renewal());
    let renewals = Running::start(async move {
        while !renewed.lock.is_lost() {
            tokio::time::sleep(pause).await;
            // a lost lock is noticed by what is written next; anything else may be better next time
            let _ = renewed.renew().await;
        }
    });
    let staging = ObjectStaging {
        writing,
        if_version: request.if_version.clone(),
        size: request.size,
        part: part_for(request.window),
        place,
        resume,
        hash: None,
        renewals: Some(renewals),
        ended: false,
    };
    // after a fence it may be another one
    check_place(path, &staging.place, request.if_version.as_deref())?;
    Ok(staging)
}

/// Completes what an earlier writer has uploaded, if that is to be resumed; forgets it otherwise.
async fn take_over(view: &View, acquired: Acquired) -> (Lock, State, Resume) {
    let Acquired {
        lock,
        record,
        earlier,
        ..
    } = acquired;
    let (requests, keys) = (&view.entries.requests, &view.entries.keys);
    let mut state = State {
        who: record.who.clone(),
        source: record.source.clone(),
        generation: 0,
        next: 0,
        closed: true,
        checkpoint: Checkpoint::default(),
        extents: Vec::new(),
        uploads: Vec::new(),
    };
    let Some(earlier) = earlier.filter(|earlier| earlier.offset > 0) else {
        return (lock, state, Resume::Fresh);
    };
    if record.offset == 0 {
        for upload in &earlier.uploads {
            upload::forget(requests, keys, upload).await;
        }
        return (lock, state, Resume::Discarded(earlier.offset));
    }
    let mut extents = earlier.extents.clone();
    for upload in &earlier.uploads {
        match upload::adopt(requests, keys, upload).await {
            Ok(extent) => extents.extend(extent),
            Err(_) => return (lock, state, Resume::Fresh),
        }
    }
    let point = Checkpoint {
        offset: earlier.offset,
        digests: earlier.digests.clone(),
    };
    (state.next, state.extents, state.checkpoint) = (point.offset, extents, point.clone());
    (lock, state, Resume::From(point))
}

#[async_trait]
impl Staging for ObjectStaging {
    fn part_rules(&self) -> PartRules {
        PartRules {
            least: self.part,
            most: self.part,
            skip_gap_after: None,
        }
    }

    async fn write(&mut self, offset: u64, parts: Vec<Bytes>) -> Result<(), StoreError> {
        match self.begin_write(offset, parts) {
            Some(write) => write.await,
            None => Ok(()),
        }
    }

    fn writes_at_once(&self) -> usize {
        PARTS_AT_ONCE
    }

    fn begin_write(&mut self, offset: u64, parts: Vec<Bytes>) -> Option<PartWrite> {
        let length: u64 = parts.iter().map(|part| (**part).as_ref().len() as u64).sum();
        let view = &self.writing.view;
        let mut state = self.writing.state.lock();
        debug_assert_eq!(offset, state.next, "parts begin in order");
        state.next = offset.saturating_add(length);
        let is_full = state.uploads.last().is_none_or(|upload| upload.is_full());
        if state.closed || is_full {
            let is_all = offset == 0 && self.size == Some(length);
            let is_whole = is_all || self.part < LEAST_PART;
            let upload = Upload::new(&view.entries.requests, &view.entries.keys, offset, is_whole);
            state.uploads.push(Arc::new(upload));
            state.closed = false;
        }
        if state.pieces() > MAX_EXTENTS {
            let why = "the server has too little memory for a file of this size: it would have too \
                many pieces";
            let error = StoreError::because(why, &self.writing.path);
            return Some(Box::pin(async move { Err(error) }));
        }
        let upload = state.uploads.last()?.clone();
        let number = upload.next_part();
        drop(state);
        Some(Box::pin(self.writing.clone().put(upload, number, parts)))
    }

    async fn hole(&mut self, offset: u64, length: u64) -> Result<(), StoreError> {
        let mut state = self.writing.state.lock();
        if state.pieces() >= MAX_EXTENTS {
            let why = "an object store takes at most 8192 holes in a file: send it without -S";
            return Err(StoreError::because(why, &self.writing.path));
        }
        state.closed = true;
        state.next = offset.saturating_add(length);
        Ok(())
    }

    fn allocate(&mut self, _allocation: Allocation) {}

    fn resume(&self) -> Resume {
        self.resume.clone()
    }

    fn checkpointer(&self) -> Option<Arc<dyn Checkpointer>> {
        Some(Arc::new(ObjectCheckpointer {
            generation: self.writing.state.lock().generation,
            writing: self.writing.clone(),
        }))
    }

    async fn restart(&mut self, source: Option<String>) -> Result<(), StoreError> {
        self.writing.abort().await;
        self.resume = Resume::Fresh;
        {
            let mut state = self.writing.state.lock();
            state.generation = state.generation.saturating_add(1);
            state.source = source;
            (state.next, state.closed) = (0, true);
            state.checkpoint = Checkpoint::default();
            state.extents.clear();
        }
        self.writing.renew().await
    }

    fn set_hash(&mut self, hash: [u8; 32]) {
        self.hash = Some(hash);
    }

    async fn commit(
        mut self: Box<Self>,
        size: u64,
        attributes: Attributes,
    ) -> Result<String, StoreError> {
        let committed = self.publish(size, &attributes).await;
        match &committed {
            Ok(_) => {
                self.end();
                self.writing.lock.free().await;
            }
            Err(e) if is_final(&e.kind) => {
                self.end();
                self.writing.abort().await;
                self.writing.lock.free().await;
            }
            // dropped: what is durable can be resumed
            Err(_) => {}
        }
        committed
    }

    async fn discard(mut self: Box<Self>) {
        self.end();
        self.writing.abort().await;
        self.writing.lock.free().await;
    }
}

/// True of errors after which the same content will not be committed either.
fn is_final(kind: &ErrorKind) -> bool {
    !matches!(
        kind,
        ErrorKind::Unavailable
            | ErrorKind::Throttled
            | ErrorKind::UnknownOutcome
            | ErrorKind::NoSpace
            | ErrorKind::Locked(_)
    )
}

impl ObjectStaging {
    /// Nothing is renewed any more, and nothing is to be let go.
    fn end(&mut self) {
        self.renewals = None;
        self.ended = true;
    }

    /// Completes the content, and writes the entry.
    async fn publish(&mut self, size: u64, attributes: &Attributes) -> Result<String, StoreError> {
        let writing = self.writing.clone();
        let (path, view) = (&writing.path, &writing.view);
        let (mut extents, uploads, next) = {
            let state = writing.state.lock();
            (state.extents.clone(), state.uploads.clone(), state.next)
        };
        if next != size {
            let why = format!("{next} bytes were written, and {size} are expected");
            return Err(StoreError::because(&why, path));
        }
        for upload in uploads {
            extents.push(upload.complete().await.map_err(|e| writing.failed(e))?);
        }
        if extents.is_empty() && size > 0 {
            // all of it is a hole, which is no inline content
            let (at, size, blob) = (0, 0, String::new());
            extents.push(Extent { at, size, blob });
        }
        for _ in 0..RACES {
            view.check_open(path)?;
            let mut record = view.new_record(RecordKind::File, &self.place, attributes);
            record.size = size;
            record.blake3 = self.hash.map(|hash| blake3::Hash::from(hash).to_hex().to_string());
            record.extents.clone_from(&extents);
            writing.lock.prove(&writing.record()).await.map_err(|e| e.about(path))?;
            match view.write((path, &writing.whole), record, None, &self.place).await? {
                Written::Done(found) => {
                    return Ok(found.record.version.clone());
                }
                Written::Other(now) => {
                    check_place(path, &now, self.if_version.as_deref())?;
                    // looked at, now proved, and then written
                    writing.renew().await?;
                    self.place = now;
                }
            }
        }
        Err(races(path))
    }
}

impl Drop for ObjectStaging {
    fn drop(&mut self) {
        if !self.ended {
            self.renewals = None;
            detach(self.writing.clone().let_go());
        }
    }
}

/// Makes checkpoints of an [`ObjectStaging`]: parts are durable when they are written, so only the
/// lock has to say so.
struct ObjectCheckpointer {
    writing: Arc<Writing>,
    generation: u64,
}

#[async_trait]
impl Checkpointer for ObjectCheckpointer {
    async fn checkpoint(&self, point: Checkpoint) -> Result<(), StoreError> {
        {
            let mut state = self.writing.state.lock();
            if state.generation != self.generation {
                return Ok(());
            }
            state.checkpoint = point;
        }
        self.writing.renew().await
    }
}
