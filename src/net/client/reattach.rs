//! The client's control connection after its handshake: messages both ways, and going on over another one when it is
//! lost.

use crate::auth::Fingerprint;
use crate::net::client::Client;
use crate::net::client::connect::{SessionOptions, shake_hands};
use crate::net::client::dialer::pause;
use crate::net::control::codec::{encode, read_encoded, read_message, refused};
use crate::net::control::queue::{ControlQueue, MOST_OUTGOING, write_messages};
use crate::net::control::replay::Replay;
use crate::net::error::NetError;
use crate::net::session::SessionCore;
use crate::net::tls::config;
use crate::net::tls::pin::Pin;
use crate::net::tls::socket::HANDSHAKE_TIMEOUT;
use crate::net::wire::frame::{Attach, ROLE_CONTROL};
use crate::net::wire::proto::{self, ControlMessage, control_message::Body, reply, request};
use crate::net::wire::{ALPN_DATA, Code, MAX_CONTROL};
use parking_lot::Mutex;
use ring::hmac;
use rustls::ClientConfig;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// How long to read what a server has sent that takes no more.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What it takes to dial the server again, and to prove that a connection belongs to the session.
pub(super) struct Keys {
    host: String,
    port: u16,
    address: Mutex<SocketAddr>,
    /// For data connections.
    pub(super) config: Arc<ClientConfig>,
    pub(super) pin: Arc<Pin>,
    session: [u8; 16],
    proof_key: hmac::Key,
    next: AtomicU32,
}

impl Keys {
    /// For the session with this id on the server with this key; `exported` keys the proofs.
    pub(super) fn new(
        (host, port): (&str, u16),
        address: SocketAddr,
        key: Fingerprint,
        session: [u8; 16],
        exported: &[u8],
    ) -> Result<Keys, NetError> {
        let pin = Pin::new(Some(key));
        Ok(Keys {
            host: host.to_string(),
            port,
            address: Mutex::new(address),
            config: config::client_config(ALPN_DATA, &pin, None)?,
            pin,
            session,
            proof_key: hmac::Key::new(hmac::HMAC_SHA256, exported),
            next: AtomicU32::new(1),
        })
    }

    /// Where the server was reached last.
    pub(super) fn address(&self) -> SocketAddr {
        *self.address.lock()
    }

    /// A proof that no connection has used yet.
    pub(super) fn proof(&self, role: u8) -> Attach {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let tag = hmac::sign(&self.proof_key, &Attach::signed(role, &self.session, n));
        let mut attach = Attach {
            session: self.session,
            n,
            proof: [0; 32],
        };
        attach.proof.copy_from_slice(tag.as_ref());
        attach
    }
}

/// Keeps a client's session attached to its server.
pub(super) struct Attachment {
    core: Arc<SessionCore>,
    replay: Replay,
    keys: Option<Arc<Keys>>,
    options: SessionOptions,
    /// There is a session to go on with.
    established: AtomicBool,
    /// The client is saying goodbye: that the server closes is what it expects.
    leaving: AtomicBool,
    /// The user was told of a loss.
    already_reported: AtomicBool,
    /// No more messages are carried.
    ended: watch::Sender<bool>,
}

impl Attachment {
    pub(super) fn new(core: Arc<SessionCore>, keys: Option<Arc<Keys>>, options: SessionOptions) -> Attachment {
        Attachment {
            core,
            replay: Replay::new(0, 0, MOST_OUTGOING),
            keys,
            options,
            established: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            already_reported: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        }
    }

    /// From now on there is a session.
    pub(super) fn logged_in(&self) {
        self.established.store(true, Ordering::Relaxed);
    }

    /// From now on the end of the connection is no loss.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the user was told that a connection was lost.
    pub(super) fn already_reported(&self) -> bool {
        self.already_reported.load(Ordering::Relaxed)
    }

    /// How long to try without progress.
    pub(super) fn retry_for(&self) -> Duration {
        self.options.retry_for
    }

    /// Waits until nothing is carried any more.
    pub(super) async fn ended(&self) {
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Carries messages until the session is over.
    pub(super) async fn run(
        self: Arc<Attachment>,
        client: Weak<Client>,
        queue: ControlQueue,
        tls: TlsStream<TcpStream>,
    ) {
        let why = self.carry_all(&client, queue, tls).await;
        self.ended.send_replace(true);
        self.core.shut_down(why);
    }

    /// Carries messages over one connection after another; gives the reason of the end.
    async fn carry_all(&self, client: &Weak<Client>, mut queue: ControlQueue, tls: TlsStream<TcpStream>) -> NetError {
        let (mut tls, mut first) = (tls, Vec::new());
        loop {
            let ended = self.carry(client, tls, first, &mut queue).await;
            self.core.set_attached(false);
            let why = match ended {
                Ok(()) => NetError::lost("the session is over"),
                Err(e) => e,
            };
            let over = self.core.is_down() || self.leaving.load(Ordering::Relaxed);
            if over || !self.established.load(Ordering::Relaxed) || !matches!(why, NetError::Lost(_)) {
                return why;
            }
            match self.reattach(why).await {
                Ok(reattached) => (tls, first) = reattached,
                Err(e) => return e,
            }
            self.core.set_attached(true);
        }
    }

    /// Messages both ways over one connection, until it ends.
    async fn carry(
        &self,
        client: &Weak<Client>,
        tls: TlsStream<TcpStream>,
        first: Vec<u8>,
        queue: &mut ControlQueue,
    ) -> Result<(), NetError> {
        let (mut reader, mut writer) = tokio::io::split(tls);
        let read = async {
            loop {
                let encoded = read_encoded(&mut reader, MAX_CONTROL).await?;
                if let Some(received) = encoded.heartbeat() {
                    self.replay.confirmed(received)?;
                    continue;
                }
                let length = encoded.length();
                let room = self.core.room_for(&encoded).await;
                let message = encoded.decode()?;
                if let Some(Body::Heartbeat(heartbeat)) = message.body {
                    self.replay.confirmed(heartbeat.received)?;
                    continue;
                }
                let Some(client) = client.upgrade() else { return Ok(()) };
                client.received(message, room)?;
                self.core.progress();
                self.replay.received(length);
            }
        };
        tokio::pin!(read);
        let written = tokio::select! {
            read = &mut read => return read,
            written = write_messages(&mut writer, first, queue, &self.replay) => written,
        };
        match written {
            // a server that takes no more may have said why
            Err(lost) => timeout(LAST_WORDS, read).await.unwrap_or(Err(lost)),
            Ok(()) => Ok(()),
        }
    }

    /// A new control connection for the session, and what is to be sent over it first.
    async fn reattach(&self, why: NetError) -> Result<(TlsStream<TcpStream>, Vec<u8>), NetError> {
        let Some(keys) = &self.keys else { return Err(why) };
        let lost_at = Instant::now();
        let _outage = self.options.outage.begin(lost_at);
        self.already_reported.store(true, Ordering::Relaxed);
        (self.options.notify)(&format!("{}:{}: {why}; trying again", keys.host, keys.port));
        let mut failures = 0;
        loop {
            let reattached = tokio::select! {
                reattached = self.try_once(keys) => reattached,
                over = self.core.down() => return Err(over),
            };
            match reattached {
                Ok(reattached) => return Ok(reattached),
                Err(e @ (NetError::Lost(_) | NetError::Connect { .. })) => {
                    tracing::debug!(error = %e, failures, "not attached again");
                    if lost_at.elapsed().min(self.core.stalled()) >= self.options.retry_for {
                        return Err(e);
                    }
                }
                Err(NetError::Refused {
                    code: Code::NO_SESSION, ..
                }) => return Err(NetError::lost("the server does not know the session any more")),
                Err(e) => return Err(e),
            }
            failures += 1;
            tokio::select! {
                () = tokio::time::sleep(pause(failures).min(self.options.retry_for)) => {}
                over = self.core.down() => return Err(over),
            }
        }
    }

    async fn try_once(&self, keys: &Keys) -> Result<(TlsStream<TcpStream>, Vec<u8>), NetError> {
        let (mut tls, address) = shake_hands(&keys.host, keys.port, &keys.pin, None).await?;
        *keys.address.lock() = address;
        let proof = keys.proof(ROLE_CONTROL);
        let reattach = proto::Reattach {
            session: proof.session.to_vec(),
            n: proof.n,
            proof: proof.proof.to_vec(),
            received: self.replay.count(),
        };
        let request = proto::Request {
            number: 0,
            body: Some(request::Body::Reattach(reattach)),
        };
        let mut out = Vec::new();
        let body = Some(Body::Request(request));
        encode(&ControlMessage { body }, &mut out)?;
        let asked = async {
            tls.write_all(&out).await.map_err(NetError::lost)?;
            tls.flush().await.map_err(NetError::lost)?;
            read_message(&mut tls).await
        };
        let asked = timeout(HANDSHAKE_TIMEOUT, asked).await;
        let (answer, _) = asked.unwrap_or_else(|_| Err(NetError::lost("the server did not answer within 10 s")))?;
        let Some(Body::Reply(answer)) = answer.body else {
            return Err(NetError::Protocol("an answer to a re-attachment is none".into()));
        };
        match answer.body {
            Some(reply::Body::Reattach(reattached)) => {
                let mut first = Vec::new();
                self.replay.resend(reattached.received, &mut first)?;
                Ok((tls, first))
            }
            _ => Err(refused(answer.code, answer.text)),
        }
    }
}
