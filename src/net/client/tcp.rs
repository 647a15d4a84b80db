//! Dials TCP connections.

use crate::net::lanes::role::Role;
use crate::net::lanes::socket::Socket;
use crate::net::tls::socket::tune;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::io;
use std::net::SocketAddr;
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

/// How long the first address of a name may take alone (RFC 8305, section 8).
const ALONE: Duration = Duration::from_millis(250);

/// Connects to the first of a name's addresses that answers. They are tried in turn; one that is
/// silent does not hold up those behind it.
pub(super) async fn any(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut addresses = addresses;
    let mut dialled = FuturesUnordered::new();
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    loop {
        let next = addresses.next();
        let is_last = next.is_none();
        dialled.extend(next.map(TcpStream::connect));
        let answered = match is_last {
            true => dialled.next().await,
            false => match timeout(ALONE, dialled.next()).await {
                Ok(answered) => answered,
                Err(_) => continue,
            },
        };
        match answered {
            Some(Ok(tcp)) => return Ok(tcp),
            Some(Err(e)) => failed = e,
            None if is_last => return Err(failed),
            None => {}
        }
    }
}

/// A connection with the options of its kind.
pub(super) fn tuned(tcp: TcpStream, role: Role) -> Socket {
    let socket = Socket::Tcp(tcp);
    tune(&socket, role);
    socket
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Of a name's addresses one refuses, and one is silent: its queue of connections is full.
    #[tokio::test]
    async fn addresses_that_refuse_or_are_silent_do_not_hold_up_the_others() {
        let live = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wanted = live.local_addr().unwrap();
        let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let silent = tokio::net::TcpSocket::new_v4().unwrap();
        silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let silent = silent.listen(0).unwrap();
        let full = silent.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(Ok(tcp)) = timeout(ALONE, TcpStream::connect(full)).await {
            waiting.push(tcp);
        }
        let found = any([refusing, full, wanted].into_iter()).await.unwrap();
        assert_eq!(found.peer_addr().unwrap(), wanted);
        let none = any([refusing].into_iter()).await.unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::ConnectionRefused);
        assert!(any(std::iter::empty()).await.is_err());
    }
}
