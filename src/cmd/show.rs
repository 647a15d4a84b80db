//! Shows a transfer while it runs, and sums it up when it has ended.

use super::failure::{Failure, exit, exit_of_parts};
use super::output;
use super::progress::{Progress, Wish};
use super::report::{self, Printed, ReportOptions};
use super::summary::Summary;
use crate::net::client::outage::Outage;
use crate::net::transfer::report::Reporter;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Shows a transfer while it runs, and summarises it.
pub struct Show {
    verb: &'static str,
    options: ReportOptions,
    reporter: Reporter,
    printer: tokio::task::JoinHandle<Printed>,
    started: Instant,
}

impl Show {
    /// Starts to show a transfer.
    pub fn start(
        verb: &'static str,
        options: ReportOptions,
        wish: Wish,
        outage: Arc<Outage>,
    ) -> Show {
        let (events, incoming) = mpsc::channel(1024);
        let reporter = Reporter::new(events, options.is_of_each());
        let progress = Progress::start(reporter.counters.clone(), outage, wish);
        Show {
            verb,
            printer: tokio::spawn(report::print_all(incoming, progress, options.clone())),
            options,
            reporter,
            started: Instant::now(),
        }
    }

    /// Where the transfer reports to.
    pub fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }

    /// Prints the summary after the transfer, and decides the exit code. An error of the whole
    /// transfer names `about`.
    ///
    /// # Errors
    /// Any failure, for an exit code other than 0.
    pub async fn end(self, result: Result<(), Failure>, about: &str) -> Result<(), Failure> {
        let Show {
            verb,
            options,
            reporter,
            printer,
            started,
        } = self;
        let counters = reporter.counters.clone();
        drop(reporter);
        let printed = printer.await.unwrap_or_default();
        let summary = Summary::of(verb, &counters, started.elapsed());
        let complete = result.is_ok();
        if let Some(log) = &options.log {
            log.line(&summary.line()).map_err(|e| Failure::io("the log file", &e))?;
        }
        let mut result = result.map_err(|e| {
            let safe = match summary.files {
                0 => String::new(),
                n => format!(", {n} files arrived and are safe"),
            };
            Failure::about(about, e).and(&safe)
        });
        if options.json {
            // the summary is the last object
            result = result.map_err(|e| {
                e.report();
                Failure::already_reported(e.exit())
            });
            output::line(&summary.json(complete).to_string())?;
        } else if !options.quiet && (complete || summary.has_any()) {
            match options.dry_run {
                true => eprintln!("{}", summary.plan()),
                false => eprintln!("{}", summary.line()),
            }
            summary.omitted().iter().for_each(|line| eprintln!("{line}"));
        }
        result?;
        if let Some(broken) = printed.broken {
            return Err(broken);
        }
        if printed.guarded {
            return Err(Failure::already_reported(exit::GUARD));
        }
        match exit_of_parts(summary.has_done(), &printed.failures) {
            0 => Ok(()),
            code => {
                let vanished = !printed.failed_otherwise;
                Err(Failure::already_reported(code).with_vanished(vanished))
            }
        }
    }
}
