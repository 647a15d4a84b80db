//! The sockets below TLS: which kind of connection a client opens, and the options of TCP.

use crate::net::error::{LossReason, NetError};
use crate::net::lanes::role::Role;
use crate::net::lanes::socket::Socket;
use crate::net::wire::{ALPN_CONTROL, ALPN_DATA};
use rustix::net::RecvFlags;
use rustls::server::Acceptor;
use std::io;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// How long a connection may take from its beginning to the end of its handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A socket with this many unsent bytes takes no further frame: another connection does.
const NOTSENT_LOWAT: u32 = 128 << 10;
/// The kernel drops a connection after data was unacknowledged, or keep-alives failed, for this
/// long. It is longer than every deadline of haul: those judge a slow peer.
const USER_TIMEOUT: Duration = Duration::from_secs(180);

/// Longest ClientHello that is accepted, in bytes.
const LONGEST_HELLO: usize = 16 << 10;

/// Finds the kind of a client's connection. A lane says which it is.
///
/// # Errors
/// If its first bytes are no TLS 1.3 ClientHello with one of haul's ALPN names.
pub async fn role_of_socket(socket: &Socket) -> Result<Role, NetError> {
    match socket {
        Socket::Tcp(tcp) => peek_role(tcp).await,
        Socket::Lane(lane) => Ok(lane.role()),
    }
}

/// Finds the kind of a client's connection. It peeks at the ClientHello, which stays in the socket:
/// different APIs of rustls serve the two kinds.
///
/// # Errors
/// As [`role_of`]. The caller sets the deadline.
async fn peek_role(tcp: &TcpStream) -> Result<Role, NetError> {
    let mut before = 0;
    loop {
        let ready = tcp.ready(Interest::READABLE).await.map_err(NetError::lost)?;
        let mut buffer = vec![0; LONGEST_HELLO];
        let peeked = tcp.try_io(Interest::READABLE, || {
            let (_, n) = rustix::net::recv(tcp, &mut buffer[..], RecvFlags::PEEK)?;
            match n == before && n > 0 {
                // these bytes have been examined: the socket is ready again when more arrive
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => Ok(n),
            }
        });
        match peeked {
            Ok(0) => return Err(NetError::Lost(LossReason::ClosedBeforeHello)),
            Ok(n) => before = n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => {
                return Err(NetError::Lost(LossReason::ClosedInHello));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(NetError::lost(e)),
        }
        if let Some(role) = role_of(buffer.get(..before).unwrap_or_default())? {
            return Ok(role);
        }
    }
}

/// Finds the kind of a connection by its first bytes; `None` if more of them are needed.
///
/// # Errors
/// If they are not a TLS 1.3 ClientHello with one of haul's ALPN names, or it is too long.
pub fn role_of(mut seen: &[u8]) -> Result<Option<Role>, NetError> {
    let length = seen.len();
    let mut acceptor = Acceptor::default();
    acceptor.read_tls(&mut seen).map_err(NetError::lost)?;
    match acceptor.accept() {
        Ok(Some(accepted)) => {
            let hello = accepted.client_hello();
            let offered: Vec<&[u8]> = hello.alpn().map(Iterator::collect).unwrap_or_default();
            match offered.as_slice() {
                [name] if *name == ALPN_CONTROL => Ok(Some(Role::Control)),
                [name] if *name == ALPN_DATA => Ok(Some(Role::Data)),
                _ => Err(NetError::Protocol(
                    "neither haul/1 nor haul-data/1 in its ClientHello".into(),
                )),
            }
        }
        Ok(None) if length < LONGEST_HELLO => Ok(None),
        Ok(None) => Err(NetError::Protocol("its ClientHello is too long".into())),
        Err((e, _)) => Err(e.into()),
    }
}

/// Sets the options of a TCP connection; a lane has none. Options that the system does not have are
/// skipped.
pub fn tune(socket: &Socket, role: Role) {
    let Socket::Tcp(tcp) = socket else {
        return;
    };
    let socket = socket2::SockRef::from(tcp);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    let _ = tcp.set_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
    if role == Role::Data {
        let _ = socket.set_tcp_notsent_lowat(NOTSENT_LOWAT);
        // some hosts do not allow it to plain users
        let _ = is_between_machines(tcp).then(|| socket.set_tcp_congestion(b"bbr"));
    }
}

/// True of a TCP connection that BBR decides the rate of.
pub fn has_bbr(socket: &Socket) -> bool {
    match socket {
        Socket::Tcp(tcp) => {
            let name = socket2::SockRef::from(tcp).tcp_congestion();
            // the system fills the rest with zeros
            name.is_ok_and(|name| name.split(|byte| *byte == 0).next() == Some(b"bbr"))
        }
        Socket::Lane(_) => false,
    }
}

/// False if both ends are on this machine. BBR has a timer release every 64 KiB there, for a link
/// that loses nothing: a tenth of the processor time of a transfer.
fn is_between_machines(tcp: &TcpStream) -> bool {
    match (tcp.local_addr(), tcp.peer_addr()) {
        (Ok(here), Ok(there)) => !there.ip().is_loopback() && here.ip() != there.ip(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_decides_the_rate_of_a_connection_is_known() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Socket::Tcp(tcp);
        for name in ["reno", "bbr"] {
            let Socket::Tcp(tcp) = &socket else {
                unreachable!()
            };
            match socket2::SockRef::from(tcp).set_tcp_congestion(name.as_bytes()) {
                Ok(()) => assert_eq!(has_bbr(&socket), name == "bbr"),
                Err(e) => eprintln!("skipped: this machine has no {name}: {e}"),
            }
        }
    }

    use crate::net::tls::config::{client_config, server_name};
    use crate::net::tls::pin::Pin;
    use std::future::poll_fn;
    use std::pin::pin;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// The first message of a client.
    async fn hello() -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let config = client_config(ALPN_DATA, &Pin::new(None), None).unwrap();
        let client = tokio_rustls::TlsConnector::from(config).connect(server_name(), dialled);
        let (mut accepted, _) = listener.accept().await.unwrap();
        let mut hello = vec![0; LONGEST_HELLO];
        tokio::select! {
            _ = client => panic!("no answer"),
            n = accepted.read(&mut hello) => hello.truncate(n.unwrap()),
        }
        hello
    }

    #[tokio::test]
    async fn a_hello_in_pieces_is_peeked_at_when_more_of_it_comes_and_not_in_between() {
        let hello = hello().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let mut polls = 0;
        let role = {
            let mut role = pin!(peek_role(&server));
            let counted = poll_fn(|context| {
                polls += 1;
                role.as_mut().poll(context)
            });
            let sending = async {
                for piece in hello.chunks(hello.len().div_ceil(3)) {
                    client.write_all(piece).await.unwrap();
                    // long enough for hundreds of looks
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            };
            let (role, ()) = tokio::join!(counted, sending);
            role.unwrap()
        };
        assert_eq!(role, Role::Data);
        assert!(polls < 20, "{polls} looks for three pieces");
    }

    #[tokio::test]
    async fn a_client_that_closes_within_its_hello_is_let_go() {
        let hello = hello().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        client.write_all(&hello[..10]).await.unwrap();
        let peek = tokio::spawn(async move { peek_role(&server).await });
        client.shutdown().await.unwrap();
        assert!(matches!(peek.await.unwrap(), Err(NetError::Lost(_))));
    }
}
