//! `haul login`: turns an invite into a login by key.

use super::connect::{self, ConnectArgs};
use super::failure::{Failure, exit};
use super::hint;
use super::location::{ServerName, parse_host};
use super::prompt;
use super::settings::config_dir;
use crate::auth::invite::Invite;
use crate::auth::known::KnownServers;
use crate::auth::password::Secret;
use crate::auth::saved::{self, SavedServer};
use crate::auth::{Identity, file};
use crate::net::client::connect::Connection;
use crate::net::printable;
use std::io::IsTerminal;

/// Log in to a server for the first time, with an invite
///
/// Asks for the invite that `haul invite` printed on the server, or reads it from standard input.
/// Makes this machine's key if there is none, adds it to the user, pins the server's key, and saves
/// HOST as a name. After that no password is needed, even from cron.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul login nas                     asks for the invite; then: haul ls nas:
  haul login --name work server.example.com:4286
  echo haul1-… | haul login nas")]
pub struct Args {
    /// HOST or HOST:PORT
    #[arg(value_hint = hint::HOST)]
    host: String,

    /// Save the server under this name instead of HOST
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let server = parse_host(&args.host)?;
    let name = args.name.clone().unwrap_or_else(|| server.host.clone());
    if name.is_empty()
        || name.starts_with('#')
        || name.contains(|c: char| c.is_whitespace() || ":/@=[]".contains(c)) && args.name.is_some()
    {
        return Err(Failure::usage(format!(
            "expected a name without spaces and without :/@=[], got {name}"
        )));
    }
    let dir = config_dir()?;
    // malformed settings are found before the invite is used up
    let mut known = KnownServers::load(&dir.join("known_servers"))?;
    saved::load(&dir.join("servers"))?;
    let invite = Invite::parse(&read_invite(&args.host).await?).ok_or_else(|| {
        Failure::new(exit::LOGIN, "that is not an invite")
            .hint("haul invite NAME on the server prints one; it starts with haul1-")
    })?;
    file::make_private_dir(&dir)?;
    let identity = Identity::load_or_create(&dir.join("key"))?;
    let (host, port) = (server.host.clone(), server.port());
    let address = format!("{host}:{port}");
    let connection = Connection::open(&host, port, Some(invite.server), Some(&identity)).await;
    let connection = connection.map_err(|e| match e {
        e @ crate::net::NetError::WrongKey { .. } => Failure::about(&address, e)
            .hint("the invite is for another server, or someone is intercepting the connection"),
        e => e.into(),
    })?;
    let user = connection
        .enroll(&invite.secret[..])
        .await
        .map_err(|e| Failure::about(&address, e))?;
    known.set(&address, invite.server)?;
    let entry = SavedServer {
        name: name.clone(),
        host,
        port,
        user: Some(user.clone()),
    };
    saved::save(&dir.join("servers"), &entry)?;
    let by_name = ServerName {
        user: None,
        host: name.clone(),
        port: None,
    };
    let session = connect::for_requests(&by_name, &ConnectArgs::default()).await?;
    session
        .client()
        .logged_in()
        .await
        .map_err(|e| Failure::about(&address, e))?;
    let write_only = session.client().is_write_only();
    session.quit().await;
    let shown = if name.contains(':') { format!("[{name}]") } else { name };
    // the next step is one that this user may take
    let next = if write_only { "put FILE" } else { "ls" };
    eprintln!("Logged in as {user}. From now on: haul {next} {shown}:");
    Ok(())
}

async fn read_invite(host: &str) -> Result<Secret, Failure> {
    let line = match std::io::stdin().is_terminal() {
        true => prompt::line(&format!("Invite for {}: ", printable(host))).await,
        false => prompt::first_line_of_input().await,
    };
    let line =
        line.map_err(|e| Failure::new(exit::FAILED, format!("cannot read the invite: {e}")))?;
    line.ok_or_else(|| {
        Failure::new(exit::LOGIN, "no invite was given")
            .hint("haul invite NAME on the server prints one; it starts with haul1-")
    })
}
