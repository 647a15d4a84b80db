//! What a walk finds, step by step.

use crate::chunk::digest::Digest;
use crate::net::transfer::exclusion::Exclusion;
use crate::net::transfer::metadata::Details;
use crate::store::{Entry, RemotePath, StoreError};

/// An entry that the walk has found.
pub struct Found {
    /// Its number.
    pub number: u64,
    /// The number of the directory that it is in; 0 for a source itself.
    pub parent: u64,
    /// Index of the source.
    pub source: usize,
    /// Where it is in the source's store.
    pub path: RemotePath,
    /// What it is.
    pub entry: Entry,
    /// A directory that is no more than the way to what is sent of it.
    pub is_way: bool,
    /// Its hash, if contents are to be compared.
    pub hash: Option<Digest>,
    /// False for a file whose size is not what its file system says.
    pub sized: bool,
    /// What else goes with its offer.
    pub details: Details,
}

/// A step of the walk. `number`s count up from 1 over all sources.
pub enum Walked {
    /// An entry.
    Entry(Box<Found>),
    /// The source itself is a stream.
    Stream {
        /// Its number.
        number: u64,
        /// Index of the source.
        source: usize,
    },
    /// Everything in this directory has been walked.
    Close {
        /// The directory's number.
        number: u64,
    },
    /// Something that cannot be sent.
    Failed {
        /// Index of the source.
        source: usize,
        /// Where.
        path: RemotePath,
        /// Why.
        error: StoreError,
    },
    /// Something that is not to be sent.
    Excluded {
        /// Index of the source.
        source: usize,
        /// Where.
        path: RemotePath,
        /// Why.
        why: Exclusion,
    },
    /// That was all. A walk that ends without it has not seen everything.
    End,
}

impl Walked {
    /// About how many bytes it takes in a message: names and targets may be long.
    pub(super) fn size(&self) -> usize {
        const REST: usize = 128;
        let text = match self {
            Walked::Entry(found) => found
                .path
                .as_bytes()
                .len()
                .saturating_add(found.entry.target.as_ref().map_or(0, Vec::len))
                .saturating_add(found.details.size()),
            Walked::Failed { path, .. } | Walked::Excluded { path, .. } => path.as_bytes().len(),
            Walked::Stream { .. } | Walked::Close { .. } | Walked::End => 0,
        };
        text.saturating_add(REST)
    }
}
