//! Reads a command line up to the cursor: its command, and the kind of word that comes next.

use clap::{Arg, Command};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The words before the cursor.
pub struct Line<'a> {
    /// The innermost subcommand; `None` if the command is unknown.
    pub command: Option<&'a Command>,
    /// Words that are not options.
    pub positionals: usize,
    /// The option whose value comes next.
    pub value_of: Option<&'a Arg>,
    /// After `--`, no word is an option.
    pub escaped: bool,
    /// The options that have been given.
    pub given: Vec<&'a Arg>,
    /// The value of `--state`.
    pub state: Option<PathBuf>,
}

impl<'a> Line<'a> {
    /// Reads the words behind the command's name.
    pub fn read(description: &'a Command, words: &[OsString]) -> Line<'a> {
        let mut line = Line {
            command: Some(description),
            positionals: 0,
            value_of: None,
            escaped: false,
            given: Vec::new(),
            state: None,
        };
        for word in words {
            line.take(word);
        }
        line
    }

    fn take(&mut self, word: &OsStr) {
        let Some(command) = self.command else { return };
        let text = word.to_string_lossy();
        if let Some(arg) = self.value_of.take() {
            self.note_value(arg, word);
        } else if self.is_option(word) {
            match text.strip_prefix("--") {
                Some("") => self.escaped = true,
                Some(long) => self.take_long(command, long),
                None => self.take_short(command, text.trim_start_matches('-')),
            }
        } else {
            let inner = command.find_subcommand(word).filter(|_| self.takes_subcommand());
            match inner {
                Some(inner) => (self.command, self.given) = (Some(inner), Vec::new()),
                None if command.get_positionals().next().is_none() => self.command = None,
                None => self.positionals = self.positionals.saturating_add(1),
            }
        }
    }

    /// True if the next word may be a subcommand.
    pub fn takes_subcommand(&self) -> bool {
        !self.escaped && self.positionals == 0 && self.command.is_some_and(Command::has_subcommands)
    }

    /// True of a word that is an option, or `--`; `-` alone stands for standard input or output.
    pub fn is_option(&self, word: &OsStr) -> bool {
        !self.escaped && word.len() > 1 && word.as_bytes().starts_with(b"-")
    }

    fn take_long(&mut self, command: &'a Command, long: &str) {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        let Some(arg) = find_long(command, name) else {
            return;
        };
        self.given.push(arg);
        match value {
            Some(value) => self.note_value(arg, OsStr::new(value)),
            None if wants_word(arg) => self.value_of = Some(arg),
            None => {}
        }
    }

    /// Reads `-rq`; the rest after an option with a value is the value.
    fn take_short(&mut self, command: &'a Command, letters: &str) {
        for (at, letter) in letters.char_indices() {
            let Some(arg) = command.get_arguments().find(|a| a.get_short() == Some(letter)) else {
                continue;
            };
            self.given.push(arg);
            if wants_word(arg) {
                let last = at.saturating_add(letter.len_utf8()) == letters.len();
                self.value_of = Some(arg).filter(|_| last);
                return;
            }
        }
    }

    fn note_value(&mut self, arg: &Arg, value: &OsStr) {
        if arg.get_id() == "state" {
            self.state = Some(value.into());
        }
    }
}

/// The option of this name.
pub fn find_long<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|a| a.get_long() == Some(name))
}

/// True of an option whose value is a word of its own.
fn wants_word(arg: &Arg) -> bool {
    let needed = arg.get_num_args().map_or(0, |n| n.min_values());
    arg.get_action().takes_values() && needed > 0 && !arg.is_require_equals_set()
}

/// A word of bash without its quotes. An open quote ends with the word.
pub fn unquote(word: &OsStr) -> OsString {
    let mut plain = Vec::with_capacity(word.len());
    let mut quote = None;
    let mut bytes = word.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (None, b'\'' | b'"') => quote = Some(byte),
            (Some(open), _) if byte == open => quote = None,
            (None, b'\\') => plain.extend(bytes.next()),
            (Some(b'"'), b'\\') => {
                let special = bytes.next_if(|next| b"$`\"\\".contains(next));
                plain.push(special.unwrap_or(b'\\'));
            }
            _ => plain.push(byte),
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn built() -> Command {
        let mut description = crate::cmd::description();
        description.build();
        description
    }

    #[test]
    fn quotes_of_bash_are_taken_away() {
        for (typed, plain) in [
            ("a\\ b", "a b"),
            ("'a b", "a b"),
            ("\"a \\\"b\\\" \\c", "a \"b\" \\c"),
            ("'it'\\''s'", "it's"),
            ("nas:\"my dir\"/x", "nas:my dir/x"),
            ("a\\", "a"),
        ] {
            assert_eq!(unquote(OsStr::new(typed)), OsStr::new(plain), "{typed}");
        }
    }

    #[test]
    fn options_values_and_positionals_are_distinguished() {
        let description = built();
        let line = Line::read(&description, &words("put -rq --wait a --retry-for 5m -- -b"));
        assert_eq!(line.command.map(Command::get_name), Some("put"));
        assert_eq!((line.positionals, line.escaped), (2, true));
        let given: Vec<&str> = line.given.iter().map(|a| a.get_id().as_str()).collect();
        assert_eq!(given, ["recursive", "quiet", "wait", "retry_for"]);

        let line = Line::read(&description, &words("user passwd --state /x"));
        assert_eq!(line.command.map(Command::get_name), Some("passwd"));
        assert_eq!(line.state, Some("/x".into()));
        assert!(Line::read(&description, &words("frobnicate x")).command.is_none());

        let line = Line::read(&description, &words("put --password-file"));
        assert_eq!(line.value_of.map(|a| a.get_id().as_str()), Some("password_file"));
    }
}
