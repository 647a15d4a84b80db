//! `haul mkdir`: directories on a server.

use super::connect::ConnectArgs;
use super::each::each;
use super::failure::Failure;
use super::hint;
use std::ffi::OsString;

/// Make directories on a server
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul mkdir nas:backup
  haul mkdir -p nas:backup/2026/11  with what is above it; no error if it exists")]
pub struct Args {
    /// Which: [USER@]HOST:PATH
    #[arg(required = true, value_name = "PATH", value_hint = hint::REMOTE)]
    paths: Vec<OsString>,

    /// Also make what is above it, and do not mind if it exists
    #[arg(short, long)]
    parents: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    each(&args.paths, &args.connect, async |client, path| {
        client.make_dir(path, args.parents).await
    })
    .await
}
