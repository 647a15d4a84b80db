//! From a remote path as the user wrote it to a place on its server: over ssh, paths begin at home
//! directories.

use super::connect::{self, ConnectArgs, retrying};
use super::connect_args::retry_for;
use super::failure::Failure;
use super::remote::{Base, Remote};
use super::ssh;
use crate::net::printable;
use crate::store::RemotePath;

/// Finds where a path begins on a server that is reached over ssh; any other server's begins at the
/// user's root, and stays as it is. The connection that this takes is that of the session to come.
///
/// # Errors
/// As [`connect::open`], and that there is no such user whose home directory the path names.
pub async fn locate(remote: &Remote, args: &ConnectArgs) -> Result<Remote, Failure> {
    let retry_for = retry_for(args)?;
    let Some(host) = ssh::host_of(&remote.server, args).await? else {
        return Ok(remote.clone());
    };
    let home = match &remote.base {
        Base::Root | Base::Found(..) => return Ok(remote.on_machine()),
        Base::Home | Base::Tilde(None) => retrying(retry_for, async || host.home().await)
            .await
            .map_err(|e| Failure::about(host.shown(), e))?,
        Base::Tilde(Some(user)) => {
            let mut session = connect::for_requests(&remote.server, args).await?;
            let home = session.ask(async |client| client.home(user).await).await;
            session.quit().await;
            home.map_err(|e| Failure::about(&remote.shown, e))?
        }
    };
    let found = RemotePath::parse(&home).and_then(|home| remote.beneath(&home));
    found.map_err(|e| Failure::usage(format!("{}: {e}", printable(&remote.shown))))
}

/// The same for several.
///
/// # Errors
/// As [`locate`].
pub async fn locate_all(remotes: &[Remote], args: &ConnectArgs) -> Result<Vec<Remote>, Failure> {
    let mut placed = Vec::with_capacity(remotes.len());
    for remote in remotes {
        placed.push(locate(remote, args).await?);
    }
    Ok(placed)
}
