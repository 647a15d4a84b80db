//! What a receiver learns of its wanted files.

use crate::chunk::digest::Digest;
use crate::chunk::reassembly::Mismatch;
use crate::net::error::code_of;
use crate::net::wire::Code;
use crate::store::{Checkpoint, StoreError};

/// What became known of a file.
pub(super) enum FileEvent {
    /// Its partial file is open: its content may come, from where an earlier writer ended.
    Want {
        number: u64,
        from: Checkpoint,
        /// Bytes of another version of the source that were discarded.
        discarded: u64,
    },
    /// A chunk is written.
    Written {
        number: u64,
        offset: u64,
        length: u64,
    },
    /// The file is there.
    Committed {
        number: u64,
        hash: Option<Digest>,
        size: u64,
        version: String,
        /// It came in one piece, and no chunk was reported as written.
        batched: bool,
    },
    /// It is given up.
    Failed {
        number: u64,
        code: Code,
        text: String,
    },
}

impl FileEvent {
    /// What arrived is not what its header says.
    pub(super) fn damaged(number: u64) -> FileEvent {
        let text = "what arrived is not what its header says".into();
        let code = Code::MALFORMED;
        FileEvent::Failed { number, code, text }
    }

    /// What arrived does not make a file, or not the one that was offered.
    pub(super) fn mismatch(number: u64, why: Mismatch) -> FileEvent {
        let (code, text) = (Code::MALFORMED, why.to_string());
        FileEvent::Failed { number, code, text }
    }

    /// The store could not do what it had to.
    pub(super) fn store_failed(number: u64, error: &StoreError) -> FileEvent {
        let (code, text) = (code_of(&error.kind), error.describe());
        FileEvent::Failed { number, code, text }
    }
}
