//! The kinds of arguments' values. Each argument declares its kind; completion reads it there.

use clap::ValueHint;

/// A file or directory of this machine.
pub const LOCAL: ValueHint = ValueHint::AnyPath;
/// A directory of this machine.
pub const LOCAL_DIR: ValueHint = ValueHint::DirPath;
/// `[USER@]HOST:PATH`.
pub const REMOTE: ValueHint = ValueHint::Url;
/// A path of this machine or of a server.
pub const LOCAL_OR_REMOTE: ValueHint = ValueHint::Other;
/// A server by itself.
pub const HOST: ValueHint = ValueHint::Hostname;
/// A user of this machine's server.
pub const USER: ValueHint = ValueHint::Username;
/// A program with its options.
pub const COMMAND: ValueHint = ValueHint::CommandString;
