//! A server for one user, whose clients come through carriers: over standard input and output, over
//! those of later processes that join it, and directly.
//!
//! It lasts as long as there is a carrier or a session. A session whose carrier is lost waits for
//! the next one for its grace.

use crate::net::error::{LossReason, NetError};
use crate::net::lanes::carrier::Carrier;
use crate::net::lanes::greeting::{self, MARK, read_hello};
use crate::net::lanes::socket::Socket;
use crate::net::server::Config;
use crate::net::server::last_used::Uses;
use crate::net::server::listener::Listener;
use crate::net::server::registry::{RELEASE, Registry};
use crate::net::task::Tasks;
use crate::net::wire::proto::{CarrierHello, CarrierWelcome};
use ring::hmac;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a further carrier may take to say what it joins.
const JOINING: Duration = Duration::from_secs(10);
/// Pause after the system could not accept a carrier.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the server waits for another session of a client that is still there.
const WITHOUT_SESSION: Duration = Duration::from_secs(20);
/// How long the server waits for its first session.
const FIRST_SESSION: Duration = Duration::from_secs(60);

/// The ways into such a server.
pub struct Inlets<R, W> {
    /// The first carrier's stream.
    pub first: (R, W),
    /// What its client said.
    pub hello: CarrierHello,
    /// What the server answers.
    pub welcome: CarrierWelcome,
    /// Where later processes join, if the system has a place for that.
    pub joins: Option<UnixListener>,
    /// Where direct data connections come in.
    pub listeners: Vec<TcpListener>,
    /// Where the client is.
    pub peer: SocketAddr,
}

/// Serves until there is neither a carrier nor a session, or `stop` is ready.
///
/// # Errors
/// [`NetError::Tls`] if the server's key cannot be used, [`NetError::Lost`] if the client has gone.
pub async fn run_tunnel<R, W>(
    config: Config,
    inlets: Inlets<R, W>,
    stop: impl Future<Output = ()>,
) -> Result<(), NetError>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let Inlets {
        first: (reader, mut writer),
        hello,
        welcome,
        joins,
        listeners,
        peer,
    } = inlets;
    let registry = Arc::new(Registry::new(config.limits.clone()));
    // their user has no file that could name the last use of a key
    let (uses, _) = Uses::channel();
    let tasks = Tasks::new(|_| {});
    let listener =
        Arc::new(Listener::new(Arc::new(config), registry.clone(), uses, tasks.clone())?);
    let mut running = Vec::new();
    for socket in listeners {
        running.push(tasks.spawn("listener", listener.clone().run(socket)));
    }
    writer
        .write_all(&greeting::welcome(&hello.nonce, &welcome))
        .await
        .map_err(NetError::lost)?;
    writer.flush().await.map_err(NetError::lost)?;
    let inlet = Arc::new(Inlet {
        listener,
        peer,
        tasks: tasks.clone(),
        carriers: watch::Sender::new(0),
    });
    inlet.serve(Carrier::accept((reader, writer)));
    if let Some(joins) = joins {
        let welcome = CarrierWelcome {
            joined: true,
            ..welcome
        };
        let joining = accept_joins(inlet.clone(), joins, hello.secret, welcome);
        running.push(tasks.spawn("joins", joining));
    }
    tokio::select! {
        () = stop => {}
        () = inlet.is_over(&registry) => {}
    }
    drop(running);
    registry.stop();
    for session in registry.all() {
        session.core.shut_down(NetError::Lost(LossReason::ServerStopping));
    }
    // data that has arrived is being made durable
    let _ = timeout(RELEASE, registry.empty()).await;
    Ok(())
}

/// Serves the lanes of carriers.
struct Inlet {
    listener: Arc<Listener>,
    peer: SocketAddr,
    tasks: Tasks,
    /// Carriers that there are.
    carriers: watch::Sender<usize>,
}

impl Inlet {
    /// Serves the lanes of a carrier until it ends.
    fn serve(self: &Arc<Inlet>, carrier: Carrier) {
        let served = Served::new(self.clone());
        self.tasks.detach("carrier", async move {
            let inlet = &served.0;
            let Some(mut lanes) = carrier.accepted() else {
                return;
            };
            loop {
                let lane = tokio::select! {
                    Some(lane) = lanes.recv() => lane,
                    why = carrier.over() => {
                        tracing::debug!(%why, "a carrier has ended");
                        return;
                    }
                };
                let (listener, peer) = (inlet.listener.clone(), inlet.peer);
                inlet.tasks.detach("lane", async move {
                    if let Err(e) = listener.serve(Socket::Lane(lane), peer).await {
                        tracing::debug!(error = %e, "a lane has ended");
                    }
                });
            }
        });
    }

    /// Waits until there is neither a carrier nor a session.
    async fn is_over(&self, registry: &Registry) {
        let mut carriers = self.carriers.subscribe();
        let begun = async {
            tokio::select! {
                () = registry.not_empty() => {}
                () = tokio::time::sleep(FIRST_SESSION) => {}
                _ = carriers.wait_for(|count| *count == 0) => {}
            }
        };
        begun.await;
        loop {
            registry.empty().await;
            tokio::select! {
                _ = carriers.wait_for(|count| *count == 0) => {}
                // a carrier may be one of those whose other end is gone
                () = tokio::time::sleep(WITHOUT_SESSION) => {}
                () = registry.not_empty() => continue,
            }
            if registry.is_empty() {
                return;
            }
        }
    }
}

/// Counts a carrier until it ends.
struct Served(Arc<Inlet>);

impl Served {
    fn new(inlet: Arc<Inlet>) -> Served {
        inlet.carriers.send_modify(|count| *count = count.saturating_add(1));
        Served(inlet)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.carriers.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// Accepts the carriers that later processes of the same user pass on.
async fn accept_joins(
    inlet: Arc<Inlet>,
    joins: UnixListener,
    secret: Vec<u8>,
    welcome: CarrierWelcome,
) {
    loop {
        let stream = match joins.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a carrier");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match timeout(JOINING, join(stream, &secret, &welcome)).await {
            Ok(Ok(carrier)) => inlet.serve(carrier),
            Ok(Err(e)) => tracing::debug!(error = %e, "a carrier did not join"),
            Err(_) => tracing::debug!("a carrier did not say in time what it joins"),
        }
    }
}

async fn join(
    stream: UnixStream,
    secret: &[u8],
    welcome: &CarrierWelcome,
) -> Result<Carrier, NetError> {
    let peer = stream.peer_cred().map_err(NetError::lost)?;
    if peer.uid() != rustix::process::geteuid().as_raw() {
        return Err(NetError::Protocol("a process of another user".into()));
    }
    let (mut reader, mut writer) = stream.into_split();
    let (hello, _) = read_hello(&mut reader).await?;
    if !is_equal(secret, &hello.secret) {
        return Err(NetError::Protocol("the secret is another one".into()));
    }
    let welcome = greeting::welcome(&hello.nonce, welcome);
    writer.write_all(&welcome).await.map_err(NetError::lost)?;
    Ok(Carrier::accept((reader, writer)))
}

/// Compares secrets in constant time.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[0; MARK]);
    hmac::verify(&key, one, hmac::sign(&key, other).as_ref()).is_ok()
}
