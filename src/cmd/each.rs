//! One request or listing for each of several remote paths.

use super::connect::{ConnectArgs, RemoteSession};
use super::failure::{Failure, exit_of_parts};
use super::locate::locate;
use super::location::Location;
use super::patterns::{self, Patterns};
use super::remote::Remote;
use super::sessions::Sessions;
use crate::net::NetError;
use crate::net::client::Client;
use std::ffi::OsString;

/// Sends the same request for each remote path, and for each path that matches a pattern. A failure
/// names its path.
///
/// # Errors
/// As [`each_remote`].
pub async fn each(
    paths: &[OsString],
    args: &ConnectArgs,
    patterns: Patterns,
    work: impl AsyncFn(&Client, &[u8]) -> Result<(), NetError>,
) -> Result<(), Failure> {
    each_remote(&parse(paths)?, args, patterns, async |session, remote| {
        let path = remote.asked();
        let result = session.ask(async |client| work(client, &path).await);
        result.await.map_err(|e| Failure::about(&remote.shown, e))
    })
    .await
}

/// The remote paths that these arguments name.
///
/// # Errors
/// A usage failure.
pub fn parse(paths: &[OsString]) -> Result<Vec<Remote>, Failure> {
    paths.iter().map(|path| Location::remote(path)).collect()
}

/// Does the same for each remote path, and for each path that matches a pattern. Paths on the same
/// server, one after another, share a session. A failure does not keep the other paths from being
/// processed.
///
/// # Errors
/// The failure itself if there is only one path; else each is reported, and the exit code
/// summarises them.
pub async fn each_remote(
    remotes: &[Remote],
    args: &ConnectArgs,
    patterns: Patterns,
    work: impl AsyncFn(&mut RemoteSession, &Remote) -> Result<(), Failure>,
) -> Result<(), Failure> {
    each_match(remotes, (args, patterns, Unmatched::Fails), work).await
}

/// What becomes of a pattern that matches nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatched {
    /// It fails.
    Fails,
    /// Nothing is done for it.
    Ignored,
}

/// The same, with patterns that may match nothing.
///
/// # Errors
/// As [`each_remote`].
pub async fn each_match(
    remotes: &[Remote],
    (args, patterns, unmatched): (&ConnectArgs, Patterns, Unmatched),
    work: impl AsyncFn(&mut RemoteSession, &Remote) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut sessions = Sessions::new(args);
    let (mut done, mut failures) = (0_usize, Vec::new());
    for remote in remotes {
        let remote = locate(remote, args).await?;
        let session = sessions.with(&remote.server).await?;
        let found = match unmatched {
            Unmatched::Fails => patterns::expand(session, &remote, patterns).await,
            Unmatched::Ignored => patterns::matches(session, &remote, patterns).await,
        };
        let found = match found {
            Ok(found) => found,
            Err(e) => {
                failures.push(e);
                continue;
            }
        };
        for remote in &found {
            match work(session, remote).await {
                Ok(()) => done = done.saturating_add(1),
                Err(e) => failures.push(e),
            }
        }
    }
    sessions.quit().await;
    sum_up(done, failures)
}

/// A single failure is the command's own. Of several, or beside a success, each is reported, and
/// the exit code summarises them.
///
/// # Errors
/// Any failure.
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
