//! Puts and gets: finds the places of a transfer, then starts its receiver or its sender.

use crate::net::error::NetError;
use crate::net::server::backup::store_at;
use crate::net::server::config::Config;
use crate::net::server::registry::Registry;
use crate::net::server::reply::{Answer, Done, refusal};
use crate::net::server::session::Session;
use crate::net::server::sources::{find_sources, nested};
use crate::net::server::transfer_log::TransferLog;
use crate::net::session::channel::{TransferChannel, cancel};
use crate::net::transfer::options::{Options, PreservedTargets};
use crate::net::transfer::receive::destination::Target;
use crate::net::transfer::receive::receiver;
use crate::net::transfer::receive::tree::{Release, Tree};
use crate::net::transfer::report::Reporter;
use crate::net::transfer::send::sender;
use crate::net::wire::proto::{self, IfMissing, reply};
use crate::net::wire::{Code, entry};
use crate::store::{ErrorKind, Kind, Name, RemotePath, Store, StoreError, StoreExt};
use std::sync::Arc;

/// Most sources of one transfer.
const SOURCES: usize = 4096;

/// Where a transfer takes place.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) config: &'a Config,
    pub(super) registry: &'a Arc<Registry>,
    pub(super) session: &'a Arc<Session>,
}

pub(super) fn started() -> Done {
    let body = reply::Body::Start(proto::StartReply {});
    Done::with(Code::STARTED, "transfer started", body)
}

pub(super) fn bad(text: &str) -> NetError {
    refusal(Code::BAD_PARAMETER, text)
}

/// Checks that a transfer may start. A server that is stopping would not finish it.
pub(super) fn check(registry: &Registry, sources: usize) -> Result<(), NetError> {
    if registry.is_stopping() {
        return Err(refusal(Code::UNAVAILABLE, "the server is stopping"));
    }
    if sources == 0 || sources > SOURCES {
        return Err(bad("a transfer has 1 to 4096 sources"));
    }
    Ok(())
}

pub(super) fn options_of(options: Option<proto::Options>) -> Result<Options, NetError> {
    let options = Options::from_wire(options.unwrap_or_default());
    let mut options = options.map_err(|e| bad(&e.to_string()))?;
    options.packing = options.packing.of_server();
    Ok(options)
}

/// The options of a put, whose owners this machine must have.
pub(super) fn put_options(
    session: &Session,
    options: Option<proto::Options>,
) -> Result<Options, NetError> {
    let maps = |o: &proto::Options| !o.user_map.is_empty() || !o.group_map.is_empty();
    if session.is_write_only() && options.as_ref().is_some_and(maps) {
        let text = "this user may only write: a map of owners would tell which users are there";
        return Err(refusal(Code::DENIED, text));
    }
    let mut options = options_of(options)?;
    let resolved = options.metadata.resolve();
    resolved.map_err(|e| refusal(Code::UNKNOWN_OWNER, e.to_string()))?;
    Ok(options)
}

/// Starts to receive.
pub(super) async fn put(
    place: Place<'_>,
    put: proto::Put,
    channel: Option<TransferChannel>,
) -> Answer {
    let Place {
        registry, session, ..
    } = place;
    let channel = channel.ok_or_else(|| bad("no transfer"))?;
    check(registry, put.names.len())?;
    let options = put_options(session, put.options.clone())?;
    let asks = options.if_version.is_some()
        || options.preserved != PreservedTargets::None
        || options.existing
        || options.backup.is_some()
        || options.mirror
        || options.dry_run;
    if asks && session.is_write_only() {
        // any answer would tell what exists
        let text = "this user may only write: --if-version, --update, --ignore-existing, \
            --existing, --delete, --backup and --dry-run would tell what is there";
        return Err(refusal(Code::DENIED, text));
    }
    registry.lend(session).await?;
    let destination = find_destination(session, &put).await?;
    let target = destination.into_target(registry, session, &options).await?;
    let (transferring, session, label) =
        (session.transfers.begin(), session.clone(), put.destination);
    let tasks = session.core.tasks().clone();
    tasks.detach("put", async move {
        let _counted = transferring;
        let log = TransferLog::new(&session, "put", &label);
        let (reporter, core, number) = (Reporter::silent(), session.core.clone(), channel.number());
        let ended = receiver::receive(channel, target, label, options, reporter.clone()).await;
        log.ended(&reporter.counters, &ended);
        if let Err(e) = ended {
            cancel(&core, number, &e).await;
        }
    });
    Ok(started())
}

/// Releases the locks that dead sessions of the same user and machine hold.
fn release(registry: &Arc<Registry>, session: &Arc<Session>) -> Release {
    let parties = (registry.clone(), session.clone());
    Arc::new(move || {
        let (registry, session) = parties.clone();
        Box::pin(async move { registry.end_predecessors(&session).await })
    })
}

/// The directory that receives a put, and the place of each source in it.
pub(super) struct Destination {
    /// The directory's path.
    dir: RemotePath,
    pub(super) store: Arc<dyn Store>,
    pub(super) tops: Vec<RemotePath>,
}

impl Destination {
    /// What receives there. Its store moves aside what it replaces if that is wanted.
    pub(super) async fn into_target(
        self,
        registry: &Arc<Registry>,
        session: &Arc<Session>,
        options: &Options,
    ) -> Result<Target, NetError> {
        let store = match &options.backup {
            Some(backup) if !options.dry_run => store_at(session, &self.dir, Some(backup)).await?,
            _ => self.store,
        };
        Ok(Target::Tree(Tree {
            store,
            tops: self.tops,
            base: None,
            dry_run: options.dry_run,
            who: session.who.clone(),
            release: Some(release(registry, session)),
            own_lock_wait: registry.own_lock_wait(),
            write_only: session.is_write_only(),
        }))
    }
}

/// Finds the destination: an existing directory receives the sources under their names, and so does
/// one that is made for them; a single source may get a new name.
pub(super) async fn find_destination(
    session: &Session,
    put: &proto::Put,
) -> Result<Destination, NetError> {
    let path = entry::path(&put.destination, &session.working())
        .map_err(|e| refusal(Code::BAD_NAME, format!("the destination is not allowed: {e}")))?;
    let destination = match (existing_directory(session, put, &path).await?, put.if_missing()) {
        (Some(dir), _) => within(session, put, &path, dir).await?,
        (None, IfMissing::Name) => named(session, put, &path).await?,
        (None, IfMissing::Make) if put.options.as_ref().is_some_and(|o| o.dry_run) => {
            beneath_missing(session, put, &path).await?
        }
        (None, IfMissing::Make) => {
            let (parent, name) = path.split().ok_or_else(|| no_directory(&path))?;
            let parent = parent_of(session, &parent).await?;
            refuse_nested(session, &parent, &put.source_ids).await?;
            if is_of_sources(put) {
                return beneath_missing(session, put, &path).await;
            }
            let dir = parent.join(&name);
            let dir = dir.map_err(|e| StoreError::new(ErrorKind::BadName(e), &path))?;
            session.store.make_dir(&dir).await?;
            within(session, put, &path, dir).await?
        }
    };
    refuse_nested_in(session, &destination, &put.source_ids).await?;
    Ok(destination)
}

/// True of a destination that is to have the contents of directories, and nothing besides: it is
/// made like any other directory of a source. With backups it has to be there first.
fn is_of_sources(put: &proto::Put) -> bool {
    let backs_up = put.options.as_ref().is_some_and(|options| options.backup.is_some());
    put.names.iter().all(Vec::is_empty) && !backs_up
}

/// Where the sources go beneath a destination that is not made yet.
async fn beneath_missing(
    session: &Session,
    put: &proto::Put,
    path: &RemotePath,
) -> Result<Destination, NetError> {
    let (parent, name) = path.split().ok_or_else(|| no_directory(path))?;
    let dir = parent_of(session, &parent).await?;
    let destination = within(session, put, path, dir).await?;
    let base = RemotePath::root().join(&name).unwrap_or_default();
    let tops = destination.tops.iter().map(|top| base.append(top));
    let tops = tops.collect::<Result<Vec<_>, _>>();
    Ok(Destination {
        tops: tops.map_err(|e| StoreError::new(ErrorKind::BadName(e), path))?,
        ..destination
    })
}

/// The directory that is to hold a destination.
async fn parent_of(session: &Session, parent: &RemotePath) -> Result<RemotePath, NetError> {
    match session.store.resolve(parent).await {
        Ok(real) => Ok(real),
        Err(e) if e.kind == ErrorKind::NotFound => Err(no_directory(parent)),
        Err(e) => Err(e.into()),
    }
}

/// The directory that `path` is, or leads to.
async fn existing_directory(
    session: &Session,
    put: &proto::Put,
    path: &RemotePath,
) -> Result<Option<RemotePath>, NetError> {
    let store = &session.store;
    match store.resolve(path).await {
        Ok(real) if store.stat(&real).await?.kind == Kind::Dir => Ok(Some(real)),
        Ok(_) if put.directory || put.names.len() > 1 || put.if_missing() == IfMissing::Make => {
            Err(StoreError::new(ErrorKind::NotADirectory, path).into())
        }
        Ok(_) => Ok(None),
        // a symlink that leads nowhere, or outside, is replaced
        Err(e) if matches!(e.kind, ErrorKind::NotFound | ErrorKind::Symlink) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The sources go into the existing directory `dir`.
async fn within(
    session: &Session,
    put: &proto::Put,
    path: &RemotePath,
    dir: RemotePath,
) -> Result<Destination, NetError> {
    if is_nameless_file(put) {
        let text = "it is a directory, and a stream has no name of its own to have in there";
        return Err(refusal(Code::IS_DIRECTORY, text));
    }
    let tops = put.names.iter().map(|name| match name.as_slice() {
        [] => Ok(RemotePath::root()),
        name => match Name::parse(name) {
            Ok(name) => Ok(RemotePath::root().join(&name).unwrap_or_default()),
            Err(e) => Err(StoreError::new(ErrorKind::BadName(e), path)),
        },
    });
    Ok(Destination {
        tops: tops.collect::<Result<Vec<_>, _>>()?,
        store: session.store.subtree(&dir).await?,
        dir,
    })
}

/// The only source gets the name that `path` ends with.
async fn named(
    session: &Session,
    put: &proto::Put,
    path: &RemotePath,
) -> Result<Destination, NetError> {
    let (parent, name) = match path.split() {
        Some(split) if !put.directory && put.names.len() == 1 => split,
        _ => return Err(no_directory(path)),
    };
    let dir = parent_of(session, &parent).await?;
    Ok(Destination {
        store: session.store.subtree(&dir).await?,
        tops: vec![RemotePath::root().join(&name).unwrap_or_default()],
        dir,
    })
}

/// The refusal of a path that must be a directory and does not exist.
pub(super) fn no_directory(path: &RemotePath) -> NetError {
    let path = String::from_utf8_lossy(path.as_bytes());
    refusal(Code::NOT_FOUND, format!("no such directory: {path}"))
}

/// True for a put of a stream: only directories have contents that go into another one, and they
/// need `recursive`.
fn is_nameless_file(put: &proto::Put) -> bool {
    let recursive = put.options.as_ref().is_some_and(|options| options.recursive);
    !recursive && put.names.iter().any(Vec::is_empty)
}

/// Refuses to put a directory into itself: client and server may be the same machine.
async fn refuse_nested_in(
    session: &Session,
    destination: &Destination,
    source_ids: &[String],
) -> Result<(), NetError> {
    if source_ids.is_empty() {
        return Ok(());
    }
    for top in &destination.tops {
        let found = destination.store.stat(top).await.ok();
        if found.is_some_and(|entry| source_ids.contains(&entry.version.to_string())) {
            return Err(nested());
        }
    }
    refuse_nested(session, &destination.dir, source_ids).await
}

/// The same for a directory and those above it.
async fn refuse_nested(
    session: &Session,
    dir: &RemotePath,
    source_ids: &[String],
) -> Result<(), NetError> {
    if source_ids.is_empty() {
        return Ok(());
    }
    let versions = session.served.ancestors(dir).await;
    match versions.iter().any(|version| source_ids.contains(version)) {
        true => Err(nested()),
        false => Ok(()),
    }
}

/// Starts to send.
pub(super) async fn get(
    place: Place<'_>,
    get: proto::Get,
    channel: Option<TransferChannel>,
) -> Answer {
    let Place {
        registry, session, ..
    } = place;
    let channel = channel.ok_or_else(|| bad("no transfer"))?;
    check(registry, get.sources.len())?;
    let options = options_of(get.options.clone())?;
    registry.lend(session).await?;
    let sources = find_sources(session, &get, &options).await?;
    let (transferring, session) = (session.transfers.begin(), session.clone());
    let tasks = session.core.tasks().clone();
    tasks.detach("get", async move {
        let _counted = transferring;
        let first = get.sources.first().cloned().unwrap_or_default();
        let log = TransferLog::new(&session, "get", &first);
        let (reporter, core, number) = (Reporter::silent(), session.core.clone(), channel.number());
        let ended = sender::send(channel, Arc::new(sources), options, reporter.clone()).await;
        log.ended(&reporter.counters, &ended);
        if let Err(e) = ended {
            cancel(&core, number, &e).await;
        }
    });
    Ok(started())
}
