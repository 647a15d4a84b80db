//! `haul locks` and `haul unlock`: locks and partial files on a server.

use super::connect::{ConnectArgs, RemoteSession};
use super::each::{self, each, each_remote};
use super::failure::{Failure, exit};
use super::hint;
use super::output::{self, put_text};
use super::patterns::Patterns;
use super::remote::Remote;
use super::units;
use crate::net::control::codec::refused;
use crate::net::transfer::report::shown;
use crate::net::wire::Code;
use crate::net::{NetError, printable};
use crate::store::{Kind, LockEntry};
use serde_json::{Map, Value, json};
use std::ffi::OsString;

/// List locks and partial files on a server
///
/// Prints one line per file that a transfer is writing, or that a dead one has begun: its state
/// (writing or partial), for how long, the bytes of the partial file, the holder, and the path. The
/// next transfer of the same source resumes a partial file. haul unlock removes it, and so does the
/// server after its --partial-max-age.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul locks nas:                      in your root on the server
  haul locks -R nas:backup             with subdirectories
  haul locks --json nas: | jq -r .path")]
pub struct Args {
    /// Directories: [USER@]HOST:PATH
    #[arg(required = true, value_name = "PATH", value_hint = hint::REMOTE)]
    paths: Vec<OsString>,

    /// List subdirectories too
    #[arg(short = 'R', short_alias = 'r', long)]
    recursive: bool,

    /// Print one JSON object per line: path, state, locked_ms, bytes, holder
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Remove the partial file of an unfinished transfer
///
/// The target itself is not touched. A running transfer keeps its lock, except with --force: then
/// it cannot finish.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul unlock nas:disk.img
  haul unlock --force nas:disk.img     even while a transfer writes it")]
pub struct UnlockArgs {
    /// Targets of the transfers: [USER@]HOST:PATH
    #[arg(required = true, value_name = "PATH", value_hint = hint::REMOTE)]
    paths: Vec<OsString>,

    /// Remove it even while a transfer writes it
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn unlock(args: UnlockArgs) -> Result<(), Failure> {
    each(
        &args.paths,
        &args.connect,
        Patterns::Literal,
        async |client, path| match client.unlock(path, args.force).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(refused(
                u32::from(Code::NOT_FOUND.0),
                "no partial file, and no transfer writes it".into(),
            )),
            Err(NetError::Refused { code, text }) if code == Code::LOCKED => {
                Err(refused(u32::from(code.0), format!("{text}; --force removes it anyway")))
            }
            Err(e) => Err(e),
        },
    )
    .await
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let remotes = each::parse(&args.paths)?;
    each_remote(&remotes, &args.connect, Patterns::Literal, async |session, remote| {
        list(session, &args, remote).await
    })
    .await
}

async fn list(session: &mut RemoteSession, args: &Args, remote: &Remote) -> Result<(), Failure> {
    let top = remote.path.as_bytes().to_vec();
    let (mut todo, mut partial) = (vec![top.clone()], false);
    while let Some(dir) = todo.pop() {
        match list_directory(session, args, &dir, &mut todo).await {
            Err(e) if dir != top && e.exit() != exit::CONNECT => {
                Failure::about(output::name(&dir), e).report();
                partial = true;
            }
            Err(e) => return Err(Failure::about(&remote.shown, e)),
            Ok(()) => {}
        }
    }
    if partial {
        return Err(Failure::already_reported(exit::PARTIAL));
    }
    Ok(())
}

async fn list_directory(
    session: &mut RemoteSession,
    args: &Args,
    dir: &[u8],
    todo: &mut Vec<Vec<u8>>,
) -> Result<(), Failure> {
    let mut cookie = Some(Vec::new());
    while let Some(from) = cookie {
        let page = session.ask(async |client| client.locks(dir, from.clone()).await).await?;
        for entry in &page.0 {
            print(args, entry, &shown(dir, &entry.target))?;
        }
        cookie = page.1;
    }
    let mut cookie = args.recursive.then(Vec::new);
    while let Some(from) = cookie {
        let page = session.ask(async |client| client.list(dir, from.clone()).await).await?;
        let dirs = page.0.iter().filter(|e| e.kind == Kind::Dir);
        let names = dirs.filter_map(|e| e.name.as_ref());
        todo.extend(names.map(|name| shown(dir, name.as_bytes())));
        cookie = page.1;
    }
    Ok(())
}

fn print(args: &Args, entry: &LockEntry, path: &[u8]) -> Result<(), Failure> {
    let state = if entry.live { "writing" } else { "partial" };
    let (age, bytes) = (entry.holder.locked_for, entry.holder.written);
    if args.json {
        let mut object = Map::new();
        put_text(&mut object, "path", path);
        object.insert("state".into(), json!(state));
        object.insert(
            "locked_ms".into(),
            json!(age.map(|a| u64::try_from(a.as_millis()).unwrap_or(u64::MAX))),
        );
        object.insert("bytes".into(), json!(bytes));
        object.insert("holder".into(), json!(entry.holder.who));
        return output::line(&Value::Object(object).to_string());
    }
    output::line(&format!(
        "{state:<8} {:>9} {:>12}  {}  {}",
        age.map_or_else(|| "?".into(), |a| units::duration(a.as_secs())),
        bytes.map_or_else(|| "?".into(), units::size),
        printable(&entry.holder.who),
        output::name(path),
    ))
}
