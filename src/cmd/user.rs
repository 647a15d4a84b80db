//! `haul user`: who may log in to this machine's server, and what they may do.

use super::failure::{Failure, exit};
use super::hint;
use super::location::parse_relative;
use super::settings::state_dir;
use super::table;
use super::user_key;
use super::{output, prompt};
use crate::auth::last_used::{self, LastUsed};
use crate::auth::user::{Access, AuthorizedKey, User};
use crate::auth::users;
use crate::auth::{PublicKey, UserName, password};
use clap::Subcommand;
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Manage the users of this machine's server
///
/// Changes take effect at once, also for a running server: it ends sessions and transfers that a
/// change does not allow any more.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul user add kim                                asks for a password
  haul user add backup --key backup.pub --write-only --root incoming
  printf %s secret | haul user passwd kim
  haul user set kim --read-only
  haul user key add kim laptop.pub --label laptop
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
    /// Change what a user may do; password and keys stay
    #[command(after_help = "\
Examples:
  haul user set kim --read-only
  haul user set kim --full --root .")]
    Set(Set),
    /// Set a user's password
    #[command(after_help = "Example:\n  haul user passwd kim")]
    Passwd(Named),
    /// Remove a user with all keys and invites
    #[command(after_help = "Example:\n  haul user rm kim")]
    Rm(Named),
    /// List the users
    #[command(after_help = "\
Examples:
  haul user ls --state /var/lib/haul
  haul user ls --json | jq -r '.keys[].fingerprint'")]
    Ls(Ls),
    Key(user_key::Args),
}

#[derive(clap::Args)]
pub(super) struct StateDir {
    /// The server's state directory, as in haul serve
    #[arg(long, value_name = "DIR", value_hint = hint::LOCAL_DIR)]
    state: Option<PathBuf>,
}

#[derive(clap::Args)]
pub(super) struct Named {
    /// The user
    #[arg(value_hint = hint::USER)]
    pub(super) name: String,

    #[command(flatten)]
    pub(super) state: StateDir,
}

#[derive(clap::Args)]
struct Add {
    #[command(flatten)]
    user: Named,

    /// Log in by this public key (the key.pub of a client) instead of a password
    #[arg(long, value_name = "FILE", value_hint = hint::LOCAL)]
    key: Option<PathBuf>,

    /// Neither password nor key: haul invite lists a key
    #[arg(long, conflicts_with = "key")]
    invited: bool,

    #[command(flatten)]
    rights: Rights,
}

#[derive(clap::Args)]
struct Set {
    #[command(flatten)]
    user: Named,

    #[command(flatten)]
    rights: Rights,
}

#[derive(clap::Args)]
struct Ls {
    #[command(flatten)]
    state: StateDir,

    /// Print one JSON object a line: name, access, root, password (true or false), keys, invites
    #[arg(long)]
    json: bool,
}

/// What a user may do, as options.
#[derive(clap::Args, Default)]
pub(super) struct Rights {
    /// The user's own root, beneath the server's
    #[arg(long, value_name = "SUBDIR")]
    root: Option<OsString>,

    /// May do everything beneath the root [default for a new user]
    #[arg(long, conflicts_with_all = ["read_only", "write_only"])]
    full: bool,

    /// May read and list, and change nothing
    #[arg(long, conflicts_with = "write_only")]
    read_only: bool,

    /// May put files and make directories, and nothing else: a drop-box
    #[arg(long)]
    write_only: bool,
}

impl Rights {
    /// True when any option is given.
    pub(super) fn any(&self) -> bool {
        self.root.is_some() || self.access().is_some()
    }

    fn access(&self) -> Option<Access> {
        let given = [
            (self.full, Access::Full),
            (self.read_only, Access::ReadOnly),
            (self.write_only, Access::WriteOnly),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, access)| access)
    }

    /// Changes what the options name, and nothing else.
    pub(super) fn apply(&self, user: &mut User) -> Result<(), Failure> {
        if let Some(root) = &self.root {
            user.root = parse_relative(root)?;
        }
        user.access = self.access().unwrap_or(user.access);
        Ok(())
    }
}

impl StateDir {
    pub(super) fn dir(&self) -> Result<PathBuf, Failure> {
        state_dir(self.state.clone())
    }

    pub(super) fn users(&self) -> Result<PathBuf, Failure> {
        Ok(self.dir()?.join("users"))
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Add(add) => add_user(&add).await,
        Action::Set(set) => {
            if !set.rights.any() {
                let message = "nothing to set: give --root, --full, --read-only or --write-only";
                return Err(Failure::usage(message));
            }
            let path = set.user.state.users()?;
            change(&path, &set.user.name, |user| set.rights.apply(user))
        }
        Action::Passwd(named) => {
            let path = named.state.users()?;
            find(&path, &named.name)?;
            let hash = new_password(&named.name).await?;
            change(&path, &named.name, |user| {
                user.password = Some(hash);
                Ok(())
            })
        }
        Action::Rm(named) => users::update(&named.state.users()?, |all| {
            let index = all.iter().position(|user| user.name == *named.name);
            all.remove(index.ok_or_else(|| no_user(&named.name))?);
            Ok(())
        }),
        Action::Ls(ls) => list(&ls),
        Action::Key(args) => user_key::run(args),
    }
}

fn no_user(name: &str) -> Failure {
    about_users(format!("there is no user {name}"))
}

fn about_users(reason: String) -> Failure {
    Failure::new(exit::FAILED, reason).hint("haul user ls lists them")
}

/// The user of this name.
pub(super) fn find(path: &Path, name: &str) -> Result<User, Failure> {
    let found = users::read(path)?.into_iter().find(|user| user.name == *name);
    found.ok_or_else(|| no_user(name))
}

/// Changes the user of this name.
pub(super) fn change(
    path: &Path,
    name: &str,
    work: impl FnOnce(&mut User) -> Result<(), Failure>,
) -> Result<(), Failure> {
    users::update(path, |all| match all.iter_mut().find(|user| user.name == *name) {
        Some(user) => work(user),
        None => Err(no_user(name)),
    })
}

async fn add_user(add: &Add) -> Result<(), Failure> {
    let path = add.user.state.users()?;
    let name = UserName::parse(&add.user.name).map_err(Failure::usage)?;
    let exists = |all: &[User]| match all.iter().any(|user| user.name == name) {
        true => Err(about_users(format!("there is a user {name} already"))),
        false => Ok(()),
    };
    exists(&users::read(&path)?)?;
    let mut user = User::new(name.clone());
    add.rights.apply(&mut user)?;
    match &add.key {
        Some(file) => user.keys.push(AuthorizedKey {
            added: Some(users::now()),
            ..AuthorizedKey::new(PublicKey::from_pem_file(file)?)
        }),
        None if add.invited => {}
        None => user.password = Some(new_password(name.as_str()).await?),
    }
    users::update(&path, |all| {
        exists(all)?;
        all.push(user);
        Ok(())
    })
}

/// Asks twice at a terminal; elsewhere the first line of standard input.
async fn new_password(name: &str) -> Result<String, Failure> {
    let failed = |e: std::io::Error| Failure::new(exit::FAILED, format!("cannot read the password: {e}"));
    let given = if std::io::stdin().is_terminal() {
        let first = prompt::secret(&format!("Password for {name}: "))
            .await
            .map_err(failed)?;
        let second = prompt::secret("Again: ").await.map_err(failed)?;
        if first != second {
            return Err(Failure::new(exit::FAILED, "the two passwords are not the same"));
        }
        first
    } else {
        prompt::first_line_of_input().await.map_err(failed)?
    };
    let given = given.ok_or_else(|| Failure::new(exit::FAILED, "no password was given"))?;
    password::hash(&given).map_err(|e| Failure::new(exit::FAILED, e.to_string()))
}

fn list(ls: &Ls) -> Result<(), Failure> {
    let state = ls.state.dir()?;
    let all = users::read(&state.join("users"))?;
    let now = users::now();
    if ls.json {
        let last = LastUsed::read(&state.join(last_used::FILE))?;
        let mut objects = all.iter().map(|user| as_json(user, &last, now));
        return objects.try_for_each(|user| output::line(&user.to_string()));
    }
    let row = |user: &User| {
        [
            user.name.to_string(),
            user.access.name().to_string(),
            format!("/{}", output::name(user.root.as_bytes())),
            if user.password.is_some() { "yes" } else { "no" }.to_string(),
            user.keys.len().to_string(),
            invites(user, now).to_string(),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    table::print(["name", "access", "root", "password", "keys", "invites"], &rows)
}

/// Invites that are still good.
fn invites(user: &User, now: u64) -> usize {
    user.invites.iter().filter(|open| open.expires > now).count()
}

fn as_json(user: &User, last: &LastUsed, now: u64) -> Value {
    let mut object = Map::new();
    object.insert("name".into(), json!(user.name.as_str()));
    object.insert("access".into(), json!(user.access.name()));
    output::put_text(&mut object, "root", &[b"/", user.root.as_bytes()].concat());
    object.insert("password".into(), json!(user.password.is_some()));
    let keys = user.keys.iter().map(|key| user_key::as_json(user, key, last));
    object.insert("keys".into(), keys.collect());
    object.insert("invites".into(), json!(invites(user, now)));
    Value::Object(object)
}
