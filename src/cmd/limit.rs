//! `haul limit`: the rates of transfers that run.

use super::failure::Failure;
use super::rate::{Rate, parse_rate};
use super::running::{self, Running};
use super::{output, table};
use crate::net::printable;
use serde_json::json;

/// List the transfers that run, or change the rate of one
///
/// The new rate counts at once. It ends with the transfer. Without RATE the command lists the
/// transfers of this user on this machine: process, verb, place and rate.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul limit                  what runs, and how fast it may go
  haul limit 2M               2 MiB a second, where one transfer runs
  haul limit 500k 12345       of the transfer of process 12345
  haul limit off              as fast as possible")]
pub struct Args {
    /// Bytes a second, as with rsync: 2M, 1.5m, 500k; a number alone is in KiB. 'off': no limit
    #[arg(value_parser = parse_rate)]
    rate: Option<Rate>,

    /// The process of the transfer, if several run
    #[arg(value_name = "JOB")]
    job: Option<u32>,

    /// Print one JSON object per line: pid, verb, place, rate (bytes a second, or null)
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let Some(rate) = args.rate else {
        return list(&running::all().await?, args.json);
    };
    let pid = match args.job {
        Some(pid) => pid,
        None => the_only(&running::all().await?)?,
    };
    running::limit(pid, rate).await
}

/// The process of the only transfer.
fn the_only(running: &[Running]) -> Result<u32, Failure> {
    match running {
        [one] => Ok(one.pid),
        [] => Err(Failure::usage("no transfer runs")),
        several => Err(Failure::usage(format!("{} transfers run", several.len()))
            .hint("name one by its process: haul limit RATE JOB; haul limit lists them")),
    }
}

fn list(running: &[Running], json: bool) -> Result<(), Failure> {
    if json {
        let object = |one: &Running| {
            let Running {
                pid,
                verb,
                about,
                rate,
            } = one;
            json!({"pid": pid, "verb": verb, "place": about, "rate": rate})
        };
        return running.iter().try_for_each(|one| output::line(&object(one).to_string()));
    }
    if running.is_empty() {
        return Ok(());
    }
    let row = |one: &Running| {
        let (verb, place) = (printable(&one.verb), printable(&one.about));
        [
            one.pid.to_string(),
            verb.to_string(),
            Rate(one.rate).to_string(),
            place.to_string(),
        ]
    };
    let rows: Vec<_> = running.iter().map(row).collect();
    table::print(["job", "verb", "rate", "place"], &rows)
}
