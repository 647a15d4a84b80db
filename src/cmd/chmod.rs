//! `haul chmod`: changes modes on a server.

use super::connect::{ConnectArgs, RemoteSession};
use super::each::{self, each_remote};
use super::failure::{Failure, exit};
use super::hint;
use super::patterns::Patterns;
use super::remote::Remote;
use super::walk::{Descend, Step, all, walk};
use crate::net::NetError;
use crate::net::client::Client;
use crate::net::client::changes::Missing;
use crate::net::transfer::mode::{Mode, umask};
use crate::store::{Change, Entry, Kind, RemotePath};
use std::ffi::OsString;

/// Requests that are under way at a time.
const BATCH: usize = 64;

/// Change modes of files and directories on a server
///
/// MODE is octal, or changes as chmod takes them. haul never sets set-uid and set-gid bits, and
/// never changes what a symlink leads to.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul chmod 640 nas:report.pdf
  haul chmod u+x,go-w nas:bin/run
  haul chmod -R a+rX nas:public        X: directories, and what is executable
  haul chmod -x 'nas:*.txt'            a pattern: the server finds what matches")]
pub struct Args {
    /// 644, 0755, u+x, go-w, a+rX, u=rw,go=
    #[arg(value_name = "MODE", allow_hyphen_values = true)]
    mode: String,

    /// Files and directories: [USER@]HOST:PATH. PATH may be a pattern
    #[arg(required = true, value_name = "PATH", value_hint = hint::REMOTE)]
    paths: Vec<OsString>,

    /// Change directories with everything in them; symlinks are passed by
    #[arg(short = 'R', long)]
    recursive: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let mode = Mode::parse(&args.mode, umask()).map_err(Failure::usage)?;
    let remotes = each::parse(&args.paths)?;
    let patterns = match args.recursive {
        true => Patterns::Outermost,
        false => Patterns::All,
    };
    let done = each_remote(&remotes, &args.connect, patterns, async |session, remote| {
        match args.recursive {
            true => change_tree(session, &mode, remote).await,
            false => change_one(session, &mode, remote).await,
        }
    });
    done.await
}

async fn change_one(
    session: &mut RemoteSession,
    mode: &Mode,
    remote: &Remote,
) -> Result<(), Failure> {
    let path = remote.path.as_bytes();
    let changed = session.ask(async |client| {
        let (entry, _) = client.stat(path, false).await?;
        // the server refuses a symlink, and says why
        set(client, &remote.path, wanted(mode, &entry)).await
    });
    changed.await.map_err(|e| Failure::about(&remote.shown, e))
}

fn wanted(mode: &Mode, entry: &Entry) -> u32 {
    mode.apply(entry.attributes.mode, entry.kind == Kind::Dir)
}

async fn set(client: &Client, path: &RemotePath, mode: u32) -> Result<(), NetError> {
    let change = Change {
        mode: Some(mode),
        mtime: None,
    };
    client.set_attributes(path.as_bytes(), change, Missing::Refused).await
}

/// The changes of a tree that are still to be made.
struct Pending<'a> {
    top: &'a Remote,
    changes: Vec<(RemotePath, u32)>,
    failed: bool,
}

impl Pending<'_> {
    /// Makes the changes, several at a time. Each failure is reported.
    async fn flush(&mut self, session: &mut RemoteSession) -> Result<(), Failure> {
        let changes = std::mem::take(&mut self.changes);
        let results = session.ask(async |client| {
            let results = all(changes.iter().map(|(path, mode)| set(client, path, *mode))).await;
            // a lost session is another matter than a refusal
            let lost = results.iter().find_map(|result| match result {
                Err(e) if e.is_transient() => Some(e.clone()),
                _ => None,
            });
            lost.map_or(Ok(results), Err)
        });
        for ((path, _), result) in changes.iter().zip(results.await?) {
            if let Err(e) = result {
                Failure::about(self.top.at(path.clone()).shown, e).report();
                self.failed = true;
            }
        }
        Ok(())
    }
}

/// A directory is changed before what is in it is listed, so that a change may allow that; but one
/// that loses a right of its owner afterwards.
async fn change_tree(
    session: &mut RemoteSession,
    mode: &Mode,
    top: &Remote,
) -> Result<(), Failure> {
    let mut pending = Pending {
        top,
        changes: Vec::new(),
        failed: false,
    };
    // per open directory: its mode if that is set in the end
    let mut last: Vec<Option<u32>> = Vec::new();
    let visit = async |session: &mut RemoteSession, step: Step<'_>| {
        match step {
            Step::Leave { path, .. } => {
                let change = last.pop().flatten().map(|mode| (path.clone(), mode));
                pending.changes.extend(change);
            }
            Step::Entry { entry, depth, .. } if entry.kind == Kind::Symlink && depth > 0 => {}
            Step::Entry { path, entry, .. } => {
                let (found, wanted) = (entry.attributes.mode, wanted(mode, entry));
                let is_dir = entry.kind == Kind::Dir;
                let loses = is_dir && found & !wanted & 0o700 != 0;
                if found != wanted && !loses {
                    pending.changes.push((path.clone(), wanted));
                }
                if is_dir {
                    last.push(loses.then_some(wanted));
                }
                if is_dir && found != wanted && !loses {
                    pending.flush(session).await?;
                }
            }
        }
        if pending.changes.len() >= BATCH {
            pending.flush(session).await?;
        }
        Ok(Descend::Yes)
    };
    let complete = walk(session, top, visit).await?;
    pending.flush(session).await?;
    match complete && !pending.failed {
        true => Ok(()),
        false => Err(Failure::already_reported(exit::PARTIAL)),
    }
}
