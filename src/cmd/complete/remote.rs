//! Saved hosts, and names on a server: with the key of this machine, within a short time, and
//! without a question.

use super::candidate::Candidate;
use crate::auth::saved;
use crate::cmd::location::{Location, Scheme};
use crate::cmd::remote::Remote;
use crate::cmd::server::{NewKey, find};
use crate::cmd::settings::config_dir;
use crate::net::NetError;
use crate::net::client::Client;
use crate::net::client::connect::Connection;
use crate::net::client::options::SessionOptions;
use crate::store::Kind;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a server may take: the user waits for it.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long the goodbye may take.
const FAREWELL: Duration = Duration::from_millis(100);
/// The most candidates from one directory.
const MOST_NAMES: usize = 10_000;

/// The saved servers, `user@` before and `:` behind each where a path may follow.
pub fn hosts(before: &str) -> Vec<Candidate> {
    let saved = config_dir().ok().and_then(|dir| saved::load(&dir.join("servers")).ok());
    let saved = saved.unwrap_or_default().into_iter();
    saved
        .map(|server| {
            let bracketed = server.name.contains(':');
            let name = if bracketed {
                format!("[{}]", server.name)
            } else {
                server.name
            };
            let user = server.user.map(|user| format!("{user}@")).unwrap_or_default();
            let help = format!("{user}{}, port {}", server.host, server.port);
            Candidate::new(format!("{before}{name}"), help)
        })
        .collect()
}

/// The candidates for a remote path that begins with `word`: saved hosts, or names in the directory
/// that the word names.
pub async fn paths(word: &OsStr) -> Vec<Candidate> {
    let bytes = word.as_bytes();
    let base = match bytes.iter().rposition(|b| *b == b'/') {
        Some(slash) => slash,
        None => bytes.iter().rposition(|b| *b == b':').unwrap_or(0),
    };
    let (base, leaf) = bytes.split_at_checked(base.saturating_add(1)).unwrap_or((&[], bytes));
    match Location::parse(OsStr::from_bytes(base)) {
        Ok(Location::Remote(directory)) => names(&directory, base, leaf).await,
        _ if bytes.iter().any(|b| b"/:".contains(b)) => Vec::new(),
        _ => {
            let user = word.to_str().and_then(|text| text.rsplit_once('@'));
            let before = user.map(|(user, _)| format!("{user}@")).unwrap_or_default();
            let mut hosts = hosts(&before);
            hosts.iter_mut().for_each(|host| host.value.push(":"));
            hosts
        }
    }
}

/// The entries of a directory on a server whose names begin with `leaf`; hidden ones only if it
/// begins with a dot.
async fn names(directory: &Remote, base: &[u8], leaf: &[u8]) -> Vec<Candidate> {
    let deadline = Instant::now() + DEADLINE;
    let mut found = Vec::new();
    if let Ok(Some(client)) = timeout_at(deadline, log_in(directory)).await {
        // the names that have arrived by then are offered
        let _ = timeout_at(deadline, list(&client, directory, leaf, &mut found)).await;
        client.leave(FAREWELL).await;
    }
    let hidden = leaf.starts_with(b".");
    found.retain(|name| hidden || !name.starts_with(b"."));
    found.sort();
    let whole = |name: Vec<u8>| OsString::from_vec([base, &name].concat());
    found.into_iter().map(|name| Candidate::new(whole(name), "")).collect()
}

async fn list(
    client: &Client,
    directory: &Remote,
    leaf: &[u8],
    found: &mut Vec<Vec<u8>>,
) -> Result<(), NetError> {
    let mut cookie = Vec::new();
    while found.len() < MOST_NAMES {
        let (page, next) = client.list(directory.path.as_bytes(), cookie).await?;
        for entry in page {
            let Some(name) = entry.name.filter(|name| name.as_bytes().starts_with(leaf)) else {
                continue;
            };
            let end: &[u8] = if entry.kind == Kind::Dir { b"/" } else { b"" };
            found.push([name.as_bytes(), end].concat());
        }
        let Some(next) = next else { break };
        cookie = next;
    }
    Ok(())
}

/// Logs in with this machine's key to a server whose key is pinned, without a question.
async fn log_in(directory: &Remote) -> Option<Arc<Client>> {
    if directory.server.scheme == Scheme::Ssh {
        // ssh may ask
        return None;
    }
    let server = find(&directory.server, NewKey::Ask).ok()?;
    let pin = server.known.pin(&server.address())?;
    let identity = server.identity.as_ref()?;
    let connection = Connection::open(&server.host, server.port, Some(pin), Some(identity));
    let options = SessionOptions::fixed(1, DEADLINE);
    connection.await.ok()?.login(&server.user, None, &options).await.ok()
}
