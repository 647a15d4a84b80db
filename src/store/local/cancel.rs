//! Blocking work that ends early when its caller is gone: a thread cannot be aborted as a task can.

use crate::store::{RemotePath, StoreError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Held by whoever waits for the work.
pub(super) struct Waiting(Arc<AtomicBool>);

/// Asked by the work, between its steps.
pub(super) struct Cancelled(Arc<AtomicBool>);

/// Both ends.
pub(super) fn pair() -> (Waiting, Cancelled) {
    let flag = Arc::new(AtomicBool::new(false));
    (Waiting(flag.clone()), Cancelled(flag))
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Cancelled {
    /// # Errors
    /// Where the caller is gone.
    pub(super) fn check(&self, path: &RemotePath) -> Result<(), StoreError> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(StoreError::because("the request was given up", path)),
            false => Ok(()),
        }
    }
}
