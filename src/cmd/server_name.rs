//! A server as the user named it.

use super::failure::Failure;
use crate::net::printable;
use crate::net::wire::DEFAULT_PORT;
use std::ffi::OsStr;

/// A server as the user named it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerName {
    /// Before the `@`.
    pub user: Option<String>,
    /// A host's name or address, or a saved name.
    pub host: String,
    /// The port, if the user gave one.
    pub port: Option<u16>,
    /// How the user wants it to be reached.
    pub scheme: Scheme,
}

/// What a server's name says of the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Nothing: `HOST:PATH`.
    Any,
    /// Directly: `haul://`.
    Haul,
    /// Over ssh: `ssh://`. The port is that of ssh.
    Ssh,
}

impl ServerName {
    /// The port, or the usual one.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(DEFAULT_PORT)
    }
}

/// The failure of an argument that is no remote path.
pub(super) fn malformed(argument: &OsStr, why: &str) -> Failure {
    let shown = printable(&argument.to_string_lossy());
    Failure::usage(format!("malformed remote path {shown}: {why}"))
        .hint("write it as [USER@]HOST:PATH, or with haul:// or ssh:// [USER@]HOST[:PORT]/PATH")
}
