//! A session's conversation: requests in, replies out, over one control connection after another.

use crate::auth::user::Access;
use crate::net::control::codec::{read_encoded, refused};
use crate::net::control::queue::{ControlQueue, write_messages};
use crate::net::control::replay::Replay;
use crate::net::error::NetError;
use crate::net::server::Server;
use crate::net::server::login::{Accepted, Reattached, answer, send};
use crate::net::server::requests::{self, Work};
use crate::net::server::session::{ReplyCache, Seen, Session};
use crate::net::session::channel::TransferChannel;
use crate::net::session::router::MessageRoom;
use crate::net::wire::proto::{self, control_message::Body, reply, request};
use crate::net::wire::{Code, MAX_CONTROL};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

/// Requests that wait for those before them; a client that sends more waits too.
const QUEUE: usize = 64;
/// How long what is queued at the end of a session may take to go out.
const FAREWELL: Duration = Duration::from_millis(500);

/// What a conversation needs, whichever connection carries it.
struct Conversation {
    session: Arc<Session>,
    replay: Replay,
    cache: Arc<Mutex<ReplyCache>>,
    work: mpsc::Sender<Work>,
    /// The client has said goodbye: it does not wait for an answer.
    leaves: AtomicBool,
}

/// Replies to the login, then reads until the session is over. When the connection is lost, it waits for the next one as
/// long as the server's grace allows.
pub(super) async fn converse(server: &Arc<Server>, login: Accepted) -> Result<(), NetError> {
    let Accepted {
        session,
        mut queue,
        tls,
        number,
        mut reattached,
        counts: (sent, received),
        reserved,
        ..
    } = login;
    let cache = Arc::new(Mutex::new(ReplyCache::default()));
    let _ = cache.lock().look_up(number);
    let mut reply = answer(number, Code::LOGGED_IN, "logged in");
    reply.body = Some(reply::Body::Login(proto::LoginReply {
        window: reserved.window(),
        connections: u32::try_from(session.most_connections).unwrap_or(1),
        features: 0,
        read_only: session.grant.access() == Access::ReadOnly,
        write_only: session.grant.access() == Access::WriteOnly,
    }));
    session.core.control.send(Body::Reply(reply)).await?;
    let (work, todo) = mpsc::channel(QUEUE);
    let answering = requests::process(server.clone(), session.clone(), cache.clone(), todo);
    let worker = session.core.tasks().spawn("requests", answering);
    let conversation = Conversation {
        session: session.clone(),
        replay: Replay::new(sent, received, reserved.most_outgoing()),
        cache,
        work,
        leaves: AtomicBool::new(false),
    };
    let ended = conversation
        .run(tls, &mut queue, &mut reattached, server.config.limits.grace)
        .await;
    drop(worker);
    session.core.shut_down(NetError::lost("the session is over"));
    ended
}

/// How a session ended that is over for this reason.
fn ended(why: NetError) -> Result<(), NetError> {
    match why {
        NetError::Refused { code: Code::BYE, .. } => Ok(()),
        why => Err(why),
    }
}

impl Conversation {
    async fn run(
        &self,
        tls: TlsStream<TcpStream>,
        queue: &mut ControlQueue,
        reattached: &mut mpsc::Receiver<Reattached>,
        grace: Duration,
    ) -> Result<(), NetError> {
        let (mut tls, mut first) = (tls, Vec::new());
        loop {
            let mut next = tokio::select! {
                ended = self.carry(tls, first, queue) => match ended {
                    Err(e @ NetError::Lost(_)) if !self.session.core.is_down() => {
                        if !self.leaves.load(Ordering::Relaxed) {
                            let (who, from) = (&self.session.who, self.session.grant.address());
                            tracing::info!(%who, %from, error = %e, "control connection lost");
                        }
                        None
                    }
                    ended => return ended,
                },
                // the client has noticed first
                next = reattached.recv() => next,
            };
            self.session.core.set_attached(false);
            // one that is lost again before it was answered is followed by another
            loop {
                let Some(Reattached {
                    tls: mut connection,
                    received,
                }) = (match next.take() {
                    Some(next) => Some(next),
                    None => match self.next(reattached, grace).await {
                        Ok(next) => next,
                        Err(why) => return ended(why),
                    },
                })
                else {
                    return Err(NetError::lost("the client did not come back"));
                };
                let mut missed = Vec::new();
                if let Err(e) = self.replay.resend(received, &mut missed) {
                    // the end of this connection, and not of the session
                    tracing::debug!(who = %self.session.who, error = %e, "a re-attachment makes no sense");
                    continue;
                }
                let mut reply = answer(0, Code::CHANGED, "the session goes on");
                let received = self.replay.count();
                reply.body = Some(reply::Body::Reattach(proto::ReattachReply { received }));
                if matches!(timeout(FAREWELL * 10, send(&mut connection, reply)).await, Ok(Ok(()))) {
                    (tls, first) = (connection, missed);
                    break;
                }
            }
            self.session.core.set_attached(true);
        }
    }

    async fn next(
        &self,
        reattached: &mut mpsc::Receiver<Reattached>,
        grace: Duration,
    ) -> Result<Option<Reattached>, NetError> {
        tokio::select! {
            next = timeout(grace, reattached.recv()) => Ok(next.ok().flatten()),
            why = self.session.core.down() => Err(why),
        }
    }

    /// Messages both ways over one connection, until it ends.
    async fn carry(
        &self,
        tls: TlsStream<TcpStream>,
        first: Vec<u8>,
        queue: &mut ControlQueue,
    ) -> Result<(), NetError> {
        let (mut reader, mut writer) = tokio::io::split(tls);
        let write = write_messages(&mut writer, first, queue, &self.replay);
        tokio::pin!(write);
        let (core, mut is_written) = (&self.session.core, false);
        tokio::select! {
            ended = core.tasks().guard("read", Box::pin(self.read_all(&mut reader))) => if !core.is_down() {
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
        // What is queued, the last reply above all, goes out; a peer that takes nothing does not hold this up.
        let farewell = async {
            if !is_written {
                let _ = write.await;
            }
            // closed with something unread, the connection would be reset, and what went out perhaps lost
            if ended.is_err() {
                let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
            }
        };
        let _ = timeout(FAREWELL, farewell).await;
        ended
    }

    async fn read_all(&self, reader: &mut tokio::io::ReadHalf<TlsStream<TcpStream>>) -> Result<(), NetError> {
        loop {
            let encoded = read_encoded(reader, MAX_CONTROL).await?;
            if let Some(received) = encoded.heartbeat() {
                self.replay.confirmed(received)?;
                continue;
            }
            let length = encoded.length();
            let room = self.session.core.room_for(&encoded).await;
            let message = encoded.decode()?;
            match message.body {
                Some(Body::Heartbeat(heartbeat)) => {
                    self.replay.confirmed(heartbeat.received)?;
                    continue;
                }
                Some(Body::Request(request)) => self.request(request, room).await?,
                Some(Body::Transfer(message)) => self.session.core.deliver(message, room),
                Some(Body::End(end)) => return Err(refused(end.code, end.text)),
                Some(Body::Reply(_)) => return Err(NetError::Protocol("a client sent a reply".into())),
                None => {}
            }
            self.replay.received(length);
        }
    }

    /// Passes a request on. When this is cancelled the request has not been seen.
    async fn request(&self, request: proto::Request, message: MessageRoom) -> Result<(), NetError> {
        let over = |_| NetError::lost("the session is over");
        if matches!(request.body, Some(request::Body::Quit(_))) {
            self.leaves.store(true, Ordering::Relaxed);
        }
        let room = self.work.reserve().await.map_err(over)?;
        let seen = self.cache.lock().look_up(request.number);
        let core = &self.session.core;
        match seen {
            Seen::Answered(reply) => {
                drop(room);
                core.control.send(Body::Reply(*reply)).await
            }
            Seen::Unanswered => Ok(()),
            Seen::No => {
                // A transfer takes part from here on, so that its first messages find it.
                let transfer = match &request.body {
                    Some(request::Body::Put(put)) => Some(put.transfer),
                    Some(request::Body::Get(get)) => Some(get.transfer),
                    _ => None,
                };
                let channel = match transfer.map(|number| TransferChannel::join(core, number)) {
                    Some(Err(e @ NetError::Protocol(_))) => return Err(e),
                    channel => channel,
                };
                room.send(Work {
                    request,
                    channel,
                    _room: message,
                });
                Ok(())
            }
        }
    }
}
