//! The directories of haul's files: the client's settings and the server's state.

use super::failure::{Failure, exit};
use crate::auth::file;
use std::ffi::OsString;
use std::path::PathBuf;

/// The client's directory: `$HAUL_CONFIG_DIR`, else `$XDG_CONFIG_HOME/haul`, else `~/.config/haul`.
///
/// # Errors
/// If none of the variables is set.
pub fn config_dir() -> Result<PathBuf, Failure> {
    if let Some(dir) = set("HAUL_CONFIG_DIR") {
        return Ok(dir.into());
    }
    under("XDG_CONFIG_HOME", ".config", "settings", "HAUL_CONFIG_DIR")
}

/// The server's directory: `$XDG_STATE_HOME/haul`, else `/var/lib/haul` for root and
/// `~/.local/state/haul` for others.
///
/// # Errors
/// If none of the variables is set, and for a directory that other users may read.
pub fn state_dir(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let dir = match given {
        Some(dir) => dir,
        None if set("XDG_STATE_HOME").is_none() && rustix::process::geteuid().is_root() => {
            PathBuf::from("/var/lib/haul")
        }
        None => under("XDG_STATE_HOME", ".local/state", "server's state", "--state")?,
    };
    file::check_private(&dir, None)?;
    Ok(dir)
}

/// The directory of what lasts as long as a process: `$XDG_RUNTIME_DIR/haul`, else the client's
/// directory.
///
/// # Errors
/// As [`config_dir`].
pub fn runtime_dir() -> Result<PathBuf, Failure> {
    match set("XDG_RUNTIME_DIR").filter(|_| set("HAUL_CONFIG_DIR").is_none()) {
        Some(dir) => Ok(PathBuf::from(dir).join("haul")),
        None => config_dir(),
    }
}

/// The client's directory of what it may forget: `$XDG_STATE_HOME/haul`, else
/// `~/.local/state/haul`. Where `$HAUL_CONFIG_DIR` is set it is that.
///
/// # Errors
/// As [`config_dir`].
pub fn client_state_dir() -> Result<PathBuf, Failure> {
    match set("HAUL_CONFIG_DIR") {
        Some(dir) => Ok(dir.into()),
        None => under("XDG_STATE_HOME", ".local/state", "state", "HAUL_CONFIG_DIR"),
    }
}

fn set(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn under(variable: &str, in_home: &str, what: &str, instead: &str) -> Result<PathBuf, Failure> {
    let base = set(variable)
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(in_home)));
    let base = base.ok_or_else(|| {
        let message = format!("no directory for the {what}: neither {variable} nor HOME is set");
        Failure::new(exit::FAILED, message).hint(format!("set {instead}"))
    });
    Ok(base?.join("haul"))
}
