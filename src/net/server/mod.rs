//! The server: listens, tells control and data connections apart, and bounds all of them.
//!
//! `limits` says who may wait for a login, `throttle` how often a password may be tried, `strangers` what of
//! that is logged, `reservation` what a session may have; `login` turns a control connection into a
//! `session`, `enrol` an invite into a key; `conversation` carries a session's messages, `requests` answers
//! what it asks, `transfers` finds the places that a put or a get is about; `revocation` ends what the
//! users file does not allow any more.

mod admission;
mod control_loop;
mod enroll;
mod last_used;
mod login;
mod refusal;
mod requests;
mod reservation;
mod revocation;
mod session;
mod strangers;
mod throttle;
mod transfers;

use crate::auth::Identity;
use crate::auth::users::Users;
use crate::net::data::carry::WriteFrames;
use crate::net::data::connection::{DataConnection, FrameReader, FrameWriter};
use crate::net::error::NetError;
use crate::net::task::{Tasks, keep_running};
use crate::net::tls::config;
use crate::net::tls::socket;
use crate::net::tls::socket::{HANDSHAKE_TIMEOUT, Role};
use crate::net::wire::frame::{ATTACH_LEN, Attach, FrameHeader, FrameKind};
use crate::net::wire::{ALPN_CONTROL, ALPN_DATA};
use crate::store::local::LocalStore;
use crate::store::shares::Share;
use admission::Waiting;
use last_used::Uses;
use login::{Accepted, LoginOutcome};
use parking_lot::Mutex;
use reservation::Pools;
use rustls::ServerConfig;
use session::Session;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use strangers::StrangerLines;
use throttle::Throttle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

/// How long a data connection's proof is held for a login that is still under way.
const HOLD_PROOF: Duration = Duration::from_secs(10);
/// Passwords that are hashed at once: each costs 19 MiB.
const HASHES: usize = 2;
/// How long transfers may go on after the server was told to stop.
const GRACE: Duration = Duration::from_secs(10);
/// Time between two sweeps for what abandoned transfers left.
const SWEEP_PAUSE: Duration = Duration::from_secs(3600);
/// How long a new transfer waits for those of a dead client to let go.
const LETTING_GO: Duration = Duration::from_secs(12);
/// How long a session that a panic ended is remembered for a client that was not told.
const TELLING: Duration = Duration::from_secs(10);
/// Pause after the system could not accept a connection, out of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a server may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Sessions at once.
    pub sessions: usize,
    /// Data connections of each.
    pub connections: usize,
    /// Bytes for everything that sessions keep.
    pub memory: u64,
    /// How long a session waits for its client after its control connection was lost.
    pub grace: Duration,
    /// How long what abandoned transfers left is kept.
    pub keep_partial: Duration,
}

/// Where a server's files are, and what it may use.
pub struct Config {
    /// What is served.
    pub store: LocalStore,
    /// Where that is on this machine.
    pub root: PathBuf,
    /// Who it is.
    pub identity: Identity,
    /// Who may log in.
    pub users: Users,
    /// Its bounds.
    pub limits: Limits,
}

/// A running server.
struct Server {
    config: Config,
    control_tls: Arc<ServerConfig>,
    data_tls: Arc<ServerConfig>,
    sessions: Mutex<HashMap<[u8; 16], Arc<Session>>>,
    /// A session has been added or has ended.
    changed: Notify,
    /// A session has begun whose grant is to be watched.
    begun: Notify,
    uses: Uses,
    hashes: Arc<Semaphore>,
    /// The turn to change the users.
    enrolling: Arc<Semaphore>,
    waiting: Waiting,
    throttle: Throttle,
    strangers: StrangerLines,
    pools: Pools,
    stopping: tokio::sync::watch::Sender<bool>,
}

/// Serves on `listeners` until `stop` is ready; then lets running transfers go on for a grace time.
///
/// # Errors
/// [`NetError::Tls`] where the identity cannot be used.
pub async fn run(
    config: Config,
    listeners: Vec<TcpListener>,
    stop: impl Future<Output = ()>,
) -> Result<(), NetError> {
    let (uses, used) = Uses::channel();
    let server = Arc::new(Server {
        control_tls: config::server_config(ALPN_CONTROL, &config.identity)?,
        data_tls: config::server_config(ALPN_DATA, &config.identity)?,
        pools: Pools::new(&config.limits),
        config,
        sessions: Mutex::default(),
        changed: Notify::new(),
        begun: Notify::new(),
        uses,
        hashes: Arc::new(Semaphore::new(HASHES)),
        enrolling: Arc::new(Semaphore::new(1)),
        waiting: Waiting::default(),
        throttle: Throttle::default(),
        strangers: StrangerLines::new(),
        stopping: tokio::sync::watch::Sender::new(false),
    });
    // A panic outside of any session ends no more than what it happened in.
    let tasks = Tasks::new(|_| {});
    let mut running = Vec::new();
    for listener in listeners {
        let (server, tasks_of) = (server.clone(), tasks.clone());
        running.push(tasks.spawn("listener", async move {
            keep_running("accept", ACCEPT_PAUSE, || accept_all(&server, &listener, &tasks_of)).await;
        }));
    }
    let swept = server.clone();
    running.push(tasks.spawn("sweeper", async move {
        keep_running("sweep", SWEEP_PAUSE, || sweep(&swept)).await;
    }));
    let watched = server.clone();
    let watching = tasks.spawn("watcher", async move {
        keep_running("watch", ACCEPT_PAUSE, || revocation::watch(&watched)).await;
    });
    let noting = tasks.spawn("uses", last_used::note(server.clone(), used));
    stop.await;
    drop(running);
    server.stopping.send_replace(true);
    tracing::info!("stopping");
    let _ = timeout(GRACE, server.idle()).await;
    for session in server.all_sessions() {
        session.core.shut_down(NetError::lost("the server is stopping"));
    }
    // the goodbyes are on their way; a peer that does not take them is not waited for
    let _ = timeout(LETTING_GO, server.empty()).await;
    drop(watching);
    let _ = timeout(LETTING_GO, noting).await;
    Ok(())
}

/// Removes what abandoned transfers left, now and then.
async fn sweep(server: &Server) {
    let keep = server.config.limits.keep_partial;
    loop {
        let swept = server.config.store.sweep(keep).await;
        if swept > 0 {
            tracing::info!(files = swept, "what abandoned transfers had left was removed");
        }
        tokio::time::sleep(SWEEP_PAUSE).await;
    }
}

async fn accept_all(server: &Arc<Server>, listener: &TcpListener, tasks: &Tasks) {
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                let server = server.clone();
                tasks.detach("peer", async move {
                    if let Err(e) = server.serve(tcp, peer).await {
                        tracing::debug!(%peer, error = %super::printable(&e.to_string()), "connection ended");
                    }
                });
            }
            Err(e) => {
                if let Some(left_out) = server.strangers.line() {
                    tracing::warn!(error = %e, left_out, "cannot accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection that has said who it is.
enum Known {
    Control(LoginOutcome),
    Data(Arc<Session>, Box<Admitted>),
}

/// A data connection that belongs to a session, with its user's share of connections. The first of a session needs none.
struct Admitted {
    reader: FrameReader,
    writer: FrameWriter,
    share: Option<Share>,
}

impl Server {
    async fn serve(self: Arc<Server>, tcp: TcpStream, peer: SocketAddr) -> Result<(), NetError> {
        let (turn, gone) = self.waiting.enter(peer);
        let known = tokio::select! {
            known = self.know(tcp, peer) => known?,
            _ = gone => return Err(NetError::lost("too many connections were waiting, and this the longest")),
        };
        drop(turn);
        match known {
            Known::Control(LoginOutcome::Session(accepted)) => self.session_of(*accepted).await,
            Known::Control(LoginOutcome::Reattached(session, reattached)) => {
                // the session's own task takes it; one that is over does not
                let _ = session.reattached.send(*reattached).await;
                Ok(())
            }
            Known::Control(LoginOutcome::Closed) => Ok(()),
            Known::Data(session, admitted) => Server::carry(session, *admitted).await,
        }
    }

    /// Handshake, and then login or proof.
    async fn know(self: &Arc<Server>, tcp: TcpStream, peer: SocketAddr) -> Result<Known, NetError> {
        let late = |_| NetError::lost("it did not complete the handshake in time");
        let role = timeout(HANDSHAKE_TIMEOUT, socket::peek_role(&tcp))
            .await
            .map_err(late)??;
        socket::tune(&tcp, role);
        match role {
            Role::Control => {
                let accept = tokio_rustls::TlsAcceptor::from(self.control_tls.clone()).accept(tcp);
                let tls = timeout(HANDSHAKE_TIMEOUT, accept)
                    .await
                    .map_err(late)?
                    .map_err(NetError::lost)?;
                Ok(Known::Control(login::open(self, tls, peer).await?))
            }
            Role::Data => {
                let accept = DataConnection::accept(tcp, self.data_tls.clone());
                let connection = timeout(HANDSHAKE_TIMEOUT, accept).await.map_err(late)??;
                self.prove(connection, peer).await
            }
        }
    }

    /// Lists a session while it lasts.
    async fn session_of(self: &Arc<Server>, accepted: Accepted) -> Result<(), NetError> {
        let (id, session, reserved) = (accepted.id, accepted.session.clone(), accepted.reserved.clone());
        self.sessions().insert(id, session.clone());
        self.changed.notify_waiters();
        self.watch_over(&session);
        self.uses.add(&session.grant);
        let conversation = Box::pin(control_loop::converse(self, accepted));
        let ended = session.core.tasks().guard("session", conversation).await.flatten();
        let (who, from) = (&session.who, session.grant.address());
        match &ended {
            Ok(()) => tracing::info!(%who, %from, "logout"),
            Err(e @ NetError::Internal(_)) => tracing::error!(%who, %from, error = %e, "a session is ended"),
            Err(e) => tracing::info!(%who, %from, error = %super::printable(&e.to_string()), "session over"),
        }
        // what has arrived is being made durable, and its locks are held until it is
        let _ = timeout(LETTING_GO, session.still()).await;
        if let Err(NetError::Internal(_)) = ended {
            // a client whose connection ended with the panic comes back, and is told why
            let mut stopping = self.stopping.subscribe();
            let _ = timeout(TELLING, stopping.wait_for(|stopping| *stopping)).await;
        }
        self.sessions().remove(&id);
        drop(reserved);
        self.changed.notify_waiters();
        let why = ended
            .as_ref()
            .map_or_else(NetError::duplicate, |()| NetError::lost("logged out"));
        session.core.shut_down(why);
        ended
    }

    /// A transfer of `session` finds a target locked by its own user and machine: other sessions of theirs whose clients are
    /// gone are ended, and waited for until they have let go. Whoever starts a transfer anew does not wait for what died.
    async fn end_detached(&self, session: &Arc<Session>) {
        let dead = |s: &Arc<Session>| {
            let gone = s.core.is_down() || !s.core.is_attached();
            !Arc::ptr_eq(s, session) && s.who == session.who && gone && s.is_transferring()
        };
        for dead in self.all_sessions().into_iter().filter(dead) {
            tracing::info!(who = %dead.who, "a session whose client is gone is ended for a new one");
            dead.core.shut_down(NetError::lost("another session took its place"));
            let _ = timeout(LETTING_GO, dead.still()).await;
        }
    }

    /// Finds the session that a data connection proves to belong to.
    async fn prove(&self, connection: DataConnection, peer: SocketAddr) -> Result<Known, NetError> {
        let buffers = crate::chunk::buffer::BufferPool::new(8);
        let (mut reader, mut writer) = connection.split(buffers);
        let attach = async {
            let attach = Attach::decode(&reader.preamble(ATTACH_LEN).await?)?;
            let session = self.session_soon(&attach.session).await?;
            Ok::<_, NetError>((attach, session))
        };
        let (attach, session) = match timeout(HOLD_PROOF, attach).await {
            Ok(found) => found?,
            Err(_) => return Err(NetError::lost("its proof was for no login")),
        };
        session.admit(&attach)?;
        self.allows(&session, peer.ip()).map_err(revocation::refusal)?;
        let share = match session.core.pool().alive() {
            0 => None,
            _ => {
                let share = self.pools.connection(&session.grant.name().as_str().into());
                Some(share.ok_or_else(|| NetError::lost("its user has all data connections they may have"))?)
            }
        };
        reader.use_pool(session.core.pool().buffers().clone());
        writer.write(&FrameHeader::bare(FrameKind::Attached), &[]).await?;
        writer.flush().await?;
        let admitted = Admitted { reader, writer, share };
        Ok(Known::Data(session, Box::new(admitted)))
    }

    /// A data connection is part of its session until it ends.
    async fn carry(session: Arc<Session>, admitted: Admitted) -> Result<(), NetError> {
        let Admitted { reader, writer, share } = admitted;
        let _until_it_ends = share;
        let core = session.core.clone();
        drop(session);
        match core.pool().add(reader, writer).owner.await {
            Ok(Err(e @ NetError::Protocol(_))) => {
                core.shut_down(e.duplicate());
                Err(e)
            }
            ended => ended.flatten(),
        }
    }

    /// The session with this id; waits for it, since a client dials its data connections while it logs in.
    async fn session_soon(&self, id: &[u8; 16]) -> Result<Arc<Session>, NetError> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(session) = self.session(id) {
                return Ok(session);
            }
            changed.await;
        }
    }

    fn sessions(&self) -> parking_lot::MutexGuard<'_, HashMap<[u8; 16], Arc<Session>>> {
        self.sessions.lock()
    }

    fn session(&self, id: &[u8; 16]) -> Option<Arc<Session>> {
        self.sessions().get(id).cloned()
    }

    fn all_sessions(&self) -> Vec<Arc<Session>> {
        self.sessions().values().cloned().collect()
    }

    /// Waits until no session has a transfer under way.
    async fn idle(&self) {
        while self.all_sessions().iter().any(|s| s.is_transferring()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until there is no session.
    async fn empty(&self) {
        while !self.all_sessions().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
