//! A control connection before its session: logins, enrolments, and proofs that resume a session.

use crate::auth::PublicKey;
use crate::auth::name::MAX_USER;
use crate::net::control::codec::{read_encoded, read_or_skip};
use crate::net::error::{LossReason, NetError};
use crate::net::lanes::socket::Socket;
use crate::net::server::admission::Admission;
use crate::net::server::authenticate::authenticate;
use crate::net::server::config::Config;
use crate::net::server::enroll::enroll;
use crate::net::server::new_session::{self, Granted, NewSession};
use crate::net::server::refusal::{Denied, INTERNAL, REFUSED, Refusal, Rejection};
use crate::net::server::registry::Registry;
use crate::net::server::reply::{reply, send};
use crate::net::server::revocation;
use crate::net::server::session::{Reattached, Session};
use crate::net::task::Tasks;
use crate::net::wire::frame::{Attach, ROLE_CONTROL};
use crate::net::wire::proto::{self, control_message::Body, reply, request};
use crate::net::wire::{Code, EXPORTER_LABEL, MAX_CONTROL_BEFORE_LOGIN};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroize;

/// How long a control connection may take to log in.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the end of a connection may take to go out.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Logins that may be tried on one connection.
const TRIES: u32 = 3;
/// The answer to the proof for a session that does not exist, or not any more.
const NO_SESSION: Refusal = (Code::NO_SESSION, "no such session: log in again");

/// What a control connection has become.
pub(super) enum LoginOutcome {
    /// The first connection of a new session.
    Session(Box<Accepted>),
    /// The next connection of this session.
    Reattached(Arc<Session>, Box<Reattached>),
    /// It has gone.
    Closed,
}

/// A login that was accepted.
pub(super) struct Accepted {
    pub(super) new: NewSession,
    pub(super) tls: Box<TlsStream<Socket>>,
    /// The number of the login's request.
    pub(super) number: u64,
    /// Messages before the session began.
    pub(super) before: MessageCounts,
}

/// Messages that a connection carried, heartbeats not counted.
#[derive(Clone, Copy, Default)]
pub(super) struct MessageCounts {
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// What logins depend on.
#[derive(Clone, Copy)]
pub(super) struct Desk<'a> {
    pub(super) config: &'a Config,
    pub(super) registry: &'a Registry,
    pub(super) admission: &'a Admission,
}

/// Waits until the client has logged in, has resumed a session, or leaves.
///
/// # Errors
/// [`NetError::Lost`], also where it takes too long or fails too often; [`NetError::Protocol`].
pub(super) async fn open(
    desk: Desk<'_>,
    tls: Box<TlsStream<Socket>>,
    peer: SocketAddr,
) -> Result<LoginOutcome, NetError> {
    let certificates = tls.get_ref().1.peer_certificates();
    let key = certificates.and_then(|keys| keys.first()).map(|k| PublicKey::from_der(k));
    let stranger = Stranger {
        desk,
        tls,
        peer,
        key,
        counts: MessageCounts::default(),
        tries: 0,
    };
    let late = |_| NetError::Lost(LossReason::LoginTimeout);
    timeout(LOGIN_TIMEOUT, stranger.run()).await.map_err(late)?
}

/// A client that has not logged in.
struct Stranger<'a> {
    desk: Desk<'a>,
    tls: Box<TlsStream<Socket>>,
    peer: SocketAddr,
    /// The key of the handshake.
    key: Option<PublicKey>,
    counts: MessageCounts,
    /// Logins and enrolments that were refused.
    tries: u32,
}

/// The answer to a request before the login.
enum Answer {
    /// The login made a session.
    Session(Box<NewSession>),
    /// The client reattaches to a session, of which it has received so many messages.
    Reattached(Arc<Session>, u64),
    /// A reply, after which the client may ask further.
    Reply(proto::Reply),
    /// The last reply: the connection closes.
    Last(proto::Reply),
    /// A login or an enrolment that was refused.
    Refused(Refusal),
}

/// A message before the login.
enum Early {
    Request(Box<proto::Request>),
    Heartbeat,
    /// Sent right behind a login that was refused.
    Skipped,
}

impl Stranger<'_> {
    async fn run(mut self) -> Result<LoginOutcome, NetError> {
        loop {
            let request = match self.next().await? {
                Early::Request(request) => *request,
                // a login may have to wait for its turn
                Early::Heartbeat => continue,
                Early::Skipped => {
                    self.counts.received = self.counts.received.saturating_add(1);
                    continue;
                }
            };
            self.counts.received = self.counts.received.saturating_add(1);
            let number = request.number;
            match self.answer(number, request.body).await? {
                Answer::Session(new) => {
                    let accepted = Accepted {
                        new: *new,
                        tls: self.tls,
                        number,
                        before: self.counts,
                    };
                    return Ok(LoginOutcome::Session(Box::new(accepted)));
                }
                Answer::Reattached(session, received) => {
                    let tls = self.tls;
                    let reattached = Box::new(Reattached { tls, received });
                    return Ok(LoginOutcome::Reattached(session, reattached));
                }
                Answer::Last(last) => {
                    send(&mut self.tls, last).await?;
                    let _ = timeout(CLOSE_TIMEOUT, self.tls.shutdown()).await;
                    return Ok(LoginOutcome::Closed);
                }
                Answer::Reply(reply) => self.send(reply).await?,
                Answer::Refused((code, text)) => {
                    self.tries = self.tries.saturating_add(1);
                    self.send(reply(number, code, text)).await?;
                }
            }
            if self.tries >= TRIES {
                return Err(NetError::Lost(LossReason::TooManyLogins));
            }
        }
    }

    /// Reads the next message: only short ones, of which only requests are decoded. Messages that
    /// the client sent behind a refused login, before it knew, are skipped.
    async fn next(&mut self) -> Result<Early, NetError> {
        let is_refused = self.tries > 0;
        let encoded = match is_refused {
            true => read_or_skip(&mut self.tls, MAX_CONTROL_BEFORE_LOGIN).await?,
            false => Some(read_encoded(&mut self.tls, MAX_CONTROL_BEFORE_LOGIN).await?),
        };
        let unexpected = || NetError::Protocol("expected a request before the login".into());
        match encoded {
            Some(encoded) if encoded.heartbeat().is_some() => Ok(Early::Heartbeat),
            Some(encoded) if encoded.is_request() => match encoded.decode_secret()?.body {
                Some(Body::Request(request)) => Ok(Early::Request(Box::new(request))),
                _ => Err(unexpected()),
            },
            _ if is_refused => Ok(Early::Skipped),
            _ => Err(unexpected()),
        }
    }

    async fn send(&mut self, reply: proto::Reply) -> Result<(), NetError> {
        send(&mut self.tls, reply).await?;
        self.counts.sent = self.counts.sent.saturating_add(1);
        Ok(())
    }

    async fn answer(&self, number: u64, body: Option<request::Body>) -> Result<Answer, NetError> {
        let plain = |code, text: &str| Ok(Answer::Reply(reply(number, code, text)));
        let Some(body) = body else {
            return plain(Code::NOT_IMPLEMENTED, "unknown request");
        };
        if !body.facts().sender.is_allowed_before_login() {
            return plain(Code::LOGIN_REFUSED, "log in first");
        }
        match body {
            request::Body::Reattach(reattach) => self.reattach(number, &reattach),
            request::Body::Login(login) => match decided("login", self.log_in(login)).await {
                Ok(new) => Ok(Answer::Session(Box::new(new))),
                Err(denied) => denied.answer(),
            },
            request::Body::Enroll(enroll) => self.enroll(number, enroll).await,
            request::Body::Quit(_) => Ok(Answer::Last(reply(number, Code::BYE, "goodbye"))),
            request::Body::Noop(_) => plain(Code::OK, "nothing done"),
            _ => plain(Code::LOGIN_REFUSED, "log in first"),
        }
    }

    /// Checks the proof that a connection belongs to a session.
    fn reattach(&self, number: u64, reattach: &proto::Reattach) -> Result<Answer, NetError> {
        let proof = Attach {
            session: exactly(&reattach.session)?,
            n: reattach.n,
            proof: exactly(&reattach.proof)?,
        };
        let Desk {
            config, registry, ..
        } = self.desk;
        let is_allowed = |session: &Arc<Session>| {
            session.proofs.check(ROLE_CONTROL, &proof).is_ok()
                && revocation::check(&config.users, session, self.peer.ip()).is_ok()
        };
        let (code, text) = NO_SESSION;
        let Some(session) = registry.get(&proof.session).filter(is_allowed) else {
            return Ok(Answer::Reply(reply(number, code, text)));
        };
        match session.core.ended() {
            None => {
                let (peer, who) = (self.peer, &session.who);
                tracing::info!(%peer, %who, "the session continues over another connection");
                Ok(Answer::Reattached(session, reattach.received))
            }
            // the client did not learn of it when it happened
            Some(why @ NetError::Internal(_)) => {
                let (code, text) = why.to_wire();
                Ok(Answer::Last(reply(number, code, &text)))
            }
            Some(_) => Ok(Answer::Reply(reply(number, code, text))),
        }
    }

    /// Checks a login, and makes its session.
    async fn log_in(&self, mut login: proto::Login) -> Result<NewSession, Denied> {
        let Desk {
            config,
            registry,
            admission,
        } = self.desk;
        let Ok(id) = <[u8; 16]>::try_from(login.session.as_slice()) else {
            return Err(NetError::Protocol("a session id is not 16 bytes".into()).into());
        };
        if login.user.len() > MAX_USER {
            let long = Rejection::new("the user's name is too long", REFUSED);
            return Err(long.logged(admission, self.peer, None).into());
        }
        let (granted, only, by) = match login.ticket.is_empty() {
            true => {
                let key = self.key.as_ref();
                let granted = authenticate(&config.users, admission, self.peer, key, &login).await;
                let by = if login.password.is_some() { "password" } else { "key" };
                (granted, None, by)
            }
            false => {
                let redeemed = registry.tickets().redeem(&config.users, &login.ticket, self.peer);
                let (granted, only) = match redeemed {
                    Ok((grant, only)) => (Ok(grant), Some(only)),
                    Err(why) => (Err(why), None),
                };
                (granted, only, "ticket")
            }
        };
        if let Some(password) = &mut login.password {
            password.zeroize();
        }
        let rejected = |why: Rejection| why.logged(admission, self.peer, Some(&login.user));
        let grant = granted.map_err(rejected)?;
        let exported = self
            .tls
            .get_ref()
            .1
            .export_keying_material([0; 32], EXPORTER_LABEL, Some(&id))
            .map_err(NetError::from)?;
        let granted = Granted {
            id,
            grant,
            login: &login,
            only,
            exported: &exported,
        };
        let new = new_session::create(config, registry, granted).await.map_err(rejected)?;
        let (peer, who) = (self.peer, &new.session.who);
        tracing::info!(%peer, %who, by, "login");
        Ok(new)
    }

    /// Lists the client's key for the user of an invite.
    async fn enroll(&self, number: u64, request: proto::Enroll) -> Result<Answer, NetError> {
        let Desk {
            config, admission, ..
        } = self.desk;
        let listing = async {
            let listed = enroll(&config.users, admission, self.peer, self.key.as_ref(), request);
            listed.await.map_err(Denied::from)
        };
        match decided("enrol", listing).await {
            Ok(user) => {
                let mut reply = reply(number, Code::OK, "the key is listed");
                let user = user.to_string();
                reply.body = Some(reply::Body::Enroll(proto::EnrollReply { user }));
                Ok(Answer::Reply(reply))
            }
            Err(denied) => denied.answer(),
        }
    }
}

impl Denied {
    fn answer(self) -> Result<Answer, NetError> {
        match self {
            Denied::Refused(refusal) => Ok(Answer::Refused(refusal)),
            Denied::Failed(error) => Err(error),
        }
    }
}

/// Decides on a login or an enrolment. A panic is a refusal, so that the client hears of it.
async fn decided<T>(
    name: &'static str,
    decide: impl Future<Output = Result<T, Denied>>,
) -> Result<T, Denied> {
    let decision = Tasks::new(|_| {}).guard(name, Box::pin(decide)).await;
    decision.unwrap_or(Err(Denied::Refused(INTERNAL)))
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], NetError> {
    let length = bytes.len();
    bytes
        .try_into()
        .map_err(|_| NetError::Protocol(format!("expected a field of {N} bytes, got {length}")))
}
