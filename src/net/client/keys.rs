//! How a session's server is reached, and the proofs that a connection belongs to the session.

use crate::auth::Fingerprint;
use crate::net::client::route::Route;
use crate::net::error::NetError;
use crate::net::tls::config;
use crate::net::tls::pin::Pin;
use crate::net::wire::ALPN_DATA;
use crate::net::wire::frame::Attach;
use ring::hmac;
use rustls::ClientConfig;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What it takes to dial a session's server again, and to prove that the new connection belongs to
/// the session.
pub(super) struct Keys {
    pub(super) route: Route,
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
        route: Route,
        key: Fingerprint,
        session: [u8; 16],
        exported: &[u8],
    ) -> Result<Keys, NetError> {
        let pin = Pin::new(Some(key));
        Ok(Keys {
            route,
            config: config::client_config(ALPN_DATA, &pin, None)?,
            pin,
            session,
            proof_key: hmac::Key::new(hmac::HMAC_SHA256, exported),
            next: AtomicU32::new(1),
        })
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
