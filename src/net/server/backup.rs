//! The store beneath a directory that a request writes, with the backups that it asks for.

use crate::net::error::NetError;
use crate::net::server::reply::refusal;
use crate::net::server::session::Session;
use crate::net::transfer::backup::BackupOptions;
use crate::net::wire::Code;
use crate::store::{RemotePath, Store};
use std::sync::Arc;

/// The store beneath `dir`, a path without symlinks.
///
/// # Errors
/// Why that, or the directory for the backups, cannot be used.
pub(super) async fn store_at(
    session: &Session,
    dir: &RemotePath,
    backup: Option<&BackupOptions>,
) -> Result<Arc<dyn Store>, NetError> {
    let Some(backup) = backup else {
        return Ok(session.store.subtree(dir).await?);
    };
    let bad = |e| refusal(Code::BAD_NAME, format!("the backup directory is not allowed: {e}"));
    let plan = backup.plan(dir).map_err(bad)?;
    Ok(session.served.backing_up(dir, plan).await?)
}
