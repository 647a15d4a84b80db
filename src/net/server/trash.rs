//! Requests about the trash of a directory.

use crate::net::error::NetError;
use crate::net::server::beneath::{base_of, check_count, removals_of, results_to_wire};
use crate::net::server::reply::{Answer, Done, refusal};
use crate::net::server::session::Session;
use crate::net::wire::proto::{self, reply};
use crate::net::wire::{Code, MAX_PATHS, entry};
use crate::store::trash::{EmptyScope, TrashItem, TrashRun};
use crate::store::{Store, Trash};
use std::sync::Arc;
use std::time::Duration;

/// The base of a request, and its trash.
async fn trash_of(
    session: &Session,
    base: &[u8],
) -> Result<(Arc<dyn Store>, Arc<dyn Trash>), NetError> {
    let base = base_of(session, base).await?;
    let trash = base.trash();
    let trash = trash.ok_or_else(|| refusal(Code::NOT_IMPLEMENTED, "there is no trash here"))?;
    Ok((base, trash))
}

/// Moves entries into the trash, durably.
pub(super) async fn discard(session: &Session, request: proto::Discard) -> Answer {
    let removals = removals_of(&request.removals)?;
    let run = TrashRun {
        id: request.run,
        lifetime: Duration::from_secs(request.lifetime),
    };
    let (base, trash) = trash_of(session, &request.base).await?;
    let discarded = trash.discard(removals, run).await;
    base.sync().await?;
    let body = reply::Body::RemoveBeneath(results_to_wire(discarded));
    Ok(Done::with(Code::CHANGED, "moved to the trash", body))
}

/// A page of the trash.
pub(super) async fn list(session: &Session, request: &proto::ListTrash) -> Answer {
    let (_base, trash) = trash_of(session, &request.base).await?;
    let page = trash.page(&request.cookie).await?;
    let body = reply::Body::ListTrash(proto::ListTrashReply {
        entries: page.entries.into_iter().map(entry::trashed_to_wire).collect(),
        cookie: page.next.unwrap_or_default(),
    });
    Ok(Done::with(Code::ANSWER, "listing", body))
}

/// Moves entries back, durably.
pub(super) async fn restore(session: &Session, request: proto::Restore) -> Answer {
    check_count(request.items.len(), MAX_PATHS)?;
    let item = |proto::TrashItem { batch, index }| TrashItem { batch, index };
    let items = request.items.into_iter().map(item).collect();
    let (_base, trash) = trash_of(session, &request.base).await?;
    let restored = trash.restore(items).await;
    let body = reply::Body::Restore(results_to_wire(restored));
    Ok(Done::with(Code::CHANGED, "restored", body))
}

/// Removes some of the trash for good.
pub(super) async fn empty(session: &Session, request: &proto::EmptyTrash) -> Answer {
    let scope = match request.all {
        true => EmptyScope::All,
        false => EmptyScope::Expired,
    };
    let (_base, trash) = trash_of(session, &request.base).await?;
    let emptied = trash.empty(scope).await?;
    let body = reply::Body::EmptyTrash(proto::EmptyTrashReply {
        removed: emptied.removed,
        more: emptied.more,
    });
    Ok(Done::with(Code::CHANGED, "emptied", body))
}
