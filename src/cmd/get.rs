//! `haul get`: files and trees from a server.

use super::connect::{self, ConnectArgs};
use super::failure::{Failure, exit, local_failure};
use super::hint;
use super::location::{Location, Remote, split_local};
use super::server::local_user;
use super::transfer::{self, Job, TransferArgs};
use crate::net::NetError;
use crate::net::client::Client;
use crate::net::client::options::host_name;
use crate::net::client::requests::{GetDestination, IfMissing};
use crate::net::transfer::filter::MAX_SENT_FILTER;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::destination::{Target, Tree};
use crate::net::transfer::receive::stream::Stream;
use crate::store::local::LocalStore;
use crate::store::{Kind, RemotePath, Rights, Store};
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
#[command(override_usage = "haul get [OPTIONS] <SRC>... [DEST]")]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  haul get nas:report.pdf                    into this directory
  haul get -r nas:photos nas:music /backup/  two trees into a directory
  haul get nas:b.txt a.txt                   under another name
  haul get nas:db.sql - | psql db            to standard output, in order
  haul get -rq nas:photos/ /srv/photos       for cron: the contents of photos
  haul get -r --only '*.jpg' nas:photos .    the pictures only
  haul get -r nas: /srv/mirror               everything"
)]
pub struct Args {
    /// Files and directories (with -r) on one server: [USER@]HOST:PATH. Then DEST: a local path, or
    /// standard output as - [default: .]. A directory SRC becomes DEST/SRC, and SRC/ means its
    /// contents. A file goes into DEST if that is a directory, or becomes DEST
    #[arg(required = true, value_name = "SRC|DEST", value_hint = hint::LOCAL_OR_REMOTE)]
    paths: Vec<OsString>,

    #[command(flatten)]
    pub(super) transfer: TransferArgs,

    #[command(flatten)]
    connect: ConnectArgs,
}

impl Args {
    /// The sources, and the destination: the last path, unless that is remote too.
    fn places(&self) -> Result<(Vec<Remote>, OsString), Failure> {
        let (sources, destination) = match self.paths.split_last() {
            Some((last, sources @ [_, ..]))
                if matches!(Location::parse(last)?, Location::Local(_)) =>
            {
                (sources, last.clone())
            }
            _ => (self.paths.as_slice(), OsString::from(".")),
        };
        let remotes = sources.iter().map(|s| Location::remote(s));
        Ok((remotes.collect::<Result<_, _>>()?, destination))
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let (sources, destination) = args.places()?;
    let mut options = args.transfer.options(sources.len(), &args.paths)?;
    args.transfer.metadata.resolve(&mut options.metadata)?;
    if options.filter.to_wire().len() > MAX_SENT_FILTER {
        return Err(Failure::usage("the rules of a get have at most 32 KiB")
            .hint("use fewer patterns, or wider ones"));
    }
    let place = if destination.as_bytes() == b"-" {
        if sources.len() > 1 || args.transfer.is_recursive() {
            return Err(Failure::usage("standard output takes a single file"));
        }
        if args.transfer.dry_run {
            return Err(Failure::usage("standard output takes the file: --dry-run cannot be used"));
        }
        if args.transfer.json {
            return Err(Failure::usage("standard output carries the file: --json cannot be used"));
        }
        Place::Known(GetDestination {
            target: Target::Stream(Stream::new(Box::new(std::io::stdout()))),
            label: b"standard output".to_vec(),
            ancestors: Vec::new(),
        })
    } else {
        let path = PathBuf::from(&destination);
        let may_name_dirs = sources.iter().any(|source| !source.means_contents());
        match args.transfer.is_recursive() && may_name_dirs && !path.is_dir() {
            // a directory goes to DEST/NAME, a file to DEST
            true => Place::Asked(path),
            false => Place::Known(local_target(&sources, &path, IfMissing::Name).await?),
        }
    };
    get(&sources, place, (&args.transfer, options), &args.connect).await
}

/// Where the sources go.
enum Place {
    Known(GetDestination),
    /// Depends on what the sources are: this path is no directory.
    Asked(PathBuf),
}

/// Connects and fetches.
async fn get(
    sources: &[Remote],
    place: Place,
    (args, options): (&TransferArgs, Options),
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
    let mut session = connect::open(&first.server, connect, args.purpose()).await?;
    let destination = match place {
        Place::Known(destination) => destination,
        Place::Asked(path) => {
            let found = session.ask(async |client| any_dir(client, sources).await).await;
            let if_missing = match found.map_err(|e| Failure::about(&first.shown, e))? {
                true => IfMissing::Make,
                false => IfMissing::Name,
            };
            local_target(sources, &path, if_missing).await?
        }
    };
    let destination = destination.with_dry_run(options.dry_run);
    let get = async |client: Arc<Client>, options, reporter| {
        let paths = sources.iter().map(wire_path).collect();
        client.get(paths, destination.clone(), options, reporter).await
    };
    let job = Job {
        verb: "get",
        args,
        options,
        about: &first.shown,
    };
    transfer::carry(session, job, get, || true).await
}

/// True where one of the sources is a directory that has a name at the destination. What cannot be
/// found is reported by the transfer.
async fn any_dir(client: &Client, sources: &[Remote]) -> Result<bool, NetError> {
    for source in sources.iter().filter(|source| !source.means_contents()) {
        match client.stat(source.path.as_bytes(), false).await {
            Ok((entry, _)) if entry.kind == Kind::Dir => return Ok(true),
            Ok(_) | Err(NetError::Refused { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// The path of a source. A slash at its end follows a symlink to a directory, as usual.
fn wire_path(remote: &Remote) -> Vec<u8> {
    let mut path = remote.path.as_bytes().to_vec();
    if remote.directory && !path.is_empty() {
        path.push(b'/');
    }
    path
}

/// Finds the place of each source beneath the destination. The server does not choose the names.
pub(super) async fn local_target(
    sources: &[Remote],
    destination: &Path,
    if_missing: IfMissing,
) -> Result<GetDestination, Failure> {
    let slash = destination.as_os_str().as_bytes().ends_with(b"/");
    let found = std::fs::metadata(destination);
    if found.as_ref().is_ok_and(std::fs::Metadata::is_dir) {
        return within(destination, names_of(sources)?, None).await;
    }
    let makes = if_missing == IfMissing::Make && found.is_err();
    if !makes && (slash || sources.len() > 1) {
        let message = format!("{}: no such directory", destination.display());
        return Err(Failure::new(exit::NOT_FOUND, message).hint("create it first"));
    }
    let (parent, top) = split_local(destination).map_err(|e| {
        let message = format!("{}: the name is not allowed: {e}", destination.display());
        Failure::new(exit::FAILED, message)
    })?;
    if !makes {
        return within(&parent, vec![top], None).await;
    }
    let names = names_of(sources)?;
    let tops = names.iter().map(|name| top.append(name));
    let tops = tops.collect::<Result<Vec<_>, _>>();
    let tops = tops.map_err(|e| Failure::usage(format!("{}: {e}", destination.display())))?;
    within(&parent, tops, Some(top)).await
}

/// The name of each source in a directory that receives it.
fn names_of(sources: &[Remote]) -> Result<Vec<RemotePath>, Failure> {
    let mut seen = HashSet::new();
    let mut names = Vec::with_capacity(sources.len());
    for source in sources {
        let name = match source.path.split() {
            Some((_, name)) if !source.means_contents() => {
                RemotePath::root().join(&name).unwrap_or_default()
            }
            _ => RemotePath::root(),
        };
        if !seen.insert(name.clone()) {
            let message = format!("two sources would go to the name of {}", source.shown);
            return Err(Failure::usage(message).hint("get them one by one"));
        }
        names.push(name);
    }
    Ok(names)
}

/// The directory `dir` as a destination, with the place of each source in it, and the directory in
/// it that is made first.
async fn within(
    dir: &Path,
    tops: Vec<RemotePath>,
    base: Option<RemotePath>,
) -> Result<GetDestination, Failure> {
    let store = LocalStore::open(dir).and_then(|store| store.with_rights(Rights::of_process()));
    let store = store
        .map_err(|e| local_failure(dir, &e))?
        .subtree(&RemotePath::root())
        .await
        .map_err(|e| Failure::about(dir.display(), e))?;
    let tree = Tree {
        store,
        tops,
        base,
        dry_run: false,
        who: format!("{}@{}, haul get, process {}", local_user(), host_name(), std::process::id()),
        release: None,
        write_only: false,
    };
    Ok(GetDestination {
        target: Target::Tree(tree),
        label: label_of(dir),
        ancestors: LocalStore::ancestors(dir),
    })
}

/// The prefix of names in messages: empty for the working directory.
fn label_of(base: &Path) -> Vec<u8> {
    if base == Path::new(".") {
        Vec::new()
    } else {
        base.as_os_str().as_bytes().to_vec()
    }
}
