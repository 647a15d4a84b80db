//! `haul mkdir`: makes directories on a server.

use super::connect::ConnectArgs;
use super::each::each;
use super::failure::Failure;
use super::hint;
use super::patterns::Patterns;
use std::ffi::OsString;

/// Make directories on a server
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul mkdir nas:backup
  haul mkdir -p nas:backup/2026/11  with its parents; no error if it exists")]
pub struct Args {
    /// Directories: [USER@]HOST:PATH
    #[arg(required = true, value_name = "PATH", value_hint = hint::REMOTE)]
    paths: Vec<OsString>,

    /// Make missing parents too; no error if it exists
    #[arg(short, long)]
    parents: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    each(&args.paths, &args.connect, Patterns::Literal, async |client, path| {
        client.make_dir(path, args.parents).await
    })
    .await
}
