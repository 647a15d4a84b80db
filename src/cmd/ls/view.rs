//! How entries are printed: as JSON, in lines with their attributes, or as names.

use super::colors::Colors;
use crate::cmd::failure::Failure;
use crate::cmd::output;
use crate::cmd::units;
use crate::store::{Entry, Kind};
use std::cmp::{Ordering, Reverse};
use std::io::{self, IsTerminal};
use term_grid::{Direction, Filling, Grid, GridOptions};
use unicode_width::UnicodeWidthStr;

/// Columns of a terminal that does not say how many it has.
const COLUMNS: u16 = 80;

/// The key by which entries are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SortBy {
    /// By name
    #[default]
    Name,
    /// Largest first
    Size,
    /// Newest first
    Time,
    /// In the server's order
    None,
}

/// When names are coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum When {
    /// At a terminal
    #[default]
    Auto,
    /// Everywhere
    Always,
    /// Nowhere
    Never,
}

/// Where the names stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Json,
    Long,
    Lines,
    /// In columns that fit into so many of the terminal's.
    Columns(usize),
}

/// What stands behind a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signs {
    None,
    /// `/` behind a directory.
    Slashes,
    /// Also `*` behind a program, and `@` behind a symlink.
    All,
}

/// An entry, the name that is shown, and its path.
pub struct Row {
    /// Its attributes.
    pub entry: Entry,
    /// The name to show.
    pub name: Vec<u8>,
    /// Its path, for JSON.
    pub path: Vec<u8>,
}

/// What the user wants of a view.
#[allow(clippy::struct_excessive_bools)]
pub struct Wishes {
    /// One JSON object per line.
    pub json: bool,
    /// One entry per line, with its attributes.
    pub long: bool,
    /// One name per line.
    pub lines: bool,
    /// A sign behind names.
    pub signs: bool,
    /// Sizes with units.
    pub human: bool,
    /// When names are coloured.
    pub color: When,
    /// The order.
    pub sort: SortBy,
    /// It is reversed.
    pub reverse: bool,
}

/// How entries are printed.
pub struct View {
    layout: Layout,
    signs: Signs,
    colors: Option<Colors>,
    human: bool,
    sort: SortBy,
    reverse: bool,
}

impl View {
    /// As the options and the terminal want it.
    pub fn new(wishes: &Wishes) -> View {
        let is_terminal = io::stdout().is_terminal();
        let layout = match (wishes.json, wishes.long, wishes.lines || !is_terminal) {
            (true, ..) => Layout::Json,
            (_, true, _) => Layout::Long,
            (_, _, true) => Layout::Lines,
            _ => Layout::Columns(columns()),
        };
        let colored = match wishes.color {
            When::Always => true,
            When::Never => false,
            When::Auto => is_terminal && Colors::are_wanted(),
        };
        View {
            layout,
            signs: match (wishes.signs, is_terminal) {
                (true, _) => Signs::All,
                (_, true) => Signs::Slashes,
                _ => Signs::None,
            },
            colors: colored.then(Colors::from_env),
            human: wishes.human,
            sort: wishes.sort,
            reverse: wishes.reverse,
        }
    }

    /// True if there are no titles and blank lines.
    pub fn is_json(&self) -> bool {
        self.layout == Layout::Json
    }

    /// Sorts entries; those that are equal in the key by name.
    pub fn sort(&self, rows: &mut [Row]) {
        let by_name = |a: &Row, b: &Row| a.name.cmp(&b.name);
        let key = |a: &Row, b: &Row| match self.sort {
            SortBy::Name | SortBy::None => Ordering::Equal,
            SortBy::Size => Reverse(a.entry.size).cmp(&Reverse(b.entry.size)),
            SortBy::Time => {
                let time = |row: &Row| Reverse(row.entry.attributes.mtime);
                time(a).cmp(&time(b))
            }
        };
        if self.sort != SortBy::None {
            rows.sort_by(|a, b| key(a, b).then_with(|| by_name(a, b)));
        }
        if self.reverse {
            rows.reverse();
        }
    }

    /// Prints entries.
    pub fn print(&self, rows: &[Row]) -> Result<(), Failure> {
        match self.layout {
            Layout::Json => rows.iter().try_for_each(|row| {
                output::line(&output::entry_json(&row.entry, &row.path, None).to_string())
            }),
            Layout::Long => self.print_long(rows),
            Layout::Lines => rows.iter().try_for_each(|row| output::line(&self.name(row))),
            Layout::Columns(width) => {
                if rows.is_empty() {
                    return Ok(());
                }
                let cells = rows.iter().map(|row| self.name(row)).collect();
                let options = GridOptions {
                    filling: Filling::Spaces(2),
                    direction: Direction::TopToBottom,
                    width,
                };
                let grid = Grid::new(cells, options).to_string();
                grid.lines().try_for_each(|line| output::line(line.trim_end()))
            }
        }
    }

    fn print_long(&self, rows: &[Row]) -> Result<(), Failure> {
        let cells = rows.iter().map(|row| (self.size(&row.entry), time(&row.entry)));
        let cells: Vec<(String, String)> = cells.collect();
        let widest = |width: &dyn Fn(&(String, String)) -> usize| cells.iter().map(width).max();
        let size_width = widest(&|(size, _)| size.width()).unwrap_or_default();
        let time_width = widest(&|(_, time)| time.width()).unwrap_or_default();
        rows.iter().zip(&cells).try_for_each(|(row, (size, time))| {
            let target = row.entry.target.as_ref();
            let arrow = target.map(|to| format!(" -> {}", output::name(to))).unwrap_or_default();
            let mode = output::mode(row.entry.kind, &row.entry.attributes);
            // what a symlink is, its arrow says
            let name = match row.entry.kind {
                Kind::Symlink => self.painted(row),
                _ => self.name(row),
            };
            output::line(&format!("{mode} {size:>size_width$} {time:<time_width$} {name}{arrow}"))
        })
    }

    fn size(&self, entry: &Entry) -> String {
        match self.human {
            true => units::size(entry.size),
            false => entry.size.to_string(),
        }
    }

    fn painted(&self, row: &Row) -> String {
        let name = output::name(&row.name);
        match &self.colors {
            Some(colors) => colors.paint(&row.entry, &name),
            None => name,
        }
    }

    /// A name with its colour, and the sign behind it.
    fn name(&self, row: &Row) -> String {
        let is_program = row.entry.kind == Kind::File && row.entry.attributes.mode & 0o111 != 0;
        let sign = match (self.signs, row.entry.kind) {
            (Signs::Slashes | Signs::All, Kind::Dir) if !row.name.ends_with(b"/") => "/",
            (Signs::All, Kind::Symlink) => "@",
            (Signs::All, Kind::File) if is_program => "*",
            _ => "",
        };
        self.painted(row) + sign
    }
}

fn time(entry: &Entry) -> String {
    units::local_time(entry.attributes.mtime)
}

/// The columns of the terminal.
fn columns() -> usize {
    let of_terminal = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col);
    let of_environment = || std::env::var("COLUMNS").ok()?.parse().ok();
    let known = of_terminal.filter(|columns| *columns > 0).or_else(of_environment);
    usize::from(known.unwrap_or(COLUMNS))
}
