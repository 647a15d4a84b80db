//! From a server's name to a session: saved names, pins, and how to log in.

use super::failure::{Failure, exit, exit_of_parts};
use super::hint;
use super::location::{Location, ServerName};
use super::settings::config_dir;
use super::units::parse_time;
use super::{prompt, screen};
use crate::auth::known::KnownServers;
use crate::auth::password::Secret;
use crate::auth::{Fingerprint, Identity, saved};
use crate::net::client::Client;
use crate::net::client::connect::Connection;
use crate::net::client::options::SessionOptions;
use crate::net::client::outage::Outage;
use crate::net::wire::Code;
use crate::net::{NetError, printable};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Data connections when the user says nothing.
const CONNECTIONS: usize = 4;
/// What they may become on a link where more carry more.
const MOST_CONNECTIONS: usize = 32;

/// Options of every command that talks to a server.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ConnectArgs {
    /// Pin the key of a server that is not known yet without asking
    #[arg(long)]
    accept_new: bool,

    /// Read the password from the first line of FILE
    #[arg(long, value_name = "FILE", value_hint = hint::LOCAL)]
    password_file: Option<PathBuf>,

    /// When the connection is lost, go on trying for TIME without progress [default: 5m]; when it is given, also where no
    /// connection can be made in the first place. HAUL_RETRY_FOR says the same
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    retry_for: Option<Duration>,
}

/// How long a lost connection is tried again without progress, when the user says nothing.
const PATIENCE: Duration = Duration::from_secs(300);
/// Pause before the first further try; it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How long a goodbye to a session that is given up may take.
const FAREWELL: Duration = Duration::from_millis(250);
/// How often a password is asked for.
const PASSWORD_TRIES: u32 = 3;
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// A server, found: where it is, and as whom to log in.
pub struct Server {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User.
    pub user: String,
    /// What is known of servers' keys.
    pub known: KnownServers,
    /// This client's key.
    pub identity: Option<Identity>,
}

/// Looks a name up among the saved ones, and loads what is needed to connect.
///
/// # Errors
/// A settings file that is malformed, or a key that cannot be read.
pub fn find(name: &ServerName) -> Result<Server, Failure> {
    let dir = config_dir()?;
    let saved = saved::load(&dir.join("servers"))?
        .into_iter()
        .find(|s| s.name == name.host && name.port.is_none());
    let (host, port, user) = match saved {
        Some(saved) => (saved.host, saved.port, saved.user.map(|user| user.to_string())),
        None => (name.host.clone(), name.port(), None),
    };
    Ok(Server {
        host,
        port,
        user: name.user.clone().or(user).unwrap_or_else(local_user),
        known: KnownServers::load(&dir.join("known_servers"))?,
        identity: Identity::load(&dir.join("key"))?,
    })
}

/// The user of this machine, as ssh takes it.
pub fn local_user() -> String {
    ["USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .filter(|user| !user.is_empty())
        .unwrap_or_else(|| {
            if rustix::process::geteuid().is_root() {
                "root".into()
            } else {
                "anonymous".into()
            }
        })
}

impl Server {
    /// `host:port`, as in `known_servers`.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Connects, and settles whether the server's key is to be trusted before anything secret is sent.
    async fn connect(&mut self, accept_new: bool) -> Result<Connection, Failure> {
        let pin = self.known.pin(&self.address());
        let about = |e: NetError, known: &Path| match e {
            NetError::WrongKey { .. } => Failure::about(&self.host, e).hint(format!(
                "somebody may be in between; if the server was really set up anew, remove its line from {}",
                known.display()
            )),
            NetError::Connect { .. } => e.into(),
            e => Failure::about(self.address(), e),
        };
        let connection = Connection::open(&self.host, self.port, pin, self.identity.as_ref())
            .await
            .map_err(|e| about(e, self.known.path()))?;
        if pin.is_none() {
            self.trust(connection.server_key(), accept_new).await?;
        }
        Ok(connection)
    }

    async fn trust(&mut self, key: Fingerprint, accept_new: bool) -> Result<(), Failure> {
        let address = self.address();
        let question = format!(
            "The server {} is not known yet. Its key is\n{key}\nGo on and pin it? [yes/no] ",
            printable(&address)
        );
        let accepted = accept_new || (prompt::can_ask() && prompt::yes(&question).await.map_err(unanswered)?);
        if !accepted {
            return Err(
                Failure::new(exit::KEY, format!("{address}: the server's key {key} is not known"))
                    .hint("compare it with what the server prints, then use --accept-new or haul login"),
            );
        }
        self.known.set(&address, key)?;
        Ok(())
    }

    async fn login(
        &mut self,
        args: &ConnectArgs,
        password: Option<Secret>,
        options: &SessionOptions,
    ) -> Result<Arc<Client>, NetOrFailure> {
        let connection = self.connect(args.accept_new).await.map_err(NetOrFailure::Failure)?;
        connection
            .login(&self.user, password, options)
            .await
            .map_err(NetOrFailure::Net)
    }
}

/// A login may fail in a way that another try with a password mends.
enum NetOrFailure {
    Net(NetError),
    Failure(Failure),
}

/// A login that can be made again when its session is gone.
pub struct RemoteSession {
    server: Server,
    args: ConnectArgs,
    password: Option<Secret>,
    options: SessionOptions,
    client: Arc<Client>,
}

impl RemoteSession {
    /// The session as it is now.
    pub fn client(&self) -> Arc<Client> {
        self.client.clone()
    }

    /// How long to try without progress.
    pub fn retry_for(&self) -> Duration {
        self.options.retry_for
    }

    /// Whether the server cannot be reached now.
    pub fn outage(&self) -> Arc<Outage> {
        self.options.outage.clone()
    }

    /// Logs in again after the session was lost, for as long as the user wants to wait without progress.
    ///
    /// # Errors
    /// `why` when that time is over, and whatever waiting does not mend.
    pub async fn retry(&mut self, why: NetError) -> Result<(), Failure> {
        let since = Instant::now();
        let stalled = self.client.stalled();
        let _outage = self.options.outage.begin(since.checked_sub(stalled).unwrap_or(since));
        let budget = self.options.retry_for.saturating_sub(stalled);
        if !self.client.already_reported() {
            (self.options.notify)(&format!("{}: {why}; trying again", self.server.address()));
        }
        // a server that is still there lets go of what this session holds
        self.client.leave(FAREWELL).await;
        let mut pause = FIRST_PAUSE;
        loop {
            if since.elapsed() >= budget {
                return Err(gave_up(why, self.options.retry_for));
            }
            let login = self.server.login(&self.args, self.password.clone(), &self.options);
            match login.await {
                Ok(client) => match client.logged_in().await {
                    Ok(()) => {
                        self.client = client;
                        return Ok(());
                    }
                    Err(e) if e.is_transient() => {}
                    Err(e) => return Err(refused(&self.server, self.password.is_none(), e)),
                },
                Err(NetOrFailure::Net(e)) if e.is_transient() => {}
                Err(NetOrFailure::Net(e)) => return Err(refused(&self.server, self.password.is_none(), e)),
                Err(NetOrFailure::Failure(e)) if e.exit() == exit::CONNECT => {}
                Err(NetOrFailure::Failure(e)) => return Err(e),
            }
            tokio::time::sleep(pause.min(budget.saturating_sub(since.elapsed()))).await;
            pause = pause.saturating_mul(2).min(LAST_PAUSE);
        }
    }

    /// The login was refused, which became known only when something else was asked already: goes on with a password where
    /// somebody can be asked for one.
    ///
    /// # Errors
    /// That the login was refused.
    pub async fn refused(&mut self, why: NetError) -> Result<(), Failure> {
        let by_key = self.password.is_none();
        if by_key && is_refusal(&why) && prompt::can_ask() {
            let (client, password) = login_asking(&mut self.server, &self.args, &self.options).await?;
            (self.client, self.password) = (client, Some(password));
            return Ok(());
        }
        if why.is_transient() && self.args.retry_for.is_some() {
            return self.retry(why).await;
        }
        Err(refused(&self.server, by_key, why))
    }

    /// Asks the server something, and asks again after a new login where the session was lost meanwhile.
    ///
    /// # Errors
    /// The answer's own, and those of a session that cannot be had again.
    pub async fn ask<T>(&mut self, work: impl AsyncFn(&Client) -> Result<T, NetError>) -> Result<T, Failure> {
        loop {
            let result = work(&self.client).await;
            if result.is_err()
                && let Some(why) = self.client.refusal()
            {
                self.refused(why).await?;
                continue;
            }
            match result {
                Err(e) if e.is_transient() => self.retry(e).await?,
                other => return other.map_err(Failure::from),
            }
        }
    }

    /// Says goodbye.
    pub async fn quit(self) {
        self.client.quit().await;
    }
}

impl NetOrFailure {
    fn about(self, server: &Server, by_key: bool) -> Failure {
        match self {
            NetOrFailure::Net(e) => refused(server, by_key, e),
            NetOrFailure::Failure(e) => e,
        }
    }
}

/// Connects and logs in: with the password where one is given, else with the key, else with what a terminal says. With
/// `quiet` nothing is said when the connection is lost and comes back.
///
/// # Errors
/// Failures with exit codes 4, 5 and 6.
pub async fn open(
    name: &ServerName,
    args: &ConnectArgs,
    connections: Option<usize>,
    quiet: bool,
) -> Result<RemoteSession, Failure> {
    let args = &ConnectArgs {
        retry_for: retry_for(args)?,
        ..args.clone()
    };
    let since = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match open_once(name, args, connections, quiet).await {
            Err(e)
                if e.exit() == exit::CONNECT
                    && args.retry_for.is_some_and(|retry_for| since.elapsed() < retry_for) =>
            {
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(LAST_PAUSE);
            }
            other => return other,
        }
    }
}

async fn open_once(
    name: &ServerName,
    args: &ConnectArgs,
    connections: Option<usize>,
    quiet: bool,
) -> Result<RemoteSession, Failure> {
    let mut server = find(name)?;
    let options = SessionOptions {
        connections: connections.unwrap_or(CONNECTIONS),
        most_connections: connections.unwrap_or(MOST_CONNECTIONS),
        retry_for: args.retry_for.unwrap_or(PATIENCE),
        notify: Arc::new(move |text: &str| {
            if !quiet {
                screen::say(&format!("haul: {}", printable(text)));
            }
        }),
        outage: Arc::default(),
    };
    let password = given_password(args)?;
    if password.is_some() || server.identity.is_some() {
        // The answer is not waited for: what is asked next goes with the same packets.
        let login = server.login(args, password.clone(), &options).await;
        let client = login.map_err(|e| e.about(&server, password.is_none()))?;
        return Ok(RemoteSession {
            server,
            args: args.clone(),
            password,
            options,
            client,
        });
    }
    // the key of the server is settled before a password is asked for
    drop(server.connect(args.accept_new).await?);
    if !prompt::can_ask() {
        let message = format!("{}: no way to log in as {}", server.address(), server.user);
        return Err(Failure::new(exit::LOGIN, message)
            .hint("use haul login with an invite, or give HAUL_PASSWORD or --password-file"));
    }
    let (client, password) = login_asking(&mut server, args, &options).await?;
    Ok(RemoteSession {
        server,
        args: args.clone(),
        password: Some(password),
        options,
        client,
    })
}

/// Asks for the password, again where it was wrong, and logs in with it.
async fn login_asking(
    server: &mut Server,
    args: &ConnectArgs,
    options: &SessionOptions,
) -> Result<(Arc<Client>, Secret), Failure> {
    let mut left = PASSWORD_TRIES;
    loop {
        let password = ask_password(server).await?;
        let login = server.login(args, Some(password.clone()), options).await;
        let client = login.map_err(|e| e.about(server, false))?;
        left = left.saturating_sub(1);
        match client.logged_in().await {
            Ok(()) => return Ok((client, password)),
            Err(e) if is_refusal(&e) && left > 0 => {
                client.leave(FAREWELL).await;
                screen::say(&format!("haul: {}", printable(&format!("{e}; try again"))));
            }
            Err(e) => return Err(refused(server, false, e)),
        }
    }
}

async fn ask_password(server: &Server) -> Result<Secret, Failure> {
    let question = format!("{}@{}'s password: ", printable(&server.user), printable(&server.host));
    let answer = prompt::secret(&question).await.map_err(unanswered)?;
    answer.ok_or_else(|| Failure::new(exit::LOGIN, "no password was given"))
}

fn unanswered(error: std::io::Error) -> Failure {
    Failure::new(exit::LOGIN, format!("cannot read the answer: {error}"))
}

/// The end of trying again.
pub fn gave_up(why: NetError, retry_for: Duration) -> Failure {
    Failure::from(why).and(&format!("; gave up after {} s without progress", retry_for.as_secs()))
}

/// What the command line says, or the environment.
fn retry_for(args: &ConnectArgs) -> Result<Option<Duration>, Failure> {
    match (args.retry_for, std::env::var("HAUL_RETRY_FOR")) {
        (None, Ok(text)) if !text.is_empty() => match parse_time(&text) {
            Ok(time) => Ok(Some(time)),
            Err(why) => Err(Failure::usage(format!("HAUL_RETRY_FOR: {why}"))),
        },
        (given, _) => Ok(given),
    }
}

fn is_refusal(error: &NetError) -> bool {
    matches!(
        error,
        NetError::Refused {
            code: Code::LOGIN_REFUSED,
            ..
        }
    )
}

fn refused(server: &Server, by_key: bool, error: NetError) -> Failure {
    let hint = if by_key {
        "is the user right? haul login lists this machine's key with an invite; HAUL_PASSWORD gives a password"
    } else {
        "are the user and the password right?"
    };
    let refusal = is_refusal(&error);
    let failure = Failure::about(format!("{}@{}", server.user, server.address()), error);
    let failure = if refusal { failure.hint(hint) } else { failure };
    failure.complete()
}

fn given_password(args: &ConnectArgs) -> Result<Option<Secret>, Failure> {
    if let Some(path) = &args.password_file {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Failure::new(
                exit::LOGIN,
                format!("cannot read the password from {}: {e}", path.display()),
            )
        })?;
        let text = Secret::new(text);
        return Ok(Some(Secret::new(text.lines().next().unwrap_or_default().into())));
    }
    Ok(std::env::var("HAUL_PASSWORD")
        .ok()
        .filter(|p| !p.is_empty())
        .map(Secret::new))
}

/// Does the same to each remote path, on as few sessions as there are servers. One that fails does not keep the others
/// from being done.
///
/// # Errors
/// The failure itself where there is only one path; else each is reported, and the exit code says how it ended.
pub async fn each(
    paths: &[std::ffi::OsString],
    args: &ConnectArgs,
    work: impl AsyncFn(&Client, &[u8]) -> Result<(), NetError>,
) -> Result<(), Failure> {
    let remotes = paths
        .iter()
        .map(|p| Location::remote(p))
        .collect::<Result<Vec<_>, _>>()?;
    let mut session: Option<(ServerName, RemoteSession)> = None;
    let (mut done, mut failures) = (0_usize, Vec::new());
    for remote in &remotes {
        let mut open = match session.take() {
            Some((server, open)) if server == remote.server => open,
            other => {
                if let Some((_, open)) = other {
                    open.quit().await;
                }
                self::open(&remote.server, args, Some(1), false).await?
            }
        };
        match open
            .ask(async |client| work(client, remote.path.as_bytes()).await)
            .await
        {
            Ok(()) => done = done.saturating_add(1),
            Err(e) => failures.push(Failure::about(&remote.shown, e)),
        }
        session = Some((remote.server.clone(), open));
    }
    if let Some((_, open)) = session {
        open.quit().await;
    }
    sum_up(done, failures)
}

/// One failure of what was asked is the command's own; of several, or beside something done, each is reported, and the
/// exit code says how it ended.
///
/// # Errors
/// Unless nothing failed.
pub fn sum_up(done: usize, mut failures: Vec<Failure>) -> Result<(), Failure> {
    match (failures.len(), failures.pop()) {
        (0, _) | (_, None) => Ok(()),
        (1, Some(only)) if done == 0 => Err(only),
        (_, Some(last)) => {
            failures.push(last);
            for failure in &failures {
                failure.report();
            }
            let codes = failures.iter().map(Failure::exit).collect();
            Err(Failure::already_reported(exit_of_parts(done > 0, &codes)))
        }
    }
}
