//! `haul rsync`: runs a command line of rsync as a put, a get or a copy, and ends with rsync's exit
//! codes.

use super::failure::{Failure, exit};
use super::location::Location;
use super::put;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args as _, Command};
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Run a command line of rsync
///
/// haul takes the options of rsync, and puts, gets or copies. It refuses an option that it does not
/// have, and names it. The other side is a haul server: with a name that `haul login` has saved, or
/// HOST: as with `haul put`. The exit codes are rsync's; haul-from-rsync(7) has the tables.
#[derive(clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  haul rsync -avzP --delete --exclude node_modules src/ nas:dst/
  haul rsync -a nas:photos .
  alias rsync='haul rsync'"
)]
pub struct Args {
    /// The options and paths
    #[arg(
        required = true,
        value_name = "ARG",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    args: Vec<OsString>,

    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// A command line of rsync, as one of haul.
pub(super) struct Translated {
    /// The words, `haul` first.
    pub(super) words: Vec<OsString>,
    /// Files that vanish while they are sent have an exit code of their own. False where a source
    /// may have been missing from the start.
    reports_vanished: bool,
}

/// Finds the command that does what the arguments say.
///
/// # Errors
/// A usage failure that names the option that differs.
pub(super) fn translate(args: &Args) -> Result<Translated, Failure> {
    let grammar = put::Args::augment_args(Command::new("rsync").no_binary_name(true));
    let matches = grammar.try_get_matches_from(&args.args).map_err(|e| refused(&e))?;
    let many = |id| matches.get_many::<OsString>(id).into_iter().flatten();
    let sources: Vec<&OsString> = many("sources").collect();
    let mut remote = false;
    for source in &sources {
        remote |= is_remote(source)?;
    }
    let to = matches.get_one::<OsString>("destination");
    if remote && to.is_some_and(|to| is_remote(to).is_ok_and(|is| is)) {
        return Err(Failure::usage("the source and destination cannot both be remote")
            .hint("haul cp copies between servers"));
    }
    let verb = match matches.get_one::<OsString>("destination") {
        Some(destination) if !remote && is_remote(destination)? => "put",
        _ if remote => "get",
        _ => "cp",
    };
    let exists = |source: &&OsString| Path::new(source).symlink_metadata().is_ok();
    Ok(Translated {
        words: ["haul", verb]
            .map(OsString::from)
            .into_iter()
            .chain(args.args.clone())
            .collect(),
        reports_vanished: sources.iter().all(exists),
    })
}

fn is_remote(path: &OsStr) -> Result<bool, Failure> {
    Ok(matches!(Location::parse(path)?, Location::Remote(_)))
}

/// One line for what the command line parser has to say.
pub(super) fn refused(error: &clap::Error) -> Failure {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.clone(),
        _ => String::new(),
    };
    match error.kind() {
        ErrorKind::UnknownArgument => {
            Failure::usage(format!("{argument}: haul has no such option"))
                .hint("haul-from-rsync(7) says what to type instead")
        }
        ErrorKind::MissingRequiredArgument => {
            Failure::usage("rsync with one path lists").hint("use haul ls")
        }
        _ => Failure::of_parser(error),
    }
}

impl Translated {
    /// rsync's exit code for one of haul (rsync(1), EXIT VALUES). `vanished`: all that failed were
    /// files that no longer existed.
    pub(super) fn exit(&self, code: u8, vanished: bool) -> u8 {
        match code {
            0 => 0,
            exit::USAGE => 1,
            exit::CONNECT => 10,
            exit::LOGIN | exit::KEY => 5,
            exit::PARTIAL if vanished && self.reports_vanished => 24,
            exit::PARTIAL | exit::LOCKED | exit::NOT_FOUND => 23,
            exit::GUARD => 25,
            exit::HUNG_UP | exit::INTERRUPTED | exit::TERMINATED => 20,
            _ => 11,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::get;

    fn options_of(command: &Command) -> Vec<String> {
        let options = command.get_arguments().filter(|arg| !arg.is_positional());
        options.map(|arg| arg.get_id().to_string()).collect()
    }

    fn translated(line: &str) -> Result<String, Failure> {
        let args = line.split(' ').map(OsString::from).collect();
        let translated = translate(&Args { args, help: None })?;
        Ok(translated.words[1].to_string_lossy().into_owned())
    }

    #[test]
    fn the_paths_decide_which_command_it_is() {
        assert_eq!(translated("-avz --delete src/ nas:dst").unwrap(), "put");
        assert_eq!(translated("-avz nas:src/ kim@nas:b dst").unwrap(), "get");
        assert_eq!(translated("-a --exclude a:b src dst").unwrap(), "cp");
        for refused in ["-a --no-motd src nas:", "-a --rsync-path=x src nas:", "nas:"] {
            assert_eq!(translated(refused).unwrap_err().exit(), exit::USAGE, "{refused}");
        }
    }

    #[test]
    fn put_and_get_have_the_same_options() {
        let of_put = options_of(&put::Args::augment_args(Command::new("put")));
        let of_get = options_of(&get::Args::augment_args(Command::new("get")));
        assert_eq!(of_put, of_get);
    }
}
