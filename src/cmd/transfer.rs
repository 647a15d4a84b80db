//! What put, get and cp share: their options.

use super::backup::BackupArgs;
use super::chosen::{ChosenArgs, ChosenSource};
use super::connect::{Notices, Purpose};
use super::deletion_args::DeletionArgs;
use super::failure::Failure;
use super::filter::FilterArgs;
use super::habits::HabitArgs;
use super::hint;
use super::log_file::LogFile;
use super::metadata::MetadataArgs;
use super::progress::Wish;
use super::remote::Remote;
use super::report::ReportOptions;
use super::show::Show;
use super::units::parse_time;
use super::view::ViewArgs;
use super::wire::WireArgs;
use crate::net::client::options::WINDOW;
use crate::net::client::outage::Outage;
use crate::net::transfer::filter::Filter;
use crate::net::transfer::options::Options;
use crate::net::transfer::send::chosen::Scope;
use crate::net::transfer::send::source::{Origin, TransferSource};
use crate::store::{Durability, FollowedLinks};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Options of put and get.
#[derive(clap::Args, Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools)]
pub struct TransferArgs {
    /// Copy directories with everything in them
    #[arg(short, long)]
    recursive: bool,

    /// Write nothing, and print what would be sent, with the difference: new, size, time, content
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Compare files by content instead of by size and modification time
    #[arg(short, long)]
    pub checksum: bool,

    /// Replace the file only if it has version V (see stat --json); 'none': only if it does not
    /// exist
    #[arg(long, value_name = "V")]
    pub if_version: Option<String>,

    /// Do not wait until the files are on disk
    #[arg(long = "no-fsync")]
    pub volatile: bool,

    /// Let new directories appear at once and fill up, not when everything in them is complete
    #[arg(long)]
    no_whole_dirs: bool,

    /// Wait up to TIME (30s, 5m, 1h; a week if none is given) for another writer of the same file
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "7d",
        value_parser = parse_time
    )]
    pub wait: Option<Duration>,

    /// Use N data connections [default: 4, and up to 32 where that is faster]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub connections: Option<u16>,

    /// Print failures only
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Print the name of every file
    #[arg(short, long)]
    pub verbose: bool,

    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,

    /// Show progress even if standard error is not a terminal: a line every five seconds and at the
    /// end
    #[arg(long, overrides_with = "no_progress")]
    pub progress: bool,

    /// Do not show progress
    #[arg(long)]
    pub no_progress: bool,

    #[command(flatten)]
    filter: FilterArgs,

    /// Name, for each entry, the rule that leaves it out, or how it differs; needs -n
    #[arg(long)]
    why: bool,

    #[command(flatten)]
    view: ViewArgs,

    #[command(flatten)]
    chosen: ChosenArgs,

    /// Remove each SRC's files and symlinks once they are at DEST; directories stay
    #[arg(long)]
    pub remove_source_files: bool,

    #[command(flatten)]
    pub deletion: DeletionArgs,

    #[command(flatten)]
    backup: BackupArgs,

    /// Append a line for each file, with the time, to FILE
    #[arg(long, value_name = "FILE", value_hint = hint::LOCAL)]
    log_file: Option<PathBuf>,

    #[command(flatten)]
    habits: HabitArgs,

    #[command(flatten)]
    wire: WireArgs,

    #[command(flatten)]
    pub metadata: MetadataArgs,

    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// What `--no-fsync` asks for.
pub(super) fn durability(volatile: bool) -> Durability {
    match volatile {
        true => Durability::Volatile,
        false => Durability::Durable,
    }
}

impl TransferArgs {
    /// True where the directories above DEST are made, too.
    pub fn makes_path(&self) -> bool {
        self.habits.mkpath && !self.dry_run
    }

    /// True where directories are taken, too.
    pub fn is_recursive(&self) -> bool {
        self.recursive || self.habits.archive()
    }

    /// Which symlinks are followed.
    pub fn links(&self) -> FollowedLinks {
        self.view.links()
    }

    /// True where only some paths of the sources are sent.
    pub fn is_of_chosen(&self) -> bool {
        self.chosen.is_wanted()
    }

    /// How much of a chosen directory is sent. As with rsync, -a does not say so for a list.
    fn scope(&self) -> Scope {
        match self.recursive || (self.habits.archive() && !self.chosen.has_list()) {
            true => Scope::Tree,
            false => Scope::Entry,
        }
    }

    /// The paths that are chosen of local sources.
    ///
    /// # Errors
    /// As [`ChosenArgs::local`].
    pub fn chosen_here(
        &self,
        sources: &[OsString],
    ) -> Result<Vec<ChosenSource<OsString>>, Failure> {
        let follows = self.links() != FollowedLinks::None;
        self.chosen
            .local(sources, (self.scope(), follows), self.filter.ends_with_nul())
    }

    /// The paths that are chosen of remote sources.
    ///
    /// # Errors
    /// As [`ChosenArgs::remote`].
    pub fn chosen_there(&self, sources: &[Remote]) -> Result<Vec<ChosenSource<Remote>>, Failure> {
        self.chosen.remote(sources, self.scope(), self.filter.ends_with_nul())
    }

    /// The transfer's own options, for so many sources; `paths` are the arguments that are no
    /// options.
    ///
    /// # Errors
    /// A usage failure: an option that haul does not have, or a rule of a filter that is none. Or
    /// why a file of rules cannot be read.
    pub fn options(&self, sources: usize, paths: &[OsString]) -> Result<Options, Failure> {
        self.habits.check_port(paths)?;
        let lists = usize::from(self.chosen.reads_stdin());
        if lists.saturating_add(self.filter.lists_on_stdin()) > 1 {
            return Err(Failure::usage("two lists cannot both come from standard input"));
        }
        if self.why && !self.dry_run {
            return Err(Failure::usage("--why is for a dry run").hint("add -n"));
        }
        if self.if_version.is_some() && (sources != 1 || self.is_recursive()) {
            return Err(Failure::usage("--if-version is for a single file"));
        }
        let mut options = Options {
            checksum: self.checksum,
            durability: durability(self.volatile || self.dry_run),
            wait: self.wait,
            if_version: self.if_version.clone(),
            // the way to a chosen path has directories
            recursive: self.is_recursive() || self.is_of_chosen(),
            dry_run: self.dry_run,
            whole_dirs: !self.no_whole_dirs,
            explain: self.why,
            view: self.view.view()?,
            packing: self.wire.packing(),
            metadata: self.metadata.options(self.habits.archive())?,
            ..Options::default()
        };
        self.habits.apply(&mut options)?;
        self.filter.apply(&mut options, self.deletion.excluded())?;
        self.backup.apply(&mut options)?;
        self.deletion.apply(&mut options);
        let deletes = self.recursive || (self.is_recursive() && !self.chosen.has_list());
        self.deletion.check(deletes)?;
        if self.remove_source_files {
            // what is removed here must survive there
            options.durability = Durability::Durable;
        }
        Ok(options)
    }

    fn report(&self, filter: &Filter) -> Result<ReportOptions, Failure> {
        Ok(ReportOptions {
            skips: self.habits.skips(),
            explained: self.why.then(|| filter.clone()),
            log: self.log_file.as_deref().map(LogFile::open).transpose()?,
            quiet: self.quiet,
            verbose: self.verbose,
            json: self.json,
            recursive: self.is_recursive(),
            dry_run: self.dry_run,
            itemize: self.habits.itemize,
            waits: self.wait.is_some(),
            conditional: self.if_version.is_some(),
        })
    }

    /// What the transfer's session is for.
    pub fn purpose(&self) -> Purpose {
        Purpose {
            connections: self.connections,
            notices: match self.quiet {
                true => Notices::Hidden,
                false => Notices::Shown,
            },
            rate: self.wire.rate(),
            window: WINDOW,
        }
    }

    /// Bytes a second; `None`: no limit.
    pub fn rate(&self) -> Option<u64> {
        self.wire.rate()
    }

    /// Starts to show a transfer.
    ///
    /// # Errors
    /// Why the log cannot be written.
    pub fn show(
        &self,
        verb: &'static str,
        filter: &Filter,
        outage: Arc<Outage>,
    ) -> Result<Show, Failure> {
        Ok(Show::start(verb, self.report(filter)?, self.wish(), outage))
    }

    fn wish(&self) -> Wish {
        match (
            self.progress || self.habits.progress(),
            self.no_progress || self.quiet || self.json,
        ) {
            (true, _) => Wish::Always,
            (false, true) => Wish::Never,
            (false, false) => Wish::OnTerminal,
        }
    }
}

/// The transfer of sources none of which can be sent: names each, and connects to no server.
///
/// # Errors
/// As [`Show::end`].
pub async fn refuse_all(
    verb: &'static str,
    args: &TransferArgs,
    sources: impl Iterator<Item = TransferSource>,
) -> Result<(), Failure> {
    let show = args.show(verb, &Filter::default(), Arc::default())?;
    for TransferSource { label, origin, .. } in sources {
        if let Origin::Missing(error) = origin {
            show.reporter().failed(label, &error).await;
        }
    }
    show.end(Ok(()), "").await
}
