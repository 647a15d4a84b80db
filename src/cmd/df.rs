//! `haul df`: shows the space of a server.

use super::connect::ConnectArgs;
use super::each::each;
use super::failure::Failure;
use super::hint;
use super::output;
use super::patterns::Patterns;
use super::units;
use serde_json::json;
use std::cell::Cell;
use std::ffi::OsString;

/// Show the free and used space of a server
#[derive(clap::Args)]
#[command(
    after_help = "\
Examples:
  haul df -h nas:                      with units
  haul df --json nas:backup | jq .free",
    disable_help_flag = true
)]
pub struct Args {
    /// Paths on the file systems: [USER@]HOST:PATH
    #[arg(required = true, value_name = "PATH", value_hint = hint::REMOTE)]
    paths: Vec<OsString>,

    /// Print sizes with units instead of bytes
    #[arg(short = 'h', long)]
    human_readable: bool,

    /// Print one JSON object per line: path, total, used, free (bytes), files, files_free (inodes)
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    connect: ConnectArgs,

    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let printed = Cell::new(Ok(()));
    if !args.json {
        output::line(&format!("{:>16} {:>16} {:>16}  path", "size", "used", "free"))?;
    }
    each(&args.paths, &args.connect, Patterns::All, async |client, path| {
        let space = client.space(path).await?;
        let result = if args.json {
            let mut object = serde_json::Map::new();
            output::put_text(&mut object, "path", path);
            let sizes = [("total", space.total), ("used", space.used), ("free", space.free)];
            let inodes = [("files", space.files), ("files_free", space.files_free)];
            object.extend(
                sizes.into_iter().chain(inodes).map(|(key, n)| (key.to_string(), json!(n))),
            );
            output::line(&serde_json::Value::Object(object).to_string())
        } else {
            let shown = |bytes: u64| match args.human_readable {
                true => units::size(bytes),
                false => bytes.to_string(),
            };
            let sizes = [space.total, space.used, space.free].map(shown);
            let [total, used, free] = sizes;
            output::line(&format!("{total:>16} {used:>16} {free:>16}  /{}", output::name(path)))
        };
        printed.set(printed.replace(Ok(())).and(result));
        Ok(())
    })
    .await?;
    printed.into_inner()
}
