//! A control connection up to its login: whose key the server has, before anything secret is sent.

use crate::auth::name::MAX_USER;
use crate::auth::password::{MAX_PASSWORD, Secret};
use crate::auth::{Fingerprint, Identity, UserName};
use crate::chunk::buffer::BufferPool;
use crate::net::client::outage::Outage;
use crate::net::client::reattach::{Attachment, Keys};
use crate::net::client::{Client, WINDOW, host_name};
use crate::net::control::queue::{ControlSender, MOST_OUTGOING};
use crate::net::error::{LossReason, NetError};
use crate::net::session::{SessionBounds, SessionCore};
use crate::net::tls::config;
use crate::net::tls::pin::Pin;
use crate::net::tls::socket;
use crate::net::tls::socket::{HANDSHAKE_TIMEOUT, Role};
use crate::net::wire::proto::{self, reply, request};
use crate::net::wire::{ALPN_CONTROL, Code, EXPORTER_LABEL, INITIAL_WINDOW};
use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// A control connection after its handshake, before anybody has logged in. Nothing secret has been sent.
pub struct Connection {
    tls: TlsStream<TcpStream>,
    host: String,
    port: u16,
    address: SocketAddr,
    key: Fingerprint,
}

/// How a session is to be kept up.
#[derive(Clone)]
pub struct SessionOptions {
    /// Data connections of a transfer at first.
    pub connections: usize,
    /// The most there may be, where more of them carry more.
    pub most_connections: usize,
    /// How long to go on trying without any progress when connections are lost.
    pub retry_for: Duration,
    /// Told in one sentence when the control connection is lost.
    pub notify: Tell,
    /// Whether the server cannot be reached now.
    pub outage: Arc<Outage>,
}

/// Where sentences for the user go.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// Connects to `host:port` and shakes hands as a control connection.
///
/// # Errors
/// [`NetError::Connect`], [`NetError::WrongKey`], [`NetError::Tls`], [`NetError::Lost`].
pub(super) async fn shake_hands(
    host: &str,
    port: u16,
    pin: &Arc<Pin>,
    identity: Option<&Identity>,
) -> Result<(TlsStream<TcpStream>, SocketAddr), NetError> {
    let tcp = match timeout(HANDSHAKE_TIMEOUT, TcpStream::connect((host, port))).await {
        Ok(connected) => connected,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    };
    let tcp = tcp.map_err(|source| NetError::connect(format!("{host}:{port}"), source))?;
    socket::tune(&tcp, Role::Control);
    let address = tcp.peer_addr().map_err(NetError::lost)?;
    let config = config::client_config(ALPN_CONTROL, pin, identity)?;
    let handshake = tokio_rustls::TlsConnector::from(config).connect(config::server_name(), tcp);
    let tls = match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(e)) => return Err(pin.explain(handshake_error(e))),
        Err(_) => return Err(NetError::Lost(LossReason::ServerHandshakeTimeout)),
    };
    if tls.get_ref().1.alpn_protocol() != Some(ALPN_CONTROL) {
        return Err(NetError::Protocol("it does not speak haul/1".into()));
    }
    Ok((tls, address))
}

impl Connection {
    /// Connects to `host:port` and shakes hands. With a pin, another key is an error; without one, look at
    /// [`Connection::server_key`] before going on.
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
        let (tls, address) = shake_hands(host, port, &pin, identity).await?;
        let key = pin
            .seen()
            .ok_or_else(|| NetError::Protocol("it presented no key".into()))?;
        Ok(Connection {
            tls,
            host: host.to_string(),
            port,
            address,
            key,
        })
    }

    /// The fingerprint of the server's key.
    pub fn server_key(&self) -> Fingerprint {
        self.key
    }

    /// Asks to log in, with a password or, without one, with the key of the handshake, and does not wait for the answer:
    /// requests may follow at once, and [`Client::logged_in`] tells. A transfer dials the data connections.
    ///
    /// # Errors
    /// Those of the connection, and [`NetError::Refused`] for a name or a password that is longer than any.
    pub async fn login(
        self,
        user: &str,
        password: Option<Secret>,
        options: &SessionOptions,
    ) -> Result<Arc<Client>, NetError> {
        // a server takes no message from strangers that these would make longer than any login is
        if user.len() > MAX_USER || password.as_ref().is_some_and(|p| p.len() > MAX_PASSWORD) {
            let text = "login refused: a user's name has at most 64 bytes, a password 1024".into();
            let code = Code::LOGIN_REFUSED;
            return Err(NetError::Refused { code, text });
        }
        let mut session = [0; 16];
        let filled = SystemRandom::new().fill(&mut session);
        filled.map_err(|_| NetError::Lost(LossReason::NoRandomness))?;
        let exported = self
            .tls
            .get_ref()
            .1
            .export_keying_material([0; 32], EXPORTER_LABEL, Some(&session))?;
        let login = proto::Login {
            session: session.to_vec(),
            user: user.into(),
            password: password.map(|password| password.to_string()),
            window: WINDOW,
            features: 0,
            client: host_name(),
        };
        let keys = Keys::new((&self.host, self.port), self.address, self.key, session, &exported)?;
        let client = self.start(Some(Arc::new(keys)), options);
        // its answer is looked at where it comes in
        drop(client.start_request(request::Body::Login(login)).await?);
        Ok(client)
    }

    /// Turns an invite into a login for the key of the handshake; gives the user's name.
    ///
    /// # Errors
    /// [`NetError::Refused`] where the invite is not good (any more), [`NetError::Protocol`] for what is no name.
    pub async fn enroll(self, secret: &[u8]) -> Result<UserName, NetError> {
        let options = SessionOptions {
            connections: 0,
            most_connections: 0,
            retry_for: Duration::ZERO,
            notify: Arc::new(|_| {}),
            outage: Arc::default(),
        };
        let client = self.start(None, &options);
        let enroll = proto::Enroll {
            code: secret.to_vec(),
            client: host_name(),
        };
        let body = request::Body::Enroll(enroll);
        let reply = client.request(body).await?;
        client.quit().await;
        // it goes into the settings, so it must be a name and nothing else
        let user = match reply.body {
            Some(reply::Body::Enroll(enrolled)) => UserName::parse(&enrolled.user).ok(),
            _ => None,
        };
        user.ok_or_else(|| NetError::Protocol("an enrolment's reply names no user".into()))
    }

    fn start(self, keys: Option<Arc<Keys>>, options: &SessionOptions) -> Arc<Client> {
        let (control, queue) = ControlSender::channel(MOST_OUTGOING);
        let buffers = BufferPool::for_window(WINDOW);
        let core = SessionCore::new(control, SessionBounds::of_client(INITIAL_WINDOW, WINDOW), buffers);
        let attachment = Arc::new(Attachment::new(core.clone(), keys.clone(), options.clone()));
        let client = Arc::new(Client {
            server: format!("{}:{}", self.host, self.port),
            core,
            replies: Mutex::default(),
            next_request: tokio::sync::Mutex::new(1),
            next_transfer: AtomicU32::new(1),
            connections: tokio::sync::watch::Sender::new(options.connections.max(1) as u64),
            most_connections: AtomicU64::new(options.most_connections.max(1) as u64),
            round_trip: AtomicU64::new(u64::MAX),
            login: tokio::sync::watch::Sender::new(None),
            keys,
            attachment: attachment.clone(),
            tuning: AtomicBool::new(false),
            dialled: AtomicU64::new(0),
            hopeless: AtomicU64::new(0),
        });
        let run = attachment.run(Arc::downgrade(&client), queue, self.tls);
        client.core.tasks().detach("attachment", run);
        client
    }
}

fn handshake_error(e: std::io::Error) -> NetError {
    match e.downcast::<rustls::Error>() {
        Ok(tls) => NetError::Tls(tls),
        Err(e) => NetError::lost(e),
    }
}
