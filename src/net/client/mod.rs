//! The client: [`connect`] reaches a server and shakes hands, [`Client`] is a session on it, and
//! `requests` has a method for each request.
//!
//! Below them, `router` passes replies to the tasks that wait for them, `login` holds what the
//! server granted, `reattach` replaces a lost control connection, and `dialer` keeps up the data
//! connections that `tuner` counts.

mod backoff;
mod beneath;
pub mod changes;
pub mod connect;
pub mod copy;
mod dialer;
pub mod direct;
mod keys;
mod login;
pub mod options;
pub mod outage;
pub mod path;
pub mod places;
mod rate;
mod reattach;
pub mod relay;
pub mod requests;
mod route;
mod router;
mod tcp;
mod trash;
mod tuner;
pub mod tunnel;

use crate::auth::Fingerprint;
use crate::auth::name::MAX_USER;
use crate::auth::password::{MAX_PASSWORD, Secret};
use crate::chunk::buffer::BufferPool;
use crate::net::client::connect::{Connection, GOODBYE};
use crate::net::client::dialer::Dialer;
use crate::net::client::keys::Keys;
use crate::net::client::login::Login;
use crate::net::client::options::{SessionOptions, host_name};
use crate::net::client::path::PathTraits;
use crate::net::client::reattach::{Attachment, Inbound, confirm};
use crate::net::client::route::Route;
use crate::net::client::router::ReplyRouter;
use crate::net::control::queue::{ControlSender, MOST_OUTGOING};
use crate::net::data::pacer::{Pacer, RateLimit};
use crate::net::error::{LossReason, NetError};
use crate::net::session::{SessionBounds, SessionCore};
use crate::net::wire::proto::{self, request};
use crate::net::wire::{Code, EXPORTER_LABEL, FEATURE_COMPRESSION, INITIAL_WINDOW};
use ring::rand::{SecureRandom, SystemRandom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// A session on a server.
pub struct Client {
    /// `host:port`.
    server: String,
    route: Route,
    key: Fingerprint,
    core: Arc<SessionCore>,
    router: Arc<ReplyRouter>,
    login: Arc<Login>,
    attachment: Arc<Attachment>,
    dialer: Dialer,
    next_transfer: AtomicU32,
    /// Bytes that the server may have outstanding.
    allowed: AtomicU64,
    /// It passes on what another server sends.
    relays: Arc<AtomicBool>,
    rate: Arc<RateLimit>,
}

impl Connection {
    /// Asks to log in, with a password or, without one, with the key of the handshake. Requests may
    /// follow at once; [`Client::logged_in`] waits for the answer. A transfer dials the data
    /// connections.
    ///
    /// # Errors
    /// Those of the connection, and [`NetError::Refused`] for a name or a password that is too
    /// long.
    pub async fn login(
        self,
        user: &str,
        password: Option<Secret>,
        options: &SessionOptions,
    ) -> Result<Arc<Client>, NetError> {
        // before a login, a server takes no message that is long enough for these
        if user.len() > MAX_USER || password.as_ref().is_some_and(|p| p.len() > MAX_PASSWORD) {
            let text = "login refused: a user's name has at most 64 bytes, a password 1024".into();
            let code = Code::LOGIN_REFUSED;
            return Err(NetError::Refused { code, text });
        }
        let login = proto::Login {
            user: user.into(),
            password: password.map(|password| password.to_string()),
            ..proto::Login::default()
        };
        self.begin(login, options).await
    }

    /// Asks to log in with a ticket, for the put that it was made for.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn redeem(
        self,
        ticket: Vec<u8>,
        options: &SessionOptions,
    ) -> Result<Arc<Client>, NetError> {
        let login = proto::Login {
            ticket,
            ..proto::Login::default()
        };
        self.begin(login, options).await
    }

    async fn begin(
        self,
        login: proto::Login,
        options: &SessionOptions,
    ) -> Result<Arc<Client>, NetError> {
        let mut session = [0; 16];
        let filled = SystemRandom::new().fill(&mut session);
        filled.map_err(|_| NetError::Lost(LossReason::NoRandomness))?;
        let tls = &self.tls.get_ref().1;
        let exported = tls.export_keying_material([0; 32], EXPORTER_LABEL, Some(&session))?;
        let login = proto::Login {
            session: session.to_vec(),
            window: options.window,
            features: FEATURE_COMPRESSION,
            client: host_name(),
            ..login
        };
        let client = Client::start(self, session, &exported, options)?;
        // the attachment passes the answer on to the login
        drop(client.router.start(&client.core, request::Body::Login(login)).await?);
        Ok(client)
    }
}

impl Client {
    fn start(
        connection: Connection,
        session: [u8; 16],
        exported: &[u8],
        options: &SessionOptions,
    ) -> Result<Arc<Client>, NetError> {
        let Connection { tls, route, key } = connection;
        let keys = Arc::new(Keys::new(route.clone(), key, session, exported)?);
        let (control, queue) = ControlSender::channel(MOST_OUTGOING);
        let buffers = BufferPool::for_window(options.window);
        let bounds = SessionBounds::of_client(INITIAL_WINDOW, options.window);
        let rates = options.limits.iter().chain([&options.rate]).cloned();
        let pacer = Pacer::new(rates.collect(), Vec::new());
        let core = SessionCore::paced(control, bounds, buffers, pacer);
        let (login, router) = (Arc::new(Login::new()), Arc::new(ReplyRouter::new()));
        let (asked, relays) = (watch::Sender::new((0, 0)), Arc::<AtomicBool>::default());
        core.tasks()
            .detach("window", confirm(core.clone(), asked.subscribe(), relays.clone()));
        let inbound = Inbound {
            core: core.clone(),
            asked,
            login: login.clone(),
            router: router.clone(),
            most_credit: options.credit,
            outage: options.outage.clone(),
        };
        let attachment = Arc::new(Attachment::new(inbound, keys.clone(), options.clone()));
        let run = attachment.clone().run(queue, tls);
        core.tasks().detach("attachment", run);
        Ok(Arc::new(Client {
            server: route.server(),
            route,
            key,
            dialer: Dialer::new(core.clone(), keys, login.clone(), options),
            core,
            router,
            login,
            attachment,
            next_transfer: AtomicU32::new(1),
            allowed: AtomicU64::new(options.window),
            relays,
            rate: options.rate.clone(),
        }))
    }

    /// The server, as `host:port`.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Waits until the server has answered the login.
    ///
    /// # Errors
    /// [`NetError::Refused`] with code 530 or 421, and those of the connection.
    pub async fn logged_in(&self) -> Result<(), NetError> {
        tokio::select! {
            biased;
            answered = self.login.answered() => answered,
            why = self.core.down() => Err(why),
        }
    }

    /// True once the server has said that this user may put files and not read them.
    pub fn is_write_only(&self) -> bool {
        self.login.granted().is_some_and(|granted| granted.write_only)
    }

    /// True once the server has said that this user may read files and not write them.
    pub fn is_read_only(&self) -> bool {
        self.login.granted().is_some_and(|granted| granted.read_only)
    }

    /// What the server's tree is in and what cannot be done there, once it has said so: a text for
    /// people, empty for a directory.
    pub fn served_store(&self) -> Arc<str> {
        self.login.granted().map_or_else(|| "".into(), |granted| granted.store)
    }

    /// Bytes that the server allows this client to have outstanding, once it has said so.
    pub fn window(&self) -> Option<u64> {
        self.login.granted().map(|granted| granted.window)
    }

    /// True once the session is over.
    pub fn is_over(&self) -> bool {
        self.core.is_down()
    }

    /// Why the login was refused; `None` if it was not. A refused login is also why any later
    /// request failed.
    pub fn refusal(&self) -> Option<NetError> {
        self.login.refusal()
    }

    /// How long nothing has gone forward.
    pub fn stalled(&self) -> Duration {
        self.core.stalled()
    }

    /// True if the user knows that the connection was lost.
    pub fn already_reported(&self) -> bool {
        self.attachment.already_reported()
    }

    /// Ends the session at once.
    pub fn end(&self) {
        self.core.shut_down(NetError::Lost(LossReason::LoggedOut));
    }

    /// What the session has found out about its path, if it has moved enough to tell.
    pub fn path(&self) -> Option<PathTraits> {
        self.dialer.path()
    }

    /// Says goodbye.
    pub async fn quit(&self) {
        self.leave(GOODBYE).await;
    }

    /// Says goodbye, and waits at most this long until the message is on its way. The server's
    /// answer is not awaited.
    pub async fn leave(&self, most: Duration) {
        self.attachment.leave();
        let bye = async {
            let quit = request::Body::Quit(proto::Quit {});
            let _ = self.router.start(&self.core, quit).await;
            self.core.control.close();
            self.attachment.ended().await;
        };
        let _ = timeout(most, bye).await;
        self.core.shut_down(NetError::Lost(LossReason::LoggedOut));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.core.shut_down(NetError::Lost(LossReason::LoggedOut));
    }
}
