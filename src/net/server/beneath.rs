//! Requests about many entries beneath one directory, for a client that mirrors a tree. No symlink
//! beneath the directory is followed.

use crate::net::error::{NetError, code_of};
use crate::net::server::backup::store_at;
use crate::net::server::operations::path_of;
use crate::net::server::reply::{Answer, Done, refusal};
use crate::net::server::session::Session;
use crate::net::transfer::backup::BackupOptions;
use crate::net::transfer::view::{Seen, View};
use crate::net::wire::proto::{self, reply};
use crate::net::wire::{Code, MAX_DIRS, MAX_LISTED, MAX_PATHS, entry};
use crate::store::{BadPath, FollowedLinks, Page, RemotePath, Removal, Store, StoreError};
use std::sync::Arc;

/// The base of a request, as a store of its own.
pub(super) async fn base_of(session: &Session, base: &[u8]) -> Result<Arc<dyn Store>, NetError> {
    let base = session.store.resolve(&path_of(session, base)?).await?;
    Ok(session.store.subtree(&base).await?)
}

/// Parses a path of a request, relative to its base.
fn relative(path: &[u8]) -> Result<RemotePath, NetError> {
    let bad = |e| refusal(Code::BAD_NAME, format!("the path is not allowed: {e}"));
    RemotePath::parse(path).map_err(bad)
}

/// Refuses a request about more entries than it may have.
pub(super) fn check_count(count: usize, most: usize) -> Result<(), NetError> {
    match count {
        n if n <= most => Ok(()),
        _ => Err(refusal(Code::BAD_PARAMETER, format!("a request has at most {most} paths"))),
    }
}

/// Pages of directories.
pub(super) async fn list(session: &Session, request: proto::ListBeneath) -> Answer {
    check_count(request.dirs.len(), MAX_DIRS)?;
    let limit = match usize::try_from(request.limit) {
        Ok(limit @ 1..MAX_LISTED) => limit,
        _ => MAX_LISTED,
    };
    let dirs = request.dirs.into_iter().map(|dir| Ok((relative(&dir.path)?, dir.cookie)));
    let dirs = dirs.collect::<Result<Vec<_>, NetError>>()?;
    let base = base_of(session, &request.base).await?;
    let view = View {
        one_file_system: request.one_file_system,
        ..View::default()
    };
    let pages = view.list(&*base, &dirs, limit).await;
    let pages = pages.into_iter().map(page_to_wire).collect();
    let body = reply::Body::ListBeneath(proto::ListBeneathReply { pages });
    Ok(Done::with(Code::ANSWER, "listing", body))
}

fn page_to_wire(page: Result<Page, StoreError>) -> proto::DirPage {
    let entry = |mut found: crate::store::Entry| {
        // long, and no concern of a mirror
        found.target = None;
        entry::to_wire(found, None)
    };
    match page {
        Ok(page) => proto::DirPage {
            entries: page.entries.into_iter().map(entry).collect(),
            cookie: page.next.unwrap_or_default(),
            ..Default::default()
        },
        Err(e) => proto::DirPage {
            code: u32::from(code_of(&e.kind).0),
            text: e.describe(),
            ..Default::default()
        },
    }
}

/// What is at each path.
///
/// # Errors
/// The first that says neither what is there nor that nothing is.
pub(super) async fn stat(session: &Session, request: &proto::StatBeneath) -> Answer {
    check_count(request.paths.len(), MAX_PATHS)?;
    let paths = request.paths.iter().map(|path| relative(path));
    let paths = paths.collect::<Result<Vec<_>, _>>()?;
    let (view, top) = (View::from_wire(request.view.as_ref())?, relative(&request.top)?);
    let seen = match view.links {
        FollowedLinks::None => {
            let base = base_of(session, &request.base).await?;
            view.see(&*base, (&RemotePath::root(), &top), &paths).await?
        }
        links => {
            // a symlink may lead to what is not beneath the base
            let base = session.store.resolve(&path_of(session, &request.base)?).await?;
            let bad = |e: BadPath| refusal(Code::BAD_NAME, e.to_string());
            let paths = paths.iter().map(|path| base.append(path));
            let paths = paths.collect::<Result<Vec<_>, _>>().map_err(bad)?;
            let top = base.append(&top).map_err(bad)?;
            view.see(&*session.served.following(links)?, (&base, &top), &paths).await?
        }
    };
    let kinds = seen.into_iter().map(Seen::to_wire).collect();
    let body = reply::Body::StatBeneath(proto::StatBeneathReply { kinds });
    Ok(Done::with(Code::ANSWER, "found", body))
}

/// Parses the entries that a request removes.
pub(super) fn removals_of(removals: &[proto::Removal]) -> Result<Vec<Removal>, NetError> {
    check_count(removals.len(), MAX_PATHS)?;
    let removals = removals.iter().map(entry::removal_from_wire).collect::<Result<_, _>>();
    removals.map_err(|e| refusal(Code::BAD_NAME, e.to_string()))
}

/// One result for each entry of a request.
pub(super) fn results_to_wire(results: Vec<Result<(), StoreError>>) -> proto::RemoveBeneathReply {
    let removed = results.into_iter().map(|result| match result {
        Ok(()) => proto::Removed::default(),
        Err(e) => proto::Removed {
            code: u32::from(code_of(&e.kind).0),
            text: e.describe(),
        },
    });
    let removed = removed.collect();
    proto::RemoveBeneathReply { removed }
}

/// Removes entries, durably.
pub(super) async fn remove(session: &Session, request: proto::RemoveBeneath) -> Answer {
    let removals = removals_of(&request.removals)?;
    let backup = request.backup.map(BackupOptions::from_wire).transpose();
    let backup = backup.map_err(|e| refusal(Code::BAD_PARAMETER, e.to_string()))?;
    let base = session.store.resolve(&path_of(session, &request.base)?).await?;
    let base = store_at(session, &base, backup.as_ref()).await?;
    let removed = base.remove_many(removals).await;
    base.sync().await?;
    let body = reply::Body::RemoveBeneath(results_to_wire(removed));
    Ok(Done::with(Code::CHANGED, "removed", body))
}
