//! `--remove-source-files`: what has arrived is removed at the source, once the transfer has ended.

use super::failure::Failure;
use crate::net::NetError;
use crate::net::deletion::place::Place;
use crate::net::deletion::plan::Plan;
use crate::net::transfer::options::{OnSettled, Options};
use crate::net::transfer::report::{Event, Reporter, shown};
use crate::net::wire::Code;
use crate::store::{FollowedLinks, RemotePath, Removal};
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
}

/// What has arrived, and is to be removed at its source.
#[derive(Clone, Default)]
pub struct SourceRemoval {
    settled: Arc<Mutex<RemovalPlans>>,
}

#[derive(Default)]
struct RemovalPlans {
    /// By the index of the source.
    plans: BTreeMap<usize, Plan>,
    /// Why one could not be written down.
    failed: Option<NetError>,
}

impl SourceRemoval {
    /// Has a transfer report what arrives.
    ///
    /// # Errors
    /// A usage failure, where the option cannot be used with another one.
    pub fn start(options: &mut Options) -> Result<SourceRemoval, Failure> {
        if options.view.links != FollowedLinks::None {
            let why = "--remove-source-files: a symlink that is followed is not the file itself";
            return Err(Failure::usage(why).hint("leave out -L and -k"));
        }
        let removal = SourceRemoval::default();
        let settled = removal.settled.clone();
        options.on_settled = Some(OnSettled(Arc::new(move |source, entry| {
            let mut settled = settled.lock();
            let plan = settled.plans.entry(source).or_default();
            let added = plan.add(&entry);
            if let Err(e) = added {
                settled.failed = Some(e);
            }
        })));
        Ok(removal)
    }

    /// Removes what has arrived, if it is still what was sent. What cannot be removed is reported.
    ///
    /// # Errors
    /// The session's.
    pub async fn run(&self, sources: &[SourceEnd], reporter: &Reporter) -> Result<(), NetError> {
        let RemovalPlans { plans, failed } = std::mem::take(&mut *self.settled.lock());
        if let Some(error) = failed {
            return Err(error);
        }
        for (index, mut plan) in plans {
            let Some(source) = sources.get(index) else {
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
}

impl SourceEnd {
    /// Removes entries, whose paths are beneath the source.
    async fn remove(&self, batch: Vec<Removal>, reporter: &Reporter) -> Result<(), NetError> {
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
            let path = shown(&self.label, path.as_bytes());
            let (code, text) = match error.to_wire() {
                (code @ Code::VERSION_CHANGED, _) => {
                    (code, "it changed after it was sent, and stays at the source".into())
                }
                (code, text) => (code, format!("it stays at the source: {text}")),
            };
            reporter.report(Event::Failed { path, code, text }).await;
        }
        Ok(())
    }
}
