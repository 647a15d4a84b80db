//! The candidates for the word at the cursor.

use super::candidate::Candidate;
use super::line::{Line, find_long};
use super::remote;
use crate::auth::users;
use crate::cmd::find;
use crate::cmd::hint;
use crate::cmd::location::Location;
use crate::cmd::settings::state_dir;
use clap::{Arg, Command, ValueHint};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// The names of this machine that fit beside the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// None.
    None,
    /// Files and directories.
    Files,
    /// Directories.
    Dirs,
}

type Answer = (Local, Vec<Candidate>);

/// The candidates behind `line` that begin with `word`.
pub async fn of(line: &Line<'_>, word: &OsStr) -> Answer {
    let Some(command) = line.command else {
        return (Local::None, Vec::new());
    };
    let (local, mut found) = match line.value_of {
        Some(arg) => values(line, arg, word).await,
        None if line.is_option(word) || (!line.escaped && word == "-") => {
            options(line, command, word).await
        }
        None => {
            let (local, mut fits) = positionals(line, command, word).await;
            if line.takes_subcommand() {
                fits.splice(0..0, subcommands(command));
            }
            (local, fits)
        }
    };
    found.retain(|c| c.value.as_bytes().starts_with(word.as_bytes()));
    (local, found)
}

fn subcommands(command: &Command) -> Vec<Candidate> {
    let shown = command.get_subcommands().filter(|c| !c.is_hide_set());
    shown.map(|c| Candidate::new(c.get_name(), about(c.get_about()))).collect()
}

fn about(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_string()
}

/// Names of options, or the value in `--name=value`.
async fn options(line: &Line<'_>, command: &Command, word: &OsStr) -> Answer {
    let text = word.to_string_lossy();
    let value = text.strip_prefix("--").and_then(|rest| rest.split_once('='));
    if let Some((name, value)) = value {
        let Some(arg) = find_long(command, name).filter(|arg| arg.get_action().takes_values())
        else {
            return (Local::None, Vec::new());
        };
        let (local, mut found) = values(line, arg, OsStr::new(value)).await;
        for candidate in &mut found {
            let mut whole = OsString::from(format!("--{name}="));
            whole.push(&candidate.value);
            candidate.value = whole;
        }
        return (local, found);
    }
    let is_repeatable =
        |arg: &Arg| matches!(arg.get_action(), clap::ArgAction::Append | clap::ArgAction::Count);
    let offered = command
        .get_arguments()
        .filter(|a| !a.is_positional() && !a.is_hide_set())
        .filter(|a| {
            is_repeatable(a) || !line.given.iter().any(|given| given.get_id() == a.get_id())
        });
    let mut found: Vec<Candidate> = offered.filter_map(option).collect();
    if command.get_name() == "find" {
        found.iter_mut().for_each(|c| c.value = find::as_test(&c.value));
    }
    (Local::None, found)
}

/// An option, by its long name if it has one.
fn option(arg: &Arg) -> Option<Candidate> {
    let help = about(arg.get_help());
    let name = match (arg.get_long(), arg.get_short()) {
        (Some(long), _) if arg.is_require_equals_set() && wants_value(arg) => format!("--{long}="),
        (Some(long), _) => format!("--{long}"),
        (None, Some(short)) => format!("-{short}"),
        (None, None) => return None,
    };
    Some(Candidate::new(name, help))
}

fn wants_value(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|n| n.min_values() > 0)
}

/// The positionals that the word may be: behind the first of several sources it is a source or the
/// destination.
async fn positionals(line: &Line<'_>, command: &Command, word: &OsStr) -> Answer {
    let (mut least, mut most) = (0_usize, 0_usize);
    let (mut local, mut found) = (Local::None, Vec::new());
    for arg in command.get_positionals() {
        let count = arg.get_num_args().unwrap_or_default();
        let (begins, ends) = (least, most.saturating_add(count.max_values()));
        if begins <= line.positionals && line.positionals < ends {
            let (more, fits) = values(line, arg, word).await;
            local = if more == Local::None { local } else { more };
            found.extend(fits);
        }
        (least, most) = (least.saturating_add(count.min_values()), ends);
    }
    (local, found)
}

/// The candidates for a value of this argument.
async fn values(line: &Line<'_>, arg: &Arg, word: &OsStr) -> Answer {
    let possible = arg.get_possible_values();
    if !possible.is_empty() {
        let shown = possible.iter().filter(|v| !v.is_hide_set());
        let found = shown.map(|v| Candidate::new(v.get_name(), about(v.get_help()))).collect();
        return (Local::None, found);
    }
    match arg.get_value_hint() {
        hint::LOCAL => (files(word), Vec::new()),
        hint::LOCAL_DIR => (Local::Dirs, Vec::new()),
        hint::REMOTE => (Local::None, remote::paths(word).await),
        hint::LOCAL_OR_REMOTE => (files(word), remote::paths(word).await),
        hint::HOST => (Local::None, remote::hosts("")),
        hint::USER => (Local::None, local_users(line)),
        ValueHint::Unknown => (Local::None, defaults(arg)),
        _ => (Local::None, Vec::new()),
    }
}

/// Files of this machine, unless the word names a place on a server.
fn files(word: &OsStr) -> Local {
    match Location::parse(word) {
        Ok(Location::Local(_)) => Local::Files,
        _ if word.is_empty() => Local::Files,
        _ => Local::None,
    }
}

/// An option's default, as an example of its values.
fn defaults(arg: &Arg) -> Vec<Candidate> {
    let values = arg.get_default_values().iter();
    values
        .filter(|v| arg.get_action().takes_values() && !v.is_empty())
        .map(|v| Candidate::new(v, "the default"))
        .collect()
}

/// The users of this machine's server, if its state may be read.
fn local_users(line: &Line<'_>) -> Vec<Candidate> {
    let users = || {
        let path = state_dir(line.state.clone()).ok()?.join("users");
        users::read(&path).ok()
    };
    let users = users().unwrap_or_default();
    users
        .into_iter()
        .map(|user| Candidate::new(user.name.to_string(), ""))
        .collect()
}
