//! `haul cat`: files of a server, to standard output.

use super::connect::ConnectArgs;
use super::each::{parse, sum_up};
use super::failure::Failure;
use super::get::to_stdout;
use super::hint;
use super::patterns::{Patterns, expand_all};
use std::ffi::OsString;

/// Print files of a server to standard output
///
/// The bytes are verified before they are printed, in order, as with haul get FILE -.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul cat nas:log/today.txt | grep -i error
  haul cat 'nas:log/*.txt'             a pattern: the server finds what matches")]
pub struct Args {
    /// Files: [USER@]HOST:PATH. PATH may be a pattern
    #[arg(required = true, value_name = "PATH", value_hint = hint::REMOTE)]
    paths: Vec<OsString>,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let (mut done, mut failures) = (0_usize, Vec::new());
    for remote in parse(&args.paths)? {
        let files = match expand_all(vec![remote], &args.connect, Patterns::All).await {
            Ok(files) => files,
            Err(e) => {
                failures.push(e);
                continue;
            }
        };
        for file in &files {
            match to_stdout(file, &args.connect).await {
                Ok(()) => done = done.saturating_add(1),
                Err(e) => failures.push(e),
            }
        }
    }
    sum_up(done, failures)
}
