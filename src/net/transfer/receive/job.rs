//! The jobs of a receiver, all in one set, and how each of them ends.

use crate::net::jobs::JobSet;
use crate::net::transfer::receive::decide::Decided;
use crate::net::transfer::receive::dirs::Completed;
use crate::net::transfer::receive::small::{BatchDone, SmallFile};
use crate::net::transfer::receive::staged_jobs::StagedDone;
use crate::store::StoreError;

/// The jobs of one receiver.
pub(super) type Jobs = JobSet<JobDone>;

/// How a job ended.
pub(super) enum JobDone {
    /// Offers were compared with what is there.
    Decided(Decided),
    /// A job of a staged file.
    Staged {
        /// The offer's number.
        number: u64,
        done: StagedDone,
    },
    /// A batch of small files was put.
    Batch(BatchDone),
    /// An entry whose target was locked may be tried again.
    RetryDue(SmallFile),
    /// Directories are complete.
    Directories(Completed),
    /// What was found unchanged is durable: the last job of all.
    Synced(Result<(), StoreError>),
}
