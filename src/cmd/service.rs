//! What both kinds of server need: the directory that is served, and the signals that stop it.

use super::failure::{Failure, exit, local_failure};
use std::path::{Path, PathBuf};

/// The directory to serve, without symlinks on the way.
///
/// # Errors
/// If it is none.
pub fn real_dir(root: &Path) -> Result<PathBuf, Failure> {
    let real = root.canonicalize().map_err(|e| local_failure(root, &e))?;
    match real.is_dir() {
        true => Ok(real),
        false => Err(Failure::new(
            exit::NOT_FOUND,
            format!("{}: not a directory", root.display()),
        )),
    }
}

/// Waits for a signal that stops the server.
///
/// # Errors
/// That it cannot be waited for.
pub fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |e| Failure::new(exit::FAILED, format!("cannot wait for signals: {e}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        // a second signal stops at once
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => std::process::exit(i32::from(exit::INTERRUPTED)),
                _ = terminate.recv() => std::process::exit(i32::from(exit::TERMINATED)),
            }
        });
    })
}
