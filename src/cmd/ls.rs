//! `haul ls`: lists files and directories on a server.

use super::connect::{ConnectArgs, RemoteSession};
use super::each::{self, each_remote};
use super::failure::{Failure, exit};
use super::hint;
use super::location::Remote;
use super::output;
use super::units;
use crate::net::transfer::report::shown;
use crate::store::{Entry, Kind};
use std::ffi::OsString;

/// The most entries that are sorted by name; a larger directory is listed in the server's order, in
/// bounded memory.
const SORTED: usize = 20_000;

/// How often a listing restarts because the directory changed meanwhile.
const RESTARTS: usize = 8;

/// List files and directories on a server
#[derive(clap::Args)]
#[command(
    after_help = "\
Examples:
  haul ls nas:                       your root on the server
  haul ls -lh nas:photos             modes, sizes, times
  haul ls -R --json nas: | jq .path  one object per line, with subdirectories

A directory with more than 20,000 entries is listed in the server's order, not by name.",
    disable_help_flag = true
)]
#[allow(clippy::struct_excessive_bools)]
pub struct Args {
    /// Files and directories: [USER@]HOST:PATH
    #[arg(required = true, value_name = "PATH", value_hint = hint::REMOTE)]
    paths: Vec<OsString>,

    /// Print one entry per line, with mode, size and time
    #[arg(short)]
    long: bool,

    /// Include names that start with a dot
    #[arg(short)]
    all: bool,

    /// List subdirectories too, directory by directory
    #[arg(short = 'R', long)]
    recursive: bool,

    /// Print sizes with units
    #[arg(short = 'h', long)]
    human_readable: bool,

    /// Print one JSON object per line: name, path, kind, size, mtime, mode, target, version
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    connect: ConnectArgs,

    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// Whether a listing begins with its directory's name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Titles {
    Shown,
    Hidden,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let remotes = each::parse(&args.paths)?;
    let titles = match args.recursive || remotes.len() > 1 {
        true => Titles::Shown,
        false => Titles::Hidden,
    };
    each_remote(&remotes, &args.connect, async |session, remote| {
        list(session, &args, remote, titles).await
    })
    .await
}

async fn list(
    session: &mut RemoteSession,
    args: &Args,
    remote: &Remote,
    titles: Titles,
) -> Result<(), Failure> {
    let about = |e| Failure::about(&remote.shown, e);
    let top = remote.path.as_bytes().to_vec();
    // both requests in one round trip
    let answers = session
        .ask(async |client| {
            let (entry, page) =
                tokio::join!(client.stat(&top, false), client.list(&top, Vec::new()));
            Ok((entry?.0, page.ok()))
        })
        .await;
    let (mut entry, mut page) = answers.map_err(about)?;
    // a link to a directory lists the directory, as with ls
    let follows = entry.kind == Kind::Symlink && !args.long;
    if remote.directory || (follows && page.is_some()) {
        entry.kind = Kind::Dir;
    }
    if entry.kind != Kind::Dir {
        return print(args, &entry, &top, &top);
    }
    // the directories still to be listed, deepest last
    let mut todo = vec![top.clone()];
    let (mut first, mut partial) = (true, false);
    while let Some(dir) = todo.pop() {
        if titles == Titles::Shown && !args.json {
            let title = if args.recursive {
                shown(remote.shown.as_bytes(), relative(&dir, &top))
            } else {
                remote.shown.clone().into_bytes()
            };
            output::line(&format!("{}{}:", if first { "" } else { "\n" }, output::name(&title)))?;
        }
        first = false;
        let mut subdirs = Vec::new();
        let listed = list_directory(session, args, &dir, page.take(), &mut subdirs).await;
        match listed {
            Ok(()) => {}
            Err(Listing::Refused(e)) if dir != top => {
                let path = shown(remote.shown.as_bytes(), relative(&dir, &top));
                Failure::about(output::name(&path), e).report();
                partial = true;
            }
            Err(Listing::Refused(e)) => return Err(about(e)),
            Err(Listing::Output(failure)) => return Err(failure),
        }
        if args.recursive {
            subdirs.reverse();
            todo.append(&mut subdirs);
        }
    }
    if partial {
        Err(Failure::already_reported(exit::PARTIAL))
    } else {
        Ok(())
    }
}

fn relative<'a>(path: &'a [u8], top: &[u8]) -> &'a [u8] {
    let rest = path.strip_prefix(top).unwrap_or(path);
    rest.strip_prefix(b"/").unwrap_or(rest)
}

/// Entries, and where the next page starts.
type Page = (Vec<Entry>, Option<Vec<u8>>);

/// Why a directory was not listed.
enum Listing {
    Refused(Failure),
    Output(Failure),
}

async fn list_directory(
    session: &mut RemoteSession,
    args: &Args,
    dir: &[u8],
    mut first: Option<Page>,
    subdirs: &mut Vec<Vec<u8>>,
) -> Result<(), Listing> {
    let (mut listed, mut cookie, mut sorting) = (Vec::new(), Vec::new(), true);
    let mut restarts = 0;
    loop {
        let asked = match first.take() {
            Some(page) => Ok(page),
            None => session.ask(async |client| client.list(dir, cookie.clone()).await).await,
        };
        let (page, next) = match asked {
            Ok(page) => page,
            // it changed between two pages, and nothing has been printed yet
            Err(e) if e.exit() == exit::LOCKED && sorting && restarts < RESTARTS => {
                restarts += 1;
                listed.clear();
                cookie.clear();
                continue;
            }
            Err(e) => return Err(Listing::Refused(e)),
        };
        listed.extend(page.into_iter().filter(|e| args.all || !is_hidden(e)));
        let last = next.is_none();
        sorting &= listed.len() <= SORTED;
        if last && sorting {
            listed.sort_by(|a, b| a.name.cmp(&b.name));
        }
        if last || !sorting {
            for entry in listed.drain(..) {
                let path = shown(dir, entry.name.as_ref().map_or(b"", |n| n.as_bytes()));
                let name = entry.name.as_ref().map(|n| n.as_bytes().to_vec()).unwrap_or_default();
                print(args, &entry, &path, &name).map_err(Listing::Output)?;
                if args.recursive && entry.kind == Kind::Dir {
                    subdirs.push(path);
                }
            }
        }
        match next {
            Some(next) => cookie = next,
            None => return Ok(()),
        }
    }
}

fn is_hidden(entry: &Entry) -> bool {
    entry.name.as_ref().is_some_and(|n| n.as_bytes().starts_with(b"."))
}

fn print(args: &Args, entry: &Entry, path: &[u8], name: &[u8]) -> Result<(), Failure> {
    if args.json {
        return output::line(&output::entry_json(entry, path, None).to_string());
    }
    let name = output::name(name);
    if !args.long {
        return output::line(&name);
    }
    let size = if args.human_readable {
        units::size(entry.size)
    } else {
        entry.size.to_string()
    };
    let arrow = entry
        .target
        .as_ref()
        .map(|t| format!(" -> {}", output::name(t)))
        .unwrap_or_default();
    output::line(&format!(
        "{} {size:>12} {} {name}{arrow}",
        output::mode(entry.kind, &entry.attributes),
        units::local_time(entry.attributes.mtime),
    ))
}
