//! How a client reaches its server: over TCP, or through a tunnel.

use crate::net::client::tcp::{any, tuned, within};
use crate::net::client::tunnel::Tunnel;
use crate::net::error::{LossReason, NetError};
use crate::net::lanes::role::Role;
use crate::net::lanes::socket::Socket;
use crate::net::tls::socket::HANDSHAKE_TIMEOUT;
use parking_lot::Mutex;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};

/// How long the last address of a server is tried before the name is looked up once more.
const SAME: Duration = Duration::from_secs(3);

/// A data connection of a session, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// A lane of the tunnel's carrier with this number.
    Lane(usize),
    /// Over TCP.
    Tcp(u64),
}

/// How a client reaches its server.
#[derive(Clone)]
pub(super) enum Route {
    /// Over TCP.
    Tcp(Arc<TcpRoute>),
    /// Through another program.
    Tunnel(Arc<Tunnel>),
}

/// A server as the user named it, and the address at which it answered last.
pub(super) struct TcpRoute {
    host: String,
    port: u16,
    address: Mutex<Option<SocketAddr>>,
}

impl TcpRoute {
    /// A server that has not answered yet.
    pub(super) fn new(host: &str, port: u16) -> TcpRoute {
        TcpRoute {
            host: host.to_string(),
            port,
            address: Mutex::new(None),
        }
    }

    fn failed(&self, error: io::Error) -> NetError {
        NetError::connect(format!("{}:{}", self.host, self.port), error)
    }

    async fn control(&self) -> Result<Socket, NetError> {
        // a session is at the address where it began; another one may have another server
        let last = *self.address.lock();
        let dialling = async {
            if let Some(last) = last
                && let Ok(tcp) = within(SAME, TcpStream::connect(last)).await
            {
                return Ok(tcp);
            }
            any(lookup_host((self.host.as_str(), self.port)).await?).await
        };
        let tcp = within(HANDSHAKE_TIMEOUT, dialling).await.map_err(|e| self.failed(e))?;
        *self.address.lock() = Some(tcp.peer_addr().map_err(NetError::lost)?);
        Ok(tuned(tcp, Role::Control))
    }

    async fn data(&self) -> Result<Socket, NetError> {
        let address = *self.address.lock();
        let address = address.ok_or(NetError::Lost(LossReason::NotLoggedIn))?;
        let dialled = within(HANDSHAKE_TIMEOUT, TcpStream::connect(address)).await;
        Ok(tuned(dialled.map_err(|e| self.failed(e))?, Role::Data))
    }
}

impl Route {
    /// The server, as the user reads it.
    pub(super) fn server(&self) -> String {
        match self {
            Route::Tcp(tcp) => format!("{}:{}", tcp.host, tcp.port),
            Route::Tunnel(tunnel) => tunnel.server().to_string(),
        }
    }

    /// Where another machine finds the server; `None` if only this one's program reaches it.
    pub(super) fn place(&self) -> Option<(&str, u16)> {
        match self {
            Route::Tcp(tcp) => Some((&tcp.host, tcp.port)),
            Route::Tunnel(_) => None,
        }
    }

    /// Connects for a control connection of a session that exists, or of a new one over TCP.
    ///
    /// # Errors
    /// [`NetError::Connect`] and [`NetError::Tunnel`]; [`LossReason::SessionForgotten`] if the
    /// tunnel now leads to another server process.
    pub(super) async fn control(&self) -> Result<Socket, NetError> {
        match self {
            Route::Tcp(tcp) => tcp.control().await,
            Route::Tunnel(tunnel) => tunnel.reattach().await.map(Socket::Lane),
        }
    }

    /// Lanes that carry data until direct connections do.
    pub(super) fn lanes(&self) -> usize {
        match self {
            Route::Tcp(_) => 0,
            Route::Tunnel(tunnel) => tunnel.lanes(),
        }
    }

    /// Connects for a data connection. Through a tunnel this may take as long as the user answers
    /// questions, or until a direct connection is possible. Cancel-safe.
    ///
    /// # Errors
    /// As [`Route::control`].
    pub(super) async fn data(&self, slot: Slot) -> Result<Socket, NetError> {
        match (self, slot) {
            (Route::Tcp(tcp), _) => tcp.data().await,
            (Route::Tunnel(tunnel), Slot::Lane(n)) => tunnel.data_lane(n).await.map(Socket::Lane),
            (Route::Tunnel(tunnel), Slot::Tcp(n)) => {
                let address = tunnel.direct(n).await?;
                let dialled = within(HANDSHAKE_TIMEOUT, TcpStream::connect(address)).await;
                let dialled = dialled.map_err(|e| NetError::connect(address.to_string(), e));
                Ok(tuned(dialled?, Role::Data))
            }
        }
    }

    /// A direct connection through this tunnel has proved itself, until the guard is dropped.
    pub(super) fn proved(&self) -> Option<impl Drop + Send + use<>> {
        match self {
            Route::Tcp(_) => None,
            Route::Tunnel(tunnel) => Some(tunnel.proved()),
        }
    }

    /// Waits until data connections over TCP carry the data (`true`), or do not (`false`).
    pub(super) async fn is_direct(&self, wanted: bool) {
        match self {
            Route::Tcp(_) if wanted => {}
            Route::Tcp(_) => std::future::pending().await,
            Route::Tunnel(tunnel) => tunnel.is_direct(wanted).await,
        }
    }
}
