//! A directory at either end of a transfer, asked about many entries at once.

use crate::net::client::Client;
use crate::net::error::NetError;
use crate::net::transfer::backup::BackupOptions;
use crate::net::transfer::view::{Seen, View};
use crate::net::wire::MAX_LISTED;
use crate::store::{Page, RemotePath, Removal, Store};
use std::sync::Arc;

/// A directory, in which no symlink is followed. Cheap to clone.
#[derive(Clone)]
pub enum Place {
    /// The root of a store of this machine, which follows no symlinks.
    Here(Arc<dyn Store>),
    /// A directory on the server.
    There {
        /// The session.
        client: Arc<Client>,
        /// The directory's path, as a request names it.
        base: Vec<u8>,
    },
}

impl Place {
    /// Pages of the first of these directories, each from its cookie on (empty: the start); of at
    /// least one.
    ///
    /// # Errors
    /// The session's; the inner one is about a directory.
    pub(super) async fn list(
        &self,
        dirs: &[(RemotePath, Vec<u8>)],
        view: &View,
    ) -> Result<Vec<Result<Page, NetError>>, NetError> {
        match self {
            Place::Here(store) => {
                let pages = view.list(&**store, dirs, MAX_LISTED).await.into_iter();
                Ok(pages.map(|page| page.map_err(NetError::from)).collect())
            }
            Place::There { client, base } => client.list_beneath(base, dirs, view).await,
        }
    }

    /// What a transfer with this view sees at each path beneath `root`, as [`View::see`]; on a
    /// server the root is the base.
    ///
    /// # Errors
    /// The session's, or the first that says neither what is there nor that nothing is.
    pub(super) async fn see(
        &self,
        view: &View,
        (root, top): (&RemotePath, &RemotePath),
        paths: &[RemotePath],
    ) -> Result<Vec<Seen>, NetError> {
        match self {
            Place::Here(store) => Ok(view.see(&**store, (root, top), paths).await?),
            Place::There { client, base } => client.see_beneath((base, top), paths, view).await,
        }
    }

    /// Removes entries, durably, if they still are what a listing said. A server moves them aside
    /// as `backup` says; a store of this machine does what it does with everything.
    ///
    /// # Errors
    /// The session's; the inner one is about an entry.
    pub async fn remove(
        &self,
        removals: Vec<Removal>,
        backup: Option<&BackupOptions>,
    ) -> Result<Vec<Result<(), NetError>>, NetError> {
        match self {
            Place::Here(store) => {
                let removed = store.remove_many(removals).await.into_iter();
                store.sync().await?;
                Ok(removed.map(|result| result.map_err(NetError::from)).collect())
            }
            Place::There { client, base } => client.remove_beneath(base, &removals, backup).await,
        }
    }
}
