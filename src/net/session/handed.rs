//! Files that a sender hands over to a receiver in the same process, as an open file is passed over
//! a socket: the receiver copies them itself, or shares their blocks.

use crate::chunk::Extent;
use crate::net::data::body::FileId;
use crate::store::{FileSource, StoreError};
use std::sync::Arc;
use tokio::sync::mpsc;

/// A part of a handed file that the receiver has copied, or could not read.
pub struct CopiedPart {
    /// What it is of.
    pub id: FileId,
    /// Where in the file, and how many bytes; or why the source failed.
    pub result: Result<Extent, StoreError>,
}

/// An open file. The sender learns of every part that was copied.
pub struct HandedFile {
    /// Which attempt at which offer.
    pub id: FileId,
    /// The file.
    pub source: Arc<dyn FileSource>,
    copied: mpsc::UnboundedSender<CopiedPart>,
}

impl HandedFile {
    /// An attempt at an offered file; `copied` gets what became of its parts.
    pub fn new(
        id: FileId,
        source: Arc<dyn FileSource>,
        copied: mpsc::UnboundedSender<CopiedPart>,
    ) -> HandedFile {
        HandedFile { id, source, copied }
    }

    /// A part was copied, or could not be read.
    pub fn report(&self, result: Result<Extent, StoreError>) {
        // a sender that has ended needs no report
        let _ = self.copied.send(CopiedPart {
            id: self.id,
            result,
        });
    }
}
