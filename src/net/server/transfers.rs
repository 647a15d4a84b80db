//! Put and get at the server: finds the places, then sender or receiver do the rest.

use crate::net::error::NetError;
use crate::net::printable;
use crate::net::server::Server;
use crate::net::server::session::Session;
use crate::net::session::channel::TransferChannel;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::destination::{Target, Tree};
use crate::net::transfer::receive::receiver;
use crate::net::transfer::report::{Counters, Reporter};
use crate::net::transfer::send::sender;
use crate::net::transfer::send::source::{Origin, TransferSource};
use crate::net::wire::proto::{self, reply, transfer_message::Body};
use crate::net::wire::{Code, entry};
use crate::store::local::LocalStore;
use crate::store::{ErrorKind, Kind, Name, RemotePath, Store, StoreError, StoreExt, blocking};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Most sources of one transfer.
const SOURCES: usize = 4096;

type Answer = Result<(Code, &'static str, Option<reply::Body>), NetError>;

const STARTED: (Code, &str, Option<reply::Body>) = (
    Code::STARTED,
    "transfer started",
    Some(reply::Body::Start(proto::StartReply {})),
);

fn bad(text: &str) -> NetError {
    NetError::Refused {
        code: Code::BAD_PARAMETER,
        text: text.into(),
    }
}

/// Transfers that start now are not finished any more by a server that stops.
fn check(server: &Server, count: usize) -> Result<(), NetError> {
    if *server.stopping.borrow() {
        return Err(NetError::Refused {
            code: Code::UNAVAILABLE,
            text: "the server is stopping".into(),
        });
    }
    if count == 0 || count > SOURCES {
        return Err(bad("a transfer has 1 to 4096 sources"));
    }
    Ok(())
}

fn options_of(options: Option<proto::Options>) -> Result<Options, NetError> {
    Options::from_wire(options.unwrap_or_default()).map_err(|e| bad(&e.to_string()))
}

/// Starts to receive.
pub(super) async fn put(
    server: &Arc<Server>,
    session: &Arc<Session>,
    put: proto::Put,
    channel: Option<TransferChannel>,
) -> Answer {
    let channel = channel.ok_or_else(|| bad("no transfer"))?;
    check(server, put.names.len())?;
    let options = options_of(put.options.clone())?;
    if options.if_version.is_some() && session.is_write_only() {
        // whatever the answer, it would tell what is there
        return Err(NetError::Refused {
            code: Code::DENIED,
            text: "this user may only write: --if-version would tell what is there".into(),
        });
    }
    let (tree, base) = place(session, &put).await?;
    let base = server
        .config
        .root
        .join(session.grant.user.root.as_path())
        .join(base.as_path());
    refuse_nested(&tree, base, &put.source_ids).await?;
    let release = (Arc::downgrade(server), session.clone());
    let write_only = session.is_write_only();
    let target = Target::Tree(Tree {
        write_only,
        release: Some(Arc::new(move || {
            let (server, session) = release.clone();
            Box::pin(async move {
                if let Some(server) = server.upgrade() {
                    server.end_detached(&session).await;
                }
            })
        })),
        ..tree
    });
    let (session, label) = (session.clone(), put.destination);
    let tasks = session.core.tasks().clone();
    tasks.detach("put", async move {
        let _counted = session.transferring();
        let log = Log::new(&session, "put", &label);
        let (reporter, core, number) = (Reporter::silent(), session.core.clone(), channel.number());
        let ended = receiver::receive(channel, target, label, options, reporter.clone()).await;
        log.ended(&reporter, &ended);
        cancel(&core, number, ended).await;
    });
    Ok(STARTED)
}

/// Tells the other side of a transfer's end that it does not know of.
async fn cancel(core: &crate::net::session::SessionCore, transfer: u32, ended: Result<(), NetError>) {
    let Err(e) = ended else { return };
    let (code, text) = e.to_wire();
    let message = proto::TransferMessage {
        transfer,
        body: Some(Body::Cancel(proto::Cancel {
            code: u32::from(code.0),
            text,
        })),
    };
    let _ = core.control.send(proto::control_message::Body::Transfer(message)).await;
}

/// Where the sources go, and the directory that is in: into an existing directory under their names, or, a single one, to a new name.
async fn place(session: &Session, put: &proto::Put) -> Result<(Tree, RemotePath), NetError> {
    let store = &session.store;
    let destination = entry::path(&put.destination, &session.working()).map_err(|e| NetError::Refused {
        code: Code::BAD_NAME,
        text: format!("the destination is not allowed: {e}"),
    })?;
    let who = session.who.clone();
    let dir = match store.resolve(&destination).await {
        Ok(real) if store.stat(&real).await?.kind == Kind::Dir => Some(real),
        Ok(_) if put.directory || put.names.len() > 1 => {
            return Err(StoreError::new(ErrorKind::NotADirectory, &destination).into());
        }
        Ok(_) => None,
        // a symlink that leads nowhere, or outside, is replaced
        Err(e) if matches!(e.kind, ErrorKind::NotFound | ErrorKind::Symlink) => None,
        Err(e) => return Err(e.into()),
    };
    if dir.is_some() && is_nameless_file(put) {
        return Err(NetError::Refused {
            code: Code::IS_DIRECTORY,
            text: "it is a directory, and a stream has no name of its own to have in there".into(),
        });
    }
    if let Some(dir) = dir {
        let tops = put.names.iter().map(|name| match name.as_slice() {
            [] => Ok(RemotePath::root()),
            name => match Name::parse(name) {
                Ok(name) => Ok(RemotePath::root().join(&name).unwrap_or_default()),
                Err(e) => Err(StoreError::new(ErrorKind::BadName(e), &destination)),
            },
        });
        let tops = tops.collect::<Result<Vec<_>, _>>()?;
        let store = store.subtree(&dir).await?;
        return Ok((
            Tree {
                store,
                tops,
                who,
                release: None,
                write_only: false,
            },
            dir,
        ));
    }
    let (parent, name) = match destination.split() {
        Some(split) if !put.directory && put.names.len() == 1 => split,
        _ => return Err(no_directory(&destination)),
    };
    let parent = match store.resolve(&parent).await {
        Ok(real) => real,
        Err(e) if e.kind == ErrorKind::NotFound => return Err(no_directory(&parent)),
        Err(e) => return Err(e.into()),
    };
    let tree = Tree {
        store: store.subtree(&parent).await?,
        tops: vec![RemotePath::root().join(&name).unwrap_or_default()],
        who,
        release: None,
        write_only: false,
    };
    Ok((tree, parent))
}

/// There is no directory where one must be.
pub(super) fn no_directory(path: &RemotePath) -> NetError {
    NetError::Refused {
        code: Code::NOT_FOUND,
        text: format!("no such directory: {}", String::from_utf8_lossy(path.as_bytes())),
    }
}

/// True of a put of a stream: only directories have contents to go into another one, and they need `recursive`.
fn is_nameless_file(put: &proto::Put) -> bool {
    let recursive = put.options.as_ref().is_some_and(|options| options.recursive);
    !recursive && put.names.iter().any(Vec::is_empty)
}

fn nested() -> NetError {
    NetError::Refused {
        code: Code::CONFLICT,
        text: "the destination is the source, or within it".into(),
    }
}

/// Refuses to put a directory into itself: client and server may be the same machine.
async fn refuse_nested(tree: &Tree, base: PathBuf, source_ids: &[String]) -> Result<(), NetError> {
    if source_ids.is_empty() {
        return Ok(());
    }
    let mut versions = Vec::new();
    for top in &tree.tops {
        versions.extend(tree.store.stat(top).await.ok().map(|entry| entry.version.to_string()));
    }
    versions.extend(blocking(move || LocalStore::ancestors(&base)).await);
    match versions.iter().any(|version| source_ids.contains(version)) {
        true => Err(nested()),
        false => Ok(()),
    }
}

/// Starts to send.
pub(super) async fn get(
    server: &Server,
    session: &Arc<Session>,
    get: proto::Get,
    channel: Option<TransferChannel>,
) -> Answer {
    let channel = channel.ok_or_else(|| bad("no transfer"))?;
    check(server, get.sources.len())?;
    let options = options_of(get.options)?;
    let mut sources = Vec::with_capacity(get.sources.len());
    // one store for all of them: each would keep directories open for as long as the transfer lasts
    let store = session.store.subtree(&RemotePath::root()).await?;
    let mut names = get.names.iter();
    for label in &get.sources {
        let place = names.next().and_then(|name| RemotePath::parse(name).ok());
        let origin = match source(session, label, options.recursive).await {
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
        };
        if source
            .identity()
            .await
            .is_some_and(|version| get.destination_ancestors.contains(&version))
        {
            return Err(nested());
        }
        sources.push(source);
    }
    let session = session.clone();
    let tasks = session.core.tasks().clone();
    tasks.detach("get", async move {
        let _counted = session.transferring();
        let first = get.sources.first().cloned().unwrap_or_default();
        let log = Log::new(&session, "get", &first);
        let (reporter, core, number) = (Reporter::silent(), session.core.clone(), channel.number());
        let ended = sender::send(channel, Arc::new(sources), options, reporter.clone()).await;
        log.ended(&reporter, &ended);
        cancel(&core, number, ended).await;
    });
    Ok(STARTED)
}

/// Finds a source: where it is, through no symlink. A symlink is followed, as cp does, unless a tree is asked for: then it is itself an entry.
async fn source(session: &Session, path: &[u8], recursive: bool) -> Result<RemotePath, StoreError> {
    let store = &session.store;
    let trimmed = path.strip_suffix(b"/").filter(|rest| !rest.is_empty());
    let wanted = entry::path(trimmed.unwrap_or(path), &session.working())
        .map_err(|e| StoreError::new(ErrorKind::BadName(e), &RemotePath::root()))?;
    let is_link = store.stat(&wanted).await?.kind == Kind::Symlink;
    let real = match wanted.split() {
        Some((parent, name)) if is_link && recursive && trimmed.is_none() => {
            let parent = store.resolve(&parent).await?;
            parent
                .join(&name)
                .map_err(|e| StoreError::new(ErrorKind::BadName(e), &wanted))?
        }
        _ => store.resolve(&wanted).await?,
    };
    let follows = !(is_link && recursive && trimmed.is_none());
    if follows && store.stat(&real).await?.kind == Kind::Symlink {
        // what was resolved a moment ago is a symlink now
        return Err(StoreError::new(ErrorKind::Symlink, &wanted));
    }
    Ok(real)
}

/// One line of the log for a transfer.
struct Log {
    who: String,
    from: IpAddr,
    verb: &'static str,
    path: String,
    started: Instant,
}

/// A path as the log shows it.
pub(super) fn logged_path(path: &[u8]) -> String {
    match path {
        [] => "/".into(),
        path => printable(&String::from_utf8_lossy(path)),
    }
}

impl Log {
    fn new(session: &Session, verb: &'static str, path: &[u8]) -> Log {
        Log {
            who: session.who.clone(),
            from: session.grant.address(),
            verb,
            path: logged_path(path),
            started: Instant::now(),
        }
    }

    fn ended(self, reporter: &Reporter, ended: &Result<(), NetError>) {
        let c = &reporter.counters;
        let Log {
            who,
            from,
            verb,
            path,
            started,
        } = self;
        let (files, bytes) = (Counters::get(&c.files_done), Counters::get(&c.bytes_done));
        let (unchanged, failed) = (Counters::get(&c.unchanged), Counters::get(&c.failed));
        let seconds = format_args!("{:.1}", started.elapsed().as_secs_f32()).to_string();
        match ended {
            Ok(()) => tracing::info!(%who, %from, path, files, bytes, unchanged, failed, %seconds, "{verb} finished"),
            Err(e) => {
                let error = printable(&e.to_string());
                tracing::info!(%who, %from, path, files, bytes, unchanged, failed, %seconds, %error, "{verb} ended");
            }
        }
    }
}
