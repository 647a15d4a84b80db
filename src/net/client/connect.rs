//! A control connection up to its login: the server's key is known before anything secret is sent.

use crate::auth::{Fingerprint, Identity, UserName};
use crate::net::client::options::host_name;
use crate::net::client::route::{Route, TcpRoute};
use crate::net::client::router::LOGIN;
use crate::net::client::tunnel::{Tunnel, key_of};
use crate::net::control::codec::{Outgoing, read_message, refused};
use crate::net::error::{LossReason, NetError};
use crate::net::lanes::socket::Socket;
use crate::net::tls::config;
use crate::net::tls::pin::Pin;
use crate::net::tls::socket::HANDSHAKE_TIMEOUT;
use crate::net::wire::proto::{self, control_message::Body, reply, request};
use crate::net::wire::{ALPN_CONTROL, Code};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// How long to read the last messages of a server that takes no more.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long a goodbye may take.
pub(super) const GOODBYE: Duration = Duration::from_secs(2);

/// A control connection after its handshake and before a login. Nothing secret has been sent.
pub struct Connection {
    pub(super) tls: TlsStream<Socket>,
    pub(super) route: Route,
    pub(super) key: Fingerprint,
}

/// Connects by `route` and shakes hands as a control connection.
///
/// # Errors
/// [`NetError::Connect`], [`NetError::Tunnel`], [`NetError::WrongKey`], [`NetError::Tls`],
/// [`NetError::Lost`].
pub(super) async fn shake_hands(
    route: &Route,
    pin: &Arc<Pin>,
    identity: Option<&Identity>,
) -> Result<TlsStream<Socket>, NetError> {
    let socket = route.control().await?;
    in_time(encrypt(socket, pin, identity)).await
}

/// The handshake of a control connection, in time.
async fn in_time(
    handshake: impl Future<Output = Result<TlsStream<Socket>, NetError>>,
) -> Result<TlsStream<Socket>, NetError> {
    let late = |_| NetError::Lost(LossReason::ServerHandshakeTimeout);
    timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(late)?
}

/// The handshake of a control connection. The caller sets the deadline.
async fn encrypt(
    socket: Socket,
    pin: &Arc<Pin>,
    identity: Option<&Identity>,
) -> Result<TlsStream<Socket>, NetError> {
    let config = config::client_config(ALPN_CONTROL, pin, identity)?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let shaken = connector.connect(config::server_name(), socket).await;
    let tls = shaken.map_err(|e| pin.explain(handshake_error(e)))?;
    if tls.get_ref().1.alpn_protocol() != Some(ALPN_CONTROL) {
        return Err(NetError::Protocol("it does not speak haul/1".into()));
    }
    Ok(tls)
}

/// Writes one request and reads its reply, on a connection that belongs to no session yet.
///
/// # Errors
/// [`NetError::Lost`], [`NetError::Refused`] where the server ends the connection with a reason,
/// and [`NetError::Protocol`] for any other message.
pub(super) async fn ask(
    tls: &mut TlsStream<Socket>,
    request: proto::Request,
) -> Result<proto::Reply, NetError> {
    match write(tls, request).await {
        Ok(()) => read_reply(tls).await,
        // a server that takes no more may have said why
        Err(lost) => timeout(LAST_WORDS, read_reply(tls)).await.unwrap_or(Err(lost)),
    }
}

async fn write(tls: &mut TlsStream<Socket>, request: proto::Request) -> Result<(), NetError> {
    // wiped when it is dropped: it may have a secret
    let message = Outgoing::of(Body::Request(request))?;
    tls.write_all(message.bytes()).await.map_err(NetError::lost)?;
    tls.flush().await.map_err(NetError::lost)
}

async fn read_reply(tls: &mut TlsStream<Socket>) -> Result<proto::Reply, NetError> {
    loop {
        match read_message(tls).await?.0.body {
            Some(Body::Reply(reply)) => return Ok(reply),
            Some(Body::Heartbeat(_)) | None => {}
            Some(Body::End(end)) => return Err(refused(end.code, end.text)),
            Some(Body::Request(_) | Body::Transfer(_) | Body::Window(_)) => {
                return Err(NetError::Protocol("expected a reply, got another message".into()));
            }
        }
    }
}

impl Connection {
    /// Connects to `host:port` and shakes hands. With a pin, another key is an error; without one,
    /// check [`Connection::server_key`] before anything else.
    ///
    /// # Errors
    /// [`NetError::Connect`], [`NetError::WrongKey`], [`NetError::Tls`], [`NetError::Lost`].
    pub async fn open(
        host: &str,
        port: u16,
        pinned: Option<Fingerprint>,
        identity: Option<&Identity>,
    ) -> Result<Connection, NetError> {
        let pin = Pin::new(pinned);
        let route = Route::Tcp(Arc::new(TcpRoute::new(host, port)));
        let tls = shake_hands(&route, &pin, identity).await?;
        let key = pin.seen().ok_or_else(|| NetError::Protocol("it presented no key".into()))?;
        Ok(Connection { tls, route, key })
    }

    /// Connects through a tunnel and shakes hands. The handshake begins before the server has
    /// greeted, and saves a round trip; its key is checked before anything secret is sent.
    ///
    /// # Errors
    /// [`NetError::Tunnel`], [`NetError::WrongKey`], [`NetError::Tls`], [`NetError::Lost`].
    pub async fn through(tunnel: &Arc<Tunnel>) -> Result<Connection, NetError> {
        let running = tunnel.first().await?;
        let lane = Socket::Lane(running.control()?);
        let pin = Pin::new(None);
        let mut shaking = pin!(encrypt(lane, &pin, Some(tunnel.identity())));
        let mut early = None;
        let welcome = tokio::select! {
            biased;
            welcome = tunnel.greeting(&running) => welcome,
            // without a greeting, that is why
            shaken = &mut shaking => {
                early = Some(shaken);
                tunnel.greeting(&running).await
            }
        };
        let welcome = welcome?;
        let tls = match early {
            Some(shaken) => shaken?,
            None => in_time(shaking).await?,
        };
        let key = key_of(&welcome)?;
        let found = pin.seen().ok_or_else(|| NetError::Protocol("it presented no key".into()))?;
        if found != key {
            return Err(NetError::WrongKey { pinned: key, found });
        }
        tunnel.welcomed(welcome);
        let route = Route::Tunnel(tunnel.clone());
        Ok(Connection { tls, route, key })
    }

    /// The fingerprint of the server's key.
    pub fn server_key(&self) -> Fingerprint {
        self.key
    }

    /// Turns an invite into a login for the key of the handshake. Returns the user's name.
    ///
    /// # Errors
    /// [`NetError::Refused`] where the invite is unknown, used or expired, [`NetError::Protocol`]
    /// for an invalid name.
    pub async fn enroll(mut self, secret: &[u8]) -> Result<UserName, NetError> {
        let enroll = proto::Enroll {
            code: secret.to_vec(),
            client: host_name(),
        };
        let numbered = |number, body| proto::Request {
            number,
            body: Some(body),
        };
        let request = numbered(LOGIN, request::Body::Enroll(enroll));
        let reply = ask(&mut self.tls, request).await?;
        let goodbye = async {
            let quit = numbered(LOGIN.saturating_add(1), request::Body::Quit(proto::Quit {}));
            write(&mut self.tls, quit).await?;
            self.tls.shutdown().await.map_err(NetError::lost)
        };
        let _ = timeout(GOODBYE, goodbye).await;
        if !Code::from_wire(reply.code).is_success() {
            return Err(refused(reply.code, reply.text));
        }
        // the settings take it, so it must be a name and nothing else
        let user = match reply.body {
            Some(reply::Body::Enroll(enrolled)) => UserName::parse(&enrolled.user).ok(),
            _ => None,
        };
        user.ok_or_else(|| {
            NetError::Protocol("expected a user's name in the reply to an invite, got none".into())
        })
    }
}

fn handshake_error(e: std::io::Error) -> NetError {
    match e.downcast::<rustls::Error>() {
        Ok(tls) => NetError::Tls(tls),
        Err(e) => NetError::lost(e),
    }
}
