//! `--delete`: what the destination has and no source has is deleted, last of all. The guard
//! prevents that where it looks like a mistake.

use super::allowing::allowing_command;
use super::deferred::transfers_of;
use super::failure::Failure;
use super::filter::Excluded;
use super::output;
use super::prompt;
use super::units::{parse_time, size};
use crate::net::deletion::place::Place;
use crate::net::deletion::plan::Plan;
use crate::net::deletion::search::{Pair, Replaced, Rules, is_empty, search};
use crate::net::deletion::trash::new_run;
use crate::net::error::NetError;
use crate::net::transfer::backup::BackupOptions;
use crate::net::transfer::options::{Options, PreservedTargets};
use crate::net::transfer::report::{Counters, Event, Reporter, shown};
use crate::net::wire::Code;
use crate::store::{ErrorKind, Kind, RemotePath};
use std::collections::HashMap;
use std::time::Duration;

/// Entries that may go without a question, however many there are.
const FEW: u64 = 100;

/// Options about deletion.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct DeletionArgs {
    /// Once everything has arrived, delete at DEST what no source has. Refuses if that is more than
    /// half and more than 100 entries, or if a source is empty; =yes deletes all the same
    #[arg(
        long,
        value_name = "yes",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        value_parser = parse_answer,
        aliases = ["del", "delete-before", "delete-during", "delete-delay", "delete-after"]
    )]
    delete: Option<String>,

    /// Like --delete, and delete what the rules exclude, too
    #[arg(long)]
    delete_excluded: bool,

    /// With --delete, move what it deletes to the trash of DEST for TIME; haul undelete lists and
    /// restores it
    #[arg(
        long = "keep-deleted",
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "30d",
        value_parser = parse_time
    )]
    lifetime: Option<Duration>,

    /// Delete nothing if that would be more than N entries, or more than P% of DEST
    #[arg(long, value_name = "N|P%", value_parser = parse_limit)]
    max_delete: Option<Limit>,
}

/// How much may be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Entries(u64),
    Percent(u64),
}

fn parse_answer(text: &str) -> Result<String, String> {
    match text {
        "" | "yes" => Ok(text.into()),
        _ => Err("expected --delete or --delete=yes".into()),
    }
}

fn parse_limit(text: &str) -> Result<Limit, String> {
    let wrong = || format!("expected a number of entries or a percentage like 20%, got {text}");
    let (digits, limit): (_, fn(u64) -> Limit) = match text.strip_suffix('%') {
        Some(digits) => (digits, Limit::Percent),
        None => (text, Limit::Entries),
    };
    digits.parse().map(limit).map_err(|_| wrong())
}

impl Limit {
    fn allows(self, count: u64, found: u64) -> bool {
        match self {
            Limit::Entries(most) => count <= most,
            Limit::Percent(most) => count.saturating_mul(100) <= found.saturating_mul(most),
        }
    }
}

impl DeletionArgs {
    /// True where something is to be deleted.
    pub fn is_wanted(&self) -> bool {
        self.delete.is_some() || self.delete_excluded
    }

    /// What becomes of what the rules exclude.
    pub fn excluded(&self) -> Excluded {
        match self.delete_excluded {
            true => Excluded::Deleted,
            false => Excluded::Protected,
        }
    }

    /// Has directories and other entries replace each other where a deletion follows and all that
    /// is offered is sent.
    pub fn apply(&self, options: &mut Options) {
        let is_any_size = options.min_size.is_none() && options.max_size.is_none();
        let replaces_all = options.preserved == PreservedTargets::None && !options.existing;
        options.mirror = self.is_wanted() && is_any_size && replaces_all;
    }

    /// Checks that directories are sent with what is in them.
    ///
    /// # Errors
    /// A usage failure.
    pub fn check(&self, recursive: bool) -> Result<(), Failure> {
        match (self.is_wanted(), recursive, self.lifetime) {
            (true, false, _) => Err(Failure::usage("--delete is for directories").hint("add -r")),
            (false, _, Some(_)) => {
                Err(Failure::usage("--keep-deleted is for deletions").hint("add --delete"))
            }
            _ => Ok(()),
        }
    }

    /// Checks where the sources go: what one of them puts into the directory of another would be
    /// deleted there.
    ///
    /// # Errors
    /// A usage failure.
    pub fn check_places(&self, places: &[(RemotePath, String)]) -> Result<(), Failure> {
        if !self.is_wanted() {
            return Ok(());
        }
        let mut mirrors = HashMap::new();
        for (place, name) in places {
            if let Some(other) = mirrors.insert(place, name) {
                return Err(overlap(name, other));
            }
        }
        for (place, name) in places {
            let mut dir = place.split().map(|(dir, _)| dir);
            while let Some(above) = dir {
                if let Some(other) = mirrors.get(&above) {
                    return Err(overlap(name, other));
                }
                dir = above.split().map(|(dir, _)| dir);
            }
        }
        Ok(())
    }

    /// Why nothing may be deleted without being asked for it.
    fn guard(&self, plan: &Plan, empty: Option<&str>) -> Option<Guarded> {
        let (count, found) = (plan.count(), plan.found);
        let of = || format!("{count} of {found} entries would go");
        match self.max_delete {
            Some(limit) if !limit.allows(count, found) => {
                return Some(Guarded {
                    reason: format!("{}, more than --max-delete allows", of()),
                    instead: format!("--max-delete={count}"),
                });
            }
            Some(_) => {}
            None if count > FEW && count.saturating_mul(2) > found => {
                return Some(Guarded {
                    reason: of(),
                    instead: "--delete=yes".into(),
                });
            }
            None => {}
        }
        empty.map(|source| Guarded {
            reason: format!("{source} is empty, and {}", of()),
            instead: "--delete=yes".into(),
        })
    }

    /// True where the user has answered the question of the guard.
    fn is_confirmed(&self) -> bool {
        self.delete.as_deref() == Some("yes") && self.max_delete.is_none()
    }
}

/// The refusal of a source that goes where the contents of another go.
fn overlap(name: &str, other: &str) -> Failure {
    Failure::usage(format!("--delete: {name} goes where the contents of {other} go"))
        .hint("transfer them one by one")
}

/// A deletion that the guard prevents.
struct Guarded {
    reason: String,
    /// The option that allows it.
    instead: String,
}

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
    /// Deletes what no source has, if that is wanted and the transfer has failed in no part.
    /// Returns the options of further transfers, of what had directories in its place.
    ///
    /// # Errors
    /// Why it could not be completed. What the guard prevents is reported, and no error.
    pub async fn run(
        mut self,
        options: &Options,
        reporter: &Reporter,
    ) -> Result<Vec<Options>, NetError> {
        if !self.args.is_wanted() {
            return Ok(Vec::new());
        }
        let Some(plan) = self.run_plan(options, reporter).await? else {
            return Ok(Vec::new());
        };
        let deferred = Counters::get(&reporter.counters.deferred);
        let stay = deferred.saturating_sub(u64::try_from(plan.in_the_way.len()).unwrap_or(0));
        if stay > 0 && !options.dry_run {
            let path = self.label.clone();
            let text = format!("{stay} directories stay that are in the way of other entries");
            let code = Code::IS_DIRECTORY;
            reporter.report(Event::Failed { path, code, text }).await;
        }
        match options.dry_run {
            true => Ok(Vec::new()),
            false => transfers_of(options, &plan.in_the_way),
        }
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
                deletes_excluded: self.args.delete_excluded,
                view: &options.view,
                replaced: replaced_by(options),
            };
            search(pair, &self.destination, rules, &mut plan).await?;
            if plan.added > before && empty.is_none() && is_empty(pair).await? {
                empty = Some(pair.label.clone());
            }
        }
        plan.complete()?;
        if self.args.lifetime.is_some() && !options.dry_run {
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
            self.delete(&mut plan, options.backup.as_ref(), reporter).await?;
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

    async fn delete(
        &mut self,
        plan: &mut Plan,
        backup: Option<&BackupOptions>,
        reporter: &Reporter,
    ) -> Result<(), NetError> {
        let run = self.args.lifetime.map(new_run).transpose()?;
        loop {
            let batch = plan.next_batch()?;
            if batch.is_empty() {
                return Ok(());
            }
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
                    // something new is in there, or the partial file of another transfer
                    Err(e) if removal.kind == Kind::Dir && is_not_empty(&e) => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_numbers_or_percentages() {
        assert_eq!(parse_limit("20%"), Ok(Limit::Percent(20)));
        assert_eq!(parse_limit("0"), Ok(Limit::Entries(0)));
        for wrong in ["", "%", "-1", "x", "1.5%"] {
            assert!(parse_limit(wrong).is_err(), "{wrong}");
        }
        assert!(Limit::Percent(50).allows(5, 10));
        assert!(!Limit::Percent(50).allows(6, 10));
        assert!(!Limit::Entries(5).allows(6, 1000));
    }
}
