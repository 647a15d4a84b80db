//! A server that another program reaches, usually ssh: the program's standard input and output
//! carry the control connection and data connections, until direct ones carry the data.
//!
//! The program starts `haul serve --stdio` on the other machine. Over its standard input and output
//! both sides greet each other ([`crate::net::lanes::greeting`]): so the client knows the server's
//! key, where the server listens for direct data connections, and the home directory of its user.

mod answer;
mod direct;
pub mod install;
mod options;
pub mod process;
pub mod report;

pub use options::TunnelOptions;

use crate::auth::{Fingerprint, Identity};
use crate::net::client::tunnel::answer::{accept, explain};
use crate::net::client::tunnel::direct::{Candidates, Direct};
use crate::net::client::tunnel::options::{UNASKED, WAITING};
use crate::net::client::tunnel::process::{Process, end_programs};
use crate::net::error::{LossReason, NetError, TunnelError};
use crate::net::lanes::carrier::Carrier;
use crate::net::lanes::greeting::{self, MARK, Unwelcome};
use crate::net::lanes::lane::Lane;
use crate::net::lanes::role::Role;
use crate::net::task::{Task, Tasks};
use crate::net::wire::proto::{CarrierHello, CarrierWelcome};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

/// A server that another program reaches.
pub struct Tunnel {
    options: TunnelOptions,
    /// This client's key for the session.
    identity: Identity,
    /// Names the server process for further carriers; each process has another one.
    secret: parking_lot::Mutex<[u8; MARK]>,
    /// The carriers by number; the first one carries the control connection.
    carriers: Mutex<Vec<Option<Arc<Running>>>>,
    /// What the server process said that the first carrier reached last.
    welcome: parking_lot::Mutex<Option<Arc<CarrierWelcome>>>,
    direct: Direct,
}

/// A program that runs, and the carrier over it.
pub(super) struct Running {
    carrier: Carrier,
    process: Arc<Process>,
    welcome: watch::Receiver<Option<Result<Arc<CarrierWelcome>, TunnelError>>>,
    _greeting: Task<()>,
}

impl Running {
    /// Waits for the server's greeting, without a deadline: the program may ask the user.
    pub(super) async fn welcome(&self) -> Result<Arc<CarrierWelcome>, NetError> {
        let mut welcome = self.welcome.clone();
        match welcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => answer.clone().map_err(NetError::Tunnel),
            _ => Err(NetError::Lost(LossReason::TaskEnded)),
        }
    }

    /// A new control connection over it.
    pub(super) fn control(&self) -> Result<Lane, NetError> {
        self.carrier.open(Role::Control)
    }
}

/// The key of a server process, as its greeting has it.
///
/// # Errors
/// [`TunnelError::Malformed`].
pub(super) fn key_of(welcome: &CarrierWelcome) -> Result<Fingerprint, NetError> {
    let key = <[u8; 32]>::try_from(welcome.key.as_slice());
    key.map(Fingerprint).map_err(|_| NetError::Tunnel(TunnelError::Malformed))
}

impl Tunnel {
    /// A tunnel that has not been started.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn new(options: TunnelOptions) -> std::io::Result<Arc<Tunnel>> {
        Ok(Arc::new(Tunnel {
            identity: Identity::generate()?,
            secret: parking_lot::Mutex::new([0; MARK]),
            carriers: Mutex::default(),
            welcome: parking_lot::Mutex::default(),
            direct: Direct::new(),
            options,
        }))
    }

    /// The server, as the user reads it.
    pub fn server(&self) -> &str {
        &self.options.server
    }

    /// The user whom the server runs as, and their home directory beneath the server's root, once
    /// the server has said so.
    pub fn account(&self) -> Option<(String, Vec<u8>)> {
        let welcome = self.welcome.lock();
        welcome.as_ref().map(|welcome| (welcome.user.clone(), welcome.home.clone()))
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn lanes(&self) -> usize {
        self.options.lanes
    }

    /// Remembers what the server of the first carrier said.
    pub(super) fn welcomed(&self, welcome: Arc<CarrierWelcome>) {
        self.direct.reset();
        *self.welcome.lock() = Some(welcome);
    }

    /// The first carrier, started if it does not run.
    ///
    /// # Errors
    /// [`TunnelError::Start`].
    pub(super) async fn first(&self) -> Result<Arc<Running>, NetError> {
        self.carrier(0, false).await
    }

    /// The greeting of the server over the first carrier. There is no deadline if the program may
    /// ask the user.
    ///
    /// # Errors
    /// Those of the program.
    pub(super) async fn greeting(&self, of: &Running) -> Result<Arc<CarrierWelcome>, NetError> {
        if self.options.asks {
            return of.welcome().await;
        }
        let late = |_| NetError::Lost(LossReason::GreetingTimeout);
        timeout(UNASKED, of.welcome()).await.map_err(late)?
    }

    /// A control connection for a session that exists: over another carrier to the same process.
    ///
    /// # Errors
    /// [`LossReason::SessionForgotten`] if there is no such process any more. The carrier then
    /// leads to a new one.
    pub(super) async fn reattach(&self) -> Result<Lane, NetError> {
        // The one before is over, or nothing comes over it.
        drop(self.carriers.lock().await.first_mut().and_then(Option::take));
        end_programs().await;
        let running = self.carrier(0, true).await?;
        let welcome = match timeout(self.options.joining(), running.welcome()).await {
            Ok(welcome) => welcome?,
            Err(_) => return Err(NetError::Lost(LossReason::ReattachTimeout)),
        };
        if self.is_same(&welcome)? {
            return running.control();
        }
        self.welcomed(welcome);
        Err(NetError::Lost(LossReason::SessionForgotten))
    }

    /// A lane for data, over the carrier with this number. The first one is waited for: the control
    /// connection starts it.
    ///
    /// # Errors
    /// Those of starting another one.
    pub(super) async fn data_lane(&self, number: usize) -> Result<Lane, NetError> {
        let running = match number {
            0 => {
                let first = self.carriers.lock().await.first().cloned().flatten();
                first.ok_or(NetError::Lost(LossReason::CarrierEnded))?
            }
            _ => self.carrier(number, true).await?,
        };
        let welcome = running.welcome().await?;
        if self.is_same(&welcome)? {
            return running.carrier.open(Role::Data);
        }
        if number > 0
            && let Some(slot) = self.carriers.lock().await.get_mut(number)
        {
            // the next attempt starts another one
            *slot = None;
        }
        Err(NetError::Lost(LossReason::SessionForgotten))
    }

    /// Whether the server process is the one that the session is with.
    ///
    /// # Errors
    /// [`NetError::WrongKey`] if one says so and has another key.
    fn is_same(&self, welcome: &CarrierWelcome) -> Result<bool, NetError> {
        let before = self.welcome.lock().clone();
        let Some(before) = before else {
            return Ok(false);
        };
        let (pinned, found) = (key_of(&before)?, key_of(welcome)?);
        match pinned == found {
            true => Ok(true),
            false if welcome.joined => Err(NetError::WrongKey { pinned, found }),
            false => Ok(false),
        }
    }

    /// Where the direct data connection with this number is dialled; waits until one is possible.
    pub(super) async fn direct(&self, number: u64) -> Result<SocketAddr, NetError> {
        let welcome = self.welcome.lock().clone();
        let welcome = welcome.ok_or(NetError::Lost(LossReason::NotLoggedIn))?;
        let candidates = Candidates {
            listed: &welcome.addresses,
            hostname: self.options.hostname.as_deref(),
            key: key_of(&welcome)?,
            report: &self.options.report,
        };
        self.direct.address(number, candidates).await
    }

    /// A direct connection has proved itself, until the guard is dropped.
    pub(super) fn proved(&self) -> impl Drop + Send + use<> {
        self.direct.proved()
    }

    /// Waits until direct connections carry data, or do not.
    pub(super) async fn is_direct(&self, wanted: bool) {
        self.direct.is_carrying(wanted).await;
    }

    /// Ends all carriers properly. The programs end by themselves, when the server has.
    pub async fn close(&self) {
        let carriers = std::mem::take(&mut *self.carriers.lock().await);
        for running in carriers.into_iter().flatten() {
            // one that still asks, connects, or is silent, does not end by itself
            let is_heard = running.carrier.is_heard(Instant::now());
            if is_heard && matches!(&*running.welcome.borrow(), Some(Ok(_))) {
                running.process.let_go();
            }
            if let Ok(running) = Arc::try_unwrap(running).map_err(drop) {
                running.carrier.close().await;
            }
        }
        end_programs().await;
    }

    /// The carrier with this number, started if it does not run.
    async fn carrier(&self, number: usize, joins: bool) -> Result<Arc<Running>, NetError> {
        let mut carriers = self.carriers.lock().await;
        if carriers.len() <= number {
            carriers.resize_with(number.saturating_add(1), || None);
        }
        if let Some(Some(running)) = carriers.get(number)
            && !running.carrier.is_over()
        {
            return Ok(running.clone());
        }
        let running = Arc::new(self.start(joins).map_err(NetError::Tunnel)?);
        if let Some(slot) = carriers.get_mut(number) {
            *slot = Some(running.clone());
        }
        Ok(running)
    }

    fn random(&self) -> Result<[u8; MARK], TunnelError> {
        greeting::random().map_err(|e| TunnelError::Start {
            program: self.options.server.clone(),
            why: e.to_string(),
        })
    }

    fn start(&self, joins: bool) -> Result<Running, TunnelError> {
        let report = &self.options.report;
        let nonce = self.random()?;
        if !joins {
            *self.secret.lock() = self.random()?;
        }
        let (first_port, last_port) = self.options.direct.unwrap_or_default();
        let hello = greeting::hello(&CarrierHello {
            nonce: nonce.to_vec(),
            version: env!("CARGO_PKG_VERSION").into(),
            key: self.identity.public().to_der().to_vec(),
            secret: self.secret.lock().to_vec(),
            joins,
            direct: self.options.direct.is_some(),
            first_port: first_port.into(),
            last_port: last_port.into(),
        });
        report.starting();
        let command = if joins {
            &self.options.later
        } else {
            &self.options.command
        };
        let started = Process::start(command, report);
        let (process, pipes) = started.inspect_err(|_| report.started(false))?;
        let process = Arc::new(process);
        let (carrier, answer) = Carrier::greet(pipes, hello, nonce);
        let (said, welcome) = watch::channel(None);
        let (of, report) = (process.clone(), report.clone());
        let greeting = async move {
            let mut answer = answer;
            let answer = match timeout(WAITING, &mut answer).await {
                Ok(answer) => answer,
                Err(_) => {
                    report.waiting();
                    answer.await
                }
            };
            let answer = answer.unwrap_or(Err(Unwelcome::Ended(Vec::new())));
            let answer = match answer {
                Ok(welcomed) => accept(welcomed, &report),
                Err(unwelcome) => Err(explain(unwelcome, &of, &report).await),
            };
            report.started(matches!(answer, Err(TunnelError::NoHaul(_))));
            said.send_replace(Some(answer.map(Arc::new)));
        };
        Ok(Running {
            carrier,
            process,
            welcome,
            _greeting: Tasks::new(|_| {}).spawn("greeting", greeting),
        })
    }
}
