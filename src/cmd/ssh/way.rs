//! The way to a host: directly or over ssh.

use super::super::connect_args::ConnectArgs;
use super::super::failure::Failure;
use super::super::location::{Scheme, ServerName};
use super::super::screen;
use super::super::server::{NewKey, find};
use super::super::settings::config_dir;
use super::super::ssh_args::Via;
use super::report::has_flag;
use super::{SshCommand, SshHost};
use crate::auth::saved;
use crate::net::client::connect::Connection;
use crate::net::printable;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a haul server may take to answer before ssh is tried.
const DIRECT: Duration = Duration::from_millis(1500);

/// How a host is reached.
#[derive(Clone)]
pub(super) enum Way {
    /// As a haul server.
    Direct,
    /// Over ssh.
    Ssh(Arc<SshHost>),
}

/// Finds the way to a host. Where neither the user nor the settings say it, a haul server is looked
/// for, and one line says whether there is one.
///
/// # Errors
/// Those of the settings, and a program's command line that is none.
pub(super) async fn way_to(name: &ServerName, args: &ConnectArgs) -> Result<Way, Failure> {
    let over_ssh = |name: &ServerName, note: Option<String>| {
        let command = SshCommand::new(name, args.ssh.program.as_deref())?;
        Ok(Way::Ssh(Arc::new(SshHost::new(command, &args.ssh, note))))
    };
    match (name.scheme, args.ssh.via) {
        (Scheme::Ssh, Some(Via::Direct)) => {
            return Err(Failure::usage("ssh:// and --via direct exclude each other"));
        }
        (Scheme::Ssh, _) => return over_ssh(name, None),
        (Scheme::Haul, _) | (Scheme::Any, Some(Via::Direct)) => return Ok(Way::Direct),
        (Scheme::Any, Some(Via::Ssh)) => return over_ssh(name, None),
        (Scheme::Any, _) if args.ssh.program.is_some() => return over_ssh(name, None),
        (Scheme::Any, _) => {}
    }
    let mut saved = saved::load(&config_dir()?.join("servers"))?.into_iter();
    let saved = saved.find(|saved| saved.name == name.host);
    let is_auto = args.ssh.via == Some(Via::Auto);
    if !is_auto && saved.as_ref().is_some_and(|saved| saved.via == saved::Via::Direct) {
        // its settings are read when it is connected to
        return Ok(Way::Direct);
    }
    // malformed settings are found before ssh asks for anything
    let settings = find(name, NewKey::Ask)?;
    if let Some(saved) = saved {
        // a user of haul need not be one of ssh
        let user = saved.user.as_ref().filter(|_| saved.via != saved::Via::Direct);
        let user = name.user.clone().or(user.map(ToString::to_string));
        let host = ServerName {
            user,
            host: saved.host.clone(),
            ..name.clone()
        };
        return match saved.via {
            saved::Via::Ssh => over_ssh(&host, None),
            saved::Via::Auto | saved::Via::Direct => found(&host, saved.port, over_ssh).await,
        };
    }
    let is_known = settings.known.pin(&settings.address()).is_some();
    let has_password = args.password_file.is_some() || std::env::var_os("HAUL_PASSWORD").is_some();
    match (is_known || has_password || args.accept_new) && !is_auto {
        // where a path leads does not depend on whether that server runs today
        true => Ok(Way::Direct),
        false => found(name, name.port(), over_ssh).await,
    }
}

/// Looks for a haul server at the host.
async fn found(
    name: &ServerName,
    port: u16,
    over_ssh: impl Fn(&ServerName, Option<String>) -> Result<Way, Failure>,
) -> Result<Way, Failure> {
    let opened = timeout(DIRECT, Connection::open(&name.host, port, None, None)).await;
    let host = printable(&name.host);
    let why = match opened {
        Ok(Ok(_)) => {
            if !is_quiet() {
                screen::say(&format!("haul: {host}: a haul server answers at port {port}"));
            }
            return Ok(Way::Direct);
        }
        Ok(Err(_)) => "no haul server",
        Err(_) => "no answer",
    };
    over_ssh(name, Some(format!("{host}: {why} at port {port}")))
}

/// True if the user has asked for failures only.
pub(super) fn is_quiet() -> bool {
    has_flag('q', "--quiet")
}
