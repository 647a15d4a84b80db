//! `haul cp`: files and trees within this machine, or to and from a server.

use super::backup::back_up;
use super::connect::ConnectArgs;
use super::deletion::Deletion;
use super::destination::{LocalPlace, make_path};
use super::failure::{Failure, exit};
use super::location::{Location, Remote, means_contents};
use super::put::LocalSource;
use super::transfer::{self, TransferArgs};
use super::{get, hint, interrupt, put};
use crate::net::NetError;
use crate::net::client::requests::IfMissing;
use crate::net::data::pacer::RateLimit;
use crate::net::deletion::place::Place;
use crate::net::deletion::search::Pair;
use crate::net::local::{LocalDestination, LocalSession};
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::destination::Target;
use crate::net::transfer::send::source::TransferSource;
use crate::store::RemotePath;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// Copy files and directories on this machine
///
/// Each file appears complete or not at all, and is on disk when the command ends. Files that have
/// the same size and modification time at the destination are skipped, larger files resume after
/// an interruption, and no two writers write one file. Mode, modification time, symlinks and holes
/// are preserved. Where the file system can, files share their blocks instead of being copied.
///
/// With a remote path, cp does what put and get do.
#[derive(clap::Args)]
#[command(
    disable_help_flag = true,
    args_override_self = true,
    after_help = "\
Examples:
  haul cp report.pdf /backup/              into a directory
  haul cp -a photos music /backup/         two trees into a directory
  haul cp -a photos/ /backup/photos        the contents of photos
  haul cp a.txt b.txt                      under another name
  pg_dump db | haul cp - /backup/db.sql    a stream; appears when it is complete
  haul cp -a --exclude node_modules src /backup/
  haul cp -ac photos /backup/              compared, and copied, by content
  haul cp -a nas:photos .                  the same as haul get -a nas:photos ."
)]
pub struct Args {
    /// Files, directories (with -r or -a), or - for standard input
    #[arg(required = true, value_name = "SRC", value_hint = hint::LOCAL_OR_REMOTE)]
    sources: Vec<OsString>,

    /// Where to. A directory SRC becomes DEST/SRC, and SRC/ means its contents. A file goes into
    /// DEST if that is a directory, or becomes DEST
    #[arg(value_name = "DEST", value_hint = hint::LOCAL_OR_REMOTE)]
    destination: OsString,

    #[command(flatten)]
    pub(super) transfer: TransferArgs,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let mut remote = Vec::new();
    for source in &args.sources {
        if let Location::Remote(source) = Location::parse(source)? {
            remote.push(source);
        }
    }
    let Args {
        mut sources,
        destination,
        transfer,
        connect,
    } = args;
    match (remote.first(), Location::parse(&destination)?) {
        (Some(source), Location::Remote(destination)) => Err(between_servers(source, &destination)),
        (None, Location::Remote(_)) => {
            put::run(put::Args::new((sources, destination), transfer, connect)).await
        }
        (Some(source), Location::Local(_)) if remote.len() < sources.len() => {
            Err(Failure::usage(format!("{} is not on this machine", source.shown))
                .hint("copy what is here and what is there one by one"))
        }
        (Some(_), Location::Local(_)) => {
            sources.push(destination);
            get::run(get::Args::new(sources, transfer, connect)).await
        }
        (None, Location::Local(path)) => copy(&sources, &path, &transfer).await,
    }
}

/// The refusal of a copy from server to server.
fn between_servers(source: &Remote, destination: &Remote) -> Failure {
    let hint = match source.server == destination.server {
        true => "rename it with haul mv, or get it and put it back",
        false => "get it from the one, and put it to the other",
    };
    let (from, to) = (&source.shown, &destination.shown);
    Failure::usage(format!("{from} to {to}: haul does not copy from server to server yet"))
        .hint(hint)
}

/// Copies within this machine.
async fn copy(
    sources: &[OsString],
    destination: &Path,
    args: &TransferArgs,
) -> Result<(), Failure> {
    let mut options = args.options(sources.len(), sources)?;
    args.metadata.resolve(&mut options.metadata)?;
    if destination == Path::new("-") {
        return Err(
            Failure::usage("cp has no standard output").hint("write ./- for a file of that name")
        );
    }
    let recursive = args.is_recursive();
    let prepared = put::prepare(sources, recursive, || stream_name(destination)).await?;
    if prepared.iter().all(LocalSource::is_missing) {
        let sources = prepared.into_iter().map(|given| given.source);
        return transfer::refuse_all("cp", args, sources).await;
    }
    let places = prepared.iter().map(LocalSource::place).collect::<Vec<_>>();
    args.deletion.check_places(&places)?;
    if args.makes_path() {
        make_path(destination, sources.len() > 1)?;
    }
    let if_missing = put::if_missing(&prepared);
    if if_missing == IfMissing::Make && destination.exists() && !destination.is_dir() {
        let message = format!("{}: not a directory", destination.display());
        return Err(Failure::new(exit::FAILED, message));
    }
    let mut place = place_of(sources, &prepared, destination, (args, if_missing)).await?;
    place.tree.dry_run = options.dry_run;
    back_up(&mut place, &mut options).await?;
    let label = place.label();
    let dirs = prepared.iter().zip(&place.tree.tops);
    let deletion = Deletion {
        args: &args.deletion,
        destination: Place::Here(place.tree.store.clone()),
        label: label.clone(),
        pairs: dirs
            .filter_map(|(given, top)| {
                let top = top.clone();
                Some(Pair {
                    top,
                    ..given.dir()?
                })
            })
            .collect(),
    };
    let to = LocalDestination {
        label,
        target: Target::Tree(place.tree),
    };
    let sources = prepared.into_iter().map(|given| given.source).collect();
    let about = destination.display().to_string();
    run_copy(sources, to, (args, options), deletion, &about).await
}

/// The place of each source, none of which goes into itself.
async fn place_of(
    sources: &[OsString],
    prepared: &[LocalSource],
    destination: &Path,
    (args, if_missing): (&TransferArgs, IfMissing),
) -> Result<LocalPlace, Failure> {
    let names = prepared
        .iter()
        .map(|given| RemotePath::parse(&given.name).unwrap_or_default());
    let names: Vec<RemotePath> = names.collect();
    let names = (names.len(), || Ok(names));
    let place = LocalPlace::find("cp", names, destination, if_missing).await?;
    let existing = Ancestors::of(&place.dir);
    for (source, top) in sources.iter().zip(&place.tree.tops) {
        existing.check(Path::new(source), args.is_recursive(), &place.dir.join(top.as_path()))?;
    }
    if args.deletion.is_wanted() {
        refuse_sources_within(sources, &place)?;
    }
    Ok(place)
}

/// Copies, and shows it. A signal ends it; what has been written by then is made durable.
async fn run_copy(
    sources: Vec<TransferSource>,
    to: LocalDestination,
    (args, options): (&TransferArgs, Options),
    deletion: Deletion<'_>,
    about: &str,
) -> Result<(), Failure> {
    let show = args.show("cp", Arc::default())?;
    let session = LocalSession::start(&RateLimit::new(args.rate()));
    let copier = &session;
    let reporter = show.reporter();
    // it has the reporter to itself: the end is shown when the last one is gone
    let copying = async move {
        let sources = Arc::new(sources);
        copier
            .copy(sources.clone(), to.clone(), options.clone(), reporter.clone())
            .await?;
        for options in deletion.run(&options, &reporter).await? {
            copier.copy(sources.clone(), to.clone(), options, reporter.clone()).await?;
        }
        Ok::<(), NetError>(())
    };
    tokio::pin!(copying);
    let result = tokio::select! {
        result = &mut copying => result.map_err(Failure::from),
        () = interrupt::asked() => {
            session.leave();
            let _ = copying.await;
            Err(Failure::already_reported(exit::INTERRUPTED))
        }
    };
    show.end(result, about).await
}

/// Refuses to mirror a source into a directory above it: the deletion would remove the source.
fn refuse_sources_within(sources: &[OsString], place: &LocalPlace) -> Result<(), Failure> {
    for (source, top) in sources.iter().zip(&place.tree.tops) {
        let Ok(mirror) = std::fs::metadata(place.dir.join(top.as_path())) else {
            continue;
        };
        if Ancestors::of(Path::new(source)).0.contains(&identity(&mirror)) {
            let source = source.display();
            return Err(Failure::usage(format!(
                "{source} is within the destination: --delete would delete it"
            )));
        }
    }
    Ok(())
}

/// A stream has no name of its own: the destination must be its name.
fn stream_name(destination: &Path) -> Result<Vec<u8>, Failure> {
    match means_contents(destination.as_os_str().as_bytes()) || destination.is_dir() {
        true => Err(nameless(destination)),
        false => Ok(Vec::new()),
    }
}

fn nameless(destination: &Path) -> Failure {
    let shown = destination.display().to_string();
    let shown = shown.trim_end_matches('/');
    Failure::usage("a stream needs a file name at the destination")
        .hint(format!("name it: {shown}/NAME"))
}

/// The destination's directory and those above it.
struct Ancestors(Vec<(u64, u64)>);

/// What tells whether two paths lead to one entry.
fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

impl Ancestors {
    fn of(dir: &Path) -> Ancestors {
        let real = dir.canonicalize().unwrap_or_default();
        let found = real.ancestors().filter_map(|dir| std::fs::metadata(dir).ok());
        Ancestors(found.map(|found| identity(&found)).collect())
    }

    /// Refuses a source that is its own destination, or above it.
    fn check(&self, source: &Path, recursive: bool, place: &Path) -> Result<(), Failure> {
        let follow = !recursive || source.as_os_str().as_bytes().ends_with(b"/");
        let found = match follow {
            true => std::fs::metadata(source),
            false => std::fs::symlink_metadata(source),
        };
        // one that does not exist is reported by the transfer
        let Ok(found) = found else { return Ok(()) };
        let itself = std::fs::symlink_metadata(place);
        let is_itself = itself.is_ok_and(|place| identity(&place) == identity(&found));
        let refused = |why: String| Err(Failure::new(exit::FAILED, why));
        match found.is_dir() {
            true if is_itself || self.0.contains(&identity(&found)) => {
                let shown = place.display();
                refused(format!("{shown}: the destination is the source, or within it"))
            }
            false if is_itself => {
                let (source, place) = (source.display(), place.display());
                refused(format!("{source} and {place} are the same file"))
            }
            _ => Ok(()),
        }
    }
}
