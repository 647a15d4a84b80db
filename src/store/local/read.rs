//! Reading: open files by offset, and small files whole.

use super::blocking::blocking_for;
use super::fd_budget::HANDLES;
use super::fs_type::is_in_memory;
use super::inode::{entry, version};
use super::sys::WARY;
use super::sys::linux::{open_in, retry};
use super::tree::Tree;
use crate::store::error::At;
use crate::store::shares::Share;
use crate::store::{Entry, ErrorKind, Extent, FileSource, RemotePath, StoreError, Watch, WholeFile};
use async_trait::async_trait;
use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, OFlags, SeekFrom, Stat};
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes that are read, and then looked at, at once: few enough to stay in a cache near the processor.
const PIECE: usize = 128 << 10;

/// A file of a [`super::LocalStore`] that is read. Cheap to clone.
#[derive(Clone)]
pub(super) struct LocalSource {
    tree: Arc<Tree>,
    path: RemotePath,
    /// `None` where its owner has no share of open files left: then it is opened for each call. Whether it is still the
    /// same file tells its version, which is looked at when all of it has been read.
    kept: Option<Arc<Kept>>,
}

/// A file that stays open between two calls.
struct Kept {
    file: File,
    /// Its file system has no device to wait for.
    in_memory: bool,
    _open: Share,
}

/// Opens a regular file, and says what it is.
pub(super) fn open(tree: &Arc<Tree>, path: &RemotePath) -> Result<LocalSource, StoreError> {
    let (file, _) = open_file(tree, path)?;
    let open = HANDLES.sources.try_take(tree.owner(), 1);
    let kept = open.map(|open| Kept {
        in_memory: is_in_memory(&file),
        file,
        _open: open,
    });
    Ok(LocalSource {
        tree: tree.clone(),
        path: path.clone(),
        kept: kept.map(Arc::new),
    })
}

/// A regular file and its stat. O_NONBLOCK: a FIFO that took its place must not make us wait for a writer.
fn open_file(tree: &Tree, path: &RemotePath) -> Result<(File, Stat), StoreError> {
    let (dir, name) = tree.parent(path)?;
    let file: File = open_in(&dir, name.as_bytes(), WARY | OFlags::RDONLY)
        .at("open", path)?
        .into();
    let stat = rustix::fs::fstat(&file).at("stat", path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((file, stat)),
        FileType::Directory => Err(StoreError::new(ErrorKind::IsADirectory, path)),
        _ => Err(StoreError::new(ErrorKind::BadKind, path)),
    }
}

impl LocalSource {
    /// Does something with the file, which is opened where it is not.
    fn with<T>(&self, work: impl FnOnce(&File) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match &self.kept {
            Some(kept) => work(&kept.file),
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

/// What an open file is.
fn stat(file: &File, path: &RemotePath) -> Result<Entry, StoreError> {
    let stat = rustix::fs::fstat(file).at("stat", path)?;
    Ok(entry(path.split().map(|(_, name)| name), &stat, None))
}

#[async_trait]
impl FileSource for LocalSource {
    async fn stat(&self) -> Result<Entry, StoreError> {
        match &self.kept {
            // does not wait
            Some(kept) => stat(&kept.file, &self.path),
            None => {
                let path = self.path.clone();
                self.run(move |file| stat(file, &path)).await
            }
        }
    }

    fn is_at_hand(&self, offset: u64, length: usize) -> bool {
        let last = offset.saturating_add(length.saturating_sub(1) as u64);
        let has = |at| matches!(self.read_now(at, &mut [0]), Some(Ok(_)));
        self.kept.as_ref().is_some_and(|kept| kept.in_memory) || (has(offset) && has(last))
    }

    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Option<Result<usize, StoreError>> {
        let kept = self.kept.as_ref()?;
        let read = match kept.in_memory {
            true => fill(buffer, offset, |rest, at| kept.file.read_at(rest, at)),
            // in the page cache, where the file system can tell
            false => fill(buffer, offset, |rest, at| {
                let mut rest = [IoSliceMut::new(rest)];
                Ok(rustix::io::preadv2(&kept.file, &mut rest, at, ReadWriteFlags::NOWAIT)?)
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

    fn error(&self, kind: ErrorKind) -> StoreError {
        StoreError::new(kind, &self.path)
    }

    async fn read_at(&self, offset: u64, mut buffer: Vec<u8>, watch: Arc<dyn Watch>) -> Result<Vec<u8>, StoreError> {
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

/// Reads from `offset` on until the buffer is full or the file ends; `read` is told where in the file.
fn fill(buffer: &mut [u8], offset: u64, read: impl Fn(&mut [u8], u64) -> io::Result<usize>) -> io::Result<usize> {
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

/// What is at `offset`, by lseek(2). Nothing else looks at the position that this moves.
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

/// Reads a small file in one go; it must not change meanwhile, and have as many bytes as its size says.
pub(super) fn read_whole(tree: &Tree, path: &RemotePath, most: usize) -> Result<WholeFile, StoreError> {
    let (file, before) = open_file(tree, path)?;
    let changed = || StoreError::new(ErrorKind::SourceChanged, path);
    let size = usize::try_from(before.st_size)
        .ok()
        .filter(|s| *s <= most)
        .ok_or_else(changed)?;
    // not filled with zeros before; one more than there should be tells whether there are more
    let mut bytes = Vec::with_capacity(size.saturating_add(1));
    while bytes.len() <= size {
        let (end, room) = (bytes.len(), bytes.capacity().saturating_sub(bytes.len()));
        let n = retry(|| rustix::io::pread(&file, spare_capacity(&mut bytes), end as u64)).at("read", path)?;
        if n == 0 || (n < room && bytes.len() == size) {
            break;
        }
    }
    let after = rustix::fs::fstat(&file).at("stat", path)?;
    let now = version(&after);
    if bytes.len() != size || now != version(&before) {
        return Err(changed());
    }
    Ok(WholeFile { version: now, bytes })
}
