//! The client's data connections: dialled, proved, and dialled again when they are lost, as many as
//! the tuner wants.

use crate::net::client::backoff::{chance, pause};
use crate::net::client::keys::Keys;
use crate::net::client::login::Login;
use crate::net::client::options::SessionOptions;
use crate::net::client::path::PathTraits;
use crate::net::client::route::Slot;
use crate::net::client::tuner::{ConnectionTuner, INTERVAL, MOST_ROUND_TRIP, NEAR, Observation};
use crate::net::data::carry::ReadFrames;
use crate::net::data::connection::DataConnection;
use crate::net::data::pool::Added;
use crate::net::error::{LossReason, NetError};
use crate::net::session::SessionCore;
use crate::net::task::Task;
use crate::net::tls::socket::HANDSHAKE_TIMEOUT;
use crate::net::wire::frame::ROLE_DATA;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};

/// A session that has moved fewer bytes cannot tell what its path needs.
const TELLING: u64 = 8 << 20;

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
        let first = options.path.map_or(options.connections, |path| path.connections);
        let first = first.clamp(1, options.most_connections.max(1)) as u64;
        let shared = Dialing {
            core,
            keys,
            login,
            retry_for: options.retry_for,
            usual: options.connections.max(1) as u64,
            path: options.path,
            wanted: watch::Sender::new(first),
            settled: AtomicU64::new(first),
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

    /// What the session has found out about its path; `None` of a short one, and before it has
    /// moved enough to tell.
    pub(super) fn path(&self) -> Option<PathTraits> {
        let shared = &self.shared;
        let round_trip = Duration::from_micros(shared.round_trip.load(Ordering::Relaxed));
        let is_known = shared.core.pool().moved() >= TELLING
            && round_trip >= NEAR
            && round_trip <= MOST_ROUND_TRIP;
        let connections = usize::try_from(shared.settled.load(Ordering::Relaxed)).ok()?;
        is_known.then_some(PathTraits {
            connections,
            round_trip,
        })
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
    /// The number of data connections that a session begins with on a path that is not known.
    usual: u64,
    /// What an earlier session has found out about the path.
    path: Option<PathTraits>,
    /// The number of data connections to have.
    wanted: watch::Sender<u64>,
    /// The number of them that is not just an attempt.
    settled: AtomicU64,
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
        let mut tuner = (self.most > self.usual).then(|| ConnectionTuner::new(Instant::now()));
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

    /// The first connection has taken so long. On another path than the one that is remembered the
    /// session goes on as on one that is not known.
    fn compare_path(&self, round_trip: Duration) {
        let is_other = self.path.is_some_and(|path| !path.has_length(round_trip));
        if is_other {
            tracing::debug!(?round_trip, "not the path that is remembered");
            self.want(self.wanted().min(self.usual));
            self.settled.store(self.wanted(), Ordering::Relaxed);
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
        let lanes = self.keys.route.lanes();
        for index in connections.len()..lanes.saturating_add(self.wanted() as usize) {
            let slot = match index.checked_sub(lanes) {
                None => Slot::Lane(index),
                Some(index) => Slot::Tcp(index as u64),
            };
            let maintain = self.clone().maintain(slot);
            connections.push(self.core.tasks().spawn("dial", maintain));
        }
    }

    fn observe(&self, tuner: &mut ConnectionTuner, round_trip: Duration, most: u64) {
        let connections = self.wanted();
        let observed = Observation {
            moved: self.core.pool().moved_each_way(),
            has_bbr: self.core.has_bbr(),
            round_trip,
            connections,
            most,
        };
        let wanted = tuner.observe(Instant::now(), observed);
        self.settled.store(tuner.settled(wanted), Ordering::Relaxed);
        if wanted != connections {
            tracing::debug!(connections, wanted, "data connections");
            self.want(wanted);
        }
    }

    /// Keeps up a connection whenever it is wanted.
    async fn maintain(self: Arc<Dialing>, slot: Slot) {
        loop {
            tokio::select! {
                () = self.until_wanted(slot) => {}
                _ = self.core.down() => return,
            }
            let counts = u64::from(self.is_needed(slot));
            self.maintained.fetch_add(counts, Ordering::Relaxed);
            match self.redial(slot).await {
                Given::Back => self.maintained.fetch_sub(counts, Ordering::Relaxed),
                Given::Up => return,
            };
        }
    }

    /// True of a connection without which a session may have none: direct ones beside a tunnel may
    /// never be possible.
    fn is_needed(&self, slot: Slot) -> bool {
        matches!(slot, Slot::Lane(_)) || self.keys.route.lanes() == 0
    }

    /// Waits until the connection is wanted: so many are, or, for a lane, no direct one carries
    /// data.
    async fn until_wanted(&self, slot: Slot) {
        match slot {
            Slot::Lane(_) => self.keys.route.is_direct(false).await,
            Slot::Tcp(index) => {
                // the sender is this value's own
                let _ = self.wanted.subscribe().wait_for(|wanted| index < *wanted).await;
            }
        }
    }

    /// Waits until the connection is not wanted any more.
    async fn until_unwanted(&self, slot: Slot) {
        match slot {
            Slot::Lane(_) => self.keys.route.is_direct(true).await,
            Slot::Tcp(index) => {
                let _ = self.wanted.subscribe().wait_for(|wanted| index >= *wanted).await;
            }
        }
    }

    /// Dials a connection, and again when it is lost.
    async fn redial(&self, slot: Slot) -> Given {
        let (mut failures, mut failing_since) = (0, Instant::now());
        while !self.core.is_down() {
            let connected = tokio::select! {
                biased;
                () = self.until_unwanted(slot) => return Given::Back,
                connected = self.connect(slot) => connected,
                _ = self.core.down() => return Given::Up,
            };
            match connected {
                Ok(added) => {
                    let since = Instant::now();
                    if let Err(e @ NetError::Protocol(_)) = self.hold(added, slot).await {
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
                    self.give_up(e, u64::from(self.is_needed(slot)));
                    return Given::Up;
                }
                Err(e) => tracing::debug!(error = %e, failures, "no data connection"),
            }
            failures += 1;
            sleep(pause(failures, chance())).await;
        }
        Given::Up
    }

    /// Waits for the end of a connection. One that is not wanted any more ends as soon as it
    /// carries nothing.
    async fn hold(&self, mut added: Added, slot: Slot) -> Result<(), NetError> {
        let _proved = match slot {
            Slot::Tcp(_) => self.keys.route.proved(),
            Slot::Lane(_) => None,
        };
        let ended = tokio::select! {
            ended = &mut added.owner => ended,
            () = self.until_unwanted(slot) => {
                added.liveness.retire();
                added.owner.await
            }
        };
        ended.flatten()
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
    fn give_up(&self, error: NetError, counts: u64) {
        let before = self.hopeless.fetch_add(counts, Ordering::Relaxed);
        let hopeless = before.saturating_add(counts);
        let is_last =
            hopeless >= self.maintained.load(Ordering::Relaxed) && self.core.pool().alive() == 0;
        if is_last || matches!(error, NetError::WrongKey { .. }) {
            self.core.shut_down(error);
        }
    }

    /// Dials, shakes hands, proves, and adds to the pool.
    async fn connect(&self, slot: Slot) -> Result<Added, NetError> {
        let pool = self.core.pool();
        let started = Instant::now();
        let socket = self.keys.route.data(slot).await?;
        if let Slot::Tcp(_) = slot {
            let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            let before = self.round_trip.fetch_min(micros, Ordering::Relaxed);
            if before == u64::MAX {
                self.compare_path(started.elapsed());
            }
        }
        let attach = async {
            let connection = DataConnection::connect(socket, self.keys.config.clone()).await;
            let connection = connection.map_err(|e| self.keys.pin.explain(e))?;
            let (mut reader, mut writer) = connection.split(pool.buffers().clone());
            // Frames may follow at once. A server that does not accept the connection closes it,
            // and they go elsewhere.
            writer.write_raw(&self.keys.proof(ROLE_DATA).encode()).await?;
            // A direct connection beside a tunnel proves itself first: a lane carries the frames
            // meanwhile.
            if !self.is_needed(slot) {
                let attached = reader.next().await?;
                attached.map_or(Ok(()), |frame| pool.take(frame))?;
            }
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
