//! The client within a server: it logs in to the other servers that the operator has named, with
//! the tickets that clients hand over.

use crate::net::client::Client;
use crate::net::client::connect::Connection;
use crate::net::client::options::SessionOptions;
use crate::net::client::requests::PutDestination;
use crate::net::error::{LossReason, NetError};
use crate::net::server::outbound::{Bounds, OtherServer, Outbound, OutboundSession};
use crate::net::transfer::options::Options;
use crate::net::transfer::report::Reporter;
use crate::net::transfer::send::source::TransferSource;
use crate::net::wire::{Code, INITIAL_WINDOW, proto};
use async_trait::async_trait;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Data connections of a transfer to another server.
const CONNECTIONS: usize = 4;
/// How long to retry when a connection to another server is lost.
const RETRY_FOR: Duration = Duration::from_secs(60);

/// Another server that the operator has named.
pub struct NamedServer {
    /// As they have written it, and as clients have to call it.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Where it is: it was looked up when this server started.
    pub addresses: Vec<SocketAddr>,
}

/// The servers that this one may send to.
pub struct NamedServers(pub Vec<NamedServer>);

#[async_trait]
impl Outbound for NamedServers {
    async fn log_in(
        &self,
        to: OtherServer,
        bounds: Bounds,
    ) -> Result<Box<dyn OutboundSession>, NetError> {
        let named = self
            .0
            .iter()
            .find(|named| named.host.eq_ignore_ascii_case(&to.host) && named.port == to.port);
        let named = named.ok_or_else(|| NetError::Refused {
            code: Code::DENIED,
            text: format!("its operator does not let this server send to {}", to.host),
        })?;
        let options = SessionOptions {
            // nothing comes from there
            window: INITIAL_WINDOW,
            credit: bounds.window,
            limits: bounds.limits,
            ..SessionOptions::fixed(CONNECTIONS, RETRY_FOR)
        };
        let mut last = NetError::Lost(LossReason::NotLoggedIn);
        for address in &named.addresses {
            let host = address.ip().to_string();
            match Connection::open(&host, address.port(), Some(to.key), None).await {
                Ok(connection) => {
                    let client = connection.redeem(to.ticket, &options).await?;
                    client.logged_in().await?;
                    return Ok(Box::new(ToServer(client)));
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

/// A session with another server.
struct ToServer(Arc<Client>);

#[async_trait]
impl OutboundSession for ToServer {
    async fn put(
        &self,
        sources: Arc<Vec<TransferSource>>,
        put: proto::Put,
        options: Options,
        reporter: Reporter,
    ) -> Result<(), NetError> {
        let if_missing = put.if_missing();
        let destination = PutDestination {
            path: put.destination,
            directory: put.directory,
            names: put.names,
            if_missing,
        };
        self.0.put(sources, destination, options, reporter).await
    }

    fn end(&self) {
        self.0.end();
    }

    async fn quit(&self) {
        self.0.quit().await;
    }
}
