//! `haul ln`: makes symlinks on a server.

use super::connect;
use super::connect::ConnectArgs;
use super::failure::{Failure, exit};
use super::hint;
use super::locate::locate;
use super::location::Location;
use super::remote::Remote;
use crate::net::NetError;
use crate::store::{Kind, Name};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Make a symlink on a server
///
/// TARGET is the text of the link: a path as seen from the link's directory, or one that begins
/// with a slash. It need not exist. The server follows links only where they stay beneath your
/// root.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul ln -s 2026-11-30 nas:backup/latest
  haul ln -sf 2026-12-01 nas:backup/latest   replaces the link
  haul ln -s ../photos nas:album/            album/photos")]
pub struct Args {
    /// Make a symbolic link: haul makes no others
    #[arg(short, long, required = true)]
    symbolic: bool,

    /// Replace a file or link that has the name
    #[arg(short, long)]
    force: bool,

    /// What the link leads to
    #[arg(value_name = "TARGET")]
    target: OsString,

    /// The link, or the directory for it: [USER@]HOST:PATH
    #[arg(value_name = "LINK", value_hint = hint::REMOTE)]
    link: OsString,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let link = Location::remote(&args.link)?;
    let target = args.target.as_bytes();
    if target.is_empty() {
        return Err(Failure::usage("TARGET is empty"));
    }
    if matches!(Location::parse(&args.target), Ok(Location::Remote(to)) if to.server == link.server)
    {
        return Err(Failure::usage(format!("{} is not a link's text", args.target.display()))
            .hint("write TARGET without the server, as seen from the link's directory"));
    }
    let link = locate(&link, &args.connect).await?;
    let mut session = connect::for_requests(&link.server, &args.connect).await?;
    let made = session.ask(async |client| {
        let entry = match client.stat(link.path.as_bytes(), false).await {
            Ok((entry, _)) => Some(entry),
            Err(NetError::Refused { .. }) => None,
            Err(e) => return Err(e),
        };
        let is_dir = entry.is_some_and(|entry| entry.kind == Kind::Dir);
        match place(&link, target, is_dir) {
            Ok(place) => client.make_symlink(&place, target, args.force).await.map(Ok),
            Err(e) => Ok(Err(e)),
        }
    });
    let made = made.await;
    session.quit().await;
    made.and_then(|made| made).map_err(|e| Failure::about(&link.shown, e))
}

/// The path of the link: within a directory it has the last name of its target.
fn place(link: &Remote, target: &[u8], is_dir: bool) -> Result<Vec<u8>, Failure> {
    match (is_dir, link.directory) {
        (false, false) => return Ok(link.path.as_bytes().to_vec()),
        (false, true) => return Err(Failure::new(exit::NOT_FOUND, "no such directory")),
        (true, _) => {}
    }
    let last = std::path::Path::new(OsStr::from_bytes(target))
        .file_name()
        .unwrap_or_default();
    let name = Name::parse(last.as_bytes()).map_err(|_| {
        Failure::usage("it is a directory, and TARGET has no last name").hint("name the link")
    })?;
    let path = link.path.join(&name).map_err(|e| Failure::usage(e.to_string()))?;
    Ok(path.as_bytes().to_vec())
}
