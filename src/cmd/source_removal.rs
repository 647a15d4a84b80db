//! `--remove-source-files`: what has arrived is removed at the source, once the transfer has ended.

use super::failure::Failure;
use super::transfer::TransferArgs;
use crate::net::NetError;
use crate::net::deletion::place::Place;
use crate::net::deletion::plan::Plan;
use crate::net::transfer::options::{OnSettled, Options};
use crate::net::transfer::report::{Event, Reporter, shown};
use crate::net::wire::Code;
use crate::store::{Entry, FollowedLinks, RemotePath, Removal, Store, StoreError};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A source from which files are removed.
#[derive(Clone)]
pub struct SourceEnd {
    /// Where it is.
    pub place: Place,
    /// The source there.
    pub top: RemotePath,
    /// What the user calls it.
    pub label: Vec<u8>,
    /// Where it went, if that is on this machine too: what is one file with its source stays.
    pub destination: Option<(Arc<dyn Store>, RemotePath)>,
}

/// Where each source is; none for one that has no files, or cannot be sent.
pub type SourceEnds = Vec<Option<SourceEnd>>;

/// What has arrived, and is to be removed at its source.
#[derive(Clone, Default)]
pub struct SourceRemoval {
    plans: Arc<Mutex<RemovalPlans>>,
}

#[derive(Default)]
struct RemovalPlans {
    /// By the index of the source.
    by_source: BTreeMap<usize, Plan>,
    /// Why one could not be written down.
    failed: Option<NetError>,
    /// Something may have been removed: nothing is to be sent or compared any more.
    has_begun: bool,
}

impl SourceRemoval {
    /// Has a transfer report what arrives, if it is to be removed: not in a dry run.
    ///
    /// # Errors
    /// A usage failure, where the option cannot be used with another one.
    pub fn of(args: &TransferArgs, options: &mut Options) -> Result<Option<Self>, Failure> {
        if !args.remove_source_files {
            return Ok(None);
        }
        if options.view.links != FollowedLinks::None {
            return Err(not_a_link().hint("leave out -L and -k"));
        }
        if options.dry_run {
            return Ok(None);
        }
        let removal = SourceRemoval::default();
        let plans = removal.plans.clone();
        options.on_settled = Some(OnSettled(Arc::new(move |source, entry| {
            let mut plans = plans.lock();
            let added = plans.by_source.entry(source).or_default().add(&entry);
            if let Err(e) = added {
                plans.failed = Some(e);
            }
        })));
        Ok(Some(removal))
    }

    /// True once something may have been removed. Only [`SourceRemoval::run`] is called then.
    pub fn has_begun(&self) -> bool {
        self.plans.lock().has_begun
    }

    /// The transfer begins, or begins again: what an attempt before has reported is reported again.
    pub fn begin_attempt(&self) {
        *self.plans.lock() = RemovalPlans::default();
    }

    /// Removes what has arrived, if it is still what was sent. What cannot be removed is reported.
    /// It may be called again where that failed.
    ///
    /// # Errors
    /// The session's.
    pub async fn run(
        &self,
        sources: &[Option<SourceEnd>],
        reporter: &Reporter,
    ) -> Result<(), NetError> {
        let mut plans = std::mem::take(&mut *self.plans.lock());
        if let Some(error) = plans.failed {
            return Err(error);
        }
        let removed = remove_all(&mut plans.by_source, sources, reporter).await;
        plans.has_begun = true;
        *self.plans.lock() = plans;
        removed
    }
}

/// The refusal of a source that is a symlink, or has some that are followed.
pub fn not_a_link() -> Failure {
    Failure::usage("--remove-source-files: a symlink that is followed is not the file itself")
}

async fn remove_all(
    plans: &mut BTreeMap<usize, Plan>,
    sources: &[Option<SourceEnd>],
    reporter: &Reporter,
) -> Result<(), NetError> {
    for (index, plan) in plans {
        let Some(Some(source)) = sources.get(*index) else {
            continue;
        };
        plan.restart()?;
        loop {
            let batch = plan.next_batch()?;
            if batch.is_empty() {
                break;
            }
            source.remove(batch, reporter).await?;
        }
    }
    Ok(())
}

impl SourceEnd {
    /// Removes entries, whose paths are beneath the source.
    async fn remove(&self, mut batch: Vec<Removal>, reporter: &Reporter) -> Result<(), NetError> {
        for path in self.same_at_destination(&mut batch).await {
            let text = "it is the destination itself, and stays".into();
            self.failed(&path, Code::CONFLICT, text, reporter).await;
        }
        let beneath: Vec<RemotePath> = batch.iter().map(|entry| entry.path.clone()).collect();
        let removals = batch.into_iter().filter_map(|entry| {
            let path = self.top.append(&entry.path).ok()?;
            Some(Removal { path, ..entry })
        });
        let removed = self.place.remove(removals.collect(), None).await?;
        for (path, removed) in beneath.iter().zip(removed) {
            let Err(error) = removed else {
                continue;
            };
            let (code, text) = match error.to_wire() {
                (code @ Code::VERSION_CHANGED, _) => {
                    (code, "it changed after it was sent, and stays at the source".into())
                }
                (code, text) => (code, format!("it stays at the source: {text}")),
            };
            self.failed(path, code, text, reporter).await;
        }
        Ok(())
    }

    /// Takes out those that are one file with what is at the destination.
    async fn same_at_destination(&self, batch: &mut Vec<Removal>) -> Vec<RemotePath> {
        let (Some((store, top)), Place::Here(source)) = (&self.destination, &self.place) else {
            return Vec::new();
        };
        let paths = |top: &RemotePath| {
            let paths = batch.iter().map(|entry| top.append(&entry.path).unwrap_or_default());
            paths.collect::<Vec<_>>()
        };
        let (here, there) = (paths(&self.top), paths(top));
        let (here, there) = (source.stat_many(here).await, store.stat_many(there).await);
        let inode = |found: Result<Entry, StoreError>| found.ok().and_then(|found| found.inode());
        let pairs = here.into_iter().map(inode).zip(there.into_iter().map(inode));
        let mut same = pairs.map(|(here, there)| here.is_some() && here == there);
        let mut staying = Vec::new();
        batch.retain(|entry| {
            let stays = same.next().unwrap_or_default();
            staying.extend(stays.then(|| entry.path.clone()));
            !stays
        });
        staying
    }

    async fn failed(&self, path: &RemotePath, code: Code, text: String, reporter: &Reporter) {
        let path = shown(&self.label, path.as_bytes());
        reporter.report(Event::Failed { path, code, text }).await;
    }
}
