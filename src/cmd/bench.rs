//! `haul bench`: how fast haul is here, or to a real server, and what limits it.

use super::connect::{self, ConnectArgs};
use super::failure::{Failure, exit};
use super::get::local_target;
use super::hint;
use super::location::{Location, Remote, ServerName};
use super::output;
use super::put::local_source;
use super::transfer::durability;
use crate::auth::user::{AuthorizedKey, User};
use crate::auth::users;
use crate::auth::{Fingerprint, Identity, UserName, file};
use crate::net::NetError;
use crate::net::client::Client;
use crate::net::client::connect::{Connection, SessionOptions};
use crate::net::transfer::options::Options;
use crate::net::transfer::report::{Counters, Event, Reporter, Waiting};
use crate::store::RemotePath;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Generated data: this many small files …
const SMALL_FILES: usize = 4000;
/// … of this many bytes, …
const SMALL_SIZE: usize = 4096;
/// … and one large one, in MiB.
const LARGE_MIB: usize = 256;
/// A machine that is busy for this share of the time has no processor left.
const BUSY: f64 = 0.85;

/// Measure how fast haul moves data, and what limits it
///
/// Without HOST:PATH it starts a server on this machine in a temporary directory. Either way the data is sent,
/// fetched back and compared; then everything is removed again. All as in real use: encrypted, verified, durable.
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
    #[arg(long)]
    no_fsync: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let work = tempfile::Builder::new()
        .prefix("haul-bench-")
        .tempdir()
        .map_err(|e| io("a temporary directory", &e))?;
    let connections = args.connections.map_or(4, usize::from);
    let options = Options {
        recursive: true,
        durability: durability(args.no_fsync),
        ..Options::default()
    };
    let place = args.what.as_deref().map(Location::parse).transpose()?;
    let sets = match &place {
        Some(Location::Local(tree)) => vec![("tree".to_string(), tree.clone())],
        _ => generate(&work.path().join("data"))?,
    };
    let (client, base, _server) = match place {
        Some(Location::Remote(remote)) => {
            let session =
                connect::open(&remote.server, &args.connect, args.connections.map(usize::from), false).await?;
            session.client().logged_in().await?;
            (session.client(), remote.path.as_bytes().to_vec(), None)
        }
        _ => {
            let (client, server) = local_server(work.path(), connections).await?;
            (client, Vec::new(), Some(server))
        }
    };
    let bench = Bench {
        client: client.clone(),
        base: Remote {
            server: ServerName {
                user: None,
                host: client.server().to_string(),
                port: None,
            },
            path: RemotePath::parse(&base).unwrap_or_default(),
            directory: true,
            contents: false,
            shown: client.server().to_string(),
        },
        options,
        back: work.path().join("back"),
    };
    let result = bench.all(&sets).await;
    client.quit().await;
    result
}

fn io(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(exit::FAILED, format!("{what}: {error}"))
}

struct Bench {
    client: Arc<Client>,
    base: Remote,
    options: Options,
    back: PathBuf,
}

/// What was measured of one transfer.
struct Measured {
    files: u64,
    bytes: u64,
    time: Duration,
    limit: &'static str,
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
        let (source, _) = local_source(tree, true)
            .await
            .map_err(|e| Failure::about(tree.display(), e))?;
        let place = (top.as_bytes(), false, vec![unique.clone().into_bytes()]);
        let sent = measure(Side::Sends, |reporter| {
            self.client
                .put(Arc::new(vec![source]), place, self.options.clone(), reporter)
        });
        let sent = sent.await.map_err(about)?;
        print(&format!("put {name}"), &sent)?;

        std::fs::create_dir_all(&self.back).map_err(|e| io("a temporary directory", &e))?;
        let remote = Remote {
            path: top.clone(),
            directory: false,
            ..self.base.clone()
        };
        let target = local_target(std::slice::from_ref(&remote), &self.back).await?;
        let paths = vec![top.as_bytes().to_vec()];
        let fetched = measure(Side::Receives, |reporter| {
            self.client.get(paths, target, self.options.clone(), reporter)
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
        output::size(measured.bytes),
        seconds,
        output::size((measured.bytes as f64 / seconds) as u64),
        measured.files as f64 / seconds,
        measured.limit,
    ))
}

/// Which side this machine plays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Sends,
    Receives,
}

async fn measure<F: Future<Output = Result<(), NetError>>>(
    side: Side,
    transfer: impl FnOnce(Reporter) -> F,
) -> Result<Measured, NetError> {
    let (events, mut incoming) = mpsc::channel(64);
    let reporter = Reporter::new(events, false);
    let counters = reporter.counters.clone();
    let failures = tokio::spawn(async move {
        while let Some(event) = incoming.recv().await {
            if let Event::Failed { path, text, .. } = event {
                eprintln!("haul: {}: {}", output::name(&path), crate::net::printable(&text));
            }
        }
    });
    let (busy, started) = (BusyTime::now(), Instant::now());
    transfer(reporter).await?;
    let time = started.elapsed();
    let _ = failures.await;
    Ok(Measured {
        files: Counters::get(&counters.files_done),
        bytes: Counters::get(&counters.bytes_done),
        time,
        limit: limit(&counters, side, BusyTime::now().share_since(busy)),
    })
}

/// What a transfer mostly waited for.
fn limit(counters: &Counters, side: Side, busy: f64) -> &'static str {
    if busy > BUSY {
        return "processor";
    }
    let waited = |what: Waiting| counters.waited.get(what as usize).map_or(0, Counters::get);
    let all = [Waiting::Source, Waiting::Network, Waiting::Receiver];
    let most = all.into_iter().max_by_key(|what| waited(*what));
    match (side, most) {
        (Side::Sends, Some(Waiting::Source)) => "reading here",
        (Side::Sends, Some(Waiting::Network)) => "network",
        (Side::Sends, _) => "writing there",
        (Side::Receives, Some(Waiting::Receiver)) => "writing here",
        (Side::Receives, _) => "network, or reading there",
    }
}

/// Time that all processors of this machine were busy, and idle, since it started (proc(5), /proc/stat).
#[derive(Clone, Copy)]
struct BusyTime {
    busy: u64,
    idle: u64,
}

impl BusyTime {
    fn now() -> BusyTime {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = first
            .split_whitespace()
            .skip(1)
            .filter_map(|n| n.parse().ok())
            .collect();
        let idle = ticks.iter().skip(3).take(2).sum();
        let all: u64 = ticks.iter().take(8).sum();
        BusyTime {
            busy: all.saturating_sub(idle),
            idle,
        }
    }

    fn share_since(self, before: BusyTime) -> f64 {
        let busy = self.busy.saturating_sub(before.busy) as f64;
        let idle = self.idle.saturating_sub(before.idle) as f64;
        if busy + idle > 0.0 { busy / (busy + idle) } else { 0.0 }
    }
}

/// A server of this machine, ended when this is dropped.
struct LocalServer(Child);

impl Drop for LocalServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn local_server(work: &Path, connections: usize) -> Result<(Arc<Client>, LocalServer), Failure> {
    let (root, state) = (work.join("served"), work.join("state"));
    std::fs::create_dir_all(&root).map_err(|e| io("a temporary directory", &e))?;
    file::make_private_dir(&state)?;
    let identity = Identity::load_or_create(&work.join("client").join("key"))?;
    let mut user = User::new(UserName::parse("bench").map_err(Failure::usage)?);
    user.keys.push(AuthorizedKey::new(identity.public().clone()));
    users::update(&state.join("users"), |all| {
        all.push(user);
        Ok::<_, Failure>(())
    })?;
    let program = std::env::current_exe().map_err(|e| io("this program", &e))?;
    let mut server = Command::new(program);
    server
        .args(["serve", "--json", "--listen", "127.0.0.1:0", "--state"])
        .arg(&state)
        .arg(&root);
    let child = server
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = LocalServer(child.map_err(|e| io("start a server", &e))?);
    let mut line = String::new();
    if let Some(out) = child.0.stdout.take() {
        let _ = BufReader::new(out).read_line(&mut line);
    }
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
    let address = ready
        .get("address")
        .and_then(|a| a.as_str())
        .and_then(|a| a.parse::<std::net::SocketAddr>().ok());
    let key = ready
        .get("fingerprint")
        .and_then(|f| f.as_str())
        .and_then(Fingerprint::parse);
    let (Some(address), Some(key)) = (address, key) else {
        return Err(Failure::new(
            exit::FAILED,
            "the server that was started did not say where it listens",
        ));
    };
    let connection = Connection::open(&address.ip().to_string(), address.port(), Some(key), Some(&identity)).await?;
    let options = SessionOptions {
        connections,
        most_connections: connections,
        retry_for: Duration::from_secs(10),
        notify: Arc::new(|_| {}),
        outage: Arc::default(),
    };
    let client = connection.login("bench", None, &options).await?;
    client.logged_in().await?;
    Ok((client, child))
}

/// Small files in directories, and a large one.
fn generate(dir: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let (small, large) = (dir.join("small"), dir.join("large"));
    let failed = |e: std::io::Error| io("generate data", &e);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for i in 0..SMALL_FILES {
        let parent = small.join(format!("dir-{:03}", i / 100));
        std::fs::create_dir_all(&parent).map_err(failed)?;
        std::fs::write(parent.join(format!("file-{i:05}")), random.bytes(SMALL_SIZE)).map_err(failed)?;
    }
    let mut file = std::fs::File::create(&large).map_err(failed)?;
    for _ in 0..LARGE_MIB {
        std::io::Write::write_all(&mut file, &random.bytes(1 << 20)).map_err(failed)?;
    }
    Ok(vec![("small files".into(), small), ("a large file".into(), large)])
}

/// xorshift64: data that does not compress, the same every time.
struct Random(u64);

impl Random {
    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0.to_be_bytes()
        });
        words.flatten().take(n).collect()
    }
}

/// Compares two trees entry by entry, with other code than that which moved them. Gives how many entries there are.
fn compare(left: &Path, right: &Path) -> Result<u64, Failure> {
    let differs = |path: &Path, what: &str| {
        Failure::new(exit::FAILED, format!("{}: {what} is not what was sent", path.display()))
    };
    let walk = |top: &Path| walkdir::WalkDir::new(top).sort_by_file_name().into_iter();
    let (mut sent, mut came) = (walk(left), walk(right));
    let mut count = 0_u64;
    loop {
        let (sent, came) = loop {
            match sent.next() {
                // neither sent nor expected
                Some(Ok(entry)) if is_special(&entry) => {}
                other => break (other, came.next()),
            }
        };
        let (sent, came) = match (sent, came) {
            (None, None) => return Ok(count),
            (Some(Ok(sent)), Some(Ok(came))) => (sent, came),
            (Some(Err(e)), _) | (_, Some(Err(e))) => {
                return Err(Failure::new(exit::FAILED, format!("cannot compare: {e}")));
            }
            (Some(Ok(one)), None) | (None, Some(Ok(one))) => return Err(differs(one.path(), "an entry")),
        };
        let path = sent.path();
        let names = (path.strip_prefix(left).ok(), came.path().strip_prefix(right).ok());
        if names.0 != names.1 || sent.file_type() != came.file_type() {
            return Err(differs(path, "the name or kind"));
        }
        let failed = |e: walkdir::Error| Failure::new(exit::FAILED, format!("cannot compare: {e}"));
        let (a, b) = (sent.metadata().map_err(failed)?, came.metadata().map_err(failed)?);
        if (a.mtime(), a.mtime_nsec()) != (b.mtime(), b.mtime_nsec()) {
            return Err(differs(path, "the time"));
        }
        if sent.path_is_symlink() {
            if std::fs::read_link(path).ok() != std::fs::read_link(came.path()).ok() {
                return Err(differs(path, "the target"));
            }
        } else if (a.mode() ^ b.mode()) & 0o777 != 0 {
            return Err(differs(path, "the mode"));
        } else if a.is_file() && !same_content(path, came.path()).map_err(|e| io("compare", &e))? {
            return Err(differs(path, "the content"));
        }
        count = count.saturating_add(1);
    }
}

fn is_special(entry: &walkdir::DirEntry) -> bool {
    let kind = entry.file_type();
    !(kind.is_file() || kind.is_dir() || kind.is_symlink())
}

fn same_content(left: &Path, right: &Path) -> std::io::Result<bool> {
    let (mut a, mut b) = (std::fs::File::open(left)?, std::fs::File::open(right)?);
    let (mut x, mut y) = (Vec::new(), Vec::new());
    loop {
        x.clear();
        y.clear();
        (&mut a).take(1 << 20).read_to_end(&mut x)?;
        (&mut b).take(1 << 20).read_to_end(&mut y)?;
        if x != y {
            return Ok(false);
        }
        if x.is_empty() {
            return Ok(true);
        }
    }
}
