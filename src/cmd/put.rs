//! `haul put`: files and trees to a server.

use super::backup::backup_there;
use super::carry::{self, Job};
use super::connect::{self, ConnectArgs};
use super::deletion::{self, Deletion};
use super::failure::Failure;
use super::hint;
use super::locate::locate;
use super::location::Location;
use super::remote::Remote;
use super::source_removal::SourceRemoval;
use super::sources::{LocalSource, if_missing, prepare, refuse_followed};
use super::transfer::{self, TransferArgs};
use crate::net::client::Client;
use crate::net::client::requests::PutDestination;
use crate::net::deletion::place::Place;
use crate::net::transfer::options::Options;
use crate::net::transfer::report::Reporter;
use crate::net::transfer::send::source::TransferSource;
use std::ffi::OsString;
use std::sync::Arc;

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
  haul put -r photos ssh://host/           over ssh, to your home there
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
    let name = || stream_name(&args.destination);
    let prepared = prepare(&args.sources, &args.transfer, name).await?;
    if prepared.iter().all(LocalSource::is_missing) {
        let sources = prepared.into_iter().map(|given| given.source);
        return transfer::refuse_all("put", &args.transfer, sources).await;
    }
    refuse_followed(&prepared, &args.transfer)?;
    let destination = locate(&destination, &args.connect).await?;
    backup_there(&mut options, &destination)?;
    let place = PutDestination {
        path: destination.path.as_bytes().to_vec(),
        directory: destination.directory,
        names: prepared.iter().map(|given| given.name.clone()).collect(),
        if_missing: if_missing(&prepared),
    };
    let places = prepared.iter().flat_map(LocalSource::places).collect::<Vec<_>>();
    args.transfer.deletion.check_places(&places)?;
    let job = Job {
        verb: "put",
        args: &args.transfer,
        options,
        about: &destination.shown,
    };
    put(&destination, prepared, place, job, &args.connect).await
}

/// Connects and sends.
async fn put(
    destination: &Remote,
    given: Vec<LocalSource>,
    place: PutDestination,
    mut job: Job<'_>,
    connect: &ConnectArgs,
) -> Result<(), Failure> {
    let session = connect::open(&destination.server, connect, job.args.purpose()).await?;
    let (mut dirs, mut ends) = (Vec::new(), Vec::new());
    for given in &given {
        dirs.extend(given.dirs(&given.place().0).await);
        ends.push(given.end(None));
    }
    let removal = SourceRemoval::of(job.args, &mut job.options)?;
    let sources = Arc::new(given.into_iter().map(|given| given.source).collect::<Vec<_>>());
    let args = &job.args.deletion;
    let label = destination.shown.as_bytes().to_vec();
    let put = async |client: Arc<Client>, options: Options, reporter: Reporter| {
        if let Some(removal) = &removal {
            removal.begin_attempt();
        }
        if args.is_wanted() {
            client.logged_in().await?;
        }
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
        deletion.run(&options, &reporter, put).await?;
        match &removal {
            Some(removal) => removal.run(&ends, &reporter).await,
            None => Ok(()),
        }
    };
    let repeatable = || sources.iter().all(TransferSource::is_repeatable);
    carry::carry(session, job, put, repeatable).await
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
