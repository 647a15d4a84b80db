//! Blocking work of a store, on the threads for that.

use super::fd_budget::HANDLES;
use crate::store::blocking;
use std::sync::Arc;

/// Runs blocking work of one user of several: even all of their calls leave threads for other
/// users.
pub(super) async fn blocking_for<T: Send + 'static>(
    owner: &Arc<str>,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if owner.is_empty() {
        return blocking(work).await;
    }
    let call = HANDLES.calls.take(owner, 1).await;
    blocking(move || {
        let _until_it_returns = call;
        work()
    })
    .await
}
