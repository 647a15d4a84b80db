//! Many sessions of one process at a server: how much memory they take at rest, and how many logins
//! by key the server answers.
//!
//! ```text
//! cargo build --release --example sessions
//! target/release/examples/sessions SERVER-BINARY [--idle N] [--logins N]
//! ```
//!
//! It starts the server, in a directory of its own, and ends it.

use anyhow::{Context, Result, bail};
use haul::auth::user::{AuthorizedKey, User};
use haul::auth::{Fingerprint, Identity, UserName, users};
use haul::net::client::Client;
use haul::net::client::connect::Connection;
use haul::net::client::options::SessionOptions;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Logins under way at once.
const AT_ONCE: usize = 64;
/// Users: each may have a fair share of the sessions.
const USERS: usize = 8;

struct Server {
    process: Child,
    address: SocketAddr,
    key: Fingerprint,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    fn start(binary: &str, dir: &Path, identity: &Identity) -> Result<Server> {
        let state = dir.join("state");
        haul::auth::file::make_private_dir(&state)?;
        users::update(state.join("users"), |all| {
            for user in 0..USERS {
                let name = UserName::parse(&format!("user{user}")).map_err(anyhow::Error::msg)?;
                let mut user = User::new(name);
                user.keys.push(AuthorizedKey::new(identity.public().clone()));
                all.push(user);
            }
            anyhow::Ok(())
        })?;
        let root = dir.join("root");
        std::fs::create_dir(&root)?;
        let mut process = Command::new(binary)
            .args(["serve", "--json", "--listen", "127.0.0.1:0", "--max-sessions", "100000"])
            .args(["--state"])
            .args([&state, &root])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("no output")?).read_line(&mut line)?;
        let ready: serde_json::Value = serde_json::from_str(&line)?;
        let text = |key: &str| ready[key].as_str().context("not ready");
        Ok(Server {
            address: text("address")?.parse()?,
            key: Fingerprint::parse(text("fingerprint")?).context("no key")?,
            process,
        })
    }

    /// MiB in memory.
    fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let number = line.split_whitespace().nth(1).context("no number")?;
        Ok(number.parse::<u64>()? / 1024)
    }

    async fn log_in(&self, identity: &Identity, number: usize) -> Result<Arc<Client>> {
        let host = self.address.ip().to_string();
        let connection =
            Connection::open(&host, self.address.port(), Some(self.key), Some(identity));
        let options = SessionOptions::fixed(1, Duration::from_secs(1));
        let user = format!("user{}", number % USERS);
        let client = connection.await?.login(&user, None, &options).await?;
        client.logged_in().await?;
        Ok(client)
    }
}

/// Logs in so many times, some at once.
async fn log_in(
    server: &Arc<Server>,
    identity: &Arc<Identity>,
    count: usize,
) -> Result<Vec<Arc<Client>>> {
    let mut running = tokio::task::JoinSet::new();
    let mut clients = Vec::new();
    for number in 0..count {
        if running.len() >= AT_ONCE {
            clients.push(running.join_next().await.context("none")???);
        }
        let (server, identity) = (server.clone(), identity.clone());
        running.spawn(async move { server.log_in(&identity, number).await });
    }
    while let Some(client) = running.join_next().await {
        clients.push(client??);
    }
    Ok(clients)
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let Some(binary) = arguments.get(1) else {
        bail!("usage: sessions SERVER-BINARY [--idle N] [--logins N]");
    };
    let number = |name: &str, default: usize| -> Result<usize> {
        let at = arguments.iter().position(|a| a == name);
        let value = at.and_then(|at| arguments.get(at + 1));
        Ok(value.map(|text| text.parse()).transpose()?.unwrap_or(default))
    };
    let (idle, logins) = (number("--idle", 10_000)?, number("--logins", 1000)?);
    let dir = tempfile::tempdir()?;
    let identity = Arc::new(Identity::load_or_create(&dir.path().join("key"))?);
    let server = Arc::new(Server::start(binary, dir.path(), &identity)?);

    let began = Instant::now();
    for one in 0..logins / 10 {
        server.log_in(&identity, one).await?.quit().await;
    }
    let each = began.elapsed().as_secs_f64() * 1000.0 / (logins / 10).max(1) as f64;
    println!("one after another: {each:.2} ms a login with its end");
    let began = Instant::now();
    let clients = log_in(&server, &identity, logins).await?;
    let rate = logins as f64 / began.elapsed().as_secs_f64();
    println!("{AT_ONCE} at once: {rate:.0} logins a second");
    drop(clients);

    let before = server.memory()?;
    let clients = log_in(&server, &identity, idle).await?;
    let with = server.memory()?;
    println!("{idle} sessions at rest: {with} MiB, {before} MiB without");
    drop(clients);
    Ok(())
}
