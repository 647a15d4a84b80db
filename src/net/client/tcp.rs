//! Dials TCP connections.

use crate::net::lanes::role::Role;
use crate::net::lanes::socket::Socket;
use crate::net::tls::socket::tune;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The result of dialling within a time.
pub(super) async fn within(
    most: Duration,
    dialling: impl Future<Output = io::Result<TcpStream>>,
) -> io::Result<TcpStream> {
    let dialled = timeout(most, dialling).await;
    dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A connection with the options of its kind.
pub(super) fn tuned(tcp: TcpStream, role: Role) -> Socket {
    let socket = Socket::Tcp(tcp);
    tune(&socket, role);
    socket
}
