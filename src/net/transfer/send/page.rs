//! What a walk does with a page of a directory: it offers what is selected of it.

use crate::net::transfer::exclusion::Exclusion;
use crate::net::transfer::send::batches::Gone;
use crate::net::transfer::send::found::Walked;
use crate::net::transfer::send::levels::{Levels, Listed, join};
use crate::net::transfer::send::overlap::refusals;
use crate::net::transfer::send::select::Selected;
use crate::net::transfer::send::walk::{Of, Walk};
use crate::store::{Entry, Kind, RemotePath};

impl Walk {
    /// Offers the entries of a page; directories wait for their turn.
    pub(super) async fn page(
        &mut self,
        of: Of<'_>,
        levels: &mut Levels,
        dir: RemotePath,
        page: Listed,
    ) -> Result<(), Gone> {
        let source = of.source;
        let page = match page {
            Ok(page) => page,
            Err(e) => return self.found.failed(source, &dir, e).await,
        };
        let of = Of {
            sized: page.sized,
            ..of
        };
        let mut entries = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            match join(&dir, entry.name.as_ref()) {
                Ok(path) => entries.push(((path, entry), None)),
                Err(e) => self.found.failed(source, &dir, e).await?,
            }
        }
        let excluded = match self.sources.get(of.source) {
            Some(source) => {
                // directories on the way to what is chosen are no part of what is sent
                let (selection, taken) = (&self.options.selection, |path: &RemotePath| {
                    of.chosen.is_some_and(|chosen| chosen.is_way(path))
                });
                selection.select((source, &taken), levels, &mut entries)
            }
            None => Vec::new(),
        };
        for (path, why) in excluded {
            self.found.excluded(source, &path, why).await?;
        }
        let entries = self.without_taken(of, entries).await?;
        for ((path, entry), within) in entries {
            let device = levels.device().filter(|_| !self.is_named(of, &path));
            let is_mount = device.is_some() && device != entry.file_system();
            match entry.kind {
                Kind::Dir if is_mount => self.mount(of, levels, path, entry).await?,
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

    /// Offers a directory in which another file system begins, and nothing in it.
    async fn mount(
        &mut self,
        of: Of<'_>,
        levels: &mut Levels,
        path: RemotePath,
        entry: Entry,
    ) -> Result<(), Gone> {
        if self.options.selection.prunes() {
            return self.found.excluded(of.source, &path, Exclusion::Empty).await;
        }
        self.found.excluded(of.source, &path, Exclusion::FileSystem).await?;
        if let Some(parent) = self.parent(of, levels).await?
            && let Some(number) = self.entry(of, parent, path, entry).await?
        {
            self.found.push(Walked::Close { number }).await?;
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
            self.found.failed(of.source, &e.path.clone(), e).await?;
        }
        Ok(entries)
    }

    /// The file system that the walk does not leave in a directory: that of the one above it, or
    /// its own where the user named it or the way leads through it.
    pub(super) fn device_in(
        &self,
        of: Of<'_>,
        above: Option<u64>,
        path: &RemotePath,
        entry: &Entry,
    ) -> Option<u64> {
        match self.is_named(of, path) {
            true => self.options.view.device_of(entry),
            false => above,
        }
    }

    /// True of an entry that the user chose, or that is on the way to one.
    pub(super) fn is_named(&self, of: Of<'_>, path: &RemotePath) -> bool {
        of.chosen.is_some_and(|chosen| {
            let beneath = path.beneath(chosen.top).unwrap_or_default();
            let beneath = beneath.as_bytes();
            chosen.chosen.is_chosen(beneath) || chosen.chosen.leads_on(beneath)
        })
    }
}
