//! Requests that one call of the store answers.

use crate::chunk::hash::hash_file;
use crate::net::error::NetError;
use crate::net::server::config::Config;
use crate::net::server::reply::{Answer, Done, refusal};
use crate::net::server::session::Session;
use crate::net::server::transfers::no_directory;
use crate::net::wire::proto::{self, reply};
use crate::net::wire::{Code, MAX_CONTROL, entry};
use crate::store::accounts::home_of;
use crate::store::{ErrorKind, Kind, RemotePath, RemoveScope, StoreError, StoreExt, UnlockMode};
use prost::Message;

/// Entries of a listing's page.
const PAGE: usize = 512;
/// Entries of a page of locks, each of which may have a long name and a long holder.
const LOCKS_PAGE: usize = 256;

/// The path that a request names, from the user's root.
///
/// # Errors
/// The refusal of a path that is none.
pub(super) fn path_of(session: &Session, bytes: &[u8]) -> Result<RemotePath, NetError> {
    let path = entry::path(bytes, &session.working());
    path.map_err(|e| refusal(Code::BAD_NAME, format!("the path is not allowed: {e}")))
}

/// Sets the working directory. A user who may only write learns nothing of the tree by it.
pub(super) async fn change_directory(
    session: &Session,
    request: &proto::ChangeDirectory,
) -> Answer {
    let path = path_of(session, &request.path)?;
    let directory = if session.is_write_only() {
        path
    } else {
        let resolved = session.store.resolve(&path).await?;
        if session.store.stat(&resolved).await?.kind != Kind::Dir {
            return Err(StoreError::new(ErrorKind::NotADirectory, &resolved).into());
        }
        resolved
    };
    *session.working.lock() = directory;
    Ok(Done::new(Code::CHANGED, "working directory changed"))
}

/// An entry, with the hash of a file if that is asked for.
pub(super) async fn stat(session: &Session, request: &proto::Stat) -> Answer {
    let path = path_of(session, &request.path)?;
    let found = session.store.stat(&path).await?;
    let (found, hash) = match found.kind {
        Kind::File if request.hash => {
            let buffers = session.core.pool().buffers();
            let (hashed, hash) = hash_file(&*session.store, &path, buffers).await?;
            (hashed, Some(hash))
        }
        _ => (found, None),
    };
    let body = reply::Body::Entry(entry::to_wire(found, hash));
    Ok(Done::with(Code::ANSWER, "found", body))
}

/// A page of a listing, smaller where its names and targets would not fit into a message.
pub(super) async fn list(session: &Session, request: &proto::List) -> Answer {
    let path = path_of(session, &request.path)?;
    let mut limit = page_limit(request.limit);
    loop {
        let page = session.store.list(&path, &request.cookie, limit).await?;
        let reply = proto::ListReply {
            entries: page.entries.into_iter().map(|e| entry::to_wire(e, None)).collect(),
            cookie: page.next.unwrap_or_default(),
        };
        if reply.encoded_len() < MAX_CONTROL / 2 || limit == 1 {
            return Ok(Done::with(Code::ANSWER, "listing", reply::Body::List(reply)));
        }
        limit = (limit / 8).max(1);
    }
}

/// Entries of a page of which the client wants this many.
fn page_limit(wanted: u32) -> usize {
    match usize::try_from(wanted) {
        Ok(wanted @ 1..PAGE) => wanted,
        _ => PAGE,
    }
}

/// Makes a directory. A user who may only write gets the same answer whether or not it was there.
pub(super) async fn make_directory(session: &Session, request: &proto::MakeDirectory) -> Answer {
    let path = path_of(session, &request.path)?;
    let store = &session.store;
    if session.is_write_only() {
        return match store.make_dir_all(&path).await {
            Err(e) if !reveals_entries(&e.kind) => Err(e.into()),
            _ => Ok(Done::new(Code::CHANGED, "accepted")),
        };
    }
    match request.parents {
        true => store.make_dir_all(&path).await?,
        false => store.make_dir(&path).await?,
    }
    Ok(Done::new(Code::CHANGED, "directory made"))
}

/// True for an error from which a user who may only write would learn which entries exist.
fn reveals_entries(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Exists | ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::Symlink
    )
}

/// Removes an entry, or everything beneath it.
pub(super) async fn remove(session: &Session, request: &proto::Remove) -> Answer {
    let scope = match request.recursive {
        true => RemoveScope::Tree,
        false => RemoveScope::Entry,
    };
    let path = path_of(session, &request.path)?;
    session.store.remove(&path, scope).await?;
    Ok(Done::new(Code::CHANGED, "removed"))
}

/// Renames an entry, or moves it into a directory.
pub(super) async fn rename(session: &Session, request: &proto::Rename) -> Answer {
    let (from, to) = (path_of(session, &request.from)?, path_of(session, &request.to)?);
    let to = rename_target(session, &from, to, request.directory).await?;
    session.store.rename(&from, &to).await?;
    Ok(Done::new(Code::CHANGED, "renamed"))
}

/// `mv a dir` moves into the directory, and `mv a dir/` fails if there is none.
pub(super) async fn rename_target(
    session: &Session,
    from: &RemotePath,
    to: RemotePath,
    must_be_dir: bool,
) -> Result<RemotePath, NetError> {
    let found = match session.store.resolve(&to).await {
        Ok(real) => session.store.stat(&real).await.map(|entry| (real, entry.kind)),
        Err(e) => Err(e),
    };
    match (found, from.split()) {
        (Ok((dir, Kind::Dir)), Some((_, name))) => dir
            .join(&name)
            .map_err(|e| StoreError::new(ErrorKind::BadName(e), &to).into()),
        (Ok(_), _) if must_be_dir => Err(StoreError::new(ErrorKind::NotADirectory, &to).into()),
        (Err(e), _) if must_be_dir && e.kind == ErrorKind::NotFound => Err(no_directory(&to)),
        (Err(e), _) if must_be_dir => Err(e.into()),
        _ => Ok(to),
    }
}

/// The sizes of the file system that has a path.
pub(super) async fn space(session: &Session, request: &proto::Space) -> Answer {
    let space = session.store.space(&path_of(session, &request.path)?).await?;
    let none = || refusal(Code::NOT_IMPLEMENTED, "an object store does not tell how large it is");
    let space = space.ok_or_else(none)?;
    let body = reply::Body::Space(entry::space_to_wire(space));
    Ok(Done::with(Code::ANSWER, "sizes", body))
}

/// The home directory of a user of this machine.
pub(super) fn home(config: &Config, request: &proto::Home) -> Answer {
    if !config.is_machine {
        let text = "this server has no home directories";
        return Err(refusal(Code::NOT_IMPLEMENTED, text));
    }
    let Some(path) = home_of(&request.user) else {
        return Err(refusal(Code::NOT_FOUND, "no such user there"));
    };
    let path = path.strip_prefix(b"/").map(<[u8]>::to_vec).unwrap_or(path);
    let body = reply::Body::Home(proto::HomeReply { path });
    Ok(Done::with(Code::ANSWER, "home directory", body))
}

/// Sets how fast the session's data goes to the client.
pub(super) fn limit(session: &Session, request: &proto::Limit) -> Done {
    session.rates.ask((request.rate > 0).then_some(request.rate));
    Done::new(Code::OK, "rate set")
}

/// A page of the locks and partial files of a directory.
pub(super) async fn locks(session: &Session, request: &proto::Locks) -> Answer {
    let path = path_of(session, &request.path)?;
    let limit = page_limit(request.limit).min(LOCKS_PAGE);
    let page = session.store.locks(&path, &request.cookie, limit).await?;
    let locks = page.entries.into_iter().map(entry::lock_to_wire).collect();
    let cookie = page.next.unwrap_or_default();
    let body = reply::Body::Locks(proto::LocksReply { locks, cookie });
    Ok(Done::with(Code::ANSWER, "locks", body))
}

/// Removes the partial file of a target.
pub(super) async fn unlock(session: &Session, request: &proto::Unlock) -> Answer {
    let mode = match request.force {
        true => UnlockMode::Force,
        false => UnlockMode::Abandoned,
    };
    let path = path_of(session, &request.path)?;
    let removed = session.store.unlock(&path, mode).await?;
    let body = reply::Body::Unlock(proto::UnlockReply { removed });
    Ok(Done::with(Code::CHANGED, "unlocked", body))
}
