//! What a walk learns of an entry before it is offered: its hash, whether its size is the true one,
//! and its details.

use crate::chunk::buffer::BufferPool;
use crate::chunk::digest::Digest;
use crate::chunk::hash::hash_file;
use crate::net::transfer::metadata::{Details, MetadataOptions};
use crate::net::transfer::send::details::{details, refused};
use crate::net::transfer::send::source::is_missized;
use crate::store::{Entry, FollowedLinks, Kind, RemotePath, Store, StoreError};
use std::sync::Arc;

/// What is sent of entries.
pub(super) struct DescribeOptions {
    /// Directories are walked, too.
    pub(super) recursive: bool,
    /// Every file is read and hashed on the way, into these buffers.
    pub(super) hash: Option<BufferPool>,
    /// What is preserved of them.
    pub(super) metadata: MetadataOptions,
    /// Which symlinks the stores of the sources follow.
    pub(super) links: FollowedLinks,
}

/// An entry, with all that its offer tells.
pub(super) struct Described {
    pub(super) entry: Entry,
    pub(super) hash: Option<Digest>,
    /// False for a file whose size is not what its file system says.
    pub(super) sized: bool,
    pub(super) details: Details,
}

/// Describes an entry of a store. `sized` is false where the file system is not known to tell the
/// true sizes of files.
///
/// # Errors
/// Why it cannot be sent.
pub(super) async fn describe(
    (store, sized): (&dyn Store, bool),
    path: &RemotePath,
    mut entry: Entry,
    options: &DescribeOptions,
) -> Result<Described, StoreError> {
    if let Some(kind) = refused(entry.kind, options.recursive, &options.metadata) {
        return Err(StoreError::new(kind, path));
    }
    if entry.kind == Kind::Symlink && options.links == FollowedLinks::All {
        return Err(StoreError::because("the symlink leads to nothing that can be sent", path));
    }
    let (hash, sized) = match (&options.hash, entry.kind) {
        (Some(pool), Kind::File) => match hash_file(store, path, pool).await {
            // what is offered is what was hashed
            Ok((hashed, hash)) => {
                entry = hashed;
                (Some(hash), true)
            }
            Err(e) if is_missized(store, path, &entry, &e).await => (None, false),
            Err(e) => return Err(e),
        },
        (None, Kind::File) if entry.size == 0 && !sized => (None, !has_bytes(store, path).await),
        _ => (None, true),
    };
    Ok(Described {
        details: details(store, path, &options.metadata).await?,
        entry,
        hash,
        sized,
    })
}

/// False also where it cannot be read: that fails when it is wanted.
async fn has_bytes(store: &dyn Store, path: &RemotePath) -> bool {
    let Ok(source) = store.open(path).await else {
        return false;
    };
    let read = source.read_at(0, vec![0; 1], Arc::new(())).await;
    read.is_ok_and(|bytes| !bytes.is_empty())
}
