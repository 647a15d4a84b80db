//! TLS 1.3 between raw public keys: configurations, pins, sockets; the handshake and the records of
//! data connections.

pub mod config;
pub mod handshake;
pub mod pin;
pub mod record;
pub mod socket;
#[cfg(test)]
pub(in crate::net) mod tests;
