//! `haul get`: files and trees from a server.

use super::connect::{self, ConnectArgs};
use super::failure::{Failure, exit, local_failure};
use super::hint;
use super::location::{Location, Remote, split_local};
use super::server::local_user;
use super::transfer::{self, Job, TransferArgs};
use crate::net::client::Client;
use crate::net::client::options::host_name;
use crate::net::client::requests::GetDestination;
use crate::net::transfer::receive::destination::{Target, Tree};
use crate::net::transfer::receive::stream::Stream;
use crate::store::local::LocalStore;
use crate::store::{RemotePath, Store};
use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Fetch files and directories from a server
///
/// Each file appears here complete or not at all, is verified end to end, and is on disk when the
/// command ends. Files that have the same size and modification time here are skipped. Mode,
/// modification time and symlinks are preserved.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul get nas:report.pdf .                  into this directory
  haul get -r nas:photos nas:music /backup/  two trees into a directory
  haul get nas:b.txt a.txt                   under another name
  haul get nas:db.sql - | psql db            to standard output, in order
  haul get -rq nas:photos/. /srv/photos      for cron: the contents of photos
  haul get -r nas: /srv/mirror               everything")]
pub struct Args {
    /// Files and directories (with -r): [USER@]HOST:PATH, all on the same server
    #[arg(required = true, value_name = "SRC", value_hint = hint::REMOTE)]
    sources: Vec<OsString>,

    /// Where to: a local path, or - for standard output. A directory that exists receives the
    /// sources under their names
    #[arg(value_name = "DEST", value_hint = hint::LOCAL)]
    destination: OsString,

    #[command(flatten)]
    pub(super) transfer: TransferArgs,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let sources = args
        .sources
        .iter()
        .map(|s| Location::remote(s))
        .collect::<Result<Vec<Remote>, _>>()?;
    args.transfer.check(sources.len())?;
    let destination = if args.destination.as_bytes() == b"-" {
        if sources.len() > 1 || args.transfer.recursive {
            return Err(Failure::usage("standard output takes a single file"));
        }
        if args.transfer.json {
            return Err(Failure::usage("standard output carries the file: --json cannot be used"));
        }
        GetDestination {
            target: Target::Stream(Stream::new(Box::new(std::io::stdout()))),
            label: b"standard output".to_vec(),
            ancestors: Vec::new(),
        }
    } else {
        let Location::Local(path) = Location::parse(&args.destination)? else {
            return Err(Failure::usage(format!(
                "{} is not on this machine",
                args.destination.display()
            ))
            .hint(
                "get writes local files; write ./NAME for a local file with a colon in its name",
            ));
        };
        local_target(&sources, &path).await?
    };
    get(&sources, destination, &args.transfer, &args.connect).await
}

/// Connects and fetches.
async fn get(
    sources: &[Remote],
    destination: GetDestination,
    args: &TransferArgs,
    connect: &ConnectArgs,
) -> Result<(), Failure> {
    let Some(first) = sources.first() else {
        return Ok(());
    };
    if let Some(other) = sources.iter().find(|s| s.server != first.server) {
        return Err(Failure::usage(format!(
            "{} is on another server than {}",
            other.shown, first.shown
        )));
    }
    let session = connect::open(&first.server, connect, args.purpose()).await?;
    let get = async |client: Arc<Client>, options, reporter| {
        let paths = sources.iter().map(wire_path).collect();
        client.get(paths, destination.clone(), options, reporter).await
    };
    let job = Job {
        verb: "get",
        args,
        about: &first.shown,
    };
    transfer::carry(session, job, get, || true).await
}

/// The path of a source. A slash at its end follows a symlink to a directory, as usual.
fn wire_path(remote: &Remote) -> Vec<u8> {
    let mut path = remote.path.as_bytes().to_vec();
    if remote.directory && !path.is_empty() {
        path.push(b'/');
    }
    path
}

/// Finds the place of each source beneath the destination, by the rules of cp. The server does not
/// choose the names.
pub(super) async fn local_target(
    sources: &[Remote],
    destination: &Path,
) -> Result<GetDestination, Failure> {
    let slash = destination.as_os_str().as_bytes().ends_with(b"/");
    let is_dir = std::fs::metadata(destination).is_ok_and(|m| m.is_dir());
    let (base, tops) = if is_dir {
        let mut seen = HashSet::new();
        let mut tops = Vec::with_capacity(sources.len());
        for source in sources {
            let top = match source.path.split() {
                Some((_, name)) if !source.contents => {
                    RemotePath::root().join(&name).unwrap_or_default()
                }
                _ => RemotePath::root(),
            };
            if !seen.insert(top.clone()) {
                return Err(Failure::usage(format!(
                    "two sources would go to the name of {}",
                    source.shown
                ))
                .hint("get them one by one"));
            }
            tops.push(top);
        }
        (destination.to_path_buf(), tops)
    } else {
        if slash || sources.len() > 1 {
            let message = format!("{}: no such directory", destination.display());
            return Err(Failure::new(exit::NOT_FOUND, message).hint("create it first"));
        }
        let (parent, top) = split_local(destination).map_err(|e| {
            let message = format!("{}: the name is not allowed: {e}", destination.display());
            Failure::new(exit::FAILED, message)
        })?;
        (parent, vec![top])
    };
    let store = LocalStore::open(&base).map_err(|e| local_failure(destination, &e))?;
    let store = store
        .subtree(&RemotePath::root())
        .await
        .map_err(|e| Failure::about(destination.display(), e))?;
    let tree = Tree {
        store,
        tops,
        who: format!("{}@{}, haul get, process {}", local_user(), host_name(), std::process::id()),
        release: None,
        write_only: false,
    };
    Ok(GetDestination {
        target: Target::Tree(tree),
        label: label_of(&base),
        ancestors: LocalStore::ancestors(&base),
    })
}

/// The prefix of names in messages: empty for the working directory.
fn label_of(base: &PathBuf) -> Vec<u8> {
    if base == Path::new(".") {
        Vec::new()
    } else {
        base.as_os_str().as_bytes().to_vec()
    }
}
