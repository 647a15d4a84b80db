//! What a sender knows of each file that it has offered and that is not settled: the one place that
//! says whether an attempt at a file is live.
//!
//! ```text
//! Offered ──want──▶ Queued ──planned──▶ Reading ──all read──▶ Sent ──result──▶ settled
//!    ▲                 │      or Copying    │                   │
//!    └────── changed: the next attempt is offered ──────────────┘
//!              withdrawn (from any): waits for the receiver's result
//! ```

use crate::chunk::CHUNK_SIZE;
use crate::chunk::Extent;
use crate::chunk::digest::Digest;
use crate::chunk::window::Permit;
use crate::net::data::body::FileId;
use crate::net::task::Tasks;
use crate::net::transfer::report::Counters;
use crate::net::transfer::send::reading::{CopyingFile, Plan, ReadingFile, Step};
use crate::net::transfer::send::reads::WantedFile;
use crate::net::wire::Code;
use crate::store::{Entry, Kind, RemotePath, StoreError};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Small files in one read.
const BATCH_FILES: usize = 32;
/// Their bytes.
const BATCH_BYTES: u64 = CHUNK_SIZE as u64;

/// Larger files that a receiver in this process copies at once.
const COPIES: usize = 4;

/// How far an attempt at a file is.
pub(super) enum Phase {
    /// The receiver has not said whether it wants it.
    Offered,
    /// The same, and its content went with the offer; its hash.
    Inline(Digest),
    /// It waits for its turn to be read.
    Queued(Box<WantedFile>),
    /// A small file, or a stream, is being read.
    ReadingWhole,
    /// A larger file is being read.
    Reading(Box<ReadingFile>),
    /// The receiver, in this process, copies a larger file.
    Copying(Box<CopyingFile>),
    /// All of it is on its way: hash, unless it was copied, and bytes.
    Sent(Option<Digest>, u64),
    /// It was withdrawn: the receiver's result then only confirms that.
    Withdrawn(Code, String),
}

/// An offer that the receiver has not settled.
pub(super) struct SendFile {
    pub(super) source: usize,
    pub(super) path: RemotePath,
    /// `None` for a stream.
    pub(super) entry: Option<Entry>,
    /// False if the bytes are sent as a stream: how many there are is not known yet.
    pub(super) sized: bool,
    pub(super) attempt: u8,
    pub(super) phase: Phase,
    /// Bytes that the receiver had of it before.
    pub(super) resumed: u64,
    /// Bytes that acks have reported as written.
    pub(super) written: u64,
    /// What it takes of the window's part for offers.
    _cost: Permit,
}

impl SendFile {
    pub(super) fn new(
        source: usize,
        path: RemotePath,
        entry: Option<Entry>,
        cost: Permit,
    ) -> Box<SendFile> {
        Box::new(SendFile {
            source,
            path,
            sized: entry.is_some(),
            entry,
            attempt: 0,
            phase: Phase::Offered,
            resumed: 0,
            written: 0,
            _cost: cost,
        })
    }

    /// How many bytes it has; of a stream those that were written, until all of it has been read.
    pub(super) fn size(&self) -> u64 {
        match (&self.entry, &self.phase) {
            (Some(entry), _) if self.sized => entry.size,
            (_, Phase::Sent(_, bytes)) => *bytes,
            _ => self.written,
        }
    }

    /// Its hash, once all of it is on its way.
    pub(super) fn hash(&self) -> Option<Digest> {
        match self.phase {
            Phase::Inline(hash) => Some(hash),
            Phase::Sent(hash, _) => hash,
            _ => None,
        }
    }

    /// True while the receiver may still want it.
    pub(super) fn may_be_wanted(&self) -> bool {
        matches!(self.phase, Phase::Offered | Phase::Inline(_))
    }

    pub(super) fn is_dir(&self) -> bool {
        self.entry.as_ref().is_some_and(|e| e.kind == Kind::Dir)
    }

    /// True while frames of it may be sent.
    fn is_being_read(&self) -> bool {
        matches!(self.phase, Phase::ReadingWhole | Phase::Reading(_) | Phase::Copying(_))
    }
}

/// All unsettled offers of a transfer, by number.
pub(super) struct SendState {
    tasks: Tasks,
    counters: Arc<Counters>,
    /// Boxed: they are large, and a map moves what it has.
    files: HashMap<u64, Box<SendFile>>,
    /// Files that wait to be read, in the order in which they were wanted.
    queue: VecDeque<FileId>,
    /// The larger file whose chunks are being planned.
    current: Option<FileId>,
    /// Larger files of which everything was read, or copied.
    to_check: VecDeque<(FileId, Option<Digest>)>,
    /// The receiver copies larger files.
    hands_over: bool,
    /// Those that it copies now, and some that it has done.
    copying: Vec<FileId>,
}

impl SendState {
    /// Nothing is offered yet. What looks for holes runs among `tasks`.
    /// With `hands_over`, the receiver copies larger files itself.
    pub(super) fn new(tasks: Tasks, counters: Arc<Counters>, hands_over: bool) -> SendState {
        SendState {
            tasks,
            counters,
            files: HashMap::new(),
            queue: VecDeque::new(),
            current: None,
            to_check: VecDeque::new(),
            hands_over,
            copying: Vec::new(),
        }
    }

    /// True where the receiver copies larger files itself.
    pub(super) fn hands_over(&self) -> bool {
        self.hands_over
    }

    /// Unsettled offers.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Adds an offer.
    pub(super) fn add(&mut self, number: u64, file: Box<SendFile>) {
        let before = self.files.insert(number, file);
        debug_assert!(before.is_none(), "the numbers of offers count up");
    }

    pub(super) fn get(&self, number: u64) -> Option<&SendFile> {
        self.files.get(&number).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut SendFile> {
        self.files.get_mut(&number).map(Box::as_mut)
    }

    /// The receiver has settled an offer.
    pub(super) fn settle(&mut self, number: u64) -> Option<Box<SendFile>> {
        self.files.remove(&number)
    }

    /// True while this attempt at a file is the current one, and is being read.
    pub(super) fn is_live(&self, id: FileId) -> bool {
        self.live(id).is_some()
    }

    /// True of an attempt at a file of which all is on its way, and may have to be sent again.
    pub(super) fn is_sent(&self, id: FileId) -> bool {
        let file = self.files.get(&id.number);
        file.is_some_and(|f| f.attempt == id.attempt && matches!(f.phase, Phase::Sent(..)))
    }

    fn live(&self, id: FileId) -> Option<&SendFile> {
        let file = self.files.get(&id.number)?;
        (file.attempt == id.attempt && file.is_being_read()).then_some(file)
    }

    fn live_mut(&mut self, id: FileId) -> Option<&mut SendFile> {
        let file = self.files.get_mut(&id.number)?;
        (file.attempt == id.attempt && file.is_being_read()).then_some(file)
    }

    /// A larger file that is being read in this attempt.
    fn reading(&mut self, id: FileId) -> Option<&mut ReadingFile> {
        match &mut self.live_mut(id)?.phase {
            Phase::Reading(reading) => Some(reading),
            _ => None,
        }
    }

    /// A file waits for its turn to be read.
    pub(super) fn queue(&mut self, file: WantedFile) {
        let id = file.id;
        if let Some(offered) = self.files.get_mut(&id.number) {
            debug_assert!(offered.may_be_wanted(), "it is wanted once an attempt");
            offered.phase = Phase::Queued(Box::new(file));
            self.queue.push_back(id);
        }
    }

    /// All of this attempt at a file is on its way.
    pub(super) fn sent(&mut self, id: FileId, hash: Option<Digest>, bytes: u64) {
        if let Some(file) = self.live_mut(id) {
            file.phase = Phase::Sent(hash, bytes);
        }
    }

    /// The digest of a chunk of a larger file is known.
    pub(super) fn hashed(&mut self, id: FileId, extent: Extent, digest: Digest) {
        let Some(reading) = self.reading(id) else {
            return;
        };
        if let Some(hash) = reading.hashed(extent, digest) {
            self.to_check.push_back((id, Some(hash)));
        }
    }

    /// The receiver has copied a part of a larger file.
    pub(super) fn copied(&mut self, id: FileId, part: Extent) {
        if let Some(Phase::Copying(copying)) = self.live_mut(id).map(|file| &mut file.phase)
            && copying.copied(part)
        {
            self.to_check.push_back((id, None));
        }
    }

    /// True while the receiver may be given another file to copy.
    fn may_hand_over(&mut self) -> bool {
        let files = &self.files;
        let is_busy =
            |id: &FileId| match files.get(&id.number).map(|file| (file.attempt, &file.phase)) {
                Some((attempt, Phase::Copying(copying))) => {
                    attempt == id.attempt && !copying.is_complete()
                }
                _ => false,
            };
        self.copying.retain(is_busy);
        self.copying.len() < COPIES
    }

    fn begin_copying(&mut self, file: WantedFile) -> Plan {
        let id = file.id;
        let copying = Box::new(CopyingFile::new(file));
        let plan = copying.hand_over();
        if let Some(offered) = self.live_mut(id) {
            offered.phase = Phase::Copying(copying);
            self.copying.push(id);
        }
        plan
    }

    /// The check of a larger file, if it is live.
    fn check(&self, id: FileId, hash: Option<Digest>) -> Option<Plan> {
        match &self.live(id)?.phase {
            Phase::Reading(reading) => Some(reading.check(hash)),
            Phase::Copying(copying) => Some(copying.check()),
            _ => None,
        }
    }

    /// Waits until more is known of the layout of the file that is being planned. Cancel-safe.
    pub(super) async fn layout_found(&mut self) {
        let current = self.current.and_then(|id| self.reading(id));
        match current {
            Some(reading) => reading.layout_found().await,
            None => std::future::pending().await,
        }
    }

    /// The next read that is due; `None` while there is none. A chunk has at most `most` bytes.
    ///
    /// # Errors
    /// Why the layout of a file could not be found.
    pub(super) fn plan(&mut self, most: u64) -> Result<Option<Plan>, (FileId, StoreError)> {
        while let Some((id, hash)) = self.to_check.pop_front() {
            if let Some(check) = self.check(id, hash) {
                return Ok(Some(check));
            }
        }
        loop {
            if let Some(id) = self.current {
                match self.reading(id).map(|reading| reading.plan(most)) {
                    Some(Step::Due(plan)) => return Ok(Some(plan)),
                    Some(Step::Unknown) => return Ok(None),
                    Some(Step::Failed(e)) => {
                        self.current = None;
                        return Err((id, e));
                    }
                    Some(Step::AllPlanned) | None => self.current = None,
                }
            }
            let waits = self.hands_over && !self.may_hand_over();
            let Some(file) = self.next_queued(|file| file.is_small() || !waits) else {
                return Ok(None);
            };
            match file.is_small() {
                true => return Ok(Some(self.plan_small(file))),
                false if self.hands_over => return Ok(Some(self.begin_copying(file))),
                false => self.begin_reading(file),
            }
        }
    }

    /// Takes the next live file out of the queue, if `fits` says so of it.
    fn next_queued(&mut self, fits: impl Fn(&WantedFile) -> bool) -> Option<WantedFile> {
        while let Some(id) = self.queue.front().copied() {
            let file = self.files.get_mut(&id.number).filter(|file| file.attempt == id.attempt);
            let Some(file) = file else {
                self.queue.pop_front();
                continue;
            };
            match &file.phase {
                Phase::Queued(wanted) if !fits(wanted) => return None,
                Phase::Queued(_) => {}
                _ => {
                    self.queue.pop_front();
                    continue;
                }
            }
            self.queue.pop_front();
            if let Phase::Queued(wanted) = std::mem::replace(&mut file.phase, Phase::ReadingWhole) {
                self.counters.started(wanted.path.as_bytes());
                return Some(*wanted);
            }
        }
        None
    }

    /// As many small files as are read in one go, from this one on.
    fn plan_small(&mut self, first: WantedFile) -> Plan {
        let (store, mut bytes) = (first.store.clone(), first.size);
        let mut batch = vec![first];
        while batch.len() < BATCH_FILES {
            let fits = |file: &WantedFile| {
                let fits = bytes.saturating_add(file.size) <= BATCH_BYTES;
                file.is_small() && fits && Arc::ptr_eq(&file.store, &store)
            };
            let Some(next) = self.next_queued(fits) else {
                break;
            };
            bytes = bytes.saturating_add(next.size);
            batch.push(next);
        }
        Plan::Small(batch)
    }

    fn begin_reading(&mut self, file: WantedFile) {
        let id = file.id;
        let reading = ReadingFile::new(file, &self.tasks);
        self.current = Some(id);
        if let Some(offered) = self.live_mut(id) {
            offered.phase = Phase::Reading(Box::new(reading));
        }
    }
}

/// True of a file that comes in more than one piece, so that the beginning of it may be there.
pub(super) fn is_large(size: u64) -> bool {
    size > CHUNK_SIZE as u64
}
