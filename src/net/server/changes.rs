//! Requests for shell patterns, modes, times, symlinks, and moves that replace nothing.

use crate::auth::users;
use crate::net::server::glob::{Most, Walk};
use crate::net::server::operations::{path_of, rename_target};
use crate::net::server::reply::{Answer, Done, refusal};
use crate::net::server::session::Session;
use crate::net::server::transfers::bad;
use crate::net::transfer::filter::glob::Glob;
use crate::net::wire::measure::MAX_LIST;
use crate::net::wire::proto::{self, reply};
use crate::net::wire::{Code, MAX_CONTROL, entry};
use crate::store::path::MAX_PATH;
use crate::store::{
    Attributes, Change, Content, Durability, ErrorKind, NewEntry, NewTime, RemotePath, StoreError,
    StoreExt, Time,
};
use std::sync::Arc;

/// The mode of a file that is made empty.
const NEW_MODE: u32 = 0o644;

/// Some of the paths that match a pattern. An entry that has the pattern as its name is the answer
/// by itself.
pub(super) async fn glob(session: &Session, request: &proto::Glob) -> Answer {
    let (base, text, prefix) = match request.pattern.strip_prefix(b"/") {
        Some(rest) => (RemotePath::root(), rest, &b"/"[..]),
        None => (session.working(), &request.pattern[..], &b""[..]),
    };
    if text.len() > MAX_PATH {
        return Err(refusal(Code::BAD_NAME, "the pattern is too long"));
    }
    let named = |paths: Vec<RemotePath>, next: Option<Vec<u8>>| {
        let paths = paths.iter().map(|path| [prefix, path.as_bytes()].concat()).collect();
        let cookie = next.unwrap_or_default();
        let body = reply::Body::Glob(proto::GlobReply { paths, cookie });
        Done::with(Code::ANSWER, "matches", body)
    };
    if request.cookie.is_empty()
        && let Ok(literal) = RemotePath::parse(text)
        && let Ok(whole) = base.append(&literal)
        && session.store.stat(&whole).await.is_ok()
    {
        return Ok(named(vec![literal], None));
    }
    let glob = Glob::parse(text).map_err(|e| refusal(Code::BAD_NAME, format!("pattern: {e}")))?;
    let most = Most {
        paths: match usize::try_from(request.limit) {
            Ok(wanted @ 1..MAX_LIST) => wanted,
            _ => MAX_LIST,
        },
        bytes: MAX_CONTROL / 2,
    };
    let found = Walk::new(&*session.store, &base, &glob, &request.cookie)?.run(most).await?;
    Ok(named(found.paths, found.next))
}

/// Changes mode and time of an entry, or makes an empty file.
pub(super) async fn set_attributes(session: &Session, request: &proto::SetAttributes) -> Answer {
    let path = path_of(session, &request.path)?;
    let at = request.mtime.map(|secs| entry::attributes(secs, request.mtime_nanos, 0));
    let at = at.transpose().map_err(|e| bad(e.0))?.map(|attributes| attributes.mtime);
    let mtime = match (request.now, at) {
        (true, Some(_)) => return Err(bad("two times")),
        (true, None) => Some(NewTime::Now),
        (false, at) => at.map(NewTime::At),
    };
    let mode = request.mode;
    let change = Change { mode, mtime };
    let changed = match session.store.change(&path, change).await {
        Err(e) if e.kind == ErrorKind::NotFound && request.make => {
            match make_file(session, &path, at, mode).await {
                // something else has made it meanwhile
                Err(e) if e.kind == ErrorKind::VersionChanged => {
                    session.store.change(&path, change).await
                }
                made => made,
            }
        }
        changed => changed,
    };
    changed?;
    Ok(Done::new(Code::CHANGED, "changed"))
}

async fn make_file(
    session: &Session,
    path: &RemotePath,
    at: Option<Time>,
    mode: Option<u32>,
) -> Result<(), StoreError> {
    let attributes = Attributes {
        mtime: at.unwrap_or_else(now),
        mode: mode.unwrap_or(NEW_MODE) & 0o777,
        ..Attributes::default()
    };
    let content = Content::File(Arc::new(Vec::new()));
    put(session, path, content, attributes, Existing::Refused).await
}

/// Makes a symlink. What it leads to need not exist, and need not be beneath the root: the server
/// follows it only where it is.
pub(super) async fn make_symlink(session: &Session, request: &proto::MakeSymlink) -> Answer {
    let path = path_of(session, &request.path)?;
    let target = request.target.clone();
    if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) {
        return Err(refusal(Code::BAD_NAME, "a symlink cannot lead there"));
    }
    let attributes = Attributes {
        mtime: now(),
        mode: 0o777,
        ..Attributes::default()
    };
    let existing = match request.replace {
        true => Existing::Replaced,
        false => Existing::Refused,
    };
    match put(session, &path, Content::Symlink(target), attributes, existing).await {
        Err(e) if e.kind == ErrorKind::VersionChanged => {
            Err(StoreError::new(ErrorKind::Exists, &path).into())
        }
        made => {
            made?;
            Ok(Done::new(Code::CHANGED, "symlink made"))
        }
    }
}

/// What becomes of an entry where a new one goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Refused,
    Replaced,
}

async fn put(
    session: &Session,
    path: &RemotePath,
    content: Content,
    attributes: Attributes,
    existing: Existing,
) -> Result<(), StoreError> {
    let new = NewEntry {
        path: path.clone(),
        content,
        attributes,
        if_version: (existing == Existing::Refused).then(|| "none".to_string()),
    };
    let put = session.store.put_whole(vec![new], &session.who, Durability::Durable);
    let put = put.await.pop();
    put.unwrap_or_else(|| Err(StoreError::new(ErrorKind::NotFound, path)))
        .map(drop)
}

/// Renames an entry to a name that nothing has.
pub(super) async fn move_new(session: &Session, request: &proto::MoveNew) -> Answer {
    let (from, to) = (path_of(session, &request.from)?, path_of(session, &request.to)?);
    let to = rename_target(session, &from, to, request.directory).await?;
    session.store.rename_new(&from, &to).await?;
    Ok(Done::new(Code::CHANGED, "renamed"))
}

fn now() -> Time {
    Time {
        secs: i64::try_from(users::now()).unwrap_or(i64::MAX),
        nanos: 0,
    }
}
