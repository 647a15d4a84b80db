//! Where the sources of a transfer go on this machine, for get and cp.

use super::failure::{Failure, exit, local_failure};
use super::location::split_local;
use super::server::local_user;
use crate::net::client::options::host_name;
use crate::net::client::requests::IfMissing;
use crate::net::transfer::receive::tree::Tree;
use crate::store::local::LocalStore;
use crate::store::{RemotePath, Rights, Store};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A place for each source beneath a directory.
pub struct LocalPlace {
    /// The directory, which exists.
    pub dir: PathBuf,
    /// The places in it.
    pub tree: Tree,
}

impl LocalPlace {
    /// Finds the place of each of so many sources, by its name in a directory that receives it (the
    /// root: its contents go there). A single source may get the name that `destination` ends with.
    /// `verb` is the command, which others read that wait for a lock.
    ///
    /// # Errors
    /// That there is no such directory, or that a name is not allowed.
    pub async fn find(
        verb: &str,
        (sources, names): (usize, impl FnOnce() -> Result<Vec<RemotePath>, Failure>),
        destination: &Path,
        if_missing: IfMissing,
    ) -> Result<LocalPlace, Failure> {
        let slash = destination.as_os_str().as_bytes().ends_with(b"/");
        let found = std::fs::metadata(destination);
        if found.as_ref().is_ok_and(std::fs::Metadata::is_dir) {
            return LocalPlace::within(verb, destination, names()?, None).await;
        }
        let makes = if_missing == IfMissing::Make && found.is_err();
        if !makes && (slash || sources > 1) {
            let message = format!("{}: no such directory", destination.display());
            return Err(Failure::new(exit::NOT_FOUND, message).hint("create it first"));
        }
        let (parent, top) = split_local(destination).map_err(|e| {
            let message = format!("{}: the name is not allowed: {e}", destination.display());
            Failure::new(exit::FAILED, message)
        })?;
        if !makes {
            return LocalPlace::within(verb, &parent, vec![top], None).await;
        }
        let names = names()?;
        let tops = names.iter().map(|name| top.append(name));
        let tops = tops.collect::<Result<Vec<_>, _>>();
        let tops = tops.map_err(|e| Failure::usage(format!("{}: {e}", destination.display())))?;
        // the directory of a source whose contents go there is made like any other of it
        let base = tops.iter().any(|of| *of != top).then_some(top);
        LocalPlace::within(verb, &parent, tops, base).await
    }

    /// The directory `dir` as a destination, with the place of each source in it, and the directory
    /// in it that is made first.
    async fn within(
        verb: &str,
        dir: &Path,
        tops: Vec<RemotePath>,
        base: Option<RemotePath>,
    ) -> Result<LocalPlace, Failure> {
        let store = open_store(dir)?
            .subtree(&RemotePath::root())
            .await
            .map_err(|e| Failure::about(dir.display(), e))?;
        let (user, host, process) = (local_user(), host_name(), std::process::id());
        let tree = Tree {
            store,
            tops,
            base,
            dry_run: false,
            who: format!("{user}@{host}, haul {verb}, process {process}"),
            release: None,
            own_lock_wait: Duration::ZERO,
            write_only: false,
        };
        let dir = dir.to_path_buf();
        Ok(LocalPlace { dir, tree })
    }

    /// The prefix of names in messages: empty for the working directory.
    pub fn label(&self) -> Vec<u8> {
        if self.dir == Path::new(".") {
            Vec::new()
        } else {
            self.dir.as_os_str().as_bytes().to_vec()
        }
    }
}

/// Opens a directory that this process writes.
///
/// # Errors
/// The system's.
pub fn open_store(dir: &Path) -> Result<LocalStore, Failure> {
    LocalStore::open(dir)
        .and_then(|store| store.with_rights(Rights::of_process()))
        .map_err(|e| local_failure(dir, &e))
}

/// Makes the missing directories above a destination, and the destination where that must be a
/// directory.
///
/// # Errors
/// The system's.
pub fn make_path(destination: &Path, several: bool) -> Result<(), Failure> {
    let slash = destination.as_os_str().as_bytes().ends_with(b"/");
    let dir = match slash || several {
        true => Some(destination),
        false => destination.parent().filter(|dir| !dir.as_os_str().is_empty()),
    };
    match dir {
        Some(dir) => std::fs::create_dir_all(dir).map_err(|e| local_failure(dir, &e)),
        None => Ok(()),
    }
}
