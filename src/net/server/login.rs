//! From a control connection to a session: login, enrolment, and the loop that reads requests.

use super::requests::{self, Work};
use super::session::{ReplyCache, Seen, Session};
use super::{Pending, Server};
use crate::auth::users::{Access, User};
use crate::auth::{PublicKey, invite, password, users};
use crate::chunk::CHUNK_SIZE;
use crate::chunk::buffer::BufferPool;
use crate::net::control::{ControlQueue, ControlSender, encode, read_message, write_messages};
use crate::net::error::NetError;
use crate::net::link::Link;
use crate::net::printable;
use crate::net::wire::proto::{self, control_message::Body, reply, request};
use crate::net::wire::{Code, EXPORTER_LABEL, INITIAL_WINDOW};
use crate::store::{ErrorKind, Store};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

/// How long a control connection may take to log in.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Logins that may be tried on one connection.
const TRIES: usize = 3;
/// Requests that wait for those before them; a client that sends more waits too.
const QUEUE: usize = 64;

/// Serves a control connection to its end.
pub(super) async fn control(
    server: Arc<Server>,
    mut tls: TlsStream<TcpStream>,
    peer: SocketAddr,
    pending: Pending,
) -> Result<(), NetError> {
    let late = |_| NetError::lost("it did not log in in time");
    let Some((login, number)) = timeout(LOGIN_TIMEOUT, log_in(&server, &mut tls, peer))
        .await
        .map_err(late)??
    else {
        return Ok(());
    };
    drop(pending);
    let session = login.session.clone();
    let (id, window) = (login.id, login.window);
    server
        .sessions
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(id, session.clone());
    server.changed.notify_waiters();
    let ended = converse(&server, login, number, tls).await;
    server
        .sessions
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&id);
    server.release_window(window);
    server.changed.notify_waiters();
    let why = ended
        .as_ref()
        .map_or_else(NetError::again, |()| NetError::lost("logged out"));
    session.link.shut_down(why);
    ended
}

/// A login that has been accepted.
struct Accepted {
    id: [u8; 16],
    window: u64,
    session: Arc<Session>,
    queue: ControlQueue,
}

/// Answers until somebody has logged in, or leaves.
async fn log_in(
    server: &Arc<Server>,
    tls: &mut TlsStream<TcpStream>,
    peer: SocketAddr,
) -> Result<Option<(Accepted, u64)>, NetError> {
    let key = tls
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|keys| keys.first())
        .map(|k| PublicKey::from_der(k));
    let mut tries = 0;
    loop {
        let Some(Body::Request(request)) = read_message(tls).await?.body else {
            return Err(NetError::Protocol(
                "something else than a request before the login".into(),
            ));
        };
        let number = request.number;
        let (code, text) = match request.body {
            Some(request::Body::Login(login)) => match accept(server, tls, peer, key.as_ref(), login).await? {
                Ok(accepted) => return Ok(Some((accepted, number))),
                Err(refused) => {
                    tries += 1;
                    refused
                }
            },
            Some(request::Body::Enroll(enroll)) => match enrol(server, key.as_ref(), &enroll.code, peer)? {
                Ok(user) => {
                    let mut reply = answer(number, Code::OK, "the key is listed");
                    reply.body = Some(reply::Body::Enroll(proto::EnrollReply { user }));
                    send(tls, reply).await?;
                    continue;
                }
                Err(refused) => {
                    tries += 1;
                    refused
                }
            },
            Some(request::Body::Quit(_)) => {
                send(tls, answer(number, Code::BYE, "goodbye")).await?;
                let _ = timeout(Duration::from_secs(1), tls.shutdown()).await;
                return Ok(None);
            }
            Some(request::Body::Noop(_)) => (Code::OK, "nothing done"),
            Some(_) => (Code::LOGIN_REFUSED, "log in first"),
            None => (Code::NOT_IMPLEMENTED, "unknown request"),
        };
        send(tls, answer(number, code, text)).await?;
        if tries >= TRIES {
            return Err(NetError::lost("it failed to log in too often"));
        }
    }
}

fn answer(number: u64, code: Code, text: &str) -> proto::Reply {
    proto::Reply {
        number,
        code: u32::from(code.0),
        text: text.into(),
        body: None,
    }
}

async fn send(tls: &mut TlsStream<TcpStream>, reply: proto::Reply) -> Result<(), NetError> {
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

/// Checks who wants to log in, and makes their session.
async fn accept(
    server: &Arc<Server>,
    tls: &TlsStream<TcpStream>,
    peer: SocketAddr,
    key: Option<&PublicKey>,
    login: proto::Login,
) -> Result<Result<Accepted, Refusal>, NetError> {
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
    let right = match login.password.clone() {
        None => user.as_ref().is_some_and(|u| key.is_some_and(|k| u.keys.contains(k))),
        Some(given) => {
            let hash = user.as_ref().and_then(|u| u.password.clone());
            let _permit = server.hashes.acquire().await.map_err(NetError::lost)?;
            let verify = move || password::verify(&given, hash.as_deref());
            tokio::task::spawn_blocking(verify).await.unwrap_or(false)
        }
    };
    let Some(user) = user.filter(|_| right) else {
        return refuse("unknown user, wrong password or key not listed", REFUSED);
    };
    let full = server.sessions.lock().unwrap_or_else(PoisonError::into_inner).len() >= server.config.limits.sessions;
    if full || *server.stopping.borrow() {
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
    let Some(window) = server.reserve_window() else {
        return refuse(
            "no memory left",
            (Code::UNAVAILABLE, "the server has no memory for another session"),
        );
    };
    let exported = tls
        .get_ref()
        .1
        .export_keying_material([0; 32], EXPORTER_LABEL, Some(&id))?;
    let (control, queue) = ControlSender::channel();
    let buffers = BufferPool::new(usize::try_from(window).unwrap_or(0) / CHUNK_SIZE);
    let credit = login.window.clamp(INITIAL_WINDOW, window);
    let link = Link::new(control, credit, window, buffers);
    let who = format!(
        "{}@{}",
        user.name,
        printable(&login.client.chars().take(64).collect::<String>())
    );
    tracing::info!(%peer, %who, by = if login.password.is_some() { "password" } else { "key" }, "login");
    let most = server.config.limits.connections;
    let session = Arc::new(Session::new(user, who, store, link, &exported, most));
    Ok(Ok(Accepted {
        id,
        window,
        session,
        queue,
    }))
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

/// The session's conversation: replies to the login, then reads until either side ends it.
async fn converse(
    server: &Arc<Server>,
    login: Accepted,
    number: u64,
    tls: TlsStream<TcpStream>,
) -> Result<(), NetError> {
    let Accepted {
        window,
        session,
        mut queue,
        ..
    } = login;
    let (mut reader, mut writer) = tokio::io::split(tls);
    let link = Arc::downgrade(&session.link);
    let mut writer = tokio::spawn(async move {
        if let (Err(e), Some(link)) = (write_messages(&mut writer, &mut queue).await, link.upgrade()) {
            link.shut_down(e);
        }
    });
    let cache = Arc::new(Mutex::new(ReplyCache::default()));
    let _ = cache.lock().unwrap_or_else(PoisonError::into_inner).look_up(number);
    let mut reply = answer(number, Code::LOGGED_IN, "logged in");
    reply.body = Some(reply::Body::Login(proto::LoginReply {
        window,
        connections: u32::try_from(server.config.limits.connections).unwrap_or(1),
        features: 0,
        read_only: session.user.access == Access::ReadOnly,
        write_only: session.user.access == Access::WriteOnly,
    }));
    session.link.control.send(Body::Reply(reply)).await?;
    let (work, todo) = mpsc::channel(QUEUE);
    let worker = tokio::spawn(requests::work_off(server.clone(), session.clone(), cache.clone(), todo));
    let ended = tokio::select! {
        ended = read_all(&session, &mut reader, &cache, work) => ended,
        why = session.link.down() => match why {
            NetError::Refused { code: Code::BYE, .. } => Ok(()),
            why => Err(why),
        },
    };
    worker.abort();
    session.link.shut_down(NetError::lost("the session is over"));
    // What is queued, the last reply above all, goes out; a peer that takes nothing does not hold this up.
    if timeout(Duration::from_millis(500), &mut writer).await.is_err() {
        writer.abort();
    }
    ended
}

async fn read_all(
    session: &Arc<Session>,
    reader: &mut tokio::io::ReadHalf<TlsStream<TcpStream>>,
    cache: &Mutex<ReplyCache>,
    work: mpsc::Sender<Work>,
) -> Result<(), NetError> {
    loop {
        match read_message(reader).await?.body {
            Some(Body::Request(request)) => {
                let number = request.number;
                let seen = cache.lock().unwrap_or_else(PoisonError::into_inner).look_up(number);
                match seen {
                    Seen::Answered(reply) => session.link.control.send(Body::Reply(*reply)).await?,
                    Seen::Unanswered => {}
                    Seen::No => {
                        // A transfer takes part from here on, so that its first messages find it.
                        let seat = match &request.body {
                            Some(request::Body::Put(put)) => Some(session.link.join(put.transfer)?),
                            Some(request::Body::Get(get)) => Some(session.link.join(get.transfer)?),
                            _ => None,
                        };
                        let todo = Work { request, seat };
                        work.send(todo)
                            .await
                            .map_err(|_| NetError::lost("the session is over"))?;
                    }
                }
            }
            Some(Body::Transfer(message)) => session.link.deliver(message).await,
            Some(Body::Heartbeat(_)) | None => {}
            Some(Body::Reply(_)) => return Err(NetError::Protocol("a client sent a reply".into())),
        }
    }
}
