//! Files that are read: a small one came with its record, a larger one is read ahead block by
//! block.
//!
//! What was opened stays what it is: content under its own name is never overwritten. If it is gone
//! meanwhile, the source has changed.

use super::background::shared;
use super::entries::{Found, visible};
use super::keys::Keys;
use super::record::Record;
use super::requests::Requests;
use super::view::View;
use crate::store::entry::Entry;
use crate::store::error::{ErrorKind, StoreError};
use crate::store::kind::Kind;
use crate::store::path::RemotePath;
use crate::store::shares::{Share, Shares};
use crate::store::source::{Extent, FileSource, Watch, WholeFile};
use async_trait::async_trait;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a block: where memory allows, and at least.
const LARGEST_BLOCK: u64 = 16 << 20;
const SMALLEST_BLOCK: u64 = 1 << 20;
/// Blocks that are read ahead of the one that is asked for.
const AHEAD: u64 = 2;
/// Blocks behind it that stay: several reads are under way at once.
const BEHIND: u64 = 1;
/// Blocks in memory, with the one that is asked for.
const BLOCKS: u64 = AHEAD + BEHIND + 1;
/// Bytes of the blocks of all open files. Each one takes at most half of what the others leave.
const ALL_BLOCKS: u64 = 128 << 20;
/// Bytes that `watch` sees at once, while they are in the processor's cache.
const PIECE: usize = 64 << 10;

type Block = Shared<BoxFuture<'static, Result<Arc<Vec<u8>>, StoreError>>>;

/// An open file of a store of objects.
pub struct ObjectSource {
    path: RemotePath,
    entry: Entry,
    record: Record,
    inline: Option<Vec<u8>>,
    requests: Requests,
    keys: Keys,
    blocks: Mutex<BTreeMap<u64, Block>>,
    /// Bytes of a block.
    block: u64,
    _memory: Option<Share>,
}

/// The memory for blocks of all open files of a store.
pub fn block_memory() -> Arc<Shares> {
    Shares::new(ALL_BLOCKS, BLOCKS * SMALLEST_BLOCK)
}

/// Opens a file.
///
/// # Errors
/// [`ErrorKind::NotFound`], [`ErrorKind::IsADirectory`], [`ErrorKind::Symlink`],
/// [`ErrorKind::BadKind`], and the engine's.
pub async fn open(view: &View, path: &RemotePath) -> Result<ObjectSource, StoreError> {
    let (found, content) = read(view, path).await?;
    let name = path.split().map(|(_, name)| name);
    let missing = || StoreError::new(ErrorKind::NotFound, path);
    let entry = found.record.entry(name).ok_or_else(missing)?;
    let record = found.record.clone();
    let wanted = record.size.min(BLOCKS * LARGEST_BLOCK);
    let (memory, owner) = (&view.shared.blocks, view.entries.requests.nonce().into());
    // a small one came with its record; one for which there is nothing has the smallest blocks
    let share = match record.is_inline() {
        true => None,
        false => memory.try_take(&owner, memory.room(&owner).min(wanted)),
    };
    let block = share.as_ref().map_or(0, Share::amount) / BLOCKS;
    Ok(ObjectSource {
        block: block.clamp(SMALLEST_BLOCK, LARGEST_BLOCK),
        _memory: share,
        path: path.clone(),
        entry,
        inline: record.is_inline().then_some(content),
        record,
        requests: view.entries.requests.clone(),
        keys: view.entries.keys.clone(),
        blocks: Mutex::default(),
    })
}

/// Reads the object of a file.
async fn read(view: &View, path: &RemotePath) -> Result<(Arc<Found>, Vec<u8>), StoreError> {
    let mut whole = view.absolute(path)?;
    if whole.is_root() {
        return Err(StoreError::new(ErrorKind::IsADirectory, path));
    }
    let mut found = view.entries.read(&whole).await.map_err(|e| e.about(path))?;
    if found.is_none() {
        // a symlink may be on the way
        whole = view.absolute(&view.resolve_parent(path).await?)?;
        found = view.entries.read(&whole).await.map_err(|e| e.about(path))?;
    }
    let (found, content) = found.ok_or_else(|| StoreError::new(ErrorKind::NotFound, path))?;
    let place = Some(found.clone());
    let kind = visible(&place).and_then(|record| record.kind.kind());
    let error = match kind {
        Some(Kind::File) => return Ok((found, content)),
        None => ErrorKind::NotFound,
        Some(Kind::Dir) => ErrorKind::IsADirectory,
        Some(Kind::Symlink) => ErrorKind::Symlink,
        Some(_) => ErrorKind::BadKind,
    };
    Err(StoreError::new(error, path))
}

/// Reads files of at most `most` bytes, several at once.
pub async fn read_whole(
    view: &View,
    paths: Vec<RemotePath>,
    most: usize,
) -> Vec<Result<WholeFile, StoreError>> {
    let read = |path: RemotePath| async move {
        let source = open(view, &path).await?;
        let size = usize::try_from(source.entry.size).unwrap_or(usize::MAX);
        if size > most {
            return Err(source.error(ErrorKind::SourceChanged));
        }
        let version = source.entry.version.clone();
        let bytes = match source.inline {
            Some(bytes) => bytes,
            None => source.read_at(0, vec![0; size], Arc::new(())).await?,
        };
        Ok(WholeFile { version, bytes })
    };
    view.each(paths, read).await
}

impl ObjectSource {
    /// The bytes of a block: read, or being read.
    fn block(&self, number: u64) -> Block {
        let mut blocks = self.blocks.lock();
        if let Some(block) = blocks.get(&number) {
            return block.clone();
        }
        let start = number.saturating_mul(self.block);
        let end = start.saturating_add(self.block).min(self.record.size);
        let (requests, keys) = (self.requests.clone(), self.keys.clone());
        let (record, path) = (self.record.clone(), self.path.clone());
        let block = shared(async move {
            let read = fetch(&requests, &keys, &record, (start, end)).await;
            read.map(Arc::new).map_err(|e| e.about(&path))
        });
        blocks.insert(number, block.clone());
        block
    }

    /// Starts to read what follows a block, and drops what is behind it.
    fn advance(&self, number: u64) {
        let last = self.record.size.saturating_sub(1) / self.block;
        for ahead in 1..=AHEAD {
            let next = number.saturating_add(ahead);
            if next <= last {
                drop(self.block(next));
            }
        }
        let first = number.saturating_sub(BEHIND);
        let far = number.saturating_add(AHEAD.saturating_mul(2));
        self.blocks.lock().retain(|at, _| (first..=far).contains(at));
    }
}

/// Reads a range of a file from its blobs; what none has is zeros.
async fn fetch(
    requests: &Requests,
    keys: &Keys,
    record: &Record,
    (start, end): (u64, u64),
) -> Result<Vec<u8>, StoreError> {
    let length = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
    let mut bytes = Vec::new();
    for extent in &record.extents {
        let from = extent.at.max(start);
        let to = extent.at.saturating_add(extent.size).min(end);
        if from >= to {
            continue;
        }
        let range = from.saturating_sub(extent.at)..to.saturating_sub(extent.at);
        let root = RemotePath::root();
        let read = requests.get(&keys.blob(&extent.blob), Some(range)).await;
        let content = read.map_err(|failed| failed.about(&root))?;
        let gone = || StoreError::new(ErrorKind::SourceChanged, &root);
        let content = content.ok_or_else(gone)?.bytes;
        if content.len() as u64 != to.saturating_sub(from) {
            return Err(gone());
        }
        if content.len() == length {
            return Ok(content);
        }
        bytes.resize(length, 0);
        let at = usize::try_from(from.saturating_sub(start)).unwrap_or(usize::MAX);
        let place = bytes.get_mut(at..at.saturating_add(content.len()));
        place.ok_or_else(gone)?.copy_from_slice(&content);
    }
    bytes.resize(length, 0);
    Ok(bytes)
}

/// The part of `bytes`, which begin at `start`, from `offset` on.
fn part(bytes: &[u8], start: u64, offset: u64, most: usize) -> &[u8] {
    let from = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
    let rest = bytes.get(from..).unwrap_or_default();
    rest.get(..most).unwrap_or(rest)
}

#[async_trait]
impl FileSource for ObjectSource {
    async fn stat(&self) -> Result<Entry, StoreError> {
        Ok(self.entry.clone())
    }

    fn is_at_hand(&self, offset: u64, length: usize) -> bool {
        if self.inline.is_some() {
            return true;
        }
        let last = offset.saturating_add(length as u64).saturating_sub(1);
        let blocks = self.blocks.lock();
        let is_here = |number| {
            let block: Option<&Block> = blocks.get(&number);
            block.is_some_and(|block| matches!(block.peek(), Some(Ok(_))))
        };
        (offset / self.block..=last / self.block).all(is_here)
    }

    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Option<Result<usize, StoreError>> {
        let mut done = 0_usize;
        while done < buffer.len() {
            let at = offset.saturating_add(done as u64);
            if at >= self.record.size {
                break;
            }
            let rest = buffer.get_mut(done..)?;
            let copied = match &self.inline {
                Some(bytes) => copy(part(bytes, 0, at, rest.len()), rest),
                None => {
                    let number = at / self.block;
                    let block = self.blocks.lock().get(&number).cloned()?;
                    self.advance(number);
                    let bytes = block.peek()?.as_ref().ok()?;
                    copy(part(bytes, number.saturating_mul(self.block), at, rest.len()), rest)
                }
            };
            if copied == 0 {
                return None;
            }
            done = done.saturating_add(copied);
        }
        Some(Ok(done))
    }

    async fn extent(&self, offset: u64) -> Result<Extent, StoreError> {
        if self.inline.is_some() {
            let end = self.record.size;
            return Ok(Extent::Data { end });
        }
        let end_of = |extent: &super::record::Extent| extent.at.saturating_add(extent.size);
        let mut extents = self.record.extents.iter().filter(|extent| extent.size > 0);
        Ok(match extents.find(|extent| end_of(extent) > offset) {
            Some(extent) if extent.at <= offset => Extent::Data {
                end: end_of(extent),
            },
            Some(extent) => Extent::Hole { end: extent.at },
            None => Extent::Hole {
                end: self.record.size,
            },
        })
    }

    fn error(&self, kind: ErrorKind) -> StoreError {
        StoreError::new(kind, &self.path)
    }

    async fn read_at(
        &self,
        offset: u64,
        mut buffer: Vec<u8>,
        watch: Arc<dyn Watch>,
    ) -> Result<Vec<u8>, StoreError> {
        let mut done = 0_usize;
        while done < buffer.len() {
            let at = offset.saturating_add(done as u64);
            if at >= self.record.size {
                break;
            }
            let rest = buffer.get_mut(done..).unwrap_or_default();
            let copied = match &self.inline {
                Some(bytes) => copy(part(bytes, 0, at, rest.len()), rest),
                None => {
                    let number = at / self.block;
                    let block = self.block(number);
                    self.advance(number);
                    let bytes = block.await?;
                    copy(part(&bytes, number.saturating_mul(self.block), at, rest.len()), rest)
                }
            };
            if copied == 0 {
                return Err(self.error(ErrorKind::SourceChanged));
            }
            done = done.saturating_add(copied);
        }
        buffer.truncate(done);
        buffer.chunks(PIECE).for_each(|piece| watch.see(piece));
        Ok(buffer)
    }
}

/// Copies as much as fits; returns how much.
fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let length = from.len().min(to.len());
    if let (Some(from), Some(to)) = (from.get(..length), to.get_mut(..length)) {
        to.copy_from_slice(from);
    }
    length
}
