//! TLS 1.3 between raw public keys (RFC 7250): configurations, pins, and the sockets below.

use super::error::NetError;
use super::wire::{ALPN_CONTROL, ALPN_DATA};
use crate::auth::{Fingerprint, Identity, PublicKey};
use rustix::net::RecvFlags;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ResolvesClientCert};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring as provider, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{Acceptor, AlwaysResolvesServerRawPublicKeys};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// How long a connection may take from its acceptance, or its dialling, to the end of its handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Unsent bytes in a socket from which on a frame goes to another connection.
const NOTSENT_LOWAT: u32 = 128 << 10;
/// The kernel gives a connection up after unacknowledged data, or failed keep-alives, of this long. It is longer
/// than every deadline of haul's own: a peer that is merely slow is judged by those.
const USER_TIMEOUT: Duration = Duration::from_secs(180);

/// AES-128-GCM first: it is the fastest where the processor has AES, and every bit as safe here.
fn crypto() -> Arc<CryptoProvider> {
    use provider::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_CHACHA20_POLY1305_SHA256,
            TLS13_AES_256_GCM_SHA384,
        ],
        ..provider::default_provider()
    })
}

/// What the client knows of the server's key before it connects.
#[derive(Debug)]
pub struct Pin {
    expected: Option<Fingerprint>,
    seen: Mutex<Option<PublicKey>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pin {
    /// `None`: whatever the server presents is taken, and [`Pin::seen`] tells what it was.
    pub fn new(expected: Option<Fingerprint>) -> Arc<Pin> {
        Arc::new(Pin {
            expected,
            seen: Mutex::new(None),
            algorithms: provider::default_provider().signature_verification_algorithms,
        })
    }

    /// The key that the server presented and proved to have.
    pub fn seen(&self) -> Option<Fingerprint> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref().map(PublicKey::fingerprint)
    }

    /// The error behind a failed handshake: a wrong key is told apart from all else.
    pub fn explain(&self, error: NetError) -> NetError {
        match (self.expected, self.seen()) {
            (Some(pinned), Some(found)) if pinned != found => NetError::WrongKey { pinned, found },
            _ => error,
        }
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let key = PublicKey::from_der(key);
        let print = key.fingerprint();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
        match self.expected {
            Some(pinned) if pinned != print => Err(rustls::Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(key.as_ref()),
            signed,
            &self.algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// A client without a key of its own. rustls' own resolver for that speaks of certificates, which a server that asks
/// for raw keys does not.
#[derive(Debug)]
struct NoKey;

impl ResolvesClientCert for NoKey {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// The server's side: any key will do for the handshake, which proves that the client has it. Whose it is, is a
/// question for the login.
#[derive(Debug)]
struct AnyClient(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _key: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(key.as_ref()), signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// A client's configuration for one kind of connection. `identity` is presented where the server asks.
///
/// # Errors
/// [`NetError::Tls`] where rustls does not take the parts.
pub fn client_config(
    alpn: &[u8],
    pin: &Arc<Pin>,
    identity: Option<&Identity>,
) -> Result<Arc<ClientConfig>, NetError> {
    let builder = ClientConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(pin.clone());
    let mut config = match identity {
        Some(id) => {
            builder.with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(id.certified())))
        }
        // only control connections are asked for a key
        None if alpn == ALPN_CONTROL => builder.with_client_cert_resolver(Arc::new(NoKey)),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_secret_extraction = alpn == ALPN_DATA;
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// A server's configuration for one kind of connection. Only control connections ask for the client's key.
///
/// # Errors
/// As [`client_config`].
pub fn server_config(alpn: &[u8], identity: &Identity) -> Result<Arc<ServerConfig>, NetError> {
    let builder = ServerConfig::builder_with_provider(crypto()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = if alpn == ALPN_CONTROL {
        let algorithms = provider::default_provider().signature_verification_algorithms;
        builder.with_client_cert_verifier(Arc::new(AnyClient(algorithms)))
    } else {
        builder.with_no_client_auth()
    };
    let resolver = AlwaysResolvesServerRawPublicKeys::new(identity.certified());
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = alpn == ALPN_DATA;
    Ok(Arc::new(config))
}

/// The two kinds of connection on the one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `haul/1`.
    Control,
    /// `haul-data/1`.
    Data,
}

/// Longest ClientHello that is waited for, in bytes.
const LONGEST_HELLO: usize = 16 << 10;

/// Which kind of connection a client opens: its ClientHello is looked at without being taken from the socket, since
/// the two kinds are served by different APIs of rustls.
///
/// # Errors
/// As [`role_of`]. The caller sets the deadline.
pub async fn peek_role(tcp: &TcpStream) -> Result<Role, NetError> {
    let mut before = 0;
    loop {
        let ready = tcp.ready(Interest::READABLE).await.map_err(NetError::lost)?;
        let mut buffer = vec![0; LONGEST_HELLO];
        let peeked = tcp.try_io(Interest::READABLE, || {
            let (_, n) = rustix::net::recv(tcp, &mut buffer[..], RecvFlags::PEEK)?;
            match n == before && n > 0 {
                // what is there has been looked at: the socket is ready again when more comes
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => Ok(n),
            }
        });
        match peeked {
            Ok(0) => return Err(NetError::lost("closed before its handshake")),
            Ok(n) => before = n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => {
                return Err(NetError::lost("closed within its first message"));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(NetError::lost(e)),
        }
        if let Some(role) = role_of(buffer.get(..before).unwrap_or_default())? {
            return Ok(role);
        }
    }
}

/// What the first bytes of a connection say that it is; none where more of them are needed.
///
/// # Errors
/// Where they are no TLS 1.3 ClientHello with one of our ALPN names, or it is too long.
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

/// Options of every TCP connection. What the system does not have is left out.
pub fn tune(tcp: &TcpStream, role: Role) {
    let socket = socket2::SockRef::from(tcp);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    let _ = tcp.set_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
    if role == Role::Data {
        let _ = socket.set_tcp_notsent_lowat(NOTSENT_LOWAT);
        // refused where the host does not allow it to plain users
        let _ = socket.set_tcp_congestion(b"bbr");
    }
}

/// The name that TLS wants; it is neither sent nor checked, the pin is.
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(rustls::pki_types::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
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
            _ = client => panic!("nobody answers"),
            n = accepted.read(&mut hello) => hello.truncate(n.unwrap()),
        }
        hello
    }

    #[tokio::test]
    async fn a_hello_in_pieces_is_looked_at_when_more_of_it_comes_and_not_in_between() {
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
        let look = tokio::spawn(async move { peek_role(&server).await });
        client.shutdown().await.unwrap();
        assert!(matches!(look.await.unwrap(), Err(NetError::Lost(_))));
    }
}
