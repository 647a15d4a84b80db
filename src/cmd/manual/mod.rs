//! The manual pages: from the same description as `--help`, with the sections that every page has.

mod from_rsync;
pub mod reference;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use reference::Entry;
use std::io::{Result, Write};
use std::path::Path;

/// What the pages are of.
const SOURCE: &str = concat!("haul ", env!("CARGO_PKG_VERSION"));

/// Writes the page of a command and of all commands beneath it into a directory.
pub fn write(top: Command, dir: &Path) -> Result<()> {
    let mut top = top.disable_help_subcommand(true);
    top.build();
    write_page(&top, &[], dir)?;
    write_from_rsync(dir)
}

/// Writes the page for those who know rsync.
fn write_from_rsync(dir: &Path) -> Result<()> {
    let mut page = Roff::new();
    page.control("TH", ["haul-from-rsync", "7", "", SOURCE, "haul manual"]);
    page.control("SH", ["NAME"]);
    page.text([roman("haul-from-rsync - rsync's options and exit codes, and those of haul")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "haul put, haul get and haul cp take the options of rsync that are listed first, alone or \
         in clusters. haul rsync takes a whole command line of rsync. A source directory goes to \
         DEST/NAME, and NAME/ stands for its contents, as with rsync; but DEST is the same place \
         the first time and every time.",
    )]);
    for (title, entries) in from_rsync::SECTIONS {
        table(&mut page, title, entries);
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([roman(
        "haul(1), haul-put(1), haul-get(1), haul-cp(1), haul-rsync(1), rsync(1)",
    )]);
    std::fs::write(dir.join("haul-from-rsync.7"), page.to_roff())
}

fn write_page(command: &Command, above: &[&Command], dir: &Path) -> Result<()> {
    let inner: Vec<&Command> = command.get_subcommands().filter(|c| !c.is_hide_set()).collect();
    let within = [above, &[command]].concat();
    for sub in &inner {
        write_page(sub, &within, dir)?;
    }
    let man = Man::new(command.clone()).source(SOURCE).manual("haul manual");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    let mut body = Vec::new();
    man.render_name_section(&mut body)?;
    synopsis(command).to_writer(&mut body)?;
    man.render_description_section(&mut body)?;
    man.render_options_section(&mut body)?;
    if !inner.is_empty() {
        man.render_subcommands_section(&mut body)?;
    }
    sections(command, above).to_writer(&mut body)?;
    page.write_all(without_preambles(&String::from_utf8_lossy(&body)).as_bytes())?;
    std::fs::write(dir.join(man.get_filename()), page)
}

/// Each part is rendered as if it were a page; the title brings the lines that a page begins with.
fn without_preambles(text: &str) -> String {
    let preamble = Roff::new().render();
    text.replace(&preamble, "")
}

fn sections(command: &Command, above: &[&Command]) -> Roff {
    let mut page = Roff::new();
    after_help(&mut page, command);
    table(&mut page, "EXIT STATUS", &reference::exits(command));
    table(&mut page, "FILES", &reference::files(command));
    table(&mut page, "ENVIRONMENT", &reference::variables(command));
    page.control("SH", ["SEE ALSO"]);
    page.text([roman(see_also(command, above).join(", "))]);
    page
}

/// The usage as in `--help`, with the names of values.
fn synopsis(command: &Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let mut page = Roff::new();
    page.control("SH", ["SYNOPSIS"]);
    page.text([bold(name), roman(usage.strip_prefix(name).unwrap_or(usage))]);
    page
}

/// The text behind the options in `--help`: examples, and paragraphs with or without a title.
fn after_help(page: &mut Roff, command: &Command) {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut notes = Vec::new();
    for block in text.split("\n\n") {
        match block.split_once(":\n").filter(|(title, _)| !title.contains('\n')) {
            Some(("Exit status", _)) => {}
            Some(("Example" | "Examples", lines)) => examples(page, lines),
            Some((title, lines)) => {
                page.control("SH", [title.to_uppercase().as_str()]);
                paragraph(page, lines);
            }
            None => notes.push(block),
        }
    }
    if !notes.is_empty() {
        page.control("SH", ["NOTES"]);
    }
    notes.into_iter().for_each(|note| paragraph(page, note));
}

/// One line per example: the command, and behind two spaces its description.
fn examples(page: &mut Roff, lines: &str) {
    page.control("SH", ["EXAMPLES"]);
    for line in lines.lines() {
        let line = line.trim();
        let (typed, comment) = line.split_once("  ").unwrap_or((line, ""));
        page.control("TP", []);
        page.text([bold(typed)]);
        page.text([roman(comment.trim())]);
    }
}

fn paragraph(page: &mut Roff, text: &str) {
    let words: Vec<&str> = text.split_whitespace().collect();
    page.control("PP", []);
    page.text([roman(words.join(" "))]);
}

fn table(page: &mut Roff, title: &str, entries: &[Entry]) {
    page.control("SH", [title]);
    if entries.is_empty() {
        page.text([roman("None.")]);
    }
    for (term, meaning) in entries {
        page.control("TP", []);
        page.text([bold(*term)]);
        page.text([roman(*meaning)]);
    }
}

/// The pages of the commands above and beneath, of a subcommand's siblings, and of related
/// commands.
fn see_also(command: &Command, above: &[&Command]) -> Vec<String> {
    let page = |c: &Command| c.get_display_name().unwrap_or_else(|| c.get_name()).to_string();
    let mut pages: Vec<String> = above.iter().map(|c| page(c)).collect();
    let shown = |c: &&Command| !c.is_hide_set() && c.get_name() != command.get_name();
    pages.extend(command.get_subcommands().filter(shown).map(page));
    match above {
        [_, .., parent] => pages.extend(parent.get_subcommands().filter(shown).map(page)),
        _ => {
            let related = reference::related(command.get_name()).iter();
            pages.extend(related.map(|name| format!("haul-{name}")));
        }
    }
    pages.into_iter().map(|page| format!("{page}(1)")).collect()
}
