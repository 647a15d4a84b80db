//! Requests about the trash of a directory of the server.

use crate::net::client::Client;
use crate::net::client::beneath::results_of;
use crate::net::error::NetError;
use crate::net::wire::entry;
use crate::net::wire::proto::{self, reply, request};
use crate::store::Removal;
use crate::store::trash::{Emptied, EmptyScope, MAX_TRASHED, TrashItem, TrashPage, TrashRun};

fn unexpected(what: &str) -> NetError {
    NetError::Protocol(format!("expected {what} in the reply, got something else"))
}

impl Client {
    /// Moves entries beneath `base` into its trash, durably. What is gone already is no error.
    ///
    /// # Errors
    /// [`NetError`], here and below: refused, or lost on the way. The inner one is about an entry.
    pub async fn discard(
        &self,
        base: &[u8],
        removals: &[Removal],
        run: TrashRun,
    ) -> Result<Vec<Result<(), NetError>>, NetError> {
        let discard = proto::Discard {
            base: base.to_vec(),
            removals: removals.iter().map(entry::removal_to_wire).collect(),
            run: run.id,
            lifetime: run.lifetime.as_secs(),
        };
        match self.request(request::Body::Discard(discard)).await?.body {
            Some(reply::Body::RemoveBeneath(reply)) => results_of(reply, removals.len()),
            _ => Err(unexpected("a result for each entry")),
        }
    }

    /// A page of the trash of `base`, from `cookie` on (empty: from the start).
    pub async fn trash_page(&self, base: &[u8], cookie: &[u8]) -> Result<TrashPage, NetError> {
        let list = proto::ListTrash {
            base: base.to_vec(),
            cookie: cookie.to_vec(),
        };
        match self.request(request::Body::ListTrash(list)).await?.body {
            Some(reply::Body::ListTrash(page)) if page.entries.len() <= MAX_TRASHED => {
                let entries = page.entries.into_iter().map(|e| Ok(entry::trashed_from_wire(e)?));
                Ok(TrashPage {
                    entries: entries.collect::<Result<_, NetError>>()?,
                    next: Some(page.cookie).filter(|cookie| !cookie.is_empty()),
                })
            }
            _ => Err(unexpected("a page of the trash")),
        }
    }

    /// Moves entries of the trash of `base` back, durably.
    pub async fn restore(
        &self,
        base: &[u8],
        items: &[TrashItem],
    ) -> Result<Vec<Result<(), NetError>>, NetError> {
        let item = |item: &TrashItem| proto::TrashItem {
            batch: item.batch.clone(),
            index: item.index,
        };
        let restore = proto::Restore {
            base: base.to_vec(),
            items: items.iter().map(item).collect(),
        };
        match self.request(request::Body::Restore(restore)).await?.body {
            Some(reply::Body::Restore(reply)) => results_of(reply, items.len()),
            _ => Err(unexpected("a result for each entry")),
        }
    }

    /// Removes some of the trash of `base` for good.
    pub async fn empty_trash(&self, base: &[u8], scope: EmptyScope) -> Result<Emptied, NetError> {
        let empty = proto::EmptyTrash {
            base: base.to_vec(),
            all: scope == EmptyScope::All,
        };
        match self.request(request::Body::EmptyTrash(empty)).await?.body {
            Some(reply::Body::EmptyTrash(reply)) => Ok(Emptied {
                removed: reply.removed,
                more: reply.more,
            }),
            _ => Err(unexpected("what was removed")),
        }
    }
}
