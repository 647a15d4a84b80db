//! What became of the entries of a transfer.

use crate::net::transfer::exclusion::Exclusion;
use crate::net::wire::Code;
use crate::net::wire::proto::Difference;

/// What became of one entry, for display to the user.
#[derive(Clone, Debug)]
pub enum Event {
    /// A file or symlink is there, whole.
    Committed {
        /// As the user knows it.
        path: Vec<u8>,
        /// Bytes.
        size: u64,
        /// BLAKE3; none for a symlink.
        hash: Option<[u8; 32]>,
        /// Its version at the receiver.
        version: String,
        /// Why it was sent, if the receiver said so.
        difference: Difference,
    },
    /// It was there already.
    Unchanged {
        /// As the user knows it.
        path: Vec<u8>,
        /// Bytes.
        size: u64,
        /// What else it lacked, and has now, or would have after a dry run.
        difference: Difference,
    },
    /// Another one is in its place, which the user wants to stay.
    Skipped {
        /// As the user knows it.
        path: Vec<u8>,
        /// Bytes.
        size: u64,
    },
    /// A dry run would have sent it.
    Planned {
        /// As the user knows it.
        path: Vec<u8>,
        /// Bytes.
        size: u64,
        /// Why.
        difference: Difference,
    },
    /// It is not sent.
    Excluded {
        /// As the user knows it.
        path: Vec<u8>,
        /// Why.
        why: Exclusion,
    },
    /// A partial file of an earlier transfer exists: this one resumes it.
    Resumed {
        /// As the user knows it.
        path: Vec<u8>,
        /// Bytes that need not be sent again.
        offset: u64,
    },
    /// A partial file of an earlier transfer exists, but of another version of the source: it
    /// restarts.
    Restarted {
        /// As the user knows it.
        path: Vec<u8>,
        /// Bytes of that partial file, which are gone.
        discarded: u64,
    },
    /// It was at the destination, no source has it, and it is deleted.
    Deleted {
        /// As the user knows it.
        path: Vec<u8>,
    },
    /// A dry run would have deleted it.
    DeletionPlanned {
        /// As the user knows it.
        path: Vec<u8>,
    },
    /// A deletion did not take place.
    NotDeleted {
        /// How many entries were to go, where that is known.
        planned: Option<u64>,
        /// Why.
        reason: String,
        /// The command that deletes all the same, if the guard prevented it.
        command: Option<String>,
    },
    /// The connection was lost for good, and the transfer begins again: what is there already is
    /// skipped, what failed is tried again.
    Retrying,
    /// It failed; the others continue.
    Failed {
        /// As the user knows it.
        path: Vec<u8>,
        /// Why, as a code.
        code: Code,
        /// Why, for people; it may come from the other side.
        text: String,
    },
}
