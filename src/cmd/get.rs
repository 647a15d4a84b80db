//! `haul get`: files and trees from a server.

use super::backup::back_up;
use super::connect::{self, ConnectArgs};
use super::deletion::Deletion;
use super::destination::{LocalPlace, make_path};
use super::failure::Failure;
use super::hint;
use super::location::{Location, Remote};
use super::patterns::{self, Patterns};
use super::transfer::{self, Job, TransferArgs};
use crate::net::NetError;
use crate::net::client::Client;
use crate::net::client::requests::{GetDestination, IfMissing};
use crate::net::deletion::place::Place as End;
use crate::net::deletion::search::Pair;
use crate::net::transfer::filter::MAX_SENT_FILTER;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::destination::Target;
use crate::net::transfer::receive::stream::Stream;
use crate::net::transfer::report::Reporter;
use crate::store::local::LocalStore;
use crate::store::{Kind, RemotePath};
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
    args_override_self = true,
    after_help = "\
Examples:
  haul get nas:report.pdf                    into this directory
  haul get -r nas:photos nas:music /backup/  two trees into a directory
  haul get nas:b.txt a.txt                   under another name
  haul get nas:db.sql - | psql db            to standard output, in order
  haul get -rq nas:photos/ /srv/photos       for cron: the contents of photos
  haul get 'nas:log/*.{gz,xz}' logs/         what matches, at the server
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
    /// The arguments of a copy from a server.
    pub(super) fn new(paths: Vec<OsString>, transfer: TransferArgs, connect: ConnectArgs) -> Args {
        Args {
            paths,
            transfer,
            connect,
        }
    }

    /// The sources, and the destination: the last path, unless that is remote too.
    fn places(&self) -> Result<(Vec<Remote>, OsString), Failure> {
        let (sources, destination) = match self.paths.split_last() {
            Some((last, sources @ [_, ..]))
                if matches!(Location::parse(last)?, Location::Local(_)) =>
            {
                (sources, last.clone())
            }
            _ if self.transfer.deletion.is_wanted() => {
                let missing = "--delete deletes at DEST, and none is given";
                return Err(Failure::usage(missing).hint("write . for the working directory"));
            }
            _ => (self.paths.as_slice(), OsString::from(".")),
        };
        let remotes = sources.iter().map(|s| Location::remote(s));
        Ok((remotes.collect::<Result<_, _>>()?, destination))
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let (sources, destination) = args.places()?;
    let patterns = match args.transfer.is_recursive() {
        true => Patterns::Outermost,
        false => Patterns::All,
    };
    let sources = patterns::expand_all(sources, &args.connect, patterns).await?;
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
        Place::Known(standard_output())
    } else {
        let path = PathBuf::from(&destination);
        if args.transfer.makes_path() {
            make_path(&path, sources.len() > 1)?;
        }
        let has_contents = sources.iter().any(Remote::means_contents);
        match (args.transfer.is_recursive() && !path.is_dir(), has_contents) {
            // a directory goes to DEST/NAME, a file to DEST
            (true, false) => Place::Asked(path),
            (true, true) => {
                Place::Known(local_target(&sources, &path, IfMissing::Make, &mut options).await?)
            }
            (false, _) => {
                Place::Known(local_target(&sources, &path, IfMissing::Name, &mut options).await?)
            }
        }
    };
    get(&sources, place, (&args.transfer, options), &args.connect).await
}

/// Writes a file to standard output.
pub(super) async fn to_stdout(source: &Remote, connect: &ConnectArgs) -> Result<(), Failure> {
    let mut args = TransferArgs::default();
    args.quiet = true;
    let options = args.options(1, &[])?;
    let place = Place::Known(standard_output());
    get(std::slice::from_ref(source), place, (&args, options), connect).await
}

fn standard_output() -> GetDestination {
    GetDestination {
        target: Target::Stream(Stream::new(Box::new(std::io::stdout()))),
        label: b"standard output".to_vec(),
        ancestors: Vec::new(),
    }
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
    (args, mut options): (&TransferArgs, Options),
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
            local_target(sources, &path, if_missing, &mut options).await?
        }
    };
    let destination = destination.with_dry_run(options.dry_run);
    let deletion = &args.deletion;
    deletion.check_places(&places_of(sources, &destination))?;
    let get = async |client: Arc<Client>, options: Options, reporter: Reporter| {
        let paths: Vec<_> = sources.iter().map(wire_path).collect();
        let get = async |options: Options| {
            let (paths, destination) = (paths.clone(), destination.clone());
            client.get(paths, destination, options, reporter.clone()).await
        };
        get(options.clone()).await?;
        match (deletion.is_wanted(), &destination.target) {
            (true, Target::Tree(tree)) => {
                let deletion = Deletion {
                    args: deletion,
                    destination: End::Here(tree.store.clone()),
                    label: destination.label.clone(),
                    pairs: pairs_of(&client, sources, &tree.tops).await?,
                };
                for options in deletion.run(&options, &reporter).await? {
                    get(options).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    };
    let job = Job {
        verb: "get",
        args,
        options,
        about: &first.shown,
    };
    transfer::carry(session, job, get, || true).await
}

/// Where each source goes, and what the user calls it.
fn places_of(sources: &[Remote], destination: &GetDestination) -> Vec<(RemotePath, String)> {
    let Target::Tree(tree) = &destination.target else {
        return Vec::new();
    };
    let shown = sources.iter().map(|source| source.shown.clone());
    tree.tops.iter().cloned().zip(shown).collect()
}

/// The sources that are directories, with their places.
async fn pairs_of(
    client: &Arc<Client>,
    sources: &[Remote],
    tops: &[RemotePath],
) -> Result<Vec<Pair>, NetError> {
    let mut pairs = Vec::new();
    for (source, top) in sources.iter().zip(tops) {
        let (entry, _) = client.stat(source.path.as_bytes(), false).await?;
        // a slash follows a symlink
        let is_dir = entry.kind == Kind::Dir || source.directory;
        pairs.extend(is_dir.then(|| Pair {
            label: source.shown.clone(),
            source: End::There {
                client: client.clone(),
                base: source.path.as_bytes().to_vec(),
            },
            source_top: RemotePath::root(),
            top: top.clone(),
            place: match source.path.split() {
                Some((_, name)) if !source.means_contents() => name.as_bytes().to_vec(),
                _ => Vec::new(),
            },
        }));
    }
    Ok(pairs)
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
    options: &mut Options,
) -> Result<GetDestination, Failure> {
    let names = (sources.len(), || names_of(sources));
    let mut place = LocalPlace::find("get", names, destination, if_missing).await?;
    back_up(&mut place, options).await?;
    Ok(GetDestination {
        label: place.label(),
        ancestors: LocalStore::ancestors(&place.dir),
        target: Target::Tree(place.tree),
    })
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
