//! The options that say what of a tree is transferred, with rsync's meaning: the order of the rules
//! on the command line counts, and the first that matches an entry decides.

use super::failure::Failure;
use super::units::parse_size;
use crate::net::transfer::filter::{Filter, Rule};
use crate::net::transfer::options::Options;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

/// The rules and sizes that the user gave.
#[derive(Clone, Debug, Default)]
pub struct FilterArgs {
    /// In the order of the command line.
    given: Vec<Given>,
    nul_separated: bool,
    prune_empty_dirs: bool,
    min_size: Option<u64>,
    max_size: Option<u64>,
}

/// An option with a rule or a list of rules.
#[derive(Clone, Debug)]
struct Given {
    option: &'static str,
    value: OsString,
}

/// Each option that has rules, its value, and its help.
const OPTIONS: [(&str, &str, &str); 6] = [
    (
        "exclude",
        "PATTERN",
        "Leave out what PATTERN matches: NAME, *.o, dir/, /only/at/the/top, a/**/b",
    ),
    (
        "include",
        "PATTERN",
        "Take what PATTERN matches, whatever a later rule says",
    ),
    (
        "filter",
        "RULE",
        "A rule: '+ PATTERN', '- PATTERN', or 'P PATTERN' for what --delete leaves",
    ),
    (
        "exclude-from",
        "FILE",
        "Exclude the patterns in FILE, one per line; - is standard input",
    ),
    ("include-from", "FILE", "Include the patterns in FILE"),
    (
        "only",
        "PATTERN",
        "Take only what PATTERN matches; may be given several times",
    ),
];

impl clap::Args for FilterArgs {
    fn augment_args(command: Command) -> Command {
        let rules = OPTIONS.iter().map(|(option, value, help)| {
            let arg = Arg::new(*option).long(*option).value_name(*value).help(*help);
            let arg = arg.action(ArgAction::Append).value_parser(value_parser!(OsString));
            match *option {
                "filter" => arg.short('f').allow_hyphen_values(true),
                _ => arg,
            }
        });
        let flag = |name, help| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
        let size = |name, help| {
            let arg = Arg::new(name).long(name).value_name("SIZE").help(help);
            arg.value_parser(parse_size)
        };
        command
            .args(rules)
            .arg(flag("from0", "Lines of FILE end with a NUL byte").short('0'))
            .arg(
                flag("prune-empty-dirs", "Do not make directories in which nothing is sent")
                    .short('m'),
            )
            .arg(size("max-size", "Leave out files with more bytes than SIZE (10M)"))
            .arg(size("min-size", "Leave out files with fewer bytes than SIZE"))
    }

    fn augment_args_for_update(command: Command) -> Command {
        FilterArgs::augment_args(command)
    }
}

impl clap::FromArgMatches for FilterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<FilterArgs, clap::Error> {
        let mut given = Vec::new();
        for (option, ..) in OPTIONS {
            let indices = matches.indices_of(option).into_iter().flatten();
            let values = matches.get_many::<OsString>(option).into_iter().flatten();
            given.extend(indices.zip(values).map(|(index, value)| {
                let value = value.clone();
                (index, Given { option, value })
            }));
        }
        given.sort_by_key(|(index, _)| *index);
        Ok(FilterArgs {
            given: given.into_iter().map(|(_, given)| given).collect(),
            nul_separated: matches.get_flag("from0"),
            prune_empty_dirs: matches.get_flag("prune-empty-dirs"),
            min_size: matches.get_one("min-size").copied(),
            max_size: matches.get_one("max-size").copied(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = FilterArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

/// What a rule is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// What is sent, and what a deletion leaves.
    Both,
    /// What a deletion leaves.
    Deletion,
}

/// The rules, in the order of the command line.
type Rules = Vec<(Side, Rule)>;

/// Whether a deletion leaves what is excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excluded {
    /// It does.
    Protected,
    /// It does not.
    Deleted,
}

impl FilterArgs {
    /// How many lists come from standard input.
    pub fn lists_on_stdin(&self) -> usize {
        let is_list = |given: &&Given| given.option.ends_with("-from") && given.value == "-";
        self.given.iter().filter(is_list).count()
    }

    /// True where the lines of lists end with a NUL byte.
    pub fn ends_with_nul(&self) -> bool {
        self.nul_separated
    }

    /// Sets what they say. Files are read now, before anything is connected to.
    ///
    /// # Errors
    /// A usage failure that names the option and the line, or why a file cannot be read.
    pub fn apply(&self, options: &mut Options, excluded: Excluded) -> Result<(), Failure> {
        let mut rules = Rules::new();
        for Given { option, value } in &self.given {
            let known = rules.len();
            let added = match *option {
                "exclude-from" | "include-from" => {
                    let includes = *option == "include-from";
                    self.read_list(option, value, includes, &mut rules)?;
                    continue;
                }
                "filter" => add_filter(&mut rules, value.as_bytes()),
                _ => add(&mut rules, *option != "exclude", value.as_bytes()),
            };
            added.map_err(|why| bad(&at(option, value), why))?;
            name_origin(&mut rules, known, &at(option, value));
        }
        if self.given.iter().any(|given| given.option == "only") {
            // what no rule before it takes
            let known = rules.len();
            rules.extend(Rule::new(false, b"*").map(|rule| (Side::Both, rule)));
            name_origin(&mut rules, known, "--only");
        }
        let filter = |is_part: &dyn Fn(Side) -> bool| {
            let part = rules.iter().filter(|(side, _)| is_part(*side));
            Filter::new(part.map(|(_, rule)| rule.clone()).collect())
                .map_err(|e| Failure::usage(format!("rules: {e}")))
        };
        options.filter = filter(&|side| side == Side::Both)?;
        options.protected = filter(&|side| match excluded {
            Excluded::Protected => true,
            Excluded::Deleted => side == Side::Deletion,
        })?;
        options.prune_empty_dirs = self.prune_empty_dirs;
        (options.min_size, options.max_size) = (self.min_size, self.max_size);
        Ok(())
    }

    /// Reads a file of patterns. Empty lines and lines that begin with # or ; are comments.
    fn read_list(
        &self,
        option: &str,
        file: &OsStr,
        includes: bool,
        rules: &mut Rules,
    ) -> Result<(), Failure> {
        let about = at(option, file);
        for (number, line) in read_lines(&about, file, self.nul_separated)? {
            let known = rules.len();
            let place = format!("{about}, line {number}");
            add(rules, includes, &line).map_err(|why| bad(&place, why))?;
            name_origin(rules, known, &place);
        }
        Ok(())
    }
}

/// Reads the lines of a file, or of standard input as `-`, with their numbers. Skips empty
/// lines, and those that begin with # or ; unless lines end with a NUL byte.
///
/// # Errors
/// Why it cannot be read; `about` names it.
pub(super) fn read_lines(
    about: &str,
    file: &OsStr,
    nul_separated: bool,
) -> Result<Vec<(usize, Vec<u8>)>, Failure> {
    let mut text = Vec::new();
    let read = match file.as_bytes() {
        b"-" => std::io::stdin().read_to_end(&mut text).map(drop),
        _ => std::fs::read(file).map(|read| text = read),
    };
    read.map_err(|e| Failure::io(about, &e))?;
    let separator = if nul_separated { b'\0' } else { b'\n' };
    let lines = text.split(|byte| *byte == separator).zip(1_usize..);
    let lines = lines.map(|(line, number)| (number, line.strip_suffix(b"\r").unwrap_or(line)));
    let is_comment = |line: &[u8]| !nul_separated && b"#;".contains(line.first().unwrap_or(&0));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !is_comment(line));
    Ok(lines.map(|(number, line)| (number, line.to_vec())).collect())
}

/// Names where the rules from the one with the index `first` on come from.
fn name_origin(rules: &mut Rules, first: usize, origin: &str) {
    for (_, rule) in rules.iter_mut().skip(first) {
        rule.set_origin(origin);
    }
}

/// Adds what one pattern says. As with rsync, `+ ` and `- ` before it decide, and `!` alone clears
/// the list.
fn add(rules: &mut Rules, includes: bool, pattern: &[u8]) -> Result<(), String> {
    let rule = match pattern {
        b"!" => {
            rules.clear();
            return Ok(());
        }
        _ if pattern.starts_with(b"+ ") || pattern.starts_with(b"- ") => Rule::parse(pattern),
        _ => Rule::new(includes, pattern),
    };
    rules.push((Side::Both, rule.map_err(|e| e.to_string())?));
    Ok(())
}

/// Adds a rule of `--filter`, in one of the spellings that rsync has for it.
fn add_filter(rules: &mut Rules, rule: &[u8]) -> Result<(), String> {
    let (word, pattern) = match rule.iter().position(|byte| b" _".contains(byte)) {
        Some(at) => (rule.get(..at), rule.get(at.saturating_add(1)..)),
        None => (Some(rule), None),
    };
    let (side, includes) = match word.unwrap_or_default() {
        b"+" | b"include" => (Side::Both, true),
        b"-" | b"exclude" => (Side::Both, false),
        b"P" | b"protect" => (Side::Deletion, false),
        b"!" | b"clear" if pattern.is_none() => {
            rules.clear();
            return Ok(());
        }
        b"." | b"merge" => {
            return Err("there are no merge files: use --exclude-from or --include-from".into());
        }
        b":" | b"dir-merge" => return Err("there are no merge files in directories".into()),
        _ => return Err("expected '+ PATTERN', '- PATTERN' or 'P PATTERN'".into()),
    };
    let rule = Rule::new(includes, pattern.unwrap_or_default());
    rules.push((side, rule.map_err(|e| e.to_string())?));
    Ok(())
}

fn at(option: &str, value: &OsStr) -> String {
    format!("--{option} {}", crate::net::printable(&value.to_string_lossy()))
}

fn bad(at: &str, why: String) -> Failure {
    Failure::usage(format!("{at}: {why}"))
}

/// A pattern that matches this text only.
pub fn literally(text: &[u8]) -> Vec<u8> {
    let special = text.iter().any(|byte| b"*?[".contains(byte));
    let escaped = text.iter().flat_map(|byte| {
        let escape = special && b"*?[\\".contains(byte);
        escape.then_some(b'\\').into_iter().chain([*byte])
    });
    escaped.collect()
}
