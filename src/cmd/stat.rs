//! `haul stat`: shows the attributes of an entry on a server.

use super::connect::ConnectArgs;
use super::each::each;
use super::failure::Failure;
use super::hint;
use super::output;
use super::patterns::Patterns;
use super::units;
use crate::store::Entry;
use std::cell::Cell;
use std::ffi::OsString;

/// Show the attributes of a file or directory on a server
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul stat nas:report.pdf
  haul stat --hash nas:report.pdf      with its BLAKE3 hash, as b3sum prints it
  haul stat --json nas:x | jq -r .version")]
pub struct Args {
    /// Files and directories: [USER@]HOST:PATH
    #[arg(required = true, value_name = "PATH", value_hint = hint::REMOTE)]
    paths: Vec<OsString>,

    /// Print the BLAKE3 hash of its content too
    #[arg(long)]
    hash: bool,

    /// Print one JSON object per line
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let printed = Cell::new(Ok(()));
    each(&args.paths, &args.connect, Patterns::All, async |client, path| {
        let (entry, hash) = client.stat(path, args.hash).await?;
        let result = if args.json {
            output::line(&output::entry_json(&entry, path, hash).to_string())
        } else {
            output::line(&describe(&entry, path, hash))
        };
        printed.set(printed.replace(Ok(())).and(result));
        Ok(())
    })
    .await?;
    printed.into_inner()
}

fn describe(entry: &Entry, path: &[u8], hash: Option<[u8; 32]>) -> String {
    let shown = if path.is_empty() {
        "/".to_string()
    } else {
        output::name(path)
    };
    let mut lines = vec![
        format!("path      {shown}"),
        format!("kind      {}", output::kind(entry.kind)),
        format!("size      {} bytes ({})", entry.size, units::size(entry.size)),
        format!("modified  {}", units::rfc3339(entry.attributes.mtime)),
        format!(
            "mode      {:04o} {}",
            entry.attributes.mode,
            output::mode(entry.kind, &entry.attributes)
        ),
    ];
    if let Some(target) = &entry.target {
        lines.push(format!("target    {}", output::name(target)));
    }
    if let Some(hash) = hash {
        lines.push(format!("blake3    {}", output::hex(&hash)));
    }
    lines.push(format!("version   {}", crate::net::printable(&entry.version.to_string())));
    lines.join("\n")
}
