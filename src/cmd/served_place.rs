//! What a server serves: a directory of this machine, or a part of a bucket.

use super::confine::{Network, confine_to};
use super::failure::{Failure, local_failure};
use super::service::real_dir;
use super::store_args::{NamedStore, StoreArgs};
use crate::auth::file;
use crate::auth::state_file::StateFile;
use crate::store::local::{LocalStore, ServedDir};
use crate::store::objects::{LEAST_WINDOW, ServedObjects};
use crate::store::{Rights, Served};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What the options of a server name.
pub struct WantedPlace<'a> {
    /// The directory.
    pub root: Option<&'a Path>,
    /// The bucket.
    pub bucket: &'a StoreArgs,
    /// How long a lock in a bucket counts.
    pub lease: Duration,
    /// Users may set owners.
    pub owners: bool,
    /// Owners and the like are recorded.
    pub fake_super: bool,
}

/// What a server serves.
pub enum ServedPlace {
    /// A directory.
    Dir(LocalStore, PathBuf),
    /// A part of a bucket.
    Bucket(NamedStore),
}

impl ServedPlace {
    /// Opens what the options name.
    ///
    /// # Errors
    /// Why it cannot be served.
    pub fn open(args: &WantedPlace<'_>, state: &Path) -> Result<ServedPlace, Failure> {
        file::make_private_dir(state)?;
        file::check_private(state, Some(rustix::process::geteuid().as_raw()))?;
        if let Some(bucket) = args.bucket.named(Some(args.lease))? {
            return Ok(ServedPlace::Bucket(bucket));
        }
        let root = args.root.unwrap_or(Path::new("."));
        let (root, store) = open_root(root, state)?;
        Ok(ServedPlace::Dir(with_rights(&store, args)?, root))
    }

    /// Confines this process to it, its state, and connections to the ports of other servers.
    pub fn confine(&self, state: &Path, ports: Vec<u16>) {
        match self {
            ServedPlace::Dir(_, root) => confine_to(&[root, state], &Network::Ports(ports)),
            ServedPlace::Bucket(_) => confine_to(&[state], &Network::Engine),
        }
    }

    /// The tree, as the server sees it.
    pub fn served(&self) -> Arc<dyn Served> {
        match self {
            ServedPlace::Dir(store, root) => Arc::new(ServedDir::new(store.clone(), root.clone())),
            ServedPlace::Bucket(bucket) => Arc::new(ServedObjects(bucket.store())),
        }
    }

    /// The users, in the state directory or the bucket.
    ///
    /// # Errors
    /// Without the means to read them.
    pub fn users(&self, state: &Path) -> Result<StateFile, Failure> {
        match self {
            ServedPlace::Dir(..) => Ok(state.join("users").into()),
            ServedPlace::Bucket(bucket) => bucket.users(),
        }
    }

    /// How long a transfer waits for a lock of the same client. Of a bucket that may be the lock of
    /// another server, which died: it counts for a lease.
    pub fn own_lock_wait(&self) -> Duration {
        match self {
            ServedPlace::Dir(..) => Duration::ZERO,
            ServedPlace::Bucket(bucket) => bucket.lease().saturating_mul(3) / 2,
        }
    }

    /// The smallest window that a transfer has use for: a bucket takes whole parts.
    pub fn least_window(&self) -> u64 {
        match self {
            ServedPlace::Dir(..) => 0,
            ServedPlace::Bucket(_) => LEAST_WINDOW,
        }
    }

    /// Checks the engine of a bucket; returns what it is.
    ///
    /// # Errors
    /// What it does that no store may do.
    pub async fn probe(&self) -> Result<Option<String>, Failure> {
        match self {
            ServedPlace::Dir(..) => Ok(None),
            ServedPlace::Bucket(bucket) => Ok(Some(bucket.probe().await?)),
        }
    }
}

fn open_root(root: &Path, state: &Path) -> Result<(PathBuf, LocalStore), Failure> {
    let real = real_dir(root)?;
    let real_state = state.canonicalize().map_err(|e| local_failure(state, &e))?;
    if real_state.starts_with(&real) {
        let message =
            format!("the state in {} would be served with {}", state.display(), root.display());
        return Err(Failure::usage(message).hint("choose another directory with --state"));
    }
    let store = LocalStore::open(&real).map_err(|e| local_failure(root, &e))?;
    Ok((real, store))
}

/// The store with what it may set. A user who could set owners or make devices could
/// gain root's rights on this machine, so that a server of root does it only with `--owners`.
fn with_rights(store: &LocalStore, args: &WantedPlace<'_>) -> Result<LocalStore, Failure> {
    let rights = match (args.owners || args.fake_super, rustix::process::geteuid().is_root()) {
        (true, _) if args.fake_super => Rights::Recorded,
        (true, _) => Rights::All,
        (false, true) => Rights::own("the server runs without --owners"),
        (false, false) => Rights::own("the server does not run as root"),
    };
    let stored = store.with_rights(rights);
    stored.map_err(|e| Failure::io("open the served directory", &e))
}
