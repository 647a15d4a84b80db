//! The sources of a get: their places in the tree, and their names.

use crate::net::error::NetError;
use crate::net::server::reply::refusal;
use crate::net::server::session::Session;
use crate::net::transfer::options::Options;
use crate::net::transfer::send::chosen::{Chosen, MAX_SENT_CHOSEN};
use crate::net::transfer::send::source::{Origin, TransferSource};
use crate::net::wire::{Code, entry, proto};
use crate::store::{ErrorKind, FollowedLinks, Kind, RemotePath, Store, StoreError, StoreExt};
use std::sync::Arc;

/// The refusal of a tree that goes into itself.
pub(super) fn nested() -> NetError {
    refusal(Code::CONFLICT, "the destination is the source, or within it")
}

/// The name of a source; the root where it stands for its contents.
fn own_name(label: &[u8]) -> RemotePath {
    let contents = label.ends_with(b"/") || label.ends_with(b"/.") || label.is_empty();
    let name = label.rsplit(|byte| *byte == b'/').next().filter(|_| !contents);
    name.and_then(|name| RemotePath::parse(name).ok()).unwrap_or_default()
}

/// Finds the sources of a get. One that is not there is reported by the transfer.
///
/// # Errors
/// The refusal of a source that has the destination in it.
pub(super) async fn find_sources(
    session: &Session,
    get: &proto::Get,
    options: &Options,
) -> Result<Vec<TransferSource>, NetError> {
    let mut sources = Vec::with_capacity(get.sources.len());
    // one store for all of them: each would keep directories open for as long as the transfer lasts
    let store: Arc<dyn Store> = match options.view.links {
        FollowedLinks::None => session.store.subtree(&RemotePath::root()).await?,
        links => session.served.following(links)?,
    };
    if get.chosen.iter().map(Vec::len).sum::<usize>() > MAX_SENT_CHOSEN {
        return Err(refusal(Code::BAD_PARAMETER, "the chosen paths have more than 64 KiB"));
    }
    let (mut names, mut chosen) = (get.names.iter(), get.chosen.iter());
    for label in &get.sources {
        let chosen = chosen.next().map_or(Ok(None), |chosen| Chosen::from_wire(chosen))?;
        let chosen = chosen.map(Arc::new);
        let follows = !options.recursive || options.view.links != FollowedLinks::None;
        let name = names.next().and_then(|name| RemotePath::parse(name).ok());
        // the name that the only source gets there is no business of the rules of a filter
        let place = match get.sources.len() {
            1 => Some(own_name(label)),
            _ => name,
        };
        let origin = match find_source(session, label, follows || chosen.is_some()).await {
            Ok(path) => Origin::Tree {
                store: store.clone(),
                path,
            },
            Err(e) => Origin::Missing(e),
        };
        let source = TransferSource {
            label: label.clone(),
            origin,
            place,
            chosen,
        };
        let mut versions = source.dir_versions().await;
        if options.removes {
            versions.extend(source.home_version().await);
        }
        if versions.iter().any(|version| get.destination_ancestors.contains(version)) {
            return Err(nested());
        }
        sources.push(source);
    }
    Ok(sources)
}

/// Resolves the path of a source. With `follows`, or a slash at its end, a symlink is followed, as
/// cp does; otherwise it is an entry.
async fn find_source(
    session: &Session,
    path: &[u8],
    follows: bool,
) -> Result<RemotePath, StoreError> {
    let store = &session.store;
    let trimmed = path.strip_suffix(b"/").filter(|rest| !rest.is_empty());
    let wanted = entry::path(trimmed.unwrap_or(path), &session.working())
        .map_err(|e| StoreError::new(ErrorKind::BadName(e), &RemotePath::root()))?;
    let is_link = store.stat(&wanted).await?.kind == Kind::Symlink;
    let follows = follows || trimmed.is_some();
    let real = match wanted.split() {
        Some((parent, name)) if is_link && !follows => {
            let parent = store.resolve(&parent).await?;
            parent
                .join(&name)
                .map_err(|e| StoreError::new(ErrorKind::BadName(e), &wanted))?
        }
        _ => store.resolve(&wanted).await?,
    };
    if (follows || !is_link) && store.stat(&real).await?.kind == Kind::Symlink {
        // it became a symlink after it was resolved
        return Err(StoreError::new(ErrorKind::Symlink, &wanted));
    }
    Ok(real)
}
