//! `haul ls`: lists files and directories on a server.

mod colors;
mod view;

use super::connect::{ConnectArgs, RemoteSession};
use super::each::{self, sum_up};
use super::failure::{Failure, exit};
use super::hint;
use super::listing::{Page, Reader};
use super::locate::locate_all;
use super::output;
use super::patterns::{self, Patterns};
use super::remote::Remote;
use super::screen;
use super::sessions::Sessions;
use crate::store::{Entry, Kind, RemotePath};
use std::ffi::OsString;
use view::{Row, SortBy, View, When, Wishes};

/// The most entries that are sorted; a larger directory is listed in the server's order, in bounded
/// memory.
const SORTED: usize = 100_000;
/// The most directories that wait for their turn with -R.
const WAITING: usize = 200_000;

/// List files and directories on a server
#[derive(clap::Args)]
#[command(
    after_help = "\
Examples:
  haul ls nas:                       your root on the server
  haul ls -lh nas:photos             modes, sizes, times
  haul ls -ltr nas:log               the newest last
  haul ls 'nas:photos/**/*.jpg'      a pattern: the server finds what matches
  haul ls -R --json nas: | jq .path  one object per line, with subdirectories

At a terminal names stand in columns, with colours (LS_COLORS, NO_COLOR) and a slash behind
directories. Otherwise there is one name per line. Names that start with a dot are shown with -a
only; there is no entry for . and ..

A directory with more than 100,000 entries is listed in the server's order, and a line on standard
error says so.",
    disable_help_flag = true
)]
#[allow(clippy::struct_excessive_bools)]
pub struct Args {
    /// Files and directories: [USER@]HOST:PATH. PATH may be a pattern
    #[arg(required = true, value_name = "PATH", value_hint = hint::REMOTE)]
    paths: Vec<OsString>,

    /// Print one entry per line, with mode, size and time
    #[arg(short)]
    long: bool,

    /// Print one name per line
    #[arg(short = '1')]
    one: bool,

    /// Include names that start with a dot
    #[arg(short, long, visible_short_alias = 'A')]
    all: bool,

    /// List directories themselves, not what is in them
    #[arg(short, long)]
    directory: bool,

    /// Print a sign behind names: / directory, * program, @ symlink
    #[arg(short = 'F', long)]
    classify: bool,

    /// List subdirectories too, directory by directory
    #[arg(short = 'R', long)]
    recursive: bool,

    /// Print sizes with units
    #[arg(short = 'h', long)]
    human_readable: bool,

    /// Sort by time, newest first
    #[arg(short = 't', overrides_with = "by_size")]
    by_time: bool,

    /// Sort by size, largest first
    #[arg(short = 'S')]
    by_size: bool,

    /// Sort by WORD
    #[arg(long, value_name = "WORD", value_enum)]
    sort: Option<SortBy>,

    /// Reverse the order
    #[arg(short, long)]
    reverse: bool,

    /// Colour names
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_value = "auto",
        default_missing_value = "always",
        hide_default_value = true
    )]
    color: When,

    /// Print one JSON object per line: name, path, kind, size, mtime, mode, target, version
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    connect: ConnectArgs,

    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

impl Args {
    fn sort_by(&self) -> SortBy {
        match (self.by_time, self.by_size) {
            (true, _) => SortBy::Time,
            (_, true) => SortBy::Size,
            _ => self.sort.unwrap_or_default(),
        }
    }
}

impl Args {
    fn wishes(&self) -> Wishes {
        Wishes {
            json: self.json,
            long: self.long,
            lines: self.one,
            signs: self.classify,
            human: self.human_readable,
            color: self.color,
            sort: self.sort_by(),
            reverse: self.reverse,
        }
    }
}

/// An argument: its place, its entry, and the first page of a directory if that is known.
type Found = (Remote, Entry, Option<Page>);

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let remotes = each::parse(&args.paths)?;
    let remotes = locate_all(&remotes, &args.connect).await?;
    let mut sessions = Sessions::new(&args.connect);
    let mut list = Listing {
        view: View::new(&args.wishes()),
        args: &args,
        printed: false,
    };
    let (mut files, mut dirs, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for remote in &remotes {
        let session = sessions.with(&remote.server).await?;
        let expanded = match patterns::expand(session, remote, Patterns::All).await {
            Ok(expanded) => expanded,
            Err(e) => {
                failures.push(e);
                continue;
            }
        };
        let is_only = remotes.len() == 1 && expanded.len() == 1;
        for remote in expanded {
            match find(session, &args, &remote).await {
                Ok((entry, page)) if entry.kind == Kind::Dir && !args.directory => {
                    dirs.push((remote, entry, page.filter(|_| is_only)));
                }
                Ok((entry, _)) => files.push((remote, entry, None)),
                Err(e) => failures.push(Failure::about(&remote.shown, e)),
            }
        }
    }
    let mut done = files.len();
    let titled = args.recursive || remotes.len() > 1 || files.len().saturating_add(dirs.len()) > 1;
    list.print(rows_of(files))?;
    for (remote, page) in list.in_order(dirs) {
        let session = sessions.with(&remote.server).await?;
        match list.tree(session, &remote, page, titled).await {
            Ok(()) => done = done.saturating_add(1),
            Err(e) => failures.push(e),
        }
    }
    sessions.quit().await;
    sum_up(done, failures)
}

/// Asks for the entry of an argument, and its first page, in one round trip.
async fn find(
    session: &mut RemoteSession,
    args: &Args,
    remote: &Remote,
) -> Result<(Entry, Option<Page>), Failure> {
    let path = remote.path.as_bytes();
    if args.directory {
        let entry = session.ask(async |client| client.stat(path, false).await).await?.0;
        return Ok((entry, None));
    }
    let answers = session.ask(async |client| {
        let (entry, page) = tokio::join!(client.stat(path, false), client.list(path, Vec::new()));
        Ok((entry?.0, page.ok()))
    });
    let (mut entry, page) = answers.await?;
    // a link to a directory lists the directory, as with ls
    let follows = entry.kind == Kind::Symlink && !args.long;
    if remote.directory || (follows && page.is_some()) {
        entry.kind = Kind::Dir;
    }
    Ok((entry, page))
}

fn rows_of(found: Vec<Found>) -> Vec<Row> {
    let row = |(remote, entry, _): Found| Row {
        name: match remote.path.is_root() {
            true => b"/".to_vec(),
            false => remote.asked(),
        },
        path: remote.path.as_bytes().to_vec(),
        entry,
    };
    found.into_iter().map(row).collect()
}

/// A command's output.
struct Listing<'a> {
    view: View,
    args: &'a Args,
    /// Something has been printed: a blank line comes before the next title.
    printed: bool,
}

impl Listing<'_> {
    fn print(&mut self, mut rows: Vec<Row>) -> Result<(), Failure> {
        self.view.sort(&mut rows);
        self.printed |= !rows.is_empty();
        self.view.print(&rows)
    }

    /// Directories that were named, in the order of the listing.
    fn in_order(&self, dirs: Vec<Found>) -> Vec<(Remote, Option<Page>)> {
        let mut places: Vec<Option<(Remote, Option<Page>)>> = Vec::new();
        let mut rows = Vec::new();
        for (remote, entry, page) in dirs {
            rows.push(Row {
                name: remote.shown.clone().into_bytes(),
                // the place of its argument
                path: places.len().to_string().into_bytes(),
                entry,
            });
            places.push(Some((remote, page)));
        }
        self.view.sort(&mut rows);
        let place = |row: &Row| std::str::from_utf8(&row.path).ok()?.parse::<usize>().ok();
        rows.iter().filter_map(|row| places.get_mut(place(row)?)?.take()).collect()
    }

    /// Lists a directory, with -R also those beneath it.
    async fn tree(
        &mut self,
        session: &mut RemoteSession,
        top: &Remote,
        mut page: Option<Page>,
        titled: bool,
    ) -> Result<(), Failure> {
        // the directories still to be listed, deepest last
        let mut todo = vec![top.path.clone()];
        let mut partial = false;
        while let Some(dir) = todo.pop() {
            let shown = match dir == top.path {
                true => top.shown.clone(),
                false => shown_beneath(top, &dir),
            };
            if titled && !self.view.is_json() {
                let blank = if self.printed { "\n" } else { "" };
                output::line(&format!("{blank}{}:", output::name(shown.as_bytes())))?;
                self.printed = true;
            }
            let mut reader = Reader::new(dir.as_bytes(), page.take());
            match self.directory(session, &dir, (&mut reader, &shown)).await {
                Ok(mut subdirs) => {
                    if todo.len().saturating_add(subdirs.len()) > WAITING {
                        return Err(Failure::new(exit::FAILED, "too many directories for ls -R")
                            .hint("use haul find"));
                    }
                    subdirs.reverse();
                    todo.append(&mut subdirs);
                }
                Err(Unlisted::Refused(e)) if dir != top.path => {
                    Failure::about(output::name(shown.as_bytes()), e).report();
                    partial = true;
                }
                Err(Unlisted::Refused(e)) => return Err(Failure::about(&top.shown, e)),
                Err(Unlisted::Output(failure)) => return Err(failure),
            }
        }
        match partial {
            true => Err(Failure::already_reported(exit::PARTIAL)),
            false => Ok(()),
        }
    }

    /// Lists a directory; returns its subdirectories with -R.
    async fn directory(
        &mut self,
        session: &mut RemoteSession,
        dir: &RemotePath,
        (reader, shown): (&mut Reader, &str),
    ) -> Result<Vec<RemotePath>, Unlisted> {
        let most = match self.args.sort_by() {
            SortBy::None => 0,
            _ => SORTED,
        };
        let (mut subdirs, mut warned) = (Vec::new(), most == 0);
        while let Some(part) = reader.next(session, most).await.map_err(Unlisted::Refused)? {
            if !part.complete && !std::mem::replace(&mut warned, true) {
                screen::say(&format!(
                    "haul: {}: more than {SORTED} entries: listed in the server's order, \
                    not sorted",
                    output::name(shown.as_bytes())
                ));
            }
            let shown = part.entries.into_iter().filter(|e| self.args.all || !is_hidden(e));
            let mut rows: Vec<Row> = shown.filter_map(|entry| row_in(dir, entry)).collect();
            if part.complete {
                self.view.sort(&mut rows);
            }
            self.printed |= !rows.is_empty();
            self.view.print(&rows).map_err(Unlisted::Output)?;
            if self.args.recursive {
                let dirs = rows.iter().filter(|row| row.entry.kind == Kind::Dir);
                subdirs.extend(dirs.filter_map(|row| RemotePath::parse(&row.path).ok()));
            }
        }
        Ok(subdirs)
    }
}

/// Why a directory was not listed.
enum Unlisted {
    Refused(Failure),
    Output(Failure),
}

fn row_in(dir: &RemotePath, entry: Entry) -> Option<Row> {
    let name = entry.name.clone()?;
    Some(Row {
        path: dir.join(&name).ok()?.as_bytes().to_vec(),
        name: name.as_bytes().to_vec(),
        entry,
    })
}

fn is_hidden(entry: &Entry) -> bool {
    entry.name.as_ref().is_some_and(|n| n.as_bytes().starts_with(b"."))
}

/// A directory beneath an argument, as the user would write it.
fn shown_beneath(top: &Remote, dir: &RemotePath) -> String {
    top.at(dir.clone()).shown
}
