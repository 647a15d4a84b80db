//! The client: connects, logs in, has one method for each request, and keeps the pool of data connections up.

use super::control::{ControlSender, read_message, refused, write_messages};
use super::data::DataConnection;
use super::error::NetError;
use super::link::Link;
use super::tls::{self, HANDSHAKE_TIMEOUT, Pin, Role};
use super::transfer::target::Target;
use super::transfer::walk::Source;
use super::transfer::{Options, Reporter, receiver, sender};
use super::wire::frame::{Attach, FrameKind};
use super::wire::proto::{self, control_message, reply, request};
use super::wire::{ALPN_CONTROL, ALPN_DATA, Code, EXPORTER_LABEL, INITIAL_WINDOW, entry};
use crate::auth::{Fingerprint, Identity};
use crate::chunk::CHUNK_SIZE;
use crate::chunk::buffer::BufferPool;
use crate::store::{Entry, Space};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::ClientConfig;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// Bytes that this client allows a server to have outstanding.
pub const WINDOW: u64 = 16 << 20;
/// Tries to dial one data connection again before it is given up.
const DIALS: u32 = 7;
/// Pause before the first of them; it doubles, with jitter.
const DIAL_PAUSE: Duration = Duration::from_millis(200);

/// A control connection after its handshake, before anybody has logged in. Nothing secret has been sent.
pub struct Connection {
    tls: TlsStream<TcpStream>,
    server: String,
    address: SocketAddr,
    key: Fingerprint,
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
        let server = format!("{host}:{port}");
        let tcp = match timeout(HANDSHAKE_TIMEOUT, TcpStream::connect((host, port))).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        let tcp = tcp.map_err(|source| NetError::Connect {
            server: server.clone(),
            source,
        })?;
        tls::tune(&tcp, Role::Control);
        let address = tcp.peer_addr().map_err(NetError::lost)?;
        let pin = Pin::new(pinned);
        let config = tls::client_config(ALPN_CONTROL, &pin, identity)?;
        let handshake = tokio_rustls::TlsConnector::from(config).connect(tls::server_name(), tcp);
        let tls = match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(e)) => return Err(pin.explain(handshake_error(e))),
            Err(_) => return Err(NetError::lost("the server did not complete the handshake within 10 s")),
        };
        if tls.get_ref().1.alpn_protocol() != Some(ALPN_CONTROL) {
            return Err(NetError::Protocol("it does not speak haul/1".into()));
        }
        let key = pin
            .seen()
            .ok_or_else(|| NetError::Protocol("it presented no key".into()))?;
        Ok(Connection {
            tls,
            server,
            address,
            key,
        })
    }

    /// The fingerprint of the server's key.
    pub fn server_key(&self) -> Fingerprint {
        self.key
    }

    /// Logs in, with a password or, without one, with the key of the handshake. `connections` is how many data
    /// connections there are to be; a transfer dials them.
    ///
    /// # Errors
    /// [`NetError::Refused`] with [`Code::LOGIN_REFUSED`], and those of the connection.
    pub async fn login(
        self,
        user: &str,
        password: Option<String>,
        connections: usize,
    ) -> Result<Arc<Client>, NetError> {
        let mut session = [0; 16];
        let filled = SystemRandom::new().fill(&mut session);
        filled.map_err(|_| NetError::lost("no random numbers for a session id"))?;
        let exported = self
            .tls
            .get_ref()
            .1
            .export_keying_material([0; 32], EXPORTER_LABEL, Some(&session))?;
        let login = proto::Login {
            session: session.to_vec(),
            user: user.into(),
            password,
            window: WINDOW,
            features: 0,
            client: host_name(),
        };
        let pin = Pin::new(Some(self.key));
        let data = DataDialer {
            address: self.address,
            config: tls::client_config(ALPN_DATA, &pin, None)?,
            pin,
            session,
            proof_key: hmac::Key::new(hmac::HMAC_SHA256, &exported),
            next: AtomicU32::new(1),
        };
        let client = self.start(Some(data));
        let reply = client.request(request::Body::Login(login)).await?;
        let Some(reply::Body::Login(granted)) = reply.body else {
            return Err(NetError::Protocol("a login's reply says nothing of the session".into()));
        };
        client.link.outbox.credit().grant(granted.window.min(4 * WINDOW));
        let allowed = usize::try_from(granted.connections).unwrap_or(1).max(1);
        client
            .connections
            .store(connections.min(allowed) as u64, Ordering::Relaxed);
        Ok(client)
    }

    /// Turns an invite into a login for the key of the handshake; gives the user's name.
    ///
    /// # Errors
    /// [`NetError::Refused`] where the invite is not good (any more).
    pub async fn enroll(self, secret: &[u8]) -> Result<String, NetError> {
        let client = self.start(None);
        let body = request::Body::Enroll(proto::Enroll { code: secret.to_vec() });
        let reply = client.request(body).await?;
        client.quit().await;
        match reply.body {
            Some(reply::Body::Enroll(enrolled)) => Ok(enrolled.user),
            _ => Err(NetError::Protocol("an enrolment's reply names no user".into())),
        }
    }

    fn start(self, data: Option<DataDialer>) -> Arc<Client> {
        let (control, mut queue) = ControlSender::channel();
        let buffers = BufferPool::new(usize::try_from(WINDOW).unwrap_or(0) / CHUNK_SIZE);
        let client = Arc::new(Client {
            server: self.server,
            link: Link::new(control, INITIAL_WINDOW, WINDOW, buffers),
            replies: Mutex::default(),
            next_request: tokio::sync::Mutex::new(1),
            next_transfer: AtomicU32::new(1),
            connections: AtomicU64::new(1),
            data,
            dialled: AtomicU64::new(0),
            hopeless: AtomicU64::new(0),
        });
        let (mut reader, mut writer) = tokio::io::split(self.tls);
        let link = Arc::downgrade(&client.link);
        tokio::spawn(async move {
            if let (Err(e), Some(link)) = (write_messages(&mut writer, &mut queue).await, link.upgrade()) {
                link.shut_down(e);
            }
        });
        let receiving = Arc::downgrade(&client);
        tokio::spawn(async move {
            loop {
                let message = read_message(&mut reader).await;
                let Some(client) = receiving.upgrade() else { return };
                match message {
                    Ok(message) => match client.received(message).await {
                        Ok(()) => {}
                        Err(e) => return client.link.shut_down(e),
                    },
                    Err(e) => return client.link.shut_down(e),
                }
            }
        });
        client
    }
}

fn handshake_error(e: std::io::Error) -> NetError {
    match e.downcast::<rustls::Error>() {
        Ok(tls) => NetError::Tls(tls),
        Err(e) => NetError::lost(e),
    }
}

/// This machine's name, for the server's log and for who holds a lock.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A session on a server.
pub struct Client {
    server: String,
    link: Arc<Link>,
    replies: Mutex<HashMap<u64, oneshot::Sender<proto::Reply>>>,
    next_request: tokio::sync::Mutex<u64>,
    next_transfer: AtomicU32,
    connections: AtomicU64,
    data: Option<DataDialer>,
    /// Data connections that are being kept up.
    dialled: AtomicU64,
    /// Those of them that could not be, finally.
    hopeless: AtomicU64,
}

/// What it takes to dial a data connection and to prove that it belongs to the login.
struct DataDialer {
    address: SocketAddr,
    config: Arc<ClientConfig>,
    pin: Arc<Pin>,
    session: [u8; 16],
    proof_key: hmac::Key,
    next: AtomicU32,
}

impl Client {
    async fn received(&self, message: proto::ControlMessage) -> Result<(), NetError> {
        match message.body {
            Some(control_message::Body::Reply(reply)) => {
                let waiting = self
                    .replies
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&reply.number);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(reply);
                }
            }
            Some(control_message::Body::Transfer(message)) => self.link.deliver(message).await,
            Some(control_message::Body::Request(_)) => {
                return Err(NetError::Protocol("a server sent a request".into()));
            }
            Some(control_message::Body::Heartbeat(_)) | None => {}
        }
        Ok(())
    }

    /// Sends a request; its reply comes through what is returned. When this is ready the request is on its way before
    /// anything that is sent later.
    async fn start_request(&self, body: request::Body) -> Result<oneshot::Receiver<proto::Reply>, NetError> {
        let (send, receive) = oneshot::channel();
        // held while the request is queued: the server takes a number that is behind for a repetition
        let mut next = self.next_request.lock().await;
        let number = *next;
        self.replies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number, send);
        let message = proto::Request {
            number,
            body: Some(body),
        };
        self.link.control.send(control_message::Body::Request(message)).await?;
        *next = number.saturating_add(1);
        Ok(receive)
    }

    /// Waits for the reply to a request.
    ///
    /// # Errors
    /// [`NetError::Refused`] for a reply of another family than success.
    async fn reply(&self, reply: oneshot::Receiver<proto::Reply>) -> Result<proto::Reply, NetError> {
        let reply = tokio::select! {
            biased;
            reply = reply => reply.map_err(|_| NetError::lost("the session is over"))?,
            why = self.link.down() => return Err(why),
        };
        if Code::from_wire(reply.code).is_success() {
            Ok(reply)
        } else {
            Err(refused(reply.code, reply.text))
        }
    }

    /// Sends a request and waits for its reply.
    async fn request(&self, body: request::Body) -> Result<proto::Reply, NetError> {
        let reply = self.start_request(body).await?;
        self.reply(reply).await
    }

    /// The server, as `host:port`.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// What an entry is, and with `hash` its BLAKE3 hash.
    ///
    /// # Errors
    /// [`NetError`], here and below: refused, or lost on the way.
    pub async fn stat(&self, path: &[u8], hash: bool) -> Result<(Entry, Option<[u8; 32]>), NetError> {
        let path = path.to_vec();
        let reply = self.request(request::Body::Stat(proto::Stat { path, hash })).await?;
        match reply.body {
            Some(reply::Body::Entry(found)) => Ok(entry::from_wire(found)?),
            _ => Err(NetError::Protocol("a reply to stat has no entry".into())),
        }
    }

    /// A page of a directory from `cookie` on (empty: the start); the second value is where the next one starts.
    pub async fn list(&self, path: &[u8], cookie: Vec<u8>) -> Result<(Vec<Entry>, Option<Vec<u8>>), NetError> {
        let list = proto::List {
            path: path.to_vec(),
            cookie,
            limit: 0,
        };
        let reply = self.request(request::Body::List(list)).await?;
        let Some(reply::Body::List(page)) = reply.body else {
            return Err(NetError::Protocol("a reply to list has no page".into()));
        };
        let entries = page.entries.into_iter().map(|e| Ok(entry::from_wire(e)?.0));
        let entries = entries.collect::<Result<Vec<Entry>, NetError>>()?;
        Ok((entries, Some(page.cookie).filter(|c| !c.is_empty())))
    }

    /// Makes a directory; with `parents` those above it too.
    pub async fn make_dir(&self, path: &[u8], parents: bool) -> Result<(), NetError> {
        let path = path.to_vec();
        self.request(request::Body::MakeDirectory(proto::MakeDirectory { path, parents }))
            .await
            .map(drop)
    }

    /// Removes an entry; with `recursive` everything in it too.
    pub async fn remove(&self, path: &[u8], recursive: bool) -> Result<(), NetError> {
        let path = path.to_vec();
        self.request(request::Body::Remove(proto::Remove { path, recursive }))
            .await
            .map(drop)
    }

    /// Renames an entry; into `to` where that is a directory.
    pub async fn rename(&self, from: &[u8], to: &[u8]) -> Result<(), NetError> {
        let (from, to) = (from.to_vec(), to.to_vec());
        self.request(request::Body::Rename(proto::Rename { from, to }))
            .await
            .map(drop)
    }

    /// Sizes of what holds `path`.
    pub async fn space(&self, path: &[u8]) -> Result<Space, NetError> {
        let path = path.to_vec();
        let reply = self.request(request::Body::Space(proto::Space { path })).await?;
        match reply.body {
            Some(reply::Body::Space(space)) => Ok(entry::space_from_wire(&space)),
            _ => Err(NetError::Protocol("a reply to space has no sizes".into())),
        }
    }

    /// Puts sources to `destination`. `names` has for each what it is called there when the destination is a
    /// directory (empty: its contents go there); `directory` says that it must be one.
    pub async fn put(
        self: &Arc<Client>,
        sources: Vec<Source>,
        (destination, directory, names): (&[u8], bool, Vec<Vec<u8>>),
        options: Options,
        reporter: Reporter,
    ) -> Result<(), NetError> {
        let transfer = self.next_transfer.fetch_add(1, Ordering::Relaxed);
        let seat = self.link.join(transfer)?;
        let put = proto::Put {
            transfer,
            destination: destination.to_vec(),
            directory,
            names,
            options: Some(options.to_wire()),
        };
        self.dial();
        let sent = sender::send(seat, sources, options, reporter);
        self.with_start(transfer, request::Body::Put(put), sent).await
    }

    /// Gets remote paths into `target`, which has a place for each; `label` is what the user calls it.
    pub async fn get(
        self: &Arc<Client>,
        sources: Vec<Vec<u8>>,
        (target, label): (Target, Vec<u8>),
        options: Options,
        reporter: Reporter,
    ) -> Result<(), NetError> {
        let transfer = self.next_transfer.fetch_add(1, Ordering::Relaxed);
        let seat = self.link.join(transfer)?;
        let get = proto::Get {
            transfer,
            sources,
            options: Some(options.to_wire()),
        };
        self.dial();
        let received = receiver::receive(seat, target, label, options, reporter);
        self.with_start(transfer, request::Body::Get(get), received).await
    }

    /// Runs a transfer after the request that starts it has been sent, without waiting for its reply: a refused
    /// request ends both. The server is told of an end that it does not know of.
    async fn with_start(
        &self,
        number: u32,
        body: request::Body,
        transfer: impl Future<Output = Result<(), NetError>>,
    ) -> Result<(), NetError> {
        let started = self.start_request(body).await?;
        tokio::pin!(transfer);
        let result = tokio::select! {
            result = &mut transfer => result,
            started = self.reply(started) => match started {
                Ok(_) => transfer.await,
                Err(e) => return Err(e),
            }
        };
        if let Err(e) = &result
            && !self.link.is_down()
        {
            let (code, text) = e.to_wire();
            let cancel = proto::transfer_message::Body::Cancel(proto::Cancel {
                code: u32::from(code.0),
                text,
            });
            let message = proto::TransferMessage {
                transfer: number,
                body: Some(cancel),
            };
            let _ = self.link.control.send(control_message::Body::Transfer(message)).await;
        }
        result
    }

    /// Says goodbye.
    pub async fn quit(&self) {
        let bye = self.request(request::Body::Quit(proto::Quit {}));
        let _ = timeout(Duration::from_secs(2), bye).await;
        self.link.shut_down(NetError::lost("logged out"));
    }

    /// Starts to keep up as many data connections as there are to be.
    fn dial(self: &Arc<Client>) {
        let wanted = self.connections.load(Ordering::Relaxed);
        while self.dialled.fetch_add(1, Ordering::Relaxed) < wanted {
            let client = Arc::downgrade(self);
            tokio::spawn(async move {
                let mut failures = 0;
                while let Some(client) = client.upgrade().filter(|c| !c.link.is_down()) {
                    match client.data_connection().await {
                        Ok(owner) => {
                            let since = Instant::now();
                            let link = client.link.clone();
                            drop(client);
                            if let Ok(Err(e @ NetError::Protocol(_))) = owner.await {
                                return link.shut_down(e);
                            }
                            // one that did not last is no success: a pause comes before the next
                            if since.elapsed() > HANDSHAKE_TIMEOUT {
                                failures = 0;
                            } else {
                                failures += 1;
                                tokio::time::sleep(pause(failures)).await;
                            }
                        }
                        Err(e) => {
                            failures += 1;
                            if matches!(e, NetError::WrongKey { .. }) {
                                return client.link.shut_down(e);
                            }
                            if failures > DIALS {
                                return client.gave_up_dialling(e);
                            }
                            tracing::debug!(error = %e, failures, "no data connection");
                            drop(client);
                            tokio::time::sleep(pause(failures)).await;
                        }
                    }
                }
            });
        }
        self.dialled.fetch_sub(1, Ordering::Relaxed);
    }

    /// One of the dialled connections cannot be kept up. When the last one cannot, the session is over.
    fn gave_up_dialling(&self, error: NetError) {
        let hopeless = self.hopeless.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if hopeless >= self.dialled.load(Ordering::Relaxed) && self.link.pool().alive() == 0 {
            self.link.shut_down(error);
        }
    }

    /// Dials, shakes hands, proves, and adds to the pool.
    async fn data_connection(&self) -> Result<tokio::task::JoinHandle<Result<(), NetError>>, NetError> {
        let Some(data) = &self.data else {
            return Err(NetError::lost("not logged in"));
        };
        let pool = self.link.pool();
        let attach = async {
            let connected = TcpStream::connect(data.address).await;
            let tcp = connected.map_err(|source| NetError::Connect {
                server: self.server.clone(),
                source,
            })?;
            tls::tune(&tcp, Role::Data);
            let connection = DataConnection::connect(tcp, data.config.clone()).await;
            let connection = connection.map_err(|e| data.pin.explain(e))?;
            let (mut reader, mut writer) = connection.split(pool.buffers().clone());
            let n = data.next.fetch_add(1, Ordering::Relaxed);
            let proof = hmac::sign(&data.proof_key, &Attach::signed(&data.session, n));
            let mut attach = Attach {
                session: data.session,
                n,
                proof: [0; 32],
            };
            attach.proof.copy_from_slice(proof.as_ref());
            writer.write_raw(&attach.encode()).await?;
            match reader.next().await? {
                Some((header, _)) if header.kind == FrameKind::Attached => Ok((reader, writer)),
                _ => Err(NetError::lost("the server did not accept a data connection")),
            }
        };
        match timeout(HANDSHAKE_TIMEOUT, attach).await {
            Ok(attached) => {
                let (reader, writer) = attached?;
                Ok(pool.add(reader, writer))
            }
            Err(_) => Err(NetError::lost("a data connection was not accepted within 10 s")),
        }
    }
}

/// Doubles with every failure, and is off by up to half in either direction, so that not all come back at once.
fn pause(failures: u32) -> Duration {
    let base = DIAL_PAUSE.saturating_mul(1 << failures.min(6));
    let mut byte = [0];
    let _ = SystemRandom::new().fill(&mut byte);
    let [jitter] = byte;
    base.saturating_mul(128 + u32::from(jitter)) / 256
}

impl Drop for Client {
    fn drop(&mut self) {
        self.link.shut_down(NetError::lost("logged out"));
    }
}
