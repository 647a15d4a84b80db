//! `--delete`: what the destination has and no source has is deleted, last of all. The guard
//! prevents that where it looks like a mistake.

use super::allowing::allowing_command;
use super::deferred::transfers_of;
use super::deletion_args::{DeletionArgs, Guarded};
use super::filter::Excluded;
use super::output;
use super::prompt;
use super::units::size;
use crate::net::deletion::pair::{Pair, Replaced, Rules, is_empty};
use crate::net::deletion::place::Place;
use crate::net::deletion::plan::Plan;
use crate::net::deletion::search::{are_at_source, search};
use crate::net::deletion::trash::new_run;
use crate::net::error::NetError;
use crate::net::transfer::backup::BackupOptions;
use crate::net::transfer::options::Options;
use crate::net::transfer::report::{Counters, Event, Reporter, shown};
use crate::net::wire::Code;
use crate::store::{ErrorKind, Kind, RemotePath, Removal, StoreError};

/// The refusal of a deletion by a user who may only write.
pub fn not_for_writers() -> NetError {
    let text = "this user may only write: --delete would tell what is there".into();
    NetError::Refused {
        code: Code::DENIED,
        text,
    }
}

/// What is to be deleted, and where.
pub struct Deletion<'a> {
    /// The options.
    pub args: &'a DeletionArgs,
    /// The destination.
    pub destination: Place,
    /// What the user calls it.
    pub label: Vec<u8>,
    /// The directories that are to be the same at both ends.
    pub pairs: Vec<Pair>,
}

impl Deletion<'_> {
    /// Deletes what no source has, if that is wanted and the transfer has failed in no part. Then
    /// it transfers what had directories in its place.
    ///
    /// # Errors
    /// Why it could not be completed. What the guard prevents is reported, and no error.
    pub async fn run(
        mut self,
        options: &Options,
        reporter: &Reporter,
        transfer: impl AsyncFn(Options) -> Result<(), NetError>,
    ) -> Result<(), NetError> {
        if !self.args.is_wanted() {
            return Ok(());
        }
        let Some(plan) = self.run_plan(options, reporter).await? else {
            return Ok(());
        };
        let deferred = Counters::get(&reporter.counters.deferred);
        let stay = deferred.saturating_sub(u64::try_from(plan.in_the_way.len()).unwrap_or(0));
        if stay > 0 && !options.dry_run {
            let path = self.label.clone();
            let text = format!("{stay} directories stay that are in the way of other entries");
            let code = Code::IS_DIRECTORY;
            reporter.report(Event::Failed { path, code, text }).await;
        }
        if !options.dry_run {
            for options in transfers_of(options, &plan.in_the_way)? {
                transfer(options).await?;
            }
        }
        Ok(())
    }

    /// Deletes; returns the plan if nothing prevented that.
    async fn run_plan(
        &mut self,
        options: &Options,
        reporter: &Reporter,
    ) -> Result<Option<Plan>, NetError> {
        let failed = Counters::get(&reporter.counters.failed);
        if failed > 0 {
            let not_deleted = Event::NotDeleted {
                planned: None,
                reason: format!("{failed} entries could not be transferred"),
                command: None,
            };
            reporter.report(not_deleted).await;
            return Ok(None);
        }
        let (mut plan, mut empty) = (Plan::default(), None);
        for pair in &self.pairs {
            let before = plan.added;
            let rules = Rules {
                protected: &options.protected,
                // what is not sent is not there, where nothing else protects it
                sent: &options.filter,
                deletes_excluded: self.args.excluded() == Excluded::Deleted,
                view: &options.view,
                replaced: replaced_by(options),
            };
            search(pair, &self.destination, rules, &mut plan).await?;
            if plan.added > before && empty.is_none() && is_empty(pair).await? {
                empty = Some(pair.label.clone());
            }
        }
        plan.complete()?;
        if self.args.lifetime().is_some() && !options.dry_run {
            self.destination.expire().await?;
        }
        for (dir, error) in std::mem::take(&mut plan.unlisted) {
            self.failed(reporter, &dir, &error).await;
        }
        if plan.count() == 0 {
            return Ok(Some(plan));
        }
        if options.dry_run {
            self.report_plan(&mut plan, reporter).await?;
        }
        let guarded = self.args.guard(&plan, empty.as_deref());
        if let Some(guarded) = guarded.filter(|_| !self.args.is_confirmed())
            && (options.dry_run || !self.asks(&guarded, &plan).await)
        {
            let command = match options.dry_run {
                true => guarded.instead,
                false => allowing_command(&guarded.instead),
            };
            let not_deleted = Event::NotDeleted {
                planned: Some(plan.count()),
                reason: guarded.reason,
                command: Some(command),
            };
            reporter.report(not_deleted).await;
            return Ok(None);
        }
        if !options.dry_run {
            self.delete(&mut plan, options, reporter).await?;
        }
        Ok(Some(plan))
    }

    /// Reports why an entry, or what is in a directory, could not be deleted.
    async fn failed(&self, reporter: &Reporter, path: &RemotePath, error: &NetError) {
        let path = shown(&self.label, path.as_bytes());
        let (code, text) = error.to_wire();
        reporter.report(Event::Failed { path, code, text }).await;
    }

    /// Asks at a terminal whether to delete all the same.
    async fn asks(&self, guarded: &Guarded, plan: &Plan) -> bool {
        let (label, bytes) = (output::name(&self.label), size(plan.bytes));
        let question = format!("haul: {label}: {}, {bytes}. Delete them? [y/N] ", guarded.reason);
        prompt::can_ask() && prompt::yes(&question).await.unwrap_or(false)
    }

    async fn report_plan(&self, plan: &mut Plan, reporter: &Reporter) -> Result<(), NetError> {
        loop {
            let batch = plan.next_batch()?;
            if batch.is_empty() {
                return plan.restart();
            }
            for removal in batch {
                let path = shown(&self.label, removal.path.as_bytes());
                reporter.report(Event::DeletionPlanned { path }).await;
            }
        }
    }

    /// Leaves the entries whose backups take no place of what a source has; the others stay.
    async fn with_backups(
        &self,
        batch: Vec<Removal>,
        backup: &BackupOptions,
        reporter: &Reporter,
    ) -> Result<Vec<Removal>, NetError> {
        let place = |removal: &Removal| {
            let name = [removal.path.as_bytes(), backup.suffix.as_bytes()].concat();
            RemotePath::parse(&name).unwrap_or_default()
        };
        let places: Vec<RemotePath> = batch.iter().map(place).collect();
        let taken = are_at_source(&self.pairs, &places).await?;
        let mut removals = Vec::with_capacity(batch.len());
        for ((removal, place), taken) in batch.into_iter().zip(places).zip(taken) {
            if !taken || removal.kind == Kind::Dir || place.is_root() {
                removals.push(removal);
                continue;
            }
            let why = "it stays: the source has an entry with the name of its backup";
            let error = NetError::Store(StoreError::because(why, &removal.path));
            self.failed(reporter, &removal.path, &error).await;
        }
        Ok(removals)
    }

    async fn delete(
        &mut self,
        plan: &mut Plan,
        options: &Options,
        reporter: &Reporter,
    ) -> Result<(), NetError> {
        let backup = options.backup.as_ref();
        let beside = backup.or(options.backup_here.as_ref());
        let beside = beside.filter(|backup| backup.dir.is_none());
        let run = self.args.lifetime().map(new_run).transpose()?;
        loop {
            let batch = plan.next_batch()?;
            if batch.is_empty() {
                return Ok(());
            }
            let batch = match (&run, beside) {
                (None, Some(backup)) => self.with_backups(batch, backup, reporter).await?,
                _ => batch,
            };
            let results = match run {
                Some(run) => self.destination.discard(batch.clone(), run).await?,
                None => self.destination.remove(batch.clone(), backup).await?,
            };
            for (removal, result) in batch.into_iter().zip(results) {
                match result {
                    Ok(()) => {
                        let path = shown(&self.label, removal.path.as_bytes());
                        reporter.deleted(|| Event::Deleted { path }).await;
                    }
                    // something new is in there, a partial file of another transfer, or a trash
                    Err(e) if removal.kind == Kind::Dir && is_not_empty(&e) => {
                        Counters::add(&reporter.counters.dirs_not_empty, 1);
                    }
                    Err(e) => self.failed(reporter, &removal.path, &e).await,
                }
            }
        }
    }
}

/// What takes the places of directories.
fn replaced_by(options: &Options) -> Replaced {
    match (options.mirror, options.metadata.devices) {
        (false, _) => Replaced::None,
        (true, false) => Replaced::Files,
        (true, true) => Replaced::All,
    }
}

fn is_not_empty(error: &NetError) -> bool {
    match error {
        NetError::Refused { code, .. } => *code == Code::CONFLICT,
        NetError::Store(e) => e.kind == ErrorKind::NotEmpty,
        _ => false,
    }
}
