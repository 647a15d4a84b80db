//! `haul undelete`: what deletions have moved to the trash of a directory.

use super::connect::{self, ConnectArgs, RemoteSession};
use super::destination::open_store;
use super::each::sum_up;
use super::failure::{Failure, exit};
use super::hint;
use super::locate::locate;
use super::location::Location;
use super::output::{self, put_text};
use super::prompt;
use super::units::{self, parse_moment};
use crate::net::NetError;
use crate::store::trash::{Emptied, EmptyScope, MAX_TRASHED, TrashItem, TrashPage, TrashedEntry};
use crate::store::{Kind, RemotePath, Store, Trash};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Most entries that one command restores.
const MOST_RESTORED: usize = 1_000_000;
/// The seconds of a minute: times are shown without them.
const MINUTE: u64 = 60;

/// List and restore what --delete --keep-deleted has moved to the trash
///
/// Without PATH, prints one line per entry in the trash of DEST, the last deletions first: when it
/// was deleted, when the trash gives it up, the number of the run that deleted it, its size, and
/// its path. With PATH, moves that back to where it was, and of a directory everything that was in
/// it. What exists is never overwritten.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul undelete nas:mirror                     what is in its trash
  haul undelete nas:mirror photos/1.jpg docs   a file, and all that was in docs
  haul undelete --at 4be1c09a nas:mirror .     all that one run deleted
  haul undelete --at '2026-11-30 12:00' /srv/copy notes.txt
  haul undelete --empty nas:mirror             removes it for good")]
pub struct Args {
    /// The directory that a transfer mirrored: [USER@]HOST:PATH, or a local one
    #[arg(value_name = "DEST", value_hint = hint::LOCAL_OR_REMOTE)]
    destination: OsString,

    /// Paths as they are listed, or of directories above them; . is everything
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,

    /// Restore what was deleted by that run, or the last that was deleted until TIME, in place of
    /// the last of each path
    #[arg(long, value_name = "TIME|ID", value_parser = Chosen::parse, requires = "paths")]
    at: Option<Chosen>,

    /// Remove for good what is in the trash
    #[arg(long, conflicts_with = "paths")]
    empty: bool,

    /// Do not ask before --empty
    #[arg(short, long, requires = "empty")]
    force: bool,

    /// Print one JSON object per line: path, kind, size, deleted, expires, id
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Which of several deletions of a path is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chosen {
    /// That of a run.
    Run(u32),
    /// The last one until then, in seconds since 1970.
    Until(u64),
}

impl Chosen {
    fn parse(text: &str) -> Result<Chosen, String> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == 8
            && text.bytes().all(is_digit)
            && let Ok(run) = u32::from_str_radix(text, 16)
        {
            return Ok(Chosen::Run(run));
        }
        let time = parse_moment(text)?;
        let secs = u64::try_from(time.secs).unwrap_or(0);
        Ok(Chosen::Until(match secs % MINUTE {
            // a minute as it is listed, with the deletions in it
            0 => secs.saturating_add(MINUTE - 1),
            _ => secs,
        }))
    }

    fn allows(self, entry: &TrashedEntry) -> bool {
        match self {
            Chosen::Run(run) => entry.run == run,
            Chosen::Until(last) => entry.deleted <= last,
        }
    }
}

/// The trash of a directory, here or on a server.
enum Bin {
    Here(Arc<dyn Trash>),
    There(Box<RemoteSession>, Vec<u8>),
}

impl Bin {
    async fn page(&mut self, cookie: &[u8]) -> Result<TrashPage, Failure> {
        match self {
            Bin::Here(trash) => Ok(trash.page(cookie).await?),
            Bin::There(session, base) => {
                session.ask(async |client| client.trash_page(base, cookie).await).await
            }
        }
    }

    async fn restore(
        &mut self,
        items: Vec<TrashItem>,
    ) -> Result<Vec<Result<(), NetError>>, Failure> {
        match self {
            Bin::Here(trash) => {
                let restored = trash.restore(items).await.into_iter();
                Ok(restored.map(|result| result.map_err(NetError::from)).collect())
            }
            Bin::There(session, base) => {
                session.ask(async |client| client.restore(base, &items).await).await
            }
        }
    }

    async fn empty(&mut self) -> Result<Emptied, Failure> {
        match self {
            Bin::Here(trash) => Ok(trash.empty(EmptyScope::All).await?),
            Bin::There(session, base) => {
                session
                    .ask(async |client| client.empty_trash(base, EmptyScope::All).await)
                    .await
            }
        }
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let paths = args.paths.iter().map(path_of).collect::<Result<Vec<_>, _>>()?;
    let shown = args.destination.to_string_lossy().into_owned();
    let mut bin = match Location::parse(&args.destination)? {
        Location::Local(dir) => {
            let store = open_store(&dir)?.subtree(&RemotePath::root()).await?;
            let none = || Failure::new(exit::FAILED, "there is no trash here");
            Bin::Here(store.trash().ok_or_else(none)?)
        }
        Location::Remote(remote) => {
            let remote = locate(&remote, &args.connect).await?;
            let session = connect::for_requests(&remote.server, &args.connect).await?;
            Bin::There(Box::new(session), remote.path.as_bytes().to_vec())
        }
    };
    let done = match (args.empty, paths.is_empty()) {
        (true, _) => empty(&mut bin, &args, &shown).await,
        (false, true) => list(&mut bin, &args).await,
        (false, false) => restore(&mut bin, &args, &paths).await,
    };
    if let Bin::There(session, _) = bin {
        session.quit().await;
    }
    done.map_err(|e| Failure::about(output::name(shown.as_bytes()), e))
}

/// A path beneath DEST as it is listed, with or without a slash at its end.
fn path_of(text: &OsString) -> Result<RemotePath, Failure> {
    let bytes = text.as_bytes();
    let bytes = bytes.strip_prefix(b"./").unwrap_or(bytes);
    let path = match bytes.strip_suffix(b"/").unwrap_or(bytes) {
        b"." => Ok(RemotePath::root()),
        bytes => RemotePath::parse(bytes),
    };
    path.map_err(|e| {
        let shown = output::name(text.as_bytes());
        Failure::usage(format!("{shown}: the path is not allowed: {e}"))
            .hint("write it as haul undelete DEST lists it")
    })
}

async fn list(bin: &mut Bin, args: &Args) -> Result<(), Failure> {
    let mut cookie = Some(Vec::new());
    while let Some(from) = cookie {
        let page = bin.page(&from).await?;
        for entry in &page.entries {
            print(args, entry)?;
        }
        cookie = page.next;
    }
    Ok(())
}

fn print(args: &Args, entry: &TrashedEntry) -> Result<(), Failure> {
    let path = entry.path.as_bytes();
    let (deleted, expires) = (units::moment(entry.deleted), units::moment(entry.expires));
    if args.json {
        let mut object = Map::new();
        put_text(&mut object, "path", path);
        object.insert("kind".into(), json!(output::kind(entry.kind)));
        object.insert("size".into(), json!(entry.size));
        object.insert("deleted".into(), json!(units::rfc3339(deleted)));
        object.insert("expires".into(), json!(units::rfc3339(expires)));
        object.insert("id".into(), json!(format!("{:08x}", entry.run)));
        return output::line(&Value::Object(object).to_string());
    }
    let (size, slash) = match entry.kind {
        Kind::Dir => ("-".into(), "/"),
        _ => (units::size(entry.size), ""),
    };
    output::line(&format!(
        "{}  {}  {:08x}  {size:>10}  {}{slash}",
        units::local_time(deleted),
        units::local_time(expires),
        entry.run,
        output::name(path),
    ))
}

async fn empty(bin: &mut Bin, args: &Args, shown: &str) -> Result<(), Failure> {
    if !args.force && prompt::can_ask() {
        let shown = output::name(shown.as_bytes());
        let question = format!("haul: remove for good what is in the trash of {shown}? [y/N] ");
        if !prompt::yes(&question).await.map_err(|e| Failure::io("no answer", &e))? {
            return Ok(());
        }
    }
    loop {
        let emptied = bin.empty().await?;
        if !emptied.more || emptied.removed == 0 {
            return Ok(());
        }
    }
}

/// Entries that are to be restored, by path.
type Selection = BTreeMap<RemotePath, TrashedEntry>;

/// Restores what the paths name, the outer directories first.
async fn restore(bin: &mut Bin, args: &Args, paths: &[RemotePath]) -> Result<(), Failure> {
    let selected = select(bin, args, paths).await?;
    let mut failures = Vec::new();
    for path in paths {
        if !selected.keys().any(|found| found.is_within(path)) {
            let shown = output::name(path.as_bytes());
            let message = format!("{shown}: nothing of that path is in the trash");
            failures.push(Failure::new(exit::NOT_FOUND, message));
        }
    }
    // a directory goes back before what was in it, which would otherwise make another one
    let (dirs, mut others): (Vec<_>, Vec<_>) =
        selected.into_values().partition(|entry| entry.kind == Kind::Dir);
    // what was moved together lies together
    others.sort_by(|a, b| (&a.item.batch, a.item.index).cmp(&(&b.item.batch, b.item.index)));
    let mut done = 0_usize;
    for entries in dirs.chunks(MAX_TRASHED).chain(others.chunks(MAX_TRASHED)) {
        let items = entries.iter().map(|entry| entry.item.clone()).collect();
        for (entry, restored) in entries.iter().zip(bin.restore(items).await?) {
            match restored {
                Ok(()) => {
                    done = done.saturating_add(1);
                    if args.json {
                        print(args, entry)?;
                    }
                }
                Err(e) => {
                    failures.push(Failure::about(output::name(entry.path.as_bytes()), e));
                }
            }
        }
    }
    sum_up(done, failures)
}

/// Finds the last deletion of each path that is named, or is in a named directory, and of the
/// directories above them.
async fn select(bin: &mut Bin, args: &Args, paths: &[RemotePath]) -> Result<Selection, Failure> {
    let (mut selected, mut above) = (Selection::new(), Selection::new());
    let mut cookie = Some(Vec::new());
    while let Some(from) = cookie {
        let page = bin.page(&from).await?;
        for entry in page.entries {
            if args.at.is_some_and(|chosen| !chosen.allows(&entry)) {
                continue;
            }
            let is_above = |path: &RemotePath| path.is_within(&entry.path);
            let into = match paths.iter().any(|path| entry.path.is_within(path)) {
                true => &mut selected,
                false if entry.kind == Kind::Dir && paths.iter().any(is_above) => &mut above,
                false => continue,
            };
            into.entry(entry.path.clone()).or_insert(entry);
            if selected.len() > MOST_RESTORED {
                let message = format!("more than {MOST_RESTORED} entries would be restored");
                return Err(Failure::new(exit::FAILED, message).hint("name fewer of them"));
            }
        }
        cookie = page.next;
    }
    above.retain(|dir, _| selected.keys().any(|path| path.is_within(dir)));
    selected.extend(above);
    Ok(selected)
}
