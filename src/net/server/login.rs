//! What a control connection says first: a login, an enrolment, or the proof that it goes on with a session.

use super::Server;
use super::session::Session;
use crate::auth::users::User;
use crate::auth::{PublicKey, invite, password, users};
use crate::chunk::buffer::BufferPool;
use crate::net::control::{ControlQueue, ControlSender, encode, read_message};
use crate::net::error::NetError;
use crate::net::link::Link;
use crate::net::printable;
use crate::net::wire::frame::{Attach, ROLE_CONTROL};
use crate::net::wire::proto::{self, control_message::Body, reply, request};
use crate::net::wire::{Code, EXPORTER_LABEL, INITIAL_WINDOW};
use crate::store::{ErrorKind, Store};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

/// How long a control connection may take to log in.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Logins that may be tried on one connection.
const TRIES: usize = 3;

/// What a control connection has become.
pub(super) enum Opened {
    /// A new session.
    Session(Box<Accepted>),
    /// The next connection of this session.
    Again(Arc<Session>, Box<Again>),
    /// It has left.
    Closed,
}

/// A login that has been accepted.
pub(super) struct Accepted {
    pub(super) id: [u8; 16],
    pub(super) window: u64,
    pub(super) session: Arc<Session>,
    pub(super) queue: ControlQueue,
    pub(super) tls: TlsStream<TcpStream>,
    /// The login's request.
    pub(super) number: u64,
    /// Where connections that go on with the session come from.
    pub(super) again: mpsc::Receiver<Again>,
    /// Messages that went out, and that came in, before the session began.
    pub(super) counts: (u64, u64),
}

/// A connection that goes on with a session.
pub(super) struct Again {
    pub(super) tls: TlsStream<TcpStream>,
    /// Messages of the session that the client has received.
    pub(super) received: u64,
}

/// Waits for a login, or for a proof.
pub(super) async fn open(
    server: &Arc<Server>,
    tls: TlsStream<TcpStream>,
    peer: SocketAddr,
) -> Result<Opened, NetError> {
    let late = |_| NetError::lost("it did not log in in time");
    timeout(LOGIN_TIMEOUT, log_in(server, tls, peer)).await.map_err(late)?
}

/// Answers until somebody has logged in, or leaves.
async fn log_in(server: &Arc<Server>, mut tls: TlsStream<TcpStream>, peer: SocketAddr) -> Result<Opened, NetError> {
    let key = tls
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|keys| keys.first())
        .map(|k| PublicKey::from_der(k));
    let (mut tries, mut received, mut replied) = (0, 0_u64, 0_u64);
    loop {
        let request = match read_message(&mut tls).await?.0.body {
            Some(Body::Request(request)) => request,
            // a login may have to wait for its turn
            Some(Body::Heartbeat(_)) => continue,
            // sent right behind a login that was refused
            Some(Body::Transfer(_)) if tries > 0 => {
                received = received.saturating_add(1);
                continue;
            }
            _ => {
                return Err(NetError::Protocol(
                    "something else than a request before the login".into(),
                ));
            }
        };
        let number = request.number;
        received = received.saturating_add(1);
        let (code, text) = match request.body {
            Some(request::Body::Reattach(reattach)) => {
                let proof = Attach {
                    session: exactly(&reattach.session)?,
                    n: reattach.n,
                    proof: exactly(&reattach.proof)?,
                };
                match server.session(&proof.session) {
                    Some(session) if session.prove(ROLE_CONTROL, &proof).is_ok() => {
                        tracing::info!(%peer, who = %session.who, "the session goes on over another connection");
                        let received = reattach.received;
                        return Ok(Opened::Again(session, Box::new(Again { tls, received })));
                    }
                    _ => (Code::NO_SESSION, "no such session: log in again"),
                }
            }
            Some(request::Body::Login(login)) => match accept(server, &tls, peer, key.as_ref(), login).await? {
                Ok((id, window, session, queue, again)) => {
                    return Ok(Opened::Session(Box::new(Accepted {
                        id,
                        window,
                        session,
                        queue,
                        tls,
                        number,
                        again,
                        counts: (replied, received),
                    })));
                }
                Err(refused) => {
                    tries += 1;
                    refused
                }
            },
            Some(request::Body::Enroll(enroll)) => match enrol(server, key.as_ref(), &enroll.code, peer)? {
                Ok(user) => {
                    let mut reply = answer(number, Code::OK, "the key is listed");
                    reply.body = Some(reply::Body::Enroll(proto::EnrollReply { user }));
                    send(&mut tls, reply).await?;
                    replied = replied.saturating_add(1);
                    continue;
                }
                Err(refused) => {
                    tries += 1;
                    refused
                }
            },
            Some(request::Body::Quit(_)) => {
                send(&mut tls, answer(number, Code::BYE, "goodbye")).await?;
                let _ = timeout(Duration::from_secs(1), tls.shutdown()).await;
                return Ok(Opened::Closed);
            }
            Some(request::Body::Noop(_)) => (Code::OK, "nothing done"),
            Some(_) => (Code::LOGIN_REFUSED, "log in first"),
            None => (Code::NOT_IMPLEMENTED, "unknown request"),
        };
        send(&mut tls, answer(number, code, text)).await?;
        replied = replied.saturating_add(1);
        if tries >= TRIES {
            return Err(NetError::lost("it failed to log in too often"));
        }
    }
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], NetError> {
    bytes
        .try_into()
        .map_err(|_| NetError::Protocol("a field is not as long as it must be".into()))
}

pub(super) fn answer(number: u64, code: Code, text: &str) -> proto::Reply {
    proto::Reply {
        number,
        code: u32::from(code.0),
        text: text.into(),
        body: None,
    }
}

pub(super) async fn send(tls: &mut TlsStream<TcpStream>, reply: proto::Reply) -> Result<(), NetError> {
    let mut out = Vec::new();
    let message = proto::ControlMessage {
        body: Some(Body::Reply(reply)),
    };
    encode(&message, &mut out)?;
    tls.write_all(&out).await.map_err(NetError::lost)?;
    tls.flush().await.map_err(NetError::lost)
}

/// Why a login was refused, in words that say no more than a stranger may know.
type Refusal = (Code, &'static str);

const REFUSED: Refusal = (
    Code::LOGIN_REFUSED,
    "login refused: unknown user, wrong password or key not listed",
);

const TOO_MANY: Refusal = (
    Code::LOGIN_REFUSED,
    "too many failed logins with a password: wait a minute, or log in with a key",
);

/// A session, with its id, its window and what its connections need.
type New = ([u8; 16], u64, Arc<Session>, ControlQueue, mpsc::Receiver<Again>);

/// Checks who wants to log in, and makes their session.
async fn accept(
    server: &Arc<Server>,
    tls: &TlsStream<TcpStream>,
    peer: SocketAddr,
    key: Option<&PublicKey>,
    login: proto::Login,
) -> Result<Result<New, Refusal>, NetError> {
    let Ok(id) = <[u8; 16]>::try_from(login.session.as_slice()) else {
        return Err(NetError::Protocol("a session id is not 16 bytes".into()));
    };
    let refuse = |why: &str, refusal: Refusal| {
        tracing::info!(%peer, user = %printable(&login.user), why, "login refused");
        Ok(Err(refusal))
    };
    let user = match server.config.users.find(&login.user) {
        Ok(user) => user,
        Err(e) => {
            tracing::error!(error = %e, "the users cannot be read");
            let why = "the server's list of users cannot be read; its log says why";
            return refuse("no list of users", (Code::LOCAL_ERROR, why));
        }
    };
    if login.password.is_some() {
        match server.penalties.turn(peer, &login.user) {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return refuse("too many failed logins", TOO_MANY),
        }
    }
    let right = match login.password.clone() {
        None => user.as_ref().is_some_and(|u| key.is_some_and(|k| u.keys.contains(k))),
        Some(given) => {
            let hash = user.as_ref().and_then(|u| u.password.clone());
            let permit = server.hashes.clone().acquire_owned().await.map_err(NetError::lost)?;
            verify(given, hash, permit).await
        }
    };
    let Some(user) = user.filter(|_| right) else {
        if login.password.is_some() {
            server.penalties.failed(peer, &login.user);
        }
        return refuse("unknown user, wrong password or key not listed", REFUSED);
    };
    if *server.stopping.borrow() || !server.has_room() {
        return refuse(
            "the server is full",
            (Code::UNAVAILABLE, "the server has no room for another session"),
        );
    }
    if server.session(&id).is_some() {
        return refuse(
            "the session id is taken",
            (Code::BAD_PARAMETER, "the session id is taken"),
        );
    }
    let store = match open_root(server, &user).await {
        Ok(store) => store,
        Err(e) => {
            tracing::error!(user = %user.name, error = %e, "the user's root cannot be opened");
            return refuse(
                "no root",
                (
                    Code::LOCAL_ERROR,
                    "this user's root directory cannot be opened on the server",
                ),
            );
        }
    };
    let Some(window) = server.window().await else {
        return refuse(
            "no memory left",
            (Code::UNAVAILABLE, "the server has no memory for another session"),
        );
    };
    let exported = tls
        .get_ref()
        .1
        .export_keying_material([0; 32], EXPORTER_LABEL, Some(&id))?;
    let (control, control_queue) = ControlSender::channel();
    let buffers = BufferPool::for_window(window);
    let credit = login.window.clamp(INITIAL_WINDOW, window);
    let link = Link::new(control, credit, window, buffers);
    let who = format!(
        "{}@{}",
        user.name,
        printable(&login.client.chars().take(64).collect::<String>())
    );
    tracing::info!(%peer, %who, by = if login.password.is_some() { "password" } else { "key" }, "login");
    let most = server.config.limits.connections;
    let (again_in, again) = mpsc::channel(1);
    let session = Arc::new(Session::new(user, who, store, link, &exported, most, again_in));
    Ok(Ok((id, window, session, control_queue, again)))
}

/// Checks a password on a thread of its own. The memory that a hash takes stays with the thread that took it: on the
/// threads for blocking work, each of them would come to hold as much.
/// The permit is the thread's, since nobody may be waiting for it any more.
async fn verify(given: String, hash: Option<String>, permit: OwnedSemaphorePermit) -> bool {
    let (done, right) = tokio::sync::oneshot::channel();
    let work = move || {
        let _permit = permit;
        let _ = done.send(password::verify(&given, hash.as_deref()));
    };
    match std::thread::Builder::new().name("password".into()).spawn(work) {
        Ok(_) => right.await.unwrap_or(false),
        Err(e) => {
            tracing::error!(error = %e, "no thread for a password");
            false
        }
    }
}

/// The store that a user sees; their root is made when it is not there.
async fn open_root(
    server: &Server,
    user: &User,
) -> Result<crate::store::local::LocalStore, crate::store::StoreError> {
    let store = &server.config.store;
    match store.rooted_at(&user.root) {
        Err(e) if e.kind == ErrorKind::NotFound => {
            store.make_dir(&user.root, true).await?;
            store.rooted_at(&user.root)
        }
        other => other,
    }
}

/// Lists the key of the handshake for the user whom the invite is for, who is made if there is none.
fn enrol(
    server: &Server,
    key: Option<&PublicKey>,
    code: &[u8],
    peer: SocketAddr,
) -> Result<Result<String, Refusal>, NetError> {
    let Some(key) = key else {
        return Ok(Err((Code::LOGIN_REFUSED, "no key was presented that could be listed")));
    };
    let Some(name) = invite::redeem(&server.config.invites_path, code)? else {
        tracing::info!(%peer, "invite refused");
        return Ok(Err((
            Code::LOGIN_REFUSED,
            "the invite is unknown, used or expired; ask for a new one",
        )));
    };
    users::update(&server.config.users_path, |all| {
        let index = match all.iter().position(|u| u.name == name) {
            Some(index) => index,
            None => {
                all.push(User::new(&name));
                all.len().saturating_sub(1)
            }
        };
        if let Some(user) = all.get_mut(index)
            && !user.keys.contains(key)
        {
            user.keys.push(key.clone());
        }
        Ok(())
    })?;
    tracing::info!(%peer, user = %name, key = %key.fingerprint(), "key listed by invite");
    Ok(Ok(name))
}
