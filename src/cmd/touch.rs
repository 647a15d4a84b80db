//! `haul touch`: sets the time of files on a server, or makes empty ones.

use super::connect::ConnectArgs;
use super::each::each;
use super::failure::Failure;
use super::hint;
use super::patterns::Patterns;
use super::units::parse_moment;
use crate::net::NetError;
use crate::net::client::changes::Missing;
use crate::net::wire::Code;
use crate::store::{Change, NewTime, Time};
use std::ffi::OsString;

/// Set the modification time of files on a server, or make empty files
///
/// The time is the server's present one. A symlink is refused.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul touch nas:done
  haul touch -c 'nas:log/*.txt'        makes no file
  haul touch -d '2026-11-30 12:00' nas:report.pdf")]
pub struct Args {
    /// Files and directories: [USER@]HOST:PATH. PATH may be a pattern
    #[arg(required = true, value_name = "PATH", value_hint = hint::REMOTE)]
    paths: Vec<OsString>,

    /// Make no file
    #[arg(short = 'c', long)]
    no_create: bool,

    /// Set TIME: 2026-11-30, '2026-11-30 12:00', 2026-11-30T12:00:00Z, or @SECONDS since 1970
    #[arg(short, long, value_name = "TIME", value_parser = parse_moment)]
    date: Option<Time>,

    /// Change the modification time only, as haul always does
    #[arg(short)]
    modification: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let change = Change {
        mode: None,
        mtime: Some(args.date.map_or(NewTime::Now, NewTime::At)),
    };
    let missing = match args.no_create {
        true => Missing::Refused,
        false => Missing::Made,
    };
    each(&args.paths, &args.connect, Patterns::All, async |client, path| match client
        .set_attributes(path, change, missing)
        .await
    {
        Err(NetError::Refused {
            code: Code::NOT_FOUND,
            ..
        }) if args.no_create => Ok(()),
        other => other,
    })
    .await
}
