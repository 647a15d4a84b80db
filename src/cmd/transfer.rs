//! What put and get have in common: options, events as they come, the summary and the exit code.

use super::connect::{self, Session};
use super::failure::{Failure, exit, exit_of, exit_of_parts, hint_of};
use super::interrupt;
use super::output::{self, put_text, size};
use super::progress::{self, Progress};
use crate::net::NetError;
use crate::net::client::Client;
use crate::net::transfer::walk::{Source, What};
use crate::net::transfer::{Counters, Event, Options, Reporter};
use crate::net::wire::Code;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Seconds of the longest time that can be given.
const LONGEST: u64 = 10 * 366 * 86_400;
/// Seconds from which on a rate is told.
const RATE_FROM: f64 = 0.5;
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

    /// Wait for another writer of the same file, at most TIME (30s, 5m, 1h; alone: without end)
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

    /// Show the progress bar also where standard error is no terminal
    #[arg(long, overrides_with = "no_progress")]
    pub progress: bool,

    /// Show no progress bar
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

impl TransferArgs {
    /// As the transfer wants them.
    pub fn options(&self) -> Options {
        Options {
            checksum: self.checksum,
            no_fsync: self.no_fsync,
            wait: self.wait,
            if_version: self.if_version.clone(),
            recursive: self.recursive,
            again: false,
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
    mut session: Session,
    (verb, args, what): (&'static str, &TransferArgs, &str),
    once: impl AsyncFn(Arc<Client>, Options, Reporter) -> Result<(), NetError>,
    repeatable: impl Fn() -> bool,
) -> Result<(), Failure> {
    let show = Show::start(verb, args);
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
                break Err(Failure::told(exit::INTERRUPTED));
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
            Err(e) if e.is_passing() => e,
            other => break other.map_err(Failure::from),
        };
        if !repeatable() {
            break Err(Failure::from(lost).hint(
                "a stream cannot be read again; the file is there whole or not at all: haul stat tells which",
            ));
        }
        let progress = reporter.counters.progress();
        let since = match stuck {
            Some((before, since)) if before == progress => since,
            _ => Instant::now() - client.stalled(),
        };
        stuck = Some((progress, since));
        if since.elapsed() >= session.patience() {
            break Err(connect::gave_up(lost, session.patience()));
        }
        if let Err(failure) = session.again(lost).await {
            break Err(failure);
        }
        reporter.report(Event::Again).await;
        options.again = true;
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
    sources: impl Iterator<Item = Source>,
) -> Result<(), Failure> {
    let show = Show::start(verb, args);
    for Source { label, what } in sources {
        if let What::Missing(error) = what {
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

/// What the printer has seen.
#[derive(Default)]
struct Printed {
    failures: BTreeSet<u8>,
    /// Standard output cannot be written any more.
    broken: Option<Failure>,
}

impl Show {
    /// Starts to show.
    pub fn start(verb: &'static str, args: &TransferArgs) -> Show {
        let (events, incoming) = mpsc::channel(1024);
        let reporter = Reporter::new(events, args.verbose || args.json);
        let progress = Progress::start(reporter.counters.clone(), args.bar());
        Show {
            verb,
            printer: tokio::spawn(print_all(incoming, progress, args.clone())),
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
                Failure::told(e.exit())
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
            code => Err(Failure::told(code)),
        }
    }
}

/// What a transfer has done, all in all.
struct Summary {
    verb: &'static str,
    files: u64,
    bytes: u64,
    dirs: u64,
    dirs_made: u64,
    unchanged: u64,
    failed: u64,
    seconds: f64,
}

impl Summary {
    fn of(verb: &'static str, counters: &Counters, took: Duration) -> Summary {
        let get = Counters::get;
        let before = get(&counters.files_before);
        Summary {
            verb,
            files: get(&counters.files_done).saturating_add(before),
            bytes: get(&counters.bytes_committed),
            dirs: get(&counters.dirs_done),
            dirs_made: get(&counters.dirs_made),
            // what was committed before the transfer began again has been found there since
            unchanged: get(&counters.unchanged).saturating_sub(before),
            failed: get(&counters.failed),
            seconds: took.as_secs_f64(),
        }
    }

    /// Something is there that was asked for.
    fn has_done(&self) -> bool {
        self.files > 0 || self.unchanged > 0 || self.dirs_made > 0
    }

    fn has_any(&self) -> bool {
        self.files > 0 || self.unchanged > 0 || self.failed > 0
    }

    fn json(&self, complete: bool) -> Value {
        json!({
            "event": "summary", "verb": self.verb, "files": self.files, "bytes": self.bytes, "dirs": self.dirs,
            "unchanged": self.unchanged, "failed": self.failed, "seconds": self.seconds, "complete": complete,
        })
    }

    fn line(&self) -> String {
        let s = if self.files == 1 { "" } else { "s" };
        let mut line = format!("{}: {} file{s}, {}", self.verb, self.files, size(self.bytes));
        line += &format!(" in {:.1} s", self.seconds);
        // over a moment a rate says nothing
        if self.seconds >= RATE_FROM && self.bytes > 0 {
            line += &format!(" ({}/s)", size((self.bytes as f64 / self.seconds) as u64));
        }
        for (count, what) in [(self.unchanged, "unchanged"), (self.failed, "failed")] {
            if count > 0 {
                line += &format!(", {count} {what}");
            }
        }
        line
    }
}

async fn print_all(mut events: mpsc::Receiver<Event>, progress: Option<Progress>, args: TransferArgs) -> Printed {
    let mut printed = Printed::default();
    let _bar = progress;
    let say = |text: String| progress::say(&text);
    while let Some(event) = events.recv().await {
        if matches!(event, Event::Again) {
            printed.failures.clear();
        }
        if let Event::Failed { path, code, text } = &event {
            printed.failures.insert(exit_for(*code, &args));
            let hint = hint_for(*code, &args).map(|h| format!(" ({h})")).unwrap_or_default();
            say(format!(
                "haul: {}: {}{hint}",
                output::name(path),
                crate::net::printable(text)
            ));
        }
        if !args.quiet && !args.json {
            match &event {
                Event::Resumed { path, offset } => {
                    say(format!("{}: goes on after {}", output::name(path), size(*offset)));
                }
                Event::Restarted { path, discarded } => say(format!(
                    "{}: the source has changed since the last try: starts anew, {} are sent again",
                    output::name(path),
                    size(*discarded)
                )),
                _ => {}
            }
        }
        if args.json && printed.broken.is_none() {
            printed.broken = output::line(&event_json(&event).to_string()).err();
        } else if args.verbose {
            match &event {
                Event::Committed { path, .. } => say(output::name(path)),
                Event::Unchanged { path, .. } => say(format!("{} (unchanged)", output::name(path))),
                Event::Failed { .. } | Event::Resumed { .. } | Event::Restarted { .. } | Event::Again => {}
            }
        }
    }
    printed
}

/// A directory without `-r` is wrong usage, and that is how it counts.
fn exit_for(code: Code, args: &TransferArgs) -> u8 {
    match code {
        Code::IS_DIRECTORY if !args.recursive => exit::USAGE,
        code => exit_of(code),
    }
}

fn hint_for(code: Code, args: &TransferArgs) -> Option<&'static str> {
    match code {
        Code::IS_DIRECTORY if !args.recursive => Some("-r takes directories"),
        code => hint_of(code),
    }
}

fn event_json(event: &Event) -> Value {
    let mut object = Map::new();
    match event {
        Event::Committed {
            path,
            size,
            hash,
            version,
        } => {
            object.insert("event".into(), json!("file"));
            put_text(&mut object, "path", path);
            object.insert("size".into(), json!(size));
            if let Some(hash) = hash {
                object.insert("hash".into(), json!(output::hex(hash)));
            }
            object.insert("version".into(), json!(version));
        }
        Event::Unchanged { path, size } => {
            object.insert("event".into(), json!("unchanged"));
            put_text(&mut object, "path", path);
            object.insert("size".into(), json!(size));
        }
        Event::Again => drop(object.insert("event".into(), json!("again"))),
        Event::Resumed { path, offset } => {
            object.insert("event".into(), json!("resumed"));
            put_text(&mut object, "path", path);
            object.insert("offset".into(), json!(offset));
        }
        Event::Restarted { path, discarded } => {
            object.insert("event".into(), json!("restarted"));
            put_text(&mut object, "path", path);
            object.insert("discarded".into(), json!(discarded));
        }
        Event::Failed { path, code, text } => {
            object.insert("event".into(), json!("failed"));
            put_text(&mut object, "path", path);
            object.insert("code".into(), json!(code.0));
            object.insert("reason".into(), json!(text));
        }
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_takes_half_a_second() {
        let summary = |seconds| Summary {
            verb: "put",
            files: 1,
            bytes: 2 << 20,
            dirs: 0,
            dirs_made: 0,
            unchanged: 3,
            failed: 0,
            seconds,
        };
        assert_eq!(summary(0.49).line(), "put: 1 file, 2 MiB in 0.5 s, 3 unchanged");
        assert_eq!(
            summary(0.5).line(),
            "put: 1 file, 2 MiB in 0.5 s (4 MiB/s), 3 unchanged"
        );
    }

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
