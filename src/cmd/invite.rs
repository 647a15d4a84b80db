//! `haul invite`: a code that lets a machine log in without a password.

use super::failure::{Failure, exit};
use super::hint;
use super::output;
use super::table;
use super::units::{self, parse_time};
use super::user::account::{self, Rights, StateDir};
use crate::auth::invite;
use crate::auth::state_file::StateFile;
use crate::auth::user::OpenInvite;
use crate::auth::user::User;
use crate::auth::users;
use crate::auth::{Identity, UserName};
use clap::Subcommand;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Print a one-time code that lets a machine log in as a user
///
/// The code carries the fingerprint of the server's key, so that haul login on the other machine
/// can verify the server. It adds that machine's key to the user. A new user is created at once,
/// with full access to the server's root unless an option restricts it. A running server accepts
/// the invite at once; haul user rm removes it with its user.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  haul invite kim
  haul invite guest --read-only --root public --ttl 10m
  haul invite ls
  haul invite rm guest
  haul invite -- ls                    for a user named ls"
)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,

    /// The user
    #[arg(required = true, value_hint = hint::USER)]
    name: Option<String>,

    /// How long the code is valid
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_time)]
    ttl: Duration,

    #[command(flatten)]
    rights: Rights,

    /// The server's key, as in haul serve
    #[arg(long, value_name = "FILE", value_hint = hint::LOCAL)]
    key: Option<PathBuf>,

    #[command(flatten)]
    state: StateDir,
}

#[derive(Subcommand)]
enum Action {
    /// List unused invites
    #[command(after_help = "Example:\n  haul invite ls --json")]
    Ls {
        /// Print one JSON object per line: user, id, expires
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        state: StateDir,
    },
    /// Remove unused invites
    #[command(after_help = "Examples:\n  haul invite rm kim\n  haul invite rm kim 1f0c2a9b")]
    Rm {
        /// The user
        #[arg(value_hint = hint::USER)]
        name: String,

        /// The id of one invite, as haul invite ls prints it; without it, all of the user's
        id: Option<String>,

        #[command(flatten)]
        state: StateDir,
    },
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Some(Action::Ls { json, state }) => list(&state.users()?, json),
        Some(Action::Rm { name, id, state }) => remove(&state.users()?, &name, id.as_deref()),
        None => {
            let name = args.name.unwrap_or_default();
            let key = match args.key {
                Some(key) => key,
                None => args.state.dir()?.join("key"),
            };
            let identity = Identity::load_or_create(&key)?;
            let users = args.state.users()?;
            let (code, new) = make(&users, &identity, &name, args.ttl, &args.rights)?;
            if let Some(user) = new {
                let access = user.access.name();
                let root = output::name(user.root.as_bytes());
                eprintln!("{name} is a new user, with {access} access to /{root}");
                eprintln!("change that with haul user set {name}");
            }
            output::line(&code)
        }
    }
}

/// Makes an invite. Returns its code, and the user if it created one.
pub(super) fn make(
    at: &StateFile,
    identity: &Identity,
    name: &str,
    ttl: Duration,
    rights: &Rights,
) -> Result<(String, Option<User>), Failure> {
    let name = UserName::parse(name).map_err(Failure::usage)?;
    let mut user = User::new(name.clone());
    rights.apply(&mut user)?;
    let made = invite::Invite::new(identity.public().fingerprint());
    let made = made.map_err(|e| Failure::new(exit::FAILED, e))?;
    let now = users::now();
    let expires = now.saturating_add(ttl.as_secs());
    let new = users::update(at, |all| {
        if let Some(known) = all.iter_mut().find(|known| known.name == name) {
            if rights.any() {
                let hint = format!("change their rights with haul user set {name}");
                let reason = format!("there is a user {name} already");
                return Err(Failure::new(exit::FAILED, reason).hint(hint));
            }
            invite::add(known, &made, now, expires);
            return Ok(None);
        }
        invite::add(&mut user, &made, now, expires);
        all.push(user.clone());
        Ok(Some(user.clone()))
    })?;
    Ok((made.code(), new))
}

fn list(at: &StateFile, json: bool) -> Result<(), Failure> {
    let (all, now) = (users::read(at)?, users::now());
    let open = all
        .iter()
        .flat_map(|user| user.invites.iter().map(move |open| (user, open)));
    let open = open.filter(|(_, open)| open.expires > now);
    if json {
        let mut objects = open.map(|(user, open)| {
            let expires = units::rfc3339(units::moment(open.expires));
            json!({"user": user.name.as_str(), "id": open.id(), "expires": expires})
        });
        return objects.try_for_each(|object| output::line(&object.to_string()));
    }
    let row = |(user, open): (&User, &OpenInvite)| {
        let expires = units::local_time(units::moment(open.expires));
        [user.name.to_string(), open.id().to_string(), expires]
    };
    table::print(["user", "id", "expires"], &open.map(row).collect::<Vec<_>>())
}

fn remove(at: &StateFile, name: &str, id: Option<&str>) -> Result<(), Failure> {
    let wanted = |open: &OpenInvite| id.is_none_or(|id| id == open.id() || id == open.hash);
    account::change(at, name, |user| {
        if !user.invites.iter().any(wanted) {
            let reason = format!("{name} has no such invite");
            return Err(Failure::new(exit::FAILED, reason).hint("haul invite ls lists them"));
        }
        user.invites.retain(|open| !wanted(open));
        Ok(())
    })
}
