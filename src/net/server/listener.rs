//! The listener: accepts connections, and tells control and data connections apart.

use crate::net::data::connection::DataConnection;
use crate::net::error::{LossReason, NetError};
use crate::net::lanes::role::Role;
use crate::net::lanes::socket::Socket;
use crate::net::printable;
use crate::net::server::admission::Admission;
use crate::net::server::attach::{Attached, attach};
use crate::net::server::config::Config;
use crate::net::server::last_used::Uses;
use crate::net::server::lifetime;
use crate::net::server::login::{self, Desk, LoginOutcome};
use crate::net::server::registry::Registry;
use crate::net::task::{Tasks, supervise};
use crate::net::tls::config::server_config;
use crate::net::tls::socket::{self, HANDSHAKE_TIMEOUT};
use crate::net::wire::{ALPN_CONTROL, ALPN_DATA};
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::timeout;

/// Pause after the system could not accept a connection, out of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Makes sessions of connections.
pub(super) struct Listener {
    config: Arc<Config>,
    registry: Arc<Registry>,
    admission: Admission,
    uses: Uses,
    control_tls: Arc<ServerConfig>,
    data_tls: Arc<ServerConfig>,
    tasks: Tasks,
}

/// A connection whose kind and session are known.
enum Known {
    Control(LoginOutcome),
    Data(Box<Attached>),
}

impl Listener {
    /// A listener that adds sessions to `registry`.
    ///
    /// # Errors
    /// [`NetError::Tls`] if the server's key cannot be used.
    pub(super) fn new(
        config: Arc<Config>,
        registry: Arc<Registry>,
        uses: Uses,
        tasks: Tasks,
    ) -> Result<Listener, NetError> {
        Ok(Listener {
            control_tls: server_config(ALPN_CONTROL, &config.identity)?,
            data_tls: server_config(ALPN_DATA, &config.identity)?,
            config,
            registry,
            admission: Admission::new(),
            uses,
            tasks,
        })
    }

    /// Accepts connections until it is aborted.
    pub(super) async fn run(self: Arc<Listener>, socket: TcpListener) {
        supervise("accept", ACCEPT_PAUSE, || self.accept_all(&socket)).await;
    }

    async fn accept_all(self: &Arc<Listener>, socket: &TcpListener) {
        loop {
            match socket.accept().await {
                Ok((tcp, peer)) => {
                    let listener = self.clone();
                    self.tasks.detach("peer", async move {
                        if let Err(e) = listener.serve(Socket::Tcp(tcp), peer).await {
                            tracing::debug!(
                                %peer, error = %printable(&e.to_string()),
                                "connection ended"
                            );
                        }
                    });
                }
                Err(e) => {
                    if let Some(omitted) = self.admission.log_line() {
                        tracing::warn!(error = %e, omitted, "cannot accept a connection");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves a connection to its end.
    ///
    /// # Errors
    /// Why it ended.
    pub(super) async fn serve(&self, socket: Socket, peer: SocketAddr) -> Result<(), NetError> {
        let (turn, gone) = self.admission.enter(peer);
        // each part is boxed: what the others need is no part of an idle session
        let known = tokio::select! {
            known = Box::pin(self.identify(socket, peer)) => known?,
            _ = gone => return Err(NetError::Lost(LossReason::TooManyWaiting)),
        };
        drop(turn);
        match known {
            Known::Control(LoginOutcome::Session(accepted)) => {
                let (config, registry) = (&self.config, &self.registry);
                Box::pin(lifetime::run(config, registry, &self.uses, *accepted)).await
            }
            Known::Control(LoginOutcome::Reattached(session, reattached)) => {
                // the session's own task takes it, unless the session is over
                let _ = session.reattached.send(reattached).await;
                Ok(())
            }
            Known::Control(LoginOutcome::Closed) => Ok(()),
            Known::Data(attached) => Box::pin(attached.carry()).await,
        }
    }

    /// The handshake, and then a login or a proof.
    async fn identify(&self, socket: Socket, peer: SocketAddr) -> Result<Known, NetError> {
        let late = |_| NetError::Lost(LossReason::ClientHandshakeTimeout);
        let role = timeout(HANDSHAKE_TIMEOUT, socket::role_of_socket(&socket)).await;
        let role = role.map_err(late)??;
        socket::tune(&socket, role);
        match role {
            Role::Control => {
                let accept =
                    tokio_rustls::TlsAcceptor::from(self.control_tls.clone()).accept(socket);
                let tls = timeout(HANDSHAKE_TIMEOUT, accept).await;
                let tls = tls.map_err(late)?.map_err(NetError::lost)?;
                let desk = Desk {
                    config: &self.config,
                    registry: &self.registry,
                    admission: &self.admission,
                };
                login::open(desk, Box::new(tls), peer).await.map(Known::Control)
            }
            Role::Data => {
                let accept = DataConnection::accept(socket, self.data_tls.clone());
                let connection = timeout(HANDSHAKE_TIMEOUT, accept).await.map_err(late)??;
                let attached = attach(&self.config, &self.registry, connection, peer).await?;
                Ok(Known::Data(Box::new(attached)))
            }
        }
    }
}
