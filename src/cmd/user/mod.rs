//! `haul user`: the users of this machine's server, and their rights.

pub(super) mod account;
mod key;

use self::account::{Named, Rights, StateDir, about_users, change, find, no_user};
use super::failure::{Failure, exit};
use super::hint;
use super::rate::Rate;
use super::table;
use super::{output, prompt};
use crate::auth::last_used::{self, LastUsed};
use crate::auth::user::AuthorizedKey;
use crate::auth::user::User;
use crate::auth::users;
use crate::auth::{PublicKey, UserName, password};
use clap::Subcommand;
use serde_json::{Map, Value, json};
use std::io::IsTerminal;
use std::path::PathBuf;

/// Manage the users of this machine's server
///
/// Changes take effect at once: a running server ends sessions and transfers that are no longer
/// allowed.
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
    /// Add a user; the password comes from the terminal, or else from standard input
    #[command(after_help = "\
Examples:
  haul user add kim
  haul user add guest --read-only --root public < password
  haul user add backup --key backup.pub --write-only --root incoming
  haul user add guest --invited --read-only && haul invite guest")]
    Add(Add),
    /// Change a user's rights; password and keys stay
    #[command(after_help = "\
Examples:
  haul user set kim --read-only
  haul user set kim --full --root .
  haul user set kim --bwlimit 2M")]
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
    Key(key::Args),
}

#[derive(clap::Args)]
struct Add {
    #[command(flatten)]
    user: Named,

    /// Log in with this public key (a client's key.pub) instead of a password
    #[arg(long, value_name = "FILE", value_hint = hint::LOCAL)]
    key: Option<PathBuf>,

    /// Set neither password nor key: haul invite adds a key
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

    /// Print one JSON object per line: name, access, root, bwlimit, password (true or false), keys,
    /// invites
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Add(add) => add_user(&add).await,
        Action::Set(set) => {
            if !set.rights.any() {
                let message =
                    "nothing to set: give --root, --full, --read-only, --write-only or --bwlimit";
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
                user.password = Some(hash.clone());
                Ok(())
            })
        }
        Action::Rm(named) => users::update(named.state.users()?, |all| {
            let index = all.iter().position(|user| user.name == *named.name);
            all.remove(index.ok_or_else(|| no_user(&named.name))?);
            Ok(())
        }),
        Action::Ls(ls) => list(&ls),
        Action::Key(args) => key::run(args),
    }
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
        all.push(user.clone());
        Ok(())
    })
}

/// Asks for a password twice at a terminal; elsewhere reads the first line of standard input.
async fn new_password(name: &str) -> Result<String, Failure> {
    let failed =
        |e: std::io::Error| Failure::new(exit::FAILED, format!("cannot read the password: {e}"));
    let given = if std::io::stdin().is_terminal() {
        let first = prompt::secret(&format!("Password for {name}: ")).await.map_err(failed)?;
        let second = prompt::secret("Again: ").await.map_err(failed)?;
        if first != second {
            return Err(Failure::new(exit::FAILED, "the two passwords differ"));
        }
        first
    } else {
        prompt::first_line_of_input().await.map_err(failed)?
    };
    let given = given.ok_or_else(|| Failure::new(exit::FAILED, "no password was given"))?;
    password::hash(&given).map_err(|e| Failure::new(exit::FAILED, e.to_string()))
}

fn list(ls: &Ls) -> Result<(), Failure> {
    let at = ls.state.users()?;
    let all = users::read(&at)?;
    let now = users::now();
    if ls.json {
        let last = LastUsed::read(at.beside(last_used::FILE))?;
        let mut objects = all.iter().map(|user| as_json(user, &last, now));
        return objects.try_for_each(|user| output::line(&user.to_string()));
    }
    let row = |user: &User| {
        [
            user.name.to_string(),
            user.access.name().to_string(),
            format!("/{}", output::name(user.root.as_bytes())),
            Rate(user.rate).to_string(),
            if user.password.is_some() { "yes" } else { "no" }.to_string(),
            user.keys.len().to_string(),
            invites(user, now).to_string(),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    table::print(["name", "access", "root", "bwlimit", "password", "keys", "invites"], &rows)
}

/// The number of invites that are still valid.
fn invites(user: &User, now: u64) -> usize {
    user.invites.iter().filter(|open| open.expires > now).count()
}

fn as_json(user: &User, last: &LastUsed, now: u64) -> Value {
    let mut object = Map::new();
    object.insert("name".into(), json!(user.name.as_str()));
    object.insert("access".into(), json!(user.access.name()));
    output::put_text(&mut object, "root", &[b"/", user.root.as_bytes()].concat());
    object.insert("bwlimit".into(), json!(user.rate));
    object.insert("password".into(), json!(user.password.is_some()));
    let keys = user.keys.iter().map(|key| key::as_json(user, key, last));
    object.insert("keys".into(), keys.collect());
    object.insert("invites".into(), json!(invites(user, now)));
    Value::Object(object)
}
