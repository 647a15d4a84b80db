//! Shell patterns in remote paths: the server names the paths that match.

use super::connect::{ConnectArgs, RemoteSession};
use super::failure::{Failure, exit};
use super::locate::locate;
use super::remote::Remote;
use super::sessions::Sessions;
use crate::net::NetError;
use crate::net::client::changes::GlobError;
use crate::net::transfer::filter::glob::is_pattern;
use crate::net::wire::Code;
use crate::store::RemotePath;
use std::collections::HashSet;

/// How a command takes a path that is a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patterns {
    /// As a name.
    Literal,
    /// As all paths that match.
    All,
    /// As those of them that are not beneath another one: for commands that take whole trees.
    Outermost,
}

/// The paths that an argument stands for: itself, or those that match it.
///
/// # Errors
/// That none matches, and those of the request.
pub async fn expand(
    session: &mut RemoteSession,
    remote: &Remote,
    patterns: Patterns,
) -> Result<Vec<Remote>, Failure> {
    let found = matches(session, remote, patterns).await?;
    if found.is_empty() {
        let message = format!("{}: no match", remote.shown);
        return Err(Failure::new(exit::NOT_FOUND, message));
    }
    Ok(found)
}

/// The same; empty where none matches.
///
/// # Errors
/// Those of the request.
pub async fn matches(
    session: &mut RemoteSession,
    remote: &Remote,
    patterns: Patterns,
) -> Result<Vec<Remote>, Failure> {
    if patterns == Patterns::Literal || !is_pattern(remote.path.as_bytes()) {
        return Ok(vec![remote.clone()]);
    }
    let about = |e| Failure::about(&remote.shown, e);
    let asked = session.ask(async |client| match client.glob(&remote.path).await {
        Err(GlobError::Net(NetError::Refused {
            code: Code::NOT_IMPLEMENTED,
            ..
        })) => Ok(Ok(vec![remote.path.clone()])),
        Err(GlobError::Net(e)) => Err(e),
        other => Ok(other),
    });
    let mut found = match asked.await.map_err(about)? {
        Ok(found) => found,
        Err(e @ GlobError::Pattern(_)) => {
            return Err(Failure::usage(format!("{}: {e}", remote.shown)));
        }
        Err(e) => {
            return Err(Failure::new(exit::FAILED, format!("{}: {e}", remote.shown))
                .hint("name the directory instead"));
        }
    };
    if patterns == Patterns::Outermost {
        found = outermost(found);
    }
    let directory = remote.directory;
    let expanded = found.into_iter().map(|path| match path == remote.path {
        true => remote.clone(),
        false => Remote {
            directory,
            ..remote.at(path)
        },
    });
    Ok(expanded.collect())
}

/// The paths that all arguments stand for, over sessions of their own.
///
/// # Errors
/// As [`expand`].
pub async fn expand_all(
    remotes: Vec<Remote>,
    args: &ConnectArgs,
    patterns: Patterns,
) -> Result<Vec<Remote>, Failure> {
    if !remotes.iter().any(|remote| is_pattern(remote.path.as_bytes())) {
        return Ok(remotes);
    }
    let (mut sessions, mut expanded) = (Sessions::new(args), Vec::new());
    for remote in &remotes {
        let remote = locate(remote, args).await?;
        let session = sessions.with(&remote.server).await?;
        expanded.extend(expand(session, &remote, patterns).await?);
    }
    sessions.quit().await;
    Ok(expanded)
}

fn outermost(found: Vec<RemotePath>) -> Vec<RemotePath> {
    let all: HashSet<RemotePath> = found.iter().cloned().collect();
    let is_beneath_another = |path: &RemotePath| {
        let mut above = path.split();
        while let Some((parent, _)) = above {
            if all.contains(&parent) {
                return true;
            }
            above = parent.split();
        }
        false
    };
    found.into_iter().filter(|path| !is_beneath_another(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beneath_another_match_is_not_named_twice() {
        let paths = |texts: &[&str]| -> Vec<RemotePath> {
            texts
                .iter()
                .map(|text| RemotePath::parse(text.as_bytes()).unwrap())
                .collect()
        };
        let found = paths(&["a", "a/b", "a/b/c", "a-b", "d/e"]);
        assert_eq!(outermost(found), paths(&["a", "a-b", "d/e"]));
    }
}
