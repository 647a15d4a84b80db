//! The client's data connections: dialled, proved, and dialled again when they are lost.

use crate::net::client::Client;
use crate::net::data::connection::DataConnection;
use crate::net::data::pool::Added;
use crate::net::error::{LossReason, NetError};
use crate::net::tls::socket;
use crate::net::tls::socket::{HANDSHAKE_TIMEOUT, Role};
use crate::net::wire::frame::ROLE_DATA;
use ring::rand::{SecureRandom, SystemRandom};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

/// Pause before the first of them; it doubles, with jitter.
const DIAL_PAUSE: Duration = Duration::from_millis(200);

impl Client {
    /// Starts to keep up as many data connections as there are to be.
    pub(super) fn dial(self: &Arc<Client>) {
        let wanted = *self.connections.borrow();
        loop {
            let index = self.dialled.fetch_add(1, Ordering::Relaxed);
            if index >= wanted {
                break;
            }
            let client = Arc::downgrade(self);
            self.core.tasks().detach("dial", async move {
                let (mut failures, mut failing) = (0, Instant::now());
                while let Some(client) = client.upgrade().filter(|c| !c.core.is_down()) {
                    // the server allows fewer than were wanted before it could say so, or so many do not help
                    if index >= *client.connections.borrow() {
                        client.dialled.fetch_sub(1, Ordering::Relaxed);
                        return;
                    }
                    match client.data_connection().await {
                        Ok(mut added) => {
                            let since = Instant::now();
                            let (core, mut wanted) = (client.core.clone(), client.connections.subscribe());
                            drop(client);
                            let ended = tokio::select! {
                                ended = &mut added.owner => ended,
                                () = too_many(&mut wanted, index) => {
                                    added.liveness.retire();
                                    added.owner.await
                                }
                            };
                            if let Err(e @ NetError::Protocol(_)) = ended.flatten() {
                                return core.shut_down(e);
                            }
                            // one that did not last is no success: a pause comes before the next
                            failing = Instant::now();
                            if since.elapsed() > HANDSHAKE_TIMEOUT {
                                failures = 0;
                            } else {
                                failures += 1;
                                tokio::time::sleep(pause(failures)).await;
                            }
                        }
                        Err(e) => {
                            failures += 1;
                            if matches!(e, NetError::WrongKey { .. }) {
                                return client.core.shut_down(e);
                            }
                            let hopeless = failing.elapsed().min(client.core.stalled());
                            if client.core.is_attached() && hopeless >= client.attachment.retry_for() {
                                return client.gave_up_dialling(e);
                            }
                            tracing::debug!(error = %e, failures, "no data connection");
                            drop(client);
                            tokio::time::sleep(pause(failures)).await;
                        }
                    }
                }
            });
        }
        self.dialled.fetch_sub(1, Ordering::Relaxed);
        let may_grow = self.most_connections.load(Ordering::Relaxed) > wanted;
        if may_grow && !self.tuning.swap(true, Ordering::Relaxed) {
            self.core
                .tasks()
                .detach("tune", crate::net::client::tuner::tune(Arc::downgrade(self)));
        }
    }

    /// One of the dialled connections cannot be kept up. When the last one cannot, the session is over.
    fn gave_up_dialling(&self, error: NetError) {
        let hopeless = self.hopeless.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if hopeless >= self.dialled.load(Ordering::Relaxed) && self.core.pool().alive() == 0 {
            self.core.shut_down(error);
        }
    }

    /// Dials, shakes hands, proves, and adds to the pool.
    async fn data_connection(&self) -> Result<Added, NetError> {
        let Some(keys) = &self.keys else {
            return Err(NetError::Lost(LossReason::NotLoggedIn));
        };
        let pool = self.core.pool();
        let attach = async {
            let started = Instant::now();
            let connected = TcpStream::connect(keys.address()).await;
            let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.round_trip.fetch_min(micros, Ordering::Relaxed);
            let tcp = connected.map_err(|source| NetError::connect(&self.server, source))?;
            socket::tune(&tcp, Role::Data);
            let connection = DataConnection::connect(tcp, keys.config.clone()).await;
            let connection = connection.map_err(|e| keys.pin.explain(e))?;
            let (reader, mut writer) = connection.split(pool.buffers().clone());
            // Frames may follow at once. A server that does not accept the connection closes it, and they go elsewhere.
            writer.write_raw(&keys.proof(ROLE_DATA).encode()).await?;
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

/// Waits until connection `index` is not wanted any more.
async fn too_many(wanted: &mut watch::Receiver<u64>, index: u64) {
    if wanted.wait_for(|wanted| index >= *wanted).await.is_err() {
        // the client is gone, and its connections end with the session
        std::future::pending().await
    }
}

/// Doubles with every failure, and is off by up to half in either direction, so that not all come back at once.
pub(super) fn pause(failures: u32) -> Duration {
    let base = DIAL_PAUSE.saturating_mul(1 << failures.min(6));
    let mut byte = [0];
    let _ = SystemRandom::new().fill(&mut byte);
    let [jitter] = byte;
    base.saturating_mul(128 + u32::from(jitter)) / 256
}
