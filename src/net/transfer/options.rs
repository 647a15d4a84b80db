//! What the user wants of a transfer, here and on the wire.

use crate::net::wire::{MAX_VERSION, Malformed, proto};
use crate::store::Durability;
use std::time::Duration;

/// What the user wants of a transfer.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Compare by content instead of size and mtime.
    pub checksum: bool,
    /// What the files survive once they are acknowledged.
    pub durability: Durability,
    /// How long to wait for a lock that another writer holds.
    pub wait: Option<Duration>,
    /// The version that the target must have; `none`: it must not exist.
    pub if_version: Option<String>,
    /// Take directories too.
    pub recursive: bool,
    /// This transfer was under way before, and may have been done: with `if_version`, a target with
    /// the very content that is to go there is the one that this transfer committed.
    pub retried: bool,
}

impl Options {
    /// As they travel.
    pub fn to_wire(&self) -> proto::Options {
        proto::Options {
            checksum: self.checksum,
            durability: match self.durability {
                Durability::Durable => proto::Durability::Durable.into(),
                Durability::Volatile => proto::Durability::Volatile.into(),
            },
            wait_ms: self.wait.map(|w| u64::try_from(w.as_millis()).unwrap_or(u64::MAX)),
            if_version: self.if_version.clone(),
            recursive: self.recursive,
            retried: self.retried,
        }
    }

    /// As a peer sent them; a wait is at most a week.
    ///
    /// # Errors
    /// [`Malformed`] for a version that is longer than any is: each entry of the transfer keeps
    /// one.
    pub fn from_wire(options: proto::Options) -> Result<Options, Malformed> {
        const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
        if options.if_version.as_ref().is_some_and(|v| v.len() > MAX_VERSION) {
            return Err(Malformed("a version is longer than 256 bytes"));
        }
        Ok(Options {
            checksum: options.checksum,
            durability: match options.durability() {
                proto::Durability::Durable => Durability::Durable,
                proto::Durability::Volatile => Durability::Volatile,
            },
            wait: options.wait_ms.map(|ms| Duration::from_millis(ms).min(WEEK)),
            if_version: options.if_version,
            recursive: options.recursive,
            retried: options.retried,
        })
    }
}
