//! `haul rm`: removes from a server.

use super::connect::ConnectArgs;
use super::each::each;
use super::failure::Failure;
use super::hint;
use crate::net::NetError;
use crate::net::wire::Code;
use std::ffi::OsString;

/// Remove files and directories from a server
///
/// Without -r, a directory is removed only if it is empty.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul rm nas:old.txt nas:older.txt
  haul rm -r nas:backup/2025
  haul rm -f nas:maybe.txt             no error if it does not exist")]
pub struct Args {
    /// Files and directories: [USER@]HOST:PATH
    #[arg(required = true, value_name = "PATH", value_hint = hint::REMOTE)]
    paths: Vec<OsString>,

    /// Remove directories with everything in them
    #[arg(short, long)]
    recursive: bool,

    /// Ignore paths that do not exist
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    each(&args.paths, &args.connect, async |client, path| {
        match client.remove(path, args.recursive).await {
            Err(NetError::Refused {
                code: Code::NOT_FOUND,
                ..
            }) if args.force => Ok(()),
            other => other,
        }
    })
    .await
}
