//! What put and get have in common: options, events as they come, the summary and the exit code.

use super::connect::{self, RemoteSession};
use super::failure::{Failure, exit, exit_of_parts};
use super::interrupt;
use super::output;
use super::progress::Progress;
use super::report::{self, Printed, ReportOptions};
use super::summary::Summary;
use crate::net::NetError;
use crate::net::client::Client;
use crate::net::client::outage::Outage;
use crate::net::transfer::options::Options;
use crate::net::transfer::report::{Event, Reporter};
use crate::net::transfer::send::source::{Origin, TransferSource};
use crate::store::Durability;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Seconds of the longest time that can be given.
const LONGEST: u64 = 10 * 366 * 86_400;
/// How long the server may take to answer a goodbye when the user wants to go.
const FAREWELL: Duration = Duration::from_millis(250);

/// Options of put and get.
#[derive(clap::Args, Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools)]
pub struct TransferArgs {
    /// Take directories, with everything in them
    #[arg(short, long)]
    pub recursive: bool,

    /// Compare files by content instead of by size and modification time
    #[arg(short, long)]
    pub checksum: bool,

    /// Replace the file only if it has version V (see stat --json); 'none': only if there is no such file
    #[arg(long, value_name = "V")]
    pub if_version: Option<String>,

    /// Do not wait until the files are on disk
    #[arg(long)]
    pub no_fsync: bool,

    /// Wait for another writer of the same file, at most TIME (30s, 5m, 1h; alone: a week)
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "7d", value_parser = parse_time)]
    pub wait: Option<Duration>,

    /// Use N data connections [default: 4, and up to 32 where that is faster]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub connections: Option<u16>,

    /// Print failures only
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Name every file
    #[arg(short, long)]
    pub verbose: bool,

    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,

    /// Show progress also where standard error is no terminal: a line every five seconds and at the end
    #[arg(long, overrides_with = "no_progress")]
    pub progress: bool,

    /// Show no progress
    #[arg(long)]
    pub no_progress: bool,
}

/// `90`, `90s`, `5m`, `2h`, `7d`; at most ten years.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is not a time like 30s, 5m, 2h or 7d");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.strip_prefix(digits).unwrap_or_default() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let seconds = number
        .checked_mul(unit)
        .filter(|seconds| *seconds <= LONGEST)
        .ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

/// What `--no-fsync` asks for.
pub(super) fn durability(no_fsync: bool) -> Durability {
    match no_fsync {
        true => Durability::Volatile,
        false => Durability::Durable,
    }
}

impl TransferArgs {
    /// As the transfer wants them.
    pub fn options(&self) -> Options {
        Options {
            checksum: self.checksum,
            durability: durability(self.no_fsync),
            wait: self.wait,
            if_version: self.if_version.clone(),
            recursive: self.recursive,
            retried: false,
        }
    }

    /// `--if-version` is about one file.
    ///
    /// # Errors
    /// A usage failure.
    pub fn check(&self, sources: usize) -> Result<(), Failure> {
        if self.if_version.is_some() && (sources != 1 || self.recursive) {
            return Err(Failure::usage("--if-version is for a single file"));
        }
        Ok(())
    }

    fn report(&self) -> ReportOptions {
        ReportOptions {
            quiet: self.quiet,
            verbose: self.verbose,
            json: self.json,
            recursive: self.recursive,
            waits: self.wait.is_some(),
            conditional: self.if_version.is_some(),
        }
    }

    fn bar(&self) -> Option<bool> {
        match (self.progress, self.no_progress || self.quiet || self.json) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        }
    }
}

/// Runs a transfer to its end, beginning again after each loss of its session for as long as the user wants to wait, and
/// shows it. `once` is told whether it is not the first time; `repeatable` tells whether there can be another.
///
/// # Errors
/// As [`Show::end`].
pub async fn carry(
    mut session: RemoteSession,
    (verb, args, what): (&'static str, &TransferArgs, &str),
    once: impl AsyncFn(Arc<Client>, Options, Reporter) -> Result<(), NetError>,
    repeatable: impl Fn() -> bool,
) -> Result<(), Failure> {
    let show = Show::start(verb, args, session.outage());
    let reporter = show.reporter();
    let mut options = args.options();
    let mut stuck: Option<(u64, Instant)> = None;
    let result = loop {
        let client = session.client();
        let attempt = once(client.clone(), options.clone(), reporter.clone());
        tokio::pin!(attempt);
        let result = tokio::select! {
            result = &mut attempt => result,
            () = interrupt::asked() => {
                client.leave(FAREWELL).await;
                // what has arrived is made durable
                let _ = attempt.await;
                break Err(Failure::already_reported(exit::INTERRUPTED));
            }
        };
        if result.is_err()
            && let Some(why) = client.refusal()
        {
            match session.refused(why).await {
                Ok(()) => continue,
                Err(failure) => break Err(failure),
            }
        }
        let lost = match result {
            Err(e) if e.is_transient() => e,
            other => break other.map_err(Failure::from),
        };
        if !repeatable() {
            let tells = match client.is_write_only() {
                true => "send it again",
                false => "haul stat tells which",
            };
            break Err(Failure::from(lost).hint(format!(
                "a stream cannot be read again; the file is there whole or not at all: {tells}"
            )));
        }
        let progress = reporter.counters.progress();
        let since = match stuck {
            Some((before, since)) if before == progress => since,
            _ => Instant::now() - client.stalled(),
        };
        stuck = Some((progress, since));
        if since.elapsed() >= session.retry_for() {
            break Err(connect::gave_up(lost, session.retry_for()).hint(
                "what is complete is kept, and larger files go on where they ended: run the same command again",
            ));
        }
        if let Err(failure) = session.retry(lost).await {
            break Err(failure);
        }
        reporter.report(Event::Retrying).await;
        options.retried = true;
        // only content tells whether the target is what was committed when the connection was lost
        options.checksum |= options.if_version.is_some();
    };
    drop(reporter);
    let ended = show.end(result, what).await;
    session.quit().await;
    ended
}

/// The transfer of sources none of which can be sent: each is named, and no server is asked.
///
/// # Errors
/// As [`Show::end`].
pub async fn refuse_all(
    verb: &'static str,
    args: &TransferArgs,
    sources: impl Iterator<Item = TransferSource>,
) -> Result<(), Failure> {
    let show = Show::start(verb, args, Arc::default());
    for TransferSource { label, origin, .. } in sources {
        if let Origin::Missing(error) = origin {
            show.reporter.failed(label, &error).await;
        }
    }
    show.end(Ok(()), "").await
}

/// Shows a transfer while it runs, and sums it up.
pub struct Show {
    verb: &'static str,
    args: TransferArgs,
    /// What stands before every path in messages: `HOST:` for what is named from the other side.
    reporter: Reporter,
    printer: tokio::task::JoinHandle<Printed>,
    started: Instant,
}

impl Show {
    /// Starts to show.
    pub fn start(verb: &'static str, args: &TransferArgs, outage: Arc<Outage>) -> Show {
        let (events, incoming) = mpsc::channel(1024);
        let reporter = Reporter::new(events, args.verbose || args.json);
        let progress = Progress::start(reporter.counters.clone(), outage, args.bar());
        Show {
            verb,
            printer: tokio::spawn(report::print_all(incoming, progress, args.report())),
            args: args.clone(),
            reporter,
            started: Instant::now(),
        }
    }

    /// Where the transfer reports to.
    pub fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }

    /// The transfer has ended: prints the summary, and decides the exit code. `what` is what an error of the whole
    /// transfer is about.
    ///
    /// # Errors
    /// Whatever makes the exit code other than 0.
    pub async fn end(self, result: Result<(), Failure>, what: &str) -> Result<(), Failure> {
        let Show {
            verb,
            args,
            reporter,
            printer,
            started,
        } = self;
        let counters = reporter.counters.clone();
        drop(reporter);
        let printed = printer.await.unwrap_or_default();
        let summary = Summary::of(verb, &counters, started.elapsed());
        let complete = result.is_ok();
        let mut result = result.map_err(|e| {
            let safe = match summary.files {
                0 => String::new(),
                n => format!(", {n} files arrived and are safe"),
            };
            Failure::about(what, e).and(&safe)
        });
        if args.json {
            // the summary is the last object
            result = result.map_err(|e| {
                e.report();
                Failure::already_reported(e.exit())
            });
            output::line(&summary.json(complete).to_string())?;
        } else if !args.quiet && (complete || summary.has_any()) {
            eprintln!("{}", summary.line());
        }
        result?;
        if let Some(broken) = printed.broken {
            return Err(broken);
        }
        match exit_of_parts(summary.has_done(), &printed.failures) {
            0 => Ok(()),
            code => Err(Failure::already_reported(code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(parse_time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("2h"), Ok(Duration::from_secs(7200)));
        assert!(parse_time("soon").is_err());
        assert!(parse_time("99999999999999999999d").is_err());
        assert!(parse_time("18446744073709551615s").is_err());
        assert!(parse_time("h").is_err());
    }
}
