//! `haul du`: the sizes of trees on a server.

use super::connect::{ConnectArgs, RemoteSession};
use super::each::{self, each_remote};
use super::failure::{Failure, exit};
use super::hint;
use super::output;
use super::patterns::Patterns;
use super::remote::Remote;
use super::units;
use super::walk::{Descend, Step, walk};
use crate::store::{Kind, RemotePath};
use serde_json::json;
use std::ffi::OsString;

/// Show the sizes of trees on a server
///
/// Sizes are bytes of content, as with du --apparent-size: what a transfer would carry.
#[derive(clap::Args)]
#[command(
    after_help = "\
Examples:
  haul du -sh nas:photos nas:music     one line each
  haul du -h -d 1 nas:                 the directories of your root
  haul du -sh 'nas:*'                  a pattern: the server finds what matches
  haul du --json nas:photos | jq .size",
    disable_help_flag = true
)]
#[allow(clippy::struct_excessive_bools)]
pub struct Args {
    /// Files and directories: [USER@]HOST:PATH. PATH may be a pattern
    #[arg(required = true, value_name = "PATH", value_hint = hint::REMOTE)]
    paths: Vec<OsString>,

    /// Print a line for each PATH only
    #[arg(short, long, conflicts_with_all = ["all", "max_depth"])]
    summarize: bool,

    /// Print a line for each file, too
    #[arg(short, long)]
    all: bool,

    /// Print directories at most N levels beneath PATH
    #[arg(short = 'd', long, value_name = "N")]
    max_depth: Option<usize>,

    /// Print sizes with units instead of bytes
    #[arg(short = 'h', long)]
    human_readable: bool,

    /// Print one JSON object per line: path, size (bytes), files
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    connect: ConnectArgs,

    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// What a directory has so far.
#[derive(Clone, Copy, Default)]
struct Sum {
    size: u64,
    files: u64,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let remotes = each::parse(&args.paths)?;
    let done = each_remote(&remotes, &args.connect, Patterns::Outermost, async |session, top| {
        measure(session, &args, top).await
    });
    done.await
}

async fn measure(session: &mut RemoteSession, args: &Args, top: &Remote) -> Result<(), Failure> {
    let most = match args.summarize {
        true => 0,
        false => args.max_depth.unwrap_or(usize::MAX),
    };
    // of the open directories, outermost first
    let mut sums: Vec<Sum> = Vec::new();
    let visit = async |_: &mut RemoteSession, step: Step<'_>| {
        let (path, depth, sum, shown) = match step {
            Step::Entry { entry, .. } if entry.kind == Kind::Dir => {
                sums.push(Sum::default());
                return Ok(Descend::Yes);
            }
            Step::Entry { path, entry, depth } => {
                let sum = Sum {
                    size: entry.size,
                    files: 1,
                };
                (path, depth, sum, args.all || depth == 0)
            }
            Step::Leave { path, depth } => (path, depth, sums.pop().unwrap_or_default(), true),
        };
        if let Some(above) = sums.last_mut() {
            above.size = above.size.saturating_add(sum.size);
            above.files = above.files.saturating_add(sum.files);
        }
        if shown && depth <= most {
            print(args, top, path, sum)?;
        }
        Ok(Descend::No)
    };
    match walk(session, top, visit).await? {
        true => Ok(()),
        false => Err(Failure::already_reported(exit::PARTIAL)),
    }
}

fn print(args: &Args, top: &Remote, path: &RemotePath, sum: Sum) -> Result<(), Failure> {
    if args.json {
        let mut object = serde_json::Map::new();
        output::put_text(&mut object, "path", path.as_bytes());
        object.insert("size".into(), json!(sum.size));
        object.insert("files".into(), json!(sum.files));
        return output::line(&serde_json::Value::Object(object).to_string());
    }
    let size = match args.human_readable {
        true => units::size(sum.size),
        false => sum.size.to_string(),
    };
    let shown = match *path == top.path {
        true => top.shown.clone().into_bytes(),
        false => top.written(path),
    };
    output::line(&format!("{size}\t{}", output::name(&shown)))
}
