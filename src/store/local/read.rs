//! Reading: open files by offset, and small files whole.

use super::blocking::blocking_for;
use super::fd_budget::HANDLES;
use super::follow;
use super::fs_type::is_in_memory;
use super::inode::{entry, version};
use super::meta_overlay::overlay_open;
use super::sys::WARY;
use super::sys::{open_in, retry};
use super::tree::Tree;
use crate::store::error::At;
use crate::store::shares::Share;
use crate::store::{
    Entry, ErrorKind, Extent, FileSource, RemotePath, StoreError, Watch, WholeFile,
};
use async_trait::async_trait;
use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, OFlags, SeekFrom, Stat};
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes per read, before the watch sees them: few enough to stay in a cache near the processor.
const PIECE: usize = 128 << 10;

/// A [`FileSource`] of a [`super::LocalStore`]. Cheap to clone.
#[derive(Clone)]
pub(super) struct LocalFileSource {
    tree: Arc<Tree>,
    path: RemotePath,
    /// `None` if its owner's share of open files is used up: each call opens the file then. The
    /// caller compares versions in the end, which tells whether it was the same file.
    open: Option<Arc<CachedFile>>,
}

/// A file that stays open between two calls.
struct CachedFile {
    file: File,
    /// Its file system has no device to wait for.
    in_memory: bool,
    _share: Share,
}

/// Opens a regular file.
pub(super) fn open(tree: &Arc<Tree>, path: &RemotePath) -> Result<LocalFileSource, StoreError> {
    let (file, _) = open_file(tree, path)?;
    let share = HANDLES.sources.try_take(tree.owner(), 1);
    let open = share.map(|share| CachedFile {
        in_memory: is_in_memory(&file),
        file,
        _share: share,
    });
    Ok(LocalFileSource {
        tree: tree.clone(),
        path: path.clone(),
        open: open.map(Arc::new),
    })
}

/// Opens a regular file; returns its stat too. O_NONBLOCK: the open must not wait for the writer of
/// a FIFO that took its place.
fn open_file(tree: &Tree, path: &RemotePath) -> Result<(File, Stat), StoreError> {
    let file: File = match tree.following() {
        Some(_) => follow::open(tree, path, OFlags::RDONLY | OFlags::NONBLOCK)?,
        None => {
            let (dir, name) = tree.parent(path)?;
            open_in(&dir, name.as_bytes(), WARY | OFlags::RDONLY).at("open", path)?
        }
    }
    .into();
    let stat = rustix::fs::fstat(&file).at("stat", path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((file, stat)),
        FileType::Directory => Err(StoreError::new(ErrorKind::IsADirectory, path)),
        _ => Err(StoreError::new(ErrorKind::BadKind, path)),
    }
}

impl LocalFileSource {
    /// Calls `work` with the file, and opens that first if it is not open.
    fn with<T>(&self, work: impl FnOnce(&File) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match &self.open {
            Some(open) => work(&open.file),
            None => work(&open_file(&self.tree, &self.path)?.0),
        }
    }

    /// The same, on a thread that may wait.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&File) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let source = self.clone();
        blocking_for(self.tree.owner(), move || source.with(work)).await
    }
}

/// Describes an open file.
fn stat(tree: &Tree, file: &File, path: &RemotePath) -> Result<Entry, StoreError> {
    let stat = rustix::fs::fstat(file).at("stat", path)?;
    let mut entry = entry(path.split().map(|(_, name)| name), &stat, None);
    overlay_open(tree, file, &mut entry);
    Ok(entry)
}

#[async_trait]
impl FileSource for LocalFileSource {
    async fn stat(&self) -> Result<Entry, StoreError> {
        match &self.open {
            // does not wait
            Some(open) => stat(&self.tree, &open.file, &self.path),
            None => {
                let (tree, path) = (self.tree.clone(), self.path.clone());
                self.run(move |file| stat(&tree, file, &path)).await
            }
        }
    }

    fn is_at_hand(&self, offset: u64, length: usize) -> bool {
        let last = offset.saturating_add(length.saturating_sub(1) as u64);
        let has = |at| matches!(self.read_now(at, &mut [0]), Some(Ok(_)));
        self.open.as_ref().is_some_and(|open| open.in_memory) || (has(offset) && has(last))
    }

    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Option<Result<usize, StoreError>> {
        let open = self.open.as_ref()?;
        let read = match open.in_memory {
            true => fill(buffer, offset, |rest, at| open.file.read_at(rest, at)),
            // from the page cache, if the file system can tell
            false => fill(buffer, offset, |rest, at| {
                let mut rest = [IoSliceMut::new(rest)];
                Ok(rustix::io::preadv2(&open.file, &mut rest, at, ReadWriteFlags::NOWAIT)?)
            }),
        };
        match read {
            Err(e)
                if matches!(
                    Errno::from_io_error(&e),
                    Some(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS)
                ) =>
            {
                None
            }
            read => Some(read.at("read", &self.path)),
        }
    }

    async fn extent(&self, offset: u64) -> Result<Extent, StoreError> {
        let path = self.path.clone();
        self.run(move |file| extent(file, offset).at("seek", &path)).await
    }

    fn as_file(&self) -> Option<&File> {
        self.open.as_ref().map(|open| &open.file)
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
        let path = self.path.clone();
        self.run(move |file| {
            let mut total = 0_usize;
            for piece in buffer.chunks_mut(PIECE) {
                let offset = offset.saturating_add(total as u64);
                let n = fill(piece, offset, |rest, at| file.read_at(rest, at)).at("read", &path)?;
                watch.see(piece.get(..n).unwrap_or_default());
                total = total.saturating_add(n);
                if n < piece.len() {
                    break;
                }
            }
            buffer.truncate(total);
            Ok(buffer)
        })
        .await
    }
}

/// Reads from `offset` on until the buffer is full or the file ends; `read` gets the rest of the
/// buffer and its offset.
fn fill(
    buffer: &mut [u8],
    offset: u64,
    read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut n = 0;
    while let Some(rest) = buffer.get_mut(n..).filter(|rest| !rest.is_empty()) {
        match read(rest, offset.saturating_add(n as u64)) {
            Ok(0) => break,
            Ok(more) => n = n.saturating_add(more),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// Finds the data or the hole at `offset` by lseek(2). No other call uses the position that this
/// moves.
fn extent(file: &File, offset: u64) -> rustix::io::Result<Extent> {
    let end = u64::MAX;
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) if data > offset => Ok(Extent::Hole { end: data }),
        Ok(_) => match rustix::fs::seek(file, SeekFrom::Hole(offset)) {
            Ok(end) => Ok(Extent::Data { end }),
            // it has become shorter meanwhile
            Err(Errno::NXIO) => Ok(Extent::Data { end }),
            Err(e) => Err(e),
        },
        // no data up to its end
        Err(Errno::NXIO) => Ok(Extent::Hole { end }),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Extent::Data { end }),
        Err(e) => Err(e),
    }
}

/// Reads a small file completely. It must not change meanwhile, and must have as many bytes as its
/// size.
pub(super) fn read_whole(
    tree: &Tree,
    path: &RemotePath,
    most: usize,
) -> Result<WholeFile, StoreError> {
    let (file, before) = open_file(tree, path)?;
    let changed = || StoreError::new(ErrorKind::SourceChanged, path);
    let size = usize::try_from(before.st_size)
        .ok()
        .filter(|s| *s <= most)
        .ok_or_else(changed)?;
    // not filled with zeros first; one spare byte shows whether the file has more than its size
    let mut bytes = Vec::with_capacity(size.saturating_add(1));
    while bytes.len() <= size {
        let (end, room) = (bytes.len(), bytes.capacity().saturating_sub(bytes.len()));
        let n = retry(|| rustix::io::pread(&file, spare_capacity(&mut bytes), end as u64))
            .at("read", path)?;
        if n == 0 || (n < room && bytes.len() == size) {
            break;
        }
    }
    let after = rustix::fs::fstat(&file).at("stat", path)?;
    let now = version(&after);
    if bytes.len() != size || now != version(&before) {
        return Err(changed());
    }
    Ok(WholeFile {
        version: now,
        bytes,
    })
}
