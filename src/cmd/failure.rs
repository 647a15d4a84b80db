//! What the user reads when a command fails: one line, and an exit code.

use crate::auth::FileError;
use crate::net::error::{TunnelError, code_of};
use crate::net::wire::Code;
use crate::net::{NetError, printable};
use crate::store::StoreError;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit codes, as the manual lists them.
pub mod exit {
    /// Failed.
    pub const FAILED: u8 = 1;
    /// Wrong usage.
    pub const USAGE: u8 = 2;
    /// Done in part: some files failed, each named on standard error.
    pub const PARTIAL: u8 = 3;
    /// Could not connect, or gave up retrying.
    pub const CONNECT: u8 = 4;
    /// Login refused.
    pub const LOGIN: u8 = 5;
    /// The server's key is not the pinned one, or not known and not accepted.
    pub const KEY: u8 = 6;
    /// Locked by another writer, or changed meanwhile.
    pub const LOCKED: u8 = 7;
    /// No such file or directory, or not allowed.
    pub const NOT_FOUND: u8 = 8;
    /// The guard of `--delete` prevented a deletion.
    pub const GUARD: u8 = 9;
    /// SIGHUP.
    pub const HUNG_UP: u8 = 129;
    /// SIGINT.
    pub const INTERRUPTED: u8 = 130;
    /// SIGTERM.
    pub const TERMINATED: u8 = 143;
}

/// The hint of an internal error.
const FAULT: &str = "this is a fault in haul: please report it with this line";

/// Standard output is for JSON.
static JSON: AtomicBool = AtomicBool::new(false);

/// From now on failures go to standard output too, as JSON.
pub fn set_json() {
    JSON.store(true, Ordering::Relaxed);
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    exit: u8,
    message: String,
    hint: Option<String>,
    /// The user has read of it already.
    silent: bool,
    /// The message names its path or server already.
    complete: bool,
    /// All that failed were files that no longer existed.
    vanished: bool,
}

impl Failure {
    /// A failure with its message: what failed, on which path.
    pub fn new(exit: u8, message: impl Into<String>) -> Failure {
        Failure {
            exit,
            message: message.into(),
            hint: None,
            silent: false,
            complete: false,
            vanished: false,
        }
    }

    /// A fault in haul itself.
    pub fn internal(message: &str) -> Failure {
        Failure::new(exit::FAILED, message).hint(FAULT)
    }

    /// What the system says of something that this process did.
    pub fn io(doing: &str, error: &io::Error) -> Failure {
        Failure::new(exit::FAILED, format!("{doing}: {error}"))
    }

    /// A wrong use of the command line.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(exit::USAGE, message)
    }

    /// The first line of what the command line parser says.
    pub fn of_parser(error: &clap::Error) -> Failure {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        Failure::usage(line.trim_start_matches("error: "))
    }

    /// An exit code for failures that the user has read of.
    pub fn already_reported(exit: u8) -> Failure {
        Failure {
            silent: true,
            ..Failure::new(exit, "")
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// An error about something: a path, a server.
    pub fn about(what: impl Display, error: impl Into<Failure>) -> Failure {
        let failure = error.into();
        if failure.complete {
            return failure;
        }
        Failure {
            message: format!("{what}: {}", failure.message),
            ..failure
        }
    }

    /// The message names its path or server already.
    #[must_use]
    pub fn complete(mut self) -> Failure {
        self.complete = true;
        self
    }

    /// Appends to the message.
    #[must_use]
    pub fn and(mut self, more: &str) -> Failure {
        self.message.push_str(more);
        self
    }

    /// All that failed were files that no longer existed, if that is so.
    #[must_use]
    pub fn with_vanished(mut self, vanished: bool) -> Failure {
        self.vanished = vanished;
        self
    }

    /// True if all that failed were files that no longer existed.
    pub fn is_vanished(&self) -> bool {
        self.vanished
    }

    /// What failed, without a hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The exit code.
    pub fn exit(&self) -> u8 {
        self.exit
    }

    /// Prints the line, made safe for a terminal; with `--json` also an object on standard output.
    pub fn report(&self) -> ExitCode {
        self.report_as(self.exit)
    }

    /// The same, for a command with exit codes of its own.
    pub fn report_as(&self, code: u8) -> ExitCode {
        if !self.silent {
            eprintln!("haul: {}", self.line());
            if JSON.load(Ordering::Relaxed) {
                self.print_json();
            }
        }
        ExitCode::from(code)
    }

    /// Prints the object on standard output.
    pub fn print_json(&self) {
        // a failure to write to standard output has no better place
        let _ = writeln!(io::stdout(), "{}", self.json());
    }

    fn json(&self) -> Value {
        let mut object = json!({"event": "error", "exit": self.exit, "reason": self.message});
        if let (Some(hint), Some(object)) = (&self.hint, object.as_object_mut()) {
            object.insert("hint".into(), json!(hint));
        }
        object
    }

    fn line(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{} ({})", printable(&self.message), printable(hint)),
            None => printable(&self.message),
        }
    }
}

/// The exit code of an error.
fn exit_of_error(error: &NetError) -> u8 {
    match error {
        NetError::Connect { .. }
        | NetError::Tunnel(_)
        | NetError::Lost(_)
        | NetError::OutcomeUnknown(_)
        | NetError::Tls(_) => exit::CONNECT,
        NetError::WrongKey { .. } => exit::KEY,
        NetError::Refused { code, .. } => exit_of(*code),
        NetError::Store(e) => exit_of(code_of(&e.kind)),
        NetError::Internal(_) | NetError::Protocol(_) | NetError::File(_) => exit::FAILED,
    }
}

/// The exit code of a status code, from a server or for a file of a transfer. Codes that this
/// version does not know count as failures.
pub fn exit_of(code: Code) -> u8 {
    match code {
        Code::LOGIN_REFUSED => exit::LOGIN,
        Code::UNAVAILABLE => exit::CONNECT,
        Code::LOCKED | Code::VERSION_CHANGED => exit::LOCKED,
        Code::NOT_FOUND | Code::DENIED => exit::NOT_FOUND,
        Code::UNKNOWN_OWNER => exit::USAGE,
        _ => exit::FAILED,
    }
}

/// The failure of a local path, with what the system says of it.
pub fn local_failure(path: &Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => exit::NOT_FOUND,
        _ => exit::FAILED,
    };
    Failure::new(code, format!("{}: {error}", path.display()))
}

/// The exit code of a command some of whose parts failed with these codes; `done`: another part
/// succeeded.
pub fn exit_of_parts(done: bool, failed: &BTreeSet<u8>) -> u8 {
    match (failed.len(), failed.first()) {
        (0, _) => 0,
        _ if done => exit::PARTIAL,
        // all parts failed for one reason
        (1, Some(only)) => *only,
        _ => exit::FAILED,
    }
}

/// What the user can do about a status code.
pub fn hint_of(code: Code) -> Option<&'static str> {
    match code {
        Code::UNAVAILABLE => Some("try again later"),
        Code::NO_SPACE | Code::QUOTA => {
            Some("free some space there; the earlier content is unchanged")
        }
        Code::VERSION_CHANGED => Some("check it with haul stat"),
        _ => None,
    }
}

/// What the user can do where another program, usually ssh, did not reach the server.
fn hint_of_tunnel(why: &TunnelError) -> Option<&'static str> {
    match why {
        TunnelError::Start { .. } => Some("install it, or name another program with -e"),
        TunnelError::Ended { .. } => Some("its own message says why"),
        TunnelError::NoHaul(_) => Some("--install puts a copy of haul there"),
        TunnelError::Noise(_) | TunnelError::Malformed => {
            Some("-v shows it; check what the command runs there")
        }
        TunnelError::Refused(_) => None,
    }
}

/// What the user can do about an error.
fn hint_of_error(error: &NetError) -> Option<&'static str> {
    match error {
        NetError::Connect { .. } => {
            Some("check that the server is running and that its name is right")
        }
        NetError::Tunnel(why) => hint_of_tunnel(why),
        NetError::Lost(_) => Some("run the same command again"),
        NetError::OutcomeUnknown(_) => Some("outcome unknown: check, then repeat if needed"),
        NetError::Tls(_) => Some("check that it is a haul server"),
        NetError::WrongKey { .. } => Some(
            "someone may be intercepting the connection; if the server really has a new key, \
            remove its line from \
             known_servers",
        ),
        NetError::Internal(_) => Some(FAULT),
        NetError::Refused { code, .. } => hint_of(*code),
        NetError::Store(_) | NetError::File(_) | NetError::Protocol(_) => None,
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Failure {
        let failure = match &error {
            NetError::Store(e) => Failure::new(exit_of_error(&error), e.describe()),
            _ => Failure::new(exit_of_error(&error), error.to_string()),
        };
        match hint_of_error(&error) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        NetError::Store(error).into()
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Failure {
        NetError::from(error).into()
    }
}
