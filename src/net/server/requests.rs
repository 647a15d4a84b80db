//! The requests of a session, answered one after another.

use crate::auth::user::Access;
use crate::auth::users;
use crate::chunk::hash::hash_file;
use crate::net::control::codec;
use crate::net::error::NetError;
use crate::net::printable;
use crate::net::server::session::{ReplyCache, Session};
use crate::net::server::{Server, revocation, transfers};
use crate::net::session::channel::TransferChannel;
use crate::net::session::router::MessageRoom;
use crate::net::wire::proto::{self, control_message, reply, request};
use crate::net::wire::{Code, MAX_CONTROL, entry};
use crate::store::{ErrorKind, Kind, RemotePath, RemoveScope, Store, StoreError, StoreExt, UnlockMode};
use parking_lot::Mutex;
use prost::Message;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Entries of a listing's page.
const PAGE: usize = 512;
/// Entries of a page of locks, each of which may have a long name and a long holder.
const LOCKS_PAGE: usize = 256;

/// A request, with the transfer's seat if it starts one, or why it has none.
pub(super) struct Work {
    pub(super) request: proto::Request,
    pub(super) channel: Option<Result<TransferChannel, NetError>>,
    /// LockEntry until it is answered.
    pub(super) _room: MessageRoom,
}

/// What a request is answered with.
type Answer = Result<(Code, &'static str, Option<reply::Body>), NetError>;

/// Answers requests until there are no more.
pub(super) async fn process(
    server: Arc<Server>,
    session: Arc<Session>,
    cache: Arc<Mutex<ReplyCache>>,
    mut todo: mpsc::Receiver<Work>,
) {
    while let Some(Work {
        request,
        channel,
        _room,
    }) = todo.recv().await
    {
        let quits = matches!(request.body, Some(request::Body::Quit(_)));
        let change = Change::of(&request);
        let answer = match permit(&server, &session, request.body.as_ref()) {
            Ok(()) => answer(&server, &session, request.body, channel).await,
            Err(e) => Err(e),
        };
        let (code, text, body) = match answer {
            Ok((code, text, body)) => (code, text.to_string(), body),
            Err(e) => {
                let (code, text) = e.to_wire();
                (code, text, None)
            }
        };
        if let Some(change) = change {
            change.log(&session, code, &text);
        } else if !code.is_success() {
            tracing::debug!(who = %session.who, %code, text = %printable(&text), "request refused");
        }
        let reply = proto::Reply {
            number: request.number,
            code: u32::from(code.0),
            text,
            body,
        };
        cache.lock().remember(reply.clone());
        if session
            .core
            .control
            .send(control_message::Body::Reply(reply))
            .await
            .is_err()
        {
            return;
        }
        if quits {
            session
                .core
                .shut_down(codec::refused(u32::from(Code::BYE.0), "goodbye".into()));
            return;
        }
    }
}

/// A request that changes something, as the log tells it.
struct Change {
    verb: &'static str,
    path: String,
    to: Option<String>,
}

impl Change {
    fn of(request: &proto::Request) -> Option<Change> {
        let (verb, path, to) = match request.body.as_ref()? {
            request::Body::MakeDirectory(r) => ("mkdir", &r.path, None),
            request::Body::Remove(r) => ("rm", &r.path, None),
            request::Body::Unlock(r) => ("unlock", &r.path, None),
            request::Body::Rename(r) => ("mv", &r.from, Some(&r.to)),
            _ => return None,
        };
        Some(Change {
            verb,
            path: transfers::logged_path(path),
            to: to.map(|to| transfers::logged_path(to)),
        })
    }

    fn log(self, session: &Session, code: Code, text: &str) {
        let Change { verb, path, to } = self;
        let (who, from, to) = (&session.who, session.grant.address(), to.map(tracing::field::display));
        if code.is_success() {
            tracing::info!(%who, %from, path, to, "{verb} done");
        } else {
            tracing::info!(%who, %from, path, to, %code, error = printable(text), "{verb} failed");
        }
    }
}

/// What this user may do, as the users file says now, not when they logged in.
fn permit(server: &Server, session: &Session, body: Option<&request::Body>) -> Result<(), NetError> {
    use request::Body;
    let refused = |code, text: &str| {
        Err(NetError::Refused {
            code,
            text: text.into(),
        })
    };
    let all = server.config.users.current()?;
    let user = match session.grant.check(&all, users::now()) {
        Ok(user) => user,
        Err(why) => {
            revocation::revoke(session, why);
            return Err(revocation::refusal(why));
        }
    };
    let changes = matches!(
        body,
        Some(Body::MakeDirectory(_) | Body::Remove(_) | Body::Rename(_) | Body::Put(_) | Body::Unlock(_))
    );
    let dropbox = matches!(
        body,
        Some(Body::MakeDirectory(_) | Body::Put(_) | Body::ChangeDirectory(_) | Body::Quit(_) | Body::Noop(_)) | None
    );
    match user.access {
        Access::ReadOnly if changes => refused(Code::DENIED, "this user may only read"),
        Access::WriteOnly if !dropbox => refused(Code::DENIED, "this user may only put files and make directories"),
        _ => Ok(()),
    }
}

fn path_of(bytes: &[u8], working: &RemotePath) -> Result<RemotePath, NetError> {
    entry::path(bytes, working).map_err(|e| NetError::Refused {
        code: Code::BAD_NAME,
        text: format!("the path is not allowed: {e}"),
    })
}

async fn answer(
    server: &Arc<Server>,
    session: &Arc<Session>,
    body: Option<request::Body>,
    channel: Option<Result<TransferChannel, NetError>>,
) -> Answer {
    use request::Body;
    let channel = channel.transpose()?;
    let store = &session.store;
    let working = session.working();
    let path = |bytes: &[u8]| path_of(bytes, &working);
    match body {
        Some(Body::Noop(_)) => Ok((Code::OK, "nothing done", None)),
        Some(Body::Quit(_)) => Ok((Code::BYE, "goodbye", None)),
        Some(Body::Login(_) | Body::Enroll(_) | Body::Reattach(_)) => {
            Ok((Code::BAD_SEQUENCE, "already logged in", None))
        }
        Some(Body::ChangeDirectory(request)) if session.is_write_only() => {
            *session.working.lock() = path(&request.path)?;
            Ok((Code::CHANGED, "working directory changed", None))
        }
        Some(Body::ChangeDirectory(request)) => {
            let resolved = store.resolve(&path(&request.path)?).await?;
            if store.stat(&resolved).await?.kind != Kind::Dir {
                return Err(StoreError::new(ErrorKind::NotADirectory, &resolved).into());
            }
            *session.working.lock() = resolved;
            Ok((Code::CHANGED, "working directory changed", None))
        }
        Some(Body::Stat(request)) => {
            let path = path(&request.path)?;
            let found = store.stat(&path).await?;
            let (found, hash) = match found.kind {
                Kind::File if request.hash => {
                    let (hashed, hash) = hash_file(store, &path, session.core.pool().buffers()).await?;
                    (hashed, Some(hash))
                }
                _ => (found, None),
            };
            Ok((
                Code::ANSWER,
                "found",
                Some(reply::Body::Entry(entry::to_wire(found, hash))),
            ))
        }
        Some(Body::List(request)) => {
            let page = list(session, &path(&request.path)?, &request).await?;
            Ok((Code::ANSWER, "listing", Some(reply::Body::List(page))))
        }
        Some(Body::MakeDirectory(request)) if session.is_write_only() => {
            match store.make_dir_all(&path(&request.path)?).await {
                Err(e) if !tells_what_is_there(&e.kind) => Err(e.into()),
                _ => Ok((Code::CHANGED, "accepted", None)),
            }
        }
        Some(Body::MakeDirectory(request)) => {
            let path = path(&request.path)?;
            match request.parents {
                true => store.make_dir_all(&path).await?,
                false => store.make_dir(&path).await?,
            }
            Ok((Code::CHANGED, "directory made", None))
        }
        Some(Body::Remove(request)) => {
            let scope = match request.recursive {
                true => RemoveScope::Tree,
                false => RemoveScope::Entry,
            };
            store.remove(&path(&request.path)?, scope).await?;
            Ok((Code::CHANGED, "removed", None))
        }
        Some(Body::Rename(request)) => {
            let (from, to) = (path(&request.from)?, path(&request.to)?);
            let to = into_directory(session, &from, to, request.directory).await?;
            store.rename(&from, &to).await?;
            Ok((Code::CHANGED, "renamed", None))
        }
        Some(Body::Space(request)) => {
            let space = store.space(&path(&request.path)?).await?;
            Ok((
                Code::ANSWER,
                "sizes",
                Some(reply::Body::Space(entry::space_to_wire(space))),
            ))
        }
        Some(Body::Locks(request)) => {
            let page = store
                .locks(
                    &path(&request.path)?,
                    &request.cookie,
                    page_limit(request.limit).min(LOCKS_PAGE),
                )
                .await?;
            let locks = page.entries.into_iter().map(entry::lock_to_wire).collect();
            let cookie = page.next.unwrap_or_default();
            let page = proto::LocksReply { locks, cookie };
            Ok((Code::ANSWER, "locks", Some(reply::Body::Locks(page))))
        }
        Some(Body::Unlock(request)) => {
            let mode = match request.force {
                true => UnlockMode::Force,
                false => UnlockMode::Abandoned,
            };
            let removed = store.unlock(&path(&request.path)?, mode).await?;
            let unlocked = proto::UnlockReply { removed };
            Ok((Code::CHANGED, "unlocked", Some(reply::Body::Unlock(unlocked))))
        }
        Some(Body::Put(request)) => transfers::put(server, session, request, channel).await,
        Some(Body::Get(request)) => transfers::get(server, session, request, channel).await,
        None => Ok((Code::NOT_IMPLEMENTED, "unknown request", None)),
    }
}

/// True of an error by which a user who may only write would learn what is there: they get the same answer without it.
fn tells_what_is_there(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Exists | ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::Symlink
    )
}

/// `mv a dir` moves into the directory, and `mv a dir/` fails where there is none.
async fn into_directory(
    session: &Session,
    from: &RemotePath,
    to: RemotePath,
    must_be: bool,
) -> Result<RemotePath, NetError> {
    let found = match session.store.resolve(&to).await {
        Ok(real) => session.store.stat(&real).await.map(|entry| (real, entry.kind)),
        Err(e) => Err(e),
    };
    match (found, from.split()) {
        (Ok((dir, Kind::Dir)), Some((_, name))) => dir
            .join(&name)
            .map_err(|e| StoreError::new(ErrorKind::BadName(e), &to).into()),
        (Ok(_), _) if must_be => Err(StoreError::new(ErrorKind::NotADirectory, &to).into()),
        (Err(e), _) if must_be && e.kind == ErrorKind::NotFound => Err(transfers::no_directory(&to)),
        (Err(e), _) if must_be => Err(e.into()),
        _ => Ok(to),
    }
}

/// Entries of a page, of which the client wants this many.
fn page_limit(wanted: u32) -> usize {
    match usize::try_from(wanted) {
        Ok(wanted @ 1..PAGE) => wanted,
        _ => PAGE,
    }
}

/// A page of a listing, smaller where its names and targets would not fit into a message.
async fn list(session: &Session, path: &RemotePath, request: &proto::List) -> Result<proto::ListReply, NetError> {
    let mut limit = page_limit(request.limit);
    loop {
        let page = session.store.list(path, &request.cookie, limit).await?;
        let reply = proto::ListReply {
            entries: page.entries.into_iter().map(|e| entry::to_wire(e, None)).collect(),
            cookie: page.next.unwrap_or_default(),
        };
        if reply.encoded_len() < MAX_CONTROL / 2 || limit == 1 {
            return Ok(reply);
        }
        limit = (limit / 8).max(1);
    }
}
