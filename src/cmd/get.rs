//! `haul get`: files and trees from a server.

use super::backup::back_up;
use super::carry::{self, Job};
use super::connect::{self, ConnectArgs};
use super::deletion::Deletion;
use super::destination::{LocalPlace, make_path};
use super::failure::Failure;
use super::hint;
use super::locate::{locate, locate_all};
use super::location::Location;
use super::patterns::{self, Patterns};
use super::remote::Remote;
use super::remote_sources::{
    Sources, check_rights, ends_of, not_on_one_server, other_server, pairs_of,
};
use super::screen;
use super::source_removal::SourceRemoval;
use super::transfer::TransferArgs;
use crate::net::NetError;
use crate::net::client::Client;
use crate::net::client::requests::{GetDestination, IfMissing};
use crate::net::deletion::place::Place as End;
use crate::net::transfer::filter::MAX_SENT_FILTER;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::destination::Target;
use crate::net::transfer::receive::stream::Stream;
use crate::net::transfer::report::Reporter;
use crate::store::local::LocalStore;
use crate::store::{Kind, RemotePath};
use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, Write};
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
    let sources = locate_all(&sources, &args.connect).await?;
    let sources = Sources::of(sources, &args.transfer)?;
    let mut options = args.transfer.options(sources.remotes.len(), &args.paths)?;
    args.transfer.metadata.resolve(&mut options.metadata)?;
    if options.filter.to_wire().len() > MAX_SENT_FILTER {
        return Err(Failure::usage("the rules of a get have at most 32 KiB")
            .hint("use fewer patterns, or wider ones"));
    }
    let place = if destination.as_bytes() == b"-" {
        if sources.remotes.len() > 1 || options.recursive {
            return Err(Failure::usage("standard output takes a single file"));
        }
        if args.transfer.remove_source_files {
            let why = "standard output is no place to keep a file";
            return Err(Failure::usage(format!("--remove-source-files: {why}")));
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
            make_path(&path, sources.remotes.len() > 1)?;
        }
        let has_contents = sources.remotes.iter().any(Remote::means_contents);
        let sources = &sources.remotes;
        match (options.recursive && !path.is_dir(), has_contents) {
            // a directory goes to DEST/NAME, a file to DEST
            (true, false) => Place::Asked(path),
            (true, true) => {
                Place::Known(local_target(sources, &path, IfMissing::Make, &mut options).await?)
            }
            (false, _) => {
                Place::Known(local_target(sources, &path, IfMissing::Name, &mut options).await?)
            }
        }
    };
    Box::pin(get(&sources, place, (&args.transfer, options), &args.connect)).await
}

/// Writes a file to standard output.
pub(super) async fn to_stdout(source: &Remote, connect: &ConnectArgs) -> Result<(), Failure> {
    let source = &locate(source, connect).await?;
    let mut args = TransferArgs::default();
    args.quiet = true;
    let options = args.options(1, &[])?;
    let place = Place::Known(standard_output());
    let sources = Sources {
        remotes: vec![source.clone()],
        chosen: Vec::new(),
    };
    get(&sources, place, (&args, options), connect).await
}

/// Standard output. Where its reader has closed it, like `head`, the command ends as all others do.
struct StandardOutput(io::Stdout);

impl StandardOutput {
    fn end_if_closed<T>(result: io::Result<T>) -> io::Result<T> {
        if result.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
            screen::finish();
            std::process::exit(0);
        }
        result
    }
}

impl Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        StandardOutput::end_if_closed(self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        StandardOutput::end_if_closed(self.0.flush())
    }
}

fn standard_output() -> GetDestination {
    GetDestination {
        target: Target::Stream(Stream::new(Box::new(StandardOutput(io::stdout())))),
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
    given: &Sources,
    place: Place,
    (args, mut options): (&TransferArgs, Options),
    connect: &ConnectArgs,
) -> Result<(), Failure> {
    let sources = given.remotes.as_slice();
    let Some(first) = sources.first() else {
        return Ok(());
    };
    if let Some(other) = other_server(sources) {
        return Err(not_on_one_server(first, other));
    }
    let mut session = connect::open(&first.server, connect, args.purpose()).await?;
    let destination = match place {
        Place::Known(destination) => destination,
        Place::Asked(path) => {
            let found = session.ask(async |client| any_dir(client, sources).await).await;
            let is_dir = found.map_err(|e| Failure::about(&first.shown, e))?;
            let if_missing = if is_dir { IfMissing::Make } else { IfMissing::Name };
            local_target(sources, &path, if_missing, &mut options).await?
        }
    };
    let destination = destination.with_dry_run(options.dry_run);
    let removal = SourceRemoval::of(args, &mut options)?;
    let deletion = &args.deletion;
    deletion.check_places(&places_of(given, &destination))?;
    let get = async |client: Arc<Client>, options: Options, reporter: Reporter| {
        if let Some(removal) = removal.as_ref().filter(|removal| removal.has_begun()) {
            // what was removed is not at the source any more
            return removal.run(&ends_of(&client, sources), &reporter).await;
        }
        if let Some(removal) = &removal {
            removal.begin_attempt();
            check_rights(&client).await?;
        }
        let get = async |options| get_all(&client, given, (&destination, options), &reporter).await;
        get(options.clone()).await?;
        if let (true, Target::Tree(tree)) = (deletion.is_wanted(), &destination.target) {
            let deletion = Deletion {
                args: deletion,
                destination: End::Here(tree.store.clone()),
                label: destination.label.clone(),
                pairs: pairs_of(&client, given, &tree.tops, &options.view).await?,
            };
            deletion.run(&options, &reporter, get).await?;
        }
        match &removal {
            Some(removal) => removal.run(&ends_of(&client, sources), &reporter).await,
            None => Ok(()),
        }
    };
    let job = Job {
        verb: "get",
        args,
        options,
        about: &first.shown,
    };
    carry::carry(session, job, get, || true).await
}

/// Fetches what is chosen, in as many requests as that needs.
async fn get_all(
    client: &Client,
    given: &Sources,
    (destination, options): (&GetDestination, Options),
    reporter: &Reporter,
) -> Result<(), NetError> {
    for part in given.requests() {
        let (to, options) = (destination.clone(), options.clone());
        client.get(part, to, options, reporter.clone()).await?;
    }
    Ok(())
}

/// Where each source goes, and what the user calls it.
fn places_of(given: &Sources, destination: &GetDestination) -> Vec<(RemotePath, String)> {
    match &destination.target {
        Target::Tree(tree) => given.places(&tree.tops),
        Target::Stream(_) => Vec::new(),
    }
}

/// True where one of the sources is a directory that has a name at the destination. What cannot be
/// found is reported by the transfer.
pub(super) async fn any_dir(client: &Client, sources: &[Remote]) -> Result<bool, NetError> {
    for source in sources.iter().filter(|source| !source.means_contents()) {
        match client.stat(source.path.as_bytes(), false).await {
            Ok((entry, _)) if entry.kind == Kind::Dir => return Ok(true),
            Ok(_) | Err(NetError::Refused { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
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
pub(super) fn names_of(sources: &[Remote]) -> Result<Vec<RemotePath>, Failure> {
    let mut seen = HashSet::new();
    let mut names = Vec::with_capacity(sources.len());
    for source in sources {
        let name = match source.path.split() {
            Some((_, name)) if !source.means_contents() => {
                RemotePath::root().join(&name).unwrap_or_default()
            }
            _ => RemotePath::root(),
        };
        // contents of several directories may go to one place
        if !name.is_root() && !seen.insert(name.clone()) {
            let message = format!("two sources would go to the name of {}", source.shown);
            return Err(Failure::usage(message).hint("get them one by one"));
        }
        names.push(name);
    }
    Ok(names)
}
