//! What ssh does, on the user's terminal: its messages above the bar, and no bar while it may ask.

use super::super::screen::{self, Hidden};
use crate::net::client::tunnel::report::Report;
use crate::net::printable;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::net::SocketAddr;

/// The longest line of ssh's messages that waits for its end.
const LONGEST: usize = 4 << 10;
/// The most lines that are printed once.
const REMEMBERED: usize = 64;
/// The most bytes of other programs' output that are shown.
const SHOWN: usize = 2 << 10;

/// Prints what ssh says.
pub struct TerminalReport {
    host: String,
    /// The beginning of a line.
    line: Mutex<Vec<u8>>,
    /// Lines that were printed: an outage has the same ones again and again.
    printed: Mutex<HashSet<Vec<u8>>>,
    /// Lines that say that there is no haul.
    complaints: Mutex<Vec<Vec<u8>>>,
    /// One for each ssh that may ask.
    hidden: Mutex<Vec<Hidden>>,
}

impl TerminalReport {
    /// For this host.
    pub fn new(host: String) -> TerminalReport {
        TerminalReport {
            host,
            line: Mutex::default(),
            printed: Mutex::default(),
            complaints: Mutex::default(),
            hidden: Mutex::default(),
        }
    }

    fn end_line(&self) {
        let line = std::mem::take(&mut *self.line.lock());
        if is_about_missing(&line) {
            self.complaints.lock().push(line);
            return;
        }
        if line.is_empty() || self.printed.lock().contains(&line) {
            return;
        }
        screen::say(&printable(String::from_utf8_lossy(&line).trim_end_matches('\r')));
        let mut printed = self.printed.lock();
        if printed.len() < REMEMBERED {
            printed.insert(line);
        }
    }
}

/// True if the command line has this option, by its letter or its name.
pub(super) fn has_flag(letter: char, name: &str) -> bool {
    let is_short = |arg: &str| {
        arg.strip_prefix('-').is_some_and(|letters| {
            letters.contains(letter) && letters.chars().all(|c| c.is_ascii_alphabetic())
        })
    };
    let mut arguments = std::env::args_os().filter_map(|arg| arg.into_string().ok());
    arguments.any(|arg| arg == name || is_short(&arg))
}

/// True if the user has asked for details.
fn is_verbose() -> bool {
    has_flag('v', "--verbose")
}

/// True of a shell's complaint that it has no haul: haul says so itself, and what to do.
fn is_about_missing(line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line).to_lowercase();
    line.contains("haul") && (line.contains("not found") || line.contains("unknown command"))
}

impl Report for TerminalReport {
    fn said(&self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            self.line.lock().extend_from_slice(text);
            if text.len() < piece.len() || self.line.lock().len() > LONGEST {
                self.end_line();
            }
        }
    }

    fn direct(&self, address: Option<SocketAddr>) {
        let host = &self.host;
        match address {
            _ if !is_verbose() => {}
            Some(address) => screen::say(&format!("{host}: the data goes directly to {address}")),
            None => screen::say(&format!("{host}: the data goes over ssh")),
        }
    }

    fn noise(&self, bytes: &[u8], is_failure: bool) {
        if is_failure || is_verbose() {
            let text = String::from_utf8_lossy(bytes.get(..SHOWN).unwrap_or(bytes));
            for line in text.lines() {
                screen::say(&format!("{}: {}", self.host, printable(line)));
            }
        }
    }

    fn starting(&self) {
        self.hidden.lock().push(screen::hide());
    }

    fn waiting(&self) {
        screen::say(&format!("haul: {}: still waiting for an answer", self.host));
    }

    fn started(&self, is_missing: bool) {
        self.end_line();
        let complaints = std::mem::take(&mut *self.complaints.lock());
        for line in complaints.iter().filter(|_| !is_missing) {
            screen::say(&printable(&String::from_utf8_lossy(line)));
        }
        drop(self.hidden.lock().pop());
    }
}
