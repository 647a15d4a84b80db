//! `haul cp`: files and trees within this machine, or to and from a server.

use super::backup::back_up;
use super::between::{self, Between};
use super::connect::ConnectArgs;
use super::deletion::Deletion;
use super::destination::{LocalPlace, make_path};
use super::failure::{Failure, exit};
use super::location::Location;
use super::remote::{Remote, means_contents};
use super::source_removal::{SourceEnds, SourceRemoval};
use super::sources::{LocalSource, if_missing, prepare, refuse_followed};
use super::transfer;
use super::transfer::TransferArgs;
use super::{get, hint, interrupt, put};
use crate::net::client::requests::IfMissing;
use crate::net::data::pacer::RateLimit;
use crate::net::deletion::place::Place;
use crate::net::local::{LocalDestination, LocalSession, WINDOW};
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::destination::Target;
use crate::net::transfer::send::source::TransferSource;
use crate::store::RemotePath;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Copy files and directories on this machine
///
/// Each file appears complete or not at all, and is on disk when the command ends. Files that have
/// the same size and modification time at the destination are skipped, larger files resume after
/// an interruption, and no two writers write one file. Mode, modification time, symlinks and holes
/// are preserved. Where the file system can, files share their blocks instead of being copied.
///
/// With a remote path, cp does what put and get do. Between paths of one server, the server copies.
/// Between two servers, the data goes through this machine, where nothing is written, unless the
/// first one may send to the second (serve --send-to).
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
  haul cp -a nas:photos .                  the same as haul get -a nas:photos .
  haul cp -a nas:photos nas:copy           at the server, without the network
  haul cp -a nas:photos vps:               to another server, through here"
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
        (Some(_), Location::Remote(to)) if remote.len() == sources.len() => {
            sources.push(destination);
            let between = Between {
                sources: remote,
                destination: to,
                paths: sources,
            };
            between::copy(between, &transfer, &connect).await
        }
        (Some(source), Location::Remote(_)) => Err(mixed(source)),
        (None, Location::Remote(_)) => {
            let args = put::Args::new((sources, destination), transfer, connect);
            Box::pin(put::run(args)).await
        }
        (Some(source), Location::Local(_)) if remote.len() < sources.len() => Err(mixed(source)),
        (Some(_), Location::Local(_)) => {
            sources.push(destination);
            Box::pin(get::run(get::Args::new(sources, transfer, connect))).await
        }
        (None, Location::Local(path)) => Box::pin(copy(&sources, &path, &transfer)).await,
    }
}

/// The refusal of sources here and there.
fn mixed(source: &Remote) -> Failure {
    Failure::usage(format!("{} is not on this machine", source.shown))
        .hint("copy what is here and what is there one by one")
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
    let prepared = prepare(sources, args, || stream_name(destination)).await?;
    if prepared.iter().all(LocalSource::is_missing) {
        let sources = prepared.into_iter().map(|given| given.source);
        return transfer::refuse_all("cp", args, sources).await;
    }
    refuse_followed(&prepared, args)?;
    let places = prepared.iter().flat_map(LocalSource::places).collect::<Vec<_>>();
    args.deletion.check_places(&places)?;
    if args.makes_path() {
        make_path(destination, sources.len() > 1)?;
    }
    let if_missing = if_missing(&prepared);
    if if_missing == IfMissing::Make && destination.exists() && !destination.is_dir() {
        let message = format!("{}: not a directory", destination.display());
        return Err(Failure::new(exit::FAILED, message));
    }
    let mut place = place_of(&prepared, destination, (args, if_missing)).await?;
    place.tree.dry_run = options.dry_run;
    back_up(&mut place, &mut options).await?;
    let label = place.label();
    let (mut pairs, mut ends) = (Vec::new(), Vec::new());
    for (given, top) in prepared.iter().zip(&place.tree.tops) {
        pairs.extend(given.dirs(top).await);
        ends.push(given.end(Some((place.tree.store.clone(), top.clone()))));
    }
    let removal = SourceRemoval::of(args, &mut options)?.map(|removal| (removal, ends));
    let deletion = Deletion {
        args: &args.deletion,
        destination: Place::Here(place.tree.store.clone()),
        label: label.clone(),
        pairs,
    };
    let to = LocalDestination {
        label,
        target: Target::Tree(place.tree),
    };
    let sources = prepared.into_iter().map(|given| given.source).collect();
    let about = destination.display().to_string();
    run_copy(sources, to, (args, options), (deletion, removal), &about).await
}

/// The place of each source, none of which goes into itself.
async fn place_of(
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
    let (mut all_sources, mut mirrors) = (Vec::new(), Vec::new());
    for (given, top) in prepared.iter().zip(&place.tree.tops) {
        for (source, beneath) in given.whole_paths() {
            let top = top.append(&beneath);
            let top = top.map_err(|e| Failure::usage(format!("{}: {e}", source.display())))?;
            let to = place.dir.join(top.as_path());
            existing.check(&source, args.is_recursive(), &to)?;
            all_sources.push(source);
            mirrors.push(to);
        }
    }
    if args.deletion.is_wanted() {
        refuse_within(&all_sources, &mirrors)?;
    }
    Ok(place)
}

/// Copies, and shows it. A signal ends it; what has been written by then is made durable.
async fn run_copy(
    sources: Vec<TransferSource>,
    to: LocalDestination,
    (args, options): (&TransferArgs, Options),
    (deletion, removal): (Deletion<'_>, Option<(SourceRemoval, SourceEnds)>),
    about: &str,
) -> Result<(), Failure> {
    let show = args.show("cp", &options.filter, Arc::default())?;
    let session = LocalSession::start(&RateLimit::new(args.rate()), WINDOW);
    let copier = &session;
    let reporter = show.reporter();
    // it has the reporter to itself: the end is shown when the last one is gone
    let copying = async move {
        let sources = Arc::new(sources);
        let copy = async |options: Options| {
            copier.copy(sources.clone(), to.clone(), options, reporter.clone()).await
        };
        copy(options.clone()).await?;
        deletion.run(&options, &reporter, copy).await?;
        match removal {
            Some((removal, ends)) => removal.run(&ends, &reporter).await,
            None => Ok(()),
        }
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

/// Refuses to mirror anything into a directory above a source: the deletion would remove that.
fn refuse_within(sources: &[PathBuf], mirrors: &[PathBuf]) -> Result<(), Failure> {
    let mirrors = mirrors.iter().filter_map(|mirror| std::fs::metadata(mirror).ok());
    let mirrors: HashSet<_> = mirrors.map(|found| identity(&found)).collect();
    for source in sources {
        if Ancestors::of(source).0.iter().any(|above| mirrors.contains(above)) {
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
