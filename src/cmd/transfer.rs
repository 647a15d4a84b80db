//! What put and get share: their options, and a transfer that is retried until it is complete.

use super::backup::BackupArgs;
use super::connect::{self, Notices, Purpose, RemoteSession};
use super::deletion::DeletionArgs;
use super::failure::{Failure, exit};
use super::filter::FilterArgs;
use super::habits::HabitArgs;
use super::hint;
use super::interrupt::{self, RERUN};
use super::log_file::LogFile;
use super::metadata::MetadataArgs;
use super::progress::Wish;
use super::report::ReportOptions;
use super::running;
use super::show::Show;
use super::units::parse_time;
use super::wire::WireArgs;
use crate::net::NetError;
use crate::net::client::Client;
use crate::net::client::outage::Outage;
use crate::net::transfer::options::Options;
use crate::net::transfer::report::{Event, Reporter};
use crate::net::transfer::send::source::{Origin, TransferSource};
use crate::store::Durability;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the goodbye may take when the user wants to leave.
const FAREWELL: Duration = Duration::from_millis(250);

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

    /// The transfer's own options, for so many sources; `paths` are the arguments that are no
    /// options.
    ///
    /// # Errors
    /// A usage failure: an option that haul does not have, or a rule of a filter that is none. Or
    /// why a file of rules cannot be read.
    pub fn options(&self, sources: usize, paths: &[OsString]) -> Result<Options, Failure> {
        self.habits.check_port(paths)?;
        if self.if_version.is_some() && (sources != 1 || self.is_recursive()) {
            return Err(Failure::usage("--if-version is for a single file"));
        }
        let mut options = Options {
            checksum: self.checksum,
            durability: durability(self.volatile || self.dry_run),
            wait: self.wait,
            if_version: self.if_version.clone(),
            recursive: self.is_recursive(),
            dry_run: self.dry_run,
            packing: self.wire.packing(),
            metadata: self.metadata.options(self.habits.archive())?,
            ..Options::default()
        };
        self.habits.apply(&mut options)?;
        self.filter.apply(&mut options, self.deletion.excluded())?;
        self.backup.apply(&mut options, self.deletion.excluded())?;
        self.deletion.apply(&mut options);
        self.deletion.check(&options)?;
        Ok(options)
    }

    fn report(&self) -> Result<ReportOptions, Failure> {
        Ok(ReportOptions {
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
    pub fn show(&self, verb: &'static str, outage: Arc<Outage>) -> Result<Show, Failure> {
        Ok(Show::start(verb, self.report()?, self.wish(), outage))
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

/// What a transfer does, and what it is about.
#[derive(Clone)]
pub struct Job<'a> {
    /// `put` or `get`.
    pub verb: &'static str,
    /// Its options.
    pub args: &'a TransferArgs,
    /// Those of the transfer itself.
    pub options: Options,
    /// The place that an error of the whole transfer is about.
    pub about: &'a str,
}

/// Runs a transfer to its end, and shows it. After each loss of its session it starts again, for as
/// long as the user wants to wait. `once` runs it on one session; `is_repeatable` says whether it
/// can start again.
///
/// # Errors
/// As [`Show::end`].
pub async fn carry(
    session: RemoteSession,
    job: Job<'_>,
    once: impl AsyncFn(Arc<Client>, Options, Reporter) -> Result<(), NetError>,
    is_repeatable: impl Fn() -> bool,
) -> Result<(), Failure> {
    let show = job.args.show(job.verb, session.outage())?;
    let mut carrier = Carrier {
        session,
        reporter: show.reporter(),
        options: job.options,
        stuck: None,
    };
    let limit = carrier.session.rate();
    let run = carrier.run(once, is_repeatable);
    let result = running::adjustable(run, &limit, job.verb, job.about).await;
    let Carrier {
        session, reporter, ..
    } = carrier;
    drop(reporter);
    let ended = show.end(result, job.about).await;
    session.quit().await;
    ended
}

/// A transfer over one session after another.
struct Carrier {
    session: RemoteSession,
    reporter: Reporter,
    options: Options,
    /// How much had been transferred when the last session was lost, and since when it is no more
    /// than that.
    stuck: Option<(u64, Instant)>,
}

impl Carrier {
    async fn run(
        &mut self,
        once: impl AsyncFn(Arc<Client>, Options, Reporter) -> Result<(), NetError>,
        is_repeatable: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        loop {
            let client = self.session.client();
            let attempt = once(client.clone(), self.options.clone(), self.reporter.clone());
            let Err(error) = until_interrupted(&client, attempt).await? else {
                return Ok(());
            };
            if let Some(why) = client.refusal() {
                self.session.refused(why).await?;
            } else if !error.is_transient() {
                return Err(error.into());
            } else if !is_repeatable() {
                return Err(lost_stream(&client, error));
            } else {
                self.restart(&client, error).await?;
            }
        }
    }

    /// Prepares another attempt after the loss of a session.
    async fn restart(&mut self, lost: &Client, why: NetError) -> Result<(), Failure> {
        let progress = self.reporter.counters.progress();
        let since = match self.stuck {
            Some((before, since)) if before == progress => since,
            _ => Instant::now() - lost.stalled(),
        };
        self.stuck = Some((progress, since));
        let retry_for = self.session.retry_for();
        if since.elapsed() >= retry_for {
            return Err(connect::gave_up(why, retry_for).hint(RERUN));
        }
        self.session.retry(why).await?;
        self.reporter.report(Event::Retrying).await;
        self.options.retried = true;
        // only content tells whether the target is what was committed when the connection was lost
        self.options.checksum |= self.options.if_version.is_some();
        Ok(())
    }
}

/// Waits for an attempt. A signal ends it; what has arrived by then is made durable.
async fn until_interrupted(
    client: &Client,
    attempt: impl Future<Output = Result<(), NetError>>,
) -> Result<Result<(), NetError>, Failure> {
    tokio::pin!(attempt);
    tokio::select! {
        result = &mut attempt => Ok(result),
        () = interrupt::asked() => {
            client.leave(FAREWELL).await;
            let _ = attempt.await;
            Err(Failure::already_reported(exit::INTERRUPTED))
        }
    }
}

/// The failure of a stream whose session was lost.
fn lost_stream(client: &Client, why: NetError) -> Failure {
    let next = match client.is_write_only() {
        true => "send it again",
        false => "check with haul stat",
    };
    Failure::from(why).hint(format!(
        "a stream cannot be read again; the file is there whole or not at all: {next}"
    ))
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
    let show = args.show(verb, Arc::default())?;
    for TransferSource { label, origin, .. } in sources {
        if let Origin::Missing(error) = origin {
            show.reporter().failed(label, &error).await;
        }
    }
    show.end(Ok(()), "").await
}
