//! `--backup`: what a transfer replaces or deletes is moved aside, with rsync's meaning.

use super::destination::{LocalPlace, open_store};
use super::failure::{Failure, local_failure};
use super::filter::literally;
use super::hint;
use super::remote::Remote;
use crate::net::transfer::backup::BackupOptions;
use crate::net::transfer::filter::{Filter, Rule};
use crate::net::transfer::options::Options;
use crate::store::{BackupPlan, RemotePath, Suffix};
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// What names end with beside their files.
const SUFFIX: &[u8] = b"~";

/// Options about backups.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct BackupArgs {
    /// Move aside what is replaced or deleted at DEST: NAME to NAME~
    #[arg(short, long)]
    backup: bool,

    /// Like -b, and move it to the same path beneath DIR; a relative DIR is relative to DEST
    #[arg(long, value_name = "DIR", value_hint = hint::LOCAL_DIR)]
    backup_dir: Option<OsString>,

    /// What a backup's name ends with [default: ~, and nothing with --backup-dir]
    #[arg(long, value_name = "SUFFIX")]
    suffix: Option<OsString>,
}

impl BackupArgs {
    /// Sets what they say. As with rsync, a deletion leaves backups that are beside their files.
    ///
    /// # Errors
    /// A usage failure.
    pub fn apply(&self, options: &mut Options) -> Result<(), Failure> {
        if !self.backup && self.backup_dir.is_none() {
            return match &self.suffix {
                Some(_) => Err(Failure::usage("--suffix is for backups").hint("add -b")),
                None => Ok(()),
            };
        }
        let dir = self.backup_dir.clone().map(OsString::into_vec);
        let default = if dir.is_some() { &[][..] } else { SUFFIX };
        let text = self.suffix.as_ref().map_or(default, |suffix| suffix.as_bytes());
        let suffix = Suffix::parse(text)
            .map_err(|e| Failure::usage(format!("--suffix: no name ends with it: {e}")))?;
        match dir.as_deref() {
            Some(b"") => return Err(Failure::usage("--backup-dir: expected a directory")),
            None if text.is_empty() => {
                return Err(Failure::usage("--suffix: a file cannot be its own backup")
                    .hint("name a suffix, or a directory with --backup-dir"));
            }
            None => {
                let pattern = [b"*", &literally(text)[..]].concat();
                protect(options, &pattern)?;
            }
            _ => {}
        }
        options.backup = Some(BackupOptions { dir, suffix });
        Ok(())
    }
}

/// Has a deletion leave the directory with the backups, which is here beneath the destination.
///
/// # Errors
/// That of a path that no rule can have.
pub fn protect_dir(options: &mut Options, inside: &RemotePath) -> Result<(), Failure> {
    match inside.is_root() {
        // they are beside their files
        true => Ok(()),
        false => {
            let pattern = [b"/", &literally(inside.as_bytes())[..], b"/"].concat();
            protect(options, &pattern)
        }
    }
}

/// Checks the backup directory of a destination on a server, as far as it can be known here, and
/// has a deletion leave it.
///
/// # Errors
/// A usage failure.
pub fn backup_there(options: &mut Options, destination: &Remote) -> Result<(), Failure> {
    let Some(backup) = &options.backup else {
        return Ok(());
    };
    let plan = backup.plan(&destination.path);
    plan.map_err(|e| Failure::usage(format!("--backup-dir: the path is not allowed: {e}")))?;
    match backup.inside(&destination.path) {
        Some(inside) => protect_dir(options, &inside),
        None => Ok(()),
    }
}

/// Has what is replaced or deleted at a place moved aside as the options say, which lose that. The
/// backup directory may be anywhere on the same file system.
///
/// # Errors
/// Why the backup directory cannot be used.
pub async fn back_up(place: &mut LocalPlace, options: &mut Options) -> Result<(), Failure> {
    options.backup_here = options.backup.take();
    let Some(BackupOptions { dir, suffix }) = options.backup_here.clone() else {
        return Ok(());
    };
    let failed = |e| Failure::about(place.dir.display(), e);
    let (root, top, dir) = match &dir {
        None => (place.dir.as_path(), RemotePath::root(), None),
        Some(wanted) => {
            let real = place.dir.canonicalize().map_err(|e| local_failure(&place.dir, &e))?;
            let destination = match &place.tree.base {
                Some(base) => real.join(base.as_path()),
                None => real.clone(),
            };
            let wanted = real_path(&destination.join(OsStr::from_bytes(wanted)))?;
            let (top, wanted) = (from_root(&real)?, from_root(&wanted)?);
            if let Some(inside) = wanted.beneath(&top) {
                protect_dir(options, &inside)?;
            }
            (Path::new("/"), top, Some(wanted))
        }
    };
    if !options.dry_run {
        let plan = BackupPlan { dir, suffix };
        let store = open_store(root)?.backing_up(&top, plan).await;
        place.tree.store = store.map_err(failed)?;
    }
    Ok(())
}

/// A path without symlinks, of which the end need not exist. A `..` in that end leads back, since
/// nothing there is a symlink.
fn real_path(path: &Path) -> Result<PathBuf, Failure> {
    for above in path.ancestors() {
        let rest = path.strip_prefix(above).unwrap_or(path);
        match above.canonicalize() {
            Ok(mut real) => {
                for part in rest.components() {
                    match part {
                        Component::ParentDir => drop(real.pop()),
                        part => real.push(part),
                    }
                }
                return Ok(real);
            }
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(local_failure(above, &e)),
            Err(_) => {}
        }
    }
    Err(local_failure(path, &ErrorKind::NotFound.into()))
}

/// A path of this machine as one beneath its root.
fn from_root(path: &Path) -> Result<RemotePath, Failure> {
    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_prefix(b"/").unwrap_or(bytes);
    let bad = |e| Failure::usage(format!("{}: the path is not allowed: {e}", path.display()));
    RemotePath::parse(bytes).map_err(bad)
}

/// Has a deletion leave what matches, before all that the user says.
fn protect(options: &mut Options, pattern: &[u8]) -> Result<(), Failure> {
    let bad = |e| Failure::usage(format!("rules: {e}"));
    let rule = Rule::new(false, pattern).map_err(bad)?;
    let mut rules = options.protected.rules().to_vec();
    rules.insert(0, rule);
    options.protected = Filter::new(rules).map_err(bad)?;
    Ok(())
}
