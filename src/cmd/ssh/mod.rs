//! Hosts that are reached over ssh: which are, how ssh is called, and the connection to each.

mod command;
mod install;
mod report;
mod way;

use super::connect_args::ConnectArgs;
use super::failure::{Failure, exit};
use super::location::ServerName;
use super::screen;
use super::ssh_args::SshArgs;
use crate::auth::installed::{self, Place};
use crate::net::client::Client;
use crate::net::client::connect::Connection;
use crate::net::client::options::SessionOptions;
use crate::net::client::tunnel::process::{self, end_programs};
use crate::net::client::tunnel::report::Report;
use crate::net::client::tunnel::{Tunnel, TunnelOptions};
use crate::net::error::{NoHaul, TunnelError};
use crate::net::{NetError, printable};
use command::{SshCommand, SshConfig};
use parking_lot::Mutex;
use report::TerminalReport;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::OnceCell;
use way::{Way, is_quiet, way_to};

/// A host that is reached over ssh. One command has one tunnel to it, for all its sessions.
pub struct SshHost {
    command: SshCommand,
    args: SshArgs,
    report: Arc<TerminalReport>,
    tunnel: Mutex<Option<Arc<Tunnel>>>,
    /// Why the host is reached over ssh, if haul has found that out.
    note: Mutex<Option<String>>,
    /// What ssh's configuration says of it.
    config: OnceCell<SshConfig>,
    /// A connection for the next session.
    ready: Mutex<Option<Connection>>,
}

/// The most bytes that a command may print.
const MOST_OUTPUT: usize = 64 << 10;

/// The ways that have been found so far, by the names of the hosts.
static WAYS: Mutex<Option<HashMap<ServerName, Way>>> = Mutex::new(None);

/// The host, if this server is reached over ssh.
///
/// # Errors
/// Those of the settings, and a program's command line that is none.
pub async fn host_of(
    name: &ServerName,
    args: &ConnectArgs,
) -> Result<Option<Arc<SshHost>>, Failure> {
    let known = WAYS.lock().as_ref().and_then(|ways| ways.get(name).cloned());
    let way = match known {
        Some(way) => way,
        None => {
            let way = way_to(name, args).await?;
            WAYS.lock().get_or_insert_default().insert(name.clone(), way.clone());
            way
        }
    };
    match way {
        Way::Direct => Ok(None),
        Way::Ssh(host) => Ok(Some(host)),
    }
}

/// What a command of haul prints on a host, over ssh. The host's name or address comes with it.
///
/// # Errors
/// That ssh does not start, or the command fails; its own messages say why.
pub async fn output_of(
    name: &ServerName,
    args: &SshArgs,
    command: &str,
) -> Result<(String, Option<String>), Failure> {
    let host = SshHost::new(SshCommand::new(name, args.program.as_deref())?, args, None);
    let words = host.command.to_start(host.remembered().await?.as_ref(), command);
    let failed = |why: String| Failure::new(exit::CONNECT, format!("{}: {why}", host.shown()));
    let report: Arc<dyn Report> = host.report.clone();
    let output = process::output(&words, &report, MOST_OUTPUT).await;
    let (status, printed) = output.map_err(|e| failed(e.to_string()))?;
    match status.is_some_and(|status| status.success()) {
        true => Ok((
            String::from_utf8_lossy(&printed).into_owned(),
            host.config().await.hostname.clone(),
        )),
        false => Err(failed(format!("haul {command} failed there"))
            .hint("its own message says why; haul must be installed there")),
    }
}

/// True if ssh can ask the user, whatever standard input is: it opens the terminal itself.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Ends all tunnels properly.
pub async fn close_all() {
    let ways = WAYS.lock().take().unwrap_or_default();
    for way in ways.into_values() {
        if let Way::Ssh(host) = way {
            drop(host.ready.lock().take());
            let tunnel = host.tunnel.lock().take();
            if let Some(tunnel) = tunnel {
                tunnel.close().await;
            }
        }
    }
    end_programs().await;
}

impl SshHost {
    fn new(command: SshCommand, args: &SshArgs, note: Option<String>) -> SshHost {
        SshHost {
            note: Mutex::new(note),
            config: OnceCell::new(),
            report: Arc::new(TerminalReport::new(command.shown())),
            args: args.clone(),
            command,
            tunnel: Mutex::new(None),
            ready: Mutex::new(None),
        }
    }

    /// The host, as the user reads it.
    pub fn shown(&self) -> String {
        self.command.shown()
    }

    /// The home directory of the user there, from the root of the machine.
    ///
    /// # Errors
    /// Those of connecting.
    pub async fn home(&self) -> Result<Vec<u8>, Failure> {
        if self.ready.lock().is_none() && self.account().is_none() {
            let connection = self.connect().await?;
            *self.ready.lock() = Some(connection);
        }
        Ok(self.account().map(|(_, home)| home).unwrap_or_default())
    }

    /// The user there and their home directory, once the server has said so.
    fn account(&self) -> Option<(String, Vec<u8>)> {
        self.tunnel.lock().as_ref().and_then(|tunnel| tunnel.account())
    }

    /// Connects and asks to log in. Requests may follow at once.
    ///
    /// # Errors
    /// Those of connecting.
    pub async fn login(&self, options: &SessionOptions) -> Result<Arc<Client>, Failure> {
        let ready = self.ready.lock().take();
        let connection = match ready {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let user = self.account().map(|(user, _)| user).unwrap_or_default();
        Ok(connection.login(&user, None, options).await?)
    }

    /// Connects. If there is no haul there, it is put there first, if the user wants that.
    async fn connect(&self) -> Result<Connection, Failure> {
        let connected = self.connect_or_install().await;
        let note = self.note.lock().take();
        match (connected, note) {
            (Ok(connection), Some(note)) => {
                if !is_quiet() {
                    screen::say(&format!("haul: {note}; going over ssh"));
                }
                Ok(connection)
            }
            (Err(e), Some(note)) => Err(Failure::about(format!("{note}, and over ssh"), e)),
            (connected, None) => connected,
        }
    }

    async fn connect_or_install(&self) -> Result<Connection, Failure> {
        let place = self.remembered().await?;
        match self.connect_to(place.as_ref()).await {
            Err(NetError::Tunnel(TunnelError::NoHaul(why))) => {
                self.close().await;
                // what was there before is not there any more, or one that others put there is
                if let Some(place) = &place
                    && why == NoHaul::Missing
                {
                    self.forget(place).await?;
                    match self.connect_to(None).await {
                        Err(NetError::Tunnel(TunnelError::NoHaul(_))) => self.close().await,
                        other => return other.map_err(Failure::from),
                    }
                }
                let place = install::install(&self.command, &self.args, why, &self.report).await?;
                self.remember(&place).await?;
                Ok(self.connect_to(Some(&place)).await?)
            }
            other => Ok(other?),
        }
    }

    async fn connect_to(&self, place: Option<&Place>) -> Result<Connection, NetError> {
        let existing = self.tunnel.lock().clone();
        let tunnel = match existing {
            Some(tunnel) => tunnel,
            None => {
                let config = self.config().await;
                let command = self.command.with_ciphers_of(config);
                let made = Tunnel::new(TunnelOptions {
                    server: self.shown(),
                    later: command.with_time_out().to_serve(place),
                    command: command.to_serve(place),
                    hostname: config.hostname.clone(),
                    lanes: usize::from(self.args.ssh_lanes.unwrap_or(1)),
                    direct: self.args.ports.unwrap_or_default().range(),
                    asks: has_terminal(),
                    report: self.report.clone(),
                });
                let tunnel = made.map_err(NetError::lost)?;
                *self.tunnel.lock() = Some(tunnel.clone());
                tunnel
            }
        };
        Connection::through(&tunnel).await
    }

    async fn close(&self) {
        let tunnel = self.tunnel.lock().take();
        if let Some(tunnel) = tunnel {
            tunnel.close().await;
        }
    }

    async fn config(&self) -> &SshConfig {
        self.config.get_or_init(|| self.command.ask()).await
    }

    /// The host under the name that ssh's configuration leads to: it has several.
    async fn real_name(&self) -> String {
        let config = self.config().await;
        config.real_name().unwrap_or_else(|| self.command.key())
    }

    /// Where haul put a copy of itself earlier.
    async fn remembered(&self) -> Result<Option<Place>, Failure> {
        Ok(installed::find(&installed_file()?, &self.real_name().await)?)
    }

    async fn remember(&self, place: &Place) -> Result<(), Failure> {
        let file = installed_file()?;
        if let Some(dir) = file.parent() {
            crate::auth::file::make_private_dir(dir)?;
        }
        Ok(installed::save(&file, &self.real_name().await, Some(place))?)
    }

    async fn forget(&self, place: &Place) -> Result<(), Failure> {
        let gone = printable(&place.name);
        screen::say(&format!("haul: {}: {gone} is not there any more", self.shown()));
        Ok(installed::save(&installed_file()?, &self.real_name().await, None)?)
    }
}

fn installed_file() -> Result<PathBuf, Failure> {
    Ok(super::settings::config_dir()?.join("installed"))
}
