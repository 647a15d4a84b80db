//! Prints the events of a transfer: lines for people, objects for programs. Of many failures with
//! one cause it names only the first, unless the user asks for all.

use super::failure::{Failure, exit, exit_of, hint_of};
use super::log_file::LogFile;
use super::output;
use super::progress::Progress;
use super::report_json::{self, word};
use super::screen;
use super::units::size;
use crate::net::printable;
use crate::net::transfer::exclusion::Exclusion;
use crate::net::transfer::filter::Filter;
use crate::net::transfer::receive::destination::Difference;
use crate::net::transfer::report::Event;
use crate::net::wire::Code;
use std::collections::{BTreeSet, HashMap};
use tokio::sync::mpsc;

/// The most failures with the same cause that are named.
const NAMED: u64 = 5;
/// The most causes; later ones with the same code count as one.
const CAUSES: usize = 64;

/// The events of a transfer that the user wants to read.
#[derive(Clone)]
#[allow(clippy::struct_excessive_bools)]
pub struct ReportOptions {
    /// Where every file is logged.
    pub log: Option<LogFile>,
    /// Failures only.
    pub quiet: bool,
    /// Every file.
    pub verbose: bool,
    /// Every file that was sent or deleted, with the reason.
    pub itemize: bool,
    /// Objects on standard output.
    pub json: bool,
    /// Directories were asked for.
    pub recursive: bool,
    /// Nothing is written.
    pub dry_run: bool,
    /// The transfer waits for a locked target.
    pub waits: bool,
    /// The user named the target's version.
    pub conditional: bool,
    /// The options because of which entries are skipped.
    pub skips: Option<String>,
    /// The rules of the transfer, where entries that are not sent are printed with the reasons.
    pub explained: Option<Filter>,
}

impl ReportOptions {
    /// True where events of every file are wanted, not only failures.
    pub fn is_of_each(&self) -> bool {
        self.verbose || self.dry_run || self.itemize || self.json || self.log.is_some()
    }
}

/// The outcome of the printed events.
#[derive(Default)]
pub struct Printed {
    /// The exit codes of what failed.
    pub failures: BTreeSet<u8>,
    /// Something failed that was not merely gone.
    pub failed_otherwise: bool,
    /// The guard prevented a deletion.
    pub guarded: bool,
    /// Why standard output cannot be written any more.
    pub broken: Option<Failure>,
}

/// Prints events until there are no more, above the bar if there is one.
pub async fn print_all(
    mut events: mpsc::Receiver<Event>,
    bar: Option<Progress>,
    options: ReportOptions,
) -> Printed {
    let mut printer = Printer {
        options,
        causes: Causes::default(),
        printed: Printed::default(),
    };
    while let Some(event) = events.recv().await {
        printer.print(&event);
    }
    for line in printer.causes.rest() {
        screen::say(&line);
    }
    drop(bar);
    printer.printed
}

struct Printer {
    options: ReportOptions,
    causes: Causes,
    printed: Printed,
}

impl Printer {
    fn print(&mut self, event: &Event) {
        match event {
            Event::Failed { path, code, text } => self.failed(path, *code, text),
            Event::Retrying => {
                // the next attempt retries the failed files
                self.printed.failures.clear();
                self.printed.failed_otherwise = false;
                self.causes = Causes::default();
            }
            Event::NotDeleted { command, .. } => self.printed.guarded |= command.is_some(),
            _ => {}
        }
        self.log(event);
        if self.options.json {
            if self.printed.broken.is_none() {
                self.printed.broken = output::line(&self.object(event).to_string()).err();
            }
        } else if let Some(line) = self.line(event, self.options.verbose) {
            screen::say(&line);
        }
    }

    /// An event as an object.
    fn object(&self, event: &Event) -> serde_json::Value {
        report_json::object(event, self.options.explained.as_ref())
    }

    /// Appends an event to the log file.
    fn log(&mut self, event: &Event) {
        let Some(log) = &self.options.log else {
            return;
        };
        let line = match event {
            Event::Failed { path, text, .. } => Some(format!("{}: {text}", output::name(path))),
            event => self.line(event, true),
        };
        let logged = line.map_or(Ok(()), |line| log.line(&line));
        if let Err(e) = logged {
            self.printed.broken = Some(Failure::io("the log file", &e));
            self.options.log = None;
        }
    }

    fn failed(&mut self, path: &[u8], code: Code, text: &str) {
        self.printed.failures.insert(self.exit_for(code));
        self.printed.failed_otherwise |= code != Code::NOT_FOUND;
        if self.options.verbose || self.causes.count(code, text) {
            let hint = self.hint_for(code).map(|h| format!(" ({h})")).unwrap_or_default();
            screen::say(&format!("haul: {}: {}{hint}", output::name(path), printable(text)));
        }
    }

    /// The line for an event other than a failure; `verbose`: also for those of every file.
    fn line(&self, event: &Event, verbose: bool) -> Option<String> {
        let quiet = self.options.quiet && !verbose;
        match event {
            Event::Committed {
                path, difference, ..
            } if self.options.itemize => {
                Some(format!("{:<8}{}", word(*difference), output::name(path)))
            }
            Event::Excluded { path, why } if !quiet => {
                let why = why_excluded(why, self.options.explained.as_ref());
                Some(format!("{:<8}{} ({why})", "exclude", output::name(path)))
            }
            Event::Unchanged {
                path, difference, ..
            } if *difference != Difference::Unspecified
                && (self.options.itemize || (self.options.dry_run && !quiet)) =>
            {
                Some(format!("{:<8}{}", word(*difference), output::name(path)))
            }
            Event::Unchanged { path, .. } if self.options.explained.is_some() => {
                Some(format!("{:<8}{}", "same", output::name(path)))
            }
            Event::Skipped { path, .. } if self.options.explained.is_some() => {
                let why = self.options.skips.as_deref().unwrap_or("as the options say");
                Some(format!("{:<8}{} ({why})", "skip", output::name(path)))
            }
            Event::Committed { path, .. } if verbose => Some(output::name(path)),
            Event::Unchanged { path, .. } if verbose => {
                Some(format!("{} (unchanged)", output::name(path)))
            }
            Event::Skipped { path, .. } if verbose => {
                Some(format!("{} (skipped)", output::name(path)))
            }
            Event::Planned {
                path, difference, ..
            } if !quiet => Some(format!("{:<8}{}", word(*difference), output::name(path))),
            Event::Deleted { path } if self.options.itemize => {
                Some(format!("{:<8}{}", "delete", output::name(path)))
            }
            Event::Deleted { path } if verbose => Some(format!("{} (deleted)", output::name(path))),
            Event::DeletionPlanned { path } if !quiet => {
                Some(format!("{:<8}{}", "delete", output::name(path)))
            }
            Event::NotDeleted {
                reason, command, ..
            } => Some(not_deleted(reason, command.as_deref())),
            Event::Resumed { path, offset } if !quiet => {
                Some(format!("{}: resumes after {}", output::name(path), size(*offset)))
            }
            Event::Restarted { path, discarded } if !quiet => Some(format!(
                "{}: the source changed since the last attempt: restarts, and sends {} again",
                output::name(path),
                size(*discarded)
            )),
            _ => None,
        }
    }

    /// The exit code of a failed file. A directory without `-r` is wrong usage.
    fn exit_for(&self, code: Code) -> u8 {
        match code {
            Code::IS_DIRECTORY if !self.options.recursive => exit::USAGE,
            code => exit_of(code),
        }
    }

    fn hint_for(&self, code: Code) -> Option<&'static str> {
        match code {
            Code::IS_DIRECTORY if !self.options.recursive => Some("use -r for directories"),
            Code::LOCKED if !self.options.waits => Some("use --wait to wait for the other writer"),
            Code::LOCKED => Some("use --wait=TIME to wait longer"),
            Code::VERSION_CHANGED if !self.options.conditional => {
                Some("run it again when the source no longer changes")
            }
            code => hint_of(code),
        }
    }
}

/// Failures by their causes.
#[derive(Default)]
struct Causes(HashMap<(u16, String), Cause>);

struct Cause {
    /// The text of the first of them.
    text: String,
    named: u64,
    omitted: u64,
}

impl Causes {
    fn cause(&mut self, code: Code, text: &str) -> &mut Cause {
        // texts with one cause may differ in sizes and times
        let mut key = (code.0, text.split(|c: char| c.is_ascii_digit()).collect());
        if self.0.len() >= CAUSES && !self.0.contains_key(&key) {
            key.1 = String::new();
        }
        let text = match key.1.as_str() {
            "" => "other reasons",
            _ => text,
        };
        self.0.entry(key).or_insert_with(|| Cause {
            text: text.into(),
            named: 0,
            omitted: 0,
        })
    }

    /// Counts a failure. Returns true if it is to be named.
    fn count(&mut self, code: Code, text: &str) -> bool {
        let cause = self.cause(code, text);
        if cause.named < NAMED {
            cause.named = cause.named.saturating_add(1);
            return true;
        }
        cause.omitted = cause.omitted.saturating_add(1);
        false
    }

    /// One line per cause with failures that were not named.
    fn rest(&self) -> Vec<String> {
        let mut causes: Vec<&Cause> = self.0.values().filter(|cause| cause.omitted > 0).collect();
        causes.sort_by(|a, b| b.omitted.cmp(&a.omitted).then_with(|| a.text.cmp(&b.text)));
        let line = |cause: &Cause| {
            let (count, text) = (cause.omitted, printable(&cause.text));
            format!("haul: and {count} more: {text} (-v names each)")
        };
        causes.into_iter().map(line).collect()
    }
}

/// Why an entry is not sent.
fn why_excluded(why: &Exclusion, rules: Option<&Filter>) -> String {
    match why {
        Exclusion::Rule(index) => match rules.and_then(|rules| rules.rule(*index)) {
            Some(rule) => {
                let (text, origin) = (output::name(rule.text()), rule.origin().unwrap_or_default());
                let is_all = origin.ends_with(text.trim_start_matches(['+', '-', ' ']));
                match is_all {
                    true => printable(origin),
                    false => format!("{}: {text}", printable(origin)),
                }
            }
            None => "a rule".into(),
        },
        Exclusion::IgnoreFile {
            file,
            line,
            pattern,
        } => format!("{}, line {line}: {}", output::name(file), printable(pattern)),
        Exclusion::TooSmall => "--min-size".into(),
        Exclusion::TooLarge => "--max-size".into(),
        Exclusion::FileSystem => "-x: another file system begins there".into(),
        Exclusion::Empty => "-m: nothing in it is sent".into(),
        Exclusion::Unknown => "the server does not say why".into(),
    }
}

/// Why nothing was deleted, and what to type.
fn not_deleted(reason: &str, command: Option<&str>) -> String {
    let hint = command.map(|command| format!(" (to delete them: {command})"));
    let hint = hint.unwrap_or_default();
    format!("haul: nothing was deleted: {}{}", printable(reason), printable(&hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_distinguished_and_bounded() {
        let mut causes = Causes::default();
        let mut named = 0;
        let mut fail = |code, text: &str| named += u64::from(causes.count(code, text));
        for n in 0..1000 {
            fail(Code::DENIED, "permission denied");
            fail(Code::LOCKED, &format!("being written by kim, {n} bytes so far"));
        }
        for letter in 'a'..='z' {
            for other in 'a'..='z' {
                fail(Code::LOCAL_ERROR, &format!("{letter}{other}"));
            }
        }
        assert_eq!(named, 5 + 5 + 62 + 5);
        assert_eq!(
            causes.rest(),
            [
                "haul: and 995 more: being written by kim, 0 bytes so far (-v names each)",
                "haul: and 995 more: permission denied (-v names each)",
                "haul: and 609 more: other reasons (-v names each)",
            ]
        );
    }
}
