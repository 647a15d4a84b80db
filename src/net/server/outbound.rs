//! What sends to other servers. The server itself opens no connection: the program gives it this,
//! for the servers that its operator has named.

use crate::auth::Fingerprint;
use crate::net::data::pacer::RateLimit;
use crate::net::error::NetError;
use crate::net::transfer::options::Options;
use crate::net::transfer::report::Reporter;
use crate::net::transfer::send::source::TransferSource;
use crate::net::wire::proto;
use async_trait::async_trait;
use std::sync::Arc;

/// Another server, and the ticket that it has made.
pub struct OtherServer {
    /// Its name, as the operator of this one has written it.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its key.
    pub key: Fingerprint,
    /// A ticket of its own.
    pub ticket: Vec<u8>,
}

/// What a session with another server may take.
pub struct Bounds {
    /// Bytes of frames that it has not acknowledged.
    pub window: u64,
    /// How fast data goes there.
    pub limits: Vec<Arc<RateLimit>>,
}

/// Logs in to other servers.
#[async_trait]
pub trait Outbound: Send + Sync {
    /// Connects to a server, and logs in with the ticket.
    ///
    /// # Errors
    /// That the operator has not named the server, and those of the connection and the login.
    async fn log_in(
        &self,
        to: OtherServer,
        bounds: Bounds,
    ) -> Result<Box<dyn OutboundSession>, NetError>;
}

/// A session with another server, which ends when this is dropped.
#[async_trait]
pub trait OutboundSession: Send + Sync {
    /// Puts sources there.
    ///
    /// # Errors
    /// Why the transfer ended before it was complete.
    async fn put(
        &self,
        sources: Arc<Vec<TransferSource>>,
        put: proto::Put,
        options: Options,
        reporter: Reporter,
    ) -> Result<(), NetError>;

    /// Ends the session early.
    fn end(&self);

    /// Says goodbye.
    async fn quit(&self);
}
