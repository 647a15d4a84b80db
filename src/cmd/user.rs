//! `haul user`: who may log in to this machine's server.

use super::failure::{Failure, exit};
use super::location::parse_relative;
use super::output;
use super::settings::state_dir;
use crate::auth::users::{self, Access, User};
use crate::auth::{FileError, PublicKey, password};
use clap::Subcommand;
use std::ffi::OsString;
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

/// Manage the users of this machine's server
///
/// Changes take effect at once, also for a running server.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul user add kim                                asks for a password
  haul user add backup --key backup.pub --write-only --root incoming
  printf %s secret | haul user passwd kim
  haul user ls")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Add a user; the password is asked for twice at a terminal, else read from standard input
    #[command(after_help = "\
Examples:
  haul user add kim
  haul user add guest --read-only --root public < password
  haul user add backup --key backup.pub --write-only --root incoming
  haul user add guest --invited --read-only && haul invite guest")]
    Add(Add),
    /// Set a user's password
    #[command(after_help = "Example:\n  haul user passwd kim")]
    Passwd(Named),
    /// Remove a user
    #[command(after_help = "Example:\n  haul user rm kim")]
    Rm(Named),
    /// List the users
    #[command(after_help = "Example:\n  haul user ls --state /var/lib/haul")]
    Ls(State),
}

#[derive(clap::Args)]
struct State {
    /// The server's state directory, as in haul serve
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Named {
    /// The user
    name: String,

    #[command(flatten)]
    state: State,
}

#[derive(clap::Args)]
struct Add {
    #[command(flatten)]
    user: Named,

    /// Log in by this public key (the key.pub of a client) instead of a password
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,

    /// Neither password nor key: haul invite lists a key
    #[arg(long, conflicts_with = "key")]
    invited: bool,

    /// The user's own root, beneath the server's
    #[arg(long, value_name = "SUBDIR")]
    root: Option<OsString>,

    /// May read and list, and change nothing
    #[arg(long, conflicts_with = "write_only")]
    read_only: bool,

    /// May put files and make directories, and nothing else: a drop-box
    #[arg(long)]
    write_only: bool,
}

impl State {
    fn users(&self) -> Result<PathBuf, Failure> {
        Ok(state_dir(self.state.clone())?.join("users"))
    }
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Add(add) => add_user(add),
        Action::Passwd(named) => {
            let path = named.state.users()?;
            let missing = || format!("there is no user {}", named.name);
            let all = users::parse(&path, &crate::auth::file::read(&path)?)?;
            if !all.iter().any(|u| u.name == named.name) {
                return Err(no_user(&missing()));
            }
            let hash = new_password(&named.name)?;
            users::update(&path, |all| match all.iter_mut().find(|u| u.name == named.name) {
                Some(user) => {
                    user.password = Some(hash);
                    Ok(())
                }
                None => Err(missing()),
            })
            .map_err(failure)
        }
        Action::Rm(named) => users::update(&named.state.users()?, |all| {
            let before = all.len();
            all.retain(|u| u.name != named.name);
            if all.len() == before {
                Err(format!("there is no user {}", named.name))
            } else {
                Ok(())
            }
        })
        .map_err(failure),
        Action::Ls(state) => {
            let path = state.users()?;
            for user in users::parse(&path, &crate::auth::file::read(&path)?)? {
                output::line(&describe(&user))?;
            }
            Ok(())
        }
    }
}

fn no_user(reason: &str) -> Failure {
    Failure::new(exit::FAILED, reason).hint("haul user ls lists them")
}

/// A refused change is about the user, not about the file.
fn failure(error: FileError) -> Failure {
    match error {
        FileError::Content { reason, .. } => no_user(&reason),
        other => other.into(),
    }
}

fn add_user(add: Add) -> Result<(), Failure> {
    let path = add.user.state.users()?;
    let name = &add.user.name;
    users::check_name(name).map_err(Failure::usage)?;
    let exists = || format!("there is a user {name} already");
    if users::parse(&path, &crate::auth::file::read(&path)?)?
        .iter()
        .any(|u| &u.name == name)
    {
        return Err(no_user(&exists()));
    }
    let mut user = User::new(name);
    if let Some(root) = &add.root {
        user.root = parse_relative(root)?;
    }
    if add.read_only {
        user.access = Access::ReadOnly;
    } else if add.write_only {
        user.access = Access::WriteOnly;
    }
    match &add.key {
        Some(file) => user.keys.push(PublicKey::from_pem_file(file)?),
        None if add.invited => {}
        None => user.password = Some(new_password(name)?),
    }
    users::update(&path, |all| {
        if all.iter().any(|u| &u.name == name) {
            return Err(exists());
        }
        all.push(user);
        Ok(())
    })
    .map_err(failure)
}

/// Asks twice at a terminal; elsewhere the first line of standard input.
fn new_password(name: &str) -> Result<String, Failure> {
    let failed = |e: std::io::Error| Failure::new(exit::FAILED, format!("cannot read the password: {e}"));
    let given = if std::io::stdin().is_terminal() {
        let first = rpassword::prompt_password(format!("Password for {name}: ")).map_err(failed)?;
        let second = rpassword::prompt_password("Again: ").map_err(failed)?;
        if first != second {
            return Err(Failure::new(exit::FAILED, "the two passwords are not the same"));
        }
        first
    } else {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map_err(failed)?;
        line.trim_end_matches(['\n', '\r']).to_string()
    };
    password::hash(&given).map_err(|e| Failure::new(exit::FAILED, e.to_string()))
}

fn describe(user: &User) -> String {
    let access = match user.access {
        Access::Full => "full",
        Access::ReadOnly => "read-only",
        Access::WriteOnly => "write-only",
    };
    let password = if user.password.is_some() {
        "password"
    } else {
        "no password"
    };
    let keys: Vec<String> = user.keys.iter().map(|k| k.fingerprint().to_string()).collect();
    let keys = if keys.is_empty() {
        "no keys".to_string()
    } else {
        keys.join(" ")
    };
    format!(
        "{}  root=/{}  {access}  {password}  {keys}",
        user.name,
        output::name(user.root.as_bytes())
    )
}
