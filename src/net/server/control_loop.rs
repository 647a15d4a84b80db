//! The control connection of a session: requests in, replies out, over one connection after
//! another.

use crate::auth::user::Access;
use crate::net::control::codec::refused;
use crate::net::control::queue::{ControlQueue, write_messages};
use crate::net::control::replay::Replay;
use crate::net::error::{LossReason, NetError};
use crate::net::lanes::socket::Socket;
use crate::net::server::config::Config;
use crate::net::server::login::Accepted;
use crate::net::server::new_session::NewSession;
use crate::net::server::registry::Registry;
use crate::net::server::reply::{reply, send};
use crate::net::server::reply_cache::{ReplyCache, Seen};
use crate::net::server::requests::{Work, Worker};
use crate::net::server::session::{Reattached, Session};
use crate::net::session::channel::TransferChannel;
use crate::net::session::inbound::{Inbound, next_message};
use crate::net::session::router::MessageRoom;
use crate::net::wire::proto::{self, control_message::Body, reply, request};
use crate::net::wire::{Code, FEATURE_COMPRESSION, FEATURE_SENDING, INITIAL_WINDOW};
use crate::store::shares::Share;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::ReadHalf;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

/// Requests that may wait for those before them; then the connection waits too.
const QUEUE: usize = 64;
/// How long the queue may take to go out at the end of a session.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long the reply to a re-attachment may take to go out.
const REATTACH_REPLY: Duration = Duration::from_secs(5);

/// A session whose login was accepted, and the connection of that login.
pub(super) struct ControlLoop {
    conversation: Conversation,
    config: Arc<Config>,
    registry: Arc<Registry>,
    todo: mpsc::Receiver<Box<Work>>,
    queue: ControlQueue,
    reattached: mpsc::Receiver<Box<Reattached>>,
    first: Connection,
    login: LoginReply,
}

/// The reply to a login, and the number of its request.
struct LoginReply {
    number: u64,
    body: proto::LoginReply,
}

/// A control connection, and what goes out over it first.
struct Connection {
    tls: Box<TlsStream<Socket>>,
    missed: Vec<u8>,
}

/// The state of a session's conversation, over whichever connection.
struct Conversation {
    session: Arc<Session>,
    replay: Replay,
    cache: Arc<Mutex<ReplyCache>>,
    work: mpsc::Sender<Box<Work>>,
    /// The client has said goodbye: it does not wait for an answer.
    leaves: AtomicBool,
}

/// Splits an accepted login into its control loop and its place.
pub(super) fn begin(
    config: &Arc<Config>,
    registry: &Arc<Registry>,
    accepted: Accepted,
) -> (ControlLoop, Share) {
    let Accepted {
        new,
        tls,
        number,
        before,
    } = accepted;
    let NewSession {
        session,
        place,
        queue,
        reattached,
        ..
    } = new;
    let cache = Arc::new(Mutex::new(ReplyCache::default()));
    let _ = cache.lock().begin(number);
    let (work, todo) = mpsc::channel(QUEUE);
    let login = LoginReply {
        number,
        body: proto::LoginReply {
            // the server says when it lends more
            window: INITIAL_WINDOW,
            connections: u32::try_from(session.most_connections).unwrap_or(1),
            features: match config.outbound {
                Some(_) => FEATURE_COMPRESSION | FEATURE_SENDING,
                None => FEATURE_COMPRESSION,
            },
            read_only: session.grant.access() == Access::ReadOnly,
            write_only: session.grant.access() == Access::WriteOnly,
            store: config.about.clone(),
        },
    };
    let conversation = Conversation {
        session,
        replay: Replay::new(before.sent, before.received),
        cache,
        work,
        leaves: AtomicBool::new(false),
    };
    let control_loop = ControlLoop {
        conversation,
        config: config.clone(),
        registry: registry.clone(),
        todo,
        queue,
        reattached,
        first: Connection {
            tls,
            missed: Vec::new(),
        },
        login,
    };
    (control_loop, place)
}

impl ControlLoop {
    /// Replies to the login, then carries messages until the session is over. After a lost
    /// connection it waits for the next one, for the server's grace.
    ///
    /// # Errors
    /// Why the session is over, unless the client said goodbye.
    pub(super) async fn run(self) -> Result<(), NetError> {
        let ControlLoop {
            conversation,
            config,
            registry,
            todo,
            mut queue,
            mut reattached,
            first,
            login,
        } = self;
        let core = conversation.session.core.clone();
        let mut reply = reply(login.number, Code::LOGGED_IN, "logged in");
        reply.body = Some(reply::Body::Login(login.body));
        core.control.send(Body::Reply(reply)).await?;
        let grace = config.limits.grace;
        let worker = Worker {
            config,
            registry,
            session: conversation.session.clone(),
            cache: conversation.cache.clone(),
        };
        let worker = core.tasks().spawn("requests", worker.process(todo));
        let ended = conversation.run(first, &mut queue, &mut reattached, grace).await;
        drop(worker);
        core.shut_down(NetError::Lost(LossReason::SessionOver));
        ended
    }
}

/// The result of a session that is over for this reason.
fn ended(why: NetError) -> Result<(), NetError> {
    match why {
        NetError::Refused {
            code: Code::BYE, ..
        } => Ok(()),
        why => Err(why),
    }
}

impl Conversation {
    async fn run(
        &self,
        first: Connection,
        queue: &mut ControlQueue,
        reattached: &mut mpsc::Receiver<Box<Reattached>>,
        grace: Duration,
    ) -> Result<(), NetError> {
        let mut connection = first;
        loop {
            let next = tokio::select! {
                ended = self.carry(connection, queue) => match ended {
                    Err(e @ NetError::Lost(_)) if !self.session.core.is_down() => {
                        self.log_lost(&e);
                        None
                    }
                    ended => return ended,
                },
                // the client has noticed first
                next = reattached.recv() => next,
            };
            self.session.core.set_attached(false);
            connection = match self.resume(next, reattached, grace).await {
                Ok(connection) => connection,
                Err(why) => return ended(why),
            };
            self.session.core.set_attached(true);
        }
    }

    fn log_lost(&self, error: &NetError) {
        if !self.leaves.load(Ordering::Relaxed) {
            let (who, from) = (&self.session.who, self.session.grant.address());
            tracing::info!(%who, %from, %error, "control connection lost");
        }
    }

    /// The next connection that resumes the session: `next`, if that is good, or another one.
    async fn resume(
        &self,
        mut next: Option<Box<Reattached>>,
        reattached: &mut mpsc::Receiver<Box<Reattached>>,
        grace: Duration,
    ) -> Result<Connection, NetError> {
        // a connection that is lost again before its answer is followed by another
        loop {
            let candidate = match next.take() {
                Some(next) => next,
                None => tokio::select! {
                    next = timeout(grace, reattached.recv()) => {
                        next.ok().flatten().ok_or(NetError::Lost(LossReason::ClientGone))?
                    }
                    why = self.session.core.down() => return Err(why),
                },
            };
            if let Some(connection) = self.accept(candidate).await {
                return Ok(connection);
            }
        }
    }

    /// Answers a re-attachment; `None` if that fails.
    async fn accept(&self, candidate: Box<Reattached>) -> Option<Connection> {
        let Reattached { mut tls, received } = *candidate;
        let mut missed = Vec::new();
        if let Err(e) = self.replay.resend(received, &mut missed) {
            // it ends this connection, and not the session
            tracing::debug!(who = %self.session.who, error = %e, "a re-attachment makes no sense");
            return None;
        }
        let mut reply = reply(0, Code::CHANGED, "the session continues");
        let received = self.replay.count();
        reply.body = Some(reply::Body::Reattach(proto::ReattachReply { received }));
        let sent = timeout(REATTACH_REPLY, send(&mut tls, reply)).await;
        matches!(sent, Ok(Ok(()))).then_some(Connection { tls, missed })
    }

    /// Carries messages both ways over one connection, until it ends.
    async fn carry(
        &self,
        connection: Connection,
        queue: &mut ControlQueue,
    ) -> Result<(), NetError> {
        let (mut reader, mut writer) = tokio::io::split(connection.tls);
        let write = write_messages(&mut writer, connection.missed, queue, &self.replay);
        tokio::pin!(write);
        let (core, mut is_written) = (&self.session.core, false);
        let read = core.tasks().guard("read", Box::pin(self.read_all(&mut reader)));
        tokio::select! {
            ended = read => if !core.is_down() {
                return ended.flatten();
            },
            written = &mut write => {
                if !core.is_down() {
                    return written;
                }
                is_written = true;
            }
            _ = core.down() => {}
        }
        let ended = ended(core.down().await);
        // The queue goes out, the last reply above all; a peer that takes nothing does not hold
        // this up.
        let farewell = async {
            if !is_written {
                let _ = write.await;
            }
            // Closed with unread bytes, the connection would be reset, and the last messages
            // perhaps lost.
            if ended.is_err() {
                let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
            }
        };
        let _ = timeout(FAREWELL, farewell).await;
        ended
    }

    async fn read_all(
        &self,
        reader: &mut ReadHalf<Box<TlsStream<Socket>>>,
    ) -> Result<(), NetError> {
        loop {
            let Inbound { body, room, length } =
                next_message(reader, &self.replay, &self.session.core).await?;
            match body {
                Some(Body::Request(request)) => self.request(request, room).await?,
                Some(Body::Transfer(message)) => self.session.core.deliver(message, room),
                Some(Body::End(end)) => return Err(refused(end.code, end.text)),
                Some(Body::Reply(_)) => {
                    return Err(NetError::Protocol("a client sent a reply".into()));
                }
                Some(Body::Window(window)) => self.session.window_came(window),
                Some(Body::Heartbeat(_)) | None => {}
            }
            self.replay.received(length);
        }
    }

    /// Passes a request on. If this is cancelled the request has not been seen.
    async fn request(&self, request: proto::Request, message: MessageRoom) -> Result<(), NetError> {
        let over = |_| NetError::Lost(LossReason::SessionOver);
        if matches!(request.body, Some(request::Body::Quit(_))) {
            self.leaves.store(true, Ordering::Relaxed);
        }
        let room = self.work.reserve().await.map_err(over)?;
        let seen = self.cache.lock().begin(request.number);
        let core = &self.session.core;
        match seen {
            Seen::Answered(reply) => {
                drop(room);
                core.control.send(Body::Reply(*reply)).await
            }
            Seen::Unanswered => Ok(()),
            Seen::No => {
                // A transfer takes part from here on, so that its first messages find it.
                let transfer = request.body.as_ref().and_then(|body| body.facts().transfer);
                let channel = match transfer.map(|number| TransferChannel::join(core, number)) {
                    Some(Err(e @ NetError::Protocol(_))) => return Err(e),
                    channel => channel,
                };
                room.send(Box::new(Work {
                    request,
                    channel,
                    _room: message,
                }));
                Ok(())
            }
        }
    }
}
