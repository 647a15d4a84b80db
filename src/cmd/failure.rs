//! What the user reads when a command fails: one line, and an exit code.

use crate::auth::FileError;
use crate::net::wire::Code;
use crate::net::{NetError, printable};
use crate::store::{ErrorKind, StoreError};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::Write;
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
    /// SIGHUP.
    pub const HUNG_UP: u8 = 129;
    /// SIGINT.
    pub const INTERRUPTED: u8 = 130;
    /// SIGTERM.
    pub const TERMINATED: u8 = 143;
}

/// Standard output is for JSON.
static JSON: AtomicBool = AtomicBool::new(false);

/// From now on standard output is for JSON: failures are told there, too.
pub fn set_json() {
    JSON.store(true, Ordering::Relaxed);
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    exit: u8,
    message: String,
    hint: Option<String>,
    /// Everything has been said already.
    silent: bool,
    /// It says by itself what it is about.
    complete: bool,
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
        }
    }

    /// haul itself is at fault.
    pub fn internal(message: &str) -> Failure {
        Failure::new(exit::FAILED, message).hint("this is a fault in haul: please report it with this line")
    }

    /// A wrong use of the command line.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(exit::USAGE, message)
    }

    /// An exit code after every failure has been named already.
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

    /// What it is about need not be said again.
    #[must_use]
    pub fn complete(mut self) -> Failure {
        self.complete = true;
        self
    }

    /// Adds to what the line says.
    #[must_use]
    pub fn and(mut self, more: &str) -> Failure {
        self.message.push_str(more);
        self
    }

    /// The exit code.
    pub fn exit(&self) -> u8 {
        self.exit
    }

    /// Prints the line, made safe for a terminal; with `--json` also an object on standard output.
    pub fn report(&self) -> ExitCode {
        if !self.silent {
            eprintln!("haul: {}", self.line());
            if JSON.load(Ordering::Relaxed) {
                // there is no better place to tell that standard output cannot be written
                let _ = writeln!(std::io::stdout(), "{}", self.json());
            }
        }
        ExitCode::from(self.exit)
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

/// The exit code for a status code that a server, or a file of a transfer, gave.
pub fn exit_of(code: Code) -> u8 {
    match code {
        Code::LOGIN_REFUSED => exit::LOGIN,
        Code::UNAVAILABLE => exit::CONNECT,
        Code::LOCKED | Code::VERSION_CHANGED => exit::LOCKED,
        Code::NOT_FOUND | Code::DENIED => exit::NOT_FOUND,
        _ => exit::FAILED,
    }
}

/// The exit code of a command of which parts failed with these codes; `done`: something else was done.
pub fn exit_of_parts(done: bool, failed: &BTreeSet<u8>) -> u8 {
    match (failed.len(), failed.first()) {
        (0, _) => 0,
        _ if done => exit::PARTIAL,
        // nothing went right, and all for one reason
        (1, Some(only)) => *only,
        _ => exit::FAILED,
    }
}

/// What to do next about a status code.
pub fn hint_of(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::UNAVAILABLE => "try again later",
        Code::NO_SPACE => "free some space there; what was there before is unchanged",
        Code::QUOTA => "free some space there; what was there before is unchanged",
        Code::VERSION_CHANGED => "look at it again with haul stat",
        _ => return None,
    })
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Failure {
        let message = error.to_string();
        match error {
            NetError::Connect { .. } => {
                Failure::new(exit::CONNECT, message).hint("is the server running, and is the name right?")
            }
            NetError::Lost(_) => Failure::new(exit::CONNECT, message).hint("run the same command again"),
            NetError::OutcomeUnknown(_) => {
                Failure::new(exit::CONNECT, message).hint("outcome unknown: check, then repeat if needed")
            }
            NetError::Tls(_) => Failure::new(exit::CONNECT, message).hint("is that a haul server?"),
            NetError::WrongKey { .. } => Failure::new(exit::KEY, message).hint(
                "somebody may be in between; if the server was really set up anew, remove its line from known_servers",
            ),
            NetError::Refused { code, .. } => match hint_of(code) {
                Some(hint) => Failure::new(exit_of(code), message).hint(hint),
                None => Failure::new(exit_of(code), message),
            },
            NetError::Store(e) => e.into(),
            NetError::Internal(_) => Failure::internal(&message),
            NetError::File(_) | NetError::Protocol(_) => Failure::new(exit::FAILED, message),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let code = match error.kind {
            ErrorKind::NotFound | ErrorKind::Denied | ErrorKind::ReadOnly => exit::NOT_FOUND,
            ErrorKind::Locked(_) | ErrorKind::VersionChanged => exit::LOCKED,
            _ => exit::FAILED,
        };
        Failure::new(code, error.describe())
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Failure {
        Failure::new(exit::FAILED, error.to_string())
    }
}
