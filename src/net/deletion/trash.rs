//! The trash of a directory at either end.

use crate::net::deletion::place::Place;
use crate::net::error::{LossReason, NetError};
use crate::store::trash::{EmptyScope, TrashRun};
use crate::store::{RemotePath, Removal, Store, StoreError, Trash};
use ring::rand::{SecureRandom, SystemRandom};
use std::sync::Arc;
use std::time::Duration;

/// The trash of a store's root.
fn trash_of(store: &Arc<dyn Store>) -> Result<Arc<dyn Trash>, NetError> {
    let none = || StoreError::because("there is no trash here", &RemotePath::root());
    Ok(store.trash().ok_or_else(none)?)
}

impl Place {
    /// Moves entries into the trash, durably, if they still are what a listing said.
    ///
    /// # Errors
    /// The session's, here and below; the inner one is about an entry.
    pub async fn discard(
        &self,
        removals: Vec<Removal>,
        run: TrashRun,
    ) -> Result<Vec<Result<(), NetError>>, NetError> {
        match self {
            Place::Here(store) => {
                let discarded = trash_of(store)?.discard(removals, run).await;
                store.sync().await?;
                Ok(discarded.into_iter().map(|result| result.map_err(NetError::from)).collect())
            }
            Place::There { client, base } => client.discard(base, &removals, run).await,
        }
    }

    /// Removes what has expired of the trash: in requests of bounded work, until there is nothing
    /// more.
    pub async fn expire(&self) -> Result<(), NetError> {
        loop {
            let emptied = match self {
                Place::Here(store) => trash_of(store)?.empty(EmptyScope::Expired).await?,
                Place::There { client, base } => {
                    client.empty_trash(base, EmptyScope::Expired).await?
                }
            };
            // a server that removes nothing ends it, whatever it says
            if !emptied.more || emptied.removed == 0 {
                return Ok(());
            }
        }
    }
}

/// A new run of deletions.
///
/// # Errors
/// The system returned no random bytes.
pub fn new_run(lifetime: Duration) -> Result<TrashRun, NetError> {
    let mut id = [0; 4];
    let filled = SystemRandom::new().fill(&mut id);
    filled.map_err(|_| NetError::Lost(LossReason::NoRandomness))?;
    let id = u32::from_be_bytes(id);
    Ok(TrashRun { id, lifetime })
}
