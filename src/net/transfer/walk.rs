//! The walk: what there is to send, depth first, in bounded memory however large a tree or a directory is.

use super::overlap::{may_overlap, refusals};
use crate::chunk::buffer::BufferPool;
use crate::chunk::digest::Digest;
use crate::chunk::hash::hash_file;
use crate::store::{DirPage, DirStream, Entry, ErrorKind, Kind, Name, RemotePath, Store, StoreError};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

/// Entries of a directory that are held at once.
const PAGE: usize = 512;
/// Directories that are listed together, as long as all of them have no more entries than a page.
const TOGETHER: usize = 32;
/// Bytes of messages that go out in one batch.
const BATCH_BYTES: usize = 128 << 10;

/// Something to send.
pub struct Source {
    /// What the user called it, for messages.
    pub label: Vec<u8>,
    /// What it is.
    pub what: What,
    /// Where it goes at the destination: the root where its contents go into the destination itself.
    /// `None` where that is not known.
    pub place: Option<RemotePath>,
}

/// Where the bytes of a source come from.
pub enum What {
    /// An entry of a store, and everything beneath it. The store follows no symlinks.
    Tree {
        /// The store.
        store: Arc<dyn Store>,
        /// The entry; the root for a whole store.
        path: RemotePath,
    },
    /// Nothing: it could not be found.
    Missing(StoreError),
    /// A stream of unknown length. Taken out when it is read.
    Stream(Mutex<Option<Box<dyn AsyncRead + Send + Unpin>>>),
}

impl Source {
    /// The store, the entry in there, and its place, of a tree whose place is known.
    pub(super) fn tree(&self) -> Option<(&Arc<dyn Store>, &RemotePath, &RemotePath)> {
        match (&self.what, &self.place) {
            (What::Tree { store, path }, Some(place)) => Some((store, path, place)),
            _ => None,
        }
    }

    /// The version of a source that is a directory.
    pub async fn identity(&self) -> Option<String> {
        match &self.what {
            What::Tree { store, path } => {
                let entry = store.stat(path).await.ok()?;
                (entry.kind == Kind::Dir).then(|| entry.version.to_string())
            }
            What::Stream(_) | What::Missing(_) => None,
        }
    }

    /// False for a stream that has been read from: it is gone.
    pub fn is_repeatable(&self) -> bool {
        match &self.what {
            What::Stream(stream) => stream.lock().unwrap_or_else(PoisonError::into_inner).is_some(),
            What::Tree { .. } | What::Missing(_) => true,
        }
    }
}

/// A step of the walk. `number`s count up from 1 over all sources.
pub enum Walked {
    /// An entry.
    Entry {
        /// Its number.
        number: u64,
        /// The number of the directory that it is in; 0 for a source itself.
        parent: u64,
        /// Index of the source.
        source: usize,
        /// Where it is in the source's store.
        path: RemotePath,
        /// What it is.
        entry: Entry,
        /// Its hash, where contents are to be compared.
        hash: Option<Digest>,
        /// False for a file whose size is not what its file system says.
        sized: bool,
    },
    /// The source itself is a stream.
    Stream {
        /// Its number.
        number: u64,
        /// Index of the source.
        source: usize,
    },
    /// Everything in this directory has been walked.
    Close {
        /// The directory's number.
        number: u64,
    },
    /// Something that cannot be sent.
    Failed {
        /// Index of the source.
        source: usize,
        /// Where.
        path: RemotePath,
        /// Why.
        error: StoreError,
    },
    /// That was all. A walk that ends without it has not seen everything.
    End,
}

impl Walked {
    /// About how many bytes it takes in a message: names and targets may be long.
    fn size(&self) -> usize {
        const REST: usize = 128;
        let text = match self {
            Walked::Entry { path, entry, .. } => path
                .as_bytes()
                .len()
                .saturating_add(entry.target.as_ref().map_or(0, Vec::len)),
            Walked::Failed { path, .. } => path.as_bytes().len(),
            Walked::Stream { .. } | Walked::Close { .. } | Walked::End => 0,
        };
        text.saturating_add(REST)
    }
}

/// A directory on the way down.
struct Level {
    number: u64,
    path: RemotePath,
    /// Directories of the current page that are still to be walked.
    subdirs: VecDeque<Subdir>,
    /// The current page, until its entries are offered.
    page: Option<Listed>,
    /// The entries behind the current page.
    rest: Option<Box<dyn DirStream>>,
}

/// A directory that will be walked.
struct Subdir {
    path: RemotePath,
    entry: Entry,
    /// Its first page, once it has been listed.
    page: Option<Listed>,
}

/// A page, or why there is none.
type Listed = Result<DirPage, StoreError>;

/// Walks all sources and sends what it finds in batches. Stops when nobody listens any more.
pub struct Walk {
    sources: Arc<Vec<Source>>,
    recursive: bool,
    hash: Option<BufferPool>,
    number: u64,
    batch: Vec<Walked>,
    /// About how many bytes the batch will be as messages.
    batch_bytes: usize,
    out: mpsc::Sender<Vec<Walked>>,
}

/// Where an entry comes from.
#[derive(Clone, Copy)]
struct Of<'a> {
    source: usize,
    store: &'a dyn Store,
    /// An earlier source may have what goes to the same place.
    overlaps: bool,
    /// False where the file system is not known to tell the true sizes of files.
    sized: bool,
}

/// The listener is gone.
struct Gone;

impl Walk {
    /// A walk; with `hash` every file is read and hashed on the way.
    pub fn new(
        sources: Arc<Vec<Source>>,
        recursive: bool,
        hash: Option<BufferPool>,
        out: mpsc::Sender<Vec<Walked>>,
    ) -> Walk {
        Walk {
            sources,
            recursive,
            hash,
            number: 0,
            batch: Vec::new(),
            batch_bytes: 0,
            out,
        }
    }

    /// Runs to the end.
    pub async fn run(mut self) {
        let _ = self.walk_all().await;
    }

    async fn walk_all(&mut self) -> Result<(), Gone> {
        let sources = self.sources.clone();
        for (index, source) in sources.iter().enumerate() {
            match &source.what {
                What::Tree { store, path } => self.walk_source(index, &**store, path).await?,
                What::Missing(e) => self.failed(index, &RemotePath::root(), e.clone()).await?,
                What::Stream(_) => {
                    let number = self.next_number();
                    self.push(Walked::Stream { number, source: index }).await?;
                }
            }
        }
        self.push(Walked::End).await?;
        self.flush().await
    }

    fn next_number(&mut self) -> u64 {
        self.number = self.number.saturating_add(1);
        self.number
    }

    async fn push(&mut self, step: Walked) -> Result<(), Gone> {
        self.batch_bytes = self.batch_bytes.saturating_add(step.size());
        self.batch.push(step);
        if self.batch.len() >= super::MAX_BATCH || self.batch_bytes >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch_bytes = 0;
        self.out.send(std::mem::take(&mut self.batch)).await.map_err(|_| Gone)
    }

    async fn failed(&mut self, source: usize, path: &RemotePath, error: StoreError) -> Result<(), Gone> {
        let path = path.clone();
        self.push(Walked::Failed { source, path, error }).await
    }

    /// Gives the entry its number; none where it is not offered.
    async fn entry(
        &mut self,
        of: Of<'_>,
        parent: u64,
        path: RemotePath,
        mut entry: Entry,
    ) -> Result<Option<u64>, Gone> {
        let source = of.source;
        let refused = match entry.kind {
            Kind::Other => Some(ErrorKind::BadKind),
            Kind::Dir if !self.recursive => Some(ErrorKind::IsADirectory),
            _ => None,
        };
        if let Some(kind) = refused {
            self.failed(source, &path, StoreError::new(kind, &path)).await?;
            return Ok(None);
        }
        let (hash, sized) = match (&self.hash, entry.kind) {
            (Some(pool), Kind::File) => match hash_file(of.store, &path, pool).await {
                // what is offered is what was hashed
                Ok((hashed, hash)) => {
                    entry = hashed;
                    (Some(hash), true)
                }
                Err(e) if is_missized(of.store, &path, &entry, &e).await => (None, false),
                Err(e) => {
                    self.failed(source, &path, e).await?;
                    return Ok(None);
                }
            },
            (None, Kind::File) if entry.size == 0 && !of.sized => (None, !has_bytes(of.store, &path).await),
            _ => (None, true),
        };
        let number = self.next_number();
        self.push(Walked::Entry {
            number,
            parent,
            source,
            path,
            entry,
            hash,
            sized,
        })
        .await?;
        Ok(Some(number))
    }

    async fn walk_source(&mut self, source: usize, store: &dyn Store, top: &RemotePath) -> Result<(), Gone> {
        let entry = match store.stat(top).await {
            Ok(entry) => entry,
            Err(e) => return self.failed(source, top, e).await,
        };
        let kind = entry.kind;
        let overlaps = may_overlap(&self.sources, source);
        if overlaps && let Some(Some(e)) = refusals(&self.sources, source, &[(top.clone(), kind)]).await.pop() {
            return self.failed(source, top, e).await;
        }
        let of = Of {
            source,
            store,
            overlaps,
            sized: true,
        };
        let number = self.entry(of, 0, top.clone(), entry).await?;
        let (Kind::Dir, Some(number)) = (kind, number) else {
            return Ok(());
        };
        self.flush_if_waited_for().await?;
        let page = store.list_whole(vec![top.clone()], PAGE).await.pop();
        let mut levels = vec![Level::new(number, top.clone(), page)];
        while let Some(level) = levels.last_mut() {
            if level.subdirs.front().is_some_and(|subdir| subdir.page.is_none()) {
                self.list_ahead(store, &mut level.subdirs).await?;
            }
            if let Some(subdir) = level.subdirs.pop_front() {
                let (parent, path) = (level.number, subdir.path);
                if let Some(number) = self.entry(of, parent, path.clone(), subdir.entry).await? {
                    levels.push(Level::new(number, path, subdir.page));
                }
            } else if let Some(page) = level.page.take() {
                self.page(of, level, page).await?;
            } else if let Some(rest) = level.rest.take() {
                self.flush_if_waited_for().await?;
                level.page = Some(rest.next_page(PAGE).await);
            } else {
                let number = level.number;
                levels.pop();
                self.push(Walked::Close { number }).await?;
            }
        }
        Ok(())
    }

    /// Lists the first of these directories, and some that come after it: in a tree of small directories, asking for each by
    /// itself costs more than reading it.
    async fn list_ahead(&mut self, store: &dyn Store, dirs: &mut VecDeque<Subdir>) -> Result<(), Gone> {
        self.flush_if_waited_for().await?;
        let paths = dirs.iter().take(TOGETHER).map(|dir| dir.path.clone()).collect();
        let pages = store.list_whole(paths, PAGE).await;
        for (dir, page) in dirs.iter_mut().zip(pages) {
            dir.page = Some(page);
        }
        Ok(())
    }

    /// Offers the entries of a page; directories wait for their turn.
    async fn page(&mut self, of: Of<'_>, level: &mut Level, page: Listed) -> Result<(), Gone> {
        let (source, dir) = (of.source, &level.path);
        let page = match page {
            Ok(page) => page,
            Err(e) => return self.failed(source, dir, e).await,
        };
        level.rest = page.rest;
        let of = Of {
            sized: page.sized,
            ..of
        };
        let mut entries = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            match join(dir, entry.name.as_ref()) {
                Ok(path) => entries.push((path, entry)),
                Err(e) => self.failed(source, dir, e).await?,
            }
        }
        for (path, entry) in self.without_taken(of, entries).await? {
            if entry.kind == Kind::Dir {
                let page = None;
                level.subdirs.push_back(Subdir { path, entry, page });
            } else {
                self.entry(of, level.number, path, entry).await?;
            }
        }
        Ok(())
    }

    /// The entries of a page that no earlier source has in their places.
    async fn without_taken(
        &mut self,
        of: Of<'_>,
        mut entries: Vec<(RemotePath, Entry)>,
    ) -> Result<Vec<(RemotePath, Entry)>, Gone> {
        if !of.overlaps {
            return Ok(entries);
        }
        let asked: Vec<_> = entries.iter().map(|(path, entry)| (path.clone(), entry.kind)).collect();
        let refused = refusals(&self.sources, of.source, &asked).await;
        let mut is_taken = refused.iter().map(Option::is_some);
        entries.retain(|_| !is_taken.next().unwrap_or_default());
        for e in refused.into_iter().flatten() {
            self.failed(of.source, &e.path.clone(), e).await?;
        }
        Ok(entries)
    }

    /// What has been found goes out before more is read, however little it is; unless what went out before has not been taken
    /// yet.
    async fn flush_if_waited_for(&mut self) -> Result<(), Gone> {
        match self.out.capacity() == self.out.max_capacity() {
            true => self.flush().await,
            false => Ok(()),
        }
    }
}

/// True where `error` came from a file that is what it was, and yet has not as many bytes as its
/// size says.
pub(super) async fn is_missized(store: &dyn Store, path: &RemotePath, entry: &Entry, error: &StoreError) -> bool {
    let same = |now: Entry| now.version == entry.version;
    error.kind == ErrorKind::SourceChanged && store.stat(path).await.is_ok_and(same)
}

/// False also where it cannot be read: that fails when it is wanted.
async fn has_bytes(store: &dyn Store, path: &RemotePath) -> bool {
    let Ok(source) = store.open(path).await else {
        return false;
    };
    let read = source.read_at(0, vec![0; 1], Arc::new(())).await;
    read.is_ok_and(|bytes| !bytes.is_empty())
}

fn join(dir: &RemotePath, name: Option<&Name>) -> Result<RemotePath, StoreError> {
    let Some(name) = name else {
        return Ok(dir.clone());
    };
    dir.join(name).map_err(|e| StoreError::new(ErrorKind::BadName(e), dir))
}

impl Level {
    fn new(number: u64, path: RemotePath, page: Option<Listed>) -> Level {
        let page = page.unwrap_or_else(|| Err(StoreError::because("it was not listed", &path)));
        Level {
            number,
            path,
            subdirs: VecDeque::new(),
            rest: None,
            page: Some(page),
        }
    }
}
