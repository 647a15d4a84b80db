//! A server by its name: where it is, whether its key is trusted, and as whom to log in.

use super::failure::{Failure, exit};
use super::location::ServerName;
use super::prompt;
use super::settings::config_dir;
use super::ssh::SshHost;
use crate::auth::known::KnownServers;
use crate::auth::password::Secret;
use crate::auth::{Fingerprint, Identity, saved};
use crate::net::client::Client;
use crate::net::client::connect::Connection;
use crate::net::client::options::SessionOptions;
use crate::net::wire::Code;
use crate::net::{NetError, printable};
use std::path::Path;
use std::sync::Arc;

/// What to do about a server whose key is not pinned yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewKey {
    /// Ask at the terminal; without one, refuse.
    Ask,
    /// Pin it.
    Accept,
}

/// A server that was looked up: where it is, and as whom to log in.
pub struct Server {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The user to log in as.
    pub user: String,
    /// The pinned keys.
    pub known: KnownServers,
    /// This client's key.
    pub identity: Option<Identity>,
    new_key: NewKey,
    /// The host, if it is reached over ssh.
    ssh: Option<Arc<SshHost>>,
}

/// With what a login was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginBy {
    /// This client's key.
    Key,
    /// A password.
    Password,
}

/// Why a login did not succeed.
pub enum LoginError {
    /// The connection or the server.
    Net(NetError),
    /// Anything before that, like a key that is not trusted.
    Failure(Failure),
}

/// Looks a name up among the saved ones, and loads what connecting takes.
///
/// # Errors
/// A settings file that is malformed, or a key that cannot be read.
pub fn find(name: &ServerName, new_key: NewKey) -> Result<Server, Failure> {
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
        new_key,
        ssh: None,
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
    /// `host:port`, as in `known_servers`; over ssh as the user reads it.
    pub fn address(&self) -> String {
        match &self.ssh {
            Some(host) => host.shown(),
            None => format!("{}:{}", self.host, self.port),
        }
    }

    /// The server is reached over ssh, if this is a host.
    pub fn host_over_ssh(&mut self, host: Option<Arc<SshHost>>) {
        self.ssh = host;
    }

    /// True if the server is reached over ssh.
    pub fn is_over_ssh(&self) -> bool {
        self.ssh.is_some()
    }

    /// Connects, and decides whether to trust the server's key before anything secret is sent.
    ///
    /// # Errors
    /// Failures with exit codes 4 and 6.
    pub async fn connect(&mut self) -> Result<Connection, Failure> {
        let pin = self.known.pin(&self.address());
        let about = |e: NetError, known: &Path| match e {
            NetError::WrongKey { .. } => Failure::about(&self.host, e).hint(format!(
                "someone may be intercepting the connection; if the server really has a new key, \
                remove its line from {}",
                known.display()
            )),
            NetError::Connect { .. } => e.into(),
            e => Failure::about(self.address(), e),
        };
        let connection = Connection::open(&self.host, self.port, pin, self.identity.as_ref())
            .await
            .map_err(|e| about(e, self.known.path()))?;
        if pin.is_none() {
            self.trust(connection.server_key()).await?;
        }
        Ok(connection)
    }

    async fn trust(&mut self, key: Fingerprint) -> Result<(), Failure> {
        let address = self.address();
        let question = format!(
            "The server {} is not known yet. Its key is\n{key}\nTrust and pin it? [yes/no] ",
            printable(&address)
        );
        let accepted = match self.new_key {
            NewKey::Accept => true,
            NewKey::Ask => prompt::can_ask() && prompt::yes(&question).await.map_err(unanswered)?,
        };
        if !accepted {
            return Err(Failure::new(
                exit::KEY,
                format!("{address}: the server's key {key} is not known"),
            )
            .hint(
                "compare it with the key that the server prints, then use --accept-new \
                    or haul login; --via ssh goes over ssh",
            ));
        }
        self.known.set(&address, key)?;
        Ok(())
    }

    /// Connects and asks to log in, with a password or else with the key. Requests may follow at
    /// once.
    ///
    /// # Errors
    /// That of the connection. A refusal is known later, from [`Client::logged_in`].
    pub async fn login(
        &mut self,
        password: Option<Secret>,
        options: &SessionOptions,
    ) -> Result<Arc<Client>, LoginError> {
        if let Some(host) = &self.ssh {
            let login = host.login(options).await;
            return login.map_err(|e| LoginError::Failure(Failure::about(host.shown(), e)));
        }
        let connection = self.connect().await.map_err(LoginError::Failure)?;
        let client = connection.login(&self.user, password, options).await;
        client.map_err(LoginError::Net)
    }
}

impl LoginError {
    /// True if another try may succeed without another key or password.
    pub fn is_transient(&self) -> bool {
        match self {
            LoginError::Net(e) => e.is_transient(),
            LoginError::Failure(e) => e.exit() == exit::CONNECT,
        }
    }

    /// The failure of a command that could not log in.
    pub fn about(self, server: &Server, by: LoginBy) -> Failure {
        match self {
            LoginError::Net(e) => refused(server, by, e),
            LoginError::Failure(e) => e,
        }
    }
}

/// True if the server refused the user, the key or the password.
pub fn is_refusal(error: &NetError) -> bool {
    let code = match error {
        NetError::Refused { code, .. } => Some(*code),
        _ => None,
    };
    code == Some(Code::LOGIN_REFUSED)
}

/// The failure of a login.
pub fn refused(server: &Server, by: LoginBy, error: NetError) -> Failure {
    let hint = match by {
        LoginBy::Key => {
            "check the user; run haul login with an invite to list this machine's key, or set \
            HAUL_PASSWORD"
        }
        LoginBy::Password => "check the user and the password",
    };
    let refusal = is_refusal(&error);
    let failure = Failure::about(format!("{}@{}", server.user, server.address()), error);
    let failure = if refusal { failure.hint(hint) } else { failure };
    failure.complete()
}

/// The failure of a question that got no answer.
pub fn unanswered(error: std::io::Error) -> Failure {
    Failure::new(exit::LOGIN, format!("cannot read the answer: {error}"))
}
