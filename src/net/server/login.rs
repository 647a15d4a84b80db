//! What a control connection says first: a login, an enrolment, or the proof that it goes on with a session.

use crate::auth::credential::{Credential, Grant};
use crate::auth::name::MAX_USER;
use crate::auth::password::Secret;
use crate::auth::user::User;
use crate::auth::{PublicKey, UserName, password, users};
use crate::chunk::buffer::BufferPool;
use crate::net::control::codec::{encode, read_encoded, read_or_skip};
use crate::net::control::queue::{ControlQueue, ControlSender};
use crate::net::error::NetError;
use crate::net::printable;
use crate::net::server::Server;
use crate::net::server::enroll::enrol;
use crate::net::server::refusal::{REFUSED, Refusal, TOO_MANY, no_users};
use crate::net::server::reservation::{NoRoom, Reservation};
use crate::net::server::session::Session;
use crate::net::server::throttle::Try;
use crate::net::session::SessionCore;
use crate::net::task::Tasks;
use crate::net::wire::frame::{Attach, ROLE_CONTROL};
use crate::net::wire::proto::{self, control_message::Body, reply, request};
use crate::net::wire::{Code, EXPORTER_LABEL, INITIAL_WINDOW, MAX_CONTROL_BEFORE_LOGIN};
use crate::store::{ErrorKind, StoreExt};
use std::net::SocketAddr;
use std::panic::{catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroize;

/// How long a control connection may take to log in.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);
/// What a client is told of a session that there is not, or not any more.
const NO_SESSION: &str = "no such session: log in again";
/// Logins that may be tried on one connection.
const TRIES: usize = 3;

/// What a control connection has become.
pub(super) enum LoginOutcome {
    /// A new session.
    Session(Box<Accepted>),
    /// The next connection of this session.
    Reattached(Arc<Session>, Box<Reattached>),
    /// It has left.
    Closed,
}

/// A login that has been accepted.
pub(super) struct Accepted {
    pub(super) id: [u8; 16],
    pub(super) reserved: Arc<Reservation>,
    pub(super) session: Arc<Session>,
    pub(super) queue: ControlQueue,
    pub(super) tls: TlsStream<TcpStream>,
    /// The login's request.
    pub(super) number: u64,
    /// Where connections that go on with the session come from.
    pub(super) reattached: mpsc::Receiver<Reattached>,
    /// Messages that went out, and that came in, before the session began.
    pub(super) counts: (u64, u64),
}

/// A connection that goes on with a session.
pub(super) struct Reattached {
    pub(super) tls: TlsStream<TcpStream>,
    /// Messages of the session that the client has received.
    pub(super) received: u64,
}

/// Waits for a login, or for a proof.
pub(super) async fn open(
    server: &Arc<Server>,
    tls: TlsStream<TcpStream>,
    peer: SocketAddr,
) -> Result<LoginOutcome, NetError> {
    let late = |_| NetError::lost("it did not log in in time");
    timeout(LOGIN_TIMEOUT, log_in(server, tls, peer)).await.map_err(late)?
}

/// Decides on a login, an enrolment or a re-attachment: the refusal is told to the client, and so is a panic.
async fn decided<T>(
    name: &'static str,
    decide: impl Future<Output = Result<Result<T, Refusal>, NetError>>,
) -> Result<Result<T, Refusal>, NetError> {
    match Tasks::new(|_| {}).guard(name, Box::pin(decide)).await {
        Ok(decision) => decision,
        Err(_) => Ok(Err((
            Code::LOCAL_ERROR,
            "the server had an internal error; its log says where",
        ))),
    }
}

/// Answers until somebody has logged in, or leaves.
async fn log_in(
    server: &Arc<Server>,
    mut tls: TlsStream<TcpStream>,
    peer: SocketAddr,
) -> Result<LoginOutcome, NetError> {
    let key = tls
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|keys| keys.first())
        .map(|k| PublicKey::from_der(k));
    let (mut tries, mut received, mut replied) = (0, 0_u64, 0_u64);
    loop {
        let request = match early(&mut tls, tries > 0).await? {
            Early::Request(request) => request,
            // a login may have to wait for its turn
            Early::Heartbeat => continue,
            Early::Skipped => {
                received = received.saturating_add(1);
                continue;
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
                    Some(session)
                        if session.prove(ROLE_CONTROL, &proof).is_ok()
                            && server.allows(&session, peer.ip()).is_ok() =>
                    {
                        match session.core.ended() {
                            None => {
                                tracing::info!(%peer, who = %session.who, "the session goes on over another connection");
                                let received = reattach.received;
                                return Ok(LoginOutcome::Reattached(
                                    session,
                                    Box::new(Reattached { tls, received }),
                                ));
                            }
                            Some(why @ NetError::Internal(_)) => {
                                let (code, text) = why.to_wire();
                                send(&mut tls, answer(number, code, &text)).await?;
                                return Ok(LoginOutcome::Closed);
                            }
                            Some(_) => (Code::NO_SESSION, NO_SESSION),
                        }
                    }
                    _ => (Code::NO_SESSION, NO_SESSION),
                }
            }
            Some(request::Body::Login(login)) => {
                match decided("login", accept(server, &tls, peer, key.as_ref(), login)).await? {
                    Ok((id, reserved, session, queue, reattached)) => {
                        return Ok(LoginOutcome::Session(Box::new(Accepted {
                            id,
                            reserved,
                            session,
                            queue,
                            tls,
                            number,
                            reattached,
                            counts: (replied, received),
                        })));
                    }
                    Err(refused) => {
                        tries += 1;
                        refused
                    }
                }
            }
            Some(request::Body::Enroll(enroll)) => {
                match decided("enrol", enrol(server, key.as_ref(), enroll, peer)).await? {
                    Ok(user) => {
                        let user = user.to_string();
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
                }
            }
            Some(request::Body::Quit(_)) => {
                send(&mut tls, answer(number, Code::BYE, "goodbye")).await?;
                let _ = timeout(Duration::from_secs(1), tls.shutdown()).await;
                return Ok(LoginOutcome::Closed);
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

/// What a connection says before its login.
enum Early {
    Request(proto::Request),
    Heartbeat,
    /// Sent right behind a login that was refused.
    Skipped,
}

/// Reads the next message of somebody who has not logged in: short ones only, and only requests are decoded. Behind a
/// login that was refused, what was sent without waiting for the answer is skipped.
async fn early(tls: &mut TlsStream<TcpStream>, is_refused: bool) -> Result<Early, NetError> {
    let encoded = match is_refused {
        true => read_or_skip(tls, MAX_CONTROL_BEFORE_LOGIN).await?,
        false => Some(read_encoded(tls, MAX_CONTROL_BEFORE_LOGIN).await?),
    };
    let unexpected = || NetError::Protocol("expected a request before the login".into());
    match encoded {
        Some(encoded) if encoded.heartbeat().is_some() => Ok(Early::Heartbeat),
        Some(encoded) if encoded.is_request() => match encoded.decode_secret()?.body {
            Some(Body::Request(request)) => Ok(Early::Request(request)),
            _ => Err(unexpected()),
        },
        _ if is_refused => Ok(Early::Skipped),
        _ => Err(unexpected()),
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

/// A session, with its id, what it has reserved, and what its connections need.
type New = (
    [u8; 16],
    Arc<Reservation>,
    Arc<Session>,
    ControlQueue,
    mpsc::Receiver<Reattached>,
);

/// Tells of a refused login: strangers cause these lines, so there are only so many.
fn log_refusal(server: &Server, peer: SocketAddr, user: Option<&str>, why: &str) {
    if let Some(left_out) = server.strangers.line() {
        let user = user.map(printable);
        tracing::info!(%peer, user, why, left_out, "login refused");
    }
}

/// Checks who wants to log in, and makes their session.
async fn accept(
    server: &Arc<Server>,
    tls: &TlsStream<TcpStream>,
    peer: SocketAddr,
    key: Option<&PublicKey>,
    mut login: proto::Login,
) -> Result<Result<New, Refusal>, NetError> {
    let Ok(id) = <[u8; 16]>::try_from(login.session.as_slice()) else {
        return Err(NetError::Protocol("a session id is not 16 bytes".into()));
    };
    if login.user.len() > MAX_USER {
        log_refusal(server, peer, None, "the user's name is too long");
        return Ok(Err(REFUSED));
    }
    let granted = authenticate(server, peer, key, &login).await;
    if let Some(password) = &mut login.password {
        password.zeroize();
    }
    let grant = match granted? {
        Ok(grant) => grant,
        Err((why, refusal)) => {
            log_refusal(server, peer, Some(&login.user), &why);
            return Ok(Err(refusal));
        }
    };
    let exported = tls
        .get_ref()
        .1
        .export_keying_material([0; 32], EXPORTER_LABEL, Some(&id))?;
    match begin(server, id, grant, (&login, &exported)).await {
        Ok(new) => {
            let by = if login.password.is_some() { "password" } else { "key" };
            tracing::info!(%peer, who = %new.2.who, by, "login");
            Ok(Ok(new))
        }
        Err((why, refusal)) => {
            log_refusal(server, peer, Some(&login.user), why);
            Ok(Err(refusal))
        }
    }
}

/// Checks key or password. A refusal comes with the reason for the log.
async fn authenticate(
    server: &Server,
    peer: SocketAddr,
    key: Option<&PublicKey>,
    login: &proto::Login,
) -> Result<Result<Grant, (String, Refusal)>, NetError> {
    let attempt = match login.password {
        None => None,
        Some(_) => match server.throttle.turn(peer, &login.user).await {
            None => return Ok(Err(("too many failed logins".into(), TOO_MANY))),
            taken => taken,
        },
    };
    let user = match server.config.users.find(&login.user) {
        Ok(user) => user,
        Err(e) => return Ok(Err(("no list of users".into(), no_users(server, &e)))),
    };
    let credential = match &login.password {
        None => key.cloned().map(Credential::Key),
        Some(given) => {
            let hash = user.as_ref().and_then(|u| u.password.clone());
            let permit = server.hashes.clone().acquire_owned().await.map_err(NetError::lost)?;
            let right = verify(Secret::new(given.clone()), hash.clone(), permit).await;
            attempt.filter(|_| right).into_iter().for_each(Try::succeeded);
            hash.filter(|_| right).map(Credential::Password)
        }
    };
    let unknown = || "unknown user, wrong password or key not listed".to_string();
    let (Some(user), Some(credential)) = (user, credential) else {
        return Ok(Err((unknown(), REFUSED)));
    };
    let address = peer.ip();
    if let Err(revoked) = credential.check(&user, users::now(), address) {
        return Ok(Err((revoked.to_string(), REFUSED)));
    }
    Ok(Ok(Grant {
        user,
        credential,
        address,
    }))
}

/// Makes a session with this id for what was granted, where there is room for one.
async fn begin(
    server: &Arc<Server>,
    id: [u8; 16],
    grant: Grant,
    (login, exported): (&proto::Login, &[u8]),
) -> Result<New, (&'static str, Refusal)> {
    let full = (Code::UNAVAILABLE, "the server has no room for another session");
    if *server.stopping.borrow() {
        return Err(("the server is stopping", full));
    }
    if server.session(&id).is_some() {
        let text = "the session id is taken";
        return Err((text, (Code::BAD_PARAMETER, text)));
    }
    let store = open_root(server, &grant.user).await.map_err(|e| {
        tracing::error!(user = %grant.name(), error = %e, "the user's root cannot be opened");
        let text = "this user's root directory cannot be opened on the server";
        ("no root", (Code::LOCAL_ERROR, text))
    })?;
    let owner: Arc<str> = grant.name().as_str().into();
    let reserved = server.reserve(&owner).await.map_err(|short| match short {
        NoRoom::Sessions => ("the user has all sessions they may have", full),
        NoRoom::Memory => {
            let text = "the server has no memory for another session";
            ("the user has all memory they may have", (Code::UNAVAILABLE, text))
        }
    })?;
    let (control, queue) = ControlSender::channel(reserved.most_outgoing());
    let credit = login.window.clamp(INITIAL_WINDOW, reserved.window());
    let buffers = BufferPool::for_window(reserved.window());
    let core = SessionCore::new(control, reserved.bounds(credit), buffers);
    let (reattached_in, reattached) = mpsc::channel(1);
    let who = who(grant.name(), &login.client);
    let most = server.pools.most_connections(&owner, &server.config.limits);
    let session = Session::new(grant, who, store, core, exported, most, reattached_in);
    Ok((id, Arc::new(reserved), Arc::new(session), queue, reattached))
}

/// `user@client`, for logs and locks. A user's name may have an `@`, a client's has none here: so
/// what is before the last one is the user, and no two users are ever taken for each other.
fn who(user: &UserName, client: &str) -> String {
    let client: String = client.chars().take(64).collect();
    format!("{user}@{}", printable(&client).replace('@', "\\u{40}"))
}

/// Checks a password on a thread of its own. The memory that a hash takes stays with the thread that took it: on the
/// threads for blocking work, each of them would come to hold as much.
/// The permit is the thread's, since nobody may be waiting for it any more.
///
/// # Panics
/// Where the check does.
async fn verify(given: Secret, hash: Option<String>, permit: OwnedSemaphorePermit) -> bool {
    let (done, right) = tokio::sync::oneshot::channel();
    let work = move || {
        let _permit = permit;
        let _ = done.send(catch_unwind(|| password::verify(&given, hash.as_deref())));
    };
    match std::thread::Builder::new().name("password".into()).spawn(work) {
        // a check that panicked has not found out that the password is wrong
        Ok(_) => match right.await {
            Ok(right) => right.unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => false,
        },
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
    match store.rooted_at(&user.root, user.name.as_str()) {
        Err(e) if e.kind == ErrorKind::NotFound => {
            store.make_dir_all(&user.root).await?;
            store.rooted_at(&user.root, user.name.as_str())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_users_are_taken_for_each_other() {
        let who = |user: &str, client: &str| who(&UserName::parse(user).unwrap(), client);
        assert_eq!(who("kim", "laptop"), "kim@laptop");
        assert_ne!(who("kim", "a@b"), who("kim@a", "b"));
        assert_ne!(who("kim", "@"), who("kim@", ""));
        for (user, client) in [("kim", "a@b"), ("kim@a", "b"), ("kim", "\n@\u{202e}@")] {
            let who = who(user, client);
            assert_eq!(who.rsplit_once('@').unwrap().0, user, "{who}");
        }
    }
}
