//! The client's data connections: dialled, proved, and dialled again when they are lost, as many as
//! the tuner wants.

use crate::net::client::backoff::{chance, pause};
use crate::net::client::keys::Keys;
use crate::net::client::login::Login;
use crate::net::client::options::SessionOptions;
use crate::net::client::tuner::{ConnectionTuner, INTERVAL, Observation};
use crate::net::data::connection::DataConnection;
use crate::net::data::pool::Added;
use crate::net::error::{LossReason, NetError};
use crate::net::session::SessionCore;
use crate::net::task::Task;
use crate::net::tls::socket;
use crate::net::tls::socket::{HANDSHAKE_TIMEOUT, Role};
use crate::net::wire::frame::ROLE_DATA;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};

/// Keeps up a session's data connections. Dropping it ends them.
pub(super) struct Dialer {
    shared: Arc<Dialing>,
    /// Owns the task of every connection; `None` before the first transfer.
    supervisor: Mutex<Option<Task<()>>>,
}

impl Dialer {
    /// A dialer that has not started.
    pub(super) fn new(
        core: Arc<SessionCore>,
        keys: Arc<Keys>,
        login: Arc<Login>,
        options: &SessionOptions,
    ) -> Dialer {
        let shared = Dialing {
            core,
            keys,
            login,
            retry_for: options.retry_for,
            wanted: watch::Sender::new(options.connections.max(1) as u64),
            most: options.most_connections.max(1) as u64,
            round_trip: AtomicU64::new(u64::MAX),
            maintained: AtomicU64::new(0),
            hopeless: AtomicU64::new(0),
        };
        Dialer {
            shared: Arc::new(shared),
            supervisor: Mutex::new(None),
        }
    }

    /// Starts to dial, if it has not started yet.
    pub(super) fn start(&self) {
        let spawn = || {
            let supervise = self.shared.clone().supervise();
            self.shared.core.tasks().spawn("dialer", supervise)
        };
        self.supervisor.lock().get_or_insert_with(spawn);
    }
}

/// What the tasks of a dialer share.
struct Dialing {
    core: Arc<SessionCore>,
    keys: Arc<Keys>,
    login: Arc<Login>,
    retry_for: Duration,
    /// The number of data connections to have.
    wanted: watch::Sender<u64>,
    /// The most that the user allows.
    most: u64,
    /// The shortest time that it took to connect, in microseconds.
    round_trip: AtomicU64,
    /// Connections that are dialled whenever they are lost.
    maintained: AtomicU64,
    /// Those of them that no attempt could keep up.
    hopeless: AtomicU64,
}

/// Why a connection is not dialled any more.
enum Given {
    /// Fewer connections are wanted.
    Back,
    /// No attempt could keep it up, or the session is over.
    Up,
}

impl Dialing {
    /// Keeps up as many connections as are wanted, and adapts their number, until the session is
    /// over.
    async fn supervise(self: Arc<Dialing>) {
        let mut connections = Vec::new();
        let mut most = self.most;
        let mut tuner = (self.most > self.wanted()).then(|| ConnectionTuner::new(Instant::now()));
        let mut due = tokio::time::Instant::now() + INTERVAL;
        let mut is_answered = false;
        loop {
            if let Some(granted) = self.login.granted() {
                // the server may allow fewer than were wanted before it could say so
                most = most.min(granted.connections);
                self.want(self.wanted().min(most));
            }
            self.start_missing(&mut connections);
            tokio::select! {
                _ = self.login.answered(), if !is_answered => is_answered = true,
                () = sleep_until(due), if tuner.is_some() => {
                    let round_trip = Duration::from_micros(self.round_trip.load(Ordering::Relaxed));
                    due = tokio::time::Instant::now() + ConnectionTuner::interval(round_trip);
                    if let Some(tuner) = &mut tuner {
                        self.observe(tuner, round_trip, most);
                    }
                }
                _ = self.core.down() => break,
            }
        }
        // each says goodbye to the server by itself
        for connection in connections {
            let _ = connection.await;
        }
    }

    fn wanted(&self) -> u64 {
        *self.wanted.borrow()
    }

    fn want(&self, wanted: u64) {
        self.wanted.send_if_modified(|before| {
            let changes = *before != wanted;
            *before = wanted;
            changes
        });
    }

    /// Starts a task for each connection that is wanted and has none. The task of one that is not
    /// wanted any more waits.
    fn start_missing(self: &Arc<Dialing>, connections: &mut Vec<Task<()>>) {
        for index in connections.len() as u64..self.wanted() {
            let maintain = self.clone().maintain(index);
            connections.push(self.core.tasks().spawn("dial", maintain));
        }
    }

    fn observe(&self, tuner: &mut ConnectionTuner, round_trip: Duration, most: u64) {
        let connections = self.wanted();
        let observed = Observation {
            moved: self.core.pool().moved(),
            round_trip,
            connections,
            most,
        };
        let wanted = tuner.observe(Instant::now(), observed);
        if wanted != connections {
            tracing::debug!(connections, wanted, "data connections");
            self.want(wanted);
        }
    }

    /// Keeps up connection `index` whenever so many are wanted.
    async fn maintain(self: Arc<Dialing>, index: u64) {
        let mut wanted = self.wanted.subscribe();
        loop {
            tokio::select! {
                within = wanted.wait_for(|wanted| index < *wanted) => if within.is_err() { return },
                _ = self.core.down() => return,
            }
            self.maintained.fetch_add(1, Ordering::Relaxed);
            match self.redial(index, &mut wanted).await {
                Given::Back => self.maintained.fetch_sub(1, Ordering::Relaxed),
                Given::Up => return,
            };
        }
    }

    /// Dials connection `index`, and again when it is lost.
    async fn redial(&self, index: u64, wanted: &mut watch::Receiver<u64>) -> Given {
        let (mut failures, mut failing_since) = (0, Instant::now());
        while !self.core.is_down() {
            if index >= *wanted.borrow() {
                return Given::Back;
            }
            match self.connect().await {
                Ok(added) => {
                    let since = Instant::now();
                    if let Err(e @ NetError::Protocol(_)) = hold(added, index, wanted).await {
                        self.core.shut_down(e);
                        return Given::Up;
                    }
                    failing_since = Instant::now();
                    if since.elapsed() > HANDSHAKE_TIMEOUT {
                        failures = 0;
                        continue;
                    }
                    // a connection that did not last is no success: a pause precedes the next
                }
                Err(e) if self.is_final(&e, failing_since) => {
                    self.give_up(e);
                    return Given::Up;
                }
                Err(e) => tracing::debug!(error = %e, failures, "no data connection"),
            }
            failures += 1;
            sleep(pause(failures, chance())).await;
        }
        Given::Up
    }

    /// True if no further attempt is due: the key is wrong, or nothing has gone forward for as long
    /// as the user waits.
    fn is_final(&self, error: &NetError, failing_since: Instant) -> bool {
        let failing = failing_since.elapsed().min(self.core.stalled());
        matches!(error, NetError::WrongKey { .. })
            || (self.core.is_attached() && failing >= self.retry_for)
    }

    /// One of the connections cannot be dialled any more. When the last one cannot, the session is
    /// over.
    fn give_up(&self, error: NetError) {
        let hopeless = self.hopeless.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let is_last =
            hopeless >= self.maintained.load(Ordering::Relaxed) && self.core.pool().alive() == 0;
        if is_last || matches!(error, NetError::WrongKey { .. }) {
            self.core.shut_down(error);
        }
    }

    /// Dials, shakes hands, proves, and adds to the pool.
    async fn connect(&self) -> Result<Added, NetError> {
        let pool = self.core.pool();
        let attach = async {
            let started = Instant::now();
            let connected = TcpStream::connect(self.keys.address()).await;
            let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.round_trip.fetch_min(micros, Ordering::Relaxed);
            let tcp = connected.map_err(|source| NetError::Connect {
                server: self.keys.server(),
                source: source.into(),
            })?;
            socket::tune(&tcp, Role::Data);
            let connection = DataConnection::connect(tcp, self.keys.config.clone()).await;
            let connection = connection.map_err(|e| self.keys.pin.explain(e))?;
            let (reader, mut writer) = connection.split(pool.buffers().clone());
            // Frames may follow at once. A server that does not accept the connection closes it,
            // and they go elsewhere.
            writer.write_raw(&self.keys.proof(ROLE_DATA).encode()).await?;
            Ok::<_, NetError>((reader, writer))
        };
        match timeout(HANDSHAKE_TIMEOUT, attach).await {
            Ok(attached) => {
                let (reader, writer) = attached?;
                Ok(pool.add(reader, writer))
            }
            Err(_) => Err(NetError::Lost(LossReason::AttachTimeout)),
        }
    }
}

/// Waits for the end of a connection. One that is not wanted any more ends as soon as it carries
/// nothing.
async fn hold(
    mut added: Added,
    index: u64,
    wanted: &mut watch::Receiver<u64>,
) -> Result<(), NetError> {
    let ended = tokio::select! {
        ended = &mut added.owner => ended,
        () = too_many(wanted, index) => {
            added.liveness.retire();
            added.owner.await
        }
    };
    ended.flatten()
}

/// Waits until connection `index` is not wanted any more.
async fn too_many(wanted: &mut watch::Receiver<u64>, index: u64) {
    if wanted.wait_for(|wanted| index >= *wanted).await.is_err() {
        // the dialer is gone, and its connections end with it
        std::future::pending().await
    }
}
