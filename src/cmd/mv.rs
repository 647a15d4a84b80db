//! `haul mv`: renames on a server.

use super::connect::{ConnectArgs, RemoteSession};
use super::each::{parse, sum_up};
use super::failure::Failure;
use super::hint;
use super::locate::{locate, locate_all};
use super::output;
use super::patterns::{self, Patterns};
use super::prompt;
use super::remote::Remote;
use super::sessions::Sessions;
use crate::net::NetError;
use crate::net::client::Client;
use crate::net::wire::Code;
use crate::store::{Kind, RemotePath};
use std::ffi::OsString;

/// Rename or move files and directories on a server
///
/// If TO is a file, it is replaced; if it is a directory, each FROM moves into it. A TO that ends
/// with a slash, or that has several FROM, must be a directory.
#[derive(clap::Args)]
#[command(
    override_usage = "haul mv [OPTIONS] <FROM>... <TO>",
    after_help = "\
Examples:
  haul mv nas:a.txt nas:b.txt
  haul mv nas:a.txt nas:b.txt nas:archive/
  haul mv -v 'nas:*.log' nas:archive   a pattern: the server finds what matches
  haul mv -n nas:new.txt nas:a.txt     replaces nothing"
)]
#[allow(clippy::struct_excessive_bools)]
pub struct Args {
    /// Files and directories on one server: [USER@]HOST:PATH, which may be patterns. Then TO, on
    /// the same server
    #[arg(required = true, num_args = 2.., value_name = "FROM|TO", value_hint = hint::REMOTE)]
    paths: Vec<OsString>,

    /// Replace nothing: what exists at TO stays, and so does FROM
    #[arg(short, long, overrides_with = "interactive")]
    no_clobber: bool,

    /// Ask before replacing, at a terminal only
    #[arg(short, long, overrides_with = "no_clobber")]
    interactive: bool,

    /// Replace without asking, as is usual
    #[arg(short, long, overrides_with_all = ["interactive", "no_clobber"])]
    force: bool,

    /// Print each path that was moved
    #[arg(short, long)]
    verbose: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Whether an entry moved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moved {
    Yes,
    /// Something else has the name, and stays.
    No,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    if args.interactive {
        prompt::must_ask("-i")?;
    }
    let mut remotes = parse(&args.paths)?;
    let Some(to) = remotes.pop() else {
        return Ok(());
    };
    if let Some(from) = remotes.iter().find(|from| from.server != to.server) {
        let message = format!("{} is on another server than {}", to.shown, from.shown);
        return Err(Failure::usage(message).hint("get it and put it there"));
    }
    let remotes = locate_all(&remotes, &args.connect).await?;
    let mut to = locate(&to, &args.connect).await?;
    let mut sessions = Sessions::new(&args.connect);
    let session = sessions.with(&to.server).await?;
    let (mut sources, mut failures) = (Vec::new(), Vec::new());
    for from in &remotes {
        match patterns::expand(session, from, Patterns::All).await {
            Ok(found) => sources.extend(found),
            Err(e) => failures.push(e),
        }
    }
    to.directory |= sources.len() > 1 || remotes.len() > 1;
    let mut done = 0_usize;
    for from in &sources {
        match rename(session, &args, from, &to).await {
            Ok(moved) => {
                done = done.saturating_add(1);
                if args.verbose && moved == Moved::Yes {
                    let line = format!("renamed {} -> {}", from.shown, to.shown);
                    output::line(&output::name(line.as_bytes()))?;
                }
            }
            Err(e) => {
                failures.push(Failure::about(format!("{} to {}", from.shown, to.shown), e));
            }
        }
    }
    sessions.quit().await;
    sum_up(done, failures)
}

async fn rename(
    session: &mut RemoteSession,
    args: &Args,
    from: &Remote,
    to: &Remote,
) -> Result<Moved, Failure> {
    let (old, new, directory) = (from.path.as_bytes(), to.path.as_bytes(), to.directory);
    if args.no_clobber || args.interactive {
        let moved = session.ask(async |client| match client.move_new(old, new, directory).await {
            Err(e) if is_conflict(&e) && is_taken(client, from, to).await? => Ok(Moved::No),
            other => other.map(|()| Moved::Yes),
        });
        let moved = moved.await?;
        if moved == Moved::Yes || args.no_clobber {
            return Ok(moved);
        }
        let question = format!("replace {} with {}? ", to.shown, from.shown);
        let agreed = prompt::yes(&output::name(question.as_bytes())).await;
        if !agreed.map_err(|e| Failure::io("no answer", &e))? {
            return Ok(Moved::No);
        }
    }
    session.ask(async |client| client.rename(old, new, directory).await).await?;
    Ok(Moved::Yes)
}

fn is_conflict(error: &NetError) -> bool {
    matches!(
        error,
        NetError::Refused {
            code: Code::CONFLICT,
            ..
        }
    )
}

/// True if something has the name that an entry would get.
async fn is_taken(client: &Client, from: &Remote, to: &Remote) -> Result<bool, NetError> {
    let exists = async |path: &RemotePath| match client.stat(path.as_bytes(), false).await {
        Ok((entry, _)) => Ok(Some(entry.kind)),
        Err(NetError::Refused { .. }) => Ok(None),
        Err(e) => Err(e),
    };
    let inside = from.path.split().and_then(|(_, name)| to.path.join(&name).ok());
    match (exists(&to.path).await?, inside) {
        // a symlink may lead to a directory
        (Some(Kind::Dir | Kind::Symlink), Some(inside)) if exists(&inside).await?.is_some() => {
            Ok(true)
        }
        (kind, _) => Ok(!to.directory && kind.is_some_and(|kind| kind != Kind::Dir)),
    }
}
