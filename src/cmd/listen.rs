//! The sockets on which a server listens.

use super::failure::{Failure, exit};
use crate::net::wire::DEFAULT_PORT;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// Opens the listening sockets: by default one for each protocol that the machine has.
///
/// # Errors
/// An address that is none, and what the system says.
pub fn listen(given: &[String]) -> Result<Vec<std::net::TcpListener>, Failure> {
    if given.is_empty() {
        let v6 = open_listener(SocketAddr::from((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT)));
        let v4 = open_listener(SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT)));
        return match (v6, v4) {
            (Ok(v6), Ok(v4)) => Ok(vec![v6, v4]),
            (Ok(one), Err(e)) | (Err(e), Ok(one)) if is_missing(&e) => Ok(vec![one]),
            (_, Err(e)) | (Err(e), _) => Err(cannot_listen(&format!("port {DEFAULT_PORT}"), &e)),
        };
    }
    let mut listeners = Vec::new();
    for text in given {
        let addresses = text.to_socket_addrs().map_err(|e| {
            Failure::usage(format!("--listen {text}: {e}"))
                .hint("use ADDRESS:PORT, like 127.0.0.1:4285 or [::1]:0")
        })?;
        for address in addresses {
            listeners.push(open_listener(address).map_err(|e| cannot_listen(text, &e))?);
        }
    }
    Ok(listeners)
}

/// True if the machine does not have this protocol.
fn is_missing(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
    )
}

fn cannot_listen(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(exit::FAILED, format!("cannot listen on {what}: {error}"))
        .hint("choose another address or port with --listen")
}

/// Opens a socket that listens on one address.
///
/// # Errors
/// That of the system.
pub fn open_listener(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
