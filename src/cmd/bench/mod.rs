//! `haul bench`: measures how fast haul is, on this machine or to a server, and what limits it.

mod compare;
mod data;
mod measure;
mod server;

use self::compare::compare;
use self::measure::{Measured, Side, measure};
use super::connect::{self, ConnectArgs, Notices, Purpose};
use super::failure::Failure;
use super::get::local_target;
use super::hint;
use super::locate::locate;
use super::location::Location;
use super::output;
use super::remote::Remote;
use super::sources::{Follow, local_source};
use super::transfer::durability;
use super::units;
use crate::net::NetError;
use crate::net::client::Client;
use crate::net::client::options::WINDOW;
use crate::net::client::requests::{GetSources, IfMissing, PutDestination};
use crate::net::transfer::options::Options;
use crate::store::RemotePath;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Measure how fast haul moves data, and what limits it
///
/// Without HOST:PATH, haul starts a server on this machine in a temporary directory. It sends the
/// data, fetches it back, compares it, and removes everything again. The transfers are real ones:
/// encrypted, verified, durable.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul bench                      generated data, on this machine
  haul bench ~/photos             a tree of yours, on this machine
  haul bench nas:tmp              generated data, to a server and back")]
pub struct Args {
    /// A file or tree to send, or HOST:PATH of a directory on a server
    #[arg(value_name = "TREE", value_hint = hint::LOCAL_OR_REMOTE)]
    what: Option<OsString>,

    /// Use N data connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: Option<u16>,

    /// Do not wait until the files are on disk
    #[arg(long = "no-fsync")]
    volatile: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let work = tempfile::Builder::new()
        .prefix("haul-bench-")
        .tempdir()
        .map_err(|e| Failure::io("a temporary directory", &e))?;
    let connections = args.connections.map_or(4, usize::from);
    let options = Options {
        recursive: true,
        durability: durability(args.volatile),
        ..Options::default()
    };
    let place = args.what.as_deref().map(Location::parse).transpose()?;
    let sets = match &place {
        Some(Location::Local(tree)) => vec![("tree".to_string(), tree.clone())],
        _ => data::generate(&work.path().join("data"))?,
    };
    let (client, base, _server) = match place {
        Some(Location::Remote(remote)) => {
            let purpose = Purpose {
                connections: args.connections,
                notices: Notices::Shown,
                rate: None,
                window: WINDOW,
            };
            let remote = locate(&remote, &args.connect).await?;
            let session = connect::open(&remote.server, &args.connect, purpose).await?;
            session.client().logged_in().await?;
            (session.client(), remote.path.as_bytes().to_vec(), None)
        }
        _ => {
            let (client, server) = self::server::start(work.path(), connections).await?;
            (client, Vec::new(), Some(server))
        }
    };
    let store = client.served_store();
    if !store.is_empty() {
        output::line(&format!("{}: {store}", client.server()))?;
    }
    let bench = Bench {
        client: client.clone(),
        base: Remote::directory(client.server(), RemotePath::parse(&base).unwrap_or_default()),
        options,
        back: work.path().join("back"),
    };
    let result = bench.all(&sets).await;
    client.quit().await;
    result
}

struct Bench {
    client: Arc<Client>,
    base: Remote,
    options: Options,
    back: PathBuf,
}

impl Bench {
    async fn all(&self, sets: &[(String, PathBuf)]) -> Result<(), Failure> {
        output::line(&format!(
            "{:<18} {:>9} {:>11} {:>9} {:>13} {:>9}  limited by",
            "", "files", "bytes", "time", "throughput", "files/s"
        ))?;
        let mut compared = 0_u64;
        for (name, tree) in sets {
            compared = compared.saturating_add(self.there_and_back(name, tree).await?);
        }
        output::line(&format!(
            "verified: {compared} entries came back with the same content, mode and time"
        ))
    }

    async fn there_and_back(&self, name: &str, tree: &Path) -> Result<u64, Failure> {
        let unique = format!("haul-bench-{}-{}", std::process::id(), name.replace(' ', "-"));
        let top = self
            .base
            .path
            .append(&RemotePath::parse(unique.as_bytes()).unwrap_or_default());
        let top = top.map_err(|e| Failure::usage(format!("{}: {e}", self.base.shown)))?;
        let about = |e: NetError| Failure::about(&self.base.shown, e);
        let tree_source = local_source(tree, Follow::none())
            .await
            .map_err(|e| Failure::about(tree.display(), e))?;
        let place = PutDestination {
            path: top.as_bytes().to_vec(),
            directory: false,
            names: vec![unique.clone().into_bytes()],
            if_missing: IfMissing::Name,
        };
        let source = tree_source.source;
        let sent = measure(Side::Sends, |reporter| {
            self.client
                .put(Arc::new(vec![source]), place, self.options.clone(), reporter)
        });
        let sent = sent.await.map_err(about)?;
        print(&format!("put {name}"), &sent)?;

        std::fs::create_dir_all(&self.back)
            .map_err(|e| Failure::io("a temporary directory", &e))?;
        let remote = Remote {
            path: top.clone(),
            directory: false,
            ..self.base.clone()
        };
        let (from, mut plain) = (std::slice::from_ref(&remote), Options::default());
        let target = local_target(from, &self.back, IfMissing::Name, &mut plain).await?;
        let paths = vec![top.as_bytes().to_vec()];
        let fetched = measure(Side::Receives, |reporter| {
            self.client
                .get(GetSources::whole(paths), target, self.options.clone(), reporter)
        });
        let fetched = fetched.await.map_err(about)?;
        print(&format!("get {name}"), &fetched)?;

        let back = self.back.join(&unique);
        let compared = compare(tree, &back);
        let removed = self.client.remove(top.as_bytes(), true).await;
        let _ = if back.is_dir() {
            std::fs::remove_dir_all(&back)
        } else {
            std::fs::remove_file(&back)
        };
        removed.map_err(about)?;
        compared
    }
}

fn print(name: &str, measured: &Measured) -> Result<(), Failure> {
    let seconds = measured.time.as_secs_f64().max(1e-6);
    output::line(&format!(
        "{name:<18} {:>9} {:>11} {:>7.2} s {:>11}/s {:>9.0}  {}",
        measured.files,
        units::size(measured.bytes),
        seconds,
        units::size((measured.bytes as f64 / seconds) as u64),
        measured.files as f64 / seconds,
        measured.limit,
    ))
}
