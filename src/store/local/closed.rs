//! A closed store publishes nothing and removes nothing, not even in calls under way: a thread
//! cannot be aborted as a task can.

use crate::store::{RemotePath, StoreError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a store and those of its subtrees are closed.
#[derive(Clone, Default)]
pub(super) struct Closed(Arc<AtomicBool>);

impl Closed {
    /// Closes them.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// # Errors
    /// If the store is closed.
    pub(super) fn check(&self, path: &RemotePath) -> Result<(), StoreError> {
        match self.0.load(Ordering::SeqCst) {
            true => Err(StoreError::because("access to it has ended", path)),
            false => Ok(()),
        }
    }
}
