//! `haul put`: files and trees to a server.

use super::backup::protect_dir;
use super::connect::{self, ConnectArgs};
use super::deletion::{self, Deletion};
use super::failure::{Failure, local_failure};
use super::hint;
use super::location::{Location, Remote, means_contents, split_local};
use super::transfer::{self, Job, TransferArgs};
use crate::net::client::Client;
use crate::net::client::requests::{IfMissing, PutDestination};
use crate::net::deletion::place::Place;
use crate::net::deletion::search::Pair;
use crate::net::transfer::options::Options;
use crate::net::transfer::report::Reporter;
use crate::net::transfer::send::source::{Origin, TransferSource};
use crate::store::local::LocalStore;
use crate::store::{ErrorKind, Kind, RemotePath, Store, StoreError};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use tokio::io::AsyncRead;

/// Send files and directories to a server
///
/// Each file appears on the server complete or not at all, is verified end to end, and is on disk
/// when the command ends. Files that have the same size and modification time there are skipped.
/// Mode, modification time and symlinks are preserved. FIFOs, sockets and devices are reported and
/// skipped. Names of the form .NAME~HASH.haul are reserved for haul and skipped.
#[derive(clap::Args)]
#[command(
    disable_help_flag = true,
    args_override_self = true,
    after_help = "\
Examples:
  haul put report.pdf nas:                 to your root on the server
  haul put -r photos music nas:backup/     two trees into a directory
  haul put a.txt nas:b.txt                 under another name
  pg_dump db | haul put - nas:db.sql       a stream; appears when it is complete
  haul put <(pg_dump db) nas:db.sql        the same
  haul put -rq --wait=10m /srv/ nas:srv    for cron: the contents of /srv
  haul put -avz --exclude node_modules src nas:   src, as with rsync
  haul put -a --delete site/ nas:www/      the same there as here
  haul put --if-version none x nas:x       only if there is no x yet"
)]
pub struct Args {
    /// Files, directories (with -r), or - for standard input
    #[arg(required = true, value_name = "SRC", value_hint = hint::LOCAL)]
    sources: Vec<OsString>,

    /// Where to: [USER@]HOST:PATH. A directory SRC becomes DEST/SRC, and SRC/ means its contents. A
    /// file goes into DEST if that is a directory, or becomes DEST
    #[arg(value_name = "DEST", value_hint = hint::REMOTE)]
    destination: OsString,

    #[command(flatten)]
    pub(super) transfer: TransferArgs,

    #[command(flatten)]
    connect: ConnectArgs,
}

impl Args {
    /// The arguments of a copy to a server.
    pub(super) fn new(
        (sources, destination): (Vec<OsString>, OsString),
        transfer: TransferArgs,
        connect: ConnectArgs,
    ) -> Args {
        Args {
            sources,
            destination,
            transfer,
            connect,
        }
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let destination = Location::remote(&args.destination)?;
    let mut options = args.transfer.options(args.sources.len(), &args.sources)?;
    backup_at(&mut options, &destination)?;
    let name = || stream_name(&args.destination);
    let prepared = prepare(&args.sources, args.transfer.is_recursive(), name).await?;
    if prepared.iter().all(LocalSource::is_missing) {
        let sources = prepared.into_iter().map(|given| given.source);
        return transfer::refuse_all("put", &args.transfer, sources).await;
    }
    let place = PutDestination {
        path: destination.path.as_bytes().to_vec(),
        directory: destination.directory,
        names: prepared.iter().map(|given| given.name.clone()).collect(),
        if_missing: if_missing(&prepared),
    };
    let places = prepared.iter().map(LocalSource::place).collect::<Vec<_>>();
    args.transfer.deletion.check_places(&places)?;
    let job = Job {
        verb: "put",
        args: &args.transfer,
        options,
        about: &destination.shown,
    };
    put(&destination, prepared, place, job, &args.connect).await
}

/// Checks the backup directory, as far as it can be known here, and has a deletion leave it.
fn backup_at(options: &mut Options, destination: &Remote) -> Result<(), Failure> {
    let Some(backup) = &options.backup else {
        return Ok(());
    };
    let plan = backup.plan(&destination.path);
    plan.map_err(|e| Failure::usage(format!("--backup-dir: the path is not allowed: {e}")))?;
    match backup.inside(&destination.path) {
        Some(inside) => protect_dir(options, &inside),
        None => Ok(()),
    }
}

/// Connects and sends.
async fn put(
    destination: &Remote,
    given: Vec<LocalSource>,
    place: PutDestination,
    job: Job<'_>,
    connect: &ConnectArgs,
) -> Result<(), Failure> {
    let session = connect::open(&destination.server, connect, job.args.purpose()).await?;
    let dirs: Vec<_> = given.iter().filter_map(LocalSource::dir).collect();
    let sources = Arc::new(given.into_iter().map(|given| given.source).collect::<Vec<_>>());
    let args = &job.args.deletion;
    let label = destination.shown.as_bytes().to_vec();
    let put = async |client: Arc<Client>, options: Options, reporter: Reporter| {
        if args.is_wanted() && client.is_write_only() {
            return Err(deletion::not_for_writers());
        }
        if job.args.makes_path() {
            client.make_path(&place).await?;
        }
        let put = async |options: Options| {
            let (sources, place) = (sources.clone(), place.clone());
            client.put(sources, place, options, reporter.clone()).await
        };
        put(options.clone()).await?;
        let deletion = Deletion {
            args,
            destination: Place::There {
                client: client.clone(),
                base: place.path.clone(),
            },
            label: label.clone(),
            pairs: dirs.clone(),
        };
        for options in deletion.run(&options, &reporter).await? {
            put(options).await?;
        }
        Ok(())
    };
    let repeatable = || sources.iter().all(TransferSource::is_repeatable);
    transfer::carry(session, job, put, repeatable).await
}

/// Checks every source before anything is sent. A source that cannot be sent becomes
/// [`Origin::Missing`]. `stream_name` is the name of a stream at the destination.
pub(super) async fn prepare(
    sources: &[OsString],
    recursive: bool,
    stream_name: impl FnOnce() -> Result<Vec<u8>, Failure>,
) -> Result<Vec<LocalSource>, Failure> {
    if let Some(given) = sources.iter().find(|source| is_stream(source)) {
        let shown = stream_label(given).display();
        if sources.len() > 1 {
            return Err(Failure::usage(format!("{shown} is a stream: it can only be put alone")));
        }
        let name = stream_name().map_err(|e| Failure::about(&shown, e))?;
        let source = stream(given).await?;
        let kind = Kind::File;
        return Ok(vec![LocalSource { source, name, kind }]);
    }
    let mut seen = HashSet::new();
    let mut prepared = Vec::with_capacity(sources.len());
    for source in sources {
        if let Location::Remote(remote) = Location::parse(source)? {
            return Err(Failure::usage(format!("{} is not on this machine", remote.shown)).hint(
                "put sends local files; write ./NAME for a local file with a colon in its name",
            ));
        }
        let path = Path::new(source);
        let found = local_source(path, recursive).await;
        let given = found.unwrap_or_else(|error| missing(path, error));
        if !given.name.is_empty() && !seen.insert(given.name.clone()) {
            let name = String::from_utf8_lossy(&given.name).into_owned();
            return Err(Failure::usage(format!("two sources are called {name}"))
                .hint("put them one by one"));
        }
        prepared.push(given);
    }
    Ok(prepared)
}

/// True for standard input, and for the path of a file that this process has open, as a shell
/// writes it for `<(COMMAND)`. A stream is read to its end. A FIFO with a name of its own is
/// skipped: it may never have a writer.
fn is_stream(source: &OsStr) -> bool {
    let bytes = source.as_bytes();
    let number = |prefix: &[u8]| bytes.strip_prefix(prefix);
    let number = number(b"/dev/fd/").or_else(|| number(b"/proc/self/fd/"));
    let is_open = number.is_some_and(|n| !n.is_empty() && n.iter().all(u8::is_ascii_digit));
    match bytes {
        b"-" | b"/dev/stdin" => true,
        _ => is_open && std::fs::metadata(source).is_ok_and(|found| !found.is_dir()),
    }
}

/// The name of a stream in messages.
fn stream_label(source: &OsStr) -> &OsStr {
    match source.as_bytes() {
        b"-" => OsStr::new("standard input"),
        _ => source,
    }
}

async fn stream(source: &OsStr) -> Result<TransferSource, Failure> {
    let input: Box<dyn AsyncRead + Send + Unpin> = match source.as_bytes() {
        b"-" | b"/dev/stdin" | b"/dev/fd/0" | b"/proc/self/fd/0" => Box::new(tokio::io::stdin()),
        _ => Box::new(
            tokio::fs::File::open(source)
                .await
                .map_err(|e| local_failure(Path::new(source), &e))?,
        ),
    };
    let label = stream_label(source).as_bytes().to_vec();
    let origin = Origin::Stream(Mutex::new(Some(input)));
    let place = None;
    Ok(TransferSource {
        label,
        origin,
        place,
    })
}

/// A stream has no name of its own, nor one in a directory: the destination must be its name.
fn stream_name(destination: &OsString) -> Result<Vec<u8>, Failure> {
    let remote = Location::remote(destination)?;
    match remote.path.split() {
        Some(_) if !remote.directory => Ok(Vec::new()),
        _ => {
            let shown = remote.shown.trim_end_matches('/');
            let slash = if shown.ends_with(':') { "" } else { "/" };
            Err(Failure::usage("a stream needs a file name at the destination")
                .hint(format!("name it: {shown}{slash}NAME")))
        }
    }
}

/// A label without the `/` or `/.` at its end.
fn without_slash(label: &[u8]) -> &[u8] {
    let label = label
        .strip_suffix(b"/.")
        .or_else(|| label.strip_suffix(b"/"))
        .unwrap_or(label);
    match label {
        [] => b"/",
        label => label,
    }
}

/// A source that cannot be sent, under the name that it would have had.
fn missing(path: &Path, error: StoreError) -> LocalSource {
    let label = path.as_os_str().as_bytes().to_vec();
    let name = path.file_name().map_or(label.clone(), |name| name.as_bytes().to_vec());
    let origin = Origin::Missing(error);
    let place = None;
    let source = TransferSource {
        label,
        origin,
        place,
    };
    let kind = Kind::File;
    LocalSource { source, name, kind }
}

/// A source of a put.
pub(super) struct LocalSource {
    pub(super) source: TransferSource,
    /// Its name at the destination: empty for `dir/`, `.` and the like, which stand for their
    /// contents.
    pub(super) name: Vec<u8>,
    kind: Kind,
}

impl LocalSource {
    /// Where it goes at the destination, and what the user calls it.
    pub(super) fn place(&self) -> (RemotePath, String) {
        let place = RemotePath::parse(&self.name).unwrap_or_default();
        (place, String::from_utf8_lossy(&self.source.label).into_owned())
    }

    /// A directory, as the end of a deletion.
    pub(super) fn dir(&self) -> Option<Pair> {
        let Origin::Tree { store, path } = &self.source.origin else {
            return None;
        };
        let (top, label) = self.place();
        (self.kind == Kind::Dir).then(|| Pair {
            source: Place::Here(store.clone()),
            source_top: path.clone(),
            place: top.as_bytes().to_vec(),
            top,
            label,
        })
    }

    /// True of one that cannot be sent.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self.source.origin, Origin::Missing(_))
    }
}

/// What becomes of a DEST where nothing is: it is made for directories, and for their contents, so
/// that a directory goes to DEST/NAME the first time and every time.
pub(super) fn if_missing(sources: &[LocalSource]) -> IfMissing {
    match sources.iter().any(|source| source.kind == Kind::Dir) {
        true => IfMissing::Make,
        false => IfMissing::Name,
    }
}

/// Opens the directory that holds a source, or the source itself if it is a directory.
pub(super) async fn local_source(path: &Path, recursive: bool) -> Result<LocalSource, StoreError> {
    let failed = |e: std::io::Error| StoreError::io("open", &RemotePath::root(), &e);
    let not_allowed = |e| StoreError::new(ErrorKind::BadName(e), &RemotePath::root());
    let slash = path.as_os_str().as_bytes().ends_with(b"/");
    // With -r a symlink is itself an entry, as with cp -r; without, its target is meant.
    let follow = slash || !recursive;
    let found = if follow {
        std::fs::metadata(path)
    } else {
        std::fs::symlink_metadata(path)
    };
    let found = found.map_err(failed)?;
    if found.is_dir() && !recursive {
        return Err(StoreError::new(ErrorKind::IsADirectory, &RemotePath::root()));
    }
    let name = path.file_name().filter(|_| !means_contents(path.as_os_str().as_bytes()));
    let name = name.map(|name| name.as_bytes().to_vec()).unwrap_or_default();
    let (base, inside) = if found.is_dir() {
        (path.to_path_buf(), RemotePath::root())
    } else if follow {
        split_local(&std::fs::canonicalize(path).map_err(failed)?).map_err(not_allowed)?
    } else {
        split_local(path).map_err(not_allowed)?
    };
    let store = LocalStore::open(&base).map_err(failed)?;
    let store = store.subtree(&RemotePath::root()).await?;
    let label = path.as_os_str().as_bytes();
    let source = TransferSource {
        label: without_slash(label).to_vec(),
        origin: Origin::Tree {
            store,
            path: inside,
        },
        place: RemotePath::parse(&name).ok(),
    };
    let kind = match found.is_dir() {
        true => Kind::Dir,
        false => Kind::File,
    };
    Ok(LocalSource { source, name, kind })
}
