//! `haul serve`: serves a directory of this machine.

use super::drop_root::become_user;
use super::failure::{Failure, exit};
use super::hint;
use super::invite;
use super::listen::listen;
use super::location::{ServerName, parse_host};
use super::others::{named_servers, parse_other};
use super::rate::{Rate, parse_rate};
use super::runtime;
use super::serve_stdio::{self, StdioArgs};
use super::served_place::{ServedPlace, WantedPlace};
use super::server::local_user;
use super::service::stop_signal;
use super::settings::state_dir;
use super::store_args::{StoreArgs, parse_lease};
use super::units::{parse_memory, parse_time};
use super::user::account::Rights as UserRights;
use crate::auth::Identity;
use crate::auth::state_file::StateFile;
use crate::auth::user::User;
use crate::auth::users::Users;
use crate::net::outbound::NamedServers;
use crate::net::server::{self, Config, Limits};
use crate::net::wire::DEFAULT_PORT;
use crate::store::accounts::accounts;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// How long the invite of a server without users is valid.
const FIRST_INVITE: Duration = Duration::from_secs(24 * 3600);

/// What a server of a bucket says when it starts.
const ABOUT: &str = "an S3 object store, in which a directory with entries cannot be renamed, and \
    which has no hard links, no backups, no trash and no size";

/// Serve a directory, or a bucket, to users who log in
///
/// The first start creates a key. At a terminal, a server without users prints an invite, and the
/// command that uses it on the other machine. SIGINT and SIGTERM stop the server; running transfers
/// get 10 seconds to finish.
///
/// Over ssh, haul starts haul serve --stdio on the other machine by itself. A line of
/// authorized_keys that begins with command="haul serve --stdio --root /srv/x --read-only",restrict
/// lets its key read /srv/x, and do nothing else.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul serve /srv/files                              all addresses, port 4285
  haul serve --listen 127.0.0.1:0 --json /srv/files  prints the port it got
  haul user add kim --root kim --read-only           a user, and their rights
  haul serve --store s3://files/haul --key key       a bucket of S3
  haul serve --stdio --root /srv/x --read-only       what a key may run over ssh
  haul invite kim                                    a code that lets kim log in")]
pub struct Args {
    /// The directory to serve
    #[arg(
        value_hint = hint::LOCAL_DIR,
        required_unless_present_any = ["stdio", "store"],
        conflicts_with = "store"
    )]
    root: Option<PathBuf>,

    #[command(flatten)]
    over: StdioArgs,

    #[command(flatten)]
    bucket: StoreArgs,

    /// With --store, how long a lock counts after the server that has it has died
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        requires = "store",
        value_parser = parse_lease
    )]
    lease: Duration,

    /// The server's key; servers of one --store have the same [default: key in the state directory]
    #[arg(long, value_name = "FILE", value_hint = hint::LOCAL)]
    key: Option<PathBuf>,

    /// Listen on this address; may be given several times [default: [::]:4285 and 0.0.0.0:4285]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<String>,

    /// The directory of the key and the users [default: $XDG_STATE_HOME/haul, /var/lib/haul for
    /// root]
    #[arg(long, value_name = "DIR", value_hint = hint::LOCAL_DIR)]
    state: Option<PathBuf>,

    /// Drop the rights of root: once the port is bound, run as this user, with their groups
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// Let users who may write set owners, devices, set-uid bits and all extended attributes. Only
    /// root can serve so: a user who logs in can then make files that act with root's rights
    #[arg(long, conflicts_with_all = ["user", "store"])]
    owners: bool,

    /// Record owners, full modes, devices and ACLs in extended attributes, and find them there: for
    /// a server that cannot, or should not, set them
    #[arg(long, conflicts_with_all = ["owners", "store"])]
    fake_super: bool,

    /// The most sessions at once
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = parse_sessions)]
    max_sessions: usize,

    /// The most data connections per session
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = parse_count)]
    max_connections: usize,

    /// The most memory for all sessions together: data in flight, messages, buffers
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_memory)]
    max_memory: u64,

    /// Move at most RATE (2M, 500k) in each direction, with all sessions together. haul user set
    /// limits a user
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    bwlimit: Option<Rate>,

    /// Let users send from here to this server, with a ticket that they have from it; may be given
    /// several times. The name is the one that they use
    #[arg(long, value_name = "HOST[:PORT]", value_parser = parse_other)]
    send_to: Vec<ServerName>,

    /// How long a session waits for its client after the connection is lost
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    session_grace: Duration,

    /// How long to keep partial files for resuming
    // the name before 0.2
    #[arg(
        long,
        alias = "keep-partial",
        value_name = "TIME",
        default_value = "7d",
        value_parser = parse_time
    )]
    partial_max_age: Duration,

    /// Print the listening addresses as JSON, one object per line
    #[arg(long)]
    pub(super) json: bool,

    /// Log more
    #[arg(short, long)]
    verbose: bool,
}

impl Args {
    /// What is to be served.
    fn wanted(&self) -> WantedPlace<'_> {
        WantedPlace {
            root: self.root.as_deref(),
            bucket: &self.bucket,
            lease: self.lease,
            owners: self.owners,
            fake_super: self.fake_super,
        }
    }
}

fn parse_sessions(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1_000_000) => Ok(n),
        _ => Err("a number from 1 to 1000000".into()),
    }
}

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=64) => Ok(n),
        _ => Err("a number from 1 to 64".into()),
    }
}

/// Prepares and confines the process, and then runs the server. Not async: threads that exist
/// before the confinement would not be confined.
pub(super) fn run(args: &Args, return_free_memory: fn()) -> Result<(), Failure> {
    let level = if args.verbose {
        tracing::Level::DEBUG
    } else {
        tracing::Level::INFO
    };
    args.over.check()?;
    if args.over.stdio {
        return serve_stdio::run(&args.over, level);
    }
    log(level);

    let state = state_dir(args.state.clone())?;
    let listeners = listen(&args.listen)?;
    match &args.user {
        Some(name) => become_user(name, &state)?,
        None if rustix::process::geteuid().is_root() => {
            tracing::warn!("this server has all rights of root: drop them with --user NAME");
        }
        None if args.owners => {
            return Err(Failure::usage("--owners: only root may set owners"));
        }
        None => {}
    }
    runtime::forbid_memory_dumps();
    let place = ServedPlace::open(&args.wanted(), &state)?;
    // confined, the server cannot read them any more
    let _ = accounts();
    let key = args.key.clone().unwrap_or_else(|| state.join("key"));
    let identity = Identity::load_or_create(&key)?;
    // the only place besides its users' files where it may write; the first to say so decides
    let _ = tempfile::env::override_temp_dir(&state);
    let others = named_servers(&args.send_to)?;
    let ports: Vec<u16> = others.iter().map(|other| other.port).collect();
    place.confine(&state, ports);
    // those of a bucket are read with the help of threads, which are to be confined, too
    let at = place.users(&state)?;
    let users = Users::load(&at)?;
    let mut config = Config {
        store: place.served(),
        about: String::new(),
        is_machine: false,
        identity,
        users,
        return_free_memory,
        outbound: (!others.is_empty()).then(|| Arc::new(NamedServers(others)) as _),
        limits: Limits {
            sessions: args.max_sessions,
            connections: args.max_connections,
            memory: args.max_memory,
            grace: args.session_grace,
            own_lock_wait: place.own_lock_wait(),
            least_window: place.least_window(),
            partial_max_age: args.partial_max_age,
            rate: args.bwlimit.and_then(|rate| rate.0),
        },
    };
    runtime::block_on(async {
        if let Some(engine) = place.probe().await? {
            tracing::info!(%engine, "the object store has what haul needs");
            tracing::info!("it is {ABOUT}: docs/STORE.md");
            config.about = ABOUT.to_string();
        }
        serve(config, listeners, args.json, &at).await
    })
}

/// Logs on standard error.
fn log(level: tracing::Level) {
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .with_target(false)
        .init();
}

async fn serve(
    config: Config,
    listeners: Vec<std::net::TcpListener>,
    json: bool,
    at: &StateFile,
) -> Result<(), Failure> {
    let cannot = |e: std::io::Error| Failure::new(exit::FAILED, format!("listen: {e}"));
    let listeners = listeners.into_iter().map(TcpListener::from_std);
    let listeners = listeners.collect::<Result<Vec<_>, _>>().map_err(cannot)?;
    let fingerprint = config.identity.public().fingerprint();
    let no_users = !config.users.current()?.iter().any(User::can_log_in);
    let stop = stop_signal()?;
    for listener in &listeners {
        let address = listener.local_addr().map_err(cannot)?;
        let line = if json {
            json!({"event": "listening", "address": address.to_string(),
                "fingerprint": fingerprint.to_string()})
            .to_string()
        } else {
            format!("listening on {address}, key {fingerprint}")
        };
        say(&line)?;
    }
    if no_users && !json {
        first_steps(at, &config.identity, &listeners)?;
    }
    server::run(config, listeners, stop).await.map_err(Failure::from)
}

/// Prints a line that the program that started the server may wait for.
fn say(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let said = writeln!(out, "{line}").and_then(|()| out.flush());
    said.map_err(|e| Failure::new(exit::FAILED, format!("cannot write to standard output: {e}")))
}

/// Tells a new administrator how the first user logs in.
fn first_steps(
    at: &StateFile,
    identity: &Identity,
    listeners: &[TcpListener],
) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        tracing::warn!(
            "there are no users yet: add one with haul invite NAME or haul user add NAME"
        );
        return Ok(());
    }
    let user = local_user();
    let (code, _) = invite::make(at, identity, &user, FIRST_INVITE, &UserRights::default())?;
    let first = listeners.first().and_then(|l| l.local_addr().ok());
    // a server that only this machine reaches is not found under its name
    let host = match first {
        Some(address) if address.ip().is_loopback() => address.ip().to_string(),
        _ => crate::net::client::options::host_name(),
    };
    let port = first.map_or(DEFAULT_PORT, |a| a.port());
    let host = if port == DEFAULT_PORT {
        host
    } else {
        format!("{host}:{port}")
    };
    let name = parse_host(&host).map_or_else(|_| host.clone(), |h| h.host);
    say(&format!(
        "\nNo user can log in yet. On the other machine, type\n\n    haul login {host}\n\nand \
        answer with this invite, valid once within a day, for user {user}:\n\n    \
             {code}\n\nThen, there: haul put FILE {name}:\n"
    ))
}
