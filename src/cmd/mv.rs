//! `haul mv`: renames on a server.

use super::connect::{self, ConnectArgs};
use super::failure::Failure;
use super::hint;
use super::location::Location;
use std::ffi::OsString;

/// Rename or move a file or directory on a server
///
/// If TO is a file, it is replaced; if it is a directory, FROM moves into it. A TO that ends with a
/// slash must be a directory.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul mv nas:a.txt nas:b.txt
  haul mv nas:a.txt nas:archive/")]
pub struct Args {
    /// File or directory: [USER@]HOST:PATH
    #[arg(value_name = "FROM", value_hint = hint::REMOTE)]
    from: OsString,

    /// Where to: [USER@]HOST:PATH, on the same server
    #[arg(value_name = "TO", value_hint = hint::REMOTE)]
    to: OsString,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let (from, to) = (Location::remote(&args.from)?, Location::remote(&args.to)?);
    if from.server != to.server {
        return Err(Failure::usage(format!(
            "{} is on another server than {}",
            to.shown, from.shown
        ))
        .hint("get it and put it there"));
    }
    let mut session = connect::for_requests(&from.server, &args.connect).await?;
    let renamed = session
        .ask(async |client| {
            let (from, into) = (from.path.as_bytes(), to.path.as_bytes());
            client.rename(from, into, to.directory).await
        })
        .await;
    session.quit().await;
    renamed.map_err(|e| Failure::about(format!("{} to {}", from.shown, to.shown), e))
}
