//! The client's control connection after its handshake: messages both ways, and its replacement
//! when it is lost.

use crate::net::client::backoff::{chance, pause};
use crate::net::client::connect::{LAST_WORDS, ask, shake_hands};
use crate::net::client::keys::Keys;
use crate::net::client::login::{Granted, Login};
use crate::net::client::options::SessionOptions;
use crate::net::client::outage::Outage;
use crate::net::client::router::{LOGIN, ReplyRouter};
use crate::net::control::codec::refused;
use crate::net::control::queue::{ControlQueue, write_messages};
use crate::net::control::replay::Replay;
use crate::net::error::{LossReason, NetError};
use crate::net::lanes::socket::Socket;
use crate::net::session::SessionCore;
use crate::net::session::inbound::next_message;
use crate::net::session::router::MessageRoom;
use crate::net::tls::socket::HANDSHAKE_TIMEOUT;
use crate::net::wire::Code;
use crate::net::wire::frame::ROLE_CONTROL;
use crate::net::wire::proto::{self, control_message::Body, reply, request};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::io::AsyncRead;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// Where the messages of a server go.
pub(super) struct Inbound {
    pub(super) core: Arc<SessionCore>,
    pub(super) login: Arc<Login>,
    pub(super) router: Arc<ReplyRouter>,
    /// Bytes that this side has outstanding at most.
    pub(super) most_credit: u64,
    /// The last window: its number, if it is to be confirmed, and its bytes.
    pub(super) asked: watch::Sender<(u64, u64)>,
    /// Where the user sees what is waited for.
    pub(super) outage: Arc<Outage>,
}

/// Confirms windows that the server asks for, once no more than that is outstanding. What `relays`
/// passes on is outstanding elsewhere, too, and confirms nothing.
pub(super) async fn confirm(
    core: Arc<SessionCore>,
    mut asked: watch::Receiver<(u64, u64)>,
    relays: Arc<AtomicBool>,
) {
    loop {
        let (number, bytes) = *asked.borrow_and_update();
        if number > 0 && !relays.load(Ordering::Relaxed) {
            let settled = tokio::select! {
                changed = asked.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                () = core.settled_within(bytes) => proto::Window {
                    settled: number,
                    ..proto::Window::default()
                },
            };
            if core.send(Body::Window(settled)).await.is_err() {
                return;
            }
        }
        if asked.changed().await.is_err() {
            return;
        }
    }
}

impl Inbound {
    fn deliver(&self, message: Option<Body>, room: MessageRoom) -> Result<(), NetError> {
        match message {
            Some(Body::Reply(reply)) => {
                if reply.number == LOGIN {
                    self.answer_login(&reply)?;
                }
                self.router.route(reply);
                Ok(())
            }
            Some(Body::Transfer(message)) => {
                self.core.deliver(message, room);
                Ok(())
            }
            Some(Body::Request(_)) => Err(NetError::Protocol("a server sent a request".into())),
            Some(Body::End(end)) => Err(refused(end.code, end.text)),
            Some(Body::Window(window)) => {
                self.outage.wait_in_line(window.ahead);
                if window.bytes > 0 {
                    self.login.lent(window.bytes);
                    self.core.grant(window.bytes.min(self.most_credit));
                    self.asked.send_replace((window.number, window.bytes));
                }
                Ok(())
            }
            Some(Body::Heartbeat(_)) | None => Ok(()),
        }
    }

    fn answer_login(&self, reply: &proto::Reply) -> Result<(), NetError> {
        let answer = Granted::from_reply(reply)?;
        if let Ok(granted) = &answer {
            self.core.grant(granted.window.min(self.most_credit));
            self.core.peer_features(granted.features);
        }
        self.login.set(answer);
        Ok(())
    }
}

/// A new control connection of a session.
struct Reattached {
    tls: TlsStream<Socket>,
    /// The messages that the server has missed, encoded.
    missed: Vec<u8>,
}

/// Keeps a client's session attached to its server.
pub(super) struct Attachment {
    inbound: Inbound,
    replay: Replay,
    keys: Arc<Keys>,
    options: SessionOptions,
    /// The client is saying goodbye, and expects the server to close.
    leaving: AtomicBool,
    /// The user knows of a loss.
    already_reported: AtomicBool,
    /// No more messages are carried.
    ended: watch::Sender<bool>,
}

impl Attachment {
    pub(super) fn new(inbound: Inbound, keys: Arc<Keys>, options: SessionOptions) -> Attachment {
        Attachment {
            inbound,
            replay: Replay::new(0, 0),
            keys,
            options,
            leaving: AtomicBool::new(false),
            already_reported: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        }
    }

    /// From now on the end of the connection is no loss.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// True if the user knows that a connection was lost.
    pub(super) fn already_reported(&self) -> bool {
        self.already_reported.load(Ordering::Relaxed)
    }

    /// Waits until no more messages are carried.
    pub(super) async fn ended(&self) {
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Carries messages until the session is over.
    pub(super) async fn run(self: Arc<Attachment>, queue: ControlQueue, tls: TlsStream<Socket>) {
        let why = self.carry_all(queue, tls).await;
        self.ended.send_replace(true);
        self.inbound.core.shut_down(why);
    }

    /// Carries messages over one connection after another. Returns why the session ended.
    async fn carry_all(&self, mut queue: ControlQueue, tls: TlsStream<Socket>) -> NetError {
        let core = &self.inbound.core;
        let mut connection = Reattached {
            tls,
            missed: Vec::new(),
        };
        loop {
            let ended = self.carry(connection, &mut queue).await;
            core.set_attached(false);
            let why = match ended {
                Ok(()) => NetError::Lost(LossReason::SessionOver),
                Err(e) => e,
            };
            let over = core.is_down() || self.leaving.load(Ordering::Relaxed);
            if over || self.inbound.login.granted().is_none() || !matches!(why, NetError::Lost(_)) {
                return why;
            }
            match self.reattach(&why).await {
                Ok(reattached) => connection = reattached,
                Err(e) => return e,
            }
            core.set_attached(true);
        }
    }

    /// Carries messages both ways over one connection, until it ends.
    async fn carry(
        &self,
        connection: Reattached,
        queue: &mut ControlQueue,
    ) -> Result<(), NetError> {
        let (mut reader, mut writer) = tokio::io::split(connection.tls);
        let read = self.deliver_all(&mut reader);
        tokio::pin!(read);
        let written = tokio::select! {
            read = &mut read => return read,
            written =
                write_messages(&mut writer, connection.missed, queue, &self.replay) => written,
        };
        match written {
            // a server that takes no more may have said why
            Err(lost) => timeout(LAST_WORDS, read).await.unwrap_or(Err(lost)),
            Ok(()) => Ok(()),
        }
    }

    /// Delivers what comes over one connection, until it ends.
    async fn deliver_all(&self, reader: &mut (impl AsyncRead + Unpin)) -> Result<(), NetError> {
        let core = &self.inbound.core;
        loop {
            let message = next_message(reader, &self.replay, core).await?;
            self.inbound.deliver(message.body, message.room)?;
            core.progress();
            self.replay.received(message.length);
        }
    }

    /// Opens a new control connection for the session, and retries for as long as the user wants to
    /// wait.
    async fn reattach(&self, why: &NetError) -> Result<Reattached, NetError> {
        let core = &self.inbound.core;
        let lost_at = Instant::now();
        let _outage = self.options.outage.begin(lost_at);
        self.already_reported.store(true, Ordering::Relaxed);
        (self.options.notify)(&format!("{}: {why}; trying again", self.keys.route.server()));
        let mut failures = 0;
        loop {
            let reattached = tokio::select! {
                reattached = self.try_once() => reattached,
                over = core.down() => return Err(over),
            };
            match reattached {
                Ok(reattached) => return Ok(reattached),
                Err(e @ NetError::Lost(LossReason::SessionForgotten)) => return Err(e),
                Err(e) if matches!(e, NetError::Lost(_)) || e.is_unreachable() => {
                    tracing::debug!(error = %e, failures, "not attached again");
                    if lost_at.elapsed().min(core.stalled()) >= self.options.retry_for {
                        return Err(e);
                    }
                }
                Err(NetError::Refused {
                    code: Code::NO_SESSION,
                    ..
                }) => return Err(NetError::Lost(LossReason::SessionForgotten)),
                Err(e) => return Err(e),
            }
            failures += 1;
            let pause = pause(failures, chance()).min(self.options.retry_for);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                over = core.down() => return Err(over),
            }
        }
    }

    async fn try_once(&self) -> Result<Reattached, NetError> {
        let keys = &self.keys;
        let mut tls = shake_hands(&keys.route, &keys.pin, None).await?;
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
        let asked = timeout(HANDSHAKE_TIMEOUT, ask(&mut tls, request)).await;
        let reply = asked.unwrap_or_else(|_| Err(NetError::Lost(LossReason::ReattachTimeout)))?;
        match reply.body {
            Some(reply::Body::Reattach(reattached)) => {
                let mut missed = Vec::new();
                self.replay.resend(reattached.received, &mut missed)?;
                Ok(Reattached { tls, missed })
            }
            _ => Err(refused(reply.code, reply.text)),
        }
    }
}
