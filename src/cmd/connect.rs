//! From a server's name to a session: saved names, pins, and how to log in.

use super::failure::{Failure, exit};
use super::location::{Location, ServerName};
use super::settings::config_dir;
use crate::auth::known::KnownServers;
use crate::auth::{Fingerprint, Identity, saved};
use crate::net::client::{Client, connection::Connection};
use crate::net::wire::Code;
use crate::net::{NetError, printable};
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Data connections when the user says nothing.
const CONNECTIONS: usize = 4;

/// Options of every command that talks to a server.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ConnectArgs {
    /// Pin the key of a server that is not known yet without asking
    #[arg(long)]
    accept_new: bool,

    /// Read the password from the first line of FILE
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

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
        Some(saved) => (saved.host, saved.port, saved.user),
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
            self.trust(connection.server_key(), accept_new)?;
        }
        Ok(connection)
    }

    fn trust(&mut self, key: Fingerprint, accept_new: bool) -> Result<(), Failure> {
        let address = self.address();
        let accepted = accept_new
            || (std::io::stdin().is_terminal()
                && std::io::stderr().is_terminal()
                && yes(&format!(
                    "The server {address} is not known yet. Its key is\n{key}\nGo on and pin it? [yes/no] "
                )));
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
        password: Option<String>,
        connections: usize,
    ) -> Result<Arc<Client>, NetOrFailure> {
        let connection = self.connect(args.accept_new).await.map_err(NetOrFailure::Failure)?;
        connection
            .login(&self.user, password, connections)
            .await
            .map_err(NetOrFailure::Net)
    }
}

/// A login may fail in a way that another try with a password mends.
enum NetOrFailure {
    Net(NetError),
    Failure(Failure),
}

/// Connects and logs in: with the password where one is given, else with the key, else with what a terminal says.
///
/// # Errors
/// Failures with exit codes 4, 5 and 6.
pub async fn open(name: &ServerName, args: &ConnectArgs, connections: Option<usize>) -> Result<Arc<Client>, Failure> {
    let mut server = find(name)?;
    let connections = connections.unwrap_or(CONNECTIONS);
    let given = given_password(args)?;
    if given.is_some() || server.identity.is_some() {
        let by_key = given.is_none();
        match server.login(args, given, connections).await {
            Ok(client) => return Ok(client),
            Err(NetOrFailure::Net(e)) if by_key && is_refusal(&e) && can_ask() => {}
            Err(NetOrFailure::Net(e)) => return Err(refused(&server, by_key, e)),
            Err(NetOrFailure::Failure(e)) => return Err(e),
        }
    } else {
        // the key of the server is settled before a password is asked for
        drop(server.connect(args.accept_new).await?);
    }
    if !can_ask() {
        let message = format!("{}: no way to log in as {}", server.address(), server.user);
        return Err(Failure::new(exit::LOGIN, message)
            .hint("use haul login with an invite, or give HAUL_PASSWORD or --password-file"));
    }
    let prompt = format!("{}@{}'s password: ", printable(&server.user), server.host);
    let password = rpassword::prompt_password(prompt)
        .map_err(|e| Failure::new(exit::LOGIN, format!("cannot read the password: {e}")))?;
    match server.login(args, Some(password), connections).await {
        Ok(client) => Ok(client),
        Err(NetOrFailure::Net(e)) => Err(refused(&server, false, e)),
        Err(NetOrFailure::Failure(e)) => Err(e),
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
    if refusal { failure.hint(hint) } else { failure }
}

fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

fn given_password(args: &ConnectArgs) -> Result<Option<String>, Failure> {
    if let Some(path) = &args.password_file {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Failure::new(
                exit::LOGIN,
                format!("cannot read the password from {}: {e}", path.display()),
            )
        })?;
        return Ok(Some(text.lines().next().unwrap_or_default().to_string()));
    }
    Ok(std::env::var("HAUL_PASSWORD").ok().filter(|p| !p.is_empty()))
}

fn yes(question: &str) -> bool {
    eprint!("{question}");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "yes" | "y")
}

/// Does the same to each remote path, on as few sessions as there are servers. One that fails does not keep the others
/// from being done.
///
/// # Errors
/// The failure itself where there is only one path; else each is reported, and the exit code says how it ended.
pub async fn each(
    paths: &[std::ffi::OsString],
    args: &ConnectArgs,
    mut work: impl AsyncFnMut(&Client, &[u8]) -> Result<(), NetError>,
) -> Result<(), Failure> {
    let remotes = paths
        .iter()
        .map(|p| Location::remote(p))
        .collect::<Result<Vec<_>, _>>()?;
    let mut session: Option<(ServerName, Arc<Client>)> = None;
    let (mut done, mut failures) = (0_usize, Vec::new());
    for remote in &remotes {
        let client = match session.take() {
            Some((server, client)) if server == remote.server => client,
            other => {
                if let Some((_, client)) = other {
                    client.quit().await;
                }
                open(&remote.server, args, Some(1)).await?
            }
        };
        match work(&client, remote.path.as_bytes()).await {
            Ok(()) => done = done.saturating_add(1),
            Err(e) => failures.push(Failure::about(&remote.shown, e)),
        }
        session = Some((remote.server.clone(), client));
    }
    if let Some((_, client)) = session {
        client.quit().await;
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
            for failure in &failures {
                failure.report();
            }
            last.report();
            Err(Failure::told(if done > 0 { exit::PARTIAL } else { last.exit() }))
        }
    }
}
