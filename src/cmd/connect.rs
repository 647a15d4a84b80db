//! From a server's name to a session that survives the loss of its connections.

pub use super::connect_args::ConnectArgs;
use super::connect_args::{given_password, retry_for};
use super::failure::{Failure, exit};
use super::location::{Scheme, ServerName};
use super::server::{LoginBy, LoginError, NewKey, Server, find, is_refusal, refused, unanswered};
use super::{paths, prompt, screen, ssh};
use crate::auth::password::Secret;
use crate::net::client::Client;
use crate::net::client::options::{SessionOptions, WINDOW};
use crate::net::client::outage::Outage;
use crate::net::data::pacer::RateLimit;
use crate::net::{NetError, printable};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Data connections of a transfer unless the user says otherwise.
const CONNECTIONS: usize = 4;
/// The most of them, on a link where more carry more.
const MOST_CONNECTIONS: usize = 32;
/// How long to retry without progress unless the user says otherwise.
const RETRY_FOR: Duration = Duration::from_secs(300);
/// The pause before the first retry. It doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// How long the goodbye of a session may take that haul gives up.
const FAREWELL: Duration = Duration::from_millis(250);
/// How often haul asks for a password.
const PASSWORD_TRIES: u32 = 3;

/// Whether the user reads of lost connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notices {
    /// They are printed.
    Shown,
    /// They are skipped.
    Hidden,
}

/// What a session is for.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// Data connections of its transfers, if the user wants a fixed number.
    pub connections: Option<u16>,
    /// Whether the user reads of lost connections.
    pub notices: Notices,
    /// Bytes a second of its transfers, if the user sets a limit.
    pub rate: Option<u64>,
    /// Bytes that the server may have outstanding.
    pub window: u64,
}

/// A login that haul repeats when its session is gone.
pub struct RemoteSession {
    server: Server,
    /// `None`: by key.
    password: Option<Secret>,
    /// How long to retry, if the user said so.
    retry_for: Option<Duration>,
    options: SessionOptions,
    /// The number of its connections is found by trying: what is found is remembered.
    is_tuned: bool,
    client: Arc<Client>,
}

impl RemoteSession {
    /// The session as it is now.
    pub fn client(&self) -> Arc<Client> {
        self.client.clone()
    }

    /// How long to retry without progress.
    pub fn retry_for(&self) -> Duration {
        self.options.retry_for
    }

    /// Since when the server has been unreachable.
    pub fn outage(&self) -> Arc<Outage> {
        self.options.outage.clone()
    }

    /// How fast its transfers go; it changes while they run.
    pub fn rate(&self) -> Arc<RateLimit> {
        self.options.rate.clone()
    }

    fn login_by(&self) -> LoginBy {
        match self.password {
            Some(_) => LoginBy::Password,
            None => LoginBy::Key,
        }
    }

    /// Logs in again after the session was lost, for as long as the user wants to wait without
    /// progress.
    ///
    /// # Errors
    /// `why` when that time is over, and any error that waiting does not mend.
    pub async fn retry(&mut self, why: NetError) -> Result<(), Failure> {
        let since = Instant::now();
        let stalled = self.client.stalled();
        let _outage = self.options.outage.begin(since.checked_sub(stalled).unwrap_or(since));
        let budget = self.options.retry_for.saturating_sub(stalled);
        if !self.client.already_reported() {
            (self.options.notify)(&format!("{}: {why}; trying again", self.server.address()));
        }
        // a server that is still there releases what this session holds
        self.client.leave(FAREWELL).await;
        let mut pauses = Pauses::new();
        loop {
            if since.elapsed() >= budget {
                return Err(gave_up(why, self.options.retry_for));
            }
            match self.log_in().await {
                Ok(client) => {
                    self.client = client;
                    return Ok(());
                }
                Err(e) if e.is_transient() => {}
                Err(e) => return Err(e.about(&self.server, self.login_by())),
            }
            tokio::time::sleep(pauses.next().min(budget.saturating_sub(since.elapsed()))).await;
        }
    }

    async fn log_in(&mut self) -> Result<Arc<Client>, LoginError> {
        let client = self.server.login(self.password.clone(), &self.options).await?;
        client.logged_in().await.map_err(LoginError::Net)?;
        Ok(client)
    }

    /// Continues after a refused login, which became known only when a later request failed: with a
    /// password, if the user can be asked for one.
    ///
    /// # Errors
    /// That the login was refused.
    pub async fn refused(&mut self, why: NetError) -> Result<(), Failure> {
        let by = self.login_by();
        if by == LoginBy::Key && is_refusal(&why) && prompt::can_ask() {
            let (client, password) = login_asking(&mut self.server, &self.options).await?;
            (self.client, self.password) = (client, Some(password));
            return Ok(());
        }
        if why.is_transient() && self.retry_for.is_some() {
            return self.retry(why).await;
        }
        Err(refused(&self.server, by, why))
    }

    /// Sends a request, and again after a new login if the session was lost meanwhile.
    ///
    /// # Errors
    /// The reply's own, and those of a session that cannot be restored.
    pub async fn ask<T>(
        &mut self,
        work: impl AsyncFn(&Client) -> Result<T, NetError>,
    ) -> Result<T, Failure> {
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
        if let Some(found) = self.client.path().filter(|_| self.is_tuned) {
            paths::note(&self.server.address(), self.options.path, found, CONNECTIONS);
        }
        self.client.quit().await;
    }
}

/// Connects and logs in for requests.
///
/// # Errors
/// As [`open`].
pub async fn for_requests(name: &ServerName, args: &ConnectArgs) -> Result<RemoteSession, Failure> {
    let purpose = Purpose {
        connections: Some(1),
        notices: Notices::Shown,
        rate: None,
        window: WINDOW,
    };
    open(name, args, purpose).await
}

/// Connects and logs in: with the password if one is given, else with the key, else with the answer
/// of a user at a terminal.
///
/// # Errors
/// Failures with exit codes 4, 5 and 6.
pub async fn open(
    name: &ServerName,
    args: &ConnectArgs,
    purpose: Purpose,
) -> Result<RemoteSession, Failure> {
    let retry_for = retry_for(args)?;
    retrying(retry_for, async || open_once(name, args, retry_for, purpose).await).await
}

/// Connects, and again for as long as the user wants to wait.
///
/// # Errors
/// Those of `connect`.
pub(super) async fn retrying<T>(
    retry_for: Option<Duration>,
    connect: impl AsyncFn() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let since = Instant::now();
    let mut pauses = Pauses::new();
    loop {
        match connect().await {
            Err(e)
                if e.exit() == exit::CONNECT
                    && retry_for.is_some_and(|most| since.elapsed() < most) =>
            {
                tokio::time::sleep(pauses.next()).await;
            }
            other => return other,
        }
    }
}

/// True where two names lead to one server, and to one user there.
///
/// # Errors
/// Those of the settings.
pub fn is_same_login(
    one: &ServerName,
    other: &ServerName,
    args: &ConnectArgs,
) -> Result<bool, Failure> {
    if one == other || one.scheme == Scheme::Ssh || other.scheme == Scheme::Ssh {
        return Ok(one == other);
    }
    let one = find(one, new_key(args))?;
    let other = find(other, new_key(args))?;
    Ok(one.address() == other.address() && one.user == other.user)
}

/// What becomes of a server whose key is not pinned yet.
fn new_key(args: &ConnectArgs) -> NewKey {
    match args.accept_new {
        true => NewKey::Accept,
        false => NewKey::Ask,
    }
}

async fn open_once(
    name: &ServerName,
    args: &ConnectArgs,
    retry_for: Option<Duration>,
    purpose: Purpose,
) -> Result<RemoteSession, Failure> {
    let mut server = find(name, new_key(args))?;
    server.host_over_ssh(ssh::host_of(name, args).await?);
    let connections = purpose.connections.map(usize::from);
    let is_tuned = connections.is_none() && !server.is_over_ssh();
    let options = SessionOptions {
        connections: connections.unwrap_or(CONNECTIONS),
        path: is_tuned.then(|| paths::find(&server.address())).flatten(),
        most_connections: connections.unwrap_or(MOST_CONNECTIONS),
        retry_for: retry_for.unwrap_or(RETRY_FOR),
        notify: Arc::new(move |text: &str| match purpose.notices {
            Notices::Shown => screen::say(&format!("haul: {}", printable(text))),
            Notices::Hidden => {}
        }),
        window: purpose.window,
        rate: RateLimit::new(purpose.rate),
        ..SessionOptions::fixed(CONNECTIONS, RETRY_FOR)
    };
    let mut password = if server.is_over_ssh() {
        None
    } else {
        given_password(args)?
    };
    let client = if server.is_over_ssh() || password.is_some() || server.identity.is_some() {
        // The answer is not awaited: the next request goes with the same packets.
        let by = if password.is_some() {
            LoginBy::Password
        } else {
            LoginBy::Key
        };
        let login = server.login(password.clone(), &options).await;
        login.map_err(|e| e.about(&server, by))?
    } else {
        // whether the server's key is trusted is decided before a password is asked for
        drop(server.connect().await?);
        if !prompt::can_ask() {
            let message =
                format!("{}: no key or password to log in as {}", server.address(), server.user);
            return Err(Failure::new(exit::LOGIN, message)
                .hint("use haul login with an invite, or give HAUL_PASSWORD or --password-file"));
        }
        let (client, answer) = login_asking(&mut server, &options).await?;
        password = Some(answer);
        client
    };
    Ok(RemoteSession {
        server,
        password,
        retry_for,
        options,
        is_tuned,
        client,
    })
}

/// Asks for the password, again if it was wrong, and logs in with it.
async fn login_asking(
    server: &mut Server,
    options: &SessionOptions,
) -> Result<(Arc<Client>, Secret), Failure> {
    let mut remaining = PASSWORD_TRIES;
    loop {
        let password = ask_password(server).await?;
        let login = server.login(Some(password.clone()), options).await;
        let client = login.map_err(|e| e.about(server, LoginBy::Password))?;
        remaining = remaining.saturating_sub(1);
        match client.logged_in().await {
            Ok(()) => return Ok((client, password)),
            Err(e) if is_refusal(&e) && remaining > 0 => {
                client.leave(FAREWELL).await;
                screen::say(&format!("haul: {}", printable(&format!("{e}; try again"))));
            }
            Err(e) => return Err(refused(server, LoginBy::Password, e)),
        }
    }
}

async fn ask_password(server: &Server) -> Result<Secret, Failure> {
    let question = format!("{}@{}'s password: ", printable(&server.user), printable(&server.host));
    let answer = prompt::secret(&question).await.map_err(unanswered)?;
    answer.ok_or_else(|| Failure::new(exit::LOGIN, "no password was given"))
}

/// The failure of a command that has retried for as long as the user wants to wait.
pub fn gave_up(why: NetError, retry_for: Duration) -> Failure {
    Failure::from(why).and(&format!("; gave up after {} s without progress", retry_for.as_secs()))
}

/// The pauses between retries.
struct Pauses(Duration);

impl Pauses {
    fn new() -> Pauses {
        Pauses(FIRST_PAUSE)
    }

    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = pause.saturating_mul(2).min(LAST_PAUSE);
        pause
    }
}
