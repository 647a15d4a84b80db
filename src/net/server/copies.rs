//! Copies that the client only reads of: within the server, which sends to itself, or to another
//! server.

use crate::auth::Fingerprint;
use crate::net::error::NetError;
use crate::net::local::{LocalDestination, LocalSession};
use crate::net::server::copy_report::CopyReporter;
use crate::net::server::loan::Borrower;
use crate::net::server::outbound::{Bounds, OtherServer};
use crate::net::server::reply::{Answer, refusal};
use crate::net::server::session::Session;
use crate::net::server::sources::find_sources;
use crate::net::server::transfer_log::TransferLog;
use crate::net::server::transfers::{
    Destination, Place, bad, check, find_destination, options_of, put_options, started,
};
use crate::net::session::SessionCore;
use crate::net::session::channel::{TransferChannel, cancel};
use crate::net::transfer::mode::ModeRules;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::destination::Target;
use crate::net::transfer::report::Reporter;
use crate::net::transfer::send::source::{Origin, TransferSource};
use crate::net::wire::{Code, proto};
use crate::store::{Kind, StoreExt};
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a login at another server may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Most changes of modes, and most bytes of each.
const MODE_RULES: usize = 64;
const MODE_RULE_BYTES: usize = 1024;

/// Starts to copy.
pub(super) async fn copy(
    place: Place<'_>,
    copy: proto::Copy,
    channel: Option<TransferChannel>,
) -> Answer {
    let Place {
        registry, session, ..
    } = place;
    let channel = channel.ok_or_else(|| bad("no transfer"))?;
    check(registry, copy.sources.len())?;
    if copy.names.len() != copy.sources.len() {
        return Err(bad("a copy has a name for each source"));
    }
    let (label, each) = (copy.destination.clone(), copy.each);
    let memory = registry.borrow(session, Borrower::Copy).await?;
    let window = memory.window();
    let prepared = PreparedCopy::find(place, copy).await?;
    let (transferring, session) = (session.transfers.begin(), session.clone());
    let tasks = session.core.tasks().clone();
    tasks.detach("server-copy", async move {
        let _taken = (transferring, memory);
        let log = TransferLog::new(&session, "copy", &label);
        let (core, number) = (session.core.clone(), channel.number());
        let (reporter, mut reports) = CopyReporter::new(channel, each);
        let local = LocalSession::start(session.rates.asked(), window);
        let copying = prepared.run(&local, reporter);
        let ended = reports.follow(|why| local.end(why), copying).await;
        log.ended(reports.counters(), &ended);
        tell_end(&core, number, ended).await;
    });
    Ok(started())
}

/// Tells the client of an end that it does not know of.
async fn tell_end(core: &SessionCore, number: u32, ended: Result<(), NetError>) {
    match ended {
        Ok(()) => {}
        // as of any other task of the session
        Err(e @ NetError::Internal(_)) => core.shut_down(e),
        Err(e) => cancel(core, number, &e).await,
    }
}

/// Starts to send to another server, on a ticket that the client has from it.
pub(super) async fn send_to(
    place: Place<'_>,
    request: proto::SendTo,
    channel: Option<TransferChannel>,
) -> Answer {
    let Place {
        config,
        registry,
        session,
    } = place;
    let channel = channel.ok_or_else(|| bad("no transfer"))?;
    let Some(outbound) = config.outbound.clone() else {
        return Err(no_way("this server sends to no other"));
    };
    let (to, mut copy) = other_server(request)?;
    check(registry, copy.sources.len())?;
    let options = Options {
        chmod: chmod_of(&copy)?,
        ..options_of(copy.options.clone())?
    };
    let sources = Arc::new(sources_of(session, &mut copy, &options).await?);
    let memory = registry.borrow(session, Borrower::Copy).await?;
    let window = memory.window();
    let options = Options {
        sender_window: window,
        ..options
    };
    let bounds = Bounds {
        window,
        limits: session.rates.outgoing().to_vec(),
    };
    let label = format!("{}:{}", to.host, String::from_utf8_lossy(&copy.destination));
    let each = copy.each;
    let put = proto::Put {
        destination: copy.destination,
        directory: copy.directory,
        names: copy.names,
        if_missing: copy.if_missing,
        ..proto::Put::default()
    };
    // what a dead client's session still sends there has the locks
    registry.end_predecessors(session).await;
    let other = match timeout(CONNECT, outbound.log_in(to, bounds)).await {
        Ok(other) => other.map_err(|e| no_way(&e.to_string()))?,
        Err(_) => return Err(no_way("the other server does not answer")),
    };
    let (transferring, session) = (session.transfers.begin(), session.clone());
    let tasks = session.core.tasks().clone();
    tasks.detach("outbound", async move {
        let _taken = (transferring, memory);
        let log = TransferLog::new(&session, "send", label.as_bytes());
        let (core, number) = (session.core.clone(), channel.number());
        let (reporter, mut reports) = CopyReporter::new(channel, each);
        let sending = other.put(sources, put, options, reporter);
        let ended = reports.follow(|_| other.end(), sending).await;
        log.ended(reports.counters(), &ended);
        tell_end(&core, number, ended).await;
        other.quit().await;
    });
    Ok(started())
}

/// The refusal of what the client has to do in another way.
fn no_way(why: &str) -> NetError {
    refusal(Code::NOT_IMPLEMENTED, why)
}

/// Where a client wants this server to send to.
fn other_server(request: proto::SendTo) -> Result<(OtherServer, proto::Copy), NetError> {
    let copy = request.copy.filter(|copy| copy.names.len() == copy.sources.len());
    let copy = copy.ok_or_else(|| bad("a copy has a name for each source"))?;
    let (Some(key), Ok(port)) = (Fingerprint::parse(&request.key), u16::try_from(request.port))
    else {
        return Err(bad("the other server has no key or no port"));
    };
    let to = OtherServer {
        host: request.host,
        port,
        key,
        ticket: request.ticket,
    };
    Ok((to, *copy))
}

/// Finds the sources, as for a get.
async fn sources_of(
    session: &Session,
    copy: &mut proto::Copy,
    options: &Options,
) -> Result<Vec<TransferSource>, NetError> {
    let get = proto::Get {
        sources: take(&mut copy.sources),
        names: copy.names.clone(),
        chosen: take(&mut copy.chosen),
        ..proto::Get::default()
    };
    find_sources(session, &get, options).await
}

/// A copy whose places were found.
struct PreparedCopy {
    sources: Vec<TransferSource>,
    target: Target,
    options: Options,
}

impl PreparedCopy {
    /// Finds the sources as for a get, and the destination as for a put.
    async fn find(place: Place<'_>, mut copy: proto::Copy) -> Result<PreparedCopy, NetError> {
        let Place {
            registry, session, ..
        } = place;
        let options = Options {
            chmod: chmod_of(&copy)?,
            ..put_options(session, copy.options.clone())?
        };
        let sources = sources_of(session, &mut copy, &options).await?;
        let put = proto::Put {
            transfer: copy.transfer,
            source_ids: ids_of(&sources).await,
            destination: copy.destination,
            directory: copy.directory,
            names: copy.names,
            if_missing: copy.if_missing,
            options: copy.options,
        };
        let destination = find_destination(session, &put).await?;
        refuse_same(&sources, &destination).await?;
        if copy.mirror {
            refuse_within(session, &sources, &destination).await?;
        }
        Ok(PreparedCopy {
            sources,
            target: destination.into_target(registry, session, &options).await?,
            options,
        })
    }

    async fn run(self, local: &LocalSession, reporter: Reporter) -> Result<(), NetError> {
        let label = Vec::new();
        let to = LocalDestination {
            target: self.target,
            label,
        };
        local.copy(Arc::new(self.sources), to, self.options, reporter).await
    }
}

/// The changes of modes, which the sender applies.
fn chmod_of(copy: &proto::Copy) -> Result<ModeRules, NetError> {
    if copy.chmod.len() > MODE_RULES || copy.chmod.iter().any(|t| t.len() > MODE_RULE_BYTES) {
        return Err(bad("a copy has at most 64 changes of modes, of 1024 bytes each"));
    }
    let mut rules = ModeRules::default();
    for text in &copy.chmod {
        rules.add(text, copy.umask & 0o777).map_err(|why| bad(&why))?;
    }
    Ok(rules)
}

/// The versions of the sources that are directories.
async fn ids_of(sources: &[TransferSource]) -> Vec<String> {
    let mut versions = Vec::new();
    for source in sources {
        versions.extend(source.dir_versions().await);
    }
    versions
}

/// Refuses to copy a file to itself.
async fn refuse_same(
    sources: &[TransferSource],
    destination: &Destination,
) -> Result<(), NetError> {
    for (source, top) in sources.iter().zip(&destination.tops) {
        let Origin::Tree { store, path } = &source.origin else {
            continue;
        };
        let (Ok(file), Ok(there)) = (store.stat(path).await, destination.store.stat(top).await)
        else {
            continue;
        };
        if file.kind != Kind::Dir && file.version == there.version {
            return Err(refusal(Code::CONFLICT, "source and destination are the same file"));
        }
    }
    Ok(())
}

/// Refuses a source within its destination, where what no source has is going to be deleted.
async fn refuse_within(
    session: &Session,
    sources: &[TransferSource],
    destination: &Destination,
) -> Result<(), NetError> {
    let mut mirrors = Vec::new();
    for top in &destination.tops {
        mirrors.extend(destination.store.stat(top).await.ok().map(|dir| dir.version.to_string()));
    }
    for source in sources {
        let Origin::Tree { path, .. } = &source.origin else {
            continue;
        };
        let above = session.served.ancestors(path).await;
        if above.iter().any(|version| mirrors.contains(version)) {
            let text = "the source is within the destination: --delete would delete it";
            return Err(refusal(Code::CONFLICT, text));
        }
    }
    Ok(())
}
