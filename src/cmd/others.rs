//! The other servers that a server may send to.

use super::failure::Failure;
use super::location::{ServerName, parse_host};
use crate::net::outbound::NamedServer;
use std::net::ToSocketAddrs;

/// Reads the name of a server, without a user.
///
/// # Errors
/// What is expected.
pub fn parse_other(text: &str) -> Result<ServerName, String> {
    match parse_host(text) {
        Ok(name) if name.user.is_none() => Ok(name),
        _ => Err("expected HOST or HOST:PORT".into()),
    }
}

/// Looks the servers up: once it is confined, this process can look up nothing.
///
/// # Errors
/// That one is not found.
pub fn named_servers(names: &[ServerName]) -> Result<Vec<NamedServer>, Failure> {
    let named = names.iter().map(|name| {
        let (host, port) = (name.host.clone(), name.port());
        let found = (host.as_str(), port).to_socket_addrs();
        let found = found.map_err(|e| Failure::usage(format!("--send-to {host}: {e}")))?;
        let addresses = found.collect();
        Ok(NamedServer {
            host,
            port,
            addresses,
        })
    });
    named.collect()
}
