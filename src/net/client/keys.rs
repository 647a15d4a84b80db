//! Where a session's server is, and the proofs that a connection belongs to the session.

use crate::auth::Fingerprint;
use crate::net::error::NetError;
use crate::net::tls::config;
use crate::net::tls::pin::Pin;
use crate::net::wire::ALPN_DATA;
use crate::net::wire::frame::Attach;
use parking_lot::Mutex;
use ring::hmac;
use rustls::ClientConfig;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A server as the user named it, and the address at which it answered.
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) address: SocketAddr,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What it takes to dial a session's server again, and to prove that the new connection belongs to
/// the session.
pub(super) struct Keys {
    pub(super) host: String,
    pub(super) port: u16,
    address: Mutex<SocketAddr>,
    /// The TLS configuration of data connections.
    pub(super) config: Arc<ClientConfig>,
    pub(super) pin: Arc<Pin>,
    session: [u8; 16],
    proof_key: hmac::Key,
    next: AtomicU32,
}

impl Keys {
    /// For the session with this id on the server with this key. `exported` keys the proofs.
    pub(super) fn new(
        server: Endpoint,
        key: Fingerprint,
        session: [u8; 16],
        exported: &[u8],
    ) -> Result<Keys, NetError> {
        let pin = Pin::new(Some(key));
        Ok(Keys {
            host: server.host,
            port: server.port,
            address: Mutex::new(server.address),
            config: config::client_config(ALPN_DATA, &pin, None)?,
            pin,
            session,
            proof_key: hmac::Key::new(hmac::HMAC_SHA256, exported),
            next: AtomicU32::new(1),
        })
    }

    /// The server, as `host:port`.
    pub(super) fn server(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The address at which the server answered last.
    pub(super) fn address(&self) -> SocketAddr {
        *self.address.lock()
    }

    /// The server has answered at this address.
    pub(super) fn set_address(&self, address: SocketAddr) {
        *self.address.lock() = address;
    }

    /// A proof that no connection has used yet.
    pub(super) fn proof(&self, role: u8) -> Attach {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let tag = hmac::sign(&self.proof_key, &Attach::signed(role, &self.session, n));
        let mut attach = Attach {
            session: self.session,
            n,
            proof: [0; 32],
        };
        attach.proof.copy_from_slice(tag.as_ref());
        attach
    }
}
