//! Options of every command that talks to a server.

use super::failure::{Failure, exit};
use super::hint;
use super::ssh_args::SshArgs;
use super::units::parse_time;
use crate::auth::password::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// Options of every command that talks to a server.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ConnectArgs {
    /// Pin the key of a server that is not known yet without asking
    #[arg(long)]
    pub(super) accept_new: bool,

    /// Read the password from the first line of FILE
    #[arg(long, value_name = "FILE", value_hint = hint::LOCAL)]
    pub(super) password_file: Option<PathBuf>,

    /// When the connection is lost, retry for TIME without progress [default: 5m]. If given, also
    /// retry the first connection. HAUL_RETRY_FOR sets the same
    #[arg(long, value_name = "TIME", value_parser = parse_time, alias = "timeout")]
    retry_for: Option<Duration>,

    #[command(flatten)]
    pub(super) ssh: SshArgs,
}

/// How long to retry, as the command line says, or else the environment.
///
/// # Errors
/// A time that is none.
pub(super) fn retry_for(args: &ConnectArgs) -> Result<Option<Duration>, Failure> {
    match (args.retry_for, std::env::var("HAUL_RETRY_FOR")) {
        (None, Ok(text)) if !text.is_empty() => match parse_time(&text) {
            Ok(time) => Ok(Some(time)),
            Err(why) => Err(Failure::usage(format!("HAUL_RETRY_FOR: {why}"))),
        },
        (given, _) => Ok(given),
    }
}

/// The password that the user has given, if there is one.
///
/// # Errors
/// That its file cannot be read.
pub(super) fn given_password(args: &ConnectArgs) -> Result<Option<Secret>, Failure> {
    if let Some(path) = &args.password_file {
        let text = std::fs::read_to_string(path).map_err(|e| {
            let message = format!("cannot read the password from {}: {e}", path.display());
            Failure::new(exit::LOGIN, message)
        })?;
        let text = Secret::new(text);
        return Ok(Some(Secret::new(text.lines().next().unwrap_or_default().into())));
    }
    Ok(std::env::var("HAUL_PASSWORD")
        .ok()
        .filter(|p| !p.is_empty())
        .map(Secret::new))
}
