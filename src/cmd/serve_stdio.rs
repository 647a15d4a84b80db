//! `haul serve --stdio`: serves the user who starts it over ssh, for as long as they use it.
//!
//! Without `--root` it serves the machine, as that user may use it. Nothing of it is on disk: its
//! key, and the only key that logs in, last as long as the session.

use super::confine::{Network, confine_to};
use super::failure::{Failure, local_failure};
use super::hint;
use super::listen::open_listener;
use super::output;
use super::runtime;
use super::service::{real_dir, stop_signal};
use crate::auth::user::{Access, AuthorizedKey, User};
use crate::auth::users::Users;
use crate::auth::{Identity, PublicKey, UserName};
use crate::net::lanes::carrier::enlarge;
use crate::net::lanes::greeting::{self, LOWEST_PORT, read_hello};
use crate::net::server::tunnel::{Inlets, run_tunnel};
use crate::net::server::{Config, Limits};
use crate::net::wire::proto::{CarrierHello, CarrierWelcome};
use crate::store::Rights;
use crate::store::accounts::accounts;
use crate::store::local::{LocalStore, ServedDir};
use ring::digest::{SHA256, digest};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::FileType;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::unix::pipe;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// How long the client may take to say what it wants.
const HELLO: Duration = Duration::from_secs(30);
/// How long a session waits for its client after its carrier was lost. ssh is started again within
/// a second, unless it asks.
const GRACE: Duration = Duration::from_secs(10);
/// How long a transfer waits for a lock of a predecessor: its grace, and a while for the end of its
/// work.
const OWN_LOCK_WAIT: Duration = Duration::from_secs(15);
/// Sessions at once: one command has one, and a second one while it logs in again.
const SESSIONS: usize = 8;
/// The most ports of a client's choice that are tried.
const MOST_PORTS: usize = 1024;
/// Data connections of a session.
const CONNECTIONS: usize = 32;
/// Memory of all sessions, in bytes.
const MEMORY: u64 = 1 << 30;

/// Options of a server over standard input and output.
#[derive(clap::Args)]
pub struct StdioArgs {
    /// Serve one user over standard input and output, for as long as they use it: what haul starts
    /// over ssh on the other machine
    #[arg(long, conflicts_with_all = ["root", "listen", "state", "user", "owners", "send_to"])]
    pub stdio: bool,

    /// With --stdio, serve DIR and nothing else, for a command= in authorized_keys. Without it, all
    /// that the user may use
    #[arg(long = "root", value_name = "DIR", requires = "stdio", value_hint = hint::LOCAL_DIR)]
    within: Option<PathBuf>,

    /// With --stdio, allow reading only
    #[arg(long, conflicts_with = "write_only")]
    read_only: bool,

    /// With --stdio, allow putting files only, and no names or contents to be read
    #[arg(long)]
    write_only: bool,
}

impl StdioArgs {
    /// Refuses what is for `--stdio` alone: the rights of other servers are those of their users.
    ///
    /// # Errors
    /// A usage failure.
    pub fn check(&self) -> Result<(), Failure> {
        let limits = [(self.read_only, "--read-only"), (self.write_only, "--write-only")];
        match limits.into_iter().find(|(given, _)| *given && !self.stdio) {
            None => Ok(()),
            Some((_, option)) => Err(Failure::usage(format!("{option} goes with --stdio"))
                .hint(format!("limit a user: haul user add NAME {option}"))),
        }
    }

    fn access(&self) -> Access {
        match (self.read_only, self.write_only) {
            (true, _) => Access::ReadOnly,
            (_, true) => Access::WriteOnly,
            _ => Access::Full,
        }
    }
}

/// Serves standard input and output.
pub(super) fn run(args: &StdioArgs, level: tracing::Level) -> Result<(), Failure> {
    log(level);
    // on this thread alone: threads that exist before the confinement would not be confined
    let greeted = runtime::on_this_thread(greet())?;
    let Greeted::Hello(hello) = greeted else {
        return Ok(());
    };
    runtime::forbid_memory_dumps();
    let (root, store) = match open(args.within.as_deref()) {
        Ok(opened) => opened,
        Err(failure) => {
            runtime::on_this_thread(refuse(&hello, &failure))?;
            return Err(Failure::already_reported(failure.exit()));
        }
    };
    let _ = accounts();
    let identity = Identity::generate().map_err(|e| Failure::io("make a key", &e))?;
    let name = user_name()?;
    let mut user = User::new(name.clone());
    user.access = args.access();
    user.keys.push(AuthorizedKey::new(PublicKey::from_der(&hello.key)));
    let listener = listen(&hello, args.within.is_none());
    let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let welcome = CarrierWelcome {
        version: env!("CARGO_PKG_VERSION").into(),
        key: identity.public().fingerprint().0.to_vec(),
        user: name.to_string(),
        home: if args.within.is_some() { Vec::new() } else { home() },
        addresses: address.iter().map(SocketAddr::to_string).collect(),
        ..CarrierWelcome::default()
    };
    let joins = listen_for_joins(&hello.secret);
    if args.within.is_some() {
        // the only place where it may write; the first to say so decides
        let _ = tempfile::env::override_temp_dir(&root);
        confine_to(&[&root], &Network::Ports(Vec::new()));
    }
    let config = Config {
        store: Arc::new(ServedDir::new(store, root)),
        about: String::new(),
        is_machine: args.within.is_none(),
        identity,
        users: Users::only(user),
        return_free_memory: || {},
        outbound: None,
        limits: Limits {
            sessions: SESSIONS,
            connections: CONNECTIONS,
            memory: MEMORY,
            grace: GRACE,
            own_lock_wait: OWN_LOCK_WAIT,
            least_window: 0,
            partial_max_age: Duration::MAX,
            rate: None,
        },
    };
    runtime::block_on(serve(config, (hello, welcome), joins, listener))
}

/// Logs on standard error.
fn log(level: tracing::Level) {
    // the log is read at the other end, between the user's own lines
    let level = match level {
        tracing::Level::INFO => tracing::Level::ERROR,
        level => level,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
}

async fn serve(
    config: Config,
    (hello, welcome): (CarrierHello, CarrierWelcome),
    joins: Option<net::UnixListener>,
    listener: Option<TcpListener>,
) -> Result<(), Failure> {
    let (input, output) = stdio()?;
    let inlets = Inlets {
        first: (input, output),
        hello,
        welcome,
        joins: joins.and_then(|joins| UnixListener::from_std(joins).ok()),
        listeners: listener.into_iter().filter_map(|l| l.try_into().ok()).collect(),
        peer: peer(),
    };
    run_tunnel(config, inlets, stop_signal()?).await.map_err(Failure::from)
}

/// What the client said first.
enum Greeted {
    /// It wants a server.
    Hello(CarrierHello),
    /// It wanted one that runs already, and has had it.
    Joined,
}

/// Reads the client's hello. A further carrier of a server that runs already is passed on to it,
/// until that ends.
async fn greet() -> Result<Greeted, Failure> {
    let (mut input, mut output) = stdio()?;
    let read = timeout(HELLO, read_hello(&mut input)).await;
    let (hello, bytes) = match read {
        Ok(Ok(hello)) => hello,
        _ => {
            return Err(Failure::usage("--stdio: expected the hello of a haul client")
                .hint("on the other machine, type haul ls ssh://HOST/"));
        }
    };
    let joined = if hello.joins {
        join_server(&hello.secret).await
    } else {
        None
    };
    let Some(mut server) = joined else {
        return Ok(Greeted::Hello(hello));
    };
    if server.write_all(&bytes).await.is_ok() {
        // the end of either side is the end of both
        let (mut from_server, mut to_server) = server.split();
        tokio::select! {
            _ = copy(&mut input, &mut to_server) => {}
            _ = copy(&mut from_server, &mut output) => {}
        }
    }
    Ok(Greeted::Joined)
}

/// Tells the client why there is no server.
async fn refuse(hello: &CarrierHello, failure: &Failure) -> Result<(), Failure> {
    let welcome = CarrierWelcome {
        refused: failure.message().to_string(),
        ..CarrierWelcome::default()
    };
    let (_, mut output) = stdio()?;
    let bytes = greeting::welcome(&hello.nonce, &welcome);
    output
        .write_all(&bytes)
        .await
        .map_err(|e| Failure::io("standard output", &e))?;
    output.flush().await.map_err(|e| Failure::io("standard output", &e))
}

type Input = Box<dyn AsyncRead + Send + Unpin>;
type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// Standard input and output, which are pipes or sockets.
fn stdio() -> Result<(Input, Output), Failure> {
    let opened = || -> io::Result<(Input, Output)> {
        let input: Input = match Stream::of(io::stdin())? {
            Stream::Pipe(fd) => Box::new(pipe::Receiver::from_owned_fd(fd)?),
            Stream::Socket(socket) => Box::new(socket),
        };
        let output: Output = match Stream::of(io::stdout())? {
            Stream::Pipe(fd) => Box::new(pipe::Sender::from_owned_fd(fd)?),
            Stream::Socket(socket) => Box::new(socket),
        };
        Ok((input, output))
    };
    opened().map_err(|e| {
        Failure::usage(format!("--stdio: standard input and output: {e}"))
            .hint("haul starts it over ssh: on the other machine, type haul ls ssh://HOST/")
    })
}

/// A stream that can be waited for.
enum Stream {
    Pipe(OwnedFd),
    Socket(UnixStream),
}

impl Stream {
    fn of(stream: impl AsFd) -> io::Result<Stream> {
        let fd = stream.as_fd().try_clone_to_owned()?;
        let mode = rustix::fs::fstat(&fd)?.st_mode;
        match FileType::from_raw_mode(mode) {
            FileType::Fifo => {
                enlarge(&fd);
                Ok(Stream::Pipe(fd))
            }
            FileType::Socket => {
                let socket = net::UnixStream::from(fd);
                socket.set_nonblocking(true)?;
                UnixStream::from_std(socket).map(Stream::Socket)
            }
            _ => Err(io::Error::other("expected a pipe or a socket")),
        }
    }
}

/// The place where later processes join the server that has this secret. It is in no directory, and
/// the secret cannot be read from it.
fn place_of(secret: &[u8]) -> io::Result<net::SocketAddr> {
    let hash = digest(&SHA256, &[b"haul join ", secret].concat());
    let half = hash.as_ref().get(..16).unwrap_or_default();
    net::SocketAddr::from_abstract_name(format!("haul-{}", output::hex(half)))
}

fn listen_for_joins(secret: &[u8]) -> Option<net::UnixListener> {
    let listener = net::UnixListener::bind_addr(&place_of(secret).ok()?).ok()?;
    listener.set_nonblocking(true).ok()?;
    Some(listener)
}

/// The server that has this secret, if it runs. Any user of the machine can see the name of its
/// place, and take it once the server has ended: what listens there must be this user's own.
async fn join_server(secret: &[u8]) -> Option<UnixStream> {
    let stream = net::UnixStream::connect_addr(&place_of(secret).ok()?).ok()?;
    stream.set_nonblocking(true).ok()?;
    let stream = UnixStream::from_std(stream).ok()?;
    let owner = stream.peer_cred().ok()?.uid();
    (owner == rustix::process::geteuid().as_raw()).then_some(stream)
}

/// The tree that is served.
fn open(within: Option<&Path>) -> Result<(PathBuf, LocalStore), Failure> {
    let root = match within {
        Some(dir) => real_dir(dir)?,
        None => PathBuf::from("/"),
    };
    let opened = match within {
        Some(_) => LocalStore::open(&root),
        None => LocalStore::open_machine(),
    };
    let store = opened.map_err(|e| local_failure(&root, &e))?;
    let rights = match (rustix::process::geteuid().is_root(), within) {
        (true, None) => Rights::All,
        (true, Some(_)) => Rights::own("the server serves one directory"),
        (false, _) => Rights::own("the user there is not root"),
    };
    let stored = store.with_rights(rights).map_err(|e| local_failure(&root, &e));
    Ok((root.clone(), stored?))
}

/// The user whom the process runs as.
fn account() -> Option<nix::unistd::User> {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()?
}

/// Their name, or their number where haul's names cannot be like it.
fn user_name() -> Result<UserName, Failure> {
    let name = account().and_then(|user| UserName::parse(&user.name).ok());
    let number = rustix::process::geteuid().as_raw();
    name.map_or_else(|| UserName::parse(&format!("uid{number}")).map_err(Failure::usage), Ok)
}

/// The user's home directory, beneath the root of the machine.
fn home() -> Vec<u8> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let home = home.or_else(|| account().map(|user| user.dir.into_os_string()));
    let bytes = home.map(OsStringExt::into_vec).unwrap_or_default();
    bytes.strip_prefix(b"/").map(<[u8]>::to_vec).unwrap_or_default()
}

/// One of the four fields of what sshd says of its connection: the client's address and port, then
/// those of the server.
fn ssh_connection(field: usize) -> Option<IpAddr> {
    let connection = std::env::var("SSH_CONNECTION").ok()?;
    let address = connection.split_whitespace().nth(field)?.to_string();
    address.parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// Where the client is, for the log.
fn peer() -> SocketAddr {
    SocketAddr::new(ssh_connection(0).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), 0)
}

/// Listens for direct data connections on the address that ssh used, if the client wants them. The
/// client chooses the port among those that are no privilege, unless it may use one directory only:
/// a key with a forced command is not to open ports of its choice.
fn listen(hello: &CarrierHello, is_machine: bool) -> Option<TcpListener> {
    let address = ssh_connection(2).filter(|_| hello.direct)?;
    let port = |port: u32| u16::try_from(port).unwrap_or_default();
    let (first, last) = match is_machine {
        true => (port(hello.first_port), port(hello.last_port)),
        false => (0, 0),
    };
    let is_allowed = |port: &u16| *port == 0 || *port >= LOWEST_PORT;
    let ports = (first..=last).filter(is_allowed).take(MOST_PORTS);
    let mut ports = ports.map(|port| open_listener(SocketAddr::new(address, port)));
    ports.find_map(Result::ok)
}
