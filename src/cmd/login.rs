//! `haul login`: turns an invite into a login by key.

use super::connect::{self, ConnectArgs};
use super::failure::{Failure, exit};
use super::hint;
use super::location::{Scheme, ServerName, parse_host};
use super::prompt;
use super::server::local_user;
use super::settings::config_dir;
use super::ssh;
use super::ssh_args::SshArgs;
use crate::auth::invite::Invite;
use crate::auth::known::KnownServers;
use crate::auth::password::Secret;
use crate::auth::saved::{self, SavedServer};
use crate::auth::{Identity, UserName, file};
use crate::net::client::connect::Connection;
use crate::net::printable;
use std::io::IsTerminal;

/// Log in to a server for the first time, with an invite
///
/// Asks for the invite that `haul invite` printed on the server, reads it from standard input, or
/// gets it over ssh.
/// Makes this machine's key if there is none, adds it to the user, pins the server's key, and saves
/// HOST as a name. After that no password is needed, even from cron.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul login nas                     asks for the invite; then: haul ls nas:
  haul login --name work server.example.com:4286
  haul login --via ssh nas           gets the invite over ssh
  echo haul1-… | haul login nas")]
pub struct Args {
    /// HOST or HOST:PORT
    #[arg(value_hint = hint::HOST)]
    host: String,

    /// Save the server under this name instead of HOST
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    #[command(flatten)]
    ssh: SshArgs,
}

impl Args {
    /// The name under which the server is saved.
    fn saved_name(&self, server: &ServerName) -> Result<String, Failure> {
        let name = self.name.clone().unwrap_or_else(|| server.host.clone());
        let is_odd = |c: char| c.is_whitespace() || ":/@=[]".contains(c);
        if name.is_empty() || name.starts_with('#') || name.contains(is_odd) && self.name.is_some()
        {
            return Err(Failure::usage(format!(
                "expected a name without spaces and without :/@=[], got {name}"
            )));
        }
        Ok(name)
    }

    /// The invite, and the address of the server if it came over ssh.
    async fn invite(&self, server: &ServerName) -> Result<(Secret, Option<String>), Failure> {
        if !self.ssh.is_via_ssh() && server.scheme != Scheme::Ssh {
            return Ok((read_invite(&self.host).await?, None));
        }
        let user = server.user.clone().unwrap_or_else(local_user);
        let user = UserName::parse(&user).map_err(Failure::usage)?;
        let host = ServerName {
            port: None,
            ..server.clone()
        };
        let invite = format!("invite {user}");
        let (printed, hostname) = ssh::output_of(&host, &self.ssh, &invite).await?;
        let code = printed.lines().map(str::trim).find(|line| line.starts_with("haul1-"));
        Ok((Secret::new(code.unwrap_or_default().into()), hostname))
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let server = parse_host(&args.host)?;
    let name = args.saved_name(&server)?;
    let dir = config_dir()?;
    // malformed settings are found before the invite is used up
    let mut known = KnownServers::load(&dir.join("known_servers"))?;
    saved::load(&dir.join("servers"))?;
    let (code, hostname) = args.invite(&server).await?;
    let invite = Invite::parse(&code).ok_or_else(|| {
        Failure::new(exit::LOGIN, "that is not an invite")
            .hint("haul invite NAME on the server prints one; it starts with haul1-")
    })?;
    file::make_private_dir(&dir)?;
    let identity = Identity::load_or_create(&dir.join("key"))?;
    let (host, port) = (hostname.unwrap_or_else(|| server.host.clone()), server.port());
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
        via: saved::Via::Direct,
    };
    saved::save(&dir.join("servers"), &entry)?;
    let by_name = ServerName {
        user: None,
        host: name.clone(),
        port: None,
        scheme: Scheme::Any,
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
