//! Blocking work, away from the threads that must not wait.

/// Runs `work` on tokio's threads for blocking work. A panic in it reaches the caller.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // the runtime is shutting down: no task polls this any more
            Err(_) => std::future::pending().await,
        },
    }
}
