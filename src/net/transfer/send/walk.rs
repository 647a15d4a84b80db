//! The walk: what there is to send, depth first, in bounded memory however large a tree or a
//! directory is.

use crate::chunk::buffer::BufferPool;
use crate::chunk::hash::hash_file;
use crate::net::transfer::MAX_BATCH;
use crate::net::transfer::filter::Verdict;
use crate::net::transfer::metadata::MetadataOptions;
use crate::net::transfer::send::details::{Links, details, refused};
use crate::net::transfer::send::found::{Found, Walked};
use crate::net::transfer::send::levels::{DirState, Entered, Levels, Listed, Step, join};
use crate::net::transfer::send::overlap::{may_overlap, refusals};
use crate::net::transfer::send::select::{Selected, Selection};
use crate::net::transfer::send::source::{Origin, TransferSource, is_missized};
use crate::store::{Entry, Kind, RemotePath, Store, StoreError, StoreExt};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Bytes of messages that go out in one batch.
const BATCH_BYTES: usize = 128 << 10;

/// Walks all sources and sends what it finds in batches. Stops when the sender has gone.
pub struct Walk {
    sources: Arc<Vec<TransferSource>>,
    options: WalkOptions,
    number: u64,
    links: Links,
    batch: Vec<Walked>,
    /// About how many bytes the batch will be as messages.
    batch_bytes: usize,
    out: mpsc::Sender<Vec<Walked>>,
}

/// What a walk finds, and how.
pub struct WalkOptions {
    /// Directories are walked, too.
    pub recursive: bool,
    /// Every file is read and hashed on the way, into these buffers.
    pub hash: Option<BufferPool>,
    /// Which entries are found.
    pub selection: Selection,
    /// What is preserved of them.
    pub metadata: MetadataOptions,
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
    /// A walk.
    pub fn new(
        sources: Arc<Vec<TransferSource>>,
        options: WalkOptions,
        out: mpsc::Sender<Vec<Walked>>,
    ) -> Walk {
        Walk {
            links: Links::new(options.metadata.hard_links),
            sources,
            options,
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
            match &source.origin {
                Origin::Tree { store, path } => self.walk_source(index, &**store, path).await?,
                Origin::Missing(e) => self.failed(index, &RemotePath::root(), e.clone()).await?,
                Origin::Stream(_) => {
                    let number = self.next_number();
                    self.push(Walked::Stream {
                        number,
                        source: index,
                    })
                    .await?;
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
        if self.batch.len() >= MAX_BATCH || self.batch_bytes >= BATCH_BYTES {
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

    async fn failed(
        &mut self,
        source: usize,
        path: &RemotePath,
        error: StoreError,
    ) -> Result<(), Gone> {
        let path = path.clone();
        self.push(Walked::Failed {
            source,
            path,
            error,
        })
        .await
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
        let options = &self.options;
        if let Some(kind) = refused(entry.kind, options.recursive, &options.metadata) {
            self.failed(source, &path, StoreError::new(kind, &path)).await?;
            return Ok(None);
        }
        let (hash, sized) = match (&self.options.hash, entry.kind) {
            (Some(pool), Kind::File) => match hash_file(of.store, &path, pool).await {
                // what is offered is what was hashed
                Ok((hashed, hash)) => {
                    entry = hashed;
                    (Some(hash), true)
                }
                Err(e) if is_missized(of.store, &path, &entry, &e).await => (None, false),
                Err(e) => return self.failed(source, &path, e).await.map(|()| None),
            },
            (None, Kind::File) if entry.size == 0 && !of.sized => {
                (None, !has_bytes(of.store, &path).await)
            }
            _ => (None, true),
        };
        let mut details = match details(of.store, &path, &self.options.metadata).await {
            Ok(details) => details,
            Err(e) => return self.failed(source, &path, e).await.map(|()| None),
        };
        let number = self.next_number();
        details.link = self.links.find((number, source), &self.sources, (&path, &entry));
        self.push(Walked::Entry(Box::new(Found {
            details,
            number,
            parent,
            source,
            path,
            entry,
            hash,
            sized,
        })))
        .await?;
        Ok(Some(number))
    }

    async fn walk_source(
        &mut self,
        source: usize,
        store: &dyn Store,
        top: &RemotePath,
    ) -> Result<(), Gone> {
        let entry = match store.stat(top).await {
            Ok(entry) => entry,
            Err(e) => return self.failed(source, top, e).await,
        };
        let kind = entry.kind;
        let Some(source_of) = self.sources.get(source) else {
            return Ok(());
        };
        let place = source_of.place_of(top);
        let within = match self.options.selection.judge(&place, &entry, None) {
            Verdict::Take(_) => None,
            Verdict::Descend(rule) => Some(rule),
            Verdict::Skip => return Ok(()),
        };
        let overlaps = may_overlap(&self.sources, source);
        if overlaps
            && let Some(Some(e)) =
                refusals(&self.sources, source, &[(top.clone(), kind)]).await.pop()
        {
            return self.failed(source, top, e).await;
        }
        let of = Of {
            source,
            store,
            overlaps,
            sized: true,
        };
        // a directory whose contents go into the destination is that
        let may_be_pruned = self.options.selection.prunes() && !place.is_empty();
        let state = match kind == Kind::Dir && self.options.recursive {
            true if within.is_some() || may_be_pruned => DirState::Pending(Box::new(entry)),
            _ => match self.entry(of, 0, top.clone(), entry).await? {
                Some(number) if kind == Kind::Dir => DirState::Offered(number),
                _ => return Ok(()),
            },
        };
        let page = self.list(store, vec![top.clone()], Levels::default().limit()).await?.pop();
        let unlisted = || Err(StoreError::because("it was not listed", top));
        let entered = Entered {
            state,
            path: top.clone(),
            within,
            page: page.unwrap_or_else(unlisted),
        };
        self.walk_dir(of, entered).await
    }

    /// Walks everything beneath a directory.
    async fn walk_dir(&mut self, of: Of<'_>, top: Entered) -> Result<(), Gone> {
        let (source, store) = (of.source, of.store);
        let mut levels = Levels::default();
        levels.enter(top);
        while let Some(step) = levels.next() {
            match step {
                Step::List(paths) => levels.listed(self.list(store, paths, levels.limit()).await?),
                Step::Enter { path: Err(e), .. } => self.failed(source, &e.path.clone(), e).await?,
                Step::Enter {
                    path: Ok(path),
                    entry,
                    within,
                    page,
                } => {
                    if let Some(state) = self.enter(of, &mut levels, (&path, entry), within).await?
                    {
                        levels.enter(Entered {
                            state,
                            path,
                            within,
                            page,
                        });
                    }
                }
                Step::Offer(dir, page) => self.page(of, &mut levels, dir, page).await?,
                Step::Read(rest) => {
                    self.flush_if_waited_for().await?;
                    levels.next_page(rest.next_page(levels.limit()).await);
                }
                Step::Close(Some(number)) => self.push(Walked::Close { number }).await?,
                // nothing in it was sent
                Step::Close(None) => {}
            }
        }
        Ok(())
    }

    /// Offers a directory before the walk goes down into it, unless that waits for what is in it.
    async fn enter(
        &mut self,
        of: Of<'_>,
        levels: &mut Levels,
        (path, entry): (&RemotePath, Entry),
        within: Option<usize>,
    ) -> Result<Option<DirState>, Gone> {
        if within.is_some() || self.options.selection.prunes() {
            return Ok(Some(DirState::Pending(Box::new(entry))));
        }
        let Some(parent) = self.parent(of, levels).await? else {
            return Ok(None);
        };
        let number = self.entry(of, parent, path.clone(), entry).await?;
        Ok(number.map(DirState::Offered))
    }

    /// The number of the innermost directory, which is offered if it was not, with those above it.
    async fn parent(&mut self, of: Of<'_>, levels: &mut Levels) -> Result<Option<u64>, Gone> {
        while let Some(dir) = levels.pending() {
            let (path, entry) = (dir.path.clone(), dir.entry.clone());
            match self.entry(of, dir.parent, path, entry).await? {
                Some(number) => levels.offered(&dir, number),
                None => return Ok(None),
            }
        }
        Ok(levels.number())
    }

    /// The first pages of directories: in a tree of small ones, asking for each by itself costs
    /// more than reading it.
    async fn list(
        &mut self,
        store: &dyn Store,
        paths: Vec<RemotePath>,
        limit: usize,
    ) -> Result<Vec<Listed>, Gone> {
        self.flush_if_waited_for().await?;
        Ok(store.list_whole(paths, limit).await)
    }

    /// Offers the entries of a page; directories wait for their turn.
    async fn page(
        &mut self,
        of: Of<'_>,
        levels: &mut Levels,
        dir: RemotePath,
        page: Listed,
    ) -> Result<(), Gone> {
        let source = of.source;
        let page = match page {
            Ok(page) => page,
            Err(e) => return self.failed(source, &dir, e).await,
        };
        let of = Of {
            sized: page.sized,
            ..of
        };
        let mut entries = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            match join(&dir, entry.name.as_ref()) {
                Ok(path) => entries.push(((path, entry), None)),
                Err(e) => self.failed(source, &dir, e).await?,
            }
        }
        if let Some(source) = self.sources.get(of.source) {
            self.options.selection.select(source, levels.within(), &mut entries);
        }
        let entries = self.without_taken(of, entries).await?;
        for ((path, entry), within) in entries {
            match entry.kind {
                Kind::Dir => levels.add(entry, within),
                _ => {
                    if let Some(parent) = self.parent(of, levels).await? {
                        self.entry(of, parent, path, entry).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The entries of a page that no earlier source has in their places.
    async fn without_taken(
        &mut self,
        of: Of<'_>,
        mut entries: Vec<Selected>,
    ) -> Result<Vec<Selected>, Gone> {
        if !of.overlaps {
            return Ok(entries);
        }
        let asked = entries.iter().map(|((path, entry), _)| (path.clone(), entry.kind));
        let asked: Vec<_> = asked.collect();
        let refused = refusals(&self.sources, of.source, &asked).await;
        let mut is_taken = refused.iter().map(Option::is_some);
        entries.retain(|_| !is_taken.next().unwrap_or_default());
        for e in refused.into_iter().flatten() {
            self.failed(of.source, &e.path.clone(), e).await?;
        }
        Ok(entries)
    }

    /// What has been found goes out before more is read, however little it is; unless what went out
    /// before has not been taken yet.
    async fn flush_if_waited_for(&mut self) -> Result<(), Gone> {
        match self.out.capacity() == self.out.max_capacity() {
            true => self.flush().await,
            false => Ok(()),
        }
    }
}

/// False also where it cannot be read: that fails when it is wanted.
async fn has_bytes(store: &dyn Store, path: &RemotePath) -> bool {
    let Ok(source) = store.open(path).await else {
        return false;
    };
    let read = source.read_at(0, vec![0; 1], Arc::new(())).await;
    read.is_ok_and(|bytes| !bytes.is_empty())
}
