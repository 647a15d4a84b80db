//! `haul rm`: removes from a server.

use super::connect::{ConnectArgs, RemoteSession};
use super::each::{self, Unmatched, each_match};
use super::failure::{Failure, exit};
use super::hint;
use super::output;
use super::patterns::Patterns;
use super::prompt;
use super::remote::Remote;
use super::walk::{Descend, Step, walk};
use crate::net::NetError;
use crate::net::wire::Code;
use crate::store::{Kind, RemotePath};
use std::ffi::OsString;

/// Remove files and directories from a server
///
/// Without -r, a directory is removed only if it is empty.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul rm nas:old.txt nas:older.txt
  haul rm -r nas:backup/2025
  haul rm -v 'nas:log/*.[0-9].gz'      a pattern: the server finds what matches
  haul rm -ri nas:photos               asks for each entry
  haul rm -f nas:maybe.txt             no error if it does not exist

A pattern that matches nothing is an error without -f. A pattern matches names that start with a
dot only if it has the dot itself, and never leads above a directory.")]
#[allow(clippy::struct_excessive_bools)]
pub struct Args {
    /// Files and directories: [USER@]HOST:PATH. PATH may be a pattern
    #[arg(required = true, value_name = "PATH", value_hint = hint::REMOTE)]
    paths: Vec<OsString>,

    /// Remove directories with everything in them
    #[arg(short, long, visible_short_alias = 'R')]
    recursive: bool,

    /// Ignore paths that do not exist
    #[arg(short, long, overrides_with = "interactive")]
    force: bool,

    /// Ask before each removal, at a terminal only
    #[arg(short, long)]
    interactive: bool,

    /// Print each path that was removed; of a directory with everything in it, its own
    #[arg(short, long)]
    verbose: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    if args.interactive {
        prompt::must_ask("-i")?;
    }
    let patterns = match args.recursive {
        true => Patterns::Outermost,
        false => Patterns::All,
    };
    let remotes = each::parse(&args.paths)?;
    let unmatched = if args.force {
        Unmatched::Ignored
    } else {
        Unmatched::Fails
    };
    let connect = (&args.connect, patterns, unmatched);
    let done = each_match(&remotes, connect, async |session, remote| {
        if remote.is_home() {
            return Err(Failure::usage(format!("{}: haul does not remove this", remote.shown))
                .hint("name what is in it, like PATH/*"));
        }
        match args.interactive {
            true => ask_for_each(session, &args, remote).await,
            false => remove(session, &args, remote).await,
        }
    });
    done.await
}

async fn remove(session: &mut RemoteSession, args: &Args, remote: &Remote) -> Result<(), Failure> {
    let path = remote.path.as_bytes();
    let removed = session.ask(async |client| match client.remove(path, args.recursive).await {
        Err(NetError::Refused {
            code: Code::NOT_FOUND,
            ..
        }) if args.force => Ok(false),
        other => other.map(|()| true),
    });
    let removed = removed.await.map_err(|e| Failure::about(&remote.shown, e))?;
    match removed && args.verbose {
        true => output::line(&format!("removed {}", output::name(remote.shown.as_bytes()))),
        false => Ok(()),
    }
}

/// Asks for each entry, and for a directory when all in it has been removed.
async fn ask_for_each(
    session: &mut RemoteSession,
    args: &Args,
    top: &Remote,
) -> Result<(), Failure> {
    // per open directory: something in it stays
    let mut stays = vec![false];
    let visit = async |session: &mut RemoteSession, step: Step<'_>| {
        let path = match step {
            Step::Entry { path, .. } | Step::Leave { path, .. } => path,
        };
        let (what, opens) = match step {
            Step::Entry { entry, .. } if entry.kind == Kind::Dir && args.recursive => {
                ("search directory", true)
            }
            Step::Entry { .. } => ("remove", false),
            Step::Leave { .. } if stays.pop() == Some(true) => {
                mark(&mut stays);
                return Ok(Descend::No);
            }
            Step::Leave { .. } => ("remove directory", false),
        };
        if !agreed(top, path, what).await? {
            mark(&mut stays);
            return Ok(Descend::No);
        }
        if opens {
            stays.push(false);
            return Ok(Descend::Yes);
        }
        remove_entry(session, args, &top.at(path.clone())).await?;
        Ok(Descend::No)
    };
    match walk(session, top, visit).await {
        Err(e) if args.force && e.exit() == exit::NOT_FOUND => Ok(()),
        Err(e) => Err(e),
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::already_reported(exit::PARTIAL)),
    }
}

/// Something in the innermost open directory stays.
fn mark(stays: &mut [bool]) {
    if let Some(innermost) = stays.last_mut() {
        *innermost = true;
    }
}

async fn remove_entry(
    session: &mut RemoteSession,
    args: &Args,
    remote: &Remote,
) -> Result<(), Failure> {
    let path = remote.path.as_bytes();
    let removed = session.ask(async |client| client.remove(path, false).await).await;
    removed.map_err(|e| Failure::about(&remote.shown, e))?;
    match args.verbose {
        true => output::line(&format!("removed {}", output::name(remote.shown.as_bytes()))),
        false => Ok(()),
    }
}

async fn agreed(top: &Remote, path: &RemotePath, what: &str) -> Result<bool, Failure> {
    let shown = top.at(path.clone()).shown;
    let question = format!("{what} {}? ", output::name(shown.as_bytes()));
    prompt::yes(&question).await.map_err(|e| Failure::io("no answer", &e))
}
