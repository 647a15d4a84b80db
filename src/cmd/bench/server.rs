//! The server that `haul bench` starts on this machine.

use crate::auth::user::AuthorizedKey;
use crate::auth::user::User;
use crate::auth::users;
use crate::auth::{Fingerprint, Identity, UserName, file};
use crate::cmd::failure::{Failure, exit};
use crate::net::client::Client;
use crate::net::client::connect::Connection;
use crate::net::client::options::SessionOptions;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// A server on this machine. It ends when this is dropped.
pub(super) struct LocalServer {
    process: Child,
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a server with a directory of its own in `work`, and logs in to it.
pub(super) async fn start(
    work: &Path,
    connections: usize,
) -> Result<(Arc<Client>, LocalServer), Failure> {
    let (root, state) = (work.join("served"), work.join("state"));
    std::fs::create_dir_all(&root).map_err(|e| Failure::io("a temporary directory", &e))?;
    file::make_private_dir(&state)?;
    let identity = Identity::load_or_create(&work.join("client").join("key"))?;
    let mut user = User::new(UserName::parse("bench").map_err(Failure::usage)?);
    user.keys.push(AuthorizedKey::new(identity.public().clone()));
    users::update(state.join("users"), |all| {
        all.push(user.clone());
        Ok::<_, Failure>(())
    })?;
    let mut server = spawn(&root, &state)?;
    let Some((address, key)) = listening(&mut server.process) else {
        return Err(Failure::new(
            exit::FAILED,
            "the server that was started did not say where it listens",
        ));
    };
    let host = address.ip().to_string();
    let connection = Connection::open(&host, address.port(), Some(key), Some(&identity)).await?;
    let options = SessionOptions::fixed(connections, Duration::from_secs(10));
    let client = connection.login("bench", None, &options).await?;
    client.logged_in().await?;
    Ok((client, server))
}

fn spawn(root: &Path, state: &Path) -> Result<LocalServer, Failure> {
    let program = std::env::current_exe().map_err(|e| Failure::io("this program", &e))?;
    let process = Command::new(program)
        .args(["serve", "--json", "--listen", "127.0.0.1:0", "--state"])
        .arg(state)
        .arg(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| Failure::io("start a server", &e))?;
    Ok(LocalServer { process })
}

/// The address and the key that a server prints when it listens.
fn listening(server: &mut Child) -> Option<(SocketAddr, Fingerprint)> {
    let mut line = String::new();
    BufReader::new(server.stdout.take()?).read_line(&mut line).ok()?;
    let ready: serde_json::Value = serde_json::from_str(&line).ok()?;
    let address = ready.get("address")?.as_str()?.parse().ok()?;
    let key = Fingerprint::parse(ready.get("fingerprint")?.as_str()?)?;
    Some((address, key))
}
