//! `haul invite`: a code with which a machine logs in without a password.

use super::failure::{Failure, exit};
use super::output;
use super::settings::state_dir;
use super::transfer::parse_time;
use crate::auth::{Identity, file, invite, users};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Print a one-time code that lets a machine log in as a user
///
/// The code carries the fingerprint of the server's key, so that `haul login` on the other machine knows whom it talks
/// to. The user is made, with full access to the server's root, if there is none of that name yet. A running server
/// knows the invite at once.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul invite kim
  haul invite kim --ttl 10m --state /var/lib/haul
  haul user add guest --invited --read-only && haul invite guest")]
pub struct Args {
    /// The user
    name: String,

    /// How long the code is good
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_time)]
    ttl: Duration,

    /// The server's state directory, as in haul serve
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let state = state_dir(args.state.clone())?;
    let identity = Identity::load_or_create(&state.join("key"))?;
    let users = users::parse(&state.join("users"), &file::read(&state.join("users"))?)?;
    let code = make(&state, &identity, &args.name, args.ttl)?;
    if !users.iter().any(|user| user.name == args.name) {
        eprintln!(
            "{} is a new user, with full access; haul user add {} --invited with --read-only, --write-only or --root bounds that",
            args.name, args.name
        );
    }
    output::line(&code)
}

/// Makes an invite; gives its code.
pub(super) fn make(state: &Path, identity: &Identity, user: &str, ttl: Duration) -> Result<String, Failure> {
    users::check_name(user).map_err(Failure::usage)?;
    let made = invite::Invite::new(identity.public().fingerprint()).map_err(|e| Failure::new(exit::FAILED, e))?;
    invite::add(&state.join("invites"), &made, user, ttl)?;
    Ok(made.code())
}
