//! The walk: what there is to send, depth first, in bounded memory however large a tree or a
//! directory is.

use crate::chunk::buffer::BufferPool;
use crate::net::transfer::exclusion::Exclusion;
use crate::net::transfer::filter::ignore_files::Ignored;
use crate::net::transfer::options::Options;
use crate::net::transfer::send::batches::{Batches, Gone};
use crate::net::transfer::send::chosen::{ChosenSource, Missing};
use crate::net::transfer::send::describe::{DescribeOptions, Described, describe};
use crate::net::transfer::send::details::Links;
use crate::net::transfer::send::found::{Found, Walked};
use crate::net::transfer::send::levels::{Closed, DirState, Entered, Levels, Listed, Step};
use crate::net::transfer::send::overlap::{may_overlap, refusals};
use crate::net::transfer::send::select::{Choice, Selection};
use crate::net::transfer::send::source::{Origin, TransferSource};
use crate::net::transfer::view::View;
use crate::store::{Entry, Kind, RemotePath, Store, StoreError, StoreExt};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Walks all sources and sends what it finds in batches. Stops when the sender has gone.
pub struct Walk {
    pub(super) sources: Arc<Vec<TransferSource>>,
    pub(super) options: WalkOptions,
    links: Links,
    pub(super) found: Batches,
    /// Chosen paths that could not be found.
    missing: Missing,
}

/// What a walk finds, and how.
pub struct WalkOptions {
    /// Entries that are not sent are reported, too.
    explains: bool,
    /// Which entries are found.
    pub(super) selection: Selection,
    /// What is seen of the sources.
    pub(super) view: View,
    /// What is sent of them.
    described: DescribeOptions,
}

impl WalkOptions {
    /// What a transfer with these options finds. Where it compares contents, files are read into
    /// these buffers on the way.
    pub fn of(options: &Options, buffers: BufferPool) -> WalkOptions {
        WalkOptions {
            explains: options.explain,
            selection: Selection::of(options),
            view: options.view.clone(),
            described: DescribeOptions {
                recursive: options.recursive,
                hash: options.checksum.then_some(buffers),
                metadata: options.metadata.clone(),
                links: options.view.links,
            },
        }
    }
}

/// Where an entry comes from.
#[derive(Clone, Copy)]
pub(super) struct Of<'a> {
    pub(super) source: usize,
    pub(super) store: &'a dyn Store,
    /// An earlier source may have what goes to the same place.
    pub(super) overlaps: bool,
    /// False where the file system is not known to tell the true sizes of files.
    pub(super) sized: bool,
    /// Only some paths of it are sent.
    pub(super) chosen: Option<ChosenSource<'a>>,
}

impl Walk {
    /// A walk.
    pub fn new(
        sources: Arc<Vec<TransferSource>>,
        options: WalkOptions,
        out: mpsc::Sender<Vec<Walked>>,
    ) -> Walk {
        Walk {
            links: Links::new(options.described.metadata.hard_links),
            sources,
            missing: Missing::default(),
            found: Batches::new(out, options.explains),
            options,
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
                Origin::Tree { store, path } => self.walk_source(index, store, path).await?,
                Origin::Missing(e) => {
                    self.found.failed(index, &RemotePath::root(), e.clone()).await?
                }
                Origin::Stream(_) => {
                    let number = self.found.next_number();
                    self.found
                        .push(Walked::Stream {
                            number,
                            source: index,
                        })
                        .await?;
                }
            }
        }
        self.found.push(Walked::End).await?;
        self.found.flush().await
    }

    /// Gives the entry its number; none where it is not offered.
    pub(super) async fn entry(
        &mut self,
        of: Of<'_>,
        parent: u64,
        path: RemotePath,
        entry: Entry,
    ) -> Result<Option<u64>, Gone> {
        let source = of.source;
        let Described {
            entry,
            hash,
            sized,
            mut details,
        } = match describe((of.store, of.sized), &path, entry, &self.options.described).await {
            Ok(described) => described,
            Err(e) => return self.found.failed(source, &path, e).await.map(|()| None),
        };
        let number = self.found.next_number();
        details.link = self.links.find((number, source), &self.sources, (&path, &entry));
        self.found
            .push(Walked::Entry(Box::new(Found {
                details,
                number,
                parent,
                is_way: parent == 0 && of.chosen.is_some_and(|chosen| chosen.chosen.is_way()),
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
        store: &Arc<dyn Store>,
        top: &RemotePath,
    ) -> Result<(), Gone> {
        let entry = match store.stat(top).await {
            Ok(entry) => entry,
            Err(e) => return self.found.failed(source, top, e).await,
        };
        let (kind, inode) = (entry.kind, entry.inode());
        let device = self.options.view.device_of(&entry);
        let (sources, missing) = (self.sources.clone(), self.missing.clone());
        let Some(source_of) = sources.get(source) else {
            return Ok(());
        };
        let place = source_of.place_of(top);
        let Some(within) = self.choose_top(source, top, (&place, &entry)).await? else {
            return Ok(());
        };
        let of = Of {
            source,
            store: &**store,
            overlaps: may_overlap(&self.sources, source),
            sized: true,
            chosen: source_of.chosen.as_ref().map(|chosen| ChosenSource {
                store,
                top,
                chosen,
                missing: &missing,
            }),
        };
        // a directory whose contents go into the destination is that
        let may_be_pruned = self.options.selection.prunes() && !place.is_empty();
        let state = match kind == Kind::Dir && self.options.described.recursive {
            true if within.is_some() || may_be_pruned => DirState::Pending(Box::new(entry)),
            _ => match self.entry(of, 0, top.clone(), entry).await? {
                Some(number) if kind == Kind::Dir => DirState::Offered(number),
                _ => return Ok(()),
            },
        };
        let Some(ignored) = self.ignored(of, top, &Ignored::none()).await? else {
            return match state {
                DirState::Offered(number) => self.found.push(Walked::Close { number }).await,
                DirState::Pending(_) => Ok(()),
            };
        };
        let page = self.list(of, vec![top.clone()], Levels::default().limit()).await?.pop();
        let unlisted = || Err(StoreError::because("it was not listed", top));
        let entered = Entered {
            state,
            inode,
            device,
            ignored,
            path: top.clone(),
            within,
            page: page.unwrap_or_else(unlisted),
        };
        self.walk_dir(of, entered).await
    }

    /// The rule that excludes a source, if something in it may be included. The outer `None`: it is
    /// not sent.
    async fn choose_top(
        &mut self,
        source: usize,
        top: &RemotePath,
        (place, entry): (&[u8], &Entry),
    ) -> Result<Option<Option<usize>>, Gone> {
        let none = Ignored::none();
        let within = match self.options.selection.choose(place, (top, entry), None, &none) {
            Choice::Take => None,
            Choice::Descend(rule) => Some(rule),
            Choice::Leave(why) => {
                self.found.excluded(source, top, why).await?;
                return Ok(None);
            }
        };
        if may_overlap(&self.sources, source)
            && let Some(Some(e)) =
                refusals(&self.sources, source, &[(top.clone(), entry.kind)]).await.pop()
        {
            self.found.failed(source, top, e).await?;
            return Ok(None);
        }
        Ok(Some(within))
    }

    /// Walks everything beneath a directory.
    async fn walk_dir(&mut self, of: Of<'_>, top: Entered) -> Result<(), Gone> {
        let source = of.source;
        let mut levels = Levels::default();
        levels.enter(top);
        while let Some(step) = levels.next() {
            match step {
                Step::List(paths) => levels.listed(self.list(of, paths, levels.limit()).await?),
                Step::Enter { path: Err(e), .. } => {
                    self.found.failed(source, &e.path.clone(), e).await?
                }
                Step::Enter {
                    path: Ok(path),
                    entry,
                    ..
                } if levels.contains(&entry) => {
                    let e = StoreError::because("it leads to a directory above itself", &path);
                    self.found.failed(source, &path, e).await?;
                }
                Step::Enter {
                    path: Ok(path),
                    entry,
                    within,
                    page,
                } => {
                    let (inode, device) =
                        (entry.inode(), self.device_in(of, levels.device(), &path, &entry));
                    let ignored = self.ignored(of, &path, levels.ignored()).await?;
                    if let Some(ignored) = ignored
                        && let Some(state) =
                            self.enter(of, &mut levels, (&path, entry), within).await?
                    {
                        levels.enter(Entered {
                            state,
                            inode,
                            device,
                            ignored,
                            path,
                            within,
                            page,
                        });
                    }
                }
                Step::Offer(dir, page) => self.page(of, &mut levels, dir, page).await?,
                Step::Read(rest) => {
                    self.found.flush_if_waited_for().await?;
                    levels.next_page(rest.next_page(levels.limit()).await);
                    self.report_missing(source).await?;
                }
                Step::Close(Closed::Offered(number)) => {
                    self.found.push(Walked::Close { number }).await?;
                }
                // nothing in it was sent
                Step::Close(Closed::Pending(path, within)) => {
                    let why = within.map_or(Exclusion::Empty, Exclusion::Rule);
                    self.found.excluded(source, &path, why).await?;
                }
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

    /// The ignore files of a directory, and those above it. `None` where they cannot be read, which
    /// is reported: nothing in it is sent then.
    async fn ignored(
        &mut self,
        of: Of<'_>,
        dir: &RemotePath,
        above: &Ignored,
    ) -> Result<Option<Ignored>, Gone> {
        match above.enter(of.store, dir, self.options.selection.ignore_files()).await {
            Ok(ignored) => Ok(Some(ignored)),
            Err(e) => self.found.failed(of.source, &e.path.clone(), e).await.map(|()| None),
        }
    }

    /// The number of the innermost directory, which is offered if it was not, with those above it.
    pub(super) async fn parent(
        &mut self,
        of: Of<'_>,
        levels: &mut Levels,
    ) -> Result<Option<u64>, Gone> {
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
        of: Of<'_>,
        paths: Vec<RemotePath>,
        limit: usize,
    ) -> Result<Vec<Listed>, Gone> {
        self.found.flush_if_waited_for().await?;
        let Some(chosen) = of.chosen else {
            return Ok(of.store.list_whole(paths, limit).await);
        };
        let listed = chosen.list(paths, limit).await;
        self.report_missing(of.source).await?;
        Ok(listed)
    }

    /// Reports chosen paths that could not be found.
    async fn report_missing(&mut self, source: usize) -> Result<(), Gone> {
        let missing = std::mem::take(&mut *self.missing.lock());
        for (path, e) in missing {
            self.found.failed(source, &path, e).await?;
        }
        Ok(())
    }
}
